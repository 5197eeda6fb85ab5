"""Structured logs on stderr, without patient data.

Every record carries an ``action`` (the event's name). A study stands there as a keyed hash, by which ``show`` finds it:
the key is the installation id, so that hashes of two hospitals cannot be joined.
"""

import contextlib
import hashlib
import hmac
import logging
import sys
from typing import Literal, TextIO, cast

import structlog


class _Patient:
    """A stream whose failures stop nobody: a log on a full disk must not keep images out.

    Parameters
    ----------
    stream : TextIO
        Where lines go.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, if it can be done."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if it can be done."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def configure(form: Literal["console", "json"] = "console", level: int = logging.INFO) -> None:
    """Send the process's records to stderr as `form`."""
    renderer: structlog.typing.Processor
    if form == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), event_key="action")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.EventRenamer("action"),
            structlog.processors.format_exc_info,
            _tame,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Patient(sys.stderr))),
        cache_logger_on_first_use=False,
    )


def _tame(_logger: object, _name: str, record: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Take out what would move a terminal's cursor: titles come from the wire."""
    for key, value in record.items():
        if isinstance(value, str) and key != "exception" and not value.isprintable():
            record[key] = "".join(c if c.isprintable() else "?" for c in value)
    return record


def study_hash(installation_id: str, study_instance_uid: str) -> str:
    """Return the 16 hexadecimal digits that stand for a study in logs and metrics."""
    return hmac.new(installation_id.encode(), study_instance_uid.encode(), hashlib.sha256).hexdigest()[:16]
