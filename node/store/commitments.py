"""Storage commitment: what was asked of which archive, under which Transaction UID, and what it answered.

A row is one transaction: ``waiting`` (to be asked) -> ``asking`` -> ``asked`` -> ``committed`` or ``failed``; those on
behalf of a sender go on to ``told``. ``expired`` ones were asked anew under another UID, and a late answer to them still
counts; ``superseded``: another transaction about the same was answered; ``dead``: given up.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from node.store import tables as t
from node.store.engine import Database
from node.store.rows import Delivery

_c, _n = t.commitment.c, t.notice.c
_OPEN = ("asking", "asked", "expired")
_UNANSWERED = ("waiting", *_OPEN)


@dataclass(frozen=True, slots=True)
class Transaction:
    """One transaction; `result` is the entry of the archive's answer, if it has come.

    A sender's request has its `notice_id`, its `request` (entry below the spool), the time it was received, and the AE
    titles that the sender calls itself and called us by.
    """

    transaction_uid: str
    destination: str
    state: str = "asked"
    attempts: int = 1
    asked: float | None = None
    delivery_id: int | None = None
    notice_id: int | None = None
    failed: Mapping[str, int] | None = None
    result: str | None = None
    request: str | None = None
    received: float | None = None
    calling: str | None = None
    called: str | None = None


def _select() -> "sa.Select[Any]":
    answer, asked, any_ = (t.notice.alias(name) for name in ("answer", "request", "any_answer"))
    first = (  # should an archive answer twice, its first answer stands
        sa.select(sa.func.min(any_.c.id))
        .where(any_.c.uid == _c.transaction_uid, any_.c.kind == "commit-result")
        .correlate(t.commitment)
        .scalar_subquery()
    )
    columns = (
        _c.transaction_uid, _c.destination, _c.state, _c.attempts, _c.asked, _c.delivery_id, _c.notice_id, _c.failed,
        answer.c.entry, asked.c.entry, asked.c.received, asked.c.calling, asked.c.called,
    )  # fmt: skip
    joined = t.commitment.outerjoin(answer, answer.c.id == first).outerjoin(asked, asked.c.id == _c.notice_id)
    return sa.select(*columns).select_from(joined)


def of_delivery(db: Database, delivery: Delivery) -> tuple[Transaction, ...]:
    """Return the open transactions about a delivery since it was last sent, oldest first."""
    mine = sa.and_(_c.delivery_id == delivery.id, _c.asked >= delivery.queued, _c.state.in_(_OPEN))
    with db.read() as c:
        return tuple(Transaction(*row) for row in c.execute(_select().where(mine).order_by(_c.asked)))


def begin(db: Database, destination: str, transaction_uid: str, delivery_id: int, now: float) -> None:
    """Write down that an archive is about to be asked about a delivery; earlier transactions about it expire."""
    row = {
        "transaction_uid": transaction_uid, "destination": destination, "delivery_id": delivery_id, "state": "asking",
        "attempts": 1, "asked": now,
    }  # fmt: skip
    with db.write() as c:
        c.execute(
            t.commitment.update()
            .where(_c.delivery_id == delivery_id, _c.state.in_(("asking", "asked")))
            .values(state="expired")
        )
        c.execute(t.commitment.insert().values(row))


def adopt(db: Database, archive: str, transaction_uid: str, now: float) -> bool:
    """Queue the oldest request of a sender that is not served yet, as a transaction of our own; False if there is none."""
    served = sa.exists().where(_c.notice_id == _n.id)
    with db.read() as c:
        wanted = sa.select(_n.id).where(_n.kind == "commit-request", sa.not_(served)).order_by(_n.id).limit(1)
        notice = c.execute(wanted).scalar_one_or_none()
    if notice is None:
        return False
    row = {
        "transaction_uid": transaction_uid, "destination": archive, "notice_id": notice, "state": "waiting",
        "attempts": 0, "next_attempt": now,
    }  # fmt: skip
    with db.write() as c:
        c.execute(t.commitment.insert().values(row))
    return True


def answered(db: Database, archive: str) -> Transaction | None:
    """Return an open transaction on behalf of a sender whose answer has come."""
    mine = sa.and_(_c.destination == archive, _c.notice_id.is_not(None), _c.state.in_(_OPEN))
    return _first(db, _select().where(mine, sa.literal_column("answer.id").is_not(None)).order_by(_c.asked))


def due(db: Database, archive: str, state: str, now: float) -> Transaction | None:
    """Return the transaction on behalf of a sender that is in `state` and due longest."""
    mine = sa.and_(_c.destination == archive, _c.notice_id.is_not(None), _c.state == state, _c.next_attempt <= now)
    return _first(db, _select().where(mine).order_by(_c.next_attempt))


def interrupted(db: Database, archive: str) -> Transaction | None:
    """Return a transaction on behalf of a sender that was being asked by somebody who is gone."""
    mine = sa.and_(_c.destination == archive, _c.notice_id.is_not(None), _c.state == "asking")
    return _first(db, _select().where(mine))


def untold(db: Database, now: float) -> Transaction | None:
    """Return the answered transaction that its sender is to be told about next."""
    mine = sa.and_(_c.notice_id.is_not(None), _c.state.in_(("committed", "failed")), _c.next_attempt <= now)
    return _first(db, _select().where(mine).order_by(_c.next_attempt))


def asking(db: Database, row: Transaction, now: float) -> None:
    """Write down that a transaction is about to be asked."""
    _set(db, row, state="asking", attempts=row.attempts + 1, asked=now, next_attempt=None)


def asked(db: Database, transaction_uid: str, until: float) -> None:
    """Write down that the archive has taken the request; its answer is waited for `until` then."""
    with db.write() as c:
        mine = sa.and_(_c.transaction_uid == transaction_uid, _c.state == "asking")
        c.execute(t.commitment.update().where(mine).values(state="asked", next_attempt=until))


def again(
    db: Database, row: Transaction, transaction_uid: str, at: float, error: Mapping[str, Any] | None = None
) -> None:
    """Ask once more at a later time, as a new transaction."""
    fresh = {
        "transaction_uid": transaction_uid, "destination": row.destination, "notice_id": row.notice_id,
        "state": "waiting", "attempts": row.attempts, "next_attempt": at, "last_error": error,
    }  # fmt: skip
    with db.write() as c:
        mine = sa.and_(_c.transaction_uid == row.transaction_uid, _c.state.in_(("asking", "asked")))
        if c.execute(t.commitment.update().where(mine).values(state="expired", next_attempt=None)).rowcount:
            c.execute(t.commitment.insert().values(fresh))


def conclude(db: Database, row: Transaction, failed: Mapping[str, int], now: float) -> bool:
    """Write down an answer; other transactions about the same are over. False if this one was over already."""
    about = _c.delivery_id == row.delivery_id if row.delivery_id is not None else _c.notice_id == row.notice_id
    values = {
        "state": "failed" if failed else "committed", "failed": dict(failed), "answered": now, "attempts": 0,
        "next_attempt": now,
    }  # fmt: skip
    with db.write() as c:
        mine = sa.and_(_c.transaction_uid == row.transaction_uid, _c.state.in_(_UNANSWERED))
        if not c.execute(t.commitment.update().where(mine).values(values)).rowcount:
            return False
        others = sa.and_(about, _c.transaction_uid != row.transaction_uid, _c.state.in_(_UNANSWERED))
        c.execute(t.commitment.update().where(others).values(state="superseded", next_attempt=None))
    return True


def settle(
    db: Database,
    row: Transaction,
    state: str,
    next_attempt: float | None = None,
    error: Mapping[str, Any] | None = None,
) -> None:
    """Write down what came of telling a sender."""
    _set(db, row, state=state, attempts=row.attempts + 1, next_attempt=next_attempt, last_error=error)


def counts(db: Database) -> dict[str, int]:
    """Return how many transactions wait to be asked, for an answer, and to be told to senders, and how many were given up."""
    to_tell = sa.and_(_c.notice_id.is_not(None), _c.state.in_(("committed", "failed")))
    groups = {
        "waiting": _c.state == "waiting", "asked": _c.state.in_(("asking", "asked")), "to_tell": to_tell,
        "dead": _c.state == "dead",
    }  # fmt: skip
    columns = [sa.func.coalesce(sa.func.sum(sa.case((test, 1), else_=0)), 0) for test in groups.values()]
    with db.read() as c:
        row = c.execute(sa.select(*columns)).one()
    return dict(zip(groups, (int(n) for n in row), strict=True))


def _set(db: Database, row: Transaction, **values: Any) -> None:  # noqa: ANN401 - columns
    with db.write() as c:
        mine = sa.and_(_c.transaction_uid == row.transaction_uid, _c.state == row.state)
        c.execute(t.commitment.update().where(mine).values(values))


def _first(db: Database, query: "sa.Select[Any]") -> Transaction | None:
    with db.read() as c:
        row = c.execute(query.limit(1)).first()
        return None if row is None else Transaction(*row)
