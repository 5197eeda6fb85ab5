"""The deliverer process: one queue, one breaker and one thread per destination, so that none waits for another."""

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import structlog

from config.settings import Destination, Settings
from dicom_io.errors import DicomIOError, NetworkError
from dicom_io.read import digest_dataset
from dicom_io.reason import Reason
from dicom_io.scu import StoreReport
from dicom_io.scu_query import FoundStudy
from dicom_io.status import Outcome
from node import alarm, breaker, child, retry
from node.clock import made, surviving
from node.commitment import Archive, Messenger
from node.due import Due
from node.failpoint import passing
from node.installation import DataFolder
from node.nodes import beating, seated
from node.proof import Prover
from node.reasons import REASONS
from node.ris import Relayer
from node.selection import Fate, Selected, select
from node.store import Database, breakers, deliveries, jobs, open_database, place_of, proofs, studies
from node.store.rows import Delivery, DeliveryState, Identity, Proof, Sent, StoredArtifact, Study
from node.transport import Transport, transport_of
from node.whose import Whose, differences, whose

_log = structlog.get_logger()

_POLL_S = 0.3
_LEVELS = {"dead": "error", "quarantined": "error", "waiting": "warning", "held": "warning"}
_NOT_HEARD = frozenset({
    "no-answer", "query-unanswered", "peer-name-unknown", "peer-refused-connection", "peer-timeout",
    "association-rejected", "association-aborted", "http-unanswered", "http-not-authorised", "http-not-there",
    "http-token-missing",
})  # fmt: skip
"""Reasons that mean: the destination did not connect, negotiate or answer."""


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
        Whether the attempt counts.
    heard : bool or None
        Whether the destination answered; None if it was not spoken to.
    identity : Identity or None
        Whether it was asked whose study it is.
    """

    state: DeliveryState
    wait_s: float | None = None
    reason: Reason | None = None
    counts: bool = True
    heard: bool | None = None
    identity: Identity | None = None


def judge_store(fates: Sequence[Fate], attempts: int, chance: float) -> Verdict:
    """Judge where a delivery stands after an attempt at what was left of it.

    One object that the destination will never take does not keep the others from arriving, and not for ever: the
    delivery is `dead` once nothing is left to try. A result that is there in part is not delivered.
    """
    if not fates:
        return Verdict("dead", reason=REASONS("nothing-to-send"))
    again = [f for f in fates if f.outcome in (Outcome.RETRY, Outcome.CHECK)]
    if again:
        return Verdict("waiting", retry.after_failed_delivery(attempts, chance), again[0].reason)
    refused = [f for f in fates if f.outcome is Outcome.DEAD]
    if not refused:
        return Verdict("delivered", reason=next((f.reason for f in fates if f.reason is not None), None))
    arrived = len(fates) - len(refused)
    if not arrived:
        return Verdict("dead", reason=refused[0].reason)
    codes = ", ".join(sorted({str(f.code) for f in refused}))
    return Verdict("dead", reason=REASONS("partly-delivered", arrived=arrived, total=len(fates), codes=codes))


def judge_study(
    found: Sequence[FoundStudy], ours: Whose, destination: str, asked: int, chance: float
) -> Verdict | None:
    """Judge what the destination knows of a study, asked for the `asked`-th time; None if the results may go."""
    if not found:
        wait_s = retry.Backoff.of("unknown_study").wait(asked, chance)
        return Verdict("held", wait_s, REASONS("study-not-at-destination"), counts=False)
    differ = sorted({keyword for match in found for keyword in differences(ours, match)})
    if not differ:
        return None
    reason = REASONS("identity-differs-at-destination", destination=destination, what=", ".join(differ))
    return Verdict("quarantined", reason=reason)


def heard(reports: Sequence[StoreReport]) -> bool | None:
    """Say whether a destination answered: any status, and any refusal of a single object, is an answer."""
    said = [r.reason.code if r.status is None and r.reason is not None else None for r in reports]
    said = [code for code in said if code != "file-unreadable"]
    return None if not said else any(code not in _NOT_HEARD for code in said)


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
    """

    def __init__(
        self, db: Database, root: Path, destination: Destination, calling: str, *, owner: str | None = None,
        transport: Transport | None = None, now: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        self._db, self._root, self._destination, self._owner = db, root, destination, owner
        self._transport = transport or transport_of(destination, calling)
        self._profile = destination.wants
        self._now, self._chance = now, chance
        self._asked: dict[int, int] = {}
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
            verdict = self._attempt(delivery, chance)
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
            proof = ("none", None) if self._destination.proof == "none" else (again, first)
        settled = deliveries.settle(
            self._db, delivery, now, verdict.state,
            attempts=delivery.attempts if counts else delivery.attempts - 1, next_attempt=then,
            error=None if reason is None else reason.as_json(), identity=verdict.identity, proof=proof,
            alarm=None if about is None else about.as_json(),
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

    def _attempt(self, delivery: Delivery, chance: float) -> Verdict:
        job = jobs.job(self._db, delivery.job_id)
        study = studies.study(self._db, delivery.study_uid)
        written = () if job is None else jobs.artifacts(self._db, job)
        if study is None or not written:
            return Verdict("dead", reason=REASONS("nothing-to-send"))
        selected = select(self._profile, written)
        objects = selected.objects
        if not objects:
            return Verdict("dead", reason=REASONS("nothing-of-profile", profile=self._profile.name))
        fates = {uid: _earlier(row) for uid, row in deliveries.sent(self._db, delivery.id).items()}
        ready = self._whole(delivery, objects, fates) or self._whole(delivery, _others(selected, fates), fates)
        identity: Identity | None = "off" if ready else None  # what was sent before was asked about before
        if ready and self._destination.check_study:
            asked = self._ask(delivery, study, self._root / ready[0].path, chance)
            if isinstance(asked, Verdict):
                return asked
            identity = asked
        reports: list[StoreReport] = []
        if ready and self._send(delivery, ready, fates, reports):
            others = self._whole(delivery, _others(selected, fates), fates)
            if others:
                self._send(delivery, others, fates, reports)
        passing("deliver.sent")
        counted, note = selected.told(fates)
        if not counted and note is not None:
            return Verdict("dead", reason=note, heard=heard(reports), identity=identity)
        verdict = judge_store(counted, delivery.attempts, chance)
        reason = note if verdict.state == "delivered" and note is not None else verdict.reason
        return Verdict(verdict.state, verdict.wait_s, reason, heard=heard(reports), identity=identity)

    def _whole(
        self, delivery: Delivery, objects: Sequence[StoredArtifact], fates: dict[str, Fate]
    ) -> list[StoredArtifact]:
        """Return those of which nothing is known yet; a file that is damaged is never sent."""
        ready = [a for a in objects if a.sop_uid not in fates]
        for artifact, fate in [(a, f) for a in ready if (f := _kept(self._root, a)) is not None]:
            fates[artifact.sop_uid] = fate
            if fate.outcome is Outcome.DEAD:
                self._remember(delivery, artifact, None, fate.reason, accepted=False)
            ready.remove(artifact)
        return ready

    def _send(
        self, delivery: Delivery, ready: Sequence[StoredArtifact], fates: dict[str, Fate], reports: list[StoreReport]
    ) -> bool:
        """Send what is left; what is said for good about an object is on disk before the next one is sent.

        False: it was cancelled, or given to another node, meanwhile.
        """
        by_path = {self._root / a.path: a for a in ready}
        for report in self._transport.store(list(by_path)):
            artifact = by_path[report.path]
            reports.append(report)
            fate = self._fate(delivery, artifact, report)
            fates[artifact.sop_uid] = fate
            if fate.outcome in (Outcome.RETRY, Outcome.CHECK):
                continue
            kept = self._remember(
                delivery, artifact, report.status, fate.reason, accepted=fate.outcome is not Outcome.DEAD
            )
            passing("deliver.object")
            if not kept:
                return False
        return True

    def _remember(
        self, delivery: Delivery, artifact: StoredArtifact, status: int | None, reason: Reason | None, *, accepted: bool
    ) -> bool:
        told = None if reason is None else reason.as_json()
        row = Sent(artifact.sop_uid, accepted, status, told, self._now())
        return deliveries.remember(self._db, delivery, row)

    def _fate(self, delivery: Delivery, artifact: StoredArtifact, report: StoreReport) -> Fate:
        code = None if report.reason is None else report.reason.code
        if report.outcome is not Outcome.CHECK:
            return Fate(report.outcome, code, report.reason)
        # "has it already": an earlier attempt whose answer was lost, if a query shows it; nobody else makes these UIDs
        try:
            there = self._transport.find_instances(delivery.study_uid, artifact.series_uid, [artifact.sop_uid])
        except NetworkError as error:
            if error.reason.code not in ("query-not-offered", "query-failed"):
                return Fate(Outcome.RETRY, error.reason.code, error.reason)
            there = frozenset()
        if artifact.sop_uid in there:
            return Fate(Outcome.DELIVERED, code, report.reason)
        reason = REASONS("duplicate-not-shown")
        last = delivery.attempts >= retry.policy()["delivery"]["has_it_already"]  # archives index late
        return Fate(Outcome.DEAD if last else Outcome.RETRY, reason.code, reason)

    def _ask(self, delivery: Delivery, study: Study, path: Path, chance: float) -> Verdict | Identity:
        """Ask the destination whose study it is, if it answers such questions."""
        try:
            found = self._transport.find_study(study.uid)
        except NetworkError as error:
            code = error.reason.code
            if code == "query-not-offered":
                return "not-offered"
            wait_s = retry.after_failed_delivery(delivery.attempts, chance)
            return Verdict("waiting", wait_s, error.reason, heard=code not in _NOT_HEARD)
        asked = self._asked[delivery.id] = self._asked.get(delivery.id, 0) + 1
        verdict = judge_study(found, whose(path), delivery.destination, asked, chance)
        if verdict is None or verdict.state != "held":
            self._asked.pop(delivery.id, None)
        if verdict is None:
            return "checked"
        return Verdict(verdict.state, verdict.wait_s, verdict.reason, verdict.counts, heard=True, identity="checked")


def _others(selected: Selected, fates: Mapping[str, Fate]) -> list[StoredArtifact]:
    """Return what goes in the place of what the destination does not take."""
    return [a for choice in selected.choices for a in choice.second(fates)]


def _earlier(row: Sent) -> Fate:
    reason = None if row.reason is None else Reason.from_json(row.reason)
    if row.accepted:
        return Fate(Outcome.DELIVERED if reason is None else Outcome.DELIVERED_WITH_WARNING, None, reason)
    return Fate(Outcome.DEAD, None if reason is None else reason.code, reason)


def _kept(root: Path, artifact: StoredArtifact) -> Fate | None:
    """Say what keeps a file from being sent; None if it holds what was written: one UID never has two contents outside.

    Storage that is away for a while is waited for.
    """
    try:
        if digest_dataset(root / artifact.path) == artifact.digest:
            return None
    except DicomIOError as error:
        why = error.__cause__
        if isinstance(why, OSError) and not (isinstance(why, FileNotFoundError) and _is_there(root, artifact)):
            away = REASONS("artifact-unreadable", error=os.strerror(why.errno or 0))
            return Fate(Outcome.RETRY, away.code, away)
    damaged = REASONS("artifact-damaged")
    return Fate(Outcome.DEAD, damaged.code, damaged)


def _is_there(root: Path, artifact: StoredArtifact) -> bool:
    """Say whether the folder of all results answers: one that is not mounted is missing or empty."""
    with contextlib.suppress(OSError), os.scandir(root / Path(artifact.path).parts[0]) as found:
        return next(found, None) is not None
    return False


def run_deliverer(settings: Settings, connection: Connection) -> None:
    """Deliver until SIGTERM or the end of the parent; entry point of a spawned process."""
    stop = child.begin(connection)
    folder = DataFolder(settings.node.data_dir)
    db = made("deliverer", lambda: open_database(place_of(settings)), stop)
    if db is None:
        return
    seat = seated(db, "send", stop, settings)  # one queue and one breaker per destination: not two who send at a time
    if seat is None:
        return
    deliveries.interrupted(db, time.time(), owner=seat.owner)
    calling = settings.dicom.ae_titles[0]
    threads: list[threading.Thread] = []
    steps: list[tuple[str, str, Callable[[], bool]]] = []
    owed, doubtful = Due(partial(deliveries.due, db)), Due(partial(proofs.doubtful, db))
    for destination in settings.destination:
        courier = Courier(db, folder.path, destination, calling, owner=seat.owner)
        archive = Archive(db, folder.spool, destination, calling)
        prover = Prover(db, destination, calling, commitment=archive.confirm)
        steps += [
            ("deliver", destination.name, partial(_deliver, owed, destination.name, courier)),
            ("prove", destination.name, partial(_prove, doubtful, destination.name, prover)),
        ]
        if destination.name == settings.commitment.archive:
            messenger = Messenger(db, folder.spool, settings, destination)
            steps += [("ask", destination.name, messenger.ask), ("tell", destination.name, messenger.tell)]
    steps += [("relay", ris.name, Relayer(db, folder.spool, ris, calling).step) for ris in settings.ris]
    for name, place, step in steps:
        thread = threading.Thread(target=keep_at_it, args=(name, step, stop), daemon=True, name=f"{name} {place}")
        thread.start()
        threads.append(thread)

    def upkeep() -> None:
        _ = folder.installation_id  # the storage answers: on a dead mount this hangs, and so does what is to be sent
        deliveries.interrupted(db, time.time(), owner=seat.owner)

    keep = surviving("upkeep", beating(seat, upkeep))
    while db.shared and not stop.wait(float(retry.policy()["nodes"]["seat_s"])):
        keep()
    stop.wait()
    end = time.monotonic() + retry.policy()["process"]["stop_s"] / 2  # what is being sent may arrive
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    seat.close()


def _deliver(owed: Due, name: str, courier: Courier) -> bool:
    return (courier.unsettled or owed(name)) and courier.step()


def _prove(doubtful: Due, name: str, prover: Prover) -> bool:
    return doubtful(name) and prover.step()


def keep_at_it(name: str, step: Callable[[], bool], stop: threading.Event) -> None:
    """Take steps until `stop` is set; rest after one that found nothing to do."""
    busy = True

    def once() -> None:
        nonlocal busy
        busy = False
        busy = step()

    tick = surviving(name, once)
    while not stop.is_set():
        tick()
        if not busy:
            stop.wait(_POLL_S)
