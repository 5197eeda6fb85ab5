"""What stands in the objects, judged by reading them back; numbers are those of the project's list of assertions."""

import itertools
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

import phantom
from sr_writer import codes
from sr_writer.profiles import Form, Piece
from sr_writer.write import Predecessor

pytestmark = pytest.mark.unit

UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
APPROVED = {
    ("24627-2", "LN"), ("en-US", "RFC5646"), ("zh-CN", "RFC5646"), ("{pixels}", "UCUM"), ("{-1:1}", "UCUM"),
}  # fmt: skip
"""Not in the pydicom dictionary: LOINC procedure of CID 7000, language tags, UCUM annotations of the image library."""


def _tree(item: Dataset) -> list[Dataset]:
    return [d for child in item.get("ContentSequence", []) for d in (child, *_tree(child))]


def _items(ds: Dataset) -> list[Dataset]:
    return [d for e in ds if e.VR == "SQ" for i in e.value for d in (i, *_items(i))]


def _groups(sr: Dataset) -> list[Dataset]:
    holder = next(i for i in sr.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010")
    return list(holder.ContentSequence)


def _named(item: Dataset, code: str) -> list[Dataset]:
    return [i for i in item.get("ContentSequence", []) if i.ConceptNameCodeSequence[0].CodeValue == code]


def _by_tracking(sr: Dataset) -> dict[str, list[Dataset]]:
    out: dict[str, list[Dataset]] = {}
    for group in _groups(sr):
        out.setdefault(_named(group, "112040")[0].UID, []).append(group)
    return out


@pytest.fixture
def objects(written: Any) -> tuple[Any, dict[str, pydicom.FileDataset]]:
    case, artifacts = written
    return case, {kind: pydicom.dcmread(a.path) for kind, a in artifacts.items()}


def test_04_file_meta_agrees_and_artifacts_describe_the_files(written: Any) -> None:
    _, artifacts = written
    for kind, artifact in artifacts.items():
        ds = pydicom.dcmread(artifact.path)
        assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID == artifact.sop_instance_uid
        assert ds.file_meta.MediaStorageSOPClassUID == ds.SOPClassUID == artifact.sop_class_uid
        assert ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert (artifact.series_instance_uid, artifact.modality) == (ds.SeriesInstanceUID, ds.Modality)
        assert artifact.bytes == artifact.path.stat().st_size
        assert artifact.name == f"{kind}.dcm"


def test_22_23_everything_named_has_an_outline_and_its_numbers(objects: Any) -> None:
    case, written = objects
    tracked = _by_tracking(written["sr"])
    sites = {m.site for m in case.result.measurements}
    assert len(tracked) == len(case.result.findings) + len(sites) + 1
    places = {i.sop_instance_uid: i.header for i in case.series.instances}
    for groups in tracked.values():
        templates = [g.ContentTemplateSequence[0].TemplateIdentifier for g in groups]
        quality = _named(groups[0], "121071")[0].ConceptCodeSequence[0].CodeValue == "111101"
        assert templates == ["1410", "1501" if quality else "1411"]
        assert len({_named(g, "112039")[0].TextValue for g in groups}) == 1
        assert all(_named(g, "121071") and _named(g, "363698007") and _named(g, "111001") for g in groups)
        (region,) = _named(groups[0], "111030")
        points = np.reshape(region.GraphicData, (-1, 2))
        header = places[region.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID]
        assert region.GraphicType == "POLYLINE"
        assert len(points) > 6
        assert np.allclose(points[0], points[-1])
        assert (points >= 0).all()
        assert (points <= (header.Columns, header.Rows)).all()
        # viewers take the first UIDREF of a tracking UID for the tracking UID
        assert (
            next(i for i in groups[0].ContentSequence if i.ValueType == "UIDREF").ConceptNameCodeSequence[0].CodeValue
            == "112040"
        )


def test_22_a_negative_report_says_so(negative: Any, positive: Any, helpers: Any, tmp_path: Path) -> None:
    for case, state in ((negative, "272519000"), (positive, "52101004")):
        path = next(a.path for a in helpers.write(case, tmp_path / state) if a.kind == "sr")
        sr = pydicom.dcmread(path)
        states = [i.ConceptCodeSequence[0].CodeValue for g in _groups(sr) for i in _named(g, "112001")]
        assert states == [state]
        comments = [i.TextValue for i in _named(sr, "121106")]
        assert ("nothing that this program looks for" in comments[0]) == (case is negative)
        assert ("未发现本程序所检测的异常" in comments[1]) == (case is negative)
        assert "not for primary diagnosis" in comments[0]
        assert "chest_ct 0.1.0" in comments[0]


def test_22_a_missing_number_is_not_called_nothing_found(negative: Any, helpers: Any, tmp_path: Path) -> None:
    measurements = [
        replace(m, value=None, status="not_computable", reason=helpers.reason("x", "Mask doubtful", "分割存疑"))
        if m.name == "opacity_percent" else m
        for m in negative.result.measurements
    ]  # fmt: skip
    case = replace(negative, result=replace(negative.result, measurements=tuple(measurements)))
    sr = pydicom.dcmread(next(a.path for a in helpers.write(case, tmp_path) if a.kind == "sr"))
    assert [i.ConceptCodeSequence[0].CodeValue for g in _groups(sr) for i in _named(g, "112001")] == ["373068000"]
    assert "nothing that" not in _named(sr, "121106")[0].TextValue


def test_24_every_reference_is_evidence(objects: Any) -> None:
    case, written = objects
    sr = written["sr"]
    evidence = {
        i.ReferencedSOPInstanceUID
        for study in sr.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for i in series.ReferencedSOPSequence
    }
    others = {written["seg"].SOPInstanceUID, written["sc"].SOPInstanceUID}
    assert evidence == {i.sop_instance_uid for i in case.series.instances} | others
    for item in _tree(sr):
        for reference in item.get("ReferencedSOPSequence", []):
            assert reference.ReferencedSOPInstanceUID in evidence


def _known(value: str, scheme: str) -> bool:
    from pydicom.sr._concepts_dict import concepts

    return any(value in entry for entry in concepts.get(scheme, {}).values())


def test_31_what_cannot_be_given_has_a_qualifier_and_a_reason(objects: Any) -> None:
    _, written = objects
    numbers = [i for i in _tree(written["sr"]) if i.ValueType == "NUM" and i.RelationshipType == "CONTAINS"]
    missing = [i for i in numbers if not i.MeasuredValueSequence]
    (dense,) = missing
    assert dense.NumericValueQualifierCodeSequence[0].CodeValue == "114006"
    english, chinese = _named(dense, "121106")
    assert english.TextValue == "Part of the lung lies outside the images"
    assert chinese.TextValue == "部分肺组织位于图像之外"
    assert chinese.ContentSequence[0].ConceptCodeSequence[0].CodeValue == "zh-CN"
    (bound,) = [i for i in numbers if i.MeasuredValueSequence and "NumericValueQualifierCodeSequence" in i]
    assert bound.NumericValueQualifierCodeSequence[0].CodeValue == "LOWER_BOUND"
    for item in numbers:  # OHIF shows no qualifier, and a value of 0 as nothing: the meaning of the name says both
        value = item.MeasuredValueSequence and float(item.MeasuredValueSequence[0].NumericValue)
        expected = " ".join(["at least"] * (item is bound) + ["zero"] * (value == 0))
        said = item.ConceptNameCodeSequence[0].CodeMeaning.partition(", ")[2]
        assert said == ("" if item is dense else expected), item.ConceptNameCodeSequence[0].CodeMeaning
    assert all(np.isfinite(float(i.MeasuredValueSequence[0].NumericValue)) for i in numbers if i.MeasuredValueSequence)


def test_36_highdicom_reads_segmentation_and_report(positive: Any, helpers: Any, tmp_path: Path) -> None:
    # highdicom 0.28.2 cannot read a NUM without value, which the standard allows (PS3.3 C.18.1): leave those out here
    given = tuple(m for m in positive.result.measurements if m.value is not None)
    case = replace(positive, result=replace(positive.result, measurements=given))
    paths = {a.kind: a.path for a in helpers.write(case, tmp_path)}
    assert hd.seg.segread(paths["seg"]).number_of_segments == len(case.result.segments)
    groups = hd.sr.srread(paths["sr"]).content.get_planar_roi_measurement_groups()
    assert {g.tracking_uid for g in groups} == set(_by_tracking(pydicom.dcmread(paths["sr"])))


def test_13_the_same_again_is_the_same_bytes(positive: Any, helpers: Any, tmp_path: Path) -> None:
    first, second = helpers.write(positive, tmp_path / "a"), helpers.write(positive, tmp_path / "b")
    for a, b in zip(first, second, strict=True):
        assert a.path.read_bytes() == b.path.read_bytes(), a.name
        assert a.digest == b.digest
    assert (tmp_path / "a/preview.png").read_bytes() == (tmp_path / "b/preview.png").read_bytes()


def test_13_the_first_bytes_are_kept(negative: Any, helpers: Any, tmp_path: Path) -> None:
    first = {a.name: a.path.read_bytes() for a in helpers.write(negative, tmp_path)}
    again = helpers.write(negative, tmp_path, now=helpers.now + timedelta(days=3))
    assert {a.name: a.path.read_bytes() for a in again} == first
    other = helpers.write(negative, tmp_path, identity=negative.identified(weights_digest="sha256:" + "ef" * 32))
    assert all(a.path.read_bytes() != first[a.name] for a in other)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["preview.png", "sc.dcm", "seg.dcm", "sr.dcm"]


def test_a_broken_file_in_the_way_is_replaced(negative: Any, helpers: Any, tmp_path: Path) -> None:
    (tmp_path / "sr.dcm").write_bytes(b"half written")
    paths = {a.kind: a.path for a in helpers.write(negative, tmp_path)}
    assert pydicom.dcmread(paths["sr"]).Modality == "SR"


def test_every_time_comes_from_the_one_clock_reading(negative: Any, helpers: Any, tmp_path: Path) -> None:
    for artifact in helpers.write(negative, tmp_path, now=datetime(2031, 2, 3, 4, 5, 6)):  # noqa: DTZ001 - a naive clock is local
        ds = pydicom.dcmread(artifact.path)
        for item in (ds, *_items(ds)):
            for element in item:
                copied = element.keyword.startswith(("Study", "PatientBirth"))
                if element.VR in {"DA", "TM", "DT"} and element.value and not copied:
                    assert str(element.value) in {"20310203", "040506", "20310203040506"}, element.keyword


def test_times_are_written_in_the_sources_zone(helpers: Any, tmp_path: Path) -> None:
    phantom.write(phantom.build(7, slices=12, matrix=64), tmp_path)
    for path in (tmp_path / "dicom").iterdir():
        ds = pydicom.dcmread(path)
        ds.TimezoneOffsetFromUTC = "+0830"
        ds.save_as(path)
    case = helpers.from_folder(tmp_path)
    now = datetime(2026, 3, 4, 20, 0, tzinfo=UTC)
    sr = pydicom.dcmread(next(a.path for a in helpers.write(case, tmp_path / "out", now=now) if a.kind == "sr"))
    assert (sr.ContentDate, sr.ContentTime, sr.TimezoneOffsetFromUTC) == ("20260305", "043000", "+0830")


def test_a_revision_names_the_reports_before_it(negative: Any, helpers: Any, tmp_path: Path) -> None:
    before = [
        Predecessor(a.sop_class_uid, a.sop_instance_uid, a.series_instance_uid)
        for a in helpers.write(negative, tmp_path / "1")
    ]
    identity = negative.identified(weights_digest="sha256:" + "99" * 32)
    written = helpers.write(negative, tmp_path / "2", identity=identity, revision=2, predecessors=before)
    for artifact in written:
        assert pydicom.dcmread(artifact.path).SeriesDescription.endswith("[RESEARCH] r2")
    sr = next(pydicom.dcmread(a.path) for a in written if a.kind == "sr")
    named = sr.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    old = next(p for p in before if p.sop_class_uid == sr.SOPClassUID)
    assert named.SeriesInstanceUID == old.series_instance_uid
    assert [r.ReferencedSOPInstanceUID for r in named.ReferencedSOPSequence] == [old.sop_instance_uid]


def test_no_segment_no_segmentation(negative: Any, helpers: Any, tmp_path: Path) -> None:
    helpers.write(negative, tmp_path)
    case = replace(negative, result=replace(negative.result, segments=()))
    written = helpers.write(case, tmp_path, identity=negative.identified(weights_digest="sha256:" + "77" * 32))
    assert [a.kind for a in written] == ["sr", "sc"]
    assert not (tmp_path / "seg.dcm").exists()


def test_one_segment_alone(negative: Any, helpers: Any, tmp_path: Path) -> None:
    case = replace(negative, result=replace(negative.result, segments=negative.result.segments[:1]))
    paths = {a.kind: a.path for a in helpers.write(case, tmp_path)}
    assert len(pydicom.dcmread(paths["seg"]).SegmentSequence) == 1
    assert hd.seg.segread(paths["seg"]).number_of_segments == 1


def test_empty_frames_are_written_on_demand(negative: Any, helpers: Any, tmp_path: Path) -> None:
    pieces = [Piece(Form("seg", omit_empty_frames=False))]
    paths = {a.kind: a.path for a in helpers.write(negative, tmp_path, pieces=pieces)}
    seg = pydicom.dcmread(paths["seg"])
    assert seg.NumberOfFrames == 2 * len(negative.series.instances)
    assert seg.pixel_array.any(axis=(1, 2)).sum() < seg.NumberOfFrames


def test_a_number_without_a_code_is_refused(negative: Any, helpers: Any, tmp_path: Path) -> None:
    odd = replace(negative.result.measurements[0], name="lung_mood")
    case = replace(negative, result=replace(negative.result, measurements=(odd,)))
    with pytest.raises(ValueError, match="lung_mood"):
        helpers.write(case, tmp_path)


def test_result_and_series_must_belong_together(negative: Any, positive: Any, helpers: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not in the series"):
        helpers.write(replace(negative, series=positive.series), tmp_path)


def test_palette_colours_are_distinct() -> None:
    colours = [codes.site_colour("left_lung"), codes.site_colour("right_lung"), *codes.FINDING_COLOURS]
    assert all(sum(abs(x - y) for x, y in zip(a, b, strict=True)) > 60 for a, b in itertools.combinations(colours, 2))


def test_a_report_names_the_card_that_stood_in_its_place(negative: Any, helpers: Any, tmp_path: Path) -> None:
    card = Predecessor("1.2.840.10008.5.1.4.1.1.7", "2.25.11", "2.25.12")
    written = helpers.write(negative, tmp_path, revision=2, predecessors=[card])
    (report,) = (pydicom.dcmread(a.path) for a in written if a.kind == "sr")
    named = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert named.ReferencedSOPInstanceUID == card.sop_instance_uid
