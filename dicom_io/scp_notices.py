"""The listener's notices: performed procedure steps, instance availability and storage commitment as an SCP.

Storage commitment results are notifications: the archive opens an association, proposes to be the SCP on it, and reports
by N-EVENT-REPORT; there the listener is the SCU.

References
----------
PS3.7 section 10.1 (DIMSE-N), annex D.3.3.4 (role selection); PS3.4 annexes F.7, J and R.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, cast

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext, build_context

from dicom_io import notices
from dicom_io.accepted import Accepted
from dicom_io.contexts import AVAILABILITY, COMMITMENT, COMMITMENT_INSTANCE, NOTICE_SYNTAXES, PERFORMED_STEP
from dicom_io.errors import UnreadableError
from dicom_io.notices import NoticeStatus
from dicom_io.rights import Right
from dicom_io.scp_types import AssociationInfo, Notice, NoticeAnswer, NoticeKind


@dataclass(frozen=True, slots=True)
class _Service:
    """How one kind of notice stands in a request: names of its class, instance and data set, and of its number.

    `right` is the one that its sender needs.
    """

    kind: NoticeKind
    sop_class: str
    prefix: str
    data: str
    right: Right = "store"
    number: str | None = None
    numbers: tuple[int, ...] = ()
    other: NoticeStatus = NoticeStatus.SUCCESS
    """Answer to another number than these."""


_SERVICES: tuple[tuple[evt.InterventionEvent, _Service], ...] = (
    (evt.EVT_N_CREATE, _Service("mpps-create", PERFORMED_STEP, "Affected", "AttributeList")),
    (evt.EVT_N_CREATE, _Service("ian", AVAILABILITY, "Affected", "AttributeList")),
    (evt.EVT_N_SET, _Service("mpps-set", PERFORMED_STEP, "Requested", "ModificationList")),
    (
        evt.EVT_N_ACTION,
        _Service(
            "commit-request", COMMITMENT, "Requested", "ActionInformation", "commit", "ActionTypeID", (1,),
            NoticeStatus.NO_SUCH_ACTION,
        ),
    ),
    (
        evt.EVT_N_EVENT_REPORT,
        _Service(
            "commit-result", COMMITMENT, "Affected", "EventInformation", "report", "EventTypeID", (1, 2),
            NoticeStatus.NO_SUCH_EVENT,
        ),
    ),
)  # fmt: skip


def serve_notices(
    on_notice: Callable[[Notice], NoticeAnswer], *, commitment: bool
) -> tuple[list[PresentationContext], list[EventHandlerType]]:
    """Return the contexts of the classes that are offered, and the handlers that answer their requests.

    Parameters
    ----------
    on_notice : Callable[[Notice], NoticeAnswer]
        See `Handlers`.
    commitment : bool
        Whether storage commitment is offered.
    """
    contexts = [build_context(uid, list(NOTICE_SYNTAXES)) for uid in (PERFORMED_STEP, AVAILABILITY)]
    if commitment:
        both = build_context(COMMITMENT, list(NOTICE_SYNTAXES))
        both.scu_role = both.scp_role = True
        contexts.append(both)
    return contexts, [(event, _answer, [on_notice]) for event in dict.fromkeys(e for e, _ in _SERVICES)]


def propose_roles(association: Association, *, commitment: bool) -> None:
    """Answer the role selection of a request: the library drops its own answer where storage is unrestricted."""
    asked = {str(uid): item for uid, item in association.requestor.role_selection.items()}.get(COMMITMENT)
    if commitment and asked is not None:
        reply = SCP_SCU_RoleSelectionNegotiation()
        reply.sop_class_uid = asked.sop_class_uid
        reply.scu_role, reply.scp_role = bool(asked.scu_role), bool(asked.scp_role)
        association.acceptor.add_negotiation_item(reply)


def _answer(event: Event, on_notice: Callable[[Notice], NoticeAnswer]) -> tuple[Dataset, Dataset | None]:
    """Answer one request."""
    association = cast("Accepted", event.assoc)
    answer = _judged(event, association.info, association.rights, on_notice)
    status, reply = Dataset(), None
    status.Status = int(answer.status)
    if answer.error_id is not None:
        status.ErrorID = answer.error_id
    if answer.comment is not None:
        status.ErrorComment = answer.comment
    if answer.uid:
        reply = Dataset()  # the library takes the UID out of it again
        reply.AffectedSOPInstanceUID = answer.uid
    return status, reply


def _judged(
    event: Event, association: AssociationInfo, rights: frozenset[Right], on_notice: Callable[[Notice], NoticeAnswer]
) -> NoticeAnswer:
    agreed = str(event.context.abstract_syntax)
    service = next((s for e, s in _SERVICES if e is event.event and s.sop_class == agreed), None)
    refused = NoticeStatus.NO_SUCH_CLASS if service is None else _refused(event.request, service, rights)
    if service is None or refused is not None:
        return NoticeAnswer(refused or NoticeStatus.NO_SUCH_CLASS)
    data: BytesIO | None = getattr(event.request, service.data)
    encoded = b"" if data is None else data.getvalue()
    instance, syntax = _instance(event.request, service), str(event.context.transfer_syntax)
    try:
        dataset = notices.decode(encoded, syntax)
    except UnreadableError:
        return NoticeAnswer(NoticeStatus.PROCESSING_FAILURE, comment="the data set cannot be read")
    refused = notices.fault(service.kind, dataset)
    if refused is not None:
        return NoticeAnswer(refused)
    uid = notices.transaction_uid(dataset) if service.sop_class == COMMITMENT else instance
    try:
        return on_notice(Notice(service.kind, uid, association, service.sop_class, instance, syntax, encoded, dataset))
    except OSError:
        return NoticeAnswer(NoticeStatus.RESOURCE_LIMITATION)
    except Exception:  # noqa: BLE001 - whatever went wrong, the sender is told that nothing was taken
        return NoticeAnswer(NoticeStatus.PROCESSING_FAILURE)


def _instance(request: Any, service: _Service) -> str:  # noqa: ANN401 - one of four kinds of request
    return str(getattr(request, f"{service.prefix}SOPInstanceUID") or "")


def _refused(
    request: Any,  # noqa: ANN401 - one of four kinds of request
    service: _Service,
    rights: frozenset[Right],
) -> NoticeStatus | None:
    """Judge who asks and what a request names, before its data set."""
    if service.right not in rights:
        return NoticeStatus.NOT_AUTHORISED
    if str(getattr(request, f"{service.prefix}SOPClassUID")) != service.sop_class:
        return NoticeStatus.NO_SUCH_CLASS
    if service.number is not None and getattr(request, service.number) not in service.numbers:
        return service.other
    if service.sop_class == COMMITMENT and _instance(request, service) != COMMITMENT_INSTANCE:
        return NoticeStatus.NO_SUCH_INSTANCE
    return None
