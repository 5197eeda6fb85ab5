"""Notices, read and written: performed procedure steps, instance availability, storage commitment. Pure.

Whatever the bytes are, reading gives a value or `UnreadableError`; what is missing or odd inside is absent.

References
----------
PS3.4 annex F.7 (modality performed procedure step), annex J (storage commitment), annex R (instance availability);
PS3.7 annex C (statuses).
"""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Literal

from pydicom import DataElement, config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.sequence import Sequence
from pydicom.uid import UID, ImplicitVRLittleEndian

from dicom_io import elements
from dicom_io.errors import UnreadableError
from dicom_io.read import dataset_offset, read_encoded
from dicom_io.reasons import REASONS
from dicom_io.scan import outline
from dicom_io.scp_types import NoticeKind

StepStatus = Literal["IN PROGRESS", "COMPLETED", "DISCONTINUED"]
_STATUSES: Mapping[str, StepStatus] = {
    "IN PROGRESS": "IN PROGRESS",
    "COMPLETED": "COMPLETED",
    "DISCONTINUED": "DISCONTINUED",
}


class NoticeStatus(IntEnum):
    """The statuses that we answer notices with (PS3.7 annex C)."""

    SUCCESS = 0x0000
    INVALID_VALUE = 0x0106
    PROCESSING_FAILURE = 0x0110
    DUPLICATE_INSTANCE = 0x0111
    NO_SUCH_INSTANCE = 0x0112
    NO_SUCH_EVENT = 0x0113
    INVALID_ARGUMENT = 0x0115
    NO_SUCH_CLASS = 0x0118
    MISSING_ATTRIBUTE = 0x0120
    NO_SUCH_ACTION = 0x0123
    NOT_AUTHORISED = 0x0124
    DUPLICATE_INVOCATION = 0x0210
    RESOURCE_LIMITATION = 0x0213


MAY_NO_LONGER_BE_UPDATED = 0xA506
"""Error ID beside 0x0110 when a step that has ended is set again (PS3.4 table F.7.2-2)."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a performed procedure step says; an N-SET says only what it changes.

    Parameters
    ----------
    status : StepStatus or None
        None if it says none, or none that there is.
    studies : tuple[str, ...]
        Study Instance UIDs of its scheduled step attributes, without repetitions.
    instances : tuple[tuple[str, str], ...]
        (Series, SOP) Instance UIDs of the images of its performed series. Its other objects (dose reports) often go
        elsewhere: whoever waited for them would wait for ever.
    """

    status: StepStatus | None
    studies: tuple[str, ...]
    instances: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Availability:
    """An instance availability notification; `instances` are (Series, SOP) Instance UIDs that can be had."""

    study: str
    instances: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """One instance that is to be committed."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """What a sender asks an archive to commit."""

    transaction_uid: str
    references: tuple[Reference, ...]


@dataclass(frozen=True, slots=True)
class CommitmentResult:
    """What an archive answered; `failed` holds the failure reason by SOP Instance UID (PS3.3 section C.14.1.1)."""

    transaction_uid: str
    committed: tuple[Reference, ...]
    failed: Mapping[str, int]

    def missing(self, asked: Iterable[Reference]) -> dict[str, int]:
        """Return the failure reason of each instance in `asked` that is not committed.

        An instance that the archive does not name is not committed (0x0112), and neither is one that it names as
        committed and failed.
        """
        there = set(self.committed)
        return {
            r.sop_instance_uid: self.failed.get(r.sop_instance_uid, int(NoticeStatus.NO_SUCH_INSTANCE))
            for r in asked
            if r not in there or r.sop_instance_uid in self.failed
        }


Wanted = Callable[[str], bool]
"""Whether instances of a SOP class are of interest."""


def _anything(sop_class_uid: str) -> bool:
    del sop_class_uid
    return True


def read_notice(path: Path) -> Dataset:
    """Read a notice that was kept.

    Raises
    ------
    UnreadableError
        As `read_encoded`; a file that is gone counts as unreadable.
    """
    return read_encoded(path.read_bytes()) if path.is_file() else read_encoded(b"")


def decode(encoded: bytes, syntax: str) -> Dataset:
    """Read a data set as it comes in a message.

    Raises
    ------
    UnreadableError
        ``unparsable`` or ``truncated``.
    """
    if encoded and outline(encoded, 0, little_endian=True).verdict != "whole":
        raise UnreadableError(REASONS("unparsable"))
    return read_encoded(part10("0", "0", syntax, encoded))


def read_step(dataset: Dataset, wanted: Wanted = _anything) -> Step:
    """Read the data set of an MPPS N-CREATE or N-SET; of its images those of a `wanted` SOP class."""
    scheduled = _items(dataset, "ScheduledStepAttributesSequence")
    studies = [uid for item in scheduled if (uid := _uid(item, "StudyInstanceUID"))]
    status = _STATUSES.get(elements.text(dataset, "PerformedProcedureStepStatus").upper())
    found = _instances(_items(dataset, "PerformedSeriesSequence"), "ReferencedImageSequence", wanted)
    return Step(status, tuple(dict.fromkeys(studies)), tuple(dict.fromkeys(found)))


def read_availability(dataset: Dataset, wanted: Wanted = _anything) -> Availability:
    """Read the data set of an instance availability notification: what can be had and is of a `wanted` SOP class."""
    found = _instances(_items(dataset, "ReferencedSeriesSequence"), "ReferencedSOPSequence", wanted)
    return Availability(_uid(dataset, "StudyInstanceUID"), tuple(dict.fromkeys(found)))


def read_commitment_request(dataset: Dataset) -> CommitmentRequest:
    """Read the action information of a storage commitment request."""
    return CommitmentRequest(transaction_uid(dataset), _references(dataset, "ReferencedSOPSequence"))


def read_commitment_result(dataset: Dataset) -> CommitmentResult:
    """Read the event information of a storage commitment result."""
    failed = {
        uid: reason if (reason := elements.integer(item, "FailureReason")) is not None else 0x0110
        for item in _items(dataset, "FailedSOPSequence")
        if (uid := _uid(item, "ReferencedSOPInstanceUID"))
    }
    committed = _references(dataset, "ReferencedSOPSequence")
    return CommitmentResult(transaction_uid(dataset), committed, failed)


def fault(kind: NoticeKind, dataset: Dataset) -> NoticeStatus | None:
    """Return the status that refuses a notice for what its data set says or lacks, or None."""
    match kind:
        case "mpps-create":
            step, scheduled = read_step(dataset), _items(dataset, "ScheduledStepAttributesSequence")
            said = elements.text(dataset, "PerformedProcedureStepStatus")
            if not said or not scheduled or not all(_uid(item, "StudyInstanceUID") for item in scheduled):
                return NoticeStatus.MISSING_ATTRIBUTE
            return None if step.status == "IN PROGRESS" else NoticeStatus.INVALID_VALUE
        case "mpps-set":
            said = elements.text(dataset, "PerformedProcedureStepStatus")
            odd = NoticeStatus.INVALID_VALUE if said and read_step(dataset).status is None else None
            return odd if len(dataset) else NoticeStatus.MISSING_ATTRIBUTE
        case "ian":
            there = _uid(dataset, "StudyInstanceUID") and _items(dataset, "ReferencedSeriesSequence")
            return None if there else NoticeStatus.MISSING_ATTRIBUTE
        case "commit-request":
            keywords = ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID")
            items = _items(dataset, "ReferencedSOPSequence")
            whole = items and all(_uid(item, keyword) for item in items for keyword in keywords)
            return None if whole and transaction_uid(dataset) else NoticeStatus.INVALID_ARGUMENT
        case "commit-result":
            return None if transaction_uid(dataset) else NoticeStatus.INVALID_ARGUMENT


def transaction_uid(dataset: Dataset) -> str:
    """Return the Transaction UID of a commitment request or result; empty if there is none."""
    return _uid(dataset, "TransactionUID")


def commitment_request(asked: CommitmentRequest) -> Dataset:
    """Return the action information that asks for commitment."""
    dataset = Dataset()
    _set_uid(dataset, "TransactionUID", asked.transaction_uid)
    dataset.ReferencedSOPSequence = [_reference(r) for r in asked.references]
    return dataset


def commitment_result(transaction: str, asked: Iterable[Reference], failed: Mapping[str, int]) -> Dataset:
    """Return the event information that reports which of `asked` are committed: all but `failed`."""
    dataset, asked = Dataset(), tuple(asked)
    _set_uid(dataset, "TransactionUID", transaction)
    committed = [_reference(r) for r in asked if r.sop_instance_uid not in failed]
    if committed:
        dataset.ReferencedSOPSequence = committed
    refused = []
    for reference in asked:
        if reference.sop_instance_uid in failed:
            item = _reference(reference)
            item.FailureReason = failed[reference.sop_instance_uid]
            refused.append(item)
    if refused:
        dataset.FailedSOPSequence = refused
    return dataset


def part10(sop_class_uid: str, sop_instance_uid: str, syntax: str, encoded: bytes) -> bytes:
    """Return a DICOM file that holds a data set as it came; equal arguments give equal bytes."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    _set_uid(meta, "MediaStorageSOPClassUID", sop_class_uid)
    _set_uid(meta, "MediaStorageSOPInstanceUID", sop_instance_uid)
    buffer = DicomBytesIO()
    buffer.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(buffer, meta, enforce_standard=True)
    return buffer.getvalue() + encoded


def data_of(path: Path) -> bytes:
    """Return the bytes of the data set in a DICOM file, as they stand.

    Raises
    ------
    OSError
        If it cannot be read.
    UnreadableError
        If its file meta information is cut.
    """
    content = path.read_bytes()
    return content[dataset_offset(io.BytesIO(content)) :]


def encode(dataset: Dataset, syntax: str) -> bytes:
    """Encode a data set in one of the plain little endian syntaxes."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, syntax == ImplicitVRLittleEndian
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def _reference(reference: Reference) -> Dataset:
    item = Dataset()
    _set_uid(item, "ReferencedSOPClassUID", reference.sop_class_uid)
    _set_uid(item, "ReferencedSOPInstanceUID", reference.sop_instance_uid)
    return item


def _references(dataset: Dataset, keyword: str) -> tuple[Reference, ...]:
    found = (
        Reference(_uid(item, "ReferencedSOPClassUID"), _uid(item, "ReferencedSOPInstanceUID"))
        for item in _items(dataset, keyword)
    )
    return tuple(dict.fromkeys(r for r in found if r.sop_class_uid and r.sop_instance_uid))


def _instances(series: Iterable[Dataset], keyword: str, wanted: Wanted) -> Iterator[tuple[str, str]]:
    for one in series:
        for item in _items(one, keyword):
            uid = _uid(item, "ReferencedSOPInstanceUID")
            there = elements.text(item, "InstanceAvailability").upper() != "UNAVAILABLE"
            if uid and there and wanted(_uid(item, "ReferencedSOPClassUID")):
                yield _uid(one, "SeriesInstanceUID"), uid


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """Return the items of a sequence; none if it is absent or no sequence."""
    found = elements.value(dataset, keyword)
    return list(found) if isinstance(found, Sequence) else []


def _uid(dataset: Dataset, keyword: str) -> str:
    """Return one UID; empty if it is absent, several, or longer than a UID may be (PS3.5 section 9.1)."""
    found = elements.texts(dataset, keyword)
    return found[0] if len(found) == 1 and len(found[0]) <= 64 else ""


def _set_uid(dataset: Dataset, keyword: str, value: str) -> None:
    # unchecked: the UID is somebody else's, and a warning would quote it
    dataset.add(DataElement(keyword, "UI", value, validation_mode=config.IGNORE))
