"""Quality of chest radiographs: phantoms with one thing wrong each, and every real file that there is."""

import re
from collections.abc import Iterator
from dataclasses import replace
from math import isfinite
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from scipy import ndimage

from dicom_io.errors import DicomIOError
from dicom_io.model import Study, group
from dicom_io.read import read_instance
from phantom.radiograph import Radiograph
from pipeline import registry
from pipeline.api import Pipeline
from pipeline.errors import NotAnalysed
from pipeline.options import CxrQualityOptions
from pipeline.quality.cxr import checks
from pipeline.quality.cxr.pipeline import LIMITS, PACKAGE
from pipeline.quality.grade import table
from pipeline.reasons import REASONS
from sr_writer import codes
from tests.pipeline.quality.cxr_cases import Change, alarms, judged, put, said, seen, spoiled, study

NAME = "cxr_quality"


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return registry.load(NAME, CxrQualityOptions())


@pytest.mark.unit
def test_every_limit_has_texts_and_a_code() -> None:
    rows = table(PACKAGE, LIMITS)
    assert {row.code for row in rows} <= set(REASONS)
    assert [row.code for row in rows if codes.quality_finding(row.code) is None] == []


@pytest.mark.unit
def test_a_good_image_has_a_good_grade_and_says_what_was_not_judged(
    tmp_path: Path, chest: Radiograph, pipeline: Pipeline
) -> None:
    chosen = pipeline.select(study(tmp_path, chest)).chosen
    assert chosen is not None
    made = pipeline.run(chosen).result
    assert made.quality.grade in "AB", made.quality.findings
    assert made.region("body").mask.voxels == chest.array.size
    assert {r.code for r in made.quality.not_evaluated} >= {"cxr-exposure-not-stated", "cxr-landmarks"}
    assert made.quality.measures["noise_percent"].value > 0
    for tag in ("en", "zh-CN"):
        assert made.quality.grade in made.summary[tag]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("change", "code"),
    [
        (put(PresentationIntentType="FOR PROCESSING"), "cxr-for-processing"),
        (put(SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1.1"), "cxr-for-processing"),
        (put(SOPClassUID="1.2.840.10008.5.1.4.1.1.1.2"), "cxr-not-radiograph"),
        (put(BodyPartExamined="KNEE"), "cxr-other-body-part"),
        (put(ViewPosition="LL"), "cxr-other-view"),
        (put(ViewPosition="", SeriesDescription="Thorax LAT"), "cxr-other-view"),
        (put(SpecificCharacterSet="ISO_IR 192", ViewPosition="", SeriesDescription="胸部侧位"), "cxr-other-view"),
        (put(SamplesPerPixel=3, PhotometricInterpretation="RGB"), "cxr-colour"),
        (put(PhotometricInterpretation="MONOHR1"), "cxr-photometric"),
        (put(Rows=100), "cxr-small"),
        (put(NumberOfFrames=2), "cxr-many-frames"),
    ],
)
def test_what_is_no_frontal_chest_image_is_refused(
    tmp_path: Path, chest: Radiograph, change: Change, code: str
) -> None:
    selection = registry.selector(NAME).select(study(tmp_path, chest, change))
    assert selection.chosen is None
    assert selection.reason is not None
    assert selection.reason.code == code


@pytest.mark.unit
def test_an_image_of_an_impossible_shape_is_looked_at_with_square_pixels_or_refused(
    tmp_path: Path, chest: Radiograph, pipeline: Pipeline
) -> None:
    chosen = pipeline.select(study(tmp_path / "a", chest, put(ImagerPixelSpacing=[0.1, 2.0]))).chosen
    assert chosen is not None
    quality = pipeline.run(chosen).result.quality
    assert "cxr-size-assumed" in {r.code for r in quality.not_evaluated}
    assert "no-frontal-chest" not in said(quality)
    long = np.tile(chest.array[:200], (1, 15))
    change = put(Rows=long.shape[0], Columns=long.shape[1], PixelData=long.tobytes())
    chosen = pipeline.select(study(tmp_path / "b", chest, change)).chosen
    assert chosen is not None
    with pytest.raises(NotAnalysed) as refused:
        pipeline.run(chosen)
    assert refused.value.reason.code == "cxr-narrow"


@pytest.mark.unit
def test_a_description_that_names_both_views_refuses_nothing(tmp_path: Path, chest: Radiograph) -> None:
    change = put(SpecificCharacterSet="ISO_IR 192", ViewPosition="", SeriesDescription="Chest PA/LAT 正位侧位")
    assert registry.selector(NAME).select(study(tmp_path, chest, change)).chosen is not None


@pytest.mark.unit
def test_the_page_of_checks_has_the_table_of_limits() -> None:
    page = (Path(checks.__file__).parent / "CHECKS.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `([a-z-]+)` \| (.) \| ([^|]*) \| `(\w+)` \|", page, re.MULTILINE)
    expected = []
    for row in table(PACKAGE, LIMITS):
        until = f" up to {row.until:g}" if isfinite(row.until) else ""
        bound = f"{row.beyond} {row.bound:g}{until}" if row.unit else "yes"
        expected.append((row.code, row.grade, f"{bound} {row.unit.strip('1')}".strip(), row.measure))
    assert told == expected


@pytest.mark.unit
def test_the_deviation_index_is_computed_and_never_more_than_a_remark(tmp_path: Path, chest: Radiograph) -> None:
    change = put(ExposureIndex="126", TargetExposureIndex="200", DeviationIndex="-2.0")
    within = judged(tmp_path / "a", chest, seen(chest), change)
    assert within.measures["deviation_index"].value == pytest.approx(-2.007, abs=1e-3)  # 10 lg(126 / 200)
    assert said(within).isdisjoint({"exposure-below-target", "deviation-index-disagrees"})
    far = judged(
        tmp_path / "b", chest, seen(chest), put(ExposureIndex="1000", TargetExposureIndex="200", DeviationIndex="1.0")
    )
    assert said(far) >= {"exposure-above-target", "deviation-index-disagrees"}
    assert far.grade == "B"
    assert "cxr-exposure-not-stated" not in {r.code for r in far.not_evaluated}


@pytest.mark.unit
def test_what_the_header_says_of_copies_and_sides_is_told(tmp_path: Path, chest: Radiograph) -> None:
    change = put(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.7",
        BurnedInAnnotation="YES",
        PatientOrientation=["R", "F"],
        ViewPosition="PA",
    )
    found = said(judged(tmp_path / "a", chest, seen(chest), change))
    assert found >= {"secondary-capture", "text-burned-in-stated", "header-says-mirrored"}
    turned = judged(tmp_path / "b", chest, seen(chest), put(PatientOrientation=["F", "R"]))
    assert "header-says-turned" in said(turned)


def _moved(image: np.ndarray, pixels: int) -> np.ndarray:
    return np.mean([np.roll(image, k, axis=1) for k in range(pixels)], axis=0)


@pytest.mark.unit
def test_blur_and_motion_are_told_apart(tmp_path: Path, chest: Radiograph) -> None:
    blurred = spoiled(chest, ndimage.gaussian_filter(chest.array.astype(float), 2 / chest.pixel_mm))
    moved = spoiled(chest, _moved(chest.array.astype(float), round(8 / chest.pixel_mm)))
    assert "image-blurred" in alarms(judged(tmp_path / "a", blurred, seen(chest)))
    assert "image-moved" in alarms(judged(tmp_path / "b", moved, seen(chest)))


@pytest.mark.unit
def test_lost_values_are_told_with_their_share_whatever_is_black(tmp_path: Path, chest: Radiograph) -> None:
    lung = chest.array[chest.right | chest.left]
    lost = float(np.quantile(lung, 0.1))
    clipped = spoiled(chest, np.maximum(chest.array, lost) - lost)
    inverse = replace(clipped, array=4095 - clipped.array, exposure=replace(chest.exposure, photometric="MONOCHROME1"))
    found = [judged(tmp_path / str(n), made, seen(chest)) for n, made in enumerate((clipped, inverse))]
    assert all("values-clipped" in alarms(q) for q in found)
    assert found[0].measures["clipped_percent"].value == pytest.approx(found[1].measures["clipped_percent"].value)


def radiographs(folder: Path) -> Iterator[tuple[str, Study]]:
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            (found,) = group([read_instance(path)])
        except DicomIOError:
            continue
        for _, piece in registry.subjects(NAME, found):
            yield path.name, piece


@pytest.mark.data
def test_every_real_radiograph_is_graded_or_refused_with_the_right_reason(real_data: Path, pipeline: Pipeline) -> None:
    said_of: dict[str, str] = {}
    for name, piece in radiographs(real_data / "dicom_zoo"):
        selection = pipeline.select(piece)
        if selection.chosen is None:
            assert selection.reason is not None
            said_of[name] = selection.reason.code
            continue
        try:
            said_of[name] = pipeline.run(selection.chosen).result.quality.grade
        except (NotAnalysed, DicomIOError) as error:
            said_of[name] = error.reason.code
    assert said_of == {
        "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm": "B",
        "CR-MONO1-10-chest": "A",
        "Fake_MONOHR1.dcm": "C",
        "RG1_J2KI.dcm": "A",
        "chrJapMulti.dcm": "cxr-small",
        "chrKoreanMulti.dcm": "cxr-small",
        "normal1.dcm": "cxr-colour",
        "pneumonia1.dcm": "cxr-colour",
    }


@pytest.mark.unit
def test_mammography_ct_and_hostile_headers_are_refused_calmly(tmp_path: Path, chest: Radiograph) -> None:
    def strip(ds: Dataset) -> None:
        for keyword in ("Modality", "BodyPartExamined", "ViewPosition", "PatientOrientation"):
            delattr(ds, keyword)

    selection = registry.selector(NAME).select(study(tmp_path, chest, strip))
    assert selection.reason is not None
    assert selection.reason.code == "cxr-not-radiograph"
    assert pydicom.dcmread(tmp_path / "image.dcm").get("Modality") is None
