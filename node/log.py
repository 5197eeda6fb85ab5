"""Structured logs on stderr, without patient data.

Every record carries an ``action`` (the event's name). A study stands there as a keyed hash, by which ``show`` finds it:
the key is the installation id, so that hashes of two hospitals cannot be joined.
"""

import hashlib
import hmac
import logging
import sys
from typing import Literal

import structlog


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
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def study_hash(installation_id: str, study_instance_uid: str) -> str:
    """Return the 16 hexadecimal digits that stand for a study in logs and metrics."""
    return hmac.new(installation_id.encode(), study_instance_uid.encode(), hashlib.sha256).hexdigest()[:16]
