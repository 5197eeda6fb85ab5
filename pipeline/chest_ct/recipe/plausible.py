"""Whether what a label marks looks like a lesion there: positions cannot tell a mirrored label in a grid that is its own mirror image."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy import ndimage

from dicom_io.volume import Volume
from pipeline.chest_ct.recipe.refusals import LabelRefused
from pipeline.result import Mask

_SHELL_MM = 6.0


def check(volume: Volume, marked: Mask, p: Mapping[str, Any]) -> None:
    """See that a label does not lie on air-holding lung, and does not look mirrored.

    A label looks mirrored if it is hardly denser than what surrounds it, while one of its mirror images (left and right, front and
    back, or both, as when LPS is written down as RAS) is so by far.

    Parameters
    ----------
    volume : Volume
        Of its series.
    marked : Mask
        Not empty.
    p : Mapping
        Table ``[lesion]``.

    Raises
    ------
    LabelRefused
        ``label-on-air`` or ``label-looks-mirrored``.
    """
    median = float(np.median(volume.array[marked.slices][marked.box != 0]))
    if median < p["least_median_hu"]:
        raise LabelRefused("label-on-air", hu=median)
    here = contrast(volume, marked)
    there = max(contrast(volume, mirror) for mirror in mirrors(volume, marked))
    if here < p["least_contrast_hu"] and there > here + p["mirror_contrast_hu"]:
        raise LabelRefused("label-looks-mirrored", here=here, there=there)


def contrast(volume: Volume, marked: Mask) -> float:
    """Return how much denser what is marked is, on average, than 6 mm around it (HU)."""
    reach = [int(np.ceil(_SHELL_MM / step)) for step in volume.spacing_mm]
    begin = [max(0, o - r) for o, r in zip(marked.offset, reach, strict=True)]
    end = [min(n, o + s + r) for n, o, s, r in zip(marked.shape, marked.offset, marked.box.shape, reach, strict=True)]
    near = tuple(slice(a, b) for a, b in zip(begin, end, strict=True))
    inside = np.zeros([b - a for a, b in zip(begin, end, strict=True)], np.bool_)
    at = tuple(slice(o - a, o - a + s) for o, a, s in zip(marked.offset, begin, marked.box.shape, strict=True))
    inside[at] = marked.box != 0
    grown = ndimage.maximum_filter(inside, [2 * r + 1 for r in reach])
    hu, shell = volume.array[near], grown & ~inside
    return float(hu[inside].mean(dtype=np.float64) - hu[shell].mean(dtype=np.float64)) if shell.any() else 0.0


def mirrors(volume: Volume, marked: Mask) -> Iterator[Mask]:
    """Yield the label mirrored in the middle of the grid: left and right, front and back, and both."""
    axes = [2 - int(np.abs(volume.affine[lps, :3]).argmax()) for lps in (0, 1)]
    for several in ((axes[0],), (axes[1],), tuple(axes)):
        offset = list(marked.offset)
        for axis in several:
            offset[axis] = marked.shape[axis] - marked.offset[axis] - marked.box.shape[axis]
        yield Mask(marked.shape, (offset[0], offset[1], offset[2]), np.flip(marked.box, several))
