"""Wrong clocks: the node's time jumps by hours while it works. Only wall time jumps; the machine's own seconds go on."""

import shutil
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.more import more
from tests.node.conftest import Rig

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

HOURS = 3600.0


class Wall:
    """What the node takes for the time of day."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("no C compiler: nothing makes the clock jump")
        library, self._file = folder / "wall.so", folder / "ahead"
        source = Path(__file__).parent / "wall.c"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True)
        self._file.write_bytes(struct.pack("d", 0.0))
        self.environment = {"LD_PRELOAD": str(library), "WALL_AHEAD": str(self._file)}

    def set(self, ahead_s: float) -> None:
        with self._file.open("r+b") as file:  # in place: the node has it mapped
            file.write(struct.pack("d", ahead_s))


@pytest.fixture
def wall(tmp_path: Path) -> Wall:
    return Wall(tmp_path)


@pytest.fixture
def patient_rig(make_rig: Callable[..., Rig]) -> Rig:
    """A node with a quiet time that no test waits for."""
    return make_rig(quiet_s=120.0)


def jobs(rig: Rig) -> list[dict[str, Any]]:
    return list(rig.show("1.2.3.1")["jobs"]) if rig.status()["studies"]["closed"] else []


@pytest.mark.parametrize(
    "ahead",
    [-6 * HOURS, *(more(ahead) for ahead in (6 * HOURS, 150.0, -150.0))],
    ids=lambda s: f"{s:+.0f}s",
)
def test_an_open_study_neither_closes_early_nor_sticks(
    patient_rig: Rig, wall: Wall, copies: Callable[..., list[Path]], judge: Callable[..., list[str]], ahead: float
) -> None:
    rig, files = patient_rig, copies(1)
    rig.start(PACS_AI_NODE__WORKER__LEASE_S="60.0", **wall.environment)
    rig.push(files[:6])
    rig.until(lambda: rig.status()["studies"]["open"] == 1, 60.0, "an open study")
    wall.set(ahead)
    after = time.monotonic() + 4.0
    while time.monotonic() < after:
        assert rig.status()["studies"] == {"open": 1, "closed": 0}, rig.words()
        time.sleep(0.2)
    rig.push(files[6:], "WHOLE")  # strong evidence: must count at once
    rig.idle(60.0)
    assert [(j["revision"], j["outcome"], j["attempts"]) for j in jobs(rig)] == [(1, "result", 1)]
    assert judge(rig, files) == []


def test_a_study_closes_by_its_quiet_time_whatever_the_clock_does(
    make_rig: Callable[..., Rig], wall: Wall, copies: Callable[..., list[Path]], judge: Callable[..., list[str]]
) -> None:
    rig, files = make_rig(quiet_s=8.0), copies(1)
    rig.start(PACS_AI_NODE__WORKER__LEASE_S="60.0", **wall.environment)
    rig.push(files)
    begun = time.monotonic()
    for after_s, ahead in ((1.0, 2 * HOURS), (3.0, -3 * HOURS), (5.0, 0.0)):
        rig.until(lambda at=begun + after_s: time.monotonic() > at, 10.0, "the next jump")
        wall.set(ahead)
    rig.idle(120.0)
    assert 8.0 <= time.monotonic() - begun < 120.0, "hours would be a failure, seconds are the machine's business"
    assert [(j["revision"], j["outcome"]) for j in jobs(rig)] == [(1, "result")]
    assert judge(rig, files) == []


@pytest.mark.parametrize("ahead", [6 * HOURS, more(-6 * HOURS)], ids=lambda s: f"{s:+.0f}s")
def test_work_and_deliveries_under_way_go_on(
    make_rig: Callable[..., Rig],
    wall: Wall,
    copies: Callable[..., list[Path]],
    judge: Callable[..., list[str]],
    ahead: float,
) -> None:
    rig, files = make_rig(), copies(1)
    rig.start(PROBE_SECONDS="3", PACS_AI_NODE__WORKER__LEASE_S="60.0", **wall.environment)
    rig.pacs.answer = 0xA700  # the delivery waits for its next attempt
    rig.push(files, "WHOLE")
    rig.until(lambda: [j["state"] for j in jobs(rig)] == ["running"], 60.0, "a running job")
    wall.set(ahead)
    rig.until(
        lambda: rig.show("1.2.3.1")["deliveries"] and rig.show("1.2.3.1")["deliveries"][0]["attempts"] > 0,
        60.0,
        "a first attempt",
    )
    wall.set(0.0)
    rig.pacs.answer = 0
    rig.idle(120.0)
    assert [(j["outcome"], j["attempts"]) for j in jobs(rig)] == [("result", 1)], "the lease was kept"
    assert judge(rig, files) == []
