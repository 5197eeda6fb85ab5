"""Who has something to do: one question for all who would each ask it several times a second."""

import threading
import time
from collections.abc import Callable

_FRESH_S = 0.1


class Due:
    """Which of many have something to do now.

    Parameters
    ----------
    ask : Callable[[float], frozenset[str]]
        Names those who have at a time (s since the epoch).
    """

    def __init__(self, ask: Callable[[float], frozenset[str]]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._names: frozenset[str] = frozenset()
        self._until = 0.0

    def __call__(self, name: str) -> bool:
        """Say whether `name` is one of them; the answer is at most a tenth of a second old."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._names = self._ask(time.time())
                self._until = time.monotonic() + _FRESH_S
            return name in self._names
