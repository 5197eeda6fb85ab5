"""The card of a grade: the images with every place framed and numbered, a large letter, and what a person has to decide.

It is read at the console while the patient is still there, so the picture is as large as it fits, every finding has its
number, limit and both languages, and what was not evaluated is said.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from dicom_io import elements
from dicom_io.model import ImageKey
from dicom_io.radiograph import Radiograph
from dicom_io.volume import Volume
from pipeline.result import Result
from sr_writer import codes
from sr_writer.canvas import (
    AMBER,
    BRIGHT,
    FAINT,
    GRADE_CHIP,
    GRADES,
    PANEL,
    SIZE,
    SOFT,
    Canvas,
    Colour,
    wrap,
)
from sr_writer.fonts import drawable, runs
from sr_writer.header import Authorship
from sr_writer.narrative import conclusion, remark_label, tally, to_decide
from sr_writer.quality import Remark, figures, rectangle, remarks, shown_images
from sr_writer.radiograph import Values, fitted
from sr_writer.radiograph import render as render_radiograph
from sr_writer.sources import Sources
from sr_writer.tiles import View, fit, plane_view, render, source_view, stack_of

LEFT, TOP, GAP = 24, 128, 10
WIDTH, HEIGHT = 872, 826
"""Of the part that shows images."""
LARGE, SMALL = (WIDTH - GAP) // 2, (WIDTH - 2 * GAP) // 3
SLICES = 3
PANEL_X = LEFT + WIDTH + 16
PANEL_WIDTH = SIZE[0] - PANEL_X - LEFT
BOTTOM = SIZE[1] - 46
MAX_UNJUDGED = 4
_CHIP = 24
_PEN = 3


@dataclass(frozen=True, slots=True)
class _Detail:
    """How much is written of every finding: lines of text, lines of the hints of alarms and of remarks, languages of these."""

    lines: int
    alarms: int
    remarks: int
    languages: int


_DETAILS = (_Detail(3, 2, 2, 2), _Detail(3, 2, 0, 2), _Detail(2, 1, 0, 1), _Detail(2, 0, 0, 0), _Detail(1, 0, 0, 0))
"""From the most to the least; the first that fits is taken."""

_Line = tuple[str, int, Colour]


def place(image: Radiograph) -> tuple[int, int, int, int]:
    """Return where on the card a whole radiograph stands: left, top, width and height in pixels."""
    width, height = fitted(image, WIDTH, HEIGHT)
    return LEFT + (WIDTH - width) // 2, TOP + (HEIGHT - height) // 2, width, height


def key_images(result: Result) -> list[ImageKey]:
    """Return the images that the card shows as they are."""
    return shown_images(result, SLICES)


def draw(canvas: Canvas, result: Result, values: Values, sources: Sources, by: Authorship) -> None:
    """Draw the grade of `result` below the banner; no name or identifier of the patient is on it."""
    if isinstance(values, Radiograph):
        _radiograph(canvas, result, values)
    else:
        _series(canvas, result, values, sources, by)
    languages = drawable(by.options.languages)
    below = _unjudged(canvas, result, languages)
    y = _grade(canvas, result, languages, TOP) + GAP
    _findings(canvas, result, languages, y, below - GAP)


def pictures(result: Result, values: Values, sources: Sources, size: int) -> Iterator[Image.Image]:
    """Yield the images of the card alone, each at most `size` pixels wide and high."""
    if isinstance(values, Radiograph):
        yield _framed(values, result, *fitted(values, size, size))
        return
    for view, caption in [*_reformats(result), *_slices(result, sources)]:
        yield _tile(view, values, result, size, caption)


# ---- images


def _radiograph(canvas: Canvas, result: Result, image: Radiograph) -> None:
    x, y, width, height = place(image)
    canvas.paste(_framed(image, result, width, height), x, y)


def _framed(image: Radiograph, result: Result, width: int, height: int) -> Image.Image:
    picture = render_radiograph(image, result, width, height)
    rows, columns = image.array.shape
    scale = picture.width / columns, picture.height / rows
    for remark in reversed(remarks(result)):  # the worst on top
        at = remark.found.place
        if at is not None and at.image in result.geometry.images:
            left, top, right, bottom = rectangle(at.rows, at.columns, (rows, columns))
            _frame(picture, remark, (left * scale[0], top * scale[1], right * scale[0], bottom * scale[1]))
    return picture


def _frame(picture: Image.Image, remark: Remark, edges: tuple[float, float, float, float]) -> None:
    """Draw a rectangle along its edges, inside of the picture, with the number of its finding."""
    pen = ImageDraw.Draw(picture)
    colour = GRADES[remark.found.grade]
    left, top = (max(0, min(round(v), size - _PEN - 2)) for v, size in zip(edges[:2], picture.size, strict=True))
    right = min(max(round(edges[2]), left + _PEN + 2), picture.width) - 1
    bottom = min(max(round(edges[3]), top + _PEN + 2), picture.height) - 1
    pen.rectangle((left, top, right, bottom), outline=colour, width=_PEN)
    x = min(left, picture.width - _CHIP)
    y = top - _CHIP if top >= _CHIP else min(bottom + 1, picture.height - _CHIP)
    pen.rectangle((x, y, x + _CHIP - 1, y + _CHIP - 1), colour)
    _, font = next(runs(str(remark.number), 17))
    middle = (x + _CHIP / 2, y + _CHIP / 2)
    pen.text(middle, str(remark.number), BRIGHT, font=font, anchor="mm", stroke_width=1, stroke_fill=(40, 40, 38))


def _series(canvas: Canvas, result: Result, volume: Volume, sources: Sources, by: Authorship) -> None:
    for n, (view, caption) in enumerate(_reformats(result)):
        canvas.paste(_tile(view, volume, result, LARGE, caption), LEFT + n * (LARGE + GAP), TOP)
    y = TOP + LARGE + GAP
    for n, (view, caption) in enumerate(_slices(result, sources)):
        canvas.paste(_tile(view, volume, result, SMALL, caption), LEFT + n * (SMALL + GAP), y)
    y += SMALL + GAP
    canvas.box(LEFT, y, WIDTH, BOTTOM - y, PANEL)
    y += 10
    for n, tag in enumerate(drawable(by.options.languages)):
        y = canvas.paragraph(LEFT + 16, y, WIDTH - 32, conclusion(result, tag), 15, SOFT if n else BRIGHT, lines=2) + 2


def _reformats(result: Result) -> list[tuple[View, str]]:
    """Return the two planes across the slices, through the middle of the body, with their captions."""
    affine = stack_of(result).affine
    through = int(np.abs(affine[:3, 2]).argmax())
    body = result.region("body").mask
    names = ("Sagittal", "Coronal", "Axial")
    views = []
    for across in (axis for axis in (1, 0, 2) if axis != through):
        axis = next((k for k in (1, 2) if int(np.abs(affine[:3, 2 - k]).argmax()) == across), None)
        if axis is not None:
            middle = body.offset[axis] + body.box.shape[axis] // 2
            views.append((plane_view(affine, axis, middle), names[across]))
    return views[:2]


def _slices(result: Result, sources: Sources) -> list[tuple[View, str]]:
    """Return the slices of the places, then others spread over the stack."""
    geometry = stack_of(result)
    count = len(geometry.images)
    wanted = [geometry.images.index(key) for key in shown_images(result, SLICES)]
    spread = [round((count - 1) * share) for share in (0.5, 0.25, 0.75)]
    chosen = list(dict.fromkeys([*wanted, *spread]))[:SLICES]
    views = []
    for z in sorted(chosen):
        number = elements.text(sources.images[geometry.images[z]].header, "InstanceNumber")
        views.append((source_view(geometry.affine, z), f"Im {number}"))
    return views


def _tile(view: View, volume: Volume, result: Result, size: int, caption: str) -> Image.Image:
    tile = render(view, volume, result, size, caption)
    ((top, _), (left, _)), (x, y), (across, down) = fit(view, volume, result, size)
    images = stack_of(result).images
    for remark in reversed(remarks(result)):
        at = remark.found.place
        if at is None or at.image not in images:
            continue
        z = images.index(at.image)
        if view.axis == 0 and z != view.index:
            continue
        spans = [(z, z + 1), at.rows, at.columns]
        (first, last), (start, stop) = view.turned(spans, result.geometry.shape)
        edges = (
            x + (start - left) * across, y + (first - top) * down, x + (stop - left) * across, y + (last - top) * down,
        )  # fmt: skip
        _frame(tile, remark, edges)
    return tile


# ---- words


def _grade(canvas: Canvas, result: Result, languages: Sequence[str], y: int) -> int:
    x, top, side = GRADE_CHIP
    alarmed = any(r.alarm for r in remarks(result))
    height = (top - y) * 2 + side + (18 * len(languages) + 8 if alarmed else 0)
    canvas.box(PANEL_X, y, PANEL_WIDTH, height, PANEL)
    grade = result.quality.grade
    canvas.box(x, top, side, side, GRADES[grade], 10)
    canvas.text(x + side / 2, top + 12, grade, 64, BRIGHT, align="middle")
    at = x + side + 20
    for n, tag in enumerate(languages):
        words = codes.concept_label(f"grade_{grade.lower()}", tag)
        said = codes.text("labelled", tag, name=codes.text("quality", tag), value=words)
        canvas.text(at, top + 2 + 26 * n, said, 18 if n == 0 else 16, SOFT if n else BRIGHT)
        canvas.text(at, top + 58 + 20 * n, tally(result, tag), 14, AMBER if alarmed else SOFT)
    if alarmed:
        for n, tag in enumerate(languages):
            canvas.text(x, top + side + 10 + 18 * n, codes.text("person_decides", tag), 13, SOFT)
    return y + height


def _unjudged(canvas: Canvas, result: Result, languages: Sequence[str]) -> int:
    """Write at the bottom what was not evaluated; return where that begins."""
    unjudged = result.quality.not_evaluated
    if not unjudged:
        return BOTTOM + GAP
    width = PANEL_WIDTH - 32
    room = len(unjudged) < MAX_UNJUDGED
    lines: list[_Line] = []
    for reason in unjudged[:MAX_UNJUDGED]:
        for n, tag in enumerate(languages):
            lines += [(line, 11, FAINT if n else SOFT) for line in wrap(reason.text[tag], 11, width, 1 + room)]
    if left := len(unjudged) - MAX_UNJUDGED:
        more = codes.text("list", languages[0]).join(codes.text("more_remarks", t, count=left) for t in languages)
        lines += [(more, 11, FAINT)] if left > 0 else []
    height = 40 + _height(lines)
    y = BOTTOM - height
    canvas.box(PANEL_X, y, PANEL_WIDTH, height, PANEL)
    heading = "  ".join(codes.text("topic_not_evaluated", tag) for tag in languages)
    canvas.text(PANEL_X + 16, y + 10, heading, 14, BRIGHT)
    _write(canvas, lines, PANEL_X + 16, y + 34)
    return y


def _findings(canvas: Canvas, result: Result, languages: Sequence[str], y: int, bottom: int) -> None:
    canvas.box(PANEL_X, y, PANEL_WIDTH, bottom - y, PANEL)
    all_of = remarks(result)
    if not all_of:
        for n, tag in enumerate(languages):
            canvas.text(PANEL_X + 16, y + 14 + 22 * n, codes.text("nothing_beyond", tag), 14 - n, SOFT)
        return
    room = bottom - y - 36
    blocks = [_block(r, languages, _DETAILS[-1]) for r in all_of]
    for detail in _DETAILS:
        made = [_block(r, languages, detail) for r in all_of]
        if sum(_height(lines) + 12 for lines in made) <= room:
            blocks = made
            break
    at = y + 12
    for n, (remark, lines) in enumerate(zip(all_of, blocks, strict=True)):
        if at + _height(lines) > bottom - 24:
            more = "  ".join(codes.text("more_remarks", tag, count=len(all_of) - n) for tag in languages)
            canvas.text(PANEL_X + 16, bottom - 22, more, 12, FAINT)
            break
        canvas.box(PANEL_X + 14, at, _CHIP, _CHIP, GRADES[remark.found.grade], 4)
        canvas.text(PANEL_X + 14 + _CHIP / 2, at + 1, str(remark.number), 17, BRIGHT, align="middle")
        at = _write(canvas, lines, PANEL_X + 14 + _CHIP + 12, at) + 12


def _block(remark: Remark, languages: Sequence[str], detail: _Detail) -> list[_Line]:
    """Return the lines of one finding."""
    width = PANEL_WIDTH - 66
    lines: list[_Line] = []
    hints = detail.alarms if remark.alarm else detail.remarks
    for n, tag in enumerate(languages):
        said = remark.found.reason.text[tag]
        if shown := figures(remark.found, tag):
            said = codes.text("sentence", tag).join([said, codes.text("bracketed", tag, value=shown)])
        said = codes.text("labelled", tag, name=remark_label(remark, tag), value=said)
        size, colour = (13, SOFT) if n else (14, BRIGHT)
        lines += [(line, size, colour) for line in wrap(said, size, width, detail.lines)]
        if hints and n < detail.languages and (hint := to_decide(remark, tag)):
            lines += [
                (line, 12, FAINT if n else AMBER if remark.alarm else SOFT) for line in wrap(hint, 12, width, hints)
            ]
    return lines


def _height(lines: Sequence[_Line]) -> int:
    return sum(round(size * 1.4) for _, size, _ in lines)


def _write(canvas: Canvas, lines: Sequence[_Line], x: int, y: int) -> int:
    for words, size, colour in lines:
        canvas.text(x, y, words, size, colour)
        y += round(size * 1.4)
    return y
