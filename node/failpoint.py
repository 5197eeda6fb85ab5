"""Points at which a test can kill a process (CONTRACT, "For tests").

``PACS_AI_NODE_FAILPOINT=<name>[:n]``: the process that passes `name` for the n-th time ends by SIGKILL.
"""

import os
import signal

NAMES = frozenset({
    "receive.before_fsync", "receive.after_link", "receive.before_response",
    "index.before_commit", "piece.before_commit", "close.before_commit",
    "job.claimed", "job.worked", "job.written", "job.before_commit",
    "retention.before_unlink",
    "deliver.object", "deliver.sent", "deliver.before_commit",
    "relay.sent", "relay.before_commit", "commit.asked", "commit.reported",
})  # fmt: skip

_passed: dict[str, int] = {}


class FailpointError(Exception):
    """``PACS_AI_NODE_FAILPOINT`` is set outside tests, or names no point."""


def armed() -> tuple[str, int] | None:
    """Return the point and the pass at which this process is to die, or None.

    Raises
    ------
    FailpointError
        If the variable is set without ``PACS_AI_NODE_TESTING=1``, or names no known point.
    """
    text = os.environ.get("PACS_AI_NODE_FAILPOINT")
    if not text:
        return None
    if os.environ.get("PACS_AI_NODE_TESTING") != "1":
        raise FailpointError(
            "PACS_AI_NODE_FAILPOINT kills processes: it is refused unless PACS_AI_NODE_TESTING=1. Unset it."
        )
    name, _, count = text.partition(":")
    if name not in NAMES or not (count or "1").isdecimal() or int(count or 1) < 1:
        raise FailpointError(
            f"PACS_AI_NODE_FAILPOINT={text!r}: not <name>[:n] with n from 1; names: {', '.join(sorted(NAMES))}"
        )
    return name, int(count or 1)


def passing(name: str) -> None:
    """Say that this process passes the point `name`."""
    if name not in NAMES:
        raise FailpointError(f"{name!r} is not in the table of failpoints")
    point = armed()
    if point is None or point[0] != name:
        return
    _passed[name] = _passed.get(name, 0) + 1
    if _passed[name] == point[1]:
        os.kill(os.getpid(), signal.SIGKILL)
