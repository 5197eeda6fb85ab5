"""Notices as the receiver keeps them: the state of every performed procedure step, and the promise that an answer makes.

The spool is the truth here too: ``notices/<hash>-<kind>-<n>.dcm`` hold the data sets as they came, in the order of their
numbers, so that the state of a step is known after a restart without any index.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from config.settings import Destination, Peer, Settings
from dicom_io.errors import UnreadableError
from dicom_io.files import sync_folder
from dicom_io.notices import (
    MAY_NO_LONGER_BE_UPDATED,
    NoticeStatus,
    Step,
    StepStatus,
    data_of,
    part10,
    read_availability,
    read_notice,
    read_step,
)
from dicom_io.scp_types import Notice, NoticeAnswer
from node import route
from node.failpoint import passing
from node.spool import Spool, Stored, utc
from node.store.changes import Noticed, NoticeKind

_log = structlog.get_logger()

REMEMBERED = 10_000
"""Steps whose state this process remembers; that of another one is read from its files again."""


@dataclass(slots=True)
class _Known:
    """What this process knows of one step: its status, and how often it has been set."""

    status: StepStatus
    sets: int = 0
    digest: str = field(default="", repr=False)


class Notices:
    """Judges notices, makes them durable and journals them; one for each receiver process.

    Parameters
    ----------
    spool : Spool
        Where they are kept.
    append : Callable[[dict], int]
        Writes a record to the journal; returns when it is durable.
    requester : Callable[[str], Peer | None]
        See `requesters`.
    now : Callable[[], datetime]
        The clock.
    new_uid : Callable[[], str]
        Gives UIDs to steps and notifications whose request names none.
    """

    def __init__(
        self,
        spool: Spool,
        append: Callable[[dict[str, Any]], int],
        requester: Callable[[str], Peer | None],
        now: Callable[[], datetime],
        new_uid: Callable[[], str],
    ) -> None:
        self._spool, self._append, self._requester = spool, append, requester
        self._now, self._new_uid = now, new_uid
        self._steps: OrderedDict[str, _Known] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, notice: Notice) -> NoticeAnswer:
        """Answer a notice. Success, and "exists already", say that it is on disk and in the journal.

        Raises
        ------
        OSError
            If it could not be made durable; nothing may be acknowledged.
        """
        with self._lock, self._spool.noticing():  # a step is one row of events; notices are rare
            answer = self._judged(notice)
        passing("receive.before_response")
        about = {"notice": notice.kind, "association": notice.association.id, "calling": notice.association.calling}
        if answer.status:
            _log.warning("notice.refused", **about, status=f"0x{int(answer.status):04X}")
        else:
            _log.info("notice.kept", **about)
        return answer

    def _judged(self, notice: Notice) -> NoticeAnswer:
        match notice.kind:
            case "mpps-create" | "ian":
                return self._create(notice)
            case "mpps-set":
                return self._set(notice)
            case "commit-request":
                return self._request(notice)
            case "commit-result":
                self._keep(notice, stem(notice.uid, notice.kind))
                return NoticeAnswer(NoticeStatus.SUCCESS)

    def _create(self, notice: Notice) -> NoticeAnswer:
        given = ""
        if not notice.uid:
            given = self._new_uid()
            notice = replace(notice, uid=given, sop_instance_uid=given)
        name = stem(notice.uid, notice.kind)
        known = self._known(notice, given) if notice.kind == "mpps-create" else self._again(notice, name)
        if known:
            return NoticeAnswer(NoticeStatus.DUPLICATE_INSTANCE)
        self._keep(notice, name)
        if notice.kind == "mpps-create":
            self._remember(notice.uid, _Known("IN PROGRESS"))
        return NoticeAnswer(NoticeStatus.SUCCESS, uid=given)

    def _set(self, notice: Notice) -> NoticeAnswer:
        step = self._known(notice)
        if step is None:
            return NoticeAnswer(NoticeStatus.NO_SUCH_INSTANCE)
        if step.status != "IN PROGRESS":
            return NoticeAnswer(
                NoticeStatus.PROCESSING_FAILURE, MAY_NO_LONGER_BE_UPDATED, "the step may no longer be updated"
            )
        digest = hashlib.sha256(notice.encoded).hexdigest()
        if digest != step.digest:  # else its answer was lost: nothing changes
            name = set_stem(notice.uid, step.sets)
            try:
                self._keep(notice, name)
            except OSError:
                if self._path(name).exists():  # linked, and could not be journalled: what is refused never counts
                    self._remember(notice.uid, replace(step, sets=step.sets + 1))
                raise
            status = read_step(notice.dataset).status or step.status
            self._remember(notice.uid, _Known(status, step.sets + 1, digest))
        return NoticeAnswer(NoticeStatus.SUCCESS)

    def _request(self, notice: Notice) -> NoticeAnswer:
        sender = notice.association
        if self._requester(sender.calling) is None:
            return NoticeAnswer(NoticeStatus.NOT_AUTHORISED)
        name = stem(f"{sender.calling}\0{notice.uid}", notice.kind)
        if self._is_another(notice, name):
            return NoticeAnswer(NoticeStatus.DUPLICATE_INVOCATION)
        self._keep(notice, name)
        return NoticeAnswer(NoticeStatus.SUCCESS)

    def _known(self, notice: Notice, given: str = "") -> _Known | None:
        """Return what is known of a step: what this process remembers, and the files that others have added since.

        Files can stand there without a record, if a process died between the two: they are recorded (again), with
        whoever talks about the step now as the sender.
        """
        step = self._steps.get(notice.uid)
        if given:
            return step
        if step is None:
            if not self._path(stem(notice.uid, "mpps-create")).exists():
                return None
            sync_folder(self._spool.root / "notices")  # whoever linked them may have died before that
            self._record(notice, "mpps-create", stem(notice.uid, "mpps-create") + "-0.dcm")
            step = _Known("IN PROGRESS")
        while (path := self._path(set_stem(notice.uid, step.sets))).exists():
            self._record(notice, "mpps-set", set_stem(notice.uid, step.sets) + "-0.dcm")
            step = _Known(_status(path) or step.status, step.sets + 1, hashlib.sha256(data_of(path)).hexdigest())
        self._remember(notice.uid, step)
        return step

    def _again(self, notice: Notice, name: str) -> bool:
        if not self._path(name).exists():
            return False
        sync_folder(self._spool.root / "notices")
        self._record(notice, notice.kind, f"{name}-0.dcm")
        return True

    def _keep(self, notice: Notice, name: str) -> None:
        content = _file(notice)
        with self._spool.held():
            stored: Stored = self._spool.keep(content, name)
            self._record(notice, notice.kind, stored.entry.removeprefix("notices/"))
        self._spool.recorded(stored, hashlib.sha256(content).hexdigest())

    def _record(self, notice: Notice, kind: NoticeKind, name: str) -> None:
        who = notice.association
        self._append({
            "kind": "notice", "notice": kind, "uid": notice.uid, "entry": f"notices/{name}", "association": who.id,
            "calling": who.calling, "called": who.called, "peer": who.peer, "utc": utc(self._now()),
        })  # fmt: skip

    def _remember(self, uid: str, step: _Known) -> None:
        self._steps[uid] = step
        self._steps.move_to_end(uid)
        if len(self._steps) > REMEMBERED:
            self._steps.popitem(last=False)

    def _is_another(self, notice: Notice, name: str) -> bool:
        return self._path(name).exists() and self._path(name).read_bytes() != _file(notice)

    def _path(self, name: str) -> Path:
        return self._spool.root / "notices" / f"{name}-0.dcm"


def stem(uid: str, kind: NoticeKind) -> str:
    """Return the name of a notice's file, less its version; nothing in it comes from the wire."""
    return f"{hashlib.sha256(uid.encode()).hexdigest()}-{kind}"


def set_stem(uid: str, number: int) -> str:
    """Return the name of the file of the `number`-th N-SET of a step, from 0."""
    return f"{stem(uid, 'mpps-set')}-{number:04d}"


def noticed(record: Mapping[str, Any], spool: Path) -> Noticed:
    """Return a journal record as the index takes it, with what its file says.

    An N-SET names no study: those of its step's N-CREATE are taken. Only images count, as in `route.is_image`. A notice
    that cannot be read says nothing.

    Raises
    ------
    KeyError, ValueError
        If it is no record of ours.
    """
    kind: NoticeKind = record["notice"]
    row = Noticed(
        kind, record["uid"], record["entry"], record["association"], record["calling"], record["called"],
        record["peer"], datetime.fromisoformat(record["utc"]).astimezone(UTC).timestamp(),
    )  # fmt: skip
    try:
        dataset = read_notice(spool / record["entry"])
        if kind == "ian":
            said = read_availability(dataset, _is_image)
            return replace(row, announced=tuple((said.study, *instance) for instance in said.instances))
        if kind not in ("mpps-create", "mpps-set"):
            return row
        step = read_step(dataset, _is_image)
        studies = step.studies if kind == "mpps-create" else _created(spool, row.uid).studies
    except (UnreadableError, OSError) as error:
        _log.error("notice.unreadable", notice=kind, entry=record["entry"], error=type(error).__name__)
        return row
    # of a step about several studies nothing says which instance belongs to which
    study = studies[0] if len(studies) == 1 else ""
    return replace(
        row,
        procedure=(row.uid, step.status or "IN PROGRESS", studies),
        announced=tuple((study, *instance) for instance in step.instances),
    )


def _is_image(sop_class_uid: str) -> bool:
    return route.is_image(sop_class_uid, "", ())


def requesters(settings: Settings) -> Callable[[str], Peer | None]:
    """Return how to find, by calling AE title, the sender that may ask for commitment and can be told the result.

    There is none unless an archive is named; then it is a sender in the list of peers with a port for results. Its
    address has been compared when it opened the association.
    """
    able = {p.ae_title.strip(): p for p in settings.dicom.peer if p.commit_port is not None}
    return (able if settings.commitment.archive else {}).get


def archives(settings: Settings) -> tuple[Destination, ...]:
    """Return the destinations that are asked for storage commitment and will report: for us or on behalf of senders."""
    return tuple(d for d in settings.destination if d.proof == "commitment" or d.name == settings.commitment.archive)


def _created(spool: Path, uid: str) -> Step:
    return read_step(read_notice(spool / "notices" / f"{stem(uid, 'mpps-create')}-0.dcm"))


def _status(path: Path) -> StepStatus | None:
    try:
        return read_step(read_notice(path)).status
    except UnreadableError:
        return None


def _file(notice: Notice) -> bytes:
    return part10(notice.sop_class_uid, notice.sop_instance_uid, notice.syntax, notice.encoded)
