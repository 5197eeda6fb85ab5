"""The command sets of C-STORE, read and written without a decoder: some microseconds in the place of some hundred.

Only what is plain is read here; whatever else a peer may send is left to the network library.

References
----------
PS3.7 sections 6.3 (command set: Implicit VR Little Endian), 9.3.1 (C-STORE), annex E.1 (command elements); PS3.8 section
9.3.5 and annex E.2 (P-DATA-TF, message control header).
"""

import re
import struct
from dataclasses import dataclass

from dicom_io.arrival import PREAMBLE

C_STORE_RQ, C_STORE_RSP = 0x0001, 0x8001
NO_DATA_SET = 0x0101
_DATA_TF = 0x04
_LAST_COMMAND = 0x03

_ELEMENT = struct.Struct("<HHL")
_UID = re.compile(rb"[0-9.]{1,64}")
# elements of a C-STORE request: what they hold, and whether they must be there
_GROUP_LENGTH, _CLASS, _FIELD, _MESSAGE, _PRIORITY, _TYPE, _INSTANCE = (
    0x0000,
    0x0002,
    0x0100,
    0x0110,
    0x0700,
    0x0800,
    0x1000,
)
_MOVE_TITLE, _MOVE_MESSAGE = 0x1030, 0x1031
_NUMBERS = frozenset({_FIELD, _MESSAGE, _PRIORITY, _TYPE, _MOVE_MESSAGE})
_OPTIONAL = frozenset({_MOVE_TITLE, _MOVE_MESSAGE})
_NEEDED = frozenset({_CLASS, _FIELD, _MESSAGE, _PRIORITY, _TYPE, _INSTANCE})


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """What a C-STORE request says; `has_data` is whether a data set follows."""

    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    has_data: bool


def read_store_request(command: bytes) -> StoreRequest | None:
    """Read a command set that is a C-STORE request exactly as the standard has it; None: nothing so plain.

    Parameters
    ----------
    command : bytes
        A whole command set.
    """
    found = _elements(command)
    if found.pop(_GROUP_LENGTH, b"") != struct.pack("<L", max(0, len(command) - 12)) or not found.keys() >= _NEEDED:
        return None
    odd = found.keys() - _NEEDED - _OPTIONAL or any(len(found[n]) != 2 for n in _NUMBERS & found.keys())
    sop_class, sop_instance = _uid(found[_CLASS]), _uid(found[_INSTANCE])
    if odd or not sop_class or not sop_instance or len(found.get(_MOVE_TITLE, b"")) > 16:
        return None
    if _number(found[_FIELD]) != C_STORE_RQ or _number(found[_PRIORITY]) > 2:
        return None
    return StoreRequest(_number(found[_MESSAGE]), sop_class, sop_instance, _number(found[_TYPE]) != NO_DATA_SET)


def _elements(command: bytes) -> dict[int, bytes]:
    """Return the values of a command set by element number; none if it is no sequence of them in ascending order."""
    found: dict[int, bytes] = {}
    at, before, end = 0, -1, len(command)
    while end - at >= 8:
        group, element, length = _ELEMENT.unpack_from(command, at)
        at += 8 + length
        if group or element <= before or at > end:
            return {}
        found[element] = command[at - length : at]
        before = element
    return found if at == end else {}


def write_store_response(request: StoreRequest, status: int) -> bytes:
    """Return the command set of the response to `request`."""
    body = b"".join((
        _element(_CLASS, _padded(request.sop_class_uid)),
        _element(_FIELD, struct.pack("<H", C_STORE_RSP)),
        _element(0x0120, struct.pack("<H", request.message_id)),  # Message ID Being Responded To
        _element(_TYPE, struct.pack("<H", NO_DATA_SET)),
        _element(0x0900, struct.pack("<H", status)),
        _element(_INSTANCE, _padded(request.sop_instance_uid)),
    ))  # fmt: skip
    return _element(_GROUP_LENGTH, struct.pack("<L", len(body))) + body


def command_pdu(context_id: int, command: bytes) -> bytes:
    """Return a P-DATA-TF PDU that holds a whole command set in one value."""
    return struct.pack(">BxLLBB", _DATA_TF, len(command) + 6, len(command) + 2, context_id, _LAST_COMMAND) + command


def file_head(sop_class_uid: str, sop_instance_uid: str, syntax: str, writer: tuple[str, str]) -> bytes:
    """Return preamble, prefix and file meta information of a file that holds a data set (PS3.10 section 7.1).

    Parameters
    ----------
    writer : tuple of str
        Implementation class UID and version name.
    """
    values = (
        (b"\x02\x00UI", sop_class_uid), (b"\x03\x00UI", sop_instance_uid), (b"\x10\x00UI", syntax),
        (b"\x12\x00UI", writer[0]), (b"\x13\x00SH", writer[1]),
    )  # fmt: skip
    body = b"\x02\x00\x01\x00OB\x00\x00\x02\x00\x00\x00\x00\x01"
    for head, text in values:
        value = _padded(text, b" " if head.endswith(b"SH") else b"\0")
        body += b"\x02\x00" + head + struct.pack("<H", len(value)) + value
    return bytes(PREAMBLE - 4) + b"DICM\x02\x00\x00\x00UL\x04\x00" + struct.pack("<L", len(body)) + body


def _element(element: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0, element, len(value)) + value


def _padded(text: str, pad: bytes = b"\0") -> bytes:
    value = text.encode("ascii")
    return value + pad * (len(value) % 2)


def _number(value: bytes) -> int:
    return int.from_bytes(value, "little")


def _uid(value: bytes) -> str:
    text = value.removesuffix(b"\0")
    return text.decode() if _UID.fullmatch(text) else ""
