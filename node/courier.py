"""Who delivers to one destination: takes what is due, judges what came of it, and leaves a silent destination alone."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from config.settings import Destination
from dicom_io.reason import Reason
from node import alarm, breaker, retry
from node.attempt import Attempts
from node.reasons import REASONS
from node.rejection import Notes
from node.store import Database, breakers, deliveries, studies
from node.store.rows import Delivery, Proof
from node.transport import Transport, transport_of
from node.verdict import Verdict

if TYPE_CHECKING:
    from node.webhook import Calls

_log = structlog.get_logger()

_LEVELS = {"dead": "error", "quarantined": "error", "waiting": "warning", "held": "warning"}


class Courier:
    """Delivers to one destination.

    Parameters
    ----------
    db : Database
        The rows.
    root : Path
        The data folder that paths of artifacts are relative to.
    destination : Destination
        Where to.
    calling : str
        Our AE title.
    owner : str or None
        Who sends, of several nodes.
    transport : Transport or None
        How to speak to it; None: DICOM.
    now : Callable[[], float]
        The clock (s since the epoch).
    chance : Callable[[], float]
        Uniform in 0..1; spreads the waits.
    notes : Notes or None
        Who writes rejection notes; needed where the destination asks for them.
    """

    def __init__(
        self, db: Database, root: Path, destination: Destination, calling: str, *, owner: str | None = None,
        transport: Transport | None = None, now: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random, notes: Notes | None = None,
    ) -> None:  # fmt: skip
        self._db, self._destination, self._owner = db, destination, owner
        self._attempts = (
            _calls(db, destination)
            if destination.kind == "webhook"
            else Attempts(db, root, destination, transport or transport_of(destination, calling), now, notes)
        )
        self._now, self._chance = now, chance
        self.unsettled = False
        """Whether the last attempt could not be written down (a full disk); nobody else sends to this place."""

    def step(self) -> bool:
        """Try the most urgent delivery that is due; False if none is, or if the destination is left alone."""
        name, now = self._destination.name, self._now()
        if self.unsettled:
            deliveries.interrupted(self._db, now, name, owner=self._owner)
            self.unsettled = False
        before = breakers.breaker(self._db, name) or breaker.closed(name, now)
        if not breaker.may(before, now) or name not in deliveries.due(self._db, now):
            return False
        probe = before.state != "closed"
        delivery = deliveries.take(self._db, name, now, probe=probe, owner=self._owner)
        if delivery is None:
            return False
        self.unsettled = True
        during = breaker.probing(before)
        if probe:
            breakers.put(self._db, during)
        chance = self._chance()
        try:
            verdict = self._attempts.attempt(delivery, chance)
        except Exception as crash:  # noqa: BLE001 - whatever it was, the others must not wait behind it
            _log.exception("delivery.crashed", destination=name, job=delivery.job_id)
            reason = REASONS("delivery-crashed", error=type(crash).__name__)
            verdict = Verdict("waiting", retry.after_failed_delivery(delivery.attempts, chance), reason)
        now = self._now()
        error = None if verdict.reason is None else verdict.reason.as_json()
        after = breaker.after(during, heard=verdict.heard, now=now, chance=chance, error=error)
        if after != during:
            self._tell_breaker(during.state, after.state)
            breakers.put(self._db, after)
        wait_s, counts = verdict.wait_s, verdict.counts
        if verdict.heard is False and after.state == "open" and after.next_try is not None:
            # a destination that is down is no fault of the delivery: it is next when the breaker allows
            wait_s, counts = after.next_try - now, counts and not probe
        self._settle(delivery, verdict, now, None if wait_s is None else now + wait_s, counts=counts)
        self.unsettled = False
        return True

    def _tell_breaker(self, before: str, after: str) -> None:
        name = self._destination.name
        if after == "open" and before == "closed":
            _log.warning("destination.silent", destination=name)
        if after == "closed" and before != "closed":
            _log.info("destination.answers", destination=name)
            alarm.quieten(self._db, "destination-down", name, self._now())

    def _settle(self, delivery: Delivery, verdict: Verdict, now: float, then: float | None, *, counts: bool) -> None:
        reason = verdict.reason
        about: Reason | None = None
        if verdict.state == "quarantined":
            about = reason
        elif verdict.state == "dead":
            about = REASONS("delivery-failed", destination=delivery.destination, code=reason.code if reason else "")
        proof: tuple[Proof, float | None] | None = None
        if verdict.state == "delivered":
            first = now + retry.Backoff.of("proof").wait(1, self._chance())
            again: Proof = "again" if delivery.proof == "again" else "waiting"
            # an archive may hide a note with what it names; what a webhook answers is all that there is
            place = self._destination
            unasked = place.proof == "none" or place.kind == "webhook" or delivery.what == "rejection"
            proof = ("none", None) if unasked else (again, first)
        settled = deliveries.settle(
            self._db, delivery, now, verdict.state,
            attempts=delivery.attempts if counts else delivery.attempts - 1, next_attempt=then,
            error=None if reason is None else reason.as_json(), identity=verdict.identity, proof=proof,
            alarm=None if about is None else about.as_json(), reject=self._destination.reject_superseded,
        )  # fmt: skip
        study = studies.study(self._db, delivery.study_uid)
        told: dict[str, Any] = {"study": study and study.hash, "job": delivery.job_id}
        code = None if reason is None else reason.code
        if not settled:  # cancelled, queued anew, or given to another node, while it was being sent
            _log.info("delivery.overtaken", destination=delivery.destination, **told)
            return
        tell = getattr(_log, _LEVELS.get(verdict.state, "info"))
        tell(f"delivery.{verdict.state}", destination=delivery.destination, **told, reason=code)
        if about is not None:
            alarm.tell(about.code, told["study"], destination=delivery.destination)


def _calls(db: Database, destination: Destination) -> "Calls":
    from node.webhook import Calls  # noqa: PLC0415 - of the extra `web`, for who has such a destination

    return Calls(db, destination)
