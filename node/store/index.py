"""From journal records to rows: the only way instances, associations and studies come into the database."""

from collections.abc import Callable, Sequence

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from node.failpoint import passing
from node.store import tables as t
from node.store.engine import Database
from node.store.events import tell
from node.store.rows import Arrived, AssociationEnded, AssociationOpened, Change, Repeated


def offsets(db: Database) -> dict[str, int]:
    """Return how far each journal file has been read, in bytes."""
    with db.read() as c:
        return {row.file: row.offset for row in c.execute(sa.select(t.journal))}


def is_artifact(db: Database, sop_uid: str) -> bool:
    """Say whether this installation's database knows `sop_uid` as one of its own objects."""
    with db.read() as c:
        return (
            c.execute(sa.select(t.artifact.c.name).where(t.artifact.c.sop_uid == sop_uid).limit(1)).first() is not None
        )


def index(
    db: Database, file: str, span: tuple[int, int], changes: Sequence[Change], hashed: Callable[[str], str]
) -> bool:
    """Apply `changes`, read from a part of `file`, and remember how far it has been read, in one transaction.

    Parameters
    ----------
    db : Database
        Where to.
    file : str
        Name of the journal file.
    span : tuple[int, int]
        First byte of what `changes` came from, and the byte after it.
    changes : Sequence[Change]
        In the order of the journal.
    hashed : Callable
        Gives the hash that stands for a study UID in logs.

    Returns
    -------
    bool
        False, and nothing is changed, if the file has been read from another place meanwhile (the coordinator of a node
        that was killed may live a moment longer than its successor needs to start).
    """
    begin, offset = span
    with db.write() as c:
        found = c.execute(sa.select(t.journal.c.offset).where(t.journal.c.file == file)).scalar_one_or_none()
        if (found or 0) != begin:
            return False
        for change in changes:
            match change:
                case AssociationOpened():
                    _opened(c, change)
                case AssociationEnded():
                    ended = t.association.update().where(t.association.c.id == change.id)
                    c.execute(ended.values(ended=change.at, how=change.how))
                case Arrived():
                    _arrived(c, change, hashed)
                case Repeated():
                    _repeated(c, change)
        c.execute(
            insert(t.journal).values(file=file, offset=offset).on_conflict_do_update(["file"], set_={"offset": offset})
        )
        passing("index.before_commit")
    return True


def _opened(c: sa.Connection, x: AssociationOpened) -> None:
    row = {"id": x.id, "pid": x.pid, "calling": x.calling, "called": x.called, "peer": x.peer, "opened": x.at}
    c.execute(insert(t.association).values(row).on_conflict_do_nothing())


def _arrived(c: sa.Connection, x: Arrived, hashed: Callable[[str], str]) -> None:
    row = {
        "sop_uid": x.sop_uid, "study_uid": x.study_uid, "series_uid": x.series_uid, "sop_class": x.sop_class,
        "modality": x.modality, "syntax": x.syntax, "digest": x.digest, "bytes": x.bytes, "entry": x.entry,
        "association": x.association, "received": x.at, "role": x.role,
    }  # fmt: skip
    new = c.execute(
        insert(t.instance).values(row).on_conflict_do_nothing().returning(t.instance.c.id)
    ).scalar_one_or_none()
    if new is None:
        first = c.execute(sa.select(t.instance.c.entry).where(t.instance.c.sop_uid == x.sop_uid)).scalar_one()
        if first != x.entry:
            tell(c, x.study_uid, x.at, "conflicting-instance", {"sop_instance_uid": x.sop_uid})
        _repeated(c, Repeated(x.association, x.at, x.study_uid, x.sop_uid))
        return
    if x.role == "unreadable":
        tell(c, x.study_uid, x.at, "unreadable", {"sop_instance_uid": x.sop_uid})
    if x.role != "image":
        return
    _count(c, x.association, x.study_uid, x.at)
    study = c.execute(sa.select(t.study.c.state, t.study.c.revision).where(t.study.c.uid == x.study_uid)).first()
    if study is None:
        facts = {"uid": x.study_uid, "hash": hashed(x.study_uid), "accession": x.accession, "patient_id": x.patient_id}
        life = {
            "state": "open",
            "revision": 1,
            "dropped": 0,
            "opened": x.at,
            "active": x.at,
            "upto": new,
            "corrected": 0,
        }
        c.execute(t.study.insert().values(**facts, issuer=x.issuer, date=x.date, **life))
        return
    grown = t.study.update().where(t.study.c.uid == x.study_uid)
    if study.state == "early":
        _drop_early(c, x.study_uid, study.revision, x.at)
        c.execute(grown.values(state="open", dropped=t.study.c.dropped + 1, active=x.at, upto=new))
    elif study.state == "closed":
        _supersede(c, x.study_uid, x.at)
        c.execute(
            grown.values(state="open", revision=t.study.c.revision + 1, dropped=0, opened=x.at, active=x.at, upto=new)
        )
        tell(c, x.study_uid, x.at, "late-image", {"revision": study.revision + 1})
    else:
        c.execute(grown.values(active=x.at, upto=new))


def _repeated(c: sa.Connection, x: Repeated) -> None:
    known = c.execute(sa.select(t.instance.c.role).where(t.instance.c.sop_uid == x.sop_uid)).scalar_one_or_none()
    if known != "image":
        return
    # a sender that repeats itself after a broken association is still sending: the study's quiet time starts again
    _count(c, x.association, x.study_uid, x.at)
    still = sa.and_(t.study.c.uid == x.study_uid, t.study.c.state != "closed")
    c.execute(t.study.update().where(still).values(active=x.at))


def _count(c: sa.Connection, association: str, study_uid: str, at: float) -> None:
    row = {"association": association, "study_uid": study_uid, "images": 1, "first": at, "last": at}
    more = {"images": t.carried.c.images + 1, "last": at}
    c.execute(insert(t.carried).values(row).on_conflict_do_update(["association", "study_uid"], set_=more))


def _drop_early(c: sa.Connection, study_uid: str, revision: int, at: float) -> None:
    """Early work is void: nobody has seen it, so it ends unseen, finished or not."""
    jobs = sa.and_(
        t.job.c.study_uid == study_uid,
        t.job.c.revision == revision,
        t.job.c.state.in_(("waiting", "running", "done", "dead")),
    )
    c.execute(t.job.update().where(jobs).values(state="superseded", ended=at))
    c.execute(_unsent(study_uid).values(state="superseded", next_attempt=None, ended=at))
    tell(c, study_uid, at, "early-work-dropped", {"revision": revision})


def _supersede(c: sa.Connection, study_uid: str, at: float) -> None:
    """End what has not started or not been sent of the revision that a late image has overtaken."""
    jobs = sa.and_(t.job.c.study_uid == study_uid, t.job.c.state == "waiting")
    c.execute(t.job.update().where(jobs).values(state="superseded", ended=at))
    c.execute(_unsent(study_uid).values(state="superseded", next_attempt=None, ended=at))


def _unsent(study_uid: str) -> sa.Update:
    return t.delivery.update().where(t.delivery.c.study_uid == study_uid, t.delivery.c.state.in_(("held", "waiting")))
