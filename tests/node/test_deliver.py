"""Deliveries: what an attempt comes to, row by row, and one courier against real sockets."""

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.settings import Destination
from dicom_io.reason import Reason
from dicom_io.scu import StoreReport
from dicom_io.scu_query import FoundStudy
from dicom_io.status import Outcome
from node.courier import Courier
from node.loopback_pacs import LoopbackPacs
from node.selection import Fate
from node.store import Database, deliveries, index, jobs, open_database, operator, studies
from node.store.changes import Arrived
from node.store.rows import Planned, StoredArtifact, Study
from node.verdict import heard, judge_store, judge_study
from node.whose import Whose

WHY = Reason("peer-cannot-now", "error", {"en": "No.", "zh-CN": "否。"}, {})
GOOD, NOTED, AGAIN, CHECK, NEVER = (
    Outcome.DELIVERED, Outcome.DELIVERED_WITH_WARNING, Outcome.RETRY, Outcome.CHECK, Outcome.DEAD,
)  # fmt: skip


def fate(outcome: Outcome) -> Fate:
    return Fate(outcome, None if outcome is GOOD else WHY.code, None if outcome is GOOD else WHY)


# what became of the objects, the state of the delivery, the reason's code
STORED: list[tuple[list[Outcome], str, str | None]] = [
    ([GOOD], "delivered", None),
    ([GOOD, NOTED], "delivered", WHY.code),
    ([GOOD, AGAIN], "waiting", WHY.code),
    ([AGAIN], "waiting", WHY.code),
    ([CHECK], "waiting", WHY.code),
    ([AGAIN, NEVER], "waiting", WHY.code),  # what can still arrive is tried first
    ([NEVER], "dead", WHY.code),
    ([NEVER, NEVER], "dead", WHY.code),
    ([GOOD, NEVER], "dead", "partly-delivered"),
    ([NOTED, NEVER, NEVER], "dead", "partly-delivered"),
    ([], "dead", "nothing-to-send"),
]


@pytest.mark.unit
@pytest.mark.parametrize(("outcomes", "state", "code"), STORED)
def test_store_row(outcomes: list[Outcome], state: str, code: str | None) -> None:
    verdict = judge_store([fate(o) for o in outcomes], 1, 0.5)
    assert (verdict.state, verdict.reason and verdict.reason.code) == (state, code)
    assert (verdict.wait_s is not None) == (state == "waiting")


@pytest.mark.unit
def test_a_delivery_that_arrived_in_part_says_how_much() -> None:
    reason = judge_store([fate(GOOD), fate(NEVER), fate(GOOD)], 1, 0.5).reason
    assert reason is not None
    assert "2 of 3" in reason.text["en"]


def said(status: int | None, code: str | None = None) -> StoreReport:
    return StoreReport(Path("x"), "1.2", status, AGAIN, None if code is None else replace(WHY, code=code))


HEARD: list[tuple[list[StoreReport], bool | None]] = [
    ([said(0)], True),
    ([said(0xC000)], True),
    ([said(0xA700)], True),
    ([said(None, "context-refused")], True),
    ([said(None, "no-answer"), said(0)], True),
    ([said(None, "no-answer")], False),
    ([said(None, "peer-refused-connection"), said(None, "peer-refused-connection")], False),
    ([said(None, "association-rejected")], False),
    ([said(None, "peer-timeout")], False),
    ([said(None, "file-unreadable")], None),
    ([said(None, "file-unreadable"), said(None, "association-aborted")], False),
    ([], None),
]


@pytest.mark.unit
@pytest.mark.parametrize(("reports", "answered"), HEARD)
def test_heard_row(reports: list[StoreReport], answered: bool | None) -> None:
    assert heard(reports) is answered


def known(patient: str = "P1", accession: str = "A") -> FoundStudy:
    return FoundStudy("1.2.3", patient, "", accession, "X")


FOUND: list[tuple[list[FoundStudy], str | None, str]] = [
    ([known()], None, ""),
    ([known(), known()], None, ""),
    ([], "held", ""),
    ([known("P2")], "quarantined", "PatientID"),
    ([known(), known("P2")], "quarantined", "PatientID"),
    ([known(accession="B"), known("P2")], "quarantined", "AccessionNumber, PatientID"),
]


@pytest.mark.unit
@pytest.mark.parametrize(("found", "state", "what"), FOUND)
def test_study_row(found: list[FoundStudy], state: str | None, what: str) -> None:
    verdict = judge_study(found, Whose("P1", "", "A", "X"), "pacs", 1, 0.5)
    assert (verdict and verdict.state) == state
    if verdict is not None:
        assert verdict.reason is not None
        assert what in verdict.reason.text["en"]
        assert not {"P1", "P2", "X"} & set(verdict.reason.text["en"].replace("(", " ").split()), "no patient data"
        assert (verdict.wait_s is not None) == (state == "held")
        assert verdict.counts == (state != "held")


@pytest.fixture
def ready(tmp_path: Path, ct: list[Path]) -> Iterator[Callable[[], tuple[Database, Study]]]:
    """A database with one finished job whose artifacts are the first two slices of the phantom."""
    from dicom_io.read import read_instance

    instances = [read_instance(f) for f in ct[:3]]
    db = open_database(tmp_path / "node.sqlite3")
    uid = instances[0].study_instance_uid
    (tmp_path / "a").mkdir()
    rows = []
    for n, i in enumerate(instances[:2]):
        (tmp_path / "a" / f"{n}.dcm").write_bytes(i.path.read_bytes())
        rows.append(
            StoredArtifact(
                1,
                f"{n}.dcm",
                f"a/{n}.dcm",
                "seg" if n else "sr",
                "CT",
                i.sop_class_uid,
                i.sop_instance_uid,
                "1",
                1,
                i.digest,
            )
        )

    def make() -> tuple[Database, Study]:
        arrived = Arrived(
            "x", 1.0, uid, "1", "1.9", "1.2", "1", "d", 1, "e", "image", patient_id=str(instances[0].header.PatientID)
        )
        index.index(db, "j", (0, 1), [arrived], lambda _uid: "0" * 16)
        seen = studies.study(db, uid)
        assert seen is not None
        plan = Planned("chest_ct", ("1",), {"pacs": ["result"]}, {})
        assert studies.close(db, seen, [plan], 2.0, publish=True, why={}, routed={})
        job = jobs.claim(db, 1, "w", 3.0, 30.0)
        assert job is not None
        result: dict[str, Any] = {"state": "done", "outcome": "result", "reason": None, "document": {}}
        assert jobs.finish(db, job, "w", 4.0, artifacts=rows, send_to=["pacs"], **result)
        return db, seen

    yield make
    db.close()


def state_of(db: Database, uid: str) -> tuple[str, int, str | None]:
    (row,) = deliveries.deliveries(db, uid)
    return row.state, row.attempts, row.last_error and row.last_error["code"]


def courier(db: Database, root: Path, port: int, *, check: bool) -> Courier:
    return Courier(db, root, Destination("pacs", "127.0.0.1", port, "PACS", check_study=check), "NODE")


@pytest.mark.sockets
def test_objects_go_in_order_and_once(ready: Any, tmp_path: Path) -> None:
    db, seen = ready()
    with LoopbackPacs(tmp_path / "pacs", "PACS") as pacs:
        sender = courier(db, tmp_path, pacs.port, check=False)
        assert sender.step()
        assert not sender.step()
        kinds = [a.sop_uid for a in jobs.artifacts(db, jobs.jobs(db, seen.uid)[0])]
        assert [r.sop_instance_uid for r in pacs.received] == kinds
    assert state_of(db, seen.uid) == ("delivered", 1, None)


@pytest.mark.sockets
def test_a_destination_that_is_away_is_tried_again_later(ready: Any, tmp_path: Path) -> None:
    db, seen = ready()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        sender = courier(db, tmp_path, nobody.getsockname()[1], check=False)
        assert sender.step()
        assert not sender.step(), "before its time"
    assert state_of(db, seen.uid) == ("waiting", 1, "peer-refused-connection")


@pytest.mark.sockets
def test_a_destination_that_refuses_ends_dead_and_can_be_tried_by_hand(ready: Any, tmp_path: Path) -> None:
    db, seen = ready()
    with LoopbackPacs(tmp_path / "pacs", "PACS", answer=0xA900) as pacs:
        sender = courier(db, tmp_path, pacs.port, check=False)
        assert sender.step()
        assert state_of(db, seen.uid) == ("dead", 1, "peer-refused-object")
        pacs.answer = 0
        assert operator.retry(db, 5.0, study_uid=seen.uid) == 1
        assert sender.step()
    assert state_of(db, seen.uid)[0] == "delivered"


@pytest.mark.sockets
def test_the_destination_is_asked_whose_study_it_is(ready: Any, tmp_path: Path, ct: list[Path]) -> None:
    from pydicom import dcmread

    from dicom_io.scu import Peer, store

    db, seen = ready()
    with LoopbackPacs(tmp_path / "pacs", "PACS") as pacs:
        peer = Peer("127.0.0.1", pacs.port, "PACS", "CT1")
        sender = courier(db, tmp_path, pacs.port, check=True)
        assert sender.step()
        assert state_of(db, seen.uid) == ("held", 0, "study-not-at-destination")

        other = dcmread(ct[0])
        other.PatientID = "SOMEBODY-ELSE"
        other.save_as(tmp_path / "other.dcm")
        list(store(peer, [tmp_path / "other.dcm"]))
        due_now(db)
        assert sender.step()
        assert state_of(db, seen.uid) == ("quarantined", 1, "identity-differs-at-destination")

        list(store(peer, [ct[0]]))  # corrected at the source: the same instance with the right patient
        operator.resend(db, seen.uid, 5.0)
        assert sender.step()
        assert state_of(db, seen.uid) == ("delivered", 1, None)

        # its job is tried again and ends with the same objects: nothing is sent, and what was asked stands
        done = jobs.jobs(db, seen.uid)[0]
        (artifacts, before) = (jobs.artifacts(db, done), len(pacs.received))
        with db.write() as c:
            c.exec_driver_sql("UPDATE job SET state = 'dead', outcome = 'failed'")
        assert operator.retry(db, 6.0, job_id=done.id) == 1
        again = jobs.claim(db, done.id, "w", 7.0, 30.0)
        assert again is not None
        result: dict[str, Any] = {"state": "done", "outcome": "result", "reason": None, "document": {}}
        assert jobs.finish(db, again, "w", 8.0, artifacts=artifacts, send_to=["pacs"], **result)
        assert sender.step()
        assert len(pacs.received) == before
        (row,) = deliveries.deliveries(db, seen.uid)
        assert (row.state, row.identity) == ("delivered", "checked")


def due_now(db: Database) -> None:
    with db.write() as c:
        c.exec_driver_sql("UPDATE delivery SET next_attempt = 0")


@pytest.mark.unit
def test_what_a_dead_deliverer_was_sending_is_sent_again(ready: Any) -> None:
    db, seen = ready()
    assert deliveries.take(db, "pacs", 10.0) is not None
    assert deliveries.take(db, "pacs", 10.0) is None
    assert deliveries.interrupted(db, 11.0) == 1
    assert state_of(db, seen.uid) == ("waiting", 1, None)


@pytest.mark.sockets
def test_an_attempt_that_could_not_be_written_down_is_made_again(
    ready: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, seen = ready()
    with LoopbackPacs(tmp_path / "pacs", "PACS") as pacs:
        sender = courier(db, tmp_path, pacs.port, check=False)
        with monkeypatch.context() as broken:
            broken.setattr(deliveries, "settle", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
            with pytest.raises(OSError, match="disk full"):
                sender.step()
        assert state_of(db, seen.uid)[0] == "sending"
        assert sender.step()
        assert state_of(db, seen.uid) == ("delivered", 2, None)
        assert len({r.sop_instance_uid for r in pacs.received}) == 2
