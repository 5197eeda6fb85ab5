"""A scanner that says what it likes: a table of scripts; a new enemy is a row."""

import contextlib
import itertools
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

from pydicom.dataset import Dataset

from tests.chaos.wire import (
    ABORTS,
    AC,
    CT,
    DATA,
    EXPLICIT,
    GARBAGE,
    RELEASE_RP,
    RELEASE_RQ,
    RQ,
    command,
    encoded,
    pdu,
    pdv,
    read_pdu,
    reset,
)


class HostileScanner:
    """A client that says what it likes to a listener; sockets stay open until `stop`, so that half-open ones weigh.

    Parameters
    ----------
    port : int
        Of the listener, on 127.0.0.1.
    """

    def __init__(self, port: int, calling: str = "SCANNER", called: str = "PACSAINODE") -> None:
        self.port, self.calling, self.called = port, calling, called
        self._open: list[socket.socket] = []
        self._numbers = itertools.count(1)
        self._salt = time.time_ns() % 10**9

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Close every socket."""
        for connection in self._open:
            connection.close()
        self._open.clear()

    def connect(self) -> socket.socket:
        """Open a connection and say nothing."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        self._open.append(connection)
        return connection

    def request(
        self, contexts: Iterable[tuple[int, str, Sequence[str]]] = ((1, CT, (EXPLICIT,)),), user: bytes | None = None
    ) -> bytes:
        """Return an A-ASSOCIATE-RQ."""
        items = [_item(0x10, b"1.2.840.10008.3.1.1.1")]
        for number, abstract, syntaxes in contexts:
            inner = _item(0x30, abstract.encode()) + b"".join(_item(0x40, s.encode()) for s in syntaxes)
            items.append(_item(0x20, bytes((number, 0, 0, 0)) + inner))
        limits = _item(0x51, struct.pack(">L", 16384)) + _item(0x52, b"1.2.3.4")
        items.append(_item(0x50, limits if user is None else user))
        titles = self.called.encode().ljust(16)[:16] + self.calling.encode().ljust(16)[:16]
        return pdu(RQ, struct.pack(">HH", 1, 0) + titles + bytes(32) + b"".join(items))

    def associate(self) -> socket.socket:
        """Open an association for CT images on context 1.

        Raises
        ------
        ConnectionError
            If it was not accepted.
        """
        connection = self.connect()
        connection.sendall(self.request())
        if read_pdu(connection)[:1] != bytes((AC,)):
            raise ConnectionError("the association was not accepted")
        return connection

    def image(self) -> Dataset:
        """Return a small image under a new UID."""
        image = Dataset()
        image.SOPClassUID, image.SOPInstanceUID = CT, f"2.25.66{self._salt}{next(self._numbers)}"
        image.StudyInstanceUID, image.SeriesInstanceUID = f"2.25.77{self._salt}", f"2.25.78{self._salt}"
        image.PatientID, image.Modality = "ENEMY", "CT"
        image.Rows = image.Columns = 32
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.PixelData = bytes(32 * 32 * 2)
        return image

    def object(self) -> tuple[bytes, bytes]:
        """Return a C-STORE request and the data set of a small image under a new UID."""
        image = self.image()
        return store_command(image.SOPInstanceUID), encoded(image, implicit=False)

    def said(self, connection: socket.socket, within_s: float = 10.0) -> bytes:
        """Return what comes until the other end closes or the time is up."""
        connection.settimeout(within_s)
        data = b""
        with contextlib.suppress(OSError):
            while got := connection.recv(65536):
                data += got
        return data


def store_command(uid: str, *, message: int = 1, announces: bool = True) -> bytes:
    """Return the command set of a C-STORE request."""
    return command(
        AffectedSOPClassUID=CT, CommandField=0x0001, MessageID=message, Priority=0,
        CommandDataSetType=0x0001 if announces else 0x0101, AffectedSOPInstanceUID=uid,
    )  # fmt: skip


def _item(kind: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(payload)) + payload


def _data(*values: bytes, length: int | None = None) -> bytes:
    return pdu(DATA, b"".join(values), length)


ScannerScript = Callable[[HostileScanner], object]


def _sends(*data: bytes) -> ScannerScript:
    """Connect and say this, without an association."""

    def script(scanner: HostileScanner) -> None:
        connection = scanner.connect()
        for piece in data:
            connection.sendall(piece)

    return script


def _associated(then: Callable[[HostileScanner, socket.socket], object]) -> ScannerScript:
    def script(scanner: HostileScanner) -> None:
        then(scanner, scanner.associate())

    return script


def _in_object(then: Callable[[socket.socket, bytes, bytes], object]) -> ScannerScript:
    """Open an association and go on from the command and the data set of an object."""

    def script(scanner: HostileScanner) -> None:
        request, image = scanner.object()
        connection = scanner.associate()
        then(connection, request, image)

    return script


def _half_object(then: Callable[[socket.socket], object]) -> ScannerScript:
    def go(connection: socket.socket, request: bytes, image: bytes) -> None:
        connection.sendall(_data(pdv(1, 3, request)) + _data(pdv(1, 0, image[: len(image) // 2])))
        then(connection)

    return _in_object(go)


def _whole(alter: Callable[[bytes, bytes], bytes]) -> ScannerScript:
    return _in_object(lambda connection, request, image: connection.sendall(alter(request, image)))


def _many(count: int, one: Callable[[HostileScanner], object]) -> ScannerScript:
    def script(scanner: HostileScanner) -> None:
        for _ in range(count):
            with contextlib.suppress(OSError):
                one(scanner)

    return script


def _endless(connection: socket.socket, request: bytes, image: bytes, *, megabytes: int = 64) -> None:
    connection.settimeout(20)
    connection.sendall(_data(pdv(1, 3, request)) + _data(pdv(1, 0, image)))
    piece = _data(pdv(1, 0, bytes(16 << 10)))
    with contextlib.suppress(OSError):
        for _ in range(megabytes * 64):
            connection.sendall(piece)


def _drips(connection: socket.socket, request: bytes, image: bytes) -> None:
    """Send the object a byte at a time, for as long as anybody listens."""

    def drip() -> None:
        with contextlib.suppress(OSError):
            for byte in _data(pdv(1, 3, request)) + _data(pdv(1, 2, image)):
                connection.sendall(bytes([byte]))
                time.sleep(0.05)

    threading.Thread(target=drip, daemon=True).start()


def _pixel_length(image: bytes, more: int) -> bytes:
    """Return the data set with a pixel element that claims to be `more` bytes longer than it is."""
    at = image.rfind(bytes.fromhex("e07f1000")) + 8
    return image[:at] + (int.from_bytes(image[at : at + 4], "little") + more).to_bytes(4, "little") + image[at + 4 :]


def _object_pdus(request: bytes, image: bytes) -> bytes:
    return _data(pdv(1, 3, request)) + _data(pdv(1, 2, image))


_ONE = ((1, CT, (EXPLICIT,)),)
SCANNER_SCRIPTS: dict[str, ScannerScript] = {
    # before an association
    "garbage": _sends(GARBAGE),
    "http": _sends(b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n"),
    "unknown-pdu": _sends(pdu(0x99, GARBAGE)),
    "data-before-association": _sends(_data(pdv(1, 3, store_command("1.2.3")))),
    "release-before-association": _sends(pdu(RELEASE_RQ, bytes(4))),
    "abort-before-association": _sends(ABORTS[0]),
    "request-of-4-GiB": _sends(pdu(RQ, bytes(200), 0xFFFFFFFF)),
    "request-too-short": lambda s: s.connect().sendall(s.request()[:2] + (40).to_bytes(4) + s.request()[6:]),
    "request-too-long": lambda s: s.connect().sendall(s.request()[:2] + (4000).to_bytes(4) + s.request()[6:]),
    "half-request": lambda s: s.connect().sendall(s.request()[:50]),
    "request-without-contexts": lambda s: s.connect().sendall(s.request(())),
    "request-with-garbage-items": lambda s: s.connect().sendall(s.request()[:74] + GARBAGE[: len(s.request()) - 74]),
    "request-with-even-contexts": lambda s: s.connect().sendall(s.request([(2, CT, (EXPLICIT,)), (2, CT, ())])),
    "request-with-garbage-user": lambda s: s.connect().sendall(s.request(_ONE, GARBAGE[:100])),
    "request-with-endless-uids": lambda s: s.connect().sendall(s.request([(1, "1." * 2000, ("9" * 3000,))])),
    "request-with-128-contexts": lambda s: s.connect().sendall(
        s.request([(2 * n + 1, f"1.2.{n}", tuple(f"1.3.{m}" for m in range(20))) for n in range(128)])
    ),
    # on an association
    "idle-association": lambda s: s.associate(),
    "second-request": _associated(lambda s, c: c.sendall(s.request())),
    "garbage-on-association": _associated(lambda _s, c: c.sendall(GARBAGE)),
    "release-without-waiting": _associated(lambda _s, c: (c.sendall(pdu(RELEASE_RQ, bytes(4))), c.close())),
    "release-answer-unasked": _associated(lambda _s, c: c.sendall(pdu(RELEASE_RP, bytes(4)))),
    "accept-unasked": _associated(lambda s, c: c.sendall(pdu(AC, s.request()[6:]))),
    "data-of-4-GiB": _associated(lambda _s, c: c.sendall(_data(bytes(100), length=0xFFFFFFFF))),
    "data-empty": _associated(lambda _s, c: c.sendall(_data())),
    "pdv-too-long": _associated(lambda _s, c: c.sendall(_data(pdv(1, 3, store_command("1.2.3"), 70000)))),
    "pdv-of-zero": _associated(lambda _s, c: c.sendall(_data(pdv(1, 3, b"", 0)))),
    "pdv-of-one": _associated(lambda _s, c: c.sendall(_data(pdv(1, 3, b"", 1)))),
    "command-garbage": _associated(lambda _s, c: c.sendall(_data(pdv(1, 3, GARBAGE)))),
    "command-empty": _associated(lambda _s, c: c.sendall(_data(pdv(1, 3, b"")))),
    "command-without-fields": _associated(lambda _s, c: c.sendall(_data(pdv(1, 3, command(Priority=0))))),
    "command-unknown": _associated(lambda _s, c: c.sendall(_data(pdv(1, 3, command(CommandField=0x7777, MessageID=1))))),
    "command-response-unasked": _associated(lambda _s, c: c.sendall(_data(pdv(1, 3, command(
        AffectedSOPClassUID=CT, CommandField=0x8001, MessageIDBeingRespondedTo=1, CommandDataSetType=0x0101, Status=0))))),
    "command-never-ends": _associated(lambda _s, c: c.sendall(_data(pdv(1, 1, GARBAGE)) * 20)),
    "data-without-command": _associated(lambda _s, c: c.sendall(_data(pdv(1, 2, GARBAGE)))),
    # in an object
    "closes-in-object": _half_object(lambda c: c.close()),
    "resets-in-object": _half_object(reset),
    "aborts-in-object": _half_object(lambda c: c.sendall(ABORTS[0])),
    "releases-in-object": _half_object(lambda c: c.sendall(pdu(RELEASE_RQ, bytes(4)))),
    "stalls-in-object": _half_object(lambda _c: None),
    "stalls-in-pdu": _half_object(lambda c: c.sendall(_data(pdv(1, 2, bytes(100)))[:40])),
    "command-in-object": _half_object(lambda c: c.sendall(_data(pdv(1, 3, store_command("1.2.3"))))),
    "other-context-in-object": _half_object(lambda c: c.sendall(_data(pdv(3, 2, bytes(100))))),
    "object-never-comes": _whole(lambda request, _image: _data(pdv(1, 3, request))),
    "object-unannounced": _whole(lambda _request, image: _object_pdus(store_command("1.2.3", announces=False), image)),
    "object-empty": _whole(lambda request, _image: _object_pdus(request, b"")),
    "object-garbage": _whole(lambda request, _image: _object_pdus(request, GARBAGE * 3)),
    "object-another": _whole(lambda _request, image: _object_pdus(store_command("1.2.3"), image)),
    "object-unknown-context": _whole(lambda request, image: _data(pdv(99, 3, request)) + _data(pdv(99, 2, image))),
    "object-too-short": _whole(lambda request, image: _object_pdus(request, _pixel_length(image, 4096))),
    "object-too-long": _whole(lambda request, image: _object_pdus(request, image + GARBAGE)),
    "object-drips": _in_object(_drips),
    "object-never-ends": _in_object(_endless),
    "closes-before-answer": _whole(_object_pdus),
    "aborts-while-objects-wait": _whole(lambda request, image: _object_pdus(request, image) * 8 + ABORTS[0]),
    # floods
    "half-open-by-the-hundred": _many(300, lambda s: s.connect()),
    "half-requests-by-the-hundred": _many(100, lambda s: s.connect().sendall(s.request()[:50])),
    "resets-by-the-hundred": _many(200, lambda s: reset(s.connect())),
    "associations-by-the-hundred": _many(100, lambda s: s.connect().sendall(s.request())),
}  # fmt: skip
