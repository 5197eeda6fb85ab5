"""Our reader and writer of C-STORE commands against the network library's, byte by byte, with the library's own vectors."""

import struct
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless
from pynetdicom.dimse_messages import C_STORE_RQ, C_STORE_RSP, DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import create_file_meta
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.tests import encoded_dimse_msg, encoded_dimse_n_msg

from dicom_io.commands import StoreRequest, command_pdu, file_head, read_store_request, write_store_response

pytestmark = pytest.mark.unit

UIDS = st.from_regex(r"[0-9]{1,8}(\.[0-9]{1,9}){1,5}", fullmatch=True)
WORDS = st.integers(0, 0xFFFF)
VECTORS = {
    f"{module.__name__.rpartition('.')[2]}.{name}": value
    for module in (encoded_dimse_msg, encoded_dimse_n_msg)
    for name, value in vars(module).items()
    if isinstance(value, bytes) and "_cmd" in name
}


def by_library(command: bytes) -> C_STORE | None:
    """Return what the library reads, if it takes it for a C-STORE request."""
    message, whole = DIMSEMessage(), P_DATA()
    whole.presentation_data_value_list.append((1, b"\x03" + command))
    try:
        message.decode_msg(whole)
        primitive = message.message_to_primitive()
    except Exception:  # noqa: BLE001 - whatever it stumbles over
        return None
    return primitive if isinstance(message, C_STORE_RQ) else None


def request_of(message_id: int, sop_class: str, sop_instance: str, **more: Any) -> bytes:
    primitive = C_STORE()
    primitive.MessageID, primitive.Priority = message_id, more.pop("Priority", 2)
    primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = sop_class, sop_instance
    primitive.DataSet = BytesIO(b"\0") if more.pop("data", True) else None
    for keyword, value in more.items():
        setattr(primitive, keyword, value)
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    pdv = next(message.encode_msg(1, 0)).presentation_data_value_list[0][1]
    return bytes(pdv[1:])


@pytest.mark.parametrize("name", VECTORS)
def test_of_the_librarys_vectors_only_store_requests_are_read_and_as_the_library_reads_them(name: str) -> None:
    command = VECTORS[name][1:]
    ours, theirs = read_store_request(command), by_library(command)
    if "c_store_rq_cmd" in name:
        assert ours is not None
    if ours is not None:
        assert theirs is not None
        assert ours.message_id == theirs.MessageID
        assert (ours.sop_class_uid, ours.sop_instance_uid) == (
            theirs.AffectedSOPClassUID,
            theirs.AffectedSOPInstanceUID,
        )


def test_there_are_vectors_of_store_requests() -> None:
    assert len(VECTORS) > 20
    assert sum(read_store_request(v[1:]) is not None for v in VECTORS.values()) >= 1


@given(WORDS, UIDS, UIDS, st.sampled_from((0, 1, 2)), st.booleans())
def test_what_the_library_writes_is_read(
    message: int, sop_class: str, sop_instance: str, priority: int, data: bool
) -> None:
    command = request_of(message, sop_class, sop_instance, Priority=priority, data=data)
    assert read_store_request(command) == StoreRequest(message, sop_class, sop_instance, data)
    moved = request_of(
        message, sop_class, sop_instance, MoveOriginatorApplicationEntityTitle="MOVER", MoveOriginatorMessageID=7
    )
    assert read_store_request(moved) == StoreRequest(message, sop_class, sop_instance, True)


@given(WORDS, UIDS, UIDS, st.sampled_from((0x0000, 0xA700, 0xA900, 0xC000, 0x0110, 0x0124)), st.integers(0, 127))
def test_the_response_is_the_librarys_byte_for_byte(
    message: int, sop_class: str, sop_instance: str, status: int, context: int
) -> None:
    primitive = C_STORE()
    primitive.MessageIDBeingRespondedTo, primitive.Status = message, status
    primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = sop_class, sop_instance
    response = C_STORE_RSP()
    response.primitive_to_message(primitive)
    theirs = b"".join(P_DATA_TF(p).encode() for p in response.encode_msg(2 * context + 1, 0))
    ours = write_store_response(StoreRequest(message, sop_class, sop_instance, True), status)
    assert command_pdu(2 * context + 1, ours) == theirs


@given(UIDS, UIDS, st.sampled_from((ExplicitVRLittleEndian, JPEG2000Lossless)))
def test_the_head_of_the_file_is_the_librarys_byte_for_byte(sop_class: str, sop_instance: str, syntax: str) -> None:
    meta = create_file_meta(sop_class_uid=sop_class, sop_instance_uid=sop_instance, transfer_syntax=syntax)
    written = BytesIO()
    write_file_meta_info(written, meta)
    writer = (str(meta.ImplementationClassUID), str(meta.ImplementationVersionName))
    assert file_head(sop_class, sop_instance, syntax, writer) == bytes(128) + b"DICM" + written.getvalue()


def _swapped(command: bytes) -> bytes:
    """Exchange the class and the command field: elements must ascend."""
    size = 8 + int.from_bytes(command[16:20], "little")
    return command[:12] + command[12 + size : 12 + size + 10] + command[12 : 12 + size] + command[22 + size :]


@pytest.mark.parametrize(
    "odd",
    [
        lambda _c: b"",
        lambda c: c[:-1],
        lambda c: c + b"\0",
        lambda c: c[12:],
        _swapped,
        lambda c: c.replace(struct.pack("<HHL", 0, 0x0110, 2), struct.pack("<HHL", 0, 0x0111, 2)),
        lambda c: c.replace(struct.pack("<HHLH", 0, 0x0100, 2, 1), struct.pack("<HHLH", 0, 0x0100, 2, 0x20)),
        lambda c: c.replace(struct.pack("<HHLH", 0, 0x0700, 2, 2), struct.pack("<HHLH", 0, 0x0700, 2, 9)),
        lambda c: c.replace(struct.pack("<HHL", 0, 0x0110, 2), struct.pack("<HHL", 8, 0x0110, 2)),
        lambda c: c.replace(b"1.2.3.4", b"1.2/3.4"),
        lambda c: c[:8] + b"\xff\xff" + c[10:],
    ],
    ids=["nothing", "cut", "longer", "no length", "order", "unknown element", "another command", "priority", "group",
         "odd uid", "wrong length"],
)  # fmt: skip
def test_what_is_not_plain_is_left_to_the_library(odd: Callable[[bytes], bytes]) -> None:
    command = request_of(5, "1.2.3.4", "1.2.840.55")
    assert read_store_request(command) is not None
    altered = odd(command)
    assert altered != command
    assert read_store_request(altered) is None


@given(st.binary(max_size=200))
def test_hostile_bytes_are_left_to_the_library(command: bytes) -> None:
    assert read_store_request(command) is None
