"""The rows of the grid as a picture: volume error and Dice against size, by density and contact."""

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from benchmarks.chest_ct_grid_table import Row, declared, outside, silent

WIDE, HIGH, LEFT, TOP, GAP = 236, 150, 56, 62, 16
SCALE = 2  # drawn larger and scaled down: smooth lines
INK, FAINT, RULE = "#222222", "#dddddd", "#9aa0a6"
GOOD, FLAGGED, DECLARED, SILENT = "#1b7837", "#e08214", "#6a7fb5", "#c51b1b"
LEGEND = (
    (GOOD, GOOD, "inside 20 %"),
    (GOOD, FLAGGED, "inside, yet flagged"),
    (FLAGGED, FLAGGED, "outside, flagged"),
    (DECLARED, DECLARED, "outside, declared"),
    (SILENT, SILENT, "outside, SILENT"),
)


def draw(rows: Sequence[Row], judged: dict[str, Any], path: Path) -> None:
    """Write the picture (PNG)."""
    densities = sorted({row.hu for row in rows})
    bands: list[tuple[str, Callable[[Row], bool], str]] = [
        ("volume error, inner", lambda row: not row.contact, "error"),
        ("volume error, at the pleura", lambda row: row.contact, "error"),
        ("Dice, inner", lambda row: not row.contact, "dice"),
        ("Dice, at the pleura", lambda row: row.contact, "dice"),
    ]
    size = (LEFT + len(densities) * (WIDE + GAP) + 8, TOP + len(bands) * (HIGH + GAP + 14) + 26)
    image = Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(11 * SCALE)
    at = LEFT
    for colour, ring, words in LEGEND:
        pen.ellipse([v * SCALE for v in (at, 12, at + 9, 21)], fill=colour, outline=ring, width=2 * SCALE)
        pen.text(((at + 14) * SCALE, 9 * SCALE), words, INK, font)
        at += 150
    for column, hu in enumerate(densities):
        pen.text(((LEFT + column * (WIDE + GAP)) * SCALE, 30 * SCALE), f"{hu:g} HU", INK, font)
        for band, (title, chosen, what) in enumerate(bands):
            corner = (LEFT + column * (WIDE + GAP), TOP + band * (HIGH + GAP + 14))
            mine = [row for row in rows if row.hu == hu and chosen(row)]
            _panel(pen, font, corner, mine, what, judged, first=column == 0)
            if column == 0:
                pen.text((corner[0] * SCALE, (corner[1] - 15) * SCALE), title, INK, font)
    pen.text(
        (LEFT * SCALE, (size[1] - 20) * SCALE),
        "diameter, mm; a line joins the medians; errors beyond +100 % stand at the top",
        INK,
        font,
    )
    image.resize(size, Image.Resampling.LANCZOS).save(path, optimize=True)


def _panel(
    pen: ImageDraw.ImageDraw,
    font: Any,  # noqa: ANN401 - Pillow's fonts share no public type
    corner: tuple[float, float],
    rows: Sequence[Row],
    what: str,
    judged: dict[str, Any],
    *,
    first: bool,
) -> None:
    low, high = (-1.0, 1.0) if what == "error" else (0.0, 1.0)
    ticks = (-1.0, -judged["outside"], 0.0, judged["outside"], 1.0) if what == "error" else (0.0, 0.5, 0.8, 1.0)

    def x(mm: float) -> float:
        return (corner[0] + 10 + (WIDE - 20) * math.log(mm / 4.5) / math.log(90 / 4.5)) * SCALE

    def y(value: float) -> float:
        return (corner[1] + HIGH * (high - min(max(value, low), high)) / (high - low)) * SCALE

    right = (corner[0] + WIDE) * SCALE
    for tick in ticks:
        pen.line([corner[0] * SCALE, y(tick), right, y(tick)], RULE if tick == 0 else FAINT, SCALE)
        if first:
            words = f"{tick:+.0%}" if what == "error" else f"{tick:g}"
            pen.text((corner[0] * SCALE - 44 * SCALE, y(tick) - 6 * SCALE), words, INK, font)
    sizes = sorted({row.diameter_mm for row in rows})
    middle = [(mm, statistics.median(getattr(r, what) for r in rows if r.diameter_mm == mm)) for mm in sizes]
    pen.line([(x(mm), y(value)) for mm, value in middle], RULE, SCALE)
    for mm in sizes:
        pen.text((x(mm) - 5 * SCALE, (corner[1] + HIGH + 3) * SCALE), f"{mm:g}", INK, font)
        group = [row for row in rows if row.diameter_mm == mm]
        for n, row in enumerate(group):
            centre, reach = x(mm) + (n - (len(group) - 1) / 2) * 7 * SCALE, 4 * SCALE
            bad = SILENT if silent(row, judged) else DECLARED if declared(row, judged) else FLAGGED
            box = [centre - reach, y(getattr(row, what)) - reach, centre + reach, y(getattr(row, what)) + reach]
            if outside(row, judged):
                pen.ellipse(box, fill=bad)
            else:
                pen.ellipse(box, fill=GOOD, outline=FLAGGED if row.flags else GOOD, width=2 * SCALE)
