"""The images of the benchmark of image quality: where they come from, on whose side they are, and how they become DICOM.

A `Subject` is one clean image (or one picture of something else) by name; `variants` yields what is made of it.
"""

import csv
import hashlib
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image as Pictures
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian
from scipy.ndimage import zoom

from benchmarks import quality_degrade as degrade
from dicom_io.radiograph import inverse
from phantom import radiograph as exposures
from phantom.dicom import save

DEFECTS = tomllib.loads((Path(__file__).parent / "quality_defects.toml").read_text(encoding="utf-8"))
Kind = Literal["radiograph", "raw", "other", "ct", "not-chest"]
LONGER_MM = DEFECTS["radiograph"]["longer_side_mm"]

OTHERS = {
    "GH1308": ["dicom_zoo/odd_or_broken/GH1308.dcm"], "J2K_pixelrep_mismatch": ["dicom_zoo/odd_or_broken/J2K_pixelrep_mismatch.dcm"],
    "bad_sequence": ["dicom_zoo/odd_or_broken/bad_sequence.dcm"], "693_J2KI": ["dicom_zoo/odd_or_broken/693_J2KI.dcm"],
    "CT_small": ["dicom_zoo/odd_or_broken/CT_small.dcm"], "MR_small_padded": ["dicom_zoo/odd_or_broken/MR_small_padded.dcm"],
    "dcmqi_liver": ["seg_sr/dcmqi_liver/02.dcm"], "CTImage": ["dicom_zoo/one_chest_ct_slice_many_syntaxes/CTImage.dcm"],
    "simple_dicom_2slices": ["ct/CIP_ct64/simple_dicom_2slices/slice001.dcm"],
    "RICORD-1A-000906": [f"ct/RICORD-1A-000906/s_sagittal_bone/1-0{n:02d}.dcm" for n in (3, 8, 13, 18)],
    "negative_head_Philips": ["ct/negative_head_Philips_localizer/I10", "ct/negative_head_Philips/I100", "ct/negative_head_Philips/I160"],
    "A067967": ["ct/NY-SBU_slices/A067967/coronal/*"], "A072894": ["ct/NY-SBU_slices/A072894/axial/*"],
    **{p: [f"ct/NY-SBU_slices/{p}/axial/*", f"ct/NY-SBU_slices/{p}/sagittal/*"] for p in ("A002304", "A027284", "A046441", "A062055")},
    "CIP_ct64": ["ct/CIP_ct64/dicom/IMG0010.dcm", "ct/CIP_ct64/dicom/IMG0040.dcm", "ct/CIP_ct64/dicom/IMG0065.dcm"],
}  # fmt: skip
"""Pictures that are no chest radiograph, by patient. Coronal slices of a chest are left out: they show one, after a fashion."""
STACKS = {"CIP_ct64": "ct/CIP_ct64/dicom", "negative_head_Philips": "ct/negative_head_Philips"}
"""Series whose projections stand beside the slices."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One clean image, by name.

    Parameters
    ----------
    kind : Kind
        ``radiograph``: 8-bit copy; ``raw``: radiograph of 10 to 16 bit; ``other``: no chest radiograph; ``ct``; ``not-chest``:
        CT of something else.
    source, patient, name : str
        Of the image.
    files : tuple[str, ...]
        Image and, if there is one, lung mask, below the data folder.
    view : str
        View Position, as stated with the image.
    """

    kind: Kind
    source: str
    patient: str
    name: str
    files: tuple[str, ...] = ()
    view: str = ""

    @property
    def tuned(self) -> bool:
        """Whether limits may be tuned, and models trained, on this patient."""
        first = hashlib.sha256(f"{self.source}/{self.patient}".encode()).digest()[0]
        split = DEFECTS["split"]
        return self.source not in split["only_figures"] and first < split["tuned_below"]

    def rng(self, *names: object) -> np.random.Generator:
        """Return a generator that follows from the image and `names`."""
        text = "/".join(map(str, (self.source, self.patient, self.name, *names)))
        return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))


@dataclass(frozen=True, slots=True, eq=False)
class Variant:
    """One image made from a subject: ``clean``, a defect, or the clean image beside a defect that also cuts."""

    defect: str
    detail: str
    image: npt.NDArray[Any]
    header: Dataset | None = None


def radiographs(data: Path) -> Iterator[Subject]:
    """Yield all radiographs: 8-bit copies, those of 10 to 16 bit, phantoms, and pictures of something else."""
    with (data / "cxr" / "labels.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            files = tuple(filter(None, (row["file"], row["lung_mask"])))
            view = row["view"].split()[0] if row["view"] else ""
            yield Subject("radiograph", row["source"], row["patient_id"], Path(row["file"]).stem, files, view)
    for name in ("RG1_J2KI.dcm", "CR-MONO1-10-chest"):
        yield Subject("raw", "dicom", name, name, (f"dicom_zoo/cr_dx/{name}",))
    for seed in range(7001, 7013):
        yield Subject("raw", "phantom", str(seed), str(seed))
    for patient, patterns in OTHERS.items():
        found = sorted(str(p.relative_to(data)) for pattern in patterns for p in data.glob(pattern))
        for n, file in enumerate(found):
            yield Subject("other", "other", patient, f"{patient}-{n}", (file,))
        if patient in STACKS:
            for axis in range(3 if patient != "CIP_ct64" else 1):
                yield Subject("other", "other", patient, f"{patient}-sum-{axis}", (STACKS[patient],))


def variants(subject: Subject, data: Path) -> Iterator[Variant]:
    """Yield the clean image and everything that is made of it, as grey 0 to 1, or stored values if `header` is there."""
    if subject.kind == "other":
        yield Variant("non-chest", "", _other(subject, data))
    elif subject.kind == "raw":
        yield from _raw(subject, data)
    else:
        yield from _copies(subject, data)


def grey(path: Path) -> degrade.Image:
    """Read an 8-bit copy."""
    with Pictures.open(path) as picture:
        return np.asarray(picture.convert("L"), np.float32) / 255


def mask(path: Path) -> degrade.Mask:
    """Read a drawn lung mask."""
    with Pictures.open(path) as picture:
        return np.asarray(picture.convert("L")) > 127


def _copies(subject: Subject, data: Path) -> Iterator[Variant]:
    image = grey(data / subject.files[0])
    lungs = mask(data / subject.files[1]) if len(subject.files) > 1 else None
    yield Variant("clean", "", image)
    for row in DEFECTS["radiograph"]["defect"]:
        if row["name"] == "tilt":
            for degrees in row["degrees"]:
                turned, beside = degrade.tilt(image, degrees)
                yield Variant("tilt", f"{degrees:+g}", turned)
            yield Variant("clean-tilt", "", beside)
        else:
            made = _made(image, lungs, row, subject.rng(row["name"]))
            if made is not None:
                yield Variant(row["name"], "", made)


def _made(
    image: degrade.Image, lungs: degrade.Mask | None, row: dict[str, Any], rng: np.random.Generator
) -> npt.NDArray[Any] | None:
    """Return an 8-bit copy with the defect of one row; None if it cannot be made of this one, or is not visible there."""
    mm = LONGER_MM / max(image.shape)
    kind, _, side = row["name"].partition("-")
    makers: dict[str, Callable[[], npt.NDArray[Any] | None]] = {
        "blur": lambda: degrade.blur(image, mm, row["sigma_mm"]),
        "motion": lambda: degrade.motion(image, mm, row["path_mm"], rng),
        "mirror": lambda: degrade.mirror(image),
        "inversion": lambda: degrade.inversion(image),
        "turn": lambda: degrade.turn(image, row["degrees"]),
        "clipping": lambda: None if lungs is None else degrade.clip(image, lungs, row["share"]),
        "cut": lambda: None if lungs is None else degrade.cut(image, lungs, side, mm, row["mm"]),
    }
    return makers[kind]() if kind in makers else None


def _raw(subject: Subject, data: Path) -> Iterator[Variant]:
    """Yield noise and, where the lungs are known, clipping: what needs more than 8 bits."""
    lungs = None
    if subject.source == "phantom":
        made, header = _phantom(int(subject.patient))
        lungs, stored = made.right | made.left, made.array
    else:
        header = dcmread(data / subject.files[0], force=True)
        if "TransferSyntaxUID" not in getattr(header, "file_meta", {}):
            header.file_meta = FileMetaDataset()
            header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
        stored = header.pixel_array
    rows = {r["name"]: r for r in DEFECTS["radiograph"]["defect"]}
    yield Variant("clean", "", stored, header)
    top = (1 << header.BitsStored) - 1
    yield Variant("noise", "", degrade.noise(stored, rows["noise"]["factor"], top, subject.rng("noise")), header)
    if lungs is not None:
        image = degrade.stretch(stored, lungs, rows["clipping"]["share"], bright_is_low=inverse(header))
        yield Variant("clipping", "", image, header)


def _phantom(seed: int) -> tuple[exposures.Radiograph, Dataset]:
    kinds: tuple[Any, ...] = (
        ("DX", "PA", 12, "MONOCHROME2"),
        ("CR", "AP", 10, "MONOCHROME1"),
        ("DX", "AP", 14, "MONOCHROME1"),
    )
    modality, view, bits, photometric = kinds[seed % 3]
    made = exposures.expose(
        exposures.Exposure(
            seed, "none", modality=modality, view=view, rows=768, columns=768, bits=bits, photometric=photometric
        )
    )
    header = exposures.dataset(made)
    top = (1 << bits) - 1  # so that nothing is hidden by the window
    header.WindowCenter, header.WindowWidth = str((top + 1) // 2), str(top + 1)
    return made, header


def _shown(values: npt.NDArray[Any]) -> degrade.Image:
    low, high = np.percentile(values, (5, 99.5))
    return np.asarray(np.clip((values - low) / max(high - low, 1e-6), 0, 1), np.float32)


def _other(subject: Subject, data: Path) -> degrade.Image:
    """Return a slice, or the sum along one axis of a series, as grey 0 to 1, of 400 pixels at least."""
    image = _sectioned(subject, data)
    return np.asarray(np.clip(zoom(image, max(1.0, 400 / min(image.shape)), order=1), 0, 1), np.float32)


def _sectioned(subject: Subject, data: Path) -> degrade.Image:
    place = data / subject.files[0]
    if place.is_dir():
        files = [dcmread(p) for p in sorted(place.iterdir()) if p.is_file()]
        files.sort(key=lambda ds: -float(ds.ImagePositionPatient[2]))
        volume = np.stack([_hounsfield(ds) for ds in files]) + 1000
        axis = int(subject.name.rpartition("-")[2])
        step = abs(float(files[0].ImagePositionPatient[2]) - float(files[1].ImagePositionPatient[2]))
        tall = 1 if axis == 0 else max(1, round(step / float(files[0].PixelSpacing[0])))
        return _shown(zoom(np.maximum(volume, 0).sum(axis=axis), (tall, 1), order=1))
    return _shown(_hounsfield(dcmread(place, force=True)))


def _hounsfield(ds: Dataset) -> npt.NDArray[np.float32]:
    values = ds.pixel_array.astype(np.float32) * float(ds.get("RescaleSlope", 1) or 1)
    return np.asarray(np.maximum(values + float(ds.get("RescaleIntercept", 0) or 0), -1024), np.float32)


def uid(*names: object) -> str:
    """Return a UID that follows from `names`."""
    return f"2.25.{int.from_bytes(hashlib.sha256('/'.join(map(str, names)).encode()).digest()[:16], 'big')}"


def write_radiograph(subject: Subject, variant: Variant, folder: Path) -> Path:
    """Write one variant as DICOM: with the header of its image, or as a DX image of 8 bits that states no spacing."""
    names = (subject.kind, subject.source, subject.name, variant.defect, variant.detail)
    ds = Dataset()
    if variant.header is not None:
        ds.update(variant.header)
        if ds.get("ImagerPixelSpacing") and not all(ds.ImagerPixelSpacing):
            del ds.ImagerPixelSpacing
        values, ds.BitsAllocated = variant.image.astype("<u2"), 16
        ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, 0
    else:
        values = np.rint(np.clip(variant.image, 0, 1) * 255).astype(np.uint8)
        _dx(ds, subject)
    ds.Rows, ds.Columns = values.shape
    ds.PixelData = values.tobytes() + b"\0" * (values.nbytes % 2)
    ds["PixelData"].VR = "OW"
    ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID = (
        uid(*names, what) for what in ("image", "series", "study")
    )
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta = meta
    return save(ds, folder / "image.dcm")


def _dx(ds: Dataset, subject: Subject) -> None:
    ds.SOPClassUID, ds.Modality = DigitalXRayImageStorageForPresentation, "DX"
    ds.ImageType, ds.PresentationIntentType = ["DERIVED", "PRIMARY"], "FOR PRESENTATION"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = (
        "Benchmark",
        uid(subject.source, subject.patient)[:20],
        "",
        "",
    )
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20250107"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "101500"
    ds.Manufacturer, ds.AccessionNumber, ds.ReferringPhysicianName, ds.StudyID = "", "", "", "1"
    ds.BodyPartExamined, ds.ImageLaterality, ds.BurnedInAnnotation = "CHEST", "U", "NO"
    ds.SeriesNumber, ds.InstanceNumber, ds.PatientOrientation = 1, 1, ["L", "F"]
    if subject.view:
        ds.ViewPosition = subject.view
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PresentationLUTShape = 1, "MONOCHROME2", "IDENTITY"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType, ds.LossyImageCompression = "0", "1", "US", "01"
    ds.WindowCenter, ds.WindowWidth = "128", "256"
