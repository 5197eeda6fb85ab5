"""The spool: what was acknowledged is on disk. Files and journals are the truth, and the index is made from them.

Order per instance: fsync(file), link, fsync(folder), journal record, fdatasync(journal), answer (DESIGN, promise 1).
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import re
import secrets
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from config.settings import Storage
from dicom_io.files import make_folders, sync_file, sync_folder
from dicom_io.read import digest_dataset
from dicom_io.scp import RefusedObject, StoredObject
from node.failpoint import passing
from node.installation import host_name, process_name
from node.watermarks import Gate, Limits

JOURNAL_BYTES = 64 << 20
"""A journal file is followed by a new one when it has grown to this size."""
JOURNAL_AGE = timedelta(days=1)
"""...or is so old: a journal goes when everything in it has gone."""
READ_BYTES = 4 << 20
"""How much of a journal one call of `read_journal` takes at most."""
_FIRST_LINE = 64 << 10
MAX_VERSIONS = 100
"""Different objects under one SOP Instance UID that are kept."""
REMEMBERED = 100_000
"""Entries whose record this process remembers to have written; an older one is recorded once more."""
HELD_S = 5.0
"""How long to wait for those who store, or for who takes away."""
QUARANTINE_FILES, QUARANTINE_BYTES = 1000, 2 << 30

_CRC = b', "crc": '
_VERSION = re.compile(r"-(\d+)\.dcm$")
_STAMP = re.compile(r"(\d{8}T\d{12})Z-")
_STAMPED = "%Y%m%dT%H%M%S%f"

Kind = Literal["stored", "duplicate", "conflict"]


class SpoolFullError(OSError):
    """The spool takes no more of one object; its sender keeps it."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Where an object stands now.

    Parameters
    ----------
    entry : str
        Path below the spool.
    kind : Kind
        ``stored``: first object under its UID; ``conflict``: another one stood there; ``duplicate``: this process has
        recorded this very object before. After a restart a repeated object is ``stored`` (or ``conflict``) again with
        the same entry, because nobody knows whether its first record survived: readers take the entry as the key.
    """

    entry: str
    kind: Kind


class Spool:
    """A folder of received objects, shared by all receiver processes of a node.

    Parameters
    ----------
    data_dir : Path
        The node's data folder; created if absent.
    limits : Limits
        Space that stays free on the file system.
    node : str
        Whose process this is: what it is receiving stands in a folder of that node, because only there a number of a
        process says whether it lives.
    """

    def __init__(self, data_dir: Path, limits: Limits | None = None, node: str | None = None) -> None:
        self.root = data_dir / "spool"
        self.node = node or host_name()
        self.incoming = self.root / "incoming" / self.node
        self.journals = self.root / "journal"
        self.quarantine = data_dir / "quarantine" / "received"
        self.underway = self.root / "underway"
        notices = self.root / "notices"
        self._known: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()
        entries = (self.root / f"{n:02x}" for n in range(256))
        make_folders(self.incoming, self.journals, notices, self.underway, self.quarantine, *entries, mode=0o700)
        self.gate = Gate(self.root, limits or Limits.of(Storage()))

    def clean(self) -> int:
        """Remove what dead processes of this node were receiving; return how many files.

        A file of this process's own number is from an earlier process: call it before anything is received.
        """
        parts = ((path, path.name.partition("-")[0]) for path in self.incoming.glob("*.part"))
        own = str(os.getpid())
        return _unlink(path for path, pid in parts if not (pid.isdecimal() and pid != own and alive(int(pid))))

    def clean_after(self, living: Container[str]) -> int:
        """Remove what nodes that do not live were receiving; return how many files."""
        folders = (folder for folder in self.incoming.parent.iterdir() if folder.name not in living)
        return _unlink(path for folder in folders for path in folder.glob("*.part"))

    def store(self, arrived: StoredObject) -> Stored:
        """Make an object durable and give it its entry. The journal comes after, then `recorded`.

        Raises
        ------
        OSError
            If the disk is full or fails; nothing may be acknowledged.
        """
        name = hashlib.sha256(arrived.sop_instance_uid.encode()).hexdigest()
        return self._keep(arrived.path, f"{name[:2]}/{name}", arrived.digest, digest_dataset)

    def keep(self, content: bytes, stem: str) -> Stored:
        """Make a small file (a notice) durable as ``notices/<stem>-<n>.dcm``, as `store` does with an object.

        Parameters
        ----------
        content : bytes
            The whole file.
        stem : str
            Name of the file; never from the wire. Equal bytes under one stem are one file, other bytes get their own.

        Raises
        ------
        OSError
            As `store`.
        """
        # never a name that was used before: should it still be there, it is another notice's file under a second name
        part = self.incoming / f"{os.getpid()}-{secrets.token_hex(8)}.notice.part"
        try:
            with part.open("xb") as file:
                file.write(content)
            return self._keep(part, f"notices/{stem}", hashlib.sha256(content).hexdigest(), _digest_bytes)
        finally:
            part.unlink(missing_ok=True)

    def _keep(self, part: Path, stem: str, digest: str, digest_of: Callable[[Path], str]) -> Stored:
        """Flush `part`, give it the first free entry of `stem` unless its bytes stand there already, flush the folder."""
        self.gate.check_room()
        passing("receive.before_fsync")
        sync_file(part)
        for version in range(MAX_VERSIONS):
            entry = f"{stem}-{version}.dcm"
            path = self.root / entry
            known = False
            try:
                os.link(part, path)
            except FileExistsError:
                with self._lock:
                    before = self._known.get(entry)
                known = before is not None
                if (before or digest_of(path)) != digest:
                    continue
            passing("receive.after_link")
            # also for what stood there before: whoever linked it may not have flushed the folder yet
            sync_folder(path.parent)
            return Stored(entry, "duplicate" if known else "conflict" if version else "stored")
        raise SpoolFullError(errno.ENOSPC, f"more than {MAX_VERSIONS} different objects under one name")

    def recorded(self, stored: Stored, digest: str) -> None:
        """Remember that the record of `stored` is durable."""
        with self._lock:
            self._known[stored.entry] = digest
            self._known.move_to_end(stored.entry)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)

    @contextlib.contextmanager
    def held(self, *, alone: bool = False) -> Iterator[None]:
        """Keep retention away while an object is stored and recorded; `alone`: keep everybody else away.

        What stands in the spool may be the reason for an acknowledgement (the same bytes came again) from the look at it
        until the record is durable: nothing may be taken away in between.

        Raises
        ------
        BlockingIOError
            If the others do not let go in time.
        """
        with _locked(self.root / "lock", fcntl.LOCK_EX if alone else fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def noticing(self) -> Iterator[None]:
        """Keep other receivers, of all nodes, from judging a notice at the same time.

        Raises
        ------
        BlockingIOError
            As `held`.
        """
        with _locked(self.root / "lock-notices", fcntl.LOCK_EX):
            yield

    def refuse(self, refused: RefusedObject, now: datetime) -> None:
        """Keep a copy of an object that is answered with a failure; the oldest copies give way."""
        stem = f"{now:%Y%m%dT%H%M%S%f}-{refused.association.id}-{refused.status:04X}"
        os.link(refused.path, self.quarantine / f"{stem}.dcm")
        note = {
            "utc": utc(now),
            "status": f"0x{refused.status:04X}",
            "reason": refused.reason.as_json(),
            "association": refused.association.id,
            "calling": refused.association.calling,
            "called": refused.association.called,
            "peer": refused.association.peer,
            "digest": refused.digest,
            "bytes": refused.bytes,
        }
        (self.quarantine / f"{stem}.json").write_text(json.dumps(note, ensure_ascii=False), encoding="utf-8")
        with self._lock:
            self._trim()

    def _trim(self) -> None:
        sizes: dict[Path, int] = {}
        for path in sorted(self.quarantine.glob("*.dcm")):
            with contextlib.suppress(FileNotFoundError):  # another process does the same
                sizes[path] = path.stat().st_size
        total = sum(sizes.values())
        for count, path in zip(range(len(sizes), 0, -1), sizes, strict=True):
            if count <= QUARANTINE_FILES and total <= QUARANTINE_BYTES:
                return
            total -= sizes[path]
            path.unlink(missing_ok=True)
            path.with_suffix(".json").unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    """Hold the lock `path`, a file that can be written: NFS refuses the lock of a folder."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + HELD_S
    try:
        while True:
            try:
                fcntl.flock(descriptor, how | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.002)
        yield
    finally:
        os.close(descriptor)  # and with it the lock


@dataclass(slots=True)
class _Batch:
    """Records that one flush makes durable, and how that went."""

    lines: list[bytes] = field(default_factory=list)
    done: bool = False
    error: OSError | None = None


class JournalWriter:
    """Append-only journal of one process.

    Several threads that append at the same time share one flush. After a failed write the file is left to its readers
    and a new one is begun: what the kernel did with the rest is not knowable.

    Parameters
    ----------
    folder : Path
        ``journal`` of a spool.
    now : Callable[[], datetime]
        Names new files.
    what : str
        Goes into their names, before the name of the process.
    node : str or None
        Whose process this is; None: of the node that is called like its host.
    first : bool
        Whether they are to be read as `now` says, before files that stand already; else they come after all of them,
        wherever the clock was set.
    """

    def __init__(
        self,
        folder: Path,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        what: str = "",
        *,
        node: str | None = None,
        first: bool = False,
    ) -> None:
        self._folder, self._first = folder, first
        self._what = what + process_name(node or host_name(), os.getpid())
        self._now = now
        self._queue = threading.Lock()
        self._flush = threading.Lock()
        self._batch = _Batch()
        self._seq = 0
        self._fd = -1
        self._size = 0
        self._begun = now()
        self.path: Path | None = None

    def append(self, *records: dict[str, Any]) -> int:
        """Write records and return the number of the last one once all are durable.

        Raises
        ------
        OSError
            If it could not be made durable. A reader may see it nevertheless.
        """
        with self._queue:
            batch = self._batch
            for record in records:
                self._seq += 1
                batch.lines.append(_line({"seq": self._seq, **record}))
            number = self._seq
        with self._flush:
            if not batch.done:
                self._write()
        if batch.error is not None:
            raise OSError(batch.error.errno, "the journal could not be written")
        return number

    def close(self) -> None:
        """Close the file; every record is durable already."""
        with self._flush:
            self._close()

    def _write(self) -> None:
        """Write everything that waits; the caller holds the flush lock."""
        with self._queue:
            batch, self._batch = self._batch, _Batch()
        try:
            if self._fd < 0 or self._size > JOURNAL_BYTES or self._now() - self._begun > JOURNAL_AGE:
                self._open()
            data = memoryview(b"".join(batch.lines))
            while data:
                written = os.write(self._fd, data)
                self._size += written
                data = data[written:]
            os.fdatasync(self._fd)
        except OSError as error:
            self._close()
            batch.error = error
        batch.done = True

    def _open(self) -> None:
        self._close()
        self._begun = self._now()
        self.path = self._folder / f"{self._stamp()}Z-{self._what}.jsonl"
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = 0
        sync_folder(self._folder)

    def _stamp(self) -> str:
        """Return the time as names hold it, later than in any other name: names tell the order of writing."""
        stamp = self._begun.strftime(_STAMPED)
        if self._first:
            return stamp
        newest = max((m[1] for m in (_STAMP.match(path.name) for path in self._folder.iterdir()) if m), default="")
        if stamp > newest:
            return stamp
        return (datetime.strptime(newest, _STAMPED).replace(tzinfo=UTC) + timedelta(microseconds=1)).strftime(_STAMPED)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read_journal(
    path: Path, offset: int = 0, stop: Callable[[dict[str, Any]], bool] | None = None
) -> tuple[list[dict[str, Any]], int]:
    """Read whole records from `offset` on, some megabytes at a time.

    A last line without its end is left for the next call. A whole line that is no record is passed over: a torn write of a
    machine that lost power was never acknowledged, and for what a damaged disk took, see `node.rebuild`.

    Parameters
    ----------
    stop : Callable[[dict], bool] or None
        Reading ends before the first record of which it says so.

    Returns
    -------
    records : list of dict
        In the order of writing.
    new_offset : int
        Where to go on; equal to `offset` if there is nothing more yet.
    """
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(READ_BYTES)
    end = data.rfind(b"\n") + 1
    if not end and len(data) == READ_BYTES:  # no line is so long: what a disk gave back instead of one
        end = len(data)
    records: list[dict[str, Any]] = []
    at = offset
    for line in data[:end].splitlines(keepends=True):
        for record in _records([line]):
            if stop is not None and stop(record):
                return records, at
            records.append(record)
        at += len(line)
    return records, at


def predecessor(entry: str) -> str | None:
    """Return the entry that was given before `entry` to another object under the same UID; None: it was the first."""
    found = _VERSION.search(entry)
    number = int(found[1]) if found else 0
    return f"{entry[: found.start(1)]}{number - 1}.dcm" if found and number else None


def journals(data_dir: Path) -> list[Path]:
    """Return the journals of a data folder, oldest first."""
    return sorted((data_dir / "spool" / "journal").glob("*.jsonl"))


def begun(path: Path) -> float:
    """Return by the clock of its first record when a journal was begun (s since the epoch); long ago if that is unknown.

    The name cannot say it: it may have been made later than the clock, see `JournalWriter`.
    """
    with path.open("rb") as file:
        for record in _records([file.readline(_FIRST_LINE)]):
            with contextlib.suppress(KeyError, TypeError, ValueError):
                return datetime.fromisoformat(record["utc"]).timestamp()
    return -math.inf


def _line(record: dict[str, Any]) -> bytes:
    """Return a record as a line whose last field is the CRC-32 of everything before it."""
    body = json.dumps(record, ensure_ascii=False).encode()
    return body[:-1] + _CRC + str(zlib.crc32(body[:-1])).encode() + b"}\n"


def _records(lines: Iterable[bytes]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        # what a `JournalWriter` wrote is numbered; one wrong bit in it could name another file
        if isinstance(record, dict) and "kind" in record and ("seq" not in record or _whole(line, record)):
            yield record


def _whole(line: bytes, record: dict[str, Any]) -> bool:
    return zlib.crc32(line[: line.rfind(_CRC)]) == record.get("crc")


def utc(now: datetime) -> str:
    """Return `now` (aware) as UTC text with microseconds, ISO 8601."""
    return now.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _digest_bytes(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _unlink(paths: Iterable[Path]) -> int:
    removed = 0
    for path in paths:
        with contextlib.suppress(OSError):  # a disk that cannot be written now: what is left harms nobody
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def alive(pid: int) -> bool:
    """Say whether a process of this machine has this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
