"""Several nodes on one PostgreSQL and one folder: jobs per minute with 1, 2 and 4 workers, with and without the loss of a node.

    python -m benchmarks.nodes [--studies 100] [--seconds 2.0] [--workers 1 2 4]

Two `serve` trees share a throw-away PostgreSQL, a folder and a small PACS. Every study comes half to one node and half to the
other. The pipeline is the quick one of the tests, which takes `--seconds` longer, so that what is measured is the way to a
worker and not the worker. With the loss, the node that leads and sends is killed with everything it has when half of the
results have arrived, and never comes back.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydicom import dcmread

import phantom
from node.loopback_pacs import LoopbackPacs
from node.store import jobs, open_database
from tests.chaos.trees import Tree, push, status, until
from tests.leaving import chosen
from tests.stores import Server

SLICES = 8


def made(folder: Path, count: int) -> dict[str, list[Path]]:
    """Write the studies; return their files by Study Instance UID."""
    phantom.write(phantom.build(7, matrix=64, slices=64), folder / "model")
    model = sorted((folder / "model" / "dicom").glob("*.dcm"))[28 : 28 + SLICES]
    found: dict[str, list[Path]] = {}
    for n in range(count):
        uid = f"2.25.{n + 1}"
        for k, file in enumerate(model):
            ds = dcmread(file)
            ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientID = uid, f"{uid}.1", f"P{n}"
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{uid}.1.{k + 1}"
            out = folder / "studies" / f"{n:04}-{k}.dcm"
            out.parent.mkdir(exist_ok=True)
            ds.save_as(out)
            found.setdefault(uid, []).append(out)
    return found


def run(
    server: Server, folder: Path, files: dict[str, list[Path]], workers: int, seconds: float, *, lose: bool
) -> dict[str, Any]:
    """Let all studies through once; `workers` are spread over the nodes, of which the last one stays."""
    folder.mkdir()
    (folder / "pacs").mkdir()
    database = server.fresh()
    url = server.url(database)
    slots = [workers // 2, workers - workers // 2]
    with LoopbackPacs(folder / "pacs", "PACS") as pacs:
        trees = [
            Tree(folder, name, url, pacs.port, slots=max(1, count), quiet_s=5.0, silent_s=10.0)
            for name, count in zip(("north", "south"), slots, strict=True)
            if count
        ]
        db = open_database(url)
        try:
            for tree in trees:  # the first one leads and sends
                tree.start(PROBE_SECONDS=str(seconds), OMP_NUM_THREADS="1")
                until(tree.ready, 120.0, tree.words)

            def told() -> str:
                return f"{status(db, folder)}\n" + "\n".join(tree.words() for tree in trees)

            begun = time.monotonic()
            with ThreadPoolExecutor(4) as senders:
                for n, study in enumerate(files.values()):
                    for k in (0, 1):
                        senders.submit(push, study[k::2], trees if (n + k) % 2 else trees[::-1])
                if lose:
                    until(lambda: len(pacs.received) >= len(files), 600.0, told)  # of two objects each
                    trees[0].kill()
            until(lambda: status(db, folder)["studies"]["closed"] == len(files), 600.0, told)
            until(lambda: bool(status(db, folder)["idle"]), 600.0, told)
            rows = [jobs.jobs(db, uid) for uid in files]
            done = [j for found in rows for j in found if j.outcome == "result"]
            span = max(j.ended or 0.0 for j in done) - min(j.started or 0.0 for j in done)
            arrived = Counter(r.sop_instance_uid for r in pacs.received)
            wanted = chosen(db, [found[-1] for found in rows])
            return {
                "workers": sum(slots), "lost": lose, "studies": len(files), "jobs": len(done),
                "jobs_per_minute": round(60 * len(done) / span, 1), "wall_s": round(time.monotonic() - begun, 1),
                "missing": len(wanted - set(arrived)), "foreign": len(set(arrived) - wanted),
                "objects_sent_again": sum(count - 1 for count in arrived.values()),
                "revisions_more": sum(found[-1].revision - 1 for found in rows),
            }  # fmt: skip
        finally:
            for tree in trees:
                if tree.process is not None:
                    tree.stop()
            db.close()
            server.drop(database)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place:
        server = Server()
        try:
            files = made(Path(place), chosen.studies)
            for workers in chosen.workers:
                for lose in (False, True) if workers > 1 else (False,):
                    folder = Path(place) / f"{workers}{'-lost' if lose else ''}"
                    print(json.dumps(run(server, folder, files, workers, chosen.seconds, lose=lose)), flush=True)
        finally:
            server.close()


if __name__ == "__main__":
    main()
