"""Proof of arrival: the table of answers, and a prover that asks seldom, sends again once and then calls a person."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_io.errors import NetworkError
from dicom_io.reason import Reason
from node import proof
from node.loopback_pacs import LoopbackPacs
from node.proof import Finding
from node.retry import policy
from node.store import alarms, breakers, deliveries, events, operator, waits
from node.store.clocks import Jump
from node.store.rows import Breaker
from tests.node.outbox import Outbox, Script, place

TRIES = policy()["proof"]["tries"]
WEEK = policy()["proof"]["give_up_s"]

# answer, which question, sent again already, unanswered for a week; what to do, whether the question counts
RULES: list[tuple[Finding, int, bool, bool, str, bool]] = [
    (Finding(0), 1, False, False, "proved", True),
    (Finding(0), TRIES, True, True, "proved", True),
    (Finding(1), 1, False, False, "later", True),
    (Finding(1), TRIES - 1, True, False, "later", True),
    (Finding(1), TRIES, False, False, "send-again", True),
    (Finding(2), TRIES, True, False, "missing", True),
    (Finding(None, "query-not-offered"), 1, False, False, "not-offered", True),
    (Finding(None, "commitment-not-offered"), 1, False, False, "not-offered", True),
    (Finding(None, "query-failed"), 1, False, False, "later", True),
    (Finding(None, "query-failed"), TRIES, False, False, "unanswered", True),
    (Finding(None, "peer-timeout"), TRIES, False, False, "later", False),
    (Finding(None, "query-unanswered"), TRIES, False, False, "later", False),
    (Finding(None, "peer-timeout"), 1, False, True, "unanswered", False),
    (Finding(None), TRIES, False, False, "later", False),
    (Finding(None), 1, False, True, "unanswered", False),
]


@pytest.mark.unit
@pytest.mark.parametrize(("finding", "asked", "again", "overdue", "ruling", "counts"), RULES)
def test_rule(finding: Finding, asked: int, again: bool, overdue: bool, ruling: str, counts: bool) -> None:
    assert proof.judge(finding, asked, again=again, overdue=overdue) == (ruling, counts)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Outbox]:
    made = Outbox(tmp_path / "box")
    yield made
    made.db.close()


FIND: dict[str, Any] = {"proof": "find"}


def ask_for(box: Outbox, prover: proof.Prover, seconds: float) -> int:
    """Let time pass and the prover ask whenever it wants; return how often it did."""
    asked, end = 0, box.now + seconds
    while box.now < end:
        asked += prover.step()
        box.now += 1.0
    return asked


@pytest.mark.unit
def test_a_clock_that_is_set_back_does_not_silence_the_prover(box: Outbox) -> None:
    script, destination = Script(), place(**FIND)
    prover = box.prover(destination, script)
    for _ in range(2):
        box.add(objects=1)
    box.run(box.courier(destination, script))
    box.now += 10.0
    assert prover.step()
    box.now -= 6 * 3600.0
    waits.shift(box.db, lambda: box.now, Jump.noticed(-6 * 3600.0, box.now, box.now + 6 * 3600.0))
    assert prover.step(), "it rests for a moment between two questions, not for six hours"


@pytest.mark.unit
def test_what_is_found_is_confirmed_and_never_asked_for_again(box: Outbox) -> None:
    uid, script, destination = box.add(), Script(), place(**FIND)
    box.run(box.courier(destination, script))
    row = box.row(uid)
    assert (row.state, row.proof, row.proof_next is not None) == ("delivered", "waiting", True)
    prover = box.prover(destination, script)
    assert not prover.step(), "not at once: it may index late"
    assert ask_for(box, prover, 5000.0) == 1
    row = box.row(uid)
    assert (row.state, row.proof, row.proof_next) == ("confirmed", "find", None)
    assert script.questions == 2, "one for each series"
    assert "confirmed" in [e.kind for e in events.timeline(box.db, uid)]


@pytest.mark.unit
def test_a_destination_that_asks_for_no_proof_stays_delivered(box: Outbox) -> None:
    uid, script, destination = box.add(), Script(), place(proof="none")
    box.run(box.courier(destination, script))
    assert ask_for(box, box.prover(destination, script), 100.0) == 0
    assert (box.row(uid).state, box.row(uid).proof) == ("delivered", "none")


@pytest.mark.unit
def test_an_archive_that_indexes_late_is_asked_seldom(box: Outbox) -> None:
    uid, script, destination = box.add(objects=1), Script(), place(**FIND)
    box.run(box.courier(destination, script))
    begun = box.now
    script.shows = lambda _uid: box.now > begun + 500.0
    asked = ask_for(box, box.prover(destination, script), 2000.0)
    assert box.row(uid).state == "confirmed"
    assert asked <= TRIES
    assert script.sent == box.uids(uid), "sent once"


@pytest.mark.unit
def test_what_is_not_there_is_sent_again_once_then_a_person_is_called(box: Outbox) -> None:
    uid, script, destination = box.add(objects=3), Script(), place(**FIND)
    lost = box.uids(uid)[1]
    script.shows = lambda sop_uid: sop_uid != lost
    courier, prover = box.courier(destination, script), box.prover(destination, script)
    for _ in range(100):
        box.run(courier)
        ask_for(box, prover, 100.0)
    assert script.sent == [*box.uids(uid), lost], "the missing one alone, and once"
    row = box.row(uid)
    assert (row.state, row.proof, row.proof_next) == ("delivered", "missing", None)
    assert [a.code for a in alarms.standing(box.db)] == ["delivered-but-not-found"]
    assert script.questions <= 3 * 2 * TRIES

    script.shows = lambda _uid: True  # put right by a person
    operator.resend(box.db, uid, box.now)
    assert alarms.standing(box.db) == ()
    box.run(courier)
    ask_for(box, prover, 100.0)
    assert box.row(uid).state == "confirmed"


@pytest.mark.unit
def test_what_is_found_after_the_second_sending_is_confirmed(box: Outbox) -> None:
    uid, script, destination = box.add(objects=1), Script(), place(**FIND)
    script.shows = lambda _uid: len(script.sent) > 1
    courier, prover = box.courier(destination, script), box.prover(destination, script)
    for _ in range(30):
        box.run(courier)
        ask_for(box, prover, 100.0)
    assert (box.row(uid).state, box.row(uid).proof) == ("confirmed", "find")
    assert alarms.standing(box.db) == ()


@pytest.mark.unit
@pytest.mark.parametrize(
    ("answer", "seconds", "ends"),
    [
        ("query-not-offered", 10.0, "not-offered"),
        ("query-failed", 10_000.0, "unanswered"),
        ("peer-timeout", 10_000.0, "waiting"),
        ("peer-timeout", WEEK + 10_000.0, "unanswered"),
    ],
)
def test_who_does_not_answer_keeps_what_was_delivered(box: Outbox, answer: str, seconds: float, ends: str) -> None:
    uid, script, destination = box.add(objects=1), Script(shows=answer), place(**FIND)
    box.run(box.courier(destination, script))
    prover, end, asked = box.prover(destination, script), box.now + seconds, 0
    while box.now < end:
        asked += prover.step()
        box.now += seconds / 1000
    assert asked < 20 + seconds / policy()["proof"]["cap_s"], "not hammered"
    assert (box.row(uid).state, box.row(uid).proof) == ("delivered", ends)
    assert script.sent == box.uids(uid)
    assert alarms.standing(box.db) == ()


@pytest.mark.unit
def test_a_destination_that_is_down_is_not_asked(box: Outbox) -> None:
    box.add()
    script, destination = Script(), place(**FIND)
    box.run(box.courier(destination, script))
    breakers.put(box.db, Breaker("pacs", "open", 9, box.now, box.now + 300.0, None))
    prover = box.prover(destination, script)
    assert ask_for(box, prover, 50.0) == 0
    breakers.put(box.db, Breaker("pacs", "closed", 0, box.now, None, None))
    assert ask_for(box, prover, 5.0) == 1


@pytest.mark.unit
def test_sent_again_by_a_person_while_it_is_asked_for_is_not_confirmed(box: Outbox) -> None:
    uid, script, destination = box.add(objects=1), Script(), place(**FIND)
    box.run(box.courier(destination, script))
    box.now += 10.0

    def shows(_uid: str) -> bool:
        operator.resend(box.db, uid, box.now)
        return True

    script.shows = shows
    assert box.prover(destination, script).step()
    assert box.state(uid)[0] == "waiting"


@pytest.mark.unit
def test_many_questions_leave_a_pause_between_them(box: Outbox) -> None:
    script, destination = Script(), place(**FIND)
    for _ in range(5):
        box.add(objects=1)
    box.run(box.courier(destination, script))
    box.now += 10.0
    prover = box.prover(destination, script)
    assert [prover.step() for _ in range(3)] == [True, False, False]
    box.now += policy()["proof"]["gap_s"]
    assert prover.step()


@pytest.mark.unit
def test_commitment_is_asked_for_where_it_is_wanted(box: Outbox) -> None:
    uid, script, destination = box.add(objects=1), Script(), place(proof="commitment")
    box.run(box.courier(destination, script))
    answers: list[Any] = [
        None,
        NetworkError(Reason("peer-timeout", "error", {"en": "x", "zh-CN": "x"}, {}), retryable=True),
        frozenset(box.uids(uid)),
    ]

    def commitment(delivery: Any, objects: Any) -> frozenset[str] | None:
        assert delivery.id == box.row(uid).id
        assert [a.sop_uid for a in objects] == box.uids(uid)
        answer = answers.pop(0)
        if isinstance(answer, NetworkError):
            raise answer
        return answer  # type: ignore[no-any-return]  # the list above

    assert ask_for(box, box.prover(destination, script, commitment=commitment), 100.0) == 3
    assert (box.row(uid).state, box.row(uid).proof) == ("confirmed", "commitment")
    assert script.questions == 0


@pytest.mark.sockets
def test_a_real_pacs_shows_what_it_took_and_not_what_it_lost(box: Outbox, tmp_path: Path) -> None:
    with LoopbackPacs(tmp_path / "pacs", "PACS") as pacs:
        destination = place(port=pacs.port, proof="find", check_study=False)
        there, lost = box.add(), box.add()
        courier, prover = box.courier(destination), box.prover(destination)
        box.run(courier)
        log = tmp_path / "pacs" / "received.jsonl"
        log.write_text("".join(line for line in log.read_text().splitlines(keepends=True) if lost not in line))
        box.now += 5.0
        assert prover.step()
        box.now += 5.0
        assert prover.step()
    assert box.row(there).state == "confirmed"
    assert (box.row(lost).state, box.row(lost).proof_attempts) == ("delivered", 1)
    assert deliveries.waiting(box.db) == {}
