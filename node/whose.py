"""Whether a study at a destination is the patient's whose results are about to leave. Pure: two identities in, what differs out.

To be wrong here is to put one patient's findings into another's record, so the patient ID must agree; an ID on one side
only does not. To be fussy is to keep every Chinese name from its PACS: archives answer in a character set of their own
choice and lose what it cannot hold. A name therefore differs only where both sides say something in the same script and
it cannot be the same text after a loss that archives are known for:

* characters replaced by ``?`` or U+FFFD, left out, or a whole component or component group left out or moved;
* upper case, trailing ``^`` and spaces, full-width letters, half-width or other kana, accents dropped or spelled out (ä as
  a or ae), the few kanji that ISO_IR 87 lacks in their usual form;
* the same bytes under another character set's name.

What is written in two scripts (Chinese characters and Latin letters, kana and kanji) cannot be compared; then the patient
ID alone has to do. Whether two Chinese characters are variants of one is not judged: they differ.

An accession number or issuer that one side does not have says nothing.
"""

import re
import unicodedata
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, product
from pathlib import Path

from dicom_io.charset import raw_names
from dicom_io.scu_query import FoundStudy

_NOT_ASCII = re.compile("[^\x00-\x7f]+")
_ACCENTS = re.compile("[\u0300-\u036f]")
_SILENT = re.compile(r"[\s\0^,.'’ʼ·・\u00ad\u200b-\u200f\u2060\ufeff\ufe00-\ufe0f\U000e0100-\U000e01ef-]+")
"""Separators, and what only chooses among shapes of a character."""
_GARBLED = re.compile("[\x80-\xff]{2,}")
_PLAIN = str.maketrans({"ø": "o", "đ": "d", "ł": "l", "æ": "ae", "œ": "oe", "ð": "d", "þ": "th", "ı": "i"})
_SPELLED = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa", "æ": "ae", "œ": "oe"})
_HIRAGANA = {katakana: katakana - 0x60 for katakana in range(0x30A1, 0x30F7)}
_USUAL = str.maketrans("ぁぃぅぇぉっゃゅょゎゕゖ髙﨑德栁桒𠮷", "あいうえおつやゆよわかけ高崎徳柳桑吉")
"""Old half-width kana have no small ones; the kanji are those of family names that ISO_IR 87 has in their usual form only."""
_SCRIPT = {"HIRAGANA": "KANA", "KATAKANA": "KANA", "IDEOGRAPHIC": "CJK", "COMBINING": "", "MODIFIER": ""}
_EIGHT_BIT = ("latin-1", "cp1252")
_OTHER_SETS = (
    "gb18030", "utf-8", "euc_kr", "shift_jis", "big5", "iso8859_2", "iso8859_3", "iso8859_4", "iso8859_5", "iso8859_6",
    "iso8859_7", "iso8859_8", "iso8859_9", "iso8859_15", "tis_620",
)  # fmt: skip


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
    """Say whether two person names can be the same after what archives do to names.

    They cannot if both have component groups in one script and no two of those agree.
    """
    ours, theirs = _groups(a), _groups(b)
    for script in {"", *chain.from_iterable(_scripts(group) for group in ours + theirs)}:
        pairs = list(product(*([g for g in groups if _speaks(g, script)] for groups in (ours, theirs))))
        if pairs and not any(_same_group(x, y) for x, y in pairs):
            return False
    return True


def _groups(name: str) -> list[str]:
    """Return the alphabetic, ideographic and phonetic group, as far as they say something."""
    return [group for group in name.split("=")[:3] if _squeezed(group)]


def _speaks(group: str, script: str) -> bool:
    if _garbled(group):
        return script != "LATIN"  # whose letters no character set garbles
    return script in _scripts(group) or _number(group)


def _garbled(text: str) -> bool:
    return bool(_GARBLED.fullmatch(_SILENT.sub("", text)))


def _number(text: str) -> bool:
    """Say whether a text has no letters, lost ones included: it is the same in every script."""
    return not _scripts(text) and any(not _lost(c) for c in _squeezed(text))


def _same_group(x: str, y: str) -> bool:
    ours, theirs = (text.split("^") for text in (x, y))
    both = [(p, q) for p, q in zip(ours, theirs, strict=False) if _squeezed(p) and _squeezed(q)]
    if all(_same_text(p, q) for p, q in both):
        return True
    # components that are not told apart, or at another place
    if sum(map(bool, map(_squeezed, ours))) != sum(map(bool, map(_squeezed, theirs))):
        if _same_text(x, y):
            return True
    elif _folds(_squeezed(x)) & _folds(_squeezed(y)):
        return True
    return any(_squeezed(r) == _squeezed(y) for r in _readings(x)) or any(
        _squeezed(x) == _squeezed(r) for r in _readings(y)
    )


def _same_text(x: str, y: str) -> bool:
    """Compare one component, or a whole group whose components are not told apart."""
    p, q = _squeezed(x), _squeezed(y)
    if _folds(p) & _folds(q) or (p != _NOT_ASCII.sub("", p) == q) or (q != _NOT_ASCII.sub("", q) == p):
        return True
    shared = _scripts(p) & _scripts(q)
    if any(_garbled(text) or _number(text) for text in (x, y)):
        shared = _scripts(p) | _scripts(q)
    elif not shared:
        return True
    return any(_overlap(f, g, shared | {""}) for f, g in product(_folds(p), _folds(q)))


def _overlap(p: str, q: str, scripts: AbstractSet[str]) -> bool:
    """Say whether there is a text that both may have been, as far as it is in one of `scripts`."""
    p, q = _kept(p, scripts), _kept(q, scripts)
    # row[j]: the characters of p so far may be the first j of q
    row = [True] + [False] * len(q)
    for a in p:
        last, row = row, [False]
        for j, b in enumerate(q):
            a_is_b, b_is_a = _may_be(a, b), _may_be(b, a)
            row.append(((a == b or a_is_b or b_is_a) and last[j]) or (a_is_b and row[j]) or (b_is_a and last[j + 1]))
    return row[-1]


def _kept(text: str, scripts: AbstractSet[str]) -> str:
    """Write every run of lost characters as one ``?``, every run in other scripts as one NUL."""
    marks = "".join("?" if _lost(c) else c if _script(c) in scripts else "\0" for c in text)
    return re.sub(r"([?\0])\1+", r"\1", marks)


def _may_be(run: str, character: str) -> bool:
    """Say whether `character` may be one of those that `run` stands for; no ASCII character is ever lost."""
    return run == "\0" or (run == "?" and (character in "?\0" or not character.isascii()))


def _lost(character: str) -> bool:
    """Say whether a character may stand for any: replaced, or private to whoever wrote it."""
    return character in "?\N{REPLACEMENT CHARACTER}" or unicodedata.category(character) in ("Co", "Cn", "Cs")


@lru_cache(4096)
def _script(character: str) -> str:
    """Return the script of a letter as Unicode names it; that of any other character is empty."""
    if unicodedata.category(character)[0] not in "LM":
        return ""
    word = re.split("[ -]", unicodedata.name(character, ""))[0]
    return _SCRIPT.get(word, word)


def _scripts(text: str) -> AbstractSet[str]:
    return {_script(c) for c in _squeezed(text)} - {""}


def _squeezed(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text.replace("=", "^")).casefold()
    return _SILENT.sub("", plain).translate(_HIRAGANA).translate(_USUAL)


def _folds(text: str) -> set[str]:
    return {text, _bare(text), _bare(text.translate(_SPELLED))}


def _bare(text: str) -> str:
    return unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFD", text)).translate(_PLAIN))


def _readings(text: str) -> set[str]:
    """Return what the bytes of `text` would be if they had been decoded with the wrong one of two character sets."""
    found = set()
    for narrow, wide in product(_EIGHT_BIT, _OTHER_SETS):
        for encoding, decoding in ((narrow, wide), (wide, narrow)):
            try:
                found.add(text.encode(encoding).decode(decoding))
            except UnicodeError:
                continue
    return found - {text}
