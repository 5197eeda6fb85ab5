"""What the listener is told and what it tells: bounds, callables, associations, objects."""

import socket
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydicom.dataset import Dataset

from dicom_io.reason import Reason
from dicom_io.rights import Right
from dicom_io.slots import Slots

EventKind = Literal["opened", "released", "aborted", "rejected", "denied"]


@dataclass(frozen=True, slots=True)
class AssociationInfo:
    """Who is on the other side of one association.

    `id` is unique over restarts; `certificate` is the SHA-256 (hex) of the certificate that it has shown, empty without, and
    `names` are those that it stands for.
    """

    id: str
    calling: str
    called: str
    peer: str
    certificate: str = ""
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AssociationEvent:
    """Something happened to an association; one that was rejected, or denied a service, carries the reason.

    `refused` counts the objects of an association that has ended whose C-STORE was not answered with success; `why` is what
    ended one that was aborted: ``peer``, ``lost`` (the connection), ``idle``, ``slow`` (a PDU did not come in time),
    ``invalid-pdu``, ``stopping``, ``unrecorded`` (its opening could not be written down); or what in a request could not be read (`dicom_io.request`).
    """

    kind: EventKind
    association: AssociationInfo
    reason: Reason | None = None
    refused: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object that arrived whole and says what it is.

    Parameters
    ----------
    path : Path
        A DICOM file in the listener's `incoming` folder, not yet flushed to disk. It is removed after the callable
        returns: link it elsewhere to keep it.
    digest : str
        SHA-256 (hex) of the encoded data set.
    bytes : int
        Length of the file.
    """

    path: Path
    association: AssociationInfo
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    digest: str
    bytes: int


@dataclass(frozen=True, slots=True)
class RefusedObject:
    """One object that was answered with a failure; the file is removed after the callable returns."""

    path: Path
    association: AssociationInfo
    status: int
    reason: Reason
    digest: str
    bytes: int


NoticeKind = Literal["mpps-create", "mpps-set", "ian", "commit-request", "commit-result"]


@dataclass(frozen=True, slots=True)
class Notice:
    """What a peer says about a procedure step, about available instances, or about storage commitment.

    Parameters
    ----------
    uid : str
        SOP Instance UID of the step or notification, empty if its sender leaves the choice to us; for commitment the
        Transaction UID.
    sop_class_uid, sop_instance_uid : str
        As the request names them; the instance is empty as `uid` is.
    syntax : str
        Transfer syntax of `encoded`.
    encoded : bytes
        The data set exactly as it came.
    dataset : Dataset
        The same, read; it has passed `notices.fault`.
    """

    kind: NoticeKind
    uid: str
    association: AssociationInfo
    sop_class_uid: str
    sop_instance_uid: str
    syntax: str
    encoded: bytes
    dataset: Dataset


@dataclass(frozen=True, slots=True)
class NoticeAnswer:
    """The answer to a notice; `uid` is the one that we gave to a new instance whose request named none."""

    status: int
    error_id: int | None = None
    comment: str | None = None
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Listener:
    """Where to listen and within which bounds.

    Parameters
    ----------
    incoming : Path
        Existing folder for objects while they arrive, on the file system on which they are to be kept.
    network_timeout_s : float
        An association on which nothing happens for so long is aborted, and a connection that stops inside a message
        is closed.
    request_timeout_s : float
        A connection that sends no association request for so long is closed.
    patience_s : float
        A request that finds no place waits for so long before it is rejected for now.
    max_associations_per_peer : int
        Of one address and calling AE title.
    associations_per_second : float
        Of one peer; what comes faster waits. 0: any number.
    max_half_open : int
        Connections that have not asked for an association yet; one more, and the oldest is closed.
    max_object_bytes : int
        Larger objects are answered 0xA700; 0: any size.
    tls : Callable[[], ssl.SSLContext] or None
        Gives the context for the next connection; None: no TLS.
    listening : socket.socket or None
        Listens already, perhaps for several processes; then `host` and `port` are not used.
    slots : Slots or None
        Places for associations that several processes share; then both limits of associations are its.
    """

    ae_titles: tuple[str, ...]
    host: str
    port: int
    incoming: Path
    max_associations: int = 64
    network_timeout_s: float = 30.0
    request_timeout_s: float = 10.0
    patience_s: float = 1.0
    max_associations_per_peer: int = 32
    associations_per_second: float = 100.0
    max_half_open: int = 256
    max_object_bytes: int = 0
    tls: Callable[[], ssl.SSLContext] | None = None
    listening: socket.socket | None = None
    slots: Slots | None = None


@dataclass(frozen=True, slots=True)
class Handlers:
    """What the listener calls, each but `allowed` from the thread of the association concerned.

    Parameters
    ----------
    on_stored : Callable[[StoredObject], int]
        Makes the object durable and returns the status to answer. `OSError` is answered with 0xA700.
    on_association : Callable[[AssociationEvent], None]
        Told of every association.
    on_refused : Callable[[RefusedObject], None]
        May keep a copy of an object that is answered with a failure.
    allowed : Callable[[AssociationInfo], frozenset[Right] | None]
        What who calls may do; None: not open an association. Asked before a thread is started: must not block.
    on_find : Callable[[Dataset], Iterable[Dataset]] or None
        Answers Study Root queries with matching identifiers; None: the service is not offered.
    on_notice : Callable[[Notice], NoticeAnswer] or None
        Makes a notice durable and returns the answer. `OSError` is answered with 0x0213. None: no notices are taken.
    commitment : bool
        Whether storage commitment is among them.
    room : Callable[[], None] or None
        Raises `OSError` while nothing can be stored: then what arrives is not even written, and answered with 0xA700.
    on_trouble : Callable[[AssociationInfo, OSError], None] or None
        Told when an object could not be written while it arrived, or was not because of `room`.
    """

    on_stored: Callable[[StoredObject], int]
    on_association: Callable[[AssociationEvent], None]
    on_refused: Callable[[RefusedObject], None]
    allowed: Callable[[AssociationInfo], frozenset[Right] | None]
    on_find: Callable[[Dataset], Iterable[Dataset]] | None = None
    on_notice: Callable[[Notice], NoticeAnswer] | None = None
    commitment: bool = False
    room: Callable[[], None] | None = None
    on_trouble: Callable[[AssociationInfo, OSError], None] | None = None
