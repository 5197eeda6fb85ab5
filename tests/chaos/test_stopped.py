"""Processes that stand still (SIGSTOP) for longer than a lease, and wake up again: nothing is done twice, nothing is lost."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.more import more
from tests.node.conftest import Rig

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


@pytest.fixture
def working(rig: Rig, copies: Callable[..., list[Path]]) -> Iterator[tuple[Rig, list[Path]]]:
    """A node with two workers, in the middle of a job."""
    rig.start(PROBE_SECONDS="2", PACS_AI_NODE__WORKER__SLOTS="2", PACS_AI_NODE__WORKER__LEASE_S="8.0")
    files = copies(1)
    rig.push(files, "WHOLE", within_s=60.0)
    rig.until(lambda: any(j["state"] == "running" for j in jobs(rig, 1)), 60.0, "a running job")
    yield rig, files
    for pid, _ in processes(rig):  # a stopped process cannot be told to end
        os.kill(pid, signal.SIGCONT)


def jobs(rig: Rig, number: int) -> list[dict[str, Any]]:
    status = rig.status()["studies"]
    return list(rig.show(f"1.2.3.{number}")["jobs"]) if status["open"] + status["closed"] >= number else []


def processes(rig: Rig) -> list[tuple[int, str]]:
    return [(p["pid"], p["role"]) for p in rig.status()["processes"]]


def owner(rig: Rig) -> int:
    """Return the worker that has the job: the one with its number in the owner's name."""
    from node.store import open_database

    db = open_database(rig.data.database)
    with db.read() as c:
        name = c.exec_driver_sql("SELECT owner FROM job WHERE state = 'running'").scalar_one()
    db.close()
    return int(str(name).rpartition("-")[2])


def test_a_worker_that_wakes_up_after_another_took_over(
    working: tuple[Rig, list[Path]], judge: Callable[..., list[str]]
) -> None:
    rig, files = working
    asleep = owner(rig)
    os.kill(asleep, signal.SIGSTOP)
    rig.until(lambda: jobs(rig, 1)[0]["attempts"] == 2, 90.0, "the other worker takes the job over")
    os.kill(asleep, signal.SIGCONT)
    rig.idle(60.0)
    assert [j["outcome"] for j in jobs(rig, 1)] == ["result"]
    assert judge(rig, files) == []
    assert len(rig.results()) == 3, "sent once"


@pytest.mark.long
def test_a_worker_that_wakes_up_after_the_job_has_ended(
    working: tuple[Rig, list[Path]], judge: Callable[..., list[str]]
) -> None:
    rig, files = working
    asleep = owner(rig)
    os.kill(asleep, signal.SIGSTOP)
    rig.idle(120.0)
    before = [(r.sop_instance_uid, r.digest) for r in rig.results()]
    os.kill(asleep, signal.SIGCONT)
    rig.until(lambda: b"job.overtaken" in rig.log.read_bytes(), 30.0, "the sleeper notices")
    rig.idle(120.0)
    assert [j["outcome"] for j in jobs(rig, 1)] == ["result"]
    assert judge(rig, files) == []
    assert [(r.sop_instance_uid, r.digest) for r in rig.results()] == before


@pytest.mark.parametrize(
    "role",
    [*(more(r) for r in ("coordinator", "deliverer", "supervisor", "receiver")), "all"],
)
def test_others_that_stand_still_for_a_while(
    working: tuple[Rig, list[Path]], copies: Callable[..., list[Path]], judge: Callable[..., list[str]], role: str
) -> None:
    rig, files = working
    chosen = [pid for pid, what in processes(rig) if role in {what, "all"}]
    for pid in chosen:
        os.kill(pid, signal.SIGSTOP)
    more = copies(2)
    if role in {"coordinator", "deliverer", "supervisor"}:
        rig.push(more, "WHOLE", within_s=60.0)  # the listener waits for none of them
    beyond = os.times().elapsed + 9.0  # longer than a lease
    rig.until(lambda: os.times().elapsed > beyond, 30.0, "a while")
    for pid in chosen:
        os.kill(pid, signal.SIGCONT)
    rig.push(more, "WHOLE", within_s=60.0)
    rig.idle(120.0)
    found = [[j["outcome"] for j in jobs(rig, n)] for n in (1, 2)]
    assert found == [["result"]] * 2, [rig.show(f"1.2.3.{n}")["timeline"] for n in (1, 2)]
    assert judge(rig, files + more) == []
