"""What the gate keeps back of a job, and what a person decides of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from node.store import tables as t
from node.store.deliveries import calm, present
from node.store.engine import Database
from node.store.events import tell
from node.store.jobs import first_state, queue, register
from node.store.rows import Job, StoredArtifact, as_a

_d, _j, _s = t.delivery.c, t.job.c, t.study.c

_IDENTITY = sa.exists().where(_s.uid == _j.study_uid, _s.identity_since <= _j.revision)


def undecided(db: Database, *, study_uid: str | None = None, job_id: int | None = None) -> tuple[Job, ...]:
    """Return the present jobs of a study, or the one job, of which something is kept back and nobody has decided.

    What was made under an identity that the source has corrected since is none of them.
    """
    if (study_uid is None) == (job_id is None):
        raise ValueError("a study or a job")
    chosen = _j.study_uid == study_uid if job_id is None else _j.id == job_id
    with db.read() as c:
        rows = c.execute(sa.select(t.job).where(chosen, _j.state == "dead", present(), _IDENTITY).order_by(_j.id)).all()
    found = (as_a(Job, row) for row in rows)
    return tuple(job for job in found if (kept := (job.document or {}).get("withheld")) and not kept["decision"])


def waiting(db: Database) -> int:
    """Count the jobs of which the gate keeps something from a destination and nobody has decided."""
    kept = sa.and_(_d.what == "refused", _d.state == "quarantined")
    with db.read() as c:
        return int(c.execute(sa.select(sa.func.count(_d.job_id.distinct())).where(kept)).scalar_one())


def release(
    db: Database, job: Job, now: float, *, decision: Mapping[str, Any], document: Mapping[str, Any],
    artifacts: Sequence[StoredArtifact], send_to: Sequence[str],
) -> bool:  # fmt: skip
    """Make what was kept back the result of its job and queue it.

    Parameters
    ----------
    db : Database
        Where.
    job : Job
        As `undecided` gave it.
    now : float
        The time.
    decision : Mapping
        Who decided, and why; for the timeline.
    document : Mapping
        Of the job from now on.
    artifacts : Sequence[StoredArtifact]
        The objects.
    send_to : Sequence[str]
        Destinations that are told of results.

    Returns
    -------
    bool
        Whether it was done; False if the job or its study has changed meanwhile.
    """
    with db.write() as c:
        values = {"state": "done", "outcome": "result", "reason": None, "document": document}
        if not _decide(c, job, now, "superseded", values):
            return False
        register(c, job, artifacts, now)
        state = first_state(c, job)
        for destination in send_to:
            queue(c, job, destination, now, state, None)
        tell(c, job.study_uid, now, "released", {"job": job.id, **decision})
        calm(c, job.study_uid, now)
    return True


def reject(db: Database, job: Job, now: float, *, decision: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    """Write down that what was kept back never leaves; False if the job or its study has changed meanwhile."""
    with db.write() as c:
        if not _decide(c, job, now, "cancelled", {"state": "cancelled", "document": document}):
            return False
        tell(c, job.study_uid, now, "rejected", {"job": job.id, **decision})
        calm(c, job.study_uid, now)
    return True


def _decide(c: sa.Connection, job: Job, now: float, refused: str, values: Mapping[str, Any]) -> bool:
    same = sa.and_(_j.id == job.id, _j.state == "dead", _j.ended.is_not_distinct_from(job.ended), present(), _IDENTITY)
    if not c.execute(t.job.update().where(same).values(**values)).rowcount:
        return False
    kept = sa.and_(_d.job_id == job.id, _d.what == "refused", _d.state == "quarantined")
    c.execute(t.delivery.update().where(kept).values(state=refused, ended=now))
    return True
