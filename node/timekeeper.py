"""When the time of day jumps: noticed against the machine's steady clock, and undone for everything that waits.

Waits are stored as times of day, because they must outlive processes. A clock that is set, or a machine that slept,
would otherwise end every quiet time at once, or put what is due into the next day. With another run of the machine the
steady clock begins anew: then the last time that was seen says whether the clock has gone back, and a long absence is
not believed at once.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import structlog

from node import alarm, retry
from node.reasons import REASONS
from node.store import Database, clocks, obstacle, waits
from node.store.clocks import Clocks, Jump

_log = structlog.get_logger()

BEHIND = "clock-behind"


def machine_start() -> str:
    """Return what names this run of the machine: its steady clock begins anew with the next one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class NotLeadingError(Exception):
    """Another process keeps the time now."""


class Timekeeper:
    """Compares the time of day with the steady clock.

    Parameters
    ----------
    db : Database
        Where the waits stand; how the clocks stood to each other stands there too, and outlives this process.
    now, steady : Callable[[], float]
        Time of day (s since the epoch), and a clock that nobody sets (s).
    run : str
        Names this run of the machine.
    leads : Callable[[], bool]
        Whether this process still leads. Of several nodes' clocks none is asked but the database's; a machine that has
        slept, and been replaced meanwhile, must not take that for a jump.
    """

    def __init__(
        self,
        db: Database,
        now: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
        run: str | None = None,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        self._db, self._now, self._steady, self._leads = db, now, steady, leads
        self._run = machine_start() if run is None else run
        self._policy = retry.policy()["clock"]
        self._lock = threading.RLock()
        self._clocks = self._begun()
        self._since = self._clocks.seen
        self._written = steady()

    def check(self, *, write: bool = False) -> None:
        """Let everything that waits jump with the clock, if it has jumped; now and then `write` down what time it is.

        Raises
        ------
        NotLeadingError
            If there is something to write, and another process leads now.
        """
        with self._lock:
            now, steady = self._read()
            jumped = now - steady - self._clocks.offset
            if abs(jumped) >= float(self._policy["jump_s"]):
                behind = max(0.0, self._clocks.behind - jumped) if self._clocks.behind else 0.0
                self._jump(now, steady, Jump.noticed(jumped, now, self._since), behind)
            elif write or steady - self._written >= float(self._policy["seen_s"]):
                # with it, slow corrections become part of the offset: they never add up to a jump
                self._write(replace(self._clocks, offset=now - steady, seen=now))
                self._written = steady
            self._since = now

    @contextmanager
    def still(self) -> Iterator[float]:
        """Check, and give how far the time of day is ahead of `seconds`; until the end nothing that waits jumps."""
        with self._lock:
            self.check()
            yield self._clocks.offset

    def steady(self) -> bool:
        """Say whether the time of day has been plausible for long enough to remove by age."""
        with self._lock:
            return self._clocks.plausible(self._run, self._now(), self._steady(), float(self._policy["jump_s"]))

    def now(self) -> float:
        """Return the time of day."""
        return self._now()

    def seconds(self) -> float:
        """Return what the steady clock shows."""
        return self._steady()

    def moved(self, stamp: float) -> float:
        """Return a time of day that this machine stamped before any of the last jumps as its clock would show it now."""
        with self._lock:
            return self._clocks.moved(stamp, self._steady())

    def _read(self) -> tuple[float, float]:
        """Return both clocks, read together: in between, this process may have been stopped."""
        while True:
            steady, now = self._steady(), self._now()
            if self._steady() - steady < clocks.READING_S:
                return now, steady

    def _begun(self) -> Clocks:
        """Return what is known of the clocks, compared with the last time seen if the machine has been started again."""
        known = clocks.read(self._db)
        if known is not None and known.run == self._run:
            return known
        now, steady = self._read()
        self._clocks = Clocks(self._run, now - steady, now)
        if known is not None:
            away, least = now - known.seen, float(self._policy["jump_s"])
            self._clocks = replace(known, run=self._run, offset=now - steady, seen=now)
            seconds, behind = 0.0, known.behind
            if away <= -least:  # the true time is not known: as if no time had passed
                seconds, behind = away, known.behind - away
            elif known.behind and away >= known.behind - least:  # set right while the machine was off
                seconds, behind = known.behind, 0.0
            if seconds:
                latest = known.seen + 2 * float(self._policy["seen_s"])
                self._jump(now, steady, Jump(seconds, latest, now - steady), behind)
                return self._clocks
            if away > float(self._policy["absent_s"]):  # off for so long, or a clock that has run ahead
                self._clocks = replace(self._clocks, hold_until=now + float(self._policy["hold_s"]))
        clocks.put(self._db, self._clocks)
        return self._clocks

    def _jump(self, now: float, steady: float, jump: Jump, behind: float) -> None:
        """Let everything jump, and hold what ends by its age. The alarm comes first: after a crash both come again."""
        self._confirm()
        hold_s, known = float(self._policy["hold_s"]), self._clocks
        if behind < float(self._policy["jump_s"]):
            behind = 0.0
            alarm.quieten(self._db, BEHIND, "", now)
        elif behind > known.behind:
            alarm.ring(self._db, REASONS(BEHIND, hours=f"{behind / 3600.0:.1f}"), "", now)
        jumps = (*known.jumps, jump)[-clocks.KEPT :]
        after = Clocks(self._run, now - steady, now, now + hold_s, behind, jumps)
        waits.shift(self._db, lambda: after.offset + self._steady(), jump, after)
        self._clocks, self._written = after, steady
        _log.warning("clock.jumped", seconds=round(jump.seconds, 1))

    def _confirm(self) -> None:
        if not self._leads():
            raise NotLeadingError("another process leads")

    def _write(self, known: Clocks) -> None:
        self._confirm()
        try:
            clocks.put(self._db, known)
        except Exception as error:
            if obstacle(error) is None:
                raise
        else:
            self._clocks = known
