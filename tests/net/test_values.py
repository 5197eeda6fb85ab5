"""P-DATA-TF taken apart from a socket, against the library's decoder: its own vectors, and any cut between two reads."""

import socket
import struct
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.tests import encoded_pdu_items

from dicom_io.inlet import ClosedError, Inlet
from dicom_io.messages import InvalidMessageError, Messages
from tests.chaos.wire import DATA, pdu, pdv

pytestmark = pytest.mark.unit

VECTORS = {n: v for n, v in vars(encoded_pdu_items).items() if isinstance(v, bytes) and v[:1] == b"\4" and len(v) > 6}


class Heard(Messages):
    """Notes what it is given."""

    def __init__(self, connection: socket.socket) -> None:
        dul = SimpleNamespace(inlet=Inlet(connection))
        super().__init__(SimpleNamespace(dul=dul, may_read=False))  # type: ignore[arg-type] - all that is needed of it
        self.inlet: Inlet = dul.inlet
        self.values: list[list[Any]] = [[]]

    def _piece(self, context: int, control: int, piece: memoryview) -> None:
        last = self.values[-1]
        if last and last[:2] == [context, control]:
            last[2] += bytes(piece)
        else:
            last[:] = [context, control, bytes(piece)]

    def _last(self, _context: int, _control: int) -> None:
        self.values.append([])

    def hear(self) -> list[Any]:
        kind, length = struct.unpack(">BxL", self.inlet.exactly(6))
        assert kind == DATA
        self.take_data(length, 5.0)
        return [tuple(value) for value in self.values if value]


def heard(sent: list[bytes]) -> list[Any]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            theirs.setsockopt(socket.SOL_SOCKET, option, 1 << 20)

        def send() -> None:
            for piece in sent:
                theirs.sendall(piece)
            theirs.shutdown(socket.SHUT_WR)

        sending = threading.Thread(target=send)
        sending.start()
        try:
            return Heard(ours).hear()
        finally:
            sending.join()


def by_library(data: bytes) -> list[Any]:
    decoded = P_DATA_TF()
    decoded.decode(data)
    return [
        (item.presentation_context_id, item.presentation_data_value[0], item.presentation_data_value[1:])
        for item in decoded.presentation_data_value_items
    ]


@pytest.mark.parametrize("name", VECTORS)
def test_the_librarys_vectors_are_taken_apart_as_the_library_does(name: str) -> None:
    assert heard([VECTORS[name]]) == by_library(VECTORS[name])


def test_there_are_vectors() -> None:
    assert VECTORS


@settings(max_examples=40, deadline=None)
@given(st.data(), st.lists(st.tuples(st.integers(0, 127), st.binary(min_size=1, max_size=300)), min_size=1, max_size=5))
def test_it_does_not_matter_where_reads_end(data: st.DataObject, values: list[tuple[int, bytes]]) -> None:
    whole = pdu(DATA, b"".join(pdv(2 * context + 1, 2, value) for context, value in values))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert heard(pieces) == by_library(whole)


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (pdu(DATA, b"\0\0\0\x05"), InvalidMessageError),
        (pdu(DATA, pdv(1, 2, b"ab", 9)), InvalidMessageError),
        (pdu(DATA, pdv(1, 2, b"ab", 1)), InvalidMessageError),
        (pdu(DATA, pdv(1, 2, b"ab") + b"\0"), InvalidMessageError),
        (pdu(DATA, pdv(1, 2, b"abcd"))[:-2], ClosedError),
        (pdu(DATA, pdv(1, 2, b"abcd"))[:3], ClosedError),
    ],
    ids=["too short", "value beyond the PDU", "value of one byte", "rest", "cut in a value", "cut in the head"],
)
def test_what_is_framed_wrongly_is_invalid(sent: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        heard([sent])
