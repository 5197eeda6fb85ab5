"""The source files as the gate sees them: read again from disk, by nothing that the writers use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from dicom_io import elements
from dicom_io.charset import Charset, declared, text_of
from dicom_io.limits import LIMITS
from dicom_io.model import ImageKey, Instance
from dicom_io.pixels import pixel_format, stored_values
from dicom_io.radiograph import SOP_CLASSES, Orientation, Spacing, inverse, orientation, spacing
from dicom_io.reason import Reason
from sr_writer.reasons import REASONS

IDENTITY = (
    "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID",
    "AccessionNumber", "StudyID",
)  # fmt: skip
"""What must be equal in source and object."""
COPIED_TEXT = ("StudyDescription", "ReferringPhysicianName", "StudyDate", "StudyTime", "PatientAge")
"""What is copied too, or left out."""
_GEOMETRY = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "SpecificCharacterSet", "Modality", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel", "RescaleSlope", "RescaleIntercept",
    "PatientOrientation", "ImagerPixelSpacing", "PixelSpacingCalibrationType", "PhotometricInterpretation",
    "PresentationLUTShape", "NumberOfFrames", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
_IN_GROUPS = {
    "ImagePositionPatient": "PlanePositionSequence", "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence", "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}  # fmt: skip
"""Where enhanced CT says of a frame what other images say at their top level (PS3.3 section C.7.6.16)."""
_ENHANCED_CT = {"1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"}
_LEAD = {"1.2.840.10008.1.2": 8, "1.2.840.10008.1.2.1": 12}
"""Uncompressed little endian transfer syntaxes, and how many bytes stand before the pixels in their element."""
_PIXEL_DATA = b"\xe0\x7f\x10\x00"


class SourcesError(Exception):
    """The source files cannot be compared with."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.code)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Cells:
    """Where the pixels of an uncompressed file begin, and what a cell means."""

    at: int
    dtype: np.dtype[np.integer]
    up: int
    down: int


@dataclass(frozen=True, slots=True)
class Shadow:
    """What takes the place of a position for a radiograph.

    Parameters
    ----------
    orientation : Orientation
        Patient directions towards the end of the rows and of the columns; empty where the image does not say.
    spacing : Spacing or None
        What a pixel measures, and where.
    inverse : bool
        Whether the highest value is black.
    """

    orientation: Orientation
    spacing: Spacing | None
    inverse: bool

    @property
    def leftwards(self) -> tuple[int, int] | None:
        """Along which image axis (0 rows, 1 columns) the patient's left lies, and in which direction; None if unknown."""
        for axis, towards in ((1, self.orientation[:1]), (0, self.orientation[1:])):
            if towards and towards[0][0] in "LR":
                return axis, 1 if towards[0][0] == "L" else -1
        return None


@dataclass(frozen=True, slots=True)
class Slice:
    """Where one source image lies, in millimetres in LPS, and how its pixels become values.

    A radiograph lies nowhere: it has a `shadow` and no position.
    """

    sop_class_uid: str
    series_instance_uid: str
    frame_of_reference_uid: str
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    shape: tuple[int, int]
    modality: str
    rescale: tuple[float, float]
    instance: Instance
    cells: Cells | None = None
    shadow: Shadow | None = None

    def values(self) -> npt.NDArray[np.float32]:
        """Return what the pixels mean (Hounsfield units of CT), shape (rows, columns), read again from the file.

        What lies outside the reconstruction circle is air, as in `dicom_io.volume`. Uncompressed pixels are read here;
        of the others the decoder is the one that everybody uses, because decoders that may crash run in a child.
        """
        slope, intercept = self.rescale
        if self.cells is None:
            stored = stored_values(self.instance, pixel_format(self.instance))
        else:
            count = self.shape[0] * self.shape[1]
            flat = np.fromfile(self.instance.path, self.cells.dtype, count, offset=self.cells.at)
            stored = ((flat << self.cells.up) >> self.cells.down).reshape(self.shape)
        out = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
        if self.modality == "CT":
            out[out < LIMITS.volume.outside_hu] = LIMITS.volume.air_hu
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """All source files.

    Parameters
    ----------
    slices : Mapping[ImageKey, Slice]
        Every image: the instances, of enhanced CT the frames.
    instances : Mapping[str, Slice]
        By SOP Instance UID the first image of it.
    values : Mapping[str, frozenset[str | bytes]]
        Per keyword every value that a source has, as Unicode and as raw bytes; empty text if absent.
    series : frozenset[str]
        Series Instance UIDs.
    charsets : frozenset[Charset]
        Character sets that a source declares, or was told to have.
    """

    slices: Mapping[ImageKey, Slice]
    instances: Mapping[str, Slice]
    values: Mapping[str, frozenset[str | bytes]]
    series: frozenset[str]
    charsets: frozenset[Charset]


def read_sources(instances: Sequence[Instance]) -> Sources:
    """Read the files of `instances` again.

    Raises
    ------
    SourcesError
        If one cannot be read, or they are of several patients or studies.
    """
    slices: dict[ImageKey, Slice] = {}
    told: set[Charset] = set()
    values: dict[str, set[str | bytes]] = {keyword: set() for keyword in (*IDENTITY, *COPIED_TEXT)}
    for instance in instances:
        try:
            with instance.path.open("rb") as file:
                ds = dcmread(
                    file, force=True, stop_before_pixels=True, specific_tags=[*IDENTITY, *COPIED_TEXT, *_GEOMETRY]
                )
                at = file.tell()
                lead = _LEAD.get(str(ds.file_meta.get("TransferSyntaxUID")), 0)
                begins = lead > 0 and file.seek(at) == at and file.read(4) == _PIXEL_DATA
            slices |= _images(ds, instance, at + lead if begins else 0)
        except Exception as error:
            raise SourcesError(REASONS("source-unreadable")) from error
        # what the sender declares, and what it really writes where the node was told so
        charsets = {declared(ds), declared(instance.header)}
        told |= charsets
        for keyword, seen in values.items():
            seen |= {v for charset in charsets for v in both(ds, keyword, charset)}
    for keyword in ("PatientID", "StudyInstanceUID"):
        if len({v for v in values[keyword] if isinstance(v, str)}) > 1:
            raise SourcesError(REASONS("sources-of-several-patients", what=keyword))
    series = frozenset(s.series_instance_uid for s in slices.values())
    first = {key.sop_instance_uid: image for key, image in reversed(slices.items())}
    return Sources(slices, first, {k: frozenset(v) for k, v in values.items()}, series, frozenset(told))


def both(ds: Dataset, keyword: str, charset: object = None) -> set[str | bytes]:
    """Return the value of `keyword` as Unicode and as raw bytes; empty text if it is absent or empty."""
    text = text_of(ds, Tag(keyword), declared(ds) if charset is None else charset)  # type: ignore[arg-type]
    if text is None or not text.text.strip():
        return {""}
    return {text.text.strip()} | ({text.raw.strip()} if text.raw else set())


def frames_named(reference: Dataset) -> tuple[int, ...]:
    """Return the frame numbers of a reference; none means the instance as a whole."""
    return tuple(int(n) for n in elements.numbers(reference, "ReferencedFrameNumber"))


def image_of(reference: Dataset) -> ImageKey:
    """Return the one image that a reference names; one to several frames names none that there is."""
    frames = frames_named(reference) or (0,)
    return ImageKey(str(reference.get("ReferencedSOPInstanceUID")), frames[0] if len(frames) == 1 else -1)


def _images(ds: Dataset, instance: Instance, at: int) -> dict[ImageKey, Slice]:
    """Return the images of one file; of an enhanced CT whose groups do not fit its frames the whole, which has no place."""
    uid = str(ds.SOPInstanceUID)
    groups = list(ds.get("PerFrameFunctionalGroupsSequence") or ())
    if str(ds.SOPClassUID) not in _ENHANCED_CT or len(groups) != elements.integer(ds, "NumberOfFrames"):
        return {ImageKey(uid): _slice(ds, instance, at)}
    shared = list(ds.get("SharedFunctionalGroupsSequence") or ())
    length = (elements.integer(ds, "Rows") or 0) * (elements.integer(ds, "Columns") or 0)
    length *= (elements.integer(ds, "BitsAllocated") or 0) // 8
    out = {}
    for k, group in enumerate(groups):
        frame = Dataset()
        for keyword in set(_GEOMETRY) - set(_IN_GROUPS):
            if keyword in ds and not keyword.endswith("Sequence"):
                frame[keyword] = ds[keyword]
        for keyword, sequence in _IN_GROUPS.items():
            for item in (i for level in (*shared, group) for i in level.get(sequence) or ()):
                if keyword in item:
                    frame[keyword] = item[keyword]
        alone = replace(instance, frame=k + 1, frames=len(groups))
        out[ImageKey(uid, k + 1)] = _slice(frame, alone, at + k * length if at else 0)
    return out


def _slice(ds: Dataset, instance: Instance, at: int) -> Slice:
    def number(keyword: str, default: float) -> float:
        found = elements.number(ds, keyword)
        return default if found is None else found

    shadow = Shadow(orientation(ds), spacing(ds), inverse(ds)) if str(ds.SOPClassUID) in SOP_CLASSES else None
    # a slice without a place fits no segmentation; a picture does not need one
    return Slice(
        str(ds.SOPClassUID), str(ds.SeriesInstanceUID), "" if shadow else str(ds.get("FrameOfReferenceUID") or ""),
        () if shadow else elements.numbers(ds, "ImagePositionPatient"), elements.numbers(ds, "ImageOrientationPatient"),
        elements.numbers(ds, "PixelSpacing"),
        (elements.integer(ds, "Rows") or 0, elements.integer(ds, "Columns") or 0),
        elements.text(ds, "Modality").upper(),
        (number("RescaleSlope", 1.0), number("RescaleIntercept", 0.0)), instance, _cells(ds, at), shadow,
    )  # fmt: skip


def _cells(ds: Dataset, at: int) -> Cells | None:
    """Return how the pixels of one grey image are stored (PS3.5 section 8.1.1); None where a decoder must say."""
    allocated = elements.integer(ds, "BitsAllocated") or 0
    if not at or allocated not in {8, 16, 32} or elements.integer(ds, "SamplesPerPixel") not in {None, 1}:
        return None
    stored = elements.integer(ds, "BitsStored") or allocated
    last = elements.integer(ds, "HighBit")
    high = stored - 1 if last is None else last
    sign = "i" if elements.integer(ds, "PixelRepresentation") else "u"
    if not 0 < stored <= high + 1 <= allocated:
        return None
    return Cells(at, np.dtype(f"<{sign}{allocated // 8}"), allocated - 1 - high, allocated - stored)
