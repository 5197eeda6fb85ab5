"""Study Root C-FIND as an SCU: whose study is it, what does each series hold, which instances are there.

Queries are hierarchical (the keys of every level above are given) and use single value and universal matching only: the
one kind of query that every archive answers.

References
----------
PS3.4 annex C.4.1 (C-FIND), C.6.2.1 (Study Root information model).
"""

import time
from collections.abc import Collection
from dataclasses import dataclass, field

from pydicom import DataElement, config
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pynetdicom.presentation import build_context

from dicom_io.charset import TEXT_VRS, declared, text_of
from dicom_io.contexts import STUDY_ROOT_FIND
from dicom_io.errors import NetworkError
from dicom_io.reasons import REASONS
from dicom_io.scu import Peer, Timeouts, associate, release
from dicom_io.status import Outcome, judge

_TIMEOUTS = Timeouts()
_PENDING = (0xFF00, 0xFF01)
_MATCHES = 50_000
"""No study has so many series or images: a peer that goes on is not answering the question."""
_ANSWERS = 10
"""A whole answer may take as many times as long as its first match may."""


@dataclass(frozen=True, slots=True)
class FoundStudy:
    """One match of a study query; absent values are empty.

    The name may lack characters that the study has: a PACS answers in a character set of its own choice. What cannot be
    decoded is U+FFFD.
    """

    study_instance_uid: str
    patient_id: str
    issuer_of_patient_id: str
    accession_number: str
    patient_name: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class FoundSeries:
    """One series that a peer holds; `images` is None if it does not count them."""

    series_instance_uid: str
    modality: str
    images: int | None


def find_study(peer: Peer, study_instance_uid: str, timeouts: Timeouts = _TIMEOUTS) -> tuple[FoundStudy, ...]:
    """Ask whose study this is; no match is an empty tuple.

    Raises
    ------
    NetworkError
        `query-not-offered` if the peer accepts no Study Root queries, `query-failed` if it answers with a failure,
        `query-unanswered` if no answer came, else the reason why there is no association.
    """
    query = _query("STUDY", StudyInstanceUID=study_instance_uid)
    query.PatientID = query.IssuerOfPatientID = query.AccessionNumber = query.PatientName = ""
    keywords = ("StudyInstanceUID", "PatientID", "IssuerOfPatientID", "AccessionNumber", "PatientName")
    found = tuple(FoundStudy(*(_text(match, k) for k in keywords)) for match in _find(peer, query, timeouts))
    return tuple(study for study in found if study.study_instance_uid == study_instance_uid)


def find_series(peer: Peer, study_instance_uid: str, timeouts: Timeouts = _TIMEOUTS) -> tuple[FoundSeries, ...]:
    """Ask which series of a study the peer holds and, where it says so, how many instances each has.

    Raises
    ------
    NetworkError
        As `find_study`.
    """
    query = _query("SERIES", StudyInstanceUID=study_instance_uid)
    query.SeriesInstanceUID = query.Modality = ""
    query.NumberOfSeriesRelatedInstances = None
    found = {}
    for match in _find(peer, query, timeouts):
        uid, count = _text(match, "SeriesInstanceUID"), _text(match, "NumberOfSeriesRelatedInstances")
        if uid and _text(match, "StudyInstanceUID") in ("", study_instance_uid):
            images = int(count) if count.isascii() and count.isdigit() else None
            found[uid] = FoundSeries(uid, _text(match, "Modality").upper(), images)
    return tuple(found.values())


def find_instances(
    peer: Peer,
    study_instance_uid: str,
    series_instance_uid: str,
    sop_instance_uids: Collection[str] | None = None,
    timeouts: Timeouts = _TIMEOUTS,
) -> frozenset[str]:
    """Ask which instances of a series the peer holds; only those among `sop_instance_uids`, if given.

    Raises
    ------
    NetworkError
        As `find_study`.
    """
    query = _query("IMAGE", StudyInstanceUID=study_instance_uid, SeriesInstanceUID=series_instance_uid)
    # not as a list of UIDs: archives that do not know list matching answer it with nothing
    single = next(iter(sop_instance_uids)) if sop_instance_uids is not None and len(sop_instance_uids) == 1 else ""
    _set_uid(query, "SOPInstanceUID", single)
    found = set()
    for match in _find(peer, query, timeouts):
        if _text(match, "SeriesInstanceUID") in ("", series_instance_uid):
            found.add(_text(match, "SOPInstanceUID"))
    found.discard("")
    return frozenset(found if sop_instance_uids is None else found & set(sop_instance_uids))


def _query(level: str, **uids: str) -> Dataset:
    query = Dataset()
    query.SpecificCharacterSet = "ISO_IR 192"
    query.QueryRetrieveLevel = level
    for keyword, uid in uids.items():
        _set_uid(query, keyword, uid)
    return query


def _set_uid(query: Dataset, keyword: str, uid: str) -> None:
    # unchecked: the UID is the scanner's, and a warning would quote it
    query.add(DataElement(keyword, "UI", uid, validation_mode=config.IGNORE))


def _find(peer: Peer, query: Dataset, timeouts: Timeouts) -> list[Dataset]:
    """Return every match.

    Raises
    ------
    NetworkError
        As `find_study`; also if the answer does not come to an end.
    """
    try:
        association = associate(peer, [build_context(STUDY_ROOT_FIND)], timeouts)
    except NetworkError as error:
        if error.reason.code == "context-refused":
            raise NetworkError(REASONS("query-not-offered", ae_title=peer.ae_title)) from error
        raise
    matches: list[Dataset] = []
    last: int | None = None
    end = time.monotonic() + _ANSWERS * timeouts.answer_s
    try:
        for status, match in association.send_c_find(query, STUDY_ROOT_FIND):
            last = status.get("Status")
            if last in _PENDING and match is not None:
                matches.append(match)
            if len(matches) > _MATCHES or time.monotonic() > end:
                association.abort()
                last = None
                break
    except (ValueError, RuntimeError):  # the role was refused, or the association is gone
        last = None
    release(association)
    if last != 0x0000:
        if last is None:
            raise NetworkError(REASONS("query-unanswered", ae_title=peer.ae_title), retryable=True)
        retryable = judge(last).outcome is Outcome.RETRY
        raise NetworkError(REASONS("query-failed", ae_title=peer.ae_title, status=f"0x{last:04X}"), retryable=retryable)
    return matches


def _text(match: Dataset, keyword: str) -> str:
    try:
        if dictionary_VR(keyword) in TEXT_VRS:  # a PACS chooses the character set of its answer
            found = text_of(match, Tag(keyword), declared(match))
            return "" if found is None else found.text.strip(" \0")
        value = match.get(keyword)
    except Exception:  # noqa: BLE001 - decoded only now, and a peer may write anything
        return ""
    return "" if value is None else str(value).strip(" \0")
