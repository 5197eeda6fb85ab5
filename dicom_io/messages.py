"""DIMSE messages of an accepted association, put together from what comes in.

The data set of a C-STORE request goes from the socket's buffer into its file, whatever its size. Every other message is
put together and decoded by the network library.

References
----------
PS3.7 section 6.3 (messages); PS3.8 section 9.3.5 (P-DATA-TF), annex E (message control header).
"""

import struct
import time
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, cast

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_CANCEL, C_STORE
from pynetdicom.pdu_primitives import P_DATA

from dicom_io.arrival import Arrival
from dicom_io.commands import StoreRequest, read_store_request
from dicom_io.limits import LIMITS
from dicom_io.upper import UpperLayer

_PDV: Final = struct.Struct(">LBB")
"""Length, presentation context and message control header of a presentation data value."""
_COMMAND, _LAST = 1, 2
_CANCELS: Final = 10
"""C-CANCEL requests that are remembered, as many as the library remembers."""


class InvalidMessageError(Exception):
    """What the peer sent cannot be put together: an invalid PDU as the state table sees it."""


@dataclass(slots=True)
class Store:
    """A C-STORE request with what has come of its data set; `arrival` is None if the request announced none."""

    request: StoreRequest
    context_id: int
    arrival: Arrival | None = None
    plain: bool = True
    """Whether it was read without the library."""
    is_valid: bool = True
    """Whether it has what the standard wants it to have; if not, nobody can be answered."""


class Messages(DIMSEServiceProvider):
    """Puts messages together and queues them.

    Parameters
    ----------
    association : Association
        Has `arriving`, which opens a file for an object, and `step`, which reads on.
    """

    def __init__(self, association: Association) -> None:
        self._cancelled: dict[int, C_CANCEL] = {}
        super().__init__(association)
        self._command = bytearray()
        self._context = 0
        """Of the command that is coming in."""
        self._store: Store | None = None
        """The object that is coming in."""
        self.serving = False

    # what comes in

    @property
    def between(self) -> bool:
        """Whether no message has begun."""
        return not self._command and self._store is None and self.message is None

    def drop(self) -> None:
        """Remove what has come of an object and of those that nobody took from the queue."""
        waiting = [message for _, message in list(self.msg_queue.queue)]
        for store in (self._store, *waiting):
            if isinstance(store, Store) and store.arrival is not None:
                store.arrival.discard()
        self._store = None

    @property
    def unfinished(self) -> int:
        """Return how many objects have begun to come and were not served."""
        waiting = [message for _, message in list(self.msg_queue.queue)]
        return sum(isinstance(store, Store) for store in (self._store, *waiting))

    def take_data(self, length: int, wait_s: float | None) -> None:
        """Read the values of a P-DATA-TF PDU of `length` bytes.

        Raises
        ------
        InvalidMessageError
            If they cannot be what the standard says.
        OSError
            If the connection breaks, or they do not come within `wait_s`.
        """
        inlet = cast("UpperLayer", self.dul).inlet
        until = None if wait_s is None else time.monotonic() + wait_s
        while length:
            if length < _PDV.size:
                raise InvalidMessageError
            value_length, context, control = _PDV.unpack(inlet.exactly(_PDV.size, until))
            left = value_length - 2
            length -= value_length + 4
            if left < 0 or length < 0:
                raise InvalidMessageError
            while left:
                piece = inlet.some(left)
                left -= len(piece)
                self._piece(context, control, piece)
                if left and until is not None and time.monotonic() > until:
                    raise TimeoutError  # each drop came in time, and the whole does not
            if control & _LAST:
                self._last(context, control)

    def _piece(self, context: int, control: int, piece: memoryview) -> None:
        if control & _COMMAND:
            if self._store is not None or self.message is not None:
                raise InvalidMessageError  # a command in the middle of a data set
            if self._command and context != self._context:
                raise InvalidMessageError  # a command on two contexts
            self._context = context
            self._command += piece
            if len(self._command) > LIMITS.read.command_bytes:
                raise InvalidMessageError
        elif self._store is not None:
            if context != self._store.context_id or self._store.arrival is None:
                raise InvalidMessageError
            self._store.arrival.write(piece)
        elif self.message is not None:
            data = cast("BytesIO", self.message.data_set)
            if context != self.message.context_id or data.tell() + len(piece) > LIMITS.read.message_bytes:
                raise InvalidMessageError
            data.write(piece)
        else:
            raise InvalidMessageError  # a data set without a command

    def _last(self, context: int, control: int) -> None:
        """Go on behind the last fragment of a command or of a data set."""
        if control & _COMMAND:
            if self._command and context != self._context:
                raise InvalidMessageError
            command = bytes(self._command)
            self._command.clear()
            self._begin(context, command)
        elif self._store is not None and context == self._store.context_id:
            self._stored()
        elif self.message is not None and context == self.message.context_id:
            self._received()
        else:
            raise InvalidMessageError  # a data set without a command, or on another context

    def _begin(self, context: int, command: bytes) -> None:
        if context not in self.assoc._accepted_cx:  # noqa: SLF001 - the library's table of what was agreed
            raise InvalidMessageError
        request = read_store_request(command)
        if request is not None:
            self._begin_object(Store(request, context))
            return
        self.message = DIMSEMessage()
        whole = P_DATA()
        whole.presentation_data_value_list.append((context, bytes((_COMMAND | _LAST,)) + command))
        try:
            complete = self.message.decode_msg(whole, self.assoc)
            if isinstance(self.message, C_STORE_RQ):
                store = self._read_by_library(cast("C_STORE", self.message.message_to_primitive()), context, complete)
                self.message = None
                self._begin_object(store)
                return
        except Exception as error:
            raise InvalidMessageError from error
        if complete:
            self._received()

    @staticmethod
    def _read_by_library(primitive: C_STORE, context: int, complete: bool) -> Store:
        request = StoreRequest(
            primitive.MessageID or 0,
            str(primitive.AffectedSOPClassUID or ""),
            str(primitive.AffectedSOPInstanceUID or ""),
            not complete,
        )
        return Store(request, context, plain=False, is_valid=primitive.is_valid_request)

    def _begin_object(self, store: Store) -> None:
        self._store = store
        if store.request.has_data:
            store.arrival = cast("Any", self.assoc).arriving(store)
        else:
            self._stored()

    def _stored(self) -> None:
        store, self._store = self._store, None
        self.msg_queue.put((cast("Store", store).context_id, cast("Any", store)))

    def _received(self) -> None:
        message, self.message = cast("DIMSEMessage", self.message), None
        try:
            primitive = message.message_to_primitive()
        except Exception as error:
            raise InvalidMessageError from error
        if isinstance(primitive, C_CANCEL):
            if len(self._cancelled) < _CANCELS:
                self._cancelled[primitive.MessageIDBeingRespondedTo or 0] = primitive
            return
        self.msg_queue.put((cast("int", message.context_id), cast("Any", primitive)))

    # what the library asks for while it serves a request

    @property
    def cancel_req(self) -> dict[int, C_CANCEL]:
        """C-CANCEL requests that have come; while a request is served the connection is looked at."""
        association = cast("Any", self.assoc)
        while self.serving and self.msg_queue.empty() and association.may_read and self._upper.inlet.ready():
            association.step()
        return self._cancelled

    @cancel_req.setter
    def cancel_req(self, value: dict[int, C_CANCEL]) -> None:
        self._cancelled = value

    @property
    def _upper(self) -> UpperLayer:
        return cast("UpperLayer", self.dul)
