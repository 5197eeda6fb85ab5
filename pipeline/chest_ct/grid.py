"""The working grid: isotropic, its axes the source's own, ordered and flipped to head, back and left.

Nothing is rotated: an oblique scan is worked on in its own frame, so that resampling stays one matrix per axis and
masks return to the very voxels that they came from.
"""

import warnings
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dicom_io.stack import Stack
from dicom_io.volume import Volume

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class WorkingGrid:
    """How working indices [z, y, x] (to the head, to the back, to the left) lie in the source array.

    Parameters
    ----------
    axes : tuple[int, int, int]
        Source array axis behind each working axis.
    flip : tuple[bool, bool, bool]
        Whether that axis runs the other way in the source.
    source_shape : tuple[int, int, int]
        Source shape in *working* axis order.
    source_spacing : tuple[float, float, float]
        Millimetres, in working axis order; between slices the median.
    centres : tuple of ndarray
        Where the source voxels' centres lie on each working axis, millimetres from its beginning, in working order.
    shape : tuple[int, int, int]
        Working shape.
    spacing : float
        Millimetres, the same on each axis.
    affine : ndarray, shape (4, 4)
        Maps (x, y, z, 1) of working indices to LPS millimetres.
    """

    axes: tuple[int, int, int]
    flip: tuple[bool, bool, bool]
    source_shape: tuple[int, int, int]
    source_spacing: tuple[float, float, float]
    centres: tuple[Floats, Floats, Floats]
    shape: tuple[int, int, int]
    spacing: float
    affine: npt.NDArray[np.float64]

    @classmethod
    def of(cls, volume: Volume, spacing: float, slices_mm: Floats | None = None) -> "WorkingGrid":
        """Lay a grid of `spacing` millimetres over a volume.

        Parameters
        ----------
        volume : Volume
            What to lie on.
        spacing : float
            Millimetres.
        slices_mm : ndarray, optional
            True positions of the slices along their normal, if they are not evenly spaced.
        """
        columns = volume.affine[:3, :3]  # column c moves array axis 2 - c by one voxel
        length = np.linalg.norm(columns, axis=0)
        along = columns / length
        # working axes 0, 1, 2 look along +z, +y, +x of LPS, that is rows 2, 1, 0
        best = max(permutations(range(3)), key=lambda p: sum(abs(along[2 - k, 2 - p[k]]) for k in range(3)))
        axes = (best[0], best[1], best[2])
        flip = tuple(bool(along[2 - k, 2 - best[k]] < 0) for k in range(3))
        positions = [np.arange(n, dtype=np.float64) * length[2 - a] for a, n in enumerate(volume.array.shape)]
        if slices_mm is not None:
            positions[0] = slices_mm - slices_mm[0]
        steps, centres = [], []
        for k in range(3):
            mm = positions[best[k]]
            step = float(np.median(np.diff(mm))) if mm.size > 1 else float(length[2 - best[k]])
            steps.append(step)
            centres.append((mm[-1] - mm[::-1] if flip[k] else mm) + step / 2)
        shape = tuple(
            max(1, int(np.floor((c[-1] + s / 2) / spacing + 1e-6))) for c, s in zip(centres, steps, strict=True)
        )
        affine = np.eye(4)
        corner = volume.affine[:3, 3].copy()
        for k in range(3):
            direction = along[:, 2 - best[k]] * (-1 if flip[k] else 1)
            affine[:3, 2 - k] = direction * spacing
            if flip[k]:
                corner += along[:, 2 - best[k]] * positions[best[k]][-1]
            # voxel 0 covers the first `spacing` millimetres, which begin half a source voxel before its centre
            corner += direction * (spacing - steps[k]) / 2
        affine[:3, 3] = corner
        return cls(
            axes,
            (flip[0], flip[1], flip[2]),
            (len(centres[0]), len(centres[1]), len(centres[2])),
            (steps[0], steps[1], steps[2]),
            (centres[0], centres[1], centres[2]),
            (shape[0], shape[1], shape[2]),
            spacing,
            affine,
        )

    def _weights(self, axis: int, device: torch.device) -> torch.Tensor:
        """Triangle filter as wide as the coarser of both grids; straight lines across gaps: [working, source]."""
        centres, step = self.centres[axis], self.source_spacing[axis]
        at = (np.arange(self.shape[axis]) + 0.5) * self.spacing
        weight = np.clip(1 - np.abs(centres[None, :] - at[:, None]) / max(self.spacing, step), 0, None)
        if centres.size > 1:
            after = np.clip(np.searchsorted(centres, at), 1, centres.size - 1)
            gap = centres[after] - centres[after - 1]
            for row in np.flatnonzero(gap > 1.5 * step):
                share = np.clip((at[row] - centres[after[row] - 1]) / gap[row], 0, 1)
                weight[row] = 0
                weight[row, after[row] - 1], weight[row, after[row]] = 1 - share, share
        return _normalised(weight, device)

    def take(self, array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
        """Resample an array of the source's shape onto this grid, averaging where it is coarser; float32 [z, y, x]."""
        source = _tensor(array).permute(self.axes)
        flips = [k for k in range(3) if self.flip[k]]
        weights = [self._weights(k, device) for k in range(3)]
        weights = [w.flip(1) if k in flips else w for k, w in enumerate(weights)]
        # slice by slice of the source's slowest axis keeps the peak below one copy of the volume
        slow = self.axes.index(0)
        inner = [k for k in range(3) if k != slow]
        planes = torch.stack(
            [
                weights[inner[0]] @ source.select(slow, i).to(device=device, dtype=torch.float32) @ weights[inner[1]].T
                for i in range(source.shape[slow])
            ]
        )
        rest = torch.einsum("os,sab->oab", weights[slow], planes)
        return rest.movedim(0, slow).contiguous()

    def give(
        self, field: torch.Tensor, box: tuple[slice, slice, slice]
    ) -> tuple[torch.Tensor, tuple[slice, slice, slice]]:
        """Interpolate a working field linearly at the source's voxel centres.

        Parameters
        ----------
        field : Tensor, shape (nz, ny, nx)
            Values on the working voxels of `box`.
        box : tuple of slice
            Where `field` stands in the working grid.

        Returns
        -------
        values : Tensor
            In source axis order.
        where : tuple of slice
            Where `values` stands in the source array.
        """
        where: list[slice] = [slice(0)] * 3
        for k in range(3):
            centre = self.centres[k] / self.spacing - 0.5
            inside = np.flatnonzero((centre > box[k].start - 1) & (centre < box[k].stop))
            at = np.clip(centre[inside], box[k].start, box[k].stop - 1)
            weight = np.clip(1 - np.abs(np.arange(box[k].start, box[k].stop)[None, :] - at[:, None]), 0, None)
            matrix = _normalised(weight, field.device)
            first, last = (int(inside[0]), int(inside[-1]) + 1) if inside.size else (0, 0)
            if self.flip[k]:
                matrix = matrix.flip(0)
                first, last = self.source_shape[k] - last, self.source_shape[k] - first
            field = torch.tensordot(matrix, field, dims=([1], [k])).movedim(0, k)
            where[self.axes[k]] = slice(first, last)
        inverse = [self.axes.index(a) for a in range(3)]
        return field.permute(inverse).contiguous(), (where[0], where[1], where[2])

    def nearest(self, array: npt.NDArray[Any], box: tuple[slice, slice, slice]) -> npt.NDArray[Any]:
        """Take a working array, which stands at `box`, at the working voxels nearest to the source's; as `give` does."""
        index = []
        for k in range(3):
            centre = self.centres[k] / self.spacing - 0.5
            inside = centre[(centre > box[k].start - 1) & (centre < box[k].stop)]
            at = np.clip(np.rint(inside).astype(np.int64), box[k].start, box[k].stop - 1) - box[k].start
            index.append(at[::-1] if self.flip[k] else at)
        return np.ascontiguousarray(array[np.ix_(*index)].transpose([self.axes.index(a) for a in range(3)]))

    def nearest_source(
        self, array: npt.NDArray[Any], where: tuple[slice, slice, slice], box: tuple[slice, slice, slice]
    ) -> npt.NDArray[Any]:
        """Take a source array, which stands at `where`, at the source voxels nearest to the working ones of `box`.

        Beyond `where` the answer is 0.
        """
        array = array.transpose(self.axes)
        index, known = [], []
        for k in range(3):
            middle = (np.arange(box[k].start, box[k].stop) + 0.5) * self.spacing
            between = (self.centres[k][1:] + self.centres[k][:-1]) / 2
            at = np.searchsorted(between, middle)
            at = (self.source_shape[k] - 1 - at if self.flip[k] else at) - where[self.axes[k]].start
            known.append((at >= 0) & (at < array.shape[k]))
            index.append(np.clip(at, 0, array.shape[k] - 1))
        out: npt.NDArray[Any] = array[np.ix_(*index)].copy()
        out[~(known[0][:, None, None] & known[1][:, None] & known[2])] = 0
        return out

    def to_lps(self, zyx: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map working indices, shape (..., 3) in order [z, y, x], to LPS millimetres, shape (..., 3)."""
        index = np.asarray(zyx, dtype=np.float64)[..., ::-1]
        return index @ self.affine[:3, :3].T + self.affine[:3, 3]


def _normalised(weight: npt.NDArray[np.float64], device: torch.device) -> torch.Tensor:
    total = np.maximum(weight.sum(axis=1, keepdims=True), 1e-9)
    return torch.from_numpy((weight / total).astype(np.float32)).to(device)


def _tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    """Look at an array without a copy; torch would warn that it could write to one that is read only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


def along(stack: Stack, box: tuple[slice, slice, slice], axis: int) -> Floats:
    """Return the LPS coordinate `axis` (0 left, 1 back, 2 head) of every voxel of a box of the source array, shaped to broadcast."""
    z = stack.origins_mm[box[0], axis][:, None, None]
    y = (np.arange(box[1].start, box[1].stop) * stack.column[axis] * stack.pixel_spacing_mm[0])[None, :, None]
    x = (np.arange(box[2].start, box[2].stop) * stack.row[axis] * stack.pixel_spacing_mm[1])[None, None, :]
    place: Floats = z + (y if y.any() else 0.0) + (x if x.any() else 0.0)
    return place


def heights(stack: Stack, box: tuple[slice, slice, slice]) -> Floats:
    """Return LPS z of every voxel of a box of the source array, shaped to broadcast."""
    return along(stack, box, 2)
