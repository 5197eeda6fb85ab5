"""The listener: storage, verification, notices and (for the small PACS) study queries as an SCP.

It stores nothing itself: each object that arrived whole is handed to `on_stored`, each notice to `on_notice`, and what
these return is the answer. Nothing here raises into the network library, and nothing logs what came from a patient.

Connections wait in `door`, associations run in `accepted`, each in a thread of its own; `upper`, `inlet` and `messages` read
what comes in. Negotiation, the state table and every message but C-STORE are the network library's.

References
----------
PS3.4 annex B (storage), annex C (query); PS3.7 annex D.3.3 (negotiation); PS3.8 section 9.3.4 (rejection).
"""

import contextlib
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import cast

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.transport import AddressInformation

from dicom_io.accepted import Accepted, House
from dicom_io.admit import Asked, admit
from dicom_io.contexts import PDU_BYTES, STILL_IMAGE_SYNTAXES, STUDY_ROOT_FIND, VERIFICATION, choose_syntax
from dicom_io.door import Caller, Door, Rejection
from dicom_io.messages import Store
from dicom_io.reason import Reason
from dicom_io.reasons import REASONS
from dicom_io.request import has_title
from dicom_io.rights import Right
from dicom_io.scp_notices import propose_roles, serve_notices
from dicom_io.scp_rights import deny
from dicom_io.scp_types import (
    AssociationEvent,
    AssociationInfo,
    EventKind,
    Handlers,
    Listener,
    RefusedObject,
    StoredObject,
)
from dicom_io.slots import Slots
from dicom_io.status import Answer

__all__ = [
    "AssociationEvent",
    "AssociationInfo",
    "EventKind",
    "Handlers",
    "Listener",
    "RefusedObject",
    "Server",
    "StoredObject",
    "serve",
]

_REJECT_CALLING = (0x01, 0x01, 0x03)
_REJECT_CALLED = (0x01, 0x01, 0x07)
_UNBOUNDED = 1 << 30
"""For what the library bounds by itself: the door does it before a thread is started."""


class Server:
    """A running listener.

    Attributes
    ----------
    host, port : str, int
        Where it listens.
    """

    def __init__(self, listener: Listener, handlers: Handlers, ae: AE) -> None:
        self._on_association, self._allowed = handlers.on_association, handlers.allowed
        self._titles = frozenset(t.strip() for t in listener.ae_titles)
        self._open: set[Accepted] = set()
        self._lock = threading.Lock()
        slots = listener.slots or Slots.alone(listener.max_associations, listener.max_associations_per_peer)
        self._door = Door(listener, slots, self._judge, self._enter, self._turned_away)
        self.host, self.port = self._door.address
        contexts, bound = _services(handlers)
        bound += [
            (evt.EVT_REQUESTED, _requested, [handlers]),
            (evt.EVT_ESTABLISHED, _established),
            (evt.EVT_RELEASED, _ended, ["released"]),
            (evt.EVT_ABORTED, _ended, ["aborted"]),
        ]
        self._house = House(
            ae=ae,
            listener=listener,
            address=AddressInformation(self.host, self.port),
            bound=bound,
            contexts=contexts,
            store=lambda association, store: _store(association, store, handlers),
            on_association=handlers.on_association,
            room=handlers.room,
            leave=self._leave,
        )
        self._door.open()

    @property
    def is_listening(self) -> bool:
        """Whether callers are looked after; if not, nothing in this process will do it again."""
        return self._door.is_open

    @property
    def associations(self) -> int:
        """How many associations are open."""
        return sum(association.is_open for association in self._running())

    def stop(self, grace_s: float = 5.0) -> None:
        """Stop accepting, let transfers finish for `grace_s`, then abort between objects; takes 2 s more at most."""
        self._door.close()
        now = time.monotonic()
        quiet_since, deadline = now + grace_s, now + grace_s + 1.5
        while (running := self._running()) and (now := time.monotonic()) < deadline:
            for association in running:
                if association.is_idle and (now > quiet_since or now - association.last > 0.5):
                    association.stop_soon()
            time.sleep(0.02)
        for association in self._running():
            association.stop_soon()
            association.end("aborted")

    def _running(self) -> list[Accepted]:
        with self._lock:
            return list(self._open)

    def _enter(self, caller: Caller) -> bool:
        """Start the association of a caller that has a place; False if no thread can be had, or the request breaks it."""
        association = None
        try:
            association = Accepted(self._house, caller, _info(caller))
            with self._lock:
                self._open.add(association)
            association.start()
        except Exception:  # noqa: BLE001 - one request must not end the door, whatever is in it
            with self._lock:
                self._open -= {association}
            return False
        return True

    def _leave(self, association: Accepted, left: socket.socket | None) -> None:
        with self._lock:
            self._open.discard(association)
        self._door.leave(association.place)
        if left is not None:
            self._door.see_out(left)

    def _judge(self, caller: Caller) -> frozenset[Right] | Rejection:
        """Say what a caller may do, or why it may not come in."""
        info = _info(caller)
        who = {"calling": info.calling, "peer": info.peer}
        if not has_title(caller.request):
            return Rejection(_REJECT_CALLING, REASONS("association-request-unreadable", **who, why="title"), "title")
        if info.called not in self._titles:
            return Rejection(_REJECT_CALLED, REASONS("called-title-unknown", called=info.called))
        try:
            rights = self._allowed(info)
        except Exception:  # noqa: BLE001 - who cannot be looked up is not allowed
            rights = None
        return Rejection(_REJECT_CALLING, REASONS("peer-not-allowed", **who)) if rights is None else rights

    def _turned_away(self, caller: Caller, reason: Reason, why: str = "") -> None:
        with contextlib.suppress(Exception):  # a handler's failure must not end the door
            self._on_association(AssociationEvent("rejected", _info(caller), reason, why=why))


def serve(listener: Listener, handlers: Handlers) -> Server:
    """Listen.

    Returns
    -------
    Server
        Already accepting.

    Raises
    ------
    OSError
        If the address cannot be bound.
    """
    ae = AE(listener.ae_titles[0])
    ae.maximum_pdu_size = PDU_BYTES
    ae.maximum_associations = _UNBOUNDED
    ae.network_timeout = ae.dimse_timeout = listener.network_timeout_s
    ae.acse_timeout = listener.request_timeout_s
    return Server(listener, handlers, ae)


def _info(caller: Caller) -> AssociationInfo:
    called, calling = caller.titles
    return AssociationInfo(secrets.token_hex(8), calling, called, caller.address[0], caller.certificate, caller.names)


def _services(handlers: Handlers) -> tuple[list[PresentationContext], list[EventHandlerType]]:
    """Return the presentation contexts of everything that is offered besides storage, and who answers its requests.

    Storage contexts are accepted by the unrestricted service without being listed: the list is copied for each
    association, and 170 classes with 16 syntaxes cost more than a slice.
    """
    contexts = [build_context(VERIFICATION)]
    bound: list[EventHandlerType] = [(evt.EVT_C_ECHO, _echo)]
    if handlers.on_find is not None:
        contexts.append(build_context(STUDY_ROOT_FIND, list(STILL_IMAGE_SYNTAXES[:2])))
        bound.append((evt.EVT_C_FIND, _find, [handlers.on_find]))
    if handlers.on_notice is not None:
        offered, answering = serve_notices(handlers.on_notice, commitment=handlers.commitment)
        contexts += offered
        bound += answering
    return contexts, bound


def _requested(event: Event, handlers: Handlers) -> None:
    """Take out of a request what its sender has no right to, and choose transfer syntaxes for the rest."""
    association = cast("Accepted", event.assoc)
    request = cast("A_ASSOCIATE", association.requestor.primitive)
    info = association.info
    if lacking := deny(request, association.rights):
        reason = REASONS("right-missing", calling=info.calling, peer=info.peer, rights=", ".join(lacking))
        with contextlib.suppress(Exception):  # a handler's failure must not keep the peer waiting
            handlers.on_association(AssociationEvent("denied", info, reason))
    propose_roles(association, commitment=handlers.commitment)
    for context in request.presentation_context_definition_list:
        chosen = choose_syntax([str(uid) for uid in context.transfer_syntax])
        context.transfer_syntax = [UID(chosen), *(uid for uid in context.transfer_syntax if uid != chosen)]


def _established(event: Event) -> None:
    cast("Accepted", event.assoc).opened()


def _ended(event: Event, kind: EventKind) -> None:
    cast("Accepted", event.assoc).end(kind)


def _echo(_event: object) -> int:
    return int(Answer.SUCCESS)


def _store(association: Accepted, store: Store, handlers: Handlers) -> int:
    """Answer one C-STORE request."""
    if "store" not in association.rights:
        return Answer.NOT_AUTHORISED
    if store.arrival is None:
        return Answer.CANNOT_UNDERSTAND  # the request announced no data set
    asked = Asked(store.request.sop_class_uid, store.request.sop_instance_uid)
    return int(admit(store.arrival, association.info, association.syntax(store), asked, handlers).status)


def _find(event: Event, on_find: Callable[[Dataset], Iterable[Dataset]]) -> Iterator[tuple[int, Dataset | None]]:
    """Answer a Study Root query: pending with each match, then success."""
    try:
        for match in on_find(event.identifier):
            if event.is_cancelled:
                yield 0xFE00, None
                return
            yield 0xFF00, match
    except Exception:  # noqa: BLE001 - an identifier that cannot be understood
        yield 0xC000, None
