"""Studies: what is open, what belongs to them, and closing them together with their jobs."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from node.failpoint import passing
from node.store import evidence, pieces
from node.store import tables as t
from node.store.changes import Arrived, AssociationEnded, Change, Noticed, Repeated
from node.store.engine import Database
from node.store.events import tell
from node.store.rows import Carrier, Planned, StoredInstance, Study, as_a

_VALUES = 500
"""Values of one IN list; SQLite takes 32,766."""


def unfinished(db: Database) -> tuple[Study, ...]:
    """Return the studies that are not closed."""
    with db.read() as c:
        rows = c.execute(sa.select(t.study).where(t.study.c.state != "closed").order_by(t.study.c.active))
        return tuple(as_a(Study, row) for row in rows)


def touched(db: Database, changes: Sequence[Change]) -> set[str]:
    """Return the studies that `changes`, already applied, are about."""
    found, ended = set(), []
    for change in changes:
        match change:
            case Arrived() | Repeated():
                found.add(change.study_uid)
            case AssociationEnded():
                ended.append(change.id)
            case Noticed():
                found |= evidence.concerned(db, change)
    for begin in range(0, len(ended), _VALUES):
        some = t.carried.c.association.in_(ended[begin : begin + _VALUES])
        with db.read() as c:
            found |= set(c.execute(sa.select(t.carried.c.study_uid).where(some)).scalars())
    return found


def study(db: Database, uid: str) -> Study | None:
    """Return one study."""
    with db.read() as c:
        row = c.execute(sa.select(t.study).where(t.study.c.uid == uid)).first()
        return None if row is None else as_a(Study, row)


def find(
    db: Database, *, accession: str | None = None, patient_id: str | None = None, date: str | None = None
) -> tuple[Study, ...]:
    """Return the studies that agree with everything given, newest first."""
    query = sa.select(t.study)
    for column, value in ((t.study.c.accession, accession), (t.study.c.patient_id, patient_id), (t.study.c.date, date)):
        if value is not None:
            query = query.where(column == value)
    with db.read() as c:
        return tuple(as_a(Study, row) for row in c.execute(query.order_by(t.study.c.active.desc())))


def named(db: Database, name: str) -> tuple[Study, ...]:
    """Return the studies whose UID, accession number or hash is `name`."""
    hit = sa.or_(t.study.c.uid == name, t.study.c.accession == name, t.study.c.hash == name)
    with db.read() as c:
        return tuple(as_a(Study, row) for row in c.execute(sa.select(t.study).where(hit)))


def carriers(db: Database, study_uid: str) -> tuple[Carrier, ...]:
    """Return the associations that carried images of a study, the one that was active last at the end."""
    a, k = t.association.c, t.carried.c
    columns = (
        k.association, sa.func.coalesce(a.receiver, "").label("receiver"), sa.func.coalesce(a.calling, "").label("calling"),
        sa.func.coalesce(a.called, "").label("called"), sa.func.coalesce(a.peer, "").label("peer"),
        sa.func.coalesce(a.opened, k.first).label("opened"), a.ended, a.how, k.images, k.first, k.last,
    )  # fmt: skip
    query = sa.select(*columns).select_from(t.carried.outerjoin(t.association, a.id == k.association))
    with db.read() as c:
        return tuple(as_a(Carrier, row) for row in c.execute(query.where(k.study_uid == study_uid).order_by(k.last)))


def apart(db: Database, study_uid: str, association: str) -> int:
    """Return how many images of a study the association has not brought."""
    i = t.instance.c
    others = sa.func.coalesce(i.again, i.association) != association
    query = sa.select(sa.func.count()).where(i.study_uid == study_uid, i.role == "image", others)
    with db.read() as c:
        return int(c.execute(query).scalar_one())


def lost(db: Database, study_uid: str, calling: Collection[str], since: float, receivers: Collection[str]) -> int:
    """Return how many associations lost something that may have been of a study, and brought nothing of it.

    Parameters
    ----------
    db : Database
        Where.
    study_uid : str
        Study Instance UID.
    calling : Collection[str]
        AE titles of its senders.
    since : float
        Not those that ended earlier (s since the epoch).
    receivers : Collection[str]
        Names of the processes that receive; what another one had open ended with it.
    """
    a, k = t.association.c, t.carried.c
    fell = sa.or_(
        sa.and_(a.how == "incomplete", a.ended >= since),
        sa.and_(a.ended.is_(None), a.opened >= since, a.receiver.not_in(receivers)),
    )
    brought = sa.exists().where(k.association == a.id, k.study_uid == study_uid)
    query = sa.select(sa.func.count()).where(a.calling.in_(calling), fell, ~brought)
    with db.read() as c:
        return int(c.execute(query).scalar_one())


def images(
    db: Database, study_uid: str, upto: int | None = None, series: Sequence[str] | None = None
) -> tuple[StoredInstance, ...]:
    """Return the images of a study in the order in which they were indexed, up to row `upto`, of the `series` named."""
    i = t.instance.c
    query = sa.select(t.instance).where(i.study_uid == study_uid, i.role == "image")
    if upto is not None:
        query = query.where(i.id <= upto)
    if series is not None:
        query = query.where(i.series_uid.in_(series))
    with db.read() as c:
        return tuple(as_a(StoredInstance, row) for row in c.execute(query.order_by(i.id)))


def counts(db: Database, study_uid: str) -> tuple[int, int]:
    """Return how many images and how many series of images a study has."""
    i = t.instance.c
    query = sa.select(sa.func.count(), sa.func.count(sa.distinct(i.series_uid)))
    with db.read() as c:
        row = c.execute(query.where(i.study_uid == study_uid, i.role == "image")).one()
        return int(row[0]), int(row[1])


def identities(db: Database, study_uid: str) -> dict[str, dict[str, int]]:
    """Return the identities that the images of a study name, each with its series and how many images of them it has."""
    i = t.instance.c
    query = sa.select(i.identity, i.series_uid, sa.func.count()).where(i.study_uid == study_uid, i.role == "image")
    found: dict[str, dict[str, int]] = {}
    with db.read() as c:
        for identity, series, images in c.execute(query.group_by(i.identity, i.series_uid).order_by(sa.func.min(i.id))):
            found.setdefault(identity, {})[series] = images
    return found


def close(
    db: Database,
    seen: Study,
    plans: Sequence[Planned],
    now: float,
    *,
    publish: bool,
    why: Mapping[str, Any],
    routed: Mapping[str, Any],
) -> bool:
    """Close `seen`, or begin early work on it, and enqueue its jobs, in one transaction.

    Parameters
    ----------
    db : Database
        Where.
    seen : Study
        The study as it was when the decision was made; if it has grown since, nothing happens.
    plans : Sequence[Planned]
        Its jobs; of those about pieces of it, the ones that there are already are left out.
    now : float
        The time.
    publish : bool
        Whether results may leave; False begins early work.
    why, routed : Mapping
        For the timeline: the evidence, and what every rule said.

    Returns
    -------
    bool
        Whether it was done.
    """
    same = sa.and_(t.study.c.uid == seen.uid, t.study.c.state == "open", t.study.c.upto == seen.upto)
    with db.write() as c:
        done = c.execute(t.study.update().where(same).values(state="closed" if publish else "early"))
        if not done.rowcount:
            return False
        tell(c, seen.uid, now, "closed" if publish else "looks-complete", {"revision": seen.revision, **why})
        tell(c, seen.uid, now, "routed", {"revision": seen.revision, **routed})
        for plan in plans:
            if plan.subject == "study":
                c.execute(t.job.insert().values(_job(seen, plan, now)))
            else:
                pieces.put(c, seen, plan, now)
        passing("close.before_commit")
    return True


def publish(db: Database, seen: Study, now: float, why: Mapping[str, Any]) -> bool:
    """Close a study whose early work has begun: what was held may leave."""
    same = sa.and_(t.study.c.uid == seen.uid, t.study.c.state == "early", t.study.c.upto == seen.upto)
    held = sa.and_(
        t.delivery.c.study_uid == seen.uid, t.delivery.c.revision == seen.revision, t.delivery.c.state == "held"
    )
    with db.write() as c:
        if not c.execute(t.study.update().where(same).values(state="closed")).rowcount:
            return False
        c.execute(t.delivery.update().where(held).values(state="waiting", next_attempt=now, queued=now))
        tell(c, seen.uid, now, "closed", {"revision": seen.revision, **why})
        passing("close.before_commit")
    return True


def _job(seen: Study, plan: Planned, now: float) -> dict[str, Any]:
    over = plan.pipeline is None
    failed = over and plan.reason is not None and plan.reason["class"] == "error"
    return {
        "study_uid": seen.uid, "revision": seen.revision, "upto": seen.upto, "subject": "study",
        "pipeline": plan.pipeline, "series": list(plan.series),
        "send_to": {name: list(told) for name, told in plan.send_to.items()},
        "priority": plan.priority, "state": "dead" if failed else "done" if over else "waiting", "created": now, "ended": now if over else None,
        "outcome": "failed" if failed else "not_analysed" if over else None,
        "reason": plan.reason, "document": plan.document,
    }  # fmt: skip
