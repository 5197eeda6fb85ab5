"""A chest radiograph of the same phantom, with its truth: line integrals from a point source through the chest.

Every plane across the beam is magnified by its distance from the source, so that the heart is larger in an anterior-posterior
image than in a posterior-anterior one. Counts follow the Beer-Lambert law with quantum noise; no scatter.
"""

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian
from scipy.ndimage import affine_transform

from phantom.build import _extent, _scene
from phantom.dicom import IMPLEMENTATION_UID, number, person, save, uid
from phantom.grid import sample
from phantom.lesions import Truth
from phantom.planting import Choice
from phantom.render import paint

View = Literal["PA", "AP"]
DISTANCE_MM: dict[View, float] = {"PA": 1800.0, "AP": 1000.0}
"""From the source to the detector."""
BEHIND_MM = 25.0
"""From the skin to the detector."""
WATER_PER_MM = 0.0195
"""Attenuation of water at about 70 keV."""
PHOTONS = 2.0e5
"""A pixel without patient."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """Everything that a radiograph follows from; see `expose`."""

    seed: int
    lesions: Choice = "standard"
    modality: Literal["DX", "CR"] = "DX"
    view: View = "PA"
    rows: int = 512
    columns: int = 512
    size_mm: float = 400.0
    bits: int = 12
    photometric: Literal["MONOCHROME2", "MONOCHROME1"] = "MONOCHROME2"
    calibrated: bool = False
    step_mm: float = 2.0
    patient_name: str = "Phantom^Chest"
    charset: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Radiograph:
    """One exposure of one chest.

    Parameters
    ----------
    exposure : Exposure
        What it follows from.
    array : ndarray, [row, column] uint16
        Stored values; columns run to the patient's left, rows to the feet.
    right, left : ndarray, [row, column] bool
        Where a ray meets the right and the left lung, opacities included.
    heart : ndarray, [row, column] bool
        Where it meets the heart.
    opacities : tuple of ndarray, [row, column] bool
        Where it meets each of `objects`.
    body : ndarray, [row, column] bool
        Where it meets the patient.
    objects : tuple of Truth
        What was planted.
    """

    exposure: Exposure
    array: NDArray[np.uint16]
    right: NDArray[np.bool_]
    left: NDArray[np.bool_]
    heart: NDArray[np.bool_]
    opacities: tuple[NDArray[np.bool_], ...]
    body: NDArray[np.bool_]
    objects: tuple[Truth, ...]

    @property
    def pixel_mm(self) -> float:
        """Distance between pixels at the detector."""
        return self.exposure.size_mm / self.exposure.columns

    def truth_document(self) -> dict[str, Any]:
        """Return the content of ``truth.json``: areas are those of the shadows at the detector."""
        masks = {"right_lung": self.right, "left_lung": self.left, "heart": self.heart}
        return {
            "schema": "pacs-ai-node/phantom-radiograph/1",
            "seed": self.exposure.seed,
            "parameters": asdict(self.exposure),
            "shadow_cm2": {name: round(float(m.sum()) * self.pixel_mm**2 / 100, 2) for name, m in masks.items()},
            "objects": [
                {"kind": o.kind, "site": o.site, "shadow_cm2": round(float(m.sum()) * self.pixel_mm**2 / 100, 2)}
                for o, m in zip(self.objects, self.opacities, strict=True)
            ],
        }


def expose(exposure: Exposure) -> Radiograph:
    """Take the radiograph.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """
    if min(exposure.rows, exposure.columns) < 32 or not 10 <= exposure.bits <= 16 or not 1 <= exposure.step_mm <= 6:
        raise ValueError("a radiograph needs 32 rows and columns at least, 10 to 16 bits, and steps of 1 to 6 mm")
    integral, right, left, heart, opacities, body = _shadows(
        exposure.seed, exposure.lesions, exposure.view, (exposure.rows, exposure.columns), exposure.size_mm, exposure.step_mm
    )  # fmt: skip
    counts = PHOTONS * np.exp(-integral)
    noise = np.random.default_rng([exposure.seed, 7]).standard_normal(integral.shape)
    seen = np.log(PHOTONS / np.maximum(counts + np.sqrt(counts) * noise, 1.0))
    top = (1 << exposure.bits) - 1
    stored = np.clip(np.rint(seen / (1.05 * integral.max()) * top), 0, top).astype(np.uint16)
    if exposure.photometric == "MONOCHROME1":
        stored = (top - stored).astype(np.uint16)
    _, objects = _scene(exposure.seed, exposure.lesions)
    return Radiograph(exposure, stored, right, left, heart, opacities, body, objects)


@lru_cache(maxsize=4)
def _shadows(
    seed: int, lesions: Choice, view: View, shape: tuple[int, int], size_mm: float, step_mm: float
) -> tuple[NDArray[np.float64], Any, Any, Any, tuple[Any, ...], Any]:
    """Return the line integrals, and where rays meet right lung, left lung, heart, each object, and the body."""
    scene, objects = _scene(seed, lesions)
    corners = _extent(scene.anatomy)
    margin = np.array([70.0, 60.0, 60.0])
    low, high = corners.min(0) - margin, corners.max(0) + margin
    grid = sample(low, high, step_mm)
    hu, lung, lesion = paint(scene, grid)
    at = grid.coordinates()
    skin = np.broadcast_to(scene.anatomy.body(at), grid.shape)
    hu[skin < -step_mm] = -1000  # nobody lies on a couch here
    heart = np.broadcast_to(scene.anatomy.heart_shape(at), grid.shape) > 0
    body = skin > 0
    attenuation = np.maximum(hu / 1000 + 1, 0) * (WATER_PER_MM * step_mm)
    y = grid.affine[1, 3] + step_mm * np.arange(grid.shape[1])
    front, back = (float(y[k]) for k in np.flatnonzero(body.any(axis=(0, 2)))[[0, -1]])
    distance = DISTANCE_MM[view]
    source = front - BEHIND_MM + distance if view == "PA" else back + BEHIND_MM - distance
    pixel = size_mm / shape[1]
    centre = (float(corners[:, 2].mean()), 0.0)  # height and side that the beam is aimed at
    out = np.zeros(shape)
    met = {name: np.zeros(shape, np.bool_) for name in ("right", "left", "heart", "body")}
    found = tuple(np.zeros(shape, np.bool_) for _ in objects)

    def plane(k: int, what: NDArray[Any], order: int) -> NDArray[Any]:
        magnified = distance / abs(float(y[k]) - source)
        scale = pixel / magnified / step_mm
        # rows run to the feet, the grid to the head
        first = np.array([
            (centre[0] - grid.affine[2, 3]) / step_mm + scale * (shape[0] - 1) / 2,
            (centre[1] - grid.affine[0, 3]) / step_mm - scale * (shape[1] - 1) / 2,
        ])  # fmt: skip
        made: NDArray[Any] = affine_transform(what[:, k], np.array([-scale, scale]), first, shape, order=order)
        return made

    for k in range(grid.shape[1]):
        if not body[:, k].any():
            continue
        out += plane(k, attenuation, 1)
        met["body"] |= plane(k, body.view(np.uint8), 0) > 0
        if heart[:, k].any():
            met["heart"] |= plane(k, heart.view(np.uint8), 0) > 0
        if lung[:, k].any():
            here = plane(k, lung, 0)
            met["right"] |= here == 1
            met["left"] |= here == 2
        if lesion[:, k].any():
            here = plane(k, lesion, 0)
            for n in range(len(found)):
                found[n][here == n + 1] = True
    return out, met["right"], met["left"], met["heart"], found, met["body"]


def dataset(made: Radiograph) -> Dataset:
    """Return the image as a DX (for presentation) or CR object, with file meta information."""
    p = made.exposure
    ds = Dataset()
    if p.charset:
        ds.SpecificCharacterSet = p.charset
    digital = p.modality == "DX"
    ds.ImageType = ["DERIVED", "PRIMARY"] if digital else ["ORIGINAL", "PRIMARY"]
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation if digital else ComputedRadiographyImageStorage
    ds.SOPInstanceUID = uid(p, "instance")
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(ds, keyword, "20250107")
    for keyword in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(ds, keyword, "101500")
    ds.AccessionNumber, ds.Modality, ds.Manufacturer = f"X{p.seed:06d}", p.modality, "pacs-ai-node project"
    ds.ReferringPhysicianName, ds.StudyDescription = "", "Chest phantom, radiograph"
    ds.SeriesDescription, ds.ManufacturerModelName = f"Chest {p.view}", "chest phantom"
    ds.PatientName, ds.PatientID = person(p.patient_name, p.charset), f"PHANTOM-{p.seed}"
    ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "19650101", "O", "060Y"
    ds.BodyPartExamined, ds.ViewPosition, ds.DeviceSerialNumber, ds.SoftwareVersions = "CHEST", p.view, "1", "1"
    ds.KVP, ds.DistanceSourceToDetector = "120", number(DISTANCE_MM[p.view])
    ds.ImagerPixelSpacing = [number(made.pixel_mm)] * 2
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid(p, "study"), uid(p, "series")
    ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = str(p.seed), 1, 1
    ds.PatientOrientation = ["L", "F"]
    if digital:
        _digital(ds, p)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, p.photometric
    ds.Rows, ds.Columns = p.rows, p.columns
    if p.calibrated:  # to the middle of the chest
        ds.PixelSpacing = [number(made.pixel_mm * 0.92)] * 2
        ds.PixelSpacingCalibrationType, ds.PixelSpacingCalibrationDescription = "GEOMETRY", "middle of the chest"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, p.bits, p.bits - 1, 0
    low, high = np.percentile(made.array[made.body], (1, 99))
    ds.WindowCenter, ds.WindowWidth = number(round((low + high) / 2)), number(round(1.1 * (high - low)))
    ds.PixelData = made.array.astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID, meta.ImplementationVersionName = IMPLEMENTATION_UID, "PHANTOM"
    ds.file_meta = meta
    return ds


def _digital(ds: Dataset, p: Exposure) -> None:
    """Add what the DX modules want (PS3.3 section A.26)."""
    inverse = p.photometric == "MONOCHROME1"
    ds.PresentationIntentType, ds.ImageLaterality, ds.BurnedInAnnotation = "FOR PRESENTATION", "U", "NO"
    ds.AnatomicRegionSequence = [_code("51185008", "SCT", "Chest")]
    view = {"PA": ("399348003", "postero-anterior"), "AP": ("399067008", "antero-posterior")}[p.view]
    ds.ViewCodeSequence = [_code(view[0], "SCT", view[1])]
    ds.AcquisitionContextSequence = []
    ds.DetectorType, ds.PositionerType = "SCINTILLATOR", ""
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", 1 if inverse else -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    ds.LossyImageCompression = "00"


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def write(made: Radiograph, out: Path) -> Path:
    """Write ``out/dicom/0001.dcm``, ``out/truth.npz`` (masks) and ``out/truth.json``; return `out`.

    Raises
    ------
    ValueError
        If ``out/dicom`` holds other files.
    """
    folder = out / "dicom"
    folder.mkdir(parents=True, exist_ok=True)
    if foreign := sorted({path.name for path in folder.iterdir()} - {"0001.dcm"}):
        raise ValueError(f"{folder} holds {foreign[0]}, which is no part of this phantom: name an empty folder")
    save(dataset(made), folder / "0001.dcm")
    masks = {"right": made.right, "left": made.left, "heart": made.heart, "body": made.body}
    masks["opacities"] = np.array(made.opacities)
    np.savez_compressed(out / "truth.npz", **masks)  # type: ignore[arg-type]  # numpy has an option of another type
    text = json.dumps(made.truth_document(), indent=1, ensure_ascii=False)
    (out / "truth.json").write_text(text + "\n", encoding="utf-8")
    return out
