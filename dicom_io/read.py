"""DICOM files: headers in, pixels left on disk, nothing believed.

References
----------
DICOM PS3.10 section 7 (file format); PS3.5 section 7.1 and annex A.5 (deflated transfer syntax).
"""

import hashlib
import io
import mmap
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Final

from pydicom import config, dcmread
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
from dicom_io.charset import charset_of, declared
from dicom_io.errors import UnreadableError
from dicom_io.limits import LIMITS
from dicom_io.model import Instance
from dicom_io.reasons import REASONS
from dicom_io.scan import LONG, outline

# Tolerant when reading: pydicom would otherwise put header values, which are patient data, into its warnings.
config.settings.reading_validation_mode = config.IGNORE

_CHUNK: Final = 1 << 20
_PREAMBLE: Final = 132
_MEDIA_DIRECTORY: Final = "1.2.840.10008.1.3.10"
_META_ELEMENTS: Final = 1000
"""Group 0002 has about twenty elements; thousands only cost time."""
_TEXT: Final = frozenset({"AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"})
_NUMBER_TEXT: Final = frozenset({"DS", "IS"})  # pydicom leaves them text if they are no numbers
_UNDEFINED: Final = 0xFFFFFFFF
_PIXELS: Final = frozenset({0x7FE00010})
_REQUIRED: Final = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")


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
            _settle(header, charset_of().encodings)
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


def _settle(header: Dataset, encodings: list[str]) -> None:
    """Drop what was too long to read and empty what cannot be decoded, so that no later access raises.

    Text is decoded as `dicom_io.charset` understands its declaration: pydicom takes the name of any Python codec for one.
    `encodings` are those of what `header` stands in.
    """
    if "SpecificCharacterSet" in header:
        encodings = declared(header).encodings
    implicit, little = header.original_encoding
    header.set_original_encoding(implicit, little, encodings)
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
            _decode_or_empty(header, tag, encodings)


def _decode_or_empty(header: Dataset, tag: BaseTag, encodings: list[str]) -> None:
    """Decode one element that is not text now; an element that cannot be decoded becomes empty."""
    element: Any = header.get_item(tag)
    vr = element.VR or (dictionary_VR(tag) if dictionary_has_tag(tag) else "UN")
    if vr in _TEXT:
        return
    try:
        decoded = header[tag]
        if decoded.VR == "SQ":
            for item in decoded.value or ():
                _settle(item, encodings)
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
