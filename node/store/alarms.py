"""Alarms: what a person must look at. One row per (code, subject); raised again it keeps its first time until cleared."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from node.store import tables as t
from node.store.engine import Database
from node.store.events import tell
from node.store.rows import Alarm, as_a
from node.store.sql import insert

_a = t.alarm.c


@dataclass(frozen=True, slots=True)
class Rung:
    """An alarm that a transaction raised or cleared, for the log: nothing is told before it is committed."""

    code: str
    study: str
    raised: bool = True


def raised(db: Database, subject: str, reason: Mapping[str, Any], now: float, study_uid: str | None = None) -> bool:
    """Raise the alarm `reason` about `subject` (a study UID, a destination, or empty); False if it stands already."""
    with db.write() as c:
        return note(c, subject, reason, now, study_uid)


def note(c: sa.Connection, subject: str, reason: Mapping[str, Any], now: float, study_uid: str | None = None) -> bool:
    """Raise an alarm as part of the caller's transaction; False if it stands already."""
    key = {"code": reason["code"], "subject": subject}
    fresh = {"raised": now, "cleared": None, "reason": dict(reason), "study_uid": study_uid}
    again = insert(t.alarm).values(**key, **fresh)
    return bool(c.execute(
        again.on_conflict_do_update(index_elements=["code", "subject"], set_=fresh, where=_a.cleared.is_not(None))
    ).rowcount)  # fmt: skip


def cleared(db: Database, code: str, subject: str, now: float) -> bool:
    """Clear an alarm; False if it does not stand."""
    standing = sa.and_(_a.code == code, _a.subject == subject, _a.cleared.is_(None))
    with db.read() as c:
        if c.execute(sa.select(_a.code).where(standing)).first() is None:
            return False
    with db.write() as c:
        return ended(c, code, subject, now)


def ended(c: sa.Connection, code: str, subject: str, now: float) -> bool:
    """Clear an alarm as part of the caller's transaction; False if it does not stand."""
    standing = sa.and_(_a.code == code, _a.subject == subject, _a.cleared.is_(None))
    return bool(c.execute(t.alarm.update().where(standing).values(cleared=now)).rowcount)


def dismissed(db: Database, code: str, subject: str | None, now: float) -> int:
    """Clear an alarm because a person has seen to it, about one subject or all; return how many. The study's timeline says so."""
    wanted = sa.and_(_a.code == code, _a.cleared.is_(None))
    if subject is not None:
        wanted = sa.and_(wanted, _a.subject == subject)
    with db.write() as c:
        gone = c.execute(t.alarm.update().where(wanted).values(cleared=now).returning(_a.study_uid)).scalars().all()
        for study_uid in gone:
            if study_uid is not None:
                tell(c, study_uid, now, "alarm-dismissed", {"code": code})
        return len(gone)


def standing(db: Database, study_uid: str | None = None) -> tuple[Alarm, ...]:
    """Return the alarms that stand, of one study or all, the newest first."""
    query = sa.select(t.alarm).where(_a.cleared.is_(None))
    if study_uid is not None:
        query = query.where(_a.study_uid == study_uid)
    with db.read() as c:
        return tuple(as_a(Alarm, row) for row in c.execute(query.order_by(_a.raised.desc(), _a.code)))
