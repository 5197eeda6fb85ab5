"""Watermarks: when nothing more is accepted, and from when on it is again."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.settings import Storage
from node import watermarks
from node.intake import UNDERWAY_S, Underway
from node.watermarks import Gate, Limits, Measured, NotAcceptingError, decide, read_state, write_state

pytestmark = pytest.mark.unit

LIMITS = Limits(free_bytes=1000, free_names=100, waiting=40, beyond=0.25)
FINE = Measured(10_000, 10_000, 0)


@pytest.mark.parametrize(
    ("measured", "closed", "then"),
    [
        (FINE, set(), set()),
        (Measured(1000, 100, 39), set(), set()),
        (Measured(999, 10_000, 0), set(), {"disk"}),
        (Measured(1249, 10_000, 0), {"disk"}, {"disk"}),
        (Measured(1249, 10_000, 0), set(), set()),
        (Measured(1250, 10_000, 0), {"disk"}, set()),
        (Measured(10_000, 99, 0), set(), {"names"}),
        (Measured(10_000, 124, 0), {"names"}, {"names"}),
        (Measured(10_000, 125, 0), {"names"}, set()),
        (Measured(10_000, None, 0), set(), set()),
        (Measured(10_000, 10_000, 40), set(), {"queue"}),
        (Measured(10_000, 10_000, 31), {"queue"}, {"queue"}),
        (Measured(10_000, 10_000, 30), {"queue"}, set()),
        (Measured(500, 50, 400), set(), {"disk", "names", "queue"}),
        (Measured(10_000, 10_000, 0), {"disk", "names", "queue"}, set()),
        # what cannot be measured changes nothing
        (Measured(None, None, None), {"disk", "queue"}, {"disk", "queue"}),
        (Measured(None, None, None), set(), set()),
    ],
)
def test_each_row(measured: Measured, closed: set[str], then: set[str]) -> None:
    assert decide(measured, LIMITS, frozenset(closed)) == then


def test_no_limit_is_none() -> None:
    none = Limits(0, 0, 0, 0.25)
    assert decide(Measured(0, 0, 10**9), none, frozenset()) == frozenset()
    assert decide(Measured(None, None, None), none, frozenset({"queue"})) == frozenset()


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 80)), max_size=50))
def test_between_the_marks_nothing_changes(steps: list[tuple[int, int]]) -> None:
    closed: frozenset[watermarks.Cause] = frozenset()
    states = [closed]
    for free, waiting in steps:
        closed = decide(Measured(free, None, waiting), LIMITS, closed)
        states.append(closed)
    for (before, after), (free, waiting) in zip(pairwise(states), steps, strict=True):
        if 1000 <= free < 1250:
            assert ("disk" in before) == ("disk" in after)
        if 30 < waiting < 40:
            assert ("queue" in before) == ("queue" in after)


def test_the_configuration_is_understood() -> None:
    limits = Limits.of(Storage(min_free_mb=3, max_waiting=7))
    assert (limits.free_bytes, limits.waiting, limits.beyond) == (3 << 20, 7, 0.25)


def test_the_state_beside_the_spool_is_written_read_and_taken_away(tmp_path: Path) -> None:
    assert read_state(tmp_path) == frozenset()
    write_state(tmp_path, {"queue", "disk"})
    assert json.loads((tmp_path / watermarks.STATE).read_text(encoding="utf-8")) == {"causes": ["disk", "queue"]}
    assert read_state(tmp_path) == {"queue", "disk"}
    write_state(tmp_path, ())
    assert not list(tmp_path.iterdir())
    write_state(tmp_path, ())


@pytest.mark.parametrize("content", ["", "{", "[]", '{"causes": 3}', '{"causes": ["other"]}', "\0\0"])
def test_a_damaged_state_keeps_nobody_out(tmp_path: Path, content: str) -> None:
    (tmp_path / watermarks.STATE).write_text(content, encoding="utf-8")
    assert read_state(tmp_path) == frozenset()


def test_the_gate_follows_the_disk_itself_and_the_queue_by_hearsay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = FINE
    monkeypatch.setattr(watermarks, "room", lambda _folder: measured)
    gate = Gate(tmp_path, LIMITS)
    assert gate.closed() == frozenset()
    write_state(tmp_path, {"queue"})
    assert gate.closed() == {"queue"}
    gate.check_room()
    measured = Measured(999, 10_000)
    assert gate.closed() == {"disk", "queue"}
    with pytest.raises(NotAcceptingError):
        gate.check_room()
    write_state(tmp_path, ())
    measured = Measured(1100, 10_000)
    assert gate.closed() == {"disk"}
    measured = Measured(1250, 10_000)
    gate.check_room()
    assert gate.closed() == frozenset()


def test_a_gate_begins_with_what_was_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watermarks, "room", lambda _folder: Measured(1100, 10_000))
    write_state(tmp_path, {"disk"})
    assert Gate(tmp_path, LIMITS).closed() == {"disk"}
    write_state(tmp_path, ())
    assert Gate(tmp_path, LIMITS).closed() == frozenset()


def test_a_study_that_has_begun_is_known_to_every_receiver(tmp_path: Path) -> None:
    now = [1000.0]
    one, other = (Underway(tmp_path, lambda: now[0]) for _ in range(2))
    assert not other.has("1.2.3")
    one.add("1.2.3")
    assert one.has("1.2.3")
    assert other.has("1.2.3")
    assert not other.has("1.2.4")
    now[0] += UNDERWAY_S - 1.0
    one.add("1.2.3")
    now[0] += UNDERWAY_S - 1.0
    assert other.has("1.2.3"), "since its last object"
    now[0] += 1.0
    assert not other.has("1.2.3")
    Underway(tmp_path / "nowhere").add("1.2.3")
