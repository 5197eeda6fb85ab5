"""The receiver process: the listener wired to spool and journal.

It decides nothing about studies. Whatever arrives whole is made durable and acknowledged; the index reads the journal.
"""

import ipaddress
import os
import socket
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from typing import Any

import structlog

from config.settings import Dicom, Peer, Settings
from dicom_io.scp import AssociationEvent, Handlers, Listener, RefusedObject, Server, StoredObject, serve
from dicom_io.status import Answer
from node import child
from node.failpoint import passing
from node.spool import JournalWriter, Spool, utc

DRAIN_S = 5.0
"""After SIGTERM transfers may run on for so long; the listener needs up to 2 s more."""

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
    """

    def __init__(self, settings: Settings, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._log = structlog.get_logger()
        self.spool = Spool(settings.node.data_dir)
        self.spool.clean()
        self._journal = JournalWriter(self.spool.journals, now)
        self._settings = settings.dicom
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
        handlers = Handlers(self._stored, self._association, self._refused, allowance(dicom))
        self._server = serve(listener, handlers)
        return self._server

    def stop(self, grace_s: float = DRAIN_S) -> None:
        """Let transfers end, then close the journal."""
        if self._server is not None:
            self._server.stop(grace_s)
        self._journal.close()

    def _stored(self, arrived: StoredObject) -> int:
        try:
            stored = self.spool.store(arrived)
            self._journal.append({
                "kind": stored.kind,
                "association": arrived.association.id,
                "calling": arrived.association.calling,
                "called": arrived.association.called,
                "peer": arrived.association.peer,
                "utc": utc(self._now()),
                "study": arrived.study_instance_uid,
                "series": arrived.series_instance_uid,
                "sop": arrived.sop_instance_uid,
                "sop_class": arrived.sop_class_uid,
                "syntax": arrived.transfer_syntax_uid,
                "digest": arrived.digest,
                "bytes": arrived.bytes,
                "entry": stored.entry,
            })  # fmt: skip
        except OSError as error:
            self._log.error("receive.cannot-store", association=arrived.association.id, errno=error.errno)
            return Answer.OUT_OF_RESOURCES
        self.spool.recorded(stored, arrived.digest)
        if stored.kind == "conflict":
            self._log.warning("receive.conflict", association=arrived.association.id, entry=stored.entry)
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
            self._journal.append(record)


def allowance(dicom: Dicom) -> Callable[[str, str], bool]:
    """Return whether a calling AE title at an address may open an association; without peers only loopback may."""

    def allowed(calling: str, address: str) -> bool:
        if not dicom.peer:
            return _address(address).is_loopback
        return any(calling == peer.ae_title.strip() and _address(address) in _addresses(peer) for peer in dicom.peer)

    return allowed


def _addresses(peer: Peer) -> Sequence[ipaddress.IPv4Address | ipaddress.IPv6Address]:
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
    stop = child.begin(settings, connection)
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
