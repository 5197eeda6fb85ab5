"""Notices as an SCU: steps are passed on, storage is asked to be committed, and senders are told what came of that.

References
----------
PS3.4 annex F.7 (modality performed procedure step), annex J (storage commitment); PS3.7 section 10.1 (DIMSE-N), annex C
(statuses).
"""

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, cast

from pydicom import dcmread
from pydicom.filereader import read_file_meta_info
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import N_EVENT_REPORT_RSP
from pynetdicom.dimse_primitives import N_ACTION, N_CREATE, N_EVENT_REPORT, N_SET
from pynetdicom.events import Event
from pynetdicom.presentation import PresentationContext, build_context

from dicom_io import notices
from dicom_io.contexts import COMMITMENT, COMMITMENT_INSTANCE, NOTICE_SYNTAXES, PERFORMED_STEP
from dicom_io.errors import DicomIOError, NetworkError, UnreadableError
from dicom_io.notices import (
    MAY_NO_LONGER_BE_UPDATED,
    CommitmentRequest,
    CommitmentResult,
    NoticeStatus,
    Reference,
    read_commitment_result,
)
from dicom_io.reasons import REASONS
from dicom_io.scu import Peer, Timeouts, associate, release
from dicom_io.status import Outcome

_TIMEOUTS = Timeouts()


@dataclass(frozen=True, slots=True)
class Row:
    """Statuses from `first` to `last` (inclusive) and what they mean for a notice that is passed on."""

    first: int
    last: int
    outcome: Outcome


TABLE: tuple[Row, ...] = (
    Row(0x0000, 0x0000, Outcome.DELIVERED),
    Row(0x0001, 0x0001, Outcome.DELIVERED_WITH_WARNING),
    Row(0x0105, 0x0106, Outcome.DEAD),
    Row(0x0107, 0x0107, Outcome.DELIVERED_WITH_WARNING),
    Row(0x0110, 0x0110, Outcome.RETRY),
    Row(0x0111, 0x0111, Outcome.DEAD),  # of an N-SET; see `judge` for N-CREATE
    Row(0x0112, 0x0115, Outcome.DEAD),
    Row(0x0116, 0x0116, Outcome.DELIVERED_WITH_WARNING),
    Row(0x0117, 0x0124, Outcome.DEAD),
    Row(0x0210, 0x0210, Outcome.RETRY),
    Row(0x0211, 0x0212, Outcome.DEAD),
    Row(0x0213, 0x0213, Outcome.RETRY),
    Row(0xA700, 0xA7FF, Outcome.RETRY),
    Row(0xB000, 0xBFFF, Outcome.DELIVERED_WITH_WARNING),
)
"""Status of a DIMSE-N response -> outcome, ascending and without overlap; any other is tried again."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a peer answered; None: no answer came."""

    status: int | None
    error_id: int | None = None


def judge(kind: Literal["mpps-create", "mpps-set"], reply: Reply) -> Outcome:
    """Say what the answer to a step that was passed on means.

    A step that exists already is an earlier attempt whose answer was lost, and so is one that may no longer be updated
    (PS3.4 table F.7.2-2).
    """
    if kind == "mpps-create" and reply.status == NoticeStatus.DUPLICATE_INSTANCE:
        return Outcome.DELIVERED
    final = reply.status == NoticeStatus.PROCESSING_FAILURE and reply.error_id == MAY_NO_LONGER_BE_UPDATED
    if kind == "mpps-set" and (final or reply.status == MAY_NO_LONGER_BE_UPDATED):
        return Outcome.DELIVERED_WITH_WARNING
    if reply.status is None:
        return Outcome.RETRY
    return next((r.outcome for r in TABLE if r.first <= reply.status <= r.last), Outcome.RETRY)


def relay_step(
    peer: Peer, kind: Literal["mpps-create", "mpps-set"], uid: str, path: Path, timeouts: Timeouts = _TIMEOUTS
) -> Reply:
    """Pass a kept step on: the same UID and, in the syntax it came in, the same bytes.

    Only a peer that does not take that syntax gets it encoded anew.

    Raises
    ------
    NetworkError
        The reason why there is no association.
    UnreadableError, OSError
        If the file cannot be read.
    """
    syntax = str(read_file_meta_info(path).TransferSyntaxUID)
    own = notices.data_of(path)
    contexts = [build_context(PERFORMED_STEP, s) for s in dict.fromkeys((syntax, *NOTICE_SYNTAXES))]
    association = associate(peer, contexts, timeouts)
    try:
        agreed = {str(c.transfer_syntax[0]): c for c in association.accepted_contexts}
        chosen = syntax if syntax in agreed else next(iter(agreed))
        data = BytesIO(own if chosen == syntax else notices.encode(dcmread(path), chosen))  # never empty: see `fault`
        if kind == "mpps-create":
            create = N_CREATE()
            create.AffectedSOPClassUID, create.AffectedSOPInstanceUID = PERFORMED_STEP, uid
            create.AttributeList = data
            return _exchange(association, agreed[chosen], create)
        change = N_SET()
        change.RequestedSOPClassUID, change.RequestedSOPInstanceUID = PERFORMED_STEP, uid
        change.ModificationList = data
        return _exchange(association, agreed[chosen], change)
    finally:
        release(association)


def request_commitment(
    peer: Peer,
    transaction_uid: str,
    references: Iterable[Reference],
    *,
    wait_s: float = 0.0,
    timeouts: Timeouts = _TIMEOUTS,
) -> CommitmentResult | None:
    """Ask an archive to commit itself to instances; the answer, if it comes on the same association within `wait_s`.

    Raises
    ------
    NetworkError
        `commitment-not-offered`, `commitment-refused` (the request was not accepted), `no-answer`, else the reason why
        there is no association.
    """
    try:
        association = associate(peer, [build_context(COMMITMENT, list(NOTICE_SYNTAXES))], timeouts)
    except NetworkError as error:
        if error.reason.code == "context-refused":
            raise NetworkError(REASONS("commitment-not-offered", ae_title=peer.ae_title)) from error
        raise
    told = _Told(transaction_uid)
    association.bind(evt.EVT_N_EVENT_REPORT, told.report)
    association.bind(evt.EVT_DIMSE_SENT, told.sent)
    try:
        context = association.accepted_contexts[0]
        dataset = notices.commitment_request(CommitmentRequest(transaction_uid, tuple(references)))
        request = N_ACTION()
        request.RequestedSOPClassUID, request.RequestedSOPInstanceUID = COMMITMENT, COMMITMENT_INSTANCE
        request.ActionTypeID = 1
        request.ActionInformation = BytesIO(notices.encode(dataset, str(context.transfer_syntax[0])))
        reply = _exchange(association, context, request)
        if told.result is None:
            _check(peer, reply)
            end = time.monotonic() + wait_s
            while association.is_established and time.monotonic() < end and not told.answered.wait(0.05):
                continue
        elif association.is_established:
            told.answered.wait(timeouts.answer_s)
        return told.result
    finally:
        release(association)


class _Told:
    """The result of one transaction, if it is reported on the association of the request."""

    def __init__(self, transaction_uid: str) -> None:
        self._transaction_uid = transaction_uid
        self.result: CommitmentResult | None = None
        self.answered = threading.Event()

    def report(self, event: Event) -> tuple[int, None]:
        request = cast("N_EVENT_REPORT", event.request)
        data = b"" if request.EventInformation is None else request.EventInformation.getvalue()
        syntax = str(event.context.transfer_syntax)
        try:
            dataset = notices.decode(data, syntax)
        except UnreadableError:
            return int(NoticeStatus.PROCESSING_FAILURE), None
        result = read_commitment_result(dataset)
        if result.transaction_uid != self._transaction_uid:
            return int(NoticeStatus.INVALID_ARGUMENT), None
        self.result = result
        return int(NoticeStatus.SUCCESS), None

    def sent(self, event: Event) -> None:
        """Let go once the answer has left."""
        if isinstance(event.message, N_EVENT_REPORT_RSP) and self.result is not None:
            self.answered.set()


def report_commitment(
    peer: Peer,
    transaction_uid: str,
    references: Iterable[Reference],
    failed: Mapping[str, int],
    timeouts: Timeouts = _TIMEOUTS,
) -> None:
    """Tell a sender which of its `references` an archive has committed: all but `failed`, with their reasons.

    Raises
    ------
    NetworkError
        `commitment-refused` if the sender does not take it, `commitment-not-offered`, `no-answer`, or the reason why
        there is no association.
    """
    try:
        contexts = [build_context(COMMITMENT, list(NOTICE_SYNTAXES))]
        association = associate(peer, contexts, timeouts, provider_of=COMMITMENT)
    except NetworkError as error:
        if error.reason.code == "context-refused":
            raise NetworkError(REASONS("commitment-not-offered", ae_title=peer.ae_title)) from error
        raise
    try:
        # also where the peer leaves the role open: some senders take reports without negotiating it
        context = association.accepted_contexts[0]
        dataset = notices.commitment_result(transaction_uid, references, failed)
        request = N_EVENT_REPORT()
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = COMMITMENT, COMMITMENT_INSTANCE
        request.EventTypeID = 2 if failed else 1
        request.EventInformation = BytesIO(notices.encode(dataset, str(context.transfer_syntax[0])))
        _check(peer, _exchange(association, context, request))
    finally:
        release(association)


def _check(peer: Peer, reply: Reply) -> None:
    if reply.status is None:
        raise NetworkError(REASONS("no-answer"), retryable=True)
    if reply.status != NoticeStatus.SUCCESS and not 0xB000 <= reply.status <= 0xBFFF:
        outcome = next((r.outcome for r in TABLE if r.first <= reply.status <= r.last), Outcome.RETRY)
        reason = REASONS("commitment-refused", ae_title=peer.ae_title, status=reply.status)
        raise NetworkError(reason, retryable=outcome is Outcome.RETRY)


def _exchange(association: Association, context: PresentationContext, request: Any) -> Reply:  # noqa: ANN401 - DIMSE-N
    """Send a request whose data set is encoded already, and wait for the answer.

    The library's own methods take data sets only and would encode them anew.
    """
    request.MessageID = 1
    association._reactor_checkpoint.clear()  # noqa: SLF001 - as the library's own methods do
    try:
        while not association._is_paused:  # noqa: SLF001
            time.sleep(0.0001)
        association.dimse.send_msg(request, cast("int", context.context_id))
        _, answer = association.dimse.get_msg(block=True)
    except (ValueError, RuntimeError, AttributeError, OSError, DicomIOError):  # the association is gone
        answer = None
    finally:
        association._reactor_checkpoint.set()  # noqa: SLF001
    if answer is None or not answer.is_valid_response:
        association.abort()
        return Reply(None)
    return Reply(int(cast("int", answer.Status)), getattr(answer, "ErrorID", None))
