"""What comes in over a connection: one reused buffer, large reads, and views into it instead of copies."""

import select
import socket
import ssl
import time
from typing import Final

_BUFFER: Final = 256 << 10


class ClosedError(OSError):
    """The peer has closed the connection."""


class Inlet:
    """Reads from a connection.

    Parameters
    ----------
    connection : socket.socket
        Plain or TLS; its time-out bounds every wait.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()
        self._view = memoryview(self._buffer)
        self._begin = self._end = 0

    def close(self) -> None:
        """Give the buffer back: what belongs to an association lives a little longer than that."""
        self._view.release()
        self._buffer = bytearray()
        self._view, self._begin, self._end = memoryview(self._buffer), 0, 0

    def ready(self) -> bool:
        """Say whether a read would return at once."""
        if self._begin < self._end:
            return True
        if isinstance(self._connection, ssl.SSLSocket) and self._connection.pending():
            return True
        waiting = select.poll()
        waiting.register(self._connection, select.POLLIN)
        return bool(waiting.poll(0))

    def exactly(self, count: int, until: float | None = None) -> memoryview:
        """Return the next `count` bytes; they are gone with the next read.

        Parameters
        ----------
        count : int
            At most the size of the buffer.
        until : float or None
            When the last one has to be there (monotonic clock); None: only each wait is bounded.

        Raises
        ------
        ClosedError
            If the peer has closed; also in the middle.
        TimeoutError
            If they do not come in time.
        OSError
            If the connection is broken.
        """
        while self._end - self._begin < count:
            if until is not None and self._begin < self._end and time.monotonic() > until:
                raise TimeoutError  # each drop came in time, and the whole does not
            self._fill(count)
        self._begin += count
        return self._view[self._begin - count : self._begin]

    def some(self, most: int) -> memoryview:
        """Return between one and `most` of the next bytes; they are gone with the next read.

        Raises
        ------
        OSError
            As `exactly`.
        """
        if self._begin == self._end:
            self._fill(1)
        begin, self._begin = self._begin, min(self._begin + most, self._end)
        return self._view[begin : self._begin]

    def _fill(self, count: int) -> None:
        """Read once, with room for `count` bytes."""
        if self._begin == self._end:
            self._begin = self._end = 0
        if not self._buffer:
            self._view.release()
            self._buffer = bytearray(_BUFFER)
            self._view = memoryview(self._buffer)
        elif self._begin + count > _BUFFER:
            held = self._end - self._begin
            self._view[:held] = self._view[self._begin : self._end]
            self._begin, self._end = 0, held
        got = self._connection.recv_into(self._view[self._end :])
        if not got:
            raise ClosedError
        self._end += got
