"""The oracle itself: a good end passes, and each fault put into it is found, under its own name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.oracle import Acknowledged, Arrived, Facts, Job, ledger
from tests.chaos.oracle import judge as judged

pytestmark = pytest.mark.unit

IMAGES = tuple(Acknowledged(f"1.{s}.{n}", f"1.{s}", f"P{s}", f"d{s}.{n}") for s in (1, 2) for n in range(3))


def written(study: int, revision: int = 1, **more: object) -> Job:
    artifacts = {f"9.{study}.{revision}": f"a{study}.{revision}"}
    job = Job(
        10 * study + revision, f"1.{study}", revision, "chest_ct", "done", "result", None, artifacts, ("delivered",)
    )
    return replace(job, **more)  # type: ignore[arg-type]


def there(study: int, revision: int = 1, **more: object) -> Arrived:
    images = frozenset(i.sop for i in IMAGES if i.study == f"1.{study}")
    sent = Arrived(f"9.{study}.{revision}", f"a{study}.{revision}", f"1.{study}", f"P{study}", images)
    return replace(sent, **more)  # type: ignore[arg-type]


GOOD = Facts(
    acknowledged=IMAGES,
    spool={i.sop: (i.digest,) for i in IMAGES},
    indexed=frozenset(i.sop for i in IMAGES),
    studies={"1.1": "closed", "1.2": "closed"},
    jobs=(written(1), written(2)),
    arrived=(there(1), there(2), there(2), Arrived("1.1.0", "d1.0", "1.1", "P1")),
    sources=frozenset({"1.1.0"}),
)


def one(job: Job) -> Facts:
    return replace(GOOD, jobs=(written(1), job))


ROWS: dict[str, tuple[Callable[[], Facts], str]] = {
    "lost": (lambda: replace(GOOD, spool={k: v for k, v in GOOD.spool.items() if k != "1.2.0"}), "missing"),
    "other bytes in the spool": (lambda: replace(GOOD, spool={**GOOD.spool, "1.2.0": ("x",)}), "missing"),
    "not indexed": (lambda: replace(GOOD, indexed=GOOD.indexed - {"1.2.0"}), "unindexed"),
    "study open": (lambda: replace(GOOD, studies={**GOOD.studies, "1.2": "open"}), "stuck"),
    "study unknown": (lambda: replace(GOOD, studies={"1.1": "closed"}), "stuck"),
    "job waits": (lambda: one(written(2, state="waiting", outcome=None)), "stuck"),
    "job runs": (lambda: one(written(2, state="running", outcome=None)), "stuck"),
    "delivery held": (lambda: one(written(2, deliveries=("held",))), "stuck"),
    "delivery sending": (lambda: one(written(2, deliveries=("sending",))), "stuck"),
    "no job": (lambda: replace(GOOD, jobs=(written(1),), arrived=(there(1),)), "no-outcome"),
    "no outcome": (lambda: one(written(2, outcome=None)), "no-outcome"),
    "all superseded": (lambda: replace(GOOD, jobs=(written(1), written(2, state="superseded")), arrived=(there(1),)), "no-outcome"),
    "two stand": (lambda: replace(GOOD, jobs=(*GOOD.jobs, written(2, id=99))), "two-outcomes"),
    "never arrived": (lambda: replace(GOOD, arrived=(there(1),)), "absent"),
    "wrote nothing": (lambda: replace(GOOD, jobs=(written(1), written(2, artifacts={})), arrived=(there(1),)), "absent"),
    "failed without a card": (lambda: replace(GOOD, jobs=(written(1), written(2, artifacts={}, outcome="failed", state="dead")), arrived=(there(1),)), "absent"),
    "carried from what never arrived": (lambda: replace(GOOD, jobs=(*GOOD.jobs, written(2, 2, carried_from=21, artifacts={})), arrived=(there(1),)), "absent"),
    "made from two images": (lambda: replace(GOOD, arrived=(there(1), there(2, images=frozenset({"1.2.0", "1.2.1"})))), "partial"),
    "made from another study": (lambda: replace(GOOD, arrived=(there(1), there(2, images=frozenset({"1.1.0"})))), "partial"),
    "two contents": (lambda: replace(GOOD, arrived=(*GOOD.arrived, there(2, digest="x"))), "altered"),
    "other bytes": (lambda: replace(GOOD, arrived=(there(1), there(2, digest="x"))), "altered"),
    "a second result": (lambda: replace(GOOD, arrived=(*GOOD.arrived, there(2, sop="9.9"))), "duplicated"),
    "a dropped result": (lambda: replace(GOOD, jobs=(*GOOD.jobs, written(2, 1, id=5, state="superseded", artifacts={"9.9": "x"})), arrived=(*GOOD.arrived, there(2, sop="9.9", digest="x"))), "duplicated"),
    "another patient": (lambda: replace(GOOD, arrived=(there(1), there(2, patient="P1"))), "foreign"),
    "another study": (lambda: replace(GOOD, arrived=(there(1), replace(there(2), study="1.1", patient="P1"))), "foreign"),
}  # fmt: skip


def test_a_good_end_passes() -> None:
    assert judged(GOOD) == ()


def test_an_earlier_revision_that_was_published_is_no_fault() -> None:
    old, new = written(2, 1), written(2, 2)
    assert judged(replace(GOOD, jobs=(written(1), old, new), arrived=(there(1), there(2, 1), there(2, 2)))) == ()


def test_a_result_that_is_carried_forward_is_no_fault() -> None:
    carried = written(2, 2, carried_from=21, artifacts={}, deliveries=())
    assert judged(replace(GOOD, jobs=(*GOOD.jobs, carried))) == ()


@pytest.mark.parametrize(("facts", "kind"), ROWS.values(), ids=ROWS)
def test_a_fault_is_found(facts: Callable[[], Facts], kind: str) -> None:
    assert kind in {fault.kind for fault in judged(facts())}


def test_the_ledger_survives_a_torn_line(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    file.write_text('{"sop": "1", "study": "2", "patient": "P", "digest": "d"}\n{"sop": "3", "stu', encoding="utf-8")
    assert ledger(file) == (Acknowledged("1", "2", "P", "d"),)
    assert ledger(tmp_path / "none") == ()
