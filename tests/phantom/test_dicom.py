"""What is written is complete, valid, reproducible DICOM, broken only where asked."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

import phantom
from phantom import Phantom, series
from phantom.dicom import datasets
from phantom.grid import Plane


@pytest.fixture(scope="module")
def small() -> Phantom:
    return phantom.build(3, slices=20, matrix=(48, 64))


def _read(folder: Path) -> list[Dataset]:
    return [pydicom.dcmread(path) for path in sorted((folder / "dicom").iterdir())]


def _digest(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.unit
def test_equal_parameters_give_equal_bytes(small: Phantom, tmp_path: Path) -> None:
    first = phantom.write(small, tmp_path / "a")
    second = phantom.write(phantom.build(3, slices=20, matrix=(48, 64)), tmp_path / "b")
    assert _digest(first) == _digest(second)
    with np.load(first / "truth.npz") as stored:
        assert sorted(stored.files) == ["affine", "lesion", "lung"]
        assert stored["lung"].dtype == stored["lesion"].dtype == np.uint8


@pytest.mark.unit
def test_a_folder_with_slices_of_another_phantom_is_refused(small: Phantom, tmp_path: Path) -> None:
    phantom.write(small, tmp_path)
    phantom.write(small, tmp_path)
    with pytest.raises(ValueError, match=r"0013\.dcm, which is no part"):
        phantom.write(phantom.build(3, slices=12, matrix=32), tmp_path)


@pytest.mark.unit
def test_uids_follow_from_every_parameter(small: Phantom) -> None:
    uids = {next(iter(datasets(p))).SOPInstanceUID for p in (small, phantom.build(3, slices=21, matrix=(48, 64)))}
    assert len(uids) == 2
    named = phantom.build(3, slices=20, matrix=(48, 64), patient_name="Other^Name")
    assert next(iter(datasets(named))).StudyInstanceUID != next(iter(datasets(small))).StudyInstanceUID


@pytest.mark.unit
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal", "oblique"])
def test_headers_give_back_the_affine_and_the_hounsfield_units(plane: Plane, tmp_path: Path) -> None:
    built = phantom.build(3, plane=plane, slices=6, matrix=(40, 52), pixel_spacing_mm=(7.5, 7.0), tilt_deg=10.0)
    read = _read(phantom.write(built, tmp_path))
    row, column = np.reshape([float(v) for v in read[0].ImageOrientationPatient], (2, 3))
    normal = np.cross(row, column)
    read.sort(key=lambda ds: float(np.dot([float(v) for v in ds.ImagePositionPatient], normal)))
    for z, ds in enumerate(read):
        spacing = [float(v) for v in ds.PixelSpacing]
        np.testing.assert_allclose(
            [float(v) for v in ds.ImagePositionPatient], (built.affine @ [0, 0, z, 1])[:3], atol=1e-4
        )
        np.testing.assert_allclose(row * spacing[1], built.affine[:3, 0], atol=1e-6)
        np.testing.assert_allclose(column * spacing[0], built.affine[:3, 1], atol=1e-6)
        hu = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
        assert (hu == built.array[z]).all()


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "charset", "raw"),
    [
        ("Phantom^Chest", None, b"Phantom^Chest"),
        ("Müller^Jörg", "ISO_IR 100", "Müller^Jörg".encode("latin-1")),
        ("Schäfer^Ute", None, "Schäfer^Ute".encode()),
        ("王^小明", None, "王^小明".encode()),
        ("王^小明", "GB18030", "王^小明".encode("gb18030")),
        ("Müller^Jörg", "", "Müller^Jörg".encode("latin-1")),
    ],
)
def test_names_leave_in_the_bytes_of_their_character_set(
    name: str, charset: str | None, raw: bytes, tmp_path: Path
) -> None:
    built = phantom.build(3, slices=2, matrix=32, patient_name=name, charset=charset)
    path = next((phantom.write(built, tmp_path) / "dicom").iterdir())
    assert raw in path.read_bytes()
    ds = pydicom.dcmread(path)
    declared = ds.get("SpecificCharacterSet")
    assert declared == (charset if charset is not None else "ISO_IR 100" if name.isascii() else "ISO_IR 192") or (
        not charset and declared is None
    )
    if charset != "":
        assert str(ds.PatientName) == name


@pytest.mark.unit
def test_breakage_is_what_was_asked_for() -> None:
    built = phantom.build(
        3, slices=10, matrix=32, gaps=(4,), duplicates=(2,), mixed_frame_of_reference=True, shuffle=True, feet_first=True
    )  # fmt: skip
    written = list(datasets(built))
    places = [round(float(ds.ImagePositionPatient[2]), 3) for ds in written]
    assert len(written) == 10
    assert len({ds.SOPInstanceUID for ds in written}) == 10
    assert len(set(places)) == 9
    assert places != sorted(places)
    assert places != sorted(places, reverse=True)
    assert len({ds.FrameOfReferenceUID for ds in written}) == 2
    assert {ds.PatientPosition for ds in written} == {"FFS"}
    assert [ds.InstanceNumber for ds in written] == list(range(1, 11))


@pytest.mark.unit
def test_neighbour_series_belong_to_the_study_and_have_uids_of_their_own(small: Phantom) -> None:
    made = [
        series.localizer(small), series.secondary_capture(small), series.slab(small, "MIP"), series.slab(small, "MINIP"),
        series.reformat(small), series.parametric_map(small), series.excerpt(small, 0, 5),
    ]  # fmt: skip
    volume = list(datasets(small))
    uids = [ds.SOPInstanceUID for group in [volume, *made] for ds in group]
    assert len(set(uids)) == len(uids)
    assert {ds.StudyInstanceUID for group in made for ds in group} == {volume[0].StudyInstanceUID}
    assert len({group[0].SeriesInstanceUID for group in [volume, *made]}) == len(made) + 1
    moved = series.in_study(datasets(phantom.build(4, slices=3, matrix=32)), small)
    assert {ds.StudyInstanceUID for ds in moved} == {volume[0].StudyInstanceUID}
    assert {str(ds.PatientID) for ds in moved} == {"PHANTOM-3"}


@pytest.mark.conformance
@pytest.mark.parametrize(
    "how",
    [
        {}, {"plane": "coronal"}, {"plane": "sagittal"}, {"plane": "oblique"}, {"feet_first": True, "tilt_deg": 12.0},
        {"patient_name": "王^小明"}, {"patient_name": "王^小明", "charset": "GB18030"}, {"patient_name": "Müller^Jörg", "charset": "ISO_IR 100"},
        {"duplicates": (1,), "mixed_frame_of_reference": True},
    ],
)  # fmt: skip
def test_dciodvfy_finds_no_error(how: dict[str, Any], tmp_path: Path) -> None:
    built = phantom.build(5, slices=4, matrix=32, **how)
    for path in (phantom.write(built, tmp_path) / "dicom").iterdir():
        _assert_valid(path)
    if not built.parameters.breakage.mixed_frame_of_reference:
        _assert_valid(phantom.write_enhanced(built, tmp_path / "enhanced") / "dicom" / "0001.dcm")


@pytest.mark.conformance
@pytest.mark.parametrize("make", ["localizer", "secondary_capture", "slab", "reformat", "parametric_map"])
def test_dciodvfy_finds_no_error_in_neighbour_series(make: str, small: Phantom, tmp_path: Path) -> None:
    folder = series.save_all(getattr(series, make)(small)[:1], tmp_path)
    for path in folder.iterdir():
        _assert_valid(path)


def _assert_valid(path: Path) -> None:
    report = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    assert "Image" in report.stderr, report.stderr
    assert "Error" not in report.stderr, report.stderr
