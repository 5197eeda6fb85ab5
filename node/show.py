"""What the node knows, as the contract's documents: `show`, `studies`, `status`."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, get_args

from config.settings import Settings
from node import housekeeping, pace, retry
from node.identity import same_patient
from node.indexer import lagging
from node.installation import DataFolder, host_name, node_name
from node.refusals import refusals
from node.selection import Selected, select
from node.spool import alive
from node.store import (
    Database,
    alarms,
    breakers,
    commitments,
    corrections,
    deliveries,
    events,
    evidence,
    jobs,
    nodes,
    rejections,
    relays,
    studies,
    withheld,
)
from node.store import node as store
from node.store.rows import (
    Alarm,
    Breaker,
    Carrier,
    Delivery,
    DeliveryState,
    Event,
    Job,
    Sent,
    StoredArtifact,
    Study,
)
from sr_writer.profiles import Profile

_WORST: tuple[DeliveryState, ...] = (
    "dead", "quarantined", "held", "waiting", "sending", "delivered", "confirmed", "cancelled", "superseded",
)  # fmt: skip
"""States of a delivery: the sooner in this row, the sooner a person looks."""


def show(
    db: Database, study: Study, version: str, waiting: Sequence[Mapping[str, Any]] = (),
    wants: Mapping[str, Profile] = MappingProxyType({}),
) -> dict[str, Any]:  # fmt: skip
    """Return ``pacs-ai-node/show/1``: one study, its timeline and its deliveries.

    Parameters
    ----------
    db : Database
        Where.
    study : Study
        Which.
    version : str
        Of the node.
    waiting : Sequence[Mapping]
        See `node.facts.waiting_for`.
    wants : Mapping[str, Profile]
        What each destination gets; of others only what they have said is told.
    """
    images, series = studies.counts(db, study.uid)
    rows = jobs.jobs(db, study.uid)
    told = [_event(e) for e in events.timeline(db, study.uid)]
    received = [_received(c) for c in studies.carriers(db, study.uid)]
    return {
        "schema": "pacs-ai-node/show/1",
        "version": version,
        "study_instance_uid": study.uid,
        "hash": study.hash,
        "accession": study.accession,
        "patient_id": study.patient_id,
        "date": study.date,
        "state": study.state,
        "revision": study.revision,
        "instances": images,
        "series": series,
        "waiting_for": [dict(w) for w in waiting],
        "patients": _patients(db, study.uid),
        "jobs": [_job(row, jobs.artifacts(db, row), jobs.replaced(db, row)) for row in rows],
        "timeline": sorted([*told, *received, *_steps(db, study.uid)], key=lambda entry: str(entry["utc"])),
        "deliveries": _deliveries(db, study, wants),
        "corrections": [_correction(c) for c in corrections.told(db, study.uid)],
        "alarms": [_alarm(a) for a in alarms.standing(db, study.uid)],
    }


def listing(db: Database, found: Sequence[Study], version: str) -> dict[str, Any]:
    """Return ``pacs-ai-node/studies/1``: the studies `found`, each on one line."""
    return {"schema": "pacs-ai-node/studies/1", "version": version, "studies": [_line(db, study) for study in found]}


def _nodes(db: Database, settings: Settings | None) -> list[dict[str, Any]]:
    """Return who shares the database; who is not heard is called silent, also while nobody leads who would say so."""
    latest = -math.inf if settings is None else nodes.present(db) - settings.node.silent_s
    return [
        {
            "name": n.name,
            "state": "silent" if n.state == "alive" and n.seen < latest else n.state,
            "heard": utc(n.seen),
            "ahead_s": round(n.ahead, 3),
        }
        for n in nodes.nodes(db)
    ]


def status(db: Database, folder: DataFolder, version: str, settings: Settings | None = None) -> dict[str, Any]:
    """Return ``pacs-ai-node/status/1``: what the node is doing; what only the configuration names needs `settings`."""
    running, node = folder.in_use(), host_name() if settings is None else node_name(settings)
    lagged = lagging(db, folder)  # before the counts: what is indexed in between is counted
    counts = store.counts(db)
    # a full disk keeps the supervisor from striking out what has ended
    processes = tuple(p for p in store.processes(db) if p.node != node or alive(p.pid)) if running else ()
    open_studies = counts.studies.get("open", 0) + counts.studies.get("early", 0)
    work = {state: counts.jobs.get(state, 0) for state in ("waiting", "running", "dead")}
    sends = {state: counts.deliveries.get(state, 0) for state in get_args(DeliveryState)}
    disk = housekeeping.disk(db, folder, settings, time.time())
    pending = open_studies + work["waiting"] + work["running"] + sum(sends[k] for k in ("held", "waiting", "sending"))
    return {
        "schema": "pacs-ai-node/status/1",
        "version": version,
        "running": running,
        "data_dir": str(folder.path.resolve()),
        "processes": [{"node": p.node, "role": p.role, "pid": p.pid, "started": utc(p.started)} for p in processes],
        "nodes": _nodes(db, settings),
        "listens": None if settings is None else _listens(settings),
        "associations": counts.associations if running else 0,
        "studies": {"open": open_studies, "closed": counts.studies.get("closed", 0)},
        "jobs": work,
        "deliveries": sends,
        "destinations": _destinations(db, settings),
        "senders": [] if settings is None else _senders(db, settings),
        "relays": relays.counts(db),
        "commitments": commitments.counts(db),
        "withheld": withheld.waiting(db),
        "refused": [{**asdict(r), "last": utc(r.last)} for r in refusals(folder.spool)],
        "alarms": [_alarm(a) for a in alarms.standing(db)],
        "quarantine": sum(1 for path in folder.quarantine.rglob("*.dcm")),
        "disk": disk,
        "idle": not pending and not (running and counts.associations) and not lagged,
    }


def _listens(settings: Settings) -> dict[str, Any]:
    d = settings.dicom
    return {"host": d.host, "port": d.port, "ae_titles": list(d.ae_titles)}


def _senders(db: Database, settings: Settings) -> list[dict[str, Any]]:
    recent = time.time() - float(retry.policy()["pace"]["days"]) * 86400.0
    return pace.senders(evidence.seen(db, recent), settings.study)


def utc(at: float) -> str:
    """Return seconds since the epoch as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _optional(at: float | None) -> str | None:
    return None if at is None else utc(at)


def _event(event: Event) -> dict[str, Any]:
    return {"utc": utc(event.at), "event": event.kind, **event.data}


def _correction(told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "utc": utc(told["at"]), "cancelled": told["cancelled"], "delivered": list(told["delivered"]),
        "unknown_at": list(told["unknown_at"]),
    }  # fmt: skip


def _received(carrier: Carrier) -> dict[str, Any]:
    return {
        "utc": utc(carrier.first), "event": "received", "images": carrier.images, "until": utc(carrier.last),
        "association": carrier.association, "calling": carrier.calling, "called": carrier.called,
        "peer": carrier.peer, "ended": carrier.how,
    }  # fmt: skip


def _steps(db: Database, study_uid: str) -> list[dict[str, Any]]:
    """Return the beginnings and ends of the study's procedure steps as entries of its timeline."""
    told = []
    for uid, status, calling, begun, updated in evidence.steps(db, study_uid):
        about = {"step": uid, "calling": calling}
        if begun is not None:
            told.append({"utc": utc(begun), "event": "step-begun", **about})
        if updated is not None and status != "IN PROGRESS":
            told.append({"utc": utc(updated), "event": "step-ended", "status": status, **about})
    return told


def _patients(db: Database, study_uid: str) -> list[dict[str, Any]]:
    """Return which images are whose if they name several patients; nothing otherwise."""
    found = studies.identities(db, study_uid)
    groups: list[list[str]] = []
    for identity in found:
        home = next((g for g in groups if all(same_patient(identity, other) for other in g)), None)
        if home is None:
            groups.append([identity])
        else:
            home.append(identity)
    return [] if len(groups) < 2 else [_patient(group, found) for group in groups]


def _patient(group: Sequence[str], found: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    return {
        "patient_id": json.loads(group[0] or "{}").get("PatientID", ""),
        "images": sum(sum(found[identity].values()) for identity in group),
        "series": list(dict.fromkeys(series for identity in group for series in found[identity])),
    }


def _job(
    row: Job, artifacts: Sequence[StoredArtifact], replaced: Sequence[tuple[StoredArtifact, Sequence[str]]]
) -> dict[str, Any]:
    return {
        **(row.document or {}),
        "subject": row.subject,
        "outcome": _outcome(row),
        "reason": row.reason,
        "artifacts": [_artifact(a) for a in artifacts],
        "replaced": [_replaced(a, places) for a, places in replaced],
        "job": row.id,
        "state": row.state,
        "revision": row.revision,
        "attempts": row.attempts,
        "carried_from": row.carried_from,
        "stage": row.stage,
        "progress": row.progress,
        "created": utc(row.created),
        "started": _optional(row.started),
        "ended": _optional(row.ended),
        "not_before": utc(row.not_before) if row.state == "waiting" and row.not_before else None,
    }


def _outcome(row: Job) -> str:
    # `state` is where the row stands, `outcome` what came of it: a superseded result is not told as a result
    return row.outcome if row.state in ("done", "dead") and row.outcome else row.state


def _grade(row: Job) -> str | None:
    quality = (row.document or {}).get("quality") if _outcome(row) == "result" else None
    return quality and quality["grade"]


def _artifact(a: StoredArtifact) -> dict[str, Any]:
    return {
        "path": a.path, "kind": a.kind, "variant": a.variant, "modality": a.modality, "sop_class_uid": a.sop_class,
        "sop_instance_uid": a.sop_uid, "series_instance_uid": a.series_uid, "bytes": a.bytes,
    }  # fmt: skip


def _replaced(a: StoredArtifact, left_at: Sequence[str]) -> dict[str, Any]:
    return {
        "kind": a.kind, "modality": a.modality, "sop_instance_uid": a.sop_uid, "series_instance_uid": a.series_uid,
        "left_at": list(left_at), "utc": _optional(a.replaced),
    }  # fmt: skip


def _deliveries(db: Database, study: Study, wants: Mapping[str, Profile]) -> list[dict[str, Any]]:
    known = breakers.breakers(db)
    told = []
    for d in deliveries.deliveries(db, study.uid):
        profile = wants.get(d.destination)
        sent = deliveries.sent(db, d.id)
        objects, unwritten = _brought(db, d, profile, sent)
        rejects = rejections.named(db, d) if d.what == "rejection" else ()
        told.append({
            **_delivery(d, known.get(d.destination)), "profile": profile and profile.name, "objects": objects,
            "not_written": unwritten,
            "rejects": [{"sop_instance_uid": a.sop_uid, "kind": a.kind, "revision": n} for a, n in rejects],
        })  # fmt: skip
    return told


def _brought(
    db: Database, d: Delivery, profile: Profile | None, sent: Mapping[str, Sent]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return what became of the objects of a delivery, and what was never written for it."""
    if d.what == "rejection":
        return [_object(a, sent[a.sop_uid]) for a in rejections.notes(db, d.job_id) if a.sop_uid in sent], []
    job = jobs.job(db, d.job_id)
    written = () if job is None or d.what == "refused" else jobs.artifacts(db, job)
    if profile is not None:
        return _wanted(select(profile, written), sent)
    return [_object(a, sent.get(a.sop_uid)) for a in written if not sent or a.sop_uid in sent], []


def _wanted(selected: Selected, sent: Mapping[str, Sent]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return what became of everything that a destination should get, and what was never written for it."""
    objects = []
    for choice in selected.choices:
        objects += [_object(a, sent.get(a.sop_uid)) for a in choice.first]
        if choice.objects:  # else the other choice is the first
            title = choice.line.piece.form.title
            objects += [_object(a, sent[a.sop_uid], title) for a in choice.instead if a.sop_uid in sent]
    return objects, [piece.form.title for piece in selected.unwritten]


def _delivery(d: Delivery, breaker: Breaker | None) -> dict[str, Any]:
    then = d.next_attempt
    if then is not None and breaker is not None and breaker.next_try is not None:
        then = max(then, breaker.next_try)
    return {
        "destination": d.destination, "what": d.what, "job": d.job_id, "revision": d.revision, "priority": d.priority,
        "state": d.state, "attempts": d.attempts, "next_attempt": _optional(then), "last_error": d.last_error,
        "identity": d.identity, "proof": d.proof, "proof_next": _optional(d.proof_next), "created": utc(d.created),
        "ended": _optional(d.ended), "breaker": breaker.state if breaker else "closed",
    }  # fmt: skip


def _object(artifact: StoredArtifact, sent: Sent | None, instead_of: str | None = None) -> dict[str, Any]:
    state = "open" if sent is None else "accepted" if sent.accepted else "refused"
    return {
        "sop_instance_uid": artifact.sop_uid, "kind": artifact.kind, "modality": artifact.modality, "state": state,
        "instead_of": instead_of, "status": None if sent is None or sent.status is None else f"{sent.status:04X}",
        "reason": sent and sent.reason, "utc": None if sent is None else utc(sent.at),
    }  # fmt: skip


def _destinations(db: Database, settings: Settings | None) -> list[dict[str, Any]]:
    """Return every destination that is configured or that something waits for."""
    rows, waiting, accepted = breakers.breakers(db), deliveries.waiting(db), breakers.accepted(db)
    undone = deliveries.undone(db)
    configured = () if settings is None else tuple(d.name for d in settings.destination)
    told = []
    for name in dict.fromkeys((*configured, *sorted(rows), *sorted(waiting))):
        if name not in configured and settings is not None and not waiting.get(name):
            continue  # was removed from the configuration
        row = rows.get(name)
        told.append({
            "name": name, "breaker": row.state if row else "closed", "since": utc(row.since) if row else None,
            "next_try": _optional(row.next_try) if row else None, "last_error": row.last_error if row else None,
            "waiting": waiting.get(name, 0), "dead": undone.get((name, "dead"), 0),
            "quarantined": undone.get((name, "quarantined"), 0), "last_accepted": _optional(accepted.get(name)),
        })  # fmt: skip
    return told


def _alarm(a: Alarm) -> dict[str, Any]:
    return {"code": a.code, "subject": a.subject, "study": a.study_uid, "raised": utc(a.raised), "reason": a.reason}


def _line(db: Database, study: Study) -> dict[str, Any]:
    images, series = studies.counts(db, study.uid)
    last = {(row.pipeline, row.subject): row for row in jobs.jobs(db, study.uid)}
    return {
        "study_instance_uid": study.uid, "hash": study.hash, "accession": study.accession,
        "patient_id": study.patient_id, "date": study.date, "state": study.state, "revision": study.revision,
        "instances": images, "series": series, "last_image": utc(study.active),
        "jobs": [
            {"pipeline": name, "subject": subject, "outcome": _outcome(row), "grade": _grade(row)}
            for (name, subject), row in last.items()
        ],
        "delivery": min((d.state for d in deliveries.deliveries(db, study.uid)), key=_WORST.index, default=None),
        "alarms": len(alarms.standing(db, study.uid)),
    }  # fmt: skip
