"""Whether a study at a destination is the patient's whose results are about to leave. Pure: two identities in, what differs out.

To be wrong here is to put one patient's findings into another's record, so a patient ID must be there and agree. To
be fussy is to keep every Chinese name from its PACS: archives answer in a character set of their own choice and lose what
it cannot hold. A name therefore differs only where both sides say something in the same script and it cannot be the same
text after a loss that archives are known for:

* characters replaced by ``?`` or U+FFFD, left out, or a whole component or component group left out or moved;
* upper case, trailing ``^`` and spaces, full-width letters, accents dropped or spelled out (ä as a or ae);
* the same bytes under another character set's name.

A name in Chinese characters and one in Latin letters cannot be compared; then the patient ID alone has to do.

An accession number or issuer that one side does not have says nothing.
"""

import re
import unicodedata
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from dicom_io.charset import raw_names
from dicom_io.scu_query import FoundStudy

_LOST = "?\N{REPLACEMENT CHARACTER}"
_UNSURE = re.compile(f"[^\x00-\x3e\x40-\x7f]+|[{_LOST}]+")
_NOT_ASCII = re.compile("[^\x00-\x7f]+")
_ACCENTS = re.compile("[\u0300-\u036f]")
_SEPARATORS = re.compile(r"[\s^,.'’·-]+")
_EAST_ASIAN = re.compile("[\u1100-\u11ff\u2e80-\ua4cf\uac00-\ud7ff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]")
_GARBLED = re.compile("[\x80-\xff]+")
_PLAIN = str.maketrans({"ø": "o", "đ": "d", "ł": "l", "æ": "ae", "œ": "oe", "ð": "d", "þ": "th", "ı": "i"})
_SPELLED = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa", "æ": "ae", "œ": "oe"})
_EIGHT_BIT = ("latin-1", "cp1252")
_MULTI_BYTE = ("gb18030", "utf-8", "euc_kr", "shift_jis", "big5")


@dataclass(frozen=True, slots=True)
class Whose:
    """The identity that an object carries; absent values are empty, undecodable characters U+FFFD."""

    patient_id: str = field(repr=False)
    issuer_of_patient_id: str = field(repr=False)
    accession_number: str = field(repr=False)
    patient_name: str = field(repr=False)


def whose(path: Path) -> Whose:
    """Read the identity of an object on disk.

    Raises
    ------
    OSError
        If there is no such file.
    """
    keywords = ("PatientID", "IssuerOfPatientID", "AccessionNumber", "PatientName")
    found = raw_names(path, *keywords)
    return Whose(*(found[k].text.strip(" \0") if k in found else "" for k in keywords))


def differences(ours: Whose, theirs: FoundStudy) -> tuple[str, ...]:
    """Return the keywords of what differs between our object and a study at a destination; empty: it is the same patient."""
    differ = []
    if _plain(ours.patient_id) != _plain(theirs.patient_id):  # an ID on one side only cannot be verified
        differ.append("PatientID")
    if not _agree(ours.issuer_of_patient_id, theirs.issuer_of_patient_id):
        differ.append("IssuerOfPatientID")
    if not same_name(ours.patient_name, theirs.patient_name):
        differ.append("PatientName")
    if not _agree(ours.accession_number, theirs.accession_number):
        differ.append("AccessionNumber")
    return tuple(differ)


def _agree(a: str, b: str) -> bool:
    a, b = _plain(a), _plain(b)
    return not a or not b or a == b


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def same_name(a: str, b: str) -> bool:
    """Say whether two person names can be the same after what archives do to names."""
    if _compatible(a, b):
        return True
    return any(_squeezed(x) == _squeezed(b) for x in _readings(a)) or any(
        _squeezed(a) == _squeezed(y) for y in _readings(b)
    )


def _compatible(a: str, b: str) -> bool:
    """Compare every component group that both have in a script that can be compared."""
    for x, y in product(_groups(a), _groups(b)):
        if _comparable(x, y) and not _same_group(x, y):
            # a group that lost its script may be any of the other side's
            if (_lossy(x) and any(_same_group(x, other) for other in _groups(b))) or (
                _lossy(y) and any(_same_group(other, y) for other in _groups(a))
            ):
                continue
            return False
    return True


def _comparable(x: str, y: str) -> bool:
    """Say whether both are written in scripts that can be compared, or one in none that a person is written in."""
    if any(_lossy(text) or _GARBLED.fullmatch(_squeezed(text)) for text in (x, y)):
        return True
    return bool(_EAST_ASIAN.search(x)) == bool(_EAST_ASIAN.search(y))


def _groups(name: str) -> list[str]:
    """Return the alphabetic and the ideographic group, as far as they say something; the phonetic one transcribes."""
    return [group for group in name.split("=")[:2] if _squeezed(group)]


def _same_group(x: str, y: str) -> bool:
    ours, theirs = (text.split("^") for text in (x, y))
    components = [_same_text(p, q) for p, q in zip(ours, theirs, strict=False) if _squeezed(p) and _squeezed(q)]
    return (bool(components) and all(components)) or _same_text(x, y) or not components


def _same_text(x: str, y: str) -> bool:
    """Compare one component, or a whole group whose components are not told apart."""
    p, q = _squeezed(x), _squeezed(y)
    if p == q or any(f == g for f, g in product(_folds(p), _folds(q))):
        return True
    if _lossy(p) or _lossy(q):
        return _UNSURE.sub("\0", p) == _UNSURE.sub("\0", q)
    return (p != _NOT_ASCII.sub("", p) == q) or (q != _NOT_ASCII.sub("", q) == p)


def _squeezed(text: str) -> str:
    return _SEPARATORS.sub("", unicodedata.normalize("NFKC", text.replace("=", "^")).casefold())


def _folds(text: str) -> set[str]:
    return {
        text,
        _ACCENTS.sub("", unicodedata.normalize("NFD", text)).translate(_PLAIN),
        _ACCENTS.sub("", unicodedata.normalize("NFD", text.translate(_SPELLED))).translate(_PLAIN),
    }


def _lossy(text: str) -> bool:
    return any(mark in text for mark in _LOST)


def _readings(text: str) -> set[str]:
    """Return what the bytes of `text` would be if they had been decoded with the wrong one of two character sets."""
    found = set()
    for narrow, wide in product(_EIGHT_BIT, _MULTI_BYTE):
        for encoding, decoding in ((narrow, wide), (wide, narrow)):
            try:
                found.add(text.encode(encoding).decode(decoding))
            except UnicodeError:
                continue
    return found - {text}
