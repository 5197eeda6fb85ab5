"""What must hold for the picture of a grade: its letter is the document's, and frames stand where something was found."""

import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from dicom_io.reason import Reason
from sr_writer.canvas import GRADE_CHIP, GRADES
from sr_writer.gate_quality import Flaw, Graded
from sr_writer.gate_radiograph import WHOLE_IMAGE
from sr_writer.gate_sources import Sources, image_of
from sr_writer.reasons import REASONS

_GRADE = re.compile(r"^AI grade ([A-D]) of image quality")
_INSET = 14
"""How far within the corners of its box the colour of a grade is looked at: the letter stands in the middle."""
_NEAR, _CHIP = 4, 28
"""How far beside its place the line of a frame may lie, and how far its number reaches, in pixels."""
_DRAWN = 0.6
"""Share of a frame that must be there: numbers, letters and other frames may cover some of it."""
_STRAY = 40
"""Pixels in the colour of a grade that may lie beside all frames."""


def check(ds: Dataset, raw: Sources, graded: Graded) -> Iterator[Reason]:
    """Yield what a picture says of the images otherwise than the document."""
    found = _GRADE.match(str(ds.get("DerivationDescription") or ""))
    if found is None or found[1] != graded.grade:
        yield REASONS("quality-differs", what="DerivationDescription")
    rows, columns = int(ds.Rows), int(ds.Columns)
    pixels = np.frombuffer(ds.PixelData, np.uint8)[: 3 * rows * columns].reshape(rows, columns, 3)
    x, y, side = GRADE_CHIP
    corners = [pixels[y + j, x + i] for i in (_INSET, side - _INSET) for j in (_INSET, side - _INSET)]
    if any(tuple(c) != GRADES[graded.grade] for c in corners):
        yield REASONS("quality-differs", what="Image quality grade")
    images = [image_of(i) for i in ds.get("SourceImageSequence") or ()]
    place = WHOLE_IMAGE.search(str(ds.get("DerivationDescription") or ""))
    if len(images) != 1 or images[0] not in raw.slices or raw.slices[images[0]].shadow is None:
        return
    if place is None:
        yield REASONS("geometry-differs", what="DerivationDescription")
        return
    left, right, top, bottom = (int(n) for n in place.groups())
    shown = pixels[top : bottom + 1, left : right + 1]
    rows, columns = raw.slices[images[0]].shape
    zoom = np.array([shown.shape[1] / columns, shown.shape[0] / rows] * 2)
    here = [f for f in graded.flaws if f.place is not None and f.place[0] == images[0]]
    if not _framed(shown, [(f, np.array(f.at(raw)) * zoom) for f in here]):
        yield REASONS("quality-differs", what="place")


def _framed(shown: npt.NDArray[np.uint8], expected: list[tuple[Flaw, npt.NDArray[np.float64]]]) -> bool:
    """Say whether every place is framed in the colour of its grade, and nothing else."""
    size = shown.shape[0], shown.shape[1]
    coloured = np.zeros(size, np.bool_)
    for colour in GRADES.values():
        coloured |= (shown == colour).all(axis=2)
    allowed = np.zeros_like(coloured)
    for _, (left, top, right, bottom) in expected:
        edges = [max(0, round(float(v))) for v in (left, top, right, bottom)]
        inside = _box(edges, -_NEAR, size)
        line = _box(edges, _NEAR, size)
        ring = np.zeros_like(coloured)
        ring[line] = True
        ring[inside] = False
        hit = coloured[line].copy()
        hit[tuple(slice(i.start - o.start, i.stop - o.start) for i, o in zip(inside, line, strict=True))] = False
        down, across = (s.stop - s.start for s in line)
        if hit.any(axis=0).sum() < _DRAWN * (across - 2 * _NEAR) or hit.any(axis=1).sum() < _DRAWN * (down - 2 * _NEAR):
            return False
        allowed |= ring
        x = min(edges[0], size[1] - _CHIP)
        allowed[max(0, edges[1] - _CHIP) : edges[1] + _NEAR, x : x + _CHIP] = True
        allowed[max(0, min(edges[3], size[0]) - _CHIP) : edges[3] + _CHIP, x : x + _CHIP] = True
    return int((coloured & ~allowed).sum()) <= _STRAY


def _box(edges: list[int], grow: int, shape: tuple[int, int]) -> tuple[slice, slice]:
    left, top, right, bottom = edges
    rows = slice(max(0, top - grow), max(0, min(shape[0], bottom + grow)))
    columns = slice(max(0, left - grow), max(0, min(shape[1], right + grow)))
    return _ordered(rows), _ordered(columns)


def _ordered(span: slice) -> slice:
    return span if span.stop > span.start else slice(span.start, span.start)
