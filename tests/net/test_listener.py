"""The listener by itself: what it does when its callables fail, and when nothing happens."""

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.presentation import build_context

from dicom_io.rights import RIGHTS, Right
from dicom_io.scp import AssociationEvent, Handlers, Listener, RefusedObject, Server, StoredObject, serve
from dicom_io.scp_types import AssociationInfo

pytestmark = pytest.mark.sockets

VERIFICATION = "1.2.840.10008.1.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"


class Calls:
    """Callables that note what they are called with, and fail if told to."""

    def __init__(self) -> None:
        self.stored: list[StoredObject] = []
        self.refused: list[RefusedObject] = []
        self.events: list[AssociationEvent] = []
        self.fail: type[Exception] | None = None

    def on_stored(self, arrived: StoredObject) -> int:
        self.stored.append(arrived)
        return self._end() or 0

    def on_refused(self, refused: RefusedObject) -> None:
        self.refused.append(refused)
        self._end()

    def on_association(self, event: AssociationEvent) -> None:
        self.events.append(event)

    def allowed(self, who: AssociationInfo) -> frozenset[Right]:
        if who.calling == "RAISES":
            raise RuntimeError
        return RIGHTS

    def _end(self) -> None:
        if self.fail is not None:
            raise self.fail

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def listener(tmp_path: Path, calls: Calls) -> Callable[..., Any]:
    @contextmanager
    def started(**bounds: Any) -> Iterator[Server]:
        handlers = Handlers(calls.on_stored, calls.on_association, calls.on_refused, calls.allowed)
        server = serve(Listener(("PACSAINODE",), "127.0.0.1", 0, tmp_path, **bounds), handlers)
        try:
            yield server
        finally:
            server.stop(0.1)

    return started


@pytest.mark.parametrize(("error", "status"), [(OSError, 0xA700), (RuntimeError, 0x0110), (KeyError, 0x0110)])
def test_a_callable_that_fails_is_answered(
    listener: Callable[..., Any],
    calls: Calls,
    talk: Callable[..., Any],
    make_slice: Callable[..., Dataset],
    encode: Callable[[Dataset], bytes],
    error: type[Exception],
    status: int,
) -> None:
    data = encode(make_slice(SOPInstanceUID="2.25.1"))
    with listener() as server, talk(server.port) as peer:
        calls.fail = error
        assert peer.store(data) == status
        assert peer.store(data, sop_instance="2.25.2") == 0xA900, "a copy that cannot be kept changes no answer"
        calls.fail = None
        assert peer.store(data) == 0x0000
    assert len(calls.stored) == 2
    assert len(calls.refused) == 1


def test_a_peer_that_cannot_be_looked_up_is_rejected(listener: Callable[..., Any], calls: Calls) -> None:
    with listener() as server:
        association = AE("RAISES").associate("127.0.0.1", server.port, [build_context(VERIFICATION)], "PACSAINODE")
        assert association.is_rejected
    assert [(event.kind, event.reason and event.reason.code) for event in calls.events] == [
        ("rejected", "peer-not-allowed")
    ]


def test_an_association_on_which_nothing_happens_is_aborted(
    listener: Callable[..., Any], calls: Calls, talk: Callable[..., Any], until: Callable[..., None]
) -> None:
    with listener(network_timeout_s=0.3) as server, talk(server.port) as peer:
        until(lambda: "aborted" in calls.kinds)
        until(lambda: not peer.association.is_established)
        assert calls.kinds == ["opened", "aborted"]
        assert server.associations == 0


@pytest.mark.parametrize(
    "sent", [b"", struct.pack(">BBL", 1, 0, 500) + b"\0\1", b"\1"], ids=["nothing", "half", "byte"]
)
def test_a_connection_that_does_not_come_to_a_request_is_closed(
    listener: Callable[..., Any], calls: Calls, sent: bytes
) -> None:
    with (
        listener(network_timeout_s=0.5, request_timeout_s=0.5) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as peer,
    ):
        peer.sendall(sent)
        assert peer.recv(100)[:1] in (b"", b"\7"), "closed, or aborted and closed"
    assert calls.kinds == []


def test_an_association_that_ends_well_is_told_once(
    listener: Callable[..., Any], calls: Calls, talk: Callable[..., Any], until: Callable[..., None]
) -> None:
    with listener() as server:
        with talk(server.port):
            until(lambda: server.associations == 1)
        until(lambda: "released" in calls.kinds)
    assert calls.kinds == ["opened", "released"]
    opened, released = calls.events
    assert opened.association == released.association
    assert (opened.association.calling, opened.association.peer) == ("SENDER", "127.0.0.1")


def test_a_query_can_be_cancelled_while_it_is_answered(tmp_path: Path, calls: Calls) -> None:
    """The one thread of an association looks at the connection between two matches."""
    given = []

    def on_find(_identifier: Dataset) -> Iterator[Dataset]:
        for number in range(500):
            given.append(number)
            match = Dataset()
            match.QueryRetrieveLevel, match.StudyInstanceUID = "STUDY", f"2.25.{number}"
            time.sleep(0.005)
            yield match

    handlers = Handlers(calls.on_stored, calls.on_association, calls.on_refused, calls.allowed, on_find=on_find)
    server = serve(Listener(("PACSAINODE",), "127.0.0.1", 0, tmp_path), handlers)
    try:
        association = AE("SENDER").associate("127.0.0.1", server.port, [build_context(STUDY_ROOT_FIND)], "PACSAINODE")
        query = Dataset()
        query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", ""
        statuses = []
        for status, _ in association.send_c_find(query, STUDY_ROOT_FIND, msg_id=7):
            statuses.append(status.Status)
            if len(statuses) == 3:
                association.send_c_cancel(7, association.accepted_contexts[0].context_id)
        assert statuses[-1] == 0xFE00
        assert len(given) < 500
        assert next(iter(association.send_c_find(query, STUDY_ROOT_FIND, msg_id=8)))[0].Status == 0xFF00
        association.abort()
    finally:
        server.stop(0.1)


def test_stopping_ends_open_associations_and_frees_the_port(
    listener: Callable[..., Any], calls: Calls, talk: Callable[..., Any]
) -> None:
    with listener() as server, talk(server.port):
        server.stop(0.1)
        assert calls.kinds == ["opened", "aborted"]
        with socket.create_server(("127.0.0.1", server.port)):
            pass
