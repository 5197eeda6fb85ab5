"""Storage commitment: the archive's answer on whichever association and after restarts, and never more than it says."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from config.settings import Commitment, Destination, Dicom, Node, Peer, Settings
from dicom_io import notices, scu
from dicom_io.contexts import VERIFICATION
from dicom_io.errors import NetworkError
from dicom_io.notices import CommitmentResult, Reference
from dicom_io.scu_notices import report_commitment
from node.commitment import Archive as Asking
from node.commitment import Messenger
from node.retry import policy
from node.store import alarms, commitments
from tests.more import more
from tests.node.notice_peers import CT, Archive, Bench, Listener, Scanner
from tests.node.outbox import Outbox

TIMES = policy()["commitment"]
A, B, C = (Reference(CT, f"2.25.{n}") for n in (81, 82, 83))

MISSING: list[tuple[list[Reference], dict[str, int], dict[str, int]]] = [
    ([A, B], {}, {}),
    ([A], {}, {B.sop_instance_uid: 0x0112}),
    ([], {}, {A.sop_instance_uid: 0x0112, B.sop_instance_uid: 0x0112}),
    ([A, B, C], {}, {}),
    ([A], {B.sop_instance_uid: 0x0213}, {B.sop_instance_uid: 0x0213}),
    ([A, B], {B.sop_instance_uid: 0x0119}, {B.sop_instance_uid: 0x0119}),
    ([A, Reference("1.2.3", B.sop_instance_uid)], {}, {B.sop_instance_uid: 0x0112}),
]


@pytest.mark.unit
@pytest.mark.parametrize(("committed", "failed", "missing"), MISSING)
def test_what_is_not_named_is_not_committed(
    committed: list[Reference], failed: dict[str, int], missing: dict[str, int]
) -> None:
    assert CommitmentResult("2.25.1", tuple(committed), failed).missing([A, B]) == missing


@pytest.mark.unit
def test_a_result_is_read_as_it_was_written() -> None:
    written = notices.commitment_result("2.25.1", [A, B, C], {B.sop_instance_uid: 0x0213})
    read = notices.read_commitment_result(
        notices.decode(notices.encode(written, "1.2.840.10008.1.2"), "1.2.840.10008.1.2")
    )
    assert read == CommitmentResult("2.25.1", (A, C), {B.sop_instance_uid: 0x0213})


class Hospital(Bench):
    """A node whose destination is an archive, and which a scanner may ask for commitment."""

    def __init__(self, folder: Path, archive: Archive, scanner: Listener, *, proof: str = "commitment") -> None:
        self.archive, self.scanner = archive, scanner
        destination = Destination("pacs", "127.0.0.1", archive.port, "ARCHIVE", check_study=False, proof=proof)  # type: ignore[arg-type]
        peers = (
            Peer("CT1", "127.0.0.1", commit_port=scanner.port), Peer("CT2", "127.0.0.1"), Peer("ARCHIVE", "127.0.0.1"),
        )  # fmt: skip
        super().__init__(
            Settings(
                node=Node(data_dir=folder), dicom=Dicom(port=0, peer=peers), destination=(destination,),
                commitment=Commitment("pacs"),
            )
        )  # fmt: skip
        archive.report_to = self.port
        self.numbers = 0
        self.again()

    def again(self) -> None:
        """Be a process that has just started."""
        (destination,) = self.settings.destination
        clock = {"now": lambda: self.now, "new_uid": self._uid}
        self.asking = Asking(self.db, self.spool, destination, "PACSAINODE", **clock)  # type: ignore[arg-type]
        self.messenger = Messenger(self.db, self.spool, self.settings, destination, chance=lambda: 0.5, **clock)  # type: ignore[arg-type]

    def _uid(self) -> str:
        self.numbers += 1
        return f"2.25.9000{self.numbers}"

    def go(self, until: Callable[[], Any]) -> None:
        """Index and take steps until something has come true."""
        for _ in range(400):
            self.index()
            if until():
                return
            if not (self.messenger.ask() or self.messenger.tell()):
                self.archive.wait()
        pytest.fail(f"did not come true: {commitments.counts(self.db)}")

    def states(self) -> list[str]:
        with self.db.read() as c:
            return [row[0] for row in c.exec_driver_sql("SELECT state FROM commitment ORDER BY rowid")]

    def alarms(self) -> set[str]:
        return {a.code for a in alarms.standing(self.db)}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Hospital]]:
    made: list[Hospital] = []

    def hospital(mode: str = "new", **more: Any) -> Hospital:
        made.append(Hospital(tmp_path / f"data{len(made)}", Archive(mode, **more), Listener()))
        return made[-1]

    yield hospital
    for one in made:
        one.archive.stop()
        one.scanner.stop()
        one.stop()


def asked(hospital: Hospital, *references: Reference, transaction: str = "2.25.500") -> None:
    with Scanner(hospital.port) as scanner:
        assert scanner.ask(transaction, *references) == 0x0000
    hospital.now = time.time() + 60.0  # later than what the receiver's clock said


# --- on behalf of a sender


@pytest.mark.sockets
@pytest.mark.parametrize("mode", ["new", "same"])
def test_a_sender_is_told_what_the_archive_has_committed(make: Callable[..., Hospital], mode: str) -> None:
    hospital = make(mode)
    asked(hospital, A, B)
    hospital.go(lambda: hospital.scanner.told)
    (told,) = hospital.scanner.told
    assert told == CommitmentResult("2.25.500", (A, B), {})
    assert (hospital.scanner.kinds, hospital.scanner.callers) == ([1], ["PACSAINODE"])
    assert [(r.transaction_uid, r.references) for r in hospital.archive.asked] == [("2.25.90001", (A, B))]
    hospital.go(lambda: hospital.states() == ["told"])


@pytest.mark.sockets
@pytest.mark.parametrize("mode", ["new", "same"])
def test_never_more_than_the_archive_says(make: Callable[..., Hospital], mode: str) -> None:
    hospital = make(mode)
    hospital.archive.refuses, hospital.archive.forgets = {A.sop_instance_uid}, {B.sop_instance_uid}
    asked(hospital, A, B, C)
    hospital.go(lambda: hospital.scanner.told)
    assert hospital.scanner.told == [
        CommitmentResult("2.25.500", (C,), dict.fromkeys((A.sop_instance_uid, B.sop_instance_uid), 0x0112))
    ]
    assert hospital.scanner.kinds == [2]


@pytest.mark.sockets
@pytest.mark.parametrize("more", [{"mode": "refuse"}, {"classes": (VERIFICATION,)}])
def test_an_archive_that_says_no_has_committed_nothing(make: Callable[..., Hospital], more: dict[str, Any]) -> None:
    hospital = make(**more)
    asked(hospital, A, B)
    hospital.go(lambda: hospital.scanner.told)
    assert hospital.scanner.told == [
        CommitmentResult("2.25.500", (), dict.fromkeys((A.sop_instance_uid, B.sop_instance_uid), 0x0110))
    ]


@pytest.mark.sockets
def test_an_archive_that_does_not_answer_is_asked_anew_and_its_late_answer_counts(
    make: Callable[..., Hospital],
) -> None:
    hospital = make("silent")
    asked(hospital, A)
    hospital.go(lambda: len(hospital.archive.asked) == 1)
    hospital.go(lambda: hospital.states() == ["asked"])
    hospital.now += TIMES["answer_s"] + 1
    hospital.go(lambda: len(hospital.archive.asked) == 2)
    assert hospital.alarms() == {"commitment-unanswered"}
    first, second = hospital.archive.asked
    assert first.transaction_uid != second.transaction_uid
    hospital.archive.report(first)
    hospital.go(lambda: hospital.scanner.told)
    assert hospital.states() == ["told", "superseded"]
    assert hospital.alarms() == set()
    hospital.archive.refuses = {A.sop_instance_uid}
    hospital.archive.report(second)
    hospital.index()
    assert not hospital.messenger.ask()
    assert not hospital.messenger.tell(), "it has been told"


@pytest.mark.sockets
def test_an_archive_that_never_answers_is_a_failure_in_the_end(make: Callable[..., Hospital]) -> None:
    hospital = make("silent")
    asked(hospital, A)
    hospital.go(lambda: hospital.states() == ["asked"])
    hospital.now += TIMES["give_up_s"] + 1
    hospital.go(lambda: hospital.scanner.told)
    assert hospital.scanner.told == [CommitmentResult("2.25.500", (), {A.sop_instance_uid: 0x0110})]


@pytest.mark.sockets
def test_an_archive_that_is_down_is_asked_when_it_is_back(make: Callable[..., Hospital]) -> None:
    hospital = make()
    hospital.archive.stop()
    asked(hospital, A)
    hospital.go(lambda: commitments.counts(hospital.db)["waiting"] and "expired" in hospital.states())
    assert not hospital.messenger.ask(), "not yet"
    hospital.archive = Archive("new", hospital.archive.port)
    hospital.archive.report_to = hospital.port
    hospital.now += 1000
    hospital.go(lambda: hospital.scanner.told)
    assert hospital.scanner.told[0].failed == {}


@pytest.mark.sockets
def test_a_sender_that_is_down_is_told_when_it_is_back(make: Callable[..., Hospital]) -> None:
    hospital = make()
    hospital.scanner.stop()
    asked(hospital, A)
    hospital.go(lambda: hospital.states() == ["committed"])
    assert hospital.messenger.tell()
    assert not hospital.messenger.tell(), "not yet"
    hospital.again()
    hospital.scanner = Listener(port=hospital.scanner.port)
    hospital.scanner.answers = [0x0213]
    hospital.now += 1000
    assert hospital.messenger.tell()
    hospital.now += 1000
    hospital.go(lambda: hospital.scanner.told)
    assert hospital.states() == ["told"]


@pytest.mark.sockets
def test_a_sender_that_cannot_be_told_is_given_up_and_rings(
    make: Callable[..., Hospital], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TIMES, "tells", 4)
    hospital = make()
    hospital.scanner.stop()
    asked(hospital, A)
    hospital.go(lambda: hospital.states() == ["committed"])
    for _ in range(TIMES["tells"]):
        hospital.now += 1000
        hospital.messenger.tell()
    assert hospital.states() == ["dead"]
    assert hospital.alarms() == {"commitment-not-passed-on"}
    assert commitments.counts(hospital.db) == {"waiting": 0, "asked": 0, "to_tell": 0, "dead": 1}
    hospital.scanner = Listener()


@pytest.mark.sockets
def test_an_answer_that_comes_after_a_restart_finds_its_transaction(make: Callable[..., Hospital]) -> None:
    hospital = make("silent")
    asked(hospital, A)
    hospital.go(lambda: hospital.states() == ["asked"])
    hospital.again()
    hospital.archive.report(hospital.archive.asked[0])
    hospital.go(lambda: hospital.scanner.told)
    assert hospital.scanner.told[0].committed == (A,)


@pytest.mark.sockets
def test_who_died_while_asking_asks_anew(make: Callable[..., Hospital]) -> None:
    hospital = make("silent")
    asked(hospital, A)
    hospital.go(lambda: hospital.states() == ["asked"])
    with hospital.db.write() as c:
        c.exec_driver_sql("UPDATE commitment SET state = 'asking'")
    hospital.again()
    hospital.go(lambda: len(hospital.archive.asked) == 2)
    hospital.archive.report(hospital.archive.asked[0])
    hospital.go(lambda: hospital.scanner.told)


@pytest.mark.sockets
def test_one_request_sent_twice_is_served_once(make: Callable[..., Hospital]) -> None:
    hospital = make()
    asked(hospital, A)
    asked(hospital, A)
    asked(hospital, A, transaction="2.25.501")
    hospital.go(lambda: len(hospital.scanner.told) == 2)
    assert {t.transaction_uid for t in hospital.scanner.told} == {"2.25.500", "2.25.501"}
    assert len(hospital.archive.asked) == 2


@pytest.mark.sockets
def test_a_result_for_nobody_changes_nothing(make: Callable[..., Hospital]) -> None:
    hospital = make()
    report_commitment(scu.Peer("127.0.0.1", hospital.port, "PACSAINODE", "ARCHIVE"), "2.25.1", [A], {})
    hospital.index()
    assert not hospital.messenger.ask()
    assert hospital.states() == []


# --- as proof of our own deliveries


class Delivered:
    """One delivery, on a real store, that is proved by commitment."""

    def __init__(self, hospital: Hospital, folder: Path) -> None:
        self.hospital = hospital
        self.box = Outbox(folder)
        hospital.db.close()
        hospital.db = self.box.db
        hospital.again()
        self.box.now = hospital.now
        self.destination = Destination(
            "pacs", "127.0.0.1", hospital.archive.port, "ARCHIVE", check_study=False, proof="commitment"
        )
        self.box.add()
        assert self.box.run(self.box.courier(self.destination)) == 1
        assert self.box.row().state == "delivered"

    def step(self) -> bool:
        self.hospital.now = self.box.now = self.box.now + 10.0
        self.hospital.index()
        return self.box.prover(self.destination, commitment=self.hospital.asking.confirm).step()

    def until(self, state: str, proof: str, rounds: int = 60) -> None:
        for _ in range(rounds):
            row = self.box.row()
            if (row.state, row.proof) == (state, proof):
                return
            self.box.run(self.box.courier(self.destination))
            self.step()
            self.hospital.archive.wait()
        pytest.fail(f"still {self.box.row().state}, {self.box.row().proof}: {self.hospital.states()}")


@pytest.mark.sockets
@pytest.mark.parametrize("mode", ["new", "same"])
def test_a_delivery_is_confirmed_by_the_archives_word(make: Callable[..., Hospital], tmp_path: Path, mode: str) -> None:
    hospital = make(mode)
    delivered = Delivered(hospital, tmp_path / "box")
    delivered.until("confirmed", "commitment")
    (request,) = hospital.archive.asked
    assert [r.sop_instance_uid for r in request.references] == delivered.box.uids()
    assert hospital.states() == ["committed"]


@pytest.mark.sockets
def test_what_the_archive_does_not_commit_is_sent_once_more_and_then_rings(
    make: Callable[..., Hospital], tmp_path: Path
) -> None:
    hospital = make("same")
    delivered = Delivered(hospital, tmp_path / "box")
    lost = delivered.box.uids()[1]
    hospital.archive.refuses = {lost}
    for _ in range(40):
        delivered.box.now += 4000
        delivered.box.run(delivered.box.courier(delivered.destination))
        delivered.step()
        if delivered.box.row().proof == "missing":
            break
    assert (delivered.box.row().state, delivered.box.row().proof) == ("delivered", "missing")
    assert hospital.archive.stored == [*delivered.box.uids(), lost], "only what failed, and once"
    assert hospital.alarms() == {"delivered-but-not-found"}


@pytest.mark.sockets
def test_a_delivery_that_is_cured_by_sending_again(make: Callable[..., Hospital], tmp_path: Path) -> None:
    hospital = make("same")
    delivered = Delivered(hospital, tmp_path / "box")
    lost = delivered.box.uids()[0]
    hospital.archive.refuses = {lost}
    for _ in range(40):
        delivered.box.now += 4000
        delivered.step()
        if delivered.box.run(delivered.box.courier(delivered.destination)):
            break
    hospital.archive.refuses = set()
    delivered.box.now += 4000
    delivered.until("confirmed", "commitment")


@pytest.mark.sockets
def test_silence_about_a_delivery_is_asked_again_and_a_late_answer_counts(
    make: Callable[..., Hospital], tmp_path: Path
) -> None:
    hospital = make("silent")
    delivered = Delivered(hospital, tmp_path / "box")
    assert delivered.step()
    assert len(hospital.archive.asked) == 1
    delivered.step()
    assert len(hospital.archive.asked) == 1, "it has time to answer"
    delivered.box.now += TIMES["answer_s"]
    delivered.step()
    assert len(hospital.archive.asked) == 2
    assert hospital.alarms() == {"commitment-unanswered"}
    hospital.again()
    hospital.archive.report(hospital.archive.asked[0])
    delivered.box.now += 4000
    delivered.until("confirmed", "commitment")
    assert hospital.states() == ["committed", "superseded"]
    assert hospital.alarms() == set()


@pytest.mark.sockets
def test_an_archive_without_the_service_is_told_apart(make: Callable[..., Hospital], tmp_path: Path) -> None:
    hospital = make(classes=(VERIFICATION,))
    delivered = Delivered(hospital, tmp_path / "box")
    with pytest.raises(NetworkError, match="commitment-not-offered"):
        hospital.asking.confirm(delivered.box.row(), ())
    delivered.until("delivered", "not-offered")


@pytest.mark.sockets
@pytest.mark.parametrize("point", [more("commit.asked"), "commit.reported"])
def test_killed_and_started_again_the_sender_is_told_the_truth(point: str, make_rig: Callable[..., Any]) -> None:
    archive, scanner = Archive("new"), Listener("SCANNER")
    rig = make_rig(elsewhere=("ARCHIVE", archive.port))
    text = rig.configuration.read_text(encoding="utf-8")
    text = text.replace('ae_title = "SCANNER"\n', f'ae_title = "SCANNER"\ncommit_port = {scanner.port}\n')
    rig.configuration.write_text(text + '[commitment]\narchive = "pacs"\n', encoding="utf-8")
    try:
        rig.start(PACS_AI_NODE_FAILPOINT=point, PACS_AI_NODE_TESTING="1")
        archive.report_to = rig.port
        archive.refuses = {B.sop_instance_uid}
        with Scanner(rig.port, "SCANNER") as asking:
            asking.ask("2.25.500", A, B)
        rig.until(lambda: b"process.died" in rig.log.read_bytes(), 30.0, f"a death at {point}")
        rig.kill()
        rig.start()
        archive.report_to = rig.port
        with Scanner(rig.port, "SCANNER") as asking:
            assert asking.ask("2.25.500", A, B) == 0
        rig.until(lambda: scanner.told, 30.0, "a report")
        empty = {"waiting": 0, "asked": 0, "to_tell": 0, "dead": 0}
        rig.until(lambda: rig.status()["commitments"] == empty, 30.0, "nothing left to ask or tell")
        assert {(t.transaction_uid, t.committed, tuple(t.failed)) for t in scanner.told} == {
            ("2.25.500", (A,), (B.sop_instance_uid,))
        }
    finally:
        archive.stop()
        scanner.stop()


@pytest.mark.sockets
def test_a_whole_node_has_its_results_committed(make_rig: Callable[..., Any], ct: list[Path]) -> None:
    archive = Archive("new")
    rig = make_rig(elsewhere=("ARCHIVE", archive.port))
    text = rig.configuration.read_text(encoding="utf-8")
    rig.configuration.write_text(text.replace("check_study = false\n", 'check_study = false\nproof = "commitment"\n'))
    try:
        rig.start()
        archive.report_to = rig.port
        rig.push(ct[20:44], "WHOLE")
        uid = str(dcmread(ct[20], specific_tags=["StudyInstanceUID"]).StudyInstanceUID)
        rig.idle()
        rig.until(lambda: rig.show(uid)["deliveries"][0]["state"] == "confirmed", 60.0, "a confirmed delivery")
        (delivery,) = rig.show(uid)["deliveries"]
        assert delivery["proof"] == "commitment"
        (request,) = archive.asked
        assert sorted(r.sop_instance_uid for r in request.references) == sorted(archive.stored)
        assert archive.unreported == [], "the archive is let in to report, though it is no sender"
    finally:
        archive.stop()
