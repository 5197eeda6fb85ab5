"""The door of the web process: connections are bounded here, by address and in all, before they may ask for anything.

Requests are bounded by `web.max_requests`; a connection that asks for nothing takes no place of theirs. When it gets
crowded the oldest that has asked for nothing is shown out, first of the address that has most.
"""

import asyncio
import errno
import select
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from dicom_io import tls
from dicom_io.reason import Reason
from dicom_io.reasons import REASONS as NETWORK
from node.reasons import REASONS

HEADER_S: Final = 10.0
"""The head of a request must be there within this after the connection, TLS handshake included."""
_ACCEPTS_AT_ONCE: Final = 64
_AGAIN_S: Final = 0.1
"""Without a descriptor that could be given up, the door is closed for so long."""
_NO_MORE_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

Told = Callable[[str, Reason], None]
"""Told of an address that was turned away, and why. Must not block."""


class Protocol(H11Protocol):
    """HTTP/1.1 that does not wait for ever for the head of a request, and says which certificate was shown."""

    _head: asyncio.TimerHandle | None = None
    made = False
    """Whether the connection stands, TLS included."""
    crowded = False
    """Whether there is no place for it: what it asks for is answered 503."""
    lost: Callable[[], None] = staticmethod(lambda: None)

    @property
    def asked(self) -> bool:
        """Whether a whole head of a request has come, ever."""
        return self.cycle is not None

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin a connection."""
        super().connection_made(cast("asyncio.Transport", transport))
        self.made = True
        shown = transport.get_extra_info("ssl_object")
        self.app_state = {
            "certificate": "" if shown is None else tls.fingerprint(shown.getpeercert(binary_form=True)),
            "crowded": self.crowded,
            "gone": partial(_gone, transport.get_extra_info("socket").fileno),
        }

    def data_received(self, data: bytes) -> None:
        """Take bytes; those of a head must become a whole one in time."""
        super().data_received(data)
        if not self.idle:
            self._stop_waiting()
        elif self._head is None:
            self._head = self.loop.call_later(HEADER_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection."""
        self._stop_waiting()
        super().connection_lost(exc)
        self.lost()

    def _stop_waiting(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


def _gone(descriptor: Callable[[], int]) -> bool:
    """Say whether the peer has closed the connection, whatever it sent before; from any thread."""
    try:
        looking = select.poll()
        looking.register(descriptor(), select.POLLRDHUP)
        return bool(looking.poll(0))
    except (OSError, ValueError):
        return True


@dataclass(slots=True, eq=False)
class _Held:
    """A connection."""

    address: str
    protocol: Protocol
    begun: "asyncio.Task[None] | None" = None
    timer: asyncio.TimerHandle | None = field(default=None)


class Door:
    """One listening socket and all of its connections; to uvicorn it is a server.

    Parameters
    ----------
    listening : socket.socket
        Where to accept.
    protocols : Callable[[], Protocol]
        Makes one for each connection.
    context : ssl.SSLContext or None
        Of TLS.
    most : tuple[int, int]
        Connections of one address, and in all.
    told : Told
        Of each that was turned away here.
    """

    def __init__(
        self,
        listening: socket.socket,
        protocols: Callable[[], Protocol],
        context: ssl.SSLContext | None,
        most: tuple[int, int],
        told: Told,
    ) -> None:
        self._listening, self._protocols, self._context, self._told = listening, protocols, context, told
        self._each, self._all = most
        self._held: dict[_Held, None] = {}
        """In the order of their coming."""
        self._loop = asyncio.get_running_loop()
        listening.setblocking(False)
        self._descriptor = listening.fileno()
        self._closed = False
        self._listen()

    def close(self) -> None:
        """Accept nobody any more; requests that run go on."""
        self._closed = True
        self._loop.remove_reader(self._descriptor)
        for held in [held for held in self._held if not held.protocol.asked]:
            self._show_out(held)

    async def wait_closed(self) -> None:
        """Return: nothing is left to be waited for."""

    def _listen(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._descriptor, self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                connection, address = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _NO_MORE_FILES:  # reset before it was accepted
                    continue
                if not self._make_room(self._held):
                    self._loop.remove_reader(self._descriptor)
                    self._loop.call_later(_AGAIN_S, self._listen)
                return
            self._hold(connection, str(address[0]))

    def _hold(self, connection: socket.socket, address: str) -> None:
        crowded = False
        of_it = [held for held in self._held if held.address == address]
        if len(of_it) >= self._each:
            crowded = not self._make_room(of_it)
        elif len(self._held) >= self._all:
            crowded = not self._make_room(self._held)
        if crowded and len(self._held) >= 2 * self._all:
            self._told(address, REASONS("web-crowded"))
            connection.close()
            return
        connection.setblocking(False)
        held = _Held(address, self._protocols())
        held.protocol.crowded, held.protocol.lost = crowded, partial(self._forget, held)
        self._held[held] = None
        held.timer = self._loop.call_later(HEADER_S, self._late, held)
        held.begun = self._loop.create_task(self._begin(held, connection))
        held.begun.add_done_callback(lambda task: connection.close() if task.cancelled() else None)

    async def _begin(self, held: _Held, connection: socket.socket) -> None:
        """Shake hands, where that is to be done."""
        patience = None if self._context is None else HEADER_S
        try:
            await self._loop.connect_accepted_socket(
                lambda: held.protocol, connection, ssl=self._context, ssl_handshake_timeout=patience
            )
        except OSError as error:
            self._forget(held)
            self._told(held.address, NETWORK("tls-caller-failed", peer=held.address, why=tls.why(error)))

    def _late(self, held: _Held) -> None:
        if not held.protocol.asked:
            self._show_out(held)

    def _make_room(self, among: Iterable[_Held]) -> bool:
        """Show one out that asks for nothing; say whether there was one."""
        idle = [held for held in among if held.protocol.idle]
        if not idle:
            return False
        ((address, _), *_) = Counter(held.address for held in idle).most_common(1)
        # min takes the first of equals: the oldest
        self._show_out(min((held for held in idle if held.address == address), key=lambda held: held.protocol.asked))
        self._told(address, REASONS("web-crowded"))
        return True

    def _show_out(self, held: _Held) -> None:
        self._forget(held)
        if held.protocol.made:
            held.protocol.transport.abort()
        elif held.begun is not None:
            held.begun.cancel()

    def _forget(self, held: _Held) -> None:
        self._held.pop(held, None)
        if held.timer is not None:
            held.timer.cancel()


class Server(uvicorn.Server):
    """uvicorn behind a `Door`.

    Parameters
    ----------
    config : uvicorn.Config
        Its protocol is `Protocol`.
    most : tuple[int, int]
        Connections of one address, and in all.
    told : Told
        Of each that was turned away at the door.
    """

    def __init__(self, config: uvicorn.Config, most: tuple[int, int], told: Told) -> None:
        super().__init__(config)
        self._most, self._told = most, told

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept on `sockets`."""

        def protocol() -> Protocol:
            return Protocol(self.config, self.server_state, {})

        context = self.config.ssl
        doors = [Door(one, protocol, context, self._most, self._told) for one in sockets or ()]
        self.servers = cast("list[asyncio.Server]", doors)  # uvicorn only closes them, and waits for that
        self.started = True
