"""Versions of one image: which is used, and what happens to results when the source corrects whose they are."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from node import identity
from node.reasons import REASONS
from node.store import tables as t
from node.store.alarms import Rung, ended, note
from node.store.changes import Arrived, Removed, Repeated
from node.store.deliveries import OF_STUDY, calm
from node.store.engine import Database
from node.store.events import tell
from node.store.rows import Version, VersionState, as_a
from node.store.sql import insert

_v, _i, _d, _j = t.version.c, t.instance.c, t.delivery.c, t.job.c
_AT_ONCE = 500
CONFLICT, RETURNED, OLD_IDENTITY = "conflicting-instance", "earlier-identity-returned", "results-under-old-identity"
DAMAGED, MISSING = "instance-damaged", "instance-missing"


def versions(db: Database, sop_uids: Iterable[str]) -> dict[str, tuple[Version, ...]]:
    """Return every version of the instances named that are known, in the order of their coming."""
    wanted = sorted(set(sop_uids))
    columns = (_v.sop_uid, _v.digest, _v.study_uid, _v.entry, _v.state, _v.identity, _v.removed)
    found: dict[str, tuple[Version, ...]] = {}
    with db.read() as c:
        for n in range(0, len(wanted), _AT_ONCE):
            rows = c.execute(sa.select(*columns).where(_v.sop_uid.in_(wanted[n : n + _AT_ONCE])).order_by(_v.number))
            for row in rows:
                found[row.sop_uid] = (*found.get(row.sop_uid, ()), as_a(Version, row))
    return found


_LOST_RINGS = sa.select(t.alarm.c.code).where(
    t.alarm.c.code.in_((DAMAGED, MISSING)), t.alarm.c.subject == sa.bindparam("study"), t.alarm.c.cleared.is_(None)
)


def is_new(c: sa.Connection, x: Arrived) -> bool:
    """Say whether these bytes have not come before under this UID, or came as something that could not be read."""
    row = c.execute(sa.select(_v.state, _v.removed).where(_v.sop_uid == x.sop_uid, _v.digest == x.digest)).first()
    return row is None or (row.state == "unreadable" and row.removed is not None)


def use(c: sa.Connection, x: Arrived) -> str | None:
    """Make `x` the object that is used under its UID; return the identity of the one that was, if there was one."""
    facts = {
        "study_uid": x.study_uid, "series_uid": x.series_uid, "sop_class": x.sop_class, "modality": x.modality,
        "syntax": x.syntax, "digest": x.digest, "bytes": x.bytes, "entry": x.entry, "association": x.association,
        "received": x.at, "role": x.role, "identity": x.identity, "removed": None, "again": None,
    }  # fmt: skip
    before = c.execute(sa.select(_i.identity).where(_i.sop_uid == x.sop_uid)).scalar_one_or_none()
    if before is None:
        c.execute(t.instance.insert().values(id=t.NEXT_INSTANCE, sop_uid=x.sop_uid, **facts))
    else:
        # a number of its own: jobs and decisions that have seen the study up to an older one have not seen this
        c.execute(t.instance.update().where(_i.sop_uid == x.sop_uid).values(id=t.NEXT_INSTANCE, **facts))
        old: VersionState = "corrected" if x.relation == "corrected" else "unreadable"
        c.execute(t.version.update().where(_v.sop_uid == x.sop_uid, _v.state == "used").values(state=old))
    _keep(c, x, "unreadable" if x.role == "unreadable" else "used")
    return before


def set_aside(c: sa.Connection, x: Arrived, hashed: Callable[[str], str]) -> list[Rung]:
    """Keep an object that does not take the place of the one that is used; a person hears of it if it matters."""
    state: VersionState = x.relation if x.relation in ("conflict", "returned") else "same"
    _keep(c, x, state)
    if state == "returned" and x.role == "image":
        return _returned(c, x.study_uid, x.sop_uid, x.at, hashed)
    if state != "conflict" or x.role == "authored":
        return []
    used = c.execute(sa.select(_i.study_uid).where(_i.sop_uid == x.sop_uid)).scalar_one_or_none()
    rung: list[Rung] = []
    for study_uid in dict.fromkeys((used or x.study_uid, x.study_uid)):
        tell(c, study_uid, x.at, CONFLICT, {"sop_instance_uid": x.sop_uid, "attributes": list(x.changed)})
        # documents of other makers take no part in anything: the timeline is enough
        if x.role == "image" and note(c, study_uid, REASONS(CONFLICT).as_json(), x.at, study_uid):
            rung.append(Rung(CONFLICT, hashed(study_uid)))
    return rung


def lost(c: sa.Connection, x: Arrived, hashed: Callable[[str], str]) -> list[Rung]:
    """Write down an object whose file is not what was received; it is never used."""
    known = c.execute(sa.select(_i.id).where(_i.sop_uid == x.sop_uid)).first()
    if known is None:
        c.execute(t.instance.insert().values(
            id=t.NEXT_INSTANCE, sop_uid=x.sop_uid, study_uid=x.study_uid, series_uid=x.series_uid, sop_class=x.sop_class, modality="",
            syntax=x.syntax, digest=x.digest, bytes=x.bytes, entry=x.entry, association=x.association, received=x.at,
            role="unreadable", identity="", removed=x.at,
        ))  # fmt: skip
    _keep(c, x, "unreadable", removed=x.at, lost=x.at)
    if x.lost == "removed":
        return []
    code = DAMAGED if x.lost == "damaged" else MISSING
    tell(c, x.study_uid, x.at, code, {"sop_instance_uid": x.sop_uid})
    if note(c, x.study_uid, REASONS(code).as_json(), x.at, x.study_uid):
        return [Rung(code, hashed(x.study_uid))]
    return []


def healed(c: sa.Connection, study_uid: str, at: float, hashed: Callable[[str], str]) -> list[Rung]:
    """Clear the alarms about lost files of a study when none is lost any more."""
    standing = c.execute(_LOST_RINGS, {"study": study_uid}).scalars().all()
    if not standing:  # as a rule: asked for every image
        return []
    gone = sa.select(_i.id).where(_i.study_uid == study_uid, _i.removed.is_not(None))
    if c.execute(gone.limit(1)).first() is not None:
        return []
    return [Rung(code, hashed(study_uid), False) for code in (DAMAGED, MISSING) if ended(c, code, study_uid, at)]


def seen_again(c: sa.Connection, x: Repeated, hashed: Callable[[str], str]) -> tuple[list[Rung], bool]:
    """Write down that bytes came again; a corrected identity stays corrected.

    Returns
    -------
    rung : list[Rung]
        Alarms.
    restored : bool
        Whether a file that had been taken away is back.
    """
    mine = sa.and_(_v.sop_uid == x.sop_uid, _v.digest == x.digest)
    row = c.execute(sa.select(t.version).where(mine)).first() if x.digest else None
    if row is None:
        return [], False
    entry = x.entry or row.entry
    c.execute(t.version.update().where(mine).values(received=x.at, entry=entry, removed=None, lost=None))
    used = sa.and_(_i.sop_uid == x.sop_uid, _i.digest == x.digest)
    c.execute(t.instance.update().where(used).values(entry=entry, removed=None))
    restored = row.removed is not None
    rung = healed(c, row.study_uid, x.at, hashed) if restored else []
    image = c.execute(sa.select(_i.id).where(_i.sop_uid == x.sop_uid, _i.role == "image")).first() is not None
    if image and row.state in ("corrected", "returned"):
        rung += _returned(c, x.study_uid, x.sop_uid, x.at, hashed)
    return rung, restored


def failed_for_want(c: sa.Connection, study_uid: str) -> bool:
    """Say whether a study that has all its files failed in its present revision: files may be what it lacked."""
    gone = sa.select(_i.id).where(_i.study_uid == study_uid, _i.role == "image", _i.removed.is_not(None))
    now = sa.select(t.study.c.revision).where(t.study.c.uid == study_uid, t.study.c.state == "closed").scalar_subquery()
    failed = sa.or_(_j.state == "dead", _j.outcome == "failed", _j.document["outcome"].as_string() == "failed")
    bad = sa.select(_j.id).where(_j.study_uid == study_uid, _j.revision == now, failed)
    return c.execute(gone.limit(1)).first() is None and c.execute(bad.limit(1)).first() is not None


def removed(c: sa.Connection, x: Removed) -> None:
    """Write down that a file was taken away, unless the same object has come again since."""
    stood = sa.or_(_v.removed.is_(None), _v.lost.is_not(None))
    gone = sa.and_(_v.entry == x.entry, _v.received <= x.at, stood)
    for row in c.execute(sa.select(_v.sop_uid, _v.digest, _v.study_uid).where(gone)).all():
        this = t.version.update().where(_v.sop_uid == row.sop_uid, _v.digest == row.digest)
        c.execute(this.values(removed=x.at, lost=None))
        used = sa.and_(_i.sop_uid == row.sop_uid, _i.digest == row.digest)
        c.execute(t.instance.update().where(used).values(removed=x.at))
        left = sa.and_(_v.study_uid == row.study_uid, _v.state == "conflict", _v.removed.is_(None))
        if c.execute(sa.select(_v.sop_uid).where(left).limit(1)).first() is None:
            ended(c, CONFLICT, row.study_uid, x.at)


def correct(c: sa.Connection, x: Arrived, before: str, hashed: Callable[[str], str]) -> list[Rung]:
    """Give a study the identity of `x`, and take back what has not left under the one that it had `before`.

    The study opens again afterwards, see `node.store.index`.
    """
    # an image that had this identity from the beginning, in a late series, has corrected nothing
    others = (
        sa.select(_v.sop_uid)
        .join_from(t.version, t.instance, sa.and_(_i.sop_uid == _v.sop_uid, _i.study_uid == _v.study_uid))
        .where(_v.study_uid == x.study_uid, _v.state == "corrected", _v.identity == before)
        .where(_v.sop_uid != x.sop_uid, _i.role == "image", _i.identity == x.identity)
    )
    study = c.execute(sa.select(t.study).where(t.study.c.uid == x.study_uid)).one()
    jobs = sa.and_(_j.study_uid == x.study_uid, _j.state.in_(("waiting", "running")))
    c.execute(t.job.update().where(jobs).values(state="superseded", ended=x.at, owner=None, lease=None))
    if c.execute(others.limit(1)).first() is not None:
        return []  # the first image of this correction has done the rest
    mine = sa.and_(_j.study_uid == x.study_uid, _j.revision == study.revision)
    # of an unfinished study too, something may have left: what was said of single series and images
    said = sa.select(_j.id).where(mine, ~OF_STUDY, _j.state.in_(("done", "dead", "cancelled"))).limit(1)
    begins = study.state != "closed" and c.execute(said).first() is not None
    revision = study.revision + (study.state == "closed" or begins)
    facts = {"accession": x.accession, "patient_id": x.patient_id, "issuer": x.issuer, "date": x.date}
    if not identity.same_patient(before, x.identity):
        facts["patient_since"] = revision
    this = t.study.update().where(t.study.c.uid == x.study_uid)
    if study.corrected and study.state == "open" and study.identity_since == revision:
        c.execute(this.values(**facts))  # another series, whose headers say the same in other words
        return []
    if begins:
        early = sa.and_(mine, OF_STUDY, _j.state.in_(("done", "dead", "cancelled")))
        c.execute(t.job.update().where(early).values(state="superseded", ended=x.at))
        c.execute(this.values(revision=revision))
    going = sa.select(_d.destination).where(_d.study_uid == x.study_uid, _d.state == "sending")
    places = set(c.execute(going).scalars())
    cancelled = _cancel(c, x.study_uid, x.at)
    c.execute(this.values(**facts, corrected=t.study.c.corrected + 1, identity_since=revision))
    data = {"revision": revision, "since": study.identity_since, "attributes": list(x.changed), "cancelled": cancelled}
    tell(c, x.study_uid, x.at, "identity-corrected", data)
    places |= {row["destination"] for row in _objects(c, x.study_uid, 1, revision)}
    places |= {place for row in _corrections(c, x.study_uid) for place in row.data.get("unknown_at", ())}
    calm(c, x.study_uid, x.at)
    if not places:
        return []
    ended(c, OLD_IDENTITY, x.study_uid, x.at)  # of an earlier correction: the new one names all places
    reason = REASONS(OLD_IDENTITY, destinations=", ".join(sorted(places)))
    note(c, x.study_uid, reason.as_json(), x.at, x.study_uid)
    return [Rung(OLD_IDENTITY, hashed(x.study_uid))]


def _cancel(c: sa.Connection, study_uid: str, at: float) -> int:
    """Cancel what has not arrived of a study; return how many deliveries. Being sent ends with the object on its way.

    Nor is anybody asked any more for what has: a person removes it there, and it must not be missed.
    """
    asked = sa.and_(_d.study_uid == study_uid, _d.state == "delivered", _d.proof.in_(("waiting", "again")))
    c.execute(t.delivery.update().where(asked).values(proof="none", proof_next=None))
    waiting = sa.and_(_d.study_uid == study_uid, _d.state.in_(("held", "waiting", "sending", "quarantined", "dead")))
    why = REASONS("identity-corrected").as_json()
    gone = t.delivery.update().where(waiting)
    return c.execute(gone.values(state="cancelled", next_attempt=None, ended=at, last_error=why)).rowcount


def told(db: Database, study_uid: str) -> list[dict[str, Any]]:
    """Return every correction of a study: when, what was cancelled, and every object that had left before.

    ``unknown_at``: destinations that may hold objects nobody knows of any more, see `forgotten`.
    """
    with db.read() as c:
        return [
            {
                "at": row.at,
                "cancelled": row.data["cancelled"],
                "unknown_at": row.data.get("unknown_at", []),
                "delivered": [
                    *_objects(c, study_uid, row.data["since"], row.data["revision"]),
                    *_unknown(row.data.get("unknown_at", ()), row.data.get("made", ())),
                ],
            }
            for row in _corrections(c, study_uid)
        ]


def forgotten(
    db: Database,
    own: Database | None,
    now: float,
    destinations: Sequence[str],
    made: Callable[[str, Sequence[str], Sequence[str]], Sequence[str]],
) -> tuple[str, ...]:
    """Say that nobody knows what had left of corrected studies, because the database that knew it is lost.

    Parameters
    ----------
    db : Database
        An index made anew.
    own : Database or None
        What is left of the old one; the studies that it has are not forgotten. One that it lacks was never indexed, or
        the old one is an older copy: then what was made under the identity that was corrected stands on disk.
    now : float
        The time.
    destinations : Sequence[str]
        Where objects may stand.
    made : Callable
        Study UID, identities that were corrected, identities in use -> UIDs of objects on disk that were made under the
        former.

    Returns
    -------
    tuple[str, ...]
        The hashes of these studies.
    """
    _s = t.study.c
    known: set[str] = set()
    if own is not None:
        with own.read() as c:
            known.update(c.execute(sa.select(_s.uid)).scalars())
    corrected = sa.select(_s.uid, _s.hash).where(_s.corrected > 0).order_by(_s.uid)
    places = list(destinations) or ["?"]
    told: list[str] = []
    with db.write() as c:
        for study in [row for row in c.execute(corrected).all() if row.uid not in known]:
            events = _corrections(c, study.uid)
            was = sa.select(_v.identity).where(_v.study_uid == study.uid, _v.state == "corrected").distinct()
            now_is = sa.select(_i.identity).where(_i.study_uid == study.uid, _i.role == "image").distinct()
            found = made(study.uid, list(c.execute(was).scalars()), list(c.execute(now_is).scalars()))
            if own is not None and not found:  # nor was anything made of it before the correction
                continue
            for event in events:
                data = {**event.data, "unknown_at": places, "made": list(found) if event is events[-1] else []}
                c.execute(t.event.update().where(t.event.c.id == event.id).values(data=data))
            reason = REASONS(OLD_IDENTITY, destinations=", ".join(places))
            note(c, study.uid, reason.as_json(), now, study.uid)
            told.append(str(study.hash))
    return tuple(told)


def identities(db: Database, study_uid: str) -> tuple[tuple[str, ...], int]:
    """Return the identities that the images of a study have, and how many still say what was corrected in others."""
    image = sa.and_(_i.study_uid == study_uid, _i.role == "image")
    corrected = sa.and_(_v.sop_uid == _i.sop_uid, _v.study_uid == _i.study_uid, _v.state == "corrected")
    was = sa.select(_v.identity, _i.identity).join_from(t.instance, t.version, corrected).where(image).distinct()
    with db.read() as c:
        said = c.execute(sa.select(_i.identity, sa.func.count()).where(image).group_by(_i.identity)).all()
        left = identity.behind((row[0] for row in said), (tuple(row) for row in c.execute(was)))
        return tuple(row[0] for row in said), sum(int(row[1]) for row in said if row[0] in left)


def _keep(
    c: sa.Connection, x: Arrived, state: VersionState, removed: float | None = None, lost: float | None = None
) -> None:
    row = {
        "study_uid": x.study_uid, "entry": x.entry, "bytes": x.bytes, "association": x.association, "received": x.at,
        "state": state, "identity": x.identity, "removed": removed,
        "lost": lost,
    }  # fmt: skip
    again = insert(t.version).values(sop_uid=x.sop_uid, digest=x.digest, number=t.NEXT_VERSION, **row)
    c.execute(again.on_conflict_do_update(index_elements=["sop_uid", "digest"], set_=row))


def _corrections(c: sa.Connection, study_uid: str) -> Sequence[sa.Row[Any]]:
    """Return the corrections of a study as its timeline has them."""
    e = t.event.c
    query = sa.select(t.event).where(e.study_uid == study_uid, e.kind == "identity-corrected")
    return c.execute(query.order_by(e.id)).all()


def _unknown(places: Iterable[str], made: Sequence[str]) -> list[dict[str, Any]]:
    return [{"destination": place, "sop_instance_uid": uid, "state": "unknown"} for place in places for uid in made]


def _returned(c: sa.Connection, study_uid: str, sop_uid: str, at: float, hashed: Callable[[str], str]) -> list[Rung]:
    if not note(c, study_uid, REASONS(RETURNED).as_json(), at, study_uid):
        return []
    tell(c, study_uid, at, RETURNED, {"sop_instance_uid": sop_uid})
    return [Rung(RETURNED, hashed(study_uid))]


def _objects(c: sa.Connection, study_uid: str, since: int, before: int) -> list[dict[str, Any]]:
    """Return the objects of revisions `since` .. `before` - 1 that are at a destination, or may be."""
    a, b = t.artifact.c, t.brought.c
    then = sa.and_(_d.study_uid == study_uid, _d.revision >= since, _d.revision < before, _d.what != "refused")
    confirmed = sa.case((_d.state == "confirmed", "confirmed"), else_="delivered").label("state")
    accepted = sa.select(_d.destination, b.sop_uid, confirmed).join_from(t.delivery, t.brought, b.delivery_id == _d.id)
    states = {(row.destination, row.sop_uid): str(row.state) for row in c.execute(accepted.where(then).order_by(_d.id))}
    under_way = (
        sa.select(_d.destination, a.sop_uid)
        .join_from(t.delivery, t.job, _d.job_id == _j.id)
        .join(t.artifact, a.job_id == sa.func.coalesce(_j.carried_from, _j.id))
        .where(then, _d.state == "sending", a.replaced.is_(None))
    )
    for row in c.execute(under_way):
        states.setdefault((row.destination, row.sop_uid), "sending")
    return [
        {"destination": place, "sop_instance_uid": uid, "state": states[place, uid]} for place, uid in sorted(states)
    ]
