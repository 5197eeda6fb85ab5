"""When the time of day jumps: noticed against the machine's steady clock, and undone for everything that waits.

Waits are stored as times of day, because they must outlive processes. A clock that is set, or a machine that slept,
would otherwise end every quiet time at once, or put what is due into the next day.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from node import retry
from node.store import Database, waits

_log = structlog.get_logger()


def machine_start() -> str:
    """Return what names this run of the machine: its steady clock begins anew with the next one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


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
    """

    def __init__(
        self,
        db: Database,
        now: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
        run: str | None = None,
    ) -> None:
        self._db, self._now, self._steady = db, now, steady
        self._run = machine_start() if run is None else run
        self._lock = threading.Lock()
        known = waits.offset(db, self._run)
        self._offset = now() - steady() if known is None else known
        self._jumped_at: float | None = None
        self.jumped_s = 0.0
        """By how much the time of day has jumped since this object was made, all jumps together."""
        if known is None:
            waits.remember(db, self._run, self._offset)

    def check(self) -> None:
        """Let everything that waits jump with the clock, if it has jumped."""
        least = float(retry.policy()["clock"]["jump_s"])
        with self._lock:
            now = self._now()
            offset = now - self._steady()
            jumped = offset - self._offset
            if abs(jumped) < least:  # slow corrections add up to a small jump some day, which does no harm
                return
            waits.shift(self._db, now, jumped, remember=(self._run, offset))
            self._offset, self._jumped_at = offset, self._steady()
            self.jumped_s += jumped
            _log.warning("clock.jumped", seconds=round(jumped, 1))

    def again(self, jumped: float) -> None:
        """Do it once more for what was stamped before a jump and came into the database after it."""
        waits.shift(self._db, self._now(), jumped)

    def steady(self) -> bool:
        """Say whether the time of day has been plausible for long enough to remove by age."""
        hold_s = float(retry.policy()["clock"]["hold_s"])
        with self._lock:
            return self._jumped_at is None or self._steady() - self._jumped_at > hold_s
