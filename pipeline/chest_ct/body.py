"""What is inside the body, and the air-holding parts of it."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from pipeline.chest_ct import morphology

Bool = npt.NDArray[np.bool_]
Box = tuple[slice, slice, slice]

IN_PLANE = np.array([[[0] * 3] * 3, [[0, 1, 0], [1, 1, 1], [0, 1, 0]], [[0] * 3] * 3], bool)
"""Face neighbours within one axial slice."""


def halve(volume: torch.Tensor) -> torch.Tensor:
    """Average 2 x 2 x 2 voxels; an odd last slice, row or column is averaged with itself."""
    for axis in range(3):
        if volume.shape[axis] % 2:
            last = volume.narrow(axis, volume.shape[axis] - 1, 1)
            volume = torch.cat([volume, last], dim=axis)
    return torch.nn.functional.avg_pool3d(volume[None, None], 2)[0, 0]


def inside(hu: torch.Tensor, padded: torch.Tensor | None, parameters: dict[str, Any]) -> Bool:
    """Fill the body slice by slice: everything that no air reaches from the image border.

    Parameters
    ----------
    hu : Tensor, shape (z, y, x)
        Working volume at twice the working spacing.
    padded : Tensor of bool or None
        Voxels outside the reconstruction, if the source names any.
    parameters : dict
        Table ``body``.

    Notes
    -----
    A border voxel opens the body only if it is true air: where the field of view cuts a lung or an arm, the border
    itself is the wall.
    """
    smooth = morphology.gaussian(hu, 0.7).cpu().numpy()
    tissue = smooth > parameters["tissue"]
    core, sizes = morphology.components(ndimage.binary_erosion(tissue, IN_PLANE))
    if sizes.size < 2:
        return np.zeros(tissue.shape, bool)
    wall = ndimage.binary_dilation(core == 1, IN_PLANE) & tissue
    frame = np.zeros(tissue.shape, bool)
    frame[:, [0, -1], :] = frame[:, :, [0, -1]] = True
    outer = np.zeros(tissue.shape, bool)
    if padded is not None:
        outer = padded.cpu().numpy()
        rim = ndimage.binary_dilation(outer, IN_PLANE, iterations=2) & ~outer
        # at the edge of the reconstruction lung is averaged with padding: the densest neighbour tells it from air
        densest = ndimage.maximum_filter(np.where(outer, np.float32(-1024), smooth), (1, 3, 3))
        wall |= rim & (densest > parameters["open_air"])
        frame |= rim
    wall |= frame & (smooth > parameters["open_air"]) & ~outer
    labels, count = ndimage.label(~wall, IN_PLANE)
    reached = np.zeros(count + 1, bool)
    reached[np.unique(labels[frame])] = True
    reached[0] = False
    filled: Bool = ~reached[labels]
    return filled


def shifted(box: Box, by: Box) -> Box:
    """Return where a box within the box `by` stands in the grid that `by` stands in."""
    z, y, x = (slice(b.start + o.start, b.stop + o.start) for b, o in zip(box, by, strict=True))
    return z, y, x


def bounding_box(mask: Bool, margin: int, shape: tuple[int, ...]) -> Box:
    """Return the box around a non-empty mask, `margin` voxels wider where `shape` allows it."""
    found = []
    for axis in range(3):
        line = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        found.append(slice(max(0, int(line[0]) - margin), min(shape[axis], int(line[-1]) + 1 + margin)))
    return found[0], found[1], found[2]
