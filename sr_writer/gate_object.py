"""What must hold for every authored object: whose it is, that its references resolve, that it says what it is."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pydicom.dataset import Dataset, FileDataset
from pydicom.valuerep import PersonName

from dicom_io.reason import Reason
from sr_writer.gate_sources import COPIED_TEXT, IDENTITY, Sources, both
from sr_writer.reasons import REASONS

_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_SEX = {"M", "F", "O"}
_TEXT_VRS = {"PN", "LO", "SH", "LT", "ST", "UT", "UC"}
_PER_FRAME = "PerFrameFunctionalGroupsSequence"


@dataclass(slots=True)
class _Met:
    """What was met on a walk through an object."""

    uids: list[tuple[str, str]] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    schemes: set[str] = field(default_factory=set)
    references: list[tuple[str, str]] = field(default_factory=list)


def check(ds: FileDataset, raw: Sources, others: Mapping[str, str], expected: tuple[str, str]) -> Iterator[Reason]:
    """Yield what is wrong with an object of any kind.

    Parameters
    ----------
    ds : FileDataset
        The object as read back.
    raw : Sources
        The source files.
    others : Mapping[str, str]
        SOP Instance UID to SOP Class UID of what it may refer to beside the sources.
    expected : tuple[str, str]
        SOP Instance and SOP Class UID that it should have.
    """
    meta = (ds.file_meta.get("MediaStorageSOPInstanceUID"), ds.file_meta.get("MediaStorageSOPClassUID"))
    if not meta == expected == (ds.get("SOPInstanceUID"), ds.get("SOPClassUID")):
        yield REASONS("object-unreadable", what="SOP Instance UID")
    yield from _identity(ds, raw)
    met = _Met()
    _walk(ds, met)
    for keyword, uid in met.uids:
        if len(uid) > 64 or not _UID.fullmatch(uid):
            yield REASONS("uid-invalid", what=keyword)
    if str(ds.get("SOPInstanceUID")) in {*raw.slices, *others}:
        yield REASONS("uid-collides", what="SOPInstanceUID")
    if str(ds.get("SeriesInstanceUID")) in {s.series_instance_uid for s in raw.slices.values()}:
        yield REASONS("uid-collides", what="SeriesInstanceUID")
    resolvable = {uid: s.sop_class_uid for uid, s in raw.slices.items()} | dict(others)
    for sop_class, uid in met.references:
        if resolvable.get(uid) != sop_class:
            yield REASONS("reference-dangling", what=sop_class)
    yield from _marks(ds)
    yield from _texts(met, raw)
    declared = {str(i.get("CodingSchemeDesignator")) for i in ds.get("CodingSchemeIdentificationSequence") or ()}
    for scheme in sorted(met.schemes - declared):
        if scheme.startswith("99") or not scheme:
            yield REASONS("code-undeclared", what=scheme)


def _identity(ds: Dataset, raw: Sources) -> Iterator[Reason]:
    for keyword in IDENTITY:
        written, source = both(ds, keyword), raw.values[keyword]
        if keyword == "PatientSex" and written == {""} and not source <= {"", b""} and not (source & _SEX):
            continue  # an invalid value may not be copied
        if keyword == "PatientBirthDate" and written == {""} and not any(_is_date(v) for v in source):
            continue
        if not written & source:
            yield REASONS("identity-differs", what=keyword)


def _is_date(value: str | bytes) -> bool:
    return isinstance(value, str) and re.fullmatch(r"(1[89]|2\d)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])", value) is not None


def _walk(ds: Dataset, met: _Met) -> None:
    if "ReferencedSOPInstanceUID" in ds:
        met.references.append((str(ds.get("ReferencedSOPClassUID")), str(ds.ReferencedSOPInstanceUID)))
    for element in ds:
        vr = element.VR
        if vr == "SQ":
            items = element.value or ()
            for item in items[:1] if element.keyword == _PER_FRAME else items:
                _walk(item, met)  # the references of single frames are the segmentation's own check
        elif vr == "UI":
            met.uids += [(element.keyword, str(v)) for v in _values(element.value)]
        elif vr in _TEXT_VRS:
            met.texts += [(element.keyword, str(v)) for v in _values(element.value)]
            if element.keyword == "CodingSchemeDesignator":
                met.schemes.add(str(element.value or ""))


def _values(value: object) -> Iterator[object]:
    if value is None or value == "":
        return
    if isinstance(value, (str, PersonName)) or not hasattr(value, "__iter__"):
        yield value
    else:
        yield from value


def _texts(met: _Met, raw: Sources) -> Iterator[Reason]:
    for keyword, text in met.texts:
        if "\N{REPLACEMENT CHARACTER}" in text or "\x1b" in text:
            yield REASONS("text-lost", what=keyword)
        elif "?" in text:
            copied = raw.values.get(keyword, frozenset()) if keyword in {*IDENTITY, *COPIED_TEXT} else frozenset()
            if not any(isinstance(v, str) and "?" in v for v in copied):
                yield REASONS("text-lost", what=keyword)


def _marks(ds: Dataset) -> Iterator[Reason]:
    """Check that everyone can see that a computer made it and nobody checked it."""
    modality = ds.get("Modality")
    if not str(ds.get("SeriesDescription") or "").startswith("AI "):
        yield REASONS("not-marked", what="SeriesDescription")
    if not any(item.get("DeviceUID") for item in ds.get("ContributingEquipmentSequence") or ()):
        yield REASONS("not-marked", what="ContributingEquipmentSequence")
    if modality == "SR":
        for keyword, value in (("VerificationFlag", "UNVERIFIED"), ("PreliminaryFlag", "PRELIMINARY")):
            if ds.get(keyword) != value:
                yield REASONS("not-marked", what=keyword)
    elif list(ds.get("ImageType") or ())[:1] != ["DERIVED"]:
        yield REASONS("not-marked", what="ImageType")
    if modality == "SEG" and any(s.get("SegmentAlgorithmType") != "AUTOMATIC" for s in ds.get("SegmentSequence") or ()):
        yield REASONS("not-marked", what="SegmentAlgorithmType")
    if modality == "OT" and ds.get("BurnedInAnnotation") != "YES":
        yield REASONS("not-marked", what="BurnedInAnnotation")
