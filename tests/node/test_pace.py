"""How long a sender is waited for, what is learned from its images, and what is kept of what peers said."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from config.settings import StudyTimes
from node import pace
from node.assemble import Count
from node.facts import compare
from node.store import Database, evidence
from node.store.changes import Arrived, AssociationEnded, AssociationOpened, Change, Noticed, Repeated
from node.store.index import index
from node.store.rows import Held, Read, Said, Seen, StepRow
from tests.more import ON_FILES_FIRST
from tests.stores import STORES, sql

pytestmark = [pytest.mark.unit, ON_FILES_FIRST, pytest.mark.usefixtures("back_end")]

TIMES = StudyTimes(quiet_s=60.0, quiet_min_s=5.0, quiet_max_s=900.0)
FIXED = StudyTimes(quiet_s=60.0, pace="fixed")
DAY = 86400.0


def seen(
    studies: int = 100, within_s: float = 0.0, between_s: float = 0.0, hours: float = 24.0, **refuted: int
) -> Seen:
    return Seen(
        "CT1", studies, within_s, between_s, 0.0, hours * 3600, {k.replace("_", "-"): n for k, n in refuted.items()}
    )


TABLE: list[tuple[str, Seen, StudyTimes, float, float, bool]] = [
    # name, what was seen, settings, wait while open, wait when over, learned
    ("never paused", seen(), TIMES, 60, 5, True),
    ("pauses between", seen(between_s=20), TIMES, 60, 40, True),
    ("long pauses between", seen(between_s=100), TIMES, 200, 200, True),
    ("pauses within an association do not delay after it", seen(within_s=30), TIMES, 60, 5, True),
    ("long pauses within", seen(within_s=100), TIMES, 200, 5, True),
    ("bounded", seen(between_s=800), TIMES, 900, 900, True),
    ("too few studies", seen(studies=19), TIMES, 60, 60, False),
    ("not long enough", seen(hours=7.9), TIMES, 60, 60, False),
    ("just enough", seen(studies=20, hours=8), TIMES, 60, 5, True),
    ("one study, but a long pause", seen(studies=1, between_s=100, hours=0.1), TIMES, 200, 200, False),
    ("turned off", seen(between_s=300), FIXED, 60, 60, False),
    ("a configured wait beyond the bound stands", seen(studies=1), StudyTimes(quiet_s=1200.0), 1200, 1200, False),
]


@pytest.mark.parametrize(("name", "one", "times", "open_s", "over_s", "learned"), TABLE, ids=[r[0] for r in TABLE])
def test_pace(name: str, one: Seen, times: StudyTimes, open_s: float, over_s: float, learned: bool) -> None:
    del name
    found = pace.pace(one, times)
    assert (found.open_s, found.over_s, found.learned) == (open_s, over_s, learned)


def test_a_study_waits_for_its_slowest_sender() -> None:
    quick, slow = seen(), Seen("WS1", 100, 50.0, 100.0, 0.0, DAY, {})
    both = pace.quiet([quick, slow], TIMES, broken=False)
    assert (both.open_s, both.over_s) == (200, 200)
    assert "WS1" in both.why.text["en"]
    assert "WS1" in both.why.text["zh-CN"]
    assert pace.quiet([], TIMES, broken=False).over_s == 60
    assert pace.quiet([quick], TIMES, broken=True).over_s == 60, "what broke off comes back, and no pace says when"


def test_evidence_that_was_refuted_twice_is_doubted() -> None:
    assert pace.doubted([seen(count=1, sender=2)]) == {"sender"}
    assert pace.doubted([seen(), seen(procedure_step=5)]) == {"procedure-step"}


def test_what_status_says() -> None:
    (said,) = pace.senders([seen(within_s=7.0, between_s=3.0, count=2)], TIMES)
    assert said == {
        "ae_title": "CT1", "studies": 100, "longest_pause_s": 7.0, "quiet_s": 6.0, "quiet_open_s": 60.0, "learned": True,
        "doubted": ["count"],
    }  # fmt: skip


COMPARE: list[tuple[str, dict[str, int], dict[str, Held], int, bool]] = [
    ("equal", {"a": 3, "b": 1}, {"a": Held(3, 3), "b": Held(1, 1)}, 0, True),
    ("more in one series", {"a": 5}, {"a": Held(3, 3)}, 2, False),
    ("a series more", {"a": 3, "b": 9}, {"a": Held(3, 3)}, 9, False),
    ("less", {"a": 2}, {"a": Held(3, 3)}, 0, False),
    ("a series less", {"a": 3}, {"a": Held(3, 3), "b": Held(1, 1)}, 0, False),
    ("nothing there", {}, {"a": Held(3, 3)}, 0, False),
    ("more here and less there", {"a": 4, "b": 1}, {"a": Held(3, 3), "b": Held(2, 2)}, 1, False),
    ("a screenshot in the series, counted there", {"a": 4}, {"a": Held(3, 4)}, 0, True),
    ("a screenshot in the series, not counted there", {"a": 3}, {"a": Held(3, 4)}, 0, True),
    ("a report of ours that it does not count", {"a": 3}, {"a": Held(3, 3), "sr": Held(0, 1)}, 0, True),
]


@pytest.mark.parametrize(("name", "there", "here", "more", "equal"), COMPARE, ids=[r[0] for r in COMPARE])
def test_counts_of_a_source(name: str, there: dict[str, int], here: dict[str, Held], more: int, equal: bool) -> None:
    del name
    assert compare(Read("CT1", 0.0, 3.0, there), here) == Count("CT1", more, equal, steady=True)
    assert not compare(Read("CT1", 0.0, 2.9, there), here).steady


class Hand:
    """Writes changes into a database as the indexer does."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self._numbers = itertools.count(100)
        self._offset = 0

    def put(self, *changes: Change, longest_s: float = 900.0) -> None:
        span = (self._offset, self._offset + 1)
        assert index(self.db, "j", span, changes, lambda uid: f"h{uid}", longest_s) is not None
        self._offset += 1

    def open(self, association: str, at: float, calling: str = "CT1", pid: int = 1) -> None:
        self.put(AssociationOpened(association, f"n-{pid}", calling, "NODE", "127.0.0.1", at))

    def image(self, association: str, study: str, at: float, sop: str | None = None, **more: Any) -> None:
        self.put(arrived(association, study, at, sop or f"{study}.{next(self._numbers)}", **more))

    def end(self, association: str, at: float) -> None:
        self.put(AssociationEnded(association, "released", at))

    def sql(self, statement: str, **values: object) -> list[Any]:
        return sql(self.db, statement, **values)


def arrived(association: str, study: str, at: float, sop: str, series: str = "s1", role: str = "image") -> Arrived:
    return Arrived(
        association, at, study, series, sop, "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1", f"d{sop}", 1, f"e/{sop}",
        role, "CT",  # type: ignore[arg-type]  # the tests name only real roles
    )  # fmt: skip


@pytest.fixture
def hand(tmp_path: Path) -> Iterator[Hand]:
    db = STORES.open(tmp_path)
    yield Hand(db)
    db.close()


def pauses(hand: Hand) -> list[Any]:
    return hand.sql("SELECT sender, study_uid, within_s, between_s, images FROM pace ORDER BY sender, study_uid")


def test_pauses_are_learned_from_what_arrives(hand: Hand) -> None:
    hand.open("a", 0)
    for at in (0, 2, 9):
        hand.image("a", "1", at)
    hand.image("a", "2", 10)
    hand.image("a", "1", 11)
    hand.end("a", 12)
    hand.open("b", 30)
    hand.image("b", "1", 31)
    assert pauses(hand) == [("CT1", "1", 7, 20, 5), ("CT1", "2", 0, 0, 1)]
    (found,) = evidence.seen(hand.db, 0.0)
    assert found == Seen("CT1", 2, 7, 20, 0, 31, {})
    assert evidence.seen(hand.db, 32.0) == ()
    assert evidence.seen(hand.db, 0.0, ["MR1"]) == ()


def test_repeated_images_and_results_of_others_teach_nothing(hand: Hand) -> None:
    hand.open("a", 0)
    hand.image("a", "1", 0, "1.1")
    hand.put(Repeated("a", 50, "1", "1.1"))
    hand.image("a", "1", 60, series="s9", role="other")
    assert pauses(hand) == [("CT1", "1", 0, 0, 1)]
    hand.image("a", "1", 70)
    assert pauses(hand) == [("CT1", "1", 20, 0, 2)], "the sender was busy repeating until 50"


def test_a_pause_belongs_to_who_ended_it(hand: Hand) -> None:
    hand.open("a", 0)
    hand.open("b", 0, "WS1")
    hand.image("a", "1", 0)
    hand.image("b", "1", 300)
    assert pauses(hand) == [("CT1", "1", 0, 0, 1), ("WS1", "1", 0, 300, 1)]


def test_a_pause_while_the_node_was_down_is_nobodys_pace(hand: Hand) -> None:
    hand.open("a", 0)
    hand.image("a", "1", 0)
    hand.open("b", 200, pid=2)
    hand.image("b", "1", 200)
    hand.image("b", "1", 203)
    assert pauses(hand) == [("CT1", "1", 3, 0, 3)]


def test_a_pause_beyond_the_bound_does_not_poison_a_sender(hand: Hand) -> None:
    hand.open("a", 0)
    for at in (0, 20, 20 + 901, 20 + 901 + 30):
        hand.image("a", "1", at)
    assert pauses(hand) == [("CT1", "1", 30, 0, 4)]


@pytest.mark.parametrize(("by", "gap_s", "refuted"), [("count", 40, {"count": 1}), (None, 40, {}), ("count", 950, {})])
def test_a_late_image_refutes_what_closed_its_study(
    hand: Hand, by: str | None, gap_s: float, refuted: dict[str, int]
) -> None:
    hand.open("a", 0)
    hand.image("a", "1", 0)
    hand.sql("UPDATE study SET state = 'closed'")
    hand.sql(
        "INSERT INTO event (study_uid, at, kind, data) VALUES ('1', 5, 'closed', :data)", data=json.dumps({"by": by})
    )
    hand.image("a", "1", gap_s)
    (found,) = evidence.seen(hand.db, 0.0)
    assert found.refuted == refuted
    assert found.within_s == (gap_s if gap_s < 900 else 0), "a pause after publication counts too"


def notice(kind: str, uid: str, entry: str, *, procedure: Any = None, announced: Any = ()) -> Noticed:
    return Noticed(kind, uid, entry, "a", "CT1", "NODE", "127.0.0.1", 1.0, procedure, announced)  # type: ignore[arg-type]


def names(*sops: str, study: str = "") -> tuple[tuple[str, str, str], ...]:
    return tuple((study, "s1", sop) for sop in sops)


def test_a_step_from_creation_to_its_end(hand: Hand) -> None:
    hand.open("a", 0)
    hand.put(notice("mpps-create", "p1", "n1", procedure=("p1", "IN PROGRESS", ("1",))))
    hand.image("a", "1", 1, "1.1")
    assert evidence.said(hand.db, "1") == Said((StepRow("IN PROGRESS", 0, 0),), 0, 1)
    hand.put(notice("mpps-set", "p1", "n2", procedure=("p1", "", ()), announced=names("1.1", "1.2")))
    assert evidence.said(hand.db, "1") == Said((StepRow("IN PROGRESS", 2, 1),), 0, 0)
    # the last set replaces what was named before, as a whole
    hand.put(notice("mpps-set", "p1", "n3", procedure=("p1", "COMPLETED", ()), announced=names("1.1", "1.3", "1.4")))
    assert evidence.said(hand.db, "1") == Said((StepRow("COMPLETED", 3, 2),), 0, 0)
    hand.image("a", "1", 2, "1.3")
    hand.image("a", "1", 2, "1.4")
    hand.image("a", "1", 2, "1.5")
    assert evidence.said(hand.db, "1") == Said((StepRow("COMPLETED", 3, 0),), 0, 1), "1.5 is named by nobody"
    assert evidence.said(hand.db, "2") == Said((), 0, 0)


def test_a_step_that_has_ended_stays_so(hand: Hand) -> None:
    hand.put(notice("mpps-set", "p1", "n2", procedure=("p1", "COMPLETED", ("1",)), announced=names("1.1")))
    late = notice("mpps-create", "p1", "n1", procedure=("p1", "IN PROGRESS", ("1", "2")))
    hand.put(late)
    hand.put(late)
    assert hand.sql("SELECT study_uid, status FROM procedure ORDER BY 1") == [("1", "COMPLETED"), ("2", "COMPLETED")]
    assert hand.sql("SELECT count(*) FROM notice") == [(2,)]


def test_a_step_of_two_studies_holds_both_open(hand: Hand) -> None:
    hand.put(notice("mpps-create", "p1", "n1", procedure=("p1", "IN PROGRESS", ("1", "2"))))
    hand.put(notice("mpps-set", "p1", "n2", procedure=("p1", "DISCONTINUED", ()), announced=names("1.1", "2.1")))
    hand.open("a", 0)
    hand.image("a", "1", 1, "1.1")
    assert evidence.said(hand.db, "1") == evidence.said(hand.db, "2") == Said((StepRow("DISCONTINUED", 2, 1),), 0, 0)
    assert evidence.concerned(hand.db, notice("mpps-set", "p1", "n2")) == {"1", "2"}


def test_a_notification_of_availability(hand: Hand) -> None:
    hand.open("a", 0)
    hand.image("a", "1", 1, "1.1")
    hand.put(notice("ian", "i1", "n1", announced=names("1.1", "1.2", study="1")))
    hand.put(notice("ian", "i2", "n2", announced=names("1.2", "1.3", study="1")))
    assert evidence.said(hand.db, "1") == Said((), 2, 0)
    # beside a finished step it names images too
    hand.put(notice("mpps-set", "p1", "n3", procedure=("p1", "COMPLETED", ("1",)), announced=names("1.2")))
    for sop in ("1.2", "1.3"):
        hand.image("a", "1", 2, sop)
    assert evidence.said(hand.db, "1") == Said((StepRow("COMPLETED", 1, 0),), 0, 0)


def test_equal_answers_of_a_source_last_and_others_begin_anew(hand: Hand) -> None:
    for at, series in ((1.0, {"a": 3}), (2.0, {"a": 3}), (5.0, {"a": 4}), (9.0, {"a": 4}), (11.0, {"a": 4})):
        evidence.counted(hand.db, "1", "CT1", at, series)
    evidence.counted(hand.db, "1", "WS1", 6.0, {"b": 1})
    found = {r.source: r for r in evidence.reads(hand.db, "1")}
    assert found == {"CT1": Read("CT1", 5.0, 11.0, {"a": 4}), "WS1": Read("WS1", 6.0, 6.0, {"b": 1})}


def test_what_is_held_leaves_our_own_out(hand: Hand) -> None:
    hand.open("a", 0)
    hand.image("a", "1", 0)
    hand.image("a", "1", 1, role="other")
    hand.image("a", "1", 1, series="s2", role="other")
    hand.image("a", "1", 1, series="s3", role="authored")
    assert evidence.held(hand.db, "1") == {"s1": Held(1, 2), "s2": Held(0, 1)}


def test_strong_evidence_is_told_once_for_each_revision(hand: Hand) -> None:
    tell: Callable[..., bool] = evidence.tell_evidence
    detail = {"en": "x", "zh-CN": "x"}
    told = [
        tell(hand.db, "1", revision, 1.0, kind, detail)
        for revision, kind in ((1, "count"), (1, "count"), (2, "count"), (2, "sender"))
    ]
    assert told == [True, False, True, True]
