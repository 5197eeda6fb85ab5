"""Labels onto the voxels of their series: by positions alone, never by the order of an array.

A label is taken only if its grid is that of the series but for the order and direction of its axes and for where it begins.
Nothing is resampled: half a voxel is a lesion's border.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.chest_ct.recipe.refusals import LabelRefused

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
_TOLERANCE = 0.1
"""Of a voxel, at the farthest corner: what positions lose when they are written with six digits, and far less than half."""


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """The grid of a series.

    Parameters
    ----------
    affine : ndarray, shape (4, 4)
        Maps (x, y, z, 1) of array indices [z, y, x] to LPS millimetres.
    shape : tuple[int, int, int]
        Slices, rows, columns.
    """

    affine: Floats
    shape: tuple[int, int, int]

    def to_index(self, lps: Floats) -> Floats:
        """Map LPS millimetres, shape (..., 3), to indices (x, y, z)."""
        inverse = np.linalg.inv(self.affine)
        out: Floats = lps @ inverse[:3, :3].T + inverse[:3, 3]
        return out

    def place(self, mask: Bools, affine: Floats, out: Bools) -> None:
        """Mark in `out`, of the series' shape, what `mask` marks.

        Parameters
        ----------
        mask : ndarray of bool, [z, y, x]
            In the label's own order.
        affine : ndarray, shape (4, 4)
            Maps (x, y, z, 1) of its indices to LPS millimetres.
        out : ndarray of bool
            Changed in place.

        Raises
        ------
        LabelRefused
            ``label-elsewhere`` or ``label-outside``.
        """
        there = np.linalg.inv(self.affine) @ affine
        count = np.array(mask.shape[::-1])
        axes = np.abs(there[:3, :3]).argmax(axis=0)
        lattice = np.zeros((3, 3))
        lattice[axes, np.arange(3)] = np.sign(there[axes, np.arange(3)])
        start = np.rint(there[:3, 3])
        ends = np.stack(np.meshgrid(*[(0, n - 1) for n in count], indexing="ij"), axis=-1).reshape(-1, 3)
        off = (ends @ there[:3, :3].T + there[:3, 3]) - (ends @ lattice.T + start)
        if len(set(axes.tolist())) < 3 or float(np.abs(off).max()) > _TOLERANCE:
            raise LabelRefused("label-elsewhere", mm=np.linalg.norm(off @ self.affine[:3, :3].T, axis=1).max())
        where = np.argwhere(mask)[:, ::-1] @ lattice.T.astype(np.int64) + start.astype(np.int64)
        if ((where < 0) | (where >= np.array(self.shape[::-1]))).any():
            raise LabelRefused("label-outside")
        out[where[:, 2], where[:, 1], where[:, 0]] = True

    def place_plane(self, mask: Bools, origin: Floats, column_step: Floats, row_step: Floats, out: Bools) -> None:
        """Mark what one plane marks; as `place`.

        Parameters
        ----------
        mask : ndarray of bool, [row, column]
        origin : ndarray, (3,)
            LPS millimetres of the centre of the first pixel.
        column_step, row_step : ndarray, (3,)
            To the next column, and to the next row.
        """
        affine = np.eye(4)
        affine[:3, 0], affine[:3, 1], affine[:3, 3] = column_step, row_step, origin
        two = np.linalg.inv(self.affine[:3, :3]) @ affine[:3, :2]
        third = ({0, 1, 2} - set(np.abs(two).argmax(axis=0).tolist())).pop()
        affine[:3, 2] = self.affine[:3, third]
        self.place(mask[None], affine, out)
