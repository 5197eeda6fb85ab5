"""Series that a scanner puts beside the volume, for tests of series selection; all belong to the phantom's study."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID, SecondaryCaptureImageStorage

from phantom.build import Phantom
from phantom.dicom import INTERCEPT, datasets, save, uid

STUDY_LEVEL = (
    "SpecificCharacterSet", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID",
    "StudyDate", "StudyTime", "AccessionNumber", "StudyDescription",
)  # fmt: skip
VOLUME_ONLY = (
    "ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID", "PositionReferenceIndicator", "SliceLocation",
    "SliceThickness", "PixelSpacing", "RescaleIntercept", "RescaleSlope", "RescaleType", "KVP", "ConvolutionKernel",
    "GantryDetectorTilt", "AcquisitionNumber", "AcquisitionDate", "AcquisitionTime",
)  # fmt: skip


def _renamed(
    phantom: Phantom, source: Iterable[Dataset], name: str, number: int, image_type: list[str]
) -> list[Dataset]:
    out = []
    for n, original in enumerate(source, 1):
        ds = deepcopy(original)
        ds.SeriesInstanceUID = uid(phantom.parameters, name)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(uid(phantom.parameters, name, n))
        ds.SeriesNumber, ds.InstanceNumber = number, n
        ds.SeriesDescription, ds.ImageType = name, image_type
        out.append(ds)
    return out


def _pixels(ds: Dataset, hu: NDArray[np.floating]) -> Dataset:
    ds.Rows, ds.Columns = hu.shape
    ds.PixelData = np.clip(np.rint(hu) - INTERCEPT, 0, 4095).astype("<u2").tobytes()
    return ds


def localizer(phantom: Phantom) -> list[Dataset]:
    """Return the frontal scout: one projection along the patient's back-to-front axis, of an axial phantom."""
    (ds,) = _renamed(phantom, list(datasets(phantom))[:1], "Scout", 1, ["ORIGINAL", "PRIMARY", "LOCALIZER"])
    view = phantom.array.mean(axis=1, dtype=np.float32)[::-1]
    spacing = phantom.grid.steps_mm
    top = phantom.affine @ [0, (phantom.array.shape[1] - 1) / 2, phantom.array.shape[0] - 1, 1]
    ds.PixelSpacing = [f"{spacing[0]:.6g}", f"{spacing[2]:.6g}"]
    ds.ImagePositionPatient = [f"{v:.6g}" for v in top[:3]]
    ds.ImageOrientationPatient = ["1", "0", "0", "0", "0", "-1"]
    ds.SliceThickness = "1"
    del ds.RescaleType
    return [_pixels(ds, view)]


def secondary_capture(phantom: Phantom) -> list[Dataset]:
    """Return a screenshot of the middle slice as Secondary Capture."""
    middle = list(datasets(phantom))[phantom.parameters.slices // 2]
    (ds,) = _renamed(phantom, [middle], "Screenshot", 99, ["DERIVED", "SECONDARY"])
    for keyword in VOLUME_ONLY:
        if keyword in ds:
            delattr(ds, keyword)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    ds.Modality, ds.ConversionType, ds.PatientOrientation = "OT", "WSD", ["L", "P"]
    return [ds]


def slab(phantom: Phantom, kind: str = "MIP", count: int = 4) -> list[Dataset]:
    """Return sliding slabs of `count` slices: ``MIP`` (maximum), ``MINIP`` (minimum) or ``AVERAGE``."""
    reductions: dict[str, Callable[..., Any]] = {"MIP": np.max, "MINIP": np.min, "AVERAGE": np.mean}
    source = list(datasets(phantom))
    out = _renamed(
        phantom, source[: len(source) - count + 1], f"{kind} slab", 10, ["DERIVED", "SECONDARY", "AXIAL", kind]
    )
    for n, ds in enumerate(out):
        ds.SliceThickness = f"{count * phantom.parameters.spacing_mm:g}"
        _pixels(ds, np.asarray(reductions[kind](phantom.array[n : n + count], axis=0), np.float32))
    return out


def reformat(phantom: Phantom) -> list[Dataset]:
    """Return the same slices declared as a secondary reformat."""
    return _renamed(phantom, datasets(phantom), "Reformat", 11, ["DERIVED", "SECONDARY", "REFORMATTED"])


def parametric_map(phantom: Phantom) -> list[Dataset]:
    """Return the same slices as a map whose values are not Hounsfield units."""
    out = _renamed(phantom, datasets(phantom), "Iodine map", 12, ["DERIVED", "PRIMARY", "AXIAL", "IODINE"])
    for ds in out:
        ds.RescaleType = "US"
    return out


def excerpt(phantom: Phantom, start: int, stop: int) -> list[Dataset]:
    """Return slices `start`..`stop` alone as a series of their own: too few, or one end of the chest."""
    source = list(datasets(phantom))[start:stop]
    return _renamed(phantom, source, f"Excerpt {start}-{stop}", 13, ["ORIGINAL", "PRIMARY", "AXIAL"])


def in_study(source: Iterable[Dataset], phantom: Phantom) -> list[Dataset]:
    """Return data sets of another phantom moved into the study of `phantom`, patient and all."""
    first = next(iter(datasets(phantom)))
    out = []
    for original in source:
        ds = deepcopy(original)
        for keyword in STUDY_LEVEL:
            if keyword in first:
                ds[keyword] = first[keyword]
            elif keyword in ds:
                delattr(ds, keyword)
        out.append(ds)
    return out


def save_all(source: Iterable[Dataset], folder: Path) -> Path:
    """Write data sets into `folder`, named by SOP Instance UID."""
    folder.mkdir(parents=True, exist_ok=True)
    for ds in source:
        save(ds, folder / f"{ds.SOPInstanceUID}.dcm")
    return folder
