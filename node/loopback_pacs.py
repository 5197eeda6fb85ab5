"""A small PACS for the demo and the tests: it stores what it gets in a folder and answers echoes and queries.

It is the node's own listener with other callables, on a real socket; it keeps no database and forgets nothing.
"""

import fnmatch
import json
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_io.rights import RIGHTS
from dicom_io.scp import AssociationEvent, Handlers, Listener, RefusedObject, StoredObject, serve
from dicom_io.status import Answer
from node.spool import utc

_STUDY_KEYS = ("StudyInstanceUID", "PatientID", "IssuerOfPatientID", "AccessionNumber", "PatientName", "StudyDate")
_LEVELS = {  # unique key, keys that are matched and returned
    "STUDY": ("StudyInstanceUID", _STUDY_KEYS),
    "SERIES": ("SeriesInstanceUID", ("StudyInstanceUID", "SeriesInstanceUID", "Modality")),
    "IMAGE": ("SOPInstanceUID", ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")),
}
_PLAIN_UID = re.compile(r"[0-9.]{1,64}")


@dataclass(frozen=True, slots=True)
class Received:
    """One C-STORE that the PACS answered with success; `path` holds the newest bytes under its UID."""

    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    digest: str
    path: Path


class LoopbackPacs:
    """A PACS on 127.0.0.1; a context manager.

    Parameters
    ----------
    folder : Path
        Objects go to ``<folder>/<SOP Instance UID>.dcm``, one line for each C-STORE to ``<folder>/received.jsonl``.
        What stands there from an earlier run is known again.
    ae_title : str
        Called title that it answers.
    port : int
        0 takes any free port.
    answer : int
        Status for every C-STORE request; a failure stores nothing, a warning stores.
    """

    def __init__(self, folder: Path, ae_title: str = "LOOPBACK", port: int = 0, answer: int = Answer.SUCCESS) -> None:
        self.folder = folder
        self.answer = answer
        self._lock = threading.Lock()
        incoming = folder / "incoming"
        incoming.mkdir(parents=True, exist_ok=True)
        handlers = Handlers(self._stored, self._association, self._refused, lambda _who: RIGHTS, self._find)
        self._server = serve(Listener((ae_title,), "127.0.0.1", port, incoming), handlers)
        self.ae_title = ae_title
        self.host, self.port = self._server.host, self._server.port

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop listening."""
        self._server.stop(grace_s=1.0)

    @property
    def received(self) -> list[Received]:
        """Every C-STORE that was answered with success, repeated ones too, oldest first."""
        return received(self.folder)

    def _stored(self, arrived: StoredObject) -> int:
        if self.answer != Answer.SUCCESS and not 0xB000 <= self.answer <= 0xBFFF:  # warnings store, failures do not
            return self.answer
        name = arrived.sop_instance_uid if _PLAIN_UID.fullmatch(arrived.sop_instance_uid) else arrived.digest
        path = self.folder / f"{name}.dcm"
        line = {
            "utc": utc(datetime.now(UTC)),
            "sop": arrived.sop_instance_uid,
            "sop_class": arrived.sop_class_uid,
            "study": arrived.study_instance_uid,
            "digest": arrived.digest,
            "file": path.name,
        }
        with self._lock:
            arrived.path.replace(path)  # within one folder tree: atomic
            with (self.folder / "received.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
        return self.answer

    def _association(self, event: AssociationEvent) -> None:
        """Nobody asks about associations."""

    def _refused(self, refused: RefusedObject) -> None:
        """Keep nothing of what is refused."""

    def _find(self, query: Dataset) -> Iterator[Dataset]:
        """Answer a query of any level from the files themselves."""
        unique, keys = _LEVELS[str(query.QueryRetrieveLevel)]
        asked = str(query.get("StudyInstanceUID") or "")
        found: dict[str, list[Dataset]] = {}
        for path in {r.path for r in self.received if not asked or r.study_instance_uid == asked}:
            header = dcmread(path, stop_before_pixels=True, specific_tags=["SpecificCharacterSet", *keys, unique])
            if all(_matches(str(query.get(key) or ""), str(header.get(key) or "")) for key in keys):
                found.setdefault(str(header.get(unique)), []).append(header)
        for headers in found.values():
            match = _match(query, headers[0], keys)
            if unique == "SeriesInstanceUID" and "NumberOfSeriesRelatedInstances" in query:
                match.NumberOfSeriesRelatedInstances = len(headers)
            yield match


def _matches(asked: str, value: str) -> bool:
    """Single value, wild card and universal matching (PS3.4 C.2.2.2)."""
    return not asked or fnmatch.fnmatchcase(value, asked.replace("[", "[[]"))


def _match(query: Dataset, header: Dataset, keys: Sequence[str]) -> Dataset:
    match = Dataset()
    if "SpecificCharacterSet" in header:
        match.SpecificCharacterSet = header.SpecificCharacterSet
    match.QueryRetrieveLevel = query.QueryRetrieveLevel
    for key in keys:
        if key in query:
            setattr(match, key, header.get(key, ""))
    return match


def received(folder: Path) -> list[Received]:
    """Return every C-STORE that the PACS of `folder` answered with success, oldest first."""
    log = folder / "received.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    rows = (json.loads(line) for line in lines)
    return [Received(r["sop"], r["sop_class"], r["study"], r["digest"], folder / r["file"]) for r in rows]
