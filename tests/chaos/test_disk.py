"""Disks: full, read-only, a database that somebody holds, a write-ahead log that is torn or gone."""

import os
import random
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_io.scu import Peer, Timeouts, store
from tests.more import more
from tests.node.conftest import Rig

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


def mount(*arguments: str) -> None:
    """Mount, or skip where that is not allowed."""
    done = subprocess.run(["mount", *arguments], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"mount {' '.join(arguments)}: {done.stderr.decode().strip()}")


@pytest.fixture
def small_disk(rig: Rig) -> Iterator[Rig]:
    """A rig whose data folder is a file system of its own, of 64 MiB."""
    rig.data.path.mkdir()
    mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", str(rig.data.path))
    yield rig
    if rig.process is not None:
        rig.stop()
    subprocess.run(["umount", "-l", str(rig.data.path)], check=True)


def jobs(rig: Rig, number: int = 1) -> list[dict[str, Any]]:
    status = rig.status()["studies"]
    return list(rig.show(f"1.2.3.{number}")["jobs"]) if status["open"] + status["closed"] >= number else []


def attempt(rig: Rig, files: list[Path]) -> set[int | None]:
    """Send once; return the answers."""
    peer = Peer("127.0.0.1", rig.port, "PACSAINODE", "WHOLE")
    return {r.status for r in store(peer, files, Timeouts(5.0, 10.0, 10.0))}


def running(rig: Rig) -> bool:
    return any(j["state"] == "running" for j in jobs(rig))


def test_a_disk_that_fills_up_in_the_middle_of_everything(
    small_disk: Rig, copies: Callable[..., list[Path]], judge: Callable[..., list[str]]
) -> None:
    rig, first, second = small_disk, copies(1), copies(2)
    rig.start(PACS_AI_NODE__STORAGE__MIN_FREE_MB="2", PROBE_SECONDS="2")
    rig.push(first, "WHOLE", within_s=60.0)
    rig.until(lambda: running(rig), 60.0, "a running job")
    ballast = rig.data.path / "ballast"
    with ballast.open("wb", buffering=0) as out:
        try:
            for piece in (1 << 20, 4096, 1):
                while True:
                    try:
                        out.write(bytes(piece))
                    except OSError:
                        break
        finally:
            assert os.statvfs(rig.data.path).f_bavail == 0
    assert 0x0000 not in attempt(rig, second), "acknowledged on a full disk"
    until = time.monotonic() + 4.0  # the job ends in this time, and cannot write
    rig.until(lambda: time.monotonic() > until, 30.0, "a while on a full disk")
    assert 0x0000 not in attempt(rig, second)
    assert rig.results() == []
    ballast.unlink()
    rig.push(second, "WHOLE", within_s=60.0)
    rig.idle(120.0)
    assert [j["outcome"] for n in (1, 2) for j in jobs(rig, n)] == ["result", "result"]
    assert judge(rig, first + second) == []
    assert rig.process is not None
    assert rig.process.poll() is None, "without a restart"


def test_a_folder_that_turns_read_only(
    small_disk: Rig, copies: Callable[..., list[Path]], judge: Callable[..., list[str]]
) -> None:
    rig, first, second = small_disk, copies(1), copies(2)
    place = str(rig.data.path)
    rig.start(PACS_AI_NODE__STORAGE__MIN_FREE_MB="2", PROBE_SECONDS="2")
    rig.push(first, "WHOLE", within_s=60.0)
    rig.until(lambda: running(rig), 60.0, "a running job")
    mount("--bind", place, place)
    try:
        mount("-o", "remount,ro,bind", place)
        assert 0x0000 not in attempt(rig, second), "acknowledged on a read-only disk"
        until = time.monotonic() + 4.0
        rig.until(lambda: time.monotonic() > until, 30.0, "a while on a read-only disk")
    finally:
        subprocess.run(["umount", "-l", place], check=True)
    rig.push(second, "WHOLE", within_s=60.0)
    rig.idle(120.0)
    assert [j["outcome"] for n in (1, 2) for j in jobs(rig, n)] == ["result", "result"]
    assert judge(rig, first + second) == []


def test_a_node_does_not_start_on_a_read_only_folder(small_disk: Rig) -> None:
    mount("-o", "remount,ro", str(small_disk.data.path))
    command = small_disk.command("serve")
    done = subprocess.run(command, capture_output=True, env=small_disk.environment(), timeout=60, check=False)
    assert done.returncode == 2
    assert b"Read-only" in done.stderr


@pytest.mark.long
def test_a_database_that_somebody_holds_for_longer_than_anybody_waits(
    rig: Rig, copies: Callable[..., list[Path]], judge: Callable[..., list[str]]
) -> None:
    first, second = copies(1), copies(2)
    rig.start(PROBE_SECONDS="2")
    rig.push(first, "WHOLE", within_s=60.0)
    rig.until(lambda: running(rig), 60.0, "a running job")
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        other = sqlite3.connect(rig.data.database, isolation_level=None, timeout=30.0)
        other.execute("BEGIN IMMEDIATE")
        held.set()
        over.wait(40.0)
        other.execute("ROLLBACK")
        other.close()

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(40.0)
    begun = time.monotonic()
    rig.push(second, "WHOLE", within_s=30.0)
    assert time.monotonic() - begun < 20.0, "the listener waited for the database"
    holder.join()
    rig.idle(120.0)
    assert [j["outcome"] for n in (1, 2) for j in jobs(rig, n)] == ["result", "result"]
    assert judge(rig, first + second) == []


@pytest.mark.parametrize("loss", ["whole database", *(more(loss) for loss in ("torn", "gone"))])
def test_what_the_database_forgets_is_done_again_and_comes_out_the_same(
    rig: Rig, copies: Callable[..., list[Path]], judge: Callable[..., list[str]], loss: str
) -> None:
    files, more = copies(1), copies(2)
    rig.start()
    rig.push(files, "WHOLE", within_s=60.0)
    rig.idle(60.0)
    rig.push(more, "WHOLE", within_s=60.0)
    rig.kill()
    log = rig.data.path / "node.sqlite3-wal"
    if loss == "torn":
        size = log.stat().st_size
        with log.open("r+b") as file:
            file.seek(size // 3)
            file.write(random.Random(5).randbytes(size // 3))
    else:
        for path in rig.data.path.glob("node.sqlite3*"):
            if loss != "gone" or path == log:
                path.unlink()
    rig.start()
    rig.push(more, "WHOLE", within_s=60.0)
    rig.idle(120.0)
    assert judge(rig, files + more) == []
    assert [j["outcome"] for n in (1, 2) for j in jobs(rig, n)] == ["result", "result"]
