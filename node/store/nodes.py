"""Nodes that share one database: who lives, by their heart-beats, and how far each one's clock is ahead of the database's."""

import time
from collections.abc import Callable
from dataclasses import asdict

import sqlalchemy as sa

from node.store import tables as t
from node.store.engine import Database
from node.store.rows import Node, as_a
from node.store.sql import insert

_n = t.node.c
_NOW = {
    "postgresql": "SELECT EXTRACT(EPOCH FROM clock_timestamp())::float8",
    "sqlite": "SELECT (julianday('now') - 2440587.5) * 86400.0",
}


def present(db: Database) -> float:
    """Return what the database's clock shows (s since the epoch): the one clock that all nodes can look at."""
    with db.read() as c:
        return _present(c)


def beat(db: Database, name: str, since: float, clock: Callable[[], float] = time.time) -> tuple[Node, bool]:
    """Write down that a node lives, and how far its `clock` is ahead.

    Parameters
    ----------
    db : Database
        Where.
    name : str
        Of the node.
    since : float
        When it began, by its own clock; tells one run of a node from the next.
    clock : Callable[[], float]
        What the clock of its machine shows (s since the epoch).

    Returns
    -------
    tuple[Node, bool]
        What stands there now, and whether the others had taken it for dead meanwhile.
    """
    with db.write() as c:
        before = clock()
        seen = _present(c)
        heard = Node(name, since, seen, (before + clock()) / 2 - seen, "alive")
        known = c.execute(sa.select(t.node).where(_n.name == name)).first()
        row = asdict(heard)
        c.execute(insert(t.node).values(row).on_conflict_do_update(index_elements=["name"], set_=row))
        return heard, known is not None and known.state == "silent" and known.since == since


def left(db: Database, name: str) -> None:
    """Write down that a node ends as planned."""
    with db.write() as c:
        c.execute(t.node.update().where(_n.name == name).values(state="stopped"))


def nodes(db: Database) -> tuple[Node, ...]:
    """Return every node that ever was here."""
    with db.read() as c:
        return tuple(as_a(Node, row) for row in c.execute(sa.select(t.node).order_by(_n.name)))


def bury(db: Database, heard: Node) -> bool:
    """Take a node for dead, and its processes with it; False if it has been heard since."""
    same = sa.and_(_n.name == heard.name, _n.state == "alive", _n.seen == heard.seen)
    with db.write() as c:
        if not c.execute(t.node.update().where(same).values(state="silent")).rowcount:
            return False
        c.execute(t.process.delete().where(t.process.c.node == heard.name))
    return True


def _present(c: sa.Connection) -> float:
    return float(c.exec_driver_sql(_NOW[c.dialect.name]).scalar_one())
