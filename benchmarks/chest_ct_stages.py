"""What each stage of chest_ct costs: seconds, seconds of processor, and the most memory at once.

    python -m benchmarks.chest_ct_stages [--slices 300] [--matrix 512] [--seed 7] [--runs 3]

Reads the slices of a phantom, then runs the pipeline in this process, as a worker that has just begun; no objects are written. Memory is the
largest resident set within the stage (VmHWM, set back between stages: Linux). Figures are medians over the runs, memory the most of them.
"""

import os
import re
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.one_study import asked_for, written
from dicom_io.model import group
from dicom_io.read import read_instance
from pipeline.api import Pipeline
from pipeline.options import ChestCtOptions
from pipeline.registry import load

Stage = tuple[float, float, float]
"""Seconds, seconds of processor, GiB."""


class Clock:
    """Told when a stage begins, it keeps what the one before has cost."""

    def __init__(self) -> None:
        self.stages: dict[str, Stage] = {}
        self._now = ""
        self._begin()

    def _begin(self) -> None:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._wall, self._processor = time.perf_counter(), time.process_time()

    def __call__(self, stage: str, share: float = 0.0) -> None:
        """End the stage that goes on and begin `stage`."""
        del share
        if self._now:
            seconds, processor, peak = self.stages.get(self._now, (0.0, 0.0, 0.0))
            wall, used = time.perf_counter() - self._wall, time.process_time() - self._processor
            self.stages[self._now] = (seconds + wall, processor + used, max(peak, peak_gib()))
        self._now = stage
        self._begin()


def peak_gib() -> float:
    """Return the largest resident set since it was last set back."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 2**20


def run(files: list[Path], pipeline: Pipeline) -> dict[str, Stage]:
    """Return what each stage costs."""
    clock = Clock()
    clock("read")
    (study,) = group([read_instance(path) for path in files])
    clock("select")
    chosen = pipeline.select(study).chosen
    assert chosen is not None
    pipeline.run(chosen, clock)
    clock("")
    return clock.stages


def main() -> None:
    asked = asked_for(__doc__)
    pipeline = load("chest_ct", ChestCtOptions(), "cpu")
    with tempfile.TemporaryDirectory() as name:
        files = written(asked, Path(name))
        load_before = os.getloadavg()[0]
        runs = [run(files, pipeline) for _ in range(asked.runs)]
    print(
        f"{asked.slices} x {asked.matrix} x {asked.matrix}, {os.cpu_count()} cores (load {load_before:.1f}), medians of {asked.runs} runs\n"
    )
    print("| stage | seconds | of processor | peak, GiB |\n|---|---|---|---|")
    rows = {stage: [statistics.median(r[stage][k] for r in runs) for k in (0, 1)] for stage in runs[0]}
    for stage, (wall, used) in rows.items():
        print(f"| {stage} | {wall:.2f} | {used:.2f} | {max(r[stage][2] for r in runs):.2f} |")
    whole = [statistics.median(sum(s[k] for s in r.values()) for r in runs) for k in (0, 1)]
    print(f"| **all** | {whole[0]:.2f} | {whole[1]:.2f} | {max(s[2] for r in runs for s in r.values()):.2f} |")


if __name__ == "__main__":
    main()
