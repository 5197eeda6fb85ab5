"""The receiver process: the listener wired to intake, notices and the allow-list."""

import os
import socket
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing.connection import Connection

import structlog

from config.settings import Settings
from dicom_io import tls
from dicom_io.errors import TlsError
from dicom_io.scp import Handlers, Listener, Server, serve
from dicom_io.slots import Slots
from node import child
from node.access import Access
from node.certificates import renewed
from node.intake import Intake
from node.notices import Notices, archives, requesters

_log = structlog.get_logger()

DRAIN_S = 5.0
"""After SIGTERM transfers may run on for so long; the listener needs up to 2 s more."""
_LOOK_S = 1.0
"""So often a receiver looks whether it still listens."""


class Receiver:
    """Intake and listener of one process.

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
        self._settings = settings.dicom
        self._intake = Intake(settings, now)
        self.spool = self._intake.spool
        self._notices = Notices(self.spool, self._intake.append, requesters(settings), now, new_uid)
        self._commitment = bool(archives(settings))
        self._access = Access(settings.dicom, archives(settings))
        self._server: Server | None = None

    def start(self, listening: socket.socket | None = None, slots: Slots | None = None) -> Server:
        """Listen.

        Parameters
        ----------
        listening : socket.socket or None
            Listens for several receivers already.
        slots : Slots or None
            The places that they share.

        Raises
        ------
        OSError
            If the address cannot be bound.
        TlsError
            If the files of TLS cannot be used.
        """
        dicom, intake = self._settings, self._intake
        listener = Listener(
            dicom.ae_titles,
            dicom.host,
            dicom.port,
            self.spool.incoming,
            dicom.max_associations,
            network_timeout_s=dicom.idle_s,
            request_timeout_s=dicom.request_s,
            max_associations_per_peer=dicom.max_associations_per_peer,
            associations_per_second=dicom.associations_per_second,
            max_object_bytes=dicom.max_object_mb << 20,
            listening=listening,
            slots=slots,
            tls=None if dicom.tls is None else tls.server(dicom.tls, renewed),
        )
        handlers = Handlers(
            intake.stored,
            intake.association,
            intake.refused,
            self._access.rights,
            on_notice=self._notices.take,
            commitment=self._commitment,
            room=self.spool.gate.check_room,
            on_trouble=lambda who, error: intake.trouble.met(who.id, error),
        )
        self._server = serve(listener, handlers)
        return self._server

    def stop(self, grace_s: float = DRAIN_S) -> None:
        """Let transfers end, then close the journal."""
        if self._server is not None:
            self._server.stop(grace_s)
        self._intake.close()


def run_receiver(
    settings: Settings, connection: Connection, listening: socket.socket | None = None, slots: Slots | None = None
) -> None:
    """Receive until SIGTERM, or until the other end of `connection` is gone.

    With `listening` and `slots` it is one of several on that socket.

    Entry point of a spawned process. Sends ``{"event": "ready", "host", "port", "ae_titles", "pid"}`` once it listens,
    or ``{"event": "failed", "error"}`` and ends with exit code 2 if it cannot.
    """
    stop = child.begin(connection)
    try:
        receiver = Receiver(settings)
        server = receiver.start(listening, slots)
    except (OSError, TlsError) as error:
        place = f"{settings.dicom.host}:{settings.dicom.port}"
        why = error.reason.text["en"] if isinstance(error, TlsError) else error.strerror or error
        child.tell(connection, {"event": "failed", "error": f"cannot listen on {place}: {why}"})
        raise SystemExit(2) from error
    ready = {"event": "ready", "host": server.host, "port": server.port, "ae_titles": list(settings.dicom.ae_titles)}
    child.tell(connection, {**ready, "pid": os.getpid()})
    while server.is_listening and not stop.wait(_LOOK_S):
        pass
    receiver.stop()
    if not stop.is_set():  # a fault at the door: the supervisor starts another process
        _log.error("receiver.deaf")
        raise SystemExit(1)
