"""What a destination has of earlier results, and the notes that reject it there."""

from collections.abc import Sequence
from dataclasses import asdict

import sqlalchemy as sa

from node.store import tables as t
from node.store.engine import Database
from node.store.rows import Delivery, StoredArtifact, as_a
from node.store.sql import insert

KIND = "rejection"
"""Kind of a note among the artifacts; what it names stands in its `variant`."""

_a, _b, _d, _j, _s = t.artifact.c, t.brought.c, t.delivery.c, t.job.c, t.study.c


def replaced(db: Database, of: Delivery) -> tuple[StoredArtifact, ...]:
    """Return what the destination of a delivery has accepted of the results that its job's replaces, and no note names yet."""
    with db.read() as c:
        return outdated(c, of)


def outdated(c: sa.Connection, of: Delivery) -> tuple[StoredArtifact, ...]:
    """Do as `replaced`, as part of the caller's transaction.

    A failed analysis replaces nothing. What was made for another patient, before the source corrected whose study it is,
    is none of these: a person removes it.
    """
    now = c.execute(sa.select(t.job).where(_j.id == of.job_id, _j.outcome.in_(("result", "not_analysed")))).first()
    if now is None:
        return ()
    stands = sa.select(_a.sop_uid).where(_a.job_id == (now.carried_from or now.id), _a.replaced.is_(None))
    patient_since = sa.select(_s.patient_since).where(_s.uid == of.study_uid).scalar_subquery()
    there = (
        sa.select(t.artifact)
        .join_from(t.artifact, t.job, _a.job_id == _j.id)
        .join(t.brought, _b.sop_uid == _a.sop_uid)
        .join(t.delivery, _d.id == _b.delivery_id)
        .where(_d.destination == of.destination, _d.study_uid == of.study_uid, _j.study_uid == of.study_uid)
        .distinct()
    )
    notes = c.execute(there.where(_a.kind == KIND)).all()
    named = {uid for note in notes for uid in note.variant.split()}
    earlier = there.where(
        _j.pipeline == now.pipeline, _j.subject == now.subject, _j.id <= now.id, _j.revision >= patient_since, _a.kind != KIND,
        _a.sop_uid.not_in(stands),
    )  # fmt: skip
    rows = {row.sop_uid: as_a(StoredArtifact, row) for row in c.execute(earlier.order_by(_a.job_id, _a.name))}
    return tuple(row for uid, row in rows.items() if uid not in named)


def named(db: Database, of: Delivery) -> tuple[tuple[StoredArtifact, int], ...]:
    """Return what the note of a delivery names, or would name, each with the revision that it is of."""
    said = sa.select(_a.variant).join_from(t.artifact, t.sent, t.sent.c.sop_uid == _a.sop_uid)
    with db.read() as c:
        note = c.execute(said.where(_a.kind == KIND, t.sent.c.delivery_id == of.id)).scalars().all()
        uids = {uid for variant in note for uid in variant.split()} or {a.sop_uid for a in outdated(c, of)}
        revisions = {
            j.id: j.revision for j in c.execute(sa.select(_j.id, _j.revision).where(_j.study_uid == of.study_uid))
        }
        rows = c.execute(
            sa.select(t.artifact).where(_a.job_id.in_(revisions), _a.sop_uid.in_(uids)).order_by(_a.job_id, _a.name)
        )
        found = {row.sop_uid: as_a(StoredArtifact, row) for row in rows}
    return tuple((artifact, revisions[artifact.job_id]) for artifact in found.values())


def notes(db: Database, job_id: int) -> tuple[StoredArtifact, ...]:
    """Return the notes that were written for the result of a job."""
    query = sa.select(t.artifact).where(_a.job_id == job_id, _a.kind == KIND).order_by(_a.name)
    with db.read() as c:
        return tuple(as_a(StoredArtifact, row) for row in c.execute(query))


def register(db: Database, note: StoredArtifact) -> None:
    """Write down a note, which stands on disk, before it is first sent."""
    with db.write() as c:
        c.execute(insert(t.artifact).values(**asdict(note)).on_conflict_do_nothing())


def names(note: StoredArtifact) -> Sequence[str]:
    """Return the SOP Instance UIDs that a note names."""
    return note.variant.split()
