"""Who was turned away, counted: for what, how often and when last. One small file of each receiving process.

What is refused is not journalled: whoever is refused could fill the disk with it. The table is bounded, and so is the
rate at which it is written.
"""

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dicom_io.scp_types import AssociationEvent
from node.installation import process_name
from node.spool import alive

FOLDER = "refusals"
TITLES, TITLES_S = 16, 3600.0
"""Titles of one address that are counted and told apart within so long (s); of more only the address is known."""
ROWS = 200
"""Callers that one process counts apart; those of which nothing was heard for longest become one, without a name."""
FORGET_S = 7 * 86400.0
_EVERY_S = 1.0
_TOLD_AGAIN_S = 60.0
"""One caller that is refused again and again for one reason is told of once in so long (s)."""

Key = tuple[str, str, str]
"""Reason code, calling AE title, address."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One caller and one reason; an empty `calling` stands for many titles, an empty `peer` for many callers."""

    code: str
    calling: str
    peer: str
    count: int
    last: float


class Refusals:
    """The table of this process.

    Parameters
    ----------
    spool : Path
        Folder of the spool.
    node : str
        Name of the node.
    now : Callable[[], float]
        The clock (s since the epoch).
    """

    def __init__(self, spool: Path, node: str, now: Callable[[], float] = time.time) -> None:
        self._folder, self._now = spool / FOLDER, now
        self._folder.mkdir(exist_ok=True)
        self._path = self._folder / f"{process_name(node, os.getpid())}.json"
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._rows: dict[Key, tuple[int, float]] = {}
        self._told: dict[Key, tuple[float, int]] = {}
        """When a row was last told, and how many have come since."""
        self._timer: threading.Timer | None = None
        for path in sorted(self._folder.glob("*.json")):
            owner, _, pid = path.stem.rpartition("-")
            if owner == node and (path == self._path or not (pid.isdigit() and alive(int(pid)))):
                self._take_over(path)

    def add(self, event: AssociationEvent) -> int:
        """Count what an event says was refused; return how many there are to be told now, 0: told a short time ago."""
        if event.reason is None:
            return 1
        who = event.association
        key, now = (event.reason.code, who.calling, who.peer), self._now()
        with self._lock:
            key = self._row_of(key, now)
            self._count(key, 1, now)
            if self._timer is None:
                self._timer = threading.Timer(_EVERY_S, self.write)
                self._timer.daemon = True
                self._timer.start()
            told, since = self._told.pop(key, (-math.inf, 0))
            due = abs(now - told) >= _TOLD_AGAIN_S  # also where the clock was set back
            self._told[key] = (now, 0) if due else (told, since + 1)
            if len(self._told) > ROWS:
                del self._told[next(iter(self._told))]
        return since + 1 if due else 0

    def write(self) -> None:
        """Write the table down; a disk that does not take it keeps nobody waiting."""
        with self._writing:
            with self._lock:
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = None
                rows = [[*key, count, last] for key, (count, last) in self._rows.items()]
            with contextlib.suppress(OSError):
                part = self._path.with_suffix(".part")
                part.write_text(json.dumps(rows), encoding="utf-8")
                part.replace(self._path)

    def _row_of(self, key: Key, now: float) -> Key:
        """Return the key under which `key` is counted: a caller that takes one title after the other is one caller."""
        code, _, peer = key
        if key in self._rows:
            return key
        rows = self._rows.items()
        others = sum(k[0] == code and k[2] == peer and abs(now - last) < TITLES_S for k, (_, last) in rows)
        return key if others < TITLES else (code, "", peer)

    def _count(self, key: Key, count: int, last: float) -> None:
        before, _ = self._rows.pop(key, (0, 0.0))
        self._rows[key] = (before + count, last)
        while len(self._rows) > ROWS:
            oldest = next(k for k in self._rows if k[1:] != ("", ""))
            gone, when = self._rows.pop(oldest)
            before, newest = self._rows.get((oldest[0], "", ""), (0, 0.0))
            self._rows[oldest[0], "", ""] = (before + gone, max(when, newest))

    def _take_over(self, path: Path) -> None:
        """Go on with the table of a process that has ended; of several that try, one gets it."""
        taken = self._path.with_suffix(".taken")
        with contextlib.suppress(OSError):
            path.rename(taken)
            for row in _rows(taken):
                if self._now() - row.last < FORGET_S:
                    self._count((row.code, row.calling, row.peer), row.count, row.last)
            self.write()
            taken.unlink()


def refusals(spool: Path) -> list[Refusal]:
    """Return what all processes have counted, the newest first."""
    total: dict[Key, tuple[int, float]] = {}
    for path in (spool / FOLDER).glob("*.json"):
        for row in _rows(path):
            count, last = total.get((row.code, row.calling, row.peer), (0, 0.0))
            total[row.code, row.calling, row.peer] = (count + row.count, max(last, row.last))
    return sorted((Refusal(*key, *value) for key, value in total.items()), key=lambda r: -r.last)


def _rows(path: Path) -> Iterator[Refusal]:
    try:
        for code, calling, peer, count, last in json.loads(path.read_text(encoding="utf-8")):
            yield Refusal(str(code), str(calling), str(peer), int(count), float(last))
    except (OSError, ValueError, TypeError):  # gone, or not ours
        return
