"""The summary picture of a result: key slices with outlines, numbers, quality, and what it must not be used for."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset

from dicom_io import elements
from dicom_io.model import ImageKey
from dicom_io.radiograph import Radiograph
from dicom_io.volume import Volume
from pipeline.result import Measurement, Projection, Result
from sr_writer import codes, quality_card
from sr_writer.canvas import AMBER, BRIGHT, DARK, FAINT, GRADES, LINE, PANEL, SIZE, SOFT, Canvas, width_of, wrap
from sr_writer.fonts import drawable, has_chinese
from sr_writer.header import Authorship
from sr_writer.narrative import bare, finding_label, number, paragraphs, remark_label
from sr_writer.palette import segment_colours
from sr_writer.quality import only_quality, remarks
from sr_writer.radiograph import Values, fitted
from sr_writer.radiograph import render as render_radiograph
from sr_writer.sources import Sources
from sr_writer.tiles import key_views, reformat_view, render, stack_of

LEFT, GAP, TILE = 24, 10, 284
TOP = 128
PANEL_X = LEFT + 3 * TILE + 3 * GAP + 6
PANEL_WIDTH = SIZE[0] - PANEL_X - LEFT
MAX_FINDINGS = 10
MAX_QUALITY = 2
FINDING_COLUMNS = ("volume", "long_axis", "mean_density")
PROJECTED_COLUMNS = ("area", "area_at_detector")
"""Numbers of a finding that the picture shows, on slices and on a radiograph; the report has all."""
COLUMNS = (
    "lung_volume",
    "opacity_volume",
    "opacity_percent",
    "ground_glass_percent",
    "dense_percent",
    "mean_lung_density",
    "area",
    "area_at_detector",
    "opacity_area_percent",
)
"""Numbers of the table, from left to right; those that the result does not have are left out."""


def frame(title_name: str, by: Authorship, subtitle: str) -> Canvas:
    """Return a canvas with title, banner and footer: the same on summary and card."""
    canvas = Canvas()
    languages = drawable(by.options.languages)
    pipeline = by.identity.pipeline
    titles = [codes.text(title_name, tag, pipeline=codes.pipeline_label(pipeline, tag)) for tag in languages]
    canvas.box(0, 0, 8, 76, AMBER, 0)
    # in the middle: viewers write into the corners
    second = "   ".join(titles[1:])
    at = (SIZE[0] - width_of(titles[0], 28) - (18 + width_of(second, 20) if second else 0)) / 2
    at += canvas.text(at, 10, titles[0], 28) + 18
    canvas.text(at, 17, second, 20, SOFT)
    canvas.text(SIZE[0] / 2, 48, subtitle, 14, SOFT, align="middle")
    if by.options.research:
        canvas.text(
            SIZE[0] - LEFT, 16, "  ".join(codes.text("research", tag) for tag in languages), 15, AMBER, align="right"
        )
    canvas.text(SIZE[0] - LEFT, 48, f"{pipeline} {by.identity.version}", 14, SOFT, align="right")
    canvas.box(0, 76, SIZE[0], 38, AMBER, 0)
    canvas.text(
        SIZE[0] / 2, 85, "   ·   ".join(codes.text("banner", tag) for tag in languages), 18, DARK, align="middle"
    )
    canvas.rule(LEFT, SIZE[1] - 36, SIZE[0] - 2 * LEFT)
    digest = by.identity.weights_digest.removeprefix("sha256:")[:16]
    footer = f"{pipeline} {by.identity.version} · weights {digest} · inputs {by.identity.input_digest[7:23]}"
    if not has_chinese() and "zh-CN" in by.options.languages:
        footer += " · " + codes.text("no_chinese_font", "en")
    canvas.text(LEFT, SIZE[1] - 28, footer, 12, FAINT)
    canvas.text(SIZE[0] - LEFT, SIZE[1] - 28, f"{by.local:%Y-%m-%d %H:%M}", 12, FAINT, align="right")
    return canvas


def draw(result: Result, values: Values, sources: Sources, by: Authorship) -> Canvas:
    """Return the summary picture of `result`; no name or identifier of the patient is on it."""
    said = subtitle(sources.header(result.geometry.images[0]), len(sources.images))
    if only_quality(result):
        canvas = frame("title_quality", by, said)
        quality_card.draw(canvas, result, values, sources, by)
        return canvas
    canvas = frame("title", by, said)
    _tiles(canvas, result, values, sources)
    _impression(canvas, result, by)
    y = _quality(canvas, result, by, TOP)
    y = _table(canvas, result, by, y + GAP)
    _findings(canvas, result, by, y + GAP)
    return canvas


def key_images(result: Result) -> list[ImageKey]:
    """Return the images of the slices that the picture shows."""
    if only_quality(result):
        return quality_card.key_images(result)
    if isinstance(result.geometry, Projection):
        return list(result.geometry.images)
    return [result.geometry.images[view.index] for view in key_views(result)]


def place(image: Radiograph, result: Result) -> tuple[int, int, int, int]:
    """Return where on the picture a whole radiograph stands: left, top, width and height in pixels."""
    if only_quality(result):
        return quality_card.place(image)
    across, down = 3 * TILE + 2 * GAP, 2 * TILE + GAP
    width, height = fitted(image, across, down)
    return LEFT + (across - width) // 2, TOP + (down - height) // 2, width, height


def subtitle(header: Dataset, images: int) -> str:
    """Return study date, series number and image count; free text of the source could name the patient."""
    date = elements.text(header, "StudyDate")
    parts = [f"Study {date[:4]}-{date[4:6]}-{date[6:8]}"] if len(date) == 8 else []
    if series := elements.text(header, "SeriesNumber"):
        parts.append(f"Series {series}")
    parts.append("1 image" if images == 1 else f"{images} images")
    if thickness := elements.number(header, "SliceThickness"):
        parts.append(f"{thickness:.2g} mm")
    return " · ".join(parts)


def _tiles(canvas: Canvas, result: Result, values: Values, sources: Sources) -> None:
    if isinstance(values, Radiograph):
        x, y, width, height = place(values, result)
        canvas.paste(render_radiograph(values, result, width, height), x, y)
        return
    for n, tile in enumerate(pictures(result, values, sources, TILE)):
        canvas.paste(tile, LEFT + n % 3 * (TILE + GAP), TOP + n // 3 * (TILE + GAP))


def pictures(result: Result, volume: Volume, sources: Sources, size: int) -> Iterator[Image.Image]:
    """Yield the key slices and a reformat, each a square of `size` pixels with its caption."""
    if only_quality(result):
        yield from quality_card.pictures(result, volume, sources, size)
        return
    geometry = stack_of(result)
    for view in key_views(result):
        header = sources.images[geometry.images[view.index]].header
        image = elements.text(header, "InstanceNumber")
        at = geometry.to_lps((view.index, (volume.array.shape[1] - 1) / 2, (volume.array.shape[2] - 1) / 2))
        axis = int(np.abs(geometry.affine[:3, 2]).argmax())
        yield render(view, volume, result, size, f"Im {image} · {'xyz'[axis]} {at[axis]:.0f} mm")
    yield render(reformat_view(result), volume, result, size, "Reformat")


def _impression(canvas: Canvas, result: Result, by: Authorship) -> None:
    y = TOP + 2 * (TILE + GAP)
    width = 3 * TILE + 2 * GAP
    height = SIZE[1] - 46 - y
    canvas.box(LEFT, y, width, height, PANEL)
    y += 12
    languages = drawable(by.options.languages)
    lines, notes = (2, 3) if len(languages) > 1 else (2, 8)
    if result.suggestions and len(languages) > 1:
        lines, notes = 3, 2  # what was asked for must be read
    for tag in languages:
        narrative = paragraphs(result, tag, research=by.options.research)
        said = {p.topic: codes.text("sentence", tag).join(p.lines) for p in narrative}
        y = canvas.paragraph(LEFT + 16, y, width - 32, said["impression"], 15, BRIGHT, lines=lines) + 2
        if "limits" in said:
            limits = codes.text("labelled", tag, name=codes.text("limits", tag), value=said["limits"])
            y = canvas.paragraph(LEFT + 16, y, width - 32, limits, 12, SOFT, lines=notes)
        y += 6


def _quality(canvas: Canvas, result: Result, by: Authorship, y: int) -> int:
    languages = drawable(by.options.languages)
    width = PANEL_WIDTH - 32
    said = (
        codes.text(
            "labelled", languages[0], name=remark_label(r, languages[0]), value=r.found.reason.text[languages[0]]
        )
        for r in remarks(result)[:MAX_QUALITY]
    )
    found = [wrap(line, 13, width, 2) for line in said]
    height = 64 + sum(19 * len(lines) + 3 for lines in found)
    canvas.box(PANEL_X, y, PANEL_WIDTH, height, PANEL)
    grade = result.quality.grade
    canvas.box(PANEL_X + 14, y + 12, 42, 42, GRADES[grade])
    canvas.text(PANEL_X + 35, y + 16, grade, 28, BRIGHT, align="middle")
    at = PANEL_X + 70
    at += round(canvas.text(at, y + 12, codes.text("quality", languages[0]), 16)) + 10
    for tag in languages[1:]:
        canvas.text(at, y + 13, codes.text("quality", tag), 14, SOFT)
    words = "  ".join(codes.concept_label(f"grade_{grade.lower()}", tag) for tag in languages)
    canvas.text(PANEL_X + 70, y + 34, words, 13, SOFT)
    at = y + 60
    for lines in found:
        for line in lines:
            canvas.text(PANEL_X + 16, at, line, 13, SOFT)
            at += 19
        at += 3
    return y + height


def _table(canvas: Canvas, result: Result, by: Authorship, y: int) -> int:
    values = {(m.site, m.name): m for m in result.measurements}
    names = [n for n in COLUMNS if any(m.name == n for m in result.measurements)]
    sites = [s for s in dict.fromkeys(m.site for m in result.measurements) if codes.in_picture(s)]
    if not names:
        return y
    languages = drawable(by.options.languages)
    row = 36 if len(languages) > 1 else 28
    height = 74 + row * len(sites) + 22
    canvas.box(PANEL_X, y, PANEL_WIDTH, height, PANEL)
    _heading(canvas, "measurements", languages, y + 10)
    heads = {name: codes.measurement(name).short[languages[0]] for name in names}
    ends = [
        (24 if part else 16) + width_of(codes.site_label(site, tag), (11 if part else 14) if n == 0 else 11)
        for site in sites
        for part in (codes.site_modifier(site) is not None,)
        for n, tag in enumerate(languages)
    ]
    rights = _columns(heads, values, PANEL_X + max(ends), PANEL_X + PANEL_WIDTH - 14)
    for name, right in rights.items():
        canvas.text(right, y + 36, heads[name], 11, SOFT, align="right")
        sample = next(m for m in result.measurements if m.name == name)
        canvas.text(right, y + 51, codes.unit_sign(sample.unit), 11, FAINT, align="right")
    at = y + 70
    for site in sites:
        canvas.image.paste(LINE, (PANEL_X + 14, at, PANEL_X + PANEL_WIDTH - 14, at + 1))
        part = codes.site_modifier(site) is not None
        left = PANEL_X + (24 if part else 16)
        canvas.text(left, at + 4, codes.site_label(site, languages[0]), 11 if part else 14, SOFT if part else BRIGHT)
        for tag in languages[1:]:
            canvas.text(left, at + 20, codes.site_label(site, tag), 10 if part else 11, FAINT)
        for name, right in rights.items():
            m = values.get((site, name))
            if m is not None:
                canvas.text(right, at + 8, bare(m), 13 if part else 14, _tint(m), align="right")
        at += row
    legend = [
        codes.text(k, languages[0])
        for k in ("lower_bound", "not_computable")
        if any(m.status == k for m in result.measurements)
    ]
    canvas.text(PANEL_X + 16, at + 4, "   ".join(legend), 11, FAINT)
    return y + height


def _columns(
    heads: Mapping[str, str], values: Mapping[tuple[str, str], Measurement], left: float, right: float
) -> dict[str, float]:
    """Return where each column of numbers ends: as wide as its head or widest number, the rest shared evenly."""
    widths = {
        k: max(width_of(head, 11), *(width_of(bare(m), 14) for (_, name), m in values.items() if name == k))
        for k, head in heads.items()
    }
    gap = (right - left - sum(widths.values())) / len(heads)
    ends = accumulate(width + gap for width in widths.values())
    return dict(zip(heads, (left + end for end in ends), strict=True))


def _findings(canvas: Canvas, result: Result, by: Authorship, y: int) -> None:
    languages = drawable(by.options.languages)
    colours = segment_colours(result)
    height = SIZE[1] - 46 - y
    canvas.box(PANEL_X, y, PANEL_WIDTH, height, PANEL)
    _heading(canvas, "findings", languages, y + 10)
    at = y + 36
    columns = PROJECTED_COLUMNS if isinstance(result.geometry, Projection) else FINDING_COLUMNS
    room = min(MAX_FINDINGS, (height - 56) // 26)
    if not result.findings:
        canvas.text(PANEL_X + 16, at, "  ".join(codes.text("none", tag) for tag in languages), 14, SOFT)
    for finding in result.findings[:room]:
        canvas.box(PANEL_X + 16, at + 2, 14, 14, colours.get(finding.segment_number or 0, SOFT), 3)
        canvas.text(PANEL_X + 40, at, finding_label(finding, result, languages[0]), 13)
        canvas.text(PANEL_X + 138, at, codes.site_label(finding.site, languages[0]), 13, SOFT)
        numbers = {m.name: number(m) for m in finding.measurements}
        for n, name in enumerate(reversed(columns)):
            canvas.text(PANEL_X + PANEL_WIDTH - 16 - 80 * n, at, numbers.get(name, ""), 13, align="right")
        at += 26
    if len(result.findings) > room:
        canvas.text(
            PANEL_X + 40, at, codes.text("more_findings", languages[0], count=len(result.findings) - room), 12, FAINT
        )


def _heading(canvas: Canvas, name: str, languages: Sequence[str], y: int) -> None:
    at = PANEL_X + 16 + canvas.text(PANEL_X + 16, y, codes.text(name, languages[0]), 16) + 10
    for tag in languages[1:]:
        canvas.text(at, y + 1, codes.text(name, tag), 14, SOFT)


def _tint(m: Measurement) -> tuple[int, int, int]:
    return {"ok": BRIGHT, "lower_bound": AMBER, "not_computable": FAINT}[m.status]
