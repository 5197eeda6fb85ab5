"""Dense lung at the chest wall, which no threshold finds, put back where the shape of the chest proves it.

The costal surface of a lung is convex around the chest and nearly straight along it. In polar coordinates about the
middle of the chest it is a height map over (angle, z); a dent in that map that lung encloses on both sides and above
and below, and that holds soft tissue rather than bone or air, is lung without air. A dent that is open below may be
diaphragm, one that is open to one side heart: those stay out, and `doubt` says how much they could matter.

References
----------
Pu J et al., Comput Med Imaging Graph 2008;32:452 (dents of the lung border and why convexity mends them).
Sluimer I et al., IEEE Trans Med Imaging 2005;24:1025 (dense disease at the border is what thresholds lose).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from pipeline.chest_ct import morphology
from pipeline.chest_ct.body import IN_PLANE, Bool, bounding_box

Floats = npt.NDArray[np.float32]
_FAR = 1_000_000  # slices; no image is as high


@dataclass(frozen=True, slots=True, eq=False)
class Polar:
    """Rays from the middle of the chest, the same in every slice.

    Parameters
    ----------
    ray, share : ndarray, shape (y, x)
        For each voxel the ray before it, and how far (0 to 1) it lies towards the next.
    radius : ndarray, shape (y, x)
        Distance from the centre, voxels.
    rows, columns : ndarray, shape (rays, steps)
        Voxel under each point of each ray; steps are one voxel.
    within : ndarray of bool, shape (rays, steps)
        Points that lie in the image.
    """

    ray: npt.NDArray[np.int64]
    share: Floats
    radius: Floats
    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    within: Bool

    @classmethod
    def of(cls, label: npt.NDArray[np.uint8], step_deg: float) -> "Polar":
        """Lay rays around the middle of the chest: half-way between the lungs, or at the inner edge of the only one."""
        at = {s: np.argwhere(label == s) for s in (1, 2)}
        some = {s: a for s, a in at.items() if a.size}
        y, x = np.mean([a.mean(axis=0)[1:] for a in some.values()], axis=0)
        if len(some) == 1:
            ((side, only),) = some.items()
            x = np.percentile(only[:, 2], 98 if side == 1 else 2)
        return cls.about((float(y), float(x)), (label.shape[1], label.shape[2]), step_deg)

    @classmethod
    def about(cls, centre: tuple[float, float], shape: tuple[int, int], step_deg: float) -> "Polar":
        """Lay rays `step_deg` degrees apart around `centre` (y, x)."""
        rays = round(360 / step_deg)
        y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
        y, x = y - np.float32(centre[0]), x - np.float32(centre[1])
        turn = (np.arctan2(y, x) / (2 * np.pi) * rays) % rays
        ray = np.floor(turn).astype(np.int64) % rays
        steps = int(np.hypot(*shape)) + 1
        angle = np.arange(rays)[:, None] * (2 * np.pi / rays)
        along = np.arange(steps)[None, :]
        rows = np.rint(centre[0] + np.sin(angle) * along).astype(np.int64)
        columns = np.rint(centre[1] + np.cos(angle) * along).astype(np.int64)
        within = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
        return cls(
            ray, (turn - np.floor(turn)).astype(np.float32), np.hypot(y, x),
            np.clip(rows, 0, shape[0] - 1), np.clip(columns, 0, shape[1] - 1), within,
        )  # fmt: skip

    def reach(self, mask: Bool) -> tuple[Floats, Floats]:
        """Return first and last radius of `mask` on every ray, shape (z, rays); NaN where the ray misses it."""
        hit = mask[:, self.rows, self.columns] & self.within
        some = hit.any(axis=2)
        first = np.where(some, hit.argmax(axis=2), np.nan).astype(np.float32)
        last = np.where(some, hit.shape[2] - 1 - hit[:, :, ::-1].argmax(axis=2), np.nan).astype(np.float32)
        return first, last

    def middle(self, front: float, back: float) -> Bool:
        """Return the voxels (y, x) less than `front` (before the centre) or `back` (behind it) from the midline."""
        angle = (self.ray + self.share) * (2 * np.pi / len(self.rows))
        across = np.abs(self.radius * np.cos(angle))
        near: Bool = across < np.where(np.sin(angle) < 0, front, back)
        return near

    def spread(self, surface: Floats) -> Floats:
        """Return the value of a surface (z, rays) at every voxel, shape (z, y, x); NaN spreads to its neighbours."""
        after = np.roll(surface, -1, axis=1)
        before = surface[:, self.ray]
        out: Floats = before + (after[:, self.ray] - before) * self.share
        return out


def bridge_around(radius: Floats, step_deg: float, span_deg: float, *, outward: bool) -> Floats:
    """Longest (or shortest) chord over each ray between two rays within `span_deg` on either side.

    Parameters
    ----------
    radius : ndarray, shape (z, rays)
        NaN where there is no lung.
    step_deg, span_deg : float
        Degrees between rays; widest chord to either side.
    outward : bool
        Keep the outermost chord; else the innermost.
    """
    reach = round(span_deg / step_deg)
    step = np.deg2rad(step_deg)
    best = np.full(radius.shape, np.nan, np.float32)
    pick = np.fmax if outward else np.fmin
    for a in range(1, reach + 1):
        one = np.roll(radius, a, axis=1)
        for b in range(1, reach + 1):
            other = np.roll(radius, -b, axis=1)
            chord = one * other * np.float32(np.sin((a + b) * step))
            chord /= one * np.float32(np.sin(a * step)) + other * np.float32(np.sin(b * step)) + np.float32(1e-6)
            pick(best, chord, out=best)
    return best


def bridge_along(radius: Floats, reach: int) -> Floats:
    """Return the same along the body, outermost: straight lines between slices at most `reach` above and below."""
    best = np.full(radius.shape, np.nan, np.float32)
    stride = max(1, reach // 12)
    for a in range(stride, reach + 1, stride):
        for b in range(stride, reach + 1, stride):
            if a + b < radius.shape[0]:
                line = (radius[: -a - b] * b + radius[a + b :] * a) / np.float32(a + b)
                np.fmax(best[a : radius.shape[0] - b], line, out=best[a : radius.shape[0] - b])
    return best


def across_gap(radius: Floats, reach: int) -> Floats:
    """Fill gaps along the body that have lung within `reach` slices above and below, straight from one to the other."""
    z = np.arange(radius.shape[0])[:, None]
    known = np.isfinite(radius)
    below = np.maximum.accumulate(np.where(known, z, -1), axis=0)
    above = np.minimum.accumulate(np.where(known, z, radius.shape[0])[::-1], axis=0)[::-1]
    bridged = (below >= 0) & (above < radius.shape[0]) & (z - below <= reach) & (above - z <= reach)
    low, high = np.clip(below, 0, None), np.clip(above, None, radius.shape[0] - 1)
    share = (z - low) / np.maximum(high - low, 1)
    value = np.take_along_axis(radius, low, 0) * (1 - share) + np.take_along_axis(radius, high, 0) * share
    out: Floats = np.where(known, radius, np.where(bridged, value, np.nan)).astype(np.float32)
    return out


def complete(
    aerated: npt.NDArray[np.uint8], hu: torch.Tensor, lumen: Bool, spacing: float, parameters: dict[str, Any]
) -> tuple[npt.NDArray[np.uint8], Bool]:
    """Close each lung over its vessels and dense foci and put dense lung at the chest wall back.

    Parameters
    ----------
    aerated : ndarray of uint8, shape (z, y, x)
        1 right, 2 left: air-holding lung without the large airways.
    hu : Tensor
        Working volume.
    lumen : ndarray of bool
        Trachea and bronchi, which stay out except where lung encloses them.
    spacing : float
        Millimetres a voxel.
    parameters : dict
        Tables ``lung`` and ``surface``.

    Returns
    -------
    label : ndarray of uint8
        1 right, 2 left.
    restored : ndarray of bool
        The part of `label` that only the shape of the chest shows to be lung.
    """
    p, q = parameters["lung"], parameters["surface"]
    soft = morphology.gaussian(hu, q["smooth"] / spacing).cpu().numpy()
    out = np.zeros_like(aerated)
    sides = [s for s in (1, 2) if (aerated == s).any()]
    for side in sides:
        box = bounding_box(aerated == side, round(p["fill_radius"] / spacing) + 1, aerated.shape)
        lung = aerated[box] == side
        closed = lung | (
            morphology.close(lung, p["fill_radius"] / spacing) & (soft[box] < p["fill_bone"]) & ~lumen[box]
        )
        closed = enclosed(closed)
        out[box][closed & (aerated[box] != 3 - side)] = side
    polar = Polar.of(out, q["angle"])
    restored = np.zeros(out.shape, bool)
    for side in sides:
        dent = _dents(out == side, polar, soft, spacing, q) & (out == 0)
        if dent.any():
            box = bounding_box(dent, round(3 * q["join"] / spacing), out.shape)
            joined = morphology.close((out[box] == side) | dent[box], q["join"] / spacing)
            joined &= (out[box] == 0) & (soft[box] < q["dense"][1]) & ~lumen[box]
            joined &= morphology.signed_distance(dent[box]) > -2 * q["join"] / spacing
            out[box][joined] = side
            restored[box] |= joined
    for side in sides:
        inner = bracketed(out == side, round(q["height"] / spacing)) & (out == 0) & ~lumen & (soft < q["dense"][1])
        out[inner] = side
        restored |= _solid(inner, soft, spacing, q)
    return out, restored


def enclosed(mask: Bool) -> Bool:
    """Fill what the mask encloses in space, or in slices of at least two of the three directions.

    A mass that hangs on the hilum by a vessel is enclosed in two; the dome of the diaphragm in one only.
    """
    votes = np.zeros(mask.shape, np.uint8)
    for axis in range(3):
        votes += np.moveaxis(morphology.fill_slices(np.moveaxis(mask, axis, 0)), 0, axis)
    return morphology.fill_holes(votes >= 2) | mask


def bracketed(mask: Bool, reach: int) -> Bool:
    """Return what the mask encloses in axial slices and bounds above and below, at most `reach` slices away.

    The middle of a mass that a lower slice joins to the mediastinum is bounded so; the dome of the diaphragm has no lung
    below, and a great vessel none above. A hole is taken whole or not at all, by its larger part.
    """
    holes = morphology.fill_slices(mask) & ~mask
    if not holes.any():
        return holes
    labels, count = ndimage.label(holes, IN_PLANE)
    z = np.arange(mask.shape[0])[:, None, None]
    below = z - np.maximum.accumulate(np.where(mask, z, -_FAR), axis=0) <= reach
    above = np.minimum.accumulate(np.where(mask, z, _FAR)[::-1], axis=0)[::-1] - z <= reach
    whole, bounded = (np.bincount(labels[m], minlength=count + 1) for m in (holes, holes & below & above))
    taken = 2 * bounded > whole
    taken[0] = False
    out: Bool = taken[labels]
    return out


def _dents(lung: Bool, polar: Polar, soft: Floats, spacing: float, q: dict[str, Any]) -> Bool:
    first, last = polar.reach(lung)
    reach = round(q["height"] / spacing)
    along = bridge_along(last, reach)
    around = bridge_around(last, q["angle"], q["span"], outward=True)
    # lung above and below proves a dent; lung to both sides alone would also prove the heart
    outer = np.where(np.isfinite(along), np.fmax(along, around), np.nan)
    # in front heart may stand for lung, behind the spine: there only shallow dents of lung that is otherwise seen
    turn = np.arange(last.shape[1]) * q["angle"]  # 0 left, 90 back, 180 right, 270 front
    front = np.abs(turn - 270) < q["front"]
    behind = np.abs(turn - 90) < q["back"]
    begin = np.where(np.isfinite(last), last, np.where(front | behind, np.nan, across_gap(first, reach)))
    outer = np.where(front & ~(last > q["front_share"] * outer), np.nan, outer)
    begin, end = np.nan_to_num(begin, nan=1e6), np.nan_to_num(outer, nan=0.0)
    low, high = polar.spread(begin), polar.spread(end)
    dent = (polar.radius > low) & (polar.radius <= high) & (soft > q["dense"][0]) & (soft < q["dense"][1]) & ~lung
    dent &= ~polar.middle(q["front_middle"] / spacing, q["back_middle"] / spacing)
    half = max(1, round(q["dent"] / spacing / 2))
    seed = morphology.opening(torch.from_numpy(dent), (half,) * 3)
    return _solid((morphology.dilate(seed, (half + 1,) * 3)).numpy() & dent, soft, spacing, q)


def _solid(dent: Bool, soft: Floats, spacing: float, q: dict[str, Any]) -> Bool:
    """Keep parts as large, deep and soft as diseased lung: ribs, fat and the heart's border make small or flat dents."""
    labels, sizes = morphology.components(dent)
    kept = np.zeros(dent.shape, bool)
    for n in np.flatnonzero(sizes * spacing**3 / 1000 >= q["least"]):
        box = bounding_box(labels == n, 2, dent.shape)
        part = labels[box] == n
        low, high = q["median"]
        deep = float(morphology.signed_distance(part).max()) * spacing >= q["deep"]
        if deep and low <= float(np.median(soft[box][part])) <= high:
            kept[box] |= part
    return kept
