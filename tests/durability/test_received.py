"""Acknowledged means durable: the order of the receiver's system calls, and that the proof itself can fail."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_io.scu import Peer, store
from tests.durability.order import Fault, received
from tests.durability.probe_receiver import SPOILED
from tests.durability.trace import OPTIONS, parse, phases
from tests.net.conftest import slice_dataset

pytestmark = [pytest.mark.sockets, pytest.mark.xdist_group("durability")]

PROBE = Path(__file__).parent / "probe_receiver.py"
REPOSITORY = PROBE.parent.parent.parent


def traced(folder: Path, names: Sequence[str], push: Callable[[int], None]) -> dict[str, str]:
    """Run the probe under strace, push to each of its receivers, and return what each asked of the kernel."""
    out = folder / "trace"
    command = ["strace", *OPTIONS, "-o", str(out), sys.executable, str(PROBE), str(folder), *names]
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=folder, text=True
    ) as probe:
        assert probe.stdin is not None
        assert probe.stdout is not None
        for name in names:
            ready = json.loads(probe.stdout.readline())
            assert ready["name"] == name
            push(ready["port"])
            probe.stdin.write("\n")
            probe.stdin.flush()
        probe.stdin.close()
        assert probe.wait(20.0) == 0
    return phases(out.read_text(encoding="ascii"))


def at_once(port: int, loads: dict[str, Sequence[Path]]) -> None:
    """Push from several senders at the same time, each its own files in its own association."""
    statuses: list[int | None] = []
    threads = [
        threading.Thread(
            target=lambda calling=calling, files=files: statuses.extend(
                report.status for report in store(Peer("127.0.0.1", port, "PACSAINODE", calling), list(files))
            )
        )
        for calling, files in loads.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert statuses == [0] * sum(map(len, loads.values()))


def write(folder: Path, **values: object) -> Path:
    ds = slice_dataset(**values)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = folder / f"{len(list(folder.iterdir()))}.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path


def test_every_acknowledged_object_was_durable_before_its_answer(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    loads: dict[str, Sequence[Path]] = {f"CT{n}": [write(files) for _ in range(8)] for n in range(4)}
    same = write(files, SOPInstanceUID="2.25.7705")
    other = write(files, SOPInstanceUID="2.25.7705", PatientID="P2")
    again: dict[str, Sequence[Path]] = {"CT0": [same, loads["CT0"][0], same], "CT9": [other, same]}

    def push(port: int) -> None:
        at_once(port, loads)
        at_once(port, again)

    trace = traced(tmp_path, ["real"], push)["real"]
    acknowledged, faults = received(parse(trace), tmp_path / "real")
    assert faults == []
    assert len(acknowledged) == 4 * 8 + 5
    assert acknowledged.count("2.25.7705") == 4


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[str], list[Fault]]]:
    """What the check says about receivers of which each leaves out one step, or does it too late."""
    folder = tmp_path_factory.mktemp("spoiled")
    (folder / "files").mkdir()
    # one sender: the flush of another's record would cover a missing one now and then, and rightly so
    files = [write(folder / "files") for _ in range(3)]
    traces = traced(folder, list(SPOILED), lambda port: at_once(port, {"CT1": files}))
    return {name: received(parse(traces[name]), folder / name) for name in SPOILED}


@pytest.mark.parametrize("name", SPOILED)
def test_a_step_that_is_left_out_or_late_is_found(name: str, spoiled: dict[str, tuple[list[str], list[Fault]]]) -> None:
    acknowledged, faults = spoiled[name]
    assert len(acknowledged) == 3
    assert {fault.step for fault in faults} == {SPOILED[name][0]}
    assert {fault.uid for fault in faults} == set(acknowledged)
