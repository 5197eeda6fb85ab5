"""JSON documents to a web service (a "webhook") by POST, with an outcome for every status of HTTP.

References
----------
RFC 9110 section 15 (status codes); RFC 6585 section 4 (429); draft-ietf-httpapi-idempotency-key-header (the key).
"""

import json
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from dicom_io.dicomweb import StatusRow
from dicom_io.errors import NetworkError
from dicom_io.http_client import Service, Session
from dicom_io.reason import Reason
from dicom_io.reasons import REASONS
from dicom_io.scu import Timeouts
from dicom_io.status import Outcome

KEY: Final = "Idempotency-Key"
"""Header that is the same for the same document, however often it is sent."""

TABLE: tuple[StatusRow, ...] = (
    StatusRow(200, 299, Outcome.DELIVERED, ""),
    StatusRow(300, 399, Outcome.RETRY, "webhook-not-there"),
    StatusRow(400, 400, Outcome.DEAD, "webhook-refused"),
    StatusRow(401, 401, Outcome.RETRY, "http-not-authorised"),
    StatusRow(402, 402, Outcome.DEAD, "webhook-refused"),
    StatusRow(403, 403, Outcome.RETRY, "http-not-authorised"),
    StatusRow(404, 405, Outcome.RETRY, "webhook-not-there"),
    StatusRow(406, 407, Outcome.DEAD, "webhook-refused"),
    StatusRow(408, 408, Outcome.RETRY, "webhook-cannot-now"),
    StatusRow(409, 424, Outcome.DEAD, "webhook-refused"),
    StatusRow(425, 429, Outcome.RETRY, "webhook-cannot-now"),
    StatusRow(430, 499, Outcome.DEAD, "webhook-refused"),
    StatusRow(500, 599, Outcome.RETRY, "webhook-cannot-now"),
)
"""HTTP status -> outcome, ascending and without a gap. Access and addresses are put right by a person, and what waits for
that is not lost; what a service says of the document itself is for good."""

_TIMEOUTS = Timeouts()


def judge_webhook(status: int) -> StatusRow:
    """Return the row for a status of HTTP."""
    return next((row for row in TABLE if row.first <= status <= row.last), TABLE[-1])


def post(
    service: Service, document: Mapping[str, Any], key: str, timeouts: Timeouts = _TIMEOUTS
) -> tuple[Outcome, Reason | None]:
    """Send one document; return what became of it, and why. Never raises.

    Parameters
    ----------
    service : Service
        Where to; its URL is used as it stands.
    document : Mapping
        JSON.
    key : str
        By which the service knows a repeat.
    timeouts : Timeouts
        How long the service may take.
    """
    body = json.dumps(document, ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json", "Accept": "*/*", KEY: key}
    path = "/" if urlsplit(service.url).path.endswith("/") else ""  # a session takes it off
    with Session(service, timeouts) as session:
        try:
            status = session.request("POST", path, headers, iter((body,)), len(body)).status
        except NetworkError as error:
            return Outcome.RETRY, error.reason
        row = judge_webhook(status)
        return row.outcome, REASONS(row.code, status=status, url=session.shown) if row.code else None


def ping(service: Service, document: Mapping[str, Any], key: str, timeouts: Timeouts = _TIMEOUTS) -> float:
    """Send a document that is about nothing; return how long the answer took (seconds).

    Raises
    ------
    NetworkError
        If it is not taken.
    """
    begun = time.perf_counter()
    _, reason = post(service, document, key, timeouts)
    if reason is not None:
        raise NetworkError(reason, retryable=True)
    return time.perf_counter() - begun
