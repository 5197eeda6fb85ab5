"""Jobs whose worker is gone go back into the queue; how, `retry.after_loss` decides."""

import random
from collections.abc import Iterable, Mapping
from typing import Any

import structlog

from node import alarm, retry
from node.reasons import REASONS
from node.store import Database, jobs, studies
from node.store.rows import Job

_log = structlog.get_logger()


def expired(db: Database, now: float, limit: int) -> int:
    """Give back the jobs whose lease has run out."""
    return _give_back(db, jobs.running(db, expired=now), "lease", now, limit)


def after_boot(db: Database, node: str, now: float, limit: int) -> int:
    """Give back every job that an earlier run of the node was working on; without others nobody else can be."""
    return _give_back(db, jobs.running(db, node=node if db.shared else None), "tree", now, limit)


def node_lost(db: Database, node: str, now: float, limit: int) -> int:
    """Give back the jobs of a node that is not heard any more."""
    return _give_back(db, jobs.running(db, node=node), "tree", now, limit)


def worker_ended(db: Database, owner: str, now: float, limit: int, *, planned: bool) -> int:
    """Give back the jobs of a worker that has ended."""
    return _give_back(db, jobs.running(db, owner=owner), "planned" if planned else "worker", now, limit)


def _give_back(db: Database, lost: Iterable[Job], loss: retry.Loss, now: float, limit: int) -> int:
    count = 0
    for job in lost:
        back = retry.after_loss(loss, job.attempts, job.losses, limit, random.random())  # noqa: S311 - spreads waits
        owner = job.owner or ""
        study = studies.study(db, job.study_uid)
        hashed = None if study is None else study.hash
        if back is None:
            _log.error("job.dead", job=job.id, study=hashed, why=loss, attempts=job.attempts)
            reason = REASONS("worker-lost", count=limit).as_json()
            about = failed(job, reason)
            done = jobs.finish(
                db, job, owner, now, state="dead", outcome="failed", reason=reason, document=job.document or {},
                alarm=about,
            )  # fmt: skip
            if done:
                alarm.tell(about["code"], hashed)
            count += done
            continue
        _log.warning("job.given-back", job=job.id, study=hashed, why=loss, attempts=back.attempts)
        count += jobs.give_back(
            db, job, owner, now,
            attempts=back.attempts, losses=back.losses, not_before=now + back.wait_s, why=loss,
        )  # fmt: skip
    return count


def failed(job: Job, reason: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the alarm about a job that ended without an outcome for anybody."""
    return REASONS("analysis-failed", pipeline=job.pipeline or "-", code=(reason or {}).get("code", "")).as_json()


def owner_of(node: str, boot: float, pid: int) -> str:
    """Return how the worker process `pid` of the run of `node` that began at `boot` signs its jobs."""
    return f"{node}/{boot:.6f}-{pid}"
