"""One chest CT from files and through the node: seconds per stage, peak memory, last image to results in the PACS.

    python -m benchmarks.study [--slices 300] [--matrix 512] [--seed 7] [--runs 3]

Builds the phantom, runs `process` on it in a process of its own, then sends it to a node from a sender that is declared to
send whole studies. Prints one Markdown table; figures are medians over the runs.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.one_study import asked_for, written
from node.rehearsal import Rehearsal


def main() -> None:
    asked = asked_for(__doc__)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        files = written(asked, work / "phantom")
        stages, memory = from_files(work, asked.runs)
        journeys = [through_the_node(work / f"node-{n}", files) for n in range(asked.runs)]
    print(f"{asked.slices} x {asked.matrix} x {asked.matrix}, {os.cpu_count()} cores, medians of {asked.runs} runs\n")
    print("| stage | seconds |\n|---|---|")
    for stage in stages[0]:
        print(f"| {stage} | {statistics.median(s[stage] for s in stages):.2f} |")
    print(f"| **`process`, peak memory** | {max(memory) / 2**20:.2f} GiB |")
    print(f"| sending {len(files)} slices | {statistics.median(j[0] for j in journeys):.2f} |")
    print(f"| **last image to last result in the PACS** | {statistics.median(j[1] for j in journeys):.2f} |")


def from_files(work: Path, runs: int) -> tuple[list[dict[str, float]], list[int]]:
    """Return the stages' seconds and the peak resident memory (KiB) of every run of `process`."""
    stages, memory = [], []
    for n in range(runs):
        begin = time.perf_counter()
        command = [
            sys.executable,
            "-m",
            "node",
            "process",
            str(work / "phantom" / "dicom"),
            "--out",
            str(work / f"out-{n}"),
            "--json",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            document = json.loads(process.stdout.read())
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        job = document["studies"][0]["jobs"][0]
        assert job["outcome"] == "result", job["reason"]
        stages.append({**job["timings_s"], "whole command": time.perf_counter() - begin})
        memory.append(usage.ru_maxrss)
    return stages, memory


def through_the_node(folder: Path, files: list[Path]) -> tuple[float, float]:
    """Return seconds for sending, and from the last acknowledgement to the last result at the PACS."""
    with Rehearsal(folder) as both:
        both.archive(files)
        sources = {r.sop_instance_uid for r in both.pacs.received}
        begin = time.monotonic()
        both.push(files)
        sent = time.monotonic()
        deadline = sent + 300
        while len(both.results(sources)) < 3:
            assert time.monotonic() < deadline, "no results"
            time.sleep(0.1)
        return sent - begin, time.monotonic() - sent


if __name__ == "__main__":
    main()
