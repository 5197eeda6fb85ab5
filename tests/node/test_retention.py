"""What has had its time goes; what anybody still needs stays, whatever its age, whatever the pressure."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from config.settings import Storage
from node import failpoint, retention, watermarks
from node.retention import Retention, old, why_kept
from node.spool import journals, read_journal
from node.store import jobs, operator, storage, studies, tables
from node.store.rows import Finished
from node.watermarks import Measured
from tests.node.desk import Desk, changed

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("back_end")]

DAY = 86400.0
DONE = Finished("closed", 0.0, 0.0, frozenset({("done", True)}), frozenset({("delivered", "find")}), 0)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, None),
        ({"state": "open"}, "open"),
        ({"state": "early"}, "open"),
        ({"jobs": frozenset({("waiting", True)})}, "unprocessed"),
        ({"jobs": frozenset({("running", False)})}, "unprocessed"),
        ({"jobs": frozenset({("dead", True)})}, "operator"),
        ({"jobs": frozenset({("dead", False), ("done", True)})}, None),
        ({"jobs": frozenset({("superseded", False), ("cancelled", True)})}, None),
        ({"jobs": frozenset()}, None),
        ({"deliveries": frozenset({("held", None)})}, "undelivered"),
        ({"deliveries": frozenset({("waiting", None)})}, "undelivered"),
        ({"deliveries": frozenset({("sending", None)})}, "undelivered"),
        ({"deliveries": frozenset({("dead", None), ("delivered", "find")})}, "operator"),
        ({"deliveries": frozenset({("quarantined", None)})}, "operator"),
        ({"deliveries": frozenset({("superseded", None), ("cancelled", None), ("confirmed", "find")})}, None),
        ({"deliveries": frozenset({("delivered", "waiting")})}, "undelivered"),
        ({"deliveries": frozenset({("delivered", "again")})}, "undelivered"),
        ({"deliveries": frozenset({("delivered", "missing")})}, "undelivered"),
        ({"deliveries": frozenset({("delivered", "none"), ("delivered", "not-offered")})}, None),
        ({"deliveries": frozenset({("delivered", "unanswered")})}, None),
        ({"alarms": 1}, "alarm"),
    ],
)
def test_each_reason_to_stay(change: dict[str, Any], why: str | None) -> None:
    assert why_kept(replace(DONE, **change)) == why


JOBS = ("waiting", "running", "done", "dead", "superseded", "cancelled")
SENDS = ("held", "waiting", "sending", "delivered", "confirmed", "quarantined", "superseded", "cancelled", "dead")
PROOFS = (None, "waiting", "again", "find", "commitment", "none", "not-offered", "unanswered", "missing")


@given(
    st.builds(
        Finished,
        state=st.sampled_from(("open", "early", "closed")),
        active=st.just(0.0),
        ended=st.just(0.0),
        jobs=st.frozensets(st.tuples(st.sampled_from(JOBS), st.booleans()), max_size=4),
        deliveries=st.frozensets(st.tuples(st.sampled_from(SENDS), st.sampled_from(PROOFS)), max_size=4),
        alarms=st.integers(0, 2),
    )
)
def test_nothing_that_must_stay_is_let_go(x: Finished) -> None:
    if why_kept(x) is not None:
        return
    assert x.state == "closed"
    assert not x.alarms
    assert {state for state, _ in x.jobs} <= {"done", "superseded", "cancelled", "dead"}
    assert ("dead", True) not in x.jobs
    arrived = {(s, p) for s, p in x.deliveries if s in ("confirmed", "delivered") and p not in ("missing", "waiting")}
    assert all(s in ("superseded", "cancelled") or (s, p) in arrived or s == "confirmed" for s, p in x.deliveries)


@pytest.mark.parametrize(
    ("since", "days", "is_old"),
    [(0.0, 30.0, True), (70 * DAY, 30.0, False), (69.9 * DAY, 30.0, True), (0.0, 0.0, False), (200 * DAY, 1.0, False)],
)
def test_age(since: float, days: float, is_old: bool) -> None:
    assert old(since, days, 100 * DAY) is is_old


@pytest.fixture
def slices(ct: list[Path]) -> list[Path]:
    return ct[30:34]


@pytest.fixture
def uid(ct: list[Path]) -> str:
    return str(dcmread(ct[0], specific_tags=["StudyInstanceUID"]).StudyInstanceUID)


def keeper(desk: Desk, **limits: Any) -> Retention:
    return Retention(desk.db, desk.folder, Storage(**limits), desk.spool)


def arrive(desk: Desk, uid: str) -> None:
    """Let every delivery of a study be confirmed."""
    desk.deliver()
    with desk.db.write() as c:
        c.execute(sa.text("UPDATE delivery SET state = 'confirmed' WHERE study_uid = :uid"), {"uid": uid})


def files(desk: Desk) -> list[Path]:
    return sorted(desk.folder.spool.glob("??/*.dcm"))


def finish(desk: Desk, uid: str) -> None:
    desk.after(4000.0)
    assert desk.work()
    arrive(desk, uid)


def test_images_of_a_finished_study_go_after_their_time_and_not_before(
    desk: Desk, slices: list[Path], uid: str
) -> None:
    desk.receive(slices)
    finish(desk, uid)
    keep = keeper(desk, images_days=30.0, results_days=365.0)
    keep.tick(desk.now + 29 * DAY)
    assert len(files(desk)) == 4
    desk.now += 31 * DAY
    keep.tick(desk.now)
    assert files(desk) == []
    desk.after(1.0)
    assert storage.missing(desk.db, uid) == 4
    assert desk.events(uid, "images-removed")[0]["files"] == 4
    records = [r for p in journals(desk.folder.path) for r in read_journal(p)[0] if r["kind"] == "removed"]
    assert len(records) == 4
    assert desk.show(uid)["jobs"][0]["outcome"] == "result"
    assert list(desk.folder.artifacts.rglob("seg.dcm")), "results stay longer"


def test_the_decision_is_taken_again_once_nobody_can_add_to_the_study(
    desk: Desk, slices: list[Path], uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.receive(slices)
    finish(desk, uid)
    keep = keeper(desk, images_days=30.0)
    desk.now += 31 * DAY
    alone = keep._spool.held

    def held(**more: bool) -> Any:
        with desk.db.write() as c:  # somebody asks for a result while retention waits for receivers
            c.execute(sa.text("UPDATE delivery SET state = 'waiting' WHERE study_uid = :uid"), {"uid": uid})
        return alone(**more)

    monkeypatch.setattr(keep._spool, "held", held)
    keep.tick(desk.now)
    assert len(files(desk)) == 4


@pytest.mark.parametrize("spoil", ["open", "waiting", "dead job", "undelivered", "dead", "quarantined", "alarm"])
def test_an_unfinished_study_stays_whatever_its_age_and_the_pressure(
    desk: Desk, slices: list[Path], uid: str, spoil: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.receive(slices)
    if spoil != "open":
        desk.after(4000.0)
    if spoil not in ("open", "waiting"):
        desk.work()
    with desk.db.write() as c:
        if spoil == "dead job":
            c.exec_driver_sql("UPDATE job SET state = 'dead'")
            c.exec_driver_sql("UPDATE delivery SET state = 'confirmed'")
        elif spoil in ("dead", "quarantined"):
            c.execute(sa.text("UPDATE delivery SET state = :s"), {"s": spoil})
        elif spoil == "alarm":
            c.exec_driver_sql("UPDATE delivery SET state = 'confirmed'")
            c.execute(tables.alarm.insert().values(code="a", subject=uid, study_uid=uid, raised=1.0, reason={}))
    monkeypatch.setattr(watermarks, "room", lambda _folder, _waiting=None: Measured(0, None))
    keep = keeper(desk, images_days=1.0, results_days=1.0, keep_free_mb=1000)
    for _ in range(3):
        desk.now += 1000 * DAY
        keep.tick(desk.now)
    assert len(files(desk)) == 4
    assert bool(list(desk.folder.artifacts.rglob("seg.dcm"))) == (spoil not in ("open", "waiting"))


def test_under_pressure_the_oldest_go_first_and_only_as_many_as_it_takes(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def another(dataset: Any) -> None:
        dataset.StudyInstanceUID = "2.25.4711"
        dataset.SOPInstanceUID += ".1"

    desk.receive(slices)
    finish(desk, uid)
    desk.receive(changed(slices, tmp_path / "another", another))
    finish(desk, "2.25.4711")
    refused = desk.folder.quarantine / "received" / "x.dcm"
    refused.write_bytes(b"refused")

    def room(_folder: Path, _waiting: int | None = None) -> Measured:
        return Measured(0 if refused.exists() or len(files(desk)) > 4 else 100 << 20)

    monkeypatch.setattr(watermarks, "room", room)
    keep = keeper(desk, images_days=0.0, results_days=0.0, quarantine_days=0.0, keep_free_mb=50)
    keep.tick(desk.now)
    desk.after(1.0)
    assert not refused.exists()
    assert storage.missing(desk.db, uid) == 4
    assert storage.missing(desk.db, "2.25.4711") == 0
    keep.tick(desk.now)
    assert len(files(desk)) == 4


def test_nothing_goes_while_a_record_is_not_indexed(desk: Desk, slices: list[Path], uid: str) -> None:
    desk.receive(slices)
    finish(desk, uid)
    desk.now += 100 * DAY
    desk.note("association-open", association="z", calling="CT1", called="NODE", peer="127.0.0.1")
    keep = keeper(desk, images_days=30.0)
    keep.tick(desk.now)
    assert len(files(desk)) == 4
    desk.after(0.0)
    keep.tick(desk.now)
    assert files(desk) == []


def test_nothing_goes_while_a_receiver_stores(
    desk: Desk, slices: list[Path], uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.spool.HELD_S", 0.05)
    desk.receive(slices)
    finish(desk, uid)
    desk.now += 100 * DAY
    keep = keeper(desk, images_days=30.0)
    with desk.spool.held(), desk.spool.held():
        keep.tick(desk.now)
        assert len(files(desk)) == 4
    keep.tick(desk.now)
    assert files(desk) == []
    with desk.spool.held(alone=True), pytest.raises(BlockingIOError), desk.spool.held():
        pass


def test_a_removed_image_that_comes_again_is_stored_and_no_new_work(desk: Desk, slices: list[Path], uid: str) -> None:
    desk.receive(slices)
    finish(desk, uid)
    before = len(desk.jobs(uid))
    desk.now += 31 * DAY
    keep = keeper(desk, images_days=30.0)
    keep.tick(desk.now)
    desk.after(1.0)
    assert desk.receive(slices[:2]) == ["stored", "stored"]
    desk.after(4000.0)
    assert len(files(desk)) == 2
    assert storage.missing(desk.db, uid) == 2
    assert (desk.study(uid).state, desk.study(uid).revision, len(desk.jobs(uid))) == ("closed", 1, before)
    keep.tick(desk.now)
    desk.after(1.0)
    assert files(desk) == [], "its study had its time"


def test_a_late_image_of_a_study_whose_images_are_gone_fails_visibly_until_all_come_again(
    desk: Desk, slices: list[Path], uid: str
) -> None:
    desk.receive(slices[:3])
    finish(desk, uid)
    desk.now += 31 * DAY
    keep = keeper(desk, images_days=30.0)
    keep.tick(desk.now)
    desk.after(1.0)

    desk.receive(slices[3:])
    desk.after(4000.0)
    job = desk.jobs(uid)[-1]
    assert (job.state, job.outcome, job.revision) == ("dead", "failed", 2)
    assert job.reason is not None
    assert job.reason["code"] == "images-removed"
    assert "send the whole study again" in job.reason["hint"]["en"].lower()
    assert desk.alarms(uid) == {"images-removed"}
    assert operator.retry(desk.db, desk.now, study_uid=uid) == 0, "there is nothing that could run"
    assert desk.work() == []
    desk.now += 100 * DAY
    keep.tick(desk.now)
    assert len(files(desk)) == 1, "a person is asked: nothing goes"

    desk.receive(slices[:2])  # a part is not enough
    desk.after(4000.0)
    assert desk.jobs(uid)[-1].outcome == "failed"
    desk.receive(slices)
    desk.after(4000.0)
    assert desk.work() == [True]
    assert desk.jobs(uid)[-1].outcome == "result"
    assert desk.alarms(uid) == set()


class _Killed(BaseException):
    pass


def test_a_kill_between_record_and_removal_is_made_good_at_the_next_start(
    desk: Desk, slices: list[Path], uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.receive(slices)
    finish(desk, uid)
    desk.now += 31 * DAY

    def die(name: str) -> None:
        assert name in failpoint.NAMES
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(retention, "passing", die)
        with pytest.raises(_Killed):
            keeper(desk, images_days=30.0).tick(desk.now)
    assert len(files(desk)) == 4
    # before the coordinator is up again, one of them comes again and is acknowledged
    desk.now += 1.0
    assert desk.receive(slices[:1]) == ["duplicate"]
    assert storage.missing(desk.db, uid) == 3
    again = keeper(desk, images_days=300.0)
    again.tick(desk.now)
    assert len(files(desk)) == 1
    assert storage.missing(desk.db, uid) == 3


def test_a_clock_that_was_set_back_does_not_undo_a_removal(desk: Desk, slices: list[Path], uid: str) -> None:
    desk.now += 300 * DAY
    desk.receive(slices)
    finish(desk, uid)
    with desk.db.write() as c:
        c.execute(sa.text("UPDATE study SET active = active - :s"), {"s": 400 * DAY})
    desk.now -= 200 * DAY
    keeper(desk, images_days=30.0).tick(desk.now)
    desk.after(1.0)
    assert (files(desk), storage.missing(desk.db, uid)) == ([], 4)


def test_results_go_after_theirs_and_resend_says_so(desk: Desk, slices: list[Path], uid: str) -> None:
    desk.receive(slices)
    finish(desk, uid)
    keep = keeper(desk, images_days=0.0, results_days=365.0)
    keep.tick(desk.now + 364 * DAY)
    assert list(desk.folder.artifacts.rglob("seg.dcm"))
    keep.tick(desk.now + 366 * DAY)
    assert list(desk.folder.artifacts.iterdir()) == []
    assert len(files(desk)) == 4
    assert jobs.artifacts(desk.db, desk.jobs(uid)[0]) == ()
    assert desk.events(uid, "results-removed")


def test_a_job_that_is_asked_for_again_when_its_images_are_gone_says_so(
    desk: Desk, slices: list[Path], uid: str
) -> None:
    desk.receive(slices)
    finish(desk, uid)
    desk.now += 31 * DAY
    keeper(desk, images_days=30.0).tick(desk.now)
    desk.after(1.0)
    with desk.db.write() as c:
        c.exec_driver_sql("UPDATE job SET state = 'cancelled'")
    assert operator.retry(desk.db, desk.now, study_uid=uid) == 1
    desk.work()
    (job,) = desk.jobs(uid)
    assert job.reason is not None
    assert (job.outcome, job.reason["code"]) == ("failed", "images-removed")


def test_copies_of_refused_objects_go_after_theirs(desk: Desk) -> None:
    place = desk.folder.quarantine / "received"
    for name, days in (("a", 100), ("b", 80)):
        for kind in ("dcm", "json"):
            path = place / f"{name}.{kind}"
            path.write_bytes(b"x")
            os.utime(path, (desk.now - days * DAY, desk.now - days * DAY))
    keeper(desk, quarantine_days=90.0).tick(desk.now)
    assert sorted(p.name for p in place.iterdir()) == ["b.dcm", "b.json"]


def test_journals_go_when_everything_in_them_has_gone(desk: Desk, slices: list[Path], uid: str) -> None:
    desk.receive(slices)
    finish(desk, uid)
    desk.journal.close()
    desk.now += 2 * DAY
    desk.start_journal()
    desk.note("association-open", association="z", calling="CT1", called="NODE", peer="127.0.0.1")
    desk.after(0.0)
    first, second = journals(desk.folder.path)
    keep = keeper(desk, images_days=30.0)

    def look(times: int = 6) -> list[str]:
        for path in journals(desk.folder.path):
            os.utime(path, (desk.now - 40 * DAY, desk.now - 40 * DAY))
        for _ in range(times):
            keep._one_journal(desk.now)
        return [p.name for p in journals(desk.folder.path)]

    assert look() == [first.name, second.name], "its images stand"
    desk.now += 31 * DAY
    keep._now = desk.now
    keep._images(desk.now)
    removals = journals(desk.folder.path)[-1]
    assert retention.REMOVALS in removals.name
    assert first.name in look(1), "the removals are not indexed yet"
    desk.after(0.0)
    assert look() == [second.name, removals.name], "the last of a living process stays, and what refers to it"
    assert len(read_journal(second)[0]) == 1
    assert desk.show(uid)["instances"] == 4


@pytest.mark.parametrize("back_end", ["sqlite"], indirect=True)  # about a file that is lost
def test_what_remains_can_be_rebuilt(desk: Desk, slices: list[Path], uid: str, tmp_path: Path) -> None:
    desk.receive(slices)
    finish(desk, uid)
    desk.now += 31 * DAY
    keeper(desk, images_days=30.0).tick(desk.now)
    desk.after(0.0)
    desk.stop()
    for path in desk.folder.path.glob("node.sqlite3*"):
        shutil.move(path, tmp_path / path.name)
    desk.start()
    desk.after(1.0)
    desk.after(4000.0)
    found = studies.study(desk.db, uid)
    assert found is None or desk.jobs(uid) == (), "nothing is analysed again that is not there"
    desk.receive(slices)
    desk.after(4000.0)
    assert desk.work() == [True]
    assert desk.jobs(uid)[-1].outcome == "result"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(("open", "early", "closed")),
            st.lists(st.sampled_from(JOBS), max_size=2),
            st.lists(st.sampled_from(SENDS), max_size=2),
            st.booleans(),
            st.integers(0, 60),
        ),
        min_size=1,
        max_size=6,
    ),
    pressed=st.booleans(),
)
def test_over_rows_nothing_goes_that_must_stay(
    rows: Sequence[tuple[str, list[str], list[str], bool, int]], pressed: bool, tmp_path_factory: Any
) -> None:
    desk = Desk(tmp_path_factory.mktemp("rows"), None)  # type: ignore[arg-type]
    now = desk.now
    try:
        with desk.db.write() as c:
            for n, row in enumerate(rows):
                _put(c, desk, n, row, now)
        free = 0 if pressed else 1 << 40
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(watermarks, "room", lambda _folder, _waiting=None: Measured(free))
            keeper(desk, images_days=30.0, keep_free_mb=1).tick(now)
        for n, (state, works, sends, alarmed, days) in enumerate(rows):
            settled = state == "closed" and not alarmed and set(works) <= {"done", "superseded", "cancelled"}
            settled = settled and set(sends) <= {"confirmed", "superseded", "cancelled", "delivered"}
            gone = settled and (days > 30 or pressed)
            assert (desk.folder.spool / f"00/{n}.dcm").exists() != gone, rows[n]
    finally:
        desk.stop()


def _put(c: Any, desk: Desk, n: int, row: tuple[str, list[str], list[str], bool, int], now: float) -> None:
    state, works, sends, alarmed, days = row
    active, uid = now - days * DAY - 1.0, f"2.25.{n}"
    whose = {"hash": "h", "accession": "", "patient_id": "", "issuer": "", "date": ""}
    life = {"revision": 1, "dropped": 0, "opened": 0.0, "active": active, "upto": 1}
    c.execute(tables.study.insert().values(uid=uid, state=state, **whose, **life))
    (desk.folder.spool / f"00/{n}.dcm").write_bytes(b"x")
    stood = {
        "entry": f"00/{n}.dcm",
        "bytes": 1,
        "association": "a",
        "received": active,
        "state": "used",
        "identity": "",
    }
    c.execute(tables.version.insert().values(sop_uid=f"{uid}.1", digest="d", number=n, study_uid=uid, **stood))
    of = {"study_uid": uid, "revision": 1, "created": 0.0}
    job = tables.job.insert().values(**of, upto=1, subject="study", series=[], send_to={})
    for k, work in enumerate((*works, *(() if works or not sends else ("done",)))):
        c.execute(job.values(id=n * 10 + k, state=work))
    for k, send in enumerate(sends):
        c.execute(tables.delivery.insert().values(**of, job_id=n * 10, destination=f"d{k}", state=send))
    if alarmed:
        c.execute(tables.alarm.insert().values(code="a", subject=uid, study_uid=uid, raised=1.0, reason={}))
