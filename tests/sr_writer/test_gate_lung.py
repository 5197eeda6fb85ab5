"""Densities and scores of the lungs are counted again: a document that is wrong with its report does not leave."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

import phantom
from dicom_io.reason import LANGUAGES
from pipeline.result import Measurement
from sr_writer import codes, gate, gate_sr
from sr_writer.gate_count import Recount
from sr_writer.gate_frames import frames_of
from sr_writer.gate_sources import read_sources
from sr_writer.gate_tree import tree
from sr_writer.profiles import profile

pytestmark = pytest.mark.unit

SITES = ("lungs", "left_lung", "right_lung")


@pytest.fixture(scope="module")
def case(helpers: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return helpers.case(tmp_path_factory.mktemp("lung"), phantom.build(12, slices=12, matrix=56))


def true_numbers(case: Any) -> dict[tuple[str, str], float]:
    """Count them as a reader of the standard would, from the masks as they are."""
    out, lesion = {}, np.zeros(case.volume.array.shape, np.uint8)
    for segment in case.result.segments[2:]:
        segment.mask.paint(lesion)
    percents = {}
    for site in SITES:
        here = np.zeros(case.volume.array.shape, np.uint8)
        case.result.region(site).mask.paint(here)
        hu = case.volume.array[here > 0]
        percents[site] = 100.0 * lesion[here > 0].mean()
        out["laa950_percent", site] = 100.0 * (hu < -950).mean()
        out["aerated_percent", site] = 100.0 * ((hu >= -950) & (hu < -700)).mean()
        out["perc15", site] = float(np.percentile(hu, 15))
    assert 5 < percents["left_lung"] < 25
    assert 0 < percents["right_lung"] < 5
    # least: one lobe of each lung with 2 and with 1; most: 5 in all the others
    out["ct_severity_score_least", "lungs"], out["ct_severity_score_most", "lungs"] = 3, 18
    out["total_severity_score_least", "lungs"], out["total_severity_score_most", "lungs"] = 2, 14
    return out


def unit(name: str) -> str:
    return "%" if name.endswith("percent") else "[hnsf'U]" if name == "perc15" else "{score}"


CHANGES = {
    ("laa950_percent", "lungs"): 0.5, ("aerated_percent", "left_lung"): -0.5, ("perc15", "right_lung"): 3.0,
    ("ct_severity_score_least", "lungs"): 1, ("ct_severity_score_most", "lungs"): -1,
    ("total_severity_score_least", "lungs"): -1, ("total_severity_score_most", "lungs"): 1,
}  # fmt: skip


def test_code_values_fit() -> None:
    """A longer one would be a Long Code Value, which no reader of ours expects (SH, PS3.5 section 6.2)."""
    made = [codes.concept(name) for name in codes.CONCEPTS]
    assert [c for c in made if len(c.value) > 16 or len(c.meaning) > 64] == []
    assert len({c.value for c in made}) == len(made)


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_of_numbers_have_room_for_what_is_added(language: Any) -> None:
    """A bound, and a zero, is said behind the name: all of it must be a Code Meaning (LO, PS3.5 section 6.2)."""
    added = len(
        codes.text("list", language).join(["", f"{codes.text('at_least', language)} {codes.text('zero', language)}"])
    )
    names = [codes.concept_label(name, language) for name in codes.CONCEPTS]
    assert [name for name in names if len(name) + added > 64] == []


def test_true_numbers_pass_and_each_that_does_not_follow_is_refused(helpers: Any, case: Any, tmp_path: Path) -> None:
    true = true_numbers(case)
    added = tuple(Measurement(name, site, value, unit(name)) for (name, site), value in true.items())
    told = replace(case, result=replace(case.result, measurements=(*case.result.measurements, *added)))
    pieces = [line.piece for line in profile("ohif").lines(result=True) if line.piece.form.object in {"seg", "sr"}]
    written = {a.kind: a for a in helpers.write(told, tmp_path, pieces=pieces)}
    instances = told.series.instances
    assert [r.reason.text for r in gate.check(list(written.values()), instances, (), helpers.claim(told))] == []

    seg, report = dcmread(written["seg"].path), dcmread(written["sr"].path)
    raw = read_sources(instances)
    recounts = {seg.SOPInstanceUID: Recount.of(seg, frames_of(seg), raw)}
    for (name, site), by in CHANGES.items():
        code, value = codes.measurement(name).code, f"{true[name, site]:.3f}"
        item = next(
            i for i in tree(report)
            if i.ValueType == "NUM" and i.ConceptNameCodeSequence[0].CodeValue == code.value
            and f"{float(i.MeasuredValueSequence[0].NumericValue):.3f}" == value
        )  # fmt: skip
        given = item.MeasuredValueSequence[0]
        before = given.NumericValue
        given.NumericValue = given.FloatingPointValue = float(before) + by
        # without what the analysis said: masks and pixels alone
        assert [r.code for r in gate_sr.check(report, raw, recounts, None)] == ["number-differs"], name
        given.NumericValue = given.FloatingPointValue = before
