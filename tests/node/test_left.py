"""What a destination has accepted is known for good, also when other objects take its place."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from config.settings import Storage
from node import recover
from node.cli import _study
from node.cli._words import Words
from node.rebuild import Rebuild
from node.retention import Retention
from node.selection import select
from node.store import alarms, corrections, deliveries, index, jobs, operator, proofs
from node.store.rows import Sent
from tests.more import ON_FILES_FIRST
from tests.node.desk import Desk, changed
from tests.node.outbox import Outbox
from tests.node.test_journey import valid
from tests.node.test_revisions import renamed
from tests.stores import STORES

pytestmark = [
    pytest.mark.unit,
    ON_FILES_FIRST,
    pytest.mark.usefixtures("back_end"),
]


def uids(desk: Desk, uid: str) -> set[str]:
    """Return what the PACS gets of a study: not the report that stands by for one that it might not take."""
    (wants,) = (d.wants for d in desk.settings.destination)
    return {a.sop_uid for job in desk.jobs(uid) for a in select(wants, jobs.artifacts(desk.db, job)).objects}


def card_then_result(desk: Desk, slices: list[Path], uid: str) -> tuple[str, set[str]]:
    """Let a study kill its workers, its card arrive, and a person's retry bring a result; return the UIDs of both."""
    desk.receive(slices)
    desk.after(4000.0)
    limit = desk.settings.worker.attempts
    for _ in range(limit):
        assert jobs.claim(desk.db, 1, "killed", desk.now, 30.0) is not None
        assert recover.worker_ended(desk.db, "killed", desk.now, limit, planned=False) == 1
        desk.now += 1000.0
    desk.work()
    (card,) = uids(desk, uid)
    desk.deliver()
    assert operator.retry(desk.db, desk.now, study_uid=uid) == 1
    desk.work()
    desk.deliver()
    result = uids(desk, uid)
    assert len(result) == 3
    assert card not in result
    return card, result


def to_remove(desk: Desk, uid: str) -> set[str]:
    shown = desk.show(uid)
    valid(shown)
    (correction,) = shown["corrections"]
    assert {o["destination"] for o in correction["delivered"]} <= {"pacs"}
    return {o["sop_instance_uid"] for o in correction["delivered"]}


def test_a_card_that_a_result_has_replaced_is_removed_too_when_the_patient_was_wrong(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path
) -> None:
    card, result = card_then_result(desk, slices, uid)
    shown = desk.show(uid)
    valid(shown)
    (job,) = shown["jobs"]
    assert {a["sop_instance_uid"] for a in job["artifacts"]} > result
    assert [(r["sop_instance_uid"], r["left_at"]) for r in job["replaced"]] == [(card, ["pacs"])]
    words = Words("en", datetime.fromtimestamp(desk.now, UTC), UTC)
    assert any(card in line and "left at pacs, replaced" in line for line in _study.tell(shown, words))
    assert index.artifacts(desk.db, [card]) == {card}, "if the PACS sends it back, it is ours"
    (delivery,) = shown["deliveries"]
    assert {o["sop_instance_uid"] for o in delivery["objects"]} == result
    desk.receive(changed(slices, tmp_path / "right", renamed))
    assert to_remove(desk, uid) == {card, *result}
    (alarm,) = alarms.standing(desk.db, uid)
    assert "pacs" in alarm.reason["text"]["en"]


def test_what_replaced_it_is_what_is_sent_carried_and_followed(desk: Desk, slices: list[Path], uid: str) -> None:
    _, result = card_then_result(desk, slices[:-1], uid)
    assert operator.resend(desk.db, uid, desk.now) == ("pacs",)
    taken = deliveries.take(desk.db, "pacs", desk.now)
    assert taken is not None
    assert deliveries.sent(desk.db, taken.id) == {}
    assert deliveries.settle(desk.db, taken, desk.now, "delivered")
    desk.receive(slices[-1:])
    desk.finish()
    second = desk.jobs(uid)[-1]
    before = jobs.predecessor(desk.db, second)
    assert before is not None
    assert {a.sop_uid for a in jobs.artifacts(desk.db, before)} > result


def test_where_nothing_took_its_place_nothing_is_sent_again(desk: Desk, slices: list[Path], uid: str) -> None:
    _, result = card_then_result(desk, slices, uid)
    with desk.db.write() as c:
        c.exec_driver_sql("UPDATE job SET state = 'waiting', attempts = 0")
    job = jobs.claim(desk.db, 1, "w", desk.now, 30.0)
    assert job is not None
    ended: dict[str, Any] = {"state": "done", "outcome": "result", "reason": None, "document": {}}
    assert jobs.finish(desk.db, job, "w", desk.now, **ended, quarantined={"pacs": {"code": "gate"}})
    assert uids(desk, uid) == set()
    assert operator.resend(desk.db, uid, desk.now) == ()
    assert len(desk.show(uid)["jobs"][0]["replaced"]) == 1 + len(result)


def test_an_object_that_is_made_again_is_no_replaced_one(desk: Desk, slices: list[Path], uid: str) -> None:
    card, result = card_then_result(desk, slices, uid)
    with desk.db.write() as c:
        c.exec_driver_sql("UPDATE job SET state = 'dead'")
    assert operator.retry(desk.db, desk.now, study_uid=uid) == 1
    desk.work()
    assert uids(desk, uid) == result
    assert [r["sop_instance_uid"] for r in desk.show(uid)["jobs"][0]["replaced"]] == [card]


@pytest.mark.parametrize("then", ["waits", "refused", "not found"])
def test_what_was_sent_again_is_removed_too_whatever_came_of_that(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path, then: str
) -> None:
    desk.receive(slices)
    desk.after(4000.0)
    desk.work()
    desk.deliver()
    left = uids(desk, uid)
    if then == "not found":
        with desk.db.write() as c:
            c.execute(sa.text("UPDATE delivery SET proof = 'waiting', proof_next = :v"), {"v": desk.now})
        (asked,) = deliveries.deliveries(desk.db, uid)
        assert proofs.send_again(desk.db, asked, desk.now, left)
    else:
        assert operator.resend(desk.db, uid, desk.now) == ("pacs",)
    if then == "refused":
        desk.deliver(refused=True)
    desk.receive(changed(slices, tmp_path / "right", renamed))
    assert to_remove(desk, uid) == left
    assert desk.alarms(uid) == {"results-under-old-identity"}


def test_retention_and_a_rebuilt_index_know_it(desk: Desk, slices: list[Path], uid: str, tmp_path: Path) -> None:
    card, result = card_then_result(desk, slices, uid)
    desk.receive(changed(slices, tmp_path / "right", renamed))
    desk.finish()
    desk.deliver()
    assert alarms.dismissed(desk.db, "results-under-old-identity", uid, desk.now) == 1
    desk.now += 400 * 86400.0
    Retention(desk.db, desk.folder, Storage(images_days=0.0, results_days=365.0), desk.spool).tick(desk.now)
    assert list(desk.folder.artifacts.iterdir()) == []
    assert to_remove(desk, uid) == {card, *result}
    desk.stop()
    now = datetime.fromtimestamp(desk.now, UTC)
    document = Rebuild(desk.settings, desk.folder, "test", lambda: now, lambda _line: None).run()
    desk.start()
    assert document["old_database"]["carried_over"]
    assert to_remove(desk, uid) == {card, *result}
    assert [r["sop_instance_uid"] for r in desk.show(uid)["jobs"][0]["replaced"]] == [card]


def test_a_carried_result_that_is_replaced_is_removed_too(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "box")
    uid = box.add()
    box.arrive(uid, 2)
    box.finish(uid, carried_from=1, to=("pacs", "second"))
    carried = jobs.jobs(box.db, uid)[-1]
    (old, _) = box.of(carried.id)
    taken = deliveries.take(box.db, "second", box.now)
    assert taken is not None
    assert deliveries.remember(box.db, taken, Sent(old, True, 0, None, box.now))
    with box.db.write() as c:
        c.execute(sa.text("UPDATE job SET state = 'waiting' WHERE id = :v"), {"v": carried.id})
    job = jobs.claim(box.db, carried.id, "w", box.now, 30.0)
    assert job is not None
    assert jobs.finish(box.db, job, "w", box.now, state="done", outcome="failed", reason=None, document={})
    box.arrive(uid, identity=json.dumps({"PatientID": "RIGHT"}), relation="corrected")
    (correction,) = corrections.told(box.db, uid)
    assert ("second", old) in {(o["destination"], o["sop_instance_uid"]) for o in correction["delivered"]}
    box.db.close()


def lost_database(desk: Desk, damage: str) -> dict[str, Any]:
    """Lose what the database knew, and rebuild the index."""
    desk.stop()
    STORES.spoil(desk.folder.path, damage)
    now = datetime.fromtimestamp(desk.now, UTC)
    document = Rebuild(desk.settings, desk.folder, "test", lambda: now, lambda _line: None).run()
    valid(document)
    assert not document["old_database"]["carried_over"]
    desk.start()
    return document


@pytest.mark.parametrize("damage", ["gone", "damaged"])
def test_without_the_old_database_nobody_says_that_nothing_had_left(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path, damage: str
) -> None:
    right = changed(slices, tmp_path / "right", renamed)
    third = changed(right, tmp_path / "third", lambda ds: setattr(ds, "PatientID", "THIRD"))
    desk.receive(slices)
    desk.finish()
    desk.receive(right)
    desk.finish()
    wrong = {o["sop_instance_uid"] for o in desk.show(uid)["corrections"][0]["delivered"]}
    desk.receive(third)
    desk.finish()
    before = desk.show(uid)["corrections"]
    left = {o["sop_instance_uid"] for c in before for o in c["delivered"]}
    assert len(left) == 6
    present = uids(desk, uid) - left
    document = lost_database(desk, damage)
    assert document["unknown_left"] == [desk.study(uid).hash]
    for _ in range(2):  # also after the study has been worked again
        shown = desk.show(uid)
        valid(shown)
        assert {tuple(c["unknown_at"]) for c in shown["corrections"]} == {("pacs",)}
        listed = {(o["destination"], o["sop_instance_uid"], o["state"]) for o in shown["corrections"][-1]["delivered"]}
        assert listed > {("pacs", sop, "unknown") for sop in left}
        assert len(listed) == len(left) + 2, "and the two reports that stood by: nobody knows that they did not leave"
        assert wrong < left
        words = Words("en", datetime.fromtimestamp(desk.now, UTC), UTC)
        lines = list(_study.tell(shown, words))
        assert not any("0 objects had left" in line for line in lines)
        (alarm,) = shown["alarms"]
        assert alarm["code"] == "results-under-old-identity"
        assert "pacs" in alarm["reason"]["text"]["en"]
        desk.finish()
    assert uids(desk, uid) == present
    assert desk.sends(uid) == ["delivered"]
    # another correction, and another rebuilding: what is unknown stays so
    desk.receive(changed(third, tmp_path / "fourth", lambda ds: setattr(ds, "PatientID", "FOURTH")))
    desk.stop()
    now = datetime.fromtimestamp(desk.now, UTC)
    document = Rebuild(desk.settings, desk.folder, "test", lambda: now, lambda _line: None).run()
    desk.start()
    assert (document["old_database"]["carried_over"], document["unknown_left"]) == (True, [])
    assert [c["unknown_at"] for c in desk.show(uid)["corrections"]][-2:] == [["pacs"], []]
    assert {o["sop_instance_uid"] for o in desk.show(uid)["corrections"][-1]["delivered"]} == present
    assert alarms.dismissed(desk.db, "results-under-old-identity", uid, desk.now) == 1
    desk.finish()
    assert desk.alarms(uid) == set()


def test_a_later_correction_still_names_the_places_that_nobody_knows_of(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path
) -> None:
    right = changed(slices, tmp_path / "right", renamed)
    desk.receive(slices)
    desk.finish()
    desk.receive(right)
    lost_database(desk, "gone")
    desk.after(4000.0)
    assert alarms.dismissed(desk.db, "results-under-old-identity", uid, desk.now) == 1
    desk.receive(changed(right, tmp_path / "third", lambda ds: setattr(ds, "AccessionNumber", "THIRD")))
    assert desk.alarms(uid) == {"results-under-old-identity"}, "as without a loss: every correction names all places"


def test_a_study_that_was_never_corrected_does_not_ring_after_a_loss(desk: Desk, slices: list[Path]) -> None:
    desk.receive(slices)
    desk.finish()
    assert lost_database(desk, "gone")["unknown_left"] == []
    assert desk.alarms() == set()
