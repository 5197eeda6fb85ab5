"""Whether what was delivered is really there: the questions that are still to be asked."""

from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa

from node.store import alarms
from node.store import tables as t
from node.store.deliveries import calm, stands
from node.store.engine import Database
from node.store.events import tell
from node.store.rows import Delivery, Proof, as_a

_d = t.delivery.c


def due(db: Database, destination: str, now: float) -> Delivery | None:
    """Return the delivery whose proof is due longest."""
    wanted = sa.and_(_open(), _d.destination == destination, _d.proof_next <= now)
    with db.read() as c:
        row = c.execute(sa.select(t.delivery).where(wanted).order_by(_d.proof_next, _d.id).limit(1)).first()
        return None if row is None else as_a(Delivery, row)


def doubtful(db: Database, now: float) -> frozenset[str]:
    """Return the destinations of which something is to be asked now."""
    with db.read() as c:
        return frozenset(c.execute(sa.select(_d.destination).where(_d.proof_next <= now).distinct()).scalars())


def ask_again(db: Database, asked: Delivery, at: float, *, counts: bool) -> bool:
    """Put the question off until `at`."""
    values = {"proof_next": at, "proof_attempts": asked.proof_attempts + (1 if counts else 0)}
    with db.write() as c:
        return bool(c.execute(_same(asked).values(**values)).rowcount)


def conclude(
    db: Database, asked: Delivery, now: float, proof: Proof, *, alarm: Mapping[str, Any] | None = None
) -> bool:
    """Write down how the question ended; found or committed means ``confirmed``. False if it was sent again meanwhile."""
    proved = proof in ("find", "commitment")
    values = {"proof": proof, "proof_next": None, **({"state": "confirmed"} if proved else {})}
    data = {"destination": asked.destination, "job": asked.job_id, "proof": proof}
    with db.write() as c:
        if not c.execute(_same(asked).values(**values)).rowcount:
            return False
        tell(c, asked.study_uid, now, "confirmed" if proved else "not-confirmed", data)
        if alarm is not None:
            alarms.note(c, asked.study_uid, alarm, now, asked.study_uid)
        calm(c, asked.study_uid, now)
    return True


def send_again(db: Database, asked: Delivery, now: float, missing: Collection[str]) -> bool:
    """Queue the objects that are not there once more; False if it was sent again meanwhile, or is nobody's result now.

    The latter ends as ``superseded``: if a later revision finds that the result stands, it is queued with that.
    """
    values = {"state": "waiting", "attempts": 0, "next_attempt": now, "ended": None, "queued": now, "proof": "again"}
    gone = sa.and_(t.sent.c.delivery_id == asked.id, t.sent.c.sop_uid.in_(list(missing)))
    data = {"destination": asked.destination, "job": asked.job_id, "objects": len(missing)}
    with db.write() as c:
        wanted = stands(c, asked)
        if not wanted:
            values = {"state": "superseded"}
        if not c.execute(_same(asked).values(**values, proof_next=None, proof_attempts=0)).rowcount:
            return False
        c.execute(t.sent.delete().where(gone))
        if wanted:
            tell(c, asked.study_uid, now, "sent-again", data)
        else:
            data = {"destination": asked.destination, "job": asked.job_id, "state": "superseded", "reason": None}
            tell(c, asked.study_uid, now, "delivery", data)
    return wanted


def _open() -> sa.ColumnElement[bool]:
    return sa.and_(_d.state == "delivered", _d.proof.in_(("waiting", "again")))


def _same(asked: Delivery) -> sa.Update:
    """Update the delivery if nobody has queued it again since it was read."""
    return t.delivery.update().where(_d.id == asked.id, _open(), _d.queued == asked.queued, _d.ended == asked.ended)
