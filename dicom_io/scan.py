"""The outline of a data set: which elements it has and whether it is whole, without decoding a value.

The listener asks this of every object before it answers, so it must cost little and must not be led astray: it never
recurses, reads no value but the few that are asked for, and looks at each byte at most once.

References
----------
DICOM PS3.5 sections 7.1 (data elements), 7.5 (sequences), annex A.4 (fragments).
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from dicom_io.limits import LIMITS

Verdict = Literal["whole", "cut", "odd", "wrong"]
"""``cut``: ends inside an element; ``odd``: nothing that this scan understands; ``wrong``: nested too deep, with too many
elements or items (each takes some hundred bytes of memory when it is read), or with elements of the file meta information,
which have no place in a data set and would be taken for it when the file is read again."""

LONG: Final = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
"""Value representations with a length of four bytes behind two reserved ones (PS3.5 section 7.1.2)."""

_UNDEFINED: Final = 0xFFFFFFFF
_DELIMITERS: Final = 0xFFFE
_ITEM_END, _SEQUENCE_END, _PIXEL_DATA = 0xFFFEE00D, 0xFFFEE0DD, 0x7FE00010
_COMMAND, _FILE_META = 0x0000, 0x0002
_BLOCK: Final = 1 << 20
_VALUE_BYTES: Final = 128
"""Values are given up to this length: no UID is as long."""


class Bytes(Protocol):
    """Bytes or a memory map."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: slice, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Outline:
    """What a scan found.

    Parameters
    ----------
    verdict : Verdict
        Whether the data set is whole.
    values : Mapping[int, tuple[bytes, ...]]
        Tag to every value that stands under it at the top level, undecoded, in the order of the data set.
    """

    verdict: Verdict
    values: Mapping[int, tuple[bytes, ...]] = field(default_factory=dict)


class _Stop(Exception):  # noqa: N818 - the end of a scan, not an error
    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict


def outline(
    data: Bytes, start: int, tags: frozenset[int] = frozenset(), *, little_endian: bool | None = None
) -> Outline:
    """Scan a data set to its end.

    Parameters
    ----------
    data : Bytes
        Holds the data set from `start` to its end.
    start : int
        Where the data set begins (bytes).
    tags : frozenset[int]
        Elements whose values are wanted.
    little_endian : bool or None
        Byte order; None: as the first element has it. Whether value representations are written is always seen there.
    """
    values: dict[int, list[bytes]] = {}
    end = len(data)
    verdict: Verdict = "whole" if end - start >= 8 else "odd"
    if little_endian is None:
        little_endian = bytes(data[start : start + 1]) != b"\0"  # the first group has a low number: 0008, as a rule
    try:
        for tag, begin, length in _top_level(data, start, _Reader(data, start, little_endian=little_endian)):
            if tag == _PIXEL_DATA:
                end = begin
            if tag in tags:
                if end < len(data) and tag not in values:
                    raise _Stop("odd")  # noqa: TRY301 - readers stop at the pixels and would not find it
                values.setdefault(tag, []).append(bytes(data[begin : begin + min(length, _VALUE_BYTES)]))
    except _Stop as stop:
        verdict = stop.verdict
    if verdict != "wrong" and _items(data, start, end) > LIMITS.read.items:
        verdict = "wrong"
    return Outline(verdict, {tag: tuple(found) for tag, found in values.items()})


def _items(data: Bytes, start: int, end: int) -> int:
    """Return how many items there can be at most, those in sequences of defined length included."""
    blocks = (data[at : min(at + _BLOCK, end)] for at in range(start, end, _BLOCK))
    return sum(block.count(b"\xfe\xff\x00\xe0") + block.count(b"\xff\xfe\xe0\x00") for block in blocks)


class _Reader:
    """Reads the tag, value representation and length of one element after the other."""

    def __init__(self, data: Bytes, start: int, *, little_endian: bool) -> None:
        order = "<" if little_endian else ">"
        self._tag, self._long = struct.Struct(f"{order}HH").unpack, struct.Struct(f"{order}L").unpack
        self._short = struct.Struct(f"{order}H").unpack
        self._data = data
        self._explicit = bytes(data[start + 4 : start + 6]).isalpha()

    def element(self, at: int) -> tuple[int, bytes, int, int]:
        """Return tag, VR (empty if not written), length of the value and where it begins."""
        head = self._data[at : at + 12]
        group, element = self._tag(head[:4])
        tag = group << 16 | element
        if group == _DELIMITERS or not self._explicit:
            return tag, b"", self._long(head[4:8])[0], at + 8
        vr = bytes(head[4:6])
        if vr not in LONG:
            if not b"AA" <= vr <= b"ZZ":
                raise _Stop("odd")
            return tag, vr, self._short(head[6:8])[0], at + 8
        if len(head) < 12:
            raise _Stop("cut")
        return tag, vr, self._long(head[8:12])[0], at + 12


def _top_level(data: Bytes, start: int, reader: _Reader) -> Iterator[tuple[int, int, int]]:
    """Yield tag, begin and length of the value of every top-level element; an undefined length is walked through."""
    end, at, depth, count = len(data), start, 0, 0
    fragments = False  # inside encapsulated pixel data, whose items hold bytes and no elements
    while end - at >= 8:
        tag, vr, length, at = reader.element(at)
        count += 1
        if not depth:
            yield tag, at, length if length != _UNDEFINED else 0
        if tag in (_ITEM_END, _SEQUENCE_END):
            depth -= 1
            fragments = False
        elif length == _UNDEFINED:
            # a sequence opens a level, and so does each of its items; UN holds items in implicit VR, which is rare
            # enough to be left to the slow way
            if fragments or vr == b"UN":
                raise _Stop("odd")
            fragments = vr in (b"OB", b"OW") or tag == _PIXEL_DATA
            depth += 1
        else:
            at += length
        if at > end:
            raise _Stop("cut")
        if depth > LIMITS.read.depth or count > LIMITS.read.items or tag >> 16 == _FILE_META:
            raise _Stop("wrong")
        if depth < 0 or tag >> 16 == _COMMAND or (not depth and tag >> 16 == _DELIMITERS and length):
            raise _Stop("odd")  # zeros behind the last element look like a command
    # a few zeros are padding that some writers leave; whether the last fragment is whole is for its decoder to say
    if any(data[at:end]) or (depth and not fragments):
        raise _Stop("cut")
