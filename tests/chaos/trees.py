"""Several `serve` trees on one data folder and one PostgreSQL, as on machines that share both."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dicom_io.scu import Peer, Timeouts, store
from node import show
from node.installation import DataFolder
from node.store import Database

REPOSITORY = Path(__file__).parents[2]
_TIMEOUTS = Timeouts(connect_s=3.0, associate_s=5.0, answer_s=20.0)
_CONFIGURATION = """\
[node]
data_dir = {data}
name = "{name}"
silent_s = {silent_s}
[dicom]
port = 0
[study]
settle_s = 0.2
quiet_s = {quiet_s}
pace = "fixed"
boot_grace_s = 1.0
[worker]
slots = {slots}
lease_s = 8.0
[database]
url = "{url}"
[[destination]]
name = "pacs"
host = "127.0.0.1"
port = {pacs}
ae_title = "PACS"
check_study = false
[[rule]]
name = "CT"
when = {{ Modality = "CT" }}
run = ["chest_ct"]
send_to = ["pacs"]
"""


class Tree:
    """One node, `slots` workers; its folder of data, database and PACS are those of the others."""

    def __init__(
        self,
        folder: Path,
        name: str,
        url: str,
        pacs: int,
        *,
        slots: int = 1,
        quiet_s: float = 4.0,
        silent_s: float = 5.0,
    ) -> None:
        self.name, self.log, self.port = name, folder / f"{name}.log", 0
        self.configuration = folder / f"{name}.toml"
        self.configuration.write_text(
            _CONFIGURATION.format(
                data=json.dumps(str(folder / "data")),
                name=name,
                url=url,
                pacs=pacs,
                slots=slots,
                quiet_s=quiet_s,
                silent_s=silent_s,
            )
        )
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, *arguments: str) -> list[str]:
        program = str(REPOSITORY / "tests" / "node" / "probe_node.py")
        return [sys.executable, program, *arguments, "--config", str(self.configuration)]

    def environment(self, **more: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PACS_AI_NODE")}
        return {**kept, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **more}

    def start(self, **environment: str) -> None:
        """Start it; `ready` says when it listens."""
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command("serve"), stdout=out, stderr=out, env=self.environment(**environment), cwd=self.log.parent
            )

    def ready(self) -> bool:
        for line in self.log.read_bytes().splitlines():
            if line.startswith(b'{"event": "ready"'):
                self.port = json.loads(line)["port"]
        return bool(self.port)

    def kill(self) -> None:
        """Take the whole tree away without notice."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="ascii")
        for pid in [self.process.pid, *map(int, children.split())]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10.0)

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(20.0)

    def words(self) -> str:
        return f"--- {self.name}\n" + self.log.read_text(encoding="utf-8", errors="replace")[-4000:]


def push(files: Sequence[Path], trees: Sequence[Tree], calling: str = "SCANNER") -> None:
    """Send until everything is acknowledged, to the first tree as long as it answers, as a balancer would have it."""
    left, turn = list(files), 0
    while left:
        peer = Peer("127.0.0.1", trees[turn % len(trees)].port, "PACSAINODE", calling)
        taken = {report.path for report in store(peer, left, _TIMEOUTS) if report.status == 0}
        left = [file for file in left if file not in taken]
        turn += not taken
        if not taken:
            time.sleep(0.2)


def status(db: Database, folder: Path) -> dict[str, Any]:
    return show.status(db, DataFolder(folder / "data"), "test")


def until(done: Callable[[], bool], within_s: float, what: Callable[[], str]) -> None:
    deadline = time.monotonic() + within_s
    while not done():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s} s: {what()}")
        time.sleep(0.1)
