"""PDUs and messages, byte by byte, as an enemy needs them.

References
----------
PS3.8 section 9.3 (PDUs), annex D (items); PS3.7 section 9.3 (messages), annex E (command elements).
"""

import contextlib
import socket
import struct
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_dataset

RQ, AC, RJ, DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"


def pdu(kind: int, payload: bytes, length: int | None = None) -> bytes:
    """Return one PDU; `length` lies about its length."""
    return struct.pack(">BBL", kind, 0, len(payload) if length is None else length) + payload


def pdv(context: int, control: int, data: bytes, length: int | None = None) -> bytes:
    """Return one presentation data value; `control`: 1 command, 0 data, +2 last fragment."""
    return struct.pack(">LBB", len(data) + 2 if length is None else length, context, control) + data


def encoded(dataset: Dataset, *, implicit: bool) -> bytes:
    """Return a data set in little endian."""
    out = DicomIO(BytesIO())
    out.is_little_endian, out.is_implicit_VR = True, implicit
    write_dataset(out, dataset)
    return out.parent.getvalue()  # type: ignore[no-any-return, union-attr]


def command(**elements: Any) -> bytes:
    """Return a command set with its group length."""
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    body = encoded(dataset, implicit=True)
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def read_exactly(connection: socket.socket, count: int) -> bytes:
    """Return `count` bytes, fewer only at the end."""
    data = bytearray()
    while len(data) < count:
        got = connection.recv(count - len(data))
        if not got:
            break
        data += got
    return bytes(data)


def read_pdu(connection: socket.socket) -> bytes:
    """Return the next PDU, or nothing at the end."""
    head = read_exactly(connection, 6)
    return head if len(head) < 6 else head + read_exactly(connection, int.from_bytes(head[2:6]))


def reset(connection: socket.socket) -> None:
    """Close with a RST in the place of a FIN."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


GARBAGE = bytes((n * 73 + 41) % 256 for n in range(500))
ABORTS = [pdu(ABORT, bytes((0, 0, source, why))) for source, why in ((0, 0), (2, 0), (2, 1), (2, 6))]
