"""Notices on their way to the RIS: one queue per RIS, in the order of their arrival."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from node.store import tables as t
from node.store.changes import Noticed, NoticeKind
from node.store.engine import Database
from node.store.rows import RelayState
from node.store.sql import insert

_r, _n = t.relay.c, t.notice.c

KINDS = ("mpps-create", "mpps-set")


@dataclass(frozen=True, slots=True)
class Relay:
    """One notice that a RIS has not taken yet."""

    id: int
    kind: NoticeKind
    uid: str
    entry: str
    received: float
    attempts: int
    refused: int
    next_attempt: float


def queue(c: sa.Connection, x: Noticed) -> None:
    """Queue a notice for every RIS that it goes to, as part of the caller's transaction; twice is once."""
    if x.kind not in KINDS or not x.relay_to:
        return
    notice = c.execute(sa.select(_n.id).where(_n.entry == x.entry)).scalar_one()
    for name in x.relay_to:
        row = {"notice_id": notice, "to": name, "state": "waiting", "next_attempt": x.at}
        c.execute(insert(t.relay).values(row).on_conflict_do_nothing())


def first(db: Database, ris: str) -> Relay | None:
    """Return the oldest notice that waits for a RIS: nothing behind it is sent before it has come to an end."""
    with db.read() as c:
        row = c.execute(
            sa.select(
                _r.id,
                _n.kind,
                _n.uid,
                _n.entry,
                _n.received,
                _r.attempts,
                _r.refused,
                sa.func.coalesce(_r.next_attempt, 0.0),
            )
            .join(t.notice, _n.id == _r.notice_id)
            .where(_r.to == ris, _r.state == "waiting")
            .order_by(_r.id)
            .limit(1)
        ).first()
        return None if row is None else Relay(*row)


def is_dead(db: Database, ris: str, uid: str) -> bool:
    """Say whether a RIS has refused for good that a step begins."""
    begun = sa.and_(_r.to == ris, _r.state == "dead", _n.uid == uid, _n.kind == "mpps-create")
    with db.read() as c:
        return c.execute(sa.select(_r.id).join(t.notice, _n.id == _r.notice_id).where(begun)).first() is not None


def settle(
    db: Database,
    relay: Relay,
    state: RelayState,
    *,
    next_attempt: float | None = None,
    refused: bool = False,
    error: Mapping[str, Any] | None = None,
) -> None:
    """Write down what came of an attempt."""
    values = {
        "state": state, "attempts": relay.attempts + 1, "refused": relay.refused + refused,
        "next_attempt": next_attempt, "last_error": error,
    }  # fmt: skip
    with db.write() as c:
        c.execute(t.relay.update().where(_r.id == relay.id, _r.state == "waiting").values(values))


def counts(db: Database) -> dict[str, int]:
    """Return how many notices wait for a RIS, and how many were given up."""
    with db.read() as c:
        found = {row[0]: row[1] for row in c.execute(sa.select(_r.state, sa.func.count()).group_by(_r.state))}
    return {state: int(found.get(state, 0)) for state in ("waiting", "dead")}
