"""Procedure steps on to the RIS: a scanner often knows one destination for them only, and that is the node now.

Each RIS has a queue and a thread of its own. Nothing overtakes: the order in which a scanner spoke is part of what it
said. A RIS that does not answer is waited for without end; what it refuses is tried again for a while where it may
change its mind, then given up, visibly.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from config.settings import RIS
from dicom_io.errors import NetworkError, UnreadableError
from dicom_io.reason import Reason
from dicom_io.scu_notices import Reply, judge, relay_step
from dicom_io.status import Outcome
from node import alarm, retry
from node.failpoint import passing
from node.reasons import REASONS
from node.store import Database, relays
from node.store.relays import Relay
from node.transport import peer_of

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an attempt comes to; `wait_s` exactly for ``waiting``, `refused` if the RIS answered with a failure."""

    state: Literal["waiting", "delivered", "dead"]
    wait_s: float | None = None
    reason: Reason | None = None
    refused: bool = False


def decide(kind: Literal["mpps-create", "mpps-set"], reply: Reply, relay: Relay, ris: str, chance: float) -> Verdict:
    """Judge an answer. Only answers count against the limit of attempts: silence is waited out."""
    outcome = judge(kind, reply)
    if outcome in (Outcome.DELIVERED, Outcome.DELIVERED_WITH_WARNING):
        return Verdict("delivered")
    if reply.status is None:
        return Verdict("waiting", _wait(relay, chance), REASONS("ris-silent", ris=ris))
    status = f"0x{reply.status:04X}"
    if outcome is Outcome.DEAD or _patience(relay) <= 0:
        return Verdict("dead", None, REASONS("relay-refused", ris=ris, status=status), refused=True)
    return Verdict(
        "waiting", _wait(relay, chance), REASONS("relay-refused-for-now", ris=ris, status=status), refused=True
    )


def decide_error(error: NetworkError, relay: Relay, ris: str, chance: float) -> Verdict:
    """Judge an attempt without an association for the notice; a RIS that does not offer the class may yet be set up."""
    offered = error.reason.code != "context-refused"
    if not offered and _patience(relay) <= 0:
        return Verdict("dead", None, REASONS("relay-not-offered", ris=ris), refused=True)
    return Verdict("waiting", _wait(relay, chance), error.reason, refused=not offered)


def _wait(relay: Relay, chance: float) -> float:
    return retry.Backoff.of("relay").wait(relay.attempts + 1, chance)


def _patience(relay: Relay) -> int:
    """Return how many refusals are borne after one more."""
    return int(retry.policy()["relay"]["refusals"]) - relay.refused - 1


class Relayer:
    """Passes notices on to one RIS.

    Parameters
    ----------
    db : Database
        The rows.
    spool : Path
        What paths of notices are relative to.
    ris : RIS
        Where to.
    calling : str
        Our AE title.
    now : Callable[[], float]
        The clock (s since the epoch).
    chance : Callable[[], float]
        Uniform in 0..1; spreads the waits.
    """

    def __init__(
        self, db: Database, spool: Path, ris: RIS, calling: str, *,
        now: Callable[[], float] = time.time, chance: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        self._db, self._spool, self._name = db, spool, ris.name
        self._peer = peer_of(ris, calling)
        self._now, self._chance = now, chance

    def step(self) -> bool:
        """Try the notice that came first; False if none waits, or if its time has not come."""
        relay = relays.first(self._db, self._name)
        if relay is None or relay.next_attempt > self._now():
            return False
        verdict = self._attempt(relay)
        passing("relay.before_commit")
        now = self._now()
        relays.settle(
            self._db, relay, verdict.state, refused=verdict.refused,
            next_attempt=None if verdict.wait_s is None else now + verdict.wait_s,
            error=None if verdict.reason is None else verdict.reason.as_json(),
        )  # fmt: skip
        code = None if verdict.reason is None else verdict.reason.code
        tell = {"delivered": _log.info, "waiting": _log.warning, "dead": _log.error}[verdict.state]
        tell(f"relay.{verdict.state}", ris=self._name, notice=relay.kind, entry=relay.entry, reason=code)
        self._alarm(relay, verdict, now)
        return True

    def _attempt(self, relay: Relay) -> Verdict:
        kind: Literal["mpps-create", "mpps-set"] = "mpps-create" if relay.kind == "mpps-create" else "mpps-set"
        if kind == "mpps-set" and relays.is_dead(self._db, self._name, relay.uid):
            return Verdict("dead", None, REASONS("relay-without-beginning", ris=self._name))
        try:
            reply = relay_step(self._peer, kind, relay.uid, self._spool / relay.entry)
        except NetworkError as error:
            return decide_error(error, relay, self._name, self._chance())
        except (UnreadableError, OSError, ValueError):
            return Verdict("dead", None, REASONS("relay-unreadable", ris=self._name))
        passing("relay.sent")
        return decide(kind, reply, relay, self._name, self._chance())

    def _alarm(self, relay: Relay, verdict: Verdict, now: float) -> None:
        if verdict.state == "dead" and verdict.reason is not None:
            alarm.ring(self._db, verdict.reason, self._name, now)
        elif verdict.state == "delivered":
            alarm.quieten(self._db, "ris-behind", self._name, now)
        elif now - relay.received > float(retry.policy()["relay"]["alarm_s"]):
            alarm.ring(self._db, REASONS("ris-behind", ris=self._name), self._name, now)
