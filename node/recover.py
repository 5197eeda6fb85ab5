"""Jobs whose worker is gone go back into the queue; how, `retry.after_loss` decides."""

import random
from collections.abc import Iterable

import structlog

from node import retry
from node.store import Database, jobs
from node.store.rows import Job

_log = structlog.get_logger()


def expired(db: Database, now: float) -> int:
    """Give back the jobs whose lease has run out."""
    return _give_back(db, jobs.running(db, expired=now), "lease", now)


def after_boot(db: Database, now: float) -> int:
    """Give back every job that an earlier run of the node was working on: on one machine nobody else can be."""
    return _give_back(db, jobs.running(db), "tree", now)


def worker_ended(db: Database, owner: str, now: float, *, planned: bool) -> int:
    """Give back the jobs of a worker that has ended."""
    return _give_back(db, jobs.running(db, owner=owner), "planned" if planned else "worker", now)


def _give_back(db: Database, lost: Iterable[Job], loss: retry.Loss, now: float) -> int:
    count = 0
    for job in lost:
        back = retry.after_loss(loss, job.attempts, job.losses, random.random())  # noqa: S311 - spreads waits
        count += jobs.give_back(
            db, job, job.owner or "", now,
            attempts=back.attempts, losses=back.losses, not_before=now + back.wait_s, why=loss,
        )  # fmt: skip
        _log.warning("job.given-back", job=job.id, why=loss, attempts=back.attempts)
    return count


def owner_of(boot: float, pid: int) -> str:
    """Return how the worker process `pid` of the run that began at `boot` signs its jobs."""
    return f"{boot:.6f}-{pid}"
