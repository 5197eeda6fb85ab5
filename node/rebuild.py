"""``doctor --rebuild-index``: the index made anew from spool and journals, after a loss.

Files and journals are the truth. What no journal names any more (a damaged line, a lost file) but stands in the spool is
read and journalled again; what a journal names but is not there, or holds other bytes, is reported and never used. The
old database is kept aside. If it can be read, jobs, results and deliveries are taken over, and nothing is computed or
sent again; if not, studies are worked again, and their results leave under the same UIDs with the bytes that stand in
``artifacts``.
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydicom.filereader import dcmread, read_file_meta_info

from config.settings import Settings
from dicom_io.arrival import read_identity
from dicom_io.errors import UnreadableError
from dicom_io.files import make_folders, sync_folder
from dicom_io.read import dataset_offset, digest_dataset, read_instance
from node import identity
from node.indexer import Indexer
from node.installation import DataFolder, folder_of
from node.spool import MAX_VERSIONS, JournalWriter, journals, read_journal, utc
from node.store import carry, corrections, open_database, place_of
from node.store.anew import CarryError, anew
from node.store.changes import Arrived
from node.store.engine import Database

Say = Callable[[str], None]

_ENTRY = re.compile(r"[0-9a-f]{2}/([0-9a-f]{64})-(\d+)\.dcm")
_NOTICE = re.compile(r"[0-9a-f]{64}-(mpps-create|mpps-set|ian|commit-request|commit-result)(?:-\d+)+\.dcm")
_RECORDING = frozenset({"stored", "conflict", "recovered", "notice"})
_AT_ONCE = 500
_SAY_S = 2.0
_LONG_AGO = 1000
"""Year in the name of a journal that is to be read before all others."""


@dataclass(slots=True)
class _Survey:
    """What the journals hold, before anything is believed."""

    files: int = 0
    records: int = 0
    damaged_lines: int = 0
    torn_bytes: int = 0
    entries: set[str] = field(default_factory=set)
    removed: dict[str, float] = field(default_factory=dict)
    senders: dict[str, dict[str, str]] = field(default_factory=dict)


class Rebuild:
    """One rebuilding of the index of a data folder that the caller has locked.

    Parameters
    ----------
    settings : Settings
        Of the node.
    folder : DataFolder
        Whose index.
    version : str
        Of the node, for the document.
    now : Callable[[], datetime]
        The clock; aware.
    say : Callable[[str], None]
        Takes a line of progress.
    """

    def __init__(
        self, settings: Settings, folder: DataFolder, version: str, now: Callable[[], datetime], say: Say
    ) -> None:
        self._settings, self._folder, self._version = settings, folder, version
        self._now, self._say = now, say
        self._told = 0.0
        self._anew = anew(place_of(settings))

    def run(self) -> dict[str, Any]:
        """Rebuild; return ``pacs-ai-node/rebuild/1``.

        Until the last step, which is a renaming, the old database stands untouched: after an interruption begin again.

        Raises
        ------
        OSError
            If the folder cannot be read or written.
        StoreError
            If the database cannot be used, or a node works on it.
        """
        begin = time.monotonic()
        self._anew.clear()
        survey = self._survey()
        recovered, strange = self._recover(survey)
        why = self._old()
        carried: carry.Carried | None = None
        own = open_database(self._anew.copy, hurried=False) if why is None else None
        fresh = open_database(self._anew.fresh, hurried=False)
        try:
            lost = self._index(fresh, survey, own)
            names = [d.name for d in self._settings.destination]
            unknown = corrections.forgotten(fresh, own, self._now().timestamp(), names, self._made)
        finally:
            for db in (fresh, own):
                if db is not None:
                    db.close()
        made = self._anew.fresh
        if why is None:
            try:
                carried = carry.merge(self._anew, self._now().timestamp(), self._stands)
                made = self._anew.copy
            except CarryError as error:
                why = str(error)
        for entry in lost["damaged"]:
            self._quarantine(entry)
        db = open_database(made, hurried=False)
        counts = carry.totals(db)
        db.close()
        kept = self._anew.swap(made, f"{self._now():%Y%m%dT%H%M%SZ}")
        return {
            "schema": "pacs-ai-node/rebuild/1",
            "version": self._version,
            "data_dir": str(self._folder.path.resolve()),
            "old_database": {"kept_as": kept, "carried_over": made == self._anew.copy, "why_not": why if kept else None},
            "journals": {
                "files": survey.files, "records": survey.records, "damaged_lines": survey.damaged_lines,
                "torn_bytes": survey.torn_bytes,
            },
            "recovered": recovered,
            "unrecognised": strange,
            "missing": sorted({*lost["missing"], *(carried.missing if carried else ())}),
            "damaged": sorted(lost["damaged"]),
            "reopened": sorted(carried.reopened) if carried else [],
            "unknown_left": sorted(unknown),
            "counts": {
                "studies": counts["study"], "instances": counts["instance"], "versions": counts["version"],
                "notices": counts["notice"], "jobs": counts["job"], "deliveries": counts["delivery"],
            },
            "seconds": round(time.monotonic() - begin, 1),
        }  # fmt: skip

    def _survey(self) -> _Survey:
        """Read every journal once, for the entries that it names."""
        survey = _Survey()
        for path in journals(self._folder.path):
            survey.files += 1
            size, offset = path.stat().st_size, 0
            while True:
                records, after = read_journal(path, offset)
                if after == offset:
                    break
                survey.damaged_lines += _lines(path, offset, after) - len(records)
                offset = after
                survey.records += len(records)
                for record in records:
                    self._note(survey, record)
                self._progress(f"journals: {survey.records} records read")
            survey.torn_bytes += size - offset
        return survey

    def _note(self, survey: _Survey, record: dict[str, Any]) -> None:
        entry = record.get("entry")
        if not isinstance(entry, str):
            return
        if record["kind"] == "removed":
            with suppress(KeyError, TypeError, ValueError):  # no time: for the indexer to tell
                at = datetime.fromisoformat(record["utc"]).timestamp()
                survey.removed[entry] = max(at, survey.removed.get(entry, at))
        elif record["kind"] in _RECORDING:
            survey.entries.add(entry)
            who = {k: record[k] for k in ("association", "calling", "called", "peer") if isinstance(record.get(k), str)}
            if len(who) == 4 and isinstance(record.get("study"), str):
                survey.senders[record["study"]] = who

    def _recover(self, survey: _Survey) -> tuple[list[str], list[str]]:
        """Journal what stands in the spool without a record; return the entries, and what is nothing of ours."""
        now = self._now()
        # of several objects under one UID the one with the lowest number came first
        before = JournalWriter(
            self._folder.spool / "journal",
            lambda: now.replace(year=_LONG_AGO),
            node=self._settings.node.name,
            first=True,
        )
        after = JournalWriter(self._folder.spool / "journal", lambda: now, node=self._settings.node.name)
        found: list[str] = []
        strange: list[str] = []
        batches: dict[JournalWriter, list[dict[str, Any]]] = {before: [], after: []}
        for path in self._unrecorded(survey):
            entry = str(path.relative_to(self._folder.spool))
            record = (
                self._read_notice(path, entry) if path.parent.name == "notices" else self._read(path, entry, survey)
            )
            if record is None:
                strange.append(entry)
                continue
            found.append(entry)
            writer = before if _has_successor(entry, survey.entries) else after
            batches[writer].append(record)
            if len(batches[writer]) >= _AT_ONCE:
                writer.append(*batches[writer])
                batches[writer].clear()
            self._progress(f"spool: {len(found)} objects without a record journalled")
        for writer, records in batches.items():
            if records:
                writer.append(*records)
            writer.close()
        return found, strange

    def _unrecorded(self, survey: _Survey) -> Iterator[Path]:
        folders = [self._folder.spool / f"{n:02x}" for n in range(256)]
        for folder in (*folders, self._folder.spool / "notices"):
            if not folder.is_dir():
                continue
            files = [p for p in folder.iterdir() if str(p.relative_to(self._folder.spool)) not in survey.entries]
            yield from sorted(files, key=lambda p: (_number(p), p.name))

    def _read(self, path: Path, entry: str, survey: _Survey) -> dict[str, Any] | None:
        """Return the record of one object as the receiver would have written it; None if it cannot have received it."""
        matched = _ENTRY.fullmatch(entry)
        if matched is None or not path.is_file():
            return None
        try:
            syntax = str(read_file_meta_info(path).get("TransferSyntaxUID", ""))
            with path.open("rb") as file:
                offset = dataset_offset(file)
        except Exception:  # noqa: BLE001 - whatever is in the file: without this it cannot have been acknowledged
            return None
        who = read_identity(path, offset, syntax)
        uids = (who.study_instance_uid, who.series_instance_uid, who.sop_instance_uid, who.sop_class_uid)
        if not all(uids):
            with suppress(UnreadableError):
                i = read_instance(path)
                uids = (i.study_instance_uid, i.series_instance_uid, i.sop_instance_uid, i.sop_class_uid)
        if not all(uids) or hashlib.sha256(uids[2].encode()).hexdigest() != matched[1]:
            return None
        unknown = {"association": f"recovered-{utc(self._now())}", "calling": "", "called": "", "peer": ""}
        return {
            "kind": "recovered", **survey.senders.get(uids[0], unknown), **self._facts(path),
            "study": uids[0], "series": uids[1], "sop": uids[2], "sop_class": uids[3], "syntax": syntax,
            "digest": digest_dataset(path), "entry": entry,
        }  # fmt: skip

    def _read_notice(self, path: Path, entry: str) -> dict[str, Any] | None:
        matched = _NOTICE.fullmatch(path.name)
        try:
            uid = str(read_file_meta_info(path).get("MediaStorageSOPInstanceUID", "")) if matched else ""
        except Exception:  # noqa: BLE001 - whatever is in the file: it is no notice of ours
            return None
        if matched is None or not uid:
            return None
        who = {"association": f"recovered-{utc(self._now())}", "calling": "", "called": "", "peer": ""}
        return {"kind": "notice", "notice": matched[1], "uid": uid, "entry": entry, **who, **self._facts(path)}

    def _facts(self, path: Path) -> dict[str, Any]:
        stat = path.stat()
        return {"utc": utc(datetime.fromtimestamp(stat.st_mtime, UTC)), "bytes": stat.st_size}

    def _old(self) -> str | None:
        """Copy the old database; say why if that is not possible."""
        self._say("old database: copying it")
        try:
            self._anew.copied()
        except CarryError as error:
            self._say(f"old database: not carried over: {error}")
            return str(error)
        return None

    def _index(self, db: Database, survey: _Survey, own: Database | None) -> dict[str, set[str]]:
        """Index every journal; return the entries that are not what was received."""
        indexer = Indexer(db, self._folder, self._settings, survey.removed, own)
        lost: dict[str, set[str]] = {"missing": set(), "damaged": set()}
        count = 0
        while indexer.advance():
            changes = indexer.changed()
            count += len(changes)
            for change in changes:
                if isinstance(change, Arrived) and change.lost in lost:
                    lost[change.lost].add(change.entry)
            self._progress(f"index: {count} records")
        return lost

    def _made(self, study_uid: str, corrected: Sequence[str], in_use: Sequence[str]) -> list[str]:
        """Return the UIDs of results on disk that were made under an identity that was corrected."""
        standing = (_whose(path) for path in sorted((self._folder.artifacts / folder_of(study_uid)).rglob("*.dcm")))
        return [uid for uid, own in standing if _says_one_of(own, corrected) and not _says_one_of(own, in_use)]

    def _stands(self, entry: str) -> bool:
        return (self._folder.spool / entry).exists()

    def _quarantine(self, entry: str) -> None:
        place = self._folder.quarantine / "damaged"
        make_folders(place, mode=0o700)
        source = self._folder.spool / entry
        with suppress(FileNotFoundError):
            source.rename(place / f"{self._now():%Y%m%dT%H%M%SZ}-{source.name}")
        sync_folder(place)

    def _progress(self, line: str) -> None:
        if time.monotonic() - self._told >= _SAY_S:
            self._told = time.monotonic()
            self._say(line)


def _whose(path: Path) -> tuple[str, str]:
    """Return the UID of an object of ours and whose it says it is; nobody's if it is damaged."""
    try:
        header = dcmread(path, stop_before_pixels=True)
        return str(header.SOPInstanceUID), identity.identity_of(header)
    except Exception:  # noqa: BLE001 - whatever is in the file: the alarm stands all the same
        return "", ""


def _says_one_of(own: str, identities: Sequence[str]) -> bool:
    return any(identity.compare_identities(one, own).meaning == "same" for one in identities)


def _has_successor(entry: str, recorded: set[str]) -> bool:
    """Say whether a later object under the same UID has kept its record."""
    matched = _ENTRY.fullmatch(entry)
    if matched is None:
        return False
    stem = entry[: matched.end(1)]
    return any(f"{stem}-{n}.dcm" in recorded for n in range(int(matched[2]) + 1, MAX_VERSIONS))


def _number(path: Path) -> int:
    number = path.stem.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def _lines(path: Path, begin: int, end: int) -> int:
    with path.open("rb") as file:
        file.seek(begin)
        data = file.read(end - begin)
    return data.count(b"\n") or 1
