"""Opening the database, wherever it is: nothing above this room knows which one it is."""

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import sqlalchemy as sa

from config.settings import Settings
from node.installation import DataFolder
from node.store import postgres, sqlite, tables
from node.store.errors import StoreError

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})

DatabaseFault = sa.exc.SQLAlchemyError
"""Whatever a question to the database can raise."""

Place = Path | str
"""Where a database is: a file of SQLite, or the URL of a database of PostgreSQL."""


@dataclass(frozen=True, slots=True)
class Database:
    """An open database.

    There is one writer at a time, from the beginning of its transaction to its end: one that reads and then writes never
    fails half-way, and rows get their numbers in the order in which they are committed.
    """

    engine: sa.Engine
    reader: sa.Engine

    @property
    def shared(self) -> bool:
        """Whether several nodes may work on it at a time."""
        return self.engine.dialect.name == "postgresql"

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Give a connection whose changes are committed together at the end, or not at all."""
        with self.engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Give a connection that sees one state of the database."""
        with self.reader.begin() as connection:
            yield connection

    def close(self) -> None:
        """Let go of the file, or of the server."""
        self.engine.dispose()


def place_of(settings: Settings) -> Place:
    """Return where the database of an installation is."""
    url = settings.database.url
    return DataFolder(settings.node.data_dir).database if url == "sqlite" else url


def shown(place: Place) -> str:
    """Return a place as people may see it, without a password."""
    return str(place) if isinstance(place, Path) else postgres.shown(place)


def exists(place: Place) -> bool:
    """Say whether a node has made its tables there.

    Raises
    ------
    StoreError
        If nobody can tell.
    """
    if isinstance(place, Path):
        return place.exists()
    with connected(place) as (database, dialect):
        with database.read() as connection:
            found = bool(dialect.version(connection))
        database.close()
        return found


def open_database(place: Place, *, hurried: bool = True) -> Database:
    """Open the database at `place`, made and filled with tables if it is new.

    One that is not `hurried` is nobody else's: a server lets it take its time.

    Raises
    ------
    StoreError
        If it cannot be reached, another version of the node wrote it, or it is no database.
    """
    with connected(place, hurried=hurried) as (database, dialect):
        with database.read() as connection:
            found = dialect.version(connection)
        if found == tables.VERSION:
            return database
        with database.write() as connection:
            found = dialect.version(connection)  # another process, or node, may have made them meanwhile
            if found not in (0, tables.VERSION):
                raise StoreError(
                    f"has tables of version {found}, this node reads {tables.VERSION}: run the version that wrote it, or "
                    "`pacs-ai-node doctor --rebuild-index`, which makes it anew from spool and journals and keeps the old one"
                )
            if not found:
                tables.metadata.create_all(connection)
                dialect.stamp(connection, tables.VERSION)
        return database


def examine(place: Place, now: Callable[[], float]) -> tuple[str, list[str]] | None:
    """Return what the server at `place` is, and what is wrong with it; None: there is none, it is a file.

    Raises
    ------
    StoreError
        If it cannot be reached.
    """
    if isinstance(place, Path):
        return None
    with connected(place) as (database, dialect):
        with database.read() as connection:
            dialect.version(connection)  # or it says why no node can work there
            found = postgres.examine(connection, now)
        database.close()
        return found


@contextmanager
def connected(place: Place, *, hurried: bool = True) -> Iterator[tuple[Database, ModuleType]]:
    """Give a database and its dialect; what fails there becomes a `StoreError` that names the place."""
    dialect = sqlite if isinstance(place, Path) else postgres
    database = Database(
        *(sqlite.connect(place) if isinstance(place, Path) else postgres.connect(place, hurried=hurried))
    )
    try:
        yield database, dialect
    except StoreError as error:
        database.close()
        raise StoreError(f"{shown(place)} {error}") from error.__cause__
    except sa.exc.DBAPIError as error:
        database.close()
        raise StoreError(f"{shown(place)} {dialect.advice(error)}") from error


def obstacle(error: BaseException | None) -> str | None:
    """Return what of the machine made `error` happen; None: a fault of another kind.

    A full or read-only disk, a lock that somebody keeps, a server that is away: it is worth trying again.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return os.strerror(error.errno)
        if isinstance(error, sa.exc.DBAPIError) and (found := _dialect_of(error).hindrance(error)) is not None:
            return str(found)
        if isinstance(error, sa.exc.TimeoutError):
            return "no connection to the database is free"
        error = error.__cause__
    return None


def unfit(error: Exception) -> bool:
    """Say whether `error` is about the values that were to be written: the same would happen on any machine."""
    if isinstance(error, sa.exc.DBAPIError):
        return not error.connection_invalidated and bool(_dialect_of(error).unfit(error))
    return not isinstance(error, (OSError, MemoryError, sa.exc.TimeoutError))


def _dialect_of(error: sa.exc.DBAPIError) -> ModuleType:
    return sqlite if isinstance(error.orig, sqlite3.Error) else postgres
