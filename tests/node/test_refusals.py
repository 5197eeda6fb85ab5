"""What was refused is counted, within bounds, over restarts and several processes."""

import json
import os
from pathlib import Path

import pytest

from dicom_io.reason import Reason
from dicom_io.scp_types import AssociationEvent, AssociationInfo
from node.refusals import FOLDER, FORGET_S, ROWS, TITLES, Refusal, Refusals, refusals

pytestmark = pytest.mark.unit

WHY = Reason("peer-not-allowed", "error", {"en": "no"}, {})


def rejected(calling: str, peer: str = "10.0.0.1") -> AssociationEvent:
    return AssociationEvent("rejected", AssociationInfo("1", calling, "NODE", peer), WHY)


def test_callers_are_counted_apart_and_those_without_a_reason_not(tmp_path: Path) -> None:
    times = iter(range(100, 200))
    table = Refusals(tmp_path, "a", lambda: float(next(times)))
    for event in (rejected("CT1"), rejected("CT1"), rejected("CT1", "10.0.0.2"), rejected("CT2")):
        table.add(event)
    table.add(AssociationEvent("opened", AssociationInfo("2", "CT1", "NODE", "10.0.0.1")))
    table.write()
    assert refusals(tmp_path) == [
        Refusal("peer-not-allowed", "CT2", "10.0.0.1", 1, 103.0),
        Refusal("peer-not-allowed", "CT1", "10.0.0.2", 1, 102.0),
        Refusal("peer-not-allowed", "CT1", "10.0.0.1", 2, 101.0),
    ]


def test_a_flood_of_names_is_bounded_and_loses_no_count(tmp_path: Path) -> None:
    table = Refusals(tmp_path, "a")
    for number in range(5 * ROWS):
        table.add(rejected(f"N{number}", f"10.0.{number >> 8}.{number & 255}"))
    table.add(rejected("LAST"))
    table.write()
    rows = refusals(tmp_path)
    assert len(rows) == ROWS
    assert sum(r.count for r in rows) == 5 * ROWS + 1
    assert rows[0].calling == "LAST"
    assert next(tmp_path.glob(f"{FOLDER}/*.json")).stat().st_size < 200 * ROWS


def test_what_a_process_has_counted_outlives_it_for_a_week(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir()
    gone, other = folder / "a-4194305.json", folder / "a-b-4194305.json"  # beyond every number of a process
    gone.write_text(json.dumps([["peer-not-allowed", "CT1", "h", 3, 1000.0], ["peer-not-allowed", "OLD", "h", 3, 1.0]]))
    other.write_text(json.dumps([["peer-not-allowed", "CT1", "h", 4, 900.0]]))
    mine = Refusals(tmp_path, "a", lambda: FORGET_S + 500.0)
    assert not gone.exists()
    assert other.exists(), "of another node"
    assert refusals(tmp_path) == [Refusal("peer-not-allowed", "CT1", "h", 7, 1000.0)]
    assert (folder / f"a-{os.getpid()}.json").exists()
    mine.write()
    other.write_text("{broken")
    assert refusals(tmp_path) == [Refusal("peer-not-allowed", "CT1", "h", 3, 1000.0)]


def test_one_caller_is_told_of_once_a_minute_with_how_often_it_was(tmp_path: Path) -> None:
    clock = [1000.0]
    table = Refusals(tmp_path, "a", lambda: clock[0])
    assert [table.add(rejected("CT1")) for _ in range(5)] == [1, 0, 0, 0, 0]
    assert table.add(rejected("CT2")) == 1, "another caller"
    clock[0] += 60.0
    assert [table.add(rejected("CT1")) for _ in range(2)] == [5, 0], "with those that were not told"
    clock[0] -= 500.0
    assert table.add(rejected("CT1")) == 2, "a clock that was set back silences nobody"
    assert table.add(AssociationEvent("opened", AssociationInfo("2", "CT1", "NODE", "10.0.0.1"))) == 1


def test_one_address_with_many_titles_is_one_caller_and_one_line(tmp_path: Path) -> None:
    table = Refusals(tmp_path, "a", lambda: 1000.0)
    lines = [table.add(rejected(f"N{number}")) for number in range(1000)]
    assert sum(times > 0 for times in lines) == TITLES + 1
    assert table.add(rejected("N3", "10.0.0.2")) == 1, "another address"
    table.write()
    counted = {(r.calling, r.peer): r.count for r in refusals(tmp_path)}
    assert counted["", "10.0.0.1"] == 1000 - TITLES
    assert len(counted) == TITLES + 2
