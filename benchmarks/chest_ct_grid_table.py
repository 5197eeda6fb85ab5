"""Rows of the grid: what a failure is, which are silent, and how they add up."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

FACTORS = ("diameter_mm", "hu", "contact", "shape", "noise_hu", "thickness_mm", "kernel")
COLUMNS = (
    "factor", "level", "rows", "median error", "middle half", "median Dice", "inside 20 %", "outside, flagged", "outside, declared",
    "**silent**", "inside, flagged",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One lung with one lesion.

    Parameters
    ----------
    seed, side, diameter_mm, hu, contact, shape, noise_hu, thickness_mm, kernel
        What was asked for.
    truth_cm3 : float
        Volume of the lesion.
    found_cm3 : float or None
        Volume of opacity that the result gives for this lung; None if it gives none.
    dice : float
        Of all opacity in this lung with the lesion.
    kept : float
        Share of the lesion inside lung or opacity masks.
    statuses, images, notes : list of str
        What flags the row: numbers that are not ``ok`` with their reasons (or why the study was refused), alarms about the images, notes
        (see `specific`).
    """

    seed: int
    side: str
    diameter_mm: float
    hu: float
    contact: bool
    shape: str
    noise_hu: float
    thickness_mm: float
    kernel: str
    truth_cm3: float
    found_cm3: float | None
    dice: float
    kept: float
    statuses: list[str]
    images: list[str]
    notes: list[str]

    @property
    def error(self) -> float:
        """(found - truth) / truth; -1 where nothing was given."""
        return (self.found_cm3 or 0.0) / self.truth_cm3 - 1

    @property
    def flags(self) -> list[str]:
        """All that warns."""
        return [*self.statuses, *self.images, *self.notes]

    @property
    def name(self) -> str:
        """What it is, in a line."""
        where = "at the pleura" if self.contact else "inner"
        found = "nothing given" if self.found_cm3 is None else f"{self.found_cm3:.2f}"
        return (
            f"seed {self.seed} {self.side}: {self.diameter_mm:g} mm {self.hu:g} HU {self.shape} {where}; noise {self.noise_hu:g}, {self.thickness_mm:g} mm, "
            f"{self.kernel}: {found} of {self.truth_cm3:.2f} cm3 ({self.error:+.0%}), Dice {self.dice:.2f}, kept {self.kept:.0%}"
        )


def specific(rows: Sequence[Row]) -> list[Row]:
    """Return the rows without the notes that every result has: what is always said tells nothing of this number."""
    analysed = [set(row.notes) for row in rows if row.found_cm3 is not None]
    always = set.intersection(*analysed) if analysed else set()
    return [replace(row, notes=[note for note in row.notes if note not in always]) for row in rows]


def outside(row: Row, judged: dict[str, Any]) -> bool:
    """Whether a row is a failure."""
    return row.found_cm3 is None or abs(row.error) > judged["outside"]


def declared(row: Row, judged: dict[str, Any]) -> bool:
    """Whether an unmarked lesion is one that every result says is not looked for."""
    return not row.flags and row.diameter_mm <= judged["declared_mm"] and row.error < 0


def silent(row: Row, judged: dict[str, Any]) -> bool:
    """Whether a row is a failure that nothing tells."""
    return outside(row, judged) and not row.flags and not declared(row, judged)


def failed(rows: Sequence[Row], judged: dict[str, Any]) -> bool:
    """Whether the requirement is missed: silent failures, or flags on more than 10 % of the good rows."""
    good = [row for row in rows if not outside(row, judged)]
    return any(silent(row, judged) for row in rows) or sum(bool(row.flags) for row in good) > 0.1 * len(good)


def table(rows: Sequence[Row], judged: dict[str, Any]) -> str:
    """Return silent failures, flags of good rows, and the table by factor, as Markdown."""
    quiet = [row for row in rows if silent(row, judged)]
    lines = [f"Silent failures: {len(quiet)}", *(f"* {row.name}" for row in quiet), ""]
    good = [row for row in rows if not outside(row, judged)]
    flagged = [row for row in good if row.flags]
    lines.append(f"Good rows that carry a flag: {len(flagged)} of {len(good)} ({len(flagged) / max(len(good), 1):.0%})")
    reasons = [flag for row in flagged for flag in row.flags]
    lines += [f"* {flag}: {reasons.count(flag)}" for flag in sorted(set(reasons), key=lambda f: -reasons.count(f))]
    lines += ["", f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}", _line("all", "", rows, judged)]
    for factor in FACTORS:
        value: Callable[[Row], Any] = lambda row, factor=factor: getattr(row, factor)  # noqa: E731 - one use, bound to its factor
        lines += [
            _line(factor, f"{level}", [row for row in rows if value(row) == level], judged)
            for level in sorted({value(row) for row in rows})
        ]
    return "\n".join(lines)


def _line(factor: str, level: str, rows: Sequence[Row], judged: dict[str, Any]) -> str:
    errors = sorted(row.error for row in rows)
    half = statistics.quantiles(errors, n=4) if len(errors) > 1 else [errors[0]] * 3
    bad = [row for row in rows if outside(row, judged)]
    cells = (
        factor, level, str(len(rows)), f"{half[1]:+.0%}", f"{half[0]:+.0%} to {half[2]:+.0%}", f"{statistics.median(r.dice for r in rows):.2f}",
        str(len(rows) - len(bad)), str(sum(bool(r.flags) for r in bad)), str(sum(declared(r, judged) for r in bad)),
        f"**{sum(silent(r, judged) for r in bad)}**", str(sum(bool(r.flags) for r in rows if not outside(r, judged))),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"
