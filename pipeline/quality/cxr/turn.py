"""An image that its header says is turned: put upright for measuring, and places given on it as it is stored."""

from dataclasses import replace

import numpy as np

from dicom_io.radiograph import OPPOSITE, Orientation, Radiograph, Spacing
from pipeline.quality.grade import Measured
from pipeline.result import Place

Span = tuple[int, int]
UPRIGHT: tuple[Orientation, ...] = (("L", "F"), ("R", "F"))


def quarters(stated: Orientation) -> int:
    """Return by how many quarter turns counter-clockwise an image stands upright, mirrored or not, as its header says.

    0 too where the header says nothing, or a direction that no frontal image has. Of oblique directions the first letter counts.
    """
    if not stated:
        return 0
    right, down = stated[0][0], stated[1][0]
    for turns in range(4):
        if (right, down) in UPRIGHT:
            return turns
        right, down = down, OPPOSITE[right]
    return 0


def upright(image: Radiograph, turns: int) -> Radiograph:
    """Return the image turned by so many quarters counter-clockwise, with its spacing and directions."""
    if not turns:
        return image
    (right, down), spacing = image.orientation or ("", ""), image.spacing
    for _ in range(turns):
        right, down = down, "".join(OPPOSITE[letter] for letter in right)
        spacing = None if spacing is None else Spacing(spacing.column_mm, spacing.row_mm, spacing.meaning)
    array, shown = (np.ascontiguousarray(np.rot90(part, turns)) for part in (image.array, image.shown))
    return replace(image, array=array, shown=shown, orientation=(right, down), spacing=spacing)


def as_stored(found: dict[str, Measured], turns: int, shape: tuple[int, ...]) -> dict[str, Measured]:
    """Return measures of an image that `upright` has turned with their places on the image as stored.

    Parameters
    ----------
    found : dict
        Measures by name.
    turns : int
        By how many quarters it was turned.
    shape : tuple[int, int]
        Rows and columns of the turned image.
    """
    return {name: replace(m, place=m.place and _back(m.place, turns, shape)) for name, m in found.items()}


def _back(place: Place, turns: int, shape: tuple[int, ...]) -> Place:
    rows, columns, size = place.rows, place.columns, shape
    for _ in range(turns):
        rows, columns = columns, (size[0] - rows[1], size[0] - rows[0])
        size = size[::-1]
    return replace(place, rows=rows, columns=columns)
