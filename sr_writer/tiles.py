"""Key slices and a reformat in a lung window with the outlines of everything found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from dicom_io.volume import Volume
from pipeline.result import Geometry, Mask, Result
from sr_writer.canvas import BRIGHT, SOFT, Colour
from sr_writer.fonts import runs
from sr_writer.outline import contours, largest_slice
from sr_writer.palette import segment_colours
from sr_writer.quality import only_quality
from sr_writer.tracked import main_mask

WINDOW_HU = (-1350.0, 150.0)
"""Lung window: level -600, width 1500."""
COUNT = 6
_SCALE = 2
_AXES = (("R", "L"), ("A", "P"), ("F", "H"))


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One plane through the volume as it is shown.

    Parameters
    ----------
    axis : int
        Array axis that is cut: 0 is a source slice.
    index : int
        Where.
    flip : tuple[bool, bool]
        Whether rows and columns are shown in reverse.
    swap : bool
        Whether rows and columns change places.
    letters : tuple[str, str, str, str]
        Patient direction at the left, right, top and bottom edge.
    """

    axis: int
    index: int
    flip: tuple[bool, bool]
    swap: bool
    letters: tuple[str, str, str, str]

    def plane(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Cut an array [z, y, x] as shown."""
        return self._turn(np.take(array, self.index, self.axis))

    def mask(self, mask: Mask) -> npt.NDArray[np.uint8]:
        """Cut a mask as shown."""
        shape = tuple(n for k, n in enumerate(mask.shape) if k != self.axis)
        out = np.zeros(shape, np.uint8)
        k = self.index - mask.offset[self.axis]
        if 0 <= k < mask.box.shape[self.axis]:
            window = tuple(s for i, s in enumerate(mask.slices) if i != self.axis)
            out[window] = mask.box.take(k, self.axis)
        return np.asarray(self._turn(out), np.uint8)

    def turned(self, spans: Sequence[tuple[int, int]], shape: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return first and one past the last row and column, as shown, of a box: `spans` and `shape` of all three axes."""
        axes = [k for k in range(3) if k != self.axis]
        out = []
        for axis, flip in zip(axes[::-1] if self.swap else axes, self.flip, strict=True):
            low, high = spans[axis]
            out.append((shape[axis] - high, shape[axis] - low) if flip else (low, high))
        return out[0], out[1]

    def _turn(self, plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
        plane = plane.T if self.swap else plane
        return plane[:: -1 if self.flip[0] else 1, :: -1 if self.flip[1] else 1]

    def window(self, result: Result) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return first and last row, first and last column as shown, of what is worth showing: body and lungs.

        Of a grade of images that is all of them: what is cut, or missing, shows at the border.
        """
        if only_quality(result):
            return self.turned([(0, n) for n in result.geometry.shape], result.geometry.shape)
        masks = (result.region("body").mask, main_mask(result))
        axes = [k for k in range(3) if k != self.axis]
        out = []
        for axis, flip in zip(axes[::-1] if self.swap else axes, self.flip, strict=True):
            size = result.geometry.shape[axis]
            low = min(m.offset[axis] for m in masks)
            high = max(m.offset[axis] + m.box.shape[axis] for m in masks)
            margin = max(3, (high - low) // 20)
            low, high = max(0, low - margin), min(size, high + margin)
            out.append((size - high, size - low) if flip else (low, high))
        return out[0], out[1]

    def spacing(self, volume: Volume) -> tuple[float, float]:
        """Return millimetres between rows and between columns as shown."""
        rest = [s for k, s in enumerate(volume.spacing_mm) if k != self.axis]
        return (rest[1], rest[0]) if self.swap else (rest[0], rest[1])


def stack_of(result: Result) -> Geometry:
    """Return the geometry of a result on slices.

    Raises
    ------
    TypeError
        If it stands on a radiograph.
    """
    if not isinstance(result.geometry, Geometry):
        raise TypeError("a radiograph has no slices")
    return result.geometry


def source_view(affine: npt.NDArray[np.float64], z: int) -> View:
    """Return slice `z` as the source shows it."""
    return View(0, z, (False, False), False, (*_ends(affine[:3, 0]), *_ends(affine[:3, 1])))


def reformat_view(result: Result) -> View:
    """Return a coronal plane, or an axial one if the source is coronal, through the largest finding or the lungs' middle.

    Shown as radiologists hang it: patient right on the left, head or front at the top.
    """
    affine = stack_of(result).affine
    dominant = _dominant(affine)
    across = 1 if dominant[0] != 1 else 2
    axis = dominant.index(across) if across in dominant else 1
    shown = [result.segments[f.segment_number - 1].mask for f in result.findings if f.segment_number is not None]
    mask = max(shown, key=lambda m: m.voxels) if shown else main_mask(result)
    area = np.count_nonzero(mask.box, axis=tuple(k for k in range(3) if k != axis))
    return plane_view(affine, axis, mask.offset[axis] + int(area.argmax()))


def plane_view(affine: npt.NDArray[np.float64], axis: int, index: int) -> View:
    """Return the plane that cuts array axis `axis` (1 or 2) at `index`, hung as radiologists do."""
    dominant = _dominant(affine)
    rows, columns = (k for k in range(3) if k != axis)
    swap = dominant[columns] != 0 if 0 in (dominant[rows], dominant[columns]) else dominant[columns] == 2
    if swap:
        rows, columns = columns, rows
    down, right = affine[:3, 2 - rows], affine[:3, 2 - columns]
    up_first = down[dominant[rows]] > 0 if dominant[rows] == 2 else down[dominant[rows]] < 0
    flip = (bool(up_first), bool(right[dominant[columns]] < 0))
    letters = (*_ends(-right if flip[1] else right), *_ends(-down if flip[0] else down))
    return View(axis, index, flip, swap, letters)


def _dominant(affine: npt.NDArray[np.float64]) -> list[int]:
    """Return the patient axis (x, y, z) that each array axis mostly runs along."""
    return [int(np.abs(affine[:3, 2 - k]).argmax()) for k in range(3)]


def key_views(result: Result) -> list[View]:
    """Return the source slices to show, from the lowest index up: those of the largest findings, then spread over the lungs."""
    shown = [result.segments[f.segment_number - 1].mask for f in result.findings if f.segment_number is not None]
    picks = [largest_slice(m) for m in sorted(shown, key=lambda m: -m.voxels)]
    lungs = main_mask(result)
    filled = np.flatnonzero(lungs.box.any(axis=(1, 2))) + lungs.offset[0]
    apart = max(1, len(filled) // 12)
    kept: list[int] = []
    for z in [
        *picks[:3],
        *(int(filled[round((len(filled) - 1) * f)]) for f in (0.5, 0.25, 0.75, 0.12, 0.88)),
        *map(int, filled),
    ]:
        if len(kept) < COUNT - 1 and all(abs(z - k) >= apart for k in kept):
            kept.append(z)
    return [source_view(stack_of(result).affine, z) for z in sorted(kept)]


def render(view: View, volume: Volume, result: Result, size: int, caption: str) -> Image.Image:
    """Return a square tile of `size` pixels: the plane cropped to the body, outlines, orientation letters and a caption."""
    hu = np.asarray(view.plane(volume.array), np.float32)
    low, high = result.window or WINDOW_HU
    grey = np.clip((hu - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    big = size * _SCALE
    ((top, bottom), (left, right)), at, zoom = fit(view, volume, result, big)
    height, width = max(1, round((bottom - top) * zoom[1])), max(1, round((right - left) * zoom[0]))
    tile = Image.new("RGB", (big, big), (0, 0, 0))
    part = Image.fromarray(grey[top:bottom, left:right]).resize((width, height), Image.Resampling.BICUBIC)
    tile.paste(part.convert("RGB"), at)
    draw = ImageDraw.Draw(tile)
    scale = np.array([width / (right - left), height / (bottom - top)])
    for mask, colour, pen in shapes(result):
        plane = view.mask(mask)
        if plane.any():
            for points in contours(plane):
                line = (points - (left, top)) * scale + at
                draw.line([tuple(p) for p in line], colour, pen * _SCALE, joint="curve")
    tile = tile.resize((size, size), Image.Resampling.LANCZOS)
    _label(tile, view.letters, caption)
    return tile


def fit(
    view: View, volume: Volume, result: Result, size: int
) -> tuple[tuple[tuple[int, int], tuple[int, int]], tuple[int, int], tuple[float, float]]:
    """Return how a plane stands in a square tile of `size` pixels.

    Returns
    -------
    window : tuple
        First and one past the last row, and column, that it shows.
    at : tuple[int, int]
        Where it begins in the tile: x, y.
    zoom : tuple[float, float]
        Pixels of the tile a column and a row.
    """
    window = view.window(result)
    (top, bottom), (left, right) = window
    row_mm, column_mm = view.spacing(volume)
    zoom = size / max((bottom - top) * row_mm, (right - left) * column_mm)
    height, width = max(1, round((bottom - top) * row_mm * zoom)), max(1, round((right - left) * column_mm * zoom))
    return window, ((size - width) // 2, (size - height) // 2), (width / (right - left), height / (bottom - top))


def shapes(result: Result) -> Sequence[tuple[Mask, Colour, int]]:
    """Return what is drawn: every segment with its colour and how wide its line is."""
    colours = segment_colours(result)
    shown = {f.segment_number for f in result.findings}
    return [(s.mask, colours[s.number], 2 if s.number in shown else 1) for s in result.segments]


def _label(tile: Image.Image, letters: tuple[str, str, str, str], caption: str) -> None:
    draw = ImageDraw.Draw(tile)
    size = tile.width
    places = ((4, size // 2, "lm"), (size - 5, size // 2, "rm"), (size // 2, 4, "mt"), (size // 2, size - 5, "mb"))
    for letter, (x, y, anchor) in zip(letters, places, strict=True):
        _, font = next(runs(letter, 15))
        draw.text((x, y), letter, BRIGHT, font=font, anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))
    _, font = next(runs(caption, 11))
    place = (6, size - 6)
    draw.rectangle(draw.textbbox(place, caption, font=font, anchor="lb"), (0, 0, 0))
    draw.text(place, caption, SOFT, font=font, anchor="lb")


def _ends(direction: npt.NDArray[np.float64]) -> tuple[str, str]:
    """Return the patient directions at the start and the end of a line that runs along `direction` (LPS)."""
    axis = int(np.abs(direction).argmax())
    low, high = _AXES[axis]
    return (low, high) if direction[axis] > 0 else (high, low)
