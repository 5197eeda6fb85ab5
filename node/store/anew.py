# ruff: noqa: S608 - the names are those of our own tables and schemas
"""A database beside the one in use: made anew, put in its place in one step, and the old one kept.

On SQLite these are files, on PostgreSQL schemas of the same database. Until the last step the old one stands untouched.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from dicom_io.files import sync_folder
from node.store import postgres
from node.store import tables as t
from node.store.engine import Database, Place, connected, open_database
from node.store.errors import StoreError

_BUSY_S = 5.0


class CarryError(Exception):
    """The old database cannot be used; the text says why."""


class Anew(Protocol):
    """Where the database in use (old), a copy of it and a fresh one are.

    Parameters
    ----------
    fresh, copy : Place
        Places of their own.
    names : tuple[str, str]
        What SQL calls the copy and the fresh one in `both`.
    """

    fresh: Place
    copy: Place
    names: tuple[str, str]

    def clear(self) -> None:
        """Take away what an interrupted rebuilding has left.

        Raises
        ------
        StoreError
            If somebody works on the database.
        """

    def copied(self) -> None:
        """Copy the old database.

        Raises
        ------
        CarryError
            If there is none, it is damaged, or has other tables than this version of the node.
        """

    def both(self) -> AbstractContextManager[sa.Connection]:
        """Give a connection whose changes to the copy are committed together; it sees the fresh one too."""

    def swap(self, made: Place, stamp: str) -> str | None:
        """Put `made` in the place of the old one, which is kept; return the old one's new name, None if there was none."""


def anew(place: Place) -> Anew:
    """Return where the database at `place` is made anew."""
    return _Files(place) if isinstance(place, Path) else _Schemas(place)


class _Files:
    """SQLite: three files in the data folder."""

    names = ("main", "fresh")

    def __init__(self, file: Path) -> None:
        self._file = file
        self.fresh: Place = file.with_name("rebuild-fresh.sqlite3")
        self.copy: Place = file.with_name("rebuild-copy.sqlite3")

    def clear(self) -> None:
        for place in (self.fresh, self.copy):
            _discard(Path(place))

    def copied(self) -> None:
        if not self._file.exists():
            raise CarryError("there is none")
        try:
            self._copy()
        except CarryError:
            _discard(Path(self.copy))
            raise
        except sqlite3.Error as error:
            _discard(Path(self.copy))
            raise CarryError(f"it cannot be read ({type(error).__name__})") from error

    def _copy(self) -> None:
        connection = sqlite3.connect(f"file:{self._file}?mode=ro", uri=True, timeout=_BUSY_S, isolation_level=None)
        try:
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            _fits(found, {
                table.name: {row[1] for row in connection.execute(f'PRAGMA table_info("{table.name}")')}
                for table in t.metadata.sorted_tables
            } if found == t.VERSION else {})  # fmt: skip
            verdict = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if verdict != "ok":
                raise CarryError("it is damaged")
            connection.execute("VACUUM INTO ?", (str(self.copy),))
        finally:
            connection.close()

    @contextmanager
    def both(self) -> Iterator[sa.Connection]:
        db = open_database(self.copy)
        db.close()
        sa.event.listen(db.engine, "connect", self._attach)
        try:
            with db.write() as c:
                yield c
        finally:
            db.close()

    def _attach(self, connection: Any, record: Any) -> None:  # noqa: ANN401 - the driver's types
        del record
        connection.execute("ATTACH DATABASE ? AS fresh", (str(self.fresh),))

    def swap(self, made: Place, stamp: str) -> str | None:
        old = self._file
        kept = old.with_name(f"node-{stamp}.sqlite3") if old.exists() else None
        if kept is not None:
            for end in ("-wal", "-shm", ""):
                with suppress(FileNotFoundError):
                    old.with_name(old.name + end).rename(kept.with_name(kept.name + end))
        Path(made).rename(old)
        self.clear()
        sync_folder(old.parent)
        return None if kept is None else kept.name


class _Schemas:
    """PostgreSQL: three schemas of one database; the tables change places in one transaction."""

    def __init__(self, place: str) -> None:
        self._place = place
        with self._opened() as db, db.read() as c:
            self._schema = str(c.exec_driver_sql("SELECT current_schema()").scalar_one())
        self.names = (f"{self._schema}_copy", f"{self._schema}_fresh")
        self.copy: Place = postgres.within(place, self.names[0])
        self.fresh: Place = postgres.within(place, self.names[1])

    @contextmanager
    def _opened(self) -> Iterator[Database]:
        with connected(self._place, hurried=False) as (db, dialect):
            try:
                with db.read() as c:
                    dialect.version(c)  # or it says why not
                yield db
            finally:
                db.close()

    def clear(self) -> None:
        with self._opened() as db, db.write() as c:
            _alone(c)
            self._drop(c)
            for name in self.names:
                c.execute(sa.text(f'CREATE SCHEMA "{name}"'))

    def _drop(self, c: sa.Connection) -> None:
        for name in self.names:
            c.execute(sa.text(f'DROP SCHEMA IF EXISTS "{name}" CASCADE'))

    def copied(self) -> None:
        with self._opened() as db, db.write() as c:
            found = postgres.version(c)
            if not found and not self._there(c):
                raise CarryError("there is none")
            look = sa.inspect(c)
            _fits(found, {
                name: {column["name"] for column in look.get_columns(name, self._schema)} for name in self._there(c)
            })  # fmt: skip
        open_database(self.copy, hurried=False).close()
        with self._opened() as db, db.write() as c:
            c.execute(sa.text(f'DELETE FROM "{self.names[0]}".meta'))
            for table in t.metadata.sorted_tables:
                listed = ", ".join(f'"{name}"' for name in table.columns.keys())  # noqa: SIM118 - columns
                old, copy = (f'"{schema}"."{table.name}"' for schema in (self._schema, self.names[0]))
                c.execute(sa.text(f"INSERT INTO {copy} ({listed}) SELECT {listed} FROM {old}"))
                if table.autoincrement_column is not None:
                    c.execute(sa.text(
                        f"SELECT setval(pg_get_serial_sequence('{copy}', 'id'), max(id)) FROM {copy} HAVING max(id) > 0"
                    ))  # fmt: skip

    def _there(self, c: sa.Connection) -> list[str]:
        """Return the names of our tables that the database in use has."""
        found = set(sa.inspect(c).get_table_names(self._schema))
        return [table.name for table in t.metadata.sorted_tables if table.name in found]

    @contextmanager
    def both(self) -> Iterator[sa.Connection]:
        db = open_database(self.copy, hurried=False)
        try:
            with db.write() as c:
                yield c
        finally:
            db.close()

    def swap(self, made: Place, stamp: str) -> str | None:
        kept = f"{self._schema}_{stamp.lower()}"
        source = self.names[0] if made == self.copy else self.names[1]
        with self._opened() as db, db.write() as c:
            _alone(c)
            old = self._there(c)
            if old:
                c.execute(sa.text(f'CREATE SCHEMA "{kept}"'))
            for name in old:
                c.execute(sa.text(f'ALTER TABLE "{self._schema}"."{name}" SET SCHEMA "{kept}"'))
            for table in t.metadata.sorted_tables:
                c.execute(sa.text(f'ALTER TABLE "{source}"."{table.name}" SET SCHEMA "{self._schema}"'))
            self._drop(c)
        return f"schema {kept}" if old else None


def _fits(version: int, columns: dict[str, set[str]]) -> None:
    """Check that a database has the tables of this version of the node."""
    if version != t.VERSION:
        raise CarryError(f"its tables have version {version}, this node reads {t.VERSION}")
    for table in t.metadata.sorted_tables:
        if columns.get(table.name) != set(table.columns.keys()):
            raise CarryError(f"its table {table.name} has other columns")


def _alone(c: sa.Connection) -> None:
    """Check that no node works on the database: it would go on writing into the tables that are put aside."""
    others = c.exec_driver_sql(
        "SELECT DISTINCT application_name FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name LIKE %s AND pid <> pg_backend_pid()", (f"{postgres.NAME} %",)
    ).scalars()  # fmt: skip
    if there := sorted(others):
        hosts = ", ".join(name.removeprefix(f"{postgres.NAME} ") for name in there)
        raise StoreError(f"is in use by a node or a command on {hosts}: stop every node first")


def _discard(file: Path) -> None:
    for end in ("", "-wal", "-shm", "-journal"):
        with suppress(FileNotFoundError):
            file.with_name(file.name + end).unlink()
