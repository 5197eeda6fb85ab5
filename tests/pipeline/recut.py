"""The same voxels as another series: cut in another plane, turned over, in another order of files, in thicker slices."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from phantom.dicom import number, save

Array = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]
PADDING = -2000
KEPT = (
    "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "PatientAge", "ReferringPhysicianName", "Modality", "Manufacturer", "ManufacturerModelName", "BodyPartExamined", "PatientPosition",
    "StudyDescription", "FrameOfReferenceUID", "PositionReferenceIndicator", "KVP", "ConvolutionKernel", "ContrastBolusAgent",
)  # fmt: skip


def turned(
    array: Array, affine: Affine, axes: tuple[int, int, int], flips: tuple[bool, bool, bool]
) -> tuple[Array, Affine]:
    """Return voxels [z, y, x] with their axes in another order, then mirrored along the new ones, and where they lie."""
    out, moved = array.transpose(axes), affine.copy()
    for new, old in enumerate(axes):
        moved[:3, 2 - new] = affine[:3, 2 - old]
    for axis, flip in enumerate(flips):
        if flip:
            out = np.flip(out, axis)
            moved[:3, 3] += moved[:3, 2 - axis] * (out.shape[axis] - 1)
            moved[:3, 2 - axis] *= -1
    return np.ascontiguousarray(out), moved


def thicker(array: Array, affine: Affine, spacing_mm: float) -> tuple[Array, Affine]:
    """Return slices `spacing_mm` apart and as thick, each the mean of what it covers."""
    step = float(np.linalg.norm(affine[:3, 2]))
    count = int(len(array) * step / spacing_mm)
    edges, old = np.arange(count + 1) * spacing_mm, np.arange(len(array) + 1) * step
    low, high = np.maximum(edges[:-1, None], old[None, :-1]), np.minimum(edges[1:, None], old[None, 1:])
    weights = np.clip(high - low, 0, None)
    moved = affine.copy()
    moved[:3, 2] *= spacing_mm / step
    moved[:3, 3] += affine[:3, 2] * (spacing_mm / step - 1) / 2
    padded = array == PADDING
    weights /= weights.sum(1, keepdims=True)
    mean = np.tensordot(weights, np.where(padded, -1024, array), 1)
    return np.where(np.tensordot(weights, padded.astype(np.float32), 1) > 0.5, PADDING, mean).astype(np.float32), moved


def series(folder: Path, header: Dataset, array: Array, affine: Affine, *, order: npt.NDArray[np.int64]) -> Path:
    """Write voxels (HU) as a series of their own of the same study; slices are as thick as they are apart.

    Parameters
    ----------
    folder : Path
        Where to.
    header : Dataset
        Of one image of the study: patient, study, device.
    array : ndarray, [z, y, x]
        HU, or `PADDING`.
    affine : ndarray, (4, 4)
        Of indices [z, y, x] as (x, y, z, 1) to LPS millimetres.
    order : ndarray of int
        Slices in the order of files and instance numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    common = Dataset()
    for keyword in KEPT:
        if keyword in header:
            common.add(header[keyword])
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    row, column = affine[:3, 0] / steps[0], affine[:3, 1] / steps[1]
    flat = abs(float(np.cross(row, column)[2])) > 0.9
    common.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"] if flat else ["DERIVED", "PRIMARY", "MPR"]
    common.SOPClassUID, common.SeriesInstanceUID, common.SeriesNumber = CTImageStorage, generate_uid(), 77
    common.SliceThickness, common.RescaleIntercept, common.RescaleSlope, common.RescaleType = (
        number(float(steps[2])),
        "0",
        "1",
        "HU",
    )
    common.ImageOrientationPatient = [number(round(float(v), 9)) for v in (*row, *column)]
    common.PixelSpacing = [number(float(steps[1])), number(float(steps[0]))]
    common.SamplesPerPixel, common.PhotometricInterpretation = 1, "MONOCHROME2"
    common.Rows, common.Columns = array.shape[1:]
    common.PixelPaddingValue = PADDING
    common.BitsAllocated, common.BitsStored, common.HighBit, common.PixelRepresentation = 16, 16, 15, 1
    for count, z in enumerate(order, 1):
        ds = Dataset()
        ds.update(common)
        ds.SOPInstanceUID, ds.InstanceNumber = generate_uid(), count
        ds.ImagePositionPatient = [number(round(float(v), 6)) for v in (affine @ [0, 0, z, 1])[:3]]
        ds.PixelData = np.rint(array[z]).astype("<i2").tobytes()
        ds["PixelData"].VR = "OW"
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta = meta
        save(ds, folder / f"{count:04d}.dcm")
    return folder
