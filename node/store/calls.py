"""Calls of jobs, where nodes share a database: in tables of procrastinate, in a schema of their own beside ours.

A call is no truth. It says that somebody should run a job; the job's row says whether there is something to run. So calls may
be lost, come twice or come to nothing, and the tables of another version of procrastinate are simply made anew.
"""

from dataclasses import dataclass

import sqlalchemy as sa

from node.store import tables as t
from node.store.deliveries import OF_STUDY
from node.store.engine import Database
from node.store.jobs import claimable
from node.store.sql import Big

_j = t.job.c
_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Uncalled:
    """A job that may be claimed, and that nobody has been called for."""

    id: int
    priority: int
    pipeline: str | None


def prepare(db: Database, version: str, script: str) -> bool:
    """Make the tables of procrastinate's `version` by its own `script`, unless they stand; say whether they were made."""
    with db.write() as c:
        schema = _schema(c)
        found = c.execute(sa.text("SELECT obj_description(to_regnamespace(:s), 'pg_namespace')"), {"s": schema})
        if found.scalar_one_or_none() == version:
            return False
        c.exec_driver_sql(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')
        c.exec_driver_sql(f'CREATE SCHEMA "{schema}"')
        c.exec_driver_sql(f'SET LOCAL search_path TO "{schema}"')
        cursor = c.connection.cursor()  # many statements, and percent signs that stand for themselves
        cursor.execute(script)
        cursor.close()
        comment = version.replace("'", "")
        c.exec_driver_sql(f"COMMENT ON SCHEMA \"{schema}\" IS '{comment}'")
    return True


def way(db: Database) -> tuple[str, dict[str, str]]:
    """Return how procrastinate connects to its tables: where to, and with what."""
    with db.read() as c:
        schema = _schema(c)
    url = db.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    return url, {"options": f"-c search_path={schema}", "application_name": "pacs-ai-node calls"}


def uncalled(db: Database, now: float) -> tuple[Uncalled, ...]:
    """Return the jobs that may be claimed now and that no worker has been called for, the most urgent first."""
    with db.read() as c:
        call = _jobs(_schema(c)).c
        called = sa.exists().where(
            call.status == sa.literal_column("'todo'"), call.queueing_lock == sa.cast(_j.id, sa.Text)
        )
        query = sa.select(_j.id, _j.priority, _j.pipeline).where(claimable(now), ~called)
        rows = c.execute(query.order_by(OF_STUDY, _j.priority, _j.id).limit(_AT_ONCE))
        return tuple(Uncalled(row.id, row.priority, row.pipeline) for row in rows)


def forget_lost(db: Database, silent_s: float) -> int:
    """Forget calls that a worker has taken and will not end: it has not been heard for so long. Return how many."""
    with db.write() as c:
        schema = _schema(c)
        c.exec_driver_sql(f'SET LOCAL search_path TO "{schema}"')  # its triggers look there
        call = _jobs(schema)
        worker = sa.table("procrastinate_workers", sa.column("id"), sa.column("last_heartbeat"), schema=schema).c
        since = sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, silent_s)
        lives = sa.exists().where(worker.id == call.c.worker_id, worker.last_heartbeat > since)
        return c.execute(sa.delete(call).where(call.c.status == sa.literal_column("'doing'"), ~lives)).rowcount


def count(db: Database) -> int:
    """Return how many calls stand."""
    with db.read() as c:
        return int(c.execute(sa.select(sa.func.count()).select_from(_jobs(_schema(c)))).scalar_one())


def _schema(c: sa.Connection) -> str:
    """Return where the calls of this installation stand, which itself lives in one schema."""
    ours = str(c.exec_driver_sql("SELECT current_schema()").scalar_one())
    return "procrastinate" if ours == "public" else f"{ours}_procrastinate"


def _jobs(schema: str) -> sa.TableClause:
    return sa.table(
        "procrastinate_jobs",
        sa.column("status"),
        sa.column("queueing_lock", sa.Text),
        sa.column("worker_id", Big),
        schema=schema,
    )
