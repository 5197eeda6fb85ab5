"""CT of the benchmark of image quality: real series and phantoms, and how they become DICOM again."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from scipy.ndimage import gaussian_filter

import phantom
from benchmarks.quality_cases import DEFECTS, Subject, uid
from benchmarks.quality_degrade_ct import DEFECTS as MAKERS
from benchmarks.quality_degrade_ct import HIGHEST, LOWEST, Scan, without_lungs
from phantom.dicom import number, save

INTERCEPT = -1024
REAL = {
    "A0001": ("ct/Lung_Dx-A0001/s2_lung_kernel_L", "ct/Lung_Dx-A0001/ref_aerated_lung.nii.gz"),
    "A0001 soft fragment": ("ct/Lung_Dx-A0001/s3_soft_kernel_B", "ct/Lung_Dx-A0001/ref_aerated_lung.nii.gz"),
    "CIP 64 x 64": ("ct/CIP_ct64/dicom", "ct/CIP_ct64/wholeLung-64.nrrd"),
}
PHANTOMS = (  # thickness mm, noise HU, sharpened
    (1.25, 18.0, False), (2.5, 12.0, False), (5.0, 8.0, False), (2.5, 25.0, True), (1.25, 30.0, True), (3.0, 15.0, False),
)  # fmt: skip
SEEDS = range(7101, 7113)
OTHERS = {
    "negative_head_Philips": ("ct/negative_head_Philips",),
    "dcmqi_liver": tuple(f"seg_sr/dcmqi_liver/0{n}.dcm" for n in (1, 2, 3)),
    "GH1308": ("dicom_zoo/odd_or_broken/GH1308.dcm",),
    "693_J2KI": ("dicom_zoo/odd_or_broken/693_J2KI.dcm",),
    "J2K_pixelrep_mismatch": ("dicom_zoo/odd_or_broken/J2K_pixelrep_mismatch.dcm",),
    "bad_sequence": ("dicom_zoo/odd_or_broken/bad_sequence.dcm",),
}
_DROPPED = (
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "NumberOfFrames",
)


@dataclass(frozen=True, slots=True, eq=False)
class Acquired:
    """A clean series: the scan, and what its slices say."""

    scan: Scan
    headers: tuple[Dataset, ...]


def series() -> Iterator[Subject]:
    """Yield real chests, phantoms, and series of something else."""
    for name, files in REAL.items():
        yield Subject("ct", "fragment" if "fragment" in name else "real", name.split()[0], name, files)
    for n, seed in enumerate(SEEDS):
        mm, hu, sharp = PHANTOMS[n % len(PHANTOMS)]
        yield Subject("ct", "phantom", str(seed), f"{seed}: {mm:g} mm, {hu:g} HU{', sharp' * sharp}")
    for patient, files in OTHERS.items():
        for says in ("as sent", "CHEST"):
            yield Subject("not-chest", "other", patient, f"{patient}, {says}", files)


def acquire(subject: Subject, data: Path) -> Acquired:
    """Read or build a chest."""
    if subject.source == "phantom":
        return _phantom(subject)
    headers = read(data / subject.files[0])
    array = np.stack([hounsfield(ds) for ds in headers])
    positions = np.array([[float(v) for v in ds.ImagePositionPatient] for ds in headers])
    pixel = float(headers[0].PixelSpacing[0])
    lungs = _mask(data / subject.files[1], positions, pixel, array.shape)
    return Acquired(Scan(array, lungs, positions, pixel, float(headers[0].SliceThickness)), headers)


def read(place: Path) -> tuple[Dataset, ...]:
    """Read the slices of a folder, from the feet to the head, or one file."""
    paths = [p for p in sorted(place.iterdir()) if p.is_file()] if place.is_dir() else [place]
    found = [dcmread(p, force=True) for p in paths]
    return tuple(sorted(found, key=lambda ds: float(ds.ImagePositionPatient[2])))


def hounsfield(ds: Dataset) -> npt.NDArray[np.int16]:
    """Return Hounsfield units of one slice, padding at the lowest."""
    values = ds.pixel_array.astype(np.float32) * float(ds.get("RescaleSlope", 1) or 1) + float(
        ds.get("RescaleIntercept", 0) or 0
    )
    return np.asarray(np.clip(np.rint(values), LOWEST, HIGHEST), np.int16)


def _mask(
    path: Path, positions: npt.NDArray[np.float64], pixel: float, shape: tuple[int, ...]
) -> npt.NDArray[np.bool_]:
    """Return a mask file on the grid of the scan, by its nearest voxels; both stand upright in LPS."""
    image = SimpleITK.ReadImage(str(path))
    whole = SimpleITK.GetArrayFromImage(image) > 0
    origin, step = (
        np.array(image.GetOrigin()),
        np.array(image.GetSpacing()) * np.diag(np.array(image.GetDirection()).reshape(3, 3)),
    )
    at = [
        np.rint((positions[:, 2] - origin[2]) / step[2]),
        np.rint((positions[0, 1] + pixel * np.arange(shape[1]) - origin[1]) / step[1]),
        np.rint((positions[0, 0] + pixel * np.arange(shape[2]) - origin[0]) / step[0]),
    ]
    inside = [(a >= 0) & (a < n) for a, n in zip(at, whole.shape, strict=True)]
    indices = [np.clip(a, 0, n - 1).astype(int) for a, n in zip(at, whole.shape, strict=True)]
    out: npt.NDArray[np.bool_] = whole[np.ix_(*indices)] & inside[0][:, None, None] & inside[1][:, None] & inside[2]
    return out


def _phantom(subject: Subject) -> Acquired:
    mm, hu, sharp = PHANTOMS[(int(subject.patient) - SEEDS[0]) % len(PHANTOMS)]
    made = phantom.build(int(subject.patient), lesions="none", thickness_mm=mm, matrix=256, noise_hu=hu)
    headers = {float(ds.ImagePositionPatient[2]): ds for ds in phantom.datasets(made)}
    ordered = tuple(headers[z] for z in sorted(headers))
    array = made.array
    if sharp:  # edges and noise are raised as by a kernel for lungs
        wide = np.stack([gaussian_filter(p.astype(np.float32), 1.0) for p in array])
        array = np.asarray(np.clip(np.rint(array + 0.8 * (array - wide)), LOWEST, HIGHEST), np.int16)
        for ds in ordered:
            ds.ConvolutionKernel = "LUNG"
    positions = np.array([[float(v) for v in ds.ImagePositionPatient] for ds in ordered])
    return Acquired(Scan(array, made.lung > 0, positions, float(ordered[0].PixelSpacing[0]), mm), ordered)


def rows() -> Iterator[dict[str, Any]]:
    """Yield the rows of the file that make something of a chest."""
    yield from (row for row in DEFECTS["ct"]["defect"] if row["name"] != "non-chest")


def degraded(subject: Subject, clean: Acquired, row: dict[str, Any]) -> Scan | None:
    """Return the scan with the defect of one row; None if it cannot be made of this one."""
    name = row["name"]
    low, high = clean.scan.reach
    cut_already = (name == "cut-top" and high == len(clean.scan.array) - 1) or (name == "cut-bottom" and low == 0)
    if cut_already or (name == "thick" and len(clean.scan.array) < 20):
        return None
    severity = {k: v for k, v in row.items() if k not in {"name", "harmless"}}
    return MAKERS[name](clean.scan, subject.rng(name), **severity)


def write_scan(scan: Scan, clean: Acquired, names: tuple[object, ...], folder: Path) -> list[Path]:
    """Write a scan with the headers of its series under new UIDs; values are exact."""
    study, series_uid, made = uid(*names, "study"), uid(*names, "series"), []
    base = clean.headers[0]
    frame = uid(*names, "frame of reference")
    order = scan.order or tuple(range(len(scan.array)))
    clean_z = clean.scan.positions[:, 2]
    for n, z in enumerate(order, 1):
        ds = Dataset()
        ds.update(clean.headers[int(np.argmin(np.abs(clean_z - scan.positions[z, 2])))])
        for keyword in _DROPPED:
            if keyword in ds:
                del ds[keyword]
        ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID = uid(*names, n), series_uid, study
        ds.FrameOfReferenceUID, ds.InstanceNumber = frame, n
        ds.ImagePositionPatient = [number(v) for v in scan.positions[z]]
        ds.SliceLocation = number(scan.positions[z, 2])
        ds.SliceThickness = number(scan.thickness_mm)
        ds.Rows, ds.Columns = scan.array.shape[1:]
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.RescaleSlope, ds.RescaleIntercept = "1", number(INTERCEPT + scan.intercept_error)
        ds.PixelData = (scan.array[z] - INTERCEPT).astype("<u2").tobytes()
        ds["PixelData"].VR = "OW"
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = base.SOPClassUID, ds.SOPInstanceUID
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta = meta
        made.append(save(ds, folder / f"{n:04d}.dcm"))
    return made


def write_other(subject: Subject, data: Path, folder: Path) -> list[Path]:
    """Write a series that is no chest: as it was sent, or with a header that says CHEST."""
    headers = tuple(ds for file in subject.files for ds in read(data / file))
    says = subject.name.endswith("CHEST")
    names = (subject.kind, subject.name)
    made = []
    for n, ds in enumerate(headers, 1):
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = (
            uid(*names, "study"),
            uid(*names, "series"),
            uid(*names, n),
        )
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        if says:
            ds.BodyPartExamined = "CHEST"
            for keyword in ("StudyDescription", "SeriesDescription", "ProtocolName", "AnatomicRegionSequence"):
                if keyword in ds:
                    del ds[keyword]
        made.append(save(ds, folder / f"{n:04d}.dcm"))
    return made


def with_clean(subject: Subject, clean: Acquired) -> Iterator[tuple[str, Scan]]:
    """Yield the clean scan and one for each defect."""
    yield "clean", replace(clean.scan)
    for row in rows():
        scan = degraded(subject, clean, row)
        if scan is not None:
            yield row["name"], scan
    if subject.source == "phantom":
        yield "non-chest", without_lungs(clean.scan, subject.rng("non-chest"))
