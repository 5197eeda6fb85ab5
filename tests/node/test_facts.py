"""What is read of files to decide about a study, and when."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from config.settings import Peer
from node import facts
from node.coordinator import Coordinator
from tests.node.desk import Desk

pytestmark = pytest.mark.unit


def declare(desk: Desk, sends: Literal["study"] | None) -> None:
    """Say what the sender of the desk sends."""
    settings = replace(desk.settings, dicom=replace(desk.settings.dicom, peer=(Peer("CT1", "127.0.0.1", sends=sends),)))
    desk.coordinator = Coordinator(desk.db, desk.folder, settings, desk.now - 1.0)


@pytest.mark.parametrize("whole", [True, False])
def test_headers_are_read_for_continuity_only_where_it_decides(
    desk: Desk, slices: list[Path], monkeypatch: pytest.MonkeyPatch, *, whole: bool
) -> None:
    declare(desk, "study" if whole else None)
    read: list[Path] = []
    before = facts.read_instance
    monkeypatch.setattr(facts, "read_instance", lambda path, *more: (read.append(path), before(path, *more))[1])
    desk.receive(slices)
    desk.after(2.0)
    with desk.db.read() as c:
        states = c.exec_driver_sql("SELECT state FROM study").scalars().all()
    assert states == ["closed" if whole else "early"]
    assert (len(read) < len(slices)) == whole


@pytest.mark.parametrize(("refused", "state"), [(0, "closed"), (8, "open")])
def test_a_release_proves_nothing_of_an_association_of_which_something_was_refused(
    desk: Desk, slices: list[Path], refused: int, state: str
) -> None:
    declare(desk, "study")
    desk.receive(slices, released=False)
    who = {"association": "a1", "calling": "CT1", "called": "NODE", "peer": "127.0.0.1"}
    desk.note("association-released", **who, **({"refused": refused} if refused else {}))
    desk.after(2.0)
    with desk.db.read() as c:
        assert c.exec_driver_sql("SELECT state FROM study").scalars().all() == [state]


@pytest.mark.parametrize(("begin", "state"), [(8, "open"), (7, "open"), (0, "closed")])
def test_after_a_broken_association_only_one_that_brings_everything_proves_that_it_was_everything(
    desk: Desk, slices: list[Path], begin: int, state: str
) -> None:
    """The sender may go on behind the image whose answer was lost, and bring that one later still."""
    declare(desk, "study")
    desk.receive(slices[:7], released=False)
    desk.note("association-aborted", association="a1", calling="CT1", called="NODE", peer="127.0.0.1")
    desk.receive(slices[begin:])
    desk.after(0.5)
    with desk.db.read() as c:
        assert c.exec_driver_sql("SELECT state FROM study").scalars().all() == [state]
