"""Dense tissue that no threshold and no enclosure shows to be lung, judged by the shape of the chest cavity.

Three places, each a height map about the middle of the chest as in `surface`: between lung and ribs, where the patient's
own distance from pleura to rib tells how far lung should reach; at the chest wall beside the diaphragm, where lung lies
in front, behind and towards the middle but not below; and behind at the mediastinum, where a lump stands out that is
shorter than heart and great vessels and thicker than the vessels of a hilum. All of it is a guess as to its border. What has the
density of water and no texture is fluid in the pleura, not lung.

References
----------
Sluimer I et al., IEEE Trans Med Imaging 2005;24:1025 (dense disease at the border is what thresholds lose).
Sofka M et al., MICCAI 2011 (ribs and the other lung as cues where the lung itself gives none).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from pipeline.chest_ct import morphology
from pipeline.chest_ct.body import Bool, bounding_box
from pipeline.chest_ct.surface import Floats, Polar, bridge_around


@dataclass(frozen=True, slots=True, eq=False)
class Recovered:
    """What one lung gets.

    Parameters
    ----------
    lung : ndarray of bool
        Dense tissue taken for lung.
    fluid : ndarray of bool
        Of the density of water.
    """

    lung: Bool
    fluid: Bool


def recover(
    label: npt.NDArray[np.uint8], side: int, restored: Bool, hu: npt.NDArray[np.float32], soft: Floats, lumen: Bool,
    polar: Polar, *, spacing: float, p: dict[str, Any],
) -> Recovered:  # fmt: skip
    """Find dense tissue that belongs to the pleural cavity of one side.

    Parameters
    ----------
    label : ndarray of uint8, shape (z, y, x)
        1 right, 2 left, as far as it is known.
    side : int
        Which of them.
    restored : ndarray of bool
        What of `label` lung at the chest wall shows to be lung; fluid may be among it.
    hu, soft : ndarray of float32
        Working volume; the second without noise.
    lumen : ndarray of bool
        Trachea and bronchi.
    polar : Polar
        Rays about the middle of the chest.
    spacing : float
        Millimetres a voxel.
    p : dict
        Table ``cavity``.
    """
    lung = label == side
    first, last = polar.reach(lung)
    other = polar.reach(label == 3 - side)[1]
    inside = np.zeros(lung.shape, bool)
    free = (label == 0) & ~lumen & (soft > p["dense"][0]) & (soft < p["dense"][1])
    pleura = _at_ribs(hu, last, polar, spacing, p)
    far = np.abs(_turn(polar) - 90) < p["dependent"]
    outer = np.where(far & (pleura - last > p["rib_gap"] / spacing), pleura, np.nan)
    outer = np.fmax(outer, _beside_diaphragm(last, other, polar, spacing, p))
    wall = restored & lung
    if wall.any():  # a chord cuts off what bulges between its ends: what is proven goes on to the pleura
        begin = polar.reach(wall)[1]
        begin[~(begin >= last - 1)] = np.nan
        inside |= _between(begin, np.where(np.isfinite(begin), pleura, np.nan), polar) & free
        inside &= (soft < p["fat"][0]) | (soft > p["fat"][1])
        wall |= inside
    for begin, end, least, ball, at_wall in (
        (last, outer, p["least"], p["ball"], True),
        (_towards_middle(first, polar, spacing, p), first, p["inner_least"], p["inner_ball"], False),
    ):
        found = _between(begin, end, polar) & free
        found &= ~polar.middle(p["front_middle"] / spacing, p["back_middle"] / spacing)
        if found.any():
            box = bounding_box(found, 2, found.shape)
            kept = _lumps(found[box], soft[box], spacing, least, ball, p)
            inside[box] |= kept
            if at_wall:
                wall[box] |= kept
    fluid = _fluid(wall, lung | inside, hu, soft, spacing, p) if wall.any() else wall
    if fluid.any():  # what is mostly fluid is fluid and its blurred border
        labels, sizes = morphology.components(inside | fluid)
        mostly = np.bincount(labels[fluid], minlength=sizes.size) > p["water_share"] * sizes
        mostly[0] = False
        inside &= ~mostly[labels]
    return Recovered(inside & ~fluid, fluid)


def _at_ribs(
    hu: npt.NDArray[np.float32], last: Floats, polar: Polar, spacing: float, p: dict[str, Any]
) -> Floats:  # fmt: skip
    """Return where the pleura lies by the ribs, as far inside them as in most places of this lung; NaN elsewhere.

    Where lung ends short of it, something holds it off: behind, where the recess is deepest, that is no diaphragm.
    """
    bone = (hu > p["rib"])[:, polar.rows, polar.columns] & polar.within
    radius = np.arange(polar.rows.shape[1])
    beyond = bone & (radius > last[..., None] - 2) & (radius < last[..., None] + p["rib_search"] / spacing)
    rib = np.where(beyond.any(axis=2), beyond.argmax(axis=2), np.inf)
    rib = ndimage.minimum_filter(rib, (2 * round(p["rib_slab"] / spacing) + 1, 3), mode=("nearest", "wrap"))
    behind = np.abs(_turn(polar) - 90)
    seen = np.isfinite(rib) & np.isfinite(last) & (behind > p["back"])
    gap = np.where(seen, rib - last, np.nan)
    if not seen.any():
        return np.full(last.shape, np.nan, np.float32)
    usual = min(float(np.nanpercentile(gap, p["rib_usual"])), p["rib_usual_most"] / spacing)
    return np.where(seen, rib - usual, np.nan).astype(np.float32)


def _between(begin: Floats, end: Floats, polar: Polar) -> Bool:
    """Return the voxels between two surfaces, on rays that have both."""
    low = polar.spread(np.nan_to_num(begin, nan=1e6, posinf=1e6))
    high = polar.spread(np.nan_to_num(end, nan=0.0, posinf=0.0))
    out: Bool = (polar.radius > low) & (polar.radius < high)
    return out


def _beside_diaphragm(last: Floats, other: Floats, polar: Polar, spacing: float, p: dict[str, Any]) -> Floats:
    """Return chords over dents that lung bounds in front, behind and towards the middle; NaN elsewhere.

    A dome that the other side has not got at the same height may be lung; one that it has is diaphragm.
    """
    step = 360 / last.shape[1]
    chord = bridge_around(last, step, p["span"], outward=True)
    turn = _turn(polar)
    beside = (np.abs(turn - 90) > p["back"]) & (np.abs(turn - 270) > p["front"])
    deep = np.isfinite(last) & beside & (chord - last > p["dent"] / spacing)
    if np.isfinite(other).any():
        mirror = (last.shape[1] // 2 - np.arange(last.shape[1])) % last.shape[1]
        drop = round(p["finger"] / spacing)
        seen = np.isfinite(other)[:, mirror]
        below = np.zeros(seen.shape, bool)
        below[drop:] = seen[: seen.shape[0] - drop]
        deep &= below & seen
    return np.where(deep, chord, np.nan).astype(np.float32)


def _towards_middle(first: Floats, polar: Polar, spacing: float, p: dict[str, Any]) -> Floats:
    """Return the inner border of the lung without lumps that are short along the body; NaN where there is none.

    A ray without lung counts as mediastinum throughout, so that a heart that rests on the diaphragm is no lump; in front
    it may stand free of it and is left out.
    """
    whole = np.where(np.isfinite(first), first, np.inf)
    border = ndimage.grey_opening(whole, (2 * round(p["lump_height"] / spacing / 2) + 1, 1), mode="nearest")
    lump = np.isfinite(first) & (first - border > p["dent"] / spacing)
    lump &= np.abs(_turn(polar) - 90) < p["lump_behind"]
    return np.where(lump, border, np.nan).astype(np.float32)


def _turn(polar: Polar) -> npt.NDArray[np.float64]:
    """Return the angle of each ray: 0 left, 90 back, 180 right, 270 front."""
    return np.arange(len(polar.rows), dtype=np.float64) * (360 / len(polar.rows))


def _lumps(found: Bool, soft: Floats, spacing: float, least: float, ball: float, p: dict[str, Any]) -> Bool:
    """Keep what is large and thick enough and is no fat."""
    thick = morphology.open_ball(found & ((soft < p["fat"][0]) | (soft > p["fat"][1])), ball / spacing)
    labels, sizes = morphology.components(thick)
    kept = np.zeros(found.shape, bool)
    for n in np.flatnonzero(sizes * spacing**3 / 1000 >= least):
        part = labels == n
        if p["median"][0] <= float(np.median(soft[part])) <= p["median"][1]:
            kept |= part
    if kept.any():  # up to what the ball could not reach, but no farther
        reach = round(p["rough"] / spacing)
        kept |= morphology.dilate(torch.from_numpy(kept), (reach,) * 3).numpy() & found
    return kept


def _fluid(
    wall: Bool, known: Bool, hu: npt.NDArray[np.float32], soft: Floats, spacing: float, p: dict[str, Any]
) -> Bool:
    """Part fluid from dense lung at the chest wall by the mean density of a wide neighbourhood of the same tissue."""
    fluid = np.zeros(wall.shape, bool)
    box = bounding_box(wall, 2, wall.shape)
    mine, near = wall[box], soft[box]
    # neither lung that holds some air nor contrast, and not the blurred border to them
    plain = ndimage.binary_erosion(mine & (near > p["plain"][0]) & (near < p["plain"][1]))
    core, values = torch.from_numpy(plain).float(), torch.from_numpy(np.ascontiguousarray(hu[box]))
    weight = morphology.gaussian(core, p["water_smooth"] / spacing)
    mean = (morphology.gaussian(values * core, p["water_smooth"] / spacing) / weight.clamp(min=1e-4)).numpy()
    low, high = p["water"]
    thick = morphology.open_ball(plain & (mean > low) & (mean < high), p["water_ball"] / spacing)
    labels, sizes = morphology.components(thick)
    thick = np.zeros(mine.shape, bool)
    for n in np.flatnonzero(sizes >= p["water_least"] * 1000 / spacing**3):
        part = labels == n
        skin = morphology.dilate(torch.from_numpy(part), (round(p["rough"] / spacing),) * 3).numpy() & ~part
        # fluid lies between wall and lung, a necrosis within dense lung
        if np.count_nonzero(skin & ~known[box] & (near > p["plain"][0])) >= p["water_wall"] * np.count_nonzero(skin):
            thick |= part
    if thick.any():
        reach = round(p["rough"] / spacing)
        grown = morphology.dilate(torch.from_numpy(thick), (reach,) * 3).numpy()
        fluid[box] = grown & mine & (near > p["plain"][0]) & (mean < high)
    return fluid


def free_air(lung: Bool, aired: Floats, spacing: float, p: dict[str, Any]) -> Bool:
    """Find air without tissue at the outside of a lung: pneumothorax, or a bulla, which looks the same.

    Parameters
    ----------
    lung : ndarray of bool
        One lung.
    aired : ndarray of float32
        Working volume with so little noise that air is told from the lightest lung.
    spacing : float
        Millimetres a voxel.
    p : dict
        Table ``cavity``.
    """
    out = np.zeros(lung.shape, bool)
    empty = lung & (aired < p["air"])
    if np.count_nonzero(empty) * spacing**3 / 1000 < p["air_least"]:
        return out
    box = bounding_box(empty, round(p["air_reach"] / spacing) + 1, empty.shape)
    mine = lung[box]
    labels, sizes = morphology.components(morphology.open_ball(empty[box], p["air_ball"] / spacing))
    reach = (round(p["air_reach"] / spacing),) * 3
    for n in np.flatnonzero(sizes * spacing**3 / 1000 >= p["air_least"]):
        part = labels == n
        grown = morphology.dilate(torch.from_numpy(part), reach).numpy()
        if np.count_nonzero(grown & ~mine) >= p["air_wall"] * np.count_nonzero(grown & ~part):
            core = part | (grown & mine & (aired[box] < p["air_rim"]))
            # what the blur of the wall leaves of it is a shell too thin for a ball
            shell = mine & ~core
            shell &= grown & ~morphology.open_ball(shell, p["air_ball"] / spacing)
            out[box] |= core | shell
    return out
