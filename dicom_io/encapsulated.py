"""Where the frames of a multi-frame file stand, so that one is read at a time.

References
----------
DICOM PS3.5 section 8.2 and annex A.4 (encapsulation: fragments, Basic and Extended Offset Table).
"""

import os
import struct
import warnings
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Final

from pydicom import dcmread

from dicom_io.errors import PixelError
from dicom_io.limits import LIMITS
from dicom_io.reasons import REASONS
from dicom_io.syntaxes import BY_UID

Part = tuple[int, int]
"""Where a piece of a frame begins in the file, and its length in bytes."""

_PIXEL_DATA: Final = b"\xe0\x7f\x10\x00"
_ITEM: Final = b"\xfe\xff\x00\xe0"
_END: Final = b"\xfe\xff\xdd\xe0"
_UNDEFINED: Final = 0xFFFFFFFF
_LEAD: Final = {"1.2.840.10008.1.2": 8}
"""Bytes before the value of the pixel data element in implicit little endian; 12 with an explicit VR."""
_BIG_OR_DEFLATED: Final = frozenset({"1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"})
_TAIL: Final = 16


def frame_bytes(path: Path, syntax: str, number: int, frames: int, length: int) -> bytes:
    """Return the encoded bytes of one frame.

    Parameters
    ----------
    path : Path
        A file that `dicom_io.read` could read.
    syntax : str
        Its transfer syntax.
    number, frames : int
        Which frame, from 1, of how many.
    length : int
        Bytes of a frame that is not compressed.

    Raises
    ------
    PixelError
        ``pixels-missing``, ``pixels-truncated``, or ``pixels-undecodable`` if the frames cannot be told apart.
    OSError
        If the file cannot be read.
    """
    with path.open("rb") as file:
        state = os.fstat(file.fileno())
        parts = _places(path, state.st_size, state.st_mtime_ns, syntax, frames, length)[number - 1]
        if sum(size for _, size in parts) > LIMITS.read.image_bytes:
            raise PixelError(REASONS("pixels-odd-format"))
        found = []
        for at, size in parts:
            file.seek(at)
            found.append(file.read(size))
    return b"".join(found)


@lru_cache(maxsize=4)
def _places(
    path: Path, size: int, _changed: int, syntax: str, frames: int, length: int
) -> tuple[tuple[Part, ...], ...]:
    """Return the parts of every frame; the size and the time of the last change tell two contents of a path apart."""
    if syntax in _BIG_OR_DEFLATED:
        raise PixelError(REASONS("pixels-undecodable", syntax=syntax))
    with path.open("rb") as file:
        stated = _open(file, syntax)
        if stated != _UNDEFINED:
            at = file.tell()
            if min(stated, size - at) < frames * length:
                raise PixelError(REASONS("pixels-truncated"))
            return tuple(((at + k * length, length),) for k in range(frames))
        table, fragments = _fragments(file, size)
        return _by_frame(file, table, fragments, frames, syntax)


def _open(file: BinaryIO, syntax: str) -> int:
    """Place `file` at the value of its pixel data; return the stated length of that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dcmread(file, force=True, stop_before_pixels=True, specific_tags=["Rows"])
        except Exception as error:  # pydicom raises whatever hostile bytes make it raise
            raise PixelError(REASONS("pixels-undecodable", syntax=syntax)) from error
    lead = file.read(_LEAD.get(syntax, 12))
    if lead[:4] != _PIXEL_DATA or len(lead) < 8:
        raise PixelError(REASONS("pixels-missing"))
    return int(struct.unpack("<I", lead[-4:])[0])


def _fragments(file: BinaryIO, size: int) -> tuple[tuple[int, ...], list[Part]]:
    """Return the Basic Offset Table and the fragments behind it."""
    table: tuple[int, ...] | None = None
    found: list[Part] = []
    while (head := file.read(8))[:4] == _ITEM and len(head) == 8:
        length, at = int(struct.unpack("<I", head[4:])[0]), file.tell()
        if at + length > size or len(found) >= LIMITS.read.items:
            raise PixelError(REASONS("pixels-truncated"))
        if table is None:
            if length > LIMITS.read.element_bytes:
                raise PixelError(REASONS("pixels-odd-format"))
            table = struct.unpack(f"<{length // 4}I", file.read(length // 4 * 4))
        else:
            found.append((at, length))
        file.seek(at + length)
    if head[:4] != _END:
        raise PixelError(REASONS("pixels-truncated"))
    return table or (), found


def _by_frame(
    file: BinaryIO, table: tuple[int, ...], fragments: list[Part], frames: int, syntax: str
) -> tuple[tuple[Part, ...], ...]:
    """Say which fragments are which frame: one each, or as the offset table says, or up to the end marker of a stream.

    An Extended Offset Table stands only where every frame is one fragment.
    """
    if len(fragments) < frames:
        raise PixelError(REASONS("pixels-truncated"))
    if len(fragments) == frames:
        return tuple((part,) for part in fragments)
    if len(table) == frames:
        stated = set(table)  # offsets of item tags, counted from the first fragment's
        begins = [k for k, (at, _) in enumerate(fragments) if at - fragments[0][0] in stated]
    else:
        begins = [0, *(k + 1 for k, part in enumerate(fragments[:-1]) if _ends(file, part, syntax))]
    if len(begins) != frames or begins[0]:
        raise PixelError(REASONS("pixels-undecodable", syntax=syntax))
    return tuple(tuple(fragments[a:b]) for a, b in zip(begins, [*begins[1:], len(fragments)], strict=True))


def _ends(file: BinaryIO, part: Part, syntax: str) -> bool:
    """Whether a fragment is the last of its frame: JPEG, JPEG-LS and JPEG 2000 streams end with one marker."""
    if syntax not in BY_UID or not BY_UID[syntax].family.startswith("jpeg"):
        return False
    at, size = part
    file.seek(at + max(0, size - _TAIL))
    return b"\xff\xd9" in file.read(min(size, _TAIL))
