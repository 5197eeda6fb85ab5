"""What the store hands out and takes in: frozen rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import sqlalchemy as sa

from node.installation import process_name

R = TypeVar("R")

StudyState = Literal["open", "early", "closed"]
JobState = Literal["waiting", "running", "done", "dead", "superseded", "cancelled"]
DeliveryState = Literal[
    "held", "waiting", "sending", "delivered", "confirmed", "quarantined", "superseded", "cancelled", "dead"
]
Identity = Literal["checked", "not-offered", "off"]
"""Whether a destination was asked whose study it is before something was sent."""
Proof = Literal["waiting", "again", "find", "commitment", "none", "not-offered", "unanswered", "missing"]
"""``waiting``, ``again``: to be asked for, the latter after a second sending; the others are final."""
Role = Literal["image", "other", "authored", "unreadable"]
"""``image`` opens, extends and revises studies; ``other``: another maker's result or document; ``authored``: ours."""
VersionState = Literal["used", "corrected", "conflict", "same", "returned", "unreadable"]
NodeState = Literal["alive", "silent", "stopped"]
RelayState = Literal["waiting", "delivered", "dead"]


RECEIVING = ("receiver", "web")
"""Roles of processes that associations come in by."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process of a running node; its `name` is that of no other on any machine."""

    name: str
    node: str
    pid: int
    role: str
    started: float

    @classmethod
    def of(cls, node: str, pid: int, role: str, started: float) -> "Process":
        """Return the process `pid` of `node`."""
        return cls(process_name(node, pid), node, pid, role, started)


@dataclass(frozen=True, slots=True)
class Node:
    """One node of those that share the database.

    Parameters
    ----------
    name : str
        What it is called.
    since : float
        When it began, by its own clock (s since the epoch).
    seen : float
        When it was heard last, by the clock of the database.
    ahead : float
        How far its clock is ahead of that of the database (s).
    state : NodeState
        ``silent``: not heard for too long; ``stopped``: it has ended as planned.
    """

    name: str
    since: float
    seen: float
    ahead: float
    state: NodeState


@dataclass(frozen=True, slots=True)
class Study:
    """One study and where it is in its life."""

    uid: str
    hash: str
    accession: str
    patient_id: str
    issuer: str
    date: str
    state: StudyState
    revision: int
    dropped: int
    opened: float
    active: float
    upto: int
    corrected: int = 0
    identity_since: int = 1
    patient_since: int = 1


@dataclass(frozen=True, slots=True)
class Carrier:
    """One association that carried images of a study; `how` is None while it is open, or if its process died."""

    association: str
    receiver: str
    calling: str
    called: str
    peer: str
    opened: float
    ended: float | None
    how: str | None
    images: int
    first: float
    last: float


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """One instance in the spool."""

    id: int
    sop_uid: str
    study_uid: str
    series_uid: str
    sop_class: str
    modality: str
    syntax: str
    digest: str
    bytes: int
    entry: str
    association: str
    received: float
    role: Role
    identity: str = ""
    removed: float | None = None
    again: str | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """One of the objects that came under a SOP Instance UID, all of which are kept.

    `state`: ``used``; ``corrected`` (was used, until the same image came with a corrected identity); ``conflict``;
    ``same`` (only encoded otherwise, or different in what does not matter); ``returned`` (a corrected identity once
    more); ``unreadable`` (was the first, until a readable one came).
    """

    sop_uid: str
    digest: str
    study_uid: str
    entry: str
    state: VersionState
    identity: str
    removed: float | None


@dataclass(frozen=True, slots=True)
class Piece:
    """One series or one image, with a job of its own: its UID, how many images it has, and which was the first and the last."""

    subject: str
    images: int
    first: StoredInstance
    newest: StoredInstance

    @property
    def upto(self) -> int:
        """Its newest image row."""
        return self.newest.id


@dataclass(frozen=True, slots=True)
class Planned:
    """One job to be enqueued; without a pipeline it is over at once, with `reason`.

    One about a piece of the study has seen its images up to the row `upto`.
    """

    pipeline: str | None
    series: tuple[str, ...]
    send_to: Mapping[str, Sequence[str]]
    document: Mapping[str, Any]
    reason: Mapping[str, Any] | None = None
    priority: int = 2
    subject: str = "study"
    upto: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """One pipeline on one study revision, or on one series or image of it: `subject` is then its UID."""

    id: int
    study_uid: str
    revision: int
    upto: int
    subject: str
    depends_on: int | None
    pipeline: str | None
    series: list[str]
    send_to: dict[str, list[str]]
    state: JobState
    attempts: int
    losses: int
    not_before: float
    owner: str | None
    lease: float | None
    created: float
    started: float | None
    ended: float | None
    stage: str | None
    progress: float | None
    outcome: str | None
    reason: dict[str, Any] | None
    input_digest: str | None
    document: dict[str, Any] | None
    carried_from: int | None
    priority: int = 2


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    """One object that we authored; `path` is relative to the data folder."""

    job_id: int
    name: str
    path: str
    kind: str
    modality: str
    sop_class: str
    sop_uid: str
    series_uid: str
    bytes: int
    digest: str
    removed: float | None = None
    replaced: float | None = None
    variant: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One job's artifacts on their way to one destination.

    `what` also: ``refused``, what the gate keeps back from it; ``rejection``, the note about what the objects replace there.
    """

    id: int
    job_id: int
    study_uid: str
    revision: int
    destination: str
    what: Literal["objects", "refused", "rejection"]
    state: DeliveryState
    attempts: int
    next_attempt: float | None
    last_error: dict[str, Any] | None
    created: float
    ended: float | None
    priority: int = 2
    identity: Identity | None = None
    proof: Proof | None = None
    proof_next: float | None = None
    proof_attempts: int = 0
    queued: float = 0.0
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """What a destination said for good about one object of a delivery; `status` is None if it was refused without one."""

    sop_uid: str
    accepted: bool
    status: int | None
    reason: dict[str, Any] | None
    at: float


@dataclass(frozen=True, slots=True)
class Breaker:
    """Whether a destination is spoken to: `failures` in a row, `since` when its state is what it is."""

    destination: str
    state: Literal["closed", "open", "half-open"]
    failures: int
    since: float
    next_try: float | None
    last_error: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a study's timeline."""

    at: float
    kind: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Alarm:
    """What a person must look at; `subject` is a study UID, the name of a destination, or empty for the node."""

    code: str
    subject: str
    study_uid: str | None
    raised: float
    cleared: float | None
    reason: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StepRow:
    """One performed procedure step: how many images it names, and how many of them have not arrived."""

    status: str
    named: int
    missing: int


@dataclass(frozen=True, slots=True)
class Said:
    """What peers said about one study.

    Parameters
    ----------
    steps : tuple[StepRow, ...]
        Its performed procedure steps.
    available : int
        Images that availability notifications name and that have not arrived.
    unnamed : int
        Images that we hold and nobody names.
    """

    steps: tuple[StepRow, ...]
    available: int
    unnamed: int


@dataclass(frozen=True, slots=True)
class Read:
    """What a source answered: Series Instance UID to images; first given `at`, and unchanged until `again`."""

    source: str
    at: float
    again: float
    series: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Held:
    """What we hold of one series: images, and objects of any kind but our own."""

    images: int
    objects: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What the recent studies of one sender show.

    Parameters
    ----------
    sender : str
        Its AE title.
    studies : int
        How many.
    within_s, between_s : float
        Longest pause between two images of one association, and between two associations, in one study (s).
    first, last : float
        First and last image of them (s since the epoch).
    refuted : Mapping[str, int]
        Kind of strong evidence to the studies that grew after it.
    """

    sender: str
    studies: int
    within_s: float
    between_s: float
    first: float
    last: float
    refuted: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Receipts:
    """What came lately: bytes since a time and when the first of it came; `held`: bytes of all images that are there."""

    bytes: int
    first: float | None
    held: int


Relayed = Literal["unknown", "pending", "settled"]


@dataclass(frozen=True, slots=True)
class Finished:
    """What says whether a study is finished.

    Parameters
    ----------
    active, ended : float
        Last image; last image or end of a job, whichever came later (s since the epoch).
    jobs : frozenset[tuple[str, bool]]
        States of its jobs, each with whether it is the last word about its study or piece.
    deliveries : frozenset[tuple[str, str | None]]
        States of its deliveries, each with its proof.
    alarms : int
        How many stand.
    """

    state: StudyState
    active: float
    ended: float
    jobs: frozenset[tuple[str, bool]]
    deliveries: frozenset[tuple[str, str | None]]
    alarms: int


def as_a(kind: type[R], row: sa.Row[*tuple[Any, ...]]) -> R:
    """Return a database row as the dataclass `kind`, whose fields are named like the columns."""
    return kind(**row._mapping)  # noqa: SLF001 - SQLAlchemy's documented attribute; the underscore keeps it apart from columns
