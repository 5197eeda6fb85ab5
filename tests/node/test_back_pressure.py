"""A node that cannot take more says so to senders and to people, waits for what it refused, and goes on by itself."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from dicom_io.scu import Peer, store
from tests.node.conftest import Rig
from tests.node.desk import changed

pytestmark = pytest.mark.sockets

SHIM = Path(__file__).parent.parent / "durability" / "badfs.c"
MB = 1 << 20


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    return make_rig(quiet_s=8.0)


@pytest.fixture
def free(rig: Rig, tmp_path: Path) -> tuple[Callable[[int | None], None], dict[str, str]]:
    """Say to the node how many bytes are free; None: the truth."""
    library, control = tmp_path / "badfs.so", tmp_path / "faults"
    subprocess.run([shutil.which("cc") or "gcc", "-shared", "-fPIC", "-o", library, SHIM, "-ldl"], check=True)

    def say(count: int | None) -> None:
        part = tmp_path / "part"
        part.write_text("" if count is None else f"statvfs {rig.data.path} {count} {1 << 30}\n", encoding="utf-8")
        part.replace(control)

    say(None)
    return say, {"LD_PRELOAD": str(library), "BADFS": str(control)}


def answers(rig: Rig, files: list[Path], calling: str = "SCANNER") -> set[int | None]:
    return {r.status for r in store(Peer("127.0.0.1", rig.port, "PACSAINODE", calling), files)}


def standing(rig: Rig) -> list[str]:
    return [a["code"] for a in rig.status()["alarms"]]


def test_too_little_space_is_answered_told_and_waited_for(
    rig: Rig, ct: list[Path], free: tuple[Callable[[int | None], None], dict[str, str]]
) -> None:
    say, environment = free
    rig.start(PACS_AI_NODE__STORAGE__MIN_FREE_MB="100", **environment)
    assert answers(rig, ct[20:30]) == {0x0000}
    say(99 * MB)
    uid = str(dcmread(ct[0]).StudyInstanceUID)
    assert answers(rig, ct[30:44]) == {0xA700}
    rig.until(lambda: standing(rig) == ["not-accepting"], 20.0, "the alarm")
    over = time.monotonic() + 10.0  # more than the quiet time
    rig.until(lambda: time.monotonic() > over, 30.0, "the quiet time")
    assert rig.show(uid)["state"] == "open", "a study of which images were refused is not complete"
    say(124 * MB)
    assert answers(rig, ct[30:44]) == {0xA700}, "not before a quarter beyond"
    say(125 * MB)
    assert answers(rig, ct[30:44]) == {0x0000}
    rig.idle()
    assert standing(rig) == []
    shown = rig.show(uid)
    assert (shown["revision"], shown["instances"]) == (1, 24)
    assert [j["outcome"] for j in shown["jobs"]] == ["result"]
    told = rig.log.read_text(encoding="utf-8")
    assert told.count("receive.not-accepting") == 1
    assert told.count("receive.cannot-store") == 0


def test_too_long_a_queue_keeps_new_studies_out_and_lets_begun_ones_in(
    rig: Rig, ct: list[Path], tmp_path: Path
) -> None:
    def study(number: int) -> list[Path]:
        def other(dataset: Any) -> None:
            dataset.StudyInstanceUID = f"1.2.3.{number}"
            dataset.SeriesInstanceUID = f"1.2.3.{number}.1"
            dataset.SOPInstanceUID = f"1.2.3.{number}.1.{dataset.InstanceNumber}"

        return changed(ct[20:26], tmp_path / str(number), other)

    first, second, third = (study(n) for n in (1, 2, 3))
    rig.start(PACS_AI_NODE__STORAGE__MAX_WAITING="1")
    rig.until(lambda: any(p["role"] == "worker" for p in rig.status()["processes"]), 30.0, "a worker")
    (worker,) = (p["pid"] for p in rig.status()["processes"] if p["role"] == "worker")
    os.kill(worker, signal.SIGSTOP)
    try:
        assert answers(rig, second[:1]) == {0x0000}
        assert answers(rig, first, "WHOLE") == {0x0000}
        rig.until(lambda: standing(rig) == ["not-accepting"], 60.0, "the alarm")
        assert rig.status()["disk"]["accepting"] is False
        assert answers(rig, third) == {0xA700}
        assert answers(rig, second[1:]) == {0x0000}, "the rest of what has begun"
    finally:
        os.kill(worker, signal.SIGCONT)
    rig.push(third, "WHOLE", within_s=60.0)
    rig.idle(90.0)
    rig.until(lambda: standing(rig) == [], 20.0, "the end of the alarm")
    assert {rig.show(f"1.2.3.{n}")["jobs"][-1]["outcome"] for n in (1, 2, 3)} == {"result"}
