"""A destination that does not answer: left alone, probed, remembered, told; and no trouble for the others."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from node import breaker, overdue
from node.deliver import keep_at_it
from node.loopback_pacs import LoopbackPacs
from node.retry import policy
from node.store import alarms, breakers, operator
from node.store.rows import Breaker
from tests.node.outbox import Outbox, Script, place
from tests.stores import STORES

pytestmark = pytest.mark.usefixtures("back_end")

DOWN = "peer-refused-connection"
LIMIT = policy()["breaker"]["failures"]
FIRST, FACTOR, CAP = (policy()["breaker"][k] for k in ("first_s", "factor", "cap_s"))
WHY = {"code": DOWN}

CLOSED = Breaker("pacs", "closed", 0, 5.0, None, None)
SHAKY = Breaker("pacs", "closed", LIMIT - 1, 5.0, None, WHY)
OPEN = Breaker("pacs", "open", LIMIT, 5.0, 50.0, WHY)
PROBE = Breaker("pacs", "half-open", LIMIT, 5.0, None, WHY)

# before, whether it answered, after: state, failures, since, wait until the next try
STEPS = [
    (CLOSED, True, ("closed", 0, 5.0, None)),
    (CLOSED, None, ("closed", 0, 5.0, None)),
    (CLOSED, False, ("closed", 1, 5.0, None)),
    (SHAKY, True, ("closed", 0, 100.0, None)),
    (SHAKY, False, ("open", LIMIT, 100.0, FIRST)),
    (PROBE, True, ("closed", 0, 100.0, None)),
    (PROBE, None, ("half-open", LIMIT, 5.0, None)),
    (PROBE, False, ("open", LIMIT + 1, 5.0, FIRST * FACTOR)),
    (Breaker("pacs", "half-open", 999, 5.0, None, WHY), False, ("open", 1000, 5.0, CAP)),
]


@pytest.mark.unit
@pytest.mark.parametrize(("before", "answered", "after"), STEPS)
def test_step(before: Breaker, answered: bool | None, after: tuple[str, int, float, float | None]) -> None:
    now = breaker.after(before, heard=answered, now=100.0, chance=0.5, error=WHY)
    wait_s = None if now.next_try is None else now.next_try - 100.0
    assert (now.state, now.failures, now.since, wait_s) == after


@pytest.mark.unit
@pytest.mark.parametrize(
    ("row", "now", "allowed"), [(CLOSED, 0.0, True), (OPEN, 49.9, False), (OPEN, 50.0, True), (PROBE, 0.0, True)]
)
def test_what_may_be_sent(row: Breaker, now: float, allowed: bool) -> None:
    assert breaker.may(row, now) is allowed


@pytest.mark.unit
def test_while_a_delivery_is_sent_only_a_closed_breaker_stays_closed() -> None:
    assert [breaker.probing(b).state for b in (CLOSED, OPEN, PROBE)] == ["closed", "half-open", "half-open"]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Outbox]:
    made = Outbox(tmp_path / "box")
    yield made
    made.db.close()


@pytest.mark.unit
def test_it_opens_probes_with_one_delivery_and_closes(box: Outbox) -> None:
    script = Script(answers=lambda _path: DOWN)
    courier = box.courier(place(), script)
    first, *others = [box.add() for _ in range(4)]
    for n in range(LIMIT):
        assert courier.step(), n
    row = breakers.breaker(box.db, "pacs")
    assert row is not None
    assert (row.state, row.last_error and row.last_error["code"]) == ("open", DOWN)
    assert not courier.step(), "left alone"
    tried = script.associations
    attempts = {uid: box.row(uid).attempts for uid in box.studies}

    box.now = row.next_try or 0.0
    assert courier.step()
    assert not courier.step(), "one probe"
    assert script.associations == tried + 1
    assert {uid: box.row(uid).attempts for uid in box.studies} == attempts, "a probe is no fault of the delivery"
    assert all(box.row(uid).next_attempt is not None for uid in box.studies)

    script.answers = lambda _path: 0x0000
    box.now += CAP * 2
    assert box.run(courier) == 4
    assert {box.state(uid)[0] for uid in (first, *others)} == {"delivered"}
    closed = breakers.breaker(box.db, "pacs")
    assert closed is not None
    assert (closed.state, closed.failures) == ("closed", 0)


@pytest.mark.unit
@pytest.mark.parametrize("answer", [0xA700, 0xA900, 0xC001, "context-refused"])
def test_a_destination_that_refuses_objects_is_not_down(box: Outbox, answer: int | str) -> None:
    courier = box.courier(place(), Script(answers=lambda _path: answer))
    for _ in range(LIMIT + 2):
        box.add()
    assert box.run(courier) == LIMIT + 2
    row = breakers.breaker(box.db, "pacs")
    assert row is None or (row.state, row.failures) == ("closed", 0)


@pytest.mark.unit
def test_a_restart_knows_that_it_is_open_and_a_killed_probe_is_made_again(box: Outbox) -> None:
    script = Script(answers=lambda _path: DOWN)
    for _ in range(LIMIT):
        box.add()
    box.run(box.courier(place(), script))
    box.db.close()
    box.db = STORES.open(box.folder)
    again = box.courier(place(), script)
    tried = script.associations
    assert not again.step()
    assert script.associations == tried

    row = breakers.breaker(box.db, "pacs")
    assert row is not None
    box.now = row.next_try or 0.0
    breakers.put(box.db, breaker.probing(row))  # killed while the probe was under way
    script.answers = lambda _path: 0x0000
    assert box.courier(place(), script).step()
    after = breakers.breaker(box.db, "pacs")
    assert after is not None
    assert after.state == "closed"


@pytest.mark.unit
def test_an_object_that_silences_its_destination_does_not_keep_the_others_waiting(box: Outbox) -> None:
    poison = box.add(priority=0, objects=1)
    bad = box.uids(poison)[0]
    script = Script(answers=lambda path: None if path.name.startswith("1-") else 0x0000)
    courier = box.courier(place(), script)
    for _ in range(LIMIT):
        box.run(courier)
        box.now += 60.0
    opened = breakers.breaker(box.db, "pacs")
    assert opened is not None
    assert opened.state == "open"
    good = [box.add() for _ in range(3)]
    box.now = max(box.now, opened.next_try or 0.0)
    box.run(courier)
    assert [box.state(uid)[0] for uid in good] == ["delivered"] * 3
    assert box.state(poison)[0] == "waiting"
    assert bad in script.sent


@pytest.mark.unit
def test_a_person_who_says_retry_is_not_kept_waiting(box: Outbox) -> None:
    script = Script(answers=lambda _path: DOWN)
    courier = box.courier(place(), script)
    uid = box.add()
    for _ in range(LIMIT):
        box.run(courier)
        box.now += 5.0
    script.answers = lambda _path: 0x0000
    assert not courier.step()
    assert operator.retry(box.db, box.now, study_uid=uid) == 1
    assert courier.step()
    assert box.state(uid)[0] == "delivered"


@pytest.mark.unit
def test_silence_that_lasts_calls_a_person_once_and_the_call_ends_with_it(box: Outbox) -> None:
    destination = place()
    script = Script(answers=lambda _path: DOWN)
    courier = box.courier(destination, script)
    for _ in range(LIMIT):
        box.add()
    box.run(courier)
    begun = box.now
    while box.now < begun + 2 * policy()["breaker"]["alarm_s"]:
        overdue.sweep(box.db, [destination], box.now)
        expected = ["destination-down"] if box.now >= begun + policy()["breaker"]["alarm_s"] else []
        assert [a.code for a in alarms.standing(box.db)] == expected, box.now - begun
        box.now += 30.0
        box.run(courier)
    script.answers = lambda _path: 0x0000
    box.now += CAP * 2
    box.run(courier)
    assert alarms.standing(box.db) == ()


@pytest.mark.sockets
@pytest.mark.parametrize("hole", ["accepts and says nothing", "drops what comes"])
def test_a_black_hole_slows_nobody_else(tmp_path: Path, hole: str) -> None:
    """Two destinations, twenty results for each: the one that answers gets its own at once, whatever the other does."""
    box = Outbox(tmp_path / "box")
    stop = threading.Event()
    filler = []
    with socket.socket() as silent, LoopbackPacs(tmp_path / "good", "PACS") as pacs:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0 if hole == "drops what comes" else 64)
        if hole == "drops what comes":  # a full backlog: the kernel answers no further connection request
            for _ in range(2):
                filler.append(socket.socket())
                filler[-1].setblocking(False)
                filler[-1].connect_ex(silent.getsockname())
        for _ in range(20):
            box.add(to=("dead", "good"))
        box.now = time.time()
        threads = []
        for name, port in (("dead", silent.getsockname()[1]), ("good", pacs.port)):
            courier = box.courier(place(name, port))
            thread = threading.Thread(target=keep_at_it, args=(name, courier.step, stop), daemon=True)
            thread.start()
            threads.append(thread)
        begun = time.monotonic()
        while len(pacs.received) < 40:
            assert time.monotonic() < begun + 8.0, f"{len(pacs.received)} of 40 after 8 s"
            time.sleep(0.05)
        stop.set()
        threads[1].join(5.0)
        for connection in filler:
            connection.close()
    uids = [r.sop_instance_uid for r in pacs.received]
    assert len(set(uids)) == len(uids) == 40
    threads[0].join(20.0)
    box.db.close()
