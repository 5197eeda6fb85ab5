"""Intervals and areas: Wilson's, the bootstrap over patients, the area under the ROC curve, calibration.

References
----------
Wilson EB. J Am Stat Assoc 1927;22:209. Hanley JA, McNeil BJ. Radiology 1982;143:29. Naeini MP et al. AAAI 2015 (ECE) (U).
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Floats = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """A value, its interval of 95 %, and on how many it rests."""

    value: float
    low: float
    high: float
    of: int

    def shown(self, digits: int = 2) -> str:
        """Return it as text."""
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f}; n = {self.of})"


def wilson(yes: int, of: int) -> Interval | None:
    """Return a share with Wilson's interval; None of nothing."""
    if not of:
        return None
    z, p = 1.96, yes / of
    middle, half = p + z * z / (2 * of), z * sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    scale = 1 + z * z / of
    return Interval(p, max((middle - half) / scale, 0.0), min((middle + half) / scale, 1.0), of)


def bootstrap(
    patients: Sequence[str], value: Callable[[npt.NDArray[np.int64]], float | None], rounds: int
) -> Interval | None:
    """Return a value with the interval that a bootstrap over patients gives.

    Parameters
    ----------
    patients : Sequence[str]
        Whose each row is: all rows of a patient are drawn together.
    value : callable
        Of the numbers of the rows that were drawn; None if they do not suffice.
    rounds : int
        Draws; of a fixed seed.

    Returns
    -------
    Interval or None
        With the number of patients; None if the rows as they are do not suffice. With fewer than two patients, or where hardly
        any draw suffices, the interval is as wide as numbers are: nothing is known of other patients.
    """
    rows: dict[str, list[int]] = defaultdict(list)
    for n, patient in enumerate(patients):
        rows[patient].append(n)
    whole = value(np.arange(len(patients)))
    if whole is None:
        return None
    groups = [np.array(r) for r in rows.values()]
    rng = np.random.default_rng(0)
    found = []
    for _ in range(rounds if len(groups) > 1 else 0):
        one = value(np.concatenate([groups[k] for k in rng.integers(0, len(groups), len(groups))]))
        if one is not None:
            found.append(one)
    if len(found) < rounds / 2 or not found:
        return Interval(whole, float("-inf"), float("inf"), len(groups))
    low, high = np.percentile(found, [2.5, 97.5])
    return Interval(whole, float(low), float(high), len(groups))


def mean_of(values: Sequence[float]) -> Callable[[npt.NDArray[np.int64]], float | None]:
    """Return what `bootstrap` takes for a mean."""
    array = np.asarray(values, np.float64)
    return lambda rows: float(array[rows].mean()) if len(rows) else None


def area(scores: Floats, positive: npt.NDArray[np.bool_]) -> float | None:
    """Return the area under the ROC curve (Mann-Whitney, ties count half); None unless there are both kinds."""
    count = int(positive.sum())
    others = len(positive) - count
    if not count or not others:
        return None
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * others))


def mean_area(found: Floats, kinds: npt.NDArray[Any]) -> float | None:
    """Return the mean over classes of the area of each class against the rest; None if a class is lacking."""
    areas = [area(found[:, k], kinds == k) for k in range(found.shape[1])]
    return None if any(a is None for a in areas) else float(np.mean([a for a in areas if a is not None]))


def calibration_error(found: Floats, kinds: npt.NDArray[Any], bins: int = 10) -> float:
    """Return the expected calibration error of the most probable class: mean distance of what is said from what is so."""
    top, right = found.max(axis=1), found.argmax(axis=1) == kinds
    place = np.minimum((top * bins).astype(int), bins - 1)
    gaps = [
        abs(float(top[place == b].mean() - right[place == b].mean())) * (place == b).mean() for b in set(place.tolist())
    ]
    return float(sum(gaps))


def brier(found: Floats, kinds: npt.NDArray[Any]) -> float:
    """Return the Brier score over all classes."""
    truth = np.eye(found.shape[1])[kinds]
    return float(((found - truth) ** 2).sum(axis=1).mean())
