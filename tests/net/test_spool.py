"""Spool and journal as files: order, duplicates, conflicts, restarts, full disks, half-written lines."""

import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dicom_io.read import digest_dataset
from dicom_io.reasons import REASONS
from dicom_io.scp import AssociationInfo, RefusedObject, StoredObject
from node import spool as module
from node.spool import JournalWriter, Spool, Stored, journals, read_journal
from node.watermarks import Limits

pytestmark = pytest.mark.unit

WHO = AssociationInfo("a1", "CT1", "NODE", "127.0.0.1")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def arrive(write_slice: Callable[..., Path]) -> Callable[..., StoredObject]:
    """Put a slice into the incoming folder as the listener would."""

    def make(spool: Spool, sop: str = "2.25.77", **values: Any) -> StoredObject:
        source = write_slice(SOPInstanceUID=sop, **values)
        path = spool.incoming / f"{os.getpid()}-{os.urandom(4).hex()}.part"
        source.rename(path)
        return StoredObject(
            path,
            WHO,
            "1.2",
            sop,
            "2.25.900",
            "2.25.901",
            "1.2.840.10008.1.2.1",
            digest_dataset(path),
            path.stat().st_size,
        )

    return make


def keep(spool: Spool, arrived: StoredObject) -> Stored:
    """What the receiver does with one object, but for the journal."""
    stored = spool.store(arrived)
    spool.recorded(stored, arrived.digest)
    arrived.path.unlink()
    return stored


def test_an_entry_is_named_by_the_hash_of_its_uid_and_holds_the_same_bytes(
    data: Path, arrive: Callable[..., StoredObject]
) -> None:
    spool = Spool(data)
    arrived = arrive(spool)
    content = arrived.path.read_bytes()
    stored = keep(spool, arrived)
    name = hashlib.sha256(b"2.25.77").hexdigest()
    assert stored.entry == f"{name[:2]}/{name}-0.dcm"
    assert stored.kind == "stored"
    assert (spool.root / stored.entry).read_bytes() == content


def test_the_file_is_flushed_before_it_is_linked_and_the_folder_after(
    data: Path, arrive: Callable[..., StoredObject], monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(data)
    arrived = arrive(spool)
    calls = []
    fsync, link = os.fsync, os.link
    monkeypatch.setattr(
        os, "fsync", lambda fd: (calls.append(("fsync", os.path.realpath(f"/proc/self/fd/{fd}"))), fsync(fd))
    )
    monkeypatch.setattr(os, "link", lambda a, b: (calls.append(("link", str(b))), link(a, b)))
    stored = spool.store(arrived)
    entry = spool.root / stored.entry
    assert calls == [("fsync", str(arrived.path)), ("link", str(entry)), ("fsync", str(entry.parent))]


def test_a_notice_is_kept_in_the_same_order_and_equal_bytes_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(data)
    calls = []
    fsync, link = os.fsync, os.link
    monkeypatch.setattr(
        os, "fsync", lambda fd: (calls.append(("fsync", os.path.realpath(f"/proc/self/fd/{fd}"))), fsync(fd))
    )
    monkeypatch.setattr(os, "link", lambda a, b: (calls.append(("link", str(b))), link(a, b)))
    kept = spool.keep(b"one", "abc")
    path = spool.root / kept.entry
    assert (kept.entry, kept.kind, path.read_bytes()) == ("notices/abc-0.dcm", "stored", b"one")
    assert [name for name, _ in calls] == ["fsync", "link", "fsync"]
    assert calls[1:] == [("link", str(path)), ("fsync", str(path.parent))]
    assert spool.keep(b"one", "abc").entry == kept.entry
    assert spool.keep(b"other", "abc").entry == "notices/abc-1.dcm"
    assert not list(spool.incoming.iterdir())


def test_equal_bytes_are_a_duplicate_without_a_second_file(data: Path, arrive: Callable[..., StoredObject]) -> None:
    spool = Spool(data)
    first = keep(spool, arrive(spool))
    again = keep(spool, arrive(spool))
    assert (again.entry, again.kind) == (first.entry, "duplicate")
    assert len(list(spool.root.glob("??/*.dcm"))) == 1


def test_other_bytes_under_one_uid_are_a_conflict_and_both_are_kept(
    data: Path, arrive: Callable[..., StoredObject]
) -> None:
    spool = Spool(data)
    first = keep(spool, arrive(spool, PatientID="P1"))
    other = keep(spool, arrive(spool, PatientID="P2"))
    third = keep(spool, arrive(spool, PatientID="P3"))
    assert [s.kind for s in (first, other, third)] == ["stored", "conflict", "conflict"]
    assert [s.entry[-6:] for s in (first, other, third)] == ["-0.dcm", "-1.dcm", "-2.dcm"]
    assert keep(spool, arrive(spool, PatientID="P2")).kind == "duplicate"
    assert len(list(spool.root.glob("??/*.dcm"))) == 3


def test_after_a_restart_the_same_entry_is_found_and_recorded_once_more(
    data: Path, arrive: Callable[..., StoredObject]
) -> None:
    before = Spool(data)
    first = keep(before, arrive(before))
    other = keep(before, arrive(before, PatientID="P2"))
    after = Spool(data)
    assert (keep(after, arrive(after)).entry, keep(after, arrive(after, PatientID="P2")).entry) == (
        first.entry,
        other.entry,
    )
    assert keep(Spool(data), arrive(after)).kind == "stored", "its first record may never have been written"
    assert len(list(after.root.glob("??/*.dcm"))) == 2


def test_an_entry_that_was_removed_is_stored_anew(data: Path, arrive: Callable[..., StoredObject]) -> None:
    spool = Spool(data)
    first = keep(spool, arrive(spool))
    (spool.root / first.entry).unlink()
    assert keep(spool, arrive(spool)).kind == "stored"


def test_a_disk_below_its_reserve_takes_nothing(data: Path, arrive: Callable[..., StoredObject]) -> None:
    spool = Spool(data, Limits(1 << 62, 0, 0, 0.25))
    arrived = arrive(spool)
    with pytest.raises(OSError, match="free space") as caught:
        spool.store(arrived)
    assert caught.value.errno == errno.ENOSPC
    assert not list(spool.root.glob("??/*.dcm"))


def test_only_the_leavings_of_dead_processes_are_removed(data: Path) -> None:
    spool = Spool(data)
    dead, own, alive = (spool.incoming / f"{pid}-0.part" for pid in (4194305, os.getpid(), 1))
    for path in (dead, own, alive):
        path.touch()
    assert spool.clean() == 2
    assert [path.exists() for path in (dead, own, alive)] == [False, False, True]


def test_a_node_judges_no_process_of_another_by_its_number(data: Path) -> None:
    here, there = Spool(data, node="a"), Spool(data, node="b")
    parts = [spool.incoming / "4194305-0.part" for spool in (here, there)]
    for path in parts:
        path.touch()
    assert here.clean() == 1
    assert [path.exists() for path in parts] == [False, True]
    assert here.clean_after({"a", "b"}) == 0
    assert here.clean_after({"a"}) == 1
    assert not parts[1].exists()


def test_refused_objects_are_kept_without_patient_data_in_the_note_and_the_oldest_gives_way(
    data: Path, arrive: Callable[..., StoredObject], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUARANTINE_FILES", 2)
    spool = Spool(data)
    for second in range(3):
        arrived = arrive(spool, PatientID=f"SECRET{second}")
        refused = RefusedObject(arrived.path, WHO, 0xC000, REASONS("object-unparsable"), arrived.digest, arrived.bytes)
        spool.refuse(refused, datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC))
    copies = sorted(spool.quarantine.glob("*.dcm"))
    assert [copy.read_bytes().count(b"SECRET") for copy in copies] == [1, 1]
    assert b"SECRET2" in copies[-1].read_bytes()
    notes = [path.read_text(encoding="utf-8") for path in sorted(spool.quarantine.glob("*.json"))]
    assert len(notes) == 2
    assert json.loads(notes[0])["status"] == "0xC000"
    assert "SECRET" not in "".join(notes)
    assert "2.25." not in "".join(notes)


def test_many_threads_share_flushes_and_every_record_is_there_before_its_call_returns(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(data)
    writer = JournalWriter(spool.journals)
    flushes = []
    slow = threading.Event()

    def fdatasync(fd: int) -> None:
        flushes.append(fd)
        slow.wait(0.02)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    missing = []

    def work(thread: int) -> None:
        for n in range(10):
            number = writer.append({"kind": "stored", "thread": thread, "n": n})
            if not any(r["seq"] == number for r in read_journal(writer.path)[0]):
                missing.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = read_journal(writer.path)[0]
    assert not missing
    assert sorted(r["seq"] for r in records) == list(range(1, 81))
    assert len(flushes) < 60, "eight threads at once must share flushes"


def test_a_failed_flush_fails_every_waiting_record_and_the_next_goes_into_a_new_file(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(data)
    writer = JournalWriter(spool.journals)
    writer.append({"kind": "stored", "n": 1})
    first = writer.path

    def broken(_fd: int) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(OSError, match="journal"):
            writer.append({"kind": "stored", "n": 2})
    writer.append({"kind": "stored", "n": 3})
    assert writer.path != first
    assert [r["n"] for r in read_journal(writer.path)[0]] == [3]
    assert len(journals(data)) == 2


def test_a_journal_that_has_grown_is_followed_by_another(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JOURNAL_BYTES", 100)
    writer = JournalWriter(Spool(data).journals)
    for n in range(6):
        writer.append({"kind": "stored", "n": n, "filler": "x" * 60})
    files = journals(data)
    assert len(files) > 1
    assert [r["n"] for path in files for r in read_journal(path)[0]] == list(range(6))


def test_a_reader_goes_on_where_it_stopped_and_leaves_a_half_written_line(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    line = json.dumps({"n": 1, "kind": "stored"}).encode() + b"\n"
    path.write_bytes(line + line[:7])
    records, offset = read_journal(path)
    assert (len(records), offset) == (1, len(line))
    assert read_journal(path, offset) == ([], offset)
    path.write_bytes(line + line)
    assert read_journal(path, offset) == ([{"n": 1, "kind": "stored"}], 2 * len(line))


@pytest.mark.parametrize("torn", [b"\0\0\0\0\n", b'{"n": 1, "ki\n', b"[]\n", b"7\n", b"\xff\xfe\n"])
def test_a_torn_line_in_between_is_passed_over(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "j.jsonl"
    line = json.dumps({"n": 1, "kind": "stored"}).encode() + b"\n"
    path.write_bytes(line + torn + line)
    records, offset = read_journal(path)
    assert len(records) == 2
    assert offset == 2 * len(line) + len(torn)


def test_a_long_journal_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_BYTES", 100)
    path = tmp_path / "j.jsonl"
    path.write_bytes(b"".join(json.dumps({"n": n, "kind": "stored"}).encode() + b"\n" for n in range(50)))
    seen, offset = [], 0
    while (step := read_journal(path, offset))[0]:
        seen += [r["n"] for r in step[0]]
        offset = step[1]
    assert seen == list(range(50))
