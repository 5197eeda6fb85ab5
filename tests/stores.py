"""Where the tests' databases are: files, or databases of a throw-away PostgreSQL."""

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa

from node.store import Database, Place, open_database

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
# a server whose text is ordered as people do it: ours must not be
_LANGUAGE = ["--locale-provider=icu", "--icu-locale=en-US"] if PROGRAMS and int(PROGRAMS[-1].parent.name) >= 15 else []
_CONFIGURATION = """
listen_addresses = ''
unix_socket_directories = '{folder}'
fsync = {durable}
full_page_writes = {durable}
shared_buffers = 32MB
max_connections = 100
"""


class Server:
    """Debian's PostgreSQL on a Unix socket in a folder of its own; nothing of it outlives `close`.

    Its superuser is ``test``, without a password. Only with `fsync` a commit is on disk.
    """

    def __init__(self, *, fsync: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pg"))  # short: the path of a socket has at most 107 bytes
        self._user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
        if self._user:
            shutil.chown(self.folder, self._user)
        self._data = self.folder / "data"
        self._numbers = itertools.count()
        self._run("initdb", "-U", "test", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8", *_LANGUAGE)
        with (self._data / "postgresql.conf").open("a", encoding="ascii") as out:
            out.write(_CONFIGURATION.format(folder=self.folder, durable="on" if fsync else "off"))
        self.start()
        self.make("empty")
        open_database(self.url("empty")).close()

    def _run(self, program: str, *arguments: str) -> None:
        before = ["runuser", "-u", self._user, "--"] if self._user else []
        command = [*before, str(PROGRAMS[-1] / program), "-D", str(self._data), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def start(self) -> None:
        self._run("pg_ctl", "-w", "-l", str(self.folder / "log"), "start")

    def stop(self, how: str = "fast") -> None:
        self._run("pg_ctl", "-w", "-m", how, "stop")

    def close(self) -> None:
        self.stop("immediate")
        shutil.rmtree(self.folder)

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://test@/{database}?host={self.folder}"

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement as the superuser."""
        where = {"host": str(self.folder), "user": "test", "dbname": database}
        with psycopg.connect(**where, autocommit=True) as connection:  # type: ignore[arg-type]
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def fresh(self) -> str:
        """Make a database with empty tables; return its name."""
        name = f"t{next(self._numbers)}"
        self.make(name, "empty")
        return name

    def make(self, database: str, template: str = "template1") -> None:
        self.sql(f"CREATE DATABASE {database} TEMPLATE {template}")

    def drop(self, database: str) -> None:
        self.sql(f"DROP DATABASE {database} WITH (FORCE)")


class Stores:
    """Gives each data folder of a test its database."""

    def __init__(self) -> None:
        self.server: Server | None = None
        self._databases: dict[Path, str] = {}
        self._open: list[Database] = []

    def open(self, folder: Path) -> Database:
        """Open the database of the data folder `folder`; a server's is closed when the test is over, at the latest."""
        db = open_database(self.place(folder))
        if self.server is not None:  # which would not let go of it
            self._open.append(db)
        return db

    def place(self, folder: Path) -> Place:
        """Return where the database of the data folder `folder` is."""
        if self.server is None:
            return folder / "node.sqlite3"
        if folder not in self._databases:
            self._databases[folder] = self.server.fresh()
        return self.server.url(self._databases[folder])

    def environ(self, folder: Path) -> Mapping[str, str]:
        """Return what of the environment says it to the settings."""
        place = self.place(folder)
        return {} if isinstance(place, Path) else {"PACS_AI_NODE__DATABASE__URL": place}

    def lose(self, folder: Path) -> None:
        """Take a database away, as if it had never been."""
        if self.server is None:
            for file in folder.glob("*.sqlite3*"):
                file.unlink()
        else:
            self.server.drop(self._databases[folder])
            self.server.make(self._databases[folder])

    def has(self, folder: Path, kept_as: str) -> bool:
        """Say whether a database that was put aside stands under its name."""
        if self.server is None:
            return (folder / kept_as).is_file()
        schema = kept_as.removeprefix("schema ")
        return self.server.sql(f"SELECT to_regclass('{schema}.study') IS NOT NULL", self._databases[folder]) == [
            (True,)
        ]

    def spoil(self, folder: Path, how: str) -> None:
        """Lose a database, or leave one that cannot be used: ``gone``, ``garbage``, ``damaged``, ``other-version``."""
        place = self.place(folder)
        if how == "gone":
            self.lose(folder)
        elif isinstance(place, Path):
            content = bytearray(place.read_bytes())
            middle = len(content) // 2
            harm = {
                "garbage": (0, bytes(100)),
                "damaged": (4096, bytes(middle - 4096)),
                "other-version": (60, b"\0\0\0\x63"),
            }
            begin, instead = harm[how]
            content[begin : begin + len(instead)] = instead
            place.write_bytes(content)
        else:
            assert self.server is not None
            harms = {
                "garbage": "DROP TABLE study",
                "damaged": "ALTER TABLE job DROP COLUMN document",
                "other-version": "UPDATE meta SET value = '99' WHERE key = 'version'",
            }
            self.server.sql(harms[how], self._databases[folder])

    def use(self, server: Server | None) -> None:
        """Choose the back end for what comes; the databases so far are gone."""
        for db in self._open:
            db.close()
        if self.server is not None:
            for database in self._databases.values():
                self.server.drop(database)
        self.server = server
        self._databases.clear()
        self._open.clear()


def sql(db: Database, statement: str, **values: object) -> list[tuple[Any, ...]]:
    """Run one statement that both databases understand, its values named ``:so``."""
    with db.write() as c:
        found = c.execute(sa.text(statement), values)
        return [tuple(row) for row in found] if found.returns_rows else []


STORES = Stores()
"""Of the test that runs; see the fixture `back_end`."""
