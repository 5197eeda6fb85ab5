"""A result about images alone: what its objects say, in which order, and where; and what of it the gate does not let pass."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from sr_writer import gate, quality_card
from sr_writer.canvas import GRADE_CHIP, GRADES
from sr_writer.profiles import Form, Piece, shipped, wanted
from sr_writer.quality import figures
from sr_writer.write import Artifact, write_result
from tests.sr_writer import radiographs
from tests.sr_writer.graded import claim_of, graded, quality_of
from tests.sr_writer.radiographs import radiograph_case
from tests.sr_writer.test_gate_attacked import items, swapped_patient

pytestmark = pytest.mark.unit

PIECES = tuple(p for p in wanted(shipped().values(), result=True) if p.form.object != "seg")
Change = Callable[[Dataset, Any], object]


def written(case: Any, helpers: Any, out: Path, pieces: tuple[Piece, ...] = PIECES) -> dict[str, list[Artifact]]:
    """Write everything that a profile wants of a case, see that it may leave, and return it by kind."""
    made = write_result(
        case.result, case.volume, case.series, case.identity, case.options, out, helpers.now, pieces=pieces
    )
    refused = gate.check(made, case.series.instances, (), claim_of(case))
    assert [(r.artifact.name, r.reason.code, r.reason.text["en"]) for r in refused] == []
    kinds: dict[str, list[Artifact]] = {}
    for artifact in made:
        kinds.setdefault(artifact.kind, []).append(artifact)
    return kinds


@pytest.fixture(scope="module")
def image(helpers: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, list[Artifact]]]:
    """A radiograph of grade C."""
    folder = tmp_path_factory.mktemp("graded")
    case = graded(radiograph_case(folder, "DX", "GB18030", patient_name="王^小东", photometric="MONOCHROME1"))
    return case, written(case, helpers, folder / "out")


@pytest.fixture(scope="module")
def series(
    positive: Any, helpers: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, dict[str, list[Artifact]]]:
    """A CT series of grade D."""
    case = graded(positive, "D")
    return case, written(case, helpers, tmp_path_factory.mktemp("graded"))


def groups(ds: Dataset) -> list[Dataset]:
    container = next(i for i in ds.ContentSequence if code_of(i) == "126010")
    return list(container.ContentSequence)


def code_of(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue) if "ConceptNameCodeSequence" in item else ""


def told(group: Dataset, code: str) -> list[str]:
    return [str(i.ConceptCodeSequence[0].CodeValue) for i in group.ContentSequence if code_of(i) == code]


def comments(item: Dataset) -> list[str]:
    return [str(i.TextValue) for i in item.ContentSequence if code_of(i) == "121106"]


def report(kinds: dict[str, list[Artifact]]) -> Dataset:
    return pydicom.dcmread(kinds["sr"][0].path)


def main_group(ds: Dataset) -> Dataset:
    return next(g for g in groups(ds) if told(g, "QUALITY_GRADE"))


# ---- the report


def test_the_report_has_the_grade_and_every_finding_worst_first(series: Any) -> None:
    ds = report(series[1])
    group = main_group(ds)
    assert told(group, "QUALITY_GRADE") == ["GRADE_D"]
    assert told(group, "111050") == told(group, "130550") == ["RID14"], "of the series"
    assert told(group, "111052") == ["SLICES_TWICE", "111209", "LUNG_CUT_BOTTOM", "NOISE_HIGH"]
    said = comments(group)
    assert [line.split(":")[0] for line in said[::2]] == ["Alarm (D)", "Alarm (C)", "Remark (B)", "Not evaluated"]
    assert said[2] == (
        "Alarm (C): Left costophrenic angle cut by about 12 mm. (measured: 12 mm, limit: 5 mm) "
        "To decide: check whether a repeat is justified."
    )
    assert said[3] == "警示（C）：左侧肋膈角被截去约 12 mm。（测得 12 mm，限值 5 mm）供判断：是否有必要重复摄片。"
    assert said[1::2][-1] == "未评估：噪声：图像为 8 位。"
    whole = comments(ds)
    assert whole[0].startswith("Image quality of the series: D: not usable. 2 alarms, 1 remark.")
    assert "nothing that this program looks for" not in whole[0]


def test_a_limit_of_nothing_or_before_it_says_what_it_means(image: Any, helpers: Any, tmp_path: Path) -> None:
    case = image[0]
    for limit, says, zh in (
        (0.0, "limit: 0 mm, the border of the image", "限值 0 mm，图像边缘"),
        (-2.0, "limit: -2 mm, that far inside the border", "限值 -2 mm，即距边缘以内"),
    ):
        noise, cut = case.result.quality.findings
        found = (replace(noise, limit=0.0), replace(cut, limit=limit))
        changed = replace(case, result=replace(case.result, quality=replace(case.result.quality, findings=found)))
        made = written(changed, helpers, tmp_path / says[:12], (Piece(Form("sr")), Piece(Form("text"))))
        text = " ".join(c for g in groups(pydicom.dcmread(made["sr"][0].path)) for c in comments(g))
        assert says in text
        assert zh in text
        assert "limit: 0, none expected" in text
    assert figures(replace(noise, value=-30.0, unit="mm", limit=-4.0), "en") == "measured: -30 mm, limit: -4 mm"


def test_a_number_bears_its_limit(image: Any) -> None:
    numbers = [i for i in main_group(report(image[1])).ContentSequence if i.ValueType == "NUM"]
    assert [code_of(i) for i in numbers] == ["LUNG_CUT_BOTTOM", "NOISE_HIGH"]
    limits = [i for i in numbers[0].ContentSequence if i.ValueType == "NUM"]
    assert [(code_of(i), float(i.MeasuredValueSequence[0].NumericValue)) for i in limits] == [("371933006", 5.0)]
    assert not told(main_group(report(image[1])), "130550"), "of one image"


def test_a_place_is_a_region_on_its_image(image: Any) -> None:
    case, kinds = image
    place = case.result.quality.findings[1].place
    for ds in map(pydicom.dcmread, [a.path for kind in ("sr", "csr") for a in kinds[kind]]):
        (group,) = [g for g in groups(ds) if told(g, "111052") and not told(g, "QUALITY_GRADE")]
        (region,) = [i for i in group.ContentSequence if i.ValueType == "SCOORD"]
        x, y = region.GraphicData[::2], region.GraphicData[1::2]
        assert (min(x), max(x), min(y), max(y)) == (*place.columns, *place.rows)
        named = region.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        assert named == place.image.sop_instance_uid
        assert told(group, "121071") == ["LUNG_CUT_BOTTOM"]
        assert comments(group)[0].startswith("Alarm (C): Left costophrenic angle")


@pytest.mark.parametrize(("grade", "assessment"), [("A", "RID12"), ("B", "RID12")])
def test_a_good_image_is_said_to_be_one(helpers: Any, image: Any, tmp_path: Path, grade: str, assessment: str) -> None:
    case = graded(image[0], grade)
    kinds = written(case, helpers, tmp_path, (Piece(Form("sr")), Piece(Form("text"))))
    ds = report(kinds)
    assert told(main_group(ds), "111050") == [assessment]
    nothing = "Nothing that was measured is beyond its limit." in comments(ds)[0]
    assert nothing == (grade == "A")
    assert "decides" not in comments(ds)[0]


# ---- the gate


def judged(name: str, kind: str, change: Change | None, image: Any, folder: Path) -> set[str]:
    """Return for which codes an object of the radiograph is refused after a change."""
    case, kinds = image
    artifact = kinds[kind][0]
    path = Path(shutil.copy(artifact.path, folder / f"{name}-{artifact.name}"))
    if change is not None:
        ds = pydicom.dcmread(path)
        change(ds, case)
        ds.save_as(path)
    beside = [kinds[k][0] for k in ("sc", "gsps", "quality_kos") if k in kinds and k != kind]
    found = gate.check([replace(artifact, path=path), *beside], case.series.instances, (), claim_of(case))
    return {r.reason.code for r in found if r.artifact.path == path}


def coded(old: str, new: str) -> Change:
    def apply(ds: Dataset, _: Any) -> None:
        for item in items(ds):
            if item.get("CodeValue") == old:
                item.CodeValue = new

    return apply


def numbers(ds: Dataset, name: str) -> Iterator[Dataset]:
    yield from (i for i in items(ds) if i.get("ValueType") == "NUM" and code_of(i) == name)


def number(name: str, new: float) -> Change:
    def apply(ds: Dataset, _: Any) -> None:
        for item in numbers(ds, name):
            item.MeasuredValueSequence[0].NumericValue = new
            item.MeasuredValueSequence[0].FloatingPointValue = new

    return apply


def worded(old: str, new: str) -> Change:
    def apply(ds: Dataset, _: Any) -> None:
        changed = [i for i in items(ds) if old in str(i.get("TextValue", ""))]
        assert changed, f"no {old!r}"
        for item in changed:
            item.TextValue = str(item.TextValue).replace(old, new)

    return apply


def moved(ds: Dataset, _: Any) -> None:
    """Draw the place where it is not: of the whole, mirrored to the other side."""
    for item in items(ds):
        if item.get("ValueType") == "SCOORD" and len(item.GraphicData) == 18:
            item.GraphicData = [v - 20 if n % 2 == 0 else v for n, v in enumerate(item.GraphicData)]


def without_place(ds: Dataset, _: Any) -> None:
    container = next(i for i in ds.ContentSequence if code_of(i) == "126010")
    kept = [g for g in container.ContentSequence if not told(g, "111052") or told(g, "QUALITY_GRADE")]
    container.ContentSequence = kept


REPORTED: dict[str, tuple[Change, str]] = {
    "a better grade": (coded("GRADE_C", "GRADE_B"), "quality-differs"),
    "a better assessment": (coded("RID13", "RID12"), "quality-differs"),
    "another finding": (coded("LUNG_CUT_BOTTOM", "LUNG_CUT_TOP"), "quality-differs"),
    "another standard finding": (coded("111209", "111210"), "quality-differs"),
    "another value": (number("LUNG_CUT_BOTTOM", 1.0), "number-differs"),
    "another limit": (number("371933006", 20.0), "number-differs"),
    "the limit on the other side": (coded("371933006", "385524004"), "number-differs"),
    "another place": (moved, "quality-differs"),
    "a place left out": (without_place, "quality-differs"),
    "another grade in words": (worded("of this image: C", "of this image: B"), "quality-differs"),
    "an alarm called a remark of B": (worded("Alarm (C)", "Remark (B)"), "quality-differs"),
    "value and limit exchanged": (worded("12 mm, limit: 5", "5 mm, limit: 12"), "quality-differs"),
    "another number in Chinese": (worded("约 12 mm", "约 2 mm"), "number-differs"),
    "another patient": (swapped_patient, "identity-differs"),
}


@pytest.mark.parametrize("attack", REPORTED)
def test_a_wrong_grade_does_not_leave_in_a_report(image: Any, tmp_path: Path, attack: str) -> None:
    change, code = REPORTED[attack]
    assert code in judged(attack, "sr", change, image, tmp_path)


def test_a_wrong_grade_in_the_text_does_not_leave(image: Any, helpers: Any, tmp_path: Path) -> None:
    case, kinds = image
    kinds = {**kinds, **written(case, helpers, tmp_path / "text", (Piece(Form("text")),))}
    assert not judged("as it is", "text", None, (case, kinds), tmp_path)
    assert "quality-differs" in judged("grade", "text", worded("grade C", "grade A"), (case, kinds), tmp_path)


# ---- the other objects


def test_every_profile_brings_a_grade_and_nothing_without_content(series: Any, image: Any) -> None:
    assert set(series[1]) == set(image[1]) == {"sr", "csr", "sc", "gsps", "quality_kos", "overlay", "pdf"}
    assert len(series[1]["overlay"]) == 1, "of the place"
    assert "Image quality grade C: limited" in str(pydicom.dcmread(image[1]["gsps"][0].path))


def test_without_alarm_and_place_there_is_less(helpers: Any, positive: Any, tmp_path: Path) -> None:
    kinds = written(graded(positive, "B"), helpers, tmp_path)
    assert set(kinds) == {"sr", "csr", "sc", "overlay", "pdf"}
    assert len(kinds["overlay"]) == 1, "where one is always sent"


def test_bad_images_are_named_and_not_rejected(series: Any, image: Any) -> None:
    ds = pydicom.dcmread(image[1]["quality_kos"][0].path)
    assert ds.ConceptNameCodeSequence[0].CodeValue == "113010"
    assert "113001" not in str(ds)
    modifiers = [str(i.ConceptCodeSequence[0].CodeValue) for i in ds.ContentSequence if code_of(i) == "113011"]
    assert modifiers == ["111209"]
    (said,) = [str(i.TextValue) for i in ds.ContentSequence if code_of(i) == "113012"]
    assert "AI: Image quality grade C: limited" in said
    assert "警示（C）：左侧肋膈角被截去约 12 mm。" in said
    assert "noisy" not in said, "a remark marks no image"
    case, kinds = series
    named = [
        i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for i in pydicom.dcmread(kinds["quality_kos"][0].path).ContentSequence
        if i.ValueType == "IMAGE"
    ]
    images = case.result.geometry.images
    assert set(named) == {images[n].sop_instance_uid for n in (0, 2, 3)}, "the place, and the two that stand twice"


def test_an_alarm_about_the_whole_series_names_all_of_it(series: Any, helpers: Any, tmp_path: Path) -> None:
    case = series[0]
    all_of_it = replace(case.result.quality.findings[0], grade="C")
    result = replace(case.result, quality=replace(case.result.quality, grade="C", findings=(all_of_it,)))
    kinds = written(replace(case, result=result), helpers, tmp_path, (Piece(Form("quality_kos")),))
    items_of = [i for i in pydicom.dcmread(kinds["quality_kos"][0].path).ContentSequence if i.ValueType == "IMAGE"]
    assert len(items_of) == len(case.series.instances)


def test_a_window_that_leaves_little_grey_is_still_its_image(helpers: Any, tmp_path: Path) -> None:
    """A bad picture is what a card of a grade shows."""
    folder = tmp_path / "window"
    case = radiograph_case(folder, "DX")
    path = next((folder / "dicom").iterdir())
    ds = pydicom.dcmread(path)
    low, high = int(ds.pixel_array.min()), int(ds.pixel_array.max())
    ds.WindowCenter, ds.WindowWidth = low + (high - low) // 20, max((high - low) // 40, 2)
    ds.save_as(path)
    case = graded(radiographs.from_folder(folder))
    assert set(written(case, helpers, tmp_path / "out", (Piece(Form("sc")),))) == {"sc"}


# ---- and the gate before them


def kos_of_another(ds: Dataset, case: Any) -> None:
    reference = next(i for i in ds.ContentSequence if i.ValueType == "IMAGE").ReferencedSOPSequence[0]
    reference.ReferencedSOPInstanceUID = case.result.geometry.images[7].sop_instance_uid


def kos_of_fewer(ds: Dataset, _: Any) -> None:
    ds.ContentSequence = [i for i in ds.ContentSequence if i.ValueType != "IMAGE"] + [
        next(i for i in ds.ContentSequence if i.ValueType == "IMAGE")
    ]


def rejecting(ds: Dataset, _: Any) -> None:
    ds.ConceptNameCodeSequence[0].CodeValue = "113001"


def beside(ds: Dataset, _: Any) -> None:
    for annotation in ds.GraphicAnnotationSequence:
        for graphic in annotation.get("GraphicObjectSequence") or ():
            graphic.GraphicData = [v - 5 if n % 2 == 0 else v for n, v in enumerate(graphic.GraphicData)]


def unframed(ds: Dataset, _: Any) -> None:
    for annotation in ds.GraphicAnnotationSequence:
        annotation.pop("GraphicObjectSequence", None)


def labelled(ds: Dataset, _: Any) -> None:
    for item in items(ds):
        if "UnformattedTextValue" in item:
            item.UnformattedTextValue = str(item.UnformattedTextValue).replace("grade C", "grade A")


def painted(turn: Callable[[np.ndarray], None]) -> Change:
    def apply(ds: Dataset, _: Any) -> None:
        pixels = ds.pixel_array.copy()
        turn(pixels)
        ds.PixelData = pixels.tobytes()

    return apply


def green(pixels: np.ndarray) -> None:
    x, y, side = GRADE_CHIP
    pixels[y : y + side, x : x + side] = GRADES["A"]


def rubbed_out(pixels: np.ndarray) -> None:
    """Make the frames on the image grey."""
    part = pixels[128:954, 24:896]
    part[(part == GRADES["C"]).all(axis=2)] = 90


def framed_elsewhere(pixels: np.ndarray) -> None:
    pixels[300:400, 300:303] = pixels[300:400, 397:400] = GRADES["C"]


def described(ds: Dataset, _: Any) -> None:
    ds.DerivationDescription = str(ds.DerivationDescription).replace("grade C", "grade A").replace("grade D", "grade A")


OTHERS: dict[str, tuple[str, str, Change, str]] = {
    "another image is named": ("series", "quality_kos", kos_of_another, "quality-differs"),
    "not all bad images are named": ("series", "quality_kos", kos_of_fewer, "quality-differs"),
    "bad images are rejected": ("series", "quality_kos", rejecting, "rejects-what-is-not-ours"),
    "key images of another patient": ("series", "quality_kos", swapped_patient, "identity-differs"),
    "another grade in the key images": ("image", "quality_kos", worded("grade C", "grade D"), "quality-differs"),
    "a place is drawn elsewhere": ("image", "gsps", beside, "quality-differs"),
    "a place is not drawn": ("image", "gsps", unframed, "quality-differs"),
    "another grade on the image": ("image", "gsps", labelled, "quality-differs"),
    "another colour of the grade": ("image", "sc", painted(green), "quality-differs"),
    "a frame is missing on the card": ("image", "sc", painted(rubbed_out), "quality-differs"),
    "a frame too many on the card": ("image", "sc", painted(framed_elsewhere), "quality-differs"),
    "another grade of the card": ("series", "sc", described, "quality-differs"),
}


@pytest.mark.parametrize("attack", OTHERS)
def test_a_wrong_grade_does_not_leave_otherwise(image: Any, series: Any, tmp_path: Path, attack: str) -> None:
    which, kind, change, code = OTHERS[attack]
    assert code in judged("other", kind, change, image if which == "image" else series, tmp_path)


def test_no_image_is_called_bad_without_an_alarm(image: Any, series: Any) -> None:
    for case, kinds in (image, series):
        artifact = kinds["quality_kos"][0]
        for claim in (claim_of(replace(case, result=replace(case.result, quality=quality_of(case.result, "B")))), None):
            found = gate.check([artifact], case.series.instances, (), claim)
            assert "quality-differs" in {r.reason.code for r in found}


def test_the_card_shows_whole_images(series: Any) -> None:
    """What is cut or missing shows at the border, wherever the body was found."""
    case = series[0]
    for view, _ in quality_card._reformats(case.result):
        rows, columns = view.window(case.result)
        axes = [n for k, n in enumerate(case.result.geometry.shape) if k != view.axis]
        assert sorted((rows, columns)) == sorted((0, n) for n in axes)
