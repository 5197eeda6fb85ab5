"""The clock is set while studies, deliveries and files wait: each wait moves with it, once."""

from pathlib import Path

import pytest

from dicom_io.scp_types import AssociationInfo
from node.coordinator import Coordinator
from node.housekeeping import Housekeeper
from node.store import deliveries
from node.timekeeper import Timekeeper
from tests.node import desk as desks
from tests.node.desk import Desk

pytestmark = pytest.mark.unit

DAY = 86400.0
MORE = """
[[dicom.peer]]
ae_title = "WHOLE"
host = "127.0.0.1"
sends = "study"
[storage]
images_days = 30.0
results_days = 365.0
keep_free_mb = 0
min_free_mb = 0
"""


class SetDesk(Desk):
    """A desk whose clock can be set."""

    ahead = 0.0

    def start(self) -> None:
        super().start()
        with self.db.write() as c:
            c.exec_driver_sql("DELETE FROM meta WHERE key = 'clocks'")  # those of this machine
        self.keep("one")

    def keep(self, run: str) -> None:
        keeper = Timekeeper(self.db, lambda: self.now, lambda: self.now - self.ahead, run)
        self.coordinator = Coordinator(self.db, self.folder, self.settings, self.now - 1.0, timekeeper=keeper)

    def set(self, seconds: float) -> None:
        self.ahead += seconds
        self.now += seconds
        self.coordinator.tick(self.now)

    def restart(self, seconds: float) -> None:
        """The machine is started again, by a clock that is wrong by so much."""
        self.now += seconds
        self.ahead = self.now - 20.0
        self.keep("two")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SetDesk:
    monkeypatch.setattr(desks, "RULES", desks.RULES + MORE)
    return SetDesk(tmp_path / "desk")


@pytest.mark.parametrize("jump_s", [3000.0, -3000.0, 20.0, 6 * 3600.0])
def test_what_is_due_in_a_minute_is_due_in_a_minute(desk: SetDesk, slices: list[Path], uid: str, jump_s: float) -> None:
    desk.receive(slices)
    desk.after(61.0)
    desk.work()
    taken = deliveries.take(desk.db, "pacs", desk.now)
    assert taken is not None
    deliveries.settle(desk.db, taken, desk.now, "waiting", next_attempt=desk.now + 60.0)
    desk.set(jump_s)
    (row,) = deliveries.deliveries(desk.db, uid)
    assert row.next_attempt is not None
    assert row.next_attempt - desk.now == pytest.approx(60.0)


@pytest.mark.parametrize("jump_s", [20.0, -20.0, 150.0])
def test_who_sent_last_still_did(desk: SetDesk, slices: list[Path], uid: str, jump_s: float) -> None:
    """A declared sender has ended, another one was the last: that is no strong evidence, whatever the clock does."""
    names = {"w": "WHOLE", "c": "CT1"}

    def store(file: Path, association: str) -> None:
        desk._store(file, AssociationInfo(association, names[association], "NODE", "127.0.0.1"))

    for association, calling in names.items():
        desk.note("association-open", association=association, calling=calling, called="NODE", peer="127.0.0.1")
    store(slices[0], "c")
    store(slices[1], "w")
    desk.note("association-released", association="w", calling="WHOLE", called="NODE", peer="127.0.0.1")
    desk.now += 15.0
    store(slices[2], "c")
    desk.note("association-released", association="c", calling="CT1", called="NODE", peer="127.0.0.1")
    desk.after(10.0)
    desk.set(jump_s)
    desk.after(1.0)
    assert desk.study(uid).state != "closed"


def test_a_study_that_was_open_when_the_machine_came_back_in_the_past_closes(
    desk: SetDesk, slices: list[Path], uid: str
) -> None:
    desk.receive(slices)
    desk.restart(-30 * DAY)
    assert desk.alarms() == {"clock-behind"}
    desk.after(1.0)
    assert desk.study(uid).state != "closed"
    desk.after(60.0)
    assert desk.study(uid).state == "closed"


def test_a_machine_that_comes_back_far_ahead_loses_no_files(desk: SetDesk, slices: list[Path]) -> None:
    desk.receive(slices)
    desk.finish()
    desk.journal.close()
    desk.restart(10 * 365 * DAY)
    house = Housekeeper(desk.db, desk.folder, desk.settings)
    for _ in range(3):
        house.tidy(desk.now, by_age=desk.coordinator.timekeeper.steady())
    assert len(list(desk.folder.spool.glob("[0-9a-f][0-9a-f]/*.dcm"))) == len(slices)
    assert list(desk.folder.artifacts.rglob("*.dcm"))
    house.close()
