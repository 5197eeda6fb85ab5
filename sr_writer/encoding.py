"""Sequences as bytes, each encoded once.

pydicom looks for ambiguous value representations through all that lies below an item each time that it writes one, and
encodes what stands in many frames once a frame: most of the seconds of a segmentation and of a report.

References
----------
PS3.5 section 7.1.2 (explicit VR data elements), 7.5 (nesting of data sets).
"""

import struct

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import correct_ambiguous_vr, write_data_element
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

CONTENT = BaseTag(0x0040A730)
_CHARSET = BaseTag(0x00080005)
_ITEM = b"\xfe\xff\x00\xe0"
_DEFAULT = ("iso8859",)

_Charset = tuple[str, ...]


class Encoder:
    """Encodes data sets in explicit VR little endian, the transfer syntax of everything that is written here.

    The content trees of documents are remembered: Comprehensive and Comprehensive 3D SR of one result share theirs.
    """

    def __init__(self) -> None:
        self._contents: list[tuple[DataElement, _Charset, bytes]] = []
        self._said: dict[tuple[int, str, str, _Charset], bytes] = {}
        self._shared: dict[tuple[int, _Charset], bytes] = {}

    def settled(self, ds: Dataset) -> Dataset:
        """Return a data set with the elements of `ds`, its sequences as bytes that are written as they are."""
        whole = Dataset(ds)  # of the same elements
        whole.set_original_encoding(
            True, True
        )  # as pydicom takes what is written for the first time: native pixels are OW
        correct_ambiguous_vr(whole, True)
        out, charset = Dataset(), _charset(ds, _DEFAULT)
        for element in ds:
            if element.VR == "SQ" and not _undefined(element):
                value = self._content(element, charset) if element.tag == CONTENT else self._sequence(element, charset)
                raw = RawDataElement(element.tag, "SQ", len(value), value, 0, False, True)
                out._dict[element.tag] = raw  # noqa: SLF001 - by the front door it would be decoded again
            else:
                out[element.tag] = element
        self._shared.clear()  # they are known by their place in memory, which lives no longer than `ds`
        return out

    def _content(self, element: DataElement, charset: _Charset) -> bytes:
        for known, other, value in self._contents:
            if known is element and other == charset:
                return value
        value = self._sequence(element, charset)
        self._contents.append((element, charset, value))
        return value

    def _sequence(self, element: DataElement, charset: _Charset) -> bytes:
        parts = []
        for item in element.value or ():
            value = self._item(item, charset)
            parts += [_ITEM, struct.pack("<L", len(value)), value]
        return b"".join(parts)

    def _item(self, item: Dataset, outer: _Charset) -> bytes:
        """Return the elements of an item, in the order of their tags; group lengths are retired and left out."""
        charset = _charset(item, outer)
        parts = []
        for tag in sorted(item.keys()):
            if tag.element == 0 and tag.group > 6:
                continue
            element = item[tag]
            if element.VR != "SQ" or _undefined(element):
                parts.append(self._plain(element, charset))
            else:
                key = (id(element), charset)
                if key not in self._shared:
                    value = self._sequence(element, charset)
                    head = struct.pack("<HH2sHL", tag.group, tag.element, b"SQ", 0, len(value))
                    self._shared[key] = head + value
                parts.append(self._shared[key])
        return b"".join(parts)

    def _plain(self, element: DataElement, charset: _Charset) -> bytes:
        """Return one element; a tree says the same codes and types over and over."""
        value = element.value
        if not isinstance(value, str):
            return _encoded(element, charset)
        key = (element.tag, element.VR, value, charset)
        if key not in self._said:
            self._said[key] = _encoded(element, charset)
        return self._said[key]


def _undefined(element: DataElement) -> bool:
    """Say whether a sequence, as a source may have it, is written with delimiters instead of lengths."""
    return element.is_undefined_length or any(item.is_undefined_length_sequence_item for item in element.value or ())


def _charset(ds: Dataset, outer: _Charset) -> _Charset:
    if _CHARSET not in ds:
        return outer
    value = ds[_CHARSET].value
    return tuple(value) if isinstance(value, (list, MultiValue)) else (value,)


def _encoded(element: DataElement, charset: _Charset) -> bytes:
    out = DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = False, True
    write_data_element(out, element, list(charset))
    return out.getvalue()
