"""Outlines of masks as closed polylines in image coordinates.

A report needs a flat region for everything it names: viewers draw those, and some draw nothing at all without them.
"""

from dataclasses import dataclass

import contourpy
import numpy as np
import numpy.typing as npt
from scipy.ndimage import label
from scipy.spatial.distance import cdist

from pipeline.result import Mask

Points = npt.NDArray[np.float64]

TOLERANCE_PX = 0.4
"""How far a simplified outline may stray from the exact one."""
MAX_POINTS = 300
MIN_POINTS = 6
"""Distinct points. With fewer, OHIF takes an outline for a measurement of its own and recomputes the numbers."""
SMALLEST_PART = 0.1
"""Parts smaller than this share of the largest one are left out."""
MAX_PARTS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """One closed polyline on one slice.

    Parameters
    ----------
    z : int
        Slice index.
    points : ndarray, float64, shape (n, 2)
        (column, row) where the top left corner of the image is (0, 0) and the centre of its first pixel (0.5, 0.5),
        PS3.3 section C.18.6.1.2; the last point repeats the first. Parts are joined by a line there and back.
    """

    z: int
    points: Points


def largest_slice(mask: Mask) -> int:
    """Return the index of the slice on which `mask` covers most pixels."""
    box = mask.box.reshape(mask.box.shape[0], -1)
    return mask.offset[0] + int(np.count_nonzero(box, axis=1).argmax())


def spread_slices(mask: Mask, count: int) -> tuple[int, ...]:
    """Return up to `count` slices that `mask` touches, spread evenly from its first to its last."""
    filled = np.flatnonzero(mask.box.any(axis=(1, 2))) + mask.offset[0]
    picks = np.unique(np.linspace(0, filled.size - 1, min(count, filled.size)).round().astype(int))
    return tuple(int(z) for z in filled[picks])


def outline(mask: Mask, z: int) -> Outline:
    """Return the outline of `mask` on slice `z`, without holes.

    Raises
    ------
    ValueError
        If the mask does not touch the slice.
    """
    parts = outlines(mask, z)
    joined = parts[0]
    for part in parts[1:]:
        joined = _bridge(joined, part)
    return Outline(z, joined)


def outlines(mask: Mask, z: int) -> list[Points]:
    """Return the outline of `mask` on slice `z` as one closed polyline a part, the largest first, without holes.

    Raises
    ------
    ValueError
        If the mask does not touch the slice.
    """
    k = z - mask.offset[0]
    if not 0 <= k < mask.box.shape[0] or not mask.box[k].any():
        raise ValueError(f"no outline: the mask is empty on slice {z}")
    corner = np.array([mask.offset[2], mask.offset[1]])
    return [simplify(p) + corner for p in contours(mask.box[k])]


def contours(plane: npt.NDArray[np.uint8]) -> list[Points]:
    """Return the outer contours of a non-empty plane [row, column], largest first, each closed, in image coordinates."""
    if plane.all():  # as below; the whole of a radiograph would cost a second
        h, w = plane.shape
        return [
            np.array(
                [
                    (0, 0.5),
                    (0.5, 0),
                    (w - 0.5, 0),
                    (w, 0.5),
                    (w, h - 0.5),
                    (w - 0.5, h),
                    (0.5, h),
                    (0, h - 0.5),
                    (0, 0.5),
                ]
            )
        ]
    outside, _ = label(
        np.pad(plane == 0, 1, constant_values=True)
    )  # what the corner belongs to; the rest is mask or hole
    padded = (outside != outside[0, 0]).astype(np.float32)
    lines = contourpy.contour_generator(z=padded, name="serial").lines(0.5)
    parts = sorted((np.asarray(line, np.float64) - 0.5 for line in lines), key=_area, reverse=True)
    return [p for p in parts[:MAX_PARTS] if _area(p) >= SMALLEST_PART * _area(parts[0])]


def simplify(points: Points) -> Points:
    """Return a closed polyline of `MIN_POINTS` to `MAX_POINTS` distinct points within a tolerance of the given one."""
    tolerance = TOLERANCE_PX
    kept = _douglas_peucker(points, tolerance)
    while len(kept) > MAX_POINTS + 1:
        tolerance *= 1.5
        kept = _douglas_peucker(points, tolerance)
    return kept if len(kept) > MIN_POINTS else _resample(points, 2 * MIN_POINTS)


def _area(points: Points) -> float:
    x, y = points.T
    return float(abs(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2)


def _douglas_peucker(points: Points, tolerance: float) -> Points:
    """Simplify a closed polyline; its first point and the one farthest from it always stay."""
    far = int(np.linalg.norm(points - points[0], axis=1).argmax())
    keep = np.zeros(len(points), np.bool_)
    keep[[0, far, -1]] = True
    stack = [(0, far), (far, len(points) - 1)]
    while stack:
        a, b = stack.pop()
        if b - a < 2:
            continue
        start, chord = points[a], points[b] - points[a]
        inner = points[a + 1 : b] - start
        length = float(np.hypot(*chord))
        if length:
            distance = np.abs(inner[:, 0] * chord[1] - inner[:, 1] * chord[0]) / length
        else:
            distance = np.hypot(inner[:, 0], inner[:, 1])
        worst = int(distance.argmax())
        if distance[worst] > tolerance:
            middle = a + 1 + worst
            keep[middle] = True
            stack += [(a, middle), (middle, b)]
    kept: Points = points[keep]
    return kept


def _resample(points: Points, count: int) -> Points:
    """Return `count` points spread evenly along a closed polyline, and the first again."""
    travelled = np.concatenate(([0.0], np.hypot(*np.diff(points, axis=0).T).cumsum()))
    at = np.linspace(0, travelled[-1], count + 1)
    return np.stack([np.interp(at, travelled, points[:, i]) for i in (0, 1)], axis=1)


def _bridge(a: Points, b: Points) -> Points:
    """Join two closed polylines into one by a line there and back between their nearest points."""
    i, j = np.unravel_index(cdist(a[:-1], b[:-1]).argmin(), (len(a) - 1, len(b) - 1))
    turned = np.concatenate((b[j:-1], b[:j], b[j : j + 1]))
    return np.concatenate((a[: i + 1], turned, a[i:]))
