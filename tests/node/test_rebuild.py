"""``doctor --rebuild-index``: damaged journals, lost files, lost databases."""

import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid

from node.cli.doctor import command
from node.rebuild import Rebuild
from node.spool import Spool, journals
from node.store import Database, corrections, deliveries, jobs, open_database, place_of
from tests.node.desk import Desk, changed
from tests.node.test_journey import valid
from tests.stores import STORES

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("back_end")]


def rebuilt(desk: Desk) -> dict[str, Any]:
    """Stop the node, rebuild its index, and start it again."""
    desk.stop()
    desk.now += 60.0
    now = datetime.fromtimestamp(desk.now, UTC)
    document = Rebuild(desk.settings, desk.folder, "test", lambda: now, lambda _line: None).run()
    valid(document)
    assert sorted(p.name for p in desk.folder.path.glob("rebuild-*")) == []
    desk.start()
    return document


def known(db: Database) -> set[tuple[Any, ...]]:
    """Return what the index knows of instances, whatever their numbers."""
    with db.read() as c:
        return {tuple(row) for row in c.exec_driver_sql(
            "SELECT i.sop_uid, i.study_uid, i.series_uid, i.digest, i.entry, i.role, i.modality, i.identity, i.removed IS NULL, "
            "v.state FROM instance i JOIN version v ON v.sop_uid = i.sop_uid AND v.digest = i.digest"
        )}  # fmt: skip


def journal(desk: Desk) -> Path:
    desk.journal.close()
    (found,) = [p for p in journals(desk.folder.path) if p.stat().st_size]
    return found


def bytes_of(desk: Desk, uid: str) -> dict[str, bytes]:
    stored = [a for j in desk.jobs(uid) for a in jobs.artifacts(desk.db, j)]
    return {a.sop_uid: (desk.folder.path / a.path).read_bytes() for a in stored}


def test_nothing_is_computed_or_sent_again_if_the_old_database_can_be_read(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path
) -> None:
    desk.receive(slices)
    desk.finish()
    desk.receive(changed(slices, tmp_path / "right", lambda ds: setattr(ds, "AccessionNumber", "RIGHT")))
    desk.finish()
    before = (known(desk.db), desk.jobs(uid), deliveries.deliveries(desk.db, uid), desk.show(uid)["timeline"])
    study, standing = desk.study(uid), desk.alarms()
    document = rebuilt(desk)
    assert document["old_database"]["carried_over"]
    assert STORES.has(desk.folder.path, document["old_database"]["kept_as"])
    lists = ("recovered", "unrecognised", "missing", "damaged", "reopened")
    assert [document[k] for k in lists] == [[]] * 5
    desk.finish()
    after = (known(desk.db), desk.jobs(uid), deliveries.deliveries(desk.db, uid), desk.show(uid)["timeline"])
    assert after[0] == before[0]
    assert [(j.id, j.state, j.outcome, j.input_digest) for j in after[1]] == [
        (j.id, j.state, j.outcome, j.input_digest) for j in before[1]
    ]
    assert after[2:] == before[2:]
    again = desk.study(uid)
    assert (again.state, again.revision, again.corrected, again.identity_since, again.accession) == (
        study.state, study.revision, study.corrected, study.identity_since, study.accession,
    )  # fmt: skip
    assert desk.alarms() == standing
    # and it goes on from there: the same is no news, a late image is
    desk.receive(slices)
    desk.finish()
    assert len(desk.jobs(uid)) == len(before[1])
    desk.receive(changed(slices[:1], tmp_path / "late", lambda ds: setattr(ds, "SOPInstanceUID", generate_uid())))
    desk.finish()
    assert desk.study(uid).revision == 3
    assert len(desk.jobs(uid)) == len(before[1]) + 1


@pytest.mark.parametrize("how", ["gone", "garbage", "damaged", "other-version"])
def test_without_the_old_database_the_same_objects_leave_again(
    desk: Desk, slices: list[Path], uid: str, how: str
) -> None:
    desk.receive(slices)
    desk.finish()
    before, bytes_before = known(desk.db), bytes_of(desk, uid)
    assert bytes_before
    desk.stop()
    STORES.spoil(desk.folder.path, how)
    desk.start_journal()
    document = rebuilt(desk)
    assert not document["old_database"]["carried_over"]
    assert (document["old_database"]["kept_as"] is None) == (how == "gone")
    assert known(desk.db) == before
    desk.finish()
    assert desk.sends(uid) == ["delivered"]
    assert bytes_of(desk, uid) == bytes_before


def test_a_lost_journal_is_written_anew(desk: Desk, slices: list[Path], uid: str, tmp_path: Path) -> None:
    desk.receive(slices)
    desk.finish()
    desk.receive(changed(slices[:4], tmp_path / "right", lambda ds: setattr(ds, "PatientID", "RIGHT")))
    before = known(desk.db)
    journal(desk).unlink()
    desk.start_journal()
    document = rebuilt(desk)
    assert len(document["recovered"]) == len(slices) + 4
    assert known(desk.db) == before
    assert desk.study(uid).patient_id == "RIGHT"
    again = rebuilt(desk)
    assert again["recovered"] == []
    assert known(desk.db) == before


@pytest.mark.parametrize("lost", ["first", "second"])
def test_what_came_first_stays_first_whichever_record_is_lost(
    desk: Desk, slices: list[Path], tmp_path: Path, lost: str
) -> None:
    def white(dataset: FileDataset) -> None:
        dataset.PixelData = bytes(len(dataset.PixelData))

    desk.receive(slices[:2])
    desk.receive(changed(slices[:2], tmp_path / "white", white))
    before = known(desk.db)
    assert {row[4][-5] for row in before} == {"0"}
    path = journal(desk)
    end = b'-0.dcm"' if lost == "first" else b'-1.dcm"'
    path.write_bytes(b"".join(line for line in path.read_bytes().splitlines(keepends=True) if end not in line))
    desk.db.close()
    STORES.lose(desk.folder.path)
    desk.start_journal()
    document = rebuilt(desk)
    assert len(document["recovered"]) == 2
    assert known(desk.db) == before


def torn(content: bytes) -> bytes:
    return content[:-700]


def garbage(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + b"\x00\xff\n\xfe{}[]\n" * 20 + content[middle + 700 :]


def nul_tail(content: bytes) -> bytes:
    return content[:-1200] + bytes(4096)


def nul_middle(content: bytes) -> bytes:
    return content[:3000] + bytes(8192) + content[8000:]


def cut_in_utf8(content: bytes) -> bytes:
    end = content.index("钱".encode(), len(content) // 2)
    return content[: end + 1]


def doubled(content: bytes) -> bytes:
    return content + content


def one_digit(content: bytes) -> bytes:
    """Change one digit of one digest: still a record, but of another object."""
    at = content.index(b'"digest": "') + 11
    return content[:at] + (b"0" if content[at : at + 1] != b"0" else b"1") + content[at + 1 :]


@pytest.mark.parametrize("back_end", ["sqlite"], indirect=True)  # about journals
@pytest.mark.parametrize("damage", [torn, garbage, nul_tail, nul_middle, cut_in_utf8, doubled, one_digit])
def test_a_damaged_journal_loses_nothing(
    desk: Desk, slices: list[Path], uid: str, damage: Callable[[bytes], bytes]
) -> None:
    desk.receive(slices, "钱-SCANNER")
    before = known(desk.db)
    path = journal(desk)
    path.write_bytes(damage(path.read_bytes()))
    desk.db.close()
    STORES.lose(desk.folder.path)
    desk.start_journal()
    document = rebuilt(desk)
    assert known(desk.db) == before
    assert (document["missing"], document["damaged"], document["unrecognised"]) == ([], [], [])
    assert bool(document["recovered"]) == (damage is not doubled)
    desk.finish()
    assert [j.outcome for j in desk.jobs(uid)] == ["result"]


def test_a_missing_and_a_damaged_file_are_told_and_never_used_until_they_come_again(
    desk: Desk, slices: list[Path], uid: str
) -> None:
    desk.receive(slices)
    desk.finish()
    entries = sorted(row[4] for row in known(desk.db))
    (desk.folder.spool / entries[0]).unlink()
    content = bytearray((desk.folder.spool / entries[1]).read_bytes())
    content[-9] ^= 1
    (desk.folder.spool / entries[1]).write_bytes(content)
    document = rebuilt(desk)
    assert (document["missing"], document["damaged"]) == (entries[:1], entries[1:2])
    assert [p.name[17:] for p in (desk.folder.quarantine / "damaged").iterdir()] == [Path(entries[1]).name]
    assert {row[4] for row in known(desk.db) if not row[8]} == set(entries[:2])
    assert desk.alarms(uid) == {"instance-missing", "instance-damaged"}
    desk.finish()
    assert len(desk.jobs(uid)) == 1, "what was finished stays finished"
    desk.receive(slices)
    desk.finish()
    assert desk.alarms(uid) == set()
    assert {row[4] for row in known(desk.db) if row[8]} == set(entries)
    assert (len(desk.jobs(uid)), desk.sends(uid)) == (1, ["delivered"])


def test_a_study_with_a_lost_file_is_not_worked_in_silence(desk: Desk, slices: list[Path], uid: str) -> None:
    desk.receive(slices)
    desk.after(4000.0)
    (desk.folder.spool / min(row[4] for row in known(desk.db))).unlink()
    rebuilt(desk)
    desk.finish()
    (job,) = desk.jobs(uid)
    assert job.outcome == "failed"
    assert desk.sends(uid) == []
    desk.receive(slices)
    desk.finish()
    assert [j.outcome for j in desk.jobs(uid)] == ["failed", "result"]
    assert desk.sends(uid) == ["delivered"]
    assert desk.alarms(uid) == set()


def test_what_retention_removed_stays_removed_and_known(desk: Desk, slices: list[Path], uid: str) -> None:
    desk.receive(slices)
    desk.finish()
    for entry in sorted(row[4] for row in known(desk.db)):
        desk.remove(entry)
    desk.after(1.0)
    before = known(desk.db)
    document = rebuilt(desk)
    assert document["missing"] == []
    assert known(desk.db) == before
    journal(desk).unlink()  # retention takes a journal too when everything in it has gone
    desk.start_journal()
    assert rebuilt(desk)["missing"] == []
    assert known(desk.db) == before
    desk.receive(slices)
    desk.finish()
    assert (len(desk.jobs(uid)), desk.sends(uid), desk.alarms()) == (1, ["delivered"], set())


@pytest.mark.parametrize("carried", [False, True])
def test_what_came_again_after_its_removal_and_was_lost_is_told(
    desk: Desk, slices: list[Path], uid: str, *, carried: bool
) -> None:
    desk.receive(slices)
    desk.finish()
    entries = sorted(str(p.relative_to(desk.folder.spool)) for p in desk.folder.spool.glob("??/*.dcm"))
    desk.now += 10.0
    for entry in entries:
        desk.remove(entry)
    desk.now += 10.0
    desk.start_journal()  # another process, whose journal is read after that of the removals
    desk.spool = Spool(desk.folder.path)
    assert set(desk.receive(slices)) == {"stored"}
    desk.now += 10.0
    desk.remove(entries[1])
    (desk.folder.spool / entries[0]).unlink()
    desk.stop()
    if not carried:
        STORES.lose(desk.folder.path)
    desk.start()
    document = rebuilt(desk)
    assert (document["missing"], document["damaged"]) == ([entries[0]], [])
    assert desk.alarms(uid) == {"instance-missing"}


def test_another_object_in_the_place_of_one_that_was_removed_is_not_called_damaged(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path
) -> None:
    desk.receive(slices)
    desk.finish()
    entries = sorted(str(p.relative_to(desk.folder.spool)) for p in desk.folder.spool.glob("??/*.dcm"))
    desk.now += 10.0
    for entry in entries:
        desk.remove(entry)
    desk.now += 10.0
    desk.receive(changed(slices, tmp_path / "right", lambda ds: setattr(ds, "PatientName", "RIGHT^NAME")))
    assert sorted(str(p.relative_to(desk.folder.spool)) for p in desk.folder.spool.glob("??/*.dcm")) == entries
    document = rebuilt(desk)
    assert (document["missing"], document["damaged"]) == ([], [])
    assert all((desk.folder.spool / entry).is_file() for entry in entries)
    assert not {"instance-missing", "instance-damaged"} & desk.alarms(uid)


def test_strange_files_are_left_alone(desk: Desk, slices: list[Path]) -> None:
    desk.receive(slices[:3])
    before = known(desk.db)
    made = []
    for name, content in (
        ("README.txt", b"hello"),
        (f"{'0' * 64}-0.dcm", slices[5].read_bytes()),
        (f"{'1' * 64}-0.dcm", b""),
    ):
        (desk.folder.spool / "00" / name).write_bytes(content)
        made.append(f"00/{name}")
    document = rebuilt(desk)
    assert sorted(document["unrecognised"]) == sorted(made)
    assert all((desk.folder.spool / entry).exists() for entry in made)
    assert known(desk.db) == before


def test_an_interrupted_rebuild_leaves_the_old_database(
    desk: Desk, slices: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.receive(slices)
    desk.finish()
    before = known(desk.db)
    desk.stop()

    def broken(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Rebuild, "_index", broken)
        with pytest.raises(OSError, match="No space"):
            Rebuild(desk.settings, desk.folder, "test", lambda: datetime.now(UTC), lambda _line: None).run()
    desk.start()
    assert known(desk.db) == before
    rebuilt(desk)
    assert known(desk.db) == before


@pytest.fixture
def received(slices: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Desk, bytes, set[tuple[Any, ...]]]:
    """A data folder with six images, one of them corrected, and what its journal and index hold."""
    folder = tmp_path_factory.mktemp("received")
    desk = Desk(folder / "desk")
    desk.receive(slices[:6], "钱-SCANNER")
    desk.receive(changed(slices[:1], folder / "right", lambda ds: setattr(ds, "AccessionNumber", "RIGHT")))
    before = known(desk.db)
    content = journal(desk).read_bytes()
    desk.stop()
    return desk, content, before


@pytest.mark.parametrize("back_end", ["sqlite"], indirect=True)  # about journals
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_happens_to_a_journal_no_instance_is_lost_or_invented(
    received: tuple[Desk, bytes, set[tuple[Any, ...]]], data: st.DataObject
) -> None:
    desk, content, before = received
    begin = data.draw(st.integers(0, len(content)), "begin")
    length = data.draw(st.integers(0, 2000), "length")
    instead = data.draw(st.one_of(st.just(b""), st.binary(max_size=64), st.just(bytes(length))), "instead")
    rest = b"" if data.draw(st.booleans(), "cut") else content[begin + length :]
    folder = desk.folder.spool / "journal"
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "20260102T030405000000Z-77.jsonl").write_bytes(content[:begin] + instead + rest)
    STORES.lose(desk.folder.path)
    now = datetime(2026, 1, 3, tzinfo=UTC)
    document = Rebuild(desk.settings, desk.folder, "test", lambda: now, lambda _line: None).run()
    assert (document["missing"], document["damaged"], document["unrecognised"]) == ([], [], [])
    db = open_database(place_of(desk.settings))
    found, kept = known(db), corrections.versions(db, [row[0] for row in before])
    db.close()
    assert found == before
    assert sum(len(v) for v in kept.values()) == 7


def test_a_running_node_is_left_alone(desk: Desk, slices: list[Path]) -> None:
    desk.receive(slices[:2])
    before = known(desk.db)
    desk.stop()
    arguments = ["--rebuild-index", "--json", "--config", str(desk.configuration)]
    held = desk.folder.lock()
    refused = CliRunner().invoke(command, arguments, standalone_mode=True)
    assert refused.exit_code == 2
    assert "another node" in refused.output
    os.close(held)
    done = CliRunner().invoke(command, arguments, standalone_mode=False)
    assert done.return_value == 0
    valid(json.loads(done.stdout))
    desk.start()
    assert known(desk.db) == before
