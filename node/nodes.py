"""Several nodes on one folder and one database: each lets its heart be heard, and whoever leads calls the roll.

A heart-beat is a row that changes. Whether it still does is judged by the steady clock of the machine that leads, so that no
time of day, set wrong or set right, kills a node.
"""

import math
import threading
import time
from collections.abc import Callable

import structlog

from config.settings import Settings
from node import alarm, recover, retry
from node.clock import Guard
from node.installation import node_name
from node.reasons import REASONS
from node.spool import Spool
from node.store import Database, nodes, seats
from node.store.rows import Node
from node.store.seats import Seat, Sitter

_log = structlog.get_logger()

SILENT, WRONG, TAKEN_OVER = "node-silent", "node-clock", "seat-taken-over"
_ROLES = {"lead": "coordinator", "send": "deliverer"}
"""Whose work is done on a seat."""


class Heart:
    """Says that this node lives, and looks at its clock.

    Parameters
    ----------
    db : Database
        Where it is heard.
    name : str
        Of the node.
    since : float
        When this run of it began (s since the epoch).
    revived : Callable[[], object]
        Called when the others had taken it for dead: its processes are to be written down again.
    clock : Callable[[], float]
        What the clock of this machine shows.
    """

    def __init__(
        self,
        db: Database,
        name: str,
        since: float,
        revived: Callable[[], object],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db, self._name, self._since, self._revived, self._clock = db, name, since, revived, clock
        self._policy = retry.policy()["nodes"]
        self._stop = threading.Event()
        self.right = True
        """Whether the clock is right: with another one a node receives, and does nothing else."""

    def beat(self) -> None:
        """Let it be heard once."""
        row, buried = nodes.beat(self._db, self._name, self._since, self._clock)
        if buried:
            _log.warning("node.heard-again", node=self._name)
            self._revived()
        alarm.quieten(self._db, SILENT, self._name, row.seen)
        right = abs(row.ahead) <= float(self._policy["clock_s"])
        if right:
            alarm.quieten(self._db, WRONG, self._name, row.seen)
        else:
            alarm.ring(self._db, REASONS(WRONG, node=self._name, seconds=f"{row.ahead:+.1f}"), self._name, row.seen)
        self.right = right

    def start(self) -> None:
        """Let it be heard from a thread until `stop`."""
        threading.Thread(target=self._run, daemon=True, name="heart").start()

    def stop(self) -> None:
        """Say that the node ends as planned."""
        self._stop.set()
        nodes.left(self._db, self._name)

    def _run(self) -> None:
        guard = Guard("heart")
        while not self._stop.wait(float(self._policy["beat_s"])):
            guard.done(self.beat)


class CommonClock:
    """The clock of a database that nodes share; it is asked now and then, and in between this machine's steady one goes on.

    Parameters
    ----------
    db : Database
        Whose clock.
    steady : Callable[[], float]
        A clock that nobody sets (s).
    """

    def __init__(self, db: Database, steady: Callable[[], float] = time.monotonic) -> None:
        self._db, self._steady = db, steady
        self._every_s = float(retry.policy()["nodes"]["ask_s"])
        self._asked, self._ahead = -math.inf, 0.0

    def __call__(self) -> float:
        """Return what it shows (s since the epoch)."""
        before = self._steady()
        if before - self._asked >= self._every_s:
            seen = nodes.present(self._db)
            self._asked = self._steady()
            self._ahead = seen - (before + self._asked) / 2
        return self._steady() + self._ahead


class RollCall:
    """Finds nodes that are not heard any more, and sees to what they have left.

    Parameters
    ----------
    db : Database
        Where they are heard.
    spool : Spool
        Of this node.
    silent_s : float
        Who has not been heard for so long is dead.
    attempts : int
        Of a job, see `node.recover`.
    steady : Callable[[], float]
        A clock that nobody sets (s).
    """

    def __init__(
        self, db: Database, spool: Spool, silent_s: float, attempts: int, steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._db, self._spool, self._silent_s, self._attempts, self._steady = db, spool, silent_s, attempts, steady
        self._heard: dict[str, tuple[Node, float]] = {}
        self._last = steady()
        self._deaf_s = max(silent_s / 2, 3 * float(retry.policy()["nodes"]["beat_s"]))
        self.ahead: dict[str, float] = {}
        """How far (s) clocks are ahead that are not right, by node."""

    def call(self, now: float) -> None:
        """Look who has been heard since the last time."""
        steady = self._steady()
        if steady - self._last > self._deaf_s:  # it was ourselves who heard nothing: a database that was away
            self._heard.clear()
        self._last = steady
        rows = nodes.nodes(self._db)
        wrong = float(retry.policy()["nodes"]["clock_s"])
        self.ahead = {row.name: row.ahead for row in rows if abs(row.ahead) > wrong}
        for row in rows:
            known, since = self._heard.get(row.name, (None, steady))
            if row != known:
                self._heard[row.name] = (row, steady)
            elif row.state == "alive" and steady - since > self._silent_s and nodes.bury(self._db, row):
                self._lost(row, now)

    def clean(self) -> None:
        """Remove what dead nodes were receiving."""
        self._spool.clean_after({self._spool.node, *(n.name for n in nodes.nodes(self._db) if n.state == "alive")})

    def _lost(self, node: Node, now: float) -> None:
        _log.error("node.silent", node=node.name)
        alarm.ring(self._db, REASONS(SILENT, node=node.name), node.name, now)
        recover.node_lost(self._db, node.name, now, self._attempts)
        self.clean()


class Patience:
    """Puts out who holds a seat and does not get on: a process that is stopped, or waits for a mount that is dead.

    Like heart-beats, what it writes down is judged by whether it changes within so much of this machine's steady clock.

    Parameters
    ----------
    db : Database
        Whose nodes share the seat.
    name : str
        Of the seat.
    hung_s : float
        Who has not got on for so long hangs.
    steady : Callable[[], float]
        A clock that nobody sets (s).
    """

    def __init__(self, db: Database, name: str, hung_s: float, steady: Callable[[], float] = time.monotonic) -> None:
        self._db, self._name, self._hung_s, self._steady = db, name, hung_s, steady
        self._known: Sitter | None = None
        self._since = self._last = steady()

    def look(self) -> None:
        """See whether who sits there has got on since the last time."""
        found, steady = seats.sitter(self._db, self._name), self._steady()
        deaf = steady - self._last > self._hung_s / 2  # it was ourselves who did not look
        self._last = steady
        if found is None or found != self._known or deaf:
            self._known, self._since = found, steady
        elif steady - self._since > self._hung_s and seats.put_out(self._db, self._name, found):
            role, node = _ROLES[self._name], found.node
            _log.error("seat.taken-over", seat=self._name, node=node)
            reason = REASONS(TAKEN_OVER, node=node, role=role)
            alarm.ring(self._db, reason, f"{node}/{role}", nodes.present(self._db))


def seated(db: Database, name: str, stop: threading.Event, settings: Settings) -> Seat | None:
    """Wait for the seat `name`; None if told to stop before. Who loses it later is told to stop.

    Until then two may sit there for a moment: the one that lost it does not know yet. Whatever is written by either is
    compared with what it was decided on, so the later one changes nothing.
    """
    node, policy = node_name(settings), retry.policy()["nodes"]
    seat, guard = Seat(db, name, node), Guard(name)
    every = float(policy["seat_s"])
    patience = Patience(db, name, max(float(policy["hung_s"]), 3 * settings.node.silent_s))

    def sit() -> None:
        if seat.take():
            taken.append(True)
        else:
            patience.look()

    if db.shared:  # a process of ours that hung there does not any more
        guard.done(lambda: alarm.quieten(db, TAKEN_OVER, f"{node}/{_ROLES[name]}", nodes.present(db)))
    taken: list[bool] = []
    while not taken:
        if stop.is_set():
            return None
        guard.done(sit)
        if not taken:
            stop.wait(every)

    def watch() -> None:
        while not stop.wait(every):
            if not seat.held():
                _log.warning("seat.lost", seat=name)
                stop.set()

    threading.Thread(target=watch, daemon=True, name="seat").start()
    return seat


def beating(seat: Seat, do: Callable[[], object]) -> Callable[[], None]:
    """Return `do` so that whoever waits for the seat sees that it gets on."""
    every, last = float(retry.policy()["nodes"]["seat_s"]), -math.inf

    def tick() -> None:
        nonlocal last
        do()
        if time.monotonic() - last >= every:
            seat.beat()
            last = time.monotonic()

    return tick
