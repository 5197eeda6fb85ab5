"""Jobs: the row is the truth. Claimed by compare-and-set, finished only by their owner."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa

from node.failpoint import passing
from node.store import alarms, rejections
from node.store import tables as t
from node.store.deliveries import FRESH, OF_STUDY, calm, carry, offered_anew
from node.store.engine import Database
from node.store.events import tell
from node.store.rows import Job, JobState, StoredArtifact, as_a
from node.store.sql import insert

_j = t.job.c

Lane = Literal["all", "fast", "studies"]
"""Which jobs a worker takes: ``fast`` are those about one series or one image."""


def job(db: Database, job_id: int) -> Job | None:
    """Return one job."""
    with db.read() as c:
        row = c.execute(sa.select(t.job).where(_j.id == job_id)).first()
        return None if row is None else as_a(Job, row)


def jobs(db: Database, study_uid: str) -> tuple[Job, ...]:
    """Return every job of a study, in the order of their making."""
    with db.read() as c:
        return tuple(as_a(Job, r) for r in c.execute(sa.select(t.job).where(_j.study_uid == study_uid).order_by(_j.id)))


def due(db: Database, now: float, limit: int = 1, lane: Lane = "all") -> tuple[int, ...]:
    """Return the jobs of a lane that may be claimed now: fast ones first, then the most urgent, then the oldest."""
    query = sa.select(_j.id).where(claimable(now))
    if lane != "all":
        query = query.where(OF_STUDY if lane == "studies" else ~OF_STUDY)
    with db.read() as c:
        rows = c.execute(query.order_by(OF_STUDY, _j.priority, _j.id).limit(limit))
        return tuple(rows.scalars())


def claim(db: Database, job_id: int, owner: str, now: float, lease_s: float) -> Job | None:
    """Take a job; the attempt counts from here. None if it is not, or no longer, to be had."""
    taken = t.job.update().where(_j.id == job_id, claimable(now))
    values = {"state": "running", "owner": owner, "lease": now + lease_s, "attempts": _j.attempts + 1, "started": now}
    with db.write() as c:
        row = c.execute(taken.values(**values).returning(t.job)).first()
        if row is None:
            return None
        got = as_a(Job, row)
        tell(c, got.study_uid, now, "attempt", {"job": got.id, "pipeline": got.pipeline, "attempt": got.attempts})
        return got


def renew(db: Database, job_id: int, owner: str, until: float, stage: str | None, progress: float | None) -> bool:
    """Keep a job; False if it is no longer the owner's."""
    with db.write() as c:
        kept = t.job.update().where(_mine(job_id, owner)).values(lease=until, stage=stage, progress=progress)
        return bool(c.execute(kept).rowcount)


def finish(
    db: Database,
    done: Job,
    owner: str,
    now: float,
    *,
    state: JobState,
    outcome: str,
    reason: Mapping[str, Any] | None,
    document: Mapping[str, Any],
    artifacts: Sequence[StoredArtifact] = (),
    send_to: Sequence[str] = (),
    quarantined: Mapping[str, Mapping[str, Any]] | None = None,
    carried_from: int | None = None,
    alarm: Mapping[str, Any] | None = None,
) -> bool:
    """End a job with its outcome, register what it wrote and queue what is to be sent; all of it, or nothing.

    Parameters
    ----------
    db : Database
        Where.
    done : Job
        The job as claimed.
    owner : str
        Who ends it; nothing happens if somebody else owns it by now.
    now : float
        The time.
    state : JobState
        ``done`` or ``dead``.
    outcome : str
        ``result``, ``not_analysed`` or ``failed``.
    reason, document : Mapping
        As in the contract.
    artifacts : Sequence[StoredArtifact]
        What was written.
    send_to : Sequence[str]
        Destinations that are told, where what is carried has not gone already.
    quarantined : Mapping or None
        Destinations whose delivery the gate refused, and the reason.
    carried_from : int or None
        The job whose artifacts still stand.
    alarm : Mapping or None
        Raised with it.

    Returns
    -------
    bool
        Whether it was done.
    """
    values = {
        "state": state, "outcome": outcome, "reason": reason, "document": document, "ended": now, "owner": None,
        "lease": None, "input_digest": document.get("input_digest"), "carried_from": carried_from, "stage": None, "progress": 1.0,
    }  # fmt: skip
    with db.write() as c:
        if not c.execute(t.job.update().where(_mine(done.id, owner)).values(**values)).rowcount:
            return False
        register(c, done, artifacts, now)
        first = first_state(c, done)
        gone = set() if carried_from is None else carry(c, carried_from, now)
        for destination in [name for name in send_to if name not in gone]:
            queue(c, done, destination, now, first, None)
        kept = sa.and_(t.delivery.c.job_id == done.id, t.delivery.c.what == "refused")
        c.execute(t.delivery.update().where(kept).values(state="superseded"))  # of an earlier attempt
        for destination, error in (quarantined or {}).items():
            queue(c, done, destination, now, "quarantined", error)
        _say(c, done, now, outcome, reason, artifacts, quarantined or {}, carried_from)
        if alarm is not None:
            alarms.note(c, done.study_uid, alarm, now, done.study_uid)
        calm(c, done.study_uid, now)
        passing("job.before_commit")
    return True


def give_back(
    db: Database, taken: Job, owner: str, now: float, *, attempts: int, losses: int, not_before: float, why: str
) -> bool:
    """Put a job that was not finished back into the queue."""
    back = t.job.update().where(_mine(taken.id, owner))
    values = {"state": "waiting", "owner": None, "lease": None, "stage": None, "progress": None}
    with db.write() as c:
        if not c.execute(back.values(**values, attempts=attempts, losses=losses, not_before=not_before)).rowcount:
            return False
        tell(c, taken.study_uid, now, "given-back", {"job": taken.id, "pipeline": taken.pipeline, "why": why})
    return True


def running(
    db: Database, *, owner: str | None = None, node: str | None = None, expired: float | None = None
) -> tuple[Job, ...]:
    """Return the jobs that are being worked on: all, one owner's, one node's, or those whose lease ended before `expired`."""
    query = sa.select(t.job).where(_j.state == "running")
    if owner is not None:
        query = query.where(_j.owner == owner)
    if node is not None:
        query = query.where(_j.owner.startswith(f"{node}/", autoescape=True))
    if expired is not None:
        query = query.where(_j.lease < expired)
    with db.read() as c:
        return tuple(as_a(Job, row) for row in c.execute(query))


def standing(db: Database, now_at: Job) -> Job | None:
    """Return the last job of the same pipeline and study, or piece of it, that came to an outcome, dropped early work included."""
    query = sa.select(t.job).where(
        _j.study_uid == now_at.study_uid, _j.pipeline == now_at.pipeline, _j.subject == now_at.subject, _j.id < now_at.id,
        _j.outcome.in_(("result", "not_analysed")),
    )  # fmt: skip
    with db.read() as c:
        row = c.execute(query.order_by(_j.id.desc()).limit(1)).first()
        return None if row is None else as_a(Job, row)


def artifacts(db: Database, of: Job) -> tuple[StoredArtifact, ...]:
    """Return what stands for a job: what it wrote, or what the job that it carries forward wrote."""
    order = sa.case({"seg": 0, "sr": 1, "sc": 2}, value=t.artifact.c.kind, else_=3)
    with db.read() as c:
        rows = c.execute(
            sa.select(t.artifact)
            .where(t.artifact.c.job_id == (of.carried_from or of.id), t.artifact.c.removed.is_(None))
            .where(t.artifact.c.replaced.is_(None), t.artifact.c.kind != rejections.KIND)
            .order_by(order, t.artifact.c.name)
        )
        return tuple(as_a(StoredArtifact, row) for row in rows)


def replaced(db: Database, of: Job) -> tuple[tuple[StoredArtifact, tuple[str, ...]], ...]:
    """Return what the job wrote before it ended anew and has left the node, and the destinations that accepted it."""
    a, b, d = t.artifact.c, t.brought.c, t.delivery.c
    query = (
        sa.select(d.destination, *t.artifact.c)
        .join_from(t.artifact, t.brought, b.sop_uid == a.sop_uid)
        .join(t.delivery, d.id == b.delivery_id)
        .where(a.job_id == of.id, a.replaced.is_not(None))
        .distinct()
    )
    found: dict[StoredArtifact, tuple[str, ...]] = {}
    with db.read() as c:
        for row in c.execute(query.order_by(a.replaced, a.name, a.sop_uid, d.destination)).all():
            facts = dict(row._mapping)  # noqa: SLF001 - as in `rows.as_a`
            place = facts.pop("destination")
            artifact = StoredArtifact(**facts)
            found[artifact] = (*found.get(artifact, ()), place)
    return tuple(found.items())


def predecessor(db: Database, of: Job, *, before: Job | None = None, besides: Collection[str] = ()) -> Job | None:
    """Return the same pipeline's job in an earlier revision, earlier than `before`, whose result or card left the node.

    Of a piece of a study any earlier job counts: one revision can have several. Destinations `besides` hold no objects:
    what they were told of can be found nowhere.

    One that was made for another patient, before the source corrected whose study it is, is nobody's predecessor: the
    new report would lead its reader into a stranger's record.
    """
    d, s = t.delivery.c, t.study.c
    patient_since = sa.select(s.patient_since).where(s.uid == of.study_uid).scalar_subquery()
    # of what was overtaken half-way: if the report is among what arrived
    report = sa.exists().where(
        t.sent.c.delivery_id == d.id, t.sent.c.accepted, t.artifact.c.sop_uid == t.sent.c.sop_uid,
        t.artifact.c.kind.in_(("sr", "csr")), t.artifact.c.replaced.is_(None),
    )  # fmt: skip
    arrived = sa.or_(d.state.in_(("sending", "delivered", "confirmed")), report)
    left = sa.exists().where(d.job_id == _j.id, d.destination.not_in(tuple(besides)), arrived)
    none_planned = ~sa.exists().where(d.job_id == _j.id)
    after = before or of
    earlier = _j.revision < after.revision if of.subject == "study" else _j.id < after.id
    query = sa.select(t.job).where(
        _j.study_uid == of.study_uid, _j.pipeline == of.pipeline, _j.subject == of.subject, earlier,
        _j.revision >= patient_since,
        _j.state.in_(("done", "dead")), sa.or_(left, sa.and_(none_planned, _j.outcome == "result")),
    )  # fmt: skip
    with db.read() as c:
        row = c.execute(query.order_by(_j.id.desc()).limit(1)).first()
        return None if row is None else as_a(Job, row)


def claimable(now: float) -> sa.ColumnElement[bool]:
    """Say of a job whether it may be claimed."""
    before = t.job.alias("before")
    ready = sa.or_(_j.depends_on.is_(None), sa.exists().where(before.c.id == _j.depends_on, before.c.state == "done"))
    return sa.and_(_j.state == "waiting", _j.not_before <= now, ready)


def _mine(job_id: int, owner: str) -> sa.ColumnElement[bool]:
    return sa.and_(_j.id == job_id, _j.owner == owner, _j.state == "running")


def register(c: sa.Connection, done: Job, artifacts: Sequence[StoredArtifact], now: float) -> None:
    """Put what a job wrote in the place of what it wrote before; that stays known, it may have left."""
    a = t.artifact.c
    before = sa.and_(a.job_id == done.id, a.replaced.is_(None), a.kind != rejections.KIND)
    c.execute(t.artifact.update().where(before).values(replaced=now))
    for artifact in artifacts:
        facts = {
            "name": artifact.name, "path": artifact.path, "kind": artifact.kind, "modality": artifact.modality,
            "sop_class": artifact.sop_class, "series_uid": artifact.series_uid, "bytes": artifact.bytes,
            "digest": artifact.digest, "variant": artifact.variant, "removed": None, "replaced": None,
        }  # fmt: skip
        row = insert(t.artifact).values(job_id=done.id, sop_uid=artifact.sop_uid, **facts)
        c.execute(row.on_conflict_do_update(index_elements=["job_id", "sop_uid"], set_=facts))


def _say(
    c: sa.Connection,
    done: Job,
    now: float,
    outcome: str,
    reason: Mapping[str, Any] | None,
    artifacts: Sequence[StoredArtifact],
    quarantined: Mapping[str, Mapping[str, Any]],
    carried_from: int | None,
) -> None:
    """Tell the timeline how a job ended."""
    data: dict[str, Any] = {
        "job": done.id,
        "pipeline": done.pipeline,
        "outcome": outcome,
        "reason": reason and reason["code"],
    }
    if carried_from is not None:
        tell(c, done.study_uid, now, "carried-forward", {**data, "carried_from": carried_from})
    elif artifacts or quarantined:
        tell(c, done.study_uid, now, "written", {**data, "artifacts": [a.name for a in artifacts]})
        refused = sorted({str(error["code"]) for error in quarantined.values()})
        tell(c, done.study_uid, now, "gated", {"job": done.id, "passed": len(artifacts), "refused": refused})
    else:
        tell(c, done.study_uid, now, "ended", data)


def first_state(c: sa.Connection, done: Job) -> str:
    """Return the state of a new delivery: early work is held, and what a late image has overtaken is not sent at all.

    What is said of one series or image waits for no other: only one more image of its own overtakes it.
    """
    if done.subject != "study":
        i = t.instance.c
        own = sa.and_(i.study_uid == done.study_uid, sa.or_(i.series_uid == done.subject, i.sop_uid == done.subject))
        newer = sa.select(i.id).where(own, i.role == "image", i.id > done.upto).limit(1)
        return "waiting" if c.execute(newer).first() is None else "superseded"
    study = c.execute(sa.select(t.study.c.state, t.study.c.revision).where(t.study.c.uid == done.study_uid)).one()
    if study.revision != done.revision:
        return "superseded"
    return "waiting" if study.state == "closed" else "held"


def queue(
    c: sa.Connection, done: Job, destination: str, now: float, state: str, error: Mapping[str, Any] | None
) -> None:
    """Queue what a job wrote for one destination, or say that it is kept from there."""
    fresh = {
        **FRESH, "state": state, "next_attempt": now if state == "waiting" else None, "last_error": error,
        "ended": None if state in ("held", "waiting") else now, "queued": now,
    }  # fmt: skip
    key = {
        "job_id": done.id,
        "study_uid": done.study_uid,
        "revision": done.revision,
        "destination": destination,
        "priority": done.priority,
        "what": "refused" if state == "quarantined" else "objects",
        "created": now,
    }
    put = insert(t.delivery).values(**key, **fresh)
    put = put.on_conflict_do_update(index_elements=["job_id", "destination", "what"], set_=fresh)
    offered_anew(c, c.execute(put.returning(t.delivery.c.id)).scalars().all())
