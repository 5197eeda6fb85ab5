"""Labels of phantoms in the forms that hospitals have: SEG by highdicom, NIfTI by SimpleITK, contours written by hand."""

import shutil
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import SimpleITK
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

import phantom

Array = np.ndarray[Any, Any]
SMALL: dict[str, Any] = {"thickness_mm": 28.0, "matrix": 48}


def chest(folder: Path, seed: int = 3, **more: Any) -> phantom.Phantom:
    """Write a small phantom into folder/images; return it."""
    made = phantom.build(seed, **{**SMALL, **more})
    phantom.write(made, folder / "truth")
    (folder / "truth" / "dicom").rename(folder / "images")
    shutil.rmtree(folder / "truth")
    return made


def images(folder: Path) -> list[Dataset]:
    """Return the images of `chest` in the order of the phantom's slices."""
    found = [dcmread(p) for p in (folder / "images").iterdir()]
    row, column = np.array(found[0].ImageOrientationPatient, float).reshape(2, 3)
    return sorted(found, key=lambda ds: float(np.array(ds.ImagePositionPatient, float) @ np.cross(row, column)))


def seg(folder: Path, mask: Array, path: Path, label: str = "Lesion", kind: str = "BINARY") -> Dataset:
    source = images(folder)
    described = hd.seg.SegmentDescription(
        1, label, codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Lesion, hd.seg.SegmentAlgorithmTypeValues.MANUAL
    )
    values = mask.astype(np.uint8) if kind != "FRACTIONAL" else mask.astype(np.float32)
    made = hd.seg.Segmentation(
        source, values, kind, [described], generate_uid(), 7, generate_uid(), 1, "M", "M", "1", "1"
    )
    made.save_as(path)
    return made


def nifti(mask: Array, affine: Array, path: Path) -> Path:
    """Write a mask [z, y, x] whose matrix leads to LPS; SimpleITK turns it into RAS as NIfTI has it."""
    image = SimpleITK.GetImageFromArray(mask.astype(np.uint8))
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing([float(v) for v in steps])
    image.SetDirection([float(v) for v in (affine[:3, :3] / steps).ravel()])
    image.SetOrigin([float(v) for v in affine[:3, 3]])
    SimpleITK.WriteImage(image, str(path))
    return path


def rtstruct(folder: Path, contours: list[Array], path: Path, name: str = "GTV-1", **changes: Any) -> Dataset:
    """Write one structure with closed contours (n, 3) in LPS millimetres."""
    first = images(folder)[0]
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.481.3", generate_uid(), "RTSTRUCT"
    ds.PatientID, ds.PatientName, ds.StudyInstanceUID = first.PatientID, "", first.StudyInstanceUID
    ds.SeriesInstanceUID = generate_uid()
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = first.SeriesInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = first.FrameOfReferenceUID, [study]
    ds.ReferencedFrameOfReferenceSequence = [frame]
    roi = Dataset()
    roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = 1, name, first.FrameOfReferenceUID
    ds.StructureSetROISequence = [roi]
    drawn = Dataset()
    drawn.ReferencedROINumber, drawn.ContourSequence = 1, []
    for points in contours:
        one = Dataset()
        one.ContourGeometricType, one.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
        one.ContourData = [f"{v:.4f}" for v in points.ravel()]
        drawn.ContourSequence.append(one)
    ds.ROIContourSequence = [drawn]
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)
    return ds
