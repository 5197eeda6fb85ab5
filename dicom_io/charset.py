r"""Text of any character set to Unicode, and what may honestly be said of its bytes.

pydicom leaves the escape sequences of ISO 2022 IR 58 and 149 inside decoded text, splits GB18030 text at bytes that only
look like delimiters, and replaces what it cannot decode. Here the bytes are decoded once more, strictly, and nothing is
guessed: as Latin-1 bytes most European names are valid GB18030 as well.

References
----------
DICOM PS3.3 C.12.1.1.2 (Specific Character Set); PS3.5 section 6.1.2 and annexes H to K.
"""

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydicom import dcmread
from pydicom.charset import CODES_TO_ENCODINGS, convert_encodings, python_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.valuerep import PersonName

UTF8: Final = "ISO_IR 192"
TEXT_VRS: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
"""Value representations that Specific Character Set governs."""

SINGLE_VRS: Final = frozenset({"LT", "ST", "UT"})
"""Of those, the ones in which a backslash is an ordinary character."""

_ESCAPE: Final = re.compile("\x1b[\x20-\x2f]+[\x30-\x7e]")
_C1_CONTROLS: Final = re.compile("[\x80-\x9f]")
_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
_STANDALONE: Final = frozenset({"UTF8", "GB18030", "GBK"})
_DELIMITERS: Final = re.compile(rb"[\\\t\n\f\r]")
_DELIMITERS_NAME: Final = re.compile(rb"[\\^=\t\n\f\r]")
_DEFAULTS: Final = frozenset({"", "ISO_IR 6", "ISO 2022 IR 6"})


@dataclass(frozen=True, slots=True)
class Charset:
    """A Specific Character Set (0008,0005) value, spelled as the standard does.

    Parameters
    ----------
    terms : tuple[str, ...]
        Defined terms; empty if none but the default repertoire is declared.
    known : bool
        Whether each of them is a defined term.
    """

    terms: tuple[str, ...]
    known: bool

    @property
    def single(self) -> str:
        """The one term of a character set without code extensions; empty otherwise."""
        return self.terms[0] if len(self.terms) == 1 and self.known and not self.terms[0].startswith("ISO 2022") else ""

    @property
    def encodings(self) -> list[str]:
        """Python codecs of the terms; that of unknown terms maps every byte to the character of its number."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return convert_encodings(list(self.terms)) if self.known else ["latin_1"]

    def decode(self, raw: bytes, vr: str = "LO") -> tuple[str, bool]:
        """Decode one element's bytes.

        Returns
        -------
        text : str
            Without trailing padding and without escape sequences; what cannot be decoded is U+FFFD.
        valid : bool
            Whether every byte could be decoded.
        """
        raw = raw.rstrip(b"\0 ")
        encodings = self.encodings
        parts = re.split(b"(?=\x1b)", raw) if encodings[0] not in _STANDALONE else [raw]
        try:
            text = "".join(_fragment(p, encodings, _DELIMITERS_NAME if vr == "PN" else _DELIMITERS) for p in parts)
            # what Windows code pages and GBK put where a declared repertoire has nothing (PS3.5 section 6.1.3)
            return text, not (self.known and _C1_CONTROLS.search(text))
        except UnicodeDecodeError:
            text = "".join(p.decode(encodings[0], errors="replace") for p in parts)
            return _ESCAPE.sub("", text) + ("" if _REPLACEMENT in text else _REPLACEMENT), False


def declared(dataset: Dataset) -> Charset:
    """Return the character set that a data set declares, common misspellings understood."""
    element: Any = dataset.get_item(Tag("SpecificCharacterSet"))
    value = None if element is None else element.value
    if isinstance(value, bytes):
        value = value.decode("ascii", errors="replace").split("\\")
    parts = [value] if isinstance(value, str) else list(value or ())
    return charset_of(*(str(p) for p in parts))


def charset_of(*terms: str) -> Charset:
    r"""Return the character set of the given terms; the default repertoire alone is no term at all."""
    spelled = tuple(_spell(t) for t in terms)
    if all(t in _DEFAULTS for t in spelled):
        return Charset((), known=True)
    return Charset(spelled, all(t in python_encoding for t in spelled))


@dataclass(frozen=True, slots=True)
class Text:
    """The text of one element.

    Parameters
    ----------
    text : str
        Decoded; several values are still joined by a backslash.
    valid : bool
        Whether every byte could be decoded.
    raw : bytes or None
        The bytes as sent, without trailing padding; None if pydicom had already decoded them and kept none.
    """

    text: str
    valid: bool
    raw: bytes | None


def text_of(dataset: Dataset, tag: int, charset: Charset) -> Text | None:
    """Return the text of the element `tag`, from its bytes wherever they are still there; None if it is absent.

    Parameters
    ----------
    dataset : Dataset
        A data set or a sequence item as pydicom read it.
    tag : int
        A text element.
    charset : Charset
        What the bytes are to be decoded with.
    """
    element: Any = dataset.get_item(Tag(tag))
    if element is None:
        return None
    raw = _bytes(element)
    vr = element.VR or dictionary_VR(tag)
    if raw is not None:
        text, valid = charset.decode(raw, vr)
        # an empty last component group says nothing; pydicom leaves it out as well
        return Text(text.rstrip("=") if vr == "PN" else text, valid, raw.rstrip(b"\0 "))
    parts = element.value if isinstance(element.value, (MultiValue, list)) else [element.value]
    text = _ESCAPE.sub("", "\\".join("" if p is None else str(p) for p in parts)).rstrip("\0 ")
    return Text(text, _REPLACEMENT not in text, None)


def raw_names(path: Path, *keywords: str) -> dict[str, Text]:
    """Read text elements straight from a file, whatever has been done to its header in memory.

    Parameters
    ----------
    path : Path
        A DICOM file.
    keywords : str
        Elements of the top level, for example ``PatientName``; those that are absent are left out of the answer.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(keywords))
    charset = declared(dataset)
    found = {keyword: text_of(dataset, Tag(keyword), charset) for keyword in keywords}
    return {keyword: text for keyword, text in found.items() if text is not None}


def _fragment(raw: bytes, encodings: list[str], delimiters: re.Pattern[bytes]) -> str:
    """Decode one run of bytes that starts with an escape sequence or has none; PS3.5 section 6.1.2.5.3."""
    if not raw.startswith(b"\x1b"):
        return raw.decode(encodings[0])
    code = next((c for c in CODES_TO_ENCODINGS if raw.startswith(c)), b"")
    encoding = CODES_TO_ENCODINGS.get(code, "")
    if encoding not in {*encodings, "iso8859"}:
        raise UnicodeDecodeError(
            encodings[0], raw, 0, len(code) or 1, "escape sequence of a character set not declared"
        )
    if encoding.startswith("iso2022"):
        return raw.decode(encoding)  # these codecs follow the escape sequences themselves
    rest = raw[len(code) :]
    found = delimiters.search(rest)
    # a delimiter ends the designation; writers of GB 2312 are known to forget to begin it again
    end = found.start() if found and encoding != "iso_ir_58" else len(rest)
    return rest[:end].decode(encoding) + rest[end:].decode(encodings[0])


def _bytes(element: RawDataElement | DataElement) -> bytes | None:
    value: Any = element.value
    if isinstance(element, RawDataElement):
        return value if isinstance(value, bytes) else b""
    if isinstance(value, bytes):
        return value
    names = list(value) if isinstance(value, (MultiValue, list)) else [value]
    if names and all(isinstance(n, PersonName) and isinstance(n.original_string, bytes) for n in names):
        # a backslash byte inside a two-byte character made pydicom see two names
        return b"\\".join(n.original_string for n in names)
    return None


def _spell(term: str) -> str:
    term = " ".join(term.strip(" \0").upper().split())
    term = re.sub(r"^ISO[ _-]?2022[ _-]?IR[ _-]?(?=\d)", "ISO 2022 IR ", term)
    term = re.sub(r"^ISO[ _-]?IR[ _-]?(?=\d)", "ISO_IR ", term)
    return {"ISO 2022 GBK": "GBK", "UTF8": UTF8, "UTF-8": UTF8, "ISO 2022 58": "ISO 2022 IR 58"}.get(term, term)
