"""Alarms about certificates, keys and revocation lists, before peers are turned away because of them."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from config.settings import Settings
from dicom_io import tls_check
from dicom_io.reason import Reason
from dicom_io.tls import ClientTls, ServerTls, files_of
from node import alarm
from node.store import Database, alarms


def named(settings: Settings) -> Iterator[tuple[str, ServerTls | ClientTls]]:
    """Return every ``tls`` of the configuration with the place where it stands."""
    if settings.dicom.tls is not None:
        yield "dicom.tls", settings.dicom.tls
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
    """

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db, self._node = db, settings.node.name
        self._tls = tuple(dict.fromkeys(tls for _, tls in named(settings)))

    def check(self, now: float | None = None) -> None:
        """Ring for every file that cannot be used, or not for long, and quieten what is mended."""
        now = time.time() if now is None else now
        found: dict[tuple[str, str], Reason] = {}
        for tls in self._tls:
            for path, reason in tls_check.complaints(tls, datetime.fromtimestamp(now, UTC)):
                found[reason.code, self._subject(path)] = reason
        ours = {self._subject(path) for tls in self._tls for path in files_of(tls)}
        for standing in alarms.standing(self._db):
            known = standing.code in tls_check.CODES and standing.subject in ours
            if known and (standing.code, standing.subject) not in found:
                alarm.quieten(self._db, standing.code, standing.subject, now)
        for (_, subject), reason in found.items():
            alarm.ring(self._db, reason, subject, now)

    def _subject(self, path: Path) -> str:
        """Nodes of one database may have files of the same name."""
        return f"{self._node}: {path}" if self._node else str(path)
