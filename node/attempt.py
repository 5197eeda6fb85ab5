"""One attempt at a delivery: what is left of it is sent, and what the destination says of each object is kept."""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from config.settings import Destination
from dicom_io.errors import DicomIOError, NetworkError
from dicom_io.read import digest_dataset
from dicom_io.reason import Reason
from dicom_io.scu import StoreReport
from dicom_io.status import Outcome
from node import retry
from node.failpoint import passing
from node.reasons import REASONS
from node.rejection import Notes
from node.selection import Fate, Selected, only, select
from node.store import Database, deliveries, jobs, rejections, studies
from node.store.rows import Delivery, Identity, Sent, StoredArtifact, Study
from node.transport import Transport
from node.verdict import NOT_HEARD, Verdict, heard, judge_store, judge_study
from node.whose import whose


class Attempts:
    """Tries deliveries to one destination.

    Parameters
    ----------
    db : Database
        The rows.
    root : Path
        The data folder that paths of artifacts are relative to.
    destination : Destination
        Where to.
    transport : Transport
        How to speak to it.
    now : Callable[[], float]
        The clock (s since the epoch).
    notes : Notes or None
        Who writes rejection notes, where the destination asks for them.
    """

    def __init__(
        self, db: Database, root: Path, destination: Destination, transport: Transport, now: Callable[[], float],
        notes: Notes | None = None,
    ) -> None:  # fmt: skip
        self._db, self._root, self._destination = db, root, destination
        self._transport, self._now, self._notes = transport, now, notes
        self._profile = destination.wants
        self._asked: dict[int, int] = {}

    def attempt(self, delivery: Delivery, chance: float) -> Verdict:
        """Send what is left of a delivery; `chance` spreads the waits."""
        study = studies.study(self._db, delivery.study_uid)
        selected = self._note(delivery, chance) if delivery.what == "rejection" else self._results(delivery)
        if study is None or isinstance(selected, Verdict):
            return selected if isinstance(selected, Verdict) else Verdict("dead", reason=REASONS("nothing-to-send"))
        objects = selected.objects
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

    def _results(self, delivery: Delivery) -> Selected | Verdict:
        """Return what the destination gets of a job."""
        job = jobs.job(self._db, delivery.job_id)
        written = () if job is None else jobs.artifacts(self._db, job)
        if not written:
            return Verdict("dead", reason=REASONS("nothing-to-send"))
        selected = select(self._profile, written)
        if not selected.objects:
            return Verdict("dead", reason=REASONS("nothing-of-profile", profile=self._profile.name))
        return selected

    def _note(self, delivery: Delivery, chance: float) -> Selected | Verdict:
        """Return the note about what the destination has of earlier results; nothing is guessed where a file is gone."""
        old = rejections.replaced(self._db, delivery)
        if not old:  # named by a note that has arrived, and whose end was not written down any more
            return Verdict("delivered")
        kept = [fate for a in old if (fate := _kept(self._root, a)) is not None]
        if away := [fate for fate in kept if fate.outcome is Outcome.RETRY]:
            return Verdict("waiting", retry.after_failed_delivery(delivery.attempts, chance), away[0].reason)
        if kept or self._notes is None:
            return Verdict("dead", reason=REASONS("rejection-not-provable", count=len(kept)))
        note = self._notes.note(delivery, old)
        return only(note) if isinstance(note, StoredArtifact) else Verdict("dead", reason=note)

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
            return Verdict("waiting", wait_s, error.reason, heard=code not in NOT_HEARD)
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
