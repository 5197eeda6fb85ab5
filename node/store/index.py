"""From journal records to rows: the only way instances, associations and studies come into the database."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from node.failpoint import passing
from node.store import clocks, corrections, evidence, pieces, relays
from node.store import tables as t
from node.store.alarms import Rung
from node.store.changes import Arrived, AssociationEnded, AssociationOpened, Change, Noticed, Removed, Repeated
from node.store.deliveries import OF_STUDY, of_study, overtake
from node.store.engine import Database, unfit
from node.store.events import tell
from node.store.sql import insert

_AT_ONCE = 500


class UnfitError(Exception):
    """Some changes cannot be stored, on whatever machine; nothing has been changed.

    Parameters
    ----------
    faults : Mapping[int, Exception]
        What is wrong with each of them, by their numbers in the sequence.
    """

    def __init__(self, faults: Mapping[int, Exception]) -> None:
        super().__init__(", ".join(f"{n}: {type(error).__name__}" for n, error in faults.items()))
        self.faults = faults


def offsets(db: Database) -> dict[str, int]:
    """Return how far each journal file has been read, in bytes."""
    with db.read() as c:
        return {row.file: row.offset for row in c.execute(sa.select(t.journal))}


def artifacts(db: Database, sop_uids: Iterable[str]) -> set[str]:
    """Return those of `sop_uids` that this installation's database knows as its own objects."""
    wanted = sorted(set(sop_uids))
    found: set[str] = set()
    with db.read() as c:
        for n in range(0, len(wanted), _AT_ONCE):
            some = t.artifact.c.sop_uid.in_(wanted[n : n + _AT_ONCE])
            found.update(c.execute(sa.select(t.artifact.c.sop_uid).where(some)).scalars())
    return found


def index(
    db: Database,
    file: str,
    span: tuple[int, int],
    changes: Sequence[Change],
    hashed: Callable[[str], str],
    longest_s: float = 900.0,
    steady: float | None = None,
) -> tuple[Rung, ...] | None:
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
    longest_s : float
        A longer pause of a sender is not learned as one.
    steady : float or None
        What the steady clock shows: what was stamped before the time of day jumped, and is read after that, moves as what
        waits has moved.

    Returns
    -------
    tuple[Rung, ...] or None
        Alarms that were raised or cleared. None, and nothing is changed, if the file has been read from another place
        meanwhile (the coordinator of a node that was killed may live a moment longer than its successor needs to start).

    Raises
    ------
    UnfitError
        If some of them cannot be stored; the others can.
    """
    try:
        return _index(db, file, span, changes, hashed, longest_s, steady, one_by_one=False)
    except Exception as error:
        if not unfit(error):
            raise
    return _index(db, file, span, changes, hashed, longest_s, steady, one_by_one=True)


def _index(
    db: Database,
    file: str,
    span: tuple[int, int],
    changes: Sequence[Change],
    hashed: Callable[[str], str],
    longest_s: float,
    steady: float | None,
    *,
    one_by_one: bool,
) -> tuple[Rung, ...] | None:
    """Do it: all changes at once, or each so that it can be undone alone and all that do not fit are found."""
    begin, offset = span
    rung: list[Rung] = []
    faults: dict[int, Exception] = {}
    with db.write() as c:
        found = c.execute(sa.select(t.journal.c.offset).where(t.journal.c.file == file)).scalar_one_or_none()
        if (found or 0) != begin:
            return None
        for number, change in enumerate(changes if steady is None else _moved(c, changes, steady)):
            try:
                with c.begin_nested() if one_by_one else nullcontext():
                    rung += _applied(c, change, hashed, longest_s)
            except Exception as error:
                if not one_by_one or not unfit(error):
                    raise
                faults[number] = error
        if faults:
            raise UnfitError(faults)
        c.execute(
            insert(t.journal)
            .values(file=file, offset=offset)
            .on_conflict_do_update(index_elements=["file"], set_={"offset": offset})
        )
        passing("index.before_commit")
    return tuple(rung)


def _moved(c: sa.Connection, changes: Sequence[Change], steady: float) -> Sequence[Change]:
    known = clocks.known(c)
    if known is None or not known.jumps:
        return changes
    # a removal is stamped after the arrival that it ends, whatever the clock shows
    return [x if isinstance(x, Removed) else replace(x, at=known.moved(x.at, steady)) for x in changes]


def _applied(c: sa.Connection, change: Change, hashed: Callable[[str], str], longest_s: float) -> list[Rung]:
    match change:
        case AssociationOpened():
            _opened(c, change)
        case AssociationEnded():
            ended = t.association.update().where(t.association.c.id == change.id)
            c.execute(ended.values(ended=change.at, how=change.how))
        case Arrived():
            return _arrived(c, change, hashed, longest_s)
        case Repeated():
            return _repeated(c, change, hashed)
        case Removed():
            corrections.removed(c, change)
        case Noticed():
            evidence.noticed(c, change)
            relays.queue(c, change)
    return []


def _opened(c: sa.Connection, x: AssociationOpened) -> None:
    row = {"id": x.id, "receiver": x.receiver, "calling": x.calling, "called": x.called, "peer": x.peer, "opened": x.at}
    c.execute(insert(t.association).values(row).on_conflict_do_nothing())


def _arrived(c: sa.Connection, x: Arrived, hashed: Callable[[str], str], longest_s: float) -> list[Rung]:
    new = corrections.is_new(c, x)
    if x.lost is not None:
        return corrections.lost(c, x, hashed) if new else []
    if not new:
        return _repeated(c, Repeated(x.association, x.at, x.study_uid, x.sop_uid, x.digest, x.entry), hashed)
    if x.relation not in ("first", "readable", "corrected"):
        rung = corrections.set_aside(c, x, hashed)
        if x.role == "image":
            _known(c, x, hashed)
        return rung + _repeated(c, Repeated(x.association, x.at, x.study_uid, x.sop_uid), hashed)
    before = corrections.use(c, x)
    rung = corrections.healed(c, x.study_uid, x.at, hashed)
    if x.role == "unreadable":
        tell(c, x.study_uid, x.at, "unreadable", {"sop_instance_uid": x.sop_uid})
    if x.role != "image":
        return rung
    if x.relation != "corrected":
        evidence.learn(c, x.association, x.study_uid, x.at, longest_s)
    _count(c, x.association, x.study_uid, x.at)
    if x.relation == "corrected" and before is not None:
        rung += corrections.correct(c, x, before, hashed)
        _grow(c, x, None)
    else:
        _grow(c, x, hashed)
    return rung


def _grow(c: sa.Connection, x: Arrived, hashed: Callable[[str], str] | None) -> None:
    """Let a study begin, grow or open again because of the image `x`, whose row is the newest."""
    if hashed is not None and _known(c, x, hashed):
        return
    pieces.overtaken(c, x.study_uid, (x.series_uid, x.sop_uid), x.at)
    upto = _number(x)
    study = c.execute(sa.select(t.study.c.state, t.study.c.revision).where(t.study.c.uid == x.study_uid)).one()
    grown = t.study.update().where(t.study.c.uid == x.study_uid)
    if study.state == "early":
        _drop_early(c, x.study_uid, study.revision, x.at)
        c.execute(grown.values(state="open", dropped=t.study.c.dropped + 1, active=x.at, upto=upto))
    elif study.state == "closed":
        reopen(c, x.study_uid, study.revision, x.at, upto)
        if hashed is not None:
            tell(c, x.study_uid, x.at, "late-image", {"revision": study.revision + 1})
    else:
        c.execute(grown.values(active=x.at, upto=upto))


def begin_again(c: sa.Connection, study_uid: str, at: float, why: str = "late-image") -> str:
    """Open a study again whose images are others than when it was decided about; return its hash."""
    study = c.execute(sa.select(t.study).where(t.study.c.uid == study_uid)).one()
    this = t.study.update().where(t.study.c.uid == study_uid)
    pieces.begun_anew(c, study_uid, at)
    if study.state == "closed":
        reopen(c, study_uid, study.revision, at, study.upto)
        tell(c, study_uid, at, why, {"revision": study.revision + 1})
    elif study.state == "early":
        _drop_early(c, study_uid, study.revision, at)
        c.execute(this.values(state="open", dropped=study.dropped + 1, active=at))
    else:
        c.execute(this.values(active=at))
    return str(study.hash)


def _known(c: sa.Connection, x: Arrived, hashed: Callable[[str], str]) -> bool:
    """Make the study of `x` known; False if it was.

    Also when all that came of it were other studies' images: nothing is done in silence.
    """
    facts = {"uid": x.study_uid, "hash": hashed(x.study_uid), "accession": x.accession, "patient_id": x.patient_id}
    life = {"state": "open", "revision": 1, "dropped": 0, "opened": x.at, "active": x.at}
    row = insert(t.study).values(**facts, issuer=x.issuer, date=x.date, **life, upto=sa.func.coalesce(_number(x), 0))
    return bool(c.execute(row.on_conflict_do_nothing()).rowcount)


def _number(x: Arrived) -> sa.ScalarSelect[int]:
    same = sa.and_(t.instance.c.sop_uid == x.sop_uid, t.instance.c.study_uid == x.study_uid)
    return sa.select(t.instance.c.id).where(same).scalar_subquery()


def reopen(c: sa.Connection, study_uid: str, revision: int, at: float, upto: Any) -> None:  # noqa: ANN401 - a value or SQL
    """Begin another revision of the study that was closed with `revision`."""
    _supersede(c, study_uid, at)
    opened = t.study.update().where(t.study.c.uid == study_uid)
    c.execute(opened.values(state="open", revision=revision + 1, dropped=0, opened=at, active=at, upto=upto))


def _repeated(c: sa.Connection, x: Repeated, hashed: Callable[[str], str]) -> list[Rung]:
    rung, restored = corrections.seen_again(c, x, hashed)
    if restored and corrections.failed_for_want(c, x.study_uid):
        begin_again(c, x.study_uid, x.at, "images-returned")
    known = c.execute(sa.select(t.instance.c.role).where(t.instance.c.sop_uid == x.sop_uid)).scalar_one_or_none()
    if known == "image":
        # a sender that repeats itself after a broken association is still sending: the study's quiet time starts again
        _count(c, x.association, x.study_uid, x.at)
        c.execute(t.instance.update().where(t.instance.c.sop_uid == x.sop_uid).values(again=x.association))
        still = sa.and_(t.study.c.uid == x.study_uid, t.study.c.state != "closed")
        c.execute(t.study.update().where(still).values(active=x.at))
    return rung


def _count(c: sa.Connection, association: str, study_uid: str, at: float) -> None:
    row = {"association": association, "study_uid": study_uid, "images": 1, "first": at, "last": at}
    more = {"images": t.carried.c.images + 1, "last": at}
    c.execute(
        insert(t.carried).values(row).on_conflict_do_update(index_elements=["association", "study_uid"], set_=more)
    )


def _drop_early(c: sa.Connection, study_uid: str, revision: int, at: float) -> None:
    """Early work is void: nobody has seen it, so it ends unseen, finished or not."""
    jobs = sa.and_(
        t.job.c.study_uid == study_uid,
        t.job.c.revision == revision,
        OF_STUDY,
        t.job.c.state.in_(("waiting", "running", "done", "dead", "cancelled")),
    )
    c.execute(t.job.update().where(jobs).values(state="superseded", ended=at))
    overtake(c, of_study(study_uid), at)
    tell(c, study_uid, at, "early-work-dropped", {"revision": revision})


def _supersede(c: sa.Connection, study_uid: str, at: float) -> None:
    """End what has not started or not been sent of the revision that a late image has overtaken."""
    jobs = sa.and_(t.job.c.study_uid == study_uid, OF_STUDY, t.job.c.state == "waiting")
    c.execute(t.job.update().where(jobs).values(state="superseded", ended=at))
    overtake(c, of_study(study_uid), at)
