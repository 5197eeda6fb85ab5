"""From journals to the index. The same code follows the receivers and rebuilds everything after a loss."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

from config.settings import Settings
from dicom_io.errors import UnreadableError
from dicom_io.read import read_instance
from node import log, route
from node.installation import DataFolder
from node.spool import journals, read_journal
from node.store import Database
from node.store import index as store
from node.store.rows import Arrived, AssociationEnded, AssociationOpened, Change, Repeated, Role
from sr_writer.identity import authored_by

_log = structlog.get_logger()

_ENDED = {"association-released": "released", "association-aborted": "aborted"}


class Indexer:
    """Reads what receivers wrote, looks at each header once, and puts both into the index.

    Parameters
    ----------
    db : Database
        The index.
    folder : DataFolder
        Where spool and journals stand.
    settings : Settings
        Rules decide what counts as an image, peers which character set they really write.
    """

    def __init__(self, db: Database, folder: DataFolder, settings: Settings) -> None:
        self._db = db
        self._folder = folder
        self._installation_id = folder.installation_id
        self._rules = settings.rule
        self._charsets = charsets(settings)
        self._offsets = store.offsets(db)

    def advance(self) -> int:
        """Index what is new in every journal; return how many records that were."""
        count = 0
        for path in journals(self._folder.path):
            count += self._follow(path)
        return count

    def _follow(self, path: Path) -> int:
        offset = self._offsets.get(path.name, 0)
        if path.stat().st_size <= offset:
            return 0
        records, after = read_journal(path, offset)
        if after == offset:
            return 0
        pid = int(path.stem.rpartition("-")[2])
        changes = [change for change in (self._change(record, pid) for record in records) if change is not None]
        if not store.index(self._db, path.name, (offset, after), changes, self._hashed):
            self._offsets = store.offsets(self._db)
            return 0
        self._offsets[path.name] = after
        return len(records)

    def _hashed(self, study_uid: str) -> str:
        return log.study_hash(self._installation_id, study_uid)

    def _change(self, record: Mapping[str, Any], pid: int) -> Change | None:
        try:
            return self._understood(record, pid)
        except (KeyError, ValueError) as error:  # our own records: only a broken disk or another version writes others
            _log.error("index.odd-record", kind=record["kind"], error=type(error).__name__)
            return None

    def _understood(self, record: Mapping[str, Any], pid: int) -> Change | None:
        kind, at = record["kind"], datetime.fromisoformat(record["utc"]).timestamp()
        if kind == "association-open":
            return AssociationOpened(
                record["association"], pid, record["calling"], record["called"], record["peer"], at
            )
        if kind in _ENDED:
            return AssociationEnded(record["association"], "released" if _ENDED[kind] == "released" else "aborted", at)
        if kind == "duplicate":
            return Repeated(record["association"], at, record["study"], record["sop"])
        # a conflict may be the only record of its UID: the first object's process can have died before writing one
        return self._arrived(record, at) if kind in ("stored", "conflict") else None

    def _arrived(self, record: Mapping[str, Any], at: float) -> Arrived:
        facts: dict[str, str] = {}
        role: Role = "unreadable"
        try:
            header = read_instance(self._folder.spool / record["entry"], self._charsets.get(record["calling"])).header
        except UnreadableError as error:
            _log.warning("index.unreadable", entry=record["entry"], reason=error.reason.code)
        else:
            keys = {
                "modality": "Modality", "accession": "AccessionNumber", "patient_id": "PatientID",
                "issuer": "IssuerOfPatientID", "date": "StudyDate",
            }  # fmt: skip
            facts = {name: str(header.get(keyword) or "").strip() for name, keyword in keys.items()}
            role = self._role(header, record, facts["modality"].upper())
        return Arrived(
            association=record["association"], at=at, study_uid=record["study"], series_uid=record["series"],
            sop_uid=record["sop"], sop_class=record["sop_class"], syntax=record["syntax"], digest=record["digest"],
            bytes=record["bytes"], entry=record["entry"], role=role, **facts,
        )  # fmt: skip

    def _role(self, header: Any, record: Mapping[str, Any], modality: str) -> Role:  # noqa: ANN401 - a pydicom Dataset
        if authored_by(header, self._installation_id) or store.is_artifact(self._db, record["sop"]):
            return "authored"
        return "image" if route.is_image(record["sop_class"], modality, self._rules) else "other"


def charsets(settings: Settings) -> dict[str, str]:
    """Return the character set that a sender really writes, by its AE title, where the configuration names one."""
    return {peer.ae_title.strip(): peer.charset for peer in settings.dicom.peer if peer.charset is not None}
