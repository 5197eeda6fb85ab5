"""What every object that the node authors has in common: whose it is, who made it, when, and how it is encoded.

References
----------
PS3.3 section C.7.1.1 (Patient), C.7.2.1 (General Study), C.7.3.1 (General Series), C.7.5.1 (General Equipment),
C.12.1 (SOP Common).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from unicodedata import normalize

from pydicom.charset import python_encoding
from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName

from pipeline.result import Code
from sr_writer.codes import DESIGNATOR, coded, coding_scheme_item
from sr_writer.device import MANUFACTURER, MODEL_NAME, SOFTWARE_VERSION
from sr_writer.identity import AnalysisIdentity, installation_uid
from sr_writer.options import WriterOptions
from sr_writer.profiles import Form, ObjectName, Piece

COPIED = (
    "PatientName", "PatientID", "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "PatientBirthDate",
    "PatientSex", "PatientAge", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "IssuerOfAccessionNumberSequence", "ReferringPhysicianName", "StudyDescription", "TimezoneOffsetFromUTC",
)  # fmt: skip
"""What identifies patient and study: copied from the source, element by element."""

EMPTY_IF_ABSENT = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
"""Type 2: present, if only empty."""

PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")
UTF8 = "ISO_IR 192"
_FOLD = str.maketrans({"–": "-", "—": "-", "·": "-", "≥": ">= ", "≤": "<= ", "³": "3", "²": "2", "±": "+-", "’": "'"})


@dataclass(frozen=True, slots=True)
class Authorship:
    """What all objects of one analysis share.

    Parameters
    ----------
    source : Dataset
        Normalised header of one source instance.
    identity : AnalysisIdentity
        Decides every UID.
    options : WriterOptions
        How to write.
    now : datetime
        The one clock reading that every time in the objects comes from.
    revision : int
        Counts the revisions of the study from 1.
    ascii_only : bool
        Names hold bytes of unknown meaning: no character set may be declared and nothing but ASCII added.
    tracks : Mapping[str, str]
        Tracking identifier to the Tracking UID that it had in an earlier revision, see `sr_writer.tracking`.
    piece : Piece or None
        The object that is being written, as a destination's profile wants it; None: in its plain form.
    """

    source: Dataset
    identity: AnalysisIdentity
    options: WriterOptions
    now: datetime
    revision: int
    ascii_only: bool = False
    tracks: Mapping[str, str] = field(default_factory=dict)
    piece: Piece | None = None

    def tracking_uid(self, tracking_id: str) -> str:
        """Return the Tracking UID of the thing called `tracking_id`: the one it has, else a new one."""
        return self.tracks.get(tracking_id) or self.identity.tracking_uid(tracking_id)

    def form(self, kind: ObjectName) -> Form:
        """Return how the object `kind` is to be encoded, numbered and called."""
        return self._piece(kind).form

    def series_uid(self, kind: ObjectName, said: str = "") -> str:
        """Return the UID of the series of the object `kind`; `said` as for `object_uid`."""
        return self.identity.uid(f"{kind} series", 0, self._piece(kind).variant + said)

    def object_uid(self, kind: ObjectName, ordinal: int = 0, said: str = "") -> str:
        """Return the UID of the `ordinal`-th instance of the object `kind`; `said` is what else makes it another one."""
        return self.identity.uid(kind, ordinal, self._piece(kind).variant + said)

    def _piece(self, kind: ObjectName) -> Piece:
        if self.piece is not None and self.piece.form.object in (kind, f"card_{kind}"):
            return self.piece
        return Piece(Form(kind))

    @property
    def local(self) -> datetime:
        """The time to write: in the source's time zone (0008,0201) if it names one, else in the machine's."""
        if self.now.tzinfo is None:
            return self.now
        return self.now.astimezone(_offset(str(self.source.get("TimezoneOffsetFromUTC") or "")))

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages that may be written."""
        return ("en",) if self.ascii_only else self.options.languages

    def text(self, text: str) -> str:
        """Return free text as it may be written: folded to ASCII where nothing else is allowed."""
        if not self.ascii_only:
            return text
        return normalize("NFKD", text.translate(_FOLD)).encode("ascii", "ignore").decode()

    @property
    def date(self) -> str:
        """The date as DA."""
        return f"{self.local:%Y%m%d}"

    @property
    def time(self) -> str:
        """The time as TM."""
        return f"{self.local:%H%M%S}"

    @property
    def moment(self) -> str:
        """Date and time as DT."""
        return f"{self.local:%Y%m%d%H%M%S}"


def new_object(
    by: Authorship, *, kind: ObjectName, sop_class_uid: str, modality: str, variant: str = "", what: str | None = None
) -> Dataset:
    """Return a data set with patient, study, series, equipment and SOP common modules filled in.

    Parameters
    ----------
    by : Authorship
        Whose, by whom, when.
    kind : ObjectName
        What sort of object; series number and words are its form's.
    sop_class_uid, modality : str
        As in the object.
    variant : str
        What else, beside its form, makes it another object.
    what : str or None
        Word for the series description instead of the plain form's.
    """
    ds = Dataset()
    for keyword in COPIED:
        if keyword in by.source:
            ds[keyword] = by.source[keyword]
    for keyword in EMPTY_IF_ABSENT:
        if keyword not in ds:
            setattr(ds, keyword, "")
    identity = by.identity
    ds.StudyInstanceUID = identity.study_instance_uid
    ds.SOPClassUID = sop_class_uid
    form = by.form(kind)
    ds.SOPInstanceUID, ds.SeriesInstanceUID = by.object_uid(kind, said=variant), by.series_uid(kind, variant)
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = modality, form.number, 1
    ds.SeriesDescription = series_description(by, form.description or what or form.word)
    ds.InstanceCreationDate = ds.SeriesDate = ds.ContentDate = by.date
    ds.InstanceCreationTime = ds.SeriesTime = ds.ContentTime = by.time
    ds.Manufacturer, ds.ManufacturerModelName = MANUFACTURER, MODEL_NAME
    ds.DeviceSerialNumber = installation_uid(identity.installation_id)
    ds.SoftwareVersions = [SOFTWARE_VERSION, f"{identity.pipeline} {identity.version}"]
    ds.ContributingEquipmentSequence = _equipment(by)
    if by.options.research:
        ds.ContentQualification = "RESEARCH"
    return ds


def mark_lossy(ds: Dataset, source: Dataset) -> None:
    """Say of an image whether what it was made from was ever compressed with loss (PS3.3 section C.7.6.1.1.5)."""
    ds.LossyImageCompression = "01" if source.get("LossyImageCompression") == "01" else "00"
    if ds.LossyImageCompression == "01":
        for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            if keyword in source:
                ds[keyword] = source[keyword]


def series_description(by: Authorship, what: str) -> str:
    """Return ``AI <pipeline> <version> <what> [RESEARCH] r<revision>``, at most 64 characters (LO)."""
    tail = (" [RESEARCH]" if by.options.research else "") + (f" r{by.revision}" if by.revision > 1 else "")
    head = f"AI {by.identity.pipeline} {by.identity.version} {what}"
    return head[: 64 - len(tail)] + tail


def finish(ds: Dataset, by: Authorship) -> Dataset:
    """Declare the private scheme where it is used and choose a character set that holds every text.

    The source's character set is kept where it can: names then leave with the bytes they came with.
    """
    if any(item.get("CodingSchemeDesignator") == DESIGNATOR for item in _items(ds)):
        ds.CodingSchemeIdentificationSequence = [coding_scheme_item()]
    if by.ascii_only:
        return ds
    preferred = by.source.get("SpecificCharacterSet") or None
    texts = [t for item in (ds, *_items(ds)) for t in _texts(item)]
    if preferred is not None and isinstance(preferred, str) and all(_fits(t, preferred) for t in texts):
        ds.SpecificCharacterSet = preferred
    elif preferred is None and all(t.isascii() for t in texts):
        ds.pop("SpecificCharacterSet", None)
    else:
        ds.SpecificCharacterSet = UTF8
    return ds


def _equipment(by: Authorship) -> list[Dataset]:
    """Contributing Equipment (0018,A001): the node itself, by which it knows its own work, and the algorithm."""
    identity = by.identity
    rows = (
        (MODEL_NAME, [SOFTWARE_VERSION], installation_uid(identity.installation_id), "AI node that wrote this object"),
        (identity.pipeline, [identity.version, identity.weights_digest[:64]], identity.device_uid, "AI algorithm"),
    )
    items = []
    for model, versions, device_uid, description in rows:
        item = Dataset()
        item.PurposeOfReferenceCodeSequence = [coded(PROCESSING_EQUIPMENT)]
        item.Manufacturer, item.ManufacturerModelName = MANUFACTURER, model[:64]
        item.SoftwareVersions, item.DeviceUID = versions, device_uid
        item.ContributionDateTime, item.ContributionDescription = by.moment, description
        items.append(item)
    return items


def _offset(text: str) -> timezone | None:
    """``+HHMM`` as a time zone; None if it is not one."""
    if len(text) != 5 or text[0] not in "+-" or not text[1:].isdigit():
        return None
    minutes = int(text[1:3]) * 60 + int(text[3:])
    return timezone(timedelta(minutes=-minutes if text[0] == "-" else minutes)) if minutes < 24 * 60 else None


def _items(ds: Dataset) -> Iterator[Dataset]:
    """Yield every sequence item at any depth, but not those of single frames: they hold no text."""
    for element in ds:
        if element.VR == "SQ" and element.keyword != "PerFrameFunctionalGroupsSequence":
            for item in element.value:
                yield item
                yield from _items(item)


def _texts(ds: Dataset) -> Iterator[str]:
    for element in ds:
        if element.VR in {"PN", "LO", "SH", "LT", "ST", "UT", "UC"} and element.value is not None:
            values = [element.value] if isinstance(element.value, (str, PersonName)) else element.value
            yield from (str(v) for v in values)


def _fits(text: str, charset: str) -> bool:
    try:
        text.encode(python_encoding[charset])
    except (KeyError, UnicodeEncodeError):
        return False
    return True
