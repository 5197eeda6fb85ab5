"""Multipart messages come out as they went in, wherever they are cut; what is none is refused with a reason."""

import random
from collections.abc import Mapping
from email.message import Message

import pytest

from dicom_io.errors import UnreadableError
from dicom_io.multipart import Reader, boundary_of, media_type

pytestmark = pytest.mark.unit

BOUNDARY = b"gc0p4Jq0M2Yt08jU534c0p"


class Heard:
    def __init__(self) -> None:
        self.parts: list[tuple[dict[str, str], bytearray, bool]] = []
        self.largest = 0

    def begin(self, headers: Mapping[str, str]) -> None:
        self.parts.append((dict(headers), bytearray(), False))

    def data(self, piece: memoryview) -> None:
        self.parts[-1][1].extend(piece)

    def end(self) -> None:
        headers, data, _ = self.parts[-1]
        self.parts[-1] = (headers, data, True)

    @property
    def bodies(self) -> list[bytes]:
        assert all(whole for _, _, whole in self.parts)
        return [bytes(data) for _, data, _ in self.parts]


def message(*bodies: bytes, before: bytes = b"", after: bytes = b"", padding: bytes = b"") -> bytes:
    parts = (b"--" + BOUNDARY + padding + b"\r\nContent-Type: application/dicom\r\n\r\n" + b + b"\r\n" for b in bodies)
    return before + b"".join(parts) + b"--" + BOUNDARY + b"--" + after


def read(data: bytes, sizes: list[int] | None = None) -> Heard:
    heard = Heard()
    reader = Reader(BOUNDARY, heard)
    at = 0
    for size in sizes or [len(data)]:
        reader.feed(data[at : at + size])
        at += size
    if at < len(data):
        reader.feed(data[at:])
    reader.close()
    return heard


TRICKY = (
    b"",
    b"plain",
    b"\r\n",
    b"\r\n--",
    b"\r\n--" + BOUNDARY[:-1],
    b"\r\n--" + BOUNDARY + b"x and on",
    b"\r\n--" + BOUNDARY + b" x",
    b"\r\r\n\r\n--" + BOUNDARY[:5] + b"\r\n--" + BOUNDARY[:-1] + b"\r",
    b"--" + BOUNDARY + b"--",
    bytes(range(256)) * 20,
)


@pytest.mark.parametrize("seed", range(40))
def test_parts_come_out_whole_wherever_the_message_is_cut(seed: int) -> None:
    chance = random.Random(seed)
    bodies = [chance.choice(TRICKY) + chance.randbytes(chance.randrange(50)) for _ in range(chance.randrange(1, 6))]
    data = message(
        *bodies,
        before=chance.choice([b"", b"\r\n", b"This is a message in MIME format.\r\n"]),
        after=chance.choice([b"", b"\r\n", b"\r\nan epilogue\r\n--" + BOUNDARY + b"\r\n\r\nno part"]),
        padding=chance.choice([b"", b" ", b"\t  "]),
    )
    sizes = [1] * len(data) if seed < 3 else [chance.randrange(1, 60) for _ in range(2 * len(data) // 30)]
    assert read(data, sizes).bodies == bodies


def test_a_large_part_leaves_nothing_behind_in_the_reader() -> None:
    heard = Heard()
    reader = Reader(BOUNDARY, heard)
    reader.feed(message(b"")[:-4])
    for _ in range(50):
        reader.feed(b"\r" * 50_000)
        assert len(reader._rest) < 100


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no multipart message at all",
        message(b"a")[:-2],
        message(b"a")[:-30],
        b"--" + BOUNDARY + b"\r\nno header\r\n\r\nx\r\n--" + BOUNDARY + b"--",
        b"--" + BOUNDARY + b"\r\n: x\r\n\r\nx\r\n--" + BOUNDARY + b"--",
        b"--" + BOUNDARY + b"\r\nA: b\r\n folded: c\r\n\r\nx\r\n--" + BOUNDARY + b"--",
        b"--" + BOUNDARY + b"\r\nA: " + b"b" * 9000 + b"\r\n\r\nx\r\n--" + BOUNDARY + b"--",
        b"x" * 70_000 + message(b"a"),
    ],
)
def test_what_is_no_whole_message_is_refused(data: bytes) -> None:
    for sizes in (None, [1] * len(data)):
        with pytest.raises(UnreadableError) as error:
            read(data, sizes)
        assert error.value.reason.code == "multipart-broken"


@pytest.mark.parametrize(
    ("text", "name", "parameters"),
    [
        ("application/dicom", "application/dicom", {}),
        ('Multipart/Related; type="application/dicom"; boundary=abc', "multipart/related",
         {"type": "application/dicom", "boundary": "abc"}),
        ('multipart/related;boundary="a; b=\\"c\\""; Start=x ;', "multipart/related",
         {"boundary": 'a; b="c"', "start": "x"}),
    ],
)  # fmt: skip
def test_a_content_type_is_read_as_the_standard_library_reads_it(
    text: str, name: str, parameters: dict[str, str]
) -> None:
    kind = media_type(text)
    assert kind is not None
    assert (kind.name, dict(kind.parameters)) == (name, parameters)
    other = Message()
    other["Content-Type"] = text
    assert other.get_content_type() == name
    assert {k.lower(): v for k, v in other.get_params()[1:] if k} == parameters  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["", "dicom", "a/b; c", "a/b; x=1; x=2", 'a/b; x="1', "a/b c/d"])
def test_what_is_no_content_type_is_none(text: str) -> None:
    assert media_type(text) is None


@pytest.mark.parametrize("boundary", ["", "x" * 71, "a\r\nb", "ends with space ", "ä"])
def test_a_boundary_that_the_standard_does_not_allow_is_refused(boundary: str) -> None:
    kind = media_type(f'multipart/related; boundary="{boundary}"')
    assert kind is not None
    with pytest.raises(UnreadableError):
        boundary_of(kind)
