"""Deliveries: one queue per destination."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from node.failpoint import passing
from node.store import tables as t
from node.store.engine import Database
from node.store.events import tell
from node.store.rows import Delivery, DeliveryState, as_a

_d = t.delivery.c


def deliveries(db: Database, study_uid: str) -> tuple[Delivery, ...]:
    """Return every delivery of a study, oldest first."""
    with db.read() as c:
        rows = c.execute(sa.select(t.delivery).where(_d.study_uid == study_uid).order_by(_d.id))
        return tuple(as_a(Delivery, row) for row in rows)


def take(db: Database, destination: str, now: float) -> Delivery | None:
    """Take the most urgent delivery to `destination` that is due, of these the longest; its attempt counts from here."""
    # `held` with a time: the destination is asked again whether it knows the study; without: not published yet
    ready = sa.and_(_d.destination == destination, _d.state.in_(("waiting", "held")), _d.next_attempt <= now)
    first = sa.select(_d.id).where(ready).order_by(_d.priority, _d.next_attempt, _d.id).limit(1).scalar_subquery()
    with db.write() as c:
        taken = t.delivery.update().where(_d.id == first, ready).values(state="sending", attempts=_d.attempts + 1)
        row = c.execute(taken.returning(t.delivery)).first()
        return None if row is None else as_a(Delivery, row)


def due(db: Database, destination: str, now: float) -> bool:
    """Say whether something is due for `destination`."""
    with db.read() as c:
        ready = sa.and_(_d.destination == destination, _d.state.in_(("waiting", "held")), _d.next_attempt <= now)
        return c.execute(sa.select(_d.id).where(ready).limit(1)).first() is not None


def settle(
    db: Database,
    taken: Delivery,
    now: float,
    state: DeliveryState,
    *,
    attempts: int | None = None,
    next_attempt: float | None = None,
    error: Mapping[str, Any] | None = None,
) -> bool:
    """Write down what came of an attempt; False if the delivery was cancelled meanwhile."""
    over = state not in ("held", "waiting")
    values = {"state": state, "next_attempt": next_attempt, "last_error": error, "ended": now if over else None}
    with db.write() as c:
        mine = t.delivery.update().where(_d.id == taken.id, _d.state == "sending")
        done = c.execute(mine.values(**values, attempts=taken.attempts if attempts is None else attempts))
        if not done.rowcount:
            return False
        kind = "published" if state == "delivered" else "delivery"
        code = None if error is None else error.get("code")
        tell(
            c,
            taken.study_uid,
            now,
            kind,
            {"destination": taken.destination, "job": taken.job_id, "state": state, "reason": code},
        )
        passing("deliver.before_commit")
    return True


def interrupted(db: Database, now: float, destination: str | None = None) -> int:
    """Queue again what was being sent, to one destination or to all, by somebody who is gone.

    Sending twice is harmless, the objects are the same.
    """
    lost = t.delivery.update().where(_d.state == "sending")
    if destination is not None:
        lost = lost.where(_d.destination == destination)
    with db.write() as c:
        return c.execute(lost.values(state="waiting", next_attempt=now)).rowcount
