"""`serve`: a supervisor and its spawned children. It holds the lock, starts, watches and stops; the work is theirs."""

import contextlib
import ctypes
import errno
import importlib
import json
import logging
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TextIO

import structlog

from config.settings import Dicom, Settings, Web
from dicom_io.door import listening_socket
from dicom_io.errors import TlsError
from dicom_io.slots import Slots, table_size
from dicom_io.tls import server_context
from node import calling, log, recover, retry
from node.child import heard
from node.clock import Guard
from node.installation import DataFolder, node_name, process_name
from node.nodes import Heart
from node.store import Database, open_database, place_of
from node.store import node as store
from node.store.jobs import Lane
from node.store.rows import Process
from node.timekeeper import Timekeeper
from node.web import missing
from node.web.auth import Clients, TokenError
from pipeline import registry

_log = structlog.get_logger()
_spawn = multiprocessing.get_context("spawn")  # never forked: a forked orphan would keep lock and port

_BY_THE_CLOCK = frozenset({"coordinator", "worker", "quality", "deliverer"})
"""Roles that rest while this node's clock is wrong: it receives and does nothing else."""
_BIND_S = 10.0
"""The port may still be held for so long by the receiver of a node that was killed: it lets its transfers end."""


class ServeError(Exception):
    """The node cannot start; the text says why and what to do."""


@dataclass(slots=True)
class _Child:
    """One child and how often it had to be started again; the only mutable state of the supervisor."""

    role: str
    entry: str
    arguments: tuple[Any, ...] = ()
    process: SpawnProcess | None = None
    connection: "Connection | None" = None
    started: float = 0.0
    failures: int = 0
    start_at: float | None = field(default=0.0)
    gone: Callable[[], None] = lambda: None
    """What it had taken is given back when it has ended."""


class Supervisor:
    """The process tree of one node.

    Parameters
    ----------
    settings : Settings
        Of the node.
    db : Database
        For the rows of processes, and of jobs whose worker ended.
    out : TextIO
        Where the ready line goes.
    level : int
        What is not as grave does not go to the log, that of the children neither.
    listening : socket.socket
        Where all receivers listen. It is this process's, too: what knocks while one is started again, waits or finds
        another.
    web : socket.socket or None
        Where the web process listens; None: there is none.
    """

    def __init__(
        self,
        settings: Settings,
        db: Database,
        out: TextIO,
        level: int,
        listening: socket.socket,
        web: socket.socket | None = None,
    ) -> None:
        self._settings, self._db, self._out, self._level = settings, db, out, level
        self._boot, self._name = time.time(), node_name(settings)
        self._others_stay = self._name if db.shared else None
        self._stop = False
        self._interrupted = False
        self._ready = False
        self._guard = Guard("supervisor")
        self._owed: list[Callable[[], object]] = []
        self._listening = listening
        receivers = self._receivers(settings.dicom)
        self._receiver = receivers[0]
        coordinator = _Child("coordinator", "node.coordinator:run_coordinator", (self._boot,))
        deliverer = _Child("deliverer", "node.deliver:run_deliverer")
        self._quality, workers = self._workers(settings)
        self._children = [*receivers, coordinator, *self._quality, *workers, deliverer]
        self._web = web
        if web is not None:
            self._children.append(_Child("web", "node.web.app:run_web", (web,)))
        self._heart = Heart(db, self._name, self._boot, self._revived) if db.shared else None

    def _workers(self, settings: Settings) -> tuple[list[_Child], list[_Child]]:
        """Return the workers of the fast lane, if a rule needs them, and the others, who take everything without them."""
        entry = "node.worker:run_worker"
        fast = settings.worker.quality_slots if calling.pipelines(settings.rule, "fast") else 0
        lane: Lane = "studies" if fast else "all"
        return (
            [_Child("quality", entry, (self._boot, "fast")) for _ in range(fast)],
            [_Child("worker", entry, (self._boot, lane)) for _ in range(settings.worker.slots)],
        )

    def _receivers(self, dicom: Dicom) -> list[_Child]:
        """Return the receivers, each with its row of the table of associations."""
        table = _spawn.RawArray(ctypes.c_uint64, table_size(dicom.receivers, dicom.max_associations))
        slots = Slots(table, dicom.max_associations, dicom.max_associations_per_peer)
        rows = [slots.of(row) for row in range(dicom.receivers)]
        entry = "node.receive:run_receiver"
        return [_Child("receiver", entry, (self._listening, own), gone=own.clear) for own in rows]

    def run(self) -> int:
        """Serve until told to stop; return the exit code."""
        signal.signal(signal.SIGTERM, self._told)
        signal.signal(signal.SIGINT, self._told)
        _log.info("node.started", data_dir=str(self._settings.node.data_dir))
        if self._heart is None:
            self._guard.done(lambda: Timekeeper(self._db).check())  # before anybody stamps anything by this clock
        else:
            calling.prepare(self._db)
            self._heart.beat()
            self._heart.start()
        self._note(lambda: store.no_processes(self._db, self._others_stay))
        own = self._row(multiprocessing.current_process().pid or 0, "supervisor", self._boot)
        self._note(lambda: store.process_started(self._db, own))
        # not owed: later it would take the jobs of this run's workers; leases cover it
        self._guard.done(lambda: recover.after_boot(self._db, self._name, self._boot, self._settings.worker.attempts))
        try:
            self._bind()
            while not self._stop:
                self._round()
        finally:
            self._end()
        return 130 if self._interrupted else 0

    def _told(self, number: int, frame: object) -> None:
        del frame
        self._stop = True
        self._interrupted = number == signal.SIGINT

    def _bind(self) -> None:
        """Start a receiver; the others follow once it listens, but for who has to be ready when the first image comes."""
        for child in self._quality:
            self._start(child)
        deadline = time.monotonic() + _BIND_S
        while not self._ready and not self._stop:
            if self._receiver.process is None:
                self._start(self._receiver)
            message = self._message(0.5)
            if message is None or message["event"] == "ready":
                continue
            self._reap(self._receiver)
            if time.monotonic() > deadline:
                raise ServeError(f"{message['error']}.")

    def _round(self) -> None:
        """Start what is to be started, then wait for something to end."""
        resting = self._heart is not None and not self._heart.right
        for child in self._children:
            if resting and child.role in _BY_THE_CLOCK:
                self._rest(child)
            elif child.process is None and child.start_at is not None and time.monotonic() >= child.start_at:
                self._start(child)
        sentinels = [c.process.sentinel for c in self._children if c.process is not None]
        connection = self._receiver.connection
        wait([*sentinels, *([connection] if connection is not None else [])], timeout=0.5)
        self._message(0.0)
        self._settle()
        for child in self._children:
            if child.process is not None and not child.process.is_alive() and not self._stop:
                self._died(child)

    def _rest(self, child: _Child) -> None:
        if child.process is not None:
            child.process.terminate()
            self._reap(child, float(retry.policy()["process"]["stop_s"]))
        child.start_at = 0.0

    def _revived(self) -> None:
        """Write the processes down again: the others had taken this node for dead."""
        now = time.time()
        store.process_started(self._db, self._row(os.getpid(), "supervisor", self._boot))
        for child in self._children:
            process = child.process
            if process is not None:
                started = now - (time.monotonic() - child.started)
                store.process_started(self._db, self._row(process.pid or 0, child.role, started))

    def _message(self, timeout_s: float) -> dict[str, Any] | None:
        """Take a message of the receiver, if there is one."""
        connection = self._receiver.connection
        try:
            if connection is None or not connection.poll(timeout_s):
                return None
            message = heard(connection)
        except (EOFError, OSError):
            self._forget(self._receiver)
            return {"event": "failed", "error": "the receiver ended before it listened"} if not self._ready else None
        if message["event"] == "ready" and not self._ready:
            self._ready = True
            line = {**message, "pid": multiprocessing.current_process().pid}
            if self._web is not None:
                host, port = self._web.getsockname()[:2]
                line["web"] = {"host": host, "port": port}
            print(json.dumps(line), file=self._out, flush=True)  # the contract's line, not a log record
        return message

    def _forget(self, child: _Child) -> None:
        if child.connection is not None:
            child.connection.close()
            child.connection = None

    def _start(self, child: _Child) -> None:
        ours, theirs = _spawn.Pipe()
        started = time.time()
        process = _spawn.Process(
            target=_enter, args=(child.entry, self._level, self._settings, theirs, *child.arguments),
            name=child.role, daemon=True,
        )  # fmt: skip
        process.start()
        theirs.close()
        child.process, child.connection, child.started, child.start_at = process, ours, time.monotonic(), None
        row = self._row(process.pid or 0, child.role, started)
        self._note(lambda: store.process_started(self._db, row))

    def _row(self, pid: int, role: str, started: float) -> Process:
        return Process.of(self._name, pid, role, started)

    def _reap(self, child: _Child, within_s: float = 2.0) -> None:
        """Take a child that has ended, or is about to, off the books."""
        process = child.process
        if process is None:
            return
        process.join(within_s)
        if process.is_alive():
            process.kill()
            process.join()
        pid = process.pid or 0
        self._note(lambda: store.process_ended(self._db, process_name(self._name, pid)))
        if child.role in ("worker", "quality"):
            owner = recover.owner_of(self._name, self._boot, pid)
            limit = self._settings.worker.attempts
            self._note(lambda: recover.worker_ended(self._db, owner, time.time(), limit, planned=False))
        process.close()
        child.process = None
        child.gone()
        self._forget(child)

    def _note(self, write: Callable[[], object]) -> None:
        """Write to the database, in order; what a full disk does not take is owed, and nobody waits for it."""
        self._owed.append(write)
        self._settle()

    def _settle(self) -> None:
        while self._owed and self._guard.done(self._owed[0]):
            del self._owed[0]

    def _died(self, child: _Child) -> None:
        """Start a child again, later each time it dies young."""
        policy = retry.policy()["process"]
        code = None if child.process is None else child.process.exitcode
        steady = time.monotonic() - child.started > policy["steady_s"]
        child.failures = 1 if steady else child.failures + 1
        wait_s = retry.Backoff.of("process").wait(child.failures, random.random())  # noqa: S311 - spreads waits
        _log.error("process.died", role=child.role, exit_code=code, again_in_s=wait_s)
        self._reap(child)
        child.start_at = time.monotonic() + wait_s

    def _end(self) -> None:
        """Stop every child: all at once, and for good after the time is up."""
        self._listening.close()  # nobody is to wait for a receiver that does not come
        alive = [c.process for c in self._children if c.process is not None]
        for process in alive:
            process.terminate()
        deadline = time.monotonic() + float(retry.policy()["process"]["stop_s"])
        for process in alive:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        self._note(lambda: store.no_processes(self._db, self._others_stay))
        if self._heart is not None:
            self._note(self._heart.stop)
        _log.info("node.stopped", interrupted=self._interrupted)


def _enter(entry: str, level: int, settings: Settings, *arguments: object) -> None:
    """Be a child: `entry` is ``module:function``, imported here so that the supervisor stays small."""
    log.configure(settings.log.format, level)
    registry.install(settings.models_folder)
    module, _, function = entry.partition(":")
    getattr(importlib.import_module(module), function)(settings, *arguments)


def _web_socket(web: Web) -> socket.socket | None:
    """Listen for the web process: connections wait while it is started again, and find it where it was."""
    if web.port is None:
        return None
    try:
        Clients(web)
        if web.tls is not None:
            server_context(web.tls)
    except (TokenError, TlsError) as error:
        raise ServeError(f"{error}.") from error
    address = (web.host, web.port)

    def listen() -> socket.socket:
        family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server(address, family=family, backlog=128)

    return _bound(listen, address, "web.port")


def _bound(listen: Callable[[], socket.socket], address: tuple[str, int], key: str) -> socket.socket:
    """Listen, also where the port is still held by a node that was killed."""
    deadline = time.monotonic() + _BIND_S
    while True:
        try:
            return listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            raise ServeError(
                f"cannot listen on {address[0]}:{address[1]}: {error.strerror or error}. "
                f"Stop what listens there, or choose another {key}."
            ) from error


def serve(settings: Settings, out: TextIO = sys.stderr, level: int = logging.INFO) -> int:
    """Run the node until SIGTERM or Ctrl-C, its processes logging from `level` on; return the exit code.

    Raises
    ------
    DataFolderError
        If the data folder cannot be used, or another node works on it.
    StoreError
        If the database cannot be used.
    ServeError
        If the port cannot be had.
    """
    os.umask(0o077)  # everything in the data folder is about patients
    folder = DataFolder(settings.node.data_dir)
    folder.prepare()
    lock = folder.lock_for(node_name(settings), shared=settings.database.url != "sqlite")
    if absent := missing(settings):
        raise ServeError(f"{absent}.")
    with contextlib.ExitStack() as ends:
        web = _web_socket(settings.web)
        if web is not None:
            ends.callback(web.close)
        dicom = (settings.dicom.host, settings.dicom.port)
        listening = _bound(lambda: listening_socket(*dicom), dicom, "dicom.port")
        ends.callback(listening.close)
        db = open_database(place_of(settings))
        ends.callback(db.close)
        if db.shared:
            folder.shared_from_now()
        code = Supervisor(settings, db, out, level, listening, web).run()
    # the locks end with the descriptors, and those with this process
    del lock
    return code
