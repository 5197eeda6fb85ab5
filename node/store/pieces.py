"""Pieces of studies, each one series or one image, and the jobs about them: the fast lane.

Nothing but these rows says what is left to do: a piece waits for a job for as long as none stands that has seen its newest
image under the present identity of its study. Whoever is killed in between finds it again.
"""

from collections.abc import Collection, Sequence

import sqlalchemy as sa

from node.failpoint import passing
from node.store import tables as t
from node.store.deliveries import OF_STUDY, overtake
from node.store.engine import Database
from node.store.events import tell
from node.store.rows import Piece, Planned, StoredInstance, Study, as_a

_i, _j, _s = t.instance.c, t.job.c, t.study.c


def pieces(db: Database, study_uid: str, *, series: Collection[str], instances: Collection[str]) -> tuple[Piece, ...]:
    """Return the pieces of a study in the order of their coming.

    Parameters
    ----------
    db : Database
        Where.
    study_uid : str
        Which.
    series, instances : Collection[str]
        Modalities of which every series, and every image, is a piece.
    """
    image = sa.and_(_i.study_uid == study_uid, _i.role == "image")
    ends = sa.select(
        _i.series_uid, sa.func.min(_i.id).label("first"), sa.func.max(_i.id).label("newest"), sa.func.count().label("n")
    ).where(image, _i.modality.in_(sorted(series)))
    single = sa.select(t.instance).where(image, _i.modality.in_(sorted(instances)))
    found = []
    with db.read() as c:
        heads = c.execute(ends.group_by(_i.series_uid)).all() if series else ()
        named = {n for head in heads for n in (head.first, head.newest)}
        rows = c.execute(sa.select(t.instance).where(_i.id.in_(sorted(named)))).all() if named else ()
        by_number = {row.id: as_a(StoredInstance, row) for row in rows}
        found = [Piece(h.series_uid, h.n, by_number[h.first], by_number[h.newest]) for h in heads]
        for row in c.execute(single) if instances else ():
            own = as_a(StoredInstance, row)
            found.append(Piece(own.sop_uid, 1, own, own))
    return tuple(sorted(found, key=lambda piece: piece.upto))


def made(db: Database, study: Study) -> dict[tuple[str, str], tuple[int, int]]:
    """Return what was made of the pieces of a study under its present identity.

    Returns
    -------
    dict
        Pipeline and UID of the piece to the newest image that a job which stands has seen (0: none stands), and to the
        number of jobs that there were.
    """
    seen = sa.func.max(sa.case((_j.state == "superseded", 0), else_=_j.upto))
    of = sa.and_(_j.study_uid == study.uid, ~OF_STUDY, _j.revision >= study.identity_since)
    query = sa.select(_j.pipeline, _j.subject, seen, sa.func.count()).where(of).group_by(_j.pipeline, _j.subject)
    with db.read() as c:
        return {(row[0], row[1]): (int(row[2]), int(row[3])) for row in c.execute(query)}


def enqueue(db: Database, seen: Study, plans: Sequence[Planned], now: float) -> int:
    """Enqueue jobs about pieces of `seen`, in one transaction; return how many. If the study has grown since, none."""
    same = sa.and_(_s.uid == seen.uid, _s.state == seen.state, _s.upto == seen.upto, _s.revision == seen.revision)
    with db.write() as c:
        if c.execute(sa.select(_s.uid).where(same)).first() is None:
            return 0
        count = sum(put(c, seen, plan, now) for plan in plans)
        passing("piece.before_commit")
    return count


def put(c: sa.Connection, seen: Study, plan: Planned, now: float) -> bool:
    """Enqueue a job about one piece, as part of the caller's transaction; False if there is one."""
    there = sa.select(_j.id).where(
        _j.study_uid == seen.uid, _j.pipeline == plan.pipeline, _j.subject == plan.subject, _j.upto >= plan.upto,
        _j.revision >= seen.identity_since, _j.state != "superseded",
    )  # fmt: skip
    if c.execute(there.limit(1)).first() is not None:
        return False
    c.execute(t.job.insert().values(
        study_uid=seen.uid, revision=seen.revision, upto=plan.upto, subject=plan.subject, pipeline=plan.pipeline,
        series=list(plan.series), send_to={name: list(told) for name, told in plan.send_to.items()},
        priority=plan.priority, state="waiting", created=now, document=plan.document,
    ))  # fmt: skip
    tell(c, seen.uid, now, "piece-queued", {"pipeline": plan.pipeline, "subject": plan.subject})
    return True


def overtaken(c: sa.Connection, study_uid: str, subjects: Sequence[str], at: float) -> None:
    """End what has not started or not been sent about pieces that one more image belongs to; others are left alone."""
    about = sa.select(_j.id).where(_j.study_uid == study_uid, _j.subject.in_(subjects))
    ids = c.execute(about).scalars().all()  # as a rule none: asked for every image
    if not ids:
        return
    c.execute(t.job.update().where(_j.id.in_(ids), _j.state == "waiting").values(state="superseded", ended=at))
    overtake(c, t.delivery.c.job_id.in_(ids), at)


def begun_anew(c: sa.Connection, study_uid: str, at: float) -> None:
    """Let what failed about the pieces of a study be done again, because it may now have what it lacked."""
    failed = sa.and_(_j.study_uid == study_uid, ~OF_STUDY, _j.state == "dead")
    c.execute(t.job.update().where(failed).values(state="superseded", ended=at))
