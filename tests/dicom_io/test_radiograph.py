"""One radiograph: its pixels as shown, compared with pydicom's own transformations, and what its pixels measure."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import UID

from dicom_io.errors import PixelError
from dicom_io.model import Instance
from dicom_io.radiograph import Spacing, inverse, load_radiograph, orientation, spacing
from dicom_io.read import read_instance

pytestmark = pytest.mark.unit

BITS = 12


def table(first: int, entries: list[int] | bytes, bits: int, count: int | None = None) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries) if count is None else count, first, bits])
    item.add_new("LUTData", "OW" if isinstance(entries, bytes) else "US", entries)
    return Sequence([item])


CURVE = [n * n // 64 for n in range(2048)]
"""16 bits: pydicom knows tables of 8 and 16 bits alone."""
LOOKS: dict[str, dict[str, Any]] = {
    "window": {"WindowCenter": 1800, "WindowWidth": 900},
    "narrow window": {"WindowCenter": 1800.5, "WindowWidth": 2},
    "exact window": {"WindowCenter": 1800, "WindowWidth": 900, "VOILUTFunction": "LINEAR_EXACT"},
    "sigmoid": {"WindowCenter": 2100, "WindowWidth": 700, "VOILUTFunction": "SIGMOID"},
    "of two windows the first": {"WindowCenter": [1500, 3000], "WindowWidth": [800, 100]},
    "rescaled": {"WindowCenter": 900, "WindowWidth": 1500, "RescaleSlope": 0.5, "RescaleIntercept": 100},
    "VOI LUT": {"VOILUTSequence": table(900, CURVE, 16)},
    "VOI LUT before a window": {"VOILUTSequence": table(900, CURVE, 16), "WindowCenter": 1, "WindowWidth": 2},
    "Modality LUT": {"ModalityLUTSequence": table(100, CURVE, 16), "WindowCenter": 30000, "WindowWidth": 26000},
}


@pytest.mark.parametrize("grey", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("name", list(LOOKS))
def test_is_shown_as_pydicom_shows_it(make_slice: Callable[..., Instance], name: str, grey: str) -> None:
    look = LOOKS[name]
    shape = {"Rows": 30, "Columns": 41, "BitsStored": BITS, "HighBit": BITS - 1, "PixelRepresentation": 0}
    pixels = np.random.default_rng(1).integers(0, 1 << BITS, (30, 41)).astype("<u2")
    instance = make_slice(1, (0, 0, 0), pixels, Modality="DX", PhotometricInterpretation=grey, **shape, **look)
    made = load_radiograph(instance)
    ds = dcmread(instance.path)
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        ds[keyword].value = look.get(keyword, {"RescaleSlope": 1, "RescaleIntercept": 0}[keyword])
    values = apply_modality_lut(ds.pixel_array, ds)
    assert np.allclose(made.array, values, atol=1e-3)
    low, high = made_range(ds)
    whole = values.astype(np.int32) if "VOILUTSequence" in ds else values  # pydicom warns of a table of fractions
    shown = (apply_voi_lut(whole, ds) - low) / (high - low)
    assert np.allclose(made.shown, 1 - shown if grey == "MONOCHROME1" else shown, atol=2e-4)
    assert 0 <= made.shown.min() < made.shown.max() <= 1


def made_range(ds: Dataset) -> tuple[float, float]:
    """What pydicom calls black and white: of a table its bits, of a window what the values before it can be."""
    if ds.get("VOILUTSequence"):
        return 0, (1 << ds.VOILUTSequence[0].LUTDescriptor[2]) - 1
    if ds.get("ModalityLUTSequence"):
        return 0, (1 << ds.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    slope, intercept = float(ds.RescaleSlope), float(ds.RescaleIntercept)
    return intercept, ((1 << BITS) - 1) * slope + intercept


@pytest.mark.parametrize(
    ("broken", "like"),
    [
        ({"WindowCenter": 100, "WindowWidth": 0}, {}),
        ({"WindowCenter": "", "WindowWidth": ""}, {}),
        ({"VOILUTSequence": Sequence([])}, {}),
        ({"VOILUTSequence": table(0, CURVE, 16, count=4000)}, {}),  # fewer entries than it says
        ({"VOILUTSequence": table(0, CURVE, 8)}, {}),  # entries beyond its bits
        ({"VOILUTSequence": table(900, np.array(CURVE, "<u2").tobytes(), 16, count=2048)}, LOOKS["VOI LUT"]),
    ],
)
def test_a_look_that_contradicts_itself_counts_as_none(
    make_slice: Callable[..., Instance], broken: dict[str, Any], like: dict[str, Any]
) -> None:
    pixels = np.arange(48, dtype="<i2").reshape(8, 6) * 60
    first = load_radiograph(make_slice(1, (0, 0, 0), pixels, Modality="DX", **broken)).shown
    second = load_radiograph(make_slice(2, (0, 0, 0), pixels, Modality="DX", **like)).shown
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, None),
        ({"ImagerPixelSpacing": [0.2, 0.1]}, Spacing(0.2, 0.1, "detector")),
        ({"ImagerPixelSpacing": [0.2, 0.1], "PixelSpacing": [0.2, 0.1]}, Spacing(0.2, 0.1, "detector")),
        ({"ImagerPixelSpacing": [0.2, 0.1], "PixelSpacing": [0.19, 0.095]}, Spacing(0.19, 0.095, "calibrated")),
        (
            {"ImagerPixelSpacing": [0.2, 0.1], "PixelSpacing": [0.2, 0.1], "PixelSpacingCalibrationType": "FIDUCIAL"},
            Spacing(0.2, 0.1, "calibrated"),
        ),
        ({"PixelSpacing": [0.19, 0.095]}, Spacing(0.19, 0.095, "unknown")),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.2, 0.1]}, Spacing(0.2, 0.1, "detector")),
    ],
)
def test_a_pixel_measures_what_the_image_says_and_where(said: dict[str, Any], expected: Spacing | None) -> None:
    ds = Dataset()
    for keyword, value in said.items():
        setattr(ds, keyword, value)
    assert spacing(ds) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["L", "F"], ("L", "F")),
        (["R", "F"], ("R", "F")),
        (["LA", "FP"], ("LA", "FP")),
        (["L", "R"], ()),
        (["LR", "F"], ()),
        (["L"], ()),
        (["X", "F"], ()),
        ("", ()),
    ],
)
def test_a_patient_orientation_that_cannot_be_is_none(said: Any, expected: tuple[str, ...]) -> None:
    ds = Dataset()
    ds.PatientOrientation = said
    assert orientation(ds) == expected


@pytest.mark.parametrize(
    ("grey", "shape", "expected"),
    [
        ("MONOCHROME2", None, False),
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "INVERSE", True),  # one inversion, not two
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME2", "IDENTITY", False),
    ],
)
def test_black_and_white_change_places_once(grey: str, shape: str | None, expected: bool) -> None:
    ds = Dataset()
    ds.PhotometricInterpretation = grey
    if shape:
        ds.PresentationLUTShape = shape
    assert inverse(ds) is expected


def test_what_brightness_means_is_told(make_slice: Callable[..., Instance]) -> None:
    said: dict[str, Any] = {"PixelIntensityRelationship": "LOG", "PixelIntensityRelationshipSign": -1}
    said["PresentationIntentType"] = "FOR PRESENTATION"
    made = load_radiograph(make_slice(1, (0, 0, 0), Modality="DX", **said))
    assert (made.relationship, made.sign, made.intent) == ("LOG", -1, "FOR PRESENTATION")


@pytest.mark.data
@pytest.mark.parametrize("name", ["CR-MONO1-10-chest", "RG1_J2KI.dcm"])
def test_real_radiographs_are_shown_as_pydicom_shows_them_with_white_bones(real_data: Path, name: str) -> None:
    instance = read_instance(real_data / "dicom_zoo" / "cr_dx" / name)
    made = load_radiograph(instance)
    ds = dcmread(instance.path, force=True)
    ds.file_meta.TransferSyntaxUID = ds.file_meta.get("TransferSyntaxUID") or UID(instance.transfer_syntax_uid)
    assert ds.PhotometricInterpretation == "MONOCHROME1"
    assert np.allclose(made.shown, 1 - apply_voi_lut(ds.pixel_array, ds) / ((1 << ds.BitsStored) - 1), atol=2e-4)
    rows, columns = made.shown.shape
    middle, beside = (made.shown[rows // 3 : 2 * rows // 3, c - 9 : c + 9].mean() for c in (columns // 2, columns // 4))
    assert middle > beside + 0.1, "the spine is whiter than the lungs"
    assert made.spacing is None


@pytest.mark.data
def test_a_radiograph_in_colour_is_refused(real_data: Path) -> None:
    with pytest.raises(PixelError) as caught:
        load_radiograph(read_instance(real_data / "dicom_zoo" / "cr_dx" / "normal1.dcm"))
    assert caught.value.reason.code == "pixels-not-grey"
