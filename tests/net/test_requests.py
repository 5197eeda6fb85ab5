"""Odd association requests over a real socket: who may not come in takes no place, and nobody is turned away in silence."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from config.settings import Dicom, Node, Peer, Settings
from dicom_io import scu
from dicom_io.scp_types import AssociationInfo
from node.access import Access
from node.receive import Receiver
from node.refusals import refusals
from node.spool import journals, read_journal
from tests.chaos.wire import ABORT, AC, DATA, RJ, RQ, command, pdu, pdv, read_pdu

pytestmark = pytest.mark.sockets

CT, EXPLICIT, VERIFICATION, IMPLICIT = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.1",
    "1.2.840.10008.1.2",
)
LEAVE = pdu(ABORT, bytes(4))
ECHO = command(AffectedSOPClassUID=VERIFICATION, CommandField=0x30, MessageID=1, CommandDataSetType=0x0101)
STORE = command(
    AffectedSOPClassUID=CT,
    CommandField=1,
    MessageID=1,
    Priority=0,
    CommandDataSetType=1,
    AffectedSOPInstanceUID="2.25.1",
)


def item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(body)) + body


def context(number: int = 1, abstract: str = VERIFICATION, syntaxes: tuple[str, ...] = (IMPLICIT,)) -> bytes:
    names = b"".join(item(0x40, syntax.encode()) for syntax in syntaxes)
    return item(0x20, bytes((number, 0, 0, 0)) + item(0x30, abstract.encode()) + names)


def request(calling: bytes = b"CT1", contexts: bytes = b"", more: bytes = b"", called: bytes = b"PACSAINODE") -> bytes:
    user = item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3") + more
    body = bytes((0, 1, 0, 0)) + called.ljust(16) + calling.ljust(16) + bytes(32) + item(0x10, b"1.2.840.10008.3.1.1.1")
    return pdu(RQ, body + (contexts or context()) + item(0x50, user))


@contextmanager
def receiving(folder: Path, **dicom: Any) -> Iterator[tuple[int, Receiver]]:
    peers = (Peer("CT1", "127.0.0.1"),)
    made = Receiver(Settings(node=Node(data_dir=folder), dicom=Dicom(port=0, peer=peers, **dicom)))
    try:
        yield made.start().port, made
    finally:
        made.stop(grace_s=0.1)


def said(port: int, data: bytes, source: str = "127.0.0.1") -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0)) as connection:
        connection.sendall(data)
        reply = read_pdu(connection)
        connection.sendall(LEAVE)
        return reply


def test_who_may_not_come_in_keeps_nobody_out(tmp_path: Path, write_slice: Callable[..., Path]) -> None:
    """One address that is not allowed asks as often as it can, with another title each time, and lets go of nothing."""
    paths = [write_slice() for _ in range(4)]
    stop = threading.Event()
    asked = [0, 0]

    def ask(which: int) -> None:
        kept: list[socket.socket] = []
        while not stop.wait(1 / 160):
            connection = socket.create_connection(("127.0.0.1", port), timeout=10, source_address=("127.0.0.2", 0))
            connection.sendall(request(f"A{which}_{asked[which]}".encode()))
            kept.append(connection)
            asked[which] += 1
            if len(kept) > 400:
                kept.pop(0).close()
        for connection in kept:
            connection.close()

    with receiving(tmp_path, max_associations=16) as (port, _):
        threads = [threading.Thread(target=ask, args=(which,)) for which in range(2)]
        for thread in threads:
            thread.start()
        try:
            took = []
            while sum(asked) < 600:
                time.sleep(0.2)
                begin = time.monotonic()
                (report,) = scu.store(scu.Peer("127.0.0.1", port, "PACSAINODE", "CT1"), [paths[len(took) % 4]])
                assert report.status == 0
                took.append(time.monotonic() - begin)
        finally:
            stop.set()
            for thread in threads:
                thread.join(10)
    assert max(took) < 2.0
    counted = refusals(tmp_path / "spool")
    assert {r.code for r in counted} == {"peer-not-allowed"}
    assert sum(r.count for r in counted) > 500
    assert len(counted) < 20


def test_a_place_is_free_when_the_association_is_over(tmp_path: Path) -> None:
    """However long the peer takes to close the connection."""
    with receiving(tmp_path, max_associations=1, associations_per_second=0) as (port, _):
        kept = []
        begin = time.monotonic()
        for _ in range(5):
            kept.append(socket.create_connection(("127.0.0.1", port), timeout=10))
            kept[-1].sendall(request())
            assert read_pdu(kept[-1])[0] == AC
            kept[-1].sendall(pdu(5, bytes(4)))
            assert read_pdu(kept[-1])[0] == 6
        assert time.monotonic() - begin < 1.0
        for connection in kept:
            assert connection.recv(1) == b"", "and then it is closed"
            connection.close()


ODD = [
    ("latin-1 title", request("MÜLLER".encode("latin-1")), RJ, "title"),
    ("no title", request(b""), RJ, "title"),
    ("NUL in the title", request(b"CT\0001"), RJ, "title"),
    ("cut role selection", request(more=item(0x54, b"\0\x111.2")), ABORT, "role-selection"),
    ("cut item", request(more=b"\x55\0\0\x09abc"), ABORT, "item-length"),
    ("no transfer syntax", request(contexts=context(syntaxes=())), ABORT, "transfer-syntax"),
    ("long UID", request(contexts=context(abstract="1." + "2" * 68)), ABORT, "uid"),
    ("context 0", request(contexts=context(0)), ABORT, "context-id"),
    ("context 2", request(contexts=context(2)), ABORT, "context-id"),
    ("unknown item", request(contexts=item(0x7E, b"ab") + context()), ABORT, "item"),
    ("version 2", request()[:6] + b"\0\2" + request()[8:], RJ, "version"),
]


@pytest.mark.parametrize(("data", "kind", "why"), [case[1:] for case in ODD], ids=[case[0] for case in ODD])
def test_a_request_that_cannot_be_read_is_told_and_counted(
    tmp_path: Path, data: bytes, kind: int, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with receiving(tmp_path) as (port, _):
        assert said(port, data)[:1] == bytes((kind,))
        assert said(port, request())[:1] == bytes((AC,)), "the next sender gets in"
    (counted,) = refusals(tmp_path / "spool")
    assert (counted.code, counted.peer, counted.count) == ("association-request-unreadable", "127.0.0.1", 1)
    line = next(line for line in capsys.readouterr().out.splitlines() if counted.code in line)
    assert why in line


def test_an_unknown_item_of_the_user_is_ignored(tmp_path: Path) -> None:
    with receiving(tmp_path) as (port, _):
        assert said(port, request(more=item(0x7F, b"zz")))[:1] == bytes((AC,))
    assert not refusals(tmp_path / "spool")


def test_an_aborted_association_says_what_aborted_it(tmp_path: Path, until: Callable[..., None]) -> None:
    def whys() -> list[str]:
        records = [r for j in journals(tmp_path) for r in read_journal(j)[0]]
        return [r["why"] for r in records if r["kind"] == "association-aborted"]

    def end(*data: bytes) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        connection.sendall(request())
        assert read_pdu(connection)[0] == AC
        for piece in data:
            connection.sendall(piece)
        return connection

    with receiving(tmp_path, idle_s=1.0) as (port, _):
        kept = []
        for number, data in enumerate((pdu(9, bytes(4)), pdu(DATA, pdv(1, 2, b"x")), LEAVE), 1):
            kept.append(end(data))
            until(lambda number=number: len(whys()) == number)
        end().close()
        until(lambda: len(whys()) == 4)
        kept.append(end())
        until(lambda: len(whys()) == 5)
        kept.append(end(pdu(DATA, b"abc", 500)))
        until(lambda: len(whys()) == 6)
        kept.append(end())
    assert whys() == ["invalid-pdu", "invalid-pdu", "peer", "lost", "idle", "slow", "stopping"]
    for connection in kept:
        connection.close()


@pytest.mark.parametrize(
    "values",
    [
        (pdv(1, 1, ECHO[:20]), pdv(3, 3, ECHO[20:])),
        (pdv(1, 3, STORE), pdv(3, 2, b"")),
    ],
    ids=["command", "data set"],
)
def test_a_message_stays_on_its_context(tmp_path: Path, values: tuple[bytes, ...]) -> None:
    with receiving(tmp_path) as (port, _), socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request(contexts=context(1, CT) + context(3, CT)))
        assert read_pdu(connection)[0] == AC
        connection.sendall(pdu(DATA, b"".join(values)))
        assert read_pdu(connection)[:1] == bytes((ABORT,))


def test_names_are_looked_up_beside_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that does not answer keeps nobody waiting who is known by address."""
    release = threading.Event()

    def slow(*_args: Any, **_named: Any) -> list[Any]:
        release.wait(10)
        raise OSError

    monkeypatch.setattr("node.access._FIRST_S", 0.1)
    monkeypatch.setattr("node.access.socket.getaddrinfo", slow)
    access = Access(Dicom(peer=(Peer("CT1", "scanner.example"), Peer("CT2", "10.0.0.2"))))
    begin = time.monotonic()
    for calling, allowed in (("CT1", False), ("CT2", True)):
        who = AssociationInfo("1", calling, "PACSAINODE", "10.0.0.2")
        assert (access.rights(who) is not None) == allowed
    assert time.monotonic() - begin < 0.1
    release.set()
