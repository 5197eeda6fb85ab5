"""What an operator asks for: rows that the running node acts on."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from node.store import tables as t
from node.store.engine import Database
from node.store.events import tell

_d, _j, _s = t.delivery.c, t.job.c, t.study.c


def resend(db: Database, study_uid: str, now: float, destinations: Sequence[str] | None = None) -> tuple[str, ...]:
    """Queue the standing results of a study again.

    Parameters
    ----------
    db : Database
        Where.
    study_uid : str
        Whose.
    now : float
        The time.
    destinations : Sequence[str] or None
        Where to, also to places that no rule named; None: wherever they were to go.

    Returns
    -------
    tuple[str, ...]
        The destinations that something was queued for.
    """
    # early work is not published, whoever asks
    published = sa.exists().where(_s.uid == _j.study_uid, sa.or_(_s.state == "closed", _s.revision > _j.revision))
    standing = sa.and_(_j.study_uid == study_uid, _j.state.in_(("done", "dead")), _j.pipeline.is_not(None), published)
    newest = sa.select(sa.func.max(_j.id)).where(standing)
    queued: set[str] = set()
    fresh = {"state": "waiting", "attempts": 0, "next_attempt": now, "last_error": None, "ended": None}
    with db.write() as c:
        for job in c.execute(sa.select(t.job).where(_j.id.in_(newest.group_by(_j.pipeline)))).all():
            if (
                c.execute(
                    sa.select(t.artifact.c.name).where(t.artifact.c.job_id == (job.carried_from or job.id))
                ).first()
                is None
            ):
                continue  # nothing was written, or the gate refused it
            before = sa.select(_d.destination).where(_d.job_id.in_((job.id, job.carried_from)))
            places = list(destinations) if destinations is not None else list(c.execute(before.distinct()).scalars())
            for place in places:
                key = {
                    "job_id": job.id,
                    "study_uid": study_uid,
                    "revision": job.revision,
                    "destination": place,
                    "priority": job.priority,
                    "created": now,
                    "what": "objects",
                }
                c.execute(
                    insert(t.delivery)
                    .values(**key, **fresh)
                    .on_conflict_do_update(["job_id", "destination", "what"], set_=fresh)
                )
                queued.add(place)
        if queued:
            tell(c, study_uid, now, "resend", {"destinations": sorted(queued)})
    return tuple(sorted(queued))


def retry(db: Database, now: float, *, study_uid: str | None = None, job_id: int | None = None) -> int:
    """Let jobs of the present revision without a result run again, and failed deliveries go again; return how many."""
    with db.write() as c:
        jobs = c.execute(sa.select(t.job).where(_chosen(_j.study_uid, _j.id, study_uid, job_id))).all()
        present = {uid: _revision(c, uid) for uid in {job.study_uid for job in jobs}}
        count = 0
        for job in jobs:
            if job.revision != present[job.study_uid]:
                continue
            if job.state in ("dead", "cancelled") or (
                job.outcome == "not_analysed" and job.pipeline and job.state == "done"
            ):
                fresh = {
                    "state": "waiting",
                    "attempts": 0,
                    "losses": 0,
                    "not_before": now,
                    "outcome": None,
                    "reason": None,
                }
                c.execute(t.job.update().where(_j.id == job.id).values(**fresh, ended=None))
                count += 1
                tell(c, job.study_uid, now, "retry", {"job": job.id})
            elif job.state == "done":
                again = t.delivery.update().where(_d.job_id == job.id, _d.state.in_(("dead", "cancelled")))
                count += c.execute(again.values(state="waiting", attempts=0, next_attempt=now, ended=None)).rowcount
        return count


def cancel(db: Database, now: float, *, study_uid: str | None = None, job_id: int | None = None) -> int:
    """End waiting and running jobs and unsent deliveries; return how many."""
    with db.write() as c:
        jobs = c.execute(sa.select(_j.id, _j.study_uid).where(_chosen(_j.study_uid, _j.id, study_uid, job_id))).all()
        ids = [job.id for job in jobs]
        work = t.job.update().where(_j.id.in_(ids), _j.state.in_(("waiting", "running")))
        count = c.execute(work.values(state="cancelled", ended=now, owner=None, lease=None)).rowcount
        sends = t.delivery.update().where(_d.job_id.in_(ids), _d.state.in_(("held", "waiting")))
        count += c.execute(sends.values(state="cancelled", next_attempt=None, ended=now)).rowcount
        for uid in {job.study_uid for job in jobs} if count else ():
            tell(c, uid, now, "cancelled", {"jobs": ids})
        return count


def _chosen(
    study: sa.Column[str], job: sa.Column[int], study_uid: str | None, job_id: int | None
) -> sa.ColumnElement[bool]:
    if (study_uid is None) == (job_id is None):
        raise ValueError("a study or a job")
    return study == study_uid if job_id is None else job == job_id


def _revision(c: sa.Connection, study_uid: str) -> int:
    return int(c.execute(sa.select(t.study.c.revision).where(t.study.c.uid == study_uid)).scalar_one())
