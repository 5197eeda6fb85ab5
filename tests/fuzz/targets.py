"""What hostile bytes reach, one function for each door: it takes bytes, and raises if they did what they must not.

Nothing may come out but our own error tree, nothing may stay behind, and every input is done within `PATIENCE_S`. The
seeds are made here; no patient is in them.
"""

import contextlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from config import ConfigError, load
from dicom_io import stow
from dicom_io.arrival import Arrival, data_offset, read_identity
from dicom_io.discover import discover
from dicom_io.encapsulated import frame_bytes
from dicom_io.errors import DicomIOError, PixelError, UnreadableError
from dicom_io.frames import header_of, images_of
from dicom_io.multipart import Reader, boundary_of, media_type
from dicom_io.normalise import normalise
from dicom_io.notices import decode, fault
from dicom_io.read import read_instance
from dicom_io.scan import outline
from dicom_io.scp_types import AssociationInfo
from dicom_io.stack import build_stack
from tests.fuzz.material import CT, SCRATCH, SYNTAXES, enhanced, file, files
from tests.fuzz.wire import DOOR, command_set, commands, conversations, listener

EXAMPLE = Path(__file__).parents[2] / "config" / "pacs-ai-node.toml"


@dataclass(frozen=True)
class Target:
    """One door: bytes that are good, what to do with bytes, and how many mutations a short pass tries."""

    name: str
    seeds: Callable[[], list[bytes]]
    one: Callable[[bytes], None]
    rounds: int


def encoded() -> list[bytes]:
    """Return a byte that chooses the syntax, and the data set."""
    return [
        bytes([number]) + (made := file(syntax))[data_offset(made) or 0 :] for number, syntax in enumerate(SYNTAXES[:4])
    ]


def identity(data: bytes) -> None:
    path = SCRATCH.put("object", data[1:] or b"\0")
    read_identity(path, 0, "")
    path = SCRATCH.put("object", b"\0" + data[1:])
    read_identity(path, 1, SYNTAXES[data[0] % len(SYNTAXES)] if data else "")


def scan(data: bytes) -> None:
    for little in (True, False, None):
        outline(data, 0, frozenset({0x00080018, 0x0020000D}), little_endian=little)


def instance(data: bytes) -> None:
    with contextlib.suppress(UnreadableError):
        normalise(read_instance(SCRATCH.put("instance.dcm", data)).header)
    with contextlib.suppress(UnreadableError):
        read_instance(SCRATCH.path / "instance.dcm", "GB18030")


def frames(data: bytes) -> None:
    """Read groups and the place of every frame; decoders are not asked."""
    with contextlib.suppress(DicomIOError):
        read = read_instance(SCRATCH.put("frames.dcm", data))
        header_of(read)
        for image in images_of(read):
            with contextlib.suppress(PixelError):
                frame_bytes(read.path, read.transfer_syntax_uid, image.frame or 1, image.frames, 32)
        build_stack([read])


def notice(data: bytes) -> None:
    with contextlib.suppress(UnreadableError):
        read = decode(data[1:], SYNTAXES[(data[0] if data else 0) % 2])
        for kind in ("mpps-create", "mpps-set", "ian", "commit-request", "commit-result"):
            fault(kind, read)


# configuration and archives


def toml() -> list[bytes]:
    text = EXAMPLE.read_text(encoding="utf-8")
    return [
        text.encode(),
        text.replace("# ", "").encode(),
        b'[dicom]\nport = 0\n[[dicom.peer]]\nae_title = "A"\nhost = "h"\n',
    ]


def configuration(data: bytes) -> None:
    with contextlib.suppress(ConfigError):
        load(SCRATCH.put("node.toml", data), {})


def zips() -> list[bytes]:
    made = []
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", kind) as archive:
            archive.writestr("a/one.dcm", file(ExplicitVRLittleEndian))
            archive.writestr("../../two.dcm", file(ImplicitVRLittleEndian, nested=False))
            archive.writestr("empty/", b"")
            archive.writestr("zeros", bytes(100_000))
            archive.writestr("NAMELESS", b"zipfile reads a name to its zero")
        made.append(out.getvalue().replace(b"NAMELESS", b"\0AMELESS"))
    return made


def archive(data: bytes) -> None:
    into = SCRATCH.path / "unpacked"
    into.mkdir(exist_ok=True)
    path = SCRATCH.put("archive.zip", data)
    before = set(SCRATCH.path.iterdir())
    for found in discover([path], into):
        assert found.reason is not None or found.instance is not None
    assert set(SCRATCH.path.iterdir()) == before, "something was written elsewhere"
    shutil.rmtree(into)


# the web


class Parts:
    """Counts what a multipart reader tells."""

    def __init__(self) -> None:
        self.bytes, self.open, self.whole = 0, False, 0

    def begin(self, headers: Mapping[str, str]) -> None:
        assert not self.open
        assert all(name == name.lower() for name in headers)
        self.open = True

    def data(self, piece: memoryview) -> None:
        assert self.open
        self.bytes += len(piece)

    def end(self) -> None:
        assert self.open
        self.open, self.whole = False, self.whole + 1


def messages() -> list[bytes]:
    part = b"--b\r\nContent-Type: application/dicom\r\n\r\n"
    whole = part + file(ExplicitVRLittleEndian)[:300] + b"\r\n" + part + b"\r\n--b--\r\n"
    return [
        b"\x07" + whole,
        b"\xff" + b"preamble\r\n" + whole + b"epilogue",
        b"\0" + whole.replace(b"--b\r\n", b"--b \t\r\n"),
    ]


def multipart(data: bytes) -> None:
    """Read a message whole and in pieces: both must tell the same."""
    size, body = (data[0] % 40 + 1) if data else 1, data[1:]
    told = []
    for pieces in ([body], [body[at : at + size] for at in range(0, len(body), size)]):
        parts = Parts()
        reader = Reader(b"b", parts)
        try:
            for piece in pieces:
                reader.feed(piece)
            reader.close()
            told.append((parts.whole, parts.bytes))
        except UnreadableError:
            told.append((-1, -1))
        assert parts.bytes <= len(body)
    assert told[0] == told[1]


def types() -> list[bytes]:
    return [
        b'multipart/related; type="application/dicom"; boundary=abc',
        b'a/b;c="\\"d";boundary="x y"',
        b"text/html, */*;q=0.1",
    ]


def media(data: bytes) -> None:
    text = data.decode("latin-1")
    stow.accepted(text)
    kind = media_type(text)
    if kind is not None:
        with contextlib.suppress(UnreadableError):
            assert 0 < len(boundary_of(kind)) <= 70


def answers() -> list[bytes]:
    results = [stow.Stored(0, CT, "2.25.1"), stow.Stored(0xA700, CT, "2.25.2"), stow.Stored(0xC000, "", "")]
    made = stow.answer(results, stow.JSON)
    return [
        made,
        b"[" + made + b"]",
        stow.answer(results, stow.XML),
        b"[]",
        json.dumps({stow._STORED: {"Value": [1]}}).encode(),
    ]


def answer(data: bytes) -> None:
    for uid, status in stow.read_answer(data).items():
        assert isinstance(uid, str)
        assert 0 <= status <= 0xFFFF


class Nobody:
    """Takes objects and keeps none."""

    on_trouble = None

    @staticmethod
    def on_stored(_stored: object) -> int:
        return 0

    @staticmethod
    def on_refused(_refused: object) -> None:
        pass


WHO = AssociationInfo("id", "A", "B", "127.0.0.1")


def incoming(data: bytes) -> None:
    made = stow.Incoming(Arrival(SCRATCH.path))
    size = max(1, len(data) // 3)
    for at in range(0, len(data), size):
        made.write(memoryview(data)[at : at + size])
    done = made.finish(WHO, "", Nobody())
    made.discard()
    assert done.status in (0, 0x0110, 0xA900, 0xC000)
    stow.answer([done], stow.XML)
    assert not list(SCRATCH.path.glob("*.part"))


TARGETS = {
    target.name: target
    for target in (
        Target("listener", conversations, listener, 400),
        Target("command-set", commands, command_set, 10000),
        Target("identity", encoded, identity, 3000),
        Target("outline", encoded, scan, 8000),
        Target("instance", files, instance, 700),
        Target("frames", enhanced, frames, 300),
        Target("notice", encoded, notice, 2000),
        Target("incoming", files, incoming, 900),
        Target("configuration", toml, configuration, 300),
        Target("archive", zips, archive, 1200),
        Target("multipart", messages, multipart, 3000),
        Target("media-type", types, media, 10000),
        Target("stow-answer", answers, answer, 10000),
    )
}


def close() -> None:
    """Close the listener and remove what was written."""
    DOOR.close()
    SCRATCH.remove()
