"""Where the outline of a lung cannot be trusted, and what that does to its numbers."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.chest_ct.body import Box
from pipeline.chest_ct.lungs import LEFT, RIGHT, Lungs
from pipeline.chest_ct.surface import Polar


@dataclass(frozen=True, slots=True)
class Doubt:
    """About one lung.

    Parameters
    ----------
    lacking : float
        Lung that the other side has at the chest wall and this side has not, as a share of this lung.
    restored : float
        Share of this lung that only the shape of the chest shows to be lung.
    cut : float
        Largest cross-section at an edge of the images, as a share of the largest cross-section along that axis.
    small : bool
        Much smaller than the other lung.
    """

    lacking: float
    restored: float
    cut: float
    small: bool


@dataclass(frozen=True, slots=True)
class Cuts:
    """Cross-section of a lung at the edges of the images, as a share of its largest along that axis."""

    top: float
    bottom: float
    side: float


def cuts(lungs: Lungs, shape: tuple[int, int, int], side: int) -> Cuts:
    """Measure how much of a lung the edges of the images cut; `shape` is that of the whole working grid."""
    mine = lungs.label == side

    def share(axis: int, *, far: bool) -> float:
        box: Box = lungs.box
        if (box[axis].stop < shape[axis]) if far else (box[axis].start > 0):
            return 0.0
        areas = mine.sum(axis=tuple(a for a in range(3) if a != axis))
        return float(areas[-1 if far else 0] / max(areas.max(), 1))

    edges = [share(axis, far=far) for axis in (1, 2) for far in (False, True)]
    return Cuts(share(0, far=True), share(0, far=False), max(edges))


def judge(lungs: Lungs, shape: tuple[int, int, int], parameters: dict[str, Any]) -> dict[int, Doubt]:
    """Return the doubts about each lung."""
    p = parameters["doubt"]
    size = {s: int((lungs.label == s).sum()) for s in (RIGHT, LEFT)}
    lacking = _lacking(lungs, parameters)
    out = {}
    for side, other in ((RIGHT, LEFT), (LEFT, RIGHT)):
        edge = cuts(lungs, shape, side)
        out[side] = Doubt(
            lacking=lacking[side] / max(size[side], 1),
            restored=float((lungs.restored & (lungs.label == side)).sum()) / max(size[side], 1),
            cut=max(edge.top, edge.bottom, edge.side),
            small=size[side] < p["even"] * size[other],
        )
    return out


def _lacking(lungs: Lungs, parameters: dict[str, Any]) -> dict[int, float]:
    """Voxels that the mirrored other lung has, beside and behind, on rays where this lung is missing.

    Right and left differ in front, where the heart stands, and at the base, where the liver lifts the diaphragm by a
    finger's breadth; consolidated, collapsed or drowned lung lacks much more.
    """
    p, step = parameters["doubt"], parameters["surface"]["angle"]
    centre = np.mean([np.argwhere(lungs.label == s).mean(axis=0) for s in (RIGHT, LEFT)], axis=0)
    polar = Polar.about((float(centre[1]), float(centre[2])), (lungs.label.shape[1], lungs.label.shape[2]), step)
    rays = len(polar.rows)
    turn = np.arange(rays) * step  # 0 left, 90 back, 180 right, 270 front
    radius = np.arange(polar.rows.shape[1], dtype=np.float32)
    area = {}
    for side in (RIGHT, LEFT):
        hit = (lungs.label == side)[:, polar.rows, polar.columns] & polar.within
        area[side] = hit @ radius * np.float32(np.deg2rad(step))
    mirror = (rays // 2 - np.arange(rays)) % rays
    left = (turn > 360 - p["front"]) | (turn < 90 - p["back"])
    beside = {LEFT: left, RIGHT: left[mirror]}
    out = {}
    for side, other in ((RIGHT, LEFT), (LEFT, RIGHT)):
        mirrored = area[other][:, mirror]
        missing = np.where(area[side] < p["share"] * mirrored, mirrored - area[side], 0)
        out[side] = float(missing[:, beside[side]].sum())
    return out
