"""Authoring results: seconds and peak memory of SEG and SR, gate included, beside plain highdicom in one run.

    python -m benchmarks.results [--slices 300] [--matrix 512] [--seed 7] [--runs 3] [--segments 1 3 10] [--folder DIR]

One segment: both lungs together; three: each lung and an opacity; ten: each lung and eight opacities. The opacities lie in the
lungs. Every measurement is a process of its own: it reads headers and masks, then the clock starts. Memory is what the
process holds at most, beyond what it held when the clock started. highdicom is used as its manual says (`hd.seg.Segmentation`,
`hd.sr.Comprehensive3DSR` with TID 1500): once with the masks as they are, one array a segment, and once as the label map
that it is fastest with, for which the opacities are cut out of the lungs; it writes no outlines and has no gate.
"""

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import phantom
from benchmarks.results_by import AUTHORS, result_of

PHASES = ("claim", "write seg", "write sr", "gate read", "gate decode", "gate count", "gate compare")


def main() -> None:
    asked = _asked()
    if asked.by:
        print(json.dumps(AUTHORS[asked.by](asked.case, asked.out)))
        return
    with tempfile.TemporaryDirectory() as name:
        work = asked.folder or Path(name)
        _prepare(work, asked)
        load = os.getloadavg()[0]
        rows: dict[tuple[int, str], list[dict[str, float]]] = {}
        for run in range(asked.runs):
            for segments in asked.segments:
                for by in AUTHORS:
                    found = _measured(work / f"{segments}", by, f"{segments} {by} {run + 1}")
                    rows.setdefault((segments, by), []).append(found)
    print(f"{asked.slices} x {asked.matrix} x {asked.matrix}, {os.cpu_count()} cores (load {load:.1f}), ", end="")
    print(f"medians of {asked.runs} runs\n")
    _print(rows)


def _prepare(work: Path, asked: argparse.Namespace) -> None:
    """Write the phantom and the results that stand on it, unless they are there."""
    for segments in asked.segments:
        case = work / f"{segments}"
        if not (case / "case.pickle").exists():
            print(f"preparing {segments} ...", file=sys.stderr, flush=True)
            if not (work / "dicom").exists():
                phantom.write(phantom.build(asked.seed, slices=asked.slices, matrix=asked.matrix), work)
            result = result_of(work, segments)
            case.mkdir(parents=True)
            (case / "dicom").symlink_to(work.resolve() / "dicom")
            (case / "case.pickle").write_bytes(pickle.dumps(result))


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--matrix", type=int, default=512)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--segments", type=int, nargs="+", choices=(1, 3, 10), default=[1, 3, 10])
    parser.add_argument("--folder", type=Path, help="where what is prepared stays for another run")
    parser.add_argument("--by", choices=AUTHORS, help=argparse.SUPPRESS)
    parser.add_argument("--case", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _measured(case: Path, by: str, what: str) -> dict[str, float]:
    """Let one author write one case in a process of its own; return its seconds by phase, and its megabytes."""
    with tempfile.TemporaryDirectory(dir=case) as out:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.results", "--by", by]
        done = subprocess.run([*command, "--case", case, "--out", out], check=True, stdout=subprocess.PIPE)
    found: dict[str, float] = json.loads(done.stdout)
    print(what, " ".join(f"{k} {v:.2f}" for k, v in found.items()), file=sys.stderr, flush=True)
    return found


def _print(rows: Mapping[tuple[int, str], list[dict[str, float]]]) -> None:
    middle: dict[tuple[int, str], dict[str, float]] = {
        key: {k: statistics.median(run[k] for run in runs) for k in runs[0]} for key, runs in rows.items()
    }
    print(
        "| segments | author | s | of the node | peak, MB | of the node | objects, MB |\n|---|---|---|---|---|---|---|"
    )
    for (segments, by), found in middle.items():
        node = middle[segments, "node"]
        cells: list[Any] = [f"{found['seconds']:.2f}", f"{found['seconds'] / node['seconds']:.2f}"]
        cells += [f"{found['peak']:.0f}", f"{found['peak'] / node['peak']:.2f}", f"{found['bytes'] / 1e6:.1f}"]
        print(f"| {segments} | {by} | {' | '.join(cells)} |")
    print("\n| the node: segments | " + " | ".join(PHASES) + " |\n|---|" + "---|" * len(PHASES))
    for (segments, by), found in middle.items():
        if by == "node":
            print(f"| {segments} | " + " | ".join(f"{found[phase]:.2f}" for phase in PHASES) + " |")


if __name__ == "__main__":
    main()
