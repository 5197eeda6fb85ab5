"""What every child of the supervisor does first."""

import contextlib
import ctypes
import json
import signal
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

_PR_SET_PDEATHSIG = 1


def begin(connection: Connection) -> threading.Event:
    """Prepare a spawned process and return the event that is set when it is to end.

    It ends on SIGTERM, and with its parent: by the parent-death signal, and by the end of the pipe in case the parent
    was gone before the signal was asked for. Ctrl-C reaches the whole group; only the supervisor decides about it.
    """
    stop = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    _die_with_parent()
    threading.Thread(target=_watch, args=(connection, stop), daemon=True, name="parent").start()
    return stop


def tell(connection: Connection, message: Mapping[str, Any]) -> None:
    """Send a message to the process at the other end; it is JSON, so that nobody has to trust what he reads."""
    connection.send_bytes(json.dumps(message).encode())


def heard(connection: Connection) -> dict[str, Any]:
    """Receive a message; `EOFError` if nobody is there any more."""
    message: dict[str, Any] = json.loads(connection.recv_bytes())
    return message


def _watch(connection: Connection, stop: threading.Event) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            connection.recv_bytes()
    stop.set()


def _die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent's thread that started this process ends (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_PDEATHSIG was refused")
