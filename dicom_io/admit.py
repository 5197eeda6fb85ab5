"""Admission: an object that arrived is judged, handed on and answered with a status, whatever the wire it came over.

References
----------
PS3.4 annex B.2.3 (C-STORE statuses); PS3.18 table I.2-2 (the same numbers as Failure Reason of STOW-RS).
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dicom_io.arrival import Arrival, Identity, read_identity
from dicom_io.reasons import REASONS
from dicom_io.scp_types import AssociationInfo, RefusedObject, StoredObject
from dicom_io.status import Answer


class Taker(Protocol):
    """Who makes objects durable; `Handlers` of the listener is one. See there for each."""

    @property
    def on_stored(self) -> Callable[[StoredObject], int]:
        """Makes an object durable; returns the status."""

    @property
    def on_refused(self) -> Callable[[RefusedObject], None]:
        """May keep a copy of what is refused."""

    @property
    def on_trouble(self) -> Callable[[AssociationInfo, OSError], None] | None:
        """Told of what could not be written while it arrived."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the request says that it carries; an empty UID says nothing."""

    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    study_instance_uid: str = ""


@dataclass(frozen=True, slots=True)
class Admission:
    """The status that answers an object, and what the object says that it is."""

    status: int
    found: Identity


def admit(arrival: Arrival, who: AssociationInfo, syntax: str, asked: Asked, taker: Taker) -> Admission:
    """Judge an object that has arrived whole and hand it on. Never raises.

    Parameters
    ----------
    arrival : Arrival
        Still there afterwards: whoever made it removes it.
    syntax : str
        Transfer syntax UID of the data set.
    asked : Asked
        What it must agree with.
    """
    if arrival.error is not None:
        if taker.on_trouble is not None:
            with contextlib.suppress(Exception):  # a handler's failure must not keep the peer waiting
                taker.on_trouble(who, arrival.error)
        return Admission(Answer.OUT_OF_RESOURCES, Identity())
    found = read_identity(arrival.path, arrival.data_offset, syntax)
    fault = judge(found, asked)
    try:
        if fault is not None:
            status, code = fault
            with contextlib.suppress(Exception):  # the copy is a courtesy, the answer is not
                taker.on_refused(RefusedObject(arrival.path, who, status, REASONS(code), arrival.digest, arrival.bytes))
            return Admission(status, found)
        stored = StoredObject(
            path=arrival.path,
            association=who,
            sop_class_uid=found.sop_class_uid,
            sop_instance_uid=found.sop_instance_uid,
            study_instance_uid=found.study_instance_uid,
            series_instance_uid=found.series_instance_uid,
            transfer_syntax_uid=syntax,
            digest=arrival.digest,
            bytes=arrival.bytes,
        )
        return Admission(taker.on_stored(stored), found)
    except OSError:
        return Admission(Answer.OUT_OF_RESOURCES, found)
    except Exception:  # noqa: BLE001 - whatever went wrong, the sender is told to keep the object
        return Admission(Answer.PROCESSING_FAILURE, found)


def judge(found: Identity, asked: Asked) -> tuple[Answer, str] | None:
    """Return the status and the reason's code for an object that is refused, or None."""
    if found.fault:
        return Answer.CANNOT_UNDERSTAND, found.fault
    if not found.complete:
        return Answer.CANNOT_UNDERSTAND, "object-without-uids"
    named = (
        (asked.sop_class_uid, found.sop_class_uid),
        (asked.sop_instance_uid, found.sop_instance_uid),
        (asked.study_instance_uid, found.study_instance_uid),
    )
    if any(wanted and wanted != is_ for wanted, is_ in named):
        return Answer.DATASET_MISMATCH, "object-is-another"
    return None
