"""Which destinations are left alone for a while; a restart knows it too."""

from collections.abc import Iterable

import sqlalchemy as sa

from node.store import tables as t
from node.store.engine import Database
from node.store.rows import Breaker, as_a
from node.store.sql import insert

_b = t.breaker.c


def breaker(db: Database, destination: str) -> Breaker | None:
    """Return what is known of a destination; None if nothing ever failed there."""
    with db.read() as c:
        row = c.execute(sa.select(t.breaker).where(_b.destination == destination)).first()
        return None if row is None else as_a(Breaker, row)


def breakers(db: Database) -> dict[str, Breaker]:
    """Return what is known of every destination, by name."""
    with db.read() as c:
        return {row.destination: as_a(Breaker, row) for row in c.execute(sa.select(t.breaker))}


def accepted(db: Database) -> dict[str, float]:
    """Return when every destination last accepted an object (s since the epoch), by name."""
    d, s = t.delivery.c, t.sent.c
    query = sa.select(d.destination, sa.func.max(s.at)).select_from(t.sent.join(t.delivery, d.id == s.delivery_id))
    with db.read() as c:
        return {row[0]: row[1] for row in c.execute(query.where(s.accepted).group_by(d.destination))}


def put(db: Database, now_is: Breaker) -> None:
    """Write down the breaker of a destination."""
    values = {
        "state": now_is.state, "failures": now_is.failures, "since": now_is.since, "next_try": now_is.next_try,
        "last_error": now_is.last_error,
    }  # fmt: skip
    row = insert(t.breaker).values(destination=now_is.destination, **values)
    with db.write() as c:
        c.execute(row.on_conflict_do_update(index_elements=["destination"], set_=values))


def try_now(c: sa.Connection, destinations: Iterable[str], now: float) -> None:
    """Let open breakers try at once, as part of the caller's transaction: a person says that it is worth it."""
    opened = sa.and_(_b.destination.in_(list(destinations)), _b.state == "open")
    c.execute(t.breaker.update().where(opened).values(next_try=now))
