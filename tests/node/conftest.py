"""A node with a quick pipeline, a small PACS and a phantom: real processes, real sockets."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset

import phantom
from dicom_io.scu import Peer, store
from node import show
from node.installation import DataFolder
from node.loopback_pacs import LoopbackPacs, Received
from node.store import Place, open_database, studies
from phantom.radiograph import Exposure, expose, write
from tests.node.desk import Desk, changed, small_ct

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent

CONFIGURATION = """\
[node]
data_dir = {data_dir}
[dicom]
port = 0
receivers = {receivers}
ae_titles = ["PACSAINODE", "SECOND"]
[[dicom.peer]]
ae_title = "WHOLE"
host = "127.0.0.1"
sends = "study"
[[dicom.peer]]
ae_title = "ORTHANC"
host = "127.0.0.1"
sends = "study"
[[dicom.peer]]
ae_title = "SCANNER"
host = "127.0.0.1"
[study]
settle_s = 0.2
quiet_s = {quiet_s}
pace = "{pace}"
boot_grace_s = 1.0
[worker]
lease_s = 20.0
[[destination]]
name = "pacs"
host = "127.0.0.1"
port = {port}
ae_title = "{pacs}"
check_study = {check_study}
[[rule]]
name = "CT"
when = {{ Modality = "CT" }}
run = ["chest_ct"]
send_to = ["pacs"]
"""


RADIOGRAPHS = """
[[rule]]
name = "radiographs"
when = { Modality = ["CR", "DX"] }
run = ["cxr_quality"]
send_to = ["pacs"]
"""


class Rig:
    """One node and one PACS; the node can be killed and started again on its data."""

    def __init__(
        self,
        folder: Path,
        pacs: LoopbackPacs,
        *,
        quiet_s: float = 2.0,
        pace: str = "fixed",
        check_study: bool = False,
        elsewhere: tuple[str, int] | None = None,
        database: str | None = None,
        receivers: int = 1,
        rules: str = "",
    ) -> None:
        self.folder, self.pacs = folder, pacs
        self.data = DataFolder(folder / "data")
        self.database: Place = database or self.data.database
        self.configuration = folder / "node.toml"
        text = CONFIGURATION.format(
            data_dir=json.dumps(str(self.data.path)),
            receivers=receivers,
            quiet_s=quiet_s,
            pace=pace,
            port=elsewhere[1] if elsewhere else pacs.port,
            pacs=elsewhere[0] if elsewhere else pacs.ae_title,
            check_study=str(check_study).lower(),
        )
        self.configuration.write_text(text + rules, encoding="utf-8")
        self.log = folder / "node.log"
        self.program = [str(HERE / "probe_node.py")]
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, *self.program, *arguments, "--config", str(self.configuration)]

    def environment(self, **more: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PACS_AI_NODE")}
        if isinstance(self.database, str):
            kept["PACS_AI_NODE__DATABASE__URL"] = self.database
        return {**kept, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **more}

    def start(self, **environment: str) -> dict[str, Any]:
        begin = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command("serve"), stdout=out, stderr=out, env=self.environment(**environment), cwd=self.folder
            )
        ready: dict[str, Any] = {}

        def listening() -> bool:
            for line in self.log.read_bytes()[begin:].splitlines():
                if line.startswith(b'{"event": "ready"'):
                    ready.update(json.loads(line))
            return bool(ready)

        self.until(listening, 60.0, "the ready line")
        self.port = ready["port"]
        return ready

    def kill(self) -> None:
        """Take away the whole tree without notice, as a power cut does."""
        assert self.process is not None
        pids = [p["pid"] for p in self.status()["processes"]]
        for pid in [self.process.pid, *pids]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(10.0)
        self.process = None

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(15.0)
        self.process = None
        return code

    def push(
        self, files: Sequence[Path], calling: str = "SCANNER", called: str = "PACSAINODE", within_s: float = 30.0
    ) -> None:
        """Send until everything was acknowledged, as a modality does."""
        left = list(files)
        deadline = time.monotonic() + within_s
        while left:
            reports = list(store(Peer("127.0.0.1", self.port, called, calling), left))
            left = [r.path for r in reports if r.status != 0]
            assert time.monotonic() < deadline, f"{len(left)} files were not acknowledged: {self.words()}"

    def status(self) -> dict[str, Any]:
        db = open_database(self.database)
        try:
            return show.status(db, self.data, "test")
        finally:
            db.close()

    def show(self, uid: str) -> dict[str, Any]:
        db = open_database(self.database)
        try:
            study = studies.study(db, uid)
            assert study is not None, f"no study: {self.words()}"
            return show.show(db, study, "test")
        finally:
            db.close()

    def until(self, done: Callable[[], bool], within_s: float, what: str) -> None:
        """Wait for a condition; a machine that is busy with other things gets three times as long."""
        deadline = time.monotonic() + 3 * within_s
        while not done():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {within_s} s: {what}\n{self.words()}")
            time.sleep(0.1)

    def idle(self, within_s: float = 40.0) -> None:
        """Wait until everything that was acknowledged has come to an end."""
        self.until(lambda: bool(self.status()["idle"]), within_s, "idle")

    def words(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-6000:]

    def results(self, sources: Sequence[str] = ()) -> list[Received]:
        return [r for r in self.pacs.received if r.sop_instance_uid not in set(sources)]


@pytest.fixture(scope="session")
def ct(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of a small chest CT, in order of position."""
    folder = tmp_path_factory.mktemp("phantom")
    phantom.write(phantom.build(7, matrix=64, slices=64), folder)
    return sorted((folder / "dicom").glob("*.dcm"))


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Make a rig that is taken down after the test."""
    made: list[Rig] = []

    def make(**more: Any) -> Rig:
        folder = tmp_path / f"rig{len(made)}"
        (folder / "pacs").mkdir(parents=True)
        made.append(Rig(folder, LoopbackPacs(folder / "pacs", "PACS"), **more))
        return made[-1]

    yield make
    for rig in made:
        if rig.process is not None and rig.process.poll() is None:
            rig.process.kill()
            rig.process.wait(10.0)
        rig.pacs.stop()


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    return make_rig()


@pytest.fixture(scope="session")
def slices(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of a smaller chest CT yet, in order of position."""
    return small_ct(tmp_path_factory.mktemp("phantom"))


@pytest.fixture(scope="session")
def radiographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two exposures of one study, each a series of its own."""
    folder = tmp_path_factory.mktemp("radiographs")
    first = write(expose(Exposure(3, rows=256, columns=256, step_mm=4.0)), folder)
    found = next(first.rglob("*.dcm")) if first.is_dir() else first
    image = found.rename(found.with_name("0002.dcm"))

    def second(dataset: FileDataset) -> None:
        dataset.SeriesInstanceUID += ".2"
        dataset.SOPInstanceUID += ".2"

    other = changed([image], folder / "second", second)
    return [image.rename(image.with_name("0001.dcm")), *other]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A node without processes."""
    desk = Desk(tmp_path / "desk")
    yield desk
    desk.stop()


@pytest.fixture
def uid(slices: list[Path]) -> str:
    """Study Instance UID of the slices."""
    return str(dcmread(slices[0], specific_tags=["StudyInstanceUID"]).StudyInstanceUID)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave what stands above the store and was shown on files to `make chaos-more` on PostgreSQL."""
    for item in items:
        parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        above = item.path.name in {"test_rebuild.py", "test_retention.py"}
        if above and parameters.get("back_end") == "postgresql":
            item.add_marker(pytest.mark.long)
