"""Results that something overtakes on their way: a correction, a late image, another patient, a person's command."""

from pathlib import Path

import pytest

from node.store import deliveries, jobs, operator, proofs
from node.store.rows import Delivery, Sent
from tests.leaving import chosen
from tests.more import once
from tests.node.desk import Desk, changed
from tests.node.test_revisions import new_accession, other_series, predecessors, renamed

pytestmark = pytest.mark.unit


def rows(desk: Desk, uid: str) -> list[tuple[int, str]]:
    return [(d.revision, d.state) for d in deliveries.deliveries(desk.db, uid)]


def sending(desk: Desk) -> Delivery:
    """Let the study close and its work be done; begin to deliver it."""
    desk.after(4000.0)
    desk.work()
    taken = deliveries.take(desk.db, "pacs", desk.now)
    assert taken is not None
    return taken


def fails(desk: Desk, taken: Delivery) -> bool:
    """The attempt comes to nothing; it would be made again after ten minutes."""
    return deliveries.settle(desk.db, taken, desk.now, "waiting", next_attempt=desk.now + 600.0)


def accept(desk: Desk, taken: Delivery, kind: str) -> None:
    job = jobs.job(desk.db, taken.job_id)
    assert job is not None
    (sop,) = [a.sop_uid for a in jobs.artifacts(desk.db, job) if a.kind == kind]
    assert deliveries.remember(desk.db, taken, Sent(sop, True, 0, None, desk.now))


@pytest.mark.parametrize(
    ("change", "closed_between"),
    once([(renamed, True), (new_accession, False)], [renamed, new_accession], [False, True]),
)
def test_a_correction_to_an_identity_that_a_late_series_already_has(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path, closed_between: bool, change: object
) -> None:
    assert callable(change)
    desk.receive(slices)
    desk.finish()
    desk.receive(changed(other_series(slices[:3], tmp_path / "late", SeriesNumber=7), tmp_path / "late right", change))
    if closed_between:
        desk.finish()
    desk.after(1.0)
    before = desk.study(uid).revision
    desk.receive(changed(slices, tmp_path / "right", change))
    study = desk.study(uid)
    assert (study.corrected, study.identity_since, study.revision) == (1, before + closed_between, study.identity_since)
    assert operator.resend(desk.db, uid, desk.now) == (), "nothing leaves under the old identity, whoever asks"
    assert "results-under-old-identity" in desk.alarms(uid)
    desk.finish()
    study = desk.study(uid)
    named = (study.patient_id, study.accession)
    assert named[change is new_accession] == ("RIGHT-1", "ACC-RIGHT")[change is new_accession]
    assert desk.jobs(uid)[-1].outcome == "result"
    assert study.patient_since == (study.identity_since if change is renamed else 1)
    (correction,) = desk.show(uid)["corrections"]
    assert {d["state"] for d in correction["delivered"]} == {"delivered"}
    if change is renamed:
        assert predecessors(desk, uid) == [False, False], "a stranger's report is nobody's predecessor"


def test_nothing_more_is_asked_about_what_left_under_the_old_identity(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path
) -> None:
    desk.receive(slices)
    taken = sending(desk)
    for kind in ("seg", "sr", "sc"):
        accept(desk, taken, kind)
    assert deliveries.settle(desk.db, taken, desk.now, "delivered", proof=("waiting", desk.now + 2.0))
    asked = deliveries.deliveries(desk.db, uid)[0]
    desk.receive(changed(slices, tmp_path / "right", renamed))
    desk.after(5.0)
    assert proofs.due(desk.db, "pacs", desk.now) is None
    # the answer to a question that was under way: a person has removed the old objects, as the alarm asks
    objects = chosen(desk.db, desk.jobs(uid)[:1])
    assert not proofs.send_again(desk.db, asked, desk.now, sorted(objects))
    assert deliveries.take(desk.db, "pacs", desk.now) is None
    (correction,) = desk.show(uid)["corrections"]
    assert {o["sop_instance_uid"] for o in correction["delivered"]} == objects


def test_what_a_later_revision_replaces_is_not_sent_a_second_time(desk: Desk, slices: list[Path], uid: str) -> None:
    desk.receive(slices[:-1])
    taken = sending(desk)
    assert deliveries.settle(desk.db, taken, desk.now, "delivered", proof=("waiting", desk.now + 2.0))
    desk.receive(slices[-1:])
    desk.after(5.0)
    asked = proofs.due(desk.db, "pacs", desk.now)
    assert asked is not None
    assert not proofs.send_again(desk.db, asked, desk.now, [])
    assert proofs.due(desk.db, "pacs", desk.now) is None
    desk.finish()
    assert rows(desk, uid) == [(1, "superseded"), (2, "delivered")]


@pytest.mark.parametrize("carried", ["before", "after"])
def test_a_result_that_still_stands_and_is_not_there_is_sent_again(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path, carried: str
) -> None:
    desk.receive(slices)
    taken = sending(desk)
    assert deliveries.settle(desk.db, taken, desk.now, "delivered", proof=("waiting", desk.now + 2.0))
    desk.receive(other_series(slices[:3], tmp_path / "late", SeriesNumber=7))
    if carried == "before":
        desk.after(4000.0)
        desk.work()
    desk.after(5.0)
    asked = proofs.due(desk.db, "pacs", desk.now)
    assert asked is not None
    assert proofs.send_again(desk.db, asked, desk.now, []) == (carried == "before")
    desk.finish()
    assert desk.jobs(uid)[-1].carried_from == 1
    assert rows(desk, uid) == ([(1, "delivered")] if carried == "before" else [(1, "superseded"), (2, "delivered")])


@pytest.mark.parametrize(
    ("late", "ends"),
    once(
        [("image", "fails"), ("patient", "is held"), ("image", "restart")],
        ["image", "patient"],
        ["fails", "is held", "restart"],
    ),
)
def test_what_is_overtaken_while_it_is_sent_is_not_tried_again(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path, ends: str, late: str
) -> None:
    desk.receive(slices[:-1])
    taken = sending(desk)
    desk.receive(slices[-1:] if late == "image" else changed(slices[-1:], tmp_path / "other", renamed))
    if ends == "restart":
        deliveries.interrupted(desk.db, desk.now)
    else:
        state = "waiting" if ends == "fails" else "held"
        assert not deliveries.settle(desk.db, taken, desk.now, state, next_attempt=desk.now + 600.0)
    assert rows(desk, uid) == [(1, "superseded")]
    desk.finish()
    assert rows(desk, uid) == [(1, "superseded")] + ([(2, "delivered")] if late == "image" else [])


@pytest.mark.parametrize("work", ["before", "after"])
def test_a_carried_result_whose_attempt_fails_arrives_all_the_same(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path, work: str
) -> None:
    desk.receive(slices)
    taken = sending(desk)
    desk.receive(other_series(slices[:3], tmp_path / "late", SeriesNumber=7))
    if work == "before":
        desk.after(4000.0)
        desk.work()
        assert rows(desk, uid) == [(1, "sending")], "it is on its way and stands: nothing else is queued"
    assert fails(desk, taken) == (work == "before")
    desk.after(4000.0)
    desk.work()
    desk.deliver()
    assert desk.jobs(uid)[-1].carried_from == 1
    assert rows(desk, uid) == ([(1, "delivered")] if work == "before" else [(1, "superseded"), (2, "delivered")])


def test_what_a_person_sends_while_the_study_is_open_again_is_tried_until_it_arrives(
    desk: Desk, slices: list[Path], uid: str
) -> None:
    desk.receive(slices[:-1])
    desk.finish()
    desk.receive(slices[-1:])
    assert operator.resend(desk.db, uid, desk.now) == ("pacs",)
    taken = deliveries.take(desk.db, "pacs", desk.now)
    assert taken is not None
    assert fails(desk, taken)
    assert rows(desk, uid) == [(1, "waiting")]


@pytest.mark.parametrize(("kind", "named"), [("seg", False), ("sr", True)])
def test_the_rest_of_an_overtaken_result_is_not_sent_and_a_report_that_arrived_is_the_predecessor(
    desk: Desk, slices: list[Path], uid: str, kind: str, named: bool
) -> None:
    desk.receive(slices[:-1])
    taken = sending(desk)
    accept(desk, taken, kind)
    desk.receive(slices[-1:])
    assert not fails(desk, taken)
    desk.finish()
    assert rows(desk, uid) == [(1, "superseded"), (2, "delivered")]
    assert predecessors(desk, uid) == [False, named]


@pytest.mark.parametrize("which", ["grown", "open"])
def test_cancelled_early_work_on_fewer_images_does_not_come_back(
    desk: Desk, slices: list[Path], uid: str, which: str
) -> None:
    desk.receive(slices[:21])
    desk.after(2.0)
    assert desk.study(uid).state == "early"
    assert operator.cancel(desk.db, desk.now, study_uid=uid) == 1
    desk.receive(slices[21:])
    if which == "open":
        assert operator.retry(desk.db, desk.now, study_uid=uid) == 0
        desk.finish()
    else:
        desk.finish()
        assert operator.retry(desk.db, desk.now, study_uid=uid) == 0
        desk.finish()
    assert [j.state for j in desk.jobs(uid)] == ["superseded", "done"]
    assert rows(desk, uid) == [(1, "delivered")]
