"""An association that a peer opened: one thread, which waits in the socket and serves one message after the other.

References
----------
PS3.7 annex D.3.3 (negotiation); PS3.8 section 7 (services), 9.2 (state machine).
"""

import contextlib
import socket
import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any, Final, cast

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation, AssociationSocket

from dicom_io.arrival import Arrival
from dicom_io.commands import command_pdu, file_head, write_store_response
from dicom_io.door import Caller
from dicom_io.messages import InvalidMessageError, Messages, Store
from dicom_io.reasons import REASONS
from dicom_io.request import UnreadableRequestError, readable
from dicom_io.scp_types import AssociationEvent, AssociationInfo, EventKind, Listener
from dicom_io.upper import CLOSED, DATA_TF, INVALID_PDU, LARGEST_PDU, OPEN, UpperLayer

_HEAD: Final = 6
"""Bytes of type and length in front of a PDU, which the maximum length does not count."""


class House:
    """What all associations of a listener share.

    Parameters
    ----------
    bound : list of EventHandlerType
        Events of the library and who handles them.
    contexts : list of PresentationContext
        Of every service that is not storage.
    store : Callable[[Accepted, Store], int]
        Answers a C-STORE request with a status.
    on_association : Callable[[AssociationEvent], None]
        Told how associations end.
    room : Callable[[], None] or None
        See `Handlers`.
    leave : Callable[[Accepted, socket.socket | None], None]
        Told at the very end of an association, with the connection if the peer is to close it.
    """

    def __init__(
        self,
        *,
        ae: AE,
        listener: Listener,
        address: AddressInformation,
        bound: Iterable[evt.EventHandlerType],
        contexts: list[PresentationContext],
        store: Callable[["Accepted", Store], int],
        on_association: Callable[[AssociationEvent], None],
        room: Callable[[], None] | None,
        leave: Callable[["Accepted", socket.socket | None], None],
    ) -> None:
        self.ae, self.listener, self.address, self.contexts = ae, listener, address, contexts
        self.store, self.on_association, self.room, self.leave = store, on_association, room, leave
        self.handlers: dict[Any, Any] = {}
        """As the library keeps them, made once for all associations."""
        for event in evt._INTERVENTION_EVENTS:  # noqa: SLF001 - as each association of the library does by itself
            evt._add_handler(event, self.handlers, (evt.get_default_handler(event), None))  # noqa: SLF001
        for event, handler, *arguments in bound:
            given = arguments[0] if arguments else None
            evt._add_handler(event, self.handlers, (handler, given))  # noqa: SLF001


class Accepted(Association):
    """One association.

    Parameters
    ----------
    house : House
        Its listener's.
    caller : Caller
        Who asked, and the request.
    info : AssociationInfo
        The same, as others see it.
    """

    def __init__(self, house: House, caller: Caller, info: AssociationInfo) -> None:
        self._house, self._request = house, caller.request
        super().__init__(house.ae, "acceptor")
        self.place = caller.place
        self.info = info
        self.rights = caller.rights
        self.refused = 0
        """Objects that were not answered with success."""
        self.last = time.monotonic()
        """When something was last served."""
        self.ending = False
        self._why = ""
        self._opened = self._ended = False
        caller.connection.settimeout(house.listener.network_timeout_s)
        self._upper = UpperLayer(self, caller.connection)
        self._messages = Messages(self)
        self.dul, self.dimse = self._upper, self._messages
        # the setters tell the upper layer
        self.acse_timeout, self.network_timeout = house.ae.acse_timeout, house.ae.network_timeout
        self.set_socket(AssociationSocket(self, client_socket=caller.connection))
        self.requestor.address_info = AddressInformation(*caller.address)
        acceptor = self.acceptor
        acceptor.address_info, acceptor.ae_title = house.address, house.ae.ae_title
        acceptor.maximum_length = house.ae.maximum_pdu_size
        acceptor.implementation_class_uid = house.ae.implementation_class_uid
        acceptor.implementation_version_name = house.ae.implementation_version_name
        acceptor.supported_contexts = deepcopy(house.contexts)  # the library writes into them

    def _bind_defaults(self) -> None:
        self._handlers = self._house.handlers

    # its life

    def run_reactor(self) -> None:
        """Negotiate, serve and end; the library's thread runs this."""
        left: socket.socket | None = None
        try:
            asked = self._asked()
            if isinstance(asked, A_ASSOCIATE):
                self.requestor.primitive = asked
                evt.trigger(self, evt.EVT_REQUESTED, {})
                if not self.is_aborted and not self.is_rejected:
                    self.acse.negotiate_association()
            if self.is_established:
                self._run_reactor()
        except Exception:  # noqa: BLE001 - what hostile items and messages do inside the library ends their association
            self._upper.happened(INVALID_PDU)
        finally:
            left = self._upper.finish()
            self.end("aborted")
            self._messages.drop()
            self._house.leave(self, left)

    def _asked(self) -> object:
        """Return the request as the library reads it; None where nobody can, which is told."""
        try:
            self._upper.take(readable(self._request))
            asked = self._upper.receive_pdu()
            # the library rejects another version by itself
            unread = "item" if self._request[6:8] == b"\0\1" else "version"
            why = "" if isinstance(asked, A_ASSOCIATE) else unread
        except UnreadableRequestError as unreadable:
            asked, why = None, unreadable.why
            self._upper.happened(INVALID_PDU)
        if why:
            reason = REASONS("association-request-unreadable", peer=self.info.peer, calling=self.info.calling, why=why)
            with contextlib.suppress(Exception):  # a handler's failure must not keep the peer waiting
                self._house.on_association(AssociationEvent("rejected", self.info, reason, why=why))
        return asked

    def ended_by(self, why: str) -> None:
        """Note why it ends: the first that happens is the reason."""
        self._why = self._why or why

    def _run_reactor(self) -> None:
        while self._upper.is_alive() and not self.is_aborted:
            context, message = self._messages.get_msg()
            if message is not None:
                self._serve(context or 0, message)
            elif self.acse.is_release_requested():
                self.acse.send_release(is_response=True)
                self.is_released, self.is_established = True, False
                evt.trigger(self, evt.EVT_RELEASED, {})
                return
            elif self.acse.is_aborted():
                self._upper.receive_pdu()
                self.is_aborted, self.is_established = True, False
                evt.trigger(self, evt.EVT_ABORTED, {})
            elif self._upper.state == OPEN:
                self.step()
            else:
                return

    def step(self, wait_s: float | None = None) -> None:
        """Read one PDU and let it take effect: a state changes, a message grows or is queued."""
        limit = self._house.listener.network_timeout_s
        try:
            kind, length = self._upper.next_head(limit if wait_s is None else wait_s)
        except TimeoutError:
            self.ended_by("idle")
            self.abort()
            return
        except OSError:
            self._lost()
            return
        try:
            if kind == DATA_TF and self._upper.state == OPEN:
                if length > LARGEST_PDU:
                    raise InvalidMessageError  # noqa: TRY301 - as what is found further in
                self._messages.take_data(length, limit)
            else:
                self._upper.take_rest(kind, length, limit)
        except InvalidMessageError:
            self._upper.happened(INVALID_PDU)
        except TimeoutError:
            self.ended_by("slow")
            self._lost()
        except OSError:
            self._lost()

    def _lost(self) -> None:
        """Nothing more comes: because we are to stop, or because the peer is gone."""
        if self.ending:
            self.ended_by("stopping")
            self.abort()
        else:
            self._upper.happened(CLOSED)

    def _abort_blocking(self, block: bool = True) -> None:  # noqa: ARG002 - the library's signature
        super()._abort_blocking(block=False)

    @property
    def may_read(self) -> bool:
        """Whether the peer may still say something."""
        return self._upper.state == OPEN and not self.is_aborted

    # its messages

    def _serve(self, context: int, message: object) -> None:
        self._messages.serving = True
        try:
            if isinstance(message, Store):
                self._serve_store(message)
            else:
                self._serve_request(cast("Any", message), context)
        finally:
            self._messages.serving = False
            self.last = time.monotonic()

    def _serve_store(self, store: Store) -> None:
        status: int | None = None
        try:
            if store.is_valid:
                status = self._house.store(self, store)
        finally:
            self.refused += status != 0
            if store.arrival is not None:
                store.arrival.discard()
        if status is not None:
            self._respond(store, status)

    def _respond(self, store: Store, status: int) -> None:
        most = self.requestor.maximum_length or LARGEST_PDU
        if store.plain:
            pdu = command_pdu(store.context_id, write_store_response(store.request, status))
            if len(pdu) - _HEAD <= most:
                self._upper.send_data(pdu)
                return
        response = C_STORE()
        response.MessageIDBeingRespondedTo = store.request.message_id
        response.AffectedSOPClassUID = store.request.sop_class_uid
        response.AffectedSOPInstanceUID = store.request.sop_instance_uid
        response.Status = status
        self.dimse.send_msg(response, store.context_id)

    def arriving(self, store: Store) -> Arrival:
        """Open the file for an object that begins to arrive."""
        request, ae = store.request, self._house.ae
        writer = (str(ae.implementation_class_uid), ae.implementation_version_name or "")
        head = file_head(request.sop_class_uid, request.sop_instance_uid, self.syntax(store), writer)
        listener = self._house.listener
        return Arrival(listener.incoming, self._house.room, head, listener.max_object_bytes or None)

    def syntax(self, store: Store) -> str:
        """Return the transfer syntax of an object."""
        return str(self._accepted_cx[store.context_id].transfer_syntax[0])

    # how others see it

    @property
    def is_open(self) -> bool:
        """Whether it was opened and has not ended."""
        return self._opened and not self._ended

    @property
    def is_idle(self) -> bool:
        """Whether it is between two messages."""
        messages = self._messages
        return not messages.serving and messages.between and messages.msg_queue.empty()

    def opened(self) -> None:
        """Note that it stands; an association that cannot be recorded (full disk) must not run."""
        self._opened = True
        try:
            self._house.on_association(AssociationEvent("opened", self.info))
        except Exception:  # noqa: BLE001 - whatever a handler raises
            self.ended_by("unrecorded")
            self.abort()

    def end(self, kind: EventKind) -> None:
        """Report its end once."""
        report, self._ended = self.is_open, True
        why = self._why or "stopping" if kind == "aborted" else ""
        if report:
            with contextlib.suppress(Exception):  # a handler's failure must not reach the library
                refused = self.refused + self._messages.unfinished  # what has begun to come is not taken either
                self._house.on_association(AssociationEvent(kind, self.info, refused=refused, why=why))

    def stop_soon(self) -> None:
        """Abort after what is being served; called from another thread."""
        self.ending = True
        self._upper.cut()
