"""Jumps of the time of day, row by row: what waited still waits as long, and what came after the jump stays."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from node import overdue
from node.store import Database, alarms, clocks, index, open_database, studies
from node.store.changes import Arrived
from node.timekeeper import NotLeadingError, Timekeeper
from tests.node.outbox import Outbox, place

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


def image(db: Database, n: int, at: float, read: Hands | None = None) -> None:
    """Index an image; with clocks: as a journal is read by them."""
    came = Arrived("x", at, "1.2", "1.3", f"1.4.{n}", "1.5", "1", f"d{n}", 1, f"e{n}", "image")
    index.index(db, "j", (n, n + 1), [came], lambda _uid: "0" * 16, steady=None if read is None else read.steady)


def jumps(db: Database) -> list[float]:
    known = clocks.read(db)
    assert known is not None
    return [jump.seconds for jump in known.jumps]


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
    assert jumps(db) == pytest.approx([jump])
    assert hands.wall - active(db) == pytest.approx(10.0)
    hands.pass_by(5.0)
    image(db, 1, hands.wall, hands)
    time.check()  # what was stamped after the jump stays
    assert hands.wall == active(db)


@pytest.mark.parametrize("jump", [6 * HOUR, -6 * HOUR])
def test_what_was_stamped_before_and_indexed_after_moves_too(db: Database, hands: Hands, jump: float) -> None:
    time = keeper(db, hands)
    before = hands.wall
    hands.pass_by(0.1)
    hands.wall += jump
    time.check()
    image(db, 0, before, hands)
    time.check()
    assert hands.wall - active(db) == pytest.approx(0.1)


@pytest.mark.parametrize("jump", [2.0, -2.0])
def test_a_small_correction_is_no_jump(db: Database, hands: Hands, jump: float) -> None:
    time = keeper(db, hands)
    image(db, 0, hands.wall)
    hands.wall += jump
    time.check()
    assert (jumps(db), active(db)) == ([], NOW)


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
    assert (jumps(db), active(db)) == ([], NOW)


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
    time.check()
    with db.read() as c:
        assert c.exec_driver_sql("SELECT next_try FROM breaker").scalar_one() - hands.wall == pytest.approx(left)


@pytest.mark.parametrize("jump", [6 * HOUR, -6 * HOUR])
def test_a_stamp_moves_as_rows_do(db: Database, hands: Hands, jump: float) -> None:
    time = keeper(db, hands)
    hands.pass_by(5.0)
    hands.wall += jump
    time.check()
    assert time.moved(NOW) == NOW + jump
    assert time.moved(hands.wall - 0.5) == hands.wall - 0.5


JUMPS = [(6, -6), (-6, 6), (-6, -6, 12), (6, 6, -12), (-6, 0.05), (0.05, -6), (0.05, -0.05), (-0.01, -0.01, 5)]


@pytest.mark.parametrize("several", JUMPS)
def test_each_record_moves_by_the_jumps_after_it_and_no_other(
    db: Database, hands: Hands, several: tuple[float, ...]
) -> None:
    time = keeper(db, hands)
    stamped = [(hands.wall, hands.steady)]
    for hours in several:
        hands.pass_by(1.0)
        hands.wall += hours * HOUR
        hands.pass_by(0.1)
        time.check()
        hands.pass_by(2.0)
        stamped.append((hands.wall, hands.steady))
    hands.pass_by(5.0)
    time.check()
    ages = [hands.steady - steady for _, steady in stamped]
    assert [hands.wall - time.moved(wall) for wall, _ in stamped] == pytest.approx(ages)
    again = keeper(db, hands)  # they are remembered
    assert [hands.wall - again.moved(wall) for wall, _ in stamped] == pytest.approx(ages)


@pytest.mark.parametrize("noticed", [False, True])
@pytest.mark.parametrize("jump", [6 * HOUR, -6 * HOUR, 150.0, -150.0])
def test_the_time_of_day_jumps_before_a_record_is_read(
    db: Database, hands: Hands, jump: float, *, noticed: bool
) -> None:
    time = keeper(db, hands)
    hands.wall += 10 * HOUR
    time.check()
    hands.pass_by(60.0)
    time.check()
    before = hands.wall
    hands.pass_by(0.1)
    hands.wall += jump
    if noticed:
        time.check()
    image(db, 0, before, hands)
    hands.pass_by(0.1)
    image(db, 1, hands.wall, hands)
    assert noticed or active(db) == hands.wall
    image(db, 2, before, hands)
    time.check()
    assert hands.wall - active(db) == pytest.approx(0.2)


@pytest.mark.parametrize("jump", [-20.0, 20.0, -3000.0, 3000.0])
def test_the_order_in_which_senders_sent_survives_a_jump(db: Database, hands: Hands, jump: float) -> None:
    time = keeper(db, hands)
    for n, seconds in enumerate((12.0, 7.0, 0.2)):
        came = Arrived(f"a{n}", hands.wall, "1.2", "1.3", f"1.4.{n}", "1.5", "1", f"d{n}", 1, f"e{n}", "image")
        index.index(db, "j", (n, n + 1), [came], lambda _uid: "0" * 16)
        hands.pass_by(seconds)
        time.check()
    hands.wall += jump
    time.check()
    time.check()
    with db.read() as c:
        last = c.exec_driver_sql("SELECT last FROM carried ORDER BY association").scalars().all()
    assert [hands.wall - at for at in last] == pytest.approx([19.2, 7.2, 0.2])


MONTH = 30 * 24 * HOUR


def restarted(db: Database, hands: Hands, wall: float, run: str = "two") -> Timekeeper:
    """The machine is started again; the node some seconds later."""
    hands.wall, hands.steady = wall, 20.0
    return keeper(db, hands, run)


def test_a_machine_that_comes_back_in_the_past_keeps_its_waits_and_calls_a_person(db: Database, hands: Hands) -> None:
    keeper(db, hands)
    image(db, 0, hands.wall)
    with db.write() as c:
        c.exec_driver_sql(
            "INSERT INTO breaker (destination, state, failures, since, next_try) VALUES ('a', 'open', 1, ?, ?)",
            (hands.wall, hands.wall + 60.0),
        )
    time = restarted(db, hands, NOW - MONTH)
    assert hands.wall - active(db) == pytest.approx(0.0)
    with db.read() as c:
        assert c.exec_driver_sql("SELECT next_try FROM breaker").scalar_one() == pytest.approx(hands.wall + 60.0)
    (alarm,) = alarms.standing(db)
    assert alarm.code == "clock-behind"
    assert " 720.0 hours " in alarm.reason["text"]["en"]
    assert not time.steady()
    image(db, 1, hands.wall - 5.0, hands)  # a receiver that was started before the coordinator
    assert hands.wall - active(db) == pytest.approx(5.0)
    image(db, 2, NOW - 1.0, hands)  # not read before the machine ended
    assert hands.wall - active(db) == pytest.approx(1.0)
    restarted(db, hands, hands.wall + 100.0, run="three")
    assert {a.code for a in alarms.standing(db)} == {"clock-behind"}, "it is not right because time goes by"


@pytest.mark.parametrize("off", [True, False], ids=["at the next start", "while the node works"])
def test_a_clock_that_is_set_right_ends_the_alarm_and_the_waits_follow(
    db: Database, hands: Hands, *, off: bool
) -> None:
    keeper(db, hands)
    image(db, 0, hands.wall)
    time = restarted(db, hands, NOW - MONTH)
    hands.pass_by(60.0)
    time.check(write=True)
    if off:
        restarted(db, hands, NOW + 90.0, run="three")
    else:
        hands.wall = NOW + 90.0
        time.check()
    assert alarms.standing(db) == ()
    assert 60.0 <= hands.wall - active(db) <= 120.0


def test_nothing_is_removed_by_age_when_the_machine_was_away_for_long(db: Database, hands: Hands) -> None:
    keeper(db, hands).check(write=True)
    image(db, 0, hands.wall)
    time = restarted(db, hands, NOW + 10 * 365 * 24 * HOUR)
    assert not time.steady()
    assert active(db) == NOW, "it may have been off for so long"
    hands.pass_by(HOUR)
    time.check()
    again = restarted(db, hands, hands.wall + 60.0, run="three")
    assert not again.steady(), "another start does not make it more plausible"
    hands.pass_by(25 * HOUR)
    again.check()
    assert again.steady()
    again.check(write=True)
    assert restarted(db, hands, hands.wall + HOUR, run="four").steady()


def test_a_restarted_coordinator_still_holds_what_is_removed_by_age(db: Database, hands: Hands) -> None:
    time = keeper(db, hands)
    hands.wall += 400 * 24 * HOUR
    time.check()
    assert not keeper(db, hands).steady()


def test_ages_are_not_believed_before_a_jump_is_noticed(db: Database, hands: Hands) -> None:
    time = keeper(db, hands)
    assert time.steady()
    hands.wall += 8 * 24 * HOUR
    assert not time.steady()
    time.check()
    assert not time.steady()
    hands.pass_by(25 * HOUR)
    assert time.steady()


def test_who_does_not_lead_any_more_moves_no_wait(db: Database, hands: Hands) -> None:
    time = Timekeeper(db, lambda: hands.wall, lambda: hands.steady, "one", lambda: False)
    before = clocks.read(db)
    hands.wall += HOUR
    with pytest.raises(NotLeadingError):
        time.check()
    assert clocks.read(db) == before


def test_a_leap_gives_up_no_delivery_by_its_age(tmp_path: Path, hands: Hands) -> None:
    box = Outbox(tmp_path / "box")
    time = keeper(box.db, hands)
    box.now = hands.wall
    box.add(objects=1)

    def sweep() -> int:
        return overdue.sweep(box.db, [place()], hands.wall, by_age=time.steady())

    hands.wall += 8 * 24 * HOUR  # nobody has looked at the clock yet
    assert sweep() == 0
    time.check()
    assert sweep() == 0
    hands.pass_by(2 * 24 * HOUR)
    assert sweep() == 0, "it waits for two days"
    hands.pass_by(6 * 24 * HOUR)
    assert sweep() == 1
    box.db.close()


def test_the_time_is_written_down_seldom(db: Database, hands: Hands) -> None:
    time = keeper(db, hands)
    seen = []
    for _ in range(600):
        hands.pass_by(0.2)
        time.check()
        known = clocks.read(db)
        assert known is not None
        seen.append(known.seen)
    assert 2 <= len(set(seen)) <= 4


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
