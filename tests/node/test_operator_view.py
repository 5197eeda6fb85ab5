"""What `status` and `show` read from the rows, and what becomes of the log when the machine does not allow something."""

import errno
import io
import json
import logging
import multiprocessing
import os
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from config.settings import Destination, Settings
from node import alarm, clock
from node.clock import made, surviving
from node.installation import DataFolder, host_name
from node.reasons import REASONS
from node.show import listing, show, status
from node.store import Database, StoreError, obstacle, studies, tables
from node.store import node as store
from node.store.rows import Process
from node.supervisor import Supervisor
from tests.cli.documents import valid
from tests.more import ON_FILES_FIRST
from tests.stores import STORES

pytestmark = [pytest.mark.unit, ON_FILES_FIRST, pytest.mark.usefixtures("back_end")]

UID = "1.2.3"
FULL = sa.exc.OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    folder = DataFolder(tmp_path)
    folder.prepare()
    return folder


@pytest.fixture
def db(folder: DataFolder) -> Iterator[Database]:
    db = STORES.open(folder.path)
    put(db, tables.study, uid=UID, hash="0" * 16, accession="A", patient_id="P1", issuer="", date="", state="closed",
        revision=2, dropped=0, opened=1.0, active=2.0, upto=0)  # fmt: skip
    yield db
    db.close()


def put(db: Database, table: sa.Table, **row: Any) -> None:
    with db.write() as c:
        c.execute(table.insert().values(**row))


def job(db: Database, number: int, revision: int, state: str) -> None:
    put(db, tables.job, id=number, study_uid=UID, revision=revision, upto=0, subject="study", series=[], send_to={},
        state=state, created=1.0)  # fmt: skip


def deliver(db: Database, number: int, state: str, what: str) -> None:
    job(db, number, 2, "waiting")
    put(db, tables.delivery, id=number, job_id=number, study_uid=UID, revision=2, destination="pacs", state=state,
        what=what, created=1.0)  # fmt: skip


def shown(db: Database) -> dict[str, Any]:
    study = studies.study(db, UID)
    assert study is not None
    return valid(show(db, study, "test"))


def test_a_dead_job_of_an_overtaken_revision_needs_nobody(db: Database, folder: DataFolder) -> None:
    job(db, 1, 1, "dead")
    assert valid(status(db, folder, "test"))["jobs"]["dead"] == 0
    job(db, 2, 2, "dead")
    assert status(db, folder, "test")["jobs"]["dead"] == 1


def test_only_processes_that_live_are_told(db: Database, folder: DataFolder) -> None:
    gone = multiprocessing.get_context("spawn").Process()
    gone.start()
    gone.join()
    assert gone.pid is not None
    store.process_started(db, Process.of(host_name(), gone.pid, "coordinator", 1.0))
    store.process_started(db, Process.of(host_name(), os.getpid(), "coordinator", 2.0))
    lock = folder.lock()
    try:
        assert [p["pid"] for p in status(db, folder, "test")["processes"]] == [os.getpid()]
    finally:
        os.close(lock)


def test_a_destination_is_known_by_what_it_accepted(db: Database, folder: DataFolder) -> None:
    job(db, 1, 2, "done")
    put(db, tables.delivery, id=1, job_id=1, study_uid=UID, revision=2, destination="pacs", state="dead", created=1.0)
    put(db, tables.breaker, destination="pacs", state="closed", failures=0, since=1.0)
    put(db, tables.sent, delivery_id=1, sop_uid="1", accepted=True, at=100.0)
    put(db, tables.sent, delivery_id=1, sop_uid="2", accepted=False, at=200.0)
    (told,) = valid(status(db, folder, "test"))["destinations"]
    assert told["last_accepted"] == "1970-01-01T00:01:40.000Z"


def test_a_destination_is_known_by_what_it_refused(db: Database, folder: DataFolder) -> None:
    settings = Settings(destination=(Destination("pacs", "h", 1, "PACS"), Destination("other", "h", 1, "OTHER")))
    for number, (state, what) in enumerate(
        [("dead", "objects"), ("quarantined", "objects"), ("quarantined", "refused"), ("cancelled", "objects")]
    ):
        deliver(db, number, state, what)
    told = valid(status(db, folder, "test", settings))["destinations"]
    assert [(d["name"], d["dead"], d["quarantined"]) for d in told] == [("pacs", 1, 1), ("other", 0, 0)]


def test_the_list_of_studies_says_where_a_person_must_look(db: Database) -> None:
    def line() -> tuple[int, str | None]:
        (told,) = valid(listing(db, studies.find(db), "test"))["studies"]
        return told["alarms"], told["delivery"]

    assert line() == (0, None)
    for number, (state, worst) in enumerate(
        [("superseded", "superseded"), ("confirmed", "confirmed"), ("delivered", "delivered"), ("waiting", "waiting"),
         ("held", "held"), ("dead", "dead"), ("cancelled", "dead")]
    ):  # fmt: skip
        deliver(db, number, state, "objects")
        assert line() == (0, worst)
    alarm.ring(db, REASONS("delivery-failed", destination="pacs", code="x"), UID, 1.0, study=(UID, "h"))
    assert line() == (1, "dead")


def test_a_delivery_tells_whether_its_destination_is_left_alone(db: Database) -> None:
    def left_alone() -> list[str]:
        study = studies.study(db, UID)
        assert study is not None
        return [d["breaker"] for d in show(db, study, "test")["deliveries"]]

    deliver(db, 1, "waiting", "objects")
    assert left_alone() == ["closed"]
    put(db, tables.breaker, destination="pacs", state="open", failures=3, since=1.0, next_try=2.0)
    assert left_alone() == ["open"]


def test_the_timeline_tells_when_a_step_began_and_ended(db: Database) -> None:
    for number, (uid, kind, at) in enumerate(
        [("s1", "mpps-create", 10.0), ("s1", "mpps-set", 20.0), ("s1", "mpps-set", 30.0), ("s2", "mpps-create", 15.0)]
    ):
        put(db, tables.notice, kind=kind, uid=uid, entry=str(number), association="a", calling="CT1", called="N",
            peer="h", received=at)  # fmt: skip
    put(db, tables.procedure, uid="s1", study_uid=UID, status="COMPLETED", updated=30.0)
    put(db, tables.procedure, uid="s2", study_uid=UID, status="IN PROGRESS", updated=15.0)
    put(db, tables.procedure, uid="s2", study_uid="other", status="IN PROGRESS", updated=15.0)
    told = [(e["event"], e["step"], e["utc"][17:19], e.get("status")) for e in shown(db)["timeline"]]
    assert told == [
        ("step-begun", "s1", "10", None),
        ("step-begun", "s2", "15", None),
        ("step-ended", "s1", "30", "COMPLETED"),
    ]


def test_several_patients_are_told_with_their_series(db: Database) -> None:
    def image(number: int, series: str, **identity: str) -> None:
        put(db, tables.instance, id=number, sop_uid=str(number), study_uid=UID, series_uid=series, sop_class="1",
            modality="CT", syntax="1", digest="d", bytes=1, entry="e", association="a", received=1.0, role="image",
            identity=json.dumps(identity))  # fmt: skip

    image(1, "s1", PatientID="P1", PatientName="a^b")
    image(2, "s2", PatientID="P1", PatientName="a^b", AccessionNumber="7")
    image(3, "s1", PatientID="P1", PatientName="a^b")
    assert shown(db)["patients"] == []
    image(4, "s3", PatientID="P2", PatientName="a^b")
    image(5, "s3", PatientName="a^b")
    assert shown(db)["patients"] == [
        {"patient_id": "P1", "images": 3, "series": ["s1", "s2"]},
        {"patient_id": "P2", "images": 1, "series": ["s3"]},
        {"patient_id": "", "images": 1, "series": ["s3"]},
    ]


@pytest.mark.parametrize(
    ("study", "subject", "told"),
    [(None, "", {}), (None, "pacs", {"subject": "pacs"}), ((UID, "h"), UID, {"study": "h"})],
)
def test_the_log_of_an_alarm_names_what_it_is_about(
    db: Database, study: tuple[str, str] | None, subject: str, told: dict[str, str]
) -> None:
    with capture_logs() as logs:
        alarm.ring(db, REASONS("not-accepting", causes="disk"), subject, 1.0, study=study)
        alarm.quieten(db, "not-accepting", subject, 2.0, study=study)
    assert logs == [
        {"event": "alarm", "log_level": "error", "code": "not-accepting", **told},
        {"event": "alarm.cleared", "log_level": "info", "code": "not-accepting", **told},
    ]


def wrapped(cause: Exception) -> StoreError:
    error = StoreError("cannot be opened")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (FULL, True),
        (wrapped(FULL), True),
        (OSError(errno.ENOSPC, "x"), True),
        (OSError(errno.EROFS, "x"), True),
        (sa.exc.OperationalError("", {}, sqlite3.OperationalError("attempt to write a readonly database")), True),
        (sa.exc.OperationalError("", {}, sqlite3.OperationalError("database is locked")), True),
        (sa.exc.OperationalError("", {}, sqlite3.OperationalError("no such table: x")), False),
        (OSError(errno.ENOENT, "x"), False),
        (wrapped(ValueError()), False),
    ],
    ids=str,
)
def test_what_the_machine_does_not_allow_is_told_from_a_fault(error: Exception, *, is_one: bool) -> None:
    assert (obstacle(error) is not None) is is_one


def failing(*errors: Exception | None) -> Callable[[], None]:
    left = iter(errors)

    def do() -> None:
        if (error := next(left)) is not None:
            raise error

    return do


def test_a_full_disk_is_one_line_until_it_changes_and_a_fault_keeps_its_traceback() -> None:
    other = OSError(errno.EROFS, "x")
    tick = surviving("work", failing(FULL, FULL, other, None, other, ValueError("x"), ValueError("x")))
    with capture_logs() as logs:
        for _ in range(7):
            tick()
    assert [("exc_info" in line, line.get("error")) for line in logs] == [
        (False, "database or disk is full"),
        (False, os.strerror(errno.EROFS)),
        (False, os.strerror(errno.EROFS)),
        (True, None),
        (True, None),
    ]


def test_what_cannot_be_made_now_is_made_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_AGAIN_S", 0.01)
    do = failing(FULL, FULL, None)
    with capture_logs() as logs:
        assert made("coordinator", lambda: (do(), 7)[1], threading.Event()) == 7
    assert len(logs) == 1
    with pytest.raises(ValueError, match="ours"):
        made("coordinator", failing(ValueError("ours")), threading.Event())
    stop = threading.Event()
    stop.set()
    assert made("coordinator", failing(FULL), stop) is None


def test_the_supervisor_owes_what_a_full_disk_does_not_take(db: Database) -> None:
    with socket.socket() as listening:
        supervisor = Supervisor(Settings(), db, io.StringIO(), logging.INFO, listening)
    store.process_started(db, Process.of("n", 7, "receiver", 1.0))
    full = failing(FULL, FULL, None)
    with capture_logs() as logs:
        supervisor._note(lambda: (full(), store.process_ended(db, "n-7")))
        supervisor._note(lambda: store.process_started(db, Process.of("n", 8, "receiver", 2.0)))
        assert [p.pid for p in store.processes(db)] == [7]
        supervisor._settle()
    assert [p.pid for p in store.processes(db)] == [8]
    assert len(logs) == 1
