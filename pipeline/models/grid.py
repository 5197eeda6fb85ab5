"""The network's grid over an image: axes reordered and turned, resampled with one matrix an axis, and the way back.

Nothing is rotated: an oblique volume is worked on in its own frame, its axes named after the sides that they are nearest to, as
MONAI and NIfTI tools do it. So masks return to the very voxels that they came from.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dicom_io.radiograph import OPPOSITE, Radiograph
from dicom_io.volume import Volume
from pipeline.models.description import Input

Floats = npt.NDArray[np.float64]
Box = tuple[slice, slice, slice]

_LPS = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
"""Letter to axis of LPS and direction on it."""


class Unfit(Exception):  # noqa: N818 - the image does not fit; nothing went wrong
    """The image shows its object from another side than the network knows."""


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis of the network over one axis of the image.

    Parameters
    ----------
    source : int
        Array axis of the image.
    flip : bool
        Whether it runs the other way there.
    count : int
        Samples of the image.
    step : float
        Millimetres between them; 1 where nothing is known.
    samples : int
        Samples of the network.
    spacing : float
        Millimetres between those.
    offset : float
        Where the first of those begins, from where the image begins.
    """

    source: int
    flip: bool
    count: int
    step: float
    samples: int
    spacing: float
    offset: float = 0.0

    @property
    def same(self) -> bool:
        """Whether both have the same samples."""
        return self.samples == self.count and abs(self.spacing / self.step - 1) < 1e-6 and abs(self.offset) < 1e-6

    @cached_property
    def _ours(self) -> Floats:
        out: Floats = ((np.arange(self.count) + 0.5) * self.step).astype(np.float64)
        return out

    @cached_property
    def _theirs(self) -> Floats:
        out: Floats = (self.offset + (np.arange(self.samples) + 0.5) * self.spacing).astype(np.float64)
        return out

    @cached_property
    def forward(self) -> npt.NDArray[np.float32]:
        """Weights from the image, in its own order, to the network: [samples, count]; a row of zeros lies outside."""
        weight = np.clip(1 - np.abs(self._ours[None] - self._theirs[:, None]) / max(self.spacing, self.step), 0, None)
        weight[(self._theirs < 0) | (self._theirs > self.count * self.step)] = 0
        shares = _normalised(weight)
        return np.ascontiguousarray(shares[:, ::-1] if self.flip else shares)

    @cached_property
    def back(self) -> npt.NDArray[np.float32]:
        """Weights from the network to the image, in its own order: [count, samples]."""
        at = np.clip(self._ours, self._theirs[0], self._theirs[-1])
        width = max(self.spacing, self.step)
        weight = _normalised(np.clip(1 - np.abs(self._theirs[None] - at[:, None]) / width, 0, None))
        outside = (self._ours < self.offset) | (self._ours > self.offset + self.samples * self.spacing)
        weight[outside] = 0
        return np.ascontiguousarray(weight[::-1] if self.flip else weight)

    @property
    def reach(self) -> int:
        """Samples of the network beside one that one sample of the image may hang on."""
        return int(np.ceil(max(self.spacing, self.step) / self.spacing)) + 1


@dataclass(frozen=True, eq=False)
class Grid:
    """The network's axes, in its order; the one of a radiograph has a first axis of one sample."""

    axes: tuple[Axis, Axis, Axis]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Samples of the network."""
        a, b, c = (axis.samples for axis in self.axes)
        return a, b, c

    def take(self, array: npt.NDArray[Any], outside: float, device: torch.device) -> torch.Tensor:
        """Resample an image [z, y, x] onto the grid, averaging where the grid is coarser; float32.

        Plane by plane, so that no second copy of a large volume is made before it is small.
        """
        source = _tensor(array)
        by_source = {axis.source: axis for axis in self.axes}
        row, column = (self._matrix(by_source[k], device) for k in (1, 2))
        sizes = [by_source[k].samples for k in (1, 2)]
        rest = torch.empty((source.shape[0], *sizes), device=device)
        for z in range(source.shape[0]):
            plane = source[z].to(device=device, dtype=torch.float32) - outside
            plane = plane if row is None else row @ plane
            rest[z] = plane if column is None else plane @ column.T
        slow = self._matrix(by_source[0], device)
        rest = rest if slow is None else torch.tensordot(slow, rest, dims=([1], [0]))
        turned = [k for k, axis in enumerate(self.axes) if axis.flip and axis.same]
        rest = rest.permute([axis.source for axis in self.axes])
        return (rest.flip(turned) if turned else rest).contiguous().add_(outside)

    def give(self, field: torch.Tensor, box: Box) -> tuple[torch.Tensor, Box]:
        """Interpolate a field at the image's samples.

        Parameters
        ----------
        field : Tensor
            Values on the samples of `box`; 0 beside it.
        box : Box
            Where `field` stands in the grid.

        Returns
        -------
        values : Tensor
            In the image's order of axes.
        where : Box
            Where `values` stands in the image; everything beside it is 0.
        """
        where: list[slice] = [slice(0)] * 3
        order = sorted(range(3), key=lambda k: self.axes[k].source)
        field = field.permute(order).contiguous()
        for source in (2, 1, 0):  # what lies apart in memory last: there whole planes are copied
            k = order[source]
            weight = self.axes[k].back[:, box[k]]
            rows = np.flatnonzero(weight.any(axis=1))
            first, last = (int(rows[0]), int(rows[-1]) + 1) if rows.size else (0, 0)
            where[source] = slice(first, last)
            field = _along(weight[first:last], field, source)
        return field.contiguous(), (where[0], where[1], where[2])

    def around(self, field: torch.Tensor, least: float) -> Box | None:
        """Return the box of what is at least `least`, with all that touches it on the way back; None if nothing is."""
        hit = field >= least
        box = []
        for k, axis in enumerate(self.axes):
            line = torch.nonzero(hit.any(dim=tuple(a for a in range(3) if a != k)))
            if not line.numel():
                return None
            first, last = int(line[0]) - axis.reach, int(line[-1]) + 1 + axis.reach
            box.append(slice(max(0, first), min(axis.samples, last)))
        return box[0], box[1], box[2]

    @staticmethod
    def _matrix(axis: Axis, device: torch.device) -> torch.Tensor | None:
        return None if axis.same else torch.from_numpy(axis.forward).to(device)


def of_volume(volume: Volume, said: Input) -> Grid:
    """Lay the grid that a description asks for over a volume."""
    columns = volume.affine[:3, :3]  # column c moves array axis 2 - c by one sample
    length = np.linalg.norm(columns, axis=0)
    along = columns / length
    wanted = [_LPS[letter] for letter in said.orientation]

    def agreement(order: Sequence[int]) -> float:
        return float(sum(abs(along[lps, 2 - a]) for (lps, _), a in zip(wanted, order, strict=True)))

    order = max(permutations(range(3)), key=agreement)
    flips = [bool(along[lps, 2 - a] * sign < 0) for (lps, sign), a in zip(wanted, order, strict=True)]
    counts = [volume.array.shape[a] for a in order]
    steps = [float(length[2 - a]) for a in order]
    return _grid(order, flips, counts, steps, said)


def of_radiograph(image: Radiograph, said: Input) -> Grid:
    """Lay the grid over a radiograph; one that does not say how it is turned is taken as stored.

    Raises
    ------
    Unfit
        If its axes run to other sides than those of the network: a lateral view for a network of frontal ones.
    """
    rows, columns = image.array.shape
    order, flips = [0, 1, 2], [False, False, False]
    if said.orientation and image.orientation:
        ends = {1: image.orientation[1][0], 2: image.orientation[0][0]}
        for k, letter in enumerate(said.orientation, 1):
            axis = next((a for a, end in ends.items() if letter in {end, OPPOSITE[end]}), None)
            if axis is None:
                raise Unfit("/".join(image.orientation))
            order[k], flips[k] = axis, ends[axis] != letter
    spacing = (1.0, 1.0) if image.spacing is None else (image.spacing.row_mm, image.spacing.column_mm)
    counts, steps = (1, rows, columns), (1.0, *spacing)
    return _grid(order, flips, [counts[a] for a in order], [steps[a] for a in order], said)


def _grid(
    order: Sequence[int], flips: Sequence[bool], counts: Sequence[int], steps: Sequence[float], said: Input
) -> Grid:
    free = 3 - said.axes  # of a radiograph the first axis is that of its one image
    extent = [n * s for n, s in zip(counts, steps, strict=True)]
    samples, spacing, offset = list(counts), list(steps), [0.0, 0.0, 0.0]
    if said.size:
        sizes = (*(1,) * free, *said.size)
        common = max(e / n for e, n in list(zip(extent, sizes, strict=True))[free:])
        for k in range(free, 3):
            samples[k] = sizes[k]
            spacing[k] = common if said.fit == "pad" else extent[k] / sizes[k]
            offset[k] = (extent[k] - sizes[k] * spacing[k]) / 2
    elif said.spacing:
        for k, wish in enumerate(said.spacing, free):
            if abs(wish / steps[k] - 1) > 1e-3:
                samples[k], spacing[k] = max(1, int(np.ceil(extent[k] / wish - 1e-3))), wish
    axes = [Axis(*row) for row in zip(order, flips, counts, steps, samples, spacing, offset, strict=True)]
    return Grid((axes[0], axes[1], axes[2]))


def _along(weight: npt.NDArray[np.float32], field: torch.Tensor, axis: int) -> torch.Tensor:
    """Apply weights [out, in] to one axis: a product of matrices, or two looks a sample where no more is between two."""
    taps = np.count_nonzero(weight, axis=1).max(initial=0)
    if taps > 2 or weight.shape[1] < 2:
        matrix = torch.from_numpy(weight).to(field.device)
        product: torch.Tensor = torch.tensordot(matrix, field, dims=([1], [axis]))
        return product.movedim(0, axis)
    first = np.minimum((weight != 0).argmax(axis=1), weight.shape[1] - 2)
    rows = np.arange(len(weight))
    shape = [-1 if k == axis else 1 for k in range(field.dim())]
    out = None
    for at in (first, first + 1):
        share = torch.from_numpy(weight[rows, at]).to(field.device).reshape(shape)
        part = field.index_select(axis, torch.from_numpy(at).to(field.device)).mul_(share)
        out = part if out is None else out.add_(part)
    assert out is not None  # noqa: S101 - there are two
    return out


def _normalised(weight: Floats) -> npt.NDArray[np.float32]:
    total = weight.sum(axis=1, keepdims=True)
    out: npt.NDArray[np.float32] = np.where(total > 0, weight / np.maximum(total, 1e-9), 0).astype(np.float32)
    return out


def _tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    """Look at an array without a copy; torch would warn that it could write to one that is read only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)
