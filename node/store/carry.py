# ruff: noqa: S608 - the names are those of our own tables; values are bound
"""Two databases become one: an index made anew, and the old one's knowledge of what was computed and delivered."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from node.reasons import REASONS
from node.store import tables as t
from node.store.alarms import note
from node.store.anew import Anew, CarryError
from node.store.corrections import DAMAGED, MISSING
from node.store.engine import Database
from node.store.events import tell
from node.store.index import begin_again

_IGNORE = "ON CONFLICT DO NOTHING"


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


def merge(anew: Anew, now: float, exists: Callable[[str], bool]) -> Carried:
    """Put the fresh index into the copy of the old database, in one transaction; jobs, results and deliveries stay as they are.

    Parameters
    ----------
    anew : Anew
        Where both are.
    now : float
        The time.
    exists : Callable[[str], bool]
        Whether the file of an entry stands.

    Raises
    ------
    CarryError
        If the two do not fit together.
    """
    try:
        with anew.both() as c:
            return _merge(c, anew.names, now, exists)
    except sa.exc.DatabaseError as error:
        raise CarryError(f"it does not fit ({type(error.orig).__name__})") from error


def _merge(c: sa.Connection, names: tuple[str, str], now: float, exists: Callable[[str], bool]) -> Carried:
    old, fresh = names

    def run(statement: str, **values: Any) -> sa.CursorResult[Any]:  # noqa: ANN401 - values of any column
        return c.execute(sa.text(statement), values)

    def take(table: sa.Table, where: str = "true", then: str = "", *, without: str = "") -> None:
        listed = ", ".join(f'"{name}"' for name in table.columns.keys() if name != without)  # noqa: SIM118 - columns
        order = f"ORDER BY {without}" if without else ""  # numbered again, in the same order
        run(
            f'INSERT INTO {old}."{table.name}" ({listed}) SELECT {listed} FROM {fresh}."{table.name}" WHERE {where} {order} {then}'
        )

    for name in ("instance", "version"):
        run(f"CREATE TEMP TABLE was_{name} AS SELECT * FROM {old}.{name}")
        run(f"DELETE FROM {old}.{name}")
    run(f"DELETE FROM {old}.journal")
    for table in (t.instance, t.version, t.journal):
        take(table)
    take(t.association, then=_replace(t.association))
    for table in (t.carried, t.pace, t.procedure, t.announced):
        take(table, then=_IGNORE)
    take(t.notice, then=_IGNORE, without="id")
    run(
        f'INSERT INTO {old}.relay (notice_id, "to", state, attempts, refused, next_attempt) '
        f'SELECT k.id, r."to", r.state, r.attempts, r.refused, r.next_attempt FROM {fresh}.relay r '
        f"JOIN {fresh}.notice n ON n.id = r.notice_id JOIN {old}.notice k ON k.entry = n.entry WHERE true ORDER BY r.id {_IGNORE}"
    )
    missing = _forgotten(c, old, now, exists)
    new, lost = f"study_uid NOT IN (SELECT uid FROM {old}.study)", f"('{DAMAGED}', '{MISSING}')"
    take(t.event, new, without="id")
    take(t.event, f"kind IN {lost} AND NOT ({new})", without="id")
    take(t.alarm, f"{new} OR study_uid IS NULL", _IGNORE)
    take(t.alarm, f"code IN {lost}", _replace(t.alarm))
    run(
        f"UPDATE {old}.alarm SET cleared = :now WHERE code IN {lost} AND cleared IS NULL "
        f"AND study_uid NOT IN (SELECT study_uid FROM {old}.version WHERE lost IS NOT NULL)",
        now=now,
    )  # what had been lost is back
    # whose the images are and what is new of them, before the studies are taken over
    grown = [row[0] for row in run(
        f"SELECT DISTINCT i.study_uid FROM {old}.instance i JOIN {old}.study s ON s.uid = i.study_uid "
        "LEFT JOIN was_instance w ON w.sop_uid = i.sop_uid AND w.digest = i.digest "
        "WHERE i.role = 'image' AND (w.sop_uid IS NULL OR w.role <> 'image')"
    )]  # fmt: skip
    take(t.study, then=_IGNORE)
    run(
        f"UPDATE {old}.study SET upto = coalesce((SELECT max(i.id) FROM {old}.instance i "
        "WHERE i.study_uid = study.uid AND i.role = 'image'), 0)"
    )
    own = "i.study_uid = job.study_uid AND i.role = 'image' AND (i.series_uid = job.subject OR i.sop_uid = job.subject)"
    run(
        f"UPDATE {old}.job SET upto = CASE WHEN subject = 'study' THEN "
        f"(SELECT s.upto FROM {old}.study s WHERE s.uid = job.study_uid) "
        f"WHEN EXISTS (SELECT 1 FROM {old}.instance i LEFT JOIN was_instance w ON w.sop_uid = i.sop_uid "
        f"AND w.digest = i.digest WHERE {own} AND (w.sop_uid IS NULL OR w.role <> 'image')) THEN 0 "  # has not seen it
        f"ELSE coalesce((SELECT max(i.id) FROM {old}.instance i WHERE {own}), 0) END"
    )
    run(
        f"UPDATE {old}.job SET state = 'superseded' WHERE upto = 0 AND subject <> 'study' AND state IN ('waiting', 'running')"
    )
    reopened = [begin_again(c, uid, now) for uid in grown]
    return Carried(tuple(reopened), missing)


def _replace(table: sa.Table) -> str:
    key = [column.name for column in table.primary_key]
    rest = [f'"{name}" = excluded."{name}"' for name in table.columns.keys() if name not in key]  # noqa: SIM118 - columns
    return f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {', '.join(rest)}"


def _forgotten(c: sa.Connection, old: str, now: float, exists: Callable[[str], bool]) -> tuple[str, ...]:
    """Keep what only the old database knows: what was taken away, with what it was; and what is gone without a record."""
    same = "w.sop_uid = {0}.sop_uid AND w.digest = {0}.digest"
    for name, facts in (
        ("instance", ("modality", "role", "identity", "series_uid", "sop_class")),
        ("version", ("state", "identity")),
    ):
        mine = f"FROM was_{name} w WHERE {same.format(name)}"
        values = ", ".join(f"{fact} = (SELECT w.{fact} {mine})" for fact in facts)
        c.execute(sa.text(f"UPDATE {old}.{name} SET {values} WHERE removed IS NOT NULL AND EXISTS (SELECT 1 {mine})"))
    gone = c.execute(sa.text(
        f"SELECT w.entry, w.study_uid, w.sop_uid FROM was_version w LEFT JOIN {old}.version v "
        "ON v.sop_uid = w.sop_uid AND v.digest = w.digest WHERE v.sop_uid IS NULL AND w.removed IS NULL"
    )).all()  # fmt: skip
    missing = [row for row in gone if not exists(row.entry)]
    for row in missing:
        tell(c, row.study_uid, now, MISSING, {"sop_instance_uid": row.sop_uid})
        note(c, row.study_uid, REASONS(MISSING).as_json(), now, row.study_uid)
    # no record tells of a removal
    c.execute(sa.text("UPDATE was_version SET lost = :now WHERE removed IS NULL"), {"now": now})
    for table, number in ((t.version, "number"), (t.instance, "id")):
        listed = ", ".join(n for n in table.columns.keys() if n not in (number, "removed"))  # noqa: SIM118 - columns
        c.execute(sa.text(
            f"INSERT INTO {old}.{table.name} ({number}, {listed}, removed) "
            f"SELECT (SELECT coalesce(max({number}), 0) FROM {old}.{table.name}) + row_number() OVER (ORDER BY {number}), "
            f"{listed}, coalesce(removed, :now) FROM was_{table.name} WHERE true {_IGNORE}"
        ), {"now": now})  # fmt: skip
    return tuple(row.entry for row in missing)


def totals(db: Database) -> dict[str, int]:
    """Count what a database holds."""
    with db.read() as c:
        return {
            table.name: int(c.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())
            for table in (t.study, t.instance, t.version, t.notice, t.job, t.delivery)
        }
