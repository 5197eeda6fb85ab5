"""Who sits on a seat: what they take is theirs only as long as they sit there, and who hangs there is put out."""

import dataclasses
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from config.settings import Node, Settings
from dicom_io.scu import StoreReport
from node import show
from node.installation import DataFolder
from node.nodes import TAKEN_OVER, Patience, beating
from node.store import Database, alarms, deliveries, nodes, open_database, seats
from node.store.seats import Seat
from tests.node.outbox import Outbox, Script, place
from tests.node.test_nodes import Steady
from tests.stores import STORES, Server

pytestmark = pytest.mark.unit


@pytest.fixture
def box(postgres: Server, tmp_path: Path) -> Iterator[Outbox]:
    STORES.use(postgres)
    made = Outbox(tmp_path / "box")
    yield made
    made.db.close()
    STORES.use(None)


@pytest.fixture
def pair(box: Outbox) -> Iterator[tuple[Seat, Seat]]:
    other = open_database(STORES.place(box.folder))
    both = Seat(box.db, "send", "north"), Seat(other, "send", "south")
    yield both
    for seat in both:
        seat.close()
    other.close()


def lose(seat: Seat, db: Database) -> None:
    """Let the server end the session of who sits there; he does not know it yet."""
    found = seats.sitter(db, "send")
    assert found is not None
    assert found.owner == seat.owner
    assert seats.put_out(db, "send", found)


@pytest.mark.timeout(60)
def test_a_session_that_ends_while_the_seat_is_taken_costs_one_try(
    box: Outbox, pair: tuple[Seat, Seat], postgres: Server
) -> None:
    seat, _other = pair
    database = str(sa.make_url(str(STORES.place(box.folder))).database)
    waiting = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%INTO seat%' AND wait_event_type = 'Lock'"
    with box.db.engine.connect() as keeper, ThreadPoolExecutor(1) as pool:
        keeper.exec_driver_sql("LOCK TABLE seat IN EXCLUSIVE MODE")
        taken = pool.submit(seat.take)
        deadline = time.monotonic() + 30.0
        while not (found := postgres.sql(waiting, database)):
            assert time.monotonic() < deadline
        postgres.sql(f"SELECT pg_terminate_backend({found[0][0]})")
        with pytest.raises(sa.exc.OperationalError):
            taken.result(30.0)
        keeper.rollback()
    assert seat.take()


def test_who_lost_the_seat_takes_nothing_gives_nothing_back_and_settles_nothing(
    box: Outbox, pair: tuple[Seat, Seat]
) -> None:
    old, new = pair
    uid, _second = box.add(), box.add()
    assert old.take()
    before = deliveries.take(box.db, "pacs", box.now, owner=old.owner)
    assert before is not None
    lose(old, box.db)
    assert deliveries.interrupted(box.db, box.now, owner=old.owner) == 0, "its own"
    assert new.take()
    assert deliveries.interrupted(box.db, box.now, owner=new.owner) == 1
    assert box.state(uid) == ("waiting", 1, None)
    assert deliveries.take(box.db, "pacs", box.now, owner=old.owner) is None, "it does not know yet, and may not"
    mine = deliveries.take(box.db, "pacs", box.now, owner=new.owner)
    assert mine is not None
    assert mine.id == before.id
    for again in ({"destination": "pacs"}, {}):
        assert deliveries.interrupted(box.db, box.now, owner=old.owner, **again) == 0
    assert not deliveries.settle(box.db, before, box.now, "waiting", next_attempt=box.now)
    assert box.state(uid)[0] == "sending"
    assert deliveries.settle(box.db, mine, box.now, "delivered")
    assert box.state(uid)[0] == "delivered"


def test_a_courier_that_lost_the_seat_while_it_sends_stops_after_the_object(
    box: Outbox, pair: tuple[Seat, Seat]
) -> None:
    old, new = pair
    uid = box.add(objects=3)
    assert old.take()

    class Cut(Script):
        def store(self, paths: Sequence[Path]) -> Iterator[StoreReport]:
            for report in super().store(paths):
                who = seats.sitter(box.db, "send")
                if who is not None and who.owner == old.owner:
                    lose(old, box.db)
                    assert new.take()
                    assert deliveries.interrupted(box.db, box.now, owner=new.owner) == 1
                yield report

    courier = box.courier(place(), Cut())
    courier._owner = old.owner
    assert courier.step()
    assert box.state(uid)[0] == "waiting", "it is the other one's now"
    assert len(deliveries.sent(box.db, box.row(uid).id)) == 1
    assert not courier.step()


def test_who_hangs_with_its_session_open_is_put_out_and_rings(box: Outbox, pair: tuple[Seat, Seat]) -> None:
    old, new = pair
    clock = Steady()
    patience = Patience(box.db, "send", 60.0, clock)
    assert old.take()
    alive = beating(old, lambda: None)
    for second in range(0, 200, 10):
        if second < 100:
            old.beat()
        patience.look()
        assert old.held() == (second <= 150), "for more than a minute it has not got on"
        clock.now += 10.0
    assert not new.held()
    assert new.take()
    assert {(a.code, a.subject) for a in alarms.standing(box.db)} == {(TAKEN_OVER, "north/deliverer")}
    alive()  # it wakes
    assert not old.take()
    found = seats.sitter(box.db, "send")
    assert found is not None
    assert found.node == "south"
    stale = dataclasses.replace(found, seen=found.seen - 1.0)
    assert not seats.put_out(box.db, "send", stale), "it has got on since"
    assert new.held()


def test_who_did_not_look_itself_puts_nobody_out(box: Outbox, pair: tuple[Seat, Seat]) -> None:
    old, _new = pair
    clock = Steady()
    patience = Patience(box.db, "send", 60.0, clock)
    assert old.take()
    patience.look()
    clock.now += 3600.0  # this machine slept
    patience.look()
    assert old.held()


def test_what_does_not_end_does_not_beat(box: Outbox, pair: tuple[Seat, Seat]) -> None:
    old, _new = pair
    assert old.take()

    def fail() -> None:
        raise OSError(116, "Stale file handle")

    before = seats.sitter(box.db, "send")
    with pytest.raises(OSError, match="Stale"):
        beating(old, fail)()
    assert seats.sitter(box.db, "send") == before
    beating(old, lambda: None)()
    assert seats.sitter(box.db, "send") != before


def test_the_status_marks_a_node_that_is_not_heard_though_nobody_calls_the_roll(box: Outbox) -> None:
    nodes.beat(box.db, "north", 1.0)
    folder = DataFolder(box.folder)
    folder.prepare()
    settings = Settings(node=Node(data_dir=box.folder))

    def state() -> str:
        (row,) = show.status(box.db, folder, "test", settings)["nodes"]
        return str(row["state"])

    assert state() == "alive"
    with box.db.write() as c:
        c.exec_driver_sql("UPDATE node SET seen = seen - 31")
    assert state() == "silent"


def test_a_node_that_could_not_open_the_database_leaves_the_folder_to_sqlite(postgres: Server, tmp_path: Path) -> None:
    configuration = tmp_path / "node.toml"
    url = postgres.url("there_is_none")
    configuration.write_text(
        f'[node]\ndata_dir = "{tmp_path / "data"}"\n[dicom]\nport = 0\n[database]\nurl = "{url}"\n', encoding="utf-8"
    )
    command = [sys.executable, "-m", "node", "serve", "--config", str(configuration)]
    failed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert failed.returncode == 2, failed.stderr
    DataFolder(tmp_path / "data").lock_for("a", shared=False)
