"""A rejection note names objects of ours that a later revision replaces, and nothing else, ever."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest

from sr_writer import rejection, write
from sr_writer.files import write_dicom
from sr_writer.header import Authorship
from sr_writer.sources import Sources

pytestmark = pytest.mark.unit


def _row(file: Path, **changes: Any) -> write.Predecessor:
    ds = pydicom.dcmread(file, stop_before_pixels=True)
    row = write.Predecessor(str(ds.SOPClassUID), str(ds.SOPInstanceUID), str(ds.SeriesInstanceUID), file)
    return replace(row, **changes)


@pytest.fixture(scope="module")
def old(positive: Any, helpers: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [a.path for a in helpers.write(positive, tmp_path_factory.mktemp("old"))]


@pytest.fixture(scope="module")
def later(positive: Any, helpers: Any) -> Authorship:
    sources = Sources(positive.series.instances)
    identity = positive.identified(weights_digest="sha256:" + "34" * 32)
    return Authorship(sources.first.header, identity, positive.options, helpers.now, 2)


def test_it_names_exactly_the_replaced_objects(old: list[Path], later: Authorship, tmp_path: Path) -> None:
    write_dicom(rejection.build([_row(p) for p in old], later), tmp_path / "note.dcm")
    note = pydicom.dcmread(tmp_path / "note.dcm")
    assert (note.Modality, note.SOPClassUID) == ("KO", "1.2.840.10008.5.1.4.1.1.88.59")
    title = note.ConceptNameCodeSequence[0]
    assert (title.CodeValue, title.CodingSchemeDesignator) == ("113001", "DCM")
    rows = {(r.sop_class_uid, r.sop_instance_uid) for r in map(_row, old)}
    content = [i.ReferencedSOPSequence[0] for i in note.ContentSequence if "ReferencedSOPSequence" in i]
    evidence = [
        i for s in note.CurrentRequestedProcedureEvidenceSequence for r in s.ReferencedSeriesSequence
        for i in r.ReferencedSOPSequence
    ]  # fmt: skip
    for references in (content, evidence):
        assert {(r.ReferencedSOPClassUID, r.ReferencedSOPInstanceUID) for r in references} == rows
        assert len(references) == len(rows)
    assert note.SeriesDescription.endswith("r2")
    assert "revision 2" in next(
        i.TextValue for i in note.ContentSequence if i.ValueType == "TEXT" and "evision" in i.TextValue
    )


def test_the_same_objects_give_the_same_note(old: list[Path], later: Authorship) -> None:
    rows = [_row(p) for p in old]
    assert rejection.build(rows, later) == rejection.build(rows, later)
    assert rejection.build(rows[:1], later).SOPInstanceUID != rejection.build(rows, later).SOPInstanceUID


def test_no_source_image_can_be_named(positive: Any, old: list[Path], later: Authorship) -> None:
    for instance in positive.series.instances[:2]:
        with pytest.raises(rejection.NotOursError, match="image that the analysis used"):
            rejection.build([*map(_row, old), _row(instance.path)], later)
        elsewhere = replace(later, identity=replace(later.identity, inputs=()))
        with pytest.raises(rejection.NotOursError, match="not authored by this installation"):
            rejection.build([_row(instance.path)], elsewhere)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"path": None}, "no file"),
        ({"path": Path("/nowhere/sr.dcm")}, "cannot be read"),
        ({"sop_instance_uid": "2.25.1"}, "another object"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.2"}, "another object"),
        ({"series_instance_uid": "2.25.1"}, "another object"),
    ],
)
def test_a_row_is_believed_only_with_its_file(
    wrong: dict[str, Any], said: str, old: list[Path], later: Authorship
) -> None:
    with pytest.raises(rejection.NotOursError, match=said):
        rejection.build([_row(old[0], **wrong)], later)


def test_another_installation_study_or_patient_is_refused(old: list[Path], later: Authorship) -> None:
    for changes, said in (
        ({"installation_id": "another"}, "not authored by this installation"),
        ({"study_instance_uid": "1.2.3"}, "another patient or study"),
    ):
        with pytest.raises(rejection.NotOursError, match=said):
            rejection.build([_row(old[0])], replace(later, identity=replace(later.identity, **changes)))
    stranger = pydicom.Dataset()
    stranger.update(later.source)
    stranger.PatientID = "SOMEBODY"
    with pytest.raises(rejection.NotOursError, match="another patient or study"):
        rejection.build([_row(old[0])], replace(later, source=stranger))
    with pytest.raises(rejection.NotOursError, match="at least one"):
        rejection.build([], later)
