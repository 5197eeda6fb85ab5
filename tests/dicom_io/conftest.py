"""Small CT slices with every header value under the test's control."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from dicom_io.model import Instance
from dicom_io.read import read_instance

SERIES = "1.2.826.0.1.3680043.8.498.77"
AXIAL = (1, 0, 0, 0, 1, 0)


def header(number: int = 1, position: tuple[float, ...] = (0, 0, 0), **changes: Any) -> Dataset:
    """Return a valid CT header; a change to None deletes the element."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, f"{SERIES}.1.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{SERIES}.2", f"{SERIES}.3"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20240102", "101112", "S1", "A1"
    ds.Modality, ds.Manufacturer = "CT", "Maker"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Doe^Jane", "P1", "19600102", "F"
    ds.ReferringPhysicianName = ""
    ds.SeriesNumber, ds.InstanceNumber = 1, number
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = f"{SERIES}.4", ""
    ds.ImagePositionPatient, ds.ImageOrientationPatient = list(position), list(AXIAL)
    ds.PixelSpacing, ds.SliceThickness, ds.KVP = [0.75, 0.5], 2.0, 120
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 6, 16, 16, 15, 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "HU"
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def save(ds: Dataset, path: Path, pixels: npt.NDArray[Any] | None = None, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write a PS3.10 file; without `pixels` the columns count up."""
    if pixels is None:
        pixels = np.arange(ds.Rows * ds.Columns, dtype="<i2").reshape(ds.Rows, ds.Columns)
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def make_header() -> Callable[..., Dataset]:
    """`header`."""
    return header


@pytest.fixture
def save_slice(tmp_path: Path) -> Callable[..., Path]:
    """`save` into the test's folder, named by SOP Instance UID unless a name is given."""

    def write(ds: Dataset, pixels: npt.NDArray[Any] | None = None, name: str = "", **more: Any) -> Path:
        return save(ds, tmp_path / (name or f"{ds.SOPInstanceUID}.dcm"), pixels, **more)

    return write


@pytest.fixture
def make_slice(save_slice: Callable[..., Path]) -> Callable[..., Instance]:
    """Write a slice and read it back: `(number, position, pixels=None, **changes)`."""

    def make(
        number: int, position: tuple[float, ...], pixels: npt.NDArray[Any] | None = None, **changes: Any
    ) -> Instance:
        return read_instance(save_slice(header(number, position, **changes), pixels))

    return make
