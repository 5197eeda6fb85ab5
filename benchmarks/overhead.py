"""Last image to published result, stage by stage, and what of it is the node's own.

    python -m benchmarks.overhead [--slices 300] [--matrix 512] [--seed 7] [--runs 3]

A sender that is declared to send whole studies gives strong evidence with its release. Times come from the node's own rows
(`show`: timeline, timings of the job, answers of the PACS) and from the sender's clock, which is the same; when the last
image is in the index is found by looking every few milliseconds. Every run has a node and a PACS of its own, real
processes and sockets; the models are resident before the first image comes.
"""

import os
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.one_study import asked_for, written
from node.installation import DataFolder
from node.rehearsal import Rehearsal
from node.store import open_database, studies

PIPELINE = ("volume", "work", "quality", "measure")
OBJECTS = ("write", "gate")
_LOOK_S = 0.005


def main() -> None:
    asked = asked_for(__doc__)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        files = written(asked, work / "phantom")
        runs = [journey(work / f"node-{n}", files) for n in range(asked.runs)]
    load = os.getloadavg()[0]
    print(
        f"{asked.slices} x {asked.matrix} x {asked.matrix}, {os.cpu_count()} cores (load {load:.1f}), {asked.runs} runs\n"
    )
    print("| stage | median s | longest s |\n|---|---|---|")
    for stage in runs[0]:
        times = [run[stage] for run in runs]
        print(f"| {stage} | {statistics.median(times):.2f} | {max(times):.2f} |")
    own = [stage for stage in runs[0] if stage not in (*PIPELINE, *OBJECTS)]
    for title, stages in (
        ("**last image to published result**", list(runs[0])),
        ("of these the pipeline", list(PIPELINE)),
        ("of these writing and checking the objects", list(OBJECTS)),
        ("**of these the node's own**", own),
    ):
        times = [sum(run[stage] for stage in stages) for run in runs]
        print(f"| {title} | {statistics.median(times):.2f} | {max(times):.2f} |")


def journey(folder: Path, files: list[Path]) -> dict[str, float]:
    """Return the seconds of every stage, in their order, from the last acknowledgement to the last accepted object."""
    with Rehearsal(folder) as both:
        both.archive(files)
        study = both.pacs.received[0].study_instance_uid
        both.wait(_loaded, "status", timeout_s=120)
        both.push(files)
        released = time.time()
        indexed = _indexed(folder / "node", study, len(files))
        shown = both.wait(_published, "show", study, timeout_s=300)
    return _stages(shown, released, indexed)


def _loaded(status: dict[str, Any]) -> bool:
    """Say whether the worker has been up for long enough to have its models: nothing tells it from outside."""
    started = [_seconds(p["started"]) for p in status["processes"] if p["role"] == "worker"]
    return bool(started) and time.time() - max(started) > 15.0


def _indexed(data: Path, study: str, images: int) -> float:
    db = open_database(DataFolder(data).database)
    try:
        while studies.counts(db, study)[0] < images:
            time.sleep(_LOOK_S)
        return time.time()
    finally:
        db.close()


def _published(shown: dict[str, Any]) -> bool:
    return any(d["state"] in ("delivered", "confirmed") for d in shown.get("deliveries", ()))


def _stages(shown: dict[str, Any], released: float, indexed: float) -> dict[str, float]:
    (job,) = shown["jobs"]
    (delivery,) = shown["deliveries"]
    assert job["outcome"] == "result", job["reason"]
    at = {entry["event"]: _seconds(entry.get("until", entry["utc"])) for entry in shown["timeline"]}
    accepted = sorted(_seconds(o["utc"]) for o in delivery["objects"])
    inside = job["timings_s"]
    committed = at["written"]
    told = sum(v for k, v in inside.items() if k != "total")
    return {
        "last image to the sender's release": released - at["received"],
        "to the index": indexed - released,
        "strong evidence": max(0.0, at["closed"] - indexed),
        "closed, routed, claimed by the worker": at["attempt"] - max(at["closed"], indexed),
        "read": inside["read"],
        **{stage: inside[stage] for stage in (*PIPELINE, *OBJECTS)},
        "selection, identity, records": committed - at["attempt"] - told,
        "whose study is it there, first object accepted": accepted[0] - committed,
        "all objects accepted": accepted[-1] - accepted[0],
    }


def _seconds(utc: str) -> float:
    return datetime.fromisoformat(utc).timestamp()


if __name__ == "__main__":
    main()
