"""Asking a source how many images it has: when, how often, what counts, and what its silence costs."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.settings import Dicom, Peer, Rule, Settings
from dicom_io.errors import NetworkError
from dicom_io.reasons import REASONS
from dicom_io.scu import Peer as Address
from dicom_io.scu_query import FoundSeries
from node import inquire
from node.assemble import Facts, Quiet, Sender
from node.facts import compare
from node.inquire import Inquirer, images, next_question
from node.reasons import REASONS as WORDS
from node.store import Database, evidence
from node.store.rows import Carrier, Held, Read, Study
from tests.more import ON_FILES_FIRST
from tests.stores import STORES

pytestmark = [pytest.mark.unit, ON_FILES_FIRST, pytest.mark.usefixtures("back_end")]

STUDY = Study("1.2", "h", "", "", "", "", "open", 1, 0, 0.0, 100.0, 1)
CARRIER = Carrier("a", 1, "CT1", "NODE", "127.0.0.1", 0.0, 101.0, "released", 3, 0.0, 100.0)
QUIET = Quiet(60.0, 60.0, WORDS("waits-quiet", seconds="60"))
FACTS = Facts("open", 1, 0, 0.0, 100.0, (Sender("released", 3, False, 100.0, 101.0),), False, QUIET)
SETTINGS = Settings(
    dicom=Dicom(
        peer=(
            Peer("CT1", "h1", query_port=104, query_ae_title="CT1Q"),
            Peer("MR1", "h2"),
            Peer("WS1", "h3", query_port=105),
        )
    )
)


def read(at: float, again: float) -> Read:
    return Read("CT1", at, again, {"s": 3})


QUESTIONS: list[tuple[str, Read | None, bool, float | None]] = [
    ("never asked", None, False, 101.3),
    ("asked while images were still coming, other then", read(90, 90), False, 101.3),
    ("asked while images were still coming, equal now", read(90, 90), True, 101.3),
    ("equal once", read(101.3, 101.3), True, 104.3),
    ("equal twice, too close", read(101.3, 103.0), True, 104.3),
    ("equal twice, apart", read(101.3, 104.3), True, None),
    ("equal twice, before and after", read(90, 101.3), True, None),
    ("other: soon again", read(101.3, 101.3), False, 101.6),
    ("other after a while: more rarely", read(101.3, 111.0), False, 121.0),
    ("other for long: once a minute", read(101.3, 301.0), False, 361.0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "newest", "equal", "at"), QUESTIONS, ids=[q[0] for q in QUESTIONS])
def test_when_the_next_question_is_due(name: str, newest: Read | None, equal: bool, at: float | None) -> None:
    del name
    found = next_question(newest, equal, over=101.0)
    assert found == (None if at is None else pytest.approx(at))


def found(*series: tuple[str, str, int]) -> list[FoundSeries]:
    return [FoundSeries(*one) for one in series]


def test_results_and_documents_do_not_count_unless_a_rule_names_them() -> None:
    there = found(
        ("a", "CT", 3), ("sr", "SR", 1), ("seg", "SEG", 1), ("sc", "OT", 9), ("ot", "OT", 2), ("ours", "CT", 5)
    )
    held = {"a": Held(3, 3), "ot": Held(2, 2)}
    assert images(there, held, frozenset({"ours"}), ()) == {"a": 3, "ot": 2}
    rules = (Rule("r", {"Modality": ["SR", "OT"]}),)  # type: ignore[dict-item]  # the loader makes tuples of lists
    assert images(there, held, frozenset(), rules) == {"a": 3, "sr": 1, "sc": 9, "ot": 2, "ours": 5}


class Asked:
    """Answers questions as the test wants and remembers them."""

    def __init__(self) -> None:
        self.answer: Sequence[FoundSeries] | NetworkError = found(("s", "CT", 3))
        self.questions: list[tuple[str, str]] = []

    def __call__(self, peer: Address, study_uid: str) -> Sequence[FoundSeries]:
        self.questions.append((peer.ae_title, study_uid))
        if isinstance(self.answer, NetworkError):
            raise self.answer
        return self.answer


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    opened = STORES.open(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def inquirer(db: Database, asked: Asked) -> Inquirer:
    return Inquirer(db, SETTINGS, lambda _uid: None, asked)


def test_two_equal_answers_and_no_more(inquirer: Inquirer, asked: Asked, db: Database) -> None:
    source = inquirer.sources["CT1"]
    now = 102.0
    for _ in range(5):
        held = {"s": Held(3, 3)}
        facts = replace(FACTS, counts=tuple(compare(r, held) for r in evidence.reads(db, "1.2")))
        inquirer.consider(STUDY, (CARRIER,), facts, now)
        due = source.due()
        if due is None:
            break
        now = max(now, due)
        source.step(now)
    assert asked.questions == [("CT1Q", "1.2")] * 2
    assert evidence.reads(db, "1.2") == (Read("CT1", 102.0, 105.0, {"s": 3}),)


IDLE: list[tuple[str, Facts | None, float, bool]] = [
    ("over", FACTS, 102.0, True),
    ("closed", None, 102.0, False),
    ("an association is open", replace(FACTS, senders=(Sender("open", 3, False, 100.0, 100.0),)), 102.0, False),
    ("no image for long", FACTS, 2000.0, False),
]


@pytest.mark.parametrize(("name", "facts", "now", "due"), IDLE, ids=[i[0] for i in IDLE])
def test_which_studies_are_asked_about(
    inquirer: Inquirer, name: str, facts: Facts | None, now: float, due: bool
) -> None:
    del name
    inquirer.consider(STUDY, (CARRIER,), FACTS, 102.0)
    inquirer.consider(STUDY, (CARRIER,), facts, now)
    assert (inquirer.sources["CT1"].due() is not None) == due
    assert inquirer.sources["WS1"].due() is None, "it carried nothing of this study"
    assert "MR1" not in inquirer.sources


def test_a_source_that_does_not_answer_is_left_alone_ever_longer(
    inquirer: Inquirer, asked: Asked, db: Database
) -> None:
    asked.answer = NetworkError(REASONS("peer-timeout", host="h1", port=104), retryable=True)
    source = inquirer.sources["CT1"]
    now, waits = 102.0, []
    for _ in range(9):
        inquirer.consider(STUDY, (CARRIER,), FACTS, now)
        due = source.due()
        assert due is not None
        waits.append(due - now)
        source.step(due - 0.01)
        now = max(now, due)
        source.step(now)
    assert len(asked.questions) == 9, "nothing is asked before it is due"
    assert waits[1] == pytest.approx(5, rel=0.11)
    assert waits[8] == pytest.approx(300, rel=0.11)
    assert evidence.reads(db, "1.2") == ()
    asked.answer = found(("s", "CT", 3))
    inquirer.consider(STUDY, (CARRIER,), FACTS, now)
    source.step(source.due() or 0.0)
    assert len(evidence.reads(db, "1.2")) == 1


def test_a_source_that_hangs_keeps_nobody_else_waiting(db: Database) -> None:
    release, answered = threading.Event(), threading.Event()

    def ask(peer: Address, _uid: str) -> Sequence[FoundSeries]:
        if peer.ae_title == "CT1Q":
            release.wait(20.0)
        else:
            answered.set()
        return ()

    inquirer = Inquirer(db, SETTINGS, lambda _uid: None, ask)
    stop = threading.Event()
    threads = inquirer.start(stop)
    other = replace(CARRIER, association="b", calling="WS1")
    try:
        inquirer.consider(STUDY, (CARRIER, other), FACTS, 102.0)
        assert answered.wait(10.0)
    finally:
        stop.set()
        release.set()
        for thread in threads:  # before their database is closed
            thread.join(20.0)


def test_where_series_are_not_counted_images_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_series(*_: Any) -> list[FoundSeries]:
        return [FoundSeries("a", "CT", None), FoundSeries("b", "CT", 7)]

    listed: Callable[..., frozenset[str]] = lambda *_: frozenset({"1", "2"})  # noqa: E731 - one line says it
    monkeypatch.setattr(inquire, "find_series", find_series)
    monkeypatch.setattr(inquire, "find_instances", listed)
    assert [s.images for s in inquire.ask(Address("h", 1, "A", "B"), "1.2")] == [2, 7]
