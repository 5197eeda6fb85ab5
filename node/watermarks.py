"""Whether more is accepted: space, names (inodes) and jobs waiting against their limits, with hysteresis.

The coordinator decides for the node, rings and writes the verdict beside the spool, where receivers read it. About space
each receiver decides for itself at every object as well, because on a full disk nothing can be written down.
"""

import errno
import json
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import structlog

from config.settings import Storage
from node import retry

_log = structlog.get_logger()

Cause = Literal["disk", "names", "queue"]
"""Too little space; too few names left on the file system; too many jobs waiting."""
STATE = "not-accepting.json"
"""Beside the spool's entries while anything is refused: ``{"causes": [...]}``."""


class NotAcceptingError(OSError):
    """Nothing more is taken for now; the sender keeps its object and tries again."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Below or above what nothing is accepted; 0: no limit.

    Parameters
    ----------
    free_bytes, free_names : int
        Must stay free on the file system.
    waiting : int
        Jobs that may wait.
    beyond : float
        Share beyond the limit from which on things go on.
    """

    free_bytes: int
    free_names: int
    waiting: int
    beyond: float

    @classmethod
    def of(cls, storage: Storage) -> "Limits":
        """Return the limits that the configuration means."""
        policy = retry.policy()["storage"]
        return cls(storage.min_free_mb << 20, policy["min_free_names"], storage.max_waiting, policy["beyond"])


@dataclass(frozen=True, slots=True)
class Measured:
    """What there is; None: not known now, and nothing changes on its account.

    A file system without a fixed number of names reports none; then `free_names` is None, too.
    """

    free_bytes: int | None = None
    free_names: int | None = None
    waiting: int | None = None


def decide(measured: Measured, limits: Limits, closed: frozenset[Cause]) -> frozenset[Cause]:
    """Return why nothing is accepted from now on; empty: everything is.

    Parameters
    ----------
    closed : frozenset[Cause]
        What stood until now: a cause that stands ends only `limits.beyond` on the other side of its limit.
    """

    def low(have: int | None, limit: int, cause: Cause) -> bool:
        if have is None:
            return cause in closed
        return have < limit * (1 + limits.beyond if cause in closed else 1)

    def long(have: int | None, limit: int, cause: Cause) -> bool:
        if have is None:
            return cause in closed and limit > 0
        return limit > 0 and have > (limit * (1 - limits.beyond) if cause in closed else limit - 1)

    verdicts: dict[Cause, bool] = {
        "disk": low(measured.free_bytes, limits.free_bytes, "disk"),
        "names": low(measured.free_names, limits.free_names, "names"),
        "queue": long(measured.waiting, limits.waiting, "queue"),
    }
    return frozenset(cause for cause, stands in verdicts.items() if stands)


def room(folder: Path, waiting: int | None = None) -> Measured:
    """Measure the file system of `folder`; what cannot be asked is None."""
    try:
        stat = os.statvfs(folder)
    except OSError:
        return Measured(waiting=waiting)
    return Measured(stat.f_bavail * stat.f_frsize, stat.f_favail if stat.f_files else None, waiting)


def total_bytes(folder: Path) -> int:
    """Return how large the file system of `folder` is."""
    stat = os.statvfs(folder)
    return stat.f_blocks * stat.f_frsize


def read_state(spool: Path) -> frozenset[Cause]:
    """Return the causes that were written down; none if nothing readable stands there."""
    try:
        causes = json.loads((spool / STATE).read_text(encoding="utf-8"))["causes"]
        return frozenset(cause for cause in get_args(Cause) if cause in causes)
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


def write_state(spool: Path, causes: Iterable[Cause]) -> None:
    """Write the causes down for receivers; without any the file goes.

    Raises
    ------
    OSError
        If the disk does not take it.
    """
    causes = sorted(causes)
    if not causes:
        (spool / STATE).unlink(missing_ok=True)
        return
    part = spool / f"{STATE}.part"
    part.write_text(json.dumps({"causes": causes}), encoding="utf-8")
    part.replace(spool / STATE)


class Gate:
    """What a receiver asks before it takes an object.

    Parameters
    ----------
    spool : Path
        Folder of the spool.
    limits : Limits
        Of the node.
    """

    def __init__(self, spool: Path, limits: Limits) -> None:
        self._spool, self._limits = spool, limits
        self._lock = threading.Lock()
        self._closed = read_state(spool)

    def closed(self) -> frozenset[Cause]:
        """Return why nothing is accepted now: space by own measure, the queue as the coordinator says."""
        with self._lock:
            before = self._closed - {"queue"}
            after = decide(room(self._spool), self._limits, before) | (read_state(self._spool) & {"queue"})
            if after != self._closed:
                tell = _log.error if after else _log.info
                tell("receive.not-accepting" if after else "receive.accepting", causes=sorted(after))
            self._closed = after
            return after

    def check_room(self) -> None:
        """Raise unless there is room on the disk.

        Raises
        ------
        NotAcceptingError
            With ``ENOSPC``.
        """
        if self.closed() & {"disk", "names"}:
            raise NotAcceptingError(errno.ENOSPC, "less free space than must be left; see storage.min_free_mb")
