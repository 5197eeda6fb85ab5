"""One question for all destinations: who has something to do."""

import threading
import time

import pytest

from node.due import Due

pytestmark = pytest.mark.unit


def test_many_ask_and_the_database_is_asked_seldom() -> None:
    asked: list[float] = []

    def ask(now: float) -> frozenset[str]:
        asked.append(now)
        return frozenset({"PACS"})

    due = Due(ask)
    begun = time.monotonic()
    heard: list[bool] = []

    def one(name: str) -> None:
        while time.monotonic() < begun + 0.35:
            heard.append(due(name) == (name == "PACS"))
            time.sleep(0.001)

    threads = [threading.Thread(target=one, args=(name,)) for name in ("PACS", "OTHER") * 10]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(heard)
    assert len(heard) > 100
    assert len(asked) <= 1 + (time.monotonic() - begun) / 0.1, "ten times a second at most"
    assert asked[-1] == pytest.approx(time.time(), abs=5.0)


def test_the_answer_is_never_old() -> None:
    names: list[str] = []
    due = Due(lambda _now: frozenset(names))
    assert not due("PACS")
    names.append("PACS")
    deadline = time.monotonic() + 5.0
    while not due("PACS"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_question_that_fails_is_asked_again() -> None:
    failing = [True]

    def ask(_now: float) -> frozenset[str]:
        if failing[0]:
            raise OSError("disk")
        return frozenset({"PACS"})

    due = Due(ask)
    with pytest.raises(OSError, match="disk"):
        due("PACS")
    failing[0] = False
    assert due("PACS")
