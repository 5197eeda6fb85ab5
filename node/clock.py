"""The clock: a few ticks that ask the database what is due. Never a queue; a missed tick costs one interval.

Ticks follow the machine's steady clock. Waits in the database are times of day, which can jump: see `timekeeper`.
"""

import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

import structlog

from node.store import obstacle

T = TypeVar("T")
_log = structlog.get_logger()

_AGAIN_S = 5.0
"""What the machine did not allow is tried again after so long."""


class Clock:
    """Ticks given as name -> (seconds between, what to do), each in a thread of its own.

    A tick that is still running is not started again, and one that raises is logged and comes again.
    """

    def __init__(self, ticks: Mapping[str, tuple[float, Callable[[], object]]]) -> None:
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(every_s, surviving(name, do)), daemon=True, name=name)
            for name, (every_s, do) in ticks.items()
        ]

    def start(self) -> None:
        """Begin; the first ticks come at once."""
        for thread in self._threads:
            thread.start()

    def shutdown(self) -> None:
        """Let the ticks that are running end, and no other begin."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, every_s: float, tick: Callable[[], None]) -> None:
        while not self._stop.is_set():
            tick()
            self._stop.wait(every_s)


class Guard:
    """Keeps what can fail from ending what must go on.

    What the machine does not allow now is one line of the log, said again only when it changes; a fault of ours comes
    with its traceback, every time.

    Parameters
    ----------
    name : str
        Of what is done, for the log.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._told: str | None = None

    def hindered(self, error: Exception) -> bool:
        """Say whether it was the machine that did not allow it."""
        found = obstacle(error)
        if found is not None and found != self._told:
            _log.error("tick failed", tick=self._name, error=found)
        self._told = found
        return found is not None

    def done(self, do: Callable[[], object]) -> bool:
        """Do it; False if the machine did not allow it, so that it is worth trying again."""
        try:
            do()
        except Exception as error:  # noqa: BLE001 - whatever it was, the next round must come
            if self.hindered(error):
                return False
            _log.exception("tick failed", tick=self._name)
        self._told = None
        return True


def surviving(name: str, do: Callable[[], object]) -> Callable[[], None]:
    """Return `do` so that no exception leaves it: one bad round must not end all that follow."""
    guard = Guard(name)

    def tick() -> None:
        guard.done(do)

    return tick


def made(name: str, make: Callable[[], T], stop: threading.Event) -> T | None:
    """Return what `make` makes, tried until the machine allows it; None if told to stop before."""
    guard = Guard(name)
    while not stop.is_set():
        try:
            return make()
        except Exception as error:
            if not guard.hindered(error):
                raise
        stop.wait(_AGAIN_S)
    return None
