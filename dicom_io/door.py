"""The door: connections wait here, without a thread, until they have asked for an association and there is a place.

One thread watches the listening socket and everybody who has not yet said what he wants. Who says nothing is shown out
after a while, the oldest of the busiest address first when it gets crowded; who may not come in is rejected here, without a
place or a thread. Who may waits for a place as long as `patience_s`, those of peers that have the fewest before the
others, and is then rejected for now. Connections that are over wait here for the peer to close them.

References
----------
PS3.8 section 9.2 (state machine: Sta2, Sta13), 9.3 (PDUs); PS3.15 annex B (TLS).
"""

import contextlib
import errno
import select
import socket
import ssl
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from dicom_io import tls
from dicom_io.reason import Reason
from dicom_io.reasons import REASONS
from dicom_io.request import titles
from dicom_io.rights import Right
from dicom_io.scp_types import Listener
from dicom_io.slots import Pace, Slots, peer_key

REQUEST_BYTES: Final = 256 << 10
"""Longest association request: 128 contexts with every transfer syntax there is take half of it."""
HEAD: Final = struct.Struct(">BxL")
"""Type and length of a PDU."""
_REQUEST: Final = 0x01
ABORT: Final = bytes((7, 0, 0, 0, 0, 4, 0, 0, 0, 0))
"""A-ABORT of the service user (PS3.8 table 9-26), as AA-1 has it."""
_CONGESTION, _LOCAL_LIMIT = (2, 3, 1), (2, 3, 2)

_ACCEPTS_AT_ONCE: Final = 64
_LINGER_S: Final = 1.0
"""So long the peer may take to close a connection that is over; what it still says is not heard."""
_LEAVE_TO_OTHERS_S: Final = 0.01
"""A process that has more to do than another leaves a connection to it for so long."""
_WAITING: Final = 128
"""Requests that wait for a place."""
_LOOK_S: Final = 0.02
"""While somebody waits, a place that another process gave back is looked for so often."""
_NO_MORE_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

Stage = Literal["handshake", "request", "leaving"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks for an association, as far as the door can see."""

    connection: socket.socket
    address: tuple[str, int]
    request: bytes
    """The whole A-ASSOCIATE-RQ PDU."""
    certificate: str
    names: tuple[str, ...] = ()
    rights: frozenset[Right] = frozenset()
    """What it may do; set where it was judged."""
    place: int = -1

    @property
    def peer(self) -> int:
        """Return the number of the peer: address and calling AE title."""
        return peer_key(self.address[0], self.titles[1])

    @property
    def titles(self) -> tuple[str, str]:
        """Return the called and the calling AE title, without what would move the cursor of who reads them."""
        return titles(self.request)


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a caller may not come in; `why` is result, source and reason of the A-ASSOCIATE-RJ (PS3.8 table 9-21)."""

    why: tuple[int, int, int]
    reason: Reason
    detail: str = ""
    """What could not be read, a code."""


@dataclass(slots=True)
class _Held:
    """A connection before its association."""

    connection: socket.socket
    address: tuple[str, int]
    until: float
    stage: Stage
    certificate: str = ""
    names: tuple[str, ...] = ()
    data: bytearray = field(default_factory=bytearray)
    need: int = HEAD.size


@dataclass(slots=True)
class _Waiting:
    """A request without a place."""

    caller: Caller
    peer: int
    until: float
    in_time: bool = False
    """Whether it has a token of its peer."""


class _Refused(Exception):  # noqa: N818 - the end of a connection, not an error
    """What the peer sent is no association request; `answer` goes out before the connection ends."""

    def __init__(self, answer: bytes = b"") -> None:
        self.answer = answer


class Door:
    """The listening socket and everybody in front of it.

    Parameters
    ----------
    listener : Listener
        Where to listen and within which bounds.
    slots : Slots
        Places for associations.
    judge : Callable[[Caller], frozenset[Right] | Rejection]
        Says what a caller may do, or why it may not come in, before it has a place. Must not block.
    enter : Callable[[Caller], bool]
        Called with each caller that has a place; gives it back by `leave`. False: it cannot come in now. Must not block.
    rejected : Callable[[Caller, Reason, str], None]
        Told of each that was rejected here, and of the detail. Must not block.

    Raises
    ------
    OSError
        If the address cannot be bound.
    """

    def __init__(
        self,
        listener: Listener,
        slots: Slots,
        judge: Callable[[Caller], frozenset[Right] | Rejection],
        enter: Callable[[Caller], bool],
        rejected: Callable[[Caller, Reason, str], None],
    ) -> None:
        self._listener, self._slots, self._judge, self._enter, self._rejected = listener, slots, judge, enter, rejected
        self._socket = listener.listening or listening_socket(listener.host, listener.port)
        self._socket.setblocking(False)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self._pace = Pace(listener.associations_per_second)
        self._held: dict[int, _Held] = {}
        self._waiting: list[_Waiting] = []
        self._over: deque[socket.socket] = deque()
        """Connections whose associations have ended; other threads put them in."""
        self._reader, self._waker = socket.socketpair()
        for end in (self._reader, self._waker):
            end.setblocking(False)
        self._stopping = False
        self._accept_at = 0.0
        """When to listen again, if it left a connection to others."""
        self._listens = True
        self._epoll = select.epoll()
        self._epoll.register(self._socket, select.EPOLLIN)
        self._epoll.register(self._reader, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="door", daemon=True)

    @property
    def is_open(self) -> bool:
        """Whether somebody looks after those who knock."""
        return self._thread.is_alive()

    def open(self) -> None:
        """Begin to accept."""
        self._slots.tell_load(0)
        self._thread.start()

    def close(self) -> None:
        """Stop accepting and let go of everybody who has no association; waits for that."""
        self._stopping = True
        self._wake()
        if self._thread.ident is not None:
            self._thread.join()

    def leave(self, place: int) -> None:
        """Give a place back; called from any thread."""
        self._slots.give_back(place)
        self._wake()

    def see_out(self, connection: socket.socket) -> None:
        """Wait for the peer to close a connection after the last word; called from any thread."""
        if not self._stopping:
            self._over.append(connection)
            self._wake()
            return
        until = time.monotonic() + _LINGER_S
        with contextlib.suppress(OSError), connection:
            connection.shutdown(socket.SHUT_WR)
            while (left := until - time.monotonic()) > 0:
                connection.settimeout(left)
                if not connection.recv(65536):
                    break

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # it is awake, or gone
            self._waker.send(b"\0")

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._round()
        finally:
            # never shut down: other processes listen on the same socket
            for connection in (
                self._socket,
                self._reader,
                self._waker,
                *(held.connection for held in self._held.values()),
                *self._over,
            ):
                connection.close()
            for waiting in self._waiting:
                waiting.caller.connection.close()
            self._epoll.close()

    def _round(self) -> None:
        events = self._epoll.poll(self._next_s())
        for descriptor, _ in events:
            if descriptor == self._socket.fileno():
                self._welcome()
            elif descriptor == self._reader.fileno():
                with contextlib.suppress(OSError):
                    self._reader.recv(4096)
            elif descriptor in self._held:
                self._serve(self._held[descriptor])
        while self._over:
            self._linger(_Held(self._over.popleft(), ("", 0), 0.0, "leaving"))
        now = time.monotonic()
        if not self._listens and now >= self._accept_at:
            self._welcome(even_if_busy=True)
        for held in [h for h in self._held.values() if h.until <= now]:
            self._show_out(held)
        self._let_in(now)
        self._slots.tell_load(self._load())

    def _load(self) -> int:
        return self._slots.taken_here() + len(self._held) + len(self._waiting)

    def _next_s(self) -> float:
        """Return how long nothing has to be done (s)."""
        now = time.monotonic()
        times = [held.until for held in self._held.values()]
        times += [waiting.until for waiting in self._waiting]
        if not self._listens:
            times.append(self._accept_at)
        if self._waiting:
            times.append(now + _LOOK_S)
        return max(0.0, min(times, default=now + 60.0) - now)

    # connections

    def _welcome(self, *, even_if_busy: bool = False) -> None:
        """Accept who knocks."""
        least = None if even_if_busy else self._slots.least_elsewhere()
        for _ in range(_ACCEPTS_AT_ONCE):
            if least is not None and self._load() > least:
                self._listen(yes=False)
                return
            try:
                connection, address = self._socket.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno not in _NO_MORE_FILES:  # reset before it was accepted
                    continue
                if not self._held:
                    self._listen(yes=False)
                    return
                self._make_room()
                continue
            self._hold(connection, address)
        self._listen(yes=True)

    def _listen(self, *, yes: bool) -> None:
        if yes != self._listens:
            self._epoll.modify(self._socket, select.EPOLLIN if yes else 0)
            self._listens = yes
        if not yes:
            self._accept_at = time.monotonic() + _LEAVE_TO_OTHERS_S

    def _hold(self, connection: socket.socket, address: tuple[str, int]) -> None:
        while len(self._held) >= self._listener.max_half_open:
            self._make_room()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stage: Stage = "request"
        if self._listener.tls is not None:
            stage = "handshake"
            try:
                context = self._listener.tls()
                connection = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            except (OSError, ValueError):  # gone already; or no certificate can be had now
                connection.close()
                return
        held = _Held(connection, address[:2], time.monotonic() + self._listener.request_timeout_s, stage)
        self._held[connection.fileno()] = held
        self._epoll.register(connection, select.EPOLLIN)
        self._serve(held)

    def _make_room(self) -> None:
        """Show out one that has had its answer, else the oldest of the address that holds most."""
        leaving = next((h for h in self._held.values() if h.stage == "leaving"), None)
        if leaving is None:
            ((most, _),) = Counter(h.address[0] for h in self._held.values()).most_common(1)
            leaving = next(h for h in self._held.values() if h.address[0] == most)
        self._show_out(leaving)

    def _forget(self, held: _Held) -> None:
        descriptor = held.connection.fileno()
        self._held.pop(descriptor, None)
        with contextlib.suppress(OSError, ValueError):
            self._epoll.unregister(descriptor)

    def _show_out(self, held: _Held) -> None:
        self._forget(held)
        held.connection.close()

    def _serve(self, held: _Held) -> None:
        """Go on with a connection as far as it goes without waiting."""
        try:
            if held.stage == "leaving":
                while held.connection.recv(65536):
                    pass
                self._show_out(held)
                return
            if held.stage == "handshake":
                self._handshake(held)
            self._read(held)
        except (BlockingIOError, ssl.SSLWantReadError):
            if held.stage == "handshake":  # it may have waited to write before
                self._epoll.modify(held.connection, select.EPOLLIN)
        except ssl.SSLWantWriteError:
            self._epoll.modify(held.connection, select.EPOLLOUT)
        except _Refused as refused:
            self._answer(held, refused.answer)
        except (OSError, ValueError):
            self._show_out(held)

    def _handshake(self, held: _Held) -> None:
        connection = held.connection
        assert isinstance(connection, ssl.SSLSocket)  # noqa: S101 - for the type: only those have this stage
        try:
            connection.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError as error:
            caller = Caller(connection, held.address, b"", "")
            self._rejected(caller, REASONS("tls-caller-failed", peer=held.address[0], why=tls.why(error)), "")
            raise
        self._epoll.modify(connection, select.EPOLLIN)
        held.certificate = tls.fingerprint(connection.getpeercert(binary_form=True))
        held.names = tls.names(connection.getpeercert())
        held.stage = "request"

    def _read(self, held: _Held) -> None:
        """Read the request; never more than that."""
        while len(held.data) < held.need:
            data = held.connection.recv(held.need - len(held.data))
            if not data:
                raise OSError  # closed
            held.data += data
            if len(held.data) == HEAD.size == held.need:
                held.need += self._length(held)
        self._forget(held)
        caller = Caller(held.connection, held.address, bytes(held.data), held.certificate, held.names)
        judged = self._judge(caller)
        if isinstance(judged, Rejection):
            self._turn_away(caller, judged)
            return
        caller = replace(caller, rights=judged)
        self._queue(_Waiting(caller, caller.peer, time.monotonic() + self._listener.patience_s))

    @staticmethod
    def _length(held: _Held) -> int:
        kind, length = HEAD.unpack(held.data)
        if kind == 0x07:  # an abort before anything is answered by closing (AA-2)
            raise _Refused
        # anything but a request, or one that cannot be one: AA-1
        if kind != _REQUEST or not 68 <= length <= REQUEST_BYTES:
            raise _Refused(ABORT)
        return int(length)

    def _answer(self, held: _Held, answer: bytes) -> None:
        """Say a last word and wait for the peer to close."""
        try:
            held.connection.setblocking(False)
            if answer:
                held.connection.send(answer)
        except OSError:
            self._show_out(held)
            return
        self._linger(held)

    def _linger(self, held: _Held) -> None:
        """Wait for the peer to close; what it still says is not heard."""
        try:
            held.connection.setblocking(False)
            held.connection.shutdown(socket.SHUT_WR)
        except OSError:
            self._show_out(held)
            return
        held.stage, held.until = "leaving", time.monotonic() + _LINGER_S
        descriptor = held.connection.fileno()
        if descriptor not in self._held:
            self._held[descriptor] = held
            self._epoll.register(descriptor, select.EPOLLIN)

    # places

    def _queue(self, waiting: _Waiting) -> None:
        if len(self._waiting) >= _WAITING:  # of the address that waits with most
            ((address, _),) = Counter(w.caller.address[0] for w in self._waiting).most_common(1)
            there = [w for w in self._waiting if w.caller.address[0] == address]
            ((peer, _),) = Counter(w.peer for w in there).most_common(1)
            self._reject(next(w for w in there if w.peer == peer), _CONGESTION)
        self._waiting.append(waiting)

    def _let_in(self, now: float) -> None:
        """Give places to those who wait, first to peers that have none."""
        for waiting in self._in_turn():
            waiting.in_time = waiting.in_time or self._pace.allows(waiting.peer, now)
            place = self._slots.take(waiting.peer) if waiting.in_time else None
            if place is not None:
                self._waiting.remove(waiting)
                if not self._enter(replace(waiting.caller, place=place)):
                    self._slots.give_back(place)
                    self._turn_away(waiting.caller, Rejection(_LOCAL_LIMIT, REASONS("association-not-started")))
            elif waiting.until <= now:
                self._reject(waiting, _LOCAL_LIMIT if waiting.in_time else _CONGESTION)

    def _in_turn(self) -> Iterator[_Waiting]:
        if len(self._waiting) < 2:
            return iter(self._waiting[:])
        return iter(sorted(self._waiting, key=lambda w: self._slots.taken(w.peer)))

    def _reject(self, waiting: _Waiting, why: tuple[int, int, int]) -> None:
        self._waiting.remove(waiting)
        reason = REASONS("too-many-associations" if why == _LOCAL_LIMIT else "too-many-at-once")
        self._turn_away(waiting.caller, Rejection(why, reason))

    def _turn_away(self, caller: Caller, rejection: Rejection) -> None:
        self._rejected(caller, rejection.reason, rejection.detail)
        held = _Held(caller.connection, caller.address, 0.0, "leaving")
        self._answer(held, bytes((3, 0, 0, 0, 0, 4, 0, *rejection.why)))


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises
    ------
    OSError
        If the address cannot be bound.
    """
    ((family, kind, protocol, _, address), *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(1024)
    except BaseException:
        made.close()
        raise
    return made
