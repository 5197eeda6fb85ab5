"""The housekeeper: verdicts are written down, alarms ring and end, and the disk's future is told."""

import json
from pathlib import Path

import pytest

from config.settings import Node, Settings, Storage
from node import housekeeping, watermarks
from node.housekeeping import Forecast, Housekeeper, forecast
from node.installation import DataFolder
from node.store import Database, alarms, open_database, storage
from node.store.rows import Receipts
from node.watermarks import Measured, read_state

pytestmark = pytest.mark.unit

DAY = 86400.0
GB = 1 << 30


@pytest.mark.parametrize(
    ("received", "free", "images_days", "rate", "full"),
    [
        # a week's history of 7 GB: 1 GB a day; 10 GB free but for 1 GB that must stay
        (Receipts(7 * GB, 0.0, 7 * GB), 11 * GB, 0.0, GB, 10.0),
        # an hour's history counts as a day
        (Receipts(2 * GB, 7 * DAY - 3600, 2 * GB), 5 * GB, 0.0, 2 * GB, 2.0),
        # retention: 30 days of 1 GB are 30 GB, of which 25 are there already: 5 more fit
        (Receipts(7 * GB, 0.0, 25 * GB), 11 * GB, 30.0, GB, None),
        # ...and do not fit
        (Receipts(7 * GB, 0.0, 7 * GB), 11 * GB, 30.0, GB, 10.0),
        (Receipts(0, None, 0), 11 * GB, 30.0, 0, None),
        (Receipts(7 * GB, 0.0, 7 * GB), GB // 2, 0.0, GB, 0.0),
    ],
)
def test_the_forecast(received: Receipts, free: int, images_days: float, rate: int, full: float | None) -> None:
    assert forecast(received, 7 * DAY, free, GB, images_days) == Forecast(rate, full)


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    made = DataFolder(tmp_path / "data")
    made.prepare()
    return made


def keeper(folder: DataFolder, **limits: object) -> tuple[Housekeeper, Database, Settings]:
    settings = Settings(node=Node(data_dir=folder.path), storage=Storage(**limits))  # type: ignore[arg-type]
    db = open_database(folder.database)
    return Housekeeper(db, folder, settings), db, settings


def test_the_queue_closes_the_node_and_opens_it_again(folder: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    house, db, settings = keeper(folder, max_waiting=8)
    waiting = 8
    monkeypatch.setattr(storage, "waiting_jobs", lambda _db: waiting)
    house.watch(100.0)
    assert read_state(folder.spool) == {"queue"}
    (alarm,) = alarms.standing(db)
    assert (alarm.code, alarm.subject, alarm.raised) == ("not-accepting", "", 100.0)
    assert "queue" in alarm.reason["text"]["en"]
    said = housekeeping.disk(db, folder, settings, 100.0)
    assert (said["accepting"], said["reason"]["code"]) == (False, "not-accepting")
    waiting = 7
    house.watch(101.0)
    assert read_state(folder.spool) == {"queue"}
    again, _, _ = keeper(folder, max_waiting=8)  # another process, as after a restart
    again.watch(102.0)
    assert read_state(folder.spool) == {"queue"}
    waiting = 6
    again.watch(103.0)
    assert read_state(folder.spool) == frozenset()
    assert alarms.standing(db) == ()
    assert housekeeping.disk(db, folder, settings, 103.0)["accepting"] is True


def test_another_cause_is_another_text(folder: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    house, db, _ = keeper(folder, max_waiting=8, min_free_mb=1)
    measured = Measured(0, None, 0)
    monkeypatch.setattr(watermarks, "room", lambda _folder, _waiting=None: measured)
    house.watch(1.0)
    assert [a.reason["text"]["en"].count("disk") for a in alarms.standing(db)] == [1]
    measured = Measured(0, None, 9)
    house.watch(2.0)
    (alarm,) = alarms.standing(db)
    assert "disk, queue" in alarm.reason["text"]["en"]


def test_a_state_that_cannot_be_written_is_written_once_it_can(
    folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    house, db, _ = keeper(folder, max_waiting=8)
    monkeypatch.setattr(storage, "waiting_jobs", lambda _db: 8)

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(watermarks, "write_state", full)
        with pytest.raises(OSError, match="No space"):
            house.watch(1.0)
    assert alarms.standing(db) == ()
    house.watch(2.0)
    assert read_state(folder.spool) == {"queue"}
    assert len(alarms.standing(db)) == 1


def test_a_disk_that_fills_rings_and_the_alarm_ends(folder: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    house, db, settings = keeper(folder, images_days=0.0)
    received = Receipts(100 * watermarks.room(folder.path).free_bytes, 0.0, 0)  # type: ignore[operator]
    monkeypatch.setattr(storage, "receipts", lambda _db, _since: received)
    house.tidy(100 * DAY)
    (alarm,) = alarms.standing(db)
    assert alarm.code == "disk-fills"
    assert housekeeping.disk(db, folder, settings, 100 * DAY)["full_in_days"] < 14
    received = Receipts(0, None, 0)
    house.tidy(101 * DAY)
    assert alarms.standing(db) == ()


def test_the_disk_of_status_is_json(folder: DataFolder) -> None:
    house, db, settings = keeper(folder)
    house.watch(1.0)
    said = json.loads(json.dumps(housekeeping.disk(db, folder, settings, 1.0)))
    assert set(said) == {"free_bytes", "total_bytes", "accepting", "reason", "bytes_per_day", "full_in_days"}
    assert (said["bytes_per_day"], said["full_in_days"], said["reason"]) == (0, None, None)
