"""Stored pixel values of one image, uncompressed or not.

References
----------
DICOM PS3.5 section 8.1.1 (pixel cells: bits allocated, bits stored, high bit), annex A.4 (encapsulation).
"""

import io
import os
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt
from pydicom import dcmread, dcmwrite
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import pixel_array
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_io import elements, guarded
from dicom_io.encapsulated import frame_bytes
from dicom_io.errors import DicomIOError, PixelError
from dicom_io.limits import LIMITS
from dicom_io.model import Instance
from dicom_io.read import dataset_offset, inflated
from dicom_io.reasons import REASONS
from dicom_io.syntaxes import BY_UID

Stored = npt.NDArray[np.integer]

_NATIVE: Final = frozenset({str(ImplicitVRLittleEndian), str(ExplicitVRLittleEndian)})
_PADDING: Final = 16
_JPEG_LS: Final = 0xF7
_BOXES: Final = 4096
"""A codestream may stand inside JP2 boxes, against the standard (PS3.5 annex A.4.4); it begins within these bytes."""
_PIXEL_DATA: Final = b"\xe0\x7f\x10\x00"


@dataclass(frozen=True, slots=True)
class Format:
    """How the cells of one grey image are stored."""

    rows: int
    columns: int
    allocated: int
    stored: int
    high_bit: int
    signed: bool

    @property
    def dtype(self) -> np.dtype[np.integer]:
        """Little-endian type of a cell."""
        return np.dtype(f"<{'i' if self.signed else 'u'}{self.allocated // 8}")

    @property
    def bytes(self) -> int:
        """Length of the image without its padding byte."""
        return self.rows * self.columns * self.allocated // 8

    def as_stored(self, value: int) -> int:
        """Return `value`, possibly sent with the wrong sign, as a cell of this format holds it."""
        wrapped = value & ((1 << self.stored) - 1)
        return wrapped - (1 << self.stored) if self.signed and wrapped >> (self.stored - 1) else wrapped


def pixel_format(instance: Instance) -> Format:
    """Read the format of the pixels from the header.

    Raises
    ------
    PixelError
        ``pixels-not-grey`` or ``pixels-odd-format``.
    """
    header = instance.header
    if (elements.integer(header, "SamplesPerPixel") or 1) != 1:
        raise PixelError(REASONS("pixels-not-grey"))
    rows, columns = elements.integer(header, "Rows") or 0, elements.integer(header, "Columns") or 0
    allocated = elements.integer(header, "BitsAllocated") or 16
    stored = elements.integer(header, "BitsStored") or allocated
    high_bit = elements.integer(header, "HighBit")
    high_bit = stored - 1 if high_bit is None else high_bit
    sign = elements.integer(header, "PixelRepresentation") or 0
    if (
        rows < 1
        or columns < 1
        or allocated not in {8, 16, 32}
        or not stored - 1 <= high_bit < allocated
        or sign not in {0, 1}
        or rows * columns * allocated // 8 > LIMITS.read.image_bytes
    ):
        raise PixelError(REASONS("pixels-odd-format"))
    return Format(rows, columns, allocated, stored, high_bit, bool(sign))


def stored_values(instance: Instance, form: Format) -> Stored:
    """Return the stored values of an image, shape (rows, columns), unused bits cleared and the sign extended.

    Of a frame only its own bytes are read.

    Raises
    ------
    PixelError
        ``pixels-missing``, ``pixels-truncated`` or ``pixels-undecodable``.
    """
    try:
        if instance.frame:
            return _frame(instance, form)
        if instance.transfer_syntax_uid in _NATIVE:
            cells = _tail(instance.path, form, implicit=instance.transfer_syntax_uid == ImplicitVRLittleEndian)
            if cells is not None:
                return _clean(cells, form)
        return _decode(instance, form)
    except OSError as error:
        raise PixelError(REASONS("unreadable-file"), retryable=True) from error


def _frame(instance: Instance, form: Format) -> Stored:
    """Return the stored values of one frame of a multi-frame instance."""
    syntax = instance.transfer_syntax_uid
    data = frame_bytes(instance.path, syntax, instance.frame, instance.frames, form.bytes)
    if syntax in _NATIVE:
        return _clean(np.frombuffer(data, form.dtype).reshape(form.rows, form.columns), form)
    alone = FileDataset("", {}, file_meta=FileMetaDataset())
    alone.file_meta.TransferSyntaxUID = UID(syntax)
    alone.SamplesPerPixel, alone.PhotometricInterpretation = 1, "MONOCHROME2"
    alone.Rows, alone.Columns, alone.BitsAllocated = form.rows, form.columns, form.allocated
    alone.BitsStored, alone.HighBit, alone.PixelRepresentation = form.stored, form.high_bit, int(form.signed)
    alone.PixelData = encapsulate([data])
    alone["PixelData"].VR = "OB"
    return _decoded(alone, form, instance.transfer_syntax_uid, None)


def _tail(path: Path, form: Format, *, implicit: bool) -> Stored | None:
    """Read the pixels from the end of an uncompressed file; None unless the pixel data element is exactly there.

    Nearly every CT file ends with its pixel data, so the header need not be parsed a second time.
    """
    length = form.bytes + form.bytes % 2
    lead = 8 if implicit else 12
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        if size < length + lead:
            return None
        file.seek(size - length - lead)
        found = file.read(lead)
        if found[:4] != _PIXEL_DATA or found[-4:] != length.to_bytes(4, "little"):
            return None
        cells = np.fromfile(file, form.dtype, form.rows * form.columns)
    return cells.reshape(form.rows, form.columns)


def _clean(cells: Stored, form: Format) -> Stored:
    """Clear the bits that hold no pixel (old overlays stand there) and extend the sign."""
    up = form.allocated - 1 - form.high_bit
    down = form.allocated - form.stored
    if down == 0:
        return cells
    # shifting left within the cell type drops what lies above; shifting right extends the sign of a signed type
    return (cells << up) >> down


def _decode(instance: Instance, form: Format) -> Stored:
    try:
        with instance.path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = dcmread(_source(file), force=True)
    except (DicomIOError, OSError):
        raise
    except Exception as error:  # pydicom raises whatever hostile bytes make it raise
        raise PixelError(REASONS("pixels-undecodable", syntax=instance.transfer_syntax_uid)) from error
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = UID(instance.transfer_syntax_uid)
    return _decoded(dataset, form, instance.transfer_syntax_uid, instance.path)


def _decoded(dataset: FileDataset, form: Format, stated: str, path: Path | None) -> Stored:
    """Decode the only frame of `dataset`, which stands at `path` if it has a file of its own."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _check_whole(dataset, form)
            syntax = dataset.file_meta.TransferSyntaxUID
            decoder = BY_UID[syntax].decoder if syntax in BY_UID else ""
            if decoder != "child":
                cells = pixel_array(dataset, raw=True, decoding_plugin=decoder)
            elif path is not None:
                cells = guarded.decode(path, syntax)
            else:
                cells = _in_child(dataset, syntax)
    except (DicomIOError, OSError):
        raise
    except Exception as error:  # decoders raise whatever hostile bytes make them raise
        raise PixelError(REASONS("pixels-undecodable", syntax=stated)) from error
    if cells.shape != (form.rows, form.columns):
        raise PixelError(REASONS("pixels-undecodable", syntax=stated))
    return cells


def _in_child(dataset: FileDataset, syntax: str) -> Stored:
    """Give one frame to the child as a file in memory, which leaves nothing behind."""
    descriptor = os.memfd_create("frame")
    with os.fdopen(descriptor, "wb") as file:
        dcmwrite(file, dataset, implicit_vr=False, little_endian=True)
        file.flush()
        return guarded.decode(Path(f"/proc/{os.getpid()}/fd/{descriptor}"), syntax)


def pixels_of(path: Path, syntax: str) -> Stored:
    """Decode the single frame of a file in this process; see `dicom_io.guarded`."""
    with path.open("rb") as file:
        dataset = dcmread(_source(file), force=True)
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
        cells: Stored = pixel_array(dataset, raw=True)
    return cells


def _check_whole(dataset: FileDataset, form: Format) -> None:
    """Refuse pixels that are missing or cut short; decoders would fill the rest of a cut JPEG stream with grey."""
    if not dataset.get("PixelData"):
        raise PixelError(REASONS("pixels-missing"))
    syntax = dataset.file_meta.TransferSyntaxUID
    family = BY_UID[syntax].family if syntax in BY_UID else ""
    if family in _AGREES:
        # JPEG, JPEG-LS and JPEG 2000 end with the same marker; real padding after it may hold anything
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        whole = b"\xff\xd9" in frame[-_PADDING:]
        if whole and not _AGREES[family](frame, form):
            raise PixelError(REASONS("pixels-undecodable", syntax=syntax))
    else:
        whole = syntax.is_encapsulated or len(dataset.PixelData) >= form.bytes
    if not whole:
        raise PixelError(REASONS("pixels-truncated"))


def _jpeg_agrees(frame: bytes, form: Format) -> bool:
    """Whether the frame header of a JPEG or JPEG-LS stream states the size and depth that the DICOM header states.

    A decoder takes the memory that its stream asks for. ISO/IEC 10918-1 annex B, ISO/IEC 14495-1 annex C.
    """
    at = 2
    while frame[:2] == b"\xff\xd8" and at + 10 <= len(frame) and frame[at] == 0xFF:
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        if (0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}) or marker == _JPEG_LS:
            precision, rows, columns, components = struct.unpack_from(">BHHB", frame, at + 4)
            # writers state the allocated depth as well
            depth = marker == _JPEG_LS or form.stored <= precision <= form.allocated
            return bool(depth and (rows, columns, components) == (form.rows, form.columns, 1))
        if length < 2:
            return False
        at += 2 + length
    return False


def _jpeg_2000_agrees(frame: bytes, form: Format) -> bool:
    """Whether a JPEG 2000 codestream states the size that the DICOM header states; ISO/IEC 15444-1 annex A.5.1."""
    at = frame.find(b"\xff\x4f\xff\x51", 0, _BOXES)
    if at < 0 or len(frame) < at + 42:
        return False
    right, bottom, left, top = struct.unpack_from(">LLLL", frame, at + 8)
    (components,) = struct.unpack_from(">H", frame, at + 40)
    return bool((bottom - top, right - left, components) == (form.rows, form.columns, 1))


_AGREES: Final = {"jpeg": _jpeg_agrees, "jpeg-2000": _jpeg_2000_agrees}


def _source(file: BinaryIO) -> BinaryIO:
    return inflated(file, dataset_offset(file))
