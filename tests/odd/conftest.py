"""A peer that sends any bytes, data sets made element by element, and an account of what became of each."""

import hashlib
import json
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from config.settings import Dicom, Node, Settings
from node.receive import Receiver
from node.spool import journals, read_journal
from tests.node.probe_node import Probe

CT = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION = "1.2.840.10008.1.1"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
LONG = {"OB", "OW", "SQ", "UN", "UT"}
CLASS, INSTANCE, STUDY, SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
PIXELS = 0x7FE00010

Elements = dict[int, tuple[str, bytes]]


def slice_elements(uid: str = "2.25.1", **changes: Any) -> Elements:
    """Return the elements of a CT slice of 16 x 16 pixels; `changes` by tag name ``t00100020``, None removes."""
    found: Elements = {
        CLASS: ("UI", CT.encode()),
        INSTANCE: ("UI", uid.encode()),
        0x00080060: ("CS", b"CT"),
        0x00100010: ("PN", b"Nobody^At All"),
        0x00100020: ("LO", b"P1"),
        STUDY: ("UI", b"2.25.900"),
        SERIES: ("UI", b"2.25.901"),
        0x00200013: ("IS", b"1"),
        0x00280002: ("US", struct.pack("<H", 1)),
        0x00280004: ("CS", b"MONOCHROME2"),
        0x00280010: ("US", struct.pack("<H", 16)),
        0x00280011: ("US", struct.pack("<H", 16)),
        0x00280100: ("US", struct.pack("<H", 16)),
        0x00280101: ("US", struct.pack("<H", 16)),
        0x00280102: ("US", struct.pack("<H", 15)),
        0x00280103: ("US", struct.pack("<H", 0)),
        PIXELS: ("OW", bytes(512)),
    }
    for name, value in changes.items():
        tag = int(name[1:], 16)
        if value is None:
            del found[tag]
        else:
            found[tag] = value
    return dict(sorted(found.items()))


def element(tag: int, vr: str, value: bytes, *, length: int | None = None, pad: bool = True) -> bytes:
    """Encode one element in explicit VR little endian; `length` may lie."""
    if pad and len(value) % 2:
        value += b"\0" if vr in {"UI", "OB"} else b" "
    length = len(value) if length is None else length
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    return head + (struct.pack("<HL", 0, length) if vr in LONG else struct.pack("<H", length)) + value


def encode(elements: Elements) -> bytes:
    return b"".join(element(tag, vr, value) for tag, (vr, value) in elements.items())


def part10(data: bytes, syntax: str = EXPLICIT, sop_class: str = CT, uid: str = "2.25.1") -> bytes:
    """Return a file that holds the data set `data`."""
    meta = element(0x00020002, "UI", sop_class.encode()) + element(0x00020003, "UI", uid.encode())
    meta += element(0x00020010, "UI", syntax.encode())
    return bytes(128) + b"DICM" + element(0x00020000, "UL", struct.pack("<L", len(meta))) + meta + data


class Wire:
    """An association made of bytes; nothing that is sent is looked at."""

    def __init__(self, port: int, contexts: Sequence[tuple[str, str]] = ((CT, EXPLICIT), (VERIFICATION, IMPLICIT)),
                 calling: str = "ODD", called: str = "PACSAINODE") -> None:  # fmt: skip
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.contexts = [context for context, _ in contexts]
        items = b"".join(self._context(2 * n + 1, *pair) for n, pair in enumerate(contexts))
        user = _item(0x51, struct.pack(">L", 65536)) + _item(0x52, b"1.2.3")
        body = struct.pack(">HH16s16s32x", 1, 0, called.ljust(16).encode(), calling.ljust(16).encode())
        body += _item(0x10, b"1.2.840.10008.3.1.1.1") + items + _item(0x50, user)
        self.socket.sendall(struct.pack(">BxL", 1, len(body)) + body)
        kind, self.reply = self._pdu()
        self.accepted = kind == 2

    @staticmethod
    def _context(number: int, abstract: str, syntax: str) -> bytes:
        body = struct.pack(">Bxxx", number) + _item(0x30, abstract.encode()) + _item(0x40, syntax.encode())
        return _item(0x20, body)

    def store(self, data: bytes, uid: str | bytes = "2.25.1", sop_class: str = CT, context: str = "") -> int | None:
        """Send a C-STORE request; return its status, or None if the association was aborted instead."""
        number = 2 * self.contexts.index(context or sop_class) + 1
        raw = uid if isinstance(uid, bytes) else uid.encode()
        command = _command(sop_class.encode(), 0x0001, raw)
        self._send(number, 1, command)
        self._send(number, 0, data)
        return self._status()

    def echo(self) -> int | None:
        number = 2 * self.contexts.index(VERIFICATION) + 1
        self._send(number, 1, _command(VERIFICATION.encode(), 0x0030, None))
        return self._status()

    def close(self) -> None:
        try:
            self.socket.sendall(struct.pack(">BxLL", 5, 4, 0))
            self._pdu()
        except OSError:
            pass
        self.socket.close()

    def _send(self, context: int, kind: int, data: bytes) -> None:
        """Send one message part in PDUs; `kind` is 1 for a command."""
        step = 65000
        for at in range(0, len(data), step):
            part = data[at : at + step]
            last = 2 if at + step >= len(data) else 0
            body = struct.pack(">LBB", len(part) + 2, context, kind | last) + part
            try:
                self.socket.sendall(struct.pack(">BxL", 4, len(body)) + body)
            except OSError:  # aborted in the middle; its answer is read next
                return

    def _status(self) -> int | None:
        command = b""
        while True:
            try:
                kind, body = self._pdu()
            except OSError:
                return None
            if kind != 4:
                return None
            command += body[6:]
            if body[5] & 2:
                at = command.index(b"\0\0\0\x09\x02\0\0\0")
                return int(struct.unpack_from("<H", command, at + 8)[0])

    def _pdu(self) -> tuple[int, bytes]:
        kind, length = struct.unpack(">BxL", self._exactly(6))
        return kind, self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            got = self.socket.recv(count - len(data))
            if not got:
                raise OSError("closed")
            data += got
        return data


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(body)) + body


def _command(sop_class: bytes, kind: int, uid: bytes | None) -> bytes:
    def one(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHL", 0, number, len(value)) + value

    body = one(0x0002, sop_class) + one(0x0100, struct.pack("<H", kind)) + one(0x0110, struct.pack("<H", 1))
    if uid is None:
        body += one(0x0800, struct.pack("<H", 0x0101))
    else:
        body += one(0x0700, struct.pack("<H", 2)) + one(0x0800, struct.pack("<H", 1)) + one(0x1000, uid)
    return one(0, struct.pack("<L", len(body))) + body


class Station:
    """A real receiver, and what it wrote."""

    def __init__(self, folder: Path, **dicom: Any) -> None:
        self.data_dir = folder
        self.settings = Settings(node=Node(data_dir=folder), dicom=Dicom(port=0, **dicom))
        self.receiver = Receiver(self.settings)
        self.port = self.receiver.start().port

    @property
    def incoming(self) -> list[Path]:
        return list((self.data_dir / "spool" / "incoming").rglob("*.part"))

    @property
    def kinds(self) -> list[str]:
        return [str(r["kind"]) for path in journals(self.data_dir) for r in read_journal(path)[0]]

    def records(self) -> list[dict[str, Any]]:
        return [r for path in journals(self.data_dir) for r in read_journal(path)[0] if "sop" in r]

    def account(self, data: bytes, *, refused: bool) -> dict[str, Any]:
        """Return the journal record or the quarantine note of a data set that was sent; it stands there byte for byte."""
        digest = hashlib.sha256(data).hexdigest()
        for record in self.records():
            if not refused and record["digest"] == digest:
                assert (self.data_dir / "spool" / record["entry"]).read_bytes().endswith(data)
                return record
        for path in (self.data_dir / "quarantine" / "received").glob("*.json"):
            note: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if refused and note["digest"] == digest:
                assert path.with_suffix(".dcm").read_bytes().endswith(data)
                return note
        return {}


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    made = Station(tmp_path_factory.mktemp("station"))
    yield made
    made.receiver.stop(grace_s=0.2)


def probe(_name: str) -> Probe:
    """Return the quick pipeline of the node's tests: it thresholds air, and its results are written and gated."""
    return Probe()


class Kit:
    """What the tests of this folder share: tests are no package."""

    CT, VERIFICATION, EXPLICIT, IMPLICIT, PIXELS = CT, VERIFICATION, EXPLICIT, IMPLICIT, PIXELS
    Station, Wire = Station, Wire
    slice_elements = staticmethod(slice_elements)
    element = staticmethod(element)
    encode = staticmethod(encode)
    part10 = staticmethod(part10)
    probe = staticmethod(probe)


@pytest.fixture(scope="session")
def kit() -> type[Kit]:
    return Kit


@pytest.fixture
def complete_reason() -> Callable[[Mapping[str, Any]], bool]:
    """Whether a reason has texts in both languages and, if it is an error, a next step."""

    def check(reason: Mapping[str, Any]) -> bool:
        texts = all(reason["text"].get(tag) for tag in ("en", "zh-CN"))
        return texts and (reason["class"] != "error" or all(reason["hint"].get(tag) for tag in ("en", "zh-CN")))

    return check
