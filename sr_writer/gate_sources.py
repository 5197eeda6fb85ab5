"""The source files as the gate sees them: read again from disk, by nothing that the writers use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from dicom_io.charset import declared, text_of
from dicom_io.model import Instance
from dicom_io.reason import Reason
from sr_writer.reasons import REASONS

IDENTITY = (
    "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID",
    "AccessionNumber", "StudyID",
)  # fmt: skip
"""What must be equal in source and object."""
COPIED_TEXT = ("StudyDescription", "ReferringPhysicianName")
_GEOMETRY = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "SpecificCharacterSet",
)  # fmt: skip


class SourcesError(Exception):
    """The source files cannot be compared with."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.code)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Slice:
    """Where one source image lies; millimetres in LPS."""

    sop_class_uid: str
    series_instance_uid: str
    frame_of_reference_uid: str
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    shape: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """All source files.

    Parameters
    ----------
    slices : Mapping[str, Slice]
        By SOP Instance UID.
    values : Mapping[str, frozenset[str | bytes]]
        Per keyword every value that a source has, as Unicode and as raw bytes; empty text if absent.
    """

    slices: Mapping[str, Slice]
    values: Mapping[str, frozenset[str | bytes]]


def read_sources(instances: Sequence[Instance]) -> Sources:
    """Read the files of `instances` again.

    Raises
    ------
    SourcesError
        If one cannot be read, or they are of several patients or studies.
    """
    slices: dict[str, Slice] = {}
    values: dict[str, set[str | bytes]] = {keyword: set() for keyword in (*IDENTITY, *COPIED_TEXT)}
    for instance in instances:
        try:
            ds = dcmread(
                instance.path, force=True, stop_before_pixels=True, specific_tags=[*IDENTITY, *COPIED_TEXT, *_GEOMETRY]
            )
            uid = str(ds.SOPInstanceUID)
            slices[uid] = _slice(ds)
        except Exception as error:
            raise SourcesError(REASONS("source-unreadable")) from error
        # what the sender declares, and what it really writes where the node was told so
        charsets = {declared(ds), declared(instance.header)}
        for keyword, seen in values.items():
            seen |= {v for charset in charsets for v in both(ds, keyword, charset)}
    for keyword in ("PatientID", "StudyInstanceUID"):
        if len({v for v in values[keyword] if isinstance(v, str)}) > 1:
            raise SourcesError(REASONS("sources-of-several-patients", what=keyword))
    return Sources(slices, {k: frozenset(v) for k, v in values.items()})


def both(ds: Dataset, keyword: str, charset: object = None) -> set[str | bytes]:
    """Return the value of `keyword` as Unicode and as raw bytes; empty text if it is absent or empty."""
    text = text_of(ds, Tag(keyword), declared(ds) if charset is None else charset)  # type: ignore[arg-type]
    if text is None or not text.text.strip():
        return {""}
    return {text.text.strip()} | ({text.raw.strip()} if text.raw else set())


def _slice(ds: Dataset) -> Slice:
    def numbers(keyword: str) -> tuple[float, ...]:
        try:
            return tuple(float(v) for v in ds.get(keyword) or ())
        except (TypeError, ValueError):
            return ()  # a slice without a place fits no segmentation; a picture does not need one

    return Slice(
        str(ds.SOPClassUID), str(ds.SeriesInstanceUID), str(ds.get("FrameOfReferenceUID") or ""),
        numbers("ImagePositionPatient"), numbers("ImageOrientationPatient"), numbers("PixelSpacing"),
        (int(ds.get("Rows") or 0), int(ds.get("Columns") or 0)),
    )  # fmt: skip
