"""From measures of a site's images to bounds of its own. Pure; what is learned, and how far it may go, stands in calibrate.toml.

References
----------
AAPM TG-232 (Dave J. et al., Med Phys 2018): action limits of the deviation index from the mean and standard deviation of a
site's own images, +-1 and +-2 SD. Percentiles are Hyndman and Fan's type 7 (Am Stat 1996).
"""

import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import copysign
from statistics import fmean, stdev
from typing import Any

from dicom_io.device import Device
from pipeline.quality.grade import Limit
from pipeline.quality.limits import SiteLimit, moved, shipped


@dataclass(frozen=True, slots=True)
class Image:
    """What was measured on one piece (a series or an image); `study` and `patient` stand for them and say nothing of them.

    `apart` is what, beside its device, it may be told from others by: ``view``, ``kernel``.
    """

    pipeline: str
    device: Device
    apart: Mapping[str, str]
    study: str
    patient: str
    grade: str
    measures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Spread:
    """How one measure is spread over the images of one device; `percentiles` per cent to value."""

    count: int
    patients: int
    mean: float
    deviation: float
    percentiles: Mapping[float, float]


@dataclass(frozen=True, slots=True)
class Bound:
    """What was learned about one row of a table.

    Parameters
    ----------
    row : Limit
        As shipped.
    when : Mapping[str, str]
        Which images it is about.
    bound : float or None
        Where the finding begins for them; None: where it is shipped.
    why : str
        How it came about, or why it is not changed.
    """

    row: Limit
    when: Mapping[str, str]
    bound: float | None
    why: str


@dataclass(frozen=True, slots=True)
class Learned:
    """Everything about one pipeline and device.

    `spreads` by measure, and by the view or kernel where these count apart (`by` of the policy; empty where they do not).
    """

    pipeline: str
    device: Device
    images: int
    studies: int
    patients: int
    left_out: int
    spreads: Mapping[tuple[str, str, str], Spread]
    bounds: tuple[Bound, ...]


@cache
def policy() -> Mapping[str, Any]:
    """Return ``calibrate.toml``."""
    return tomllib.loads(files("node.quality").joinpath("calibrate.toml").read_text(encoding="utf-8"))


def learn(images: Iterable[Image], least: int) -> tuple[Learned, ...]:
    """Learn, device by device; the order of `images` means nothing.

    Parameters
    ----------
    images : Iterable[Image]
        Measured images.
    least : int
        With fewer images of a device, or of a view or kernel where these count apart, nothing is changed.
    """
    groups: dict[tuple[str, Device], list[Image]] = defaultdict(list)
    for image in images:
        groups[image.pipeline, image.device].append(image)
    return tuple(_learned(name, device, groups, least) for name, device in sorted(groups))


def spread(values: Sequence[float], patients: int) -> Spread:
    """Return how `values`, at least one, are spread."""
    ordered = sorted(values)
    at = {p: percentile(ordered, p) for p in policy()["percentiles"]}
    return Spread(len(ordered), patients, fmean(ordered), stdev(ordered) if len(ordered) > 1 else 0.0, at)


def percentile(ordered: Sequence[float], per_cent: float) -> float:
    """Return the value below which so many per cent of the ascending values lie, between neighbours in proportion."""
    place = (len(ordered) - 1) * per_cent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _learned(name: str, device: Device, groups: Mapping[tuple[str, Device], list[Image]], least: int) -> Learned:
    own = groups[name, device]
    good = [image for image in own if image.grade != "D"]
    rules = [rule for rule in policy()["learn"] if rule["pipeline"] == name]
    spreads = _spreads(good, {rule["measure"]: rule["by"] for rule in rules if "by" in rule})
    doubt = _doubt(device, [other for pipeline, other in groups if pipeline == name and other != device])
    bounds: list[Bound] = []
    for rule in rules:
        for (measure, _, value), found in spreads.items():
            if measure == rule["measure"]:
                bounds += _bounds(rule, device, value, found, doubt, least)
    everybody = (len(own), len({i.study for i in own}), len({i.patient for i in own}), len(own) - len(good))
    return Learned(name, device, *everybody, spreads, _sensible(name, bounds))


def _spreads(images: Sequence[Image], by: Mapping[str, str]) -> dict[tuple[str, str, str], Spread]:
    values: dict[tuple[str, str, str], list[tuple[float, str]]] = defaultdict(list)
    for image in images:
        for measure, value in image.measures.items():
            name = by.get(measure, "")
            values[measure, name, image.apart.get(name, "")].append((value, image.patient))
    return {key: spread([v for v, _ in of], len({p for _, p in of})) for key, of in sorted(values.items())}


def _doubt(device: Device, others: Sequence[Device]) -> str:
    """Say why limits of this device could be taken for those of another; empty if they cannot."""
    named = {k: v for k, v in device.as_json().items() if v}
    if not device.manufacturer or not device.model:
        return "the images do not say which device made them"
    if any(named.items() <= other.as_json().items() for other in others):
        return "it cannot be told from other devices of this model: it has no station name"
    return ""


def _bounds(rule: Mapping[str, Any], device: Device, value: str, found: Spread, doubt: str, least: int) -> list[Bound]:
    when = {k: v for k, v in {**device.as_json(), rule.get("by", ""): value}.items() if v}
    patients = int(policy()["least_patients"])
    if "by" in rule and not value:
        doubt = doubt or f"the images do not say their {rule['by']}"
    if found.count < least:
        doubt = doubt or f"too few images: {found.count} of at least {least}"
    if found.patients < patients:
        doubt = doubt or f"too few patients: {found.patients} of at least {patients}"
    rows = [r for r in shipped(rule["pipeline"]) if r.measure == rule["measure"] and r.grade in ("B", "C")]
    return [Bound(row, when, None, doubt) if doubt else _bound(rule, row, when, found) for row in rows]


def _bound(rule: Mapping[str, Any], row: Limit, when: Mapping[str, str], found: Spread) -> Bound:
    side = 1 if row.beyond == "above" else -1
    if rule["method"] == "deviation":
        value = found.mean + side * rule["deviations"] * found.deviation
        how = f"mean {found.mean:.3g} and {rule['deviations']:g} SD of {found.deviation:.3g}"
    else:
        beyond = rule["remark" if row.grade == "B" else "alarm"]
        value = found.percentiles[100 - beyond if side > 0 else beyond]
        how = f"{beyond:g} % of the images are beyond"
    unit = copysign(1.0, row.bound) if rule.get("absolute") else row.bound
    ends = sorted(rule[k] * unit for k in ("least", "most"))
    kept = float(f"{min(max(value, ends[0]), ends[1]):.4g}")
    if kept != float(f"{value:.4g}"):
        how += f"; it would be {value:.4g}, but moves no further"
    return Bound(row, when, kept, how)


def _sensible(name: str, bounds: Sequence[Bound]) -> tuple[Bound, ...]:
    """Take back what does not go together: a remark that would begin beyond its alarm."""
    rows, kept = shipped(name), list(bounds)
    for when in {tuple(sorted(b.when.items())) for b in bounds}:
        for measure in {b.row.measure for b in bounds}:
            own = [n for n, b in enumerate(kept) if b.row.measure == measure and b.bound is not None]
            mine = [n for n in own if tuple(sorted(kept[n].when.items())) == when]
            try:
                moved(rows, [SiteLimit(b.row, b.bound) for b in (kept[n] for n in mine) if b.bound is not None])
            except ValueError as error:
                for n in mine:
                    kept[n] = Bound(kept[n].row, kept[n].when, None, str(error))
    return tuple(kept)
