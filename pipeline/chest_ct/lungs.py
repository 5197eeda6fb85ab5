"""Left and right lung by threshold, with dense parts at the surface put back (`surface`).

References
----------
Hu S, Hoffman EA, Reinhardt JM. IEEE Trans Med Imaging 2001;20:490 (threshold, airway removal, separation of the lungs
where they touch). Armato SG, Sensakovic WF. Acad Radiol 2004;11:1011 (thresholds and what they lose).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.chest_ct import airway, body, cavity, morphology, surface
from pipeline.chest_ct.body import Bool, Box

RIGHT, LEFT = 1, 2


@dataclass(frozen=True, slots=True, eq=False)
class Lungs:
    """Both lungs on the working grid, cropped.

    Parameters
    ----------
    box : tuple of slice
        Where all arrays stand in the working grid.
    hu : Tensor, float32
        Working volume in the box.
    label : ndarray of uint8
        1 right, 2 left, opacities included.
    aerated : ndarray of uint8
        The part of `label` that the threshold found by itself.
    restored : ndarray of bool
        The part of `label` that only the shape of the chest shows to be lung: dense, at the chest wall.
    airway : Airway
        Trachea and main bronchi in the box.
    guessed : ndarray of bool
        The part of `restored` that lung does not bound on all sides: `cavity`.
    fluid, air : ndarray of uint8
        Space of the right (1) and left (2) pleura that has the density of water or of air; no part of `label`.
    """

    box: Box
    hu: torch.Tensor
    label: npt.NDArray[np.uint8]
    aerated: npt.NDArray[np.uint8]
    restored: Bool
    airway: airway.Airway
    guessed: Bool
    fluid: npt.NDArray[np.uint8]
    air: npt.NDArray[np.uint8]


class NoLungs(Exception):  # noqa: N818 - an outcome that the caller turns into a coded reason
    """No two lungs; `code` names the reason and `values` fill its text."""

    def __init__(self, code: str, **values: object) -> None:
        super().__init__(code)
        self.code = code
        self.values = values


def segment(
    hu: torch.Tensor, padded: torch.Tensor | None, spacing: float, parameters: dict[str, Any], *, only: int = 0
) -> Lungs:
    """Segment both lungs.

    Parameters
    ----------
    hu : Tensor, shape (z, y, x)
        Working volume: z to the head, y to the back, x to the left.
    padded : Tensor of bool or None
        Voxels outside the reconstruction.
    spacing : float
        Millimetres a voxel.
    parameters : dict
        The whole of ``parameters.toml``.
    only : int
        The images show one half of a chest: the right (1) or the left one (2).

    Raises
    ------
    NoLungs
        If the pixels do not show two lungs, or not the one that they should.
    """
    p = parameters["lung"]
    coarse = body.inside(
        body.halve(hu), None if padded is None else body.halve(padded.float()) > 0.5, parameters["body"]
    )
    hollow = coarse & (body.halve(hu).cpu().numpy() < p["aerated"])
    hollow = morphology.keep_large(hollow, round(p["part_least"] * 1000 / (2 * spacing) ** 3))
    if not hollow.any():
        raise NoLungs("no-lungs")
    small = body.bounding_box(hollow, round((p["margin"] + 3) / (2 * spacing)), hollow.shape)
    box = (
        slice(small[0].start * 2, min(small[0].stop * 2, hu.shape[0])),
        slice(small[1].start * 2, min(small[1].stop * 2, hu.shape[1])),
        slice(small[2].start * 2, min(small[2].stop * 2, hu.shape[2])),
    )
    hu = hu[box]
    within = coarse[small].repeat(2, 0).repeat(2, 1).repeat(2, 2)[tuple(slice(n) for n in hu.shape)]
    fine = hu.cpu().numpy()
    smooth = morphology.gaussian(hu, p["smooth"] / spacing).cpu().numpy()
    air = (smooth < p["aerated"]) & within
    if padded is not None:  # blurred with its surroundings, the edge of the reconstruction looks like lung
        air &= ~morphology.dilate(padded[box], (0, 3, 3)).cpu().numpy()
    tubes = airway.find(fine, within, spacing, parameters["airway"])
    wall = max(1, round(parameters["airway"]["wall"] / spacing))
    thick = morphology.dilate(torch.from_numpy(tubes.lumen), (wall,) * 3).numpy()
    aerated = _sides(air & ~thick, fine, spacing, parameters, only)
    near = body.bounding_box(aerated > 0, round(p["margin"] / spacing), aerated.shape)
    box = body.shifted(near, box)
    hu, fine, aerated, thick = hu[near].contiguous(), fine[near], aerated[near], thick[near]
    label, restored = surface.complete(aerated, hu, tubes.lumen[near], spacing, parameters)
    tubes = airway.Airway(tubes.lumen[near], tubes.path - [n.start for n in near])
    guessed, fluid = _recover(label, restored, hu, tubes.lumen, spacing, parameters)
    for side in (RIGHT, LEFT):
        label[morphology.fill_holes(label == side) & (label == 0) & (fluid == 0)] = side
    gas = np.zeros(label.shape, np.uint8)
    q = parameters["cavity"]
    if np.count_nonzero((fine < q["air"]) & (label > 0)) * spacing**3 / 1000 >= q["air_least"]:
        aired = morphology.gaussian(hu, q["air_smooth"] / spacing).cpu().numpy()
        for side in (RIGHT, LEFT):
            gas[cavity.free_air(label == side, aired, spacing, q)] = side
        label[gas > 0] = 0
    return Lungs(box, hu, label, aerated, restored, tubes, guessed, fluid, gas)


def _recover(
    label: npt.NDArray[np.uint8], restored: Bool, hu: torch.Tensor, lumen: Bool, spacing: float,
    parameters: dict[str, Any],
) -> tuple[Bool, npt.NDArray[np.uint8]]:  # fmt: skip
    """Add what the shape of the cavity shows to be lung to `label` and `restored`; return it, and what is fluid."""
    fine = hu.cpu().numpy()
    soft = morphology.gaussian(hu, parameters["surface"]["smooth"] / spacing).cpu().numpy()
    polar = surface.Polar.of(label, parameters["surface"]["angle"])
    fluid, guessed = np.zeros(label.shape, np.uint8), np.zeros(label.shape, bool)
    sides = [s for s in (RIGHT, LEFT) if (label == s).any()]
    q = parameters["cavity"]
    found = [cavity.recover(label, s, restored, fine, soft, lumen, polar, spacing=spacing, p=q) for s in sides]
    for side, one in zip(sides, found, strict=True):
        fluid[one.fluid & (label != 3 - side)] = side
        label[one.fluid & (label == side)] = 0
        restored &= ~one.fluid
        mine = one.lung & (label == 0)
        if mine.any():
            box = body.bounding_box(mine, round(q["around"] / spacing), mine.shape)
            whole = surface.enclosed((label[box] == side) | mine[box]) & (soft[box] < q["dense"][1])
            mine[box] |= whole & (label[box] == 0) & (fluid[box] == 0) & ~lumen[box]
        label[mine] = side
        restored |= mine
        guessed |= mine
    return guessed, fluid


def _sides(
    air: Bool, hu: npt.NDArray[np.float32], spacing: float, parameters: dict[str, Any], only: int
) -> npt.NDArray[np.uint8]:
    """Tell the right lung from the left one and both from bowel gas and loose parts."""
    p, voxel = parameters["lung"], spacing**3 / 1000
    labels, sizes = morphology.components(air)
    count = int(np.count_nonzero(sizes * voxel >= p["part_least"])) + 1
    mean = np.bincount(labels.ravel(), weights=hu.ravel())[:count] / np.maximum(sizes[:count], 1)
    if count > 1 and mean[1] <= p["gas"] and sizes[1] * voxel >= p["lungs_least"]:
        raise NoLungs("lungs-not-tissue", value=f"{mean[1]:.0f}")
    candidates = [n for n in range(1, count) if mean[n] > p["gas"]]
    if not candidates or sizes[candidates[0]] * voxel < p["lung_least"]:
        raise NoLungs("no-lungs")
    out = np.zeros(air.shape, np.uint8)
    if only:
        out[labels == candidates[0]] = only
        _loose([n for n in candidates[1:] if mean[n] > p["part_gas"]], labels, out, spacing, p)
        return out
    pair = next(
        (
            sides
            for n in candidates[1:4]
            if (sides := _pair(labels, (candidates[0], n), spacing, parameters)) is not None
        ),
        None,
    )
    if pair is None:
        used = [candidates[0]]
        _part(labels == candidates[0], out, spacing, parameters)
    else:
        used = list(pair)
        out[labels == pair[0]], out[labels == pair[1]] = RIGHT, LEFT
    _loose([n for n in candidates if n not in used and mean[n] > p["part_gas"]], labels, out, spacing, p)
    return out


def _pair(
    labels: npt.NDArray[Any], two: tuple[int, int], spacing: float, parameters: dict[str, Any]
) -> tuple[int, int] | None:
    """Return (right, left) if two parts look like a pair of lungs: of like size, side by side, at the same height."""
    q, voxel = parameters["split"], spacing**3 / 1000
    at = [np.argwhere(labels == n) for n in two]
    size = [len(a) * voxel for a in at]
    if min(size) < max(q["even"] * max(size), parameters["lung"]["lung_least"]):
        return None
    span = [(a[:, 0].min(), a[:, 0].max()) for a in at]
    overlap = min(s[1] for s in span) - max(s[0] for s in span)
    if overlap < 0.5 * min(s[1] - s[0] for s in span):
        return None
    across = at[0][:, 2].mean() - at[1][:, 2].mean()
    if abs(across) * spacing < q["apart"] or abs(at[0][:, 0].mean() - at[1][:, 0].mean()) > 2 * abs(across):
        return None
    return two if across < 0 else (two[1], two[0])


def _part(fused: Bool, out: npt.NDArray[np.uint8], spacing: float, parameters: dict[str, Any]) -> None:
    """Part lungs that touch (at the anterior or posterior junction) where the bridge is thinnest."""
    depth = morphology.signed_distance(fused) * spacing
    for radius in parameters["split"]["radii"]:
        labels, _ = morphology.components(depth > radius)
        pair = next(
            (
                s
                for n in (2, 3, 4)
                if n <= labels.max() and (s := _pair(labels, (1, n), spacing, parameters)) is not None
            ),
            None,
        )
        if pair is None:
            continue
        grown = [torch.from_numpy(labels == n) for n in pair]
        free = torch.from_numpy(fused) & ~grown[0] & ~grown[1]
        while bool(free.any()):
            new = [morphology.dilate(g, (1, 1, 1)) & free for g in grown]
            new[1] &= ~new[0]
            if not bool((new[0] | new[1]).any()):
                break
            grown = [g | n for g, n in zip(grown, new, strict=True)]
            free &= ~(new[0] | new[1])
        out[grown[0].numpy()], out[grown[1].numpy()] = RIGHT, LEFT
        return
    raise NoLungs("one-lung")


def _loose(
    parts: list[int], labels: npt.NDArray[Any], out: npt.NDArray[np.uint8], spacing: float, p: dict[str, Any]
) -> None:
    """Give parts that dense lung cut off to the lung that surrounds them."""
    if not parts:
        return
    reach = (round(p["part_gap"] / spacing),) * 3
    near = {side: morphology.dilate(torch.from_numpy(out == side), reach).numpy() for side in (RIGHT, LEFT)}
    for n in parts:
        mine = labels == n
        overlap = {side: int(np.count_nonzero(near[side] & mine)) for side in (RIGHT, LEFT)}
        side = max(overlap, key=lambda s: overlap[s])
        if overlap[side] > p["part_share"] * np.count_nonzero(mine):
            out[mine] = side
