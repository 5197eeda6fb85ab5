"""How long a technologist waits: from the answer to a C-STORE until the grade is stored at the destination, while an analysis runs.

    python -m benchmarks.quality_latency [--images 30] [--series 5] [--slices 120] [--matrix 512]

A real node with two rules, and dcmtk's storescp as the destination. Before each exposure the benchmark sees to it that a
`chest_ct` job is running. An image counts from the answer to its C-STORE, a series from the answer to its last one; it looks
complete `study.settle_s` later. What counts as stored is the last object of the delivery.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import generate_uid

import phantom
from benchmarks import receivers
from dicom_io.scu import Peer, store
from node.store import Database, deliveries, jobs, open_database, studies
from phantom.radiograph import Exposure, expose, write

_CONFIGURATION = """
[[dicom.peer]]
ae_title = "SCANNER"
host = "127.0.0.1"
sends = "study"
[[dicom.peer]]
ae_title = "CONSOLE"
host = "127.0.0.1"
[[destination]]
name = "console"
host = "127.0.0.1"
port = {port}
ae_title = "{title}"
check_study = false
proof = "none"
[[rule]]
name = "analysis"
when = {{ Modality = "CT", CallingAETitle = "SCANNER" }}
run = ["chest_ct"]
[[rule]]
name = "quality"
when = {{ CallingAETitle = "CONSOLE" }}
run = ["cxr_quality", "ct_quality"]
send_to = ["console"]
"""


class Console:
    """The node, the destination, and files that are sent under new UIDs each time."""

    def __init__(self, db: Database, running: receivers.Running, arrived: Path, work: Path) -> None:
        self._db, self._running, self._arrived, self._work = db, running, arrived, work
        self._load: list[str] = []

    def wait_for(self, files: Sequence[Path]) -> dict[str, float]:
        """Send, and return the seconds from the last answer to the last object at the destination, whole and by stage."""
        study, copies = self._anew(files)
        answered = self._push(copies, "CONSOLE")
        receivers.until(lambda: self._delivered(study), 120.0)
        mine = [p for p in self._arrived.iterdir() if _study_of(p) == study]
        stored = max(p.stat().st_mtime for p in mine)
        job = next(job for job in jobs.jobs(self._db, study) if job.subject != "study")
        begun, ended = job.started or 0.0, job.ended or 0.0
        return {
            "whole": stored - answered, "indexed": job.created - answered, "taken": begun - job.created,
            "worked": ended - begun, "sent": stored - ended,
        }  # fmt: skip

    def keep_busy(self, files: Sequence[Path]) -> None:
        """See to it that an analysis is running, and that the next one is ready."""
        while len([uid for uid in self._load if not self._analysed(uid)]) < 2:
            study, copies = self._anew(files)
            self._push(copies, "SCANNER")
            self._load.append(study)
        receivers.until(lambda: any(job.pipeline == "chest_ct" for job in jobs.running(self._db)), 120.0)

    def _push(self, files: Sequence[Path], calling: str) -> float:
        reports = list(store(Peer("127.0.0.1", self._running.port, receivers.TITLE, calling), files))
        answered = time.time()
        assert all(report.status == 0 for report in reports), reports
        return answered

    def _analysed(self, study: str) -> bool:
        found = [job for job in jobs.jobs(self._db, study) if job.pipeline == "chest_ct"]
        return bool(found) and all(job.state in ("done", "dead") for job in found)

    def _delivered(self, study: str) -> bool:
        found = deliveries.deliveries(self._db, study) if studies.study(self._db, study) else ()
        return bool(found) and all(d.state == "delivered" for d in found)

    def _anew(self, files: Sequence[Path]) -> tuple[str, list[Path]]:
        study, series = generate_uid(prefix=None), generate_uid(prefix=None)
        folder = self._work / study
        folder.mkdir(parents=True)
        for file in files:
            ds = dcmread(file)
            ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
            ds.save_as(folder / file.name)
        return study, sorted(folder.iterdir())


def _study_of(path: Path) -> str:
    return str(dcmread(path, specific_tags=["StudyInstanceUID"], force=True).get("StudyInstanceUID"))


def main() -> None:
    """Measure and print a row for images and one for series."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("images", 30), ("series", 5), ("slices", 120), ("matrix", 512)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        phantom.write(phantom.build(7, slices=asked.slices, matrix=asked.matrix), folder / "ct")
        write(expose(Exposure(3, rows=2048, columns=2048)), folder / "dx")
        ct, dx = (sorted((folder / kind).rglob("*.dcm")) for kind in ("ct", "dx"))
        with receivers.storescp(folder / "console") as console:
            more = _CONFIGURATION.format(port=console.port, title=receivers.TITLE)
            with receivers.node(folder / "node", more=more) as running:
                db = open_database(folder / "node" / "data" / "node.sqlite3")
                desk = Console(db, running, folder / "console" / "objects", folder / "sent")
                stages = ("indexed", "taken", "worked", "sent")
                head = ("what", "n", "median", "95th percentile", "longest", *(f"median of: {s}" for s in stages))
                print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
                for what, files, count in (
                    ("radiograph", dx, asked.images),
                    (f"CT of {len(ct)} slices", ct, asked.series),
                ):
                    waits = []
                    for _ in range(count):
                        desk.keep_busy(ct)
                        waits.append(desk.wait_for(files))
                    whole = sorted(w["whole"] for w in waits)
                    row = [statistics.median(whole), whole[min(count - 1, int(0.95 * count))], whole[-1]]
                    row += [statistics.median(w[s] for w in waits) for s in stages]
                    print(f"| {what} | {count} | {' | '.join(f'{s:.2f} s' for s in row)} |", flush=True)
                db.close()


if __name__ == "__main__":
    main()
