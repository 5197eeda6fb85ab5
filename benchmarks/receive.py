"""How fast the node receives, beside dcmtk's storescp and Orthanc, in one run: same sender, same disk.

    python -m benchmarks.receive [--runs 3] [--senders 1 4 8] [--only ct|dx]
    python -m benchmarks.receive --memory --idle --latency --flood

Each sender is a dcmtk storescu process with 300 CT slices of 0.5 MB, or 20 radiographs of 18 MB; the time is from the start
of the first sender to the end of the last. Receivers take turns, each run on a fresh folder with a fresh process.
"""

import argparse
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks import receive_more, receivers
from benchmarks.receivers import Running

Start = Callable[[Path], AbstractContextManager[Running]]
RECEIVERS: dict[str, Start] = {
    "node": receivers.node,
    "Orthanc": receivers.orthanc,
    "storescp": receivers.storescp,
}
OBJECTS = {"CT": (300, 0.5243), "DX": (20, 18.0)}
"""Objects of each sender, and the size of their pixels (MB)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--senders", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--only", choices=[*map(str.lower, OBJECTS)])
    parser.add_argument("--receivers", nargs="+", choices=RECEIVERS, default=list(RECEIVERS))
    parser.add_argument("--folder", type=Path, help="on the disk that is to be measured")
    more = {
        "memory": receive_more.memory,
        "idle": receive_more.idle,
        "latency": receive_more.latency,
        "flood": receive_more.flood,
    }
    for name in more:
        parser.add_argument(f"--{name}", action="store_true", help="instead of rates")
    asked = parser.parse_args()
    chosen = [measure for name, measure in more.items() if getattr(asked, name)]
    for measure in chosen:
        with tempfile.TemporaryDirectory(dir=asked.folder) as name:
            measure(Path(name))
    if chosen:
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        for modality, (count, size_mb) in OBJECTS.items():
            if asked.only in (None, modality.lower()):
                folders = receivers.write_objects(Path(name), count, modality=modality, senders=max(asked.senders))
                rates(Path(name), modality, count, size_mb, folders, asked)
                for folder in folders:
                    shutil.rmtree(folder)


def rates(
    work: Path, modality: str, count: int, size_mb: float, folders: list[Path], asked: argparse.Namespace
) -> None:
    """Measure one kind of objects and print a table."""
    print(f"\n{modality}: {count} x {size_mb:.1f} MB each sender, {os.cpu_count()} cores, medians of {asked.runs}\n")
    print("| senders | receiver | s | objects/s | MB/s | x Orthanc | processor s |\n|---|---|---|---|---|---|---|")
    for senders in asked.senders:
        took: dict[str, list[tuple[float, float]]] = {name: [] for name in asked.receivers}
        for run in range(asked.runs):
            for name in asked.receivers:
                place = work / f"{name}-{run}"
                with RECEIVERS[name](place) as running:
                    before = running.cpu_s()
                    seconds = receivers.send(running, folders[:senders])
                    receivers.settled(running)
                    took[name].append((seconds, running.cpu_s() - before))
                shutil.rmtree(place)
                os.sync()
        medians = {name: statistics.median(s for s, _ in runs) for name, runs in took.items()}
        for name, runs in took.items():
            rate = senders * count / medians[name]
            ratio = f"{medians['Orthanc'] / medians[name]:.2f}" if "Orthanc" in medians else ""
            cpu = (
                f"{statistics.median(c for _, c in runs):.2f}" if name != "storescp" else ""
            )  # its children end with it
            print(
                f"| {senders} | {name} | {medians[name]:.2f} | {rate:.0f} | {rate * size_mb:.0f} | {ratio} | {cpu} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
