"""Opacities: lung denser than air-holding lung, without vessels, walls and partial-volume rims.

A grey opening removes bright structures thinner than some 7 mm; what stays marks opacities but not their border. The
border is put half-way between the density inside the opacity and that of the lung around it, both read locally, so
that ground glass and consolidation are measured alike: with a fixed threshold the volume of a dense lesion would grow
with the blur of the images.

References
----------
Kauczor HU et al., AJR 2000;175:1387 (density classes). Half-maximum: Kostis WJ et al., IEEE Trans Med Imaging
2003;22:1259. White top-hat: Serra J, Image Analysis and Mathematical Morphology, 1982.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.chest_ct import morphology
from pipeline.chest_ct.body import Bool
from pipeline.chest_ct.lungs import Lungs

FAR = 200.0
"""HU; `Opacities.level` is cut off here, and is minus this where no opacity is near."""


@dataclass(frozen=True, slots=True, eq=False)
class Opacities:
    """Where lung is too dense, on the cropped working grid.

    Parameters
    ----------
    level : Tensor, float32
        HU above the local border; positive inside an opacity.
    sharp : Tensor, float32
        Working volume without noise, HU.
    rim : ndarray of bool
        Lung at the chest wall, mediastinum or diaphragm or at the edge of the images: an opacity there may go on beyond
        the outline of the lung.
    normal_hu : float
        Most frequent density of air-holding lung in this patient.
    spread_hu : float
        Its spread to the airy side (one standard deviation), which no disease widens.
    """

    level: torch.Tensor
    sharp: torch.Tensor
    rim: Bool
    normal_hu: float
    spread_hu: float


def find(lungs: Lungs, spacing: float, slice_mm: tuple[float, float, float], p: dict[str, Any]) -> Opacities:
    """Find opacities.

    Parameters
    ----------
    lungs : Lungs
        Both lungs on the working grid.
    spacing : float
        Millimetres a voxel.
    slice_mm : tuple[float, float, float]
        Source spacing along the working axes: partial-volume rims are as thick as a slice.
    p : dict
        Table ``opacity``.
    """
    hu = lungs.hu
    inside = torch.from_numpy(lungs.label > 0).to(hu.device)
    soft = morphology.gaussian(hu, p["smooth"] / spacing)
    normal, spread = _normal(soft[torch.from_numpy(lungs.aerated > 0).to(hu.device)])
    limit = max(p["lower"], normal + p["above_normal"])
    blur = sorted(slice_mm)[1]  # whatever the plane: a thick slice blurs across it, and vessels stay thin within it
    radius = [max(round(p["radius"] / spacing), round(p["radius_voxels"] * s / spacing)) for s in slice_mm]
    opened = morphology.opening(torch.where(inside, soft, normal), radius)
    restored = torch.from_numpy(lungs.restored).to(hu.device) & (soft > limit)
    core = ((opened > limit) & inside) | restored
    depth = round(p["plateau_depth"] / spacing)
    deep = morphology.erode(core, (depth,) * 3)
    # an opacity too small to have a deep part is read wherever its core is
    deep |= core & ~morphology.dilate(deep, (2 * depth + 1,) * 3)
    sharp = morphology.gaussian(hu, p["sharp"] / spacing)
    plateau = _spread(soft, deep, p["plateau_sigma"] / spacing, normal)
    around = inside & (soft < limit) & ~morphology.dilate(core, (2, 2, 2))
    parenchyma = _spread(soft, around, p["around_sigma"] / spacing, normal)
    border = (plateau + parenchyma) / 2
    # one voxel beyond the lung, so that interpolation keeps an opacity up to the lung's surface
    zone = morphology.dilate(core, (round(p["reach"] / spacing),) * 3) & morphology.dilate(inside, (1, 1, 1))
    level = torch.where(zone, (sharp - border).clamp(-FAR, FAR), torch.full_like(sharp, -FAR))
    # a ball fits into an opacity but not into a vessel: what no ball reaches, and vessels that hang on, goes
    ball = max(p["ball"] + p["ball_blur"] * max(0.0, blur - 1.0), p["ball_pixels"] * blur) / spacing
    body = morphology.open_ball(((soft > border) & zone & inside).cpu().numpy(), ball)
    at_wall = lungs.restored & (level > 0).cpu().numpy()
    body |= morphology.keep_large(body | at_wall, round(p["wall_least"] * 1000 / spacing**3)) & at_wall
    body = _without_hilum(body, soft.cpu().numpy(), lungs, spacing, p)
    level[torch.from_numpy(morphology.signed_distance(body) < -p["rough"] / spacing).to(hu.device)] = -FAR
    opaque = (level > 0).cpu().numpy()
    holes = (morphology.fill_slices(opaque) | morphology.fill_holes(opaque)) & ~opaque
    # what an opacity encloses is part of it if it is no cavity, bronchus or spared lung
    level[torch.from_numpy(holes).to(hu.device) & inside & (soft > limit)] = 1.0
    return Opacities(level, sharp, _rim(lungs, spacing, p), normal, spread)


def _rim(lungs: Lungs, spacing: float, p: dict[str, Any]) -> Bool:
    known = np.pad((lungs.label > 0) | lungs.airway.lumen, 1)
    depth = morphology.signed_distance(known)[1:-1, 1:-1, 1:-1] * spacing
    rim: Bool = ((depth < p["rim"]) | lungs.restored) & (lungs.label > 0)
    return rim


def _without_hilum(body: Bool, soft: npt.NDArray[np.float32], lungs: Lungs, spacing: float, p: dict[str, Any]) -> Bool:
    """Drop small dense parts beside the large airways: there the pulmonary arteries are as thick as a finger."""
    if not lungs.airway.lumen.any():
        return body
    labels, sizes = morphology.components(body)
    far = -morphology.signed_distance(lungs.airway.lumen) * spacing
    kept = body.copy()
    for n in np.flatnonzero(sizes * spacing**3 / 1000 < p["hilum_most"])[1:]:
        part = labels == n
        if far[part].min() < p["hilum_gap"] and np.median(soft[part]) > p["dense"]:
            kept[part] = False
    return kept


def _normal(values: torch.Tensor) -> tuple[float, float]:
    """Return airiest mode and airy-side spread of the density of air-holding lung."""
    counts = torch.histc(values, bins=120, min=-1000.0, max=-400.0).double().cpu().numpy()
    counts = np.convolve(counts, np.hanning(9) / np.hanning(9).sum(), mode="same")
    centres = np.arange(-997.5, -400, 5.0)
    # of several modes the airiest: ground glass that fills one lung may outweigh the healthy other
    top = (counts >= np.roll(counts, 1)) & (counts >= np.roll(counts, -1)) & (counts > 0.25 * counts.max())
    mode = float(centres[int(np.flatnonzero(top)[0])])
    below = counts * (centres <= mode)
    spread = float(np.sqrt((below * (centres - mode) ** 2).sum() / max(below.sum(), 1.0)))
    return mode, spread


def _spread(value: torch.Tensor, where: torch.Tensor, sigma: float, default: float) -> torch.Tensor:
    """Carry values smoothly to places where there are none (normalised convolution)."""
    weight = where.to(value.dtype)
    total = morphology.gaussian(weight, sigma)
    carried = morphology.gaussian(value * weight, sigma)
    return torch.where(total > 1e-4, carried / total.clamp(min=1e-4), torch.full_like(value, default))


def at_rim(found: npt.NDArray[np.uint16], rim: Bool, voxel_mm3: float, p: dict[str, Any]) -> frozenset[int]:
    """Return the numbers of the opacities that lie on the rim of the lung with more than a touch.

    Parameters
    ----------
    found : ndarray of uint16
        From `label`.
    rim : ndarray of bool
        `Opacities.rim` at the source voxels.
    voxel_mm3 : float
        Volume of a source voxel.
    p : dict
        Table ``opacity``.
    """
    area = np.bincount(found[rim & (found > 0)]) * voxel_mm3 / p["rim"]
    return frozenset(int(n) for n in np.flatnonzero(area >= p["rim_area"]))


def label(
    level: npt.NDArray[np.float32], lung: npt.NDArray[np.uint8], voxel_mm3: float, p: dict[str, Any]
) -> npt.NDArray[np.uint16]:
    """Count the opacities on the source grid by decreasing volume, none across two lungs.

    Parameters
    ----------
    level : ndarray
        `Opacities.level` at the source voxels.
    lung : ndarray of uint8
        1 right, 2 left, same shape.
    voxel_mm3 : float
        Volume of a source voxel.
    p : dict
        Table ``opacity``.
    """
    least = max(p["least_voxels"], round(p["least"] * 1000 / voxel_mm3))
    found = np.zeros(level.shape, np.uint16)
    sizes: list[tuple[int, int, int]] = []
    parts = {}
    for side in (1, 2):
        parts[side], counts = morphology.components((level > 0) & (lung == side))
        sizes += [(int(n), side, k) for k, n in enumerate(counts) if k and n >= least]
    for number, (_, side, k) in enumerate(sorted(sizes, key=lambda s: (-s[0], s[1:])), 1):
        found[parts[side] == k] = number
    return found
