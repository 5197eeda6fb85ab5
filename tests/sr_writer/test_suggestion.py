"""Suggestions in reports: answer and every rule as code, number, limit and words; the gate holds all of it."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

import phantom
from pipeline.result import Code, Evidence, Mask, Measurement, Region, Suggestion
from sr_writer import codes, gate, gate_sr
from sr_writer.gate_count import Recount
from sr_writer.gate_frames import frames_of
from sr_writer.gate_sources import read_sources
from sr_writer.gate_tree import children, name, named
from sr_writer.narrative import paragraphs
from sr_writer.profiles import Form, Piece

pytestmark = pytest.mark.unit

TEXT = MappingProxyType({
    "en": "Suggestion (AI, unverified): pattern of pneumonia: yes.", "zh-CN": "提示（人工智能，未经核实）：肺炎样表现：是。",
})  # fmt: skip
CATEGORY = MappingProxyType({
    "en": "Suggestion (AI, unverified), for suspected viral pneumonia: CO-RADS 4 (suspicion high).",
    "zh-CN": "提示（人工智能，未经核实；适应证为疑似病毒性肺炎）：CO-RADS 4（怀疑程度高）。",
})  # fmt: skip


@dataclass(frozen=True, eq=False)
class Told:
    """A case with suggestions, its objects, and what the gate needs of them."""

    case: Any
    report: Dataset
    text: Dataset
    artifacts: tuple[Any, ...]
    raw: Any
    recounts: dict[str, Recount]
    claim: Any

    def judged(self, change: Callable[[Dataset], object], *, claim: bool = True) -> set[str]:
        ds = deepcopy(self.report)
        change(ds)
        return {r.code for r in gate_sr.check(ds, self.raw, self.recounts, self.claim if claim else None)}


def evidence(case: Any) -> tuple[Evidence, ...]:
    """Count them in whole arrays."""
    shape = case.volume.array.shape
    lung, lesion = np.zeros(shape, np.uint8), np.zeros(shape, bool)
    for value, segment in ((2, case.result.segments[0]), (1, case.result.segments[1])):
        segment.mask.paint(lung, value)
    for segment in case.result.segments[2:]:
        segment.mask.paint(lesion)
    at = np.argwhere(lung > 0)
    back = np.zeros(shape)
    back[tuple(at.T)] = case.result.geometry.to_lps(at)[:, 1]
    marked = [(lung == s) & lesion for s in (1, 2)]
    behind = sum(int((back[m] > back[lung == s].mean()).sum()) for s, m in zip((1, 2), marked, strict=True))
    sizes = [int(m.sum()) for m in marked]
    cm3 = case.result.geometry.voxel_volume_mm3 / 1000
    rows = [
        ("opacity", sum(sizes) * cm3, "cm3", 0.5, "for"), ("multifocal", len(case.result.findings), "1", 2.0, "for"),
        ("bilateral", 100 * min(sizes) / sum(sizes), "%", 10.0, "for"),
        ("posterior", 100 * behind / sum(sizes), "%", 60.0, "neither"),
        ("peripheral", 1.234, "{ratio}", 1.1, "neither"), ("lobar", None, "%", 15.0, "unknown"),
    ]  # fmt: skip
    labels = [{tag: codes.concept_label(f"rule_{r[0]}", tag) for tag in ("en", "zh-CN")} for r in rows]
    return tuple(
        Evidence(rule, label, None if v is None else float(v), unit, limit, speaks)  # type: ignore[arg-type]
        for label, (rule, v, unit, limit, speaks) in zip(labels, rows, strict=True)
    )


def zones(case: Any) -> tuple[list[Region], list[Measurement]]:
    """Part each lung somewhere: the gate asks only that both parts are the lung."""
    regions, numbers = [], []
    lesion = np.zeros(case.volume.array.shape, bool)
    for segment in case.result.segments[2:]:
        segment.mask.paint(lesion)
    cm3 = case.result.geometry.voxel_volume_mm3 / 1000
    for segment in case.result.segments[:2]:
        whole = np.zeros(lesion.shape, bool)
        segment.mask.paint(whole)
        inner = whole & (np.indices(whole.shape)[1] % 5 > 0)
        for zone, mask in (("core", inner), ("peel", whole & ~inner)):
            site = f"{segment.site}_{zone}"
            regions.append(Region(site, Mask.of(mask), Code("39607008", "SCT", "Lung"), segment.laterality))
            numbers.append(Measurement("lung_volume", site, float(mask.sum() * cm3), "cm3"))
            numbers.append(Measurement("opacity_volume", site, float((mask & lesion).sum() * cm3), "cm3"))
    return regions, numbers


@pytest.fixture(scope="module")
def told(helpers: Any, tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("suggestion")
    case = helpers.case(folder, phantom.build(12, slices=12, matrix=56))
    said = evidence(case)
    made = (Suggestion("pneumonia_pattern", "yes", TEXT, said), Suggestion("co_rads", "4", CATEGORY, said[:3]))
    regions, numbers = zones(case)
    result = replace(
        case.result, suggestions=made, regions=(*case.result.regions, *regions),
        measurements=(*case.result.measurements, *numbers), summary={tag: f"{TEXT[tag]}" for tag in TEXT},
    )  # fmt: skip
    case = replace(case, result=result)
    seg = Form("seg")
    written = helpers.write(case, folder / "out", pieces=[Piece(seg), Piece(Form("sr"), (seg,)), Piece(Form("text"))])
    files = {a.kind: dcmread(a.path) for a in written}
    raw = read_sources(case.series.instances)
    recounts = {files["seg"].SOPInstanceUID: Recount.of(files["seg"], frames_of(files["seg"]), raw)}
    return Told(case, files["sr"], files["text"], written, raw, recounts, helpers.claim(case))


def test_what_was_suggested_passes_the_gate(told: Told) -> None:
    assert [r.reason.text for r in gate.check(told.artifacts, told.case.series.instances, (), told.claim)] == []
    assert told.judged(lambda _: None, claim=False) == set()


def groups(ds: Dataset, question: str) -> list[Dataset]:
    """Return the groups about a question that have content: the planar one comes first and has none."""
    (container,) = named(ds, "126010")
    found = []
    for group in named(container, "125007"):
        finding = next(named(group, "121071"), None)
        if finding is not None and finding.ConceptCodeSequence[0].CodeValue == codes.concept(question).value:
            found.append(group)
    return found


def test_every_rule_stands_as_code_number_limit_and_words(told: Told) -> None:
    planar, group = groups(told.report, "pneumonia_pattern")
    assert not list(children(planar, "NUM"))
    said = told.case.result.suggestions[0]
    answers = {str(name(i).CodeValue): str(i.ConceptCodeSequence[0].CodeMeaning) for i in children(group, "CODE")}
    assert answers["PNEUMONIA_PATT"] == "Present"
    assert answers["RULE_BILATERAL"] == "Speaks for it"
    assert answers["RULE_LOBAR"] == "Undetermined"
    numbers = {str(name(i).CodeValue): i for i in children(group, "NUM")}
    assert set(numbers) == {codes.concept(f"rule_{e.rule}").value for e in said.evidence if e.value is not None}
    for e in said.evidence:
        if e.value is not None:
            item = numbers[codes.concept(f"rule_{e.rule}").value]
            (limit,) = children(item, "NUM")
            shown = [float(i.MeasuredValueSequence[0].NumericValue) for i in (item, limit)]
            assert shown == pytest.approx([e.value, e.limit], rel=1e-5)
    words = [str(i.TextValue) for i in children(group, "TEXT")]
    for tag in TEXT:
        assert TEXT[tag] in words
        assert any(codes.text("speaks_for", tag) in line and said.evidence[2].text[tag] in line for line in words)


def test_people_read_it_in_both_languages(told: Told) -> None:
    for tag in TEXT:
        (part,) = [p for p in paragraphs(told.case.result, tag, research=True) if p.topic == "suggestions"]
        assert part.lines[0] == TEXT[tag]
        assert len(part.lines) == 2 + 6 + 3
        assert CATEGORY[tag] in part.lines


def items(ds: Dataset) -> Iterator[Dataset]:
    for child in ds.get("ContentSequence") or ():
        yield child
        yield from items(child)


def recode(question: str, concept: str, code: Code) -> Callable[[Dataset], None]:
    def change(ds: Dataset) -> None:
        group = groups(ds, question)[-1]
        (item,) = [i for i in children(group, "CODE") if name(i).CodeValue == codes.concept(concept).value]
        value = item.ConceptCodeSequence[0]
        value.CodeValue, value.CodingSchemeDesignator, value.CodeMeaning = code.value, code.scheme, code.meaning

    return change


def renumber(rule: str, by: float, *, limit: bool = False) -> Callable[[Dataset], None]:
    def change(ds: Dataset) -> None:
        for question in ("pneumonia_pattern", "co_rads"):
            for item in children(groups(ds, question)[-1], "NUM"):
                if name(item).CodeValue == codes.concept(f"rule_{rule}").value:
                    value = (next(children(item, "NUM")) if limit else item).MeasuredValueSequence[0]
                    value.NumericValue = value.FloatingPointValue = float(value.NumericValue) + by

    return change


def without(question: str) -> Callable[[Dataset], None]:
    def change(ds: Dataset) -> None:
        (container,) = named(ds, "126010")
        gone = groups(ds, question)
        container.ContentSequence = [g for g in container.ContentSequence if not any(g is x for x in gone)]

    return change


def twice(ds: Dataset) -> None:
    (container,) = named(ds, "126010")
    container.ContentSequence.append(deepcopy(groups(ds, "co_rads")[-1]))


def reworded(ds: Dataset) -> None:
    for item in items(ds):
        if item.ValueType == "TEXT" and str(item.TextValue).startswith("Suggestion (AI"):
            item.TextValue = str(item.TextValue).replace("yes", "no").replace("4 (suspicion high)", "1")


def unnumbered(ds: Dataset) -> None:
    group = groups(ds, "co_rads")[-1]
    group.ContentSequence = [i for i in group.ContentSequence if i.ValueType != "NUM"]


ATTACKS: list[tuple[str, Callable[[Dataset], object], str]] = [
    ("another answer", recode("pneumonia_pattern", "pneumonia_pattern", codes.answer("pneumonia_pattern", "no")), "suggestion-differs"),
    ("another category", recode("co_rads", "co_rads", codes.answer("co_rads", "5")), "suggestion-differs"),
    ("a rule that speaks against", recode("pneumonia_pattern", "rule_bilateral", codes.speaks("against")), "suggestion-differs"),
    ("left out", without("co_rads"), "suggestion-differs"),
    ("given twice", twice, "suggestion-differs"),
    ("another answer in words", reworded, "suggestion-differs"),
    ("another value", renumber("peripheral", 0.2), "number-differs"),
    ("another limit", renumber("peripheral", 0.2, limit=True), "number-differs"),
    ("a value left out", unnumbered, "number-differs"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "code"), [a[1:] for a in ATTACKS], ids=[a[0] for a in ATTACKS])
def test_what_the_document_does_not_say_is_refused(told: Told, change: Callable[[Dataset], object], code: str) -> None:
    assert code in told.judged(change)


def test_words_of_the_text_report_too(told: Told) -> None:
    ds = deepcopy(told.text)
    assert set(gate_sr.check_texts(ds, told.claim)) == set()
    reworded(ds)
    assert {r.code for r in gate_sr.check_texts(ds, told.claim)} == {"suggestion-differs"}


@pytest.mark.parametrize(
    ("rule", "by"), [("opacity", 1.0), ("multifocal", 1.0), ("bilateral", 0.5), ("posterior", -0.5)]
)
def test_masks_and_pixels_alone_bear_witness(told: Told, rule: str, by: float) -> None:
    assert told.judged(renumber(rule, by), claim=False) == {"number-differs"}


def test_core_and_peel_are_the_lung(told: Told) -> None:
    def larger(ds: Dataset) -> None:
        for item in items(ds):
            if item.ValueType == "CONTAINER" and any(
                str(i.ConceptCodeSequence[0].CodeValue) == "CORE_ZONE" for i in items(item) if i.ValueType == "CODE"
            ):
                for number in children(item, "NUM"):
                    if name(number).CodeValue == "118565006":
                        value = number.MeasuredValueSequence[0]
                        value.NumericValue = value.FloatingPointValue = float(value.NumericValue) * 1.1

    assert told.judged(larger, claim=False) == {"number-differs"}
