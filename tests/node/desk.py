"""Receiving by hand: the node's spool, journal, coordinator and worker in one process, with the test's own clock."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import FileDataset

import phantom
from config import load as load_settings
from dicom_io.read import read_instance
from dicom_io.scp import StoredObject
from dicom_io.scp_types import AssociationInfo
from node import show
from node.coordinator import Coordinator
from node.installation import DataFolder
from node.selection import select
from node.spool import JournalWriter, Spool, utc
from node.store import Database, alarms, deliveries, jobs, studies
from node.store.rows import Job, Sent, Study
from node.worker import Worker
from pipeline.api import Pipeline
from tests.node.probe_node import Probe
from tests.stores import STORES

RULES = """
[study]
quiet_s = 60.0
settle_s = 1.0
boot_grace_s = 0.0
pace = "fixed"
[[destination]]
name = "pacs"
host = "127.0.0.1"
port = 1
ae_title = "PACS"
[[rule]]
name = "CT"
when = { Modality = "CT" }
run = ["chest_ct"]
send_to = ["pacs"]
"""

BEGIN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()


class Desk:
    """A node without processes: `receive` is what its receiver does, `after` and `work` what the others do.

    Its pipeline is the quick one of the other tests, unless another is given.
    """

    def __init__(self, folder: Path, pipeline: Pipeline | None = None, rules: str = RULES) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "node.toml"
        config.write_text(f"[node]\ndata_dir = {json.dumps(str(folder / 'data'))}\n{rules}", encoding="utf-8")
        self.configuration = config
        self.settings = load_settings(config, STORES.environ(folder / "data"))
        self.folder = DataFolder(self.settings.node.data_dir)
        self.folder.prepare()
        self.pipeline = pipeline or Probe()
        self.now = BEGIN
        self._associations = 0
        self.start()

    def start(self) -> None:
        """Start, or start again after `stop`."""
        self.spool = Spool(self.folder.path)
        self.start_journal()
        self.db: Database = STORES.open(self.folder.path)
        self.coordinator = Coordinator(self.db, self.folder, self.settings, self.now - 1.0)
        self.worker = Worker(self.db, self.folder, self.settings, "w1", lambda _name: self.pipeline, lambda: self.now)

    def start_journal(self) -> None:
        self.journal = JournalWriter(self.spool.journals, lambda: datetime.fromtimestamp(self.now, UTC))

    def stop(self) -> None:
        self.journal.close()
        self.db.close()

    def note(self, kind: str, **more: Any) -> None:
        self.journal.append({"kind": kind, **more, "utc": utc(datetime.fromtimestamp(self.now, UTC))})

    def receive(self, files: Sequence[Path], calling: str = "CT1", *, released: bool = True) -> list[str]:
        """Take `files` in one association; return what the spool said of each."""
        self._associations += 1
        who = {"association": f"a{self._associations}", "calling": calling, "called": "NODE", "peer": "127.0.0.1"}
        self.note("association-open", **who)
        kinds = [self._store(file, AssociationInfo(who["association"], calling, "NODE", "127.0.0.1")) for file in files]
        if released:
            self.note("association-released", **who)
        self.coordinator.tick(self.now)
        return kinds

    def _store(self, file: Path, association: AssociationInfo) -> str:
        i = read_instance(file)
        part = self.spool.incoming / f"{os.getpid()}-{file.name}.part"
        shutil.copyfile(file, part)
        arrived = StoredObject(
            part, association, i.sop_class_uid, i.sop_instance_uid, i.study_instance_uid, i.series_instance_uid,
            i.transfer_syntax_uid, i.digest, part.stat().st_size,
        )  # fmt: skip
        stored = self.spool.store(arrived)
        self.note(
            stored.kind, association=association.id, calling=association.calling, called=association.called,
            peer=association.peer, study=i.study_instance_uid, series=i.series_instance_uid, sop=i.sop_instance_uid,
            sop_class=i.sop_class_uid, syntax=i.transfer_syntax_uid, digest=i.digest, bytes=arrived.bytes,
            entry=stored.entry,
        )  # fmt: skip
        self.spool.recorded(stored, i.digest)
        part.unlink()
        return stored.kind

    def remove(self, entry: str) -> None:
        """Take a file away as retention does."""
        self.note("removed", entry=entry)
        (self.folder.spool / entry).unlink()

    def after(self, seconds: float) -> None:
        self.now += seconds
        self.coordinator.tick(self.now)

    def work(self) -> list[bool]:
        return [self.worker.run(n) for n in jobs.due(self.db, self.now, 99)]

    def finish(self) -> None:
        """Let the study close, its jobs run and its results arrive."""
        self.after(4000.0)
        self.work()
        self.deliver()

    def deliver(self, *, refused: bool = False) -> None:
        """Let the PACS answer every object that it is to get."""
        (wants,) = (d.wants for d in self.settings.destination if d.name == "pacs")
        while (taken := deliveries.take(self.db, "pacs", self.now)) is not None:
            job = jobs.job(self.db, taken.job_id)
            assert job is not None
            for a in select(wants, jobs.artifacts(self.db, job)).objects:
                said = Sent(a.sop_uid, not refused, 0xA700 if refused else 0, None, self.now)
                assert deliveries.remember(self.db, taken, said)
            assert deliveries.settle(self.db, taken, self.now, "dead" if refused else "delivered")

    def study(self, uid: str) -> Study:
        found = studies.study(self.db, uid)
        assert found is not None
        return found

    def show(self, uid: str) -> dict[str, Any]:
        wants = {d.name: d.wants for d in self.settings.destination if d.kind != "webhook"}
        return show.show(self.db, self.study(uid), "test", wants=wants)

    def jobs(self, uid: str) -> tuple[Job, ...]:
        return jobs.jobs(self.db, uid)

    def sends(self, uid: str) -> list[str]:
        return [d.state for d in deliveries.deliveries(self.db, uid)]

    def alarms(self, uid: str | None = None) -> set[str]:
        return {a.code for a in alarms.standing(self.db, uid)}

    def events(self, uid: str, kind: str) -> list[dict[str, Any]]:
        return [e for e in self.show(uid)["timeline"] if e["event"] == kind]


def small_ct(folder: Path) -> list[Path]:
    """Write a chest CT of a few slices; return its files in order of position."""
    phantom.write(phantom.build(7, matrix=64, slices=24), folder)
    return sorted((folder / "dicom").glob("*.dcm"))


def changed(files: Sequence[Path], into: Path, change: Callable[[FileDataset], None]) -> list[Path]:
    """Write copies of `files` below `into`, each after `change` has been applied; return their paths."""
    into.mkdir(parents=True, exist_ok=True)
    made = []
    for file in files:
        dataset = dcmread(file)
        change(dataset)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(into / file.name)
        made.append(into / file.name)
    return made
