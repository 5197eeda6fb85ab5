"""What a report says and in which languages: both trees, the root's references, image quality, a study without a result."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom as hd
import pydicom
import pytest
from pydicom.dataset import Dataset

from sr_writer import codes, sc, seg, sr, sr_card
from sr_writer.considered import Considered
from sr_writer.files import write_dicom
from sr_writer.header import Authorship
from sr_writer.narrative import joined, no_result, paragraphs
from sr_writer.sources import Sources

pytestmark = pytest.mark.unit


def _tree(item: Dataset) -> list[Dataset]:
    return [d for child in item.get("ContentSequence", []) for d in (child, *_tree(child))]


def _named(item: Dataset, code: str) -> list[Dataset]:
    return [
        i for i in item.get("ContentSequence", [])
        if "ConceptNameCodeSequence" in i and i.ConceptNameCodeSequence[0].CodeValue == code
    ]  # fmt: skip


def _groups(report: Dataset) -> list[Dataset]:
    return list(_named(report, "126010")[0].ContentSequence)


def _value(item: Dataset) -> str:
    return str(item.ConceptCodeSequence[0].CodeValue)


def authorship(case: Any, now: Any, **changes: Any) -> tuple[Sources, Authorship]:
    sources = Sources(case.series.instances)
    return sources, replace(Authorship(sources.first.header, case.identity, case.options, now, 1), **changes)


@pytest.fixture(scope="module")
def trees(positive: Any, helpers: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    sources, by = authorship(positive, helpers.now)
    segmentation = seg.build(positive.result, sources, by)
    out = {"seg": segmentation}
    for tree in ("outlines", "pure"):
        path = tmp_path_factory.mktemp(tree) / "sr.dcm"
        write_dicom(sr.build(positive.result, sources, by, segmentation, tree=tree), path)  # type: ignore[arg-type]
        out[tree] = pydicom.dcmread(path)
    return out


def _said(report: Dataset) -> dict[str, tuple[Any, ...]]:
    """What the groups with numbers say, by Tracking UID, without how OHIF is made to show it."""
    out = {}
    for group in _groups(report):
        if group.ContentTemplateSequence[0].TemplateIdentifier == "1410":
            continue
        numbers = [
            (i.ConceptNameCodeSequence[0].CodeValue, [str(v.NumericValue) for v in i.MeasuredValueSequence])
            for i in group.ContentSequence if i.ValueType == "NUM"
        ]  # fmt: skip
        states = [
            (i.ConceptNameCodeSequence[0].CodeValue, _value(i)) for i in group.ContentSequence if i.ValueType == "CODE"
        ]
        segments = [r.ReferencedSOPSequence[0].ReferencedSegmentNumber for r in _named(group, "121191")]
        out[_named(group, "112040")[0].UID] = (numbers, states, segments)
    return out


def test_21_both_trees_say_the_same_of_the_same_things(trees: dict[str, Dataset]) -> None:
    assert _said(trees["outlines"]) == _said(trees["pure"])
    assert len(_said(trees["pure"])) == len(_groups(trees["pure"]))


def test_23_the_pure_tree_has_what_the_template_needs_and_nothing_else(trees: dict[str, Dataset]) -> None:
    pure = trees["pure"]
    assert not [i for i in _tree(pure) if i.ValueType.startswith("SCOORD")]
    templates = [g.ContentTemplateSequence[0].TemplateIdentifier for g in _groups(pure)]
    assert templates.count("1411") == len(trees["seg"].SegmentSequence)
    assert set(templates) == {"1411", "1501"}
    for group, template in zip(_groups(pure), templates, strict=True):
        assert bool(_named(group, "121191")) == (template == "1411")
    meanings = {i.ConceptNameCodeSequence[0].CodeMeaning for i in _tree(pure) if i.ValueType == "NUM"}
    assert not [m for m in meanings if "at least" in m or "zero" in m]
    assert [i for i in _tree(trees["outlines"]) if i.ValueType == "SCOORD"]


def test_23_highdicom_reads_the_pure_tree(positive: Any, helpers: Any, tmp_path: Path) -> None:
    # highdicom 0.28.2 cannot read a NUM without value, which the standard allows (PS3.3 C.18.1): leave those out here
    given = tuple(m for m in positive.result.measurements if m.value is not None)
    result = replace(positive.result, measurements=given)
    sources, by = authorship(positive, helpers.now)
    write_dicom(sr.build(result, sources, by, seg.build(result, sources, by), tree="pure"), tmp_path / "sr.dcm")
    content = hd.sr.srread(tmp_path / "sr.dcm").content
    read = content.get_volumetric_roi_measurement_groups()
    assert {g.tracking_identifier for g in read} == {s.tracking_id for s in result.segments}
    assert content.get_planar_roi_measurement_groups() == []


def test_24_the_root_refers_to_every_object_of_the_analysis(positive: Any, helpers: Any) -> None:
    sources, by = authorship(positive, helpers.now)
    segmentation = seg.build(positive.result, sources, by)
    picture = sc.build(
        positive.volume.array[:1, :8, :8, None].repeat(3, 3)[0].astype("u1"), [], by, kind="sc", description="x"
    )
    document = Dataset()
    document.StudyInstanceUID, document.SeriesInstanceUID = segmentation.StudyInstanceUID, "2.25.1"
    document.SOPClassUID, document.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.104.1", "2.25.2"
    report = sr.build(positive.result, sources, by, segmentation, beside=[picture, document])
    (holder,) = _named(report, codes.concept("result_objects").value)
    named = [(i.ValueType, i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) for i in holder.ContentSequence]
    objects = (segmentation, picture, document)
    assert named == list(zip(("IMAGE", "IMAGE", "COMPOSITE"), (o.SOPInstanceUID for o in objects), strict=True))
    evidence = {
        item.ReferencedSOPInstanceUID
        for series in report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert {o.SOPInstanceUID for o in objects} <= evidence


def test_22_what_is_there_and_what_is_not_stands_in_codes(
    trees: dict[str, Dataset], negative: Any, helpers: Any
) -> None:
    ground_glass = codes.concept("ground_glass_class").value
    dense = codes.concept("dense_class").value

    def states(report: Dataset, code: str) -> list[str]:
        return [_value(i) for g in _groups(report) for i in _named(g, code)]

    present, absent, undetermined = "52101004", "272519000", "373068000"
    assert states(trees["pure"], ground_glass) == [present]  # a lower bound that is not zero
    assert states(trees["pure"], dense) == [undetermined]  # could not be given
    sources, by = authorship(negative, helpers.now)
    assert states(sr.build(negative.result, sources, by, None), ground_glass) == [undetermined]  # at least zero
    given = tuple(replace(m, value=0.0, status="ok", reason=None) for m in negative.result.measurements)
    sure = sr.build(replace(negative.result, measurements=given), sources, by, None)
    assert (states(sure, "112001"), states(sure, ground_glass), states(sure, dense)) == ([absent],) * 3


def test_22_findings_about_the_images_are_coded_and_measured(trees: dict[str, Dataset]) -> None:
    (group,) = [g for g in _groups(trees["pure"]) if _value(_named(g, "121071")[0]) == "111101"]
    assert [_value(i) for i in _named(group, "111050")] == ["RID12"]
    thick = codes.concept("quality_thick_slices").value
    assert [_value(i) for i in _named(group, "111052")] == [thick]
    (number,) = _named(group, thick)
    assert float(number.MeasuredValueSequence[0].NumericValue) == 5.0
    assert number.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue == "mm"


def test_22_every_finding_about_the_images_has_a_code() -> None:
    import tomllib
    from importlib.resources import files

    rows = tomllib.loads(files("pipeline.chest_ct").joinpath("quality.toml").read_text(encoding="utf-8"))["finding"]
    assert [row["code"] for row in rows if codes.quality_finding(row["code"]) is None] == []
    assert codes.quality_finding("of-another-maker") is None


def test_19_every_group_names_its_algorithm(trees: dict[str, Dataset], positive: Any) -> None:
    identity = positive.identity
    for group in _groups(trees["pure"]):
        assert [i.TextValue for i in _named(group, "111001")] == ["chest_ct"]
        assert [i.TextValue for i in _named(group, "111003")] == ["0.1.0"]
        assert f"weights {identity.weights_digest}" in [i.TextValue for i in _named(group, "111002")]


def test_codes_mean_the_same_in_the_other_language(trees: dict[str, Dataset]) -> None:
    seen = set()
    for item in (i for g in _groups(trees["pure"]) for i in g.ContentSequence if i.RelationshipType == "CONTAINS"):
        if item.ValueType not in {"NUM", "CODE"}:
            continue
        name = item.ConceptNameCodeSequence[0].CodeValue
        said = [*_named(item, "121050"), *_named(item, "121051")]
        expected = {"276214006": 0, "121071": 1}.get(name, 1 if item.ValueType == "NUM" else 2)
        assert len(said) == expected, name
        for text in said:
            assert not text.TextValue.isascii()
            assert _value(text.ContentSequence[0]) == "zh-CN"
            seen.add(text.TextValue)
    assert {"体积", "致密影", "存在", "图像质量", "层厚过大"} <= seen


def test_09_a_document_in_chinese_has_chinese_meanings_first(coronal: Any, helpers: Any) -> None:
    options = replace(coronal.options, languages=("zh-CN", "en"))
    sources, by = authorship(coronal, helpers.now, options=options)
    segmentation = seg.build(coronal.result, sources, by)
    report = sr.build(coronal.result, sources, by, segmentation)
    assert _value(_named(report, "121049")[0]) == "zh-CN"
    english = {
        code.CodeMeaning
        for item in _tree(report)
        for code in (*item.get("ConceptNameCodeSequence", ()), *item.get("ConceptCodeSequence", ()))
        if code.CodeMeaning.isascii() and code.CodingSchemeDesignator != "RFC5646"
    }
    assert english == set(), "a code without a Chinese meaning"
    (volume, *_) = [i for i in _tree(report) if i.ValueType == "NUM"]
    assert volume.ConceptNameCodeSequence[0].CodeMeaning == "体积"
    assert [t.TextValue for t in _named(volume, "121050")] == ["Volume"]
    assert [s.SegmentLabel for s in segmentation.SegmentSequence][:2] == ["左肺", "右肺"]
    assert [_value(c.ContentSequence[0]) for c in _named(report, "121106")] == ["zh-CN", "en-US"]
    assert report.SpecificCharacterSet == "GB18030"  # the source's, which holds it all


@pytest.mark.parametrize(("outcome", "flag"), [("not_analysed", "COMPLETE"), ("failed", "PARTIAL")])
def test_18_22_a_report_of_no_result_says_why(
    outcome: Any, flag: str, negative: Any, helpers: Any, tmp_path: Path
) -> None:
    why = helpers.reason("too-thick", "The slices are too thick.", "层厚过大。")
    sources, by = authorship(negative, helpers.now)
    series = negative.series.series_instance_uid
    write_dicom(sr_card.build(why, outcome, [Considered(series, why)], sources, by), tmp_path / "sr.dcm")
    report = pydicom.dcmread(tmp_path / "sr.dcm")
    assert report.CompletionFlag == flag
    assert report.SeriesDescription.startswith("AI chest_ct 0.1.0")
    (group,) = _groups(report)
    (state,) = _named(group, codes.concept("analysis_outcome").value)
    assert _value(state) == codes.concept(f"outcome_{outcome}").value
    assert [i.TextValue for i in _named(group, "121106")] == ["The slices are too thick.", "层厚过大。"]
    english, chinese = (i.TextValue for i in _named(report, "121106"))
    assert "Reason: The slices are too thick." in english.splitlines()
    assert "原因：层厚过大。" in chinese.splitlines()
    assert not _named(group, "112001"), "what was not analysed is neither absent nor present"


def test_the_narrative_begins_with_the_conclusion_and_ends_with_the_limits(positive: Any) -> None:
    result = replace(positive.result, summary={"en": "Both lungs.", "zh-CN": "双肺。"})
    for tag in ("en", "zh-CN"):
        topics = [p.topic for p in paragraphs(result, tag, research=True)]
        assert topics == ["impression", "findings", "measurements", "missing", "quality", "limits", "origin"]
    said = {p.topic: p.lines for p in paragraphs(result, "en", research=True, plain=True)}
    assert said["impression"] == (
        f"The series was analysed; {len(result.findings)} findings are reported.",
        "Both lungs.",
    )
    assert len(said["findings"]) == len(result.findings)
    assert said["findings"][0].startswith("opacity 1: ")
    assert " cm3" in said["measurements"][0]
    assert said["missing"] == (
        "At least: -700..-250 HU (Both lungs). Why: Part of the lung lies outside the images",
        "Not given: -250..+250 HU (Both lungs). Why: Part of the lung lies outside the images",
    )
    assert said["limits"] == ("Small vessels may be counted as opacity.",)
    assert "not for primary diagnosis" in said["origin"][-1]
    text = joined(paragraphs(result, "en", research=False), "en")
    assert "Research use" not in text
    assert text.startswith("The series was analysed")
    assert "\r\nLimits:\r\nSmall vessels" in text


def test_the_narrative_of_no_result_gives_the_reason_and_the_way_out(helpers: Any) -> None:
    why = replace(helpers.reason("x", "Too thick.", "过厚。"), hint={"en": "Send thin slices."})
    said = no_result(why, "not_analysed", [], "en", pipeline="chest_ct", version="0.1.0", research=False)
    assert said[0].lines == ("Chest CT · not analysed", "Reason: Too thick.", "What can be done: Send thin slices.")
