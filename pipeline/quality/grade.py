"""From what was measured to a grade: every measure against a table of limits.

A table is a list of rows::

    [[finding]]
    measure = "noise_hu"     # name of the measure
    above = 40.0             # or below: where the finding begins
    upto = 90.0              # optional: where another row takes over (of `below`: downto)
    code = "noise-high"      # texts in ../reasons.toml
    unit = "[hnsf'U]"        # UCUM; empty: nothing that a person wants to read as a number
    grade = "B"              # best grade that images with it can have
    about = "noise"          # optional: of several findings about one thing the worst is told, the last row of equal ones

A row without `above` and `below` is a finding wherever the measure is there and not 0.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import inf
from typing import Any, Literal, cast

from dicom_io.reason import Reason
from pipeline.reasons import REASONS
from pipeline.result import Grade, Measure, Place, Quality, QualityFinding


@dataclass(frozen=True, slots=True)
class Measured:
    """One measure of the images.

    Parameters
    ----------
    value : float
        In `unit`.
    unit : str
        UCUM; empty for a yes (1) or no (0).
    place : Place or None
        Where it is seen.
    uids : tuple[str, ...]
        What exactly it is about; empty: the whole subject.
    words : Mapping[str, object]
        More values for the texts of its findings.
    """

    value: float
    unit: str = ""
    place: Place | None = None
    uids: tuple[str, ...] = ()
    words: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Limit:
    """One row of a table: the finding `code` begins beyond `bound` on the side `beyond`, and ends at `until`."""

    measure: str
    code: str
    unit: str
    grade: Grade
    beyond: Literal["above", "below"]
    bound: float
    until: float
    about: str = ""

    def passed(self, value: float) -> bool:
        """Whether `value` is beyond the limit, and not so far that another row speaks."""
        if self.beyond == "above":
            return self.bound < value <= self.until
        return self.until <= value < self.bound


@cache
def table(package: str, name: str) -> tuple[Limit, ...]:
    """Return the rows of the file `name` of `package`."""
    rows = tomllib.loads(files(package).joinpath(name).read_text(encoding="utf-8"))["finding"]
    return tuple(map(_limit, rows))


def _limit(row: Mapping[str, Any]) -> Limit:
    beyond: Literal["above", "below"] = "below" if "below" in row else "above"
    until = float(row.get("upto", inf)) if beyond == "above" else float(row.get("downto", -inf))
    return Limit(
        row["measure"], row["code"], row["unit"], cast("Grade", row["grade"]), beyond, float(row.get(beyond, 0.0)), until,
        row.get("about", ""),
    )  # fmt: skip


def grade(
    measures: Mapping[str, Measured],
    limits: Sequence[Limit],
    scope: Literal["series", "instance"],
    uid: str,
    not_evaluated: Iterable[Reason] = (),
) -> Quality:
    """Compare what was measured with the limits.

    Parameters
    ----------
    measures : Mapping[str, Measured]
        By name; one that could not be measured is not there.
    limits : Sequence[Limit]
        The table.
    scope, uid
        What is graded.
    not_evaluated : Iterable[Reason]
        What could not be judged.
    """
    passed = _once([limit for limit in limits if _beyond(limit, measures)])
    found = sorted(
        (_finding(limit, measures[limit.measure], scope, uid) for limit in passed),
        key=lambda f: f.grade,
        reverse=True,
    )
    worst: Grade = found[0].grade if found else "A"
    kept = {name: Measure(round(m.value, 4), m.unit) for name, m in measures.items()}
    return Quality(worst, tuple(found), tuple(not_evaluated), kept)


def _beyond(limit: Limit, measures: Mapping[str, Measured]) -> bool:
    measured = measures.get(limit.measure)
    return measured is not None and limit.passed(measured.value)


def _once(passed: Sequence[Limit]) -> list[Limit]:
    """Leave out what a worse, or at the same grade a later, row about the same thing says."""
    told: dict[str, Limit] = {}
    for limit in passed:
        if limit.about and (limit.about not in told or limit.grade >= told[limit.about].grade):
            told[limit.about] = limit
    return [limit for limit in passed if not limit.about or told[limit.about] is limit]


def _finding(limit: Limit, m: Measured, scope: Literal["series", "instance"], uid: str) -> QualityFinding:
    words = {"value": _shown(m.value), "limit": f"{limit.bound:g}", **(m.words or {})}
    unit = limit.unit or None
    return QualityFinding(
        REASONS(limit.code, **words), "instance" if m.uids else scope, m.uids or (uid,),
        round(m.value, 3), unit, limit.bound, limit.grade, m.place,
    )  # fmt: skip


def _shown(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
