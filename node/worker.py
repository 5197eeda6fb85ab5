"""The worker process: claim, execute, commit. `Worker.run` is the only way a job runs."""

import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import structlog

from config.settings import Settings
from dicom_io.errors import UnreadableError
from dicom_io.model import Instance, Series, Study, group
from dicom_io.reason import Reason
from node import alarm, calling, child, identity, log, recover, retry
from node.clock import made
from node.document import unfit
from node.execute import ExecutionContext, JobOutcome, execute
from node.failpoint import passing
from node.images import images
from node.indexer import charsets
from node.installation import DataFolder, folder_of, node_name
from node.reasons import REASONS
from node.store import Database, corrections, jobs, open_database, place_of, studies
from node.store.jobs import Lane
from node.store.rows import Job, StoredArtifact
from node.told import told
from pipeline.api import Analysis, Pipeline, Progress, Selection
from pipeline.errors import PipelineError, PipelineFailed
from sr_writer.identity import AnalysisIdentity
from sr_writer.profiles import Profile, profile
from sr_writer.write import Artifact, Predecessor

_log = structlog.get_logger()

_POLL_S = {"fast": 0.1, "others": 0.2}
_FAST_NICE = 2
"""Somebody stands beside the patient and waits: before what arrives is indexed, after what arrives."""


class _Overtaken(BaseException):
    """The job is no longer ours: a late image, an operator or a lost lease took it. Not an error of the pipeline."""


@dataclass(slots=True)  # not frozen: the protocol has plain attributes
class _Refusing:
    """Stands in for a pipeline that must not run again: says why, so that a card is written."""

    name: str
    version: str
    weights_digest: str
    options_digest: str
    reason: Reason

    def select(self, study: Study) -> Selection:
        del study
        raise PipelineFailed(self.reason)

    def run(self, series: Series, progress: Progress | None = None) -> Analysis:
        del series, progress
        raise PipelineFailed(self.reason)


class Worker:
    """Runs jobs one after the other, with its pipelines resident.

    Parameters
    ----------
    db : Database
        The rows.
    folder : DataFolder
        Spool and artifacts.
    settings : Settings
        Of the node.
    owner : str
        Unique over processes and restarts.
    load : Callable[[str], Pipeline]
        Name to pipeline, loaded once; raises PipelineError.
    now : Callable[[], float]
        The clock (s since the epoch).
    lane : Lane
        Which jobs it takes.
    """

    def __init__(
        self,
        db: Database,
        folder: DataFolder,
        settings: Settings,
        owner: str,
        load: Callable[[str], Pipeline],
        now: Callable[[], float] = time.time,
        lane: Lane = "all",
    ) -> None:
        self._db, self._folder, self._settings, self.owner = db, folder, settings, owner
        self._installation_id = folder.installation_id
        self._charsets = charsets(settings)
        self.pipeline, self._now, self._lane = load, now, lane
        self._writer = replace(settings.writer, languages=settings.node.languages)
        self._wants = {place.name: place.wants for place in settings.destination if place.kind != "webhook"}
        self._webhooks = {place.name for place in settings.destination if place.kind == "webhook"}
        self._stage: tuple[str | None, float | None] = (None, None)
        self._lost = threading.Event()

    def run(self, job_id: int) -> bool:
        """Claim a job and bring it to an end; False if it was not to be had, or no longer ours in the end."""
        worker = self._settings.worker
        job = jobs.claim(self._db, job_id, self.owner, self._now(), worker.lease_s)
        if job is None:
            return False
        passing("job.claimed")
        study_hash = self._hashed(job)
        _log.info("job.started", job=job.id, study=study_hash, pipeline=job.pipeline, attempt=job.attempts)
        self._lost.clear()
        self._stage = (None, None)
        over = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(job.id, over), daemon=True, name="lease")
        keeper.start()
        try:
            done = self._work(job)
        except _Overtaken:
            done = False
        finally:
            over.set()
            keeper.join()
        _log.info("job.ended" if done else "job.overtaken", job=job.id, study=study_hash, pipeline=job.pipeline)
        return done

    def called(self, job_id: int) -> None:
        """Run a job that somebody called for, whatever comes of it: its row knows."""
        try:
            self.run(job_id)
        except Exception:  # noqa: BLE001 - the row keeps its lease and comes back; the worker must go on
            _log.exception("job not brought to an end")

    def loop(self, stop: threading.Event) -> None:
        """Run what is due until `stop` is set."""
        while not stop.is_set():
            try:
                due = jobs.due(self._db, self._now(), lane=self._lane)
                if not any(self.run(job_id) for job_id in due):
                    stop.wait(_POLL_S["fast" if self._lane == "fast" else "others"])
            except Exception:  # noqa: BLE001 - the row keeps its lease and comes back; the worker must go on
                _log.exception("job not brought to an end")
                stop.wait(self._settings.worker.lease_s)

    def _keep(self, job_id: int, over: threading.Event) -> None:
        """Renew the lease until the job is over, or lost."""
        lease_s = self._settings.worker.lease_s
        while not over.wait(min(lease_s / 3, 2.0)):
            try:
                if not jobs.renew(self._db, job_id, self.owner, self._now() + lease_s, *self._stage):
                    self._lost.set()
                    return
            except Exception:  # noqa: BLE001 - a busy disk: the next round tries again, the lease is three rounds long
                _log.exception("lease not renewed", job=job_id)

    def _hashed(self, job: Job) -> str:
        return log.study_hash(self._installation_id, job.study_uid)

    def _progress(self, stage: str, share: float) -> None:
        self._stage = (stage, share)
        if self._lost.is_set():
            raise _Overtaken

    def _work(self, job: Job) -> bool:
        name = job.pipeline or ""
        limit = self._settings.worker.attempts
        try:
            pipeline = self.pipeline(name)
        except PipelineError as error:
            outcome = "failed" if error.reason.klass == "error" else "not_analysed"
            return self._end(job, outcome, error.reason, {**unfit(name, error.reason, job.subject), "outcome": outcome})
        odd = whose_study(self._db, job.study_uid, self._now())
        if odd is not None:
            return self._end(job, "failed", odd, {**unfit(name, odd, job.subject), "outcome": "failed"}, rung=True)
        begin = time.perf_counter()
        try:
            study, key = self._study(job)
        except UnreadableError as error:
            return self._end(
                job, "failed", error.reason, {**unfit(name, error.reason, job.subject), "outcome": "failed"}
            )
        read_s = time.perf_counter() - begin
        if retry.only_card(job.attempts, limit):
            p, reason = pipeline, REASONS("worker-lost", count=limit)
            pipeline = _Refusing(p.name, p.version, p.weights_digest, p.options_digest, reason)
        else:
            base = self._unchanged(job, study, pipeline)
            if base is not None:
                return self._carry(job, base)
        earlier = self._earlier(job)
        old = earlier[0] if earlier else ()
        context = ExecutionContext(
            installation_id=self._installation_id,
            out=self._folder.artifacts / folder_of(job.study_uid) / key,
            now=datetime.fromtimestamp(self._now(), UTC),
            writer=self._writer,
            revision=job.revision if job.subject == "study" else 1 + len(earlier),
            subject=job.subject,
            predecessors=tuple(
                Predecessor(a.sop_class, a.sop_uid, a.series_uid, self._folder.path / a.path, a.variant) for a in old
            ),
            earlier=tuple(tuple(self._folder.path / a.path for a in of) for of in earlier),
            profiles=self._profiles(job),
            progress=self._progress,
            read_s=read_s,
        )
        return self._conclude(job, execute(study, pipeline, context))

    def _earlier(self, job: Job) -> list[tuple[StoredArtifact, ...]]:
        """Return what stands of earlier revisions, the latest first, back to the last segmentation."""
        found: list[tuple[StoredArtifact, ...]] = []
        before = jobs.predecessor(self._db, job, besides=self._webhooks)
        while before is not None:
            found.append(jobs.artifacts(self._db, before))
            seen = any(a.kind == "seg" for a in found[-1])
            before = None if seen else jobs.predecessor(self._db, job, before=before, besides=self._webhooks)
        return found

    def _profiles(self, job: Job) -> tuple[Profile, ...]:
        """Return what the destinations of a job want; of a job that goes nowhere, the writer's own."""
        found = {p: None for name, p in self._wants.items() if name in job.send_to}
        return tuple(found) or (profile(self._writer.profile),)

    def _study(self, job: Job) -> tuple[Study, str]:
        """Return the job's candidates, and a name for exactly these bytes."""
        instances = images(self._db, self._folder.spool, self._charsets, job)
        named = sorted(f"{i.sop_instance_uid} {i.digest}" for i in instances)
        return group(instances)[0], hashlib.sha256("\n".join(named).encode()).hexdigest()[:16]

    def _unchanged(self, job: Job, study: Study, pipeline: Pipeline) -> Job | None:
        """Return the earlier job whose outcome still stands, because this one would look at the same bytes."""
        base = jobs.standing(self._db, job)
        if base is None or base.document is None:
            return None
        chosen = pipeline.select(study)
        if chosen.chosen is not None:
            inputs = chosen.chosen.instances
        elif base.outcome == "not_analysed" and (base.reason or {}).get("code") == (
            chosen.reason and chosen.reason.code
        ):
            inputs = self._seen(base, study)  # a late image makes no second card, but another identity does
        else:
            return None
        identity = AnalysisIdentity.of(
            installation_id=self._installation_id,
            study_instance_uid=study.study_instance_uid,
            instances=inputs,
            pipeline=pipeline.name,
            version=pipeline.version,
            weights_digest=pipeline.weights_digest,
            options_digests=(pipeline.options_digest, self._writer.digest),
        )
        digests = (base.input_digest, base.document.get("pipeline_digest"))
        return base if digests == (identity.input_digest, identity.pipeline_digest) else None

    def _seen(self, base: Job, study: Study) -> tuple[Instance, ...]:
        """Return the instances of `study` that were there when the outcome of `base` was first found."""
        first = jobs.job(self._db, base.carried_from or base.id) or base
        there = {row.sop_uid for row in studies.images(self._db, first.study_uid, first.upto, first.series)}
        return tuple(i for i in study.instances if i.sop_instance_uid in there)

    def _carry(self, job: Job, base: Job) -> bool:
        """End a job with the outcome of `base`; send only what has not been sent."""
        root = base.carried_from or base.id
        to = self._told(job, base.outcome or "", base.reason, base.document or {}, jobs.artifacts(self._db, base))
        return jobs.finish(
            self._db, job, self.owner, self._now(), state="done", outcome=base.outcome or "", reason=base.reason,
            document=base.document or {}, send_to=to, carried_from=root,
        )  # fmt: skip

    def _conclude(self, job: Job, outcome: JobOutcome) -> bool:
        """Commit an outcome, or put a failure that may pass back into the queue."""
        now = self._now()
        reason = None if outcome.reason is None else outcome.reason.as_json()
        if outcome.outcome == "failed" and outcome.reason is not None:
            limit = self._settings.worker.attempts
            wait_s = retry.after_failure(job.attempts, limit, random.random(), retryable=outcome.retryable)  # noqa: S311 - spreads waits
            if wait_s is not None:
                code, study_hash = outcome.reason.code, self._hashed(job)
                _log.warning("job.failed", job=job.id, study=study_hash, reason=code, again_in_s=round(wait_s, 1))
                return jobs.give_back(
                    self._db, job, self.owner, now,
                    attempts=job.attempts, losses=job.losses, not_before=now + wait_s, why=outcome.reason.code,
                )  # fmt: skip
        quarantined: dict[str, Mapping[str, Any]] = {}
        if outcome.refusals:  # the destinations miss something, even where a card tells them so
            codes = sorted({r.reason.code for r in outcome.refusals})
            _log.error("job.quarantined", job=job.id, study=self._hashed(job), reasons=codes)
            kept_from = [name for name in job.send_to if name not in self._webhooks]
            quarantined = dict.fromkeys(kept_from, outcome.refusals[0].reason.as_json())
        to = self._told(job, outcome.outcome, reason, outcome.document, outcome.artifacts)
        document = _placed(outcome.document, job)
        return self._commit(job, outcome.outcome, reason, document, outcome.artifacts, to, quarantined, now)

    def _end(self, job: Job, outcome: str, reason: Reason, document: Mapping[str, Any], *, rung: bool = False) -> bool:
        said = reason.as_json()
        to = self._told(job, outcome, said, document, ())
        return self._commit(job, outcome, said, document, (), to, {}, self._now(), rung=rung)

    def _told(
        self, job: Job, outcome: str, reason: Mapping[str, Any] | None, document: Mapping[str, Any],
        written: Sequence[object],
    ) -> tuple[str, ...]:  # fmt: skip
        """Return the destinations that are told; where nothing was written, only those that take documents."""
        names = told(job.send_to, outcome, reason, document)
        return names if written else tuple(name for name in names if name in self._webhooks)

    def _commit(
        self, job: Job, outcome: str, reason: Mapping[str, Any] | None, document: Mapping[str, Any],
        artifacts: tuple[Artifact, ...], told: tuple[str, ...], quarantined: Mapping[str, Mapping[str, Any]], now: float,
        *, rung: bool = False,
    ) -> bool:  # fmt: skip
        """Write the outcome down; a failure rings, unless its reason has `rung` already."""
        rows = [_row(a, job, self._folder.path) for a in artifacts]
        tell = _log.error if outcome == "failed" else _log.info
        study_hash = self._hashed(job)
        code = (reason or {}).get("code")
        tell("job.outcome", job=job.id, study=study_hash, pipeline=job.pipeline, outcome=outcome, reason=code)
        failed = outcome == "failed"
        about = recover.failed(job, reason) if failed and not rung else None
        done = jobs.finish(
            self._db, job, self.owner, now, state="dead" if failed else "done", outcome=outcome, reason=reason,
            document=document, artifacts=rows, send_to=told, quarantined=quarantined, alarm=about,
        )  # fmt: skip
        if done and about is not None:
            alarm.tell(about["code"], study_hash)
        return done


def whose_study(db: Database, study_uid: str, now: float) -> Reason | None:
    """Return why nobody can say whose study this is, with an alarm that stands for as long as it is so; None if it is clear."""
    named, left = corrections.identities(db, study_uid)
    several = identity.patients(named)
    study = studies.study(db, study_uid)
    about = None if study is None else (study.uid, study.hash)
    found: Reason | None = None
    for code, wrong, count in (
        ("several-patients-in-study", several > 1, several),
        ("identity-partly-corrected", left > 0, left),
    ):
        if not wrong:
            alarm.quieten(db, code, study_uid, now, study=about)
            continue
        reason = REASONS(code, count=count)
        alarm.ring(db, reason, study_uid, now, study=about)
        found = found or reason
    return found


def _placed(document: Mapping[str, Any], job: Job) -> Mapping[str, Any]:
    """Return the document with the places of what the gate keeps back below the data folder, as `show` names all artifacts."""
    kept = document.get("withheld")
    if kept is None:
        return document
    inside = f"artifacts/{folder_of(job.study_uid)}/"
    return {**document, "withheld": {**kept, "objects": [{**o, "path": inside + o["path"]} for o in kept["objects"]]}}


def _row(artifact: Artifact, job: Job, root: Path) -> StoredArtifact:
    return StoredArtifact(
        job.id, artifact.name, str(artifact.path.relative_to(root)), artifact.kind, artifact.modality,
        artifact.sop_class_uid, artifact.sop_instance_uid, artifact.series_instance_uid, artifact.bytes, artifact.digest,
        variant=artifact.variant,
    )  # fmt: skip


def run_worker(settings: Settings, connection: Connection, boot: float, lane: Lane = "all") -> None:
    """Work until SIGTERM or the end of the parent; entry point of a spawned process."""
    stop = child.begin(connection)
    os.nice(min(settings.worker.nice, _FAST_NICE) if lane == "fast" else settings.worker.nice)
    from pipeline import registry  # noqa: PLC0415 - a pipeline's libraries belong into this process alone

    folder = DataFolder(settings.node.data_dir)
    db = made("worker", lambda: open_database(place_of(settings)), stop)
    if db is None:
        return
    shelf = registry.shelf(settings.pipeline, settings.worker.device)
    owner = recover.owner_of(node_name(settings), boot, os.getpid())
    worker = Worker(db, folder, settings, owner, shelf, lane=lane)
    threading.Thread(target=_live, args=(db, worker, settings, stop, lane), daemon=True, name="jobs").start()
    stop.wait()
    # the job's thread may be inside a long computation: its row is given back here and the process ends without it
    recover.worker_ended(db, worker.owner, time.time(), settings.worker.attempts, planned=True)
    os._exit(0)


def _live(db: Database, worker: Worker, settings: Settings, stop: threading.Event, lane: Lane) -> None:
    for name in calling.pipelines(settings.rule, lane):
        try:
            worker.pipeline(name)  # resident before the first study comes
        except PipelineError as error:
            _log.error("pipeline not loaded", pipeline=name, reason=error.reason.code)
    calling.work(db, worker, settings, stop, lane)
