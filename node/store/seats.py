"""Seats: what only one process of all nodes may do at a time.

On PostgreSQL a seat is an advisory lock of a session: the server gives it back when the process, its machine or the way
to it dies. On one machine there is nobody to share with, and a seat is always free.
"""

import contextlib
import threading

import sqlalchemy as sa

from node.store.engine import Database

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


class Seat:
    """One seat, and the session that holds it.

    Parameters
    ----------
    db : Database
        Whose nodes share the seat.
    name : str
        What is done on it.
    """

    def __init__(self, db: Database, name: str) -> None:
        self._db, self._name = db, name
        self._lock = threading.Lock()
        self._session: sa.Connection | None = None

    def take(self) -> bool:
        """Take the seat; False if another process has it."""
        if not self._db.shared:
            return True
        with self._lock:
            if self._session is None:
                self._session = self._begun()
            got = sa.select(sa.func.pg_try_advisory_lock(_CLASS, _KEY))
            if self._session.execute(got, {"name": self._name}).scalar_one():
                return True
            self._let_go()
            return False

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
        for name, value in _SESSION.items():
            session.exec_driver_sql(f"SET {name} = '{value}'")
        return session

    def _let_go(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                session.close()
