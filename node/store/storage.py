"""What the disk holds and what may leave it: questions and changes of the housekeeper."""

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from node.store import tables as t
from node.store.deliveries import present
from node.store.engine import Database
from node.store.events import tell
from node.store.rows import Finished, Receipts, Relayed, Study, as_a

_AT_ONCE = 500
_s, _v, _i = t.study.c, t.version.c, t.instance.c


def waiting_jobs(db: Database) -> int:
    """Count the jobs that wait."""
    with db.read() as c:
        return int(c.execute(sa.select(sa.func.count()).where(t.job.c.state == "waiting")).scalar_one())


def receipts(db: Database, since: float) -> Receipts:
    """Return what was received since then, when the first of it came, and what there is of all images."""
    total = sa.func.coalesce(sa.func.sum(_i.bytes), 0)
    with db.read() as c:
        recent = c.execute(sa.select(total, sa.func.min(_i.received)).where(_i.received > since)).one()
        held = c.execute(sa.select(total).where(_i.removed.is_(None))).scalar_one()
    return Receipts(int(recent[0]), recent[1], int(held))


def with_images(db: Database, before: float, after: tuple[float, str], limit: int) -> tuple[Study, ...]:
    """Return closed studies with files, last active before `before`, oldest first, beyond the place `after`."""
    files = sa.exists().where(_v.study_uid == _s.uid, _v.removed.is_(None))
    return _studies(db, files, before, after, limit)


def with_results(db: Database, before: float, after: tuple[float, str], limit: int) -> tuple[Study, ...]:
    """Return closed studies with artifacts, last active before `before`, oldest first, beyond the place `after`."""
    a, j = t.artifact.c, t.job.c
    files = sa.exists().where(j.study_uid == _s.uid, a.job_id == j.id, a.removed.is_(None))
    return _studies(db, files, before, after, limit)


def _studies(
    db: Database, files: sa.ColumnElement[bool], before: float, after: tuple[float, str], limit: int
) -> tuple[Study, ...]:
    place = sa.tuple_(_s.active, _s.uid) > sa.tuple_(*after)
    query = sa.select(t.study).where(_s.state == "closed", _s.active < before, place, files)
    with db.read() as c:
        rows = c.execute(query.order_by(_s.active, _s.uid).limit(limit))
        return tuple(as_a(Study, row) for row in rows)


def finished(db: Database, study_uid: str) -> Finished | None:
    """Return what says whether a study is finished; None if there is no such study."""
    j, d, a = t.job.c, t.delivery.c, t.alarm.c
    with db.read() as c:
        study = c.execute(sa.select(_s.state, _s.revision, _s.active).where(_s.uid == study_uid)).first()
        if study is None:
            return None
        jobs = c.execute(sa.select(j.state, present().label("present"), j.ended).where(j.study_uid == study_uid)).all()
        sends = c.execute(sa.select(d.state, d.proof).where(d.study_uid == study_uid)).all()
        alarms = c.execute(sa.select(sa.func.count()).where(a.study_uid == study_uid, a.cleared.is_(None))).scalar_one()
    return Finished(
        state=study.state,
        active=study.active,
        ended=max([study.active, *(job.ended for job in jobs if job.ended is not None)]),
        jobs=frozenset((str(job.state), bool(job.present)) for job in jobs),
        deliveries=frozenset((str(send.state), send.proof) for send in sends),
        alarms=int(alarms),
    )


def entries(db: Database, study_uid: str) -> dict[str, float]:
    """Return the entries of a study whose files stand, every version of every instance, and when each came last."""
    query = sa.select(_v.entry, sa.func.max(_v.received)).where(_v.study_uid == study_uid, _v.removed.is_(None))
    with db.read() as c:
        return {row[0]: row[1] for row in c.execute(query.group_by(_v.entry).order_by(_v.entry))}


def documents(db: Database, before: float, limit: int) -> dict[str, float]:
    """Return entries of objects that are no images and belong to no study with images, last received before `before`."""
    used = sa.and_(_i.sop_uid == _v.sop_uid, _i.role.in_(("other", "authored")))
    study = sa.exists().where(_s.uid == _v.study_uid)
    query = sa.select(_v.entry, _v.received).where(_v.removed.is_(None), _v.received < before, ~study)
    with db.read() as c:
        rows = c.execute(query.where(sa.exists().where(used)).order_by(_v.received).limit(limit))
        return {row[0]: row[1] for row in rows}


def taken_away(db: Database) -> tuple[str, ...]:
    """Return the entries whose removal is on record; a file that stands under one is left over from a crash.

    What was found missing or damaged is none of them: the disk may have been away, or read wrongly once.
    """
    gone = sa.select(_v.entry).where(_v.removed.is_not(None), _v.lost.is_(None))
    still = sa.select(_v.entry).where(sa.or_(_v.removed.is_(None), _v.lost.is_not(None)))
    with db.read() as c:
        return tuple(c.execute(gone.except_(still)).scalars())


def missing(db: Database, study_uid: str) -> int:
    """Count the images of a study whose files were taken away."""
    query = sa.select(sa.func.count()).where(_i.study_uid == study_uid, _i.removed.is_not(None))
    with db.read() as c:
        return int(c.execute(query).scalar_one())


def standing(db: Database, study_uids: Iterable[str]) -> bool:
    """Say whether any of these studies has a file."""
    wanted = sorted(set(study_uids))
    with db.read() as c:
        for n in range(0, len(wanted), _AT_ONCE):
            files = sa.select(_v.entry).where(_v.study_uid.in_(wanted[n : n + _AT_ONCE]), _v.removed.is_(None))
            if c.execute(files.limit(1)).first() is not None:
                return True
    return False


def relayed(db: Database, entry: str) -> Relayed:
    """Return whether a notice is still to be passed on, or still speaks for a sender that waits."""
    n, r, k = t.notice.c, t.relay.c, t.commitment.c
    with db.read() as c:
        row = c.execute(sa.select(n.id).where(n.entry == entry)).first()
        if row is None:
            return "unknown"
        waits = sa.select(r.id).where(r.notice_id == row.id, r.state != "delivered").limit(1)
        over = ("told", "dead", "expired", "superseded")
        asked = sa.select(k.transaction_uid).where(k.notice_id == row.id, k.state.not_in(over)).limit(1)
        return "pending" if c.execute(waits).first() or c.execute(asked).first() else "settled"


def result_folders(db: Database, study_uid: str) -> tuple[str, ...]:
    """Return the folders below the data folder, one level below ``artifacts``, in which the results of a study stand."""
    jobs = sa.select(t.job.c.id).where(t.job.c.study_uid == study_uid)
    with db.read() as c:
        paths = c.execute(sa.select(t.artifact.c.path).where(t.artifact.c.job_id.in_(jobs))).scalars()
        return tuple(sorted({"/".join(path.split("/")[:2]) for path in paths}))


def images_removed(db: Database, study_uid: str, at: float, files: int, why: str) -> None:
    """Tell the timeline of a study that its images have left."""
    with db.write() as c:
        tell(c, study_uid, at, "images-removed", {"files": files, "why": why})


def results_removed(db: Database, study_uid: str, at: float) -> None:
    """Write down that the artifacts of a study are gone; their UIDs stay known."""
    jobs = sa.select(t.job.c.id).where(t.job.c.study_uid == study_uid)
    with db.write() as c:
        c.execute(t.artifact.update().where(t.artifact.c.job_id.in_(jobs)).values(removed=at))
        tell(c, study_uid, at, "results-removed", {})


def forget_journals(db: Database, files: Sequence[str]) -> None:
    """Forget how far journals were read that are no more."""
    with db.write() as c:
        c.execute(t.journal.delete().where(t.journal.c.file.in_(files)))
