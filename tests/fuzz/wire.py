"""The listener as a target: whole conversations over loopback."""

import contextlib
import socket
import struct
import threading
import time

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_io.arrival import data_offset
from dicom_io.commands import read_store_request
from dicom_io.scp import Handlers, Listener, Server, serve
from dicom_io.scp_types import NoticeAnswer
from tests.chaos.wire import command, pdu, pdv
from tests.fuzz.material import CT, SCRATCH, STEP, VERIFICATION, file

PATIENCE_S = 5.0


def request(*contexts: tuple[str, str]) -> bytes:
    def item(kind: int, value: bytes) -> bytes:
        return struct.pack(">BxH", kind, len(value)) + value

    offered = b"".join(
        item(0x20, bytes([2 * n + 1, 0, 0, 0]) + item(0x30, a.encode()) + item(0x40, t.encode()))
        for n, (a, t) in enumerate(contexts)
    )
    user = item(0x50, item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3"))
    titles = b"PACSAINODE      FUZZ            "
    return pdu(1, b"\0\1\0\0" + titles + bytes(32) + item(0x10, b"1.2.840.10008.3.1.1.1") + offered + user)


def opened() -> bytes:
    return request(
        (CT, ExplicitVRLittleEndian),
        (VERIFICATION, ImplicitVRLittleEndian),
        (STEP, ImplicitVRLittleEndian),
    )


def store_command(**more: object) -> bytes:
    named = {"AffectedSOPClassUID": CT, "CommandField": 1, "MessageID": 1, "Priority": 2, "CommandDataSetType": 1}
    return command(**{**named, "AffectedSOPInstanceUID": "2.25.1", **more})


def conversations() -> list[bytes]:
    """Return bytes whose first one says whether an association is opened for the others."""
    made = file(ExplicitVRLittleEndian)
    ds = made[data_offset(made) or 0 :]
    store = pdu(4, pdv(1, 3, store_command())) + pdu(4, pdv(1, 0, ds[:100]) + pdv(1, 2, ds[100:]))
    echo = pdu(
        4,
        pdv(3, 3, command(AffectedSOPClassUID=VERIFICATION, CommandField=0x30, MessageID=2, CommandDataSetType=0x0101)),
    )
    cancel = pdu(4, pdv(1, 3, command(CommandField=0x0FFF, MessageIDBeingRespondedTo=1, CommandDataSetType=0x0101)))
    step = command(
        AffectedSOPClassUID=STEP,
        AffectedSOPInstanceUID="2.25.9",
        CommandField=0x0140,
        MessageID=3,
        CommandDataSetType=1,
    )
    create = pdu(4, pdv(5, 3, step) + pdv(5, 2, ds[:60]))
    release, abort = pdu(5, bytes(4)), pdu(7, bytes(4))
    return [
        b"\0" + opened() + store + release, b"\1" + store + echo + release, b"\1" + cancel + store + abort,
        b"\1" + create + release, b"\1" + pdu(4, pdv(1, 1, store_command()[:20])) + pdu(4, pdv(1, 3, store_command()[20:])),
        b"\0" + pdu(6, bytes(4)) + pdu(2, bytes(68)), b"\1" + pdu(4, pdv(1, 2, ds)),
    ]  # fmt: skip


class Door:
    """A listener on loopback, and what went wrong in its threads."""

    def __init__(self) -> None:
        self._server: Server | None = None
        self.faults: list[BaseException | None] = []
        self.stored = 0

    @property
    def port(self) -> int:
        if self._server is None:
            threading.excepthook = lambda told: self.faults.append(told.exc_value)
            incoming = SCRATCH.path / "incoming"
            incoming.mkdir(exist_ok=True)
            listener = Listener(("PACSAINODE",), "127.0.0.1", 0, incoming, network_timeout_s=2.0, request_timeout_s=2.0)
            self._server = serve(
                listener,
                Handlers(
                    self._keep, lambda _e: None, lambda _r: None,
                    lambda _w: frozenset({"store", "query", "commit", "report"}),
                    on_find=lambda _q: iter(()), on_notice=lambda _n: NoticeAnswer(0), commitment=True,
                ),
            )  # fmt: skip
        return self._server.port

    def _keep(self, _stored: object) -> int:
        self.stored += 1
        return 0

    def close(self) -> None:
        if self._server is not None:
            self._server.stop(0.0)
            self._server = None


DOOR = Door()


def listener(data: bytes) -> None:
    """Say `data` to the listener; it must come to an end, leave nothing behind and still let others in."""
    begun = time.monotonic()
    made = socket.create_connection(("127.0.0.1", DOOR.port), timeout=PATIENCE_S)
    with made as connection, contextlib.suppress(OSError):
        connection.sendall((opened() if data[:1] == b"\1" else b"") + data[1:])
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            assert time.monotonic() - begun < PATIENCE_S, "the listener does not end it"
    assert time.monotonic() - begun < PATIENCE_S, "the listener waits for nothing"
    assert not DOOR.faults, DOOR.faults


def commands() -> list[bytes]:
    return [
        store_command(),
        store_command(Priority=0, MoveOriginatorApplicationEntityTitle="M", MoveOriginatorMessageID=1),
    ]


def command_set(data: bytes) -> None:
    found = read_store_request(data)
    assert found is None or (found.sop_class_uid and found.sop_instance_uid and 0 <= found.message_id <= 0xFFFF)
