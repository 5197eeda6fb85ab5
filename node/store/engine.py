"""Opening the database: SQLite in WAL mode, every commit on disk before it counts."""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from node.store import tables

_BUSY_S = 30.0
_HINDERED = ("disk is full", "readonly database", "is locked", "disk I/O error", "unable to open")
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
_UNFIT = (sa.exc.DataError, sa.exc.IntegrityError, sa.exc.InterfaceError, sa.exc.ProgrammingError)

DatabaseFault = sa.exc.SQLAlchemyError
"""Whatever a question to the database can raise."""


class StoreError(Exception):
    """The database cannot be used; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Database:
    """An open database.

    Writers take the lock when they begin (``BEGIN IMMEDIATE``): a transaction that reads and then writes never fails half-way.
    """

    engine: sa.Engine

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Give a connection whose changes are committed together at the end, or not at all."""
        with self.engine.execution_options(immediate=True).begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Give a connection that sees one state of the database."""
        with self.engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Let go of the file."""
        self.engine.dispose()


def open_database(file: Path) -> Database:
    """Open `file`, made and filled with tables if it is new.

    Raises
    ------
    StoreError
        If another version of the node wrote it, or it is no database.
    """
    # parameters are hidden because they hold patient data, and errors end in the log
    engine = sa.create_engine(f"sqlite:///{file}", connect_args={"timeout": _BUSY_S}, hide_parameters=True)
    sa.event.listen(engine, "connect", _connected)
    sa.event.listen(engine, "begin", _begin)
    sa.event.listen(engine, "handle_error", _failed)
    database = Database(engine)
    try:
        with database.read() as connection:
            found = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        if found == tables.VERSION:
            return database
        with database.write() as connection:
            if found:
                raise StoreError(
                    f"{file} has tables of version {found}, this node reads {tables.VERSION}: run the version that wrote it, or "
                    "`pacs-ai-node doctor --rebuild-index`, which makes it anew from spool and journals and keeps the old one"
                )
            tables.metadata.create_all(connection)
            connection.exec_driver_sql(f"PRAGMA user_version = {tables.VERSION}")
    except sa.exc.DatabaseError as error:
        raise StoreError(
            f"{file} cannot be opened ({error.orig}): check rights and space; if it is damaged, `pacs-ai-node doctor --rebuild-index`"
        ) from error
    return database


def obstacle(error: BaseException | None) -> str | None:
    """Return what of the machine (a full or read-only disk, a lock) made `error` happen; None: a fault of another kind."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return os.strerror(error.errno)
        if isinstance(error, sa.exc.OperationalError) and any(text in str(error.orig) for text in _HINDERED):
            return str(error.orig)
        error = error.__cause__
    return None


def unfit(error: Exception) -> bool:
    """Say whether `error` is about the values that were to be written: the same would happen on any machine."""
    if isinstance(error, sa.exc.DBAPIError):
        return not error.connection_invalidated and isinstance(error, _UNFIT)
    return not isinstance(error, (OSError, MemoryError, sa.exc.TimeoutError))


def _connected(connection: Any, record: Any) -> None:  # noqa: ANN401 - the driver's types
    del record
    if not isinstance(connection, sqlite3.Connection):
        raise TypeError(f"not an SQLite connection: {type(connection)}")
    connection.isolation_level = None  # the driver must not begin transactions on its own
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: sa.Connection) -> None:
    immediate = connection.get_execution_options().get("immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _failed(context: sa.ExceptionContext) -> None:
    """Let go of connections that were opened while the folder was read-only, or whose file failed: they stay so."""
    text = str(context.original_exception)
    if "readonly database" in text or "disk I/O error" in text or "unable to open" in text:
        context.is_disconnect = True
