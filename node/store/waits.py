"""Everything that waits for a time of day, in one table, so that it can move when the clock is set."""

from collections.abc import Callable

import sqlalchemy as sa

from node.store import tables as t
from node.store.clocks import SLACK_S, Clocks, Jump, note
from node.store.engine import Database

_LONGEST_S = 3600.0
"""No wait of the node is longer (policy.toml)."""

_open_study = t.study.c.state != "closed"
_of_open = sa.select(t.study.c.uid).where(_open_study)
_carrying = sa.select(t.carried.c.association).where(t.carried.c.study_uid.in_(_of_open))

_relayed = sa.select(t.relay.c.notice_id).where(t.relay.c.state == "waiting")
_asked = sa.select(t.commitment.c.notice_id).where(
    t.commitment.c.notice_id.is_not(None), t.commitment.c.answered.is_(None)
)
_unproven = t.delivery.c.proof.in_(("waiting", "again"))

_STAMPS: tuple[tuple[sa.Table, tuple[str, ...], sa.ColumnElement[bool]], ...] = (
    (t.study, ("opened", "active"), _open_study),
    (t.carried, ("first", "last"), t.carried.c.study_uid.in_(_of_open)),
    (t.association, ("opened", "ended"), sa.or_(t.association.c.ended.is_(None), t.association.c.id.in_(_carrying))),
    (t.source_count, ("at", "again"), t.source_count.c.study_uid.in_(_of_open)),
    (t.process, ("started",), sa.true()),
    (t.breaker, ("since",), t.breaker.c.state != "closed"),
    (t.delivery, ("queued",), sa.or_(t.delivery.c.ended.is_(None), _unproven)),
    (t.delivery, ("ended",), _unproven),
    (t.commitment, ("asked",), t.commitment.c.state.in_(("asking", "asked", "expired"))),
    (t.notice, ("received",), sa.or_(t.notice.c.id.in_(_relayed), t.notice.c.id.in_(_asked))),
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


def shift(db: Database, now: Callable[[], float], jump: Jump, clocks: Clocks | None = None) -> None:
    """Move what was stamped or planned before the clock jumped, in one transaction.

    Parameters
    ----------
    db : Database
        Where.
    now : Callable[[], float]
        The time of day; asked when nobody else writes any more.
    jump : Jump
        The jump.
    clocks : Clocks or None
        What is known of the clocks now, written in the same transaction.
    """
    jumped = jump.seconds
    with db.write() as c:
        present = now()
        for table, names, where in _STAMPS:
            for name in names:
                column = table.c[name]
                old = sa.not_(column.between(jump.after - SLACK_S, present + SLACK_S))
                c.execute(table.update().where(where, old).values({name: column + jumped}))
        for table, names, where in _PLANS:
            for name in names:
                column = table.c[name]
                forward = sa.and_(column > 0.0, column <= present - jumped + _LONGEST_S)  # 0: at once
                due = forward if jumped > 0 else column > present + min(_LONGEST_S, -jumped / 2)
                c.execute(table.update().where(where, due).values({name: column + jumped}))
        if clocks is not None:
            note(c, clocks)
