"""A suggestion by rules that anyone can read: a pattern of pneumonia or not, and, where asked for, a category.

Never a diagnosis, and never of an infection: rules see where opacities lie and how dense they are. Each rule is given with
its value, its limit and what it speaks for; where masks or images are doubtful, or no row of ``suggestion.toml`` fits, the
answer is "undetermined".

References
----------
CO-RADS: Prokop 2020 (Radiology); RSNA expert consensus: Simpson 2020 (Radiol Cardiothorac Imaging).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dicom_io.reason import LANGUAGES, Reason
from pipeline.chest_ct.pattern import Values, rules
from pipeline.reasons import REASONS
from pipeline.result import Evidence, Measurement, Speaks, Suggestion

UNDETERMINED = "undetermined"
VIRAL = "suspected-viral-pneumonia"


def suggest(
    values: Values, shares: Sequence[Measurement], grade: str, spoilt: Reason | None, indication: str
) -> tuple[Suggestion, ...]:
    """Return the pattern, and the categories if the indication asks for them.

    Parameters
    ----------
    values : Values
        From `pattern.measure`.
    shares : sequence of Measurement
        The shares of opacities of both lungs and of each: what the masks are worth.
    grade : str
        Of the images.
    spoilt : Reason or None
        The worst finding about the images; given as the reason if the grade is too bad.
    indication : str
        Of ``[pipeline.chest_ct]``.
    """
    held = {row["name"]: _holds(row, values) for row in rules()["rule"]}
    why, whole = _doubt(shares, grade, spoilt), all(m.status == "ok" for m in shares)
    names = ["pneumonia_pattern", *(["co_rads", "rsna_consensus"] if indication == VIRAL else [])]
    found = _answer("pneumonia_pattern", "answer", held, UNDETERMINED, whole=whole)
    out = []
    for name in names:
        answer = found if name == "pneumonia_pattern" else _answer("category", name, held, found, whole=whole)
        answer = UNDETERMINED if why is not None else answer
        reason = why or (REASONS("pattern-fits-no-rule") if answer == UNDETERMINED else None)
        about = "pneumonia" if name == "pneumonia_pattern" else "typical"
        out.append(Suggestion(name, answer, _text(name, answer, reason), _evidence(values, held, about), reason))
    return tuple(out)


def is_news(one: Suggestion) -> bool:
    """Whether the sentence for the radiologist names it: a category that was asked for, or a pattern that is there."""
    return one.name != "pneumonia_pattern" or one.answer == "yes"


def _holds(row: Mapping[str, Any], values: Values) -> bool | None:
    value = values[row["name"]]
    return None if value is None else value >= row["at_least"]


def _doubt(shares: Sequence[Measurement], grade: str, spoilt: Reason | None) -> Reason | None:
    """Return why nothing can be suggested, or None."""
    p = rules()["limits"]
    if grade in p["grades"]:
        return spoilt or REASONS("grade-forbids-suggestion")
    return next(
        (
            m.reason
            for m in shares
            if m.value is None or (m.reason is not None and m.reason.code in p["undetermined_by"])
        ),
        None,
    )


def _answer(table: str, key: str, held: Mapping[str, bool | None], pattern: str, *, whole: bool) -> str:
    """Return `key` of the first row that fits what holds, and the answer about the pattern where the row names one."""
    for row in rules()[table]:
        fits = all(held[n] is True for n in row["holds"]) and all(held[n] is False for n in row["fails"])
        if fits and row.get("pattern", pattern) == pattern and (whole or not row.get("whole", False)):
            return str(row[key])
    return UNDETERMINED


def _evidence(values: Values, held: Mapping[str, bool | None], about: str) -> tuple[Evidence, ...]:
    out = []
    for row in rules()["rule"]:
        name, holds = row["name"], held[row["name"]]
        speaks: Speaks = "unknown" if holds is None else row[about][0 if holds else 1]
        text = {tag: str(row[tag]) for tag in LANGUAGES}
        out.append(Evidence(name, text, values[name], row["unit"], float(row["at_least"]), speaks))
    return tuple(out)


def _text(name: str, answer: str, reason: Reason | None) -> dict[str, str]:
    said, words = rules()["text"], rules()["answer"][name][answer]
    out = {}
    for tag in LANGUAGES:
        parts = [said[name][tag].format(answer=words[tag]), *([] if reason is None else [reason.text[tag]])]
        out[tag] = said["joint"][tag].join(parts)
    return out
