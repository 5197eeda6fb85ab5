"""What has had its time leaves the disk: images and results of finished studies, copies of refused objects, old journals.

What may go is a pure decision (`why_kept`, `old`). It is taken again, with every journal indexed and every receiver kept
away, right before the files go; a record in a journal of our own goes before them. A file that a crash left behind is
taken away at the next start, unless the same object has come again since.
"""

import contextlib
import itertools
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import structlog

from config.settings import Storage
from node import retry, watermarks
from node.failpoint import passing
from node.indexer import lagging
from node.installation import DataFolder
from node.spool import JournalWriter, Spool, alive, begun, journals, read_journal, utc
from node.store import Database, index, storage
from node.store import node as node_store
from node.store.rows import Finished, Study

_log = structlog.get_logger()

_DAY_S = 86400.0
_START = (-math.inf, "")
REMOVALS = "removed_"
"""In the names of journals that hold nothing but removals."""

Kept = Literal["open", "unprocessed", "undelivered", "operator", "alarm"]
_ARRIVED = frozenset({"delivered", "confirmed", "superseded", "cancelled"})
_UNPROVEN = frozenset({"waiting", "again", "missing"})


def why_kept(x: Finished) -> Kept | None:
    """Return why a study's files must stay whatever their age; None if nobody needs them any more.

    A dead job is for a person as long as no later revision has overtaken it; a delivery that is dead or quarantined
    always is: its artifact has not arrived anywhere.
    """
    if x.state != "closed":
        return "open"
    if any(state in ("waiting", "running") for state, _ in x.jobs):
        return "unprocessed"
    if any(state in ("held", "waiting", "sending") for state, _ in x.deliveries):
        return "undelivered"
    if any(state not in _ARRIVED for state, _ in x.deliveries) or ("dead", True) in x.jobs:
        return "operator"
    if any(proof in _UNPROVEN for state, proof in x.deliveries if state == "delivered"):
        return "undelivered"
    return "alarm" if x.alarms else None


def old(since: float, days: float, now: float) -> bool:
    """Say whether something that was last used at `since` has had its `days`; 0 days: never."""
    return days > 0 and now - since > days * _DAY_S


class Retention:
    """Takes away what has had its time; one for each node.

    Parameters
    ----------
    db : Database
        The rows.
    folder : DataFolder
        Of the node.
    limits : Storage
        How long what stays, and how much is to be free.
    spool : Spool
        Of the node.
    """

    def __init__(self, db: Database, folder: DataFolder, limits: Storage, spool: Spool) -> None:
        self._db, self._folder, self._spool = db, folder, spool
        self._limits = self._all = limits
        self._by_space = replace(limits, images_days=0.0, results_days=0.0, quarantine_days=0.0)
        self._batch = int(retry.policy()["storage"]["batch"])
        self._now = 0.0
        self._journal = JournalWriter(
            spool.journals, lambda: datetime.fromtimestamp(self._now, UTC), REMOVALS, node=spool.node
        )
        self._images_at = self._results_at = _START
        self._journals = 0
        self._swept = False

    def tick(self, now: float, *, by_age: bool = True) -> None:
        """Take away a bounded number of things; not `by_age`: only what space is needed for."""
        self._now, self._limits = now, self._all if by_age else self._by_space
        for step in (self._left_over, self._copies, self._images, self._documents, self._results, self._one_journal):
            try:
                step(now)
            except BlockingIOError:  # receivers store, or the index is behind: the next tick comes
                return
            except OSError as error:
                _log.error("retention.failed", step=step.__name__.strip("_"), error=error.strerror)

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def _pressed(self) -> bool:
        """Say whether less is free than should be."""
        free = watermarks.room(self._folder.path).free_bytes
        return free is not None and free < self._limits.keep_free_mb << 20

    def _copies(self, now: float) -> None:
        """Take away copies of refused objects."""
        copies = ((path.stat().st_mtime, path) for path in (self._folder.quarantine / "received").glob("*.dcm"))
        gone = 0
        for since, path in itertools.islice(sorted(copies), self._batch):
            if not old(since, self._limits.quarantine_days, now) and not self._pressed():
                break
            path.unlink(missing_ok=True)
            path.with_suffix(".json").unlink(missing_ok=True)
            gone += 1
        if gone:
            _log.info("retention.copies-removed", files=gone)

    def _images(self, now: float) -> None:
        pressed = self._pressed()
        days = self._limits.images_days
        if not pressed and not days:
            return
        page = storage.with_images(self._db, now if pressed else now - days * _DAY_S, self._images_at, self._batch)
        for study in page:
            aged = old(study.active, days, now)
            if aged or self._pressed():
                self._take_images(study, "age" if aged else "space")
            self._images_at = (study.active, study.uid)
        if len(page) < self._batch:
            self._images_at = _START

    def _take_images(self, study: Study, why: str) -> None:
        found = storage.finished(self._db, study.uid)
        if found is None or why_kept(found) is not None:
            return

        def still() -> Mapping[str, float]:
            again = storage.finished(self._db, study.uid)
            return {} if again is None or why_kept(again) is not None else storage.entries(self._db, study.uid)

        files = self._take(still, study.uid)
        if files:
            storage.images_removed(self._db, study.uid, self._now, files, why)
            _log.info("retention.images-removed", study=study.hash, files=files, why=why)

    def _documents(self, now: float) -> None:
        """Take away other makers' documents, and our own that came back, that belong to no study with images."""
        if self._limits.images_days:
            before = now - self._limits.images_days * _DAY_S
            if storage.documents(self._db, before, 1):
                files = self._take(lambda: storage.documents(self._db, before, self._batch), None)
                _log.info("retention.documents-removed", files=files)

    def _take(self, what: Callable[[], Mapping[str, float]], study_uid: str | None) -> int:
        """Record and remove entries, named (with the time of their last arrival) once nobody can add to them.

        Returns
        -------
        int
            How many.

        Raises
        ------
        BlockingIOError
            If receivers do not let go, or the index does not know everything that was acknowledged.
        """
        with self._alone():
            entries = what()
            if not entries:
                return 0
            # a removal comes after the arrival that it ends, also where the clock was set back in between
            at = utc(datetime.fromtimestamp(max(self._now, max(entries.values()) + 1e-3), UTC))
            self._journal.append(*({"kind": "removed", "entry": e, "study": study_uid, "utc": at} for e in entries))
            passing("retention.before_unlink")
            for entry in entries:
                (self._spool.root / entry).unlink(missing_ok=True)
            return len(entries)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with self._spool.held(alone=True):
            if lagging(self._db, self._folder, REMOVALS):  # its own removals name nothing that it would remove again
                raise BlockingIOError
            yield

    def _left_over(self, _now: float) -> None:
        """Take away files that stand although their removal is on record: a crash came in between."""
        if self._swept:
            return
        found = [e for e in storage.taken_away(self._db) if (self._spool.root / e).exists()]
        if found:
            with self._alone():
                for entry in set(found) & set(storage.taken_away(self._db)):
                    (self._spool.root / entry).unlink(missing_ok=True)
            _log.info("retention.left-over-removed", files=len(found))
        self._swept = True

    def _results(self, now: float) -> None:
        days = self._limits.results_days
        if not days:
            return
        page = storage.with_results(self._db, now - days * _DAY_S, self._results_at, self._batch)
        for study in page:
            self._results_at = (study.active, study.uid)
            found = storage.finished(self._db, study.uid)
            if found is None or why_kept(found) is not None or not old(found.ended, days, now):
                continue
            for place in storage.result_folders(self._db, study.uid):
                if (self._folder.path / place).exists():
                    shutil.rmtree(self._folder.path / place)
            storage.results_removed(self._db, study.uid, now)
            _log.info("retention.results-removed", study=study.hash)
        if len(page) < self._batch:
            self._results_at = _START

    def _one_journal(self, now: float) -> None:
        """Look at one journal, and remove it if everything that it speaks of has gone."""
        files = journals(self._folder.path)
        if not files or not self._limits.images_days:
            return
        self._journals = (self._journals + 1) % len(files)
        path = files[self._journals]
        if not old(path.stat().st_mtime, self._limits.images_days, now) or not self._sealed(path, files):
            return
        notices = self._over(path, files)
        if notices is None:
            return
        with self._spool.held(alone=True):
            for entry in notices:
                (self._spool.root / entry).unlink(missing_ok=True)
            path.unlink()
        storage.forget_journals(self._db, [path.name])  # after the file: read again from its start it must never be
        _log.info("retention.journal-removed", journal=path.name)

    def _over(self, path: Path, files: list[Path]) -> list[str] | None:
        """Return the notices of a journal that nobody needs any more; None if somebody may."""
        if index.offsets(self._db).get(path.name, 0) < path.stat().st_size:
            return None
        if REMOVALS in path.name:  # of use as long as a journal stands that may name the same entries
            last = path.stat().st_mtime
            others = (f for f in files if REMOVALS not in f.name)
            return None if any(f.name < path.name or begun(f) <= last for f in others) else []
        notices: list[str] = []
        studies: set[str] = set()
        offset = 0
        while True:
            records, after = read_journal(path, offset)
            if after == offset:
                break
            offset = after
            for record in records:
                entry = record.get("entry")
                if entry is None:
                    continue
                if record["kind"] == "notice":
                    if storage.relayed(self._db, entry) == "pending":
                        return None
                    notices.append(entry)
                elif (self._spool.root / entry).exists():
                    return None
                else:
                    studies.add(record["study"])
        return None if storage.standing(self._db, studies) else notices

    def _sealed(self, path: Path, files: list[Path]) -> bool:
        """Say whether nobody writes to a journal any more: its process is gone, or has begun another."""
        stamp, _, owner = path.stem.partition("Z-")
        newer = any(f.stem.partition("Z-")[2] == owner and f.stem.partition("Z-")[0] > stamp for f in files)
        name = owner.removeprefix(REMOVALS)
        node, _, pid = name.rpartition("-")
        if (
            node == self._spool.node
        ):  # a full disk keeps the supervisor from striking out, or writing down, its processes
            return newer or not alive(int(pid))
        return newer or all(p.name != name for p in node_store.processes(self._db))
