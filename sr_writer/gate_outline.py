"""Outlines against masks: filled again by other code, an outline must cover what the segmentation shows, and nowhere else."""

import numpy as np
import numpy.typing as npt
from scipy.ndimage import label

from sr_writer.gate_frames import Runs

Points = npt.NDArray[np.float64]

BEYOND_PX = 1.0
"""How many pixels along its border an outline may reach beyond its mask: it is simplified, by 0.4 pixels at most as a rule."""
HOLES = 0.5
"""Share of an outline that may be holes of the mask, which an outline does not show."""
BETTER = 0.1
"""An outline is displaced if it fits better by this many pixels along its border one pixel further."""


def filled(points: Points, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return which pixels of an image lie inside a closed polyline, by their centres (even-odd rule).

    Parameters
    ----------
    points : ndarray, shape (n, 2)
        (column, row), where the centre of the first pixel is (0.5, 0.5).
    shape : tuple[int, int]
        Rows, columns.
    """
    if len(points) > 1 and not np.allclose(points[0], points[-1]):
        points = np.concatenate((points, points[:1]))
    a, b = points[:-1] - 0.5, points[1:] - 0.5
    swap = a[:, 1] > b[:, 1]
    low, high = np.where(swap[:, None], b, a), np.where(swap[:, None], a, b)
    first, last = np.ceil(low[:, 1]).astype(int), np.ceil(high[:, 1]).astype(int)  # rows first .. last - 1 are crossed
    first, last = np.clip(first, 0, shape[0]), np.clip(last, 0, shape[0])
    count = np.maximum(last - first, 0)
    edge = np.repeat(np.arange(len(count)), count)
    row = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count) + first[edge]
    slope = (high[edge, 0] - low[edge, 0]) / (high[edge, 1] - low[edge, 1])
    column = np.clip(np.ceil(low[edge, 0] + (row - low[edge, 1]) * slope), 0, shape[1]).astype(int)
    crossed = np.zeros((shape[0], shape[1] + 1), np.int32)
    np.add.at(crossed, (row, column), 1)
    inside: npt.NDArray[np.bool_] = np.cumsum(crossed, axis=1)[:, :-1] % 2 == 1
    return inside


def fits(points: Points, mask: Runs) -> bool:
    """Say whether an outline lies where its mask lies.

    It may leave out small parts and show no holes, but it surrounds the part that it is of, reaches nowhere beyond the mask's
    own border, and does not fit better one pixel further.
    """
    if not mask.starts.size:
        return False
    rows, (first, last) = mask.rows, mask.columns
    top, left = max(int(rows.min()) - 3, 0), max(int(first.min()) - 3, 0)
    low = np.array([first.min(), rows.min()]) - 1.5
    high = np.array([last.max(), rows.max() + 1]) + 1.5
    if (points < low).any() or (points > high).any():
        return False
    plane = mask.plane()[top : int(rows.max()) + 4, left : int(last.max()) + 3] != 0
    inside = filled(points - (left, top), plane.shape)
    covered = int(inside.sum())
    if not covered:
        return len(points) <= 14 and plane.sum() < 20  # of a mask of a few pixels twelve points are left
    outside = inside & ~plane
    along = float(np.hypot(*np.diff(points, axis=0).T).sum())
    if outside.sum() > HOLES * covered + BEYOND_PX * along:
        return False
    parts, _ = label(plane)
    part = int(np.bincount(parts[inside & plane], minlength=2)[1:].argmax()) + 1
    if ((parts == part) & ~inside).sum() > BEYOND_PX * along:  # an outline within a larger mask is none of it
        return False
    padded = np.pad(plane, 1)
    wrong = int(outside.sum())
    moved = (padded[1:-1, 2:], padded[1:-1, :-2], padded[2:, 1:-1], padded[:-2, 1:-1])
    return all(int((inside & ~other).sum()) + BETTER * along >= wrong for other in moved)
