"""What journals say: the frozen changes that receivers wrote down and the index takes in."""

from dataclasses import dataclass
from typing import Literal

from node.store.rows import Role

Relation = Literal["first", "same", "corrected", "conflict", "returned", "readable"]
"""What an arriving object is to the one that is used under its UID: ``first`` if there is none."""
Lost = Literal["removed", "missing", "damaged"]
"""Why an object cannot be read: retention took it, it is not there, or its file holds other bytes."""
End = Literal["released", "incomplete", "aborted"]
NoticeKind = Literal["mpps-create", "mpps-set", "ian", "commit-request", "commit-result"]


@dataclass(frozen=True, slots=True)
class AssociationOpened:
    """Journal: an association was accepted by the process `receiver`."""

    id: str
    receiver: str
    calling: str
    called: str
    peer: str
    at: float


@dataclass(frozen=True, slots=True)
class AssociationEnded:
    """Journal: an association ended; ``incomplete``: something that it sent had not been taken."""

    id: str
    how: End
    at: float


@dataclass(frozen=True, slots=True)
class Arrived:
    """Journal: an instance was stored; what its header says about the study comes with it.

    `identity` is whose it says it is, `relation` and `changed` (keywords) how it differs from what stood under its UID;
    `lost`: its file is not, or no longer, what was received.
    """

    association: str
    at: float
    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class: str
    syntax: str
    digest: str
    bytes: int
    entry: str
    role: Role
    modality: str = ""
    accession: str = ""
    patient_id: str = ""
    issuer: str = ""
    date: str = ""
    identity: str = ""
    relation: Relation = "first"
    changed: tuple[str, ...] = ()
    lost: Lost | None = None


@dataclass(frozen=True, slots=True)
class Repeated:
    """Journal: an instance that was there before arrived again, byte for byte."""

    association: str
    at: float
    study_uid: str
    sop_uid: str
    digest: str = ""
    entry: str = ""


@dataclass(frozen=True, slots=True)
class Noticed:
    """Journal: a peer sent a notice.

    `procedure` is (UID, status, study UIDs) of a performed procedure step; `announced` the (study, series, SOP Instance)
    UIDs that it or an availability notification names, the study empty where the notice leaves it open. `relay_to` names
    the RIS that it is passed on to.
    """

    kind: NoticeKind
    uid: str
    entry: str
    association: str
    calling: str
    called: str
    peer: str
    at: float
    procedure: tuple[str, str, tuple[str, ...]] | None = None
    announced: tuple[tuple[str, str, str], ...] = ()
    relay_to: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Removed:
    """Journal: retention took the file of an entry away."""

    entry: str
    at: float


Change = AssociationOpened | AssociationEnded | Arrived | Repeated | Noticed | Removed
