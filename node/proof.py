"""After delivery: is it really there? Asked in a thread of its own, so that it never delays what is being sent.

An archive is asked a few times with growing waits (some index late), one question at a time, and not at all while it does
not take anything. What it acknowledged but does not show is sent once more; after that a person is called.
"""

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import structlog

from config.settings import Destination
from dicom_io.errors import NetworkError
from node import alarm, retry
from node.reasons import REASONS
from node.selection import select
from node.store import Database, breakers, deliveries, jobs, proofs, studies
from node.store.rows import Delivery, StoredArtifact
from node.transport import Transport, transport_of

_log = structlog.get_logger()

Ask = Callable[[Delivery, Sequence[StoredArtifact]], frozenset[str] | None]
"""Which of these objects a destination says it has; None: it will say so later. Raises NetworkError."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one question came to: how many objects are `missing` (None: no answer), and why there is no answer."""

    missing: int | None
    code: str | None = None


def judge(
    finding: Finding, asked: int, *, again: bool, overdue: bool
) -> tuple[Literal["proved", "later", "send-again", "missing", "not-offered", "unanswered"], bool]:
    """Judge the answer to the `asked`-th counted question.

    Parameters
    ----------
    finding : Finding
        The answer.
    asked : int
        Which one it is.
    again : bool
        Whether the objects have been sent a second time.
    overdue : bool
        Whether the question stands for so long that no answer is to be hoped for.

    Returns
    -------
    ruling : str
        What to do.
    counts : bool
        Whether the question counts: only an answer does.
    """
    last = asked >= int(retry.policy()["proof"]["tries"])
    if finding.missing == 0:
        return "proved", True
    if finding.missing is None:
        if finding.code in ("query-not-offered", "commitment-not-offered"):
            return "not-offered", True
        refused = finding.code in ("query-failed", "commitment-refused")
        return ("unanswered" if overdue or (refused and last) else "later"), refused
    if not last:
        return "later", True
    return ("missing" if again else "send-again"), True


class Prover:
    """Asks one destination for what was delivered to it.

    Parameters
    ----------
    db : Database
        The rows.
    destination : Destination
        Whom to ask, and how.
    calling : str
        Our AE title.
    transport : Transport or None
        How to ask by C-FIND; None: DICOM.
    commitment : Ask or None
        How to ask for storage commitment.
    now : Callable[[], float]
        The clock (s since the epoch).
    chance : Callable[[], float]
        Uniform in 0..1; spreads the waits.
    """

    def __init__(
        self, db: Database, destination: Destination, calling: str, *, transport: Transport | None = None,
        commitment: Ask | None = None, now: Callable[[], float] = time.time, chance: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        self._db, self._destination = db, destination
        self._transport = transport or transport_of(destination, calling)
        self._profile = destination.wants
        self._now, self._chance = now, chance
        by_commitment = destination.proof == "commitment" and commitment is not None
        self._ask: Ask = commitment if by_commitment and commitment is not None else self._find
        self._word: Literal["commitment", "find"] = "commitment" if by_commitment else "find"
        self._asked = -math.inf

    def step(self) -> bool:
        """Ask for the delivery whose proof is due longest; False if none is, or if the destination is left alone."""
        name, now = self._destination.name, self._now()
        if self._asked <= now < self._asked + float(retry.policy()["proof"]["gap_s"]):  # before: the clock was set back
            return False
        delivery = proofs.due(self._db, name, now)
        if delivery is None:
            return False
        breaker = breakers.breaker(self._db, name)
        if breaker is not None and breaker.state != "closed":
            return False
        job = jobs.job(self._db, delivery.job_id)
        written = () if job is None else jobs.artifacts(self._db, job)
        objects = select(self._profile, written).standing(deliveries.sent(self._db, delivery.id))
        finding, missing = self._look(delivery, objects)
        self._conclude(delivery, objects, finding, missing)
        self._asked = self._now()
        return True

    def _look(self, delivery: Delivery, objects: Sequence[StoredArtifact]) -> tuple[Finding, frozenset[str]]:
        wanted = frozenset(a.sop_uid for a in objects)
        try:
            there = self._ask(delivery, objects)
        except NetworkError as error:
            return Finding(None, error.reason.code), wanted
        missing = wanted if there is None else wanted - there
        return Finding(None if there is None else len(missing)), missing

    def _find(self, delivery: Delivery, objects: Sequence[StoredArtifact]) -> frozenset[str]:
        by_series: dict[str, list[str]] = {}
        for artifact in objects:
            by_series.setdefault(artifact.series_uid, []).append(artifact.sop_uid)
        there: set[str] = set()
        for series, uids in by_series.items():
            there |= self._transport.find_instances(delivery.study_uid, series, uids)
        return frozenset(there)

    def _conclude(
        self, delivery: Delivery, objects: Sequence[StoredArtifact], finding: Finding, missing: frozenset[str]
    ) -> None:
        now, policy = self._now(), retry.policy()["proof"]
        asked, again = delivery.proof_attempts + 1, delivery.proof == "again"
        age = now - (delivery.ended or now)
        overdue = age > float(policy["give_up_s"])
        ruling, counts = judge(finding, asked, again=again, overdue=overdue)
        study = studies.study(self._db, delivery.study_uid)
        told = {"destination": delivery.destination, "study": study and study.hash, "job": delivery.job_id}
        match ruling:
            case "proved":
                if proofs.conclude(self._db, delivery, now, self._word):
                    _log.info("delivery.confirmed", **told, proof=self._word)
            case "later":
                wait_s = retry.Backoff.of("proof").wait(asked + 1, self._chance())
                if not counts:  # nobody answers: the longer ago, the more seldom
                    wait_s = min(float(policy["cap_s"]), max(wait_s, age / 2))
                proofs.ask_again(self._db, delivery, now + wait_s, counts=counts)
            case "send-again":
                if proofs.send_again(self._db, delivery, now, missing):
                    _log.warning("delivery.not-found", **told, missing=len(missing))
            case "missing":
                reason = REASONS(
                    "delivered-but-not-found",
                    destination=delivery.destination,
                    missing=len(missing),
                    total=len(objects),
                )
                if proofs.conclude(self._db, delivery, now, "missing", alarm=reason.as_json()):
                    alarm.tell(reason.code, None if study is None else study.hash, destination=delivery.destination)
            case _:
                if proofs.conclude(self._db, delivery, now, ruling):
                    _log.info("delivery.not-confirmed", **told, proof=ruling)
