"""One radiograph made small once, so that every check looks at the same few pixels."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dicom_io.model import ImageKey
from dicom_io.radiograph import Radiograph
from pipeline.result import Place

Plane = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """A radiograph and its small copy.

    Parameters
    ----------
    radiograph : Radiograph
        The image as it was read.
    small : ndarray, float32, shape (rows, columns)
        `shown`, each pixel the mean of an area; 0 black, 1 white.
    mm : float
        Size of a pixel of `small`.
    assumed : bool
        Whether `mm` is assumed because the image states none that can be.
    """

    radiograph: Radiograph
    small: Plane
    mm: float
    assumed: bool

    @classmethod
    def at(
        cls, radiograph: Radiograph, longer: int, assumed_mm: float, least_mm: float, most_mm: float, uneven: float
    ) -> "Look":
        """Make the small copy, `longer` pixels on its longer side.

        That side is taken to be `assumed_mm` long without a spacing, or with one by which it would be shorter than
        `least_mm` or longer than `most_mm`, as no detector is. A spacing of rows that is more than `uneven` times that of
        columns, or less, is taken for none.
        """
        spacing = radiograph.spacing
        if spacing is not None and not 1 / uneven <= spacing.row_mm / spacing.column_mm <= uneven:
            spacing = None
        steps = (1.0, 1.0) if spacing is None else (spacing.row_mm, spacing.column_mm)
        sides = [n * step for n, step in zip(radiograph.shown.shape, steps, strict=True)]
        stated = spacing is not None and least_mm <= max(sides) <= most_mm
        cells = max(n for n, side in zip(radiograph.shown.shape, sides, strict=True) if side == max(sides))
        pixel = max(sides) / min(longer, cells)  # in the unit of the sides, the same along both
        shape = [min(max(1, round(side / pixel)), n) for side, n in zip(sides, radiograph.shown.shape, strict=True)]
        small = area_mean(radiograph.shown, shape[0], shape[1])
        return cls(radiograph, small, (max(sides) if stated else assumed_mm) / max(small.shape), not stated)

    def negative(self) -> "Look":
        """Return the same with black and white of the small copy exchanged."""
        return replace(self, small=np.float32(1) - self.small)

    def place(self, rows: tuple[float, float], columns: tuple[float, float]) -> Place:
        """Return the rectangle of the image that a rectangle of `small`, in its pixels, covers; never empty."""
        out = []
        for (low, high), n, m in zip((rows, columns), self.small.shape, self.radiograph.shown.shape, strict=True):
            first = min(max(int(low * m / n), 0), m - 1)
            out.append((first, max(min(round(high * m / n), m), first + 1)))
        return Place(ImageKey(self.radiograph.sop_instance_uid), out[0], out[1])

    def around(self, mask: npt.NDArray[np.bool_]) -> Place:
        """Return the rectangle around a mask of `small` that is not empty."""
        at = [np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0)]
        return self.place((at[0][0], at[0][-1] + 1), (at[1][0], at[1][-1] + 1))


def area_mean(image: Plane, rows: int, columns: int) -> Plane:
    """Return `image` with fewer pixels, each the mean of the area that it covers."""
    factor = max(1, min(image.shape[0] // rows, image.shape[1] // columns))
    if factor > 1:  # whole blocks first: the rest is then cheap
        image = blocks(image, factor)
    return np.asarray(_weights(image.shape[0], rows) @ image @ _weights(image.shape[1], columns).T, np.float32)


def blocks(image: Plane, factor: int) -> Plane:
    """Return the means of squares of `factor` by `factor` pixels; what does not fill one is left out."""
    rows, columns = (n // factor for n in image.shape)
    strips = image[: rows * factor].reshape(rows, factor, -1).sum(axis=1)  # along memory first
    total = strips[:, : columns * factor].reshape(rows, columns, factor).sum(axis=2)
    return np.asarray(total / np.float32(factor * factor), np.float32)


def _weights(source: int, target: int) -> Plane:
    """Return the share of each of `source` pixels in each of `target`, shape (target, source)."""
    edges = np.arange(target + 1) * (source / target)
    pixels = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.asarray(np.maximum(overlap, 0) * (target / source), np.float32)
