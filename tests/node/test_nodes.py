"""Several nodes on one folder: who may work on it, who is heard, and what becomes of what a silent one has left."""

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from node import recover
from node.coordinator import Coordinator
from node.installation import DataFolder, DataFolderError
from node.nodes import CommonClock, Heart, RollCall
from node.spool import Spool
from node.store import Database, alarms, events, jobs, nodes, open_database, place_of, studies
from node.store import node as store
from node.store.rows import Process
from node.store.seats import Seat
from tests.node.desk import Desk, changed
from tests.stores import Server

pytestmark = pytest.mark.unit


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    made = DataFolder(tmp_path / "data")
    made.prepare()
    return made


@pytest.fixture
def db(folder: DataFolder) -> Iterator[Database]:
    made = open_database(folder.database)
    yield made
    made.close()


@dataclass
class Steady:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def codes(db: Database) -> set[tuple[str, str]]:
    return {(a.code, a.subject) for a in alarms.standing(db)}


def let_go(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def test_on_a_shared_database_only_another_name_is_let_in(folder: DataFolder) -> None:
    assert not folder.in_use()
    first, second = folder.lock_for("a", shared=True), folder.lock_for("b", shared=True)
    with pytest.raises(DataFolderError, match="another node a works"):
        folder.lock_for("a", shared=True)
    with pytest.raises(DataFolderError, match="another node"):
        folder.lock()
    assert folder.in_use()
    let_go(*first)
    assert folder.in_use(), "the other one works on"
    let_go(*second)
    assert not folder.in_use()


def test_a_folder_of_several_is_refused_to_one_with_a_database_of_its_own(folder: DataFolder) -> None:
    alone = folder.lock_for("a", shared=False)
    with pytest.raises(DataFolderError, match="SQLite"):
        folder.lock_for("b", shared=True)
    let_go(*alone)
    let_go(*folder.lock_for("b", shared=True))
    let_go(*folder.lock_for("a", shared=False))
    folder.shared_from_now()
    with pytest.raises(DataFolderError, match="nodes with PostgreSQL"):
        folder.lock_for("a", shared=False)


def test_a_silent_node_is_taken_for_dead_and_heard_again(db: Database, folder: DataFolder) -> None:
    clock, revived = Steady(), []
    heart = Heart(db, "b", 1.0, lambda: revived.append("b"))
    spool = Spool(folder.path, node="a")
    part = Spool(folder.path, node="b").incoming / "7-0.part"
    part.touch()
    roll = RollCall(db, spool, silent_s=30.0, attempts=3, steady=clock)
    for name, pid in (("a", 1), ("b", 7)):
        store.process_started(db, Process.of(name, pid, "receiver", 1.0))
    heart.beat()
    told = []
    for _ in range(5):
        nodes.beat(db, "a", 1.0)
        roll.call(1000.0)
        told.append(codes(db))
        clock.now += 10.0
    assert told == [set()] * 4 + [{("node-silent", "b")}], "after more than 30 s, and not the one that was heard"
    assert not part.exists()
    assert {n.name: n.state for n in nodes.nodes(db)}["b"] == "silent"
    assert "b-7" not in {p.name for p in store.processes(db)}
    heart.beat()
    assert revived == ["b"]
    assert ("node-silent", "b") not in codes(db)
    assert {n.name: n.state for n in nodes.nodes(db)}["b"] == "alive"


def test_nobody_dies_while_the_database_is_away(db: Database, folder: DataFolder) -> None:
    clock = Steady()
    roll = RollCall(db, Spool(folder.path, node="a"), silent_s=30.0, attempts=3, steady=clock)
    nodes.beat(db, "b", 1.0)
    roll.call(1000.0)
    clock.now += 600.0  # nobody could be heard, and nobody could listen
    roll.call(1000.0)
    assert [n.state for n in nodes.nodes(db)] == ["alive"]


def test_a_node_that_ends_as_planned_is_not_missed(db: Database, folder: DataFolder) -> None:
    clock = Steady()
    roll = RollCall(db, Spool(folder.path, node="a"), silent_s=30.0, attempts=3, steady=clock)
    heart = Heart(db, "b", 1.0, lambda: None)
    heart.beat()
    heart.stop()
    for _ in range(10):
        roll.call(1000.0)
        clock.now += 10.0
    assert [n.state for n in nodes.nodes(db)] == ["stopped"]
    assert codes(db) == set()


def test_a_wrong_clock_rings_until_it_is_right(db: Database) -> None:
    wrong = 5.0
    heart = Heart(db, "b", 1.0, lambda: None, lambda: nodes.present(db) + wrong)
    heart.beat()
    assert not heart.right
    assert codes(db) == {("node-clock", "b")}
    wrong = 1.0
    heart.beat()
    assert heart.right
    assert codes(db) == set()


def test_owners_of_jobs_name_their_node() -> None:
    assert recover.owner_of("ct-1", 5.0, 7).startswith("ct-1/")


def test_two_who_both_believe_to_lead_do_everything_once(back_end: str, tmp_path: Path, slices: list[Path]) -> None:
    del back_end
    desk = Desk(tmp_path / "desk")
    other = open_database(place_of(desk.settings))
    both = [desk.coordinator, Coordinator(other, desk.folder, desk.settings, desk.now - 1.0)]

    class Both:
        def tick(self, now: float) -> None:
            threads = [threading.Thread(target=one.tick, args=(now,)) for one in both for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    desk.coordinator = Both()  # type: ignore[assignment]
    for n in range(4):
        study = f"1.2.{n}"

        def rename(ds: Any, study: str = study) -> None:
            ds.StudyInstanceUID, ds.SOPInstanceUID = study, f"{study}.{ds.InstanceNumber}"

        desk.receive(changed(slices[:6], tmp_path / study, rename))
        desk.after(0.1)
    desk.after(100.0)
    desk.after(0.1)
    for n in range(4):
        assert len(jobs.jobs(desk.db, f"1.2.{n}")) == 1
        assert [c.images for c in studies.carriers(desk.db, f"1.2.{n}")] == [6]
        told = [e.kind for e in events.timeline(desk.db, f"1.2.{n}")]
        assert [told.count(kind) for kind in ("closed", "routed")] == [1, 1]
    other.close()
    desk.stop()


def test_a_seat_is_taken_once_and_free_when_its_session_ends(postgres: Server) -> None:
    name = postgres.fresh()
    db = open_database(postgres.url(name))
    first, second, another = Seat(db, "lead"), Seat(db, "lead"), Seat(db, "send")
    assert [first.take(), second.take(), another.take()] == [True, False, True]
    assert [first.held(), second.held()] == [True, False]
    postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2", name)
    assert not first.held()
    assert second.take()
    assert not first.take()
    second.close()
    assert first.take()
    for seat in (first, another):
        seat.close()
    db.close()
    postgres.drop(name)


def test_the_common_clock_is_that_of_the_database(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    steady, shown = Steady(), [5000.0]
    asked: list[Database] = []
    monkeypatch.setattr(nodes, "present", lambda of: (asked.append(of), shown[0])[1])
    clock = CommonClock(db, steady)
    assert clock() == 5000.0
    shown[0], steady.now = 8600.0, steady.now + 0.5
    assert (clock(), len(asked)) == (5000.5, 1), "not asked again yet"
    steady.now += 0.5
    assert clock() == 8600.0, "it was set by an hour"
