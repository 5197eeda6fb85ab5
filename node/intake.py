"""What arrives is made durable: spool and journal of one process, whatever the wire it came over.

It decides nothing about studies. What is stored here may be acknowledged; the index reads the journal.
"""

import contextlib
import errno
import hashlib
import math
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from config.settings import Settings
from dicom_io.scp import AssociationEvent, RefusedObject, StoredObject
from dicom_io.status import Answer
from node.failpoint import passing
from node.installation import DataFolder, node_name
from node.log import study_hash
from node.refusals import Refusals
from node.spool import JournalWriter, Spool, utc
from node.watermarks import Limits, NotAcceptingError

LATE_RECORDS = 1000
"""Records of associations that are kept in memory while the journal cannot be written."""
REFUSED_TOLD = 3
"""So many refused objects of an association have a line in the log each; of the others one says how many they were."""
UNDERWAY_S, UNDERWAY_TOLD_S = 600.0, 10.0
"""How long a study is underway after its last object, and how often a process writes down that it is (s)."""

_JOURNALLED = {
    "opened": "association-open",
    "released": "association-released",
    "aborted": "association-aborted",
}


class Intake:
    """Spool and journal of one process.

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
        folder = DataFolder(settings.node.data_dir)
        folder.prepare()
        self._installation_id = folder.installation_id
        self.spool = Spool(folder.path, Limits.of(settings.storage), settings.node.name)
        self.spool.clean()
        self.trouble = Trouble(self._log)
        self._underway = Underway(self.spool.underway)
        self._late: deque[dict[str, Any]] = deque(maxlen=LATE_RECORDS)
        self._refused: Counter[str] = Counter()
        """Objects refused, by association that has not ended."""
        self._refusals = Refusals(folder.spool, node_name(settings))
        self._journal = JournalWriter(self.spool.journals, now, node=self.spool.node)

    def close(self) -> None:
        """Close the journal; every record is durable already."""
        self._refusals.write()
        self._journal.close()

    def stored(self, arrived: StoredObject) -> int:
        """Make an object durable, journal it, and return the DIMSE status that says so."""
        study = arrived.study_instance_uid
        try:
            if "queue" in self.spool.gate.closed() and not self._underway.has(study):
                raise NotAcceptingError(errno.EAGAIN, "too many jobs wait; see storage.max_waiting")
            with self.spool.held():
                stored = self.spool.store(arrived)
                self.append({
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
            self.trouble.met(arrived.association.id, error)
            return Answer.OUT_OF_RESOURCES
        self.trouble.over()
        self._underway.add(study)
        self.spool.recorded(stored, arrived.digest)
        if stored.kind == "conflict":
            hashed = study_hash(self._installation_id, study)
            self._log.debug("receive.conflict", association=arrived.association.id, entry=stored.entry, study=hashed)
        passing("receive.before_response")
        return Answer.SUCCESS

    def refused(self, refused: RefusedObject) -> None:
        """Keep a copy of an object that is answered with a failure."""
        self._refused[refused.association.id] += 1
        if self._refused[refused.association.id] <= REFUSED_TOLD:
            self._log.warning(
                "receive.refused",
                association=refused.association.id,
                calling=refused.association.calling,
                status=f"0x{refused.status:04X}",
                reason=refused.reason.code,
            )
        self.spool.refuse(refused, self._now())

    def association(self, event: AssociationEvent) -> None:
        """Log what happened to an association, journal it if it was opened or ended, count it if it was refused.

        What one caller is refused for again and again is logged from time to time, with how often it was.
        """
        times = self._refusals.add(event)
        who = event.association
        facts: dict[str, Any] = {"calling": who.calling, "called": who.called, "peer": who.peer}
        reason = {"reason": event.reason.code, "times": times} if event.reason else {}
        if times:
            why = {"why": event.why} if event.why else {}
            self._log.info(f"association.{event.kind}", association=who.id, **facts, **reason, **why)
        if event.kind in ("released", "aborted") and (more := self._refused.pop(who.id, 0) - REFUSED_TOLD) > 0:
            self._log.warning("receive.refused", association=who.id, calling=who.calling, more=more)
        if event.kind in _JOURNALLED:
            record = {"kind": _JOURNALLED[event.kind], "association": who.id, **facts, "utc": utc(self._now())}
            if event.refused:
                record["refused"] = event.refused
            if event.why:
                record["why"] = event.why
            try:
                self.append(record)
            except OSError as error:  # nothing is acknowledged before it is written after all
                self._late.append(record)
                self.trouble.met(who.id, error)

    def turned_away(self, event: AssociationEvent) -> int:
        """Count what was refused and has no association; return how many there are to be told of now."""
        return self._refusals.add(event)

    def append(self, record: dict[str, Any]) -> int:
        """Write a record, and before it those of associations that could not be written in their time.

        Raises
        ------
        OSError
            If it could not be made durable.
        """
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
    """Studies that have begun to arrive: the rest of one is taken even while new ones are not.

    All receivers of a data folder share it: the time of a file is when an object of a study was stored last. There is a
    fixed number of files, so that nobody has to remove any; two studies that share one are taken for one.

    Parameters
    ----------
    folder : Path
        Of the files.
    now : Callable[[], float]
        The clock (s since the epoch).
    """

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        self._folder, self._now = folder, now
        self._told: dict[str, float] = {}
        """When this process last wrote it down."""

    def add(self, study: str) -> None:
        """Remember that an object of `study` was stored; a disk that does not take that is no reason to refuse it."""
        name, now = self._name(study), self._now()
        if 0.0 <= now - self._told.get(name, -math.inf) < UNDERWAY_TOLD_S:
            return
        with contextlib.suppress(OSError):
            path = self._folder / name
            path.touch(0o600)
            os.utime(path, (now, now))
            self._told[name] = now

    def has(self, study: str) -> bool:
        """Say whether an object of `study` was stored a short time ago."""
        try:
            last = (self._folder / self._name(study)).stat().st_mtime
        except OSError:
            return False
        return abs(self._now() - last) < UNDERWAY_S

    @staticmethod
    def _name(study: str) -> str:
        return hashlib.sha256(study.encode()).hexdigest()[:3]
