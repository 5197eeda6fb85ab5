"""The card: one picture that says why there is no result."""

from collections.abc import Sequence

from dicom_io import elements
from dicom_io.model import Study
from dicom_io.reason import Reason
from sr_writer import codes
from sr_writer.canvas import AMBER, BRIGHT, FAINT, PANEL, SIZE, SOFT, Canvas
from sr_writer.considered import Considered
from sr_writer.fonts import drawable
from sr_writer.header import Authorship
from sr_writer.summary import LEFT, frame

MAX_SERIES = 8
_WIDTH = SIZE[0] - 2 * LEFT


def draw(reason: Reason, outcome: str, study: Study, considered: Sequence[Considered], by: Authorship) -> Canvas:
    """Return the card; no name or identifier of the patient is on it."""
    date = elements.text(study.header, "StudyDate")
    day = f"Study {date[:4]}-{date[4:6]}-{date[6:8]} · " if len(date) == 8 else ""
    canvas = frame(f"card_{outcome}", by, f"{day}{len(study.series)} series · {len(study.instances)} images")
    languages = drawable(by.options.languages)
    y = 140
    canvas.box(LEFT, y, _WIDTH, 340, PANEL)
    canvas.box(LEFT, y, 6, 340, AMBER, 3)
    y += 20
    for n, tag in enumerate(languages):
        canvas.text(LEFT + 32, y, codes.text("reason", tag), 15, FAINT)
        y = (
            canvas.paragraph(LEFT + 32, y + 24, _WIDTH - 64, reason.text[tag], 30 if n == 0 else 24, BRIGHT, lines=2)
            + 6
        )
        if reason.hint.get(tag):
            hint = f"{codes.text('hint', tag)}: {reason.hint[tag]}"
            y = canvas.paragraph(LEFT + 32, y, _WIDTH - 64, hint, 16, SOFT, lines=2)
        y += 18
    canvas.text(SIZE[0] - LEFT - 16, 452, reason.code, 13, FAINT, align="right")
    _series(canvas, study, considered, languages)
    return canvas


def _series(canvas: Canvas, study: Study, considered: Sequence[Considered], languages: Sequence[str]) -> None:
    rows = {s.series_instance_uid: s for s in study.series}
    known = [c for c in considered if c.series_instance_uid in rows]
    y = 500
    canvas.box(LEFT, y, _WIDTH, SIZE[1] - 46 - y, PANEL)
    at = LEFT + 32 + canvas.text(LEFT + 32, y + 16, codes.text("considered", languages[0]), 18) + 12
    for tag in languages[1:]:
        canvas.text(at, y + 18, codes.text("considered", tag), 15, SOFT)
    y += 52
    for item in known[:MAX_SERIES]:
        series = rows[item.series_instance_uid]
        number = elements.text(series.header, "SeriesNumber") or "-"
        canvas.rule(LEFT + 32, y - 6, _WIDTH - 64)
        canvas.text(LEFT + 32, y, f"Series {number}", 15)
        canvas.text(LEFT + 150, y, f"{series.modality} · {len(series.instances)} images", 14, SOFT)
        width = _WIDTH - 64 - 330
        below = canvas.paragraph(LEFT + 330, y, width, item.reason.text[languages[0]], 15, BRIGHT, lines=1)
        for tag in languages[1:]:
            canvas.paragraph(LEFT + 330, below, width, item.reason.text[tag], 13, FAINT, lines=1)
        y += 48
    if len(known) > MAX_SERIES:
        canvas.text(LEFT + 32, y, codes.text("more_series", languages[0], count=len(known) - MAX_SERIES), 13, FAINT)
