"""Everything that waits for a time of day, in one table, so that it can move when the clock is set."""

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from node.store import tables as t
from node.store.engine import Database

_KEY = "clock"
_SLACK_S = 1.0
_LONGEST_S = 3600.0
"""No wait of the node is longer (policy.toml)."""

_open_study = t.study.c.state != "closed"
_of_open = sa.select(t.study.c.uid).where(_open_study)
_carrying = sa.select(t.carried.c.association).where(t.carried.c.study_uid.in_(_of_open))

_STAMPS: tuple[tuple[sa.Table, tuple[str, ...], sa.ColumnElement[bool]], ...] = (
    (t.study, ("opened", "active"), _open_study),
    (t.carried, ("first", "last"), t.carried.c.study_uid.in_(_of_open)),
    (t.association, ("opened", "ended"), sa.or_(t.association.c.ended.is_(None), t.association.c.id.in_(_carrying))),
    (t.source_count, ("at", "again"), t.source_count.c.study_uid.in_(_of_open)),
    (t.process, ("started",), sa.true()),
    (t.breaker, ("since",), t.breaker.c.state != "closed"),
    (t.delivery, ("queued",), sa.or_(t.delivery.c.ended.is_(None), t.delivery.c.proof.in_(("waiting", "again")))),
    (t.commitment, ("asked",), t.commitment.c.state.in_(("asking", "asked", "expired"))),
)
"""What was stamped when it happened, and has a wait counted from it."""

_PLANS: tuple[tuple[sa.Table, tuple[str, ...], sa.ColumnElement[bool]], ...] = (
    (t.job, ("not_before", "lease"), t.job.c.state.in_(("waiting", "running"))),
    (t.delivery, ("next_attempt", "proof_next"), sa.true()),
    (t.relay, ("next_attempt",), sa.true()),
    (t.commitment, ("next_attempt",), sa.true()),
    (t.breaker, ("next_try",), sa.true()),
)
"""What is due at a time to come."""


def offset(db: Database, run: str) -> float | None:
    """Return how far the time of day was ahead of the steady clock (s); None if that is of another run of the machine."""
    with db.read() as c:
        text = c.execute(sa.select(t.meta.c.value).where(t.meta.c.key == _KEY)).scalar_one_or_none()
    known, _, seconds = (text or "").partition(" ")
    return float(seconds) if known == run else None


def remember(db: Database, run: str, seconds: float) -> None:
    """Write down how far the time of day is ahead of the steady clock."""
    with db.write() as c:
        _remember(c, run, seconds)


def moved(stamp: float, now: float, jumped: float) -> float:
    """Return a stamp as `shift` moves it."""
    before = stamp <= now - jumped + _SLACK_S if jumped > 0 else stamp > now + _SLACK_S
    return stamp + jumped if before else stamp


def shift(db: Database, now: float, jumped: float, remember: tuple[str, float] | None = None) -> None:
    """Move by `jumped` seconds what was stamped or planned before the clock jumped, in one transaction.

    Parameters
    ----------
    db : Database
        Where.
    now : float
        The time of day after the jump.
    jumped : float
        Positive: the clock was set forwards.
    remember : tuple or None
        Run of the machine and new distance between the clocks, written in the same transaction.
    """
    with db.write() as c:
        for table, names, where in _STAMPS:
            for name in names:
                column = table.c[name]
                # stamped before the jump: no later than the clock then showed; else later than it shows now
                old = column <= now - jumped + _SLACK_S if jumped > 0 else column > now + _SLACK_S
                c.execute(table.update().where(where, old).values({name: column + jumped}))
        for table, names, where in _PLANS:
            for name in names:
                column = table.c[name]
                forward = sa.and_(column > 0.0, column <= now - jumped + _LONGEST_S)  # 0: at once
                old = forward if jumped > 0 else column > now + min(_LONGEST_S, -jumped / 2)
                c.execute(table.update().where(where, old).values({name: column + jumped}))
        if remember is not None:
            _remember(c, *remember)


def _remember(c: sa.Connection, run: str, seconds: float) -> None:
    row = {"value": f"{run} {seconds:.3f}"}
    c.execute(insert(t.meta).values(key=_KEY, **row).on_conflict_do_update(["key"], set_=row))
