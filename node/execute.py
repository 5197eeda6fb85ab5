"""One pipeline on one study: from headers to gated artifacts. No SQL, no network; `process` and the worker share it."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import structlog

from dicom_io.device import Device
from dicom_io.errors import DicomIOError
from dicom_io.files import make_folders
from dicom_io.model import Instance, Series, Study
from dicom_io.normalise import text_of_sender
from dicom_io.reason import Reason
from node.document import BLANK
from node.failpoint import passing
from node.identity import identity_of, patients
from node.installation import folder_of
from node.log import study_hash
from node.reasons import REASONS
from pipeline.api import Analysis, Considered, Pipeline, Selection
from pipeline.errors import NotAnalysed, PipelineError
from pipeline.result import Finding
from sr_writer import gate, tracking, write
from sr_writer.considered import Considered as Note
from sr_writer.gate import Refusal
from sr_writer.gate_claim import Claim
from sr_writer.identity import AnalysisIdentity
from sr_writer.numbering import in_viewing_order
from sr_writer.options import WriterOptions
from sr_writer.profiles import Piece, Profile, wanted
from sr_writer.write import Artifact, Predecessor

Outcome = Literal["result", "not_analysed", "failed"]
Progress = Callable[[str, float], None]

_log = structlog.get_logger()

REFUSED = "refused"
"""Folder beside the results for what the gate keeps back."""


@dataclass(frozen=True, slots=True)
class ExecutionContext:
    """What one execution needs besides study and pipeline.

    Parameters
    ----------
    installation_id : str
        Part of every UID.
    out : Path
        Folder of the study; the artifacts go to ``out/<pipeline>/``, those about a piece of it to ``out/<pipeline>/<UID>/``.
    now : datetime
        Aware; the analysis time in every object.
    writer : WriterOptions
        How objects are written.
    revision : int
        Of the study; from 2 on it stands in the series descriptions.
    predecessors : tuple[Predecessor, ...]
        Objects of the revision before that the new report follows.
    earlier : tuple[tuple[Path, ...], ...]
        Files of earlier revisions, the latest first, by which what is found again is known.
    profiles : tuple[Profile, ...]
        Of the destinations: everything that one of them wants is written. Empty: the profile of `writer`.
    progress : Progress or None
        Called with a stage and the share done.
    read_s : float
        Seconds that reading the study's headers has taken; told among the stages.
    subject : str
        ``study``, or the UID of the one series or image that this is about.
    """

    installation_id: str
    out: Path
    now: datetime
    writer: WriterOptions = field(default_factory=WriterOptions)
    revision: int = 1
    predecessors: tuple[Predecessor, ...] = ()
    earlier: tuple[tuple[Path, ...], ...] = ()
    profiles: tuple[Profile, ...] = ()
    progress: Progress | None = None
    read_s: float = 0.0
    subject: str = "study"

    def folder(self, pipeline: str) -> Path:
        """Return where the artifacts of `pipeline` go."""
        mine = self.out / pipeline
        return mine if self.subject == "study" else mine / folder_of(self.subject)

    def pieces(self, *, result: bool) -> tuple[Piece, ...] | None:
        """Return what is to be written; None: the objects of the writer's own profile, under plain names."""
        return wanted(self.profiles, result=result) if self.profiles else None


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """What came of one pipeline on one study.

    Parameters
    ----------
    outcome : Outcome
        Result, coded "not analysed because", or failure.
    reason : Reason or None
        None exactly for a result.
    retryable : bool
        Whether the same job may succeed later; only for failures.
    artifacts : tuple[Artifact, ...]
        What may leave.
    refusals : tuple[Refusal, ...]
        What the gate refused.
    document : dict
        The contract's job object.
    """

    outcome: Outcome
    reason: Reason | None
    retryable: bool
    artifacts: tuple[Artifact, ...]
    refusals: tuple[Refusal, ...]
    document: Mapping[str, Any]


def execute(study: Study, pipeline: Pipeline, context: ExecutionContext) -> JobOutcome:
    """Run `pipeline` on `study` and write what it says.

    Every way this can end is an outcome: nothing but an interruption and a failpoint leaves it otherwise.
    """
    job = _Job(study, pipeline, context)
    several = patients(identity_of(i.header) for i in study.instances)
    if several > 1:
        return job.ended("failed", REASONS("several-patients-in-study", count=several), card=False)
    try:
        return job.run()
    except (PipelineError, DicomIOError) as error:
        worked = isinstance(error, NotAnalysed) or error.reason.klass != "error"
        outcome: Outcome = "not_analysed" if worked else "failed"
        reason, retryable = error.reason, error.retryable
    except MemoryError:
        outcome, reason, retryable = "failed", REASONS("out-of-memory", pipeline=pipeline.name), True
    except OSError as error:
        outcome, reason, retryable = "failed", REASONS("writing-failed", error=os.strerror(error.errno or 0)), True
    except Exception as error:  # noqa: BLE001 - a pipeline may raise anything; silence would be worse than a coded failure
        _log.exception("pipeline crashed", study=study_hash(context.installation_id, study.study_instance_uid))
        crashed = REASONS("pipeline-crashed", pipeline=pipeline.name, error=type(error).__name__)
        outcome, reason, retryable = "failed", crashed, True
    # not inside the handlers: there the error would hold on to all that the pipeline had, and the card needs memory too
    return job.ended(outcome, reason, retryable=retryable)


class _Job:
    """One execution under way: what is known so far, and how it ends."""

    def __init__(self, study: Study, pipeline: Pipeline, context: ExecutionContext) -> None:
        self.study, self.pipeline, self.context = study, pipeline, context
        self.folder = context.folder(pipeline.name)
        self.considered: tuple[Considered, ...] = ()
        self.inputs: tuple[Instance, ...] = study.instances
        self.started = time.perf_counter()

    @property
    def text_notes(self) -> tuple[Reason, ...]:
        """What is odd about the character set of the study."""
        return text_of_sender(self.inputs[0].header)[0]

    @property
    def identity(self) -> AnalysisIdentity:
        return AnalysisIdentity.of(
            installation_id=self.context.installation_id,
            study_instance_uid=self.study.study_instance_uid,
            instances=self.inputs,
            pipeline=self.pipeline.name,
            version=self.pipeline.version,
            weights_digest=self.pipeline.weights_digest,
            options_digests=(self.pipeline.options_digest, self.context.writer.digest),
        )

    def run(self) -> JobOutcome:
        """Select and work; a selection without a series is an outcome of its own."""
        selection = self.pipeline.select(self.study)
        self.considered = selection.considered
        if selection.chosen is None:
            return self.ended("not_analysed", _known(selection))
        self.inputs = selection.chosen.instances
        analysis = self.pipeline.run(selection.chosen, self.context.progress)
        passing("job.worked")
        return self._finished(analysis, selection.chosen)

    def _finished(self, analysis: Analysis, chosen: Series) -> JobOutcome:
        """Write, gate and describe a result."""
        context, identity = self.context, self.identity
        result, tracks = tracking.follow(in_viewing_order(analysis.result), *context.earlier)
        said = {
            "device": result.device,
            "series_instance_uid": result.series_instance_uid,
            "quality": result.quality.as_json(),
            "measurements": [m.as_json() for m in result.measurements],
            "findings": [_finding(f, identity, tracks) for f in result.findings],
            "notes": [n.as_json() for n in (*self.text_notes, *result.notes)],
            "suggestions": [s.as_json() for s in result.suggestions],
            "summary": dict(result.summary),
        }
        claim = Claim.of(result, said)  # before anything is written
        make_folders(self.folder)
        shutil.rmtree(self.folder / REFUSED, ignore_errors=True)  # of an earlier attempt
        _say(context, "write", 0.9)
        before = time.perf_counter()
        written = write.write_result(
            result, analysis.volume, chosen, identity, context.writer, self.folder, context.now,
            context.revision, context.predecessors, tracks, context.pieces(result=True),
        )  # fmt: skip
        passing("job.written")
        _say(context, "gate", 0.95)
        between = time.perf_counter()
        artifacts, refusals = self._gated(written, chosen.instances, claim)
        after = time.perf_counter()
        timings = {
            **result.timings_s,
            "write": between - before,
            "gate": after - between,
            "total": after - self.started + context.read_s,
        }
        if refusals:
            reason = REASONS("refused-by-gate", codes=", ".join(sorted({r.reason.code for r in refusals})))
            withheld = {**self._withheld(written, refusals), "said": said}
            return replace(self.ended("failed", reason, withheld=withheld), refusals=refusals)
        document = {**self._base(identity, "result", None, artifacts, timings), **said}
        self._describe(document)
        return JobOutcome("result", None, retryable=False, artifacts=artifacts, refusals=(), document=document)

    def ended(
        self, outcome: Outcome, reason: Reason, *, retryable: bool = False, card: bool = True,
        withheld: Mapping[str, Any] | None = None,
    ) -> JobOutcome:  # fmt: skip
        """Say why there is no result; on a card too, unless the study is not this pipeline's or nobody knows whose."""
        identity = self.identity
        artifacts: tuple[Artifact, ...] = ()
        refusals: tuple[Refusal, ...] = ()
        if card and reason.klass != "not_applicable":
            try:
                artifacts, refusals = self._card(identity, outcome, reason)
            except Exception:  # noqa: BLE001 - the outcome itself must not be lost because it could not be drawn
                _log.exception("card not written", reason=reason.code)
        timings = {"total": time.perf_counter() - self.started + self.context.read_s}
        document = {**self._base(identity, outcome, reason, artifacts, timings), "withheld": withheld}
        if artifacts:
            self._describe(document)
        again = retryable and outcome == "failed"
        return JobOutcome(outcome, reason, retryable=again, artifacts=artifacts, refusals=refusals, document=document)

    def _card(self, identity: AnalysisIdentity, outcome: Outcome, reason: Reason) -> tuple[Any, Any]:
        make_folders(self.folder)
        written = write.write_card(
            reason, "failed" if outcome == "failed" else "not_analysed", self.study, identity, self.context.writer,
            self.folder, self.context.now, self.context.revision, self.context.predecessors,
            tuple(Note(c.series_instance_uid, c.reason) for c in self.considered), self.context.pieces(result=False),
        )  # fmt: skip
        passing("job.written")
        return self._gated(written, self.inputs)

    def _gated(
        self, written: Sequence[Artifact], sources: Sequence[Instance], claim: Claim | None = None
    ) -> tuple[tuple[Artifact, ...], tuple[Refusal, ...]]:
        """Let the gate judge; what it refuses moves to ``refused/`` and takes the whole analysis with it."""
        refusals = gate.check(written, sources, self.context.predecessors, claim)
        if not refusals:
            return tuple(written), ()
        aside = self.folder / REFUSED
        aside.mkdir(exist_ok=True)
        for artifact in written:
            artifact.path.replace(aside / artifact.name)
        for refusal in refusals:
            _log.error("refused by gate", artifact=refusal.artifact.name, reason=refusal.reason.code)
        return (), refusals

    def _withheld(self, written: Sequence[Artifact], refusals: Sequence[Refusal]) -> dict[str, Any]:
        """Say what the gate keeps back, and whether a person may let it go."""
        aside = self.folder / REFUSED
        objects = []
        for artifact in written:
            reasons = [r.reason.as_json() for r in refusals if r.artifact is artifact]
            moved = replace(artifact, path=aside / artifact.name)
            objects.append({**self._artifact(moved), "digest": artifact.digest, "reasons": reasons})
        releasable = all(gate.may_be_released(r.reason.code) for r in refusals)
        return {"objects": objects, "releasable": releasable, "decision": None}

    def _base(
        self,
        identity: AnalysisIdentity,
        outcome: Outcome,
        reason: Reason | None,
        artifacts: Iterable[Artifact],
        timings: Mapping[str, float],
    ) -> dict[str, Any]:
        return {
            **BLANK,
            "notes": [n.as_json() for n in self.text_notes],
            "device_of_origin": Device.of(self.inputs[0].header).as_json(),
            "pipeline": self.pipeline.name,
            "subject": self.context.subject,
            "pipeline_version": self.pipeline.version,
            "pipeline_digest": identity.pipeline_digest,
            "weights_digest": identity.weights_digest,
            "input_digest": identity.input_digest,
            "outcome": outcome,
            "reason": None if reason is None else reason.as_json(),
            "series_considered": [c.as_json() for c in self.considered],
            "artifacts": [self._artifact(a) for a in artifacts],
            "timings_s": {k: round(v, 3) for k, v in {"read": self.context.read_s, **timings}.items()},
        }

    def _artifact(self, artifact: Artifact) -> dict[str, Any]:
        return {
            "path": str(artifact.path.relative_to(self.context.out.parent)),
            "kind": artifact.kind,
            "variant": artifact.variant,
            "modality": artifact.modality,
            "sop_class_uid": artifact.sop_class_uid,
            "sop_instance_uid": artifact.sop_instance_uid,
            "series_instance_uid": artifact.series_instance_uid,
            "bytes": artifact.bytes,
        }

    def _describe(self, document: Mapping[str, Any]) -> None:
        """Write ``result.json`` beside the artifacts, whole or not at all."""
        part = self.folder / ".result.json.part"
        part.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")
        part.replace(self.folder / "result.json")


def _say(context: ExecutionContext, stage: str, share: float) -> None:
    if context.progress is not None:
        context.progress(stage, share)


def _known(selection: Selection) -> Reason:
    if selection.reason is None:
        raise ValueError("a selection that chose nothing and gives no reason")
    return selection.reason


def _finding(finding: Finding, identity: AnalysisIdentity, tracks: Mapping[str, str]) -> dict[str, Any]:
    return {
        "tracking_id": finding.tracking_id,
        "tracking_uid": tracks.get(finding.tracking_id) or identity.tracking_uid(finding.tracking_id),
        "code": finding.code.as_json(),
        "site": finding.site,
        "centroid_mm": None if finding.centroid_mm is None else [round(v, 2) for v in finding.centroid_mm],
        "measurements": [m.as_json() for m in finding.measurements],
        "segment_number": finding.segment_number,
    }
