"""The listener: storage, verification, notices and (for the small PACS) study queries as an SCP.

It stores nothing itself: each object that arrived whole is handed to `on_stored`, each notice to `on_notice`, and what
these return is the answer. Nothing here raises into the network library, and nothing logs what came from a patient.

References
----------
PS3.4 annex B (storage), annex C (query); PS3.7 annex D.3.3 (negotiation); PS3.8 section 9.3.4 (rejection).
"""

import contextlib
import errno
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from typing import cast

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, dimse_messages, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.transport import AddressInformation, AssociationSocket, ThreadedAssociationServer

from dicom_io.admit import Asked, admit
from dicom_io.arrival import Arrival, open_arrival
from dicom_io.contexts import PDU_BYTES, STILL_IMAGE_SYNTAXES, STUDY_ROOT_FIND, VERIFICATION, choose_syntax
from dicom_io.limits import LIMITS
from dicom_io.reason import Reason
from dicom_io.reasons import REASONS
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

# A NamedTemporaryFile neither says which listener it belongs to nor survives a full disk: see `arrival`.
setattr(dimse_messages, "NamedTemporaryFile", open_arrival)  # noqa: B010 - the library's types say otherwise

_REJECT_CALLING = (0x01, 0x01, 0x03)
_REJECT_CALLED = (0x01, 0x01, 0x07)
_CONNECTIONS_ABOVE_LIMIT = 16
"""Connections that may wait for their (refused) negotiation beyond the limit of associations."""

_LARGEST_PDU = 16 << 20
"""A length beyond this (bytes) is no PDU: memory is not given for it."""


class _Track:
    """What the listener knows of one association."""

    def __init__(self, info: AssociationInfo) -> None:
        self.info = info
        self.rights: frozenset[Right] = frozenset()
        self.opened = self.ended = False
        self.storing = False
        self.refused = 0
        self.noticing = 0
        self.last = time.monotonic()
        self.arrivals: set[Arrival] = set()
        """Begun, or waiting for their answer."""


class _Server(ThreadedAssociationServer):
    """The library's server with bounds on connections and a clean-up of what ended without saying so."""

    request_queue_size = 128

    def __init__(
        self,
        ae: AE,
        listener: Listener,
        contexts: list[PresentationContext],
        bound: list[EventHandlerType],
        on_association: Callable[[AssociationEvent], None],
        room: Callable[[], None] | None,
    ) -> None:
        self.incoming = listener.incoming
        self._room = room
        self.timeout_s, self._request_s = listener.network_timeout_s, listener.request_timeout_s
        self._on_association = on_association
        self.tracks: dict[Association, _Track] = {}
        self.lock = threading.Lock()
        super().__init__(ae, (listener.host, listener.port), listener.ae_titles[0], contexts, evt_handlers=bound)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept a connection; bound every later read and write, and answer without Nagle's delay."""
        connection, address = super().get_request()
        connection.settimeout(self._request_s)  # until the association stands: see `_established`
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, address

    def verify_request(self, _request: object, _address: object) -> bool:
        """Refuse to start threads for connections far beyond the limit."""
        return len(self.active_associations) <= self.ae.maximum_associations + _CONNECTIONS_ABOVE_LIMIT

    def handle_error(self, _request: object, _address: object) -> None:
        """Say nothing: a connection that broke before its association is no event."""

    def service_actions(self) -> None:
        """Run a few times a second: end what died without an event."""
        super().service_actions()
        self.sweep()

    def track(self, association: Association, info: AssociationInfo) -> _Track:
        """Remember an association from its request on."""
        with self.lock:
            return self.tracks.setdefault(association, _Track(info))

    def arriving(self, association: Association) -> Arrival:
        """Open the file for an object that begins to arrive; it is removed if the association breaks.

        A message whose data set has begun can only be replaced by the next one if a command cuts it off.
        """
        arrival = Arrival(self.incoming, self._room)
        track = self.tracks.get(association)
        if track is not None:
            cut_off = getattr(association.dimse.message, "_data_set_file", None)
            if isinstance(cut_off, Arrival):
                cut_off.discard()
                track.arrivals.discard(cut_off)
            track.arrivals.add(arrival)
            track.last = time.monotonic()
        return arrival

    def end(self, association: Association, kind: EventKind) -> None:
        """Report the end of an association once."""
        track = self.tracks.get(association)
        if track is None:
            return
        with self.lock:
            report = track.opened and not track.ended
            track.ended = True
        if report:
            with contextlib.suppress(Exception):  # a handler's failure must not reach the library
                refused = track.refused + len(track.arrivals)  # what has begun to come is not taken either
                self._on_association(AssociationEvent(kind, track.info, refused=refused))

    def sweep(self) -> None:
        """End and forget associations whose threads are gone, and remove what they left half-received."""
        for association, track in list(self.tracks.items()):
            if association.is_alive() or association.dul.is_alive() or not association.ident:
                continue
            self.end(association, "aborted")
            for arrival in track.arrivals:
                arrival.discard()
            with self.lock:
                self.tracks.pop(association, None)


class Server:
    """A running listener.

    Parameters
    ----------
    host, port : str, int
        Where it listens.
    """

    def __init__(self, server: _Server) -> None:
        self._server = server
        self.host, self.port = server.server_address[:2]
        self._thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.25}, daemon=True)
        self._thread.start()

    @property
    def associations(self) -> int:
        """How many associations are open."""
        return sum(track.opened and not track.ended for track in list(self._server.tracks.values()))

    def stop(self, grace_s: float = 5.0) -> None:
        """Stop accepting, let transfers finish for `grace_s`, then abort between objects; takes 2 s more at most."""
        if not self._thread.is_alive():
            return
        self._server.shutdown()
        self._thread.join()
        now = time.monotonic()
        quiet_since, deadline = now + grace_s, now + grace_s + 1.5
        while self._server.tracks and (now := time.monotonic()) < deadline:
            for association, track in list(self._server.tracks.items()):
                idle = (
                    not track.storing
                    and not track.noticing
                    and association.dimse.message is None
                    and association.dimse.msg_queue.empty()
                )
                if idle and (now > quiet_since or now - track.last > 0.5):
                    association.abort(block=False)
            self._server.sweep()
            time.sleep(0.02)
        for association in list(self._server.tracks):
            association.abort(block=False)
            self._server.end(association, "aborted")


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
    ae.maximum_associations = listener.max_associations
    ae.network_timeout = ae.dimse_timeout = listener.network_timeout_s
    ae.acse_timeout = listener.request_timeout_s
    # Storage contexts are accepted by the unrestricted service without being listed: the list is copied for each
    # association, and 170 classes with 16 syntaxes cost more than a slice.
    contexts = [build_context(VERIFICATION)]
    titles = frozenset(title.strip() for title in listener.ae_titles)
    bound: list[EventHandlerType] = [
        (evt.EVT_CONN_OPEN, _connected),
        (evt.EVT_REQUESTED, _requested, [handlers, titles]),
        (evt.EVT_ESTABLISHED, _established, [handlers]),
        (evt.EVT_RELEASED, _ended, ["released"]),
        (evt.EVT_ABORTED, _ended, ["aborted"]),
        (evt.EVT_REJECTED, _over_limit, [handlers]),
        (evt.EVT_PDU_RECV, _bounded),
        (evt.EVT_C_STORE, _store, [handlers]),
        (evt.EVT_C_ECHO, _echo),
    ]
    if handlers.on_find is not None:
        contexts.append(build_context(STUDY_ROOT_FIND, list(STILL_IMAGE_SYNTAXES[:2])))
        bound.append((evt.EVT_C_FIND, _find, [handlers.on_find]))
    if handlers.on_notice is not None:
        offered, answering = serve_notices(handlers.on_notice, _noticing, commitment=handlers.commitment)
        contexts += offered
        bound += answering
    server = _Server(ae, listener, contexts, bound, handlers.on_association, handlers.room)
    ae._servers.append(server)  # noqa: SLF001 - as AE.start_server does; shutdown() takes it out again
    return Server(server)


def _listener(association: Association) -> _Server:
    return cast("_Server", association._server)  # noqa: SLF001 - the library's only way from one to the other


def _connected(event: Event) -> None:
    """Read whole PDUs: the library asks the kernel for 4 KiB at a time, 130 times a slice."""
    transport = cast("AssociationSocket", event.assoc.dul.socket)
    connection = cast("socket.socket", transport.socket)

    def recv(count: int) -> bytearray:
        if count > _LARGEST_PDU:
            raise OSError(errno.EMSGSIZE, "a PDU far beyond the agreed length")  # ends the connection
        data = bytearray(count)
        view, have = memoryview(data), 0
        end = time.monotonic() + (connection.gettimeout() or 0.0)
        while have < count:
            got = connection.recv_into(view[have:])
            if not got:
                break
            have += got
            if have < count and time.monotonic() > end:  # each drop came in time, and the whole does not
                raise TimeoutError
        view.release()
        return data if have == count else data[:have]

    transport.recv = recv  # type: ignore[method-assign, assignment]  # on this instance alone, on purpose


def _bounded(event: Event) -> None:
    """Abort an association on which a message grows in memory beyond its limit; objects go to disk and do not."""
    message = event.assoc.dimse.message
    if message is not None:
        held = message.encoded_command_set.tell() + cast("BytesIO", message.data_set).tell()
        if held > LIMITS.read.message_bytes:
            event.assoc.abort(block=False)


def _requested(event: Event, handlers: Handlers, titles: frozenset[str]) -> None:
    """Accept or reject an association request, and choose transfer syntaxes for it."""
    association = event.assoc
    request = cast("A_ASSOCIATE", association.requestor.primitive)
    peer = cast("AddressInformation", association.requestor.address_info).address
    info = AssociationInfo(
        secrets.token_hex(8), request.calling_ae_title.strip(), request.called_ae_title.strip(), peer
    )
    track = _listener(association).track(association, info)
    try:
        rights = handlers.allowed(info)
    except Exception:  # noqa: BLE001 - who cannot be looked up is not allowed
        rights = None
    track.rights = rights or frozenset()
    if info.called not in titles:
        _reject(event, handlers, info, _REJECT_CALLED, REASONS("called-title-unknown", called=info.called))
    elif rights is None:
        _reject(event, handlers, info, _REJECT_CALLING, REASONS("peer-not-allowed", calling=info.calling, peer=peer))
    elif lacking := deny(request, rights):
        reason = REASONS("right-missing", calling=info.calling, peer=peer, rights=", ".join(lacking))
        with contextlib.suppress(Exception):  # a handler's failure must not keep the peer waiting
            handlers.on_association(AssociationEvent("denied", info, reason))
    propose_roles(association, commitment=handlers.commitment)
    for context in request.presentation_context_definition_list:
        chosen = choose_syntax([str(uid) for uid in context.transfer_syntax])
        context.transfer_syntax = [UID(chosen), *(uid for uid in context.transfer_syntax if uid != chosen)]


def _reject(event: Event, handlers: Handlers, info: AssociationInfo, why: tuple[int, int, int], reason: Reason) -> None:
    event.assoc.acse.send_reject(*why)
    with contextlib.suppress(Exception):  # a handler's failure must not keep the peer waiting
        handlers.on_association(AssociationEvent("rejected", info, reason))
    event.assoc.kill()


def _over_limit(event: Event, handlers: Handlers) -> None:
    """Report what the library rejects by itself: one association too many."""
    info = _listener(event.assoc).tracks[event.assoc].info
    handlers.on_association(AssociationEvent("rejected", info, REASONS("too-many-associations")))


def _established(event: Event, handlers: Handlers) -> None:
    track = _listener(event.assoc).tracks[event.assoc]
    track.opened = True
    connection = cast("AssociationSocket", event.assoc.dul.socket).socket
    if connection is not None:
        connection.settimeout(_listener(event.assoc).timeout_s)
    try:
        handlers.on_association(AssociationEvent("opened", track.info))
    except Exception:  # noqa: BLE001 - an association that cannot be recorded (full disk) must not run
        event.assoc.abort()


def _ended(event: Event, kind: EventKind) -> None:
    _listener(event.assoc).end(event.assoc, kind)


def _echo(_event: object) -> int:
    return int(Answer.SUCCESS)


def _store(event: Event, handlers: Handlers) -> int:
    """Answer one C-STORE request."""
    track: _Track = _listener(event.assoc).tracks[event.assoc]
    track.storing, taken = True, False
    try:
        if "store" not in track.rights:
            return Answer.NOT_AUTHORISED
        answer = int(_answer(event, track, handlers))
        taken = answer == Answer.SUCCESS
        return answer
    finally:
        track.refused += not taken
        track.storing, track.last = False, time.monotonic()
        track.arrivals.discard(event.request._dataset_file)  # noqa: SLF001 - as in `_answer`; the library removes it


def _answer(event: Event, track: _Track, handlers: Handlers) -> int:
    arrival: object = event.request._dataset_file  # noqa: SLF001 - the file that `open_arrival` made
    if not isinstance(arrival, Arrival):
        return Answer.CANNOT_UNDERSTAND  # the request announced no data set
    request = cast("C_STORE", event.request)
    asked = Asked(str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID))
    return admit(arrival, track.info, str(event.context.transfer_syntax), asked, handlers).status


@contextlib.contextmanager
def _noticing(association: Association) -> Iterator[tuple[AssociationInfo, frozenset[Right]]]:
    """Keep an association alive while it answers a notice; gives who is on the other side, and what it may do."""
    server = _listener(association)
    track = server.tracks[association]
    with server.lock:  # notices of one association may be answered by several threads
        track.noticing += 1
    try:
        yield track.info, track.rights
    finally:
        with server.lock:
            track.noticing -= 1
        track.last = time.monotonic()


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
