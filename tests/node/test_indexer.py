"""From journals to the index: the order of reading, and records and headers that nobody can understand."""

import json
import os
import shutil
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from config.settings import Peer
from dicom_io.read import dataset_offset
from node import identity, indexer
from node import spool as spool_module
from node.rebuild import Rebuild
from node.retention import Retention
from node.spool import JournalWriter, journals, read_journal, utc
from node.store import DatabaseFault, storage
from tests.node.desk import Desk, changed

pytestmark = pytest.mark.unit


def renamed(dataset: Any) -> None:
    dataset.PatientName, dataset.PatientID = "RIGHT^PATIENT", "RIGHT-1"


def unindexed(desk: Desk) -> Callable[..., None]:
    """Let nothing be indexed until the returned is called."""
    tick = desk.coordinator.tick
    desk.coordinator.tick = lambda *_: None  # type: ignore[method-assign] - the point of it
    return tick


def rows(desk: Desk, query: str) -> list[tuple[Any, ...]]:
    with desk.db.read() as c:
        return [tuple(row) for row in c.exec_driver_sql(query)]


def rebuilt(desk: Desk) -> dict[str, Any]:
    desk.stop()
    desk.folder.database.unlink()
    now = datetime.fromtimestamp(desk.now, UTC)
    document = Rebuild(desk.settings, desk.folder, "test", lambda: now, lambda _line: None).run()
    desk.start()
    return document


def merged(desk: Desk) -> dict[str, Any]:
    """Rebuild the index; what the old database knows is merged into the fresh one."""
    desk.stop()
    now = datetime.fromtimestamp(desk.now, UTC)
    document = Rebuild(desk.settings, desk.folder, "test", lambda: now, lambda _line: None).run()
    desk.start()
    return document


# order


@pytest.mark.parametrize("how", ["live", "rebuild"])
def test_no_journal_overtakes_an_earlier_one(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(spool_module, "READ_BYTES", 2000)
    tick = unindexed(desk)
    for n in range(40):
        desk.note("association-open", association=f"x{n}", calling="CT2", called="NODE", peer="127.0.0.1")
    desk.receive(slices)
    desk.journal.close()
    desk.now += 86400.0
    desk.start_journal()
    desk.receive(changed(slices, tmp_path / "right", renamed))
    if how == "live":
        for _ in range(60):
            tick(desk.now)
    else:
        rebuilt(desk)
    assert desk.study(uid).patient_id == "RIGHT-1"
    assert {json.loads(row[0])["PatientID"] for row in rows(desk, "SELECT identity FROM instance")} == {"RIGHT-1"}
    # with the database lost nobody knows what had left under the identity that was corrected
    assert desk.alarms(uid) == ({"results-under-old-identity"} if how == "rebuild" else set())


def test_one_look_reads_a_bounded_part(desk: Desk, slices: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "READ_BYTES", 2000)
    unindexed(desk)
    desk.receive(slices)
    first = desk.coordinator._indexer.advance()
    assert 0 < first <= 4000
    assert 0 < len(rows(desk, "SELECT id FROM instance")) < len(slices)


def test_no_study_is_decided_while_the_index_is_behind(
    desk: Desk, slices: list[Path], uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick = unindexed(desk)
    desk.receive(slices)
    desk.now += 70.0  # quiet_s is 60
    (path,) = journals(desk.folder.path)
    monkeypatch.setattr(spool_module, "READ_BYTES", path.stat().st_size // 3)
    tick(desk.now)
    assert 0 < len(rows(desk, "SELECT id FROM instance")) < len(slices)
    assert desk.study(uid).state == "open"
    for _ in range(3):
        tick(desk.now)
    assert (desk.study(uid).state, desk.study(uid).revision) == ("closed", 1)


def test_the_news_of_a_look_that_was_behind_count_at_the_next(
    desk: Desk, slices: list[Path], uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the release of a sender that sends a study in one association: nobody waits for the quiet time."""
    peer = Peer(ae_title="WHOLE", host="127.0.0.1", sends="study")
    desk.settings = replace(desk.settings, dicom=replace(desk.settings.dicom, peer=(peer,)))
    desk.stop()
    desk.start()
    desk.receive(slices, "WHOLE", released=False)
    desk.note("association-released", association="a1")
    for n in range(8):
        desk.note("association-open", association=f"x{n}", calling="CT2", called="NODE", peer="127.0.0.1")
    monkeypatch.setattr(spool_module, "READ_BYTES", 400)
    desk.now += 2.0
    desk.coordinator.tick(desk.now)
    assert rows(desk, "SELECT how FROM association WHERE id = 'a1'") == [("released",)]
    assert desk.study(uid).state == "open"
    while desk.coordinator._indexer.behind:
        desk.coordinator.tick(desk.now)
    assert desk.study(uid).state == "closed"


def test_what_comes_while_journals_are_read_is_not_taken_for_silence(
    desk: Desk, slices: list[Path], uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading many records can take longer than a quiet time."""
    desk.now = time.time() - 100.0
    desk.receive(slices[:-1], released=False)
    tick, advance = unindexed(desk), desk.coordinator._indexer.advance

    def slow() -> int:
        read = advance()
        time.sleep(3.5)
        return read

    monkeypatch.setattr(desk.coordinator._indexer, "advance", slow)
    desk.now = time.time() - 57.0  # quiet_s is 60
    desk.receive(slices[-1:], released=False)
    tick()
    assert desk.study(uid).state == "open"
    tick()
    assert desk.study(uid).state == "closed"


def test_a_part_without_any_record_does_not_end_a_rebuild(
    desk: Desk, slices: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.receive(slices[:1])
    path = desk.journal.path
    assert path is not None
    with path.open("ab") as file:
        file.write(b"x" * 9000 + b"\n")
    desk.receive(slices[1:])
    monkeypatch.setattr(spool_module, "READ_BYTES", 3000)
    document = rebuilt(desk)
    assert document["counts"]["instances"] == len(slices)
    assert rows(desk, "SELECT offset FROM journal") == [(path.stat().st_size,)]


def test_a_journal_that_is_begun_after_the_clock_was_set_back_comes_last(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path
) -> None:
    desk.receive(slices)
    desk.journal.close()
    first = desk.journal.path
    desk.now -= 7200.0
    desk.start_journal()
    desk.receive(changed(slices, tmp_path / "right", renamed))
    desk.journal.close()
    assert journals(desk.folder.path) == [first, desk.journal.path]
    rebuilt(desk)
    assert desk.study(uid).patient_id == "RIGHT-1"


def test_removals_stay_as_long_as_a_journal_that_was_begun_before_them_whatever_its_name(
    desk: Desk, slices: list[Path]
) -> None:
    """The name of a journal that is begun while the clock is behind says a later time than the clock."""
    writer = JournalWriter(desk.spool.journals, lambda: datetime.fromtimestamp(desk.now + 7200.0, UTC))
    writer.append({"kind": "association-open"})
    writer.close()
    assert writer.path is not None
    desk.receive(slices[:1])
    desk.journal.close()
    removals = JournalWriter(desk.spool.journals, lambda: datetime.fromtimestamp(desk.now, UTC), "removed_")
    removals.append({"kind": "removed", "entry": "00/x.dcm", "utc": utc(datetime.fromtimestamp(desk.now, UTC))})
    removals.close()
    writer.path.unlink()
    assert removals.path is not None
    named_later = removals.path.with_name("2001" + removals.path.name[4:])  # begun first, went on being written
    removals.path.rename(named_later)
    os.utime(named_later, (desk.now + 600.0, desk.now + 600.0))
    desk.coordinator.tick(desk.now)
    keeper = Retention(desk.db, desk.folder, desk.settings.storage, desk.spool)
    assert keeper._over(named_later, journals(desk.folder.path)) is None
    os.utime(named_later, (desk.now - 600.0, desk.now - 600.0))
    assert keeper._over(named_later, journals(desk.folder.path)) == []


# what nobody can understand


def poisoned(file: Path, into: Path, tag: tuple[int, int]) -> Path:
    """Write a copy of `file` (explicit VR, little endian) in which a sequence comes as a text."""
    content = file.read_bytes()
    with file.open("rb") as opened:
        at = dataset_offset(opened)
    while True:
        group, element, vr = struct.unpack_from("<HH2s", content, at)
        if (group, element) > tag:
            break
        if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
            at += 12 + struct.unpack_from("<I", content, at + 8)[0]
        else:
            at += 8 + struct.unpack_from("<H", content, at + 6)[0]
    into.write_bytes(content[:at] + struct.pack("<HH2sH", *tag, b"LO", 2) + b"X " + content[at:])
    return into


@pytest.mark.parametrize("tag", [(0x0008, 0x0051), (0x0018, 0xA001), (0x5200, 0x9229), (0x5200, 0x9230)])
def test_a_sequence_that_comes_as_a_text_does_not_stop_the_index(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path, tag: tuple[int, int]
) -> None:
    desk.receive([poisoned(slices[0], tmp_path / "bad.dcm", tag)])
    desk.receive(slices[1:])
    desk.receive(slices[:1])  # and it is compared with the whole one
    assert dict(rows(desk, "SELECT role, count(*) FROM instance GROUP BY role")) == {"image": len(slices)}
    assert desk.alarms(uid) == ({"conflicting-instance"} if tag[0] == 0x5200 else set())


def test_a_header_that_cannot_be_understood_is_kept_as_unreadable_and_told(
    desk: Desk, slices: list[Path], uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = str(dcmread(slices[0]).SOPInstanceUID)
    before = identity.identity_of

    def hostile(header: Any) -> str:
        if header.SOPInstanceUID == first:
            raise AttributeError("as pydicom does with some headers")
        return before(header)

    monkeypatch.setattr(indexer.identity, "identity_of", hostile)
    desk.receive(slices)
    assert rows(desk, "SELECT sop_uid FROM instance WHERE role = 'unreadable'") == [(first,)]
    assert len(rows(desk, "SELECT id FROM instance WHERE role = 'image'")) == len(slices) - 1
    assert desk.alarms(uid) == {"unparsable"}
    assert desk.events(uid, "unreadable")


@pytest.mark.parametrize("kind", ["stored", "notice"])
def test_a_record_that_cannot_be_understood_is_told_if_it_names_a_file(
    desk: Desk, slices: list[Path], kind: str
) -> None:
    desk.note(kind, entry="00/odd.dcm", association=7, sop=["x"], study=None)
    desk.note("association-open")
    desk.receive(slices)
    assert desk.alarms() == {"record-not-understood"}
    assert len(rows(desk, "SELECT id FROM instance")) == len(slices)


def another(dataset: Any) -> None:
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(dataset, keyword, getattr(dataset, keyword) + ".9")


@pytest.mark.parametrize(("codec", "raw"), [("utf_7", b"+2AA-"), ("unicode_escape", b"\\ud800")])
@pytest.mark.parametrize("how", ["live", "rebuild"])
def test_a_character_set_that_is_the_name_of_a_codec_does_not_stop_the_index(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path, codec: str, raw: bytes, how: str
) -> None:
    def odd(dataset: Any) -> None:
        another(dataset)
        dataset.SpecificCharacterSet, dataset.PatientName = codec, "P" * 20

    (file,) = changed(slices[:1], tmp_path, odd)
    file.write_bytes(file.read_bytes().replace(b"P" * 20, raw.ljust(20)))
    desk.receive([file])
    desk.receive(slices)
    if how == "rebuild":
        rebuilt(desk)
    assert desk.study(uid).state == desk.study(uid + ".9").state == "open"
    assert dict(rows(desk, "SELECT role, count(*) FROM instance GROUP BY role")) == {"image": len(slices) + 1}
    assert desk.alarms() == {"charset-unknown"}


def test_a_text_that_the_database_cannot_hold_is_kept_as_far_as_it_can(
    desk: Desk, slices: list[Path], uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = indexer.read_instance

    def odd(path: Path, charset: str | None = None) -> Any:
        instance = read(path, charset)
        instance.header.PatientID = "A\ud800B"
        return instance

    monkeypatch.setattr(indexer, "read_instance", odd)
    desk.receive(slices)
    assert desk.study(uid).patient_id == "A?B"
    assert {json.loads(row[0])["PatientID"] for row in rows(desk, "SELECT identity FROM instance")} == {"A?B"}
    assert desk.alarms() == set()


@pytest.mark.parametrize("odd", [{"bytes": 1 << 70}, {"syntax": ["1.2"]}, {"series": None}])
@pytest.mark.parametrize("how", ["live", "rebuild", "rebuild and merge"])
def test_a_record_that_cannot_be_stored_is_told_and_everything_else_is_indexed(
    desk: Desk, slices: list[Path], tmp_path: Path, odd: dict[str, Any], how: str
) -> None:
    tick = unindexed(desk)
    desk.receive(slices[:4])
    desk.journal.close()
    (path,) = journals(desk.folder.path)
    records, _ = read_journal(path)
    path.unlink()
    desk.start_journal()
    bad = records[2]
    for record in records:
        kept = {k: v for k, v in record.items() if k not in ("seq", "crc", "utc", "kind")}
        desk.note(record["kind"], **{**kept, **(odd if record is bad else {})})
    desk.receive(changed(slices[1:2], tmp_path / "right", renamed))  # of the same UID, in the same part of the journal
    desk.receive(slices[4:])
    if how == "live":
        tick(desk.now)
    elif how == "rebuild":
        rebuilt(desk)
    else:
        merged(desk)
    assert desk.alarms() == {"record-not-understood"}
    assert dict(rows(desk, "SELECT role, count(*) FROM instance GROUP BY role")) == {"image": len(slices)}
    (path,) = [p for p in journals(desk.folder.path) if p.stat().st_size]
    assert rows(desk, "SELECT offset FROM journal") == [(path.stat().st_size,)]
    whose = dict(rows(desk, "SELECT sop_uid, identity FROM instance"))
    assert json.loads(whose[bad["sop"]])["PatientID"] == "RIGHT-1"
    assert rows(desk, "SELECT count(*) FROM version WHERE state <> 'used'") == [(0,)]


def test_what_the_machine_does_not_allow_is_no_fault_of_a_record(desk: Desk, slices: list[Path]) -> None:
    tick = unindexed(desk)
    desk.receive(slices)
    with desk.db.read() as c:
        c.exec_driver_sql("PRAGMA max_page_count = 1")  # a full disk
    with pytest.raises(DatabaseFault, match="full"):
        tick(desk.now)
    with desk.db.read() as c:
        c.exec_driver_sql("PRAGMA max_page_count = 100000")
    assert (desk.alarms(), rows(desk, "SELECT offset FROM journal")) == (set(), [])
    tick(desk.now)
    assert len(rows(desk, "SELECT id FROM instance")) == len(slices)


# what was lost


@pytest.mark.parametrize("how", ["missing", "damaged"])
@pytest.mark.parametrize("carried", [False, True])
def test_what_was_lost_once_is_not_taken_away(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path, how: str, *, carried: bool
) -> None:
    tick = unindexed(desk)
    desk.receive(slices)
    file = min(desk.folder.spool.glob("??/*.dcm"))
    kept = tmp_path / "kept"
    shutil.copy(file, kept)
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(kept.read_bytes()[:-1] + b"\1")
    tick(desk.now)
    assert desk.alarms(uid) == {f"instance-{how}"}
    shutil.copy(kept, file)
    if carried:
        merged(desk)
    Retention(desk.db, desk.folder, desk.settings.storage, desk.spool).tick(desk.now)
    assert file.read_bytes() == kept.read_bytes()
    desk.receive(slices)
    (desk.coordinator.tick if carried else tick)(desk.now)
    assert desk.alarms(uid) == set(), "usable again"
    assert dict(rows(desk, "SELECT role, count(*) FROM instance WHERE removed IS NULL GROUP BY role")) == {
        "image": len(slices)
    }


def test_what_a_record_says_was_taken_away_is_taken_away_although_it_was_lost_before(
    desk: Desk, slices: list[Path]
) -> None:
    tick = unindexed(desk)
    desk.receive(slices[:1])
    (file,) = desk.folder.spool.glob("??/*.dcm")
    content = file.read_bytes()
    file.unlink()
    tick(desk.now)
    assert storage.taken_away(desk.db) == ()
    desk.note("removed", entry=str(file.relative_to(desk.folder.spool)))
    tick(desk.now)
    file.write_bytes(content)
    Retention(desk.db, desk.folder, desk.settings.storage, desk.spool).tick(desk.now)
    assert not file.exists()


def test_a_header_that_nobody_can_read_is_not_quoted_in_the_log(
    desk: Desk, slices: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def quoting(_header: Any) -> str:
        raise ValueError("not a name: SECRET^PATIENT")

    monkeypatch.setattr(identity, "identity_of", quoting)
    desk.receive(slices[:1])
    said = "".join(capsys.readouterr())
    assert "index.odd-header" in said
    assert "SECRET" not in said


@pytest.mark.parametrize("how", ["live", "rebuild"])
def test_of_two_receivers_the_later_ones_journal_may_stand_first(
    desk: Desk, slices: list[Path], tmp_path: Path, how: str
) -> None:
    """A correction that the first receiver took, of what the second had taken: the entries of an instance tell which came last."""
    tick = unindexed(desk)
    desk.note("association-open", association="x", calling="CT2", called="NODE", peer="127.0.0.1")
    first = desk.journal
    desk.now += 1.0
    desk.journal = JournalWriter(
        desk.spool.journals, lambda: datetime.fromtimestamp(desk.now, UTC), node="other-receiver"
    )
    desk.receive(slices)
    desk.journal.close()
    desk.journal = first
    desk.now += 1.0
    desk.receive(changed(slices, tmp_path / "right", renamed))
    assert [r["kind"] for r in read_journal(journals(desk.folder.path)[0])[0]].count("conflict") == len(slices)
    if how == "live":
        tick(desk.now)
    else:
        rebuilt(desk)
    assert [row[0] for row in rows(desk, "SELECT DISTINCT state FROM version WHERE entry LIKE '%-1.dcm'")] == ["used"]
    assert [row[0] for row in rows(desk, "SELECT DISTINCT state FROM version WHERE entry LIKE '%-0.dcm'")] == [
        "corrected"
    ]
