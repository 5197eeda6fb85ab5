"""Where the outline of a lung cannot be trusted, and what that does to its numbers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.chest_ct.body import Bool, Box
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
    held_off : float
        Dense space between this lung and its ribs, as a share of this lung.
    at_rim : bool
        An opacity reaches the surface of this lung, where the outline may leave part of it out.
    guessed : float
        The part of `restored` whose border is a guess on one side or more.
    fluid, air : float
        Space of the density of water or of air beside this lung, as a share of it.
    """

    lacking: float
    restored: float
    cut: float
    small: bool
    held_off: float = 0.0
    at_rim: bool = False
    guessed: float = 0.0
    fluid: float = 0.0
    air: float = 0.0


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


def judge(lungs: Lungs, shape: tuple[int, int, int], spacing: float, parameters: dict[str, Any]) -> dict[int, Doubt]:
    """Return the doubts about each lung."""
    p = parameters["doubt"]
    size = {s: int((lungs.label == s).sum()) for s in (RIGHT, LEFT)}
    polar = Polar.of(lungs.label, parameters["surface"]["angle"])
    lacking, held_off = _lacking(lungs, polar, parameters), _held_off(lungs, polar, spacing, parameters)
    out = {}
    for side, other in ((RIGHT, LEFT), (LEFT, RIGHT)):
        edge = cuts(lungs, shape, side)
        out[side] = Doubt(
            lacking=lacking[side] / max(size[side], 1),
            restored=float((lungs.restored & (lungs.label == side)).sum()) / max(size[side], 1),
            cut=max(edge.top, edge.bottom, edge.side),
            small=size[side] < p["even"] * size[other],
            held_off=held_off[side] / max(size[side], 1),
            guessed=float((lungs.guessed & (lungs.label == side)).sum()) / max(size[side], 1),
            fluid=float((lungs.fluid == side).sum()) / max(size[side], 1),
            air=float((lungs.air == side).sum()) / max(size[side], 1),
        )
    return out


def _beside(polar: Polar, parameters: dict[str, Any]) -> tuple[npt.NDArray[np.int64], dict[int, Bool]]:
    """Return each ray's mirror, and for each side the rays beside and behind."""
    p, rays = parameters["doubt"], len(polar.rows)
    turn = np.arange(rays) * parameters["surface"]["angle"]  # 0 left, 90 back, 180 right, 270 front
    mirror = (rays // 2 - np.arange(rays)) % rays
    left = (turn > 360 - p["front"]) | (turn < 90 - p["back"])
    return mirror, {LEFT: left, RIGHT: left[mirror]}


def _held_off(lungs: Lungs, polar: Polar, spacing: float, parameters: dict[str, Any]) -> dict[int, float]:
    """Voxels between each lung and its ribs, beside and behind, where something dense holds the two apart.

    Unlike the comparison of sides it sees what is lacking on both.
    """
    p, step = parameters["doubt"], np.deg2rad(parameters["surface"]["angle"])
    bone = (lungs.hu > p["rib"]).cpu().numpy()[:, polar.rows, polar.columns] & polar.within
    radius = np.arange(polar.rows.shape[1])
    _, beside = _beside(polar, parameters)
    slab = round(p["rib_slab"] / spacing)
    out = {}
    for side in (RIGHT, LEFT):
        _, last = polar.reach((lungs.label == side) | (lungs.fluid == side) | (lungs.air == side))
        beyond = bone & (radius > last[..., None] - 2) & (radius < last[..., None] + p["rib_search"] / spacing)
        rib = np.where(beyond.any(axis=2), beyond.argmax(axis=2), np.inf)
        rib = ndimage.minimum_filter(rib, (2 * slab + 1, 3), mode=("nearest", "wrap"))
        gap = np.where(np.isfinite(rib) & np.isfinite(last), rib - last, 0.0)
        wide = gap > p["rib_gap"] / spacing
        filled = np.where(wide, (np.nan_to_num(last) + gap / 2) * (gap - p["rib_gap"] / 2 / spacing) * step, 0.0)
        out[side] = float(filled[:, beside[side]].sum())
    return out


def _lacking(lungs: Lungs, polar: Polar, parameters: dict[str, Any]) -> dict[int, float]:
    """Voxels that the mirrored other lung has, beside and behind, on rays where this lung is missing.

    Right and left differ in front, where the heart stands, and at the base, where the liver lifts the diaphragm by a
    finger's breadth; consolidated, collapsed or drowned lung lacks much more.
    """
    p, step = parameters["doubt"], parameters["surface"]["angle"]
    radius = np.arange(polar.rows.shape[1], dtype=np.float32)
    area = {}
    for side in (RIGHT, LEFT):
        hit = ((lungs.label == side) | (lungs.fluid == side) | (lungs.air == side))[
            :, polar.rows, polar.columns
        ] & polar.within
        area[side] = hit @ radius * np.float32(np.deg2rad(step))
    mirror, beside = _beside(polar, parameters)
    out = {}
    for side, other in ((RIGHT, LEFT), (LEFT, RIGHT)):
        mirrored = area[other][:, mirror]
        missing = np.where(area[side] < p["share"] * mirrored, mirrored - area[side], 0)
        out[side] = float(missing[:, beside[side]].sum())
    return out
