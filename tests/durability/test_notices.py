"""Procedure steps, traced: each was on disk and in the journal before its answer, as images are."""

from pathlib import Path

import pytest

from tests.durability.order import received
from tests.durability.test_received import traced
from tests.durability.trace import parse
from tests.node.notice_peers import Scanner, ended

pytestmark = [pytest.mark.sockets, pytest.mark.xdist_group("durability")]


def test_every_acknowledged_step_was_durable_before_its_answer(tmp_path: Path) -> None:
    def push(port: int) -> None:
        with Scanner(port, "CT1") as first, Scanner(port, "CT2") as second:
            assert first.create("2.25.70") == 0
            assert second.create("2.25.71") == 0
            assert first.create("2.25.71") == 0x0111, "no acknowledgement"
            assert first.set("2.25.70", ended("2.25.6")) == 0
            assert second.set("2.25.71", ended(status="DISCONTINUED")) == 0

    trace = traced(tmp_path, ["real"], push)["real"]
    acknowledged, faults = received(parse(trace), tmp_path / "real")
    assert faults == []
    assert acknowledged == ["2.25.70", "2.25.71", "2.25.70", "2.25.71"]
