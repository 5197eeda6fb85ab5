"""What a report says of the lungs as a whole beside volumes: densities and scores, counted again.

The limits stand here once more, on purpose: the pipeline has them from its own table.

References
----------
Classes of density and scores: see the card of the pipeline.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from dicom_io.reason import Reason
from sr_writer.codes import concept
from sr_writer.gate_claim import Site
from sr_writer.gate_count import BOTH, LOWEST_HU, Count, Recount
from sr_writer.gate_numbers import (
    DENSITY_TOLERANCE_HU,
    PERCENT_TOLERANCE,
    VOLUME,
    VOLUME_TOLERANCE,
    measured,
    said_by,
)
from sr_writer.gate_seg import LEFT, LUNG, RIGHT
from sr_writer.gate_tree import name
from sr_writer.reasons import REASONS

_AERATED, _LAA, _PERC15 = (concept(n).value for n in ("aerated_percent", "laa950_percent", "perc15"))
_ZONES = tuple(concept(n).value for n in ("core_zone", "peel_zone"))
_OPACITY_VOLUME = concept("opacity_volume").value
_LOBES = {RIGHT: 3, LEFT: 2}
_NEAR = 1e-6
"""Percent beside a limit of a score at which a share counts to either side."""


def _severity(percent: float) -> int:
    return (percent > 0) + (percent >= 5) + (percent > 25) + (percent >= 50) + (percent > 75)


def _total(percent: float) -> int:
    return (percent > 0) + (percent > 25) + (percent > 50) + (percent > 75)


_SCORES: dict[str, Callable[[float], int]] = {"ct_severity_score": _severity, "total_severity_score": _total}


def check(group: Dataset, recount: Recount, site: Site) -> Iterator[Reason]:
    """Yield the densities and scores of a region of the lungs that do not follow from masks and pixels."""
    items = measured(group)
    given = {code: said.value for code, item in items.items() if (said := said_by(item)) and said.value is not None}
    wrong: list[str] = []
    if {_AERATED, _LAA, _PERC15} & set(given):
        counts = recount.density(site)
        wrong += [] if counts is None else _densities(given, counts)
    if site == (LUNG, BOTH, "") and set(recount.lungs) == set(_LOBES):
        each = {side: recount.segment(number) for side, number in recount.lungs.items()}
        for score, points in _SCORES.items():
            wrong += _ends(given, score, points, each)
    for code in wrong:
        yield REASONS("number-differs", what=name(items[code]).CodeMeaning)


def _densities(given: dict[str, float], counts: npt.NDArray[np.int64]) -> Iterator[str]:
    total = max(int(counts.sum()), 1)

    def share(low: int, high: int) -> float:
        return 100.0 * int(counts[max(low - LOWEST_HU, 0) : high - LOWEST_HU].sum()) / total

    middle = LOWEST_HU + float(np.searchsorted(np.cumsum(counts), 0.15 * total)) + 0.5
    expected = {
        _AERATED: (share(-950, -700), PERCENT_TOLERANCE),
        _LAA: (share(LOWEST_HU, -950), PERCENT_TOLERANCE),
        _PERC15: (middle, DENSITY_TOLERANCE_HU + 0.5),
    }
    for code, (right, tolerance) in expected.items():
        if code in given and not abs(given[code] - right) <= tolerance:
            yield code


def _ends(given: dict[str, float], score: str, points: Callable[[float], int], each: dict[str, Count]) -> Iterator[str]:
    """Yield the least and the most of a score that are not those of any shares and sizes of five lobes.

    The extremes are reached where one lobe is almost the whole lung: with all of the opacity, or with all of the rest.
    """
    percents = {side: 100.0 * c.opaque / max(c.voxels, 1.0) for side, c in each.items()}
    full = points(100.0)
    for word, others in (("least", 0), ("most", full)):
        code = concept(f"{score}_{word}").value
        if code not in given:
            continue
        possible = {0}
        for side, percent in percents.items():
            count = _LOBES[side]
            if percent <= 0 or percent >= 100:
                mine = {count * points(percent)}
            else:
                mine = {(count - 1) * others + points(p) for p in (percent - _NEAR, percent, percent + _NEAR)}
            possible = {a + b for a in possible for b in mine}
        if given[code] not in possible:
            yield code


def check_zones(groups: Mapping[Site, Dataset], recount: Recount) -> Iterator[Reason]:
    """Yield the volumes of core and peel that together are not those of their lung, nor what opacities there are in it."""
    if recount.flat is not None:
        return
    for side, number in recount.lungs.items():
        zones = [groups[site] for code in _ZONES if (site := (LUNG, side, code)) in groups]
        if len(zones) != len(_ZONES):
            continue
        count, mm3 = recount.segment(number), recount.voxel_mm3
        for code, voxels in ((VOLUME, count.voxels), (_OPACITY_VOLUME, count.opaque)):
            said = [said_by(items[code]) if code in (items := measured(zone)) else None for zone in zones]
            values = [s.value * 1000 for s in said if s is not None and s.value is not None and s.unit == "cm3"]
            near = max(VOLUME_TOLERANCE * voxels, 1.0) * mm3
            if len(values) == len(zones) and not abs(sum(values) - voxels * mm3) <= near:
                yield REASONS("number-differs", what=", ".join(concept(n).meaning for n in ("core_zone", "peel_zone")))
