"""The receiver as a process of its own: ready, stopped, killed, orphaned, started again."""

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from config.settings import Dicom, Node, Settings
from dicom_io.door import Door
from dicom_io.scu import Peer, store
from dicom_io.status import Outcome
from node.child import heard
from node.receive import run_receiver
from node.spool import journals, read_journal

pytestmark = pytest.mark.sockets

SPAWN = multiprocessing.get_context("spawn")


class Child:
    """A spawned receiver and what it said."""

    def __init__(self, data_dir: Path, port: int = 0, run: Callable[..., None] = run_receiver) -> None:
        self.data_dir = data_dir
        self.connection, theirs = SPAWN.Pipe()
        settings = Settings(node=Node(data_dir=data_dir), dicom=Dicom(port=port))
        self.process = SPAWN.Process(target=run, args=(settings, theirs))
        self.process.start()
        theirs.close()
        assert self.connection.poll(30), "the receiver said nothing"
        self.said = heard(self.connection)

    def send(self, paths: Sequence[Path]) -> list[Any]:
        return list(store(Peer("127.0.0.1", self.said["port"], "PACSAINODE", "CT1"), paths))

    def instances(self) -> list[dict[str, Any]]:
        return [r for path in journals(self.data_dir) for r in read_journal(path)[0] if "sop" in r]

    def end(self, seconds: float = 10.0) -> int | None:
        self.process.join(seconds)
        return self.process.exitcode


@pytest.fixture
def spawn(tmp_path: Path) -> Callable[..., Any]:
    @contextmanager
    def started(**options: Any) -> Iterator[Child]:
        child = Child(tmp_path / "data", **options)
        try:
            yield child
        finally:
            child.process.kill()
            child.process.join()
            child.connection.close()

    return started


def test_it_says_where_it_listens_and_ends_on_sigterm(
    spawn: Callable[..., Any], write_slice: Callable[..., Path]
) -> None:
    with spawn() as child:
        assert {key: child.said[key] for key in ("event", "host", "ae_titles", "pid")} == {
            "event": "ready",
            "host": "127.0.0.1",
            "ae_titles": ["PACSAINODE"],
            "pid": child.process.pid,
        }
        assert [report.outcome for report in child.send([write_slice()])] == [Outcome.DELIVERED]
        os.kill(child.process.pid, signal.SIGTERM)
        assert child.end(8) == 0


def test_an_idle_association_does_not_delay_the_end(spawn: Callable[..., Any], talk: Callable[..., Any]) -> None:
    with spawn() as child, talk(child.said["port"]):
        begun = time.monotonic()
        os.kill(child.process.pid, signal.SIGTERM)
        assert child.end(8) == 0
        assert time.monotonic() - begun < 8


def run_broken(*arguments: Any) -> None:
    """Be a receiver with a fault that nobody foresaw."""
    Door._hold = None  # type: ignore[assignment, method-assign]
    run_receiver(*arguments)


def test_a_receiver_that_nobody_can_knock_at_any_more_ends_so_that_another_begins(
    spawn: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    with spawn(run=run_broken) as child:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", child.said["port"]), timeout=5) as c:
            c.recv(1)
        assert child.end(8) == 1
    assert "receiver.deaf" in "".join(capfd.readouterr())


def test_it_ends_when_the_other_end_of_its_pipe_is_closed(spawn: Callable[..., Any]) -> None:
    with spawn() as child:
        child.connection.close()
        assert child.end(8) == 0


def test_a_port_in_use_is_said_and_ends_it(spawn: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, spawn(port=taken.getsockname()[1]) as child:
        assert child.said["event"] == "failed"
        assert str(taken.getsockname()[1]) in child.said["error"]
        assert child.end() == 2


def test_it_ends_when_its_parent_is_killed(tmp_path: Path, until: Callable[..., None]) -> None:
    program = textwrap.dedent("""
        import multiprocessing, pathlib, sys, time
        from config.settings import Dicom, Node, Settings
        from node.child import heard
        from node.receive import run_receiver
        if __name__ == "__main__":
            spawn = multiprocessing.get_context("spawn")
            ours, theirs = spawn.Pipe()
            settings = Settings(node=Node(data_dir=pathlib.Path(sys.argv[1])), dicom=Dicom(port=0))
            process = spawn.Process(target=run_receiver, args=(settings, theirs))
            process.start()
            print(heard(ours)["pid"], flush=True)
            time.sleep(600)
    """)
    script = tmp_path / "parent.py"
    script.write_text(program)
    environ = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen([sys.executable, script, tmp_path / "data"], stdout=subprocess.PIPE, env=environ) as parent:
        pid = int(parent.stdout.readline())
        parent.kill()
        until(lambda: not alive(pid), 10)


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("point", ["receive.before_fsync", "receive.after_link", "receive.before_response"])
@pytest.mark.parametrize("nth", [1, 3])
def test_killed_at_a_point_nothing_acknowledged_is_lost_and_nothing_is_stored_twice(
    spawn: Callable[..., Any], write_slice: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, point: str, nth: int
) -> None:
    sources = [write_slice() for _ in range(4)]
    monkeypatch.setenv("PACS_AI_NODE_TESTING", "1")
    monkeypatch.setenv("PACS_AI_NODE_FAILPOINT", f"{point}:{nth}")
    with spawn() as child:
        first = child.send(sources)
        assert child.end() == -signal.SIGKILL
    acknowledged = {report.sop_instance_uid for report in first if report.status == 0}
    assert len(acknowledged) == nth - 1
    assert first[nth - 1].outcome is Outcome.RETRY
    recorded = {record["sop"] for record in child.instances()}
    assert acknowledged <= recorded
    monkeypatch.delenv("PACS_AI_NODE_FAILPOINT")
    with spawn() as child:
        assert [report.status for report in child.send(sources)] == [0] * 4
        entries = {record["sop"]: record["entry"] for record in child.instances()}
        assert {record["kind"] for record in child.instances()} == {"stored"}, "readers take the entry as the key"
        assert len(entries) == 4
        assert sorted(entries.values()) == sorted(
            str(p.relative_to(child.data_dir / "spool")) for p in child.data_dir.glob("spool/??/*.dcm")
        )
        assert not list(child.data_dir.glob("spool/incoming/*/*.part")), "what the dead process was receiving is gone"


def test_transfers_in_flight_end_whole_after_sigterm(
    spawn: Callable[..., Any], write_slice: Callable[..., Path]
) -> None:
    sources = [write_slice(PixelData=bytes(200_000)) for _ in range(40)]
    with spawn() as child:
        reports = []
        for report in store(Peer("127.0.0.1", child.said["port"], "PACSAINODE", "CT1"), sources):
            reports.append(report)
            if len(reports) == 5:
                os.kill(child.process.pid, signal.SIGTERM)
        assert child.end(8) == 0
        acknowledged = {report.sop_instance_uid for report in reports if report.status == 0}
        assert len(acknowledged) >= 5
        assert acknowledged == {record["sop"] for record in child.instances()}
