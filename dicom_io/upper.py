"""The upper layer of an accepted association, driven by the association's own thread.

The network library runs a second thread for it, which looks a thousand times a second whether there is something to do.
Its state table, primitives and PDUs are used here as they are; only who turns the wheel is another: sending drives the
machine at once, and receiving waits in the socket.

References
----------
PS3.8 section 9.2 (state machine), 9.3 (PDUs).
"""

import contextlib
import queue
import socket
import time
from typing import Any, Final, cast

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import A_ABORT, A_ASSOCIATE, A_P_ABORT, A_RELEASE
from pynetdicom.transport import AssociationSocket

from dicom_io.door import HEAD, REQUEST_BYTES
from dicom_io.inlet import Inlet

DATA_TF: Final = 0x04
OPEN, RELEASING, OVER, IDLE = "Sta6", "Sta8", "Sta13", "Sta1"
INVALID_PDU, CLOSED = "Evt19", "Evt17"
_ENDS: Final = {INVALID_PDU: "invalid-pdu", CLOSED: "lost", "Evt16": "peer"}
"""Why an association ends; see `AssociationEvent`."""
LARGEST_PDU: Final = 16 << 20
"""A P-DATA-TF PDU longer than this (bytes) is none; up to it we are generous to who ignores the length we announced."""


class UpperLayer(DULServiceProvider):
    """The upper layer of one association; not a thread, whatever it inherits.

    Parameters
    ----------
    association : Association
        Whose it is; has `step`, which reads on, and `ended_by`, which is told why it ends.
    connection : socket.socket
        With a time-out that bounds every wait.
    """

    def __init__(self, association: Association, connection: socket.socket) -> None:
        super().__init__(association)
        self.connection = connection
        self.inlet = Inlet(connection)

    # what the library expects of a thread

    def start(self) -> None:
        """Do nothing: there is no thread."""

    def is_alive(self) -> bool:
        """Say whether the association has not ended."""
        return not self._kill_thread

    def stop_dul(self) -> bool:
        """Take no part any more."""
        self._kill_thread = True
        return True

    # sending

    @property
    def state(self) -> str:
        """The state of PS3.8 table 9-10."""
        return str(self.state_machine.current_state)

    def send_pdu(self, primitive: Any) -> None:  # noqa: ANN401 - the library's types
        """Send a primitive now; nothing once the association is over."""
        if isinstance(primitive, A_ASSOCIATE | A_RELEASE | A_ABORT | A_P_ABORT):
            evt.trigger(self.assoc, evt.EVT_ACSE_SENT, {"primitive": primitive})
        if self.state not in (IDLE, OVER):
            self.to_provider_queue.put(primitive)
            self._process_recv_primitive()
            self._drive()

    def send_data(self, pdu: bytes) -> None:
        """Send an encoded P-DATA-TF PDU (DT-1, AR-7)."""
        if self.state in (OPEN, RELEASING):
            try:
                self.connection.sendall(pdu)
            except OSError:
                self.happened(CLOSED)

    # receiving

    def receive_pdu(self, wait: bool = False, timeout: float | None = None) -> Any:  # noqa: ANN401 - as above
        """Return the next primitive for the user, None if there is none; with `wait` PDUs are read until there is."""
        until = None if timeout is None else time.monotonic() + timeout
        while wait and self.to_user_queue.empty() and self.is_alive():
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return None
            cast("Any", self.assoc).step(left)
        return super().receive_pdu(wait=False)

    def next_head(self, wait_s: float | None) -> tuple[int, int]:
        """Return type and length of the next PDU; all of that comes within `wait_s`.

        Raises
        ------
        TimeoutError
            If nothing comes.
        OSError
            If the connection is closed or broken.
        """
        self.connection.settimeout(wait_s)
        kind, length = HEAD.unpack(self.inlet.exactly(HEAD.size))
        return int(kind), int(length)

    def take(self, pdu: bytes) -> None:
        """Let the library decode a whole PDU, and drive the state machine by it."""
        try:
            decoded, event = self._decode_pdu(bytearray(pdu))
        except Exception:  # noqa: BLE001 - whatever hostile bytes do, it is an invalid PDU
            self.happened(INVALID_PDU)
            return
        self._recv_pdu.put(decoded)
        self.happened(event)

    def take_rest(self, kind: int, length: int, wait_s: float | None) -> None:
        """Read the rest of a PDU that is no data of an open association, and take it."""
        if not 1 <= kind <= 7 or length > REQUEST_BYTES - HEAD.size:
            self.happened(INVALID_PDU)
            return
        until = None if wait_s is None else time.monotonic() + wait_s
        self.take(HEAD.pack(kind, length) + bytes(self.inlet.exactly(length, until)))

    def happened(self, event: str) -> None:
        """Drive the state machine by an event of PS3.8 table 9-10."""
        if event in _ENDS:
            cast("Any", self.assoc).ended_by(_ENDS[event])
        self.event_queue.put(event)
        self._drive()

    def _drive(self) -> None:
        while True:
            try:
                event = self.event_queue.get(block=False)
            except queue.Empty:
                return
            if self.state == IDLE and event != "Evt5":
                continue  # the connection is closed already
            try:
                self.state_machine.do_action(event)
            except Exception:  # noqa: BLE001 - whatever it was, the association cannot go on
                self.kill_dul()
                self._shut()
                return

    def cut(self) -> None:
        """Let the association's thread read to the end of what has come and no further. Called from another thread."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.connection, socket.SHUT_RD)  # below TLS, which another thread is using

    def finish(self) -> socket.socket | None:
        """End; return the connection if it is for the peer to close (Sta13, ARTIM)."""
        left = self.connection if self.state == OVER else None
        if left is not None:
            cast("AssociationSocket", self.socket).socket = None  # the state machine closes what it holds
        if self.state != IDLE:
            self.happened(CLOSED)
        self.kill_dul()
        if left is None:
            self._shut()
        self.inlet.close()
        return left

    def _shut(self) -> None:
        self.connection.close()
        cast("AssociationSocket", self.socket).socket = None
