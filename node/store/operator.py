"""What an operator asks for: rows that the running node acts on."""

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from node.store import breakers
from node.store import tables as t
from node.store.deliveries import FRESH, OF_STUDY, calm, chain, offered_anew, present
from node.store.engine import Database
from node.store.events import tell
from node.store.sql import insert

_d, _j, _s = t.delivery.c, t.job.c, t.study.c

_ENDED = ("dead", "cancelled", "quarantined")
_NOT_THERE = sa.or_(
    _d.state.in_(("held", "waiting", "sending", "dead", "quarantined")),
    sa.and_(_d.state == "delivered", _d.proof.in_(("waiting", "again", "missing"))),
)
"""What has not arrived, or is not proven."""


def resend(
    db: Database,
    study_uid: str,
    now: float,
    destinations: Sequence[str] | None = None,
    documents: Collection[str] = (),
) -> tuple[str, ...]:
    """Queue the standing results of a study again, every object of them.

    What an earlier revision, whose results these are, has not brought there yet ends: each goes once.

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
    documents : Collection[str]
        Destinations that are told of jobs that wrote nothing, too.

    Returns
    -------
    tuple[str, ...]
        The destinations that something was queued for.
    """
    # early work is not published, whoever asks
    published = sa.exists().where(
        _s.uid == _j.study_uid, sa.or_(_s.state == "closed", _s.revision > _j.revision, ~OF_STUDY),
        _j.revision >= _s.identity_since,  # nor what was made under an identity that the source has corrected
    )  # fmt: skip
    standing = sa.and_(_j.study_uid == study_uid, _j.state.in_(("done", "dead")), _j.pipeline.is_not(None), published)
    newest = sa.select(sa.func.max(_j.id)).where(standing)
    queued: set[str] = set()
    fresh = {**FRESH, "state": "waiting", "next_attempt": now, "queued": now}
    with db.write() as c:
        for job in c.execute(sa.select(t.job).where(_j.id.in_(newest.group_by(_j.pipeline, _j.subject)))).all():
            root = job.carried_from or job.id
            written = sa.select(t.artifact.c.name).where(t.artifact.c.job_id == root, t.artifact.c.replaced.is_(None))
            same = _d.job_id.in_(chain(root))
            before = sa.select(_d.destination).where(same)
            if c.execute(written.limit(1)).first() is None:
                # nothing was written, or the gate refused it: only who takes documents had something of it
                had = set(c.execute(before.where(_d.what == "objects")).scalars()) & set(documents)
                places = [place for place in sorted(had) if destinations is None or place in destinations]
            else:
                places = (
                    list(destinations) if destinations is not None else list(c.execute(before.distinct()).scalars())
                )
            earlier = sa.and_(same, _d.job_id != job.id, _d.what == "objects", _d.destination.in_(places), _NOT_THERE)
            replaced = {"state": "superseded", "next_attempt": None, "proof_next": None, "ended": now}
            c.execute(t.delivery.update().where(earlier).values(**replaced))
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
                row = insert(t.delivery).values(**key, **fresh)
                again = row.on_conflict_do_update(
                    index_elements=["job_id", "destination", "what"], set_=fresh
                ).returning(_d.id)
                c.execute(t.sent.delete().where(t.sent.c.delivery_id == c.execute(again).scalar_one()))
                queued.add(place)
        if queued:
            calm(c, study_uid, now)
            breakers.try_now(c, queued, now)
            tell(c, study_uid, now, "resend", {"destinations": sorted(queued)})
    return tuple(sorted(queued))


def retry(db: Database, now: float, *, study_uid: str | None = None, job_id: int | None = None) -> int:
    """Let jobs of the present revision without a result run again, and what did not arrive go again; return how many.

    A failed, cancelled or quarantined delivery begins anew: whose study it is is asked again, and refused objects are
    offered again; accepted ones are not sent twice. One that waits is tried at once.
    """
    with db.write() as c:
        jobs = c.execute(sa.select(t.job).where(_chosen(_j.study_uid, _j.id, study_uid, job_id))).all()
        uids = {job.study_uid for job in jobs}
        upto = dict(c.execute(sa.select(_s.uid, _s.upto).where(_s.uid.in_(uids))).all())
        last = set(c.execute(sa.select(_j.id).where(_j.id.in_([job.id for job in jobs]), present())).scalars())
        count = 0
        for job in jobs:
            # more images have come: other work is, or will be
            if job.id not in last or (job.subject == "study" and job.upto != upto[job.study_uid]):
                continue
            if job.pipeline is None:  # nothing can run
                continue
            if job.state in ("dead", "cancelled") or (
                job.outcome == "not_analysed" and job.pipeline and job.state == "done"
            ):
                fresh = {
                    "state": "waiting", "attempts": 0, "losses": 0, "not_before": now, "outcome": None, "reason": None,
                }  # fmt: skip
                c.execute(t.job.update().where(_j.id == job.id).values(**fresh, ended=None))
                count += 1
                tell(c, job.study_uid, now, "retry", {"job": job.id})
            elif job.state == "done":
                count += _send_again(c, job, now)
        for uid in uids:
            calm(c, uid, now)
        return count


def _send_again(c: sa.Connection, job: sa.Row[Any], now: float) -> int:
    """Queue what has not arrived of one job's objects, or of those that it carries forward."""
    root = job.carried_from or job.id
    leaves = sa.and_(_d.job_id.in_(chain(root)), _d.what != "refused")
    newest = sa.select(sa.func.max(_d.id)).where(leaves).group_by(_d.destination, _d.what)
    waits = sa.and_(_d.id.in_(newest), _d.next_attempt.is_not(None), _d.state.in_(("held", "waiting")))
    urged = c.execute(t.delivery.update().where(waits).values(next_attempt=now).returning(_d.destination)).all()
    state = c.execute(sa.select(_s.state).where(_s.uid == job.study_uid)).scalar_one()
    published = state == "closed" or job.subject != "study"
    begin = {"state": "waiting", "next_attempt": now} if published else {"state": "held", "next_attempt": None}
    ended = t.delivery.update().where(_d.id.in_(newest), _d.state.in_(_ENDED))
    begun = c.execute(ended.values(**FRESH, **begin, queued=now).returning(_d.id, _d.destination)).all()
    offered_anew(c, [row.id for row in begun])
    breakers.try_now(c, {row.destination for row in (*urged, *begun)}, now)
    return len(urged) + len(begun)


def cancel(db: Database, now: float, *, study_uid: str | None = None, job_id: int | None = None) -> int:
    """End waiting and running jobs and deliveries that have not arrived; return how many.

    What is being sent ends after the object that is on its way. To cancel a failed or quarantined delivery is to say that
    a person has seen it: its alarm ends.
    """
    with db.write() as c:
        jobs = c.execute(sa.select(_j.id, _j.study_uid).where(_chosen(_j.study_uid, _j.id, study_uid, job_id))).all()
        ids = [job.id for job in jobs]
        work = t.job.update().where(_j.id.in_(ids), _j.state.in_(("waiting", "running")))
        count = c.execute(work.values(state="cancelled", ended=now, owner=None, lease=None)).rowcount
        open_ = ("held", "waiting", "sending", "dead", "quarantined")
        sends = t.delivery.update().where(_d.job_id.in_(ids), _d.what != "refused", _d.state.in_(open_))
        count += c.execute(sends.values(state="cancelled", next_attempt=None, ended=now)).rowcount
        for uid in {job.study_uid for job in jobs}:
            calm(c, uid, now)
        for uid in {job.study_uid for job in jobs} if count else ():
            tell(c, uid, now, "cancelled", {"jobs": ids})
        return count


def _chosen(
    study: sa.Column[str], job: sa.Column[int], study_uid: str | None, job_id: int | None
) -> sa.ColumnElement[bool]:
    if (study_uid is None) == (job_id is None):
        raise ValueError("a study or a job")
    return study == study_uid if job_id is None else job == job_id
