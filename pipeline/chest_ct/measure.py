"""Numbers from the masks on the source grid, each with what it is worth.

Every volume is a number of voxels of a mask that the segmentation shows, times the voxel volume; every share is the
quotient of two such numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist

from dicom_io.reason import Reason
from pipeline.chest_ct.doubt import Doubt
from pipeline.chest_ct.lungs import LEFT, RIGHT
from pipeline.reasons import REASONS
from pipeline.result import Measurement, Status

SIDE_NAMES: Mapping[int, str] = {LEFT: "left_lung", RIGHT: "right_lung"}
THIRD_NAMES = ("upper", "middle", "lower")
ZONE_NAMES = ("core", "peel")
_OF_ZONES = frozenset({"lung_volume", "opacity_volume", "opacity_percent"})


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """Sums over one site.

    Parameters
    ----------
    voxels, opaque, ground_glass : int
        Voxels of lung, of opacity, and of opacity below the limit between ground glass and dense.
    hu : float
        Mean density of the lung voxels.
    """

    voxels: int
    opaque: int
    ground_glass: int
    hu: float

    def __add__(self, other: "Counted") -> "Counted":
        voxels = self.voxels + other.voxels
        mean = (self.hu * self.voxels + other.hu * other.voxels) / max(voxels, 1)
        return Counted(voxels, self.opaque + other.opaque, self.ground_glass + other.ground_glass, mean)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What limits the numbers of the whole series; `sides`: why left and right cannot be told apart."""

    slices_missing: bool
    contrast: bool
    no_normal_lung: bool
    sides: Reason | None = None


def count_sites(
    lung: npt.NDArray[np.uint8],
    third: npt.NDArray[np.uint8],
    opacity: npt.NDArray[np.uint16],
    hu: npt.NDArray[np.float32],
    smooth_hu: npt.NDArray[np.float32],
    dense_hu: float,
    peel: npt.NDArray[np.bool_] | None = None,
) -> dict[str, Counted]:
    """Count every site of the contract.

    Parameters
    ----------
    lung : ndarray of uint8
        1 right, 2 left, on (a box of) the source grid; all arrays have its shape.
    third : ndarray of uint8
        0 upper, 1 middle, 2 lower third of the height of that lung.
    opacity : ndarray of uint16
        Not 0 inside an opacity.
    hu, smooth_hu : ndarray of float32
        Density as measured, and without noise: the latter decides the class of a voxel.
    dense_hu : float
        From here on an opaque voxel counts as dense.
    peel : ndarray of bool or None
        Outer zone of the lungs, see `traits.zones`; None: zones are not counted.
    """
    where = np.flatnonzero(lung)
    side, values = lung.ravel()[where], hu.ravel()[where]
    opaque = opacity.ravel()[where] != 0
    glass = opaque & (smooth_hu.ravel()[where] < dense_hu)
    out: dict[str, Counted] = {}
    by_third = _sums((side - 1) * 3 + third.ravel()[where], 6, opaque, glass, values)
    for n, name in SIDE_NAMES.items():
        rows = by_third[(n - 1) * 3 : n * 3]
        out |= {f"{name}_{part}_third": row for part, row in zip(THIRD_NAMES, rows, strict=True)}
        out[name] = rows[0] + rows[1] + rows[2]
    out["lungs"] = out["left_lung"] + out["right_lung"]
    if peel is not None:
        by_zone = _sums((side - 1) * 2 + peel.ravel()[where], 4, opaque, glass, values)
        for n, name in SIDE_NAMES.items():
            rows = by_zone[(n - 1) * 2 : n * 2]
            out |= {f"{name}_{part}": row for part, row in zip(ZONE_NAMES, rows, strict=True) if row.voxels}
    return out


def _sums(
    code: npt.NDArray[Any], count: int, opaque: npt.NDArray[np.bool_], glass: npt.NDArray[np.bool_],
    hu: npt.NDArray[np.float32],
) -> list[Counted]:  # fmt: skip
    """Return the sums over the voxels of each of `count` codes."""
    size, total = np.bincount(code, minlength=count), np.bincount(code, weights=hu, minlength=count)
    parts = [np.bincount(code, weights=w, minlength=count).astype(int) for w in (opaque, glass)]
    return [
        Counted(int(size[n]), int(parts[0][n]), int(parts[1][n]), float(total[n] / max(size[n], 1)))
        for n in range(count)
    ]


def thirds(lung: npt.NDArray[np.uint8], height: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Divide each lung into thirds of equal height; `height` is LPS z of every voxel, broadcastable to `lung`."""
    out = np.zeros(lung.shape, np.uint8)
    height = np.broadcast_to(height, lung.shape)
    for side in SIDE_NAMES:
        mine = lung == side
        values = height[mine]
        if values.size:
            low, high = float(values.min()), float(values.max())
            out[mine] = np.clip((high - values) / max(high - low, 1e-9) * 3, 0, 2).astype(np.uint8)
    return out


def measurements(
    counted: Mapping[str, Counted], doubts: Mapping[int, Doubt], now: Circumstances, voxel_mm3: float, p: dict[str, Any]
) -> tuple[Measurement, ...]:
    """Return every measurement of the contract for every site, each with its status.

    Parameters
    ----------
    counted : mapping
        Site to sums, from `count_sites`.
    doubts : mapping
        Side to doubts.
    now : Circumstances
        What limits the whole series.
    voxel_mm3 : float
        Volume of a source voxel.
    p : dict
        Table ``doubt``.
    """
    out = []
    for site in _ordered(counted):
        row = counted[site]
        sides = [s for s, name in SIDE_NAMES.items() if site == "lungs" or site.startswith(name)]
        zone = site.endswith(ZONE_NAMES)
        part = zone or site.endswith("third")
        mine = [doubts[s] for s in sides]
        volume, share = _volume_worth(mine, now, p, part=part), _share_worth(mine, now, p, part=part)
        cm3 = voxel_mm3 / 1000
        percent = 100.0 / max(row.voxels, 1)
        dense = row.opaque - row.ground_glass
        # an opacity can only be missed, not be smaller, where the outline or the coverage lacks lung
        opaque_worth: Worth = ("lower_bound", share[1]) if share[0] != "ok" and share[1] else volume
        mean_worth = _density_worth(mine, now, p, part=part)
        if now.sides is not None and site != "lungs":
            volume = share = opaque_worth = mean_worth = ("not_computable", now.sides)
        made = [
            _one("lung_volume", site, row.voxels * cm3, "cm3", volume),
            _one("opacity_volume", site, row.opaque * cm3, "cm3", opaque_worth),
            _one("opacity_percent", site, row.opaque * percent, "%", share),
            _one("ground_glass_percent", site, row.ground_glass * percent, "%", share),
            _one("dense_percent", site, dense * percent, "%", share),
            _one("mean_lung_density", site, row.hu, "[hnsf'U]", mean_worth),
        ]
        out += [m for m in made if not zone or m.name in _OF_ZONES]
    return tuple(out)


Worth = tuple[Status, Reason | None]
_OK: Worth = ("ok", None)


def _ordered(counted: Mapping[str, Counted]) -> list[str]:
    names = ["lungs", *SIDE_NAMES.values()]
    names += [f"{n}_{part}_third" for n in SIDE_NAMES.values() for part in THIRD_NAMES]
    names += [f"{n}_{part}" for n in SIDE_NAMES.values() for part in ZONE_NAMES]
    return [n for n in names if n in counted]


def _one(name: str, site: str, value: float, unit: str, worth: Worth) -> Measurement:
    status, reason = worth
    return Measurement(name, site, None if status == "not_computable" else float(value), unit, status, reason)


def finding_worth(now: Circumstances, *, at_rim: bool) -> Worth:
    """Return what the volume and the length of one opacity are worth."""
    return _first(
        [
            (at_rim, "lower_bound", "opacity-at-surface"),
            (now.slices_missing, "lower_bound", "volume-between-slices-missing"),
        ]
    )


def _volume_worth(doubts: list[Doubt], now: Circumstances, p: dict[str, Any], *, part: bool) -> Worth:
    rows: list[tuple[bool, Status, str]] = [
        (part and any(d.cut > p["cut_more"] for d in doubts), "not_computable", "lung-cut-off"),
        (any(d.cut > p["cut_some"] for d in doubts), "lower_bound", "lung-cut-off"),
        (now.slices_missing, "lower_bound", "volume-between-slices-missing"),
        (_doubtful(doubts, p), "lower_bound", "lung-mask-doubtful"),
        (any(d.small for d in doubts), "lower_bound", "lungs-uneven"),
        (any(d.air > p["air_some"] for d in doubts), "lower_bound", "air-beside-lung"),
        (any(d.guessed > p["guessed_some"] for d in doubts), "lower_bound", "lung-border-guessed"),
    ]
    return _first(rows)


def _share_worth(doubts: list[Doubt], now: Circumstances, p: dict[str, Any], *, part: bool) -> Worth:
    rows: list[tuple[bool, Status, str]] = [
        (_cut(doubts, p, part=part), "not_computable", "lung-cut-off"),
        (_doubtful(doubts, p), "not_computable", "lung-mask-doubtful"),
        (any(d.small for d in doubts), "not_computable", "lungs-uneven"),
        (now.slices_missing, "not_computable", "volume-between-slices-missing"),
        (now.no_normal_lung, "lower_bound", "no-normal-lung"),
        (any(d.restored > p["restored_some"] for d in doubts), "lower_bound", "dense-lung-at-wall"),
        (any(d.fluid > p["fluid_some"] for d in doubts), "lower_bound", "fluid-beside-lung"),
        (any(d.at_rim for d in doubts), "lower_bound", "opacity-at-surface"),
    ]
    return _first(rows)


def _density_worth(doubts: list[Doubt], now: Circumstances, p: dict[str, Any], *, part: bool) -> Worth:
    rows: list[tuple[bool, Status, str]] = [
        (now.contrast, "not_computable", "contrast-changes-density"),
        (_cut(doubts, p, part=part), "not_computable", "lung-cut-off"),
        (_doubtful(doubts, p), "not_computable", "lung-mask-doubtful"),
    ]
    return _first(rows)


def _first(rows: list[tuple[bool, Status, str]]) -> Worth:
    """Return what the first row that holds says."""
    return next(((status, REASONS(code)) for holds, status, code in rows if holds), _OK)


def _doubtful(doubts: list[Doubt], p: dict[str, Any]) -> bool:
    return any(
        d.lacking > p["lacking_most"] or d.held_off > p["held_off_most"] or d.restored > p["restored_most"]
        for d in doubts
    )


def _cut(doubts: list[Doubt], p: dict[str, Any], *, part: bool) -> bool:
    return any(d.cut > p["cut_more"] or (part and d.cut > p["cut_some"]) for d in doubts)


def long_axis_mm(points: npt.NDArray[np.float64], slab_mm: float, pixel_mm: float) -> float:
    """Return the longest distance within one axial slab.

    Parameters
    ----------
    points : ndarray, shape (n, 3)
        LPS millimetres of voxel centres.
    slab_mm : float
        Height of a slab: the distance between slices, or the largest voxel edge of other planes.
    pixel_mm : float
        Added once, because the outermost voxels reach half a pixel beyond their centres.
    """
    level = np.floor((points[:, 2] - points[:, 2].min()) / slab_mm + 0.5).astype(int)
    longest = 0.0
    for k in np.unique(level):
        flat = points[level == k, :2]
        if len(flat) > 3:
            try:
                flat = flat[ConvexHull(flat).vertices]
            except QhullError:  # all on one line
                flat = np.stack([flat[np.lexsort(flat.T)][0], flat[np.lexsort(flat.T)][-1]])
        if len(flat) > 1:
            longest = max(longest, float(pdist(flat).max()))
    return longest + pixel_mm
