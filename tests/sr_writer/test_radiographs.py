"""What is written of a result on a radiograph: outlines and numbers on the image, sides as it states them, no place."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from dicom_io.radiograph import load_radiograph
from dicom_io.read import read_instance
from sr_writer import gate
from sr_writer.gate_tree import children, named, template
from sr_writer.options import WriterOptions
from sr_writer.profiles import Form, Piece, of_site, wanted
from sr_writer.radiograph import letters
from sr_writer.write import Artifact
from tests.sr_writer.radiographs import (
    PIECES,
    PlanarCase,
    claim_of,
    from_folder,
    radiograph_cards,
    radiograph_case,
    radiograph_written,
)

DRAWN = (Piece(Form("gsps")), Piece(Form("overlay")), Piece(Form("sr"), (Form("gsps"),)))
Written = tuple[PlanarCase, dict[str, Dataset], list[Artifact]]


def _read(artifacts: list[Artifact]) -> dict[str, Dataset]:
    return {a.kind: pydicom.dcmread(a.path) for a in reversed(artifacts)}


@pytest.fixture(scope="module")
def digital(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("dx")
    case = radiograph_case(folder, "DX", "ISO_IR 192", patient_name="王^小东", photometric="MONOCHROME1", columns=180)
    artifacts = radiograph_written(case, folder / "out")
    return case, _read(artifacts), artifacts


def _changed(case: PlanarCase, folder: Path, **changes: object) -> PlanarCase:
    """Return the same image and truth with another header; a change to None deletes the element."""
    shutil.copytree(case.folder / "dicom", folder / "dicom")
    shutil.copy(case.folder / "truth.npz", folder)
    path = folder / "dicom" / "0001.dcm"
    ds = pydicom.dcmread(path)
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    ds.save_as(path)
    return from_folder(folder)


@pytest.mark.unit
def test_37_a_segmentation_has_the_patient_orientation_and_no_place(digital: Written) -> None:
    case, made, _ = digital
    seg = made["seg"]
    assert list(seg.PatientOrientation) == ["L", "F"]
    assert "FrameOfReferenceUID" not in seg
    groups = [seg.SharedFunctionalGroupsSequence[0], *seg.PerFrameFunctionalGroupsSequence]
    assert not any("PlanePositionSequence" in g or "PlaneOrientationSequence" in g for g in groups)
    frames = seg.pixel_array
    for number, segment in enumerate(case.result.segments):
        assert np.array_equal(frames[number], segment.mask.plane(0)), segment.tracking_id
    assert {"sr", "csr", "gsps", "sc", "overlay"} <= set(made), "results on one image exist as SCOORD and SC as well"


@pytest.mark.unit
def test_every_thing_is_one_planar_group_with_its_outline_and_numbers(digital: Written) -> None:
    case, made, _ = digital
    (measurements,) = named(made["sr"], "126010")
    groups = list(children(measurements, "CONTAINER"))
    assert [template(g) for g in groups].count("1410") == len(case.result.findings) + 4 + 1  # parts, image quality
    assert {template(g) for g in groups} == {"1410", "1501"}
    uid = case.series.instances[0].sop_instance_uid
    for group in groups:
        for region in children(group, "SCOORD"):
            (image,) = children(region, "IMAGE")
            assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == uid
    finding = next(g for g in groups if next(named(g, "112039")).TextValue == "opacity 1")
    (area,) = children(finding, "NUM")
    assert area.ConceptNameCodeSequence[0].CodeValue == "AREA_AT_DETECTOR"
    site = next(named(finding, "363698007"))
    side = next(named(site, "272741003")).ConceptCodeSequence[0].CodeValue
    column = np.reshape(np.array(next(children(finding, "SCOORD")).GraphicData, float), (-1, 2))[:, 0].mean()
    assert (side == "7771000") == (column > made["seg"].Columns / 2), "the patient's left is on the right"
    report = next(named(made["sr"], "121058"))
    assert report.ConceptCodeSequence[0].CodeValue == "43468-8"


@pytest.mark.unit
def test_marks_leave_black_and_white_as_they_are_and_no_size_is_invented(digital: Written, tmp_path: Path) -> None:
    case, made, _ = digital
    assert made["gsps"].PresentationLUTShape == "INVERSE"
    area = made["gsps"].DisplayedAreaSelectionSequence[0]
    assert list(area.PresentationPixelAspectRatio) == [1, 1]
    assert "PresentationPixelSpacing" not in area
    calibrated = _changed(case, tmp_path, PixelSpacing=[2.0, 2.0], PixelSpacingCalibrationType="GEOMETRY")
    written = radiograph_written(calibrated, tmp_path / "out", DRAWN)
    assert gate.check(written, calibrated.series.instances, (), claim_of(calibrated)) == ()
    again = _read(written)
    assert list(again["gsps"].DisplayedAreaSelectionSequence[0].PresentationPixelSpacing) == [2.0, 2.0]
    assert again["overlay"].PixelSpacingCalibrationType == "GEOMETRY"
    assert "AREA_AT_DETECTOR" not in again["sr"].to_json()


@pytest.mark.unit
def test_pictures_show_the_whole_image_with_the_sides_that_it_states(digital: Written, tmp_path: Path) -> None:
    case, made, _ = digital
    assert letters(case.result) == ("R", "L", "H", "F")
    shown = np.asarray(case.volume.shown * 255, np.uint8)
    overlay = made["overlay"].pixel_array
    grey = (overlay[..., 0] == overlay[..., 1]) & (overlay[..., 1] == overlay[..., 2]) & (overlay[..., 0] > 0)
    assert grey.mean() > 0.5
    assert np.abs(overlay[..., 0][grey].astype(int) - shown[grey]).mean() < 4  # letters have grey edges
    assert list(made["overlay"].PatientOrientation) == ["L", "F"]
    assert "ImagePositionPatient" not in made["overlay"]
    from_behind = _changed(case, tmp_path / "behind", PatientOrientation=["R", "F"])
    assert letters(from_behind.result) == ("L", "R", "H", "F")
    unknown = _changed(case, tmp_path / "unknown", PatientOrientation="")
    assert letters(unknown.result) == ()
    written = radiograph_written(unknown, tmp_path / "out", DRAWN)
    assert gate.check(written, unknown.series.instances, (), claim_of(unknown)) == ()


@pytest.mark.unit
def test_the_gate_refuses_sides_that_the_image_contradicts(digital: Written, tmp_path: Path) -> None:
    case = _changed(digital[0], tmp_path, PatientOrientation=["R", "F"])  # the truth is that of the image before
    written = radiograph_written(case, tmp_path / "out", (Piece(Form("seg", radiographs=True)),))
    found = gate.check(written, case.series.instances, (), claim_of(case))
    assert {r.reason.code for r in found if r.artifact.kind == "seg"} == {"side-differs"}


@pytest.mark.unit
def test_a_radiograph_without_a_known_pixel_size_gives_shares_and_no_areas(digital: Written, tmp_path: Path) -> None:
    case = _changed(digital[0], tmp_path, ImagerPixelSpacing=None, PixelSpacing=[3.0, 3.0])
    written = radiograph_written(case, tmp_path / "out", DRAWN)
    assert gate.check(written, case.series.instances, (), claim_of(case)) == ()
    numbers = [i for i in _items(_read(written)["sr"]) if i.get("ValueType") == "NUM"]
    assert {bool(i.MeasuredValueSequence) for i in numbers if i.ConceptNameCodeSequence[0].CodeValue == "42798000"} == {
        False
    }
    assert {
        bool(i.MeasuredValueSequence) for i in numbers if i.ConceptNameCodeSequence[0].CodeValue == "SHADOW_SHARE"
    } == {True}


def _items(ds: Dataset) -> list[Dataset]:
    found = [i for e in ds if e.VR == "SQ" for i in e.value]
    return [*found, *(i for item in found for i in _items(item))]


@pytest.mark.unit
def test_a_segmentation_goes_only_where_it_is_asked_for(digital: Written, tmp_path: Path) -> None:
    case = digital[0]
    plain, asked = of_site("ohif"), of_site("ohif", seg={"radiographs": True})
    pieces = wanted([plain], result=True)
    assert {a.kind for a in radiograph_written(case, tmp_path / "plain", pieces)} == {"sr", "csr", "sc"}
    pieces = wanted([asked], result=True)
    assert {a.kind for a in radiograph_written(case, tmp_path / "asked", pieces)} == {"seg", "sr", "csr", "sc"}


@pytest.mark.unit
def test_13_the_same_result_twice_gives_the_same_bytes(digital: Written, tmp_path: Path) -> None:
    case, _, artifacts = digital
    kinds = {"seg", "sc", "overlay", "gsps", "kos"}
    again = radiograph_written(case, tmp_path, tuple(p for p in PIECES if p.form.object in kinds))
    assert [(a.name, a.digest) for a in again] == [(a.name, a.digest) for a in artifacts if a.kind in kinds]


@pytest.mark.data
@pytest.mark.unit
def test_a_real_radiograph_of_strange_make_passes(real_data: Path, tmp_path: Path, digital: Written) -> None:
    """MONOCHROME1, 10 bits, no meta header, no patient orientation, no spacing; the masks are a phantom's, scaled."""
    (tmp_path / "dicom").mkdir()
    shutil.copy(real_data / "dicom_zoo" / "cr_dx" / "CR-MONO1-10-chest", tmp_path / "dicom")
    shape = load_radiograph(read_instance(tmp_path / "dicom" / "CR-MONO1-10-chest")).array.shape
    with np.load(digital[0].folder / "truth.npz") as stored:
        truth = {k: _scaled(v, shape) for k, v in stored.items()}
    np.savez(tmp_path / "truth.npz", **truth)
    case = from_folder(tmp_path, options=WriterOptions(languages=("zh-CN", "en")))
    written = radiograph_written(case, tmp_path / "out")
    found = gate.check(written, case.series.instances, (), claim_of(case))
    assert [(r.artifact.name, r.reason.code, dict(r.reason.text)) for r in found] == []


def _scaled(masks: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if masks.ndim == 3:
        return np.array([_scaled(m, shape) for m in masks])
    return np.asarray(Image.fromarray(masks.astype(np.uint8)).resize(shape[::-1], Image.Resampling.NEAREST)) > 0


@pytest.mark.conformance
def test_01_02_the_judges_find_no_error_in_objects_of_radiographs(digital: Written, tmp_path: Path) -> None:
    case, _, artifacts = digital
    files = [*artifacts, *radiograph_cards(case, tmp_path)]
    for artifact in files:
        judged = _run("dciodvfy", "-new", str(artifact.path))
        assert not [line for line in judged.splitlines() if line.startswith("Error")], (artifact.name, judged)
    judged = _run("dcentvfy", str(case.series.instances[0].path), *(str(a.path) for a in files))
    assert "Error" not in judged, judged
    for artifact in files:
        if artifact.modality in {"SR", "KO"}:
            assert "E: " not in _run("dsrdump", "+Pt", str(artifact.path))
    assert len(artifacts) == len(PIECES)


def _run(*command: str) -> str:
    program = shutil.which(command[0])
    assert program is not None, f"{command[0]} is not installed"
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False, errors="replace")
    return done.stdout + done.stderr
