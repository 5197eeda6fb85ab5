"""Peers that behave badly on purpose: a PACS that meddles with what it is sent, and a scanner that says what it likes.

`HostilePacs` stands before a real small PACS and meddles with the first connections, one protocol data unit (PDU) at a
time; later ones pass untouched. `HostileScanner` writes its own bytes. Both are tables of scripts: a new enemy is a row.

References
----------
PS3.8 section 9.3 (PDUs), annex D (items); PS3.7 section 9.3 (messages), annex E (command elements).
"""

import contextlib
import gc
import itertools
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pydicom.dataset import Dataset
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_dataset

from node.loopback_pacs import LoopbackPacs, Received

RQ, AC, RJ, DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
Where = Literal["connect", "request", "accept", "object", "answer", "release"]
"""When a script acts: on the new connection, on the A-ASSOCIATE-RQ, on its answer, on a P-DATA of the client, on a P-DATA
of the server, on the A-RELEASE-RQ."""


def pdu(kind: int, payload: bytes, length: int | None = None) -> bytes:
    """Return one PDU; `length` lies about its length."""
    return struct.pack(">BBL", kind, 0, len(payload) if length is None else length) + payload


def pdv(context: int, control: int, data: bytes, length: int | None = None) -> bytes:
    """Return one presentation data value; `control`: 1 command, 0 data, +2 last fragment."""
    return struct.pack(">LBB", len(data) + 2 if length is None else length, context, control) + data


def encoded(dataset: Dataset, *, implicit: bool) -> bytes:
    """Return a data set in little endian."""
    out = DicomIO(BytesIO())
    out.is_little_endian, out.is_implicit_VR = True, implicit
    write_dataset(out, dataset)
    return out.parent.getvalue()  # type: ignore[no-any-return, union-attr]


def command(**elements: Any) -> bytes:
    """Return a command set with its group length."""
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    body = encoded(dataset, implicit=True)
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def read_exactly(connection: socket.socket, count: int) -> bytes:
    """Return `count` bytes, fewer only at the end."""
    data = bytearray()
    while len(data) < count:
        got = connection.recv(count - len(data))
        if not got:
            break
        data += got
    return bytes(data)


def read_pdu(connection: socket.socket) -> bytes:
    """Return the next PDU, or nothing at the end."""
    head = read_exactly(connection, 6)
    return head if len(head) < 6 else head + read_exactly(connection, int.from_bytes(head[2:6]))


def reset(connection: socket.socket) -> None:
    """Close with a RST in the place of a FIN."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


# --- the PACS ---------------------------------------------------------------------------------------------------------


class Link:
    """One connection under way: the client, the server behind, and an end for those who wait."""

    def __init__(self, client: socket.socket, server: socket.socket, over: threading.Event) -> None:
        self.client, self.server, self.over = client, server, over

    def close(self) -> None:
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


Meddle = Callable[[Link, bytes], bool]
"""Gets the PDU that would have been passed on; sends what it likes; says whether the connection goes on as if it had."""


def _close(link: Link, _: bytes) -> bool:
    link.close()
    return False


def _reset(link: Link, _: bytes) -> bool:
    reset(link.client)
    link.close()
    return False


def _stall(link: Link, _: bytes) -> bool:
    link.over.wait()
    return False


def _swallow(_: Link, __: bytes) -> bool:
    return True


def _half_then(rest: Meddle) -> Meddle:
    def meddle(link: Link, whole: bytes) -> bool:
        link.client.sendall(whole[: len(whole) // 2])
        return rest(link, whole)

    return meddle


def _say(data: bytes, then: Meddle = _stall) -> Meddle:
    def meddle(link: Link, whole: bytes) -> bool:
        link.client.sendall(data)
        return then(link, whole)

    return meddle


def _lie_about_length(length: int) -> Meddle:
    """Send a PDU that claims to be so much longer or shorter than it is."""

    def meddle(link: Link, whole: bytes) -> bool:
        claimed = length if length > 1 << 20 else len(whole) - 6 + length
        link.client.sendall(whole[:2] + claimed.to_bytes(4) + whole[6:])
        return True

    return meddle


def drip(pause_s: float) -> Meddle:
    def meddle(link: Link, whole: bytes) -> bool:
        for byte in whole:
            link.client.sendall(bytes([byte]))
            if link.over.wait(pause_s):
                return False
        return True

    return meddle


def _replace(old: bytes, new: Callable[[bytes], bytes]) -> Meddle:
    """Overwrite the two bytes of a command element (its tag and length are `old`)."""

    def meddle(link: Link, whole: bytes) -> bool:
        at = whole.find(old) + len(old)
        if at >= len(old):
            whole = whole[:at] + new(whole[at : at + 2]) + whole[at + 2 :]
        link.client.sendall(whole)
        return True

    return meddle


def _status(status: int) -> Meddle:
    return _replace(bytes.fromhex("0000000902000000"), lambda _: status.to_bytes(2, "little"))


def _other_message() -> Meddle:
    return _replace(
        bytes.fromhex("0000200102000000"),
        lambda was: (int.from_bytes(was, "little") ^ 0x5500).to_bytes(2, "little"),
    )


def _twice(link: Link, whole: bytes) -> bool:
    link.client.sendall(whole + whole)
    return True


def _contexts(result: int) -> Meddle:
    """Accept the association and refuse each of its presentation contexts (PS3.8 table 9-18)."""

    def meddle(link: Link, whole: bytes) -> bool:
        data, at = bytearray(whole), 6 + 68
        while at + 4 <= len(data):
            if data[at] == 0x21:
                data[at + 6] = result
            at += 4 + int.from_bytes(data[at + 2 : at + 4])
        link.client.sendall(data)
        return True

    return meddle


def _tiny_pdus(size: int) -> Meddle:
    """Accept no more than `size` bytes in one PDU (PS3.8 annex D.1)."""

    def meddle(link: Link, whole: bytes) -> bool:
        link.client.sendall(_largest(whole, size))
        return True

    return meddle


def _largest(accept: bytes, size: int) -> bytes:
    data, at = bytearray(accept), 6 + 68
    while at + 4 <= len(data):
        if data[at] == 0x50:
            data[at + 8 : at + 12] = size.to_bytes(4)
        at += 4 + int.from_bytes(data[at + 2 : at + 4])
    return bytes(data)


@dataclass(frozen=True, slots=True)
class PacsScript:
    """What a hostile PACS does, when, and what a delivery to it comes to once it behaves.

    Parameters
    ----------
    nth : int
        The PDU of this kind on which it acts, from 1.
    ends : {"delivered", "dead"}
        State of the delivery in the end.
    """

    name: str
    at: Where
    do: Meddle
    nth: int = 1
    ends: Literal["delivered", "dead"] = "delivered"


GARBAGE = bytes((n * 73 + 41) % 256 for n in range(500))
_A_ABORT = [pdu(ABORT, bytes((0, 0, source, why))) for source, why in ((0, 0), (2, 0), (2, 1), (2, 6))]
_REJECTIONS = [(r, s, w) for r in (1, 2) for s, w in ((1, 1), (1, 2), (1, 3), (1, 7), (2, 1), (2, 2), (3, 1), (3, 2))]
_DEAD = (0x0117, 0x0122, 0x0124, 0xA900, 0xC000, 0xCFFF)
_AGAIN = (0x0110, 0x0213, 0xA700, 0xA7FF, 0xFE00, 0x7777)
_DONE = (0x0001, 0xB000, 0xB006, 0xB007, 0x0111)

PACS_SCRIPTS: tuple[PacsScript, ...] = (
    PacsScript("closes-at-once", "connect", _close),
    PacsScript("resets-at-once", "connect", _reset),
    PacsScript("says-nothing", "connect", _stall),
    PacsScript("talks-http", "connect", _say(b"HTTP/1.0 400 Bad Request\r\n\r\n", _close)),
    PacsScript("garbage-at-once", "connect", _say(GARBAGE)),
    *(PacsScript(f"rejects-{r}-{s}-{w}", "request", _say(pdu(RJ, bytes((0, r, s, w))), _close)) for r, s, w in _REJECTIONS),
    PacsScript("rejects-oddly", "request", _say(pdu(RJ, bytes((0, 9, 9, 9))), _close)),
    *(PacsScript(f"aborts-request-{n}", "request", _say(abort, _close)) for n, abort in enumerate(_A_ABORT)),
    PacsScript("closes-on-request", "request", _close),
    PacsScript("never-answers-request", "request", _stall),
    PacsScript("garbage-for-accept", "request", _say(GARBAGE)),
    PacsScript("half-accept-closed", "accept", _half_then(_close)),
    PacsScript("half-accept-stalled", "accept", _half_then(_stall)),
    PacsScript("accept-too-long", "accept", _lie_about_length(+100)),
    PacsScript("accept-too-short", "accept", _lie_about_length(-20)),
    PacsScript("accept-of-4-GiB", "accept", _lie_about_length(0xFFFFFFFF)),
    PacsScript("accept-drips", "accept", drip(0.2)),
    *(PacsScript(f"refuses-contexts-{n}", "accept", _contexts(n), ends="dead") for n in (1, 2, 3, 4)),
    PacsScript("takes-200-bytes-a-time", "accept", _tiny_pdus(200)),
    PacsScript("closes-on-command", "object", _close),
    PacsScript("resets-in-object", "object", _reset, 2),
    PacsScript("aborts-in-object", "object", _say(_A_ABORT[1], _close), 2),
    PacsScript("stalls-in-object", "object", _stall, 2),
    PacsScript("closes-on-second-object", "object", _close, 4),
    PacsScript("never-answers", "answer", _swallow),
    PacsScript("closes-for-answer", "answer", _close),
    PacsScript("resets-for-answer", "answer", _reset),
    PacsScript("aborts-for-answer", "answer", _say(_A_ABORT[0], _close)),
    PacsScript("aborts-for-second-answer", "answer", _say(_A_ABORT[0], _close), 2),
    PacsScript("half-answer-closed", "answer", _half_then(_close)),
    PacsScript("half-answer-stalled", "answer", _half_then(_stall)),
    PacsScript("garbage-for-answer", "answer", _say(GARBAGE)),
    PacsScript("unknown-pdu-for-answer", "answer", _say(pdu(0x55, GARBAGE))),
    PacsScript("empty-data-for-answer", "answer", _say(pdu(DATA, b""))),
    PacsScript("lying-pdv-for-answer", "answer", _say(pdu(DATA, pdv(1, 3, GARBAGE, 70000)))),
    PacsScript("garbage-command-for-answer", "answer", _say(pdu(DATA, pdv(1, 3, GARBAGE)))),
    PacsScript("answer-too-long", "answer", _lie_about_length(+100)),
    PacsScript("answer-too-short", "answer", _lie_about_length(-20)),
    PacsScript("answer-drips", "answer", drip(0.02)),
    PacsScript("answers-another-message", "answer", _other_message()),
    PacsScript("answers-twice", "answer", _twice),
    *(PacsScript(f"lies-{s:04x}", "answer", _status(s)) for s in (*_AGAIN, *_DONE)),
    *(PacsScript(f"lies-{s:04x}", "answer", _status(s), ends="dead") for s in _DEAD),
    PacsScript("never-answers-release", "release", _stall),
    PacsScript("aborts-for-release", "release", _say(_A_ABORT[0], _close)),
)  # fmt: skip


class HostilePacs:
    """A PACS on 127.0.0.1 that follows a script on its first connections and behaves afterwards; a context manager.

    Parameters
    ----------
    script : PacsScript
        What it does.
    folder : Path
        Of the small PACS behind it; what was stored is in `received`.
    times : int
        Connections that it meddles with.
    """

    def __init__(self, script: PacsScript, folder: Path, ae_title: str = "PACS", *, times: int = 1) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.script, self.ae_title = script, ae_title
        self._pacs = LoopbackPacs(folder, ae_title)
        self._left = times
        self.met = 0
        self._over = threading.Event()
        self._links: list[Link] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.host, self.port = self._listener.getsockname()
        threading.Thread(target=self._accept, daemon=True, name=f"pacs {script.name}").start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        let_go([self])

    def stop(self) -> None:
        """Stop listening and let go of everything; of several, see `let_go`."""
        self._over.set()
        self._listener.close()
        for link in self._links:
            link.close()
        self._pacs.stop()

    @property
    def received(self) -> list[Received]:
        """What the PACS behind has answered with success."""
        return self._pacs.received

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection((self._pacs.host, self._pacs.port))
            except OSError:
                return
            hostile = self._left > 0
            self._left -= hostile
            self.met += hostile
            link = Link(client, server, self._over)
            self._links.append(link)
            for direction in ("up", "down"):
                threading.Thread(target=self._pass, args=(link, direction, hostile), daemon=True).start()

    def _pass(self, link: Link, direction: Literal["up", "down"], hostile: bool) -> None:
        source, target = (link.client, link.server) if direction == "up" else (link.server, link.client)
        seen: dict[Where, int] = {}
        with contextlib.suppress(OSError):
            if direction == "up" and hostile and self.script.at == "connect":
                self.script.do(link, b"")
                return
            while whole := read_pdu(source):
                where = _where(direction, whole[0])
                if where is not None:
                    seen[where] = seen.get(where, 0) + 1
                if hostile and where == self.script.at and seen[where] == self.script.nth:
                    if not self.script.do(link, whole):
                        return
                    continue
                target.sendall(whole)
        link.close()


def _where(direction: Literal["up", "down"], kind: int) -> Where | None:
    up: dict[int, Where] = {RQ: "request", DATA: "object", RELEASE_RQ: "release"}
    down: dict[int, Where] = {AC: "accept", DATA: "answer"}
    return (up if direction == "up" else down).get(kind)


def let_go(enemies: Iterable[HostilePacs]) -> None:
    """Stop them all at once; each waits for its own threads."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(HostilePacs.stop, enemies))
    gc.collect()  # the network library leaves sockets that were reset to the collector: now, not in another test


# --- the scanner ------------------------------------------------------------------------------------------------------


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
    "abort-before-association": _sends(_A_ABORT[0]),
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
    "aborts-in-object": _half_object(lambda c: c.sendall(_A_ABORT[0])),
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
    "aborts-while-objects-wait": _whole(lambda request, image: _object_pdus(request, image) * 8 + _A_ABORT[0]),
    # floods
    "half-open-by-the-hundred": _many(300, lambda s: s.connect()),
    "half-requests-by-the-hundred": _many(100, lambda s: s.connect().sendall(s.request()[:50])),
    "resets-by-the-hundred": _many(200, lambda s: reset(s.connect())),
    "associations-by-the-hundred": _many(100, lambda s: s.associate()),
}  # fmt: skip
