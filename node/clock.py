"""The clock: a few ticks that ask the database what is due. Never a queue; a missed tick costs one interval.

Ticks follow the machine's steady clock. Waits in the database are times of day, which can jump: see `timekeeper`.
"""

import threading
from collections.abc import Callable, Mapping

import structlog

_log = structlog.get_logger()


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


def surviving(name: str, do: Callable[[], object]) -> Callable[[], None]:
    """Return `do` so that no exception leaves it: one bad round must not end all that follow."""

    def tick() -> None:
        try:
            do()
        except Exception:  # noqa: BLE001 - whatever it was, the next round must come
            _log.exception("tick failed", tick=name)

    return tick
