"""SQLite: one file in the data folder, in WAL mode, every commit on disk before it counts."""

import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from node.store.sql import dumps

_BUSY_S = 30.0
_HINDERED = ("disk is full", "readonly database", "is locked", "disk I/O error", "unable to open")
_UNFIT = (sa.exc.DataError, sa.exc.IntegrityError, sa.exc.InterfaceError, sa.exc.ProgrammingError)


def connect(file: Path) -> tuple[sa.Engine, sa.Engine]:
    """Return who writes and who reads `file`; writers take the lock when they begin (``BEGIN IMMEDIATE``)."""
    # parameters are hidden because they hold patient data, and errors end in the log
    engine = sa.create_engine(
        f"sqlite:///{file}", connect_args={"timeout": _BUSY_S}, hide_parameters=True, json_serializer=dumps
    )
    sa.event.listen(engine, "connect", _connected)
    sa.event.listen(engine, "begin", _begin)
    sa.event.listen(engine, "handle_error", _failed)
    return engine.execution_options(immediate=True), engine


def version(c: sa.Connection) -> int:
    """Return the version of the tables; 0: there are none."""
    return int(c.exec_driver_sql("PRAGMA user_version").scalar_one())


def stamp(c: sa.Connection, version: int) -> None:
    """Write down the version of the tables."""
    c.exec_driver_sql(f"PRAGMA user_version = {version}")


def hindrance(error: sa.exc.DBAPIError) -> str | None:
    """Say what of the machine made `error` happen; None: a fault of another kind."""
    text = str(error.orig)
    return text if isinstance(error, sa.exc.OperationalError) and any(part in text for part in _HINDERED) else None


def unfit(error: sa.exc.DBAPIError) -> bool:
    """Say whether `error` is about the values."""
    return isinstance(error, _UNFIT)


def advice(error: sa.exc.DBAPIError) -> str:
    """Say why a file cannot be opened, and what to do."""
    return f"cannot be opened ({error.orig}): check rights and space; if it is damaged, `pacs-ai-node doctor --rebuild-index`"


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
