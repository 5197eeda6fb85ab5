"""Deliveries: one queue per destination."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from node.failpoint import passing
from node.store import alarms, rejections
from node.store import tables as t
from node.store.engine import Database
from node.store.events import tell
from node.store.rows import Delivery, DeliveryState, Identity, Proof, Sent, as_a
from node.store.seats import sits
from node.store.sql import insert

_d, _j, _s = t.delivery.c, t.job.c, t.sent.c

OF_STUDY = _j.subject == "study"
"""Of a job: it is about the whole study, and not about one series or image."""

FRESH: Mapping[str, Any] = {
    "attempts": 0, "last_error": None, "ended": None, "proof": None, "proof_next": None, "proof_attempts": 0,
}  # fmt: skip
"""What a delivery that begins anew knows of its past; whether its destination was asked whose study it is stays."""
_WAITS = sa.or_(_d.state == "waiting", sa.and_(_d.state == "held", _d.next_attempt.is_not(None)))
"""Published, and not under way."""


def offered_anew(c: sa.Connection, ids: Sequence[int]) -> None:
    """Forget which objects of these deliveries, which begin anew, were refused; what was accepted is not sent twice."""
    c.execute(t.sent.delete().where(_s.delivery_id.in_(ids), _s.accepted.is_(False)))


def deliveries(db: Database, study_uid: str) -> tuple[Delivery, ...]:
    """Return every delivery of a study, oldest first."""
    with db.read() as c:
        rows = c.execute(sa.select(t.delivery).where(_d.study_uid == study_uid).order_by(_d.id))
        return tuple(as_a(Delivery, row) for row in rows)


def take(
    db: Database, destination: str, now: float, *, probe: bool = False, owner: str | None = None
) -> Delivery | None:
    """Take the most urgent delivery to `destination` that is due, of these the longest; its attempt counts from here.

    As a `probe` of a destination that was silent, one that was itself met with silence comes last: it may be what
    silences it. An `owner` who does not send any more takes nothing.
    """
    ready = sa.and_(_d.destination == destination, _ready(now), sits("send", owner))
    silenced = sa.case((_d.last_error["code"].as_string() == "no-answer", 1), else_=0)
    order = (*((silenced,) if probe else ()), _d.priority, _d.next_attempt, _d.id)
    first = sa.select(_d.id).where(ready).order_by(*order).limit(1).scalar_subquery()
    with db.write() as c:
        values = {"state": "sending", "attempts": _d.attempts + 1, "owner": owner}
        taken = t.delivery.update().where(_d.id == first, ready).values(values)
        row = c.execute(taken.returning(t.delivery)).first()
        return None if row is None else as_a(Delivery, row)


def due(db: Database, now: float) -> frozenset[str]:
    """Return the destinations to which something is to be sent now."""
    with db.read() as c:
        return frozenset(c.execute(sa.select(_d.destination).where(_ready(now)).distinct()).scalars())


def _ready(now: float) -> sa.ColumnElement[bool]:
    # `held` with a time: the destination is asked again whether it knows the study; without: not published yet
    return sa.and_(_d.state.in_(("waiting", "held")), _d.next_attempt <= now)


def sent(db: Database, delivery_id: int) -> dict[str, Sent]:
    """Return what the destination has said for good about the objects of a delivery, by SOP Instance UID."""
    columns = (_s.sop_uid, _s.accepted, _s.status, _s.reason, _s.at)
    with db.read() as c:
        rows = c.execute(sa.select(*columns).where(_s.delivery_id == delivery_id))
        return {row.sop_uid: as_a(Sent, row) for row in rows}


def remember(db: Database, taken: Delivery, said: Sent) -> bool:
    """Write down what became of one object for good; False if the delivery is no longer being sent by who took it."""
    values = {"accepted": said.accepted, "status": said.status, "reason": said.reason, "at": said.at}
    row = insert(t.sent).values(delivery_id=taken.id, sop_uid=said.sop_uid, **values)
    with db.write() as c:
        c.execute(row.on_conflict_do_update(index_elements=["delivery_id", "sop_uid"], set_=values))
        if said.accepted:
            brought = insert(t.brought).values(delivery_id=taken.id, sop_uid=said.sop_uid, at=said.at)
            c.execute(brought.on_conflict_do_nothing())
        return c.execute(sa.select(_d.id).where(_mine(taken))).first() is not None


def settle(
    db: Database,
    taken: Delivery,
    now: float,
    state: DeliveryState,
    *,
    attempts: int | None = None,
    next_attempt: float | None = None,
    error: Mapping[str, Any] | None = None,
    identity: Identity | None = None,
    proof: tuple[Proof, float | None] | None = None,
    alarm: Mapping[str, Any] | None = None,
    reject: bool = False,
) -> bool:
    """Write down what came of an attempt; False if the delivery was cancelled, overtaken or given to another meanwhile.

    What was overtaken is not tried again, whatever part of it has arrived: it ends as ``superseded``.

    Parameters
    ----------
    db : Database
        Where.
    taken : Delivery
        As it was taken.
    now : float
        The time.
    state : DeliveryState
        What it is now.
    attempts : int or None
        How many count; None: as taken.
    next_attempt : float or None
        When it is tried again.
    error : Mapping or None
        Why it is not delivered, or what was remarkable.
    identity : Identity or None
        Whether the destination was asked whose study it is.
    proof : tuple[Proof, float or None] or None
        What is to be proved, and when it is first asked for.
    alarm : Mapping or None
        The reason of an alarm about its study. Alarms whose cause is gone end here too.
    reject : bool
        Whether the destination wants to be told what these objects replace there: that is queued with it.
    """
    over = state not in ("held", "waiting")
    values: dict[str, Any] = {
        "state": state, "next_attempt": next_attempt, "last_error": error, "ended": now if over else None,
        "attempts": taken.attempts if attempts is None else attempts,
    }  # fmt: skip
    if identity is not None:
        values["identity"] = identity
    if proof is not None:
        values |= {"proof": proof[0], "proof_next": proof[1], "proof_attempts": 0}
    code = None if error is None else error.get("code")
    data = {"destination": taken.destination, "job": taken.job_id, "state": state, "reason": code}
    brings = taken.what == "objects"
    if not brings:
        data["what"] = taken.what
    with db.write() as c:
        mine = _mine(taken)
        if not over and _end_overtaken(c, mine, now):
            return False
        if not c.execute(t.delivery.update().where(mine).values(**values)).rowcount:
            return False
        tell(c, taken.study_uid, now, "published" if brings and state == "delivered" else "delivery", data)
        if brings and reject and state == "delivered" and rejections.outdated(c, taken):
            _queue_note(c, taken, now)
        if alarm is not None:
            alarms.note(c, taken.study_uid, alarm, now, taken.study_uid)
        calm(c, taken.study_uid, now)
        passing("deliver.before_commit")
    return True


def _queue_note(c: sa.Connection, behind: Delivery, now: float) -> None:
    """Queue the note that rejects what the objects of a delivery, which have arrived, replace at its destination."""
    key = {
        "job_id": behind.job_id, "study_uid": behind.study_uid, "revision": behind.revision, "what": "rejection",
        "destination": behind.destination, "priority": behind.priority, "created": now,
    }  # fmt: skip
    fresh = {**FRESH, "state": "waiting", "next_attempt": now, "queued": now}
    put = insert(t.delivery).values(**key, **fresh)
    put = put.on_conflict_do_update(index_elements=["job_id", "destination", "what"], set_=fresh)
    offered_anew(c, c.execute(put.returning(_d.id)).scalars().all())


def of_study(study_uid: str) -> sa.ColumnElement[bool]:
    """Say of a delivery whether it brings what was made of a whole study."""
    jobs = sa.select(_j.id).where(_j.study_uid == study_uid, OF_STUDY)
    return sa.and_(_d.study_uid == study_uid, _d.job_id.in_(jobs))


def present() -> sa.ColumnElement[bool]:
    """Say of a job whether it is the last word about its study, or about its series or image: no later one is."""
    revision = sa.select(t.study.c.revision).where(t.study.c.uid == _j.study_uid).scalar_subquery()
    later = t.job.alias("later").c
    newer = sa.exists().where(
        later.study_uid == _j.study_uid, later.pipeline == _j.pipeline, later.subject == _j.subject, later.id > _j.id,
    )  # fmt: skip
    return sa.or_(sa.and_(OF_STUDY, _j.revision == revision), sa.and_(~OF_STUDY, ~newer))


def calm(c: sa.Connection, study_uid: str, now: float) -> None:
    """Clear the alarms about a study's results whose cause is gone, as part of the caller's transaction."""
    of = _d.study_uid == study_uid
    causes = {
        "analysis-failed": sa.and_(_j.study_uid == study_uid, _j.state == "dead", present()),
        "delivery-late": sa.and_(of, _WAITS),
        "delivery-failed": sa.and_(of, _d.state == "dead"),
        "identity-differs-at-destination": sa.and_(of, _d.state == "quarantined", _d.what != "refused"),
        "delivered-but-not-found": sa.and_(of, _d.state == "delivered", _d.proof == "missing"),
    }
    a = t.alarm.c
    standing = c.execute(sa.select(a.code).where(a.subject == study_uid, a.code.in_(causes), a.cleared.is_(None)))
    for code in standing.scalars().all():
        if c.execute(sa.select(sa.literal(1)).where(causes[code]).limit(1)).first() is None:
            c.execute(t.alarm.update().where(a.code == code, a.subject == study_uid).values(cleared=now))


def interrupted(db: Database, now: float, destination: str | None = None, *, owner: str | None = None) -> int:
    """Queue again what is being sent by nobody, unless it was overtaken. Sending twice is harmless, the objects are the same.

    Parameters
    ----------
    db : Database
        Where.
    now : float
        The time.
    destination : str or None
        What `owner` itself had taken for it and could not settle; None: for all, what others than `owner` had taken.
    owner : str or None
        Who sends now; nothing is given back if it does not any more. None: there is one node.
    """
    if destination is not None:
        lost = sa.and_(_d.destination == destination, _d.owner.is_not_distinct_from(owner))
    else:
        lost = sa.true() if owner is None else sa.and_(_d.owner.is_distinct_from(owner), sits("send", owner))
    lost = sa.and_(_d.state == "sending", lost)
    with db.read() as c:
        if c.execute(sa.select(_d.id).where(lost).limit(1)).first() is None:
            return 0
    with db.write() as c:
        _end_overtaken(c, lost, now)
        return c.execute(t.delivery.update().where(lost).values(state="waiting", next_attempt=now)).rowcount


def _mine(taken: Delivery) -> sa.ColumnElement[bool]:
    """Say whether a delivery is still being sent by who took it."""
    return sa.and_(_d.id == taken.id, _d.state == "sending", _d.owner.is_not_distinct_from(taken.owner))


def overtake(c: sa.Connection, which: sa.ColumnElement[bool], at: float) -> None:
    """End what has not been sent of these deliveries; what is being sent gets no other attempt (it has no time for one)."""
    mine = t.delivery.update().where(which)
    unsent = mine.where(_d.state.in_(("held", "waiting")))
    c.execute(unsent.values(state="superseded", next_attempt=None, ended=at))
    c.execute(mine.where(_d.state == "sending").values(next_attempt=None))


def carry(c: sa.Connection, root: int, now: float) -> set[str]:
    """Return where the result of the job `root`, which stands in a later revision too, has gone, is going or may not go.

    What is on its way may be tried again after all, and what a person sends waits on. What was overtaken begins anew, and
    so does what a correction cancelled, and not a person: a result that stands was made from images which the correction
    did not touch.
    """
    mine = sa.and_(_d.job_id.in_(chain(root)), _d.what == "objects")
    c.execute(t.delivery.update().where(mine, _d.state == "sending").values(next_attempt=now))
    why = sa.func.coalesce(_d.last_error["code"].as_string(), "")
    taken_back = sa.and_(_d.state == "cancelled", why == "identity-corrected")
    gone = sa.select(_d.destination).where(_d.job_id.in_(chain(root)), _d.state != "superseded", ~taken_back)
    return set(c.execute(gone).scalars())


def chain(root: int) -> sa.Select[tuple[int]]:
    """Return the job that wrote a result and those that carry it forward: its deliveries bring the same objects."""
    return sa.select(t.job.c.id).where(sa.or_(t.job.c.id == root, t.job.c.carried_from == root))


def stands(c: sa.Connection, of: Delivery) -> bool:
    """Say whether what a delivery brings is the last word about its study or piece: made so, or carried forward."""
    root = sa.select(sa.func.coalesce(_j.carried_from, _j.id)).where(_j.id == of.job_id).scalar_subquery()
    carried = sa.and_(_j.state == "done", _j.carried_from == root)
    mine = sa.and_(_j.study_uid == of.study_uid, sa.or_(_j.id == of.job_id, carried))
    return c.execute(sa.select(_j.id).where(mine, present()).limit(1)).first() is not None


def _end_overtaken(c: sa.Connection, being_sent: sa.ColumnElement[bool], now: float) -> int:
    mine = t.delivery.update().where(being_sent, _d.next_attempt.is_(None))
    ended = c.execute(mine.values(state="superseded", ended=now).returning(t.delivery)).all()
    for row in ended:
        data = {"destination": row.destination, "job": row.job_id, "state": "superseded", "reason": None}
        tell(c, row.study_uid, now, "delivery", data)
    return len(ended)


def give_up(
    db: Database, now: float, error: Mapping[str, Any], alarm: Callable[[str], Mapping[str, Any]], *,
    destination: str | None = None, queued_before: float | None = None, unknown_to: Collection[str] | None = None,
) -> tuple[Delivery, ...]:  # fmt: skip
    """End what will not arrive as ``dead``: what waits for one destination too long, or for one that nobody knows.

    `alarm` gives the reason of the alarm about a delivery to the destination named.
    """
    waits = _WAITS
    if destination is not None:
        waits = sa.and_(waits, _d.destination == destination)
    if queued_before is not None:
        waits = sa.and_(waits, _d.queued < queued_before)
    if unknown_to is not None:
        waits = sa.and_(waits, _d.destination.not_in(list(unknown_to)))
    with db.read() as c:
        if c.execute(sa.select(_d.id).where(waits).limit(1)).first() is None:
            return ()
    values = {"state": "dead", "next_attempt": None, "last_error": error, "ended": now}
    with db.write() as c:
        ended = c.execute(t.delivery.update().where(waits).values(**values).returning(t.delivery)).all()
        for row in ended:
            data = {"destination": row.destination, "job": row.job_id, "state": "dead", "reason": error["code"]}
            tell(c, row.study_uid, now, "delivery", data)
            alarms.note(c, row.study_uid, alarm(row.destination), now, row.study_uid)
            calm(c, row.study_uid, now)
        return tuple(as_a(Delivery, row) for row in ended)


def old(db: Database, queued_before: float) -> tuple[Delivery, ...]:
    """Return the published deliveries that wait since before a time, the oldest first."""
    query = sa.select(t.delivery).where(_WAITS, _d.queued <= queued_before).order_by(_d.queued, _d.id)
    with db.read() as c:
        return tuple(as_a(Delivery, row) for row in c.execute(query))


def undone(db: Database) -> dict[tuple[str, str], int]:
    """Return how many deliveries are `dead` or `quarantined`, by destination and state; what the gate keeps back is none."""
    failed = sa.and_(_d.what != "refused", _d.state.in_(("dead", "quarantined")))
    query = sa.select(_d.destination, _d.state, sa.func.count()).where(failed).group_by(_d.destination, _d.state)
    with db.read() as c:
        return {(row[0], row[1]): int(row[2]) for row in c.execute(query)}


def waiting(db: Database) -> dict[str, int]:
    """Return how many published deliveries wait for each destination, held ones included."""
    waits = sa.or_(_WAITS, _d.state == "sending")
    with db.read() as c:
        rows = c.execute(sa.select(_d.destination, sa.func.count()).where(waits).group_by(_d.destination))
        return {row[0]: int(row[1]) for row in rows}
