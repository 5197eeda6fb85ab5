"""Control charts: individuals and moving range. Pure.

References
----------
Shewhart's limits for individuals: mean +- 2.66 x mean moving range of two, and 3.267 x mean moving range for the ranges (2.66 =
3 / d2, d2 = 1.128; Wheeler D., Understanding Statistical Process Control; ISO 7870-2). Western Electric, Statistical
Quality Control Handbook (1956), zone tests 1 and 2.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

_LIMIT, _RANGE = 2.66, 3.267


@dataclass(frozen=True, slots=True)
class Control:
    """Limits of one chart, computed from the first `baseline` values.

    Parameters
    ----------
    baseline : int
        How many values they rest on.
    centre, low, high : float
        Of the values.
    range_centre, range_high : float
        Of the moving ranges.
    """

    baseline: int
    centre: float
    low: float
    high: float
    range_centre: float
    range_high: float


def control(values: Sequence[float], baseline: int, least: int) -> Control | None:
    """Return the limits; None with fewer than `least` values, or if the first ones are all the same."""
    first = values[:baseline]
    ranges = moving_ranges(first)
    if len(first) < least or not any(ranges):
        return None
    centre, mean = sum(first) / len(first), sum(ranges) / len(ranges)
    wide = _LIMIT * mean
    return Control(len(first), centre, centre - wide, centre + wide, mean, _RANGE * mean)


def moving_ranges(values: Sequence[float]) -> list[float]:
    """Return how far each value, but the first, is from the one before."""
    return [abs(b - a) for a, b in itertools.pairwise(values)]


def out_of_control(values: Sequence[float], limits: Control) -> dict[int, tuple[int, ...]]:
    """Return the rules that each value breaks, by its index.

    Rule 1: beyond a limit. Rule 2: the second of three successive values that are beyond two thirds of the way from the
    centre to one and the same limit.
    """
    near = (limits.high - limits.centre) * 2 / 3
    found: dict[int, tuple[int, ...]] = {}
    for n, value in enumerate(values):
        rules = []
        if not limits.low <= value <= limits.high:
            rules.append(1)
        for side in (1, -1):
            beyond = [side * (v - limits.centre) > near for v in values[max(0, n - 2) : n + 1]]
            if beyond[-1] and sum(beyond) >= 2:
                rules.append(2)
        if rules:
            found[n] = tuple(rules)
    return found
