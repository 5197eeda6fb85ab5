"""Sampling grids: where the voxel centres of an acquisition lie in the patient."""

from dataclasses import dataclass
from math import cos, radians, sin
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from phantom.shapes import Array, Coordinates

Plane = Literal["axial", "coronal", "sagittal", "oblique"]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True)
class Grid:
    """A parallelepiped of samples.

    Parameters
    ----------
    affine : ndarray, (4, 4) float64
        Column vector (x, y, z, 1) of array indices [z, y, x] to LPS millimetres.
    shape : tuple of int
        Samples along z, y, x.
    """

    affine: NDArray[np.float64]
    shape: tuple[int, int, int]

    @property
    def steps_mm(self) -> tuple[float, float, float]:
        """Distance between neighbours along z, y, x."""
        z, y, x = (float(np.linalg.norm(self.affine[:3, i])) for i in (2, 1, 0))
        return z, y, x

    def coordinates(self, box: Box | None = None) -> Coordinates:
        """Return X, Y, Z of the samples in `box` (default all), each no larger than it must be to broadcast."""
        spans = box or tuple(slice(0, n) for n in self.shape)
        z, y, x = (np.arange(s.start, s.stop, dtype=np.float64) for s in spans)
        axes = (x[None, None, :], y[None, :, None], z[:, None, None])
        rows = []
        for i in range(3):
            value = np.full((1, 1, 1), self.affine[i, 3])
            for j in range(3):
                if abs(self.affine[i, j]) > 1e-9:
                    value = value + self.affine[i, j] * axes[j]
            rows.append(value.astype(np.float32))
        return rows[0], rows[1], rows[2]

    def box(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> Box | None:
        """Return the index box that holds the patient box `low`..`high` (mm), or None if they do not meet."""
        corners = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), -1).reshape(-1, 3)
        inverse = np.linalg.inv(self.affine)
        index = corners @ inverse[:3, :3].T + inverse[:3, 3]
        first = np.maximum(np.floor(index.min(0)).astype(int), 0)[::-1]
        last = np.minimum(np.ceil(index.max(0)).astype(int) + 1, self.shape[::-1])[::-1]
        if (first >= last).any():
            return None
        z, y, x = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
        return z, y, x

    def boxes(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.int64]:
        """`box` for many patient boxes: rows of z0, z1, y0, y1, x0, x1; empty ones have z0 >= z1 or the like."""
        inverse = np.linalg.inv(self.affine)[:3]
        middle = ((low + high) / 2) @ inverse[:, :3].T + inverse[:, 3]
        reach = ((high - low) / 2) @ np.abs(inverse[:, :3]).T
        first = np.maximum(np.floor(middle - reach), 0)[:, ::-1]
        last = np.minimum(np.ceil(middle + reach) + 1, self.shape[::-1])[:, ::-1]
        return np.stack([first, last], -1).reshape(-1, 6).astype(np.int64)

    def slab(self, start: int, stop: int, fine: int = 1, halo: int = 0) -> "Grid":
        """Return slices `start`..`stop` cut into `fine` (odd) sub-slices each, and `halo` more at both ends.

        The middle sub-slice of each slice lies at that slice's centre.
        """
        affine = self.affine.copy()
        affine[:3, 2] /= fine
        affine[:3, 3] += self.affine[:3, 2] * start - affine[:3, 2] * ((fine - 1) // 2 + halo)
        return Grid(affine, ((stop - start) * fine + 2 * halo, self.shape[1], self.shape[2]))


def directions(plane: Plane, *, feet_first: bool = False) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the row and column direction cosines (ImageOrientationPatient) of `plane`.

    Feet first, the rows of an image across the body run to the patient's right (PS3.3 C.7.3.1.1.2: the image plane
    follows the gantry, the coordinates follow the patient); other planes are computed and keep theirs.
    """
    if plane not in get_args(Plane):
        raise ValueError(f"plane {plane!r} is none of {', '.join(get_args(Plane))}")
    rows = {
        "axial": ((1, 0, 0), (0, 1, 0)),
        "coronal": ((1, 0, 0), (0, 0, -1)),
        "sagittal": ((0, 1, 0), (0, 0, -1)),
        "oblique": _tilted(18.0, 12.0),
    }
    row, column = (np.array(v, dtype=np.float64) for v in rows[plane])
    return (-row if feet_first and plane in ("axial", "oblique") else row), column


def _tilted(about_x_deg: float, about_y_deg: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    a, b = radians(about_x_deg), radians(about_y_deg)
    turn_x = np.array([[1, 0, 0], [0, cos(a), -sin(a)], [0, sin(a), cos(a)]])
    turn_y = np.array([[cos(b), 0, sin(b)], [0, 1, 0], [-sin(b), 0, cos(b)]])
    turn = turn_y @ turn_x
    return tuple(turn[:, 0]), tuple(turn[:, 1])


def sample(box_low: Array, box_high: Array, step_mm: float) -> Grid:
    """Return an upright grid of `step_mm` that fills a patient box."""
    low, high = np.asarray(box_low, np.float64), np.asarray(box_high, np.float64)
    count = np.maximum(np.ceil((high - low) / step_mm), 1).astype(int)
    affine = np.diag([step_mm, step_mm, step_mm, 1.0])
    affine[:3, 3] = low + step_mm / 2
    return Grid(affine, (int(count[2]), int(count[1]), int(count[0])))
