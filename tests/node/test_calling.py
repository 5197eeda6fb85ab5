"""Who calls for jobs: the same scenarios with the small loop on SQLite, and with procrastinate on PostgreSQL."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from node import recover
from node.calling import Caller, prepare
from node.store import calls, jobs
from node.store.rows import Job
from tests.more import more
from tests.node.desk import Desk
from tests.stores import STORES, sql

pytestmark = pytest.mark.sockets

REPOSITORY = Path(__file__).parents[2]


class Office:
    """Jobs, who calls for them, and workers that are processes."""

    def __init__(self, folder: Path, slices: list[Path]) -> None:
        self.folder, self._slices = folder, slices
        self.desk = Desk(folder / "desk")
        self.desk.now = time.time() - 300.0
        self.db = self.desk.db
        prepare(self.db)
        self.caller = Caller(self.db)
        self.workers: list[subprocess.Popen[bytes]] = []

    def studies(self, count: int) -> list[int]:
        """Let studies come, and close them; return the numbers of their jobs."""
        for n in range(count):
            files = []
            for k, file in enumerate(self._slices[:6]):
                ds = dcmread(file)
                ds.StudyInstanceUID, ds.SeriesInstanceUID = f"1.2.{n + 1}", f"1.2.{n + 1}.1"
                ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.{n + 1}.1.{k + 1}"
                files.append(self.folder / f"{n}-{k}.dcm")
                ds.save_as(files[-1])
            self.desk.receive(files)
        self.desk.after(100.0)
        return [jobs.jobs(self.db, f"1.2.{n + 1}")[0].id for n in range(count)]

    def worker(self, node: str, **environment: str) -> subprocess.Popen[bytes]:
        data = self.desk.folder.path
        told = {"PYTHONPATH": str(REPOSITORY), "PACS_AI_NODE__NODE__NAME": node, "PACS_AI_NODE__WORKER__LEASE_S": "4.0"}
        with (self.folder / f"{node}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.node.probe_worker", str(self.desk.configuration), "1.0"],
                env={**os.environ, **STORES.environ(data), **told, **environment}, cwd=REPOSITORY, stdout=log, stderr=log,
            )  # fmt: skip
        self.workers.append(process)
        return process

    def job(self, number: int) -> Job:
        found = jobs.job(self.db, number)
        assert found is not None
        return found

    def lead_until(self, done: Callable[[], bool], *, leases: bool = False) -> None:
        deadline = time.monotonic() + 60.0
        while not done():
            assert time.monotonic() < deadline, [path.read_text() for path in self.folder.glob("*.log")]
            self.caller.call(time.time())
            if leases:
                recover.expired(self.db, time.time(), 3)
            time.sleep(0.05)

    def claims(self, number: int) -> int:
        told = sql(self.db, "SELECT kind FROM event WHERE study_uid = :uid", uid=self.job(number).study_uid)
        return told.count(("attempt",))

    def close(self) -> None:
        for process in self.workers:
            process.kill()
            process.wait(10.0)
        self.caller.close()
        self.desk.stop()


@pytest.fixture
def office(back_end: str, tmp_path: Path, slices: list[Path]) -> Iterator[Office]:
    del back_end
    made = Office(tmp_path, slices)
    yield made
    made.close()


def test_stat_goes_first_what_is_cancelled_never_and_a_lost_call_comes_again(office: Office) -> None:
    routine, cancelled, stat = office.studies(3)
    sql(office.db, "UPDATE job SET priority = 0 WHERE id = :id", id=stat)
    office.caller.call(time.time())
    if office.db.shared:
        assert calls.count(office.db) == 3
        assert office.caller.call(time.time()) == 0, "one call is enough"
        sql(office.db, "TRUNCATE procrastinate.procrastinate_jobs CASCADE")
        assert office.caller.call(time.time()) == 3
    sql(office.db, "UPDATE job SET state = 'cancelled' WHERE id = :id", id=cancelled)
    office.worker("a")
    office.lead_until(lambda: all(office.job(n).state == "done" for n in (routine, stat)))
    assert office.job(stat).started < office.job(routine).started  # type: ignore[operator]
    assert [office.claims(n) for n in (routine, cancelled, stat)] == [1, 0, 1]
    if office.db.shared:
        office.lead_until(lambda: calls.count(office.db) == 0)


@pytest.mark.parametrize("back_end", [more("sqlite"), "postgresql"], indirect=True)
def test_a_job_whose_worker_is_killed_is_tried_again_by_another(office: Office) -> None:
    numbers = office.studies(2)
    dead = office.worker("a", PACS_AI_NODE_TESTING="1", PACS_AI_NODE_FAILPOINT="job.claimed")
    office.lead_until(lambda: dead.poll() is not None)
    assert dead.returncode == -signal.SIGKILL
    office.worker("a")
    office.lead_until(lambda: all(office.job(n).state == "done" for n in numbers), leases=True)
    assert sorted(office.claims(n) for n in numbers) == [1, 2]
    assert sorted(office.job(n).attempts for n in numbers) == [1, 2], "a worker that dies costs its job an attempt"


def test_the_jobs_of_a_node_that_is_lost_for_good_go_to_another_at_once(office: Office) -> None:
    numbers = office.studies(3)
    lost = office.worker("a", PROBE_SECONDS="60", PACS_AI_NODE__WORKER__LEASE_S="600.0")
    office.lead_until(lambda: any(office.job(n).state == "running" for n in numbers))
    (taken,) = (n for n in numbers if office.job(n).state == "running")
    office.worker("b")
    office.lead_until(lambda: all(office.job(n).state == "done" for n in numbers if n != taken))
    assert office.job(taken).state == "running", "its node lives"
    lost.kill()
    lost.wait()
    assert recover.node_lost(office.db, "b", time.time(), 3) == 0
    assert recover.node_lost(office.db, "a", time.time(), 3) == 1
    office.lead_until(lambda: office.job(taken).state == "done")
    assert (office.job(taken).attempts, office.job(taken).losses) == (1, 1), "the node's loss is not the study's fault"
    if office.db.shared:
        office.lead_until(lambda: calls.count(office.db) == 1)  # the call of who did it has ended
        sql(office.db, "UPDATE procrastinate.procrastinate_workers SET last_heartbeat = now() - interval '1 h'")
        assert office.caller.sweep() == 1, "the call that the lost worker had taken"
