"""The report as a PDF document: the sentence for the radiologist first, numbers with units, what is missing and why, pictures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from io import BytesIO
from typing import Literal

from PIL.Image import Image as Raster
from reportlab.lib.colors import Color
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.units import mm
from reportlab.platypus import Flowable, Image, KeepTogether, Paragraph, Spacer, Table

from dicom_io.radiograph import Radiograph
from dicom_io.reason import Reason
from pipeline.result import Measurement, Result
from sr_writer import codes, quality_card
from sr_writer.codes import text
from sr_writer.considered import Considered
from sr_writer.header import Authorship
from sr_writer.narrative import Paragraph as Part
from sr_writer.narrative import bare, finding_label, no_result, number, paragraphs
from sr_writer.palette import segment_colours
from sr_writer.pdf_page import AMBER, FAINT, INK, PALE, RULE, SOFT, WIDTH, both, document, languages, paragraph
from sr_writer.quality import only_quality
from sr_writer.radiograph import Values, render
from sr_writer.sources import Sources
from sr_writer.summary import COLUMNS, pictures, subtitle

PICTURE_PX = 400
RADIOGRAPH_PX = 1000
MAX_FINDING_COLUMNS = 4
_PER_ROW = 3
_TABLES = {"impression", "findings", "measurements"}
_LINES = [("LINEBELOW", (0, 0), (-1, -1), 0.4, RULE), ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
          ("TOPPADDING", (0, 0), (-1, -1), 2), ("BOTTOMPADDING", (0, 0), (-1, -1), 2.5),
          ("LEFTPADDING", (0, 0), (-1, -1), 3), ("RIGHTPADDING", (0, 0), (-1, -1), 3)]  # fmt: skip

Narratives = Mapping[str, Sequence[Part]]


def of_result(result: Result, values: Values, sources: Sources, by: Authorship) -> bytes:
    """Return the document about a result."""
    said = {tag: paragraphs(result, tag, research=by.options.research) for tag in languages(by)}
    title = _title(by, "report_title_quality" if only_quality(result) else "report_title")
    header = sources.header(result.geometry.images[0])
    story = [*_head(title, subtitle(header, len(sources.images))), _impression(said)]
    story += [*_findings(result, by), *_measurements(result, by), *_rest(said, by)]
    story += _pictures(result, values, sources, by)
    return document(story, by, title[0])


def of_card(
    reason: Reason, outcome: Literal["not_analysed", "failed"], considered: Sequence[Considered], by: Authorship
) -> bytes:
    """Return the document that says why there is no result."""
    who = by.identity
    said = {
        tag: no_result(
            reason, outcome, considered, tag, pipeline=who.pipeline, version=who.version, research=by.options.research
        )
        for tag in languages(by)
    }
    title = _title(by, f"card_{outcome}")
    return document([*_head(title, reason.code), _impression(said), *_rest(said, by)], by, title[0])


def _title(by: Authorship, name: str) -> list[str]:
    pipeline = by.identity.pipeline
    return [text(name, tag, pipeline=codes.pipeline_label(pipeline, tag)) for tag in languages(by)]


def _head(title: Sequence[str], below: str) -> list[Flowable]:
    return [paragraph("   ".join(title), 17, after=3), paragraph(below, 9, SOFT, after=6)]


def _impression(said: Narratives) -> Flowable:
    """Return the sentences for the radiologist, in a box."""
    cell: list[Flowable] = []
    for n, (tag, narrative) in enumerate(said.items()):
        first, *rest = narrative[0].lines
        cell.append(paragraph(first, 12 if n == 0 else 11, language=tag, after=1))
        cell += [paragraph(line, 10 if n == 0 else 9, language=tag) for line in rest]
        cell.append(Spacer(0, 5 if n + 1 < len(said) else 1))
    style = [("BACKGROUND", (0, 0), (-1, -1), PALE), ("LINEBEFORE", (0, 0), (0, -1), 3, AMBER),
             ("LEFTPADDING", (0, 0), (-1, -1), 10), ("TOPPADDING", (0, 0), (-1, -1), 7),
             ("BOTTOMPADDING", (0, 0), (-1, -1), 8)]  # fmt: skip
    return Table([[cell]], [WIDTH], style=style)


def _heading(words: str) -> Paragraph:
    made = paragraph(words, 11, after=2)
    made.style.spaceBefore = 10
    return made


def _row_head(name: Callable[[str], str], by: Authorship, *, small: bool = False) -> Paragraph:
    """Return what a row is about, in every language on one line."""
    return paragraph(" ".join(dict.fromkeys(map(name, languages(by)))), 8 if small else 9, SOFT if small else INK)


def _findings(result: Result, by: Authorship) -> Iterator[Flowable]:
    if only_quality(result):
        return
    heading = _heading(both(by, "findings"))
    if not result.findings:
        yield from (heading, paragraph(both(by, "none"), 9, SOFT))
        return
    names = list(dict.fromkeys(m.name for f in result.findings for m in f.measurements))[:MAX_FINDING_COLUMNS]
    colours = segment_colours(result)
    rows: list[list[object]] = [["", "", "", *(_label(name, by) for name in names)]]
    style: list[tuple[object, ...]] = list(_LINES)
    for n, finding in enumerate(result.findings, start=1):
        values = {m.name: m for m in finding.measurements}
        rows.append(
            [
                "",
                _row_head(partial(finding_label, finding, result), by),
                _row_head(partial(codes.site_label, finding.site), by),
                *(_figure(number(values[name]), values[name]) if name in values else "" for name in names),
            ]
        )
        red, green, blue = colours.get(finding.segment_number or 0, (150, 150, 150))
        style.append(("BACKGROUND", (0, n), (0, n), Color(red / 255, green / 255, blue / 255)))
    width = (WIDTH - 5 * mm - 80 * mm) / len(names)
    table = Table(rows, [5 * mm, 40 * mm, 40 * mm, *[width] * len(names)], repeatRows=1, style=style)
    yield KeepTogether([heading, table])


def _measurements(result: Result, by: Authorship) -> Iterator[Flowable]:
    values = {(m.site, m.name): m for m in result.measurements}
    units = {m.name: codes.unit_sign(m.unit) for m in result.measurements}
    names = [n for n in COLUMNS if n in units]
    if not units:
        return
    heading = _heading(both(by, "measurements"))
    if names:
        rows: list[list[object]] = [["", *(_label(name, by, units[name]) for name in names)]]
        for site in dict.fromkeys(m.site for m in result.measurements if m.name in names):
            row = [values.get((site, name)) for name in names]
            part = codes.site_modifier(site) is not None
            label = _row_head(partial(codes.site_label, site), by, small=part)
            rows.append([label, *(_figure(bare(m), m) if m else "" for m in row)])
        table = Table(rows, [48 * mm, *[(WIDTH - 48 * mm) / len(names)] * len(names)], repeatRows=1, style=_LINES)
        yield KeepTogether([heading, table])
    others = [n for n in units if n not in COLUMNS]
    if others:
        yield from _other_measurements(others, values, by, None if names else heading)
    legend = [k for k in ("lower_bound", "not_computable") if any(m.status == k for m in result.measurements)]
    if legend:
        yield paragraph(" · ".join(both(by, k, " ") for k in legend), 7.5, FAINT)


def _other_measurements(
    names: Sequence[str], values: Mapping[tuple[str, str], Measurement], by: Authorship, heading: Paragraph | None
) -> Iterator[Flowable]:
    """Yield the numbers that few regions have: a row each, a column for each region."""
    sites = list(dict.fromkeys(site for site, name in values if name in names))
    rows: list[list[object]] = [["", *(_row_head(partial(codes.site_label, site), by, small=True) for site in sites)]]
    for name in names:
        labels = " ".join(dict.fromkeys(codes.measurement(name).label[tag] for tag in languages(by)))
        row = [values.get((site, name)) for site in sites]
        rows.append([paragraph(labels, 8, INK), *(_figure(number(m), m) if m else "" for m in row)])
    table = Table(rows, [80 * mm, *[(WIDTH - 80 * mm) / len(sites)] * len(sites)], repeatRows=1, style=_LINES)
    yield KeepTogether([*([] if heading is None else [heading]), table])


def _label(name: str, by: Authorship, unit: str = "") -> list[Paragraph]:
    """Return the head of a column of numbers, one line a language, the unit last."""
    labels = dict.fromkeys(codes.measurement(name).label[tag] for tag in languages(by))
    made = [paragraph(label, 7.5, SOFT, align=TA_RIGHT) for label in labels]
    return [*made, paragraph(f"({unit})", 7.5, SOFT, align=TA_RIGHT)] if unit else made


def _figure(words: str, m: Measurement) -> Paragraph:
    return paragraph(words, 9, FAINT if m.value is None else INK, align=TA_RIGHT)


def _rest(said: Narratives, by: Authorship) -> Iterator[Flowable]:
    """Yield what has no table: what is missing and why, image quality, limits, origin."""
    tags = languages(by)
    for parts in zip(*(said[tag] for tag in tags), strict=True):
        if parts[0].topic in _TABLES:
            continue
        made: list[Flowable] = [_heading("   ".join(part.heading for part in parts))]
        for n, (tag, part) in enumerate(zip(tags, parts, strict=True)):
            made += [paragraph(line, 9, INK if n == 0 else SOFT, language=tag) for line in part.lines]
        yield KeepTogether(made)


def _image(picture: Raster, width: float) -> Image:
    png = BytesIO()
    picture.save(png, "PNG", compress_level=1)
    png.seek(0)
    return Image(png, width, width * picture.height / picture.width)


def _pictures(result: Result, values: Values, sources: Sources, by: Authorship) -> Iterator[Flowable]:
    if isinstance(values, Radiograph):
        graded = only_quality(result)
        picture = (
            next(quality_card.pictures(result, values, sources, RADIOGRAPH_PX))
            if graded
            else render(values, result, RADIOGRAPH_PX, RADIOGRAPH_PX)
        )
        yield KeepTogether(
            [_heading(both(by, "key_images")), _image(picture, WIDTH * 0.7 * picture.width / RADIOGRAPH_PX)]
        )
        return
    side = (WIDTH - (_PER_ROW - 1) * 2 * mm) / _PER_ROW
    images: list[Flowable] = [_image(picture, side) for picture in pictures(result, values, sources, PICTURE_PX)]
    rows = [images[n : n + _PER_ROW] for n in range(0, len(images), _PER_ROW)]
    rows[-1] += [""] * (_PER_ROW - len(rows[-1]))
    style = [(f"{edge}PADDING", (0, 0), (-1, -1), 1 * mm) for edge in ("LEFT", "RIGHT", "TOP", "BOTTOM")]
    table = Table(rows, [side + 2 * mm] * _PER_ROW, style=style)
    yield KeepTogether([_heading(both(by, "key_images")), table])
