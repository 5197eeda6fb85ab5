"""What must hold for suggestions: answer, rules, numbers and limits are the document's, and what can be counted is counted again.

A wrong answer sends a patient to the wrong ward, so a code, a number, a limit and what a rule speaks for each count; none
may be missing, none added.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from dicom_io.model import ImageKey
from dicom_io.reason import Reason
from sr_writer import codes
from sr_writer.gate_claim import SAID_TOLERANCE, Suggested
from sr_writer.gate_count import Recount
from sr_writer.gate_frames import Runs, union
from sr_writer.gate_numbers import PERCENT_TOLERANCE, measured
from sr_writer.gate_tree import children, name, named, tree, value
from sr_writer.reasons import REASONS

_FINDING = "121071"
QUESTIONS: Mapping[str, str] = {codes.concept(q).value: q for q in codes.QUESTIONS}
"""Code value to name."""
_RULES: Mapping[str, str] = {codes.concept(c).value: c.removeprefix("rule_") for c in codes.RULES}
_LIMIT = codes.concept("rule_limit").value
_SENTENCE = re.compile(r"Suggestion \(AI|提示（人工智能")
"""How every suggestion in words begins."""
_MOST_SEGMENTS = 10
"""Of so many opacities and more the last segment may show several."""


def question(group: Dataset) -> str | None:
    """Return the name of what a measurement group suggests about; None if it is about something else."""
    codes_named = (str(i.ConceptCodeSequence[0].CodeValue) for i in named(group, _FINDING))
    return next((QUESTIONS[c] for c in codes_named if c in QUESTIONS), None)


def limits_in(group: Dataset) -> int:
    """Return how many numbers of a suggestion stand below another one."""
    if question(group) is None:
        return 0
    return sum(len(list(children(item, "NUM"))) for item in children(group, "NUM"))


def check_report(
    groups: Sequence[Dataset], suggested: Sequence[Suggested] | None, recount: Recount | None
) -> Iterator[Reason]:
    """Yield what the groups of a report suggest otherwise than the document, or than masks and pixels."""
    mine = {}
    for group in groups:
        asked = question(group)
        if asked is None or not _evaluations(group):
            continue  # the planar group of the same thing has no content of its own
        if asked in mine:
            yield REASONS("suggestion-differs", what=asked)
        mine[asked] = group
        if recount is not None:
            yield from _recounted(group, recount)
    if suggested is None:
        return
    if set(mine) != {s.name for s in suggested}:
        yield REASONS("suggestion-differs", what=", ".join(sorted(set(mine) ^ {s.name for s in suggested})))
    for said in suggested:
        if said.name in mine:
            yield from _compared(mine[said.name], said)


def check_texts(ds: Dataset, suggested: Sequence[Suggested]) -> Iterator[Reason]:
    """Check that no sentence suggests otherwise than the document."""
    told = [text for said in suggested for text in said.texts]
    for item in tree(ds):
        said = str(item.TextValue) if item.ValueType == "TEXT" else ""
        for found in _SENTENCE.finditer(said):
            if not any(said.startswith(text, found.start()) for text in told):
                yield REASONS("suggestion-differs", what=found.group())


def _evaluations(group: Dataset) -> list[tuple[str, str]]:
    """Return concept and answer of every code that says what is suggested, or what a rule speaks for."""
    return [
        (str(name(i).CodeValue), str(i.ConceptCodeSequence[0].CodeValue))
        for i in children(group, "CODE")
        if str(name(i).CodeValue) in QUESTIONS or str(name(i).CodeValue) in _RULES
    ]


def _compared(group: Dataset, said: Suggested) -> Iterator[Reason]:
    expected = [(codes.concept(said.name).value, codes.answer(said.name, said.answer).value)]
    expected += [(codes.concept(f"rule_{r.rule}").value, codes.speaks(r.speaks).value) for r in said.rules]
    if sorted(_evaluations(group)) != sorted(expected):
        yield REASONS("suggestion-differs", what=said.name)
    items = list(children(group, "NUM"))
    numbers = {_RULES.get(str(name(i).CodeValue), ""): i for i in items}
    given = {r.rule: r for r in said.rules if r.value is not None}
    if set(numbers) != set(given) or len(items) != len(given):
        yield REASONS("number-differs", what=said.name)
    for rule, item in numbers.items():
        if rule in given and not _same(item, given[rule].value, given[rule].unit):
            yield REASONS("number-differs", what=name(item).CodeMeaning)
        limits = list(children(item, "NUM"))
        right = [str(name(i).CodeValue) for i in limits] == [_LIMIT]
        if rule in given and not (right and _same(limits[0], given[rule].limit, given[rule].unit)):
            yield REASONS("number-differs", what=name(item).CodeMeaning)


def _same(item: Dataset, right: float | None, unit: str) -> bool:
    if right is None or not item.get("MeasuredValueSequence") or item.get("NumericValueQualifierCodeSequence"):
        return False
    own = str(item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue)
    return own == unit and abs(value(item) - right) <= SAID_TOLERANCE * max(abs(right), 1e-3)


def _recounted(group: Dataset, recount: Recount) -> Iterator[Reason]:
    """Count again how much lies in the other lung, how much behind, and how many there are."""
    if recount.flat is not None or len(recount.lungs) != 2:
        return
    found = {_RULES[code]: item for code, item in measured(group).items() if code in _RULES}
    each = [recount.segment(n).opaque for n in recount.lungs.values()]
    count = float(len(recount.opacities))
    expected: dict[str, tuple[float, float]] = {
        "opacity": (sum(each) * recount.voxel_mm3 / 1000, max(sum(each), 1.0) * recount.voxel_mm3 * 1e-6),
        "multifocal": (count, 0.0 if count < _MOST_SEGMENTS else float("inf")),
    }
    if sum(each):
        expected["bilateral"] = (100.0 * min(each) / sum(each), PERCENT_TOLERANCE)
        if "posterior" in found:
            low, high = sorted(_posterior(recount, shift) for shift in (-1e-6, 1e-6))
            expected["posterior"] = ((low + high) / 2, (high - low) / 2 + PERCENT_TOLERANCE)
    for rule, (right, tolerance) in expected.items():
        if rule in found and not abs(value(found[rule]) - right) <= tolerance:
            yield REASONS("number-differs", what=name(found[rule]).CodeMeaning)


def _posterior(recount: Recount, shift_mm: float) -> float:
    """Return the share of opacities behind the mean LPS y of the voxels of their lung, in percent."""
    behind, total = 0, 0
    for number in recount.lungs.values():
        lung = recount.frames.of(number)
        sums = np.array([_back(recount, image, runs) for image, runs in lung.items()])
        middle = sums[:, 0].sum() / max(sums[:, 1].sum(), 1.0) + shift_mm
        for image, runs in lung.items():
            marked = [recount.frames.runs[n, image] for n in recount.opacities if (n, image) in recount.frames.runs]
            if marked:
                inside = (union(marked).plane() & runs.plane()) != 0
                at = _plane(recount, image, inside.shape)[inside]
                behind, total = behind + int((at > middle).sum()), total + at.size
    return 100.0 * behind / max(total, 1)


def _plane(recount: Recount, image: ImageKey, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return LPS y of every pixel of a slice."""
    place = recount.raw.slices[image]
    rows = np.arange(shape[0]) * place.orientation[4] * place.spacing[0]
    columns = np.arange(shape[1]) * place.orientation[1] * place.spacing[1]
    back: npt.NDArray[np.float64] = place.position[1] + rows[:, None] + columns
    return back


def _back(recount: Recount, image: ImageKey, runs: Runs) -> tuple[float, float]:
    """Return the sum of LPS y over the pixels of a mask, and how many there are."""
    return float(runs.sums(_plane(recount, image, runs.shape)).sum()), float(runs.voxels)
