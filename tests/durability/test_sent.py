"""What leaves was durable before, and is called delivered after its answer: by system calls, and every step's absence found."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import phantom
from node.loopback_pacs import LoopbackPacs
from tests.durability.order import Fault, sent
from tests.durability.probe_sender import SPOILED
from tests.durability.trace import OPTIONS, parse, phases

pytestmark = [pytest.mark.sockets, pytest.mark.xdist_group("durability")]

PROBE = Path(__file__).parent / "probe_sender.py"
REPOSITORY = PROBE.parent.parent.parent


def run(folder: Path, names: Sequence[str]) -> dict[str, tuple[int, list[Fault]]]:
    """Run the probe under strace; return how many artifacts each of its runs wrote, and what the check says."""
    slices, out = folder / "slices", folder / "trace"
    slices.mkdir()
    phantom.write(phantom.build(7, matrix=32, slices=24), folder / "phantom")
    for path in sorted((folder / "phantom" / "dicom").glob("*.dcm"))[:4]:
        path.rename(slices / path.name)
    (folder / "pacs").mkdir()
    with LoopbackPacs(folder / "pacs", "PACS") as pacs:
        program = [sys.executable, str(PROBE), str(folder), str(pacs.port), str(slices), *names]
        environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            ["strace", *OPTIONS, "-o", str(out), *program],
            env=environment, cwd=folder, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    traces = phases(out.read_text(encoding="ascii"))
    found = {}
    for line in map(json.loads, done.stdout.splitlines()):
        artifacts = {uid: Path(path) for uid, path in line["artifacts"].items()}
        name = line["name"]
        found[name] = (len(artifacts), sent(parse(traces[name]), folder / name / "data", artifacts))
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, list[Fault]]]:
    return run(tmp_path_factory.mktemp("sent"), ["real", *SPOILED])


def test_every_artifact_was_durable_before_it_left_and_marked_after_its_answer(
    runs: dict[str, tuple[int, list[Fault]]],
) -> None:
    count, faults = runs["real"]
    assert faults == []
    assert count >= 2, "segmentation and report"


@pytest.mark.parametrize("name", SPOILED)
def test_a_step_that_is_left_out_or_late_is_found(name: str, runs: dict[str, tuple[int, list[Fault]]]) -> None:
    count, faults = runs[name]
    assert {fault.step for fault in faults} == SPOILED[name][0]
    assert len({fault.uid for fault in faults}) == count
