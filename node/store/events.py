"""The timeline of a study."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from node.store import tables as t
from node.store.engine import Database
from node.store.rows import Event


def tell(c: sa.Connection, study_uid: str, at: float, kind: str, data: Mapping[str, Any]) -> None:
    """Add one entry, as part of the caller's transaction."""
    c.execute(t.event.insert().values(study_uid=study_uid, at=at, kind=kind, data=dict(data)))


def timeline(db: Database, study_uid: str) -> tuple[Event, ...]:
    """Return the entries of a study, oldest first."""
    query = sa.select(t.event.c.at, t.event.c.kind, t.event.c.data).where(t.event.c.study_uid == study_uid)
    with db.read() as c:
        return tuple(Event(row.at, row.kind, row.data) for row in c.execute(query.order_by(t.event.c.at, t.event.c.id)))
