"""A coarse look at a volume in the order of the patient's body, made while the volume is read once.

Axes are those of the source, ordered and flipped to head, back and left; nothing is rotated.
"""

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

from dicom_io.stack import Stack
from dicom_io.volume import Volume
from pipeline.result import Place

Floats = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Block means of a volume, and the way back to its pixels.

    Parameters
    ----------
    stack : Stack
        The slices.
    volume : Volume
        Their pixels.
    slices : ndarray of float32, shape (slices, rows, columns)
        Every source slice, reduced in its plane by `block`; padding holds -1024 HU.
    slices_padded : ndarray of bool or None
        Blocks that are padding by half or more; None if there is none.
    highest : ndarray of float32, shape (slices,)
        Highest value of each slice.
    block : int
        Source pixels along a side of a block.
    hu, padded
        The same on a nearly isotropic grid, indexed [z, y, x] to the head, to the back and to the left.
    spacing : tuple of float
        Millimetres of that grid along z, y and x.
    axes, flip, factor
        Of z, y and x: the source axis behind it, whether that runs the other way, and how many source voxels are one here.
    """

    stack: Stack
    volume: Volume
    slices: Floats
    slices_padded: Bool | None
    highest: Floats
    block: int
    hu: Floats
    padded: Bool | None
    spacing: tuple[float, float, float]
    axes: tuple[int, int, int]
    flip: tuple[bool, bool, bool]
    factor: tuple[int, int, int]

    @classmethod
    def of(cls, stack: Stack, volume: Volume, block_mm: float, grid_mm: float) -> "View":
        """Look at a volume.

        Parameters
        ----------
        stack, volume
            The slices and their pixels.
        block_mm : float
            Wanted side of a block in the plane of the slices.
        grid_mm : float
            Wanted voxel of the grid.
        """
        step = np.array([stack.spacing_mm, *stack.pixel_spacing_mm])
        block = max(1, int(block_mm / max(step[1:])))
        slices, highest = _reduced(volume.array, block)
        padded = None if volume.padding is None else _reduced(volume.padding, block)[0] >= 0.5
        fine = step * [1, block, block]
        more = [max(1, int(grid_mm / s)) for s in fine]
        along = np.stack([stack.normal, stack.column, stack.row])  # source axis -> direction in LPS
        best = max(permutations(range(3)), key=lambda p: sum(abs(along[p[k], 2 - k]) for k in range(3)))
        axes = (best[0], best[1], best[2])
        flip = tuple(bool(along[a, 2 - k] < 0) for k, a in enumerate(axes))
        spacing = tuple(float(fine[a] * more[a]) for a in axes)
        factor = tuple(int(more[a] * (1 if a == 0 else block)) for a in axes)
        grid = _turned(_grouped(slices, more), axes, flip)
        outside = None if padded is None else _turned(_grouped(padded.astype(np.float32), more), axes, flip) >= 0.5
        return cls(
            stack, volume, slices, padded, highest, block, grid, outside, (spacing[0], spacing[1], spacing[2]), axes,
            (flip[0], flip[1], flip[2]), (factor[0], factor[1], factor[2]),
        )  # fmt: skip

    @property
    def block_mm(self) -> tuple[float, float]:
        """Millimetres of a block along the rows' and the columns' distance."""
        return self.stack.pixel_spacing_mm[0] * self.block, self.stack.pixel_spacing_mm[1] * self.block

    @property
    def axial(self) -> bool:
        """Whether the slices lie across the body."""
        return self.axes[0] == 0

    def plane(self, z: int) -> int:
        """Return the source slice in the middle of level `z` of the grid, of slices across the body."""
        n = len(self.stack.instances)
        first = z * self.factor[0] + self.factor[0] // 2
        return int(np.clip(n - 1 - first if self.flip[0] else first, 0, n - 1))

    def place(self, box: tuple[slice, slice, slice]) -> Place:
        """Return where a box of the grid lies: on the source slice through its middle."""
        bounds: dict[int, tuple[int, int]] = {}
        for k, axis in enumerate(self.axes):
            count = self.volume.array.shape[axis]
            low, high = box[k].start * self.factor[k], box[k].stop * self.factor[k]
            if self.flip[k]:
                low, high = count - high, count - low
            low = int(np.clip(low, 0, count - 1))
            bounds[axis] = (low, int(np.clip(high, low + 1, count)))
        z = sum(bounds[0]) // 2
        return Place(self.volume.images[min(z, len(self.volume.images) - 1)], bounds[1], bounds[2])

    def around(self, z: int, rows: tuple[int, int], columns: tuple[int, int]) -> Place:
        """Return a rectangle on source slice `z`."""
        return Place(self.volume.images[z], rows, columns)

    def whole(self, z: int) -> Place:
        """Return the whole of source slice `z`."""
        return Place(self.volume.images[z], (0, self.stack.rows), (0, self.stack.columns))


def _reduced(array: npt.NDArray[Any], block: int) -> tuple[Floats, Floats]:
    """Average blocks of pixels slice by slice, what is left over at the end dropped; return them and each slice's highest."""
    n, rows, columns = array.shape
    high, wide = max(1, rows // block), max(1, columns // block)
    out = np.empty((n, high, wide), np.float32)
    highest = np.empty(n, np.float32)
    for z in range(n):
        plane = array[z]
        highest[z] = plane.max()
        part = plane[: high * block, : wide * block].astype(np.float32, copy=False)
        tall = part.reshape(high, -1, part.shape[1]).sum(axis=1)
        out[z] = np.add.reduceat(tall, np.arange(0, part.shape[1], block), axis=1)[:, :wide]
    out /= np.float32(block * block)
    return out, highest


def _grouped(array: Floats, more: list[int]) -> Floats:
    """Average groups of `more` voxels along each axis, a last incomplete group among itself."""
    for axis, count in enumerate(more):
        if count > 1:
            starts = np.arange(0, array.shape[axis], count)
            sizes = np.diff([*starts, array.shape[axis]]).astype(np.float32)
            shape = [1, 1, 1]
            shape[axis] = -1
            array = (np.add.reduceat(array, starts, axis=axis) / sizes.reshape(shape)).astype(np.float32)
    return array


def _turned(array: npt.NDArray[Any], axes: tuple[int, int, int], flip: tuple[bool, ...]) -> npt.NDArray[Any]:
    turned = array.transpose(axes)
    return np.ascontiguousarray(turned[tuple(slice(None, None, -1 if f else 1) for f in flip)])
