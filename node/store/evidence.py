"""Evidence of completeness: what peers said about studies, what sources count, and how fast senders send."""

from collections.abc import Iterable, Mapping, Sequence

import sqlalchemy as sa

from node.store import tables as t
from node.store.changes import Noticed
from node.store.engine import Database
from node.store.events import tell
from node.store.rows import Held, Read, Said, Seen, StepRow
from node.store.sql import insert, larger

_FINAL = ("COMPLETED", "DISCONTINUED")
_OF_STUDY = t.carried.c.study_uid == sa.bindparam("s")
_carried, _opened = t.carried.alias(), t.association.alias()
_ENDED = ~sa.exists().where(t.process.c.name == _opened.c.receiver, t.process.c.started <= _opened.c.opened)
_RESTARTED = (  # another receiver took the image before this one, and has ended since
    sa.exists()
    .where(_carried.c.study_uid == t.study.c.uid, _carried.c.last == t.study.c.active)
    .where(_opened.c.id == _carried.c.association, _opened.c.receiver != t.association.c.receiver, _ENDED)
)
_BEFORE = (  # of a new image: its sender, and how its study stood; once for each image, so made once
    sa.select(
        t.association.c.calling,
        t.study.c.state,
        t.study.c.active,
        t.carried.c.last,
        _RESTARTED.label("restarted"),
    )
    .select_from(
        t.association.outerjoin(t.study, t.study.c.uid == sa.bindparam("s")).outerjoin(
            t.carried, sa.and_(t.carried.c.association == t.association.c.id, _OF_STUDY)
        )
    )
    .where(t.association.c.id == sa.bindparam("a"))
)
_NEW = insert(t.pace)
_PAUSE = _NEW.on_conflict_do_update(
    index_elements=["sender", "study_uid"],
    set_={
        "within_s": larger(t.pace.c.within_s, _NEW.excluded.within_s),
        "between_s": larger(t.pace.c.between_s, _NEW.excluded.between_s),
        "images": t.pace.c.images + 1,
        "last": larger(t.pace.c.last, _NEW.excluded.last),
    },
)


def noticed(c: sa.Connection, x: Noticed) -> None:
    """Keep a notice and what it says, as part of the caller's transaction."""
    row = {
        "kind": x.kind, "uid": x.uid, "entry": x.entry, "association": x.association, "calling": x.calling,
        "called": x.called, "peer": x.peer, "received": x.at,
    }  # fmt: skip
    if c.execute(insert(t.notice).values(row).on_conflict_do_nothing().returning(t.notice.c.id)).first() is None:
        return
    if x.procedure is not None:
        _step(c, *x.procedure, x.at)
    if not x.announced:
        return
    if x.kind == "mpps-set":  # it replaces the performed series as a whole (PS3.4 table F.7.2-1)
        c.execute(t.announced.delete().where(t.announced.c.by == x.uid))
    rows = [
        {"by": x.uid, "sop_uid": sop, "study_uid": study, "series_uid": series} for study, series, sop in x.announced
    ]
    c.execute(insert(t.announced).on_conflict_do_nothing(), rows)


def _step(c: sa.Connection, uid: str, status: str, studies: Sequence[str], at: float) -> None:
    p = t.procedure.c
    if status:  # a step that has ended stays so, in whatever order two journals are read
        running = sa.and_(p.uid == uid, p.status.not_in(_FINAL))
        c.execute(t.procedure.update().where(running).values(status=status, updated=at))
    known = c.execute(sa.select(p.status).where(p.uid == uid).limit(1)).scalar_one_or_none()
    for study in studies:
        row = {"uid": uid, "study_uid": study, "status": known or status or "IN PROGRESS", "updated": at}
        c.execute(insert(t.procedure).values(row).on_conflict_do_nothing())


def concerned(db: Database, x: Noticed) -> frozenset[str]:
    """Return the studies that a notice is about."""
    named = {study for study, _, _ in x.announced if study} | set(x.procedure[2] if x.procedure else ())
    with db.read() as c:
        found = c.execute(sa.select(t.procedure.c.study_uid).where(t.procedure.c.uid == x.uid)).scalars()
        return frozenset(named.union(found))


def said(db: Database, study_uid: str) -> Said:
    """Return what peers said about a study."""
    p, a, i = t.procedure.c, t.announced.c, t.instance.c
    here = sa.exists().where(i.sop_uid == a.sop_uid)
    named = sa.func.count(a.sop_uid)
    missing = sa.func.coalesce(sa.func.sum(sa.case((a.sop_uid.is_(None), 0), (here, 0), else_=1)), 0)
    with db.read() as c:
        steps = tuple(
            StepRow(row[0], row[1], row[2])
            for row in c.execute(
                sa.select(p.status, named, missing)
                .select_from(t.procedure.outerjoin(t.announced, a.by == p.uid))
                .where(p.study_uid == study_uid)
                .group_by(p.uid, p.status)
                .order_by(p.uid)
            )
        )
        ours = sa.select(p.uid).where(p.study_uid == study_uid)
        notified = sa.and_(a.study_uid == study_uid, a.by.not_in(sa.select(p.uid)))
        available = c.execute(
            sa.select(sa.func.count(sa.distinct(a.sop_uid))).where(notified, sa.not_(here))
        ).scalar_one()
        if not steps:
            return Said((), int(available), 0)
        by_name = sa.select(a.sop_uid).where(sa.or_(a.by.in_(ours), a.study_uid == study_uid))
        images = sa.and_(i.study_uid == study_uid, i.role == "image", i.sop_uid.not_in(by_name))
        unnamed = c.execute(sa.select(sa.func.count()).select_from(t.instance).where(images)).scalar_one()
    return Said(steps, int(available), int(unnamed))


def counted(db: Database, study_uid: str, source: str, at: float, series: Mapping[str, int]) -> None:
    """Keep what a source answered; an answer like the one before only lasts longer."""
    s = t.source_count.c
    mine = sa.and_(s.study_uid == study_uid, s.source == source)
    with db.write() as c:
        last = c.execute(sa.select(s.at, s.series).where(mine).order_by(s.at.desc()).limit(1)).first()
        if last is not None and last.series == dict(series):
            c.execute(t.source_count.update().where(mine, s.at == last.at).values(again=at))
            return
        row = {"study_uid": study_uid, "source": source, "at": at, "again": at, "series": dict(series)}
        c.execute(insert(t.source_count).values(row).on_conflict_do_nothing())


def reads(db: Database, study_uid: str) -> tuple[Read, ...]:
    """Return the newest answer of every source about a study."""
    s = t.source_count.c
    newest: dict[str, Read] = {}
    with db.read() as c:
        for row in c.execute(sa.select(t.source_count).where(s.study_uid == study_uid).order_by(s.at)):
            newest[row.source] = Read(row.source, row.at, row.again, row.series)
    return tuple(newest.values())


def held(db: Database, study_uid: str) -> dict[str, Held]:
    """Return what we hold of every series of a study."""
    i = t.instance.c
    images = sa.func.sum(sa.case((i.role == "image", 1), else_=0))
    query = sa.select(i.series_uid, images, sa.func.count()).where(i.study_uid == study_uid, i.role != "authored")
    with db.read() as c:
        return {row[0]: Held(row[1], row[2]) for row in c.execute(query.group_by(i.series_uid))}


def authored_series(db: Database, study_uid: str) -> frozenset[str]:
    """Return the series of a study that this installation made."""
    a, j = t.artifact.c, t.job.c
    query = sa.select(a.series_uid).join_from(t.artifact, t.job, a.job_id == j.id).where(j.study_uid == study_uid)
    with db.read() as c:
        return frozenset(c.execute(query.distinct()).scalars())


def learn(c: sa.Connection, association: str, study_uid: str, at: float, longest_s: float) -> None:
    """Learn the pace of a sender from one new image, before it is counted, as part of the caller's transaction.

    Parameters
    ----------
    c : Connection
        Of the transaction.
    association, study_uid : str
        Of the image.
    at : float
        When it came.
    longest_s : float
        A longer pause is no pause, but other work on the study.
    """
    found = c.execute(_BEFORE, {"a": association, "s": study_uid}).first()
    if found is None or not found.calling:
        return
    gap_s = 0.0 if found.state is None else at - found.active
    if gap_s > longest_s or found.restarted:  # while no receiver listened, the pause was ours
        gap_s = 0.0
    pause(c, found.calling, study_uid, gap_s, within=found.state is None or found.last == found.active, at=at)
    if found.state == "closed" and gap_s:
        _refute(c, found.calling, study_uid)


def pause(c: sa.Connection, sender: str, study_uid: str, gap_s: float, *, within: bool, at: float) -> None:
    """Keep the longest pauses of a sender in one study: within an association, and between two."""
    gap = max(gap_s, 0.0)  # a clock that was set back
    row = {"sender": sender, "study_uid": study_uid, "images": 1, "first": at, "last": at}
    c.execute(_PAUSE, {**row, "within_s": gap if within else 0.0, "between_s": 0.0 if within else gap})


def _refute(c: sa.Connection, sender: str, study_uid: str) -> None:
    """Note that an image came after strong evidence had closed its study."""
    e = t.event.c
    closed = sa.and_(e.study_uid == study_uid, e.kind == "closed")
    data = c.execute(sa.select(e.data).where(closed).order_by(e.id.desc()).limit(1)).scalar_one_or_none()
    if kind := (data or {}).get("by"):
        mine = sa.and_(t.pace.c.sender == sender, t.pace.c.study_uid == study_uid)
        c.execute(t.pace.update().where(mine).values(refuted=kind))


def seen(db: Database, since: float, senders: Iterable[str] | None = None) -> tuple[Seen, ...]:
    """Return what the studies that senders were busy with since then show; of all senders, or of those named."""
    p = t.pace.c
    recent = p.last >= since if senders is None else sa.and_(p.last >= since, p.sender.in_(list(senders)))
    whole = (sa.func.max(p.within_s), sa.func.max(p.between_s), sa.func.min(p.first), sa.func.max(p.last))
    with db.read() as c:
        doubts: dict[str, dict[str, int]] = {}
        counts = sa.select(p.sender, p.refuted, sa.func.count()).where(recent, p.refuted.is_not(None))
        for sender, kind, count in c.execute(counts.group_by(p.sender, p.refuted)):
            doubts.setdefault(sender, {})[kind] = count
        query = sa.select(p.sender, sa.func.count(), *whole).where(recent).group_by(p.sender)
        return tuple(
            Seen(sender, studies, within_s, between_s, first, last, doubts.get(sender, {}))
            for sender, studies, within_s, between_s, first, last in c.execute(query)
        )


def tell_evidence(
    db: Database, study_uid: str, revision: int, now: float, kind: str, detail: Mapping[str, str]
) -> bool:
    """Put strong evidence into the timeline, once for each revision and kind; say whether it was new."""
    e = t.event.c
    with db.write() as c:
        told = c.execute(sa.select(e.data).where(e.study_uid == study_uid, e.kind == "evidence")).scalars()
        if any((data["revision"], data["by"]) == (revision, kind) for data in told):
            return False
        tell(c, study_uid, now, "evidence", {"revision": revision, "by": kind, "detail": dict(detail)})
    return True


def steps(db: Database, study_uid: str) -> tuple[tuple[str, str, str, float | None, float | None], ...]:
    """Return for every procedure step of a study: UID, status, who performs it, when it was begun, when last updated."""
    p, n = t.procedure.c, t.notice.c
    begun = sa.func.min(sa.case((n.kind == "mpps-create", n.received)))
    updated = sa.func.max(sa.case((n.kind == "mpps-set", n.received)))
    query = (
        sa.select(p.uid, p.status, sa.func.min(n.calling), begun, updated)
        .select_from(t.procedure.join(t.notice, n.uid == p.uid))
        .where(p.study_uid == study_uid, n.kind.in_(("mpps-create", "mpps-set")))
        .group_by(p.uid, p.status)
    )
    with db.read() as c:
        return tuple((row[0], row[1], row[2], row[3], row[4]) for row in c.execute(query))
