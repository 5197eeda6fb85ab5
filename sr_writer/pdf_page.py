"""Pages of PDF documents: fonts, paragraphs in several scripts, the frame around every page.

The same input gives the same bytes on one machine: reportlab writes no clock (`invariant`), fonts are embedded as subsets in the
order in which their glyphs occur, and pictures are compressed without loss.
"""

import unicodedata
from collections.abc import Sequence
from functools import cache
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from pydicom.valuerep import PersonName
from reportlab import rl_config
from reportlab.lib.colors import Color
from reportlab.lib.enums import TA_CENTER, TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFError, TTFont
from reportlab.platypus import Flowable, Paragraph, SimpleDocTemplate
from reportlab.platypus.flowables import CallerMacro

from dicom_io import elements
from sr_writer import fonts
from sr_writer.codes import text
from sr_writer.device import MANUFACTURER, MODEL_NAME, SOFTWARE_VERSION
from sr_writer.header import Authorship

rl_config.useA85 = 0
"""Streams stay bytes: a fifth smaller, and the encoding took half of the time."""

WIDTH: float = A4[0] - 32 * mm
"""Of the text, in points."""
_LEFT, _TOP, _BOTTOM = 16 * mm, 28 * mm, 17 * mm
_PADDING = 6
"""Of reportlab's frames, in points."""
_TOTAL = "pages"
INK, SOFT, FAINT, RULE = (Color(v, v, v + 0.04) for v in (0.1, 0.35, 0.5, 0.82))
AMBER, PALE = Color(1.0, 0.757, 0.027), Color(1.0, 0.973, 0.882)


class Fonts(NamedTuple):
    """Names under which reportlab knows the fonts; what has no Chinese font is written without Chinese."""

    latin: str
    chinese: str | None


@cache
def installed() -> Fonts:
    """Return the fonts that can be embedded: those with TrueType outlines; for Latin text reportlab brings one along."""
    latin = _register("node-latin", [p for p in (fonts.latin_path(),) if p] + ["Vera.ttf"])
    chinese = _register("node-chinese", [p for p in fonts.CJK_FONTS if Path(p).is_file()])
    return Fonts(latin or "Helvetica", chinese)


def _register(name: str, paths: Sequence[str]) -> str | None:
    for path in paths:
        try:
            pdfmetrics.registerFont(TTFont(name, path))
        except TTFError:  # the outlines of Noto CJK are PostScript's
            continue
        return name
    return None


def languages(by: Authorship) -> Sequence[str]:
    """Return the languages that can be written; English stands in where there is no Chinese font."""
    return [tag for tag in by.options.languages if tag == "en" or installed().chinese] or ["en"]


def _has(name: str | None, character: str) -> bool:
    return name is not None and ord(character) in pdfmetrics.getFont(name).face.charToGlyph


def markup(words: str) -> str:
    """Return text as reportlab's paragraphs take it, each script in its font."""
    latin, chinese = installed()
    out = []
    for part, is_chinese in fonts.scripts(words):
        if is_chinese and chinese:
            out.append(f'<font name="{chinese}">{escape(part, quote=False)}</font>')
        elif not is_chinese:
            out.append(escape("".join(c if _has(latin, c) else fonts.spelt(c) for c in part), quote=False))
    return "".join(out)


def paragraph(
    words: str, size: float = 9, colour: Color = INK, *, language: str = "en", align: int = 0, after: float = 0
) -> Paragraph:
    """Return wrapped text of `size` points; Chinese breaks anywhere."""
    style = ParagraphStyle(
        "", fontName=installed().latin, fontSize=size, leading=size * 1.35, textColor=colour, alignment=align,
        spaceAfter=after, wordWrap="CJK" if language.startswith("zh") else None,
    )  # fmt: skip
    return Paragraph(markup(words), style)


def both(by: Authorship, name: str, separator: str = "   ", **values: object) -> str:
    """Return a text of ``texts.toml`` in every language."""
    return separator.join(text(name, tag, **values) for tag in languages(by))


def document(story: Sequence[Flowable], by: Authorship, title: str) -> bytes:
    """Return the pages that hold `story`, each with banner, whose report it is, origin and page number."""
    out = BytesIO()
    doc = SimpleDocTemplate(
        out, pagesize=A4, leftMargin=_LEFT - _PADDING, rightMargin=_LEFT - _PADDING, topMargin=_TOP, bottomMargin=_BOTTOM, invariant=1,
        pageCompression=1, title=title, author=MANUFACTURER, subject=text("banner", "en"), lang=languages(by)[0],
        creator=f"{MODEL_NAME} {SOFTWARE_VERSION}", producer=f"{MODEL_NAME} {SOFTWARE_VERSION}",
    )  # fmt: skip

    def decorate(canvas: Any, _doc: object) -> None:  # noqa: ANN401 - reportlab has no types
        _frame(canvas, by)

    doc.build([*story, CallerMacro(drawCallable=_count)], onFirstPage=decorate, onLaterPages=decorate)
    return out.getvalue()


def _count(flowable: Any) -> None:  # noqa: ANN401 - reportlab has no types
    """On the last page, say what all pages show as their number."""
    canvas = flowable.canv
    canvas.beginForm(_TOTAL, 0, 0, 30, 10)
    canvas.setFont(installed().latin, 7)
    canvas.setFillColor(FAINT)
    canvas.drawString(0, 2.6, str(canvas.getPageNumber()))
    canvas.endForm()


def _frame(canvas: Any, by: Authorship) -> None:  # noqa: ANN401 - reportlab has no types
    top = A4[1]
    canvas.setFillColor(AMBER)
    canvas.rect(0, top - 13 * mm, A4[0], 13 * mm, stroke=0, fill=1)
    marks = [both(by, "banner", "   ·   ")] + ([both(by, "research")] if by.options.research else [])
    for n, words in enumerate(marks):
        _put(canvas, paragraph(words, 9 - 1.5 * n, align=TA_CENTER), top - (6.5 + 5 * n) * mm)
    _put(canvas, paragraph(identity_line(by), 8.5), top - 22 * mm)
    canvas.setStrokeColor(RULE)
    for y in (top - 25 * mm, 14 * mm):
        canvas.line(_LEFT, y, A4[0] - _LEFT, y)
    identity = by.identity
    digest = identity.weights_digest.removeprefix("sha256:")[:16]
    said = f"{identity.pipeline} {identity.version} · weights {digest} · inputs {identity.input_digest[7:23]}"
    said += f" · {MODEL_NAME} {SOFTWARE_VERSION} · {by.local:%Y-%m-%d %H:%M}"
    if len(languages(by)) < len(by.options.languages):
        said += " · " + text("no_chinese_font", "en")
    _put(canvas, paragraph(said, 7, FAINT), 9.5 * mm)
    page = text("page", languages(by)[0], page=canvas.getPageNumber())
    _put(canvas, paragraph(page, 7, FAINT, align=TA_RIGHT), 9.5 * mm, right=12)
    canvas.saveState()
    canvas.translate(A4[0] - _LEFT - 10, 9.5 * mm)
    canvas.doForm(_TOTAL)
    canvas.restoreState()


def _put(canvas: Any, words: Paragraph, y: float, right: float = 0) -> None:  # noqa: ANN401 - reportlab has no types
    """Draw one line of text whose box ends at `y`, `right` points short of the right margin."""
    words.wrap(WIDTH - right, A4[1])
    words.drawOn(canvas, _LEFT, y)


def identity_line(by: Authorship) -> str:
    """Return whose report it is: a page that was printed or exported has left its DICOM header behind."""
    source, language = by.source, languages(by)[0]
    rows = [
        ("patient", _name(source.get("PatientName"), by) or text("name_not_shown", language)),
        ("patient_id", _shown(elements.text(source, "PatientID"), by)),
        ("birth_date", _day(elements.text(source, "PatientBirthDate"))),
        ("sex", elements.text(source, "PatientSex")),
        ("study_date", _day(elements.text(source, "StudyDate"))),
        ("accession", _shown(elements.text(source, "AccessionNumber"), by)),
    ]
    return " · ".join(text(name, language, value=value) for name, value in rows if value)


def _name(name: PersonName | str | None, by: Authorship) -> str:
    """Return every group of a name (alphabetic, ideographic, phonetic) that can be shown."""
    groups = [" ".join(part for part in group.split("^") if part) for group in str(name or "").split("=")]
    return " / ".join(dict.fromkeys(shown for group in groups if (shown := _shown(group, by))))


def _shown(words: str, by: Authorship) -> str:
    """Return `words` if they can be set right, else nothing: every glyph is there, and nothing needs shaping."""
    whole = unicodedata.normalize("NFC", words)
    latin, chinese = installed()
    ok = all(
        _has(chinese if part_is_chinese else latin, c)
        and unicodedata.bidirectional(c) not in {"R", "AL", "AN"}
        and not unicodedata.category(c).startswith("M")
        for part, part_is_chinese in fonts.scripts(whole)
        for c in part
    )
    return whole if ok and (whole.isascii() or not by.ascii_only) else ""


def _day(date: str) -> str:
    return f"{date[:4]}-{date[4:6]}-{date[6:]}" if len(date) == 8 and date.isdigit() else ""
