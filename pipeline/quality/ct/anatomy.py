"""Body and lungs on the coarse grid: enough to say where the images end, not to measure volumes by.

References
----------
Hu S, Hoffman EA, Reinhardt JM. IEEE Trans Med Imaging 2001;20:490 (lungs by threshold inside the body).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.quality.ct.view import Bool, Floats, View

RIGHT, LEFT = 1, 2
_IN_PLANE = np.zeros((3, 3, 3), bool)
_IN_PLANE[1] = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
_FULL = np.zeros((3, 3, 3), bool)
_FULL[1] = True


@dataclass(frozen=True, slots=True, eq=False)
class Chest:
    """What the coarse grid of a `View` shows.

    Parameters
    ----------
    body : ndarray of bool
        Inside the skin, filled; what stands apart (table, arms) is not in it.
    lung : ndarray of uint8
        1 right, 2 left of the middle, air-holding lung only; 0 everywhere if there are no lungs.
    middle : ndarray of float
        Column of the body's middle at each level.
    lungs_cm3 : float
        Volume of `lung`.
    density_hu : float
        Median of lung away from its border; not a number without lungs.
    smooth : ndarray of float32
        The smoothed grid that all of this was found on.
    """

    body: Bool
    lung: npt.NDArray[np.uint8]
    middle: npt.NDArray[np.float64]
    lungs_cm3: float
    density_hu: float
    smooth: Floats

    @property
    def levels(self) -> range:
        """From the lowest to one above the highest level with lung; empty without lungs."""
        hit = np.flatnonzero(self.lung.any(axis=(1, 2)))
        return range(int(hit[0]), int(hit[-1]) + 1) if hit.size else range(0)


def look(view: View, p: dict[str, Any]) -> Chest:
    """Find body and lungs; `p` is the table ``chest`` of ``parameters.toml``."""
    smooth = ndimage.gaussian_filter(view.hu, p["smooth_mm"] / np.array(view.spacing), truncate=2.5)
    body = _body(smooth, view.padded, p)
    middle = _middle(body)
    lung, density = _lungs(smooth, view, body, middle, p)
    volume = float(np.count_nonzero(lung)) * float(np.prod(view.spacing)) / 1000
    return Chest(body, lung, middle, volume, density, smooth)


def _body(smooth: Floats, padded: Bool | None, p: dict[str, Any]) -> Bool:
    """Fill the largest part slice by slice; a border opens it only where it is true air."""
    tissue = smooth > p["tissue"]
    labels, count = ndimage.label(ndimage.binary_erosion(tissue, _IN_PLANE))
    if not count:
        return np.zeros(tissue.shape, bool)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    core = labels == sizes.argmax()
    frame = np.zeros(tissue.shape, bool)
    frame[:, [0, -1], :] = frame[:, :, [0, -1]] = True
    air = _open_air(smooth[frame], p)
    wall = ndimage.binary_dilation(core, _IN_PLANE) & tissue
    outer = np.zeros(tissue.shape, bool) if padded is None else padded
    if padded is not None:
        rim = ndimage.binary_dilation(outer, _IN_PLANE, iterations=2) & ~outer
        densest = ndimage.maximum_filter(np.where(outer, np.float32(-1024), smooth), (1, 3, 3))
        wall |= rim & (densest > air)
        frame |= rim
    wall |= frame & (smooth > air) & ~outer
    open_labels, n = ndimage.label(~wall, _IN_PLANE)
    reached = np.zeros(n + 1, bool)
    reached[np.unique(np.asarray(open_labels)[frame & ~wall])] = True
    reached[0] = False
    filled: Bool = ~reached[open_labels] & ~outer
    # what is open air on its inner side is no body, even where the border itself is a little too dense for air
    inner = ndimage.binary_erosion(filled, _FULL, border_value=1)
    body: Bool = np.asarray(ndimage.binary_dilation(inner, _FULL) & filled, bool)
    return body


def _open_air(border: Floats, p: dict[str, Any]) -> float:
    """Return what is denser than air at the image border, also where CT numbers are wrong by some tens."""
    level = float(np.median(border))
    return max(float(p["open_air"]), level + p["air_margin"]) if level < p["air_level"] else float(p["open_air"])


def _middle(body: Bool) -> npt.NDArray[np.float64]:
    """Return the column half-way between the body's right and left border at each level, even out over levels."""
    across = np.asarray(body.any(axis=1))
    first = across.argmax(axis=1)
    last = across.shape[1] - 1 - across[:, ::-1].argmax(axis=1)
    middle = (first + last) / 2
    middle[~body.any(axis=(1, 2))] = (body.shape[2] - 1) / 2
    even: npt.NDArray[np.float64] = ndimage.median_filter(middle, min(9, len(middle)), mode="nearest")
    return even


def _lungs(
    smooth: Floats, view: View, body: Bool, middle: npt.NDArray[np.float64], p: dict[str, Any]
) -> tuple[npt.NDArray[np.uint8], float]:
    """Return right and left lung, and their density."""
    none = np.zeros(smooth.shape, np.uint8), float("nan")
    hollow = body & (smooth < p["aerated"])
    if view.padded is not None:  # blurred with its surroundings, the edge of the reconstruction looks like lung
        hollow &= ~ndimage.binary_dilation(view.padded, _IN_PLANE)
    hollow &= ~_tubes(hollow, view, middle, p)
    labels, count = ndimage.label(hollow)
    if not count:
        return none
    voxel = float(np.prod(view.spacing)) / 1000
    sizes = np.bincount(labels.ravel()) * voxel
    sizes[0] = 0
    deep: Bool = np.asarray(ndimage.binary_erosion(hollow, border_value=1), bool)
    lung = np.zeros(smooth.shape, bool)
    largest = float(sizes.max())
    for label in np.flatnonzero(sizes >= p["part_least_cm3"]):
        inside = (labels == label) & deep
        density = float(np.median(view.hu[inside])) if inside.any() else -1000.0
        gas = p["gas"] if sizes[label] >= p["large_cm3"] else p["small_gas"]
        if density > gas or (sizes[label] == largest and largest >= p["lungs_least_cm3"]):
            lung |= labels == label
    if np.count_nonzero(lung) * voxel < p["lungs_least_cm3"]:
        return none
    column = np.arange(smooth.shape[2])
    side = np.where(column[None, :] < middle[:, None], RIGHT, LEFT).astype(np.uint8)[:, None, :]
    inner = lung & deep
    density = float(np.median(view.hu[inner if inner.any() else lung]))
    return np.where(lung, side, np.uint8(0)), density


def arms(smooth: Floats, chest: Chest, spacing: tuple[float, float, float], p: dict[str, Any]) -> tuple[float, int]:
    """Return the share of levels in the middle of the lungs with an arm beside the body, and one such level.

    An arm is a part of its own at one side, of an arm's cross-section, with bone in it.
    """
    levels = list(chest.levels)
    levels = levels[int(0.3 * len(levels)) : int(0.7 * len(levels)) + 1]
    seen = []
    for z in levels:
        labels, count = ndimage.label(ndimage.binary_opening(smooth[z] > p["tissue"], iterations=2))
        if count < 2:
            continue
        area = np.bincount(labels.ravel(), minlength=count + 1) * spacing[1] * spacing[2] / 100
        main = int(area[1:].argmax()) + 1
        columns = np.flatnonzero((labels == main).any(axis=0))
        bone = ndimage.maximum(smooth[z], labels, range(count + 1))
        centre = ndimage.center_of_mass(labels > 0, labels, range(1, count + 1))
        for n in range(1, count + 1):
            aside = not columns[0] < centre[n - 1][1] < columns[-1]
            if n != main and aside and p["arm_cm2"][0] < area[n] < p["arm_cm2"][1] and bone[n] > p["arm_bone"]:
                seen.append(z)
                break
    return len(seen) / max(len(levels), 1), seen[len(seen) // 2] if seen else 0


def _tubes(hollow: Bool, view: View, middle: npt.NDArray[np.float64], p: dict[str, Any]) -> Bool:
    """Return cross-sections of windpipe, throat and gullet: small and near the middle."""
    labels, count = ndimage.label(hollow, _IN_PLANE)
    if not count:
        return hollow
    area = np.bincount(labels.ravel(), minlength=count + 1) * view.spacing[1] * view.spacing[2]
    column = np.broadcast_to(np.arange(hollow.shape[2], dtype=np.float64), hollow.shape)
    total = np.bincount(labels.ravel(), weights=column.ravel(), minlength=count + 1)
    centre = total / np.maximum(np.bincount(labels.ravel(), minlength=count + 1), 1)
    level = np.zeros(count + 1, int)
    level[labels.ravel()] = np.broadcast_to(np.arange(hollow.shape[0])[:, None, None], hollow.shape).ravel()
    aside = np.abs(centre - middle[level]) * view.spacing[2]
    tube = (area < p["tube_mm2"]) & (aside < p["tube_aside_mm"])
    tube[0] = False
    found: Bool = tube[labels]
    return found
