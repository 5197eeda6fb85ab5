"""What a trained network is worth on patients it never saw, beside the rules and the baselines.

Every figure of the lesion network comes from the runtime that a hospital runs: series in, masks on its voxels out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dicom_io.model import Series
from pipeline.chest_ct.recipe import statistics
from pipeline.chest_ct.recipe.data import NORMAL
from pipeline.chest_ct.recipe.prepare import Prepared, dice, union
from pipeline.chest_ct.recipe.statistics import Floats, Interval, bootstrap, mean_of, wilson
from pipeline.result import Result

Obstacle = Literal["shortcut", "rules"]
_ALL = "network"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: what (a key of ``[figure]`` in texts.toml), of whom or where, how much."""

    what: str
    group: str
    value: Interval


@dataclass(slots=True)
class Report:
    """All figures, and what stands against giving the network away.

    Parameters
    ----------
    figures : list of Figure
    obstacles : list of str
        ``shortcut``: a baseline is near the network, or could not be compared; ``rules``: it does not beat them.
    patients : int
        Held out.
    rows : list of dict
        One for each series: its UID and what was found.
    """

    figures: list[Figure] = field(default_factory=list)
    obstacles: list[Obstacle] = field(default_factory=list)
    patients: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, what: str, group: str, value: Interval | None) -> Interval | None:
        """Keep a figure, if it could be computed."""
        if value is not None:
            self.figures.append(Figure(what, group, value))
        return value

    def find(self, what: str, group: str) -> Interval | None:
        """Return a figure."""
        return next((f.value for f in self.figures if (f.what, f.group) == (what, group)), None)


@dataclass(frozen=True, slots=True)
class Seen:
    """One series with a label: what the network and others made of it; `dice` of None: nothing to mark, or nothing given."""

    uid: str
    patient: str
    site: str
    truth_cm3: float
    found_cm3: float
    dice: float
    rules: float | None
    density: float | None


def look(run: Callable[[Series], Result], held: Iterable[Prepared], density: Mapping[str, float]) -> list[Seen]:
    """Run the model on every series of known lesions."""
    out = []
    for one in held:
        lesion = one.case.lesion
        if lesion is None:
            continue
        result = run(one.case.series)
        found = union(lesion.shape, (s.mask for s in result.segments))
        out.append(
            Seen(
                one.case.uid, one.case.patient, one.case.site, one.lesion_cm3, found.voxels * one.voxel_cm3,
                dice(found, lesion), one.rules.dice, density.get(one.case.uid),
            )
        )  # fmt: skip
    return out


def of_lesions(seen: Sequence[Seen], settings: Mapping[str, Any]) -> Report:
    """Return the figures of the lesion network."""
    out, rounds = Report(patients=len({s.patient for s in seen})), settings["judge"]["bootstrap"]
    out.rows = [
        {
            "series": s.uid,
            "site": s.site,
            "truth_cm3": s.truth_cm3,
            "found_cm3": s.found_cm3,
            "dice": s.dice,
            "rules_dice": s.rules,
        }
        for s in seen
    ]
    least = settings["lesion"]["least_cm3"]
    ill = [s for s in seen if s.truth_cm3 > 0]

    def mean(what: str, group: str, rows: Sequence[Seen], value: Callable[[Seen], float]) -> Interval | None:
        return out.add(what, group, bootstrap([s.patient for s in rows], mean_of([value(s) for s in rows]), rounds))

    mean("dice", _ALL, ill, lambda s: s.dice)
    mean("volume_error_percent", _ALL, ill, lambda s: 100 * abs(s.found_cm3 - s.truth_cm3) / s.truth_cm3)
    mean("volume_bias_cm3", _ALL, ill, lambda s: s.found_cm3 - s.truth_cm3)
    out.add("lesion_touched", _ALL, _share(ill, lambda s: s.dice > 0))
    out.add("nothing_marked", _ALL, _share([s for s in seen if not s.truth_cm3], lambda s: s.found_cm3 < least))
    for site in sorted({s.site for s in ill}):
        mean("dice", f"site: {site}", [s for s in ill if s.site == site], lambda s: s.dice)
    both = [s for s in ill if s.rules is not None]
    mean("dice", "rules", both, lambda s: s.rules or 0.0)
    better = mean("dice_over_rules", _ALL, both, lambda s: s.dice - (s.rules or 0.0))
    if better is None or not better.low > 0:
        out.obstacles.append("rules")
    dense = [s for s in ill if s.density is not None]
    near = mean("dice", "density alone", dense, lambda s: s.density or 0.0)
    mine = float(np.mean([s.dice for s in dense])) if dense else 0.0
    if near is None or near.value > mine - settings["judge"]["near"]:
        out.obstacles.append("shortcut")
    return out


def _share(rows: Sequence[Seen], true: Callable[[Seen], bool]) -> Interval | None:
    """Return the share of patients all of whose series are so."""
    people: dict[str, bool] = {}
    for row in rows:
        people[row.patient] = people.get(row.patient, True) and true(row)
    return wilson(sum(people.values()), len(people))


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """One series of each patient, and what was said of them; arrays have one row each.

    Parameters
    ----------
    several : Sequence[Prepared]
    kinds : ndarray
        Their classes as numbers.
    before, after : ndarray, (series, classes)
        Probabilities before and after calibration.
    baselines : mapping
        Name to probabilities.
    """

    several: Sequence[Prepared]
    kinds: npt.NDArray[np.int64]
    before: Floats
    after: Floats
    baselines: Mapping[str, Floats]


def one_each(several: Iterable[Prepared]) -> list[Prepared]:
    """Return one series of each patient: the intervals take patients for independent, and series of one are not."""
    out: dict[str, Prepared] = {}
    for one in sorted(several, key=lambda p: p.case.uid):
        out.setdefault(one.case.patient, one)
    return list(out.values())


def of_classes(told: Told, names: Sequence[str], thresholds: Sequence[float], settings: Mapping[str, Any]) -> Report:
    """Return the figures of the classifier."""
    rounds, kinds, found = settings["judge"]["bootstrap"], told.kinds, told.after
    out = Report(patients=len(told.several))
    people = [p.case.patient for p in told.several]
    for p, kind, row in zip(told.several, kinds, found, strict=True):
        said = {name: round(float(v), 4) for name, v in zip(names, row, strict=True)}
        out.rows.append({"series": p.case.uid, "site": p.case.site, "class": names[kind], "said": said})
    for k, name in enumerate(names):
        mine, above = kinds == k, found[:, k] >= thresholds[k]
        out.add("area", name, bootstrap(people, _area_of(found[:, k], mine), rounds))
        out.add("sensitivity", name, wilson(int((above & mine).sum()), int(mine.sum())))
        out.add("specificity", name, wilson(int((~above & ~mine).sum()), int((~mine).sum())))
    best = out.add("mean_area", _ALL, bootstrap(people, _mean_area_of(found, kinds), rounds))
    right = found.argmax(axis=1) == kinds
    for site in sorted({p.case.site for p in told.several}):
        here = np.array([p.case.site == site for p in told.several])
        out.add("accuracy", f"site: {site}", wilson(int((right & here).sum()), int(here.sum())))
    for name, values in (("before", told.before), ("after", told.after)):
        if len(kinds):
            error, score = statistics.calibration_error(values, kinds), statistics.brier(values, kinds)
            out.add("calibration_error", name, Interval(error, float("-inf"), float("inf"), len(kinds)))
            out.add("brier", name, Interval(score, float("-inf"), float("inf"), len(kinds)))
    near = [
        out.add("mean_area", name, bootstrap(people, _mean_area_of(values, kinds), rounds))
        for name, values in told.baselines.items()
    ]
    limit = settings["judge"]["near"]
    if best is None or not near or any(n is None or n.value > best.value - limit for n in near):
        out.obstacles.append("shortcut")
    if not _beats_rules(out, told, names, thresholds, settings):
        out.obstacles.append("rules")
    return out


def _beats_rules(
    out: Report, told: Told, names: Sequence[str], thresholds: Sequence[float], settings: Mapping[str, Any]
) -> bool:
    """Compare with what the rules can say: whether the lungs hold any opacity."""
    if NORMAL not in names:
        return False
    k, least, rounds = names.index(NORMAL), settings["lesion"]["least_cm3"], settings["judge"]["bootstrap"]
    rows = [n for n, p in enumerate(told.several) if not p.rules.reason]
    people = [told.several[n].case.patient for n in rows]
    ill = told.kinds[rows] != k
    mine = told.after[rows, k] < thresholds[k]
    theirs = np.array([told.several[n].rules.opacity_cm3 >= least for n in rows], np.bool_)
    out.add("balanced_accuracy", _ALL, bootstrap(people, _balanced(mine, ill), rounds))
    out.add("balanced_accuracy", "rules", bootstrap(people, _balanced(theirs, ill), rounds))
    one, other = _balanced(mine, ill), _balanced(theirs, ill)

    def difference(drawn: npt.NDArray[np.int64]) -> float | None:
        a, b = one(drawn), other(drawn)
        return None if a is None or b is None else a - b

    better = out.add("balanced_accuracy_over_rules", _ALL, bootstrap(people, difference, rounds))
    return better is not None and better.low > 0


def _balanced(
    said: npt.NDArray[np.bool_], so: npt.NDArray[np.bool_]
) -> Callable[[npt.NDArray[np.int64]], float | None]:
    """Return the mean of sensitivity and specificity, of drawn rows."""

    def value(rows: npt.NDArray[np.int64]) -> float | None:
        yes, true = said[rows], so[rows]
        return None if not true.any() or true.all() else float((yes[true].mean() + (~yes[~true]).mean()) / 2)

    return value


def _area_of(scores: Floats, mine: npt.NDArray[np.bool_]) -> Callable[[npt.NDArray[np.int64]], float | None]:
    return lambda rows: statistics.area(scores[rows], mine[rows])


def _mean_area_of(found: Floats, kinds: npt.NDArray[np.int64]) -> Callable[[npt.NDArray[np.int64]], float | None]:
    return lambda rows: statistics.mean_area(found[rows], kinds[rows])
