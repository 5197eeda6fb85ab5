"""Whose an image is: how many patients a study names, and what a second object under one SOP Instance UID is. Pure.

A source corrects an identity by sending the same images again, under the same UIDs, with another header. Nothing but
the bytes says so: what differs decides whether that is a correction, a harmless difference, or a conflict.
"""

import json
import string
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import combinations
from typing import Any, Literal

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from dicom_io import elements
from dicom_io.charset import TEXT_VRS, declared, text_of
from node.whose import same_name

Meaning = Literal["same", "corrected", "conflict"]

_RAW = "raw:"
"""Begins a text whose characters are unknown; its bytes follow in hexadecimal digits."""
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_NUMBERS = frozenset({"DS", "IS", "US", "SS", "FD", "FL", "UL", "SL"})
_SEVERITY: Mapping[Meaning, int] = {"same": 0, "corrected": 1, "conflict": 2}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a newer object is to an older one under the same SOP Instance UID.

    Parameters
    ----------
    meaning : Meaning
        ``same``: nothing that counts differs; ``corrected``: the same image with another identity; ``conflict``:
        another image, or one that no longer says whose it is.
    changed : tuple[str, ...]
        Keywords of what differs and counts, sorted; ``PixelData`` for the pixels.
    """

    meaning: Meaning
    changed: tuple[str, ...] = ()


@cache
def table() -> Mapping[str, Any]:
    """Return ``identity.toml``."""
    return tomllib.loads(files("node").joinpath("identity.toml").read_text(encoding="utf-8"))


def identity_of(header: Dataset) -> str:
    """Return whose an image says it is, as canonical JSON: keyword to value, empty ones left out.

    Values are made comparable: padding and letter case of names and empty name components are gone, and a text whose
    character set is unknown stands as its bytes.
    """
    found = {keyword: _comparable(header, keyword) for keyword in table()["identity"]}
    return json.dumps({k: v for k, v in found.items() if v}, ensure_ascii=False, sort_keys=True)


def compare(old: Dataset, new: Dataset, identities: tuple[str, str], *, same_pixels: bool) -> Comparison:
    """Compare two objects under one SOP Instance UID.

    Parameters
    ----------
    old, new : Dataset
        Their headers; `old` is the one in use.
    identities : tuple[str, str]
        Whose they say they are, as `identity_of` returned it when the sender's real character set was known.
    same_pixels : bool
        Whether their decoded pixels are equal, however they are encoded.
    """
    other = [k for k in table()["decides"]["keywords"] if _comparable(old, k) != _comparable(new, k)]
    if not same_pixels:
        other.append("PixelData")
    if other:
        return Comparison("conflict", tuple(sorted(other)))
    return compare_identities(*identities)


def compare_identities(old: str, new: str) -> Comparison:
    """Compare two identities as `identity_of` returns them."""
    before, after = json.loads(old or "{}"), json.loads(new or "{}")
    found: dict[str, Meaning] = {}
    for keyword, meanings in table()["identity"].items():
        a, b = before.get(keyword), after.get(keyword)
        if not _equal(a, b):
            found[keyword] = meanings["dropped" if b is None else "added" if a is None else "changed"]
    worst: Meaning = max(found.values(), key=_SEVERITY.__getitem__, default="same")
    return Comparison(worst, tuple(sorted(k for k, meaning in found.items() if meaning == worst != "same")))


def behind(identities: Iterable[str], corrections: Iterable[tuple[str, str]]) -> frozenset[str]:
    """Return those of `identities` that still have a value which the source has corrected in other images.

    Whatever else they say: series that never had the very same identity may still share a wrong accession number. A
    value that was filled in was wrong by its absence.

    Parameters
    ----------
    identities : Iterable[str]
        What the images of a study say.
    corrections : Iterable[tuple[str, str]]
        What a corrected image said, and what it says now.
    """
    wrong = {
        (keyword, json.loads(was or "{}").get(keyword))
        for was, now in corrections
        for keyword in compare_identities(was, now).changed
    }
    said = {text: json.loads(text or "{}") for text in identities}
    return frozenset(t for t, values in said.items() if any(_equal(values.get(k), value) for k, value in wrong))


def patients(identities: Iterable[str]) -> int:
    """Return how many different patients the identities name; 0 for none at all.

    Another Patient ID (an absent one is one of its own) or another issuer is another patient, and so is another name or
    birth date under the same ID: nobody guesses which is right. A name, birth date or issuer that is absent says
    nothing, nor does a name whose characters are unknown.
    """
    named = [json.loads(text or "{}") for text in set(identities)]
    if len(named) < 2:
        return len(named)
    groups: list[list[Mapping[str, str]]] = []
    for one in named:
        home = next((g for g in groups if all(_may_be_one(one, other) for other in g)), None)
        if home is None:
            groups.append([one])
        else:
            home.append(one)
    # an object that names no issuer fits several groups: that two others contradict each other is what counts
    contradiction = any(not _may_be_one(a, b) for a, b in combinations(named, 2))
    return max(len(groups), 2 if contradiction else 1)


def same_patient(a: str, b: str) -> bool:
    """Say whether two identities may be one patient's."""
    return patients((a, b)) == 1


def _may_be_one(a: Mapping[str, str], b: Mapping[str, str]) -> bool:
    if not _equal(a.get("PatientID"), b.get("PatientID")):
        return False
    for keyword in ("IssuerOfPatientID", "PatientBirthDate"):
        if keyword in a and keyword in b and not _equal(a[keyword], b[keyword]):
            return False
    return _names_agree(a.get("PatientName", ""), b.get("PatientName", ""))


def _names_agree(a: str, b: str) -> bool:
    """Compare names as far as they can be: other equipment writes other scripts, and loses what it cannot write."""
    return a.startswith(_RAW) or b.startswith(_RAW) or same_name(a, b)


def _equal(a: str | None, b: str | None) -> bool:
    """Compare two values; archives change letter case and width."""
    if a is None or b is None:
        return a is b
    return unicodedata.normalize("NFKC", a).casefold() == unicodedata.normalize("NFKC", b).casefold()


def _comparable(dataset: Dataset, keyword: str) -> str:
    """Return the value of one element as text in which only differences are left that count; empty if absent."""
    vr = dictionary_VR(tag_for_keyword(keyword) or 0).split(" or ")[0]
    if vr == "SQ":
        items = elements.value(dataset, keyword)
        if not isinstance(items, Sequence):  # sent with another VR
            return elements.text(dataset, keyword)
        return json.dumps([_item(item) for item in items], sort_keys=True) if items else ""
    if vr in TEXT_VRS:
        return _text(dataset, keyword, vr)
    if vr in _NUMBERS:
        found = elements.numbers(dataset, keyword)
        return "\\".join(f"{n:.9g}" for n in found) or elements.text(dataset, keyword)
    text = elements.text(dataset, keyword).upper()
    return "" if keyword == "PatientIdentityRemoved" and text != "YES" else text


def _text(dataset: Dataset, keyword: str, vr: str) -> str:
    tag = tag_for_keyword(keyword) or 0
    if tag not in dataset:
        return ""
    charset = declared(dataset)
    found = text_of(dataset, tag, charset)
    if found is None or not found.text.strip():
        return ""
    undeclared = not charset.terms and not found.text.isascii()
    if found.raw is not None and (undeclared or not charset.known or not found.valid):
        return _RAW + found.raw.strip(b" \0").hex()
    return _name(found.text) if vr == "PN" else unicodedata.normalize("NFKC", found.text).strip()


def _name(text: str) -> str:
    """Take what says nothing out of a name: padding, empty components at the end, the case of ASCII letters."""
    groups = ["^".join(" ".join(p.split()) for p in group.split("^")).rstrip("^") for group in text.split("=")]
    return "=".join(groups).rstrip("=").translate(_LOWER)


def _item(item: Dataset) -> dict[str, str]:
    """Return a sequence item as keyword to value; private elements do not count."""
    found: dict[str, str] = {}
    for tag in list(item.keys()):
        keyword = "" if tag.is_private else keyword_for_tag(tag)
        if keyword and (value := _comparable(item, keyword)):
            found[keyword] = value
    return found
