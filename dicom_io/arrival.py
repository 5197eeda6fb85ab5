"""An object while it arrives: its temporary file, its digest, and the few elements that say what it is.

The network library writes a chunked C-STORE data set into what it believes to be a ``NamedTemporaryFile`` and lets a
full disk kill the association without an answer. `Arrival` stands in for that file: it lies in the folder that the
listener names, hashes while it writes, and keeps an `OSError` for the handler, which can then answer 0xA700.
"""

import hashlib
import itertools
import os
import struct
import threading
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, BinaryIO

from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_dataset
from pydicom.uid import UID

PREAMBLE = 132
"""Bytes of preamble and prefix (PS3.10 section 7.1)."""

SOP_CLASS, SOP_INSTANCE, STUDY, SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
INFLATED_HEAD = 1 << 20
"""A deflated data set is inflated this far (bytes), and no further, to find its UIDs."""

_counter = itertools.count()


class Arrival:
    """The file that an arriving data set is written to; never raises.

    Parameters
    ----------
    folder : Path
        Where the file stands until it is linked elsewhere. Its name is ``<pid>-<n>.part``.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{os.getpid()}-{next(_counter)}.part"
        self.error: OSError | None = None
        self._head: bytearray | None = bytearray()
        self._hash = hashlib.sha256()
        self._lock = threading.Lock()
        self._fd = -1
        self.bytes = 0
        self.data_offset = 0
        try:
            self._fd = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self.error = error

    # what the library uses of NamedTemporaryFile: name, file.flush, write, close

    @property
    def name(self) -> str:
        """Path of the file, as text."""
        return str(self.path)

    @property
    def file(self) -> "Arrival":
        """The file itself."""
        return self

    def flush(self) -> None:
        """Do nothing: writes are not buffered."""

    def write(self, data: bytes) -> int:
        """Append `data`; after an error everything is dropped, so that the peer can finish and be answered."""
        with self._lock:
            if self.error is None:
                try:
                    self._write(data)
                except OSError as error:
                    self.error = error
        self._digest(data)
        return len(data)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
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

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self.bytes += len(data)

    def _digest(self, data: bytes) -> None:
        if self._head is None:
            self._hash.update(data)
            return
        self._head += data
        offset = data_offset(self._head)
        if offset is not None and len(self._head) >= offset:
            self.data_offset = offset
            self._hash.update(self._head[offset:])
            self._head = None


def data_offset(head: bytes | bytearray) -> int | None:
    """Return where the data set begins in a DICOM file, from its first bytes; None if `head` is too short to say.

    The group length (0002,0000) is the first element after the prefix (PS3.10 section 7.1).
    """
    if len(head) < PREAMBLE + 12:
        return None
    (length,) = struct.unpack_from("<L", head, PREAMBLE + 8)
    return PREAMBLE + 12 + int(length)


def open_arrival(**options: Any) -> Any:  # noqa: ANN401 - as tempfile has it
    """Stand in for ``NamedTemporaryFile`` in the library's message decoder.

    The decoder runs in the thread of an association's upper layer, which knows the listener and so the folder. Other
    listeners of the process get what they would have got.
    """
    association = getattr(threading.current_thread(), "assoc", None)
    listener: Any = getattr(association, "_server", None)
    if not hasattr(listener, "arriving"):
        return NamedTemporaryFile(**options)
    return listener.arriving(association)


@dataclass(frozen=True, slots=True)
class Identity:
    """The UIDs at the head of a data set, empty where absent; `parsed` is false if the head could not be read."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    parsed: bool = True

    @property
    def complete(self) -> bool:
        """Whether class, instance, study and series are all named."""
        return all((self.sop_class_uid, self.sop_instance_uid, self.study_instance_uid, self.series_instance_uid))


def read_identity(path: Path, offset: int, syntax: str) -> Identity:
    """Read the UIDs of a data set, and nothing beyond Series Instance UID (0020,000E).

    Parameters
    ----------
    path : Path
        A DICOM file.
    offset : int
        Where its data set begins (bytes).
    syntax : str
        Transfer syntax UID of the data set.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return _identity(file, UID(syntax))
    except Exception:  # noqa: BLE001 - whatever a hostile head does to the parser, it is an object that cannot be parsed
        return Identity("", "", "", "", parsed=False)


def _identity(file: BinaryIO, syntax: UID) -> Identity:
    if syntax.is_transfer_syntax and syntax.is_deflated:
        file = BytesIO(zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(INFLATED_HEAD), INFLATED_HEAD))
    known = syntax.is_transfer_syntax and not syntax.is_private
    head = read_dataset(
        file,
        is_implicit_VR=syntax.is_implicit_VR if known else False,
        is_little_endian=syntax.is_little_endian if known else True,
        stop_when=lambda tag, _vr, _length: tag > SERIES,
        defer_size=1024,
        specific_tags=[SOP_CLASS, SOP_INSTANCE, STUDY, SERIES],
    )

    def uid(tag: int) -> str:
        # the raw bytes: decoding would validate, and warn with the value in the text
        element = head.get_item(tag)
        value = element.value if isinstance(element, RawDataElement) else None
        text = value.rstrip(b"\0 ").lstrip(b" ").decode("ascii") if isinstance(value, bytes) else ""
        return text if len(text) <= 64 and text.isprintable() else ""

    return Identity(uid(SOP_CLASS), uid(SOP_INSTANCE), uid(STUDY), uid(SERIES))
