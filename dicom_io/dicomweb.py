"""The sender over the web: STOW-RS and QIDO-RS as a user agent, with an outcome for everything that can happen.

One object a request: what became of it is known, and written down, before the next one leaves, and an answer that says
nothing is about one object only. The connection is kept.

References
----------
PS3.18 sections 10.5 (store), 10.6 (search); annex F (JSON model).
"""

import json
import secrets
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import quote, urlencode

from pydicom.filereader import read_file_meta_info

from dicom_io.arrival import Identity, read_identity
from dicom_io.errors import NetworkError
from dicom_io.http_client import Answer, Service, Session
from dicom_io.read import dataset_offset
from dicom_io.reason import Reason
from dicom_io.reasons import REASONS
from dicom_io.scu import StoreReport, Timeouts
from dicom_io.scu_query import FoundStudy
from dicom_io.status import Outcome, judge
from dicom_io.stow import JSON, read_answer

_PIECE: Final = 1 << 18
_TIMEOUTS = Timeouts()
_SINGLY: Final = 50
"""So many instances are asked for one by one where an answer for the whole series does not show them."""


@dataclass(frozen=True, slots=True)
class StatusRow:
    """What a status of HTTP comes to where the answer says nothing about the object itself."""

    first: int
    last: int
    outcome: Outcome
    code: str


TABLE: tuple[StatusRow, ...] = (
    StatusRow(200, 299, Outcome.CHECK, "stow-answer-unclear"),
    StatusRow(300, 399, Outcome.RETRY, "http-not-there"),
    StatusRow(400, 400, Outcome.DEAD, "http-refused"),
    StatusRow(401, 401, Outcome.RETRY, "http-not-authorised"),
    StatusRow(402, 402, Outcome.DEAD, "http-refused"),
    StatusRow(403, 403, Outcome.RETRY, "http-not-authorised"),
    StatusRow(404, 405, Outcome.RETRY, "http-not-there"),
    StatusRow(406, 407, Outcome.DEAD, "http-refused"),
    StatusRow(408, 408, Outcome.RETRY, "http-cannot-now"),
    StatusRow(409, 409, Outcome.CHECK, "stow-answer-unclear"),
    StatusRow(410, 412, Outcome.DEAD, "http-refused"),
    StatusRow(413, 413, Outcome.DEAD, "http-too-large"),
    StatusRow(414, 424, Outcome.DEAD, "http-refused"),
    StatusRow(425, 429, Outcome.RETRY, "http-cannot-now"),
    StatusRow(430, 499, Outcome.DEAD, "http-refused"),
    StatusRow(500, 599, Outcome.RETRY, "http-cannot-now"),
)
"""HTTP status -> outcome, ascending and without a gap. `CHECK`: a query says whether the object is there. Access and
addresses are put right by a person, and what waits for that is not lost."""

_OF_ONE_OBJECT = ("http-cannot-now", "stow-answer-unclear")
"""Reasons to try again that say nothing about the next object."""


def store(service: Service, paths: Sequence[Path], timeouts: Timeouts = _TIMEOUTS) -> Iterator[StoreReport]:
    """Send files in their order, as they stand; yield one report each, as soon as it is known.

    Where the service cannot be reached, lets nobody in, or has answered nothing yet, what is left is not tried.
    """
    answered = False
    with Session(service, timeouts) as session:
        for position, path in enumerate(paths):
            report = _send(session, path)
            yield report
            code = None if report.reason is None else report.reason.code
            if report.outcome is not Outcome.RETRY or report.status is not None or code in _OF_ONE_OBJECT:
                answered = True
            elif code != "http-unanswered" or not answered:
                for rest in paths[position + 1 :]:
                    yield StoreReport(rest, _names(rest)[0], None, Outcome.RETRY, report.reason)
                return


def find_study(service: Service, study_instance_uid: str, timeouts: Timeouts = _TIMEOUTS) -> tuple[FoundStudy, ...]:
    """Ask whose study this is; no match is an empty tuple.

    Raises
    ------
    NetworkError
        `query-not-offered`, `query-failed`, `http-not-authorised`, or why no answer came.
    """
    keys = {"StudyInstanceUID": study_instance_uid, "includefield": "00100021"}
    with Session(service, timeouts) as session:
        matches = _search(session, "/studies", keys)
    tags = ("0020000D", "00100020", "00100021", "00080050", "00100010")
    found = tuple(FoundStudy(*(_text(match, tag) for tag in tags)) for match in matches)
    # a service may pass over keys that it does not know, and answer with everything
    return tuple(study for study in found if study.study_instance_uid == study_instance_uid)


def find_instances(
    service: Service,
    study_instance_uid: str,
    series_instance_uid: str,
    sop_instance_uids: Collection[str],
    timeouts: Timeouts = _TIMEOUTS,
) -> frozenset[str]:
    """Ask which of these instances of a series the service has.

    Raises
    ------
    NetworkError
        As `find_study`.
    """
    with Session(service, timeouts) as session:
        return _there(session, study_instance_uid, series_instance_uid, frozenset(sop_instance_uids))


def echo(service: Service, timeouts: Timeouts = _TIMEOUTS) -> float:
    """Ask for a study that nobody has; return how long the answer took (seconds).

    Where queries are not offered, a store request without any object shows whether anything is stored at this URL.

    Raises
    ------
    NetworkError
        If no answer came, or one that lets nobody in; `http-not-there` if nothing is stored here.
    """
    begun = time.perf_counter()
    try:
        find_study(service, f"2.25.{uuid.uuid4().int}", timeouts)
    except NetworkError as error:
        if error.reason.code not in ("query-not-offered", "query-failed"):
            raise
        if error.reason.code == "query-not-offered":
            with Session(service, timeouts) as session:
                kind = f'multipart/related; type="application/dicom"; boundary={secrets.token_hex(16)}'
                answer = session.request("POST", "/studies", {"Content-Type": kind, "Accept": JSON}, iter(()))
                code = judge_http(answer.status).code
                if code in ("http-not-there", "http-not-authorised"):
                    reason = REASONS(code, status=answer.status, url=session.shown)
                    raise NetworkError(reason, retryable=True) from None
    return time.perf_counter() - begun


def _send(session: Session, path: Path) -> StoreReport:
    uid, there = _names(path)
    try:
        with path.open("rb") as file:
            answer = session.request("POST", "/studies", *_message(file, path.stat().st_size))
    except NetworkError as error:
        return StoreReport(path, uid, None, Outcome.RETRY, error.reason)
    except OSError:
        return StoreReport(path, uid, None, Outcome.DEAD, REASONS("file-unreadable"))
    said = read_answer(answer.body or b"").get(uid) if uid else None
    if said is not None:
        row = judge(said)
        return StoreReport(path, uid, said, row.outcome, REASONS(row.code, status=said) if row.code else None)
    http = judge_http(answer.status)
    reason = REASONS(http.code, status=answer.status, url=session.shown)
    if http.outcome is not Outcome.CHECK:
        return StoreReport(path, uid, None, http.outcome, reason)
    try:
        if uid in _there(session, there.study_instance_uid, there.series_instance_uid, frozenset({uid})):
            return StoreReport(path, uid, None, Outcome.DELIVERED_WITH_WARNING, REASONS("stow-found-there"))
    except NetworkError:
        pass  # it is not known, and the object is sent again
    return StoreReport(path, uid, None, Outcome.RETRY, reason)


def judge_http(status: int) -> StatusRow:
    """Return the row for a status of HTTP."""
    return next((row for row in TABLE if row.first <= status <= row.last), TABLE[-1])


def _names(path: Path) -> tuple[str, Identity]:
    """Return the SOP Instance UID of a file, and the UIDs in its data set; empty where it cannot be read."""
    try:
        meta = read_file_meta_info(path)
        with path.open("rb") as file:
            offset = dataset_offset(file)
        return str(meta.MediaStorageSOPInstanceUID), read_identity(path, offset, str(meta.TransferSyntaxUID))
    except Exception:  # noqa: BLE001 - whatever pydicom says of it
        return "", Identity()


def _message(file: BinaryIO, size: int) -> tuple[dict[str, str], Iterator[bytes], int]:
    """Return headers, body and its length (bytes) for one file."""
    boundary = secrets.token_hex(16)
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    tail = f"\r\n--{boundary}--\r\n".encode()

    def pieces() -> Iterator[bytes]:
        yield head
        while piece := file.read(_PIECE):
            yield piece
        yield tail

    kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
    return {"Content-Type": kind, "Accept": JSON}, pieces(), len(head) + size + len(tail)


def _there(session: Session, study: str, series: str, wanted: frozenset[str]) -> frozenset[str]:
    path = f"/studies/{quote(study)}/series/{quote(series)}/instances"
    found = _found(session, path, {"SOPInstanceUID": next(iter(wanted))} if len(wanted) == 1 else {}) & wanted
    missing = sorted(wanted - found)
    if len(wanted) > 1 and 0 < len(missing) <= _SINGLY:  # an answer may be a page of a longer one
        for uid in missing:
            found |= _found(session, path, {"SOPInstanceUID": uid}) & wanted
    return found


def _found(session: Session, path: str, keys: dict[str, str]) -> frozenset[str]:
    return frozenset(_text(match, "00080018") for match in _search(session, path, keys))


def _search(session: Session, path: str, keys: dict[str, str]) -> list[Any]:
    query = f"?{urlencode(keys)}" if keys else ""
    answer = session.request("GET", path + query, {"Accept": JSON})
    if answer.status == 204 or (answer.status == 200 and answer.body == b""):
        return []
    if answer.status == 200 and answer.body is not None:
        try:
            matches = json.loads(answer.body)
        except (ValueError, RecursionError):
            matches = None
        if isinstance(matches, list):
            return matches
    raise NetworkError(_no_search(session, answer), retryable=answer.status >= 500)


def _no_search(session: Session, answer: Answer) -> Reason:
    if answer.status in (401, 403):
        return REASONS("http-not-authorised", status=answer.status, url=session.shown)
    code = "query-not-offered" if answer.status in (404, 405, 501) else "query-failed"
    return REASONS(code, ae_title=session.shown, status=f"HTTP {answer.status}")


def _text(match: object, tag: str) -> str:
    """Return the first value of an element as text; of a name its parts, joined as a data set has them."""
    element = match.get(tag) if isinstance(match, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    value = values[0] if isinstance(values, list) and values else ""
    if isinstance(value, dict):
        parts = (value.get(part) for part in ("Alphabetic", "Ideographic", "Phonetic"))
        value = "=".join(part if isinstance(part, str) else "" for part in parts).rstrip("=")
    return value.strip(" \0") if isinstance(value, str) else ""
