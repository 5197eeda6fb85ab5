"""What is said of a radiograph once a model has seen how it lies and where its lungs are."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from phantom.radiograph import Radiograph
from pipeline.errors import NotAnalysed
from pipeline.quality.cxr.model import Seen
from tests.pipeline.quality.cxr_cases import alarms, judged, one_of, put, said, seen, spoiled


@pytest.mark.unit
@pytest.mark.parametrize(
    ("what", "code", "grade_"),
    [
        ({"chest": 0.02}, "no-frontal-chest", "D"),
        ({"inverted": 0.99}, "image-inverted", "C"),
        ({"orientation": one_of("turned-90")}, "image-turned", "C"),
        ({"orientation": one_of("mirrored")}, "image-mirrored", "C"),
        ({"tilt_deg": -11.0}, "image-tilted", "C"),
    ],
)
def test_what_the_model_sees_becomes_a_finding(
    tmp_path: Path, chest: Radiograph, what: dict[str, Any], code: str, grade_: str
) -> None:
    assert code not in said(judged(tmp_path / "a", chest, seen(chest)))
    quality = judged(tmp_path / "b", chest, seen(chest, **what))
    (finding,) = [f for f in quality.findings if f.reason.code == code]
    assert finding.grade == quality.grade == grade_


@pytest.mark.unit
def test_the_cut_border_is_named_by_the_side_of_the_patient_with_millimetres_and_place(
    tmp_path: Path, chest: Radiograph
) -> None:
    """Pixels are 1.19 mm and the longer side is 352 of them: 0.03 of it are 12.6 mm."""
    whole = seen(chest)
    assert whole.margins is not None
    for border, code in (("left", "right-side-cut"), ("right", "left-side-cut"), ("top", "apices-cut")):
        cut = replace(whole, margins=replace(whole.margins, **{border: -0.03}))
        quality = judged(tmp_path / border, chest, cut)
        (finding,) = [f for f in quality.findings if f.reason.code in alarms(quality)]
        assert (finding.reason.code, finding.unit) == (code, "mm")
        assert finding.value == pytest.approx(12.57, abs=0.05)
        assert "13 mm" in finding.reason.text["en"]
        assert finding.place is not None
    assert finding.place.rows[0] == 0
    assert finding.place.rows[1] < 30


@pytest.mark.unit
def test_the_base_that_reaches_further_down_is_the_one_that_is_cut(tmp_path: Path, chest: Radiograph) -> None:
    whole = seen(chest)
    assert whole.margins is not None
    low = whole.left.copy()
    low[: round(0.9 * len(low)), int(0.7 * low.shape[1])] = 1
    cut = replace(whole, left=low, margins=replace(whole.margins, bottom=-0.03))
    assert alarms(judged(tmp_path, chest, cut)) == {"left-base-cut"}


@pytest.mark.unit
def test_where_the_sides_are_in_doubt_none_is_named(tmp_path: Path, chest: Radiograph) -> None:
    whole = seen(chest, orientation=one_of("mirrored"))
    assert whole.margins is not None
    cut = replace(whole, margins=replace(whole.margins, left=-0.03))
    assert alarms(judged(tmp_path, chest, cut)) == {"image-mirrored", "lung-border-cut"}


@pytest.mark.unit
def test_without_a_spacing_lengths_are_said_to_be_assumed(tmp_path: Path, chest: Radiograph) -> None:
    stated = judged(tmp_path / "a", chest, seen(chest))
    assumed = judged(tmp_path / "b", chest, seen(chest), put(ImagerPixelSpacing=None))
    code = "cxr-size-assumed"
    assert [code in {r.code for r in q.not_evaluated} for q in (stated, assumed)] == [False, True]


@pytest.mark.unit
def test_sides_that_the_header_owns_up_to_are_no_alarm_and_those_it_gets_wrong_are(
    tmp_path: Path, chest: Radiograph
) -> None:
    owns = put(PatientOrientation=["R", "F"])
    mirrored = seen(chest, orientation=one_of("mirrored"))
    assert alarms(judged(tmp_path / "a", chest, mirrored, owns)) == set()
    assert alarms(judged(tmp_path / "b", chest, seen(chest), owns)) == {"sides-contradict"}


@pytest.mark.unit
def test_an_image_that_its_header_says_is_turned_is_judged_like_the_upright_one(
    tmp_path: Path, chest: Radiograph
) -> None:
    """Its rows are shorter than its columns, so that a spacing or a place that was not turned shows."""
    whole = seen(chest)
    assert whole.margins is not None
    cut = replace(whole, margins=replace(whole.margins, top=-0.03, left=-0.02))
    upright = judged(tmp_path / "0", chest, cut, put(ImagerPixelSpacing=[1.2, 1.0]))
    rows, columns = chest.array.shape
    assert alarms(upright) >= {"apices-cut", "right-side-cut"}
    for turns, stated, edge in ((1, "FR", "columns"), (2, "RH", "rows"), (3, "HL", "columns")):
        spacing = [1.2, 1.0] if turns == 2 else [1.0, 1.2]
        turned = np.rot90(chest.array, turns)
        pixels = {"Rows": turned.shape[0], "Columns": turned.shape[1], "PixelData": turned.tobytes()}
        change = put(PatientOrientation=list(stated), ImagerPixelSpacing=spacing, **pixels)
        found = judged(tmp_path / str(turns), chest, cut, change)
        assert said(found) == said(upright) | {"header-says-turned"}
        assert found.grade == "C"
        assert "cxr-not-upright" not in {r.code for r in found.not_evaluated}
        assert found.measures["cut_top_mm"] == upright.measures["cut_top_mm"]
        apex = next(f.place for f in found.findings if f.reason.code == "apices-cut")
        at_end = rows if turns > 1 else 0  # the head is on the left, below, on the right
        assert apex is not None
        assert at_end in getattr(apex, edge), turns
        assert np.ptp(getattr(apex, edge)) < 20
        low, high = next(f.place.columns for f in upright.findings if f.reason.code == "apices-cut" and f.place)
        along = getattr(apex, "rows" if edge == "columns" else "columns")
        assert along == ((low, high) if turns == 3 else (columns - high, columns - low))


@pytest.mark.unit
def test_a_header_that_is_wrong_about_a_turn_is_an_alarm(tmp_path: Path, chest: Radiograph) -> None:
    lies = seen(chest, orientation=one_of("turned-90"))
    found = judged(tmp_path, chest, lies, put(PatientOrientation=["F", "R"]))
    assert alarms(found) == {"turn-contradicts"}
    assert said(found) >= {"header-says-turned"}


@pytest.mark.unit
def test_sides_are_not_compared_where_a_border_cuts_much_of_a_lung(tmp_path: Path, chest: Radiograph) -> None:
    def looks_mirrored(share: float) -> Seen:
        return seen(chest, orientation=np.array([1 - share, 0, 0, 0, share, 0, 0, 0], np.float32))

    for n, (share, left, judged_) in enumerate(((0.8, -0.04, True), (0.8, -0.07, False), (0.99, -0.07, True))):
        mirrored = looks_mirrored(share)
        assert mirrored.margins is not None
        cut = replace(mirrored, margins=replace(mirrored.margins, left=left))
        found = judged(tmp_path / str(n), chest, cut)
        assert ("image-mirrored" in alarms(found)) is judged_
        assert ("cxr-sides-cut" in {r.code for r in found.not_evaluated}) is not judged_
        assert "lung-border-cut" in alarms(found), "no side is named while the sides are in doubt"
    alone = replace(looks_mirrored(0.8), left=np.zeros_like(mirrored.left))
    assert "image-mirrored" not in said(judged(tmp_path / "one", chest, alone))
    usual = judged(tmp_path / "usual", chest, replace(looks_mirrored(0.01), margins=cut.margins))
    assert "cxr-sides-cut" not in {r.code for r in usual.not_evaluated}


@pytest.mark.unit
def test_where_the_header_promises_no_chest_and_the_pixels_show_none_it_is_refused(
    tmp_path: Path, chest: Radiograph
) -> None:
    change = put(BodyPartExamined="", SeriesDescription="", StudyDescription="")
    with pytest.raises(NotAnalysed) as refused:
        judged(tmp_path, chest, seen(chest, chest=0.02), change)
    assert (refused.value.reason.code, refused.value.reason.klass) == ("cxr-no-chest", "not_applicable")


@pytest.mark.unit
def test_of_an_image_that_lies_on_its_side_nothing_is_said_about_its_borders(tmp_path: Path, chest: Radiograph) -> None:
    quality = judged(tmp_path, chest, seen(chest, orientation=one_of("turned-90")))
    assert "cut_top_mm" not in quality.measures
    assert "cxr-not-upright" in {r.code for r in quality.not_evaluated}


@pytest.mark.unit
def test_a_wire_over_the_lungs_and_writing_beside_them_are_told_with_their_places(
    tmp_path: Path, chest: Radiograph
) -> None:
    array = chest.array.astype(float)
    row = round(float(np.argwhere(chest.left)[:, 0].mean()))
    column = round(float(np.argwhere(chest.left)[:, 1].mean()))
    array[row - 25 : row + 25, column : column + 2] += 1500
    for k in range(6):
        array[4:12, 10 + 7 * k : 14 + 7 * k] = 4095
    quality = judged(tmp_path, spoiled(chest, array), seen(chest))
    found = {f.reason.code: f for f in quality.findings}
    wire, text = found["object-over-lungs"], found["writing-burned-in"]
    assert wire.value == pytest.approx(60, abs=6)
    assert text.value == 6
    assert wire.place is not None
    assert text.place is not None
    assert wire.place.columns[0] - 3 <= column <= wire.place.columns[1] + 3
    assert text.place.rows[1] <= 14


@pytest.mark.unit
def test_noise_is_measured_and_twice_as_much_is_twice_as_much(tmp_path: Path, chest: Radiograph) -> None:
    rng = np.random.default_rng(3)
    plain = ndimage.gaussian_filter(chest.array.astype(float), 1.5)
    found = [
        judged(tmp_path / str(s), spoiled(chest, plain + s * rng.standard_normal(plain.shape)), seen(chest))
        for s in (10, 20)
    ]
    one, two = (q.measures["noise_percent"].value for q in found)
    assert two == pytest.approx(2 * one, rel=0.15)
    assert ["image-noisy" in alarms(q) for q in found] == [False, True]


@pytest.mark.unit
def test_a_copy_of_8_bits_says_that_its_noise_was_not_judged(tmp_path: Path, chest: Radiograph) -> None:
    quality = judged(tmp_path, spoiled(chest, chest.array // 16), seen(chest))
    assert "noise_percent" not in quality.measures
    assert "cxr-noise-of-copy" in {r.code for r in quality.not_evaluated}


@pytest.mark.unit
def test_a_plain_frame_is_no_part_of_the_image(tmp_path: Path, chest: Radiograph) -> None:
    framed = np.pad(chest.array, 60)
    made = replace(
        chest, array=framed, body=np.pad(chest.body, 60),
        exposure=replace(chest.exposure, rows=framed.shape[0], columns=framed.shape[1]),
    )  # fmt: skip
    quality = judged(tmp_path, made, seen(chest))
    assert "image-in-frame" in said(quality)
    added = 100 * (1 - chest.array.size / framed.size)
    assert added < quality.measures["frame_percent"].value < added + 10  # and some air
