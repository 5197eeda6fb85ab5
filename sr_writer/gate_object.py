"""What must hold for every authored object: whose it is, that its references resolve, that it says what it is."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pydicom.dataset import Dataset, FileDataset
from pydicom.tag import Tag as tag_of  # noqa: N813 - it is a function
from pydicom.valuerep import PersonName

from dicom_io.charset import Charset, declared
from dicom_io.model import ImageKey
from dicom_io.reason import Reason
from sr_writer import gate_modules
from sr_writer.gate_sources import COPIED_TEXT, IDENTITY, Sources, both, frames_named
from sr_writer.reasons import REASONS

_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_SEX = {"M", "F", "O"}
_TEXT_VRS = {"PN", "LO", "SH", "LT", "ST", "UT", "UC"}
_PER_FRAME = "PerFrameFunctionalGroupsSequence"
_OTHER_STUDIES = "PertinentOtherEvidenceSequence"
_IMAGES = {"SourceImageSequence", "ReferencedImageSequence"}
"""What refers to images, as items of a content tree do; other lists name instances as a whole."""
_LISTS = ("ReferencedSOPSequence", "ReferencedImageSequence", "ReferencedInstanceSequence")
_OWN_TEXT = frozenset({
    "TextValue", "CodeMeaning", "SeriesDescription", "SegmentLabel", "UnformattedTextValue", "DocumentTitle",
    "DerivationDescription",
})  # fmt: skip
"""What is never copied from the source, whose names may be bytes of unknown meaning."""
_VALUE_TYPE, _STUDY = tag_of("ValueType"), tag_of("StudyInstanceUID")
_TOLD = (_CLASS, _INSTANCE, _SERIES, _SCHEME, _CODE) = tuple(
    map(
        tag_of,
        (
            "ReferencedSOPClassUID",
            "ReferencedSOPInstanceUID",
            "SeriesInstanceUID",
            "CodingSchemeDesignator",
            "CodeValue",
        ),
    )
)
_PATIENT = 0x0010
_OF_PATIENT = {*IDENTITY, *COPIED_TEXT, "IssuerOfPatientIDQualifiersSequence"}
"""What the node says of a patient; anything else of group 0010 is nobody's, or somebody else's."""
REJECTIONS = frozenset({"113001", "113037", "113038", "113039"})
"""Document titles that hide what a document names from everybody (PS3.16 CID 7011)."""


class Ours(NamedTuple):
    """An object that this installation authored."""

    sop_class_uid: str
    series_instance_uid: str


class _Reference(NamedTuple):
    """What is named: class and instance, which of its frames, and whether it is one image and not the instance as a whole."""

    sop_class_uid: str
    sop_instance_uid: str
    frames: tuple[int, ...]
    image: bool


@dataclass(slots=True)
class _Met:
    """What was met on a walk through an object."""

    uids: list[tuple[str, str]] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    schemes: set[str] = field(default_factory=set)
    references: list["_Reference"] = field(default_factory=list)
    placed: list[tuple[str, str]] = field(default_factory=list)
    studies: set[str] = field(default_factory=set)
    rejects: bool = False


def check(
    ds: FileDataset, raw: Sources, others: Mapping[str, Ours], expected: tuple[str, str], *, result: bool
) -> Iterator[Reason]:
    """Yield what is wrong with an object of any kind.

    Parameters
    ----------
    ds : FileDataset
        The object as read back.
    raw : Sources
        The source files.
    others : Mapping[str, Ours]
        By SOP Instance UID what it may refer to beside the sources.
    expected : tuple[str, str]
        SOP Instance and SOP Class UID that it should have.
    result : bool
        Whether it is about what images show, so that it must say which frames it means.
    """
    meta = (ds.file_meta.get("MediaStorageSOPInstanceUID"), ds.file_meta.get("MediaStorageSOPClassUID"))
    if not meta == expected == (ds.get("SOPInstanceUID"), ds.get("SOPClassUID")):
        yield REASONS("object-unreadable", what="SOP Instance UID")
    yield from _identity(ds, raw)
    met = _Met()
    _walk(ds, met)
    given = {
        *raw.instances,
        *raw.series,
        *raw.values["StudyInstanceUID"],
        *(s.frame_of_reference_uid for s in raw.instances.values()),
    }
    for keyword, uid in met.uids:
        if uid not in given and (len(uid) > 64 or not _UID.fullmatch(uid)):
            yield REASONS("uid-invalid", what=keyword)
    if str(ds.get("SOPInstanceUID")) in {*raw.instances, *others}:
        yield REASONS("uid-collides", what="SOPInstanceUID")
    if str(ds.get("SeriesInstanceUID")) in raw.series:
        yield REASONS("uid-collides", what="SeriesInstanceUID")
    yield from _references(met, raw, others, result=result)
    yield from gate_modules.check(ds)
    yield from _texts(met, raw, declared="SpecificCharacterSet" in ds)
    named = {str(i.get("CodingSchemeDesignator")) for i in ds.get("CodingSchemeIdentificationSequence") or ()}
    for scheme in sorted(met.schemes - named):
        if scheme.startswith("99") or not scheme:
            yield REASONS("code-undeclared", what=scheme)


def _references(met: _Met, raw: Sources, others: Mapping[str, Ours], *, result: bool) -> Iterator[Reason]:
    """Check that what is named is there, of its class, in its series and study, and may be named so."""
    for sop_class, uid, frames, image in met.references:
        named = raw.instances.get(uid) or others.get(uid)
        if named is None or named.sop_class_uid != sop_class:
            yield REASONS("reference-dangling", what=sop_class)
        elif uid in raw.instances and not _one_of(raw, uid, frames, whole=not (image and result)):
            yield REASONS("reference-dangling", what="ReferencedFrameNumber")
    for series, uid in met.placed:
        named = raw.instances.get(uid) or others.get(uid)
        if named is not None and named.series_instance_uid != series:
            yield REASONS("reference-dangling", what="SeriesInstanceUID")
    if not met.studies <= {v for v in raw.values["StudyInstanceUID"] if isinstance(v, str)}:
        yield REASONS("reference-dangling", what="StudyInstanceUID")
    if met.rejects and (not met.references or any(r.sop_instance_uid not in others for r in met.references)):
        yield REASONS("rejects-what-is-not-ours")


def _one_of(raw: Sources, uid: str, frames: Sequence[int], *, whole: bool) -> bool:
    """Whether the frames of a reference are there; where frames must be named, that some are."""
    if not frames:
        return whole or ImageKey(uid) in raw.slices
    return all(ImageKey(uid, frame) in raw.slices for frame in frames)


def _means_the_same(own: Charset, raw: Sources, source: Collection[str | bytes]) -> bool:
    """Say whether the bytes of the source are the same text in an object with the character set `own`.

    Bytes that mean nothing by what the source declares are kept without a declaration.
    """
    if own in raw.charsets:
        return True
    texts = [v for v in source if isinstance(v, bytes)]
    return not own.terms and any(not c.known or not c.decode(v)[1] for c in raw.charsets for v in texts)


def _identity(ds: Dataset, raw: Sources) -> Iterator[Reason]:
    own = declared(ds)
    for keyword in IDENTITY:
        written, source = both(ds, keyword), raw.values[keyword]
        if not _means_the_same(own, raw, source):
            written = {v for v in written if isinstance(v, str)}
        if keyword == "PatientSex" and written == {""} and not source <= {"", b""} and not (source & _SEX):
            continue  # an invalid value may not be copied
        if keyword == "PatientBirthDate" and written == {""} and not any(_is_date(v) for v in source):
            continue
        if not written & source:
            yield REASONS("identity-differs", what=keyword)
    for keyword in COPIED_TEXT:
        if not both(ds, keyword) & {"", *raw.values[keyword]}:
            yield REASONS("identity-differs", what=keyword)
    for tag in ds:
        if (tag.tag.group == _PATIENT and tag.keyword not in _OF_PATIENT) or tag.tag.is_private:
            yield REASONS("identity-differs", what=tag.keyword or str(tag.tag))


def _is_date(value: str | bytes) -> bool:
    return isinstance(value, str) and re.fullmatch(r"(1[89]|2\d)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])", value) is not None


def _walk(ds: Dataset, met: _Met, *, inside: bool = False, image: bool = False) -> None:
    content = _VALUE_TYPE in ds
    told: dict[int, str] = {}
    for element in ds:
        vr = element.VR
        if vr == "SQ":
            items: Sequence[Dataset] = element.value or ()
            keyword = element.keyword
            if keyword not in {_PER_FRAME, _OTHER_STUDIES}:
                met.studies |= {str(item.StudyInstanceUID) for item in items if _STUDY in item}
            for item in items[:1] if keyword == _PER_FRAME else items:
                # the references of single frames are the segmentation's own check
                _walk(item, met, inside=True, image=content or keyword in _IMAGES)
        elif vr == "UI":
            met.uids += [(element.keyword, str(v)) for v in _values(element.value)]
        elif vr in _TEXT_VRS:
            met.texts += [(element.keyword, str(v)) for v in _values(element.value)]
        if element.tag in _TOLD:
            told[element.tag] = str(element.value or "")
    _take(ds, told, met, inside=inside, image=image)


def _take(ds: Dataset, told: Mapping[int, str], met: _Met, *, inside: bool, image: bool) -> None:
    """Take down whom one data set refers to, and the coding scheme that it names."""
    if _INSTANCE in told:
        met.references.append(_Reference(told.get(_CLASS, ""), told[_INSTANCE], frames_named(ds), image))
    if inside and _SERIES in told:
        listed = [item for keyword in _LISTS for item in ds.get(keyword) or ()]
        met.placed += [(told[_SERIES], str(item.get("ReferencedSOPInstanceUID"))) for item in listed]
    if _SCHEME in told:
        met.schemes.add(told[_SCHEME])
        met.rejects |= told[_SCHEME].strip().upper() == "DCM" and told.get(_CODE, "").strip() in REJECTIONS


def _values(value: object) -> Iterator[object]:
    if value is None or value == "":
        return
    if isinstance(value, (str, PersonName)) or not hasattr(value, "__iter__"):
        yield value
    else:
        yield from value


def _texts(met: _Met, raw: Sources, *, declared: bool) -> Iterator[Reason]:
    for keyword, text in met.texts:
        if not declared and not text.isascii() and keyword in _OWN_TEXT:
            yield REASONS("text-lost", what="SpecificCharacterSet")
        if "\N{REPLACEMENT CHARACTER}" in text or "\x1b" in text:
            yield REASONS("text-lost", what=keyword)
        elif "?" in text:
            copied = raw.values.get(keyword, frozenset()) if keyword in {*IDENTITY, *COPIED_TEXT} else frozenset()
            if not any(isinstance(v, str) and "?" in v for v in copied):
                yield REASONS("text-lost", what=keyword)
