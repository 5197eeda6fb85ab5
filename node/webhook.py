"""What a webhook is told: one document per job, without the name or the ID of a patient.

It goes the way of every delivery - its own queue, breaker, waits, `show`, `resend` - but there is nothing to prove: an
answer of 2xx is the proof.
"""

import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import Any, Final

from config.settings import Destination
from dicom_io.http_client import Service
from dicom_io.scu import Timeouts
from dicom_io.status import Outcome
from dicom_io.webhook import ping, post
from node import retry
from node.failpoint import passing
from node.reasons import REASONS
from node.show import utc
from node.store import Database, jobs, studies
from node.store.rows import Delivery, Job, Study
from node.verdict import NOT_HEARD, Verdict
from pipeline import registry

SCHEMA: Final = "pacs-ai-node/webhook/1"
MARKS: Final[Mapping[str, str]] = {"origin": "AI", "verification": "UNVERIFIED"}
"""Of everything that is said: who says it, and that no person has looked at it."""

_KEPT = ("pipeline", "pipeline_version", "weights_digest", "series_instance_uid", "device_of_origin")
_SAID = ("quality", "measurements", "findings", "suggestions", "notes", "summary")
_ARTIFACT = ("kind", "modality", "sop_class_uid", "sop_instance_uid", "series_instance_uid")


def document(job: Job, study: Study) -> dict[str, Any]:
    """Return what is told of a job that has ended: always the same of the same end, its ``id`` included.

    Parameters
    ----------
    job : Job
        With an outcome.
    study : Study
        Its study.
    """
    said = job.document or {}
    level = "study" if job.subject == "study" else registry.subject(job.pipeline)
    told: dict[str, Any] = {
        "schema": SCHEMA,
        "event": "job",
        **MARKS,
        "study_instance_uid": study.uid,
        "accession_number": study.accession,
        "study": study.hash,
        "revision": job.revision,
        "subject": {"level": level, "uid": study.uid if level == "study" else job.subject},
        **{name: said.get(name) for name in _KEPT},
        "ended": None if job.ended is None else utc(job.ended),
        "outcome": job.outcome,
        "reason": job.reason,
        **({name: said[name] for name in _SAID if name in said} if job.outcome == "result" else {}),
        "artifacts": [{name: a[name] for name in _ARTIFACT} for a in said.get("artifacts", ())],
    }
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).digest()
    return {"id": str(uuid.UUID(bytes=digest[:16])), **told}


def service_of(place: Destination) -> Service:
    """Return how to reach a webhook."""
    return Service(place.url, place.token_file, place.token_env, place.headers, place.tls, title="webhook")


def greet(place: Destination) -> float:
    """Send a document that is about no study; return how long the answer took (s).

    Raises
    ------
    NetworkError
        If it is not taken.
    """
    told = str(uuid.uuid4())
    return ping(service_of(place), {"id": told, "schema": SCHEMA, "event": "ping"}, told)


_USUAL = Timeouts()


class Calls:
    """Tries deliveries to one webhook; what `node.attempt.Attempts` is to a place that takes objects.

    Parameters
    ----------
    db : Database
        The rows.
    destination : Destination
        The webhook.
    timeouts : Timeouts
        How long it may take.
    """

    def __init__(self, db: Database, destination: Destination, timeouts: Timeouts = _USUAL) -> None:
        self._db, self._service, self._timeouts = db, service_of(destination), timeouts

    def attempt(self, delivery: Delivery, chance: float) -> Verdict:
        """Send the document; `chance` spreads the waits."""
        job, study = jobs.job(self._db, delivery.job_id), studies.study(self._db, delivery.study_uid)
        if job is None or study is None or job.document is None:
            return Verdict("dead", reason=REASONS("nothing-to-send"))
        if job.outcome is None:  # it runs again, and its end is told then
            return Verdict("superseded")
        told = document(job, study)
        outcome, reason = post(self._service, told, told["id"], self._timeouts)
        passing("deliver.sent")
        heard = reason is None or reason.code not in NOT_HEARD
        if outcome is Outcome.DELIVERED:
            return Verdict("delivered", heard=True)
        if outcome is Outcome.DEAD:
            return Verdict("dead", reason=reason, heard=heard)
        wait_s = retry.after_failed_delivery(delivery.attempts, chance)
        return Verdict("waiting", wait_s, reason, heard=heard)
