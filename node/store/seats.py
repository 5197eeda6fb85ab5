"""Seats: what only one process of all nodes may do at a time.

On PostgreSQL a seat is an advisory lock of a session: the server gives it back when the process, its machine or the way
to it dies. Whoever sits there writes down that it gets on; one that hangs with its session open is put out by who waits.
On one machine there is nobody to share with, and a seat is always free.
"""

import contextlib
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from node.store import tables as t
from node.store.engine import Database
from node.store.rows import as_a
from node.store.sql import insert

_CLASS = 0x50414354
"""First half of a seat's key; the other is made of the schema, in which one installation lives, and the seat's name."""
_SESSION = {
    "tcp_keepalives_idle": "5",  # the server gives the seat of a machine that is gone to another within 11 s
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "11s",
    "idle_in_transaction_session_timeout": "0",
}
_KEY = sa.text("hashtext(current_schema() || ' ' || :name)")
_NOW = sa.text("EXTRACT(EPOCH FROM clock_timestamp())::float8")
_PUT_OUT = sa.text(
    "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN seat s ON s.backend = l.pid "
    "WHERE s.name = :name AND s.owner = :owner AND s.seen = :seen "
    "AND l.locktype = 'advisory' AND l.granted AND l.classid = :of AND l.objsubid = 2 "
    "AND l.objid = (hashtext(current_schema() || ' ' || :name)::bigint & 4294967295)::oid "
    "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
_s = t.seat.c


@dataclass(frozen=True, slots=True)
class Sitter:
    """Who took a seat last.

    Parameters
    ----------
    owner : str
        One process, from the moment when it took the seat.
    node : str
        Whose process it is.
    seen : float
        When it last got on, by the clock of the database.
    """

    owner: str
    node: str
    seen: float


def sits(name: str, owner: str | None) -> sa.ColumnElement[bool]:
    """Say, as a condition of a statement, whether `owner` is who took the seat `name` last; None: there is one node."""
    return sa.true() if owner is None else sa.exists().where(_s.name == name, _s.owner == owner)


def sitter(db: Database, name: str) -> Sitter | None:
    """Return who took the seat `name` last; it need not sit there any more."""
    with db.read() as c:
        row = c.execute(sa.select(_s.owner, _s.node, _s.seen).where(_s.name == name)).first()
        return None if row is None else as_a(Sitter, row)


def put_out(db: Database, name: str, who: Sitter) -> bool:
    """End the session of who sits there; False if it has got on since, or does not sit there any more."""
    values = {"name": name, "owner": who.owner, "seen": who.seen, "of": _CLASS}
    with db.write() as c:
        return c.execute(_PUT_OUT, values).first() is not None


class Seat:
    """One seat, and the session that holds it.

    Parameters
    ----------
    db : Database
        Whose nodes share the seat.
    name : str
        What is done on it.
    node : str
        Who asks for it.
    """

    def __init__(self, db: Database, name: str, node: str = "") -> None:
        self._db, self._name, self._node = db, name, node
        self.owner: str | None = None
        """What this process is called in the rows that it takes; None: there is one node."""
        self._lock = threading.Lock()
        self._session: sa.Connection | None = None

    def take(self) -> bool:
        """Take the seat; False if another process has it."""
        if not self._db.shared:
            return True
        with self._lock, self._kept_or_let_go():
            if self._session is None:
                self._session = self._begun()
            got = sa.select(sa.func.pg_try_advisory_lock(_CLASS, _KEY))
            if not self._session.execute(got, {"name": self._name}).scalar_one():
                self._let_go()
                return False
            owner = f"{self._node}/{secrets.token_hex(8)}"  # a process may get the number of one that is gone
            row = {"owner": owner, "node": self._node, "backend": sa.func.pg_backend_pid(), "seen": _NOW}
            put = insert(t.seat).values(name=self._name, **row)
            self._session.execute(put.on_conflict_do_update(index_elements=["name"], set_=row))
            self.owner = owner
            return True

    def beat(self) -> None:
        """Write down that the work of this seat gets on; called from that work, and by nobody else."""
        if not self._db.shared:
            return
        with self._lock, self._kept_or_let_go():
            if self._session is not None:
                mine = sa.and_(_s.name == self._name, _s.owner == self.owner)
                self._session.execute(t.seat.update().where(mine).values(seen=_NOW))

    def held(self) -> bool:
        """Say whether the session that took the seat still stands; if not, another may sit there already."""
        if not self._db.shared:
            return True
        with self._lock:
            if self._session is None:
                return False
            try:
                self._session.execute(sa.select(1))
            except sa.exc.SQLAlchemyError:
                self._let_go()
                return False
            return True

    def close(self) -> None:
        """Leave the seat."""
        with self._lock:
            self._let_go()

    def _begun(self) -> sa.Connection:
        session = self._db.engine.connect().execution_options(isolation_level="AUTOCOMMIT", takes_lock=False)
        session.detach()  # ends when it is closed: in the pool it would go on and keep the seat
        try:
            for name, value in _SESSION.items():
                session.exec_driver_sql(f"SET {name} = '{value}'")
        except BaseException:
            session.close()
            raise
        return session

    @contextlib.contextmanager
    def _kept_or_let_go(self) -> Iterator[None]:
        """Whatever happens to the session on the way, the next try begins with another one."""
        try:
            yield
        except BaseException:
            self._let_go()
            raise

    def _let_go(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                session.close()
