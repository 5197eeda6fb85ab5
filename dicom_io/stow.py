"""STOW-RS, the messages of both sides: an object as it comes, and the answer that says what became of each.

References
----------
PS3.18 section 10.5 (store transaction), annex F (JSON model), table I.2-1 and I.2-2 (response, failure reasons);
PS3.19 annex A.1 (XML model); PS3.10 section 7.1 (file format).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final
from xml.etree import ElementTree as ET

from pydicom import dcmread

from dicom_io.admit import Admission, Asked, Taker, admit
from dicom_io.arrival import PREAMBLE, Arrival
from dicom_io.multipart import media_type
from dicom_io.scp_types import AssociationInfo
from dicom_io.status import Answer

JSON: Final = "application/dicom+json"
XML: Final = "application/dicom+xml"
_OFFERED: Final = ((JSON, ("application/dicom+json", "application/json")), (XML, ("application/dicom+xml",)))

_CLASS, _INSTANCE, _URL = "00081150", "00081155", "00081190"
_FAILURE, _FAILED, _STORED, _OTHER = "00081197", "00081198", "00081199", "0008119A"
_KEYWORDS: Final = {
    _CLASS: "ReferencedSOPClassUID", _INSTANCE: "ReferencedSOPInstanceUID", _URL: "RetrieveURL",
    _FAILURE: "FailureReason", _FAILED: "FailedSOPSequence", _STORED: "ReferencedSOPSequence",
    _OTHER: "OtherFailuresSequence",
}  # fmt: skip
Element = dict[str, "str | list[str | int | dict[str, Element]]"]


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of one object of a request; UIDs are empty where the object does not say them."""

    status: int
    sop_class_uid: str
    sop_instance_uid: str


class Incoming:
    """One DICOM file that comes in pieces.

    The preamble is not kept: it belongs to no data set, and what other programs would read in it could be anything.

    Parameters
    ----------
    arrival : Arrival
        Takes the bytes; removed by `discard`.
    """

    def __init__(self, arrival: Arrival) -> None:
        self._arrival = arrival
        self.bytes = 0

    def write(self, piece: bytes | memoryview) -> None:
        """Take the next bytes."""
        blank = max(0, min(PREAMBLE - 4 - self.bytes, len(piece)))
        if blank:
            self._arrival.write(bytes(blank))
        if len(piece) > blank:
            self._arrival.write(piece[blank:])
        self.bytes += len(piece)

    def finish(self, who: AssociationInfo, study_instance_uid: str, taker: Taker) -> Stored:
        """Judge the object and hand it on, as one that came by C-STORE. Never raises.

        Parameters
        ----------
        study_instance_uid : str
            The study that the request is about; empty: any.
        """
        self._arrival.close()
        syntax, asked = self._meta(study_instance_uid)
        done: Admission = admit(self._arrival, who, syntax, asked, taker)
        return Stored(
            done.status,
            done.found.sop_class_uid or asked.sop_class_uid,
            done.found.sop_instance_uid or asked.sop_instance_uid,
        )

    def discard(self) -> None:
        """Remove the file."""
        self._arrival.discard()

    def _meta(self, study_instance_uid: str) -> tuple[str, Asked]:
        """Return the transfer syntax and what the file meta information says; nothing else of the file is read."""
        try:
            meta = dcmread(BytesIO(self._arrival.meta)).file_meta
            named = ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID")
            sop_class, sop_instance, syntax = (_uid(str(meta.get(keyword, ""))) for keyword in named)
            asked = Asked(sop_class, sop_instance, study_instance_uid)
        except Exception:  # noqa: BLE001 - whatever pydicom says of it
            syntax, asked = "", Asked(study_instance_uid=study_instance_uid)
        if not syntax:
            self._arrival.data_offset = 0  # no DICOM file, and judged as such
        return syntax, asked


def _uid(text: str) -> str:
    return text if len(text) <= 64 and text.isascii() and text.isprintable() else ""


def accepted(accept: str) -> str | None:
    """Return the media type for the answer to a request with this Accept header, or None if it wants none of ours."""
    best: tuple[float, str] | None = None
    for mine, names in _OFFERED:
        said = [_quality(item, names) for item in accept.split(",")]
        _, quality = max(said) if accept.strip() else (0, 1.0)
        if quality > (best[0] if best else 0.0):
            best = quality, mine
    return best[1] if best else None


def _quality(item: str, names: tuple[str, ...]) -> tuple[int, float]:
    """Return how closely an item names one of `names`, and its weight: the closest counts (RFC 9110 section 12.5.1)."""
    kind = media_type(item.replace("*/*", "any/any").replace("application/*", "application/any"))
    if kind is None or kind.name not in (*names, "any/any", "application/any"):
        return 0, 0.0
    closeness = 3 if kind.name in names else 2 if kind.name == "application/any" else 1
    try:
        return closeness, float(kind.parameters.get("q", "1"))
    except ValueError:
        return closeness, 0.0


def http_status(results: Sequence[Stored]) -> int:
    """Return the status of the whole answer (PS3.18 table 10.5.3-1); 503 where another attempt may help everything."""
    failed = [r for r in results if r.status != Answer.SUCCESS]
    if not failed:
        return 200
    if len(failed) < len(results):
        return 202
    return 503 if all(r.status == Answer.OUT_OF_RESOURCES for r in failed) else 409


def answer(results: Sequence[Stored], kind: str) -> bytes:
    """Encode the Store Instances Response.

    An object that does not say which it is stands among the other failures. No Retrieve URL: nothing is served here.

    Parameters
    ----------
    kind : str
        `JSON` or `XML`.
    """
    stored: list[dict[str, Element]] = []
    failed: list[dict[str, Element]] = []
    other: list[dict[str, Element]] = []
    for result in results:
        names = {_CLASS: _element("UI", result.sop_class_uid), _INSTANCE: _element("UI", result.sop_instance_uid)}
        reason = {_FAILURE: _element("US", result.status)}
        if result.status == Answer.SUCCESS:
            stored.append({**names, _URL: _element("UR")})
        elif result.sop_class_uid and result.sop_instance_uid:
            failed.append({**names, **reason})
        else:
            other.append(reason)
    document: dict[str, Element] = {_URL: _element("UR")}
    for tag, items in ((_FAILED, failed), (_STORED, stored), (_OTHER, other)):
        if items:
            document[tag] = _element("SQ", *items)
    if kind == JSON:
        return json.dumps(document).encode()
    root = ET.Element("NativeDicomModel")
    _write_xml(root, document)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))


def _element(vr: str, *values: str | int | dict[str, Element]) -> Element:
    return {"vr": vr, "Value": list(values)} if values else {"vr": vr}


def _write_xml(parent: ET.Element, document: dict[str, Element]) -> None:
    for tag, element in document.items():
        made = ET.SubElement(
            parent, "DicomAttribute", {"tag": tag, "vr": str(element["vr"]), "keyword": _KEYWORDS[tag]}
        )
        for number, value in enumerate(element.get("Value", ()), 1):
            if isinstance(value, dict):
                _write_xml(ET.SubElement(made, "Item", {"number": str(number)}), value)
            else:
                ET.SubElement(made, "Value", {"number": str(number)}).text = str(value)


def read_answer(body: bytes) -> dict[str, int]:
    """Read a Store Instances Response in JSON: SOP Instance UID to status, 0 where it is stored.

    A warning is the status of an instance that is stored with one; a failure stands above everything else that is said
    of its instance. What is no such response is empty. Never raises.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    document = document[0] if isinstance(document, list) and len(document) == 1 else document
    said: dict[str, int] = {}
    for sequence, reason, without in ((_STORED, "00081196", 0), (_FAILED, _FAILURE, int(Answer.PROCESSING_FAILURE))):
        for item in _values(document, sequence):
            uid, status = next(iter(_values(item, _INSTANCE)), None), next(iter(_values(item, reason)), without)
            if isinstance(uid, str):
                said[uid.strip(" \0")] = status if isinstance(status, int) and 0 <= status <= 0xFFFF else without
    return said


def _values(document: object, tag: str) -> list[object]:
    element = document.get(tag) if isinstance(document, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []
