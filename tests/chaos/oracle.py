"""What must be true after the storm: pure judgement over plain facts, and the reading of those facts from the disk.

The node's word is not taken for what it received and sent: acknowledged objects come from the senders' own ledger, and
what arrived from the PACS's own files.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_io.read import digest_dataset
from node.installation import DataFolder
from node.loopback_pacs import received
from node.store import open_database

Kind = Literal[
    "missing",  # acknowledged, and not in the spool
    "unindexed",  # in the spool, and the node does not know it
    "no-outcome",  # a study, or a pipeline of it, came to no end
    "two-outcomes",  # one pipeline stands twice
    "stuck",  # a job, a delivery or a study is still under way
    "partial",  # the standing result was not made from every acknowledged image
    "absent",  # a standing artifact is not in the PACS
    "altered",  # two contents under one UID, or other bytes than the node authored
    "duplicated",  # the PACS holds an object of ours that no result of the study accounts for
    "foreign",  # an object of ours under another patient or study
]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that must not be."""

    kind: Kind
    study: str
    what: str


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """One image that a sender has the answer 0x0000 for."""

    sop: str
    study: str
    patient: str
    digest: str


@dataclass(frozen=True, slots=True)
class Job:
    """One job and what became of what it wrote; `artifacts`: SOP Instance UID -> digest of the bytes."""

    id: int
    study: str
    revision: int
    pipeline: str | None
    state: str
    outcome: str | None
    carried_from: int | None
    artifacts: Mapping[str, str]
    deliveries: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Arrived:
    """One C-STORE that the PACS took; `images`: source images that the object names (empty where it names none)."""

    sop: str
    digest: str
    study: str
    patient: str
    images: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the judgement needs.

    Parameters
    ----------
    spool : Mapping[str, Sequence[str]]
        SOP Instance UID -> digests of the data sets that stand in the spool under it, read from the files.
    indexed : frozenset[str]
        SOP Instance UIDs of the node's images.
    studies : Mapping[str, str]
        Study Instance UID -> state.
    sources : frozenset[str]
        SOP Instance UIDs that the PACS had before, or has from others.
    """

    acknowledged: Sequence[Acknowledged]
    spool: Mapping[str, Sequence[str]]
    indexed: frozenset[str]
    studies: Mapping[str, str]
    jobs: Sequence[Job]
    arrived: Sequence[Arrived]
    sources: frozenset[str] = frozenset()


def judge(facts: Facts) -> tuple[Fault, ...]:
    """Return everything that is wrong."""
    by_study: dict[str, list[Acknowledged]] = {}
    for image in facts.acknowledged:
        by_study.setdefault(image.study, []).append(image)
    faults: list[Fault] = []
    for image in facts.acknowledged:
        if image.digest not in facts.spool.get(image.sop, ()):
            faults.append(Fault("missing", image.study, image.sop))
        elif image.sop not in facts.indexed:
            faults.append(Fault("unindexed", image.study, image.sop))
    for study, images in by_study.items():
        faults += _outcomes(facts, study, images)
    faults += _at_pacs(facts, by_study)
    return tuple(faults)


def _outcomes(facts: Facts, study: str, images: Sequence[Acknowledged]) -> Iterator[Fault]:
    if (state := facts.studies.get(study, "unknown")) != "closed":
        yield Fault("stuck", study, f"the study is {state}")
    jobs = [j for j in facts.jobs if j.study == study and j.state not in {"superseded", "cancelled"}]
    if not jobs:
        yield Fault("no-outcome", study, "no job")
        return
    for job in jobs:
        if job.state not in {"done", "dead"}:
            yield Fault("stuck", study, f"job {job.id} is {job.state}")
        if moving := set(job.deliveries) & {"held", "waiting", "sending"}:
            yield Fault("stuck", study, f"a delivery of job {job.id} is {moving.pop()}")
    newest = max(job.revision for job in jobs)
    standing = [job for job in jobs if job.revision == newest]
    for pipeline, count in Counter(job.pipeline for job in standing).items():
        if count > 1:
            yield Fault("two-outcomes", study, f"{pipeline}: {count} jobs of revision {newest}")
    for job in standing:
        if job.outcome is None:
            yield Fault("no-outcome", study, f"job {job.id}")
        yield from _arrival(facts, job, frozenset(image.sop for image in images))


def _arrival(facts: Facts, job: Job, images: frozenset[str]) -> Iterator[Fault]:
    """Judge whether what a standing job wrote is in the PACS, whole."""
    wrote = next((j for j in facts.jobs if j.id == job.carried_from), job)
    there = {a.sop: a for a in facts.arrived}
    if job.outcome in {"result", "failed"} and not wrote.artifacts:
        yield Fault("absent", job.study, f"job {job.id} ({job.outcome}) wrote nothing")
    for sop in wrote.artifacts:
        if sop not in there:
            yield Fault("absent", job.study, sop)
        elif (named := there[sop].images) and named != images:
            yield Fault("partial", job.study, f"{sop} names {len(named)} of {len(images)} images")


def _accounted(jobs: Sequence[Job]) -> dict[str, tuple[str, str]]:
    """Return every object that may be in the PACS: SOP Instance UID -> study, digest."""
    newest: dict[str, int] = {}
    for job in jobs:
        newest[job.study] = max(newest.get(job.study, 0), job.revision)
    kept = {job.carried_from for job in jobs if job.state in {"done", "dead"}}
    # an earlier revision may have been published; what was dropped before publication must not be there
    return {
        sop: (job.study, digest)
        for job in jobs
        if job.state in {"done", "dead"} or job.id in kept or job.revision < newest[job.study]
        for sop, digest in job.artifacts.items()
    }


def _at_pacs(facts: Facts, by_study: Mapping[str, Sequence[Acknowledged]]) -> Iterator[Fault]:
    """Judge everything of ours that the PACS holds."""
    accounted = _accounted(facts.jobs)
    contents: dict[str, set[str]] = {}
    for object_ in facts.arrived:
        if object_.sop in facts.sources:
            continue
        contents.setdefault(object_.sop, set()).add(object_.digest)
        study, digest = accounted.get(object_.sop, ("", ""))
        patients = {image.patient for image in by_study.get(object_.study, ())}
        if not study:
            yield Fault("duplicated", object_.study, object_.sop)
        elif object_.digest != digest:
            yield Fault("altered", study, f"{object_.sop}: other bytes than the node holds")
        if (study and study != object_.study) or patients != {object_.patient}:
            yield Fault("foreign", object_.study, object_.sop)
    for sop, digests in contents.items():
        if len(digests) > 1:
            yield Fault("altered", "", f"{sop}: {len(digests)} contents")


# --- facts from the disk ----------------------------------------------------------------------------------------------


def facts(
    data: DataFolder, pacs: Path, acknowledged: Sequence[Acknowledged], sources: frozenset[str] = frozenset()
) -> Facts:
    """Read what a node's data folder and a PACS's folder hold; nothing need be running."""
    db = open_database(data.database)
    try:
        with db.read() as c:
            entries = c.exec_driver_sql("SELECT sop_uid, role FROM instance").all()
            studies = {row[0]: row[1] for row in c.exec_driver_sql("SELECT uid, state FROM study")}
            rows = c.exec_driver_sql(
                "SELECT id, study_uid, revision, pipeline, state, outcome, carried_from FROM job ORDER BY id"
            ).all()
            paths: dict[int, dict[str, str]] = {}
            for job, sop, path in c.exec_driver_sql(
                "SELECT job_id, sop_uid, path FROM artifact WHERE replaced IS NULL AND kind NOT IN ('csr', 'card_csr')"
            ):
                paths.setdefault(job, {})[sop] = path
            sent: dict[int, list[str]] = {}
            for job, state in c.exec_driver_sql("SELECT job_id, state FROM delivery"):
                sent.setdefault(job, []).append(state)
    finally:
        db.close()
    jobs = [
        Job(*row, {u: digest_dataset(data.path / p) for u, p in paths.get(row[0], {}).items()}, tuple(sent.get(row[0], ())))
        for row in rows
    ]  # fmt: skip
    indexed = frozenset(sop for sop, role in entries if role == "image")
    return Facts(acknowledged, _spool(data), indexed, studies, jobs, tuple(arrived(pacs)), sources)


def _spool(data: DataFolder) -> dict[str, list[str]]:
    """Read every object in the spool, whatever journals and index say of it."""
    found: dict[str, list[str]] = {}
    for path in data.spool.glob("[0-9a-f][0-9a-f]/*.dcm"):
        sop = str(dcmread(path, specific_tags=["SOPInstanceUID"], stop_before_pixels=True).SOPInstanceUID)
        found.setdefault(sop, []).append(digest_dataset(path))
    return found


def arrived(pacs: Path) -> Iterator[Arrived]:
    read: dict[Path, Dataset] = {}
    for item in received(pacs):
        if item.path not in read:
            read[item.path] = dcmread(item.path, stop_before_pixels=True)
        header = read[item.path]
        yield Arrived(
            item.sop_instance_uid, item.digest, item.study_instance_uid, str(header.PatientID), _images(header)
        )


def _images(header: Dataset) -> frozenset[str]:
    """Return the source images that a segmentation names."""
    if header.Modality != "SEG":
        return frozenset()
    return frozenset(
        str(instance.ReferencedSOPInstanceUID)
        for series in header.ReferencedSeriesSequence
        for instance in series.ReferencedInstanceSequence
    )


def ledger(file: Path) -> tuple[Acknowledged, ...]:
    """Read the senders' ledger; a torn last line was never relied on."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            rows.append(Acknowledged(**json.loads(line)))
        except ValueError:
            continue
    return tuple({row.sop: row for row in rows}.values())
