"""The deliverer process: one queue and one thread per destination, so that none waits for another."""

import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import structlog

from config.settings import Destination, Settings
from dicom_io import scu, scu_query
from dicom_io.errors import NetworkError
from dicom_io.reason import Reason
from dicom_io.scu import Peer, StoreReport
from dicom_io.scu_query import FoundStudy
from dicom_io.status import Outcome
from node import child, retry
from node.clock import surviving
from node.failpoint import passing
from node.installation import DataFolder
from node.reasons import REASONS
from node.store import Database, deliveries, jobs, open_database, studies
from node.store.rows import Delivery, DeliveryState, Study

_log = structlog.get_logger()

_POLL_S = 0.3


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an attempt comes to.

    Parameters
    ----------
    state : DeliveryState
        Next state of the delivery.
    wait_s : float or None
        Seconds until the next attempt; None if there is none.
    reason : Reason or None
        Why not, or what was remarkable.
    counts : bool
        Whether the attempt counts against the limit.
    """

    state: DeliveryState
    wait_s: float | None = None
    reason: Reason | None = None
    counts: bool = True


def judge_store(reports: Sequence[StoreReport], attempts: int, chance: float) -> Verdict:
    """Judge one attempt at sending all objects of a delivery.

    All or nothing: an object that is sent twice is the same object. One that the peer will never take ends the
    delivery, and the others have been sent all the same.
    """
    if not reports:
        return Verdict("dead", reason=REASONS("nothing-to-send"))
    for outcome in (Outcome.DEAD, Outcome.RETRY):
        worst = next((r for r in reports if r.outcome is outcome), None)
        if worst is None:
            continue
        wait_s = retry.after_failed_delivery(attempts, chance) if outcome is Outcome.RETRY else None
        return Verdict("dead" if wait_s is None else "waiting", wait_s, worst.reason)
    # "has it already" is an earlier attempt whose answer was lost: nobody else makes these UIDs
    return Verdict("delivered", reason=next((r.reason for r in reports if r.reason is not None), None))


def judge_study(found: Sequence[FoundStudy], study: Study, attempts: int, chance: float) -> Verdict | None:
    """Judge what the destination knows of a study; None if the results may go."""
    if not found:
        wait_s = retry.Backoff.of("unknown_study").wait(attempts, chance)
        return Verdict("held", wait_s, REASONS("study-not-at-destination"), counts=False)
    for match in found:
        issuers = {match.issuer_of_patient_id, study.issuer} - {""}
        if match.patient_id != study.patient_id or len(issuers) > 1:
            return Verdict("quarantined", reason=REASONS("identity-differs-at-destination"))
    return None


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
    """

    def __init__(self, db: Database, root: Path, destination: Destination, calling: str) -> None:
        self._db, self._root, self._destination = db, root, destination
        self._peer = Peer(destination.host, destination.port, destination.ae_title, calling)
        self._unknown: dict[int, int] = {}
        self._unsettled = False

    def step(self) -> bool:
        """Try the delivery that is due longest; False if none is."""
        name = self._destination.name
        if self._unsettled:  # the last attempt could not be written down (a full disk): nobody else sends to this place
            deliveries.interrupted(self._db, time.time(), name)
            self._unsettled = False
        if not deliveries.due(self._db, name, time.time()):
            return False
        delivery = deliveries.take(self._db, name, time.time())
        if delivery is None:
            return False
        self._unsettled = True
        verdict = self._attempt(delivery)
        now = time.time()
        reason: Mapping[str, Any] | None = None if verdict.reason is None else verdict.reason.as_json()
        deliveries.settle(
            self._db, delivery, now, verdict.state,
            attempts=delivery.attempts if verdict.counts else delivery.attempts - 1,
            next_attempt=None if verdict.wait_s is None else now + verdict.wait_s, error=reason,
        )  # fmt: skip
        self._unsettled = False
        study = studies.study(self._db, delivery.study_uid)
        levels = {"dead": _log.error, "quarantined": _log.error, "waiting": _log.warning, "held": _log.warning}
        tell = levels.get(verdict.state, _log.info)
        code = None if verdict.reason is None else verdict.reason.code
        tell(
            f"delivery.{verdict.state}", destination=name, study=study and study.hash, job=delivery.job_id, reason=code
        )
        return True

    def _attempt(self, delivery: Delivery) -> Verdict:
        chance = random.random()  # noqa: S311 - spreads waits
        study = studies.study(self._db, delivery.study_uid)
        job = jobs.job(self._db, delivery.job_id)
        if study is None or job is None:
            return Verdict("dead", reason=REASONS("nothing-to-send"))
        if self._destination.check_study:
            verdict = self._ask(delivery, study, chance)
            if verdict is not None:
                return verdict
        paths = [self._root / a.path for a in jobs.artifacts(self._db, job)]
        reports = list(scu.store(self._peer, paths))
        passing("deliver.sent")
        return judge_store(reports, delivery.attempts, chance)

    def _ask(self, delivery: Delivery, study: Study, chance: float) -> Verdict | None:
        """Ask the destination whose study it is, if it answers such questions."""
        try:
            found = scu_query.find_study(self._peer, study.uid)
        except NetworkError as error:
            if error.reason.code == "query-not-offered":
                return None
            wait_s = retry.after_failed_delivery(delivery.attempts, chance)
            return Verdict("dead" if wait_s is None else "waiting", wait_s, error.reason)
        asked = self._unknown[delivery.id] = self._unknown.get(delivery.id, 0) + 1
        verdict = judge_study(found, study, asked, chance)
        if verdict is None or verdict.state != "held":
            self._unknown.pop(delivery.id, None)
        return verdict


def run_deliverer(settings: Settings, connection: Connection) -> None:
    """Deliver until SIGTERM or the end of the parent; entry point of a spawned process."""
    stop = child.begin(settings, connection)
    folder = DataFolder(settings.node.data_dir)
    db = open_database(folder.database)
    deliveries.interrupted(db, time.time())
    threads = []
    for destination in settings.destination:
        courier = Courier(db, folder.path, destination, settings.dicom.ae_titles[0])
        thread = threading.Thread(target=_deliver, args=(courier, stop), daemon=True, name=destination.name)
        thread.start()
        threads.append(thread)
    stop.wait()
    end = time.monotonic() + retry.policy()["process"]["stop_s"] / 2  # what is being sent may arrive
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))


def _deliver(courier: Courier, stop: threading.Event) -> None:
    busy = True

    def step() -> None:
        nonlocal busy
        busy = False
        busy = courier.step()

    tick = surviving("deliver", step)
    while not stop.is_set():
        tick()
        if not busy:
            stop.wait(_POLL_S)
