"""Several receivers on one port, through `serve`: shared limits, one killed, a flood, and what waiting costs."""

import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE
from pynetdicom.presentation import build_context

from config.settings import Dicom, Node, Settings
from dicom_io.accepted import Accepted
from dicom_io.scu import Peer, store
from dicom_io.slots import Pace, Slots, peer_key, table_size
from node.loopback_pacs import LoopbackPacs
from node.receive import Receiver
from tests.chaos.hostile_scanner import HostileScanner
from tests.chaos.wire import RELEASE_RQ, RJ, pdu, read_pdu
from tests.node.conftest import Rig

pytestmark = pytest.mark.sockets

VERIFICATION = "1.2.840.10008.1.1"


@contextmanager
def receiver(folder: Path, **dicom: Any) -> Iterator[tuple[int, Receiver]]:
    made = Receiver(Settings(node=Node(data_dir=folder), dicom=Dicom(port=0, **dicom)))
    try:
        yield made.start().port, made
    finally:
        made.stop(grace_s=0.2)


def held(port: int, calling: str, count: int) -> list[Any]:
    """Open associations one after the other and keep them."""
    ask = build_context(VERIFICATION)
    return [AE(calling).associate("127.0.0.1", port, [ask], ae_title="PACSAINODE") for _ in range(count)]


def seconds_to_store(port: int, path: Path, calling: str = "REAL") -> float:
    """Return how long a real sender takes for one image, from the connection to the answer."""
    begin = time.monotonic()
    (report,) = store(Peer("127.0.0.1", port, "PACSAINODE", calling), [path])
    assert report.status == 0, report
    return time.monotonic() - begin


# places


def test_places_are_bounded_over_all_processes_and_for_each_peer() -> None:
    table = [0] * table_size(2, 4)
    one, two = (Slots(table, 4, 2).of(row) for row in (0, 1))
    a, b, c = (peer_key("10.0.0.1", calling) for calling in ("A", "B", "C"))
    first = one.take(a)
    assert first is not None
    assert two.take(a) is not None
    assert one.take(a) is None, "two for each peer, wherever"
    assert one.take(b) is not None
    assert two.take(c) is not None
    assert (one.take(c), two.take(b)) == (None, None), "four in all"
    one.give_back(first)
    assert two.take(b) is not None
    one.clear()
    assert (one.taken(), one.taken_here(), two.taken_here()) == (3, 0, 3), "a process that was killed frees its own"


def test_load_is_told_to_the_others() -> None:
    table = [0] * table_size(3, 2)
    one, two, three = (Slots(table, 2, 2).of(row) for row in range(3))
    assert one.least_elsewhere() is None, "the others accept nothing"
    two.tell_load(5)
    three.tell_load(3)
    assert one.least_elsewhere() == 3
    three.clear()
    assert one.least_elsewhere() == 5


def test_a_peer_has_so_many_tokens_a_second() -> None:
    pace = Pace(4.0)
    assert [pace.allows(1, 100.0) for _ in range(6)] == [True] * 4 + [False] * 2
    assert pace.allows(2, 100.0), "another peer"
    assert [pace.allows(1, 100.3) for _ in range(2)] == [True, False]
    assert all(Pace(0.0).allows(1, 100.0) for _ in range(1000))
    slow = Pace(0.5)
    assert [slow.allows(1, at) for at in (0.0, 1.0, 2.0)] == [True, False, True]


# limits at the door


def test_one_peer_cannot_take_the_places_of_others(tmp_path: Path, write_slice: Callable[..., Path]) -> None:
    with receiver(tmp_path / "data", max_associations=6, max_associations_per_peer=3) as (port, _):
        greedy = held(port, "GREEDY", 4)
        assert [a.is_established for a in greedy] == [True, True, True, False]
        rejected = greedy[-1].acceptor.primitive
        assert (rejected.result, rejected.result_source, rejected.diagnostic) == (2, 3, 2), "local limit, for now"
        assert seconds_to_store(port, write_slice()) < 2.0
        for association in greedy[:3]:
            association.release()


def test_who_asks_too_often_waits_and_is_then_rejected_for_now(tmp_path: Path) -> None:
    with receiver(tmp_path / "data", associations_per_second=2.0) as (port, _), HostileScanner(port) as scanner:
        asked = [scanner.connect() for _ in range(6)]
        for connection in asked:
            connection.sendall(scanner.request())
        answers = [read_pdu(connection) for connection in asked]
    kinds = Counter(answer[0] for answer in answers)
    assert kinds[2] in (3, 4), "two at once, and two a second while the others wait"
    assert {answer[7:10] for answer in answers if answer[0] == RJ} == {bytes((2, 3, 1))}, "temporary congestion"


def test_a_request_waits_for_a_place_that_becomes_free(tmp_path: Path) -> None:
    with receiver(tmp_path / "data", max_associations=1) as (port, _):
        (first,) = held(port, "FIRST", 1)
        threading.Timer(0.3, first.release).start()
        (second,) = held(port, "SECOND", 1)
        assert second.is_established
        second.release()


def test_without_a_thread_for_it_an_association_is_rejected_for_now_and_nothing_of_it_stays(
    tmp_path: Path, write_slice: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(_self: object) -> None:
        raise RuntimeError("can't start new thread")

    with receiver(tmp_path / "data", max_associations=2) as (port, made):
        with monkeypatch.context() as short:
            short.setattr(Accepted, "start", no_thread)
            refused = held(port, "FIRST", 3)
        assert {(a.acceptor.primitive.result, a.acceptor.primitive.diagnostic) for a in refused} == {(2, 2)}
        assert seconds_to_store(port, write_slice()) < 2.0, "every place is free again"
        server = made._server
        assert server is not None
        begin = time.monotonic()
        server.stop(5.0)
        assert time.monotonic() - begin < 2.0, "nobody is waited for who never was there"


def test_an_object_beyond_the_limit_is_answered_and_the_next_is_taken(
    tmp_path: Path, write_slice: Callable[..., Path]
) -> None:
    large, small = write_slice(PixelData=bytes(3 << 20)), write_slice()
    with receiver(tmp_path / "data", max_object_mb=2) as (port, _):
        reports = list(store(Peer("127.0.0.1", port, "PACSAINODE", "REAL"), [large, small]))
        assert [report.status for report in reports] == [0xA700, 0x0000]
    assert not list((tmp_path / "data" / "spool" / "incoming").rglob("*.part"))


# floods


def test_a_real_sender_gets_in_beside_half_open_connections_and_tiny_associations(
    tmp_path: Path, write_slice: Callable[..., Path]
) -> None:
    paths = [write_slice() for _ in range(4)]
    with receiver(tmp_path / "data", receivers=1) as (port, made), HostileScanner(port) as scanner:
        half_open = [scanner.connect() for _ in range(280)]
        for connection in half_open[:40]:
            connection.sendall(scanner.request()[:50])
        assert seconds_to_store(port, paths[0]) < 2.0
        with suppress(ConnectionResetError):  # what it said last was not read
            assert half_open[0].recv(1) == b"", "the oldest has to go when it gets crowded"
        stop = threading.Event()
        counts: list[int] = []

        def flood() -> None:
            done = 0
            while not stop.is_set() and done < 100:
                with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                    connection.sendall(scanner.request())
                    if read_pdu(connection)[:1] == b"\2":
                        connection.sendall(pdu(RELEASE_RQ, bytes(4)))
                        done += read_pdu(connection)[:1] == b"\6"
            counts.append(done)

        threads = [threading.Thread(target=flood) for _ in range(3)]
        for thread in threads:
            thread.start()
        took = [seconds_to_store(port, path) for path in paths[1:]]
        for thread in threads:
            thread.join(30)
        stop.set()
        assert max(took) < 2.0
        assert sum(counts) == 300
        deadline = time.monotonic() + 5
        while made._server is not None and made._server._running():
            assert time.monotonic() < deadline, "every association has ended"
            time.sleep(0.02)


def test_idle_associations_cost_nearly_nothing(tmp_path: Path) -> None:
    with receiver(tmp_path / "data") as (port, _), HostileScanner(port) as scanner:
        for _ in range(20):
            scanner.associate()
        before, begin = time.process_time(), time.monotonic()
        time.sleep(1.5)
        share = (time.process_time() - before) / (time.monotonic() - begin)
    assert share < 0.1, "of a core, for twenty; the library's own loops take more than all of one"


def test_a_large_object_takes_no_memory_and_a_killed_receiver_is_not_missed(
    tmp_path: Path, write_slice: Callable[..., Path]
) -> None:
    """200 MB into processes of their own; then one of the two is killed: the other goes on, and soon there are two again."""
    (tmp_path / "rig").mkdir()
    pacs = LoopbackPacs(tmp_path / "pacs", "DEMOPACS")
    rig = Rig(tmp_path / "rig", pacs, receivers=2)
    small, large = write_slice(), write_slice(PixelData=bytes(200 << 20))

    def receivers() -> set[int]:
        return {p["pid"] for p in rig.status()["processes"] if p["role"] == "receiver"}

    try:
        rig.start()
        rig.until(lambda: len(receivers()) == 2, 20.0, "two receivers")
        begun = receivers()
        seconds_to_store(rig.port, large, "SCANNER")
        assert all(peak_mb(pid) < 200 for pid in begun)
        gone = min(begun)
        os.kill(gone, signal.SIGKILL)
        assert seconds_to_store(rig.port, small, "SCANNER") < 3.0
        rig.until(lambda: len(receivers() - {gone}) == 2, 30.0, "two receivers again")
        assert seconds_to_store(rig.port, small, "SCANNER") < 3.0
    finally:
        rig.stop()
        pacs.stop()


def peak_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))
