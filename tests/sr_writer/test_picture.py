"""The pictures: right way round, nobody's name on them, everything within the frame, readable without Chinese fonts."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image

import phantom
from dicom_io.model import group
from dicom_io.reason import Reason
from sr_writer import canvas, fonts, gate, overlay, summary, tiles, write
from sr_writer.considered import Considered
from sr_writer.header import Authorship
from sr_writer.options import WriterOptions
from sr_writer.palette import segment_colours
from sr_writer.sources import Sources

pytestmark = pytest.mark.unit


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float, int, str]]:
    """Every line that is drawn: left and right end, y, text."""
    lines: list[tuple[float, float, int, str]] = []
    draw = canvas.Canvas.text

    def record(self: Any, x: float, y: int, text: str, size: int, *args: Any, align: str = "left") -> float:
        width = draw(self, x, y, text, size, *args, align=align)
        left = x - {"left": 0.0, "middle": width / 2, "right": width}[align]
        lines.append((left, left + width, y, text))
        return width

    monkeypatch.setattr(canvas.Canvas, "text", record)
    return lines


def _card(case: Any, helpers: Any, out: Path, reason: Reason, count: int = 1) -> tuple[write.Artifact, ...]:
    study = group(case.series.instances)[0]
    considered = [Considered(case.series.series_instance_uid, reason)] * count
    return write.write_card(
        reason, "not_analysed", study, case.identity, case.options, out, helpers.now, considered=considered
    )


def authorship(case: Any, languages: tuple[str, ...]) -> Authorship:
    first = Sources(case.series.instances).first
    return Authorship(
        first.header, case.identity, WriterOptions(languages=languages), datetime(2026, 3, 4, tzinfo=UTC), 1
    )


LONG = "The chest is not shown from apex to base, since " + "slices are missing and " * 12 + "so it goes."
ZH_LONG = "胸部未完整显示，" + "层面缺失，" * 30 + "无法评价。"


def test_38_preview_and_object_are_the_same_picture(written: Any) -> None:
    case, artifacts = written
    preview = np.asarray(Image.open(case.folder / "out" / "preview.png"))
    assert (pydicom.dcmread(artifacts["sc"].path).pixel_array == preview).all()


def test_nobody_is_named_and_nothing_leaves_the_frame(
    positive: Any, helpers: Any, tmp_path: Path, said: list[tuple[float, float, int, str]]
) -> None:
    notes = (helpers.reason("long", LONG, ZH_LONG),) * 2
    result = replace(positive.result, notes=notes, summary={"en": LONG, "zh-CN": ZH_LONG})
    helpers.write(replace(positive, result=result), tmp_path / "a")
    _card(positive, helpers, tmp_path / "b", replace(notes[0], hint={"en": LONG, "zh-CN": ZH_LONG}), 12)
    assert len(said) > 100
    header = positive.series.header
    forbidden = {str(header.PatientName), header.PatientID, header.AccessionNumber, header.PatientBirthDate, "Phantom"}
    for left, right, y, text in said:
        assert not any(f and f in text for f in forbidden), text
        assert 0 <= left <= right <= canvas.SIZE[0] + 0.5, text
        assert 0 <= y <= canvas.SIZE[1] - 12, text
    texts = " ".join(t for *_, t in said)
    assert "not for primary diagnosis" in texts
    assert "未经核实" in texts or not fonts.has_chinese()


@pytest.mark.parametrize("languages", [("en", "zh-CN"), ("zh-CN", "en"), ("en",)])
def test_nothing_in_the_table_touches_its_neighbour(
    languages: Any, positive: Any, helpers: Any, said: list[tuple[float, float, int, str]]
) -> None:
    """Numbers as wide as they get: those of large lungs, all of them lower bounds."""
    wide = {"opacity_volume": 1234.5, "mean_lung_density": -801.0}
    why = helpers.reason("bound", "At least.", "不低于。")
    numbers = tuple(
        replace(m, value=7654.0, status="ok", reason=None)
        if m.name == "lung_volume"
        else replace(m, value=wide.get(m.name, 88.8), status="lower_bound", reason=why)
        for m in positive.result.measurements
    )
    by = authorship(positive, languages)
    summary.draw(
        replace(positive.result, measurements=numbers), positive.volume, Sources(positive.series.instances), by
    )
    panel = sorted(line for line in said if line[0] >= summary.PANEL_X)
    assert len([t for *_, t in panel if t.startswith("≥ 1234.5")]) >= 9
    for left, right, y, text in panel:
        beside = [line for line in panel if abs(line[2] - y) <= 6 and (left, text) < (line[0], line[3])]
        for other in beside:
            assert other[0] - right >= 3, f"{text!r} touches {other[3]!r}"


def test_findings_are_called_in_the_language_of_the_document(
    positive: Any, said: list[tuple[float, float, int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    by = authorship(positive, ("zh-CN", "en"))
    summary.draw(positive.result, positive.volume, Sources(positive.series.instances), by)
    label = positive.result.segments[positive.result.findings[0].segment_number - 1].label
    assert any(t == label["zh-CN"] for *_, t in said)
    assert not any(t == label["en"] for *_, t in said)
    assert {"体积", "平均"} <= {t for *_, t in said}
    drawn: list[str] = []
    monkeypatch.setattr(overlay, "_write", lambda _pen, words, *_: drawn.append(words))
    monkeypatch.setattr(overlay, "_NAMED_FROM_PX", 0)
    finding = positive.result.segments[positive.result.findings[0].segment_number - 1].mask
    z = finding.offset[0] + finding.box.shape[0] // 2
    overlay.draw(z, positive.result, positive.volume, positive.series.instances[0], by)
    assert label["zh-CN"] in drawn


def test_without_a_chinese_font_english_stands_alone_and_says_so(
    negative: Any, helpers: Any, tmp_path: Path, said: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (fonts.cjk_path, fonts.latin_path):
        path.cache_clear()
    monkeypatch.setattr(fonts, "CJK_FONTS", ())
    monkeypatch.setattr(fonts, "LATIN_FONTS", ())
    try:
        options = replace(negative.options, languages=("zh-CN", "en"))
        helpers.write(negative, tmp_path, options=options)
        texts = " ".join(t for *_, t in said)
        assert "not for primary diagnosis" in texts
        assert "no Chinese font is installed" in texts
        assert not any(ord(c) >= 0x2E80 for c in texts)
        drawn = "".join(part for part, _ in fonts.runs("≥ 12 cm³ – 未经核实", 14))
        assert drawn == "> 12 cm3 - "
    finally:
        for path in (fonts.cjk_path, fonts.latin_path):
            path.cache_clear()


@pytest.mark.parametrize(
    ("row", "column", "letters"),
    [
        ((1, 0, 0), (0, 1, 0), ("R", "L", "A", "P")),
        ((-1, 0, 0), (0, 1, 0), ("L", "R", "A", "P")),
        ((-1, 0, 0), (0, -1, 0), ("L", "R", "P", "A")),  # prone
        ((1, 0, 0), (0, 0, -1), ("R", "L", "H", "F")),
        ((0, 1, 0), (0, 0, -1), ("A", "P", "H", "F")),
        ((0.9, 0.3, 0), (-0.3, 0.9, 0.1), ("R", "L", "A", "P")),
    ],
)
def test_letters_say_where_the_edges_point(row: Any, column: Any, letters: Any) -> None:
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = row, column, np.cross(row, column)
    assert tiles.source_view(affine, 0).letters == letters


@pytest.mark.parametrize(
    "how", [{}, {"plane": "coronal"}, {"plane": "sagittal"}, {"feet_first": True}, {"plane": "oblique"}]
)
def test_the_reformat_hangs_as_radiologists_hang_it(how: dict[str, Any], helpers: Any, tmp_path: Path) -> None:
    case = helpers.case(tmp_path, phantom.build(9, slices=28, matrix=64, lesions="none", **how), negative=True)
    view = tiles.reformat_view(case.result)
    left, right, top, bottom = view.letters
    assert (left, right) == ("R", "L")
    assert (top, bottom) == (("A", "P") if how.get("plane") == "coronal" else ("H", "F"))
    masks = {r.site: view.mask(r.mask) for r in case.result.regions}
    centre = {s: np.argwhere(masks[s]).mean(axis=0) for s in ("left_lung", "right_lung")}
    assert centre["right_lung"][1] < centre["left_lung"][1]  # patient right on the left of the picture
    if top == "H":
        thirds = [np.argwhere(masks[f"right_lung_{t}_third"])[:, 0].mean() for t in ("upper", "middle", "lower")]
        assert thirds == sorted(thirds)
    plane = view.plane(case.volume.array)
    assert plane.shape == masks["lungs"].shape
    assert plane[masks["lungs"] > 0].mean() < -500 < plane[(masks["body"] > 0) & (masks["lungs"] == 0)].mean()


def test_findings_are_drawn_in_their_colour_where_they_are(positive: Any) -> None:
    result = positive.result
    finding = max(result.findings, key=lambda f: f.measurements[0].value or 0)
    segment = result.segments[finding.segment_number - 1]
    z = next(v for v in tiles.key_views(result) if segment.mask.plane(v.index).any())
    with_it = np.asarray(tiles.render(z, positive.volume, result, 200, "Im 1"), int)
    colour = np.array(segment_colours(result)[segment.number])
    near = np.abs(with_it - colour).sum(axis=2) < 60
    assert near.sum() > 10
    _, columns = np.nonzero(near)
    side = columns.mean() - 100
    assert (side > 0) == (finding.centroid_mm[0] > 0)  # axial: patient left on the right of the picture


def test_cards_differ_with_what_they_say(negative: Any, helpers: Any, tmp_path: Path) -> None:
    one, two = (helpers.reason(c, f"Because of {c}.", f"因为 {c}。") for c in ("this", "that"))
    cards = [_card(negative, helpers, tmp_path / str(n), r)[0] for n, r in enumerate((one, two, one))]
    assert cards[0].sop_instance_uid != cards[1].sop_instance_uid
    assert cards[0].path.read_bytes() == cards[2].path.read_bytes()
    for card in cards:
        assert (card.kind, card.name, card.modality) == ("card", "card.dcm", "OT")
        assert gate.check([card], negative.series.instances) == ()
        assert "not analysed" in pydicom.dcmread(card.path).SeriesDescription
    assert (tmp_path / "0" / "preview.png").is_file()


def test_a_card_replaces_what_an_earlier_analysis_left(negative: Any, helpers: Any, tmp_path: Path) -> None:
    helpers.write(negative, tmp_path)
    _card(negative, helpers, tmp_path, helpers.reason("this", "Because.", "因为。"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["card.dcm", "preview.png"]


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("", 100, 3),
        ("word " * 40, 200, 3),
        ("字" * 200, 200, 2),
        ("a" * 300, 100, 2),
        ("混合 mixed 文本 text，标点。" * 9, 150, 4),
    ],
)
def test_wrapped_lines_fit(text: str, width: int, lines: int) -> None:
    wrapped = canvas.wrap(text, 14, width, lines)
    assert 1 <= len(wrapped) <= lines
    assert all(canvas.width_of(line, 14) <= width for line in wrapped)
