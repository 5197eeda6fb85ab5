"""The series table, row by row: one accepted series, and one change that each row refuses."""

import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian, SecondaryCaptureImageStorage

from dicom_io.model import Instance, Study, group
from pipeline.chest_ct.select import rules, select, sharp_kernel
from pipeline.reasons import REASONS

pytestmark = pytest.mark.unit

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"


def headers(
    count: int = 100, spacing: float = 3.0, *, series: str = "1.2.3", start: float = 0.0, **changes: Any
) -> list[Dataset]:
    """Return the headers of one CT series; a change to None deletes the element, a callable gets the slice number."""
    out = []
    for n in range(count):
        ds = Dataset()
        ds.SOPClassUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = CT, "1.2", series
        ds.SOPInstanceUID, ds.InstanceNumber = f"{series}.{n + 1}", n + 1
        ds.Modality, ds.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.Rows, ds.Columns, ds.PixelSpacing = 512, 512, [0.7, 0.7]
        ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-180, -180, start + n * spacing]
        ds.SliceThickness, ds.FrameOfReferenceUID, ds.ConvolutionKernel = spacing, "1.2.9", "STANDARD"
        ds.PatientAge, ds.PhotometricInterpretation = "058Y", "MONOCHROME2"
        for keyword, value in changes.items():
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value(n) if callable(value) else value)
        out.append(ds)
    return out


def study_of(*series: Iterable[Dataset]) -> Study:
    """Return the study of all these headers."""
    instances = [Instance(Path("none"), "0" * 64, ImplicitVRLittleEndian, ds) for one in series for ds in one]
    (study,) = group(instances)
    return study


CORONAL = [1, 0, 0, 0, 0, -1]

# what is wrong -> the code that says so; together they cover every row of the table (see the last test)
REFUSED: list[tuple[str, Mapping[str, Any], str]] = [
    ("another modality", {"Modality": "PT"}, "series-not-ct"),
    ("a presentation state", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.11.1"}, "series-not-ct-images"),
    ("a localizer", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "series-localizer"),
    ("a secondary capture", {"SOPClassUID": SecondaryCaptureImageStorage}, "series-secondary-capture"),
    ("a dose page", {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "series-secondary-capture"),
    ("several frames, but no enhanced CT", {"NumberOfFrames": 3}, "multi-frame-not-supported"),
    ("enhanced CT without its groups", {"SOPClassUID": ENHANCED_CT}, "frames-inconsistent"),
    ("a maximum slab", {"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "MIP"]}, "series-projection"),
    ("a minimum slab by name", {"SeriesDescription": "Lung MinIP 10mm"}, "series-projection"),
    ("a perfusion map", {"ImageType": ["DERIVED", "PRIMARY", "PERFUSION", "CBF"]}, "series-not-hu"),
    ("a unit that is not HU", {"RescaleType": "US"}, "series-not-hu"),
    ("a colour map", {"PhotometricInterpretation": "RGB"}, "series-not-hu"),
    ("a child", {"PatientAge": "017Y"}, "patient-under-age"),
    ("an infant", {"PatientAge": "006M"}, "patient-under-age"),
    ("a child by birth date", {"PatientAge": None, "PatientBirthDate": "20150301", "StudyDate": "20260101"}, "patient-under-age"),
    ("few slices", {"count": 19, "spacing": 10.0}, "series-too-few-slices"),
    ("a tilted gantry", {"ImagePositionPatient": lambda n: [-180, -180 + 0.2 * n * 3, n * 3]}, "series-gantry-tilt"),
    ("thick slices", {"count": 40, "spacing": 8.0}, "series-too-thick"),
    ("slices far apart", {"count": 30, "spacing": 10.0, "SliceThickness": 5.0}, "series-too-sparse"),
    ("thin samples", {"count": 60, "spacing": 5.0, "SliceThickness": 1.0}, "series-sampled"),
    ("many gaps", {"ImagePositionPatient": lambda n: [-180, -180, 3 * (n + n // 8)]}, "series-slices-missing"),
    ("coarse pixels", {"PixelSpacing": [6.0, 6.0], "Rows": 64, "Columns": 64}, "series-pixels-too-coarse"),
    ("a one-sided crop", {"Columns": 250}, "series-too-narrow"),
    ("a flat crop", {"Rows": 150}, "series-too-shallow"),
    ("part of the chest", {"count": 40}, "series-too-short"),
    ("two frames of reference", {"FrameOfReferenceUID": lambda n: f"1.2.{n // 50}"}, "mixed-frames-of-reference"),
    ("every position twice", {"ImagePositionPatient": lambda n: [-180, -180, 3 * (n % 50)]}, "positions-repeated"),
    ("two directions", {"ImageOrientationPatient": lambda n: CORONAL if n < 50 else [1, 0, 0, 0, 1, 0]}, "mixed-orientation"),
    ("no positions", {"ImagePositionPatient": None}, "no-geometry"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "code"), [(c, k) for _, c, k in REFUSED], ids=[n for n, *_ in REFUSED])
def test_row_refuses(change: Mapping[str, Any], code: str) -> None:
    selection = select(study_of(headers(**change)))
    assert selection.chosen is None
    assert [c.reason.code for c in selection.considered] == [code]
    assert selection.reason is not None
    assert selection.reason.code == code
    assert "{" not in selection.reason.text["en"] + selection.reason.text["zh-CN"]


def test_every_row_of_the_table_is_tested_and_has_texts() -> None:
    codes = {row["code"] for row in rules()["rule"]}
    assert codes <= {code for *_, code in REFUSED}
    assert codes <= set(REASONS)


def enhanced(*single: Dataset, frame_type: str = "VOLUME", **shared: Any) -> list[Dataset]:
    """Return the headers of a series as one enhanced CT; `shared` are more functional groups."""
    ds = Dataset()
    ds.update(single[0])
    ds.SOPClassUID, ds.NumberOfFrames = ENHANCED_CT, len(single)
    groups = {
        "PixelMeasuresSequence": {"PixelSpacing": ds.PixelSpacing, "SliceThickness": ds.SliceThickness},
        "PlaneOrientationSequence": {"ImageOrientationPatient": ds.ImageOrientationPatient},
        "CTReconstructionSequence": {"ConvolutionKernel": ds.ConvolutionKernel},
        "CTImageFrameTypeSequence": {"FrameType": ["ORIGINAL", "PRIMARY", frame_type, "NONE"]},
        **shared,
    }
    ds.SharedFunctionalGroupsSequence = [_groups(groups)]
    ds.PerFrameFunctionalGroupsSequence = [
        _groups({"PlanePositionSequence": {"ImagePositionPatient": s.ImagePositionPatient}}) for s in single
    ]
    for keyword in (
        "PixelSpacing",
        "SliceThickness",
        "ImageOrientationPatient",
        "ImagePositionPatient",
        "ConvolutionKernel",
    ):
        delattr(ds, keyword)
    return [ds]


def _groups(groups: Mapping[str, Mapping[str, Any]]) -> Dataset:
    out = Dataset()
    for name, values in groups.items():
        item = Dataset()
        for keyword, value in values.items():
            setattr(item, keyword, value)
        setattr(out, name, [item])
    return out


def test_enhanced_ct_is_taken_like_the_same_slices_alone() -> None:
    one = select(study_of(enhanced(*headers())))
    assert one.chosen is not None, one.reason
    assert len(one.chosen.instances) == 1
    # header values count wherever they stand: the sharp kernel stands back
    sharp = enhanced(*headers(series="1.2.4", ConvolutionKernel="B70f"))
    assert chosen(enhanced(*headers(ConvolutionKernel="B30f")), sharp)[0] == "1.2.3"
    # of two series that are equal the one with more slices is taken, and frames are slices
    assert chosen(headers(130), enhanced(*headers(140, series="1.2.1")))[0] == "1.2.1"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"frame_type": "LOCALIZER"}, "series-localizer"),
        ({"frame_type": "PERFUSION"}, "series-not-hu"),
        ({"PixelValueTransformationSequence": {"RescaleType": "US"}}, "series-not-hu"),
        ({"CTImageFrameTypeSequence": {"VolumeBasedCalculationTechnique": "MAX_IP"}}, "series-projection"),
        ({"CTImageFrameTypeSequence": {"VolumetricProperties": "SAMPLED"}}, "series-projection"),
        ({"PixelMeasuresSequence": {"PixelSpacing": [0.7, 0.7], "SliceThickness": 8.0}}, "series-too-thick"),
    ],
)
def test_row_refuses_enhanced_ct_by_its_functional_groups(changes: Mapping[str, Any], code: str) -> None:
    selection = select(study_of(enhanced(*headers(), **changes)))
    assert selection.reason is not None
    assert selection.reason.code == code


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]},
        {"RescaleType": "Houndsfield Unit"},
        {"PatientAge": "000Y"},
        {"PatientAge": "018Y"},
        {"PatientAge": None},
        {"SliceThickness": None},
        {"count": 60, "spacing": 5.0},
        {"FrameOfReferenceUID": None},
        {"BodyPartExamined": "ABDOMEN"},  # a wrong tag alone refuses nothing: pixels decide
    ],
)
def test_accepts(change: Mapping[str, Any]) -> None:
    selection = select(study_of(headers(**change)))
    assert selection.chosen is not None, selection.reason
    assert selection.reason is None
    assert [c.reason.code for c in selection.considered] == ["series-chosen"]


def chosen(*series: list[Dataset]) -> tuple[str, list[str]]:
    selection = select(study_of(*series))
    assert selection.chosen is not None, selection.reason
    return selection.chosen.series_instance_uid, [c.reason.code for c in selection.considered]


def test_whole_chest_before_thin_part() -> None:
    part = headers(120, 1.5, series="1.2.4", ConvolutionKernel="B30f")
    assert chosen(headers(64, 5.0), part)[0] == "1.2.3"


def test_thin_before_thick() -> None:
    assert chosen(headers(60, 5.0), headers(240, 1.25, series="1.2.4"))[0] == "1.2.4"


def test_soft_before_sharp_kernel() -> None:
    assert chosen(headers(ConvolutionKernel="B70f"), headers(series="1.2.4", ConvolutionKernel="B30f"))[0] == "1.2.4"


def test_original_before_derived() -> None:
    derived = headers(series="1.2.4", ImageType=["DERIVED", "PRIMARY", "AXIAL"])
    assert chosen(headers(), derived) == ("1.2.3", ["series-chosen", "series-not-preferred"])


def coronal(series: str) -> list[Dataset]:
    return headers(
        100, 2.5, series=series, ImageType=["DERIVED", "SECONDARY", "REFORMATTED"], ImageOrientationPatient=CORONAL,
        ImagePositionPatient=lambda n: [-180, -100 + 2.5 * n, 200],
    )  # fmt: skip


def test_reformat_stands_back_beside_axial_but_is_taken_alone() -> None:
    assert chosen(headers(60, 5.0), coronal("1.2.4")) == ("1.2.3", ["series-chosen", "series-reformat"])
    assert chosen(coronal("1.2.4")) == ("1.2.4", ["series-chosen"])


def test_gaps_stand_back() -> None:
    gap = headers(series="1.2.4", ImagePositionPatient=lambda n: [-180, -180, 3 * (n + 2 * (n > 50))])
    assert chosen(headers(), gap)[0] == "1.2.3"


def test_other_body_part_stands_back() -> None:
    assert chosen(headers(), headers(150, 2.0, series="1.2.4", BodyPartExamined="HEAD"))[0] == "1.2.3"


def test_head_is_not_told_of() -> None:
    selection = select(study_of(headers(14, 5.0, BodyPartExamined="BRAIN")))
    assert selection.reason is not None
    assert (selection.reason.code, selection.reason.klass) == ("study-other-body-part", "not_applicable")


def test_study_reason_is_that_of_the_nearest_series() -> None:
    localizer = headers(1, series="1.2.4", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    selection = select(study_of(localizer, headers(40)))
    assert selection.reason is not None
    assert selection.reason.code == "series-too-short"


def test_localizer_inside_the_series_is_left_out() -> None:
    kinds = lambda n: ["ORIGINAL", "PRIMARY", "LOCALIZER" if n == 0 else "AXIAL"]  # noqa: E731 - one value of a table
    selection = select(study_of(headers(100, ImageType=kinds)))
    assert selection.chosen is not None
    assert len(selection.chosen.instances) == 99


def test_duplicates_are_left_out_and_instances_sorted() -> None:
    twice = headers(100, ImagePositionPatient=lambda n: [-180, -180, 3 * min(n, 98)])
    selection = select(study_of(twice))
    assert selection.chosen is not None
    uids = [i.sop_instance_uid for i in selection.chosen.instances]
    assert len(uids) == 99
    assert uids == sorted(uids)


@pytest.mark.parametrize(
    "keyword", ["ImageType", "PixelSpacing", "PatientAge", "Rows", "ImagePositionPatient", "SOPClassUID"]
)
def test_never_raises(keyword: str) -> None:
    for value in ("", None):
        selection = select(study_of(headers(**{keyword: value})))
        assert (selection.chosen is None) == (selection.reason is not None)


@pytest.mark.parametrize(
    ("kernel", "sharp"), [("L", True), ("B70f", True), ("Br40", False), ("STANDARD", False), ("?", None)]
)
def test_kernels(kernel: str, sharp: bool | None) -> None:
    ds = Dataset()
    ds.ConvolutionKernel = kernel
    assert sharp_kernel(ds) is sharp


def test_selection_needs_no_torch() -> None:
    code = "import sys; from pipeline.registry import selector; selector('chest_ct'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_limits_are_those_of_the_table() -> None:
    rows = {r["code"]: r for r in rules()["rule"]}
    limit = rows["series-too-short"]["below"]
    exact = int(np.ceil(limit / 3.0))
    assert select(study_of(headers(exact))).chosen is not None
    assert select(study_of(headers(exact - 2))).chosen is None
