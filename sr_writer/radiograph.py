"""How a result on one radiograph is drawn: the whole image with the outlines of everything found, and the patient's sides."""

import numpy as np
from PIL import Image, ImageDraw

from dicom_io.radiograph import OPPOSITE, Radiograph
from dicom_io.volume import Volume
from pipeline.result import Projection, Result
from sr_writer.canvas import BRIGHT
from sr_writer.fonts import runs
from sr_writer.outline import contours
from sr_writer.tiles import shapes

Values = Volume | Radiograph
"""What pictures are made from."""
_SCALE = 2


def fitted(image: Radiograph, width: int, height: int) -> tuple[int, int]:
    """Return width and height of the image as large as it fits into a box, its pixels as wide and high as they are."""
    rows, columns = image.array.shape
    wide, high = float(columns), float(rows)
    if image.spacing is not None:
        wide, high = wide * image.spacing.column_mm, high * image.spacing.row_mm
    zoom = min(width / wide, height / high)
    return max(1, round(wide * zoom)), max(1, round(high * zoom))


def render(image: Radiograph, result: Result, width: int, height: int) -> Image.Image:
    """Return the whole radiograph, as large as it fits into a box, with outlines and with the sides that it states."""
    size = fitted(image, width, height)
    big = size[0] * _SCALE, size[1] * _SCALE
    picture = (
        Image.fromarray(np.asarray(image.shown * 255, np.uint8)).resize(big, Image.Resampling.BICUBIC).convert("RGB")
    )
    draw = ImageDraw.Draw(picture)
    scale = np.array([big[0] / image.array.shape[1], big[1] / image.array.shape[0]])
    for mask, colour, pen in shapes(result):
        corner = np.array([mask.offset[2], mask.offset[1]])
        for points in contours(mask.box[0]):
            draw.line([tuple(p) for p in (points + corner) * scale], colour, pen * _SCALE, joint="curve")
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(picture)
    places = (
        (6, size[1] // 2, "lm"),
        (size[0] - 7, size[1] // 2, "rm"),
        (size[0] // 2, 5, "mt"),
        (size[0] // 2, size[1] - 6, "mb"),
    )
    for letter, (x, y, anchor) in zip(letters(result), places, strict=False):
        _, font = next(runs(letter, max(14, size[1] // 26)))
        draw.text((x, y), letter, BRIGHT, font=font, anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))
    return picture


def letters(result: Result) -> tuple[str, ...]:
    """Return the patient directions at the left, right, top and bottom edge; none where the image does not state them."""
    geometry = result.geometry
    if not isinstance(geometry, Projection) or not geometry.orientation:
        return ()
    (row, column), back = geometry.orientation, str.maketrans(OPPOSITE)
    return row.translate(back), row, column.translate(back), column
