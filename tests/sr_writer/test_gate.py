"""The gate lets good objects pass and names what is wrong with every kind of bad one."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from dicom_io.read import read_instance
from sr_writer import gate
from sr_writer.profiles import Item, Profile
from sr_writer.reasons import REASONS
from sr_writer.write import Artifact, Predecessor

pytestmark = pytest.mark.unit

Change = Callable[[Dataset], object]


def _codes(refusals: tuple[gate.Refusal, ...]) -> set[tuple[str, str]]:
    return {(r.artifact.kind, r.reason.code) for r in refusals}


def test_what_is_right_passes(written: Any, helpers: Any) -> None:
    case, artifacts = written
    assert gate.check(tuple(artifacts.values()), case.series.instances, (), helpers.claim(case)) == ()


@pytest.fixture(scope="module")
def pristine(positive: Any, helpers: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, ...]:
    written: tuple[Artifact, ...] = helpers.write(positive, tmp_path_factory.mktemp("pristine"))
    return written


@pytest.fixture
def fresh(positive: Any, pristine: tuple[Artifact, ...], tmp_path: Path) -> tuple[Any, dict[str, Artifact]]:
    """A case and copies of its objects, to be spoilt."""
    return positive, {a.kind: replace(a, path=Path(shutil.copy(a.path, tmp_path))) for a in pristine}


def _changed(artifact: Artifact, change: Change) -> None:
    ds = pydicom.dcmread(artifact.path)
    change(ds)
    ds.save_as(artifact.path)


def _mirror(ds: Dataset) -> None:
    planes = ds.pixel_array[:, :, ::-1]
    bits = np.packbits(planes.reshape(-1), bitorder="little").tobytes()
    ds.PixelData = bits + b"\0" * (len(bits) % 2)


def _swap_labels(ds: Dataset) -> None:
    left, right = (s.SegmentedPropertyTypeCodeSequence for s in ds.SegmentSequence[:2])
    ds.SegmentSequence[0].SegmentedPropertyTypeCodeSequence, ds.SegmentSequence[1].SegmentedPropertyTypeCodeSequence = (
        right,
        left,
    )


def _finding_on_the_other_side(ds: Dataset) -> None:
    side = ds.SegmentSequence[2].SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    side.CodeValue = "24028007" if side.CodeValue == "7771000" else "7771000"


def _shift(ds: Dataset) -> None:
    for group in ds.PerFrameFunctionalGroupsSequence:
        position = group.PlanePositionSequence[0].ImagePositionPatient
        position[2] = float(position[2]) + 2.5


def _refer_to_neighbour(ds: Dataset) -> None:
    groups = ds.PerFrameFunctionalGroupsSequence
    groups[0].DerivationImageSequence[0].SourceImageSequence = groups[1].DerivationImageSequence[0].SourceImageSequence


def _measures(ds: Dataset) -> Dataset:
    return ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]


def _erase_segment(ds: Dataset) -> None:
    number = len(ds.SegmentSequence)
    planes = ds.pixel_array.copy()
    for k, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        if group.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number:
            planes[k] = 0
    bits = np.packbits(planes.reshape(-1), bitorder="little").tobytes()
    ds.PixelData = bits + b"\0" * (len(bits) % 2)


def _groups(ds: Dataset) -> list[Dataset]:
    holder = next(i for i in ds.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010")
    return list(holder.ContentSequence)


def _items(ds: Dataset, value_type: str, code: str = "") -> list[Dataset]:
    return [
        i for g in _groups(ds) for i in g.ContentSequence
        if i.ValueType == value_type and (not code or i.ConceptNameCodeSequence[0].CodeValue == code)
    ]  # fmt: skip


def _wrong_volume(ds: Dataset) -> None:
    value = next(i for g in _groups(ds) if _named(g, "121191") for i in _named(g, "118565006")).MeasuredValueSequence[0]
    value.NumericValue = value.FloatingPointValue = round(float(value.NumericValue) * 1.01, 3)


def _named(item: Dataset, code: str) -> list[Dataset]:
    return [i for i in item.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == code]


def _wrong_share(ds: Dataset) -> None:
    value = _items(ds, "NUM", "OPACITY_SHARE")[0].MeasuredValueSequence[0]
    value.NumericValue = value.FloatingPointValue = round(float(value.NumericValue) + 1, 3)


def _swap_words(ds: Dataset) -> None:
    first, second = ds.SegmentSequence[:2]
    first.SegmentLabel, second.SegmentLabel = second.SegmentLabel, first.SegmentLabel


def _swap_sides(*words: str) -> Change:
    """Swap left and right in the groups whose tracking identifier holds one of `words`."""
    other = {"7771000": "24028007", "24028007": "7771000"}

    def change(ds: Dataset) -> None:
        done = 0
        for group in _groups(ds):
            identifier = str(_named(group, "112039")[0].TextValue)
            if any(word in identifier for word in words):
                for site in _named(group, "363698007"):
                    for item in _named(site, "272741003"):
                        code = item.ConceptCodeSequence[0]
                        code.CodeValue = other.get(code.CodeValue, code.CodeValue)
                        done += 1
        assert done

    return change


def _swap_axes(ds: Dataset) -> None:
    for item in _items(ds, "SCOORD"):
        item.GraphicData = np.reshape(item.GraphicData, (-1, 2))[:, ::-1].reshape(-1).tolist()


def _four_points(ds: Dataset) -> None:
    item = _items(ds, "SCOORD")[0]
    data = list(item.GraphicData)
    item.GraphicData = [*data[:8], *data[:2]]


def _drop_planar(ds: Dataset) -> None:
    holder = next(i for i in ds.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010")
    holder.ContentSequence = holder.ContentSequence[1:]


def _empty(ds: Dataset) -> None:
    next(i for i in ds.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010").ContentSequence = []


def _other_tracking(ds: Dataset) -> None:
    ds.SegmentSequence[2].TrackingUID = "2.25.123"


def _dangling(ds: Dataset) -> None:
    ds.SourceImageSequence[0].ReferencedSOPInstanceUID = "2.25.99"


def _no_evidence(ds: Dataset) -> None:
    series = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    series.ReferencedSOPSequence = series.ReferencedSOPSequence[:1]


def _question_marks(ds: Dataset) -> None:
    comment = next(i for i in ds.ContentSequence if i.ValueType == "TEXT" and "未" in i.TextValue)
    comment.TextValue = comment.TextValue.encode("ascii", errors="replace").decode()


def _set(keyword: str, value: object) -> Change:
    return lambda ds: setattr(ds, keyword, value)


def _drop(keyword: str) -> Change:
    return lambda ds: ds.__delattr__(keyword)


MUTATIONS: list[tuple[str, Change, str, str]] = [
    # what is broken, how, which refusal on which object
    ("seg", _mirror, "seg", "side-differs"),
    ("seg", _swap_labels, "seg", "side-differs"),
    ("seg", _finding_on_the_other_side, "seg", "side-differs"),
    ("seg", _swap_words, "seg", "side-differs"),
    ("sr", _swap_sides("opacity", "nodule", "finding"), "sr", "side-differs"),
    ("sr", _swap_sides("third"), "sr", "side-differs"),
    ("sr", _swap_sides("lung"), "sr", "side-differs"),
    ("seg", _shift, "seg", "position-differs"),
    ("seg", _refer_to_neighbour, "seg", "position-differs"),
    ("seg", _set("FrameOfReferenceUID", "2.25.7"), "seg", "frame-of-reference-differs"),
    ("seg", lambda ds: setattr(_measures(ds), "PixelSpacing", [1.0, 1.0]), "seg", "geometry-differs"),
    ("seg", lambda ds: setattr(_measures(ds), "SpacingBetweenSlices", 1.0), "seg", "geometry-differs"),
    (
        "seg",
        lambda ds: setattr(
            ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0], "ImageOrientationPatient", [-1, 0, 0, 0, 1, 0]
        ),
        "seg",
        "geometry-differs",
    ),
    ("seg", _erase_segment, "seg", "segments-inconsistent"),
    ("seg", lambda ds: setattr(ds.SegmentSequence[1], "SegmentNumber", 5), "seg", "segments-inconsistent"),
    ("seg", lambda ds: setattr(ds.SegmentSequence[1], "SegmentAlgorithmType", "MANUAL"), "seg", "not-marked"),
    ("seg", _other_tracking, "sr", "tracking-differs"),
    ("seg", _drop("PerFrameFunctionalGroupsSequence"), "seg", "object-unreadable"),
    ("seg", _set("PatientID", "SOMEBODY ELSE"), "seg", "identity-differs"),
    ("sr", _set("PatientName", "Else^Somebody"), "sr", "identity-differs"),
    ("sr", _set("PatientBirthDate", "19000101"), "sr", "identity-differs"),
    ("sr", _set("PatientSex", "F"), "sr", "identity-differs"),
    ("sc", _set("AccessionNumber", ""), "sc", "identity-differs"),
    ("sc", _set("IssuerOfPatientID", "ELSEWHERE"), "sc", "identity-differs"),
    ("sc", _set("StudyInstanceUID", "2.25.5"), "sc", "identity-differs"),
    ("sc", _dangling, "sc", "reference-dangling"),
    ("sr", _no_evidence, "sr", "reference-dangling"),
    ("sr", _wrong_volume, "sr", "number-differs"),
    ("sr", _wrong_share, "sr", "number-differs"),
    ("sr", _swap_axes, "sr", "outline-differs"),
    ("sr", _four_points, "sr", "outline-missing"),
    ("sr", _drop_planar, "sr", "outline-missing"),
    ("sr", _empty, "sr", "report-empty"),
    ("sr", _set("VerificationFlag", "VERIFIED"), "sr", "not-marked"),
    ("sr", _set("PreliminaryFlag", "FINAL"), "sr", "not-marked"),
    ("sr", _set("SeriesDescription", "Report"), "sr", "not-marked"),
    ("sr", _drop("ContributingEquipmentSequence"), "sr", "not-marked"),
    ("sc", _set("BurnedInAnnotation", "NO"), "sc", "not-marked"),
    ("sc", _set("ImageType", ["ORIGINAL", "PRIMARY"]), "sc", "not-marked"),
    ("sr", _question_marks, "sr", "text-lost"),
    ("sr", _set("StudyDescription", "��"), "sr", "text-lost"),
    ("sr", _drop("CodingSchemeIdentificationSequence"), "sr", "code-undeclared"),
    ("sc", _set("SeriesInstanceUID", "2.25.0123"), "sc", "uid-invalid"),
    ("sc", _set("SOPInstanceUID", "2.25.4"), "sc", "object-unreadable"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "change", "refused", "code"),
    MUTATIONS,
    ids=[f"{m[0]}-{m[3]}-{n}" for n, m in enumerate(MUTATIONS)],
)
def test_what_is_wrong_is_refused(fresh: Any, kind: str, change: Change, refused: str, code: str) -> None:
    case, artifacts = fresh
    _changed(artifacts[kind], change)
    # only reports are held against the others
    judged = artifacts.values() if "sr" in {kind, refused} else [artifacts[kind]]
    assert (refused, code) in _codes(gate.check(tuple(judged), case.series.instances))


def test_every_reason_of_the_gate_is_shown_by_a_test() -> None:
    elsewhere = {
        "source-unreadable", "sources-of-several-patients", "uid-collides", "document-unsound",
        *("mask-differs", "mask-misplaced", "picture-differs", "annotation-outside", "required-missing"),
        "rejects-what-is-not-ours", "quality-differs", "suggestion-differs",
    }  # fmt: skip
    assert {m[3] for m in MUTATIONS} | elsewhere == set(REASONS)


def test_a_series_of_the_source_is_never_extended(fresh: Any) -> None:
    case, artifacts = fresh
    _changed(artifacts["sc"], _set("SeriesInstanceUID", case.series.series_instance_uid))
    assert ("sc", "uid-collides") in _codes(gate.check(tuple(artifacts.values()), case.series.instances))


def test_a_lossy_source_that_does_not_say_how_much_is_no_fault_of_ours(fresh: Any) -> None:
    case, artifacts = fresh
    _changed(artifacts["sc"], _set("LossyImageCompression", "01"))
    assert gate.check((artifacts["sc"],), case.series.instances) == ()


def test_a_broken_file_is_refused_and_the_rest_still_judged(fresh: Any) -> None:
    case, artifacts = fresh
    path = artifacts["seg"].path
    path.write_bytes(path.read_bytes()[:3000])
    found = _codes(gate.check(tuple(artifacts.values()), case.series.instances))
    assert ("seg", "object-unreadable") in found
    assert any(kind == "sr" and code == "reference-dangling" for kind, code in found)
    artifacts["sc"].path.unlink()
    assert ("sc", "object-unreadable") in _codes(gate.check(tuple(artifacts.values()), case.series.instances))


def test_a_report_without_its_segmentation_is_refused(fresh: Any) -> None:
    case, artifacts = fresh
    assert ("sr", "reference-dangling") in _codes(gate.check((artifacts["sr"],), case.series.instances))


def test_predecessors_may_be_named_only_if_known(negative: Any, helpers: Any, tmp_path: Path) -> None:
    old = Predecessor("1.2.840.10008.5.1.4.1.1.88.34", "2.25.11", "2.25.12")
    written = helpers.write(negative, tmp_path, revision=2, predecessors=[old])
    assert gate.check(written, negative.series.instances, [old]) == ()
    assert _codes(gate.check(written, negative.series.instances)) == {("sr", "reference-dangling")}


def test_the_raw_files_count_not_the_headers_in_memory(positive: Any, helpers: Any, tmp_path: Path) -> None:
    shutil.copytree(positive.folder / "dicom", tmp_path / "dicom")
    sources = tuple(read_instance(p) for p in sorted((tmp_path / "dicom").iterdir()))
    written = helpers.write(positive, tmp_path / "out")
    assert gate.check(written, sources) == ()
    ds = pydicom.dcmread(sources[3].path)
    ds.PatientID = "SOMEBODY ELSE"
    ds.save_as(sources[3].path)
    assert _codes(gate.check(written, sources)) == {(k, "sources-of-several-patients") for k in ("seg", "sr", "sc")}
    sources[3].path.write_bytes(b"")
    assert _codes(gate.check(written, sources)) == {(k, "source-unreadable") for k in ("seg", "sr", "sc")}


def test_an_artifact_of_another_study_is_refused(fresh: Any, negative: Any) -> None:
    _, artifacts = fresh
    found = gate.check((artifacts["sc"],), negative.series.instances)
    assert {"identity-differs", "reference-dangling"} <= {r.reason.code for r in found}


def test_refusals_hold_no_patient_data(fresh: Any) -> None:
    case, artifacts = fresh
    _changed(artifacts["sr"], _set("PatientName", "Secret^Person"))
    texts = [t for r in gate.check(tuple(artifacts.values()), case.series.instances) for t in r.reason.text.values()]
    assert texts
    assert not any("Secret" in t or "PHANTOM" in t for t in texts)


def test_the_gate_is_not_fooled_by_a_better_artifact_record(fresh: Any) -> None:
    case, artifacts = fresh
    lied = replace(artifacts["seg"], sop_instance_uid="2.25.1")
    assert ("seg", "object-unreadable") in _codes(gate.check((lied,), case.series.instances))


def test_a_report_beside_two_encodings_of_its_segmentation_is_about_the_one_that_it_names(
    positive: Any, helpers: Any, tmp_path: Path
) -> None:
    items = (
        Item("seg"),
        Item("seg", encoding="fractional", series_number=1902),
        Item("sr", tree="pure"),
    )
    pieces = [line.piece for line in Profile("two", items).lines(result=True)]
    written = helpers.write(positive, tmp_path, pieces=pieces)
    assert [a.kind for a in written] == ["seg", "seg", "sr"]
    assert gate.check(written, positive.series.instances) == ()
    assert gate.check(written[::-1], positive.series.instances) == ()


def test_a_fractional_mask_is_as_full_as_the_analysis_said(positive: Any, helpers: Any, tmp_path: Path) -> None:
    """One of 255 would be shown as next to nothing."""
    profile = Profile("faint", (Item("seg", encoding="fractional"),))
    (seg,) = helpers.write(positive, tmp_path, pieces=[line.piece for line in profile.lines(result=True)])
    assert gate.check((seg,), positive.series.instances, (), helpers.claim(positive)) == ()
    ds = pydicom.dcmread(seg.path)
    cells = ds.pixel_array
    ds.PixelData = (cells // 255).astype(cells.dtype).tobytes() + b"\0" * (cells.nbytes % 2)
    ds.save_as(seg.path)
    assert _codes(gate.check((seg,), positive.series.instances, (), helpers.claim(positive))) == {
        ("seg", "mask-differs")
    }
