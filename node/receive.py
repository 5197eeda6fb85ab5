"""The receiver process: the listener wired to spool and journal.

It decides nothing about studies. Whatever arrives whole is made durable and acknowledged; the index reads the journal.
"""

import contextlib
import errno
import ipaddress
import math
import os
import socket
import threading
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from typing import Any

import structlog

from config.settings import Destination, Dicom, Peer, Settings
from dicom_io.scp import AssociationEvent, Handlers, Listener, RefusedObject, Server, StoredObject, serve
from dicom_io.status import Answer
from node import child
from node.failpoint import passing
from node.installation import DataFolder
from node.log import study_hash
from node.notices import Notices, archives, requesters
from node.spool import JournalWriter, Spool, utc
from node.watermarks import Limits, NotAcceptingError

DRAIN_S = 5.0
"""After SIGTERM transfers may run on for so long; the listener needs up to 2 s more."""

LATE_RECORDS = 1000
"""Records of associations that are kept in memory while the journal cannot be written."""
STUDIES_UNDERWAY, UNDERWAY_S = 1000, 600.0
"""How many studies are remembered as underway, and for how long after their last object (s)."""

_JOURNALLED = {
    "opened": "association-open",
    "released": "association-released",
    "aborted": "association-aborted",
}


class Receiver:
    """Spool, journal and listener of one process.

    Parameters
    ----------
    settings : Settings
        Of the node.
    now : Callable[[], datetime]
        The clock; aware.
    new_uid : Callable[[], str]
        Gives UIDs to procedure steps whose sender leaves that to us.
    """

    def __init__(
        self,
        settings: Settings,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        new_uid: Callable[[], str] = lambda: f"2.25.{uuid.uuid4().int}",
    ) -> None:
        self._now = now
        self._log = structlog.get_logger()
        folder = DataFolder(settings.node.data_dir)
        folder.prepare()
        self._installation_id = folder.installation_id
        self.spool = Spool(folder.path, Limits.of(settings.storage))
        self.spool.clean()
        self._trouble = Trouble(self._log)
        self._underway = Underway()
        self._late: deque[dict[str, Any]] = deque(maxlen=LATE_RECORDS)
        self._journal = JournalWriter(self.spool.journals, now)
        self._settings = settings.dicom
        self._notices = Notices(self.spool, self._append, requesters(settings), now, new_uid)
        self._commitment = bool(archives(settings))
        self._allowed = allowance(settings.dicom, archives(settings))
        self._server: Server | None = None

    def start(self) -> Server:
        """Listen.

        Raises
        ------
        OSError
            If the address cannot be bound.
        """
        dicom = self._settings
        listener = Listener(dicom.ae_titles, dicom.host, dicom.port, self.spool.incoming, dicom.max_associations)
        handlers = Handlers(
            self._stored,
            self._association,
            self._refused,
            self._allowed,
            on_notice=self._notices.take,
            commitment=self._commitment,
            room=self.spool.gate.check_room,
            on_trouble=lambda who, error: self._trouble.met(who.id, error),
        )
        self._server = serve(listener, handlers)
        return self._server

    def stop(self, grace_s: float = DRAIN_S) -> None:
        """Let transfers end, then close the journal."""
        if self._server is not None:
            self._server.stop(grace_s)
        self._journal.close()

    def _stored(self, arrived: StoredObject) -> int:
        study = arrived.study_instance_uid
        try:
            if "queue" in self.spool.gate.closed() and not self._underway.has(study):
                raise NotAcceptingError(errno.EAGAIN, "too many jobs wait; see storage.max_waiting")
            with self.spool.held():
                stored = self.spool.store(arrived)
                self._append({
                    "kind": stored.kind,
                    "association": arrived.association.id,
                    "calling": arrived.association.calling,
                    "called": arrived.association.called,
                    "peer": arrived.association.peer,
                    "utc": utc(self._now()),
                    "study": study,
                    "series": arrived.series_instance_uid,
                    "sop": arrived.sop_instance_uid,
                    "sop_class": arrived.sop_class_uid,
                    "syntax": arrived.transfer_syntax_uid,
                    "digest": arrived.digest,
                    "bytes": arrived.bytes,
                    "entry": stored.entry,
                })  # fmt: skip
        except OSError as error:
            self._trouble.met(arrived.association.id, error)
            return Answer.OUT_OF_RESOURCES
        self._trouble.over()
        self._underway.add(study)
        self.spool.recorded(stored, arrived.digest)
        if stored.kind == "conflict":
            hashed = study_hash(self._installation_id, study)
            self._log.debug("receive.conflict", association=arrived.association.id, entry=stored.entry, study=hashed)
        passing("receive.before_response")
        return Answer.SUCCESS

    def _refused(self, refused: RefusedObject) -> None:
        self._log.warning(
            "receive.refused",
            association=refused.association.id,
            calling=refused.association.calling,
            status=f"0x{refused.status:04X}",
            reason=refused.reason.code,
        )
        self.spool.refuse(refused, self._now())

    def _association(self, event: AssociationEvent) -> None:
        who = event.association
        facts: dict[str, Any] = {"calling": who.calling, "called": who.called, "peer": who.peer}
        reason = {"reason": event.reason.code} if event.reason else {}
        self._log.info(f"association.{event.kind}", association=who.id, **facts, **reason)
        if event.kind in _JOURNALLED:
            record = {"kind": _JOURNALLED[event.kind], "association": who.id, **facts, "utc": utc(self._now())}
            if event.refused:
                record["refused"] = event.refused
            try:
                self._append(record)
            except OSError as error:  # nothing is acknowledged before it is written after all
                self._late.append(record)
                self._trouble.met(who.id, error)

    def _append(self, record: dict[str, Any]) -> int:
        """Write a record, and before it those of associations that could not be written in their time."""
        while self._late:
            with contextlib.suppress(IndexError):  # another thread was quicker
                late = self._late.popleft()
                try:
                    self._journal.append(late)
                except OSError:
                    self._late.appendleft(late)
                    raise
        return self._journal.append(record)


class Trouble:
    """What keeps objects from being stored, told once when it begins and once when it is over."""

    def __init__(self, log: Any) -> None:  # noqa: ANN401 - structlog's types
        self._log = log
        self._lock = threading.Lock()
        self._errno: int | None = None
        self._count = 0

    def met(self, association: str, error: OSError) -> None:
        """Count an object, or a record, that could not be stored."""
        with self._lock:
            # of what is refused on purpose the gate has told
            new = self._errno != error.errno and not isinstance(error, NotAcceptingError)
            self._errno = error.errno
            self._count += 1
        if new:
            self._log.error("receive.cannot-store", association=association, errno=error.errno, error=error.strerror)

    def over(self) -> None:
        """Say that storing works."""
        if not self._count:
            return
        with self._lock:
            count, self._count, self._errno = self._count, 0, None
        if count:
            self._log.info("receive.stores-again", refused=count)


class Underway:
    """Studies that have begun to arrive: the rest of one is taken even while new ones are not."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, float] = OrderedDict()

    def add(self, study: str) -> None:
        """Remember that an object of `study` was stored."""
        with self._lock:
            self._seen[study] = self._now()
            self._seen.move_to_end(study)
            if len(self._seen) > STUDIES_UNDERWAY:
                self._seen.popitem(last=False)

    def has(self, study: str) -> bool:
        """Say whether an object of `study` was stored a short time ago."""
        with self._lock:
            return self._now() - self._seen.get(study, -math.inf) < UNDERWAY_S


def allowance(dicom: Dicom, reporting: Sequence[Destination] = ()) -> Callable[[str, str], bool]:
    """Return whether a calling AE title at an address may open an association; without peers only loopback may.

    Archives that we ask for storage commitment may too: they open an association to report.
    """

    def allowed(calling: str, address: str) -> bool:
        if not dicom.peer and _address(address).is_loopback:
            return True
        known: tuple[Peer | Destination, ...] = (*dicom.peer, *reporting)
        return any(calling == peer.ae_title.strip() and _address(address) in _addresses(peer) for peer in known)

    return allowed


def _addresses(peer: Peer | Destination) -> Sequence[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Resolve a peer at every request: names of scanners move."""
    try:
        return [_address(str(info[4][0])) for info in socket.getaddrinfo(peer.host, None, type=socket.SOCK_STREAM)]
    except OSError:
        return []


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text.partition("%")[0])
    return (address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None) or address


def run_receiver(settings: Settings, connection: Connection) -> None:
    """Receive until SIGTERM, or until the other end of `connection` is gone.

    Entry point of a spawned process. Sends ``{"event": "ready", "host", "port", "ae_titles", "pid"}`` once it listens,
    or ``{"event": "failed", "error"}`` and ends with exit code 2 if it cannot.
    """
    stop = child.begin(connection)
    try:
        receiver = Receiver(settings)
        server = receiver.start()
    except OSError as error:
        place = f"{settings.dicom.host}:{settings.dicom.port}"
        connection.send({"event": "failed", "error": f"cannot listen on {place}: {error.strerror or error}"})
        raise SystemExit(2) from error
    ready = {"event": "ready", "host": server.host, "port": server.port, "ae_titles": list(settings.dicom.ae_titles)}
    connection.send({**ready, "pid": os.getpid()})
    stop.wait()
    receiver.stop()
