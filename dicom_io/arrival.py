"""An object while it arrives: its temporary file, its digest, and the few elements that say what it is.

The file lies in the folder that the receiver names; it is hashed while it is written, and an `OSError` is kept for the
answer (0xA700): a full disk ends no association.
"""

import errno
import hashlib
import itertools
import mmap
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from pydicom.uid import UID

from dicom_io import elements
from dicom_io.errors import UnreadableError
from dicom_io.limits import LIMITS
from dicom_io.read import read_instance
from dicom_io.reasons import REASONS
from dicom_io.scan import outline

PREAMBLE = 132
"""Bytes of preamble and prefix (PS3.10 section 7.1)."""

_GROUP_LENGTH = b"\x02\0\0\0UL\x04\0"
SOP_CLASS, SOP_INSTANCE, STUDY, SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
_KEYWORDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_UIDS = frozenset({SOP_CLASS, SOP_INSTANCE, STUDY, SERIES})
_FAULTS = {"truncated": "object-truncated", "no-uids": ""}
INFLATED_HEAD = 1 << 20
"""The UIDs of a deflated data set are looked for in its first bytes, this many."""

WRITE_BYTES = 64 << 10
"""Files are written in pieces of at most this. Larger ones cost five times as much on ext4 with large folios (Linux
6.18: 1.5 ms in the place of 0.3 ms for 0.5 MB), smaller ones more calls."""

_counter = itertools.count()


class Arrival:
    """The file that an arriving data set is written to; never raises.

    Parameters
    ----------
    folder : Path
        Where the file stands until it is linked elsewhere. Its name is ``<pid>-<n>.part``.
    room : Callable[[], None] or None
        Raises `OSError` if there is none for it.
    head : bytes
        What stands before the data set, where that is known; else it is found in what is written.
    most : int or None
        A file larger than this (bytes) is an error.
    """

    def __init__(
        self, folder: Path, room: Callable[[], None] | None = None, head: bytes = b"", most: int | None = None
    ) -> None:
        self.path = folder / f"{os.getpid()}-{next(_counter)}.part"
        self.error: OSError | None = None
        self._head: bytearray | None = bytearray()
        self._hash = hashlib.sha256()
        self._most = most
        self._fd = -1
        self.bytes = 0
        self.data_offset = 0
        self.meta = b""
        """Everything before the data set: preamble, prefix and file meta information."""
        try:
            if room is not None:
                room()
            self._fd = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self.error = error
        if head:
            self.write(head)
            self.data_offset, self.meta, self._head = len(head), head, None

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append `data`; after an error everything is dropped, so that the peer can finish and be answered."""
        if self.error is None:
            try:
                self._write(data)
            except OSError as error:
                self.error = error
        if self._head is None:
            self._hash.update(data)
        else:
            self._find_data(data)
        return len(data)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def discard(self) -> None:
        """Close and remove the file, if it still stands."""
        self.close()
        self.path.unlink(missing_ok=True)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the encoded data set after the file meta information."""
        return self._hash.hexdigest()

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        if self._most is not None and self.bytes + len(data) > self._most:
            raise OSError(errno.EFBIG, "an object larger than allowed")
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view[:WRITE_BYTES]) :]
        self.bytes += len(data)

    def _find_data(self, data: bytes | bytearray | memoryview) -> None:
        head = self._head or bytearray()
        head += data
        offset = data_offset(head)
        if offset is not None and len(head) >= offset:
            self.data_offset, self.meta = offset, bytes(head[:offset])
            self._hash.update(memoryview(head)[offset:])
            self._head = None
        else:
            self._head = head


def data_offset(head: bytes | bytearray) -> int | None:
    """Return where the data set begins in a DICOM file, from its first bytes; None if `head` is too short to say.

    The group length (0002,0000) is the first element after the prefix (PS3.10 section 7.1). 0: this is no DICOM file, or
    one whose file meta information is beyond all measure.
    """
    if len(head) < PREAMBLE + 12:
        return None
    prefix, length = struct.unpack_from("<4s8xL", head, PREAMBLE - 4)
    if prefix != b"DICM" or head[PREAMBLE : PREAMBLE + 8] != _GROUP_LENGTH or length > LIMITS.read.meta_bytes:
        return 0
    return PREAMBLE + 12 + int(length)


@dataclass(frozen=True, slots=True)
class Identity:
    """The UIDs of a data set, empty where absent; `fault` is the code of the reason why it is no data set to keep."""

    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    fault: str = ""

    @property
    def complete(self) -> bool:
        """Whether class, instance, study and series are all named."""
        return all((self.sop_class_uid, self.sop_instance_uid, self.study_instance_uid, self.series_instance_uid))


def read_identity(path: Path, offset: int, syntax: str) -> Identity:
    """Read the UIDs of an object that arrived, and see whether its data set is whole. Never raises.

    Parameters
    ----------
    path : Path
        A DICOM file.
    offset : int
        Where its data set begins (bytes); 0: it is no DICOM file.
    syntax : str
        Transfer syntax UID of the data set.
    """
    if not offset:
        return Identity(fault="object-unparsable")
    try:
        return _identity(path, offset, UID(syntax))
    except UnreadableError as error:
        return Identity(fault=_FAULTS.get(error.reason.code, "object-unparsable"))
    except Exception:  # noqa: BLE001 - whatever hostile bytes do, it is an object that cannot be parsed
        return Identity(fault="object-unparsable")


def _identity(path: Path, offset: int, syntax: UID) -> Identity:
    known = syntax.is_transfer_syntax and not syntax.is_private
    little = syntax.is_little_endian if known else True
    with path.open("rb") as file:
        if known and syntax.is_deflated:
            head = _inflated_head(file, offset)
            seen = outline(head, 0, _UIDS)
            if seen.verdict == "cut" and len(head) >= INFLATED_HEAD:
                seen = replace(seen, verdict="whole")  # the stream is whole, only its head was kept
        else:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                seen = outline(mapped, offset, _UIDS, little_endian=little)
    if seen.verdict == "cut":
        return Identity(fault="object-truncated")
    if seen.verdict == "wrong":
        return Identity(fault="object-unparsable")
    if seen.verdict == "odd":
        # not as the standard has it, but perhaps legible
        header = read_instance(path).header
        return Identity(*(_uid(elements.text(header, name).encode()) for name in _KEYWORDS))
    if any(len(set(values)) > 1 for values in seen.values.values()):
        return Identity(fault="object-ambiguous")
    return Identity(*(_uid(seen.values.get(tag, (b"",))[0]) for tag in (SOP_CLASS, SOP_INSTANCE, STUDY, SERIES)))


def _uid(raw: bytes) -> str:
    """Return a UID as text; empty if it cannot be one. Odd characters stay: nothing is ever named by them."""
    text = raw.rstrip(b"\0 ").lstrip(b" ").decode("ascii")
    return text if len(text) <= 64 and text.isprintable() and "\\" not in text else ""


def _inflated_head(file: BinaryIO, offset: int) -> bytes:
    """Inflate a data set to its end in constant memory; return its head.

    Raises
    ------
    UnreadableError
        ``truncated`` or ``inflates-too-large``.
    """
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    file.seek(offset)
    head, total = b"", 0
    while not engine.eof:
        packed = engine.unconsumed_tail or file.read(INFLATED_HEAD)
        plain = engine.decompress(packed, INFLATED_HEAD)
        if not packed and not plain:
            raise UnreadableError(REASONS("truncated"))
        head = head or plain
        total += len(plain)
        if total > LIMITS.read.inflated_bytes:
            raise UnreadableError(REASONS("inflates-too-large"))
    return head
