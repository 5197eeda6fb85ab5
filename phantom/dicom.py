"""Write a phantom as a CT series with its truth beside it."""

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian
from pydicom.valuerep import DSfloat, PersonName

from phantom.build import Parameters, Phantom

INTERCEPT = -1024
IMPLEMENTATION_UID = UID("2.25.206345148371840593019447716903218865411")


def uid(parameters: Any, *names: object) -> str:  # noqa: ANN401 - a dataclass
    """Return a UID under 2.25 that follows from the parameters and `names` alone."""
    values = parameters.document() if isinstance(parameters, Parameters) else asdict(parameters)
    text = json.dumps([values, *names], sort_keys=True, ensure_ascii=True)
    return f"2.25.{int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], 'big')}"


def number(value: float) -> DSfloat:
    """Return a decimal string that fits."""
    return DSfloat(float(value) + 0.0, auto_format=True)


def person(name: str, charset: str) -> PersonName | str:
    """Return a name as it goes out: without a declared character set its bytes are Latin-1 if they can be, else UTF-8."""
    if charset or name.isascii():
        return name
    try:
        raw = name.encode("latin-1")
    except UnicodeEncodeError:
        raw = name.encode("utf-8")
    return PersonName(raw, encodings=["iso8859"])


def _common(parameters: Parameters) -> Dataset:
    """Patient, study, series and equipment: the same in every instance."""
    ds = Dataset()
    if parameters.charset:
        ds.SpecificCharacterSet = parameters.charset
    flat = parameters.plane in {"axial", "oblique"}
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"] if flat else ["DERIVED", "PRIMARY", "MPR"]
    ds.SOPClassUID = CTImageStorage
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(ds, keyword, "20250106")
    for keyword in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(ds, keyword, "093000")
    ds.AccessionNumber = parameters.accession
    ds.Modality = "CT"
    ds.Manufacturer = "pacs-ai-node project"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "Chest phantom"
    ds.SeriesDescription = f"Chest {parameters.plane} {parameters.thickness_mm:g} mm {parameters.kernel}"
    ds.ManufacturerModelName = "chest phantom"
    ds.PatientName = person(parameters.patient_name, parameters.charset)
    ds.PatientID = parameters.patient_id
    ds.PatientBirthDate = "19650101"
    ds.PatientSex = "O"
    ds.PatientAge = "060Y"
    ds.BodyPartExamined = "CHEST"
    ds.SliceThickness = number(parameters.thickness_mm)
    ds.KVP = "120"
    ds.DeviceSerialNumber = "1"
    ds.SoftwareVersions = "1"
    ds.ProtocolName = "Chest routine"
    ds.GantryDetectorTilt = number(parameters.tilt_deg)
    ds.ConvolutionKernel = "SOFT" if parameters.kernel == "soft" else "LUNG"
    ds.PatientPosition = "FFS" if parameters.feet_first else "HFS"
    ds.StudyInstanceUID = uid(parameters, "study")
    ds.SeriesInstanceUID = uid(parameters, "series")
    ds.StudyID = str(parameters.seed)
    ds.SeriesNumber = 2
    ds.AcquisitionNumber = 1
    ds.PositionReferenceIndicator = ""
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = parameters.rows, parameters.columns
    ds.PixelSpacing = [number(v) for v in parameters.pixel_spacing_mm]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.WindowCenter, ds.WindowWidth = ["-600", "40"], ["1500", "400"]
    ds.WindowCenterWidthExplanation = ["LUNG", "SOFT TISSUE"]
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = str(INTERCEPT), "1", "HU"
    return ds


def datasets(phantom: Phantom) -> Iterator[Dataset]:
    """Yield one data set per instance, with file meta information, in the order of their file names."""
    p = phantom.parameters
    common = _common(p)
    slices = [(z, 0) for z in range(p.slices) if z not in p.breakage.gaps]
    slices += [(z, 1) for z in p.breakage.duplicates]
    slices.sort()
    if p.breakage.shuffle:
        np.random.default_rng([p.seed, 5]).shuffle(slices)
    for count, (z, copy) in enumerate(slices, 1):
        ds = Dataset()
        ds.update(common)
        ds.SOPInstanceUID = uid(p, "instance", z, copy)
        upper = p.breakage.mixed_frame_of_reference and z >= p.slices // 2
        ds.FrameOfReferenceUID = uid(p, "frame of reference", int(upper))
        ds.InstanceNumber = count
        place = phantom.affine @ [0, 0, z, 1]
        ds.ImagePositionPatient = [number(round(v, 6)) for v in place[:3]]
        row, column = phantom.affine[:3, 0] / p.pixel_spacing_mm[1], phantom.affine[:3, 1] / p.pixel_spacing_mm[0]
        ds.ImageOrientationPatient = [number(round(v, 9)) for v in (*row, *column)]
        normal = np.cross(row, column)
        ds.SliceLocation = number(round(float(place[:3] @ normal), 4))
        ds.PixelData = (phantom.array[z] - INTERCEPT).astype("<u2").tobytes()
        ds["PixelData"].VR = "OW"
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.ImplementationClassUID, meta.ImplementationVersionName = IMPLEMENTATION_UID, "PHANTOM"
        ds.file_meta = meta
        yield ds


def save(ds: Dataset, path: Path) -> Path:
    """Write one data set as a DICOM file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The value for the data element", category=UserWarning)
        ds.save_as(path, enforce_file_format=True)
    return path


def write(phantom: Phantom, out: Path) -> Path:
    """Write ``out/dicom/*.dcm``, ``out/truth.npz`` and ``out/truth.json``; return `out`.

    Equal parameters give equal bytes. The study, series and instance UIDs depend on every parameter, so that two
    different phantoms never share one.

    Raises
    ------
    ValueError
        If ``out/dicom`` holds files that are no part of this phantom.
    """
    p = phantom.parameters
    count = p.slices - len({z for z in p.breakage.gaps if 0 <= z < p.slices}) + len(p.breakage.duplicates)
    return write_instances(phantom, datasets(phantom), count, out)


def write_instances(phantom: Phantom, instances: Iterable[Dataset], count: int, out: Path) -> Path:
    """Write `count` instances of a phantom, and its truth, as `write` does."""
    folder = out / "dicom"
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{n:04d}.dcm" for n in range(1, count + 1)]
    if foreign := sorted({path.name for path in folder.iterdir()} - set(names)):
        raise ValueError(f"{folder} holds {foreign[0]}, which is no part of this phantom: name an empty folder")
    for name, ds in zip(names, instances, strict=True):
        save(ds, folder / name)
    np.savez_compressed(out / "truth.npz", lung=phantom.lung, lesion=phantom.lesion, affine=phantom.affine)
    text = json.dumps(phantom.truth_document(), indent=1, ensure_ascii=False)
    (out / "truth.json").write_text(text + "\n", encoding="utf-8")
    return out
