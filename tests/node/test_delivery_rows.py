"""Every row of the table status -> outcome, from a scripted PACS over a real socket to the row of the delivery."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, _config, evt
from pynetdicom.events import Event

from dicom_io.read import digest_dataset
from dicom_io.status import TABLE, Outcome
from node import show
from node.store import alarms, deliveries, operator, studies
from tests.node.outbox import CAPTURE, Outbox, Script, place

VERIFICATION = "1.2.840.10008.1.1"
STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.2.1"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Outbox]:
    made = Outbox(tmp_path / "box")
    yield made
    made.db.close()


class Pacs:
    """A PACS whose answers the test writes: `status` for each SOP Instance UID, None aborts; it shows what it holds."""

    def __init__(
        self, status: Callable[[str], int | None], *, accepts: tuple[str, ...] = (CAPTURE,), find: Any = None
    ) -> None:
        self.status, self.find = status, find
        self.received: list[str] = []
        self.holds: set[str] = set()
        ae = AE("PACS")
        for sop_class in accepts:
            ae.add_supported_context(sop_class, ExplicitVRLittleEndian)
        ae.add_supported_context(VERIFICATION)
        if find is not None:
            ae.add_supported_context(STUDY_ROOT)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_C_FIND, self._find)]
        self._server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        assert self._server is not None
        self.port = self._server.server_address[1]

    def _store(self, event: Event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        self.received.append(uid)
        status = self.status(uid)
        if status is None:
            event.assoc.abort()
            return 0
        if status == 0 or 0xB000 <= status <= 0xBFFF:
            self.holds.add(uid)
        return status

    def _find(self, event: Event) -> Iterator[tuple[int, Any]]:
        if isinstance(self.find, int):
            yield self.find, None
            return
        for uid in sorted(self.holds):
            match = event.identifier
            match.SOPInstanceUID = uid
            yield 0xFF00, match

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.shutdown()


@pytest.fixture(autouse=True)
def choosy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let listeners of this process accept no more than they list; the node's own switch is for the whole process."""
    monkeypatch.setattr(_config, "UNRESTRICTED_STORAGE_SERVICE", False)


STATES = {
    Outcome.DELIVERED: "delivered",
    Outcome.DELIVERED_WITH_WARNING: "delivered",
    Outcome.RETRY: "waiting",
    Outcome.DEAD: "dead",
}
ROWS = [
    *((s, row.outcome, row.code) for row in TABLE if row.outcome in STATES for s in {row.first, row.last}),
    (0x7777, Outcome.RETRY, "peer-status-unknown"),
    (None, Outcome.RETRY, "no-answer"),
]


@pytest.mark.sockets
@pytest.mark.parametrize(
    ("status", "outcome", "code"), ROWS, ids=lambda v: f"{v:04X}" if isinstance(v, int) else str(v or "").split(".")[-1]
)
def test_row(box: Outbox, status: int | None, outcome: Outcome, code: str | None) -> None:
    uid = box.add(objects=1)
    with Pacs(lambda _uid: status) as pacs:
        courier = box.courier(place(port=pacs.port))
        assert courier.step()
        state = STATES[outcome]
        assert box.state(uid) == (state, 1, code)
        row = box.row(uid)
        assert (row.next_attempt is not None) == (state == "waiting")
        assert [a.code for a in alarms.standing(box.db)] == (["delivery-failed"] if state == "dead" else [])
        said = deliveries.sent(box.db, row.id)
        assert [s.accepted for s in said.values()] == {"waiting": [], "dead": [False], "delivered": [True]}[state]
        if state == "waiting":  # and once it can, it arrives
            pacs.status = lambda _uid: 0
            box.now = row.next_attempt or 0.0
            assert courier.step()
            assert box.state(uid) == ("delivered", 2, None)


# what it shows of an object that it says it has already, how C-FIND answers, state after one and after three attempts
DUPLICATES = [
    ("holds it", "yes", "delivered", "delivered"),
    ("does not", "yes", "waiting", "dead"),
    ("holds it", None, "waiting", "dead"),
    ("holds it", 0xC001, "waiting", "dead"),
]


@pytest.mark.sockets
@pytest.mark.parametrize(("holds", "find", "first", "last"), DUPLICATES)
def test_row_0111_is_delivered_only_if_a_query_shows_it(
    box: Outbox, holds: str, find: Any, first: str, last: str
) -> None:
    uid = box.add(objects=1)
    with Pacs(lambda _uid: 0x0111, find=find) as pacs:
        pacs.holds = set(box.uids(uid)) if holds == "holds it" else set()
        courier = box.courier(place(port=pacs.port))
        assert courier.step()
        assert box.state(uid)[0] == first
        for _ in range(2):
            box.now += 100.0
            courier.step()
        code = "duplicate-not-shown" if last == "dead" else "peer-has-instance"
        assert (box.state(uid)[0], box.state(uid)[2]) == (last, code)


@pytest.mark.sockets
def test_a_class_that_is_refused_does_not_keep_the_others_from_arriving(box: Outbox) -> None:
    """Comprehensive 3D SR is what archives refuse: the picture arrives, and the row says what did not."""
    uid = box.add(objects=2)
    report, picture = box.uids(uid)
    with box.db.write() as c:
        c.exec_driver_sql("UPDATE artifact SET kind = 'sr' WHERE sop_uid = ?", (report,))
    path = box.folder / "artifacts" / "1-0.dcm"
    ds = dcmread(path)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.34"
    ds.save_as(path)
    with box.db.write() as c:
        c.exec_driver_sql("UPDATE artifact SET digest = ? WHERE sop_uid = ?", (digest_dataset(path), report))
    with Pacs(lambda _uid: 0) as pacs:
        courier = box.courier(place(port=pacs.port))
        assert courier.step()
        assert pacs.received == [picture]
        assert box.state(uid) == ("dead", 1, "partly-delivered")
        study = studies.study(box.db, uid)
        assert study is not None
        (told,) = show.show(box.db, study, "test")["deliveries"]
        objects = {o["sop_instance_uid"]: (o["state"], o["reason"] and o["reason"]["code"]) for o in told["objects"]}
        assert objects == {report: ("refused", "context-refused"), picture: ("accepted", None)}
        refusal = next(o["reason"]["text"]["en"] for o in told["objects"] if o["reason"])
        assert "Comprehensive 3D SR" in refusal
    with Pacs(lambda _uid: 0, accepts=(CAPTURE, "1.2.840.10008.5.1.4.1.1.88.34")) as pacs:
        assert operator.retry(box.db, box.now, study_uid=uid) == 1
        assert box.courier(place(port=pacs.port)).step()
        assert pacs.received == [report], "what had arrived is not sent again"
    assert box.state(uid) == ("delivered", 1, None)
    assert alarms.standing(box.db) == ()


@pytest.mark.sockets
def test_what_can_still_arrive_is_tried_although_another_object_was_refused(box: Outbox) -> None:
    uid = box.add(objects=3)
    refused, busy, good = box.uids(uid)
    with Pacs(lambda u: {refused: 0xC000, busy: 0xA700}.get(u, 0)) as pacs:
        courier = box.courier(place(port=pacs.port))
        assert courier.step()
        assert box.state(uid)[0] == "waiting"
        pacs.status = lambda _uid: 0
        box.now += 10.0
        assert courier.step()
        assert pacs.received == [refused, busy, good, busy]
    assert box.state(uid) == ("dead", 2, "partly-delivered")


@pytest.mark.sockets
def test_a_lost_answer_costs_only_its_own_object(box: Outbox) -> None:
    uid = box.add(objects=3)
    one, two, three = box.uids(uid)
    with Pacs(lambda u: None if u == two else 0) as pacs:
        courier = box.courier(place(port=pacs.port))
        assert courier.step()
        assert box.state(uid) == ("waiting", 1, "no-answer")
        pacs.status = lambda _uid: 0
        box.now += 10.0
        assert courier.step()
    assert box.state(uid)[0] == "delivered"
    assert pacs.received == [one, two, three, two]


_KILLED = """
import sys
from pathlib import Path
from tests.node.outbox import Outbox, place
box = Outbox(Path(sys.argv[1]))
box.now += 1.0
box.courier(place(port=int(sys.argv[2]))).step()
"""


@pytest.mark.sockets
@pytest.mark.parametrize(
    ("point", "left"),
    [("deliver.object", 2), ("deliver.object:2", 1), ("deliver.sent", 0), ("deliver.before_commit", 0)],
)
def test_killed_in_the_middle_of_a_delivery_it_sends_only_what_is_left(box: Outbox, point: str, left: int) -> None:
    uid = box.add(objects=3)
    with Pacs(lambda _uid: 0) as pacs:
        environment = {**os.environ, "PACS_AI_NODE_FAILPOINT": point, "PACS_AI_NODE_TESTING": "1", "PYTHONPATH": "."}
        command = [sys.executable, "-c", _KILLED, str(box.folder), str(pacs.port)]
        killed = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=60)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert box.state(uid)[0] == "sending"
        before = list(pacs.received)
        assert deliveries.interrupted(box.db, box.now) == 1
        box.now += 1.0
        assert box.courier(place(port=pacs.port)).step()
        assert len(pacs.received) - len(before) == left
        assert sorted(pacs.received) == sorted(box.uids(uid)), "each once"
    assert box.state(uid)[0] == "delivered"


@pytest.mark.unit
@pytest.mark.parametrize("harm", ["changed", "gone"])
def test_other_bytes_never_leave_under_a_known_uid(box: Outbox, harm: str) -> None:
    uid = box.add(objects=2)
    path = box.folder / "artifacts" / "1-0.dcm"
    if harm == "gone":
        path.unlink()
    else:
        ds = dcmread(path)
        ds.PatientID = "P2"
        ds.save_as(path)
    script = Script()
    box.run(box.courier(place(), script))
    assert script.sent == box.uids(uid)[1:]
    assert box.state(uid)[::2] == ("dead", "partly-delivered")
    reasons = [s.reason["code"] for s in deliveries.sent(box.db, box.row(uid).id).values() if s.reason]
    assert reasons == ["artifact-damaged"]


@pytest.mark.unit
@pytest.mark.parametrize("left", ["nothing", "an empty mount point"])
def test_storage_that_is_away_is_waited_for(box: Outbox, left: str) -> None:
    uid = box.add(objects=2)
    there, away = box.folder / "artifacts", box.folder / "away"
    there.rename(away)
    if left == "an empty mount point":
        there.mkdir()
    script = Script()
    courier = box.courier(place(), script)
    assert courier.step()
    assert box.state(uid) == ("waiting", 1, "artifact-unreadable")
    if left == "an empty mount point":
        there.rmdir()
    away.rename(there)
    box.now += 3600.0
    box.run(courier)
    assert script.sent == box.uids(uid)
    assert box.state(uid)[0] == "delivered"


@pytest.mark.unit
def test_a_refused_card_is_offered_again_when_a_person_says_retry(box: Outbox) -> None:
    uid = box.add(objects=1, outcome="not_analysed")
    answers = iter([0xA900, 0x0000])
    script = Script(answers=lambda _path: next(answers))
    courier = box.courier(place(), script)
    box.run(courier)
    assert box.state(uid)[::2] == ("dead", "peer-refused-object")
    assert operator.retry(box.db, box.now, study_uid=uid) == 1
    box.work(uid, objects=1, outcome="not_analysed")  # the job runs again and writes the same card
    box.run(courier)
    assert box.state(uid)[0] == "delivered"
    assert script.sent == box.uids(uid) * 2


@pytest.mark.unit
def test_an_attempt_that_crashes_keeps_nobody_waiting_behind_it(box: Outbox) -> None:
    odd, good = box.add(priority=0), box.add()

    def answers(path: Path) -> int:
        if path.name.startswith("1-"):
            raise KeyError(path.name)
        return 0

    script = Script(answers=answers)
    courier = box.courier(place(), script)
    assert box.run(courier) == 2
    assert box.state(odd) == ("waiting", 1, "delivery-crashed")
    assert box.state(good)[0] == "delivered"
    script.answers = lambda _path: 0
    box.now += 10.0
    assert courier.step()
    assert box.state(odd)[0] == "delivered"


@pytest.mark.unit
def test_cancelled_while_it_is_sent_it_ends_after_the_object_on_its_way(box: Outbox) -> None:
    uid = box.add(objects=3)

    def answers(_path: Path) -> int:
        if len(script.sent) == 1:
            assert operator.cancel(box.db, box.now, study_uid=uid) == 1
        return 0

    script = Script(answers=answers)
    box.run(box.courier(place(), script))
    assert len(script.sent) == 2
    assert box.state(uid)[0] == "cancelled"
    accepted = [s.accepted for s in deliveries.sent(box.db, box.row(uid).id).values()]
    assert accepted == [True, True], "and the row tells what had left"
    assert operator.retry(box.db, box.now, study_uid=uid) == 1
    box.run(box.courier(place(), script))
    assert script.sent == box.uids(uid)
    assert box.state(uid)[0] == "delivered"


@pytest.mark.sockets
def test_resend_sends_everything_again(box: Outbox) -> None:
    uid = box.add(objects=2)
    with Pacs(lambda _uid: 0) as pacs:
        courier = box.courier(place(port=pacs.port))
        assert courier.step()
        assert operator.resend(box.db, uid, box.now) == ("pacs",)
        assert courier.step()
        assert pacs.received == 2 * box.uids(uid)
