# ruff: noqa: S608 - the names are those of our own tables; values are bound
"""Two databases become one: an index made anew, and the old one's knowledge of what was computed and delivered."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from node.reasons import REASONS
from node.store import tables as t
from node.store.alarms import note
from node.store.corrections import DAMAGED, MISSING
from node.store.engine import Database, open_database
from node.store.events import tell
from node.store.index import begin_again

_BUSY_S = 5.0


class CarryError(Exception):
    """The old database cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What came of bringing two databases together.

    Parameters
    ----------
    reopened : tuple[str, ...]
        Hashes of studies that have images which the old database did not know: they are worked again.
    missing : tuple[str, ...]
        Entries that only the old database knew, and whose files are gone.
    """

    reopened: tuple[str, ...]
    missing: tuple[str, ...]


def copy(old: Path, into: Path) -> None:
    """Write a whole and tidy copy of a database that nobody uses.

    Raises
    ------
    CarryError
        If it is damaged, or has other tables than this version of the node.
    """
    try:
        connection = sqlite3.connect(f"file:{old}?mode=ro", uri=True, timeout=_BUSY_S, isolation_level=None)
        try:
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if found != t.VERSION:
                raise CarryError(f"its tables have version {found}, this node reads {t.VERSION}")
            for table in t.metadata.sorted_tables:
                columns = {row[1] for row in connection.execute(f'PRAGMA table_info("{table.name}")')}
                if columns != set(table.columns.keys()):
                    raise CarryError(f"its table {table.name} has other columns")
            verdict = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if verdict != "ok":
                raise CarryError("it is damaged")
            connection.execute("VACUUM INTO ?", (str(into),))
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise CarryError(f"it cannot be read ({type(error).__name__})") from error


def merge(old: Path, fresh: Path, now: float, exists: Callable[[str], bool]) -> Carried:
    """Put the index of `fresh` into `old`, a copy, in one transaction; jobs, results and deliveries stay as they are.

    Parameters
    ----------
    old, fresh : Path
        Databases of this version.
    now : float
        The time.
    exists : Callable[[str], bool]
        Whether the file of an entry stands.

    Raises
    ------
    CarryError
        If the two do not fit together.
    """
    db = open_database(old)
    db.engine.dispose()
    sa.event.listen(db.engine, "connect", lambda connection, _record: _attach(connection, fresh))
    try:
        with db.write() as c:
            return _merge(c, now, exists)
    except sa.exc.DatabaseError as error:
        raise CarryError(f"it does not fit ({type(error.orig).__name__})") from error
    finally:
        db.close()


def _attach(connection: Any, fresh: Path) -> None:  # noqa: ANN401 - the driver's type
    connection.execute("ATTACH DATABASE ? AS fresh", (str(fresh),))


def _merge(c: sa.Connection, now: float, exists: Callable[[str], bool]) -> Carried:
    def run(statement: str, **values: Any) -> sa.CursorResult[Any]:  # noqa: ANN401 - values of any column
        return c.execute(sa.text(statement), values)

    def take(table: sa.Table, how: str = "INSERT", where: str = "", *, without: str = "") -> None:
        names = ", ".join(f'"{name}"' for name in table.columns.keys() if name != without)  # noqa: SIM118 - columns
        run(f'{how} INTO main."{table.name}" ({names}) SELECT {names} FROM fresh."{table.name}" {where}')

    for name in ("instance", "version"):
        run(f"CREATE TEMP TABLE was_{name} AS SELECT * FROM main.{name}")
        run(f"DELETE FROM main.{name}")
    run("DELETE FROM main.journal")
    for table in (t.instance, t.version, t.journal):
        take(table)
    take(t.association, "INSERT OR REPLACE")
    for table in (t.carried, t.pace, t.procedure, t.announced):
        take(table, "INSERT OR IGNORE")
    take(t.notice, "INSERT OR IGNORE", without="id")
    run(
        'INSERT OR IGNORE INTO main.relay (notice_id, "to", state, attempts, refused, next_attempt) '
        'SELECT k.id, r."to", r.state, r.attempts, r.refused, r.next_attempt FROM fresh.relay r '
        "JOIN fresh.notice n ON n.id = r.notice_id JOIN main.notice k ON k.entry = n.entry"
    )
    missing = _forgotten(c, now, exists)
    new = "WHERE study_uid NOT IN (SELECT uid FROM main.study)"
    take(t.event, "INSERT", new, without="id")
    take(
        t.event,
        "INSERT",
        f"WHERE kind IN ('{DAMAGED}', '{MISSING}') AND NOT ({new.removeprefix('WHERE ')})",
        without="id",
    )
    take(t.alarm, "INSERT OR IGNORE", f"{new} OR study_uid IS NULL")
    take(t.alarm, "INSERT OR REPLACE", f"WHERE code IN ('{DAMAGED}', '{MISSING}')")
    run(
        f"UPDATE main.alarm SET cleared = :now WHERE code IN ('{DAMAGED}', '{MISSING}') AND cleared IS NULL "
        "AND study_uid NOT IN (SELECT study_uid FROM main.version WHERE lost IS NOT NULL)",
        now=now,
    )  # what had been lost is back
    # whose the images are and what is new of them, before the studies are taken over
    grown = [row[0] for row in run(
        "SELECT DISTINCT i.study_uid FROM main.instance i JOIN main.study s ON s.uid = i.study_uid "
        "LEFT JOIN was_instance w ON w.sop_uid = i.sop_uid AND w.digest = i.digest "
        "WHERE i.role = 'image' AND (w.sop_uid IS NULL OR w.role <> 'image')"
    )]  # fmt: skip
    take(t.study, "INSERT OR IGNORE")
    run(
        "UPDATE main.study SET upto = coalesce((SELECT max(i.id) FROM main.instance i "
        "WHERE i.study_uid = study.uid AND i.role = 'image'), 0)"
    )
    run("UPDATE main.job SET upto = (SELECT s.upto FROM main.study s WHERE s.uid = job.study_uid)")
    reopened = [begin_again(c, uid, now) for uid in grown]
    return Carried(tuple(reopened), missing)


def _forgotten(c: sa.Connection, now: float, exists: Callable[[str], bool]) -> tuple[str, ...]:
    """Keep what only the old database knows: what was taken away, with what it was; and what is gone without a record."""
    same = "w.sop_uid = {0}.sop_uid AND w.digest = {0}.digest"
    facts = ("modality", "role", "identity", "series_uid", "sop_class")
    values = ", ".join(f"{f} = (SELECT w.{f} FROM was_instance w WHERE {same.format('instance')})" for f in facts)
    lost = "removed IS NOT NULL AND EXISTS (SELECT 1 FROM {1} w WHERE " + same + ")"
    c.exec_driver_sql(f"UPDATE main.instance SET {values} WHERE {lost.format('instance', 'was_instance')}")
    before = ", ".join(
        f"{f} = (SELECT w.{f} FROM was_version w WHERE {same.format('version')})" for f in ("state", "identity")
    )
    c.exec_driver_sql(f"UPDATE main.version SET {before} WHERE {lost.format('version', 'was_version')}")
    gone = c.exec_driver_sql(
        "SELECT w.entry, w.study_uid, w.sop_uid FROM was_version w LEFT JOIN main.version v "
        "ON v.sop_uid = w.sop_uid AND v.digest = w.digest WHERE v.sop_uid IS NULL AND w.removed IS NULL"
    ).all()
    missing = [row for row in gone if not exists(row.entry)]
    for row in missing:
        tell(c, row.study_uid, now, MISSING, {"sop_instance_uid": row.sop_uid})
        note(c, row.study_uid, REASONS(MISSING).as_json(), now, row.study_uid)
    c.exec_driver_sql("UPDATE was_version SET lost = ? WHERE removed IS NULL", (now,))  # no record tells of a removal
    for table, key in ((t.version, ""), (t.instance, "id")):
        names = [name for name in table.columns.keys() if name not in (key, "removed")]  # noqa: SIM118 - columns
        listed = ", ".join(names)
        c.exec_driver_sql(
            f"INSERT OR IGNORE INTO main.{table.name} ({listed}, removed) "
            f"SELECT {listed}, coalesce(removed, ?) FROM was_{table.name}", (now,)
        )  # fmt: skip
    return tuple(row.entry for row in missing)


def totals(db: Database) -> dict[str, int]:
    """Count what a database holds."""
    with db.read() as c:
        return {
            table.name: int(c.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())
            for table in (t.study, t.instance, t.version, t.notice, t.job, t.delivery)
        }
