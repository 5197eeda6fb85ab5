"""What a report says of a suggestion: the answer as a code, every rule as a code and a number with its limit, all in words.

A group (TID 1501) about both lungs. The limit of a rule stands below its number, as that of a finding about the images does.

References
----------
PS3.16 TID 1501, 300.
"""

from collections.abc import Mapping
from typing import Any

from highdicom import sr

from pipeline.result import Evidence, Suggestion
from sr_writer import codes
from sr_writer.content import COMMENT, coded, text_item
from sr_writer.header import Authorship
from sr_writer.narrative import suggestion_lines


def group(said: Suggestion, by: Authorship, common: Mapping[str, Any]) -> sr.MeasurementsAndQualitativeEvaluations:
    """Return the group of one suggestion; `common` is what every group has."""
    evaluations = [
        sr.QualitativeEvaluation(coded(codes.concept(said.name)), coded(codes.answer(said.name, said.answer)))
    ]
    evaluations += [
        sr.QualitativeEvaluation(coded(codes.concept(f"rule_{e.rule}")), coded(codes.speaks(e.speaks)))
        for e in said.evidence
    ]
    made = sr.MeasurementsAndQualitativeEvaluations(
        measurements=[_measurement(e) for e in said.evidence if e.value is not None] or None,
        qualitative_evaluations=evaluations,
        **common,
    )
    for tag in by.languages:
        for line in suggestion_lines(said, tag, plain=True):
            made[0].ContentSequence.append(text_item(COMMENT, line, tag, by))
    return made


def _measurement(e: Evidence) -> sr.Measurement:
    unit = coded(codes.unit(e.unit))
    item = sr.Measurement(coded(codes.concept(f"rule_{e.rule}")), float(e.value or 0.0), unit)
    limit = sr.NumContentItem(
        coded(codes.concept("rule_limit")), float(e.limit), unit, relationship_type="HAS PROPERTIES"
    )
    item[0].ContentSequence = sr.ContentSequence([limit])
    return item
