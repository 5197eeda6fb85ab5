"""A source header made fit for writers: required elements present, invalid values gone, text in one known encoding.

References
----------
DICOM PS3.5 section 6.2 (value representations); PS3.3 C.7 (patient, study, series, equipment), C.12.1.1.2.
"""

import hashlib
import math
import re
import tomllib
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from typing import Any, Final

from pydicom import config
from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.valuerep import PersonName, format_number_as_ds

from dicom_io import elements
from dicom_io.charset import SINGLE_VRS, TEXT_VRS, UTF8, Charset, Text, declared, text_of
from dicom_io.reason import Reason
from dicom_io.reasons import REASONS

_TABLE: Final = tomllib.loads(files("dicom_io").joinpath("normalise.toml").read_text(encoding="utf-8"))
_KEPT: Final = tuple(sorted(Tag(k) for k in _TABLE["kept"]))
_REQUIRED: Final = tuple(_TABLE["empty_if_absent"])
_PLANE: Final = tuple(_TABLE["empty_if_plane"])
_IDENTITY: Final = frozenset(_TABLE["identity"])
_SEX: Final = frozenset(_TABLE["sex"])

_CHARSET_TAG: Final = Tag("SpecificCharacterSet")
_BINARY: Final = frozenset({"AT", "OB", "OD", "OF", "OL", "OV", "OW", "SV", "UN", "UV"})
_TIME: Final = re.compile(r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?")
_DATE: Final = re.compile(r"\d{8}")
_AGE: Final = re.compile(r"\d{3}[DWMY]")
_CODE: Final = re.compile(r"[A-Z0-9 _]{0,16}")


@dataclass(frozen=True, slots=True, eq=False)
class Normalised:
    """A header fit for writers.

    Parameters
    ----------
    header : Dataset
        The kept elements, every required one present. Its Specific Character Set is that of the source where an object
        may declare it alone (GB18030, GBK, ISO_IR 192, ISO_IR 100 ...), and then names hold the bytes they came with;
        ISO_IR 192 for code extensions (ISO 2022 ...), with the same Unicode; absent if the source declares none.
    notes : tuple[Reason, ...]
        What was odd; without values.
    ascii_only : bool
        The source has other than ASCII bytes whose meaning is unknown. They stand in `header` as the Latin-1 characters
        of the same numbers: an object that declares *no* character set passes them on byte for byte. The writer must
        not declare one, and must add ASCII text only.
    frame_of_reference_absent : bool
        The source has no Frame of Reference UID; the one in `header` follows from its Series Instance UID and only
        lets an object be built.
    """

    header: Dataset
    notes: tuple[Reason, ...]
    ascii_only: bool
    frame_of_reference_absent: bool


def normalise(header: Dataset) -> Normalised:
    """Copy what writers need from a source header. Never raises, never changes the source.

    Parameters
    ----------
    header : Dataset
        As `dicom_io.read.read_instance` returned it; a sender's real character set is applied there.
    """
    charset, opaque, notes = _choose(header)
    odd: list[str] = []
    out = _copy(header, _KEPT, _Rules(charset, opaque, kept=bool(charset.single or not charset.terms)), odd)
    term = "" if opaque else charset.single or (UTF8 if charset.terms else "")
    if term:
        out.SpecificCharacterSet = term
    required = (*_REQUIRED, *_PLANE) if "ImageOrientationPatient" in out else _REQUIRED
    absent = [k for k in required if k not in out]
    for keyword in absent:
        out.add(_element(Tag(keyword), dictionary_VR(keyword), None))
    frame_absent = not out.get("FrameOfReferenceUID")
    if frame_absent:
        out.FrameOfReferenceUID = _derived_uid(elements.text(header, "SeriesInstanceUID"))
        notes.append(REASONS("frame-of-reference-absent"))
    if missing := sorted(set(absent) - set(odd)):
        notes.append(REASONS("attribute-missing", keywords=", ".join(missing)))
    if odd:
        notes.append(REASONS("attribute-invalid", keywords=", ".join(sorted(set(odd)))))
    return Normalised(out, tuple(notes), opaque, frame_absent)


def text_of_sender(header: Dataset) -> tuple[tuple[Reason, ...], bool]:
    """Say what is odd about the character set of a header, for whom its sender is to be mended.

    Returns
    -------
    notes : tuple[Reason, ...]
        ``charset-undeclared``, ``charset-unknown``, ``charset-mismatch``, or none of them.
    telling : bool
        Whether the header holds other than ASCII characters at all: a header without says nothing about its sender.
    """
    charset, _, notes = _choose(header)
    return tuple(notes), not all(found.text.isascii() for found in _texts(header, charset).values())


@dataclass(frozen=True, slots=True)
class _Rules:
    """How text is read and written.

    Parameters
    ----------
    charset : Charset
        What the bytes are decoded with.
    opaque : bool
        Bytes are passed on as the Latin-1 characters of the same numbers.
    kept : bool
        The object will declare `charset`, so that names may keep their bytes.
    """

    charset: Charset
    opaque: bool
    kept: bool

    def name(self, found: Text, text: str) -> PersonName | None:
        """Return a person name that is written with the bytes it came with wherever that is right."""
        if not text:
            return None
        if found.raw is not None and (self.opaque or (self.kept and found.valid)):
            return PersonName(found.raw, ["iso8859"] if self.opaque else convert_encodings(list(self.charset.terms)))
        return PersonName(text)


def _texts(header: Dataset, charset: Charset) -> dict[int, Text]:
    return {tag: found for tag in _KEPT if dictionary_VR(tag) in TEXT_VRS and (found := text_of(header, tag, charset))}


def _choose(header: Dataset) -> tuple[Charset, bool, list[Reason]]:
    """Decide whether the declared character set can be believed for whom this is about; nothing is guessed."""
    charset = declared(header)
    texts = _texts(header, charset)
    ascii_only = all(found.text.isascii() for found in texts.values())
    if not charset.known:
        return charset, not ascii_only, [REASONS("charset-unknown")]
    if not charset.terms and not ascii_only:
        return charset, True, [REASONS("charset-undeclared")]
    damaged = [tag for tag, found in texts.items() if not found.valid]
    if damaged:
        # a description cut inside a character loses that character; a name that does not fit is passed on untouched
        opaque = any(keyword_for_tag(tag) in _IDENTITY for tag in damaged)
        return charset, opaque, [REASONS("charset-mismatch")]
    return charset, False, []


def _copy(source: Dataset, tags: tuple[int, ...], rules: _Rules, odd: list[str]) -> Dataset:
    out = Dataset()
    for tag in tags:
        if tag not in source:
            continue
        keyword, vr = keyword_for_tag(tag), dictionary_VR(tag).split(" or ")[0]
        try:
            value = _value(source, Tag(tag), vr, rules, odd)
        except Exception:  # noqa: BLE001 - hostile values make pydicom raise anything; the element is then invalid
            value = _INVALID
        if value is not _INVALID:
            out.add(_element(tag, vr, value))
        else:
            odd.append(keyword)
    return out


_INVALID: Final = object()


def _value(source: Dataset, tag: int, vr: str, rules: _Rules, odd: list[str]) -> Any:  # noqa: ANN401 - a DICOM value
    """Return the checked value of one element, or `_INVALID`."""
    if vr == "SQ":
        return Sequence([_item(item, rules, odd) for item in source[tag].value or ()])
    if vr in _BINARY:
        return _INVALID
    if vr in TEXT_VRS:
        found = text_of(source, tag, rules.charset)
        return None if found is None else _text(found, tag, vr, rules)
    return _plain(elements.texts(source, keyword_for_tag(tag)), tag, vr)


def _plain(parts: tuple[str, ...], tag: int, vr: str) -> Any:  # noqa: ANN401 - a DICOM value
    """Return the checked values of an element that holds no text, or `_INVALID` if one of them or their number is wrong."""
    if not parts:
        return None
    checked = [_checked(part, vr, keyword_for_tag(tag)) for part in parts]
    low, _, high = dictionary_VM(tag).partition("-")
    if any(value is _INVALID for value in checked) or len(checked) < int(low) or (not high and len(checked) > int(low)):
        return _INVALID
    return checked[0] if len(checked) == 1 else checked


def _item(item: Dataset, rules: _Rules, odd: list[str]) -> Dataset:
    """Copy a sequence item, whose text may have a character set of its own; that is not declared again."""
    own = declared(item) if "SpecificCharacterSet" in item else rules.charset
    tags = tuple(t for t in list(item.keys()) if dictionary_has_tag(t) and t != _CHARSET_TAG)
    return _copy(item, tags, _Rules(own, rules.opaque, kept=rules.kept and own == rules.charset), odd)


def _text(found: Text, tag: int, vr: str, rules: _Rules) -> Any:  # noqa: ANN401 - str, list or name
    text, raw = found.text, found.raw
    if rules.opaque:
        text = raw.decode("latin_1") if raw is not None else _back_to_bytes(text, rules.charset).decode("latin_1")
    elif not found.valid:
        text = text.replace("\N{REPLACEMENT CHARACTER}", "")
    if vr == "PN":
        return rules.name(found, text)
    if vr in SINGLE_VRS or "\\" not in text:
        return text
    # a backslash inside a two-byte character is gone after decoding; what is left separates values
    return text if dictionary_VM(tag) == "1" else text.split("\\")


def _back_to_bytes(text: str, charset: Charset) -> bytes:
    """Undo pydicom's decoding of a text whose bytes were not kept; exact unless it had to replace something."""
    return text.encode(charset.encodings[0], errors="replace")


def _checked(part: str, vr: str, keyword: str) -> Any:  # noqa: ANN401 - a DICOM value
    check = _CHECKS.get(vr)
    return part if check is None or not part else check(part, keyword)


def _decimal(part: str, _keyword: str) -> Any:  # noqa: ANN401 - str or _INVALID
    """Keep a decimal string as sent; one that is too long for DS is rounded to its 16 characters."""
    try:
        number = float(part)
    except ValueError:
        return _INVALID
    if not math.isfinite(number):
        return _INVALID
    return part if len(part) <= 16 else format_number_as_ds(number)


def _real(part: str, _keyword: str) -> Any:  # noqa: ANN401 - float or _INVALID
    try:
        number = float(part)
    except ValueError:
        return _INVALID
    return number if math.isfinite(number) else _INVALID


def _integer(part: str, _keyword: str) -> Any:  # noqa: ANN401 - int or _INVALID
    try:
        number = float(part)
    except ValueError:
        return _INVALID
    return int(number) if number == int(number) and abs(number) < 2**31 else _INVALID


def _date(part: str, _keyword: str) -> Any:  # noqa: ANN401 - str or _INVALID
    if not _DATE.fullmatch(part):
        return _INVALID
    try:
        datetime.strptime(part, "%Y%m%d")  # noqa: DTZ007 - a date has no zone
    except ValueError:
        return _INVALID
    return part


def _code(part: str, keyword: str) -> Any:  # noqa: ANN401 - str or _INVALID
    upper = part.upper()
    if keyword == "PatientSex":
        return upper if upper in _SEX else _INVALID
    return upper if _CODE.fullmatch(upper) else _INVALID


_CHECKS: Final = {
    "AS": lambda p, _k: p if _AGE.fullmatch(p) else _INVALID,
    "CS": _code,
    "DA": _date,
    "DS": _decimal,
    "FD": _real,
    "FL": _real,
    "IS": _integer,
    "SL": _integer,
    "SS": _integer,
    "TM": lambda p, _k: p if _TIME.fullmatch(p) else _INVALID,
    "UL": _integer,
    "US": _integer,
}


def _element(tag: int, vr: str, value: Any) -> DataElement:  # noqa: ANN401 - a DICOM value
    """Make an element; lengths are not judged here, an identifier that is too long is still the identifier."""
    return DataElement(Tag(tag), vr, value, validation_mode=config.IGNORE)


def _derived_uid(series_instance_uid: str) -> str:
    digest = hashlib.sha256(b"frame of reference of series " + series_instance_uid.encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16])}"
