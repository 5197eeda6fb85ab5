"""What is wrong with a chest CT series is found, named and measured; a sound one draws no alarm."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import generate_uid
from scipy import ndimage

import phantom
from dicom_io.model import Study
from phantom import Phantom, datasets
from phantom.dicom import INTERCEPT, save
from pipeline.errors import NotAnalysed
from pipeline.options import ChestCtOptions, CtQualityOptions
from pipeline.registry import load, subjects
from pipeline.result import Quality

pytestmark = pytest.mark.unit

Change = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def chest() -> Phantom:
    return phantom.build(31, lesions="none", matrix=240, thickness_mm=5.0, noise_hu=8.0)


@pytest.fixture
def series(tmp_path: Path, chest: Phantom, read: Callable[[Path], Study]) -> Callable[..., Study]:
    """Write the chest with other pixels, fewer or repeated slices, or other header values; return the study."""

    def make(change: Change = lambda a: a, slices: Sequence[int] | None = None, **header: object) -> Study:
        array = change(chest.array.astype(np.float32))
        sources = list(datasets(chest))
        for n, z in enumerate(range(len(sources)) if slices is None else slices):
            ds = sources[z]
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(
                entropy_srcs=[str(tmp_path), str(n)]
            )
            ds.PixelData = np.clip(np.rint(array[z]) - INTERCEPT, 0, 4095).astype("<u2").tobytes()
            ds.Rows, ds.Columns = array.shape[1:]
            for keyword, value in header.items():
                setattr(ds, keyword, value)
            save(ds, tmp_path / f"{n}.dcm")
        return read(tmp_path)

    return make


@pytest.fixture
def graded(series: Callable[..., Study]) -> Callable[..., Quality]:
    pipeline = load("ct_quality", CtQualityOptions())

    def work(change: Change = lambda a: a, slices: Sequence[int] | None = None, **header: object) -> Quality:
        ((_, piece),) = subjects("ct_quality", series(change, slices, **header))
        selection = pipeline.select(piece)
        assert selection.chosen is not None, selection.reason
        return pipeline.run(selection.chosen).result.quality

    return work


def alarms(quality: Quality) -> dict[str, float | None]:
    return {f.reason.code: f.value for f in quality.findings if f.grade in ("C", "D")}


def height(chest: Phantom) -> tuple[int, int]:
    levels = np.flatnonzero(chest.lung.any(axis=(1, 2)))
    return int(levels[0]), int(levels[-1])


def test_sound_chest(graded: Callable[..., Quality]) -> None:
    quality = graded()
    assert alarms(quality) == {}
    assert quality.not_evaluated == ()


def test_slice_lacking(graded: Callable[..., Quality], chest: Phantom) -> None:
    quality = graded(slices=[z for z in range(len(chest.array)) if z != 20])
    assert alarms(quality) == {"slices-lacking-at": 1.0}
    (finding,) = (f for f in quality.findings if f.grade == "C")
    assert "10 mm" in finding.reason.text["en"]
    assert finding.place is not None


def test_slice_twice(graded: Callable[..., Quality], chest: Phantom) -> None:
    assert alarms(graded(slices=[*range(len(chest.array)), 20])) == {"slices-repeated": 1.0}


def test_order_of_files_is_no_defect(graded: Callable[..., Quality], chest: Phantom) -> None:
    assert alarms(graded(slices=np.random.default_rng(0).permutation(len(chest.array)).tolist())) == {}


def test_thick_slices(graded: Callable[..., Quality]) -> None:
    assert list(alarms(graded(SliceThickness="10"))) == ["slices-too-thick"]


@pytest.mark.parametrize(("code", "end"), [("base-cut", 0), ("apex-cut", 1)])
def test_end_of_the_lungs_lacking(graded: Callable[..., Quality], chest: Phantom, code: str, end: int) -> None:
    """Of 20 mm, as far as a cross-section can tell: the ends of a phantom are blunter than those of people."""
    bottom, top = height(chest)
    found = alarms(graded(slices=range(bottom + 4, len(chest.array)) if end == 0 else range(top - 3)))
    assert list(found) == [code]
    assert 8 < (found[code] or 0) < 60


def test_sides_outside_the_field_of_view(graded: Callable[..., Quality], chest: Phantom) -> None:
    columns = np.flatnonzero(chest.lung.any(axis=(0, 1)))
    cut = slice(int(columns[0]) + 7, int(columns[-1]) - 6)
    found = alarms(graded(lambda a: a[:, :, cut]))
    assert list(found) == ["side-cut"]
    assert 5 < (found["side-cut"] or 0) < 40


def test_two_slices_with_each_others_pixels(graded: Callable[..., Quality]) -> None:
    def exchanged(array: np.ndarray) -> np.ndarray:
        array[[18, 26]] = array[[26, 18]]
        return array

    quality = graded(exchanged)
    assert list(alarms(quality)) == ["slices-exchanged"]
    (finding,) = (f for f in quality.findings if f.grade in ("C", "D"))
    assert any(f"{n}" in finding.reason.text["en"] for n in (19, 27))
    assert finding.scope == "instance"


def test_blur(graded: Callable[..., Quality], chest: Phantom) -> None:
    wide = 2.0 / chest.grid.steps_mm[1]
    assert "ct-blurred" in alarms(graded(lambda a: ndimage.gaussian_filter(a, (0, wide, wide))))


def test_doubled_edges(graded: Callable[..., Quality]) -> None:
    def moved(array: np.ndarray) -> np.ndarray:
        array[20:38] = (array[20:38] + np.roll(array[20:38], 4, axis=2)) / 2
        return array

    assert "ct-moved" in alarms(graded(moved))


def test_metal_and_its_place(graded: Callable[..., Quality]) -> None:
    def rod(array: np.ndarray) -> np.ndarray:
        array[10:40, 150:156, 110:116] = 3071
        return array

    quality = graded(rod)
    assert list(alarms(quality)) == ["metal-large"]
    (finding,) = (f for f in quality.findings if f.grade == "C")
    assert finding.place is not None
    assert (finding.place.rows, finding.place.columns) == ((150, 156), (110, 116))


def test_noise_against_what_is_usual(graded: Callable[..., Quality]) -> None:
    grain = np.random.default_rng(5)
    assert list(alarms(graded(lambda a: a + grain.normal(0, 25, a.shape)))) == ["noise-far-above"]


@pytest.mark.parametrize("hu", [60, -40])
def test_wrong_intercept(graded: Callable[..., Quality], hu: int) -> None:
    found = alarms(graded(RescaleIntercept=str(-1024 + hu)))
    assert found["hu-offset"] == pytest.approx(hu, abs=8)


def test_mirrored_patient_is_told_with_situs_inversus_left_open(graded: Callable[..., Quality]) -> None:
    quality = graded(lambda a: a[:, :, ::-1])
    assert list(alarms(quality)) == ["sides-exchanged"]
    (finding,) = (f for f in quality.findings if f.grade == "C")
    assert "situs inversus" in finding.reason.text["en"]


def test_patient_upside_down_by_the_positions_of_the_slices(series: Callable[..., Study]) -> None:
    study = series()
    for image in study.instances:
        x, y, z = image.header.ImagePositionPatient
        image.header.ImagePositionPatient = [x, y, -z]
    pipeline = load("ct_quality", CtQualityOptions())
    selection = pipeline.select(study)
    assert selection.chosen is not None
    quality = pipeline.run(selection.chosen).result.quality
    assert list(alarms(quality)) == ["ends-exchanged"]
    (finding,) = (f for f in quality.findings if f.grade == "C")
    assert finding.place is not None


def test_lungs_of_plain_air_are_no_living_lungs(graded: Callable[..., Quality], chest: Phantom) -> None:
    assert "lungs-air" in alarms(graded(lambda a: np.where(chest.lung > 0, -995, a)))


def test_what_could_not_be_judged_is_said(graded: Callable[..., Quality]) -> None:
    quality = graded(lambda a: a[:, ::3, ::3], PixelSpacing=["4.8", "4.8"], ConvolutionKernel="")
    assert {"sharpness-not-judged", "motion-not-judged", "kernel-unknown"} <= {r.code for r in quality.not_evaluated}
    assert "pixels-coarse" in {f.reason.code for f in quality.findings}


def test_no_chest(graded: Callable[..., Quality], chest: Phantom) -> None:
    quality = graded(lambda a: np.where(chest.lung > 0, 40, a))
    assert quality.grade == "D"
    assert "not-a-chest" in alarms(quality)
    assert "quality-without-lungs" in {r.code for r in quality.not_evaluated}


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({"BodyPartExamined": "HEAD", "SeriesDescription": "5 mm", "ProtocolName": "", "StudyDescription": ""}, "study-other-body-part"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "series-localizer"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MIP"]}, "series-projection"),
    ],
)  # fmt: skip
def test_what_is_not_graded(series: Callable[..., Study], header: dict[str, object], code: str) -> None:
    selection = load("ct_quality", CtQualityOptions()).select(series(slices=range(10), **header))
    assert selection.reason is not None
    assert (selection.chosen, selection.reason.code, selection.reason.klass) == (None, code, "not_applicable")


@pytest.mark.parametrize("code", ["images-out-of-order", "densities-off"])
def test_chest_ct_gives_no_numbers_of_images_that_cannot_be_trusted(series: Callable[..., Study], code: str) -> None:
    def exchanged(array: np.ndarray) -> np.ndarray:
        array[[18, 26]] = array[[26, 18]]
        return array

    study = series(exchanged) if code == "images-out-of-order" else series(RescaleIntercept=INTERCEPT + 60)
    pipeline = load("chest_ct", ChestCtOptions(), "cpu")
    selection = pipeline.select(study)
    assert selection.chosen is not None
    with pytest.raises(NotAnalysed) as refused:
        pipeline.run(selection.chosen)
    assert (refused.value.reason.code, refused.value.reason.klass) == (code, "unable")


def test_chest_ct_names_no_side_where_heart_and_liver_lie_on_the_other(series: Callable[..., Study]) -> None:
    pipeline = load("chest_ct", ChestCtOptions(), "cpu")
    selection = pipeline.select(series(lambda a: a[:, :, ::-1]))
    assert selection.chosen is not None
    result = pipeline.run(selection.chosen).result
    assert "sides-exchanged" in {f.reason.code for f in result.quality.findings}
    status = {(m.name, m.site): m.status for m in result.measurements}
    assert status["lung_volume", "lungs"] == "ok"
    sides = {s for (_, site), s in status.items() if site != "lungs"}
    assert sides == {"not_computable"}
    assert result.notes[0].code == "sides-exchanged"
    assert "opposite" in result.summary["en"]
    assert "right" not in result.summary["en"].split(":", 1)[1].split(".", 1)[1]
