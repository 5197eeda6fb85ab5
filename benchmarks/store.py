"""The store on SQLite and on PostgreSQL, on this disk: jobs that are claimed and finished, and images that are indexed.

``python -m benchmarks.store [--jobs 300] [--images 3000] [--writers 1 2 4]``; PostgreSQL is Debian's, in a temporary folder, with
fsync on. Every commit is on disk on both.
"""

import argparse
import json
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from node.store import Database, Place, index, jobs, open_database, studies
from node.store.changes import Arrived, AssociationOpened
from node.store.rows import Planned
from tests.stores import PROGRAMS, Server

_BATCH = 200
_PER_STUDY = 300


@contextmanager
def places(folder: Path) -> Iterator[dict[str, Callable[[], Place]]]:
    """Give for each database a way to an empty one."""
    numbers = iter(range(1000))
    found: dict[str, Callable[[], Place]] = {"SQLite": lambda: folder / f"{next(numbers)}.sqlite3"}
    if not PROGRAMS:
        yield found
        return
    server = Server(fsync=True)
    try:
        yield found | {"PostgreSQL": lambda: server.url(server.fresh())}
    finally:
        server.close()


def arrive(db: Database, images: int) -> None:
    """Index `images` images, in batches as the indexer's, of studies of 300."""
    index.index(db, "j", (0, 1), [AssociationOpened("a", "n-1", "CT", "NODE", "127.0.0.1", 0.0)], str)
    for begin in range(0, images, _BATCH):
        some = [_image(n) for n in range(begin, min(begin + _BATCH, images))]
        assert index.index(db, "j", (begin + 1, begin + 1 + _BATCH), some, lambda uid: uid) is not None


def _image(n: int) -> Arrived:
    study = f"2.25.{n // _PER_STUDY}"
    return Arrived(
        "a", float(n), study, f"{study}.1", f"{study}.1.{n}", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1", f"{n:064x}",
        526_000, f"ab/{n:064x}-0.dcm", "image", "CT", identity='{"PatientID": "P"}', accession=str(n // _PER_STUDY),
    )  # fmt: skip


def enqueue(db: Database, count: int) -> None:
    """Close a study with `count` jobs."""
    arrive(db, 1)
    (study,) = studies.unfinished(db)
    plans = [Planned("chest_ct", ("1",), {}, {}) for _ in range(count)]
    assert studies.close(db, study, plans, 1.0, publish=True, why={}, routed={})


def work(place: Place, k: int, writers: int, start: Any, out: Any) -> None:  # noqa: ANN401 - multiprocessing's
    """Claim and finish every `writers`-th job, as if it had been called for them; entry point of a process."""
    db, owner = open_database(place), f"w{k}"
    mine = jobs.due(db, 2.0, 1 << 30)[k::writers]
    start.wait()
    took = []
    for number in mine:
        begin = time.perf_counter()
        job = jobs.claim(db, number, owner, 2.0, 30.0)
        assert job is not None
        assert jobs.finish(db, job, owner, 3.0, state="done", outcome="result", reason=None, document={"n": number})
        took.append(time.perf_counter() - begin)
    out.put(took)
    db.close()


def pairs(place: Place, count: int, writers: int) -> dict[str, float]:
    """Return claim-and-finish pairs per second with `writers` processes, and how long one took (ms)."""
    db = open_database(place)
    enqueue(db, count)
    db.close()
    spawn = multiprocessing.get_context("spawn")
    start, out = spawn.Barrier(writers + 1), spawn.Queue()
    processes = [spawn.Process(target=work, args=(place, n, writers, start, out)) for n in range(writers)]
    for process in processes:
        process.start()
    start.wait()
    begin = time.perf_counter()
    took = sorted(seconds for _ in processes for seconds in out.get())
    seconds = time.perf_counter() - begin
    for process in processes:
        process.join()
    assert len(took) == count
    return {
        "pairs_s": round(count / seconds, 1),
        "median_ms": round(statistics.median(took) * 1000, 2),
        "p99_ms": round(took[int(len(took) * 0.99)] * 1000, 2),
    }


def rows(place: Place, images: int) -> dict[str, float]:
    """Return indexed images per second."""
    db = open_database(place)
    begin = time.perf_counter()
    arrive(db, images)
    seconds = time.perf_counter() - begin
    db.close()
    return {"images_s": round(images / seconds, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--writers", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="store-", dir=Path.cwd()))
    try:
        with places(folder) as all_places:
            for name, fresh in all_places.items():
                print(json.dumps({"store": name, **rows(fresh(), arguments.images)}), flush=True)
                for writers in arguments.writers:
                    print(
                        json.dumps({"store": name, "writers": writers, **pairs(fresh(), arguments.jobs, writers)}),
                        flush=True,
                    )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
