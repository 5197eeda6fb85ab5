"""PostgreSQL: one database that several nodes share.

One writer at a time, as on SQLite: every transaction that writes takes one advisory lock when it begins and keeps it to its
end, so it sees what those before it committed, and never fails half-way. Readers see one state and wait for nobody. A node
that hangs, or is cut off, must not keep the lock: the server ends its session.
"""

import importlib.util
import socket
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from node.store.errors import StoreError
from node.store.sql import dumps

OLDEST = 140_000
"""Version 14: the oldest that still gets corrections."""
CLOCKS_S = 2.0
"""Clocks that are further apart are worth a person's look."""
NAME, REBUILDING = "pacs-ai-node", "pacs-ai-node-rebuild"
"""What the server calls our sessions; the name of the machine follows."""
_LOCK = 0x50414353
"""First half of the advisory lock's key; the other is the schema, in which one installation lives."""

_HURRY = {
    "lock_timeout": "30s",  # as long as SQLite waits for its lock; then the machine is said to be busy
    "idle_in_transaction_session_timeout": "15s",  # below it: who waits outlives one that hangs with the lock in hand
    "statement_timeout": "120s",  # no statement of ours takes as long; longer than the wait for the lock
}
_SESSION = {
    "synchronous_commit": "on",  # a commit that is acknowledged survives a power cut, whatever the server's default is
    "tcp_keepalives_idle": "10",  # the server learns within 25 s that a node is gone ...
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "25s",
}
_CONNECT = {
    "connect_timeout": 10,
    "client_encoding": "utf8",
    "keepalives": 1,  # ... and a node that the server is
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,  # ms
}
_HINDERED = ("08", "40", "53", "57", "58")
"""Classes of SQLSTATE: connection, lost race, no room or memory, shut down or cancelled, the server's system."""
_HINDERED_TOO = ("25006", "25P03", "25P04", "55P03")
"""Read-only (a standby), hung with the lock in hand, the lock not got."""
_UNFIT = ("21", "22", "23", "54")
"""About the values: no number, a broken constraint, too large for an index. Missing rights or tables are not among them."""


def connect(url: str, *, hurried: bool = True) -> tuple[sa.Engine, sa.Engine]:
    """Return who writes and who reads the database at `url`; one that is not `hurried` may take all its time.

    Raises
    ------
    StoreError
        If psycopg is not installed, or this is no URL.
    """
    if importlib.util.find_spec("psycopg") is None:
        raise StoreError("database.url names PostgreSQL, which needs psycopg: pip install 'pacs-ai-node[cluster]'")
    try:
        engine = sa.create_engine(
            sa.make_url(url),
            connect_args=_CONNECT
            | {"application_name": f"{NAME if hurried else REBUILDING} {socket.gethostname()}"[:63]},
            hide_parameters=True,  # they hold patient data, and errors end in the log
            json_serializer=dumps,
            pool_pre_ping=True,  # after a restart of the server everybody goes on without noticing
            pool_size=2,  # kept open by each process; the server has 100 for all
            max_overflow=30,
            use_native_hstore=False,
            execution_options={"preserve_rowcount": True},  # also of what was inserted, or was there
        )
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ValueError):
        raise StoreError(  # without its text and its cause: they may quote a password
            "database.url is no URL of PostgreSQL: postgresql+psycopg://USER@HOST/DATABASE, special characters as %XX"
        ) from None
    session = _SESSION | (_HURRY if hurried else {})
    sa.event.listen(engine, "connect", lambda connection, _record: _connected(connection, session))
    sa.event.listen(engine, "begin", _begin)
    sa.event.listen(engine, "handle_error", _failed)
    return (
        # each statement sees what was committed before it began: a snapshot from before the lock would be stale
        engine.execution_options(isolation_level="READ COMMITTED", takes_lock=True),
        engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True),
    )


def shown(url: str) -> str:
    """Return `url` as people may see it: without password and options."""
    try:
        return sa.make_url(url).set(query={}).render_as_string(hide_password=True)
    except (sa.exc.ArgumentError, ValueError):
        return "postgresql+psycopg://?"


def within(url: str, schema: str) -> str:
    """Return the URL of the same database with another schema to work in."""
    parsed = sa.make_url(url)
    before = str(parsed.query.get("options", ""))
    options = f'{before} -csearch_path="{schema}"'.strip()
    return parsed.update_query_dict({"options": options}).render_as_string(hide_password=False)


def version(c: sa.Connection) -> int:
    """Return the version of the tables; 0: there are none.

    Raises
    ------
    StoreError
        If no node can work on this server, or in this database.
    """
    found, encoding, schema = c.exec_driver_sql(
        "SELECT current_setting('server_version_num')::int, current_setting('server_encoding'), current_schema()"
    ).one()
    if found < OLDEST:
        raise StoreError(f"is PostgreSQL {found // 10_000}: install {OLDEST // 10_000} or newer")
    if encoding != "UTF8":
        raise StoreError(f"has the encoding {encoding}: make it with ENCODING 'UTF8'")
    if schema is None:
        raise StoreError("has no schema that this user may use: make the user its owner")
    if not c.exec_driver_sql("SELECT to_regclass(quote_ident(current_schema()) || '.meta') IS NOT NULL").scalar_one():
        return 0
    return int(c.exec_driver_sql("SELECT value FROM meta WHERE key = 'version'").scalar_one_or_none() or 0)


def stamp(c: sa.Connection, version: int) -> None:
    """Write down the version of the tables."""
    c.exec_driver_sql("INSERT INTO meta (key, value) VALUES ('version', %s)", (str(version),))


def hindrance(error: sa.exc.DBAPIError) -> str | None:
    """Say what of the server or the way to it made `error` happen; None: a fault of another kind."""
    state = _state(error)
    if state is None:  # the driver's own: no connection, or it was lost
        lost = error.connection_invalidated or isinstance(error, sa.exc.OperationalError)
        return _line(error.orig) if lost else None
    return _line(error.orig) if state.startswith(_HINDERED) or state in _HINDERED_TOO else None


def unfit(error: sa.exc.DBAPIError) -> bool:
    """Say whether `error` is about the values."""
    state = _state(error)
    return isinstance(error, sa.exc.DataError) if state is None else state.startswith(_UNFIT)


def advice(error: sa.exc.DBAPIError) -> str:
    """Say why a database cannot be opened, and what to do."""
    if (_state(error) or "").startswith("42"):
        return f"cannot be used ({_line(error.orig)}): make the user its owner"
    return (
        f"cannot be opened ({_line(error.orig)}): is the server there, and do database.url and the password fit it? "
        "The password comes from PACS_AI_NODE__DATABASE__URL, PGPASSWORD, PGPASSFILE or a service file"
    )


def examine(c: sa.Connection, now: Callable[[], float]) -> tuple[str, list[str]]:
    """Return what the server is, and what is wrong with it; `now` is this machine's clock (s since the epoch)."""
    begin = now()
    theirs = float(c.exec_driver_sql("SELECT extract(epoch FROM clock_timestamp())::float8").scalar_one())
    end = now()
    apart = theirs - (begin + end) / 2
    wrong = []
    if abs(apart) > CLOCKS_S + (end - begin) / 2:
        way = "ahead of" if apart > 0 else "behind"
        wrong.append(
            f"its clock is {abs(apart):.1f} s {way} this machine's: leases and waits go wrong; let NTP set both"
        )
    wrong += [
        f"{setting} is off: a power cut takes what was committed; set it on in postgresql.conf"
        for setting in ("fsync", "full_page_writes")
        if c.exec_driver_sql(f"SHOW {setting}").scalar_one() != "on"
    ]
    if c.exec_driver_sql("SELECT pg_is_in_recovery()").scalar_one():
        wrong.append("it is a standby, which only reads: name the primary in database.url")
    found = c.exec_driver_sql("SHOW server_version").scalar_one()
    return f"PostgreSQL {str(found).partition(' ')[0]}, clocks {abs(apart):.1f} s apart", wrong


def _connected(connection: Any, session: dict[str, str]) -> None:  # noqa: ANN401 - the driver's type
    connection.autocommit = True
    chosen = ", ".join("set_config(%s, %s, false)" for _ in session)
    connection.execute(f"SELECT {chosen}", [text for pair in session.items() for text in pair])
    connection.autocommit = False


def _begin(connection: sa.Connection) -> None:
    if connection.get_execution_options().get("takes_lock"):
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s, hashtext(current_schema()))", (_LOCK,))


def _failed(context: sa.ExceptionContext) -> None:
    """Keep values out of the error's text, and let go of a connection that leads to a server which only reads now."""
    error = context.original_exception
    state = getattr(error, "sqlstate", None)
    if state is not None:
        says = type(error).__name__ if state.startswith("22") else _line(error)
        error.args = (says,)
        if context.sqlalchemy_exception is not None:
            context.sqlalchemy_exception.args = (f"({type(error).__name__} {state}) {says}",)
    writes = context.connection is not None and context.connection.get_execution_options().get("takes_lock")
    if state == "25006" and writes:
        context.is_disconnect = True


def _state(error: sa.exc.DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


def _line(error: BaseException | None) -> str:
    """Return an error's first line: those after it quote rows."""
    primary = getattr(getattr(error, "diag", None), "message_primary", None)
    return str(primary or error).partition("\n")[0]
