"""Jumps of the time of day, row by row: what waited still waits as long, and what came after the jump stays."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from node.store import Database, index, open_database, studies, waits
from node.store.rows import Arrived
from node.timekeeper import Timekeeper

pytestmark = pytest.mark.unit

HOUR = 3600.0
NOW = 1_000_000.0


class Hands:
    """Two clocks of a machine: one that is set, one that is not."""

    def __init__(self) -> None:
        self.wall, self.steady = NOW, 500.0

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(tmp_path / "node.sqlite3")
    yield opened
    opened.close()


def keeper(db: Database, hands: Hands, run: str = "one") -> Timekeeper:
    return Timekeeper(db, lambda: hands.wall, lambda: hands.steady, run)


def image(db: Database, n: int, at: float) -> None:
    came = Arrived("x", at, "1.2", "1.3", f"1.4.{n}", "1.5", "1", f"d{n}", 1, f"e{n}", "image")
    index.index(db, "j", (n, n + 1), [came], lambda _uid: "0" * 16)


def active(db: Database) -> float:
    study = studies.study(db, "1.2")
    assert study is not None
    return study.active


@pytest.mark.parametrize("jump", [6 * HOUR, -6 * HOUR, 40.0, -40.0, 400 * 24 * HOUR])
def test_the_age_of_an_open_study_survives_a_jump(db: Database, hands: Hands, jump: float) -> None:
    time = keeper(db, hands)
    image(db, 0, hands.wall)
    hands.pass_by(10.0)
    hands.wall += jump
    time.check()
    assert time.jumped_s == pytest.approx(jump)
    assert hands.wall - active(db) == pytest.approx(10.0)
    hands.pass_by(5.0)
    image(db, 1, hands.wall)
    time.check()
    time.again(jump)  # what was stamped after the jump stays
    assert hands.wall == active(db)


@pytest.mark.parametrize("jump", [6 * HOUR, -6 * HOUR])
def test_what_was_stamped_before_and_indexed_after_moves_too(db: Database, hands: Hands, jump: float) -> None:
    time = keeper(db, hands)
    before = hands.wall
    hands.pass_by(0.1)
    hands.wall += jump
    time.check()
    image(db, 0, before)
    time.again(jump)
    assert hands.wall - active(db) == pytest.approx(0.1)


@pytest.mark.parametrize("jump", [2.0, -2.0])
def test_a_small_correction_is_no_jump(db: Database, hands: Hands, jump: float) -> None:
    time = keeper(db, hands)
    image(db, 0, hands.wall)
    hands.wall += jump
    time.check()
    assert (time.jumped_s, active(db)) == (0.0, NOW)


@pytest.mark.parametrize("jump", [6 * HOUR, -6 * HOUR])
def test_a_jump_while_no_process_lives_is_noticed_at_the_next_start(db: Database, hands: Hands, jump: float) -> None:
    keeper(db, hands)
    image(db, 0, hands.wall)
    hands.pass_by(30.0)
    hands.wall += jump
    keeper(db, hands).check()
    assert hands.wall - active(db) == pytest.approx(30.0)
    keeper(db, hands).check()  # once
    assert hands.wall - active(db) == pytest.approx(30.0)


def test_another_run_of_the_machine_has_another_steady_clock(db: Database, hands: Hands) -> None:
    keeper(db, hands)
    image(db, 0, hands.wall)
    hands.wall, hands.steady = NOW + 100.0, 3.0
    time = keeper(db, hands, run="two")
    time.check()
    assert (time.jumped_s, active(db)) == (0.0, NOW)


PLANS = [
    (6 * HOUR, 30.0, 30.0), (6 * HOUR, 600.0, 600.0), (6 * HOUR, -1.0, -1.0),
    (-6 * HOUR, 30.0, 30.0), (-6 * HOUR, 600.0, 600.0), (-6 * HOUR, -1.0, -1.0),
]  # fmt: skip


@pytest.mark.parametrize(("jump", "wait", "left"), PLANS)
def test_what_is_due_stays_as_far_away(db: Database, hands: Hands, jump: float, wait: float, left: float) -> None:
    with db.write() as c:
        c.exec_driver_sql(
            "INSERT INTO breaker (destination, state, failures, since, next_try) VALUES ('a', 'open', 1, ?, ?)",
            (hands.wall, hands.wall + wait),
        )
    time = keeper(db, hands)
    hands.wall += jump
    time.check()
    time.again(jump)
    with db.read() as c:
        assert c.exec_driver_sql("SELECT next_try FROM breaker").scalar_one() - hands.wall == pytest.approx(left)


@pytest.mark.parametrize("jump", [6 * HOUR, -6 * HOUR])
def test_a_stamp_moves_as_rows_do(jump: float) -> None:
    assert waits.moved(NOW - 5.0, NOW + jump, jump) == NOW - 5.0 + jump
    assert waits.moved(NOW + jump - 0.5, NOW + jump, jump) == NOW + jump - 0.5


def test_nothing_is_removed_by_age_after_a_jump(db: Database, hands: Hands) -> None:
    time = keeper(db, hands)
    time.check()
    assert time.steady()
    hands.wall += 400 * 24 * HOUR
    time.check()
    assert not time.steady()
    hands.pass_by(25 * HOUR)
    time.check()
    assert time.steady()
