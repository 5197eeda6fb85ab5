"""Folders, zip files and single files in, artifacts and one document out: the node without network and database."""

import json
import os
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from dicom_io.discover import discover
from dicom_io.model import Instance, Study, group
from dicom_io.reason import Reason
from dicom_io.reasons import REASONS as DICOM_REASONS
from node.document import unfit
from node.execute import ExecutionContext, Progress, execute
from node.installation import folder_of
from node.reasons import REASONS
from pipeline import registry
from pipeline.api import Pipeline
from pipeline.errors import PipelineError
from sr_writer.options import WriterOptions

SCHEMA = "pacs-ai-node/process/1"


class OutputFolderError(Exception):
    """The output folder cannot be used."""


@dataclass(frozen=True, slots=True)
class ProcessOptions:
    """What `process` is asked for.

    Parameters
    ----------
    pipelines : tuple[str, ...]
        Names; empty for every pipeline that is meant for the study.
    load : callable
        Pipeline name to pipeline; raises PipelineError if it is not installed here.
    writer : WriterOptions
        How objects are written.
    version : str
        Of the node.
    now : datetime
        Analysis time of every object that is written anew.
    """

    load: Callable[[str], Pipeline]
    version: str
    now: datetime
    pipelines: tuple[str, ...] = ()
    writer: WriterOptions = field(default_factory=WriterOptions)


def process(
    paths: Sequence[Path],
    out: Path,
    options: ProcessOptions,
    progress: Callable[[Study, str], Progress | None] = lambda _study, _pipeline: None,
    reading: Callable[[int], None] = lambda _count: None,
) -> dict[str, Any]:
    """Analyse everything below `paths` and return the document ``pacs-ai-node/process/1``.

    Parameters
    ----------
    progress : callable
        Called before each job; returns what is called with its stages.
    reading : callable
        Called with the number of files that were looked at so far.

    Raises
    ------
    OutputFolderError
        If `out` cannot be written, or holds something else.
    """
    installation_id = _installation(out)
    with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=out) as scratch:
        try:
            instances, seconds, quarantined, skipped = _read(paths, Path(scratch), reading)
        except OSError as error:
            raise OutputFolderError(
                f"{out}: {os.strerror(error.errno or 0)}. Archives are unpacked there: free some space, or name another "
                "folder with --out."
            ) from error
        studies = [
            _study(s, out, installation_id, options, progress, seconds[s.study_instance_uid]) for s in group(instances)
        ]
    return {
        "schema": SCHEMA, "version": options.version, "quarantined": quarantined, "skipped": skipped, "studies": studies,
    }  # fmt: skip


def exit_code(document: Mapping[str, Any]) -> int:
    """Return 1 if any job failed, 3 if a study has no result or there is no study, else 0.

    A grade of single images or series is the result of a study only where nothing was tried that analyses studies.
    """
    studies = document["studies"]
    if any(job["outcome"] == "failed" for s in studies for job in s["jobs"]):
        return 1
    return 0 if studies and all(_has_result(s["jobs"]) for s in studies) else 3


def _has_result(jobs: Sequence[Mapping[str, Any]]) -> bool:
    analyses = [job for job in jobs if job["subject"] == "study" and job["pipeline"] is not None]
    return any(job["outcome"] == "result" for job in analyses or jobs)


def _installation(out: Path) -> str:
    """Return the installation id of `out`, made once and kept in ``manifest.json``."""
    manifest = out / "manifest.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if manifest.exists():
            return str(json.loads(manifest.read_text(encoding="utf-8"))["installation_id"])
        made = uuid.uuid4().hex
        part = out / ".manifest.json.part"
        part.write_text(json.dumps({"schema": "pacs-ai-node/manifest/1", "installation_id": made}), encoding="utf-8")
        part.replace(manifest)
    except OSError as error:
        raise OutputFolderError(
            f"{out}: {os.strerror(error.errno or 0)}. Name a folder with --out that can be written."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise OutputFolderError(
            f"{manifest}: not a manifest of this program. Name another folder with --out."
        ) from error
    return made


def _read(
    paths: Iterable[Path], scratch: Path, reading: Callable[[int], None]
) -> tuple[list[Instance], Mapping[str, float], list[dict[str, Any]], list[dict[str, Any]]]:
    """Read every header; count the seconds per study; say what was not DICOM, not wanted, or met twice."""
    kept: dict[str, Instance] = {}
    seconds: dict[str, float] = defaultdict(float)
    since = time.perf_counter()
    quarantined: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []

    def note(into: list[dict[str, Any]], path: str, reason: Reason) -> None:
        into.append({"path": path, "reason": reason.as_json()})

    for count, found in enumerate(discover(paths, scratch), start=1):
        reading(count)
        if found.instance is None:
            if found.reason is not None:
                note(skipped if found.skipped else quarantined, found.display, found.reason)
            continue
        now = time.perf_counter()
        seconds[found.instance.study_instance_uid] += now - since
        since = now
        first = kept.setdefault(found.instance.sop_instance_uid, found.instance)
        if first is found.instance:
            continue
        if first.digest == found.instance.digest:
            note(skipped, found.display, DICOM_REASONS("duplicate-instance"))
        else:
            note(quarantined, found.display, DICOM_REASONS("conflicting-file"))
    return list(kept.values()), seconds, quarantined, skipped


def _study(
    study: Study,
    out: Path,
    installation_id: str,
    options: ProcessOptions,
    progress: Callable[[Study, str], Progress | None],
    read_s: float,
) -> dict[str, Any]:
    modalities = {s.modality for s in study.series}
    fitting = (n for n in registry.available() if registry.modalities(n) & modalities)
    named = options.pipelines or sorted(fitting, key=lambda n: registry.subject(n) != "study")
    jobs = [
        _job(piece, name, subject, out, installation_id, options, progress, read_s)
        for name in named
        for subject, piece in registry.subjects(name, study)
    ]
    if not jobs:
        jobs = [unfit(None, REASONS("no-pipeline-for-study", modalities=", ".join(sorted(modalities)) or "?"))]
    return {
        "study_instance_uid": study.study_instance_uid,
        "revision": 1,
        "instances": len(study.instances),
        "series": len(study.series),
        "jobs": jobs,
    }


def _job(
    study: Study,
    name: str,
    subject: str,
    out: Path,
    installation_id: str,
    options: ProcessOptions,
    progress: Callable[[Study, str], Progress | None],
    read_s: float,
) -> dict[str, Any]:
    try:
        pipeline = options.load(name)
    except PipelineError as error:
        return unfit(name, error.reason, subject)
    context = ExecutionContext(
        installation_id=installation_id,
        out=out / folder_of(study.study_instance_uid),
        now=options.now,
        writer=options.writer,
        progress=progress(study, name),
        read_s=read_s,
        subject=subject,
    )
    return dict(execute(study, pipeline, context).document)
