"""A destination that is down for a day, too long, for ever, or gone; and what a person can do about deliveries."""

import itertools
import random
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from config.settings import Destination
from dicom_io.scu_query import FoundStudy
from node import overdue, show
from node.courier import Courier
from node.installation import DataFolder
from node.loopback_pacs import LoopbackPacs
from node.retry import policy
from node.store import alarms, breakers, deliveries, operator, studies
from tests.node.outbox import Outbox, Script, place

DAY = 86_400.0
DOWN = "peer-refused-connection"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Outbox]:
    made = Outbox(tmp_path / "box")
    yield made
    made.db.close()


def free_port() -> int:
    """Return a port below those that the kernel gives away: nobody else takes it before the PACS listens there."""
    for port in random.sample(range(20_000, 30_000), 50):
        with socket.socket() as nobody:
            try:
                nobody.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


@pytest.mark.sockets
def test_a_day_without_the_destination_then_everything_arrives_in_order_of_priority_and_once(
    box: Outbox, tmp_path: Path
) -> None:
    """A simulated day: the clock is the test's, the store is real, and so is the PACS once it listens."""
    chance, port = random.Random(24), free_port()
    destination = place(port=port, check_study=True, proof="find")
    assert_nobody_listens(box, destination)
    silence = Script(find=lambda _uid: DOWN)
    courier, tries, urgency = box.courier(destination, silence), 0, {}
    begun = box.now
    due = sorted((begun + chance.uniform(0, DAY), chance.choice((0, 1, 2))) for _ in range(24))
    while box.now < begun + DAY:
        while due and due[0][0] <= box.now:
            _, priority = due.pop(0)
            urgency[box.add(objects=1, priority=priority)] = priority
        tries += box.run(courier)
        if chance.random() < 0.02:  # the node is started again now and then
            deliveries.interrupted(box.db, box.now)
            courier = box.courier(destination, silence)
        overdue.sweep(box.db, [destination], box.now)
        box.now += 150.0
    assert due == []
    assert {box.row(uid).state for uid in box.studies} == {"waiting"}
    assert all(box.row(uid).next_attempt is not None for uid in box.studies)
    assert [a.code for a in alarms.standing(box.db)] == ["destination-down"]
    assert tries <= 2 * DAY / policy()["breaker"]["cap_s"], "it is not hammered"
    assert max(box.row(uid).attempts for uid in box.studies) <= policy()["breaker"]["failures"]
    status = show.status(box.db, folder(tmp_path / "node"), "test")["destinations"]
    assert [(d["name"], d["breaker"], d["waiting"]) for d in status] == [("pacs", "open", 24)]

    with LoopbackPacs(tmp_path / "pacs", "PACS", port) as pacs:
        sources = Outbox(tmp_path / "sources")  # the archive knows the studies: each has an image there
        for uid in box.studies:
            archive(pacs, sources, box, uid)
        sources.db.close()
        mine = {uid for study in box.studies for uid in box.uids(study)}
        opened = breakers.breaker(box.db, "pacs")
        assert opened is not None
        box.now = opened.next_try or 0.0
        courier = box.courier(destination)
        assert box.run(courier) == 24, "one attempt each"
        arrived = [r for r in pacs.received if r.sop_instance_uid in mine]
        assert sorted(r.sop_instance_uid for r in arrived) == sorted(mine), "everything, once"
        order = [urgency[r.study_instance_uid] for r in arrived]
        assert order == sorted(order), "in order of priority"
        prover = box.prover(destination)
        for _ in range(200):
            box.now += 1.0
            prover.step()
    assert {box.row(uid).state for uid in box.studies} == {"confirmed"}
    assert {box.row(uid).identity for uid in box.studies} == {"checked"}
    assert alarms.standing(box.db) == ()


def assert_nobody_listens(box: Outbox, destination: Destination) -> None:
    """What the script of the silent day says is what a closed port comes to."""
    uid = box.add(objects=1)
    assert box.courier(destination).step()
    assert box.state(uid) == ("waiting", 1, DOWN)
    operator.cancel(box.db, box.now, study_uid=uid)
    box.studies.remove(uid)


def folder(path: Path) -> DataFolder:
    made = DataFolder(path)
    made.prepare()
    return made


def archive(pacs: LoopbackPacs, sources: Outbox, box: Outbox, study: str) -> None:
    """Let the PACS hold an image of a study."""
    from pydicom import dcmread

    from dicom_io.scu import Peer, store

    first = next(iter(box.folder.glob(f"artifacts/{box.row(study).job_id}-0.dcm")))
    ds = dcmread(first)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{study}.7"
    ds.SeriesInstanceUID = f"{study}.6"
    ds.save_as(sources.folder / "image.dcm")
    assert [r.status for r in store(Peer("127.0.0.1", pacs.port, "PACS", "CT"), [sources.folder / "image.dcm"])] == [0]


@pytest.mark.unit
@pytest.mark.parametrize(("hours", "ends"), [(24.0, "dead"), (0.0, "waiting")])
def test_too_old_is_given_up_visibly_and_a_retry_begins_anew(box: Outbox, hours: float, ends: str) -> None:
    destination = place(max_age_h=hours)
    script = Script(answers=lambda _path: 0xA700)
    courier, uid = box.courier(destination, script), box.add()
    begun = box.now
    while box.now < begun + 26 * 3600.0:
        box.run(courier)
        overdue.sweep(box.db, [destination], box.now)
        if hours:
            assert (box.row(uid).state == "dead") == (box.now - begun > hours * 3600.0)
        box.now += 300.0
    assert box.state(uid)[0] == ends
    if ends == "waiting":
        return
    assert box.state(uid)[2] == "delivery-too-old"
    assert [a.code for a in alarms.standing(box.db, uid)] == ["delivery-failed"]
    script.answers = lambda _path: 0
    assert operator.retry(box.db, box.now, study_uid=uid) == 1
    assert alarms.standing(box.db) == ()
    assert overdue.sweep(box.db, [destination], box.now) == 0, "its age counts from the retry"
    box.run(courier)
    assert box.state(uid)[0] == "delivered"


@pytest.mark.unit
def test_deliveries_to_a_destination_that_was_removed_say_so(box: Outbox) -> None:
    gone, kept = box.add(to=("old",)), box.add()
    assert overdue.sweep(box.db, [place()], box.now) == 1
    assert (box.row(gone).state, box.state(gone)[2]) == ("dead", "destination-removed")
    assert box.row(kept).state == "waiting"
    assert [a.subject for a in alarms.standing(box.db)] == [gone]
    # put back into the configuration, and tried again
    assert operator.retry(box.db, box.now, study_uid=gone) == 1
    assert overdue.sweep(box.db, [place(), place("old")], box.now) == 0
    box.run(box.courier(place("old"), Script()))
    assert box.row(gone).state == "delivered"
    assert alarms.standing(box.db) == ()


KNOWN = FoundStudy("", "P1", "", "A1", "Nobody^At All")


@pytest.mark.unit
def test_an_unknown_study_is_held_and_asked_for_ever_more_seldom_until_it_is_there(box: Outbox) -> None:
    destination, script, uid = place(check_study=True), Script(), box.add()
    courier, asked = box.courier(destination, script), []
    while len(asked) < 25:
        if courier.step():
            asked.append(box.now)
            assert box.state(uid) == ("held", 0, "study-not-at-destination")
            assert box.row(uid).last_error["hint"]["en"], "what a person can do"  # type: ignore[index]  # just seen
        box.now += 1.0
    waits = [b - a for a, b in itertools.pairwise(asked)]
    assert waits == sorted(waits)
    assert waits[-1] <= policy()["unknown_study"]["cap_s"] + 1.0
    script.find = lambda _uid: [KNOWN]
    assert operator.retry(box.db, box.now, study_uid=uid) == 1, "a person need not wait"
    assert courier.step()
    row = box.row(uid)
    assert (row.state, row.identity) == ("delivered", "checked")
    breaker = breakers.breaker(box.db, "pacs")
    assert breaker is None or breaker.failures == 0


@pytest.mark.unit
@pytest.mark.parametrize(
    ("check", "find", "identity"), [(True, "query-not-offered", "not-offered"), (False, (), "off")]
)
def test_what_was_not_asked_is_shown(box: Outbox, check: bool, find: object, identity: str) -> None:
    script, uid = Script(find=lambda _uid: find), box.add()  # type: ignore[arg-type,return-value]  # a row of the table
    box.run(box.courier(place(check_study=check), script))
    study = studies.study(box.db, uid)
    assert study is not None
    (shown,) = show.show(box.db, study, "test")["deliveries"]
    assert (shown["state"], shown["identity"]) == ("delivered", identity)
    assert script.questions == int(check)


@pytest.mark.unit
@pytest.mark.parametrize("answer", ["query-failed", "query-unanswered", "peer-timeout"])
def test_a_question_that_fails_is_no_permission(box: Outbox, answer: str) -> None:
    script, uid = Script(find=lambda _uid: answer), box.add()
    box.run(box.courier(place(check_study=True), script))
    assert script.sent == []
    assert box.state(uid) == ("waiting", 1, answer)


@pytest.mark.unit
def test_another_patient_there_is_quarantined_and_asked_again_only_by_a_person(box: Outbox) -> None:
    script, uid = Script(find=lambda _uid: [replace(KNOWN, patient_id="P2")]), box.add()
    courier = box.courier(place(check_study=True), script)
    box.run(courier)
    assert script.sent == []
    row = box.row(uid)
    assert (row.state, row.last_error and row.last_error["code"]) == ("quarantined", "identity-differs-at-destination")
    assert [a.code for a in alarms.standing(box.db, uid)] == ["identity-differs-at-destination"]
    assert "P2" not in str(row.last_error)
    assert "P1" not in str(row.last_error)
    box.now += DAY
    assert not courier.step()
    assert operator.retry(box.db, box.now, study_uid=uid) == 1
    assert alarms.standing(box.db) == ()
    assert courier.step()
    assert box.row(uid).state == "quarantined", "still another"
    script.find = lambda _uid: [KNOWN]
    operator.retry(box.db, box.now, study_uid=uid)
    assert courier.step()
    assert box.row(uid).state == "delivered"
    assert alarms.standing(box.db) == ()


def held(courier: Courier, script: Script) -> None:
    script.find = lambda _uid: ()
    assert courier.step()


def quarantined(courier: Courier, script: Script) -> None:
    script.find = lambda _uid: [replace(KNOWN, patient_id="P2")]
    assert courier.step()


def waiting(courier: Courier, script: Script) -> None:
    script.answers = lambda _path: 0xA700
    assert courier.step()


def dead(courier: Courier, script: Script) -> None:
    script.answers = lambda _path: 0xC000
    assert courier.step()


@pytest.mark.unit
@pytest.mark.parametrize("bring", [held, quarantined, waiting, dead], ids=lambda f: f.__name__)
def test_every_state_can_be_cancelled_and_retried_and_sent_again(box: Outbox, bring: object) -> None:
    script, uid = Script(find=lambda _uid: [KNOWN]), box.add()
    courier = box.courier(place(check_study=True), script)

    def again() -> None:
        script.find, script.answers = (lambda _uid: [KNOWN]), (lambda _path: 0)
        assert courier.step()
        assert box.row(uid).state == "delivered"
        assert alarms.standing(box.db) == ()

    bring(courier, script)  # type: ignore[operator]  # a row of the table
    assert operator.retry(box.db, box.now, study_uid=uid) == 1
    again()
    operator.resend(box.db, uid, box.now)
    bring(courier, script)  # type: ignore[operator]  # a row of the table
    assert operator.cancel(box.db, box.now, study_uid=uid) == 1
    assert (box.row(uid).state, box.row(uid).next_attempt) == ("cancelled", None)
    assert alarms.standing(box.db) == (), "a person has seen it"
    box.now += DAY
    assert not courier.step()
    assert operator.retry(box.db, box.now, study_uid=uid) == 1
    again()
    operator.resend(box.db, uid, box.now)
    bring(courier, script)  # type: ignore[operator]  # a row of the table
    assert operator.resend(box.db, uid, box.now) == ("pacs",)
    again()


@pytest.mark.unit
def test_a_dead_delivery_of_a_result_that_was_carried_forward_is_retried_with_the_study(box: Outbox) -> None:
    script, uid = Script(answers=lambda _path: 0xC000), box.add()
    courier = box.courier(place(), script)
    box.run(courier)
    assert box.row(uid).state == "dead"
    with box.db.write() as c:  # a late image elsewhere made revision 2; its job stands on the first one's result
        c.exec_driver_sql("UPDATE study SET revision = 2")
        columns = [
            r[1] for r in c.exec_driver_sql("PRAGMA table_info(job)") if r[1] not in ("id", "revision", "carried_from")
        ]
        names = ", ".join(f'"{n}"' for n in columns)
        c.exec_driver_sql(f"INSERT INTO job (revision, carried_from, {names}) SELECT 2, 1, {names} FROM job")  # noqa: S608 - columns
    script.answers = lambda _path: 0
    assert operator.retry(box.db, box.now, study_uid=uid) == 1
    assert courier.step()
    assert box.row(uid).state == "delivered"


@pytest.mark.unit
@pytest.mark.parametrize("why", ["full", "unknown"])
def test_a_destination_that_answers_and_takes_nothing_calls_a_person(box: Outbox, why: str) -> None:
    destination = place(check_study=why == "unknown")
    script = Script(answers=lambda _path: 0xA700)
    courier, uid = box.courier(destination, script), box.add()
    begun = box.now
    while box.now < begun + 2 * 3600.0:
        box.run(courier)
        overdue.sweep(box.db, [destination], box.now)
        late = box.now - begun >= policy()["overdue"]["late_s"]
        assert [a.code for a in alarms.standing(box.db, uid)] == (["delivery-late"] if late else [])
        box.now += 300.0
    assert box.state(uid)[0] == ("waiting" if why == "full" else "held")
    (alarm,) = alarms.standing(box.db, uid)
    assert alarm.reason["text"]["zh-CN"]
    operator.retry(box.db, box.now, study_uid=uid)
    script.answers = lambda _path: 0
    courier = box.courier(replace(destination, check_study=False), script)
    box.run(courier)
    assert box.state(uid)[0] == "delivered"
    assert alarms.standing(box.db) == ()


@pytest.mark.unit
def test_what_waited_for_a_silent_destination_is_not_late_when_it_is_back(box: Outbox) -> None:
    destination = place()
    script = Script(answers=lambda _path: DOWN)
    courier, uid = box.courier(destination, script), box.add()
    begun = box.now
    while box.now < begun + 3 * 3600.0:
        box.run(courier)
        overdue.sweep(box.db, [destination], box.now)
        assert "delivery-late" not in {a.code for a in alarms.standing(box.db)}
        box.now += 300.0
    script.answers = lambda _path: 0xA700
    for _ in range(10):
        box.run(courier)
        box.now += 60.0
        overdue.sweep(box.db, [destination], box.now)
    assert alarms.standing(box.db) == (), "an hour from now"
    assert box.state(uid)[0] == "waiting"
