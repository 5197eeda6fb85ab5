"""Files, folders and zip archives of DICOM: headers in, pixels left on disk, nothing believed.

References
----------
DICOM PS3.10 section 7 (file format); PS3.5 section 7.1 and annex A.5 (deflated transfer syntax).
"""

import contextlib
import hashlib
import io
import mmap
import os
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from pydicom import config, dcmread
from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicom_io import elements
from dicom_io.errors import UnreadableError
from dicom_io.limits import LIMITS
from dicom_io.model import Instance
from dicom_io.reason import Reason
from dicom_io.reasons import REASONS
from dicom_io.scan import LONG, outline

# Tolerant when reading: pydicom would otherwise put header values, which are patient data, into its warnings.
config.settings.reading_validation_mode = config.IGNORE

_CHUNK: Final = 1 << 20
_PREAMBLE: Final = 132
_MEDIA_DIRECTORY: Final = "1.2.840.10008.1.3.10"
_META_ELEMENTS: Final = 1000
"""Group 0002 has about twenty elements; thousands only cost time."""
_ZIP_END: Final = 65_535 + 22 + 20 + 56
"""The end of an archive: the longest comment, and the records before it (bytes)."""
_SYSTEM_FILES: Final = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
_TEXT: Final = frozenset({"AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"})
_NUMBER_TEXT: Final = frozenset({"DS", "IS"})  # pydicom leaves them text if they are no numbers
_UNDEFINED: Final = 0xFFFFFFFF
_PIXELS: Final = frozenset({0x7FE00010})
_REQUIRED: Final = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")


@dataclass(frozen=True, slots=True)
class Found:
    """One file that was met on the way.

    Parameters
    ----------
    path : Path
        Where its bytes are: the file itself, or its copy in the scratch folder.
    display : str
        How to name it to a person; inside an archive ``archive.zip/member``.
    instance : Instance or None
        What was read.
    reason : Reason or None
        Why nothing was read; None exactly if `instance` is given.
    skipped : bool
        Whether leaving it out is as it should be (a DICOMDIR), not a fault of the file.
    """

    path: Path
    display: str
    instance: Instance | None
    reason: Reason | None
    skipped: bool = False


def digest_dataset(path: Path) -> str:
    """Return the SHA-256 (hex) of the encoded data set: every byte after the file meta information.

    Equal for two files exactly if a C-STORE would transfer the same bytes. Reads in constant memory.

    Raises
    ------
    UnreadableError
        If the file cannot be opened (``unreadable-file``) or its file meta information is cut (``truncated``).
    """
    try:
        with path.open("rb") as file:
            file.seek(dataset_offset(file))
            return _digest(file)
    except OSError as error:
        raise UnreadableError(REASONS("unreadable-file"), retryable=True) from error


def read_instance(path: Path, charset: str | None = None) -> Instance:
    r"""Read the header of one DICOM file.

    Parameters
    ----------
    path : Path
        A PS3.10 file, or a bare data set without preamble or without file meta information.
    charset : str or None
        Specific Character Set (0008,0005) that this sender really writes; replaces the declared one in the header, not
        in the file. Several values are joined by a backslash.

    Returns
    -------
    Instance
        Its header holds every element before the pixel data but those longer than the limit; values that cannot be
        decoded are empty.

    Raises
    ------
    UnreadableError
        ``unreadable-file``, ``not-dicom``, ``dicomdir``, ``truncated``, ``unparsable``, ``no-uids`` or
        ``inflates-too-large``; nothing else, whatever the bytes are.
    """
    try:
        with path.open("rb") as file:
            offset = dataset_offset(file)
            header = _parse(file, offset, charset)
            file.seek(offset)
            digest = _digest(file)  # last: what is no DICOM may be of any size
    except OSError as error:
        raise UnreadableError(REASONS("unreadable-file"), retryable=True) from error
    if elements.text(header, "SOPClassUID") == _MEDIA_DIRECTORY or "DirectoryRecordSequence" in header:
        raise UnreadableError(REASONS("dicomdir"))
    if not all(len(elements.texts(header, keyword)) == 1 for keyword in _REQUIRED):
        raise UnreadableError(REASONS("no-uids" if offset or "SOPClassUID" in header else "not-dicom"))
    return Instance(path, digest, _transfer_syntax(header), header)


def read_encoded(content: bytes) -> Dataset:
    """Read a small DICOM file that is in memory already; what it holds need not be an instance.

    Raises
    ------
    UnreadableError
        As `read_instance`, but for missing UIDs.
    """
    file = io.BytesIO(content)
    return _parse(file, dataset_offset(file), None)


def discover(paths: Iterable[Path], scratch: Path) -> Iterator[Found]:
    """Read every file below `paths`, in sorted order.

    Parameters
    ----------
    paths : Iterable[Path]
        Folders (walked, symbolic links to folders not followed), zip files and single files.
    scratch : Path
        Existing folder for what is unpacked; names there never come from an archive. The caller removes it.

    Yields
    ------
    Found
        One for each file, and for each folder that cannot be read; the caller decides about copies of one instance.

    Raises
    ------
    OSError
        If `scratch` cannot be written.
    """
    for path in paths:
        root = path if path.is_dir() else path.parent
        for file, reason in _walk(path, scratch):
            display = shown(file.relative_to(root).as_posix())
            if reason is not None:
                yield Found(file, display, None, reason, skipped=reason.klass == "note")
            elif _is_zip(file):
                yield from _unpack(file, display, scratch)
            else:
                yield _look(file, display)


def shown(name: str) -> str:
    r"""Return a file's name fit for documents and terminals: what is not printable, or no UTF-8, as ``\xNN``."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _look(path: Path, display: str) -> Found:
    if path.name in _SYSTEM_FILES or Path(display).name in _SYSTEM_FILES or "__MACOSX" in Path(display).parts:
        return Found(path, display, None, REASONS("system-file"), skipped=True)
    try:
        return Found(path, display, read_instance(path), None)
    except UnreadableError as error:
        return Found(path, display, None, error.reason, skipped=error.reason.klass == "note")


def _walk(path: Path, scratch: Path) -> Iterator[tuple[Path, Reason | None]]:
    """Yield every file below `path`; with a reason what is no file, and folders that cannot be read.

    Each folder's files come before its folders. Without recursion: folders may be nested deeper than Python's stack.
    """
    if not path.is_dir():
        yield path, _not_readable(path)
        return
    folders = [path]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            yield folder, REASONS("unreadable-folder")
            continue
        below = [Path(e) for e in found if e.is_dir(follow_symlinks=False)]
        folders += [f for f in reversed(below) if f != scratch]
        yield from ((Path(e), _not_readable(Path(e))) for e in found if not e.is_dir(follow_symlinks=False))


def _not_readable(path: Path) -> Reason | None:
    """Return why `path` is not to be opened: opening a pipe or a device may never end."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return REASONS("unreadable-file")
    if stat.S_ISDIR(mode):
        return REASONS("linked-folder")
    return None if stat.S_ISREG(mode) else REASONS("special-file")


def _is_zip(path: Path) -> bool:
    """Whether the file starts as a zip archive does; a DICOM preamble may hold anything, so ``DICM`` wins."""
    try:
        with path.open("rb") as file:
            head = file.read(_PREAMBLE)
    except OSError:
        return False
    return head[:4] in {b"PK\x03\x04", b"PK\x05\x06"} and head[128:] != b"DICM"


def _unpack(archive: Path, display: str, scratch: Path) -> Iterator[Found]:
    try:
        if _directory_bytes(archive) > LIMITS.archive.directory_bytes:
            yield Found(archive, display, None, REASONS("archive-too-large"))
            return
        with zipfile.ZipFile(archive) as opened:
            members = sorted((m for m in opened.infolist() if not m.is_dir()), key=lambda m: m.filename)
            if len(members) > LIMITS.archive.entries:
                yield Found(archive, display, None, REASONS("archive-too-large"))
                return
            stem = hashlib.sha256(os.fsencode(archive.absolute())).hexdigest()[:16]
            # entries that overlap would each be unpacked from the same bytes: all together are held to the ratio
            room = min(LIMITS.archive.total_bytes, _unpacked_bytes(archive.stat().st_size))
            for number, member in enumerate(members):
                target = scratch / f"{stem}-{number:06d}.dcm"
                found = _member(opened, member, target, room)
                with contextlib.suppress(FileNotFoundError):
                    room -= target.stat().st_size
                if found.instance is None:
                    target.unlink(missing_ok=True)
                name = f"{display}/{shown(member.filename)}"
                yield replace(found, display=name, path=target if found.instance else archive)
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError):
        yield Found(archive, display, None, REASONS("archive-damaged"))


def _unpacked_bytes(packed: int) -> int:
    return int(LIMITS.archive.compression_ratio * packed) + _CHUNK


def _directory_bytes(archive: Path) -> int:
    """Return the length of an archive's list of entries; the library would read all of it before it can be asked.

    APPNOTE 4.3.14 to 4.3.16; 0 if there is none, about which the library complains by itself.
    """
    with archive.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _ZIP_END))
        tail = file.read()
    if (at := tail.rfind(b"PK\x06\x06")) >= 0 and len(tail) >= at + 48:
        return int(struct.unpack_from("<Q", tail, at + 40)[0])
    if (at := tail.rfind(b"PK\x05\x06")) >= 0 and len(tail) >= at + 16:
        return int(struct.unpack_from("<L", tail, at + 12)[0])
    return 0


def _member(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, room: int) -> Found:
    """Unpack one member to `target` and read it; at most `room` bytes are written."""
    if member.flag_bits & 1:
        return Found(target, member.filename, None, REASONS("archive-encrypted"))
    # measured against what is really written: the sizes that an archive states are claims
    room = min(LIMITS.archive.entry_bytes, room, _unpacked_bytes(member.compress_size))
    try:
        if not _extract(opened, member, target, room):
            return Found(target, member.filename, None, REASONS("archive-too-large"))
    except zipfile.BadZipFile:
        return Found(target, member.filename, None, REASONS("archive-damaged"))
    if _is_zip(target):
        return Found(target, member.filename, None, REASONS("archive-nested"), skipped=True)
    return _look(target, member.filename)


def _extract(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, room: int) -> bool:
    """Write one member to `target`; False as soon as it grows beyond `room` bytes."""
    with target.open("wb") as out:
        for block in _blocks(opened, member):
            room -= len(block)
            if room < 0:
                return False
            out.write(block)
    return True


def _blocks(opened: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """Yield the content of one member; whatever its compression method raises becomes BadZipFile."""
    try:
        with opened.open(member) as source:
            while block := source.read(_CHUNK):
                yield block
    except Exception as error:
        raise zipfile.BadZipFile(member.filename) from error


def _digest(file: BinaryIO) -> str:
    sha = hashlib.sha256()
    while block := file.read(_CHUNK):
        sha.update(block)
    return sha.hexdigest()


def dataset_offset(file: BinaryIO) -> int:
    """Return where the data set starts: behind preamble and group 0002, which is always explicit little endian.

    Raises
    ------
    UnreadableError
        ``truncated``, or ``unparsable`` if group 0002 does not end within the limit.
    """
    head = file.read(_PREAMBLE)
    offset = _PREAMBLE if head[128:] == b"DICM" else 0
    for _ in range(_META_ELEMENTS):
        file.seek(offset)
        start = file.read(12)
        if len(start) < 8 or start[:2] != b"\x02\x00" or not start[4:6].isalpha():
            break
        if start[4:6] in LONG:
            if len(start) < 12:
                raise UnreadableError(REASONS("truncated"))
            offset += 12 + int(struct.unpack_from("<I", start, 8)[0])
        else:
            offset += 8 + int(struct.unpack_from("<H", start, 6)[0])
    else:
        raise UnreadableError(REASONS("unparsable"))
    if offset > LIMITS.read.meta_bytes:
        raise UnreadableError(REASONS("truncated" if offset > file.seek(0, os.SEEK_END) else "unparsable"))
    return offset


def _parse(file: BinaryIO, offset: int, charset: str | None) -> FileDataset:
    """Parse up to the pixel data, with every fault of the bytes turned into one error."""
    size = file.seek(0, os.SEEK_END)
    if offset > size:
        raise UnreadableError(REASONS("truncated"))
    if offset == 0 and not _looks_like_dataset(file):
        raise UnreadableError(REASONS("not-dicom"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they would quote header values
            source = inflated(file, offset)
            _refuse_wrong(source, offset)
            header = dcmread(source, stop_before_pixels=True, force=True, defer_size=LIMITS.read.element_bytes)
            if source is not file:
                header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
            if charset is not None:
                header.SpecificCharacterSet = charset.split("\\")
                implicit, little = header.original_encoding
                header.set_original_encoding(implicit, little, convert_encodings(charset.split("\\")))
            _settle(header)
            return header
    except UnreadableError:
        raise
    except EOFError as error:
        raise UnreadableError(REASONS("truncated")) from error
    except Exception as error:  # pydicom raises whatever hostile bytes make it raise, RecursionError included
        raise UnreadableError(REASONS("unparsable")) from error


def _refuse_wrong(source: BinaryIO, offset: int) -> None:
    """Raise for what would cost the parser its stack or the machine its memory, and for half a header.

    Leaves `source` at its start.
    """
    if isinstance(source, io.BytesIO):
        found = outline(source.getvalue(), offset, _PIXELS)
    else:
        with mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            found = outline(mapped, offset, _PIXELS)
    if found.verdict == "wrong":
        raise UnreadableError(REASONS("unparsable"))
    if found.verdict == "cut" and not found.values:
        raise UnreadableError(REASONS("truncated"))
    source.seek(0)


def _looks_like_dataset(file: BinaryIO) -> bool:
    """Whether a file without preamble starts with a low group number in either byte order."""
    file.seek(0)
    start = file.read(8)
    if len(start) < 8:
        return False
    little, big = struct.unpack("<H", start[:2])[0], struct.unpack(">H", start[:2])[0]
    return bool(min(little, big) in {0x0002, 0x0004, 0x0008, 0x0010})


def inflated(file: BinaryIO, offset: int) -> BinaryIO:
    """Return the file as pydicom shall see it: as it is, or with a deflated data set inflated within the limit.

    Parameters
    ----------
    file : BinaryIO
        An open PS3.10 file.
    offset : int
        Where its data set starts.

    Raises
    ------
    UnreadableError
        ``inflates-too-large``.
    """
    file.seek(0)
    head = file.read(offset)
    marker = DeflatedExplicitVRLittleEndian.encode()
    if marker not in head:
        file.seek(0)
        return file
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    limit = LIMITS.read.inflated_bytes
    plain = engine.decompress(file.read(), limit)
    if engine.unconsumed_tail:
        raise UnreadableError(REASONS("inflates-too-large"))
    # padded with NUL to the old length, so that the length fields stay right
    syntax = ExplicitVRLittleEndian.encode().ljust(len(marker), b"\0")
    return io.BytesIO(head.replace(marker, syntax) + plain)


def _settle(header: Dataset) -> None:
    """Drop what was too long to read and empty what cannot be decoded, so that no later access raises."""
    for tag in list(header.keys()):
        element: Any = header.get_item(tag, keep_deferred=True)  # pydicom's overloads hide the raw element
        if isinstance(element, RawDataElement) and element.value is None and element.length:
            del header[tag]
        elif (
            isinstance(element, RawDataElement)
            and element.length != _UNDEFINED
            and len(element.value or b"") < element.length
        ):
            raise UnreadableError(REASONS("truncated"))
        elif not tag.is_private:
            _decode_or_empty(header, tag)


def _decode_or_empty(header: Dataset, tag: BaseTag) -> None:
    """Decode one element that is not text now; an element that cannot be decoded becomes empty."""
    element: Any = header.get_item(tag)
    vr = element.VR or (dictionary_VR(tag) if dictionary_has_tag(tag) else "UN")
    if vr in _TEXT:
        return
    try:
        decoded = header[tag]
        if decoded.VR == "SQ":
            for item in decoded.value or ():
                _settle(item)
        elif decoded.VR in _NUMBER_TEXT and any(isinstance(v, str) for v in _values(decoded)):
            header[tag] = DataElement(tag, decoded.VR, None)
    except Exception:  # noqa: BLE001 - pydicom raises whatever a hostile value makes it raise
        known = dictionary_VR(tag) if dictionary_has_tag(tag) else "UN"
        header[tag] = DataElement(tag, known.split(" or ")[0], None)


def _values(element: DataElement) -> list[Any]:
    return list(element.value) if isinstance(element.value, MultiValue) else [element.value]


def _transfer_syntax(header: FileDataset) -> str:
    declared = elements.text(header.file_meta, "TransferSyntaxUID")
    if declared:
        return declared
    implicit, little = header.original_encoding
    if implicit:
        return str(ImplicitVRLittleEndian)
    return str(ExplicitVRLittleEndian if little else ExplicitVRBigEndian)
