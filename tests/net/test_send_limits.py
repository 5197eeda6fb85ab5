"""A peer that we call must not fill our memory."""

import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as Find

from dicom_io.errors import NetworkError
from dicom_io.limits import LIMITS
from dicom_io.scu import Peer, Timeouts, echo
from dicom_io.scu_query import find_study
from tests.net.test_send import raw_peer

pytestmark = pytest.mark.sockets

SOON = Timeouts(answer_s=4.0)


def test_a_pdu_beyond_all_measure_ends_the_connection() -> None:
    def flood(connection: Any) -> None:
        connection.sendall(struct.pack(">BBL", 4, 0, 0xFFFFFFF0))

    begun = time.monotonic()
    with raw_peer(flood) as port, pytest.raises(NetworkError) as error:
        echo(Peer("127.0.0.1", port, "PEER", "NODE"), Timeouts(answer_s=10.0))
    assert error.value.reason.code == "association-aborted"
    assert time.monotonic() - begun < 5.0, "not one byte of it is waited for"


@pytest.fixture
def archive() -> Iterator[Callable[[int], int]]:
    """An archive whose one match is so many bytes long; gives its port."""
    servers: list[Any] = []

    def start(size: int) -> int:
        def find(event: Any) -> Iterator[tuple[int, Dataset]]:
            match = Dataset()
            match.StudyInstanceUID, match.PatientID = event.identifier.StudyInstanceUID, "P1"
            match.add_new(0x00091001, "UN", bytes(size))
            yield 0xFF00, match

        ae = AE("ARCHIVE")
        ae.add_supported_context(Find)
        servers.append(ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, find)]))
        return int(servers[-1].server_address[1])

    yield start
    for server in servers:
        server.shutdown()


def test_an_answer_beyond_all_measure_is_none(archive: Callable[[int], int]) -> None:
    def ask(size: int) -> list[str]:
        return [s.patient_id for s in find_study(Peer("127.0.0.1", archive(size), "ARCHIVE", "NODE"), "2.25.1", SOON)]

    assert ask(LIMITS.read.message_bytes // 4) == ["P1"]
    with pytest.raises(NetworkError) as error:
        ask(LIMITS.read.message_bytes + (1 << 20))
    assert error.value.reason.code == "query-unanswered"
