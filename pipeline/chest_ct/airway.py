"""Trachea and main bronchi: found from their cross-sections, grown without leaking into the lungs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.chest_ct import morphology
from pipeline.chest_ct.body import IN_PLANE, Bool


@dataclass(frozen=True, slots=True, eq=False)
class Airway:
    """The large airways on the working grid.

    Parameters
    ----------
    lumen : ndarray of bool
        Trachea and bronchi; the trachea alone if the bronchi could not be told from lung.
    path : ndarray, shape (n, 3)
        Centre [z, y, x] of the trachea in each slice, from the head down; empty if no trachea was found.
    """

    lumen: Bool
    path: npt.NDArray[np.float64]


def find(hu: npt.NDArray[np.float32], within: Bool, spacing: float, parameters: dict[str, Any]) -> Airway:
    """Find the trachea as the longest chain of round air cross-sections near the midline, then grow it.

    Parameters
    ----------
    hu : ndarray, shape (z, y, x)
        Working volume.
    within : ndarray of bool
        The body, filled.
    spacing : float
        Millimetres a voxel.
    parameters : dict
        Table ``airway``.
    """
    lumen = (hu < parameters["lumen"]) & within
    labels, count = ndimage.label(lumen, IN_PLANE)
    nothing = Airway(np.zeros(hu.shape, bool), np.zeros((0, 3)))
    if count == 0:
        return nothing
    area = np.bincount(labels.ravel(), minlength=count + 1) * spacing**2
    boxes = ndimage.find_objects(labels)
    low, high = parameters["seed_area"]
    round_enough: dict[int, list[tuple[float, float, int]]] = {}
    for label, box in enumerate(boxes, 1):
        if box is None or not low <= area[label] <= high:
            continue
        tall, wide = box[1].stop - box[1].start, box[2].stop - box[2].start
        if (
            max(tall, wide) > parameters["seed_aspect"] * min(tall, wide)
            or area[label] < 0.5 * tall * wide * spacing**2
        ):
            continue
        middle_of = np.argwhere(labels[box][0] == label).mean(axis=0)
        row, column = float(middle_of[0]) + box[1].start, float(middle_of[1]) + box[2].start
        body = np.flatnonzero(within[box[0].start].any(axis=0))
        middle, half = (body[0] + body[-1]) / 2, (body[-1] - body[0]) / 2
        if abs(column - middle) < 0.35 * half:
            round_enough.setdefault(box[0].start, []).append((row, column, label))
    chain = _longest(round_enough, parameters["shift"] / spacing)
    if len(chain) * spacing < parameters["seed_length"]:
        return nothing
    path = np.array([(z, row, column) for z, row, column, _ in chain])
    seed = np.zeros(count + 1, bool)
    seed[[label for *_, label in chain]] = True
    trachea: Bool = seed[labels]
    return Airway(_grow(hu, within, trachea, spacing, parameters), path)


def _longest(sections: dict[int, list[tuple[float, float, int]]], shift: float) -> list[tuple[int, float, float, int]]:
    """Link sections of neighbouring slices from the head down; return the longest chain."""
    ends: list[list[tuple[int, float, float, int]]] = []
    best: list[tuple[int, float, float, int]] = []
    for z in sorted(sections, reverse=True):
        longer = []
        for row, column, label in sections[z]:
            near = [c for c in ends if c[-1][0] - z <= 2 and np.hypot(c[-1][1] - row, c[-1][2] - column) <= shift]
            chain = [*max(near, key=len, default=[]), (z, row, column, label)]
            longer.append(chain)
            best = max(best, chain, key=len)
        ends = longer + [c for c in ends if c[-1][0] - z < 2]
    return best


def _grow(hu: npt.NDArray[np.float32], within: Bool, trachea: Bool, spacing: float, parameters: dict[str, Any]) -> Bool:
    """Grow at the highest threshold that does not leak: lung is less dense than the wall but denser than the lumen."""
    most = parameters["volume_most"] * 1000 / spacing**3
    for level in parameters["levels"]:
        labels, sizes = morphology.components(((hu < level) & within) | trachea)
        mine = np.unique(labels[trachea])
        mine = mine[mine > 0]
        if sizes[mine].sum() <= most:
            grown: Bool = np.isin(labels, mine)
            return grown
    return trachea
