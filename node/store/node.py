"""The node itself: its processes, and counts for `status`."""

from dataclasses import asdict, dataclass

import sqlalchemy as sa

from node.store import tables as t
from node.store.deliveries import present
from node.store.engine import Database
from node.store.rows import RECEIVING, Process, as_a
from node.store.sql import insert

_DEAD = sa.select(sa.func.count()).select_from(t.job).where(t.job.c.state == "dead", present())


@dataclass(frozen=True, slots=True)
class Counts:
    """How many rows are in which state; of dead jobs those of a present revision, because nobody can retry another."""

    associations: int
    studies: dict[str, int]
    jobs: dict[str, int]
    deliveries: dict[str, int]


def processes(db: Database) -> tuple[Process, ...]:
    """Return the processes that the supervisor wrote down."""
    with db.read() as c:
        return tuple(as_a(Process, r) for r in c.execute(sa.select(t.process).order_by(t.process.c.started)))


def no_processes(db: Database, node: str | None = None) -> None:
    """Forget the processes of one node, or of all."""
    mine = sa.true() if node is None else t.process.c.node == node
    with db.write() as c:
        c.execute(t.process.delete().where(mine))


def process_started(db: Database, process: Process) -> None:
    """Write down one process."""
    row = asdict(process)
    with db.write() as c:
        c.execute(insert(t.process).values(row).on_conflict_do_update(index_elements=["name"], set_=row))


def process_ended(db: Database, name: str) -> None:
    """Strike one process out."""
    with db.write() as c:
        c.execute(t.process.delete().where(t.process.c.name == name))


def counts(db: Database) -> Counts:
    """Count what there is; associations are those that a receiver of this run has open."""
    a, p = t.association.c, t.process.c
    alive = sa.exists().where(p.name == a.receiver, p.role.in_(RECEIVING), p.started <= a.opened)
    with db.read() as c:
        by = {table.name: _by_state(c, table) for table in (t.study, t.job, t.delivery)}
        by["job"]["dead"] = c.execute(_DEAD).scalar_one()
        opened = c.execute(
            sa.select(sa.func.count()).select_from(t.association).where(a.ended.is_(None), alive)
        ).scalar_one()
        return Counts(int(opened), by["study"], by["job"], by["delivery"])


def _by_state(c: sa.Connection, table: sa.Table) -> dict[str, int]:
    rows = c.execute(sa.select(table.c.state, sa.func.count()).group_by(table.c.state))
    return {str(row[0]): int(row[1]) for row in rows}
