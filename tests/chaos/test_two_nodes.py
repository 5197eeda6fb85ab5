"""Two nodes on one PostgreSQL and one folder, of which one is lost for good in the middle."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from node.loopback_pacs import LoopbackPacs
from node.store import Database, DatabaseFault, alarms, jobs, open_database, seats, studies
from tests.chaos.test_clock import Wall
from tests.chaos.trees import Tree, push, status, until
from tests.leaving import chosen
from tests.stores import Server

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[LoopbackPacs]:
    (tmp_path / "pacs").mkdir()
    with LoopbackPacs(tmp_path / "pacs", "PACS") as made:
        yield made


@pytest.fixture
def trees(postgres: Server, pacs: LoopbackPacs, tmp_path: Path) -> Iterator[list[Tree]]:
    database = postgres.fresh()
    made = [Tree(tmp_path, name, postgres.url(database), pacs.port) for name in ("north", "south")]
    yield made
    begun = [tree for tree in made if tree.process is not None]
    for tree in begun:
        tree.process.terminate()  # type: ignore[union-attr]
    for tree in begun:
        tree.stop()
    postgres.drop(database)


@pytest.fixture
def db(trees: list[Tree]) -> Iterator[Database]:
    from config.load import load
    from node.store import place_of

    made = open_database(place_of(load(trees[0].configuration, {})))
    yield made
    made.close()


def test_studies_split_over_two_nodes_leave_once_though_one_is_lost_for_good(
    trees: list[Tree], db: Database, pacs: LoopbackPacs, tmp_path: Path, copies: Callable[..., list[Path]]
) -> None:
    north, south = trees
    north.start()
    until(north.ready, 60.0, north.words)  # it leads, and it sends
    south.start()
    until(south.ready, 60.0, south.words)

    def told() -> str:
        return f"{status(db, tmp_path)}\n{north.words()}\n{south.words()}"

    made = {f"1.2.3.{n}": copies(n, 8) for n in range(6)}
    for n, files in enumerate(made.values()):
        if n == 3:
            until(lambda: bool(pacs.received), 60.0, told)
            north.kill()
        halves = [
            threading.Thread(target=push, args=(files[k::2], (trees, trees[::-1])[k]), name=f"half {k}") for k in (0, 1)
        ]
        for half in halves:
            half.start()
        for half in halves:
            half.join()
    until(
        lambda: status(db, tmp_path)["studies"] == {"open": 0, "closed": 6} and status(db, tmp_path)["idle"], 90.0, told
    )

    arrived, everything = Counter(r.sop_instance_uid for r in pacs.received), set[str]()
    for uid, files in made.items():
        study = studies.study(db, uid)
        assert study is not None
        sent = {str(dcmread(f, stop_before_pixels=True).SOPInstanceUID) for f in files}
        assert {row.sop_uid for row in studies.images(db, uid)} == sent
        assert len({c.receiver.rpartition("-")[0] for c in studies.carriers(db, uid)}) == 2 or uid >= "1.2.3.3"
        (last,) = [j for j in jobs.jobs(db, uid) if j.revision == study.revision]
        assert last.outcome == "result", told()
        results = chosen(db, [last])
        assert results <= set(arrived), told()
        everything |= results
    assert set(arrived) == everything, "nothing else was ever sent"
    again = [uid for uid in arrived if arrived[uid] > 1]
    assert len(again) <= 3, "the same objects again: of the one delivery whose end north did not write down any more"
    assert {(a.code, a.subject) for a in alarms.standing(db)} == {("node-silent", "north")}
    states = {n["name"]: n["state"] for n in status(db, tmp_path)["nodes"]}
    assert states == {"north": "silent", "south": "alive"}


def test_while_the_database_is_away_images_are_taken_and_afterwards_everything_goes_on(
    trees: list[Tree],
    db: Database,
    pacs: LoopbackPacs,
    postgres: Server,
    tmp_path: Path,
    copies: Callable[..., list[Path]],
) -> None:
    tree = trees[0]
    tree.start()
    until(tree.ready, 60.0, tree.words)
    push(copies(1, 8), [tree])
    postgres.stop()
    push(copies(2, 8), [tree])
    time.sleep(3.0)  # so long that everybody has noticed
    postgres.start()

    def done() -> bool:
        try:
            now = status(db, tmp_path)
        except DatabaseFault:
            return False
        return bool(now["idle"]) and now["studies"]["closed"] == 2

    until(done, 90.0, tree.words)
    results = [jobs.jobs(db, f"1.2.3.{n}") for n in (1, 2)]
    assert [[j.outcome for j in found] for found in results] == [["result"], ["result"]]
    wanted = chosen(db, [job for (job,) in results])
    assert {r.sop_instance_uid for r in pacs.received} == wanted
    assert alarms.standing(db) == ()


@pytest.mark.long
def test_a_node_with_a_wrong_clock_receives_and_does_nothing_else_until_it_is_right(
    trees: list[Tree], db: Database, pacs: LoopbackPacs, tmp_path: Path, copies: Callable[..., list[Path]]
) -> None:
    north, south = trees
    wall = Wall(tmp_path)
    wall.set(-3600.0)
    south.start(**wall.environment)
    until(south.ready, 60.0, south.words)

    def roles(node: str) -> set[str]:
        return {p["role"] for p in status(db, tmp_path)["processes"] if p["node"] == node}

    def ringing() -> set[tuple[str, str]]:
        return {(a.code, a.subject) for a in alarms.standing(db)}

    assert roles("south") == {"supervisor", "receiver"}
    assert ringing() == {("node-clock", "south")}
    push(copies(1, 8), [south])
    assert studies.find(db) == (), "nobody leads"
    north.start()
    until(lambda: bool(pacs.received), 90.0, lambda: f"{north.words()}{south.words()}")
    (study,) = studies.find(db)
    assert abs(study.opened - time.time()) < 60.0, "stamps of an hour ago are put right"
    wall.set(0.0)
    until(lambda: "worker" in roles("south") and not ringing(), 30.0, south.words)


def test_a_coordinator_and_a_deliverer_that_hang_are_replaced_and_do_no_harm_when_they_wake(
    trees: list[Tree], db: Database, pacs: LoopbackPacs, tmp_path: Path, copies: Callable[..., list[Path]]
) -> None:
    north, south = trees
    north.start(PROBE_HUNG_S="1")  # with node.silent_s it comes to 15 s
    until(north.ready, 60.0, north.words)
    until(lambda: bool(seats.sitter(db, "lead") and seats.sitter(db, "send")), 60.0, north.words)
    south.start(PROBE_HUNG_S="1")
    until(south.ready, 60.0, south.words)

    def told() -> str:
        return f"{status(db, tmp_path)}\n{north.words()}\n{south.words()}"

    def sitting() -> set[str]:
        return {who.node for name in ("lead", "send") if (who := seats.sitter(db, name))}

    def ringing() -> set[tuple[str, str]]:
        return {(a.code, a.subject) for a in alarms.standing(db)}

    assert sitting() == {"north"}
    hung = [
        p["pid"]
        for p in status(db, tmp_path)["processes"]
        if p["role"] in ("coordinator", "deliverer") and p["node"] == "north"
    ]
    for pid in hung:
        os.kill(pid, signal.SIGSTOP)
    try:
        push(copies(1, 8), [north, south])
        until(lambda: bool(pacs.received) and status(db, tmp_path)["idle"], 60.0, told)
        assert sitting() == {"south"}
        assert ringing() == {("seat-taken-over", f"north/{role}") for role in ("coordinator", "deliverer")}
    finally:
        for pid in hung:
            os.kill(pid, signal.SIGCONT)
    until(lambda: not ringing(), 30.0, told)
    push(copies(2, 8), [north, south])
    until(lambda: status(db, tmp_path)["studies"]["closed"] == 2 and status(db, tmp_path)["idle"], 60.0, told)
    assert sitting() == {"south"}
    wanted = chosen(db, [j for n in (1, 2) for j in jobs.jobs(db, f"1.2.3.{n}")])
    assert Counter(r.sop_instance_uid for r in pacs.received) == dict.fromkeys(wanted, 1)
