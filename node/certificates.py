"""Alarms about certificates, keys and revocation lists, before peers are turned away because of them."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import structlog

from config.settings import Settings
from dicom_io import tls_check
from dicom_io.errors import TlsError
from dicom_io.reason import Reason
from dicom_io.tls import ClientTls, ServerTls
from node import alarm
from node.store import Database, alarms

_log = structlog.get_logger()


def named(settings: Settings) -> Iterator[tuple[str, ServerTls | ClientTls]]:
    """Return every ``tls`` of the configuration with the place where it stands."""
    if settings.dicom.tls is not None:
        yield "dicom.tls", settings.dicom.tls
    if settings.web.tls is not None:
        yield "web.tls", settings.web.tls
    if settings.web.tls is not None:
        yield "web.tls", settings.web.tls
    for peer in settings.dicom.peer:
        if peer.tls is not None:
            yield f"tls of {peer.ae_title}", peer.tls
    called = [(d.name, d.tls) for d in settings.destination] + [(r.name, r.tls) for r in settings.ris]
    for name, tls in called:
        if tls is not None:
            yield f"tls of {name}", tls


class Certificates:
    """Looks after the files of TLS.

    Parameters
    ----------
    db : Database
        Where alarms stand.
    settings : Settings
        Name the files.
    node : str
        This node, where others use the same database; their files may have the same names.
    """

    def __init__(self, db: Database, settings: Settings, node: str = "") -> None:
        self._db, self._of = db, f"{node}: " if node else ""
        self._tls = tuple(dict.fromkeys(tls for _, tls in named(settings)))

    def check(self, now: float | None = None) -> None:
        """Ring for every file that cannot be used, or not for long, and quieten what is mended."""
        now = time.time() if now is None else now
        found: dict[tuple[str, str], Reason] = {}
        for tls in self._tls:
            for path, reason in tls_check.complaints(tls, datetime.fromtimestamp(now, UTC)):
                found[reason.code, f"{self._of}{path}"] = reason
        for standing in alarms.standing(self._db):
            ours = standing.code in tls_check.CODES and standing.subject.startswith(self._of)
            if ours and (standing.code, standing.subject) not in found:
                alarm.quieten(self._db, standing.code, standing.subject, now)
        for (_, subject), reason in found.items():
            alarm.ring(self._db, reason, subject, now)


def renewed(error: TlsError | None) -> None:
    """Tell that files of a listener have changed; those that cannot be used ring too."""
    if error is None:
        _log.info("tls.renewed")
    else:
        _log.error("tls.not-renewed", reason=error.reason.code)
