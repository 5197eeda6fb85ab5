"""Results that are ready to leave, on a real store; and a destination that is a script, for tests with their own clock."""

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from config.settings import Destination
from dicom_io.errors import NetworkError
from dicom_io.read import digest_dataset
from dicom_io.reasons import REASONS
from dicom_io.scu import StoreReport
from dicom_io.scu_query import FoundStudy
from dicom_io.status import Outcome, judge
from node.courier import Courier
from node.proof import Prover
from node.store import Database, deliveries, index, jobs, studies
from node.store.changes import Arrived, Relation
from node.store.rows import Delivery, Job, Planned, StoredArtifact
from node.transport import Transport
from tests.stores import STORES

_numbers = itertools.count(7_000_000)
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def place(name: str = "pacs", port: int = 1, **more: Any) -> Destination:
    return Destination(name, "127.0.0.1", port, "PACS", **{"check_study": False, "proof": "none", **more})


class Outbox:
    """A data folder with finished jobs. `now` is the test's clock."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.db: Database = STORES.open(folder)
        self.now = 1_000_000.0
        self.studies: list[str] = []
        self._made = -1

    def add(
        self, *, objects: int = 2, priority: int = 2, to: Sequence[str] = ("pacs",), sop_class: str = CAPTURE,
        outcome: str = "result",
    ) -> str:  # fmt: skip
        """Finish a job of a new study, due to leave now; return the study UID."""
        uid = f"2.25.{next(_numbers)}"
        self.studies.append(uid)
        self.arrive(uid)
        self.arrive(uid, image=2)  # no result is made from it
        self.finish(uid, objects=objects, priority=priority, to=to, sop_class=sop_class, outcome=outcome)
        return uid

    def arrive(self, uid: str, image: int = 1, *, identity: str = "", relation: Relation = "first") -> None:
        """Take an image of a study, or another version of one."""
        n = self._made = self._made + 1
        arrived = Arrived(
            "a", self.now, uid, f"{uid}.1", f"{uid}.1.{image}", CAPTURE, ExplicitVRLittleEndian, f"d{n}", 1, f"e{n}",
            "image", identity=identity, relation=relation,
        )  # fmt: skip
        assert index.index(self.db, f"j{n}", (0, 1), [arrived], lambda _uid: f"{n:016x}") is not None

    def finish(
        self, uid: str, *, objects: int = 2, priority: int = 2, to: Sequence[str] = ("pacs",), sop_class: str = CAPTURE,
        carried_from: int | None = None, outcome: str = "result",
    ) -> None:  # fmt: skip
        """Close a study and finish its job, with a result of its own or with an earlier one that stands."""
        seen = studies.study(self.db, uid)
        assert seen is not None
        plan = Planned("chest_ct", (f"{uid}.1",), {name: ["result"] for name in to}, {}, priority=priority)
        assert studies.close(self.db, seen, [plan], self.now, publish=True, why={}, routed={})
        self.work(uid, objects=objects, to=to, sop_class=sop_class, carried_from=carried_from, outcome=outcome)

    def work(
        self, uid: str, *, objects: int = 2, to: Sequence[str] = ("pacs",), sop_class: str = CAPTURE,
        carried_from: int | None = None, outcome: str = "result",
    ) -> None:  # fmt: skip
        """Run the newest job of a study, for the first time or again."""
        job = jobs.claim(self.db, jobs.jobs(self.db, uid)[-1].id, "w", self.now, 30.0)
        assert job is not None
        new = objects if carried_from is None else 0
        written = [self._write(job, k, sop_class) for k in range(new)]
        assert jobs.finish(
            self.db, job, "w", self.now, state="done", outcome=outcome, reason=None, document={}, artifacts=written,
            send_to=to, carried_from=carried_from,
        )  # fmt: skip

    def _write(self, of: Job, k: int, sop_class: str) -> StoredArtifact:
        job, study = of.id, of.study_uid
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = sop_class, f"{study}.9.{of.revision}.{k}"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study, f"{study}.8.{of.revision}.{k}"
        ds.PatientID, ds.PatientName, ds.AccessionNumber, ds.Modality = "P1", "Nobody^At All", "A1", "OT"
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = self.folder / "artifacts" / f"{job}-{k}.dcm"
        path.parent.mkdir(exist_ok=True)
        ds.save_as(path, enforce_file_format=True)
        digest = digest_dataset(path)
        uids = (sop_class, str(ds.SOPInstanceUID), str(ds.SeriesInstanceUID))
        return StoredArtifact(job, f"{k}.dcm", f"artifacts/{path.name}", "sc", "OT", *uids, path.stat().st_size, digest)

    def courier(self, destination: Destination, transport: Transport | None = None) -> Courier:
        return Courier(
            self.db, self.folder, destination, "NODE", transport=transport, now=lambda: self.now, chance=lambda: 0.5
        )

    def prover(self, destination: Destination, transport: Transport | None = None, **more: Any) -> Prover:
        return Prover(
            self.db, destination, "NODE", transport=transport, now=lambda: self.now, chance=lambda: 0.5, **more
        )

    def row(self, uid: str | None = None) -> Delivery:
        """Return the only delivery of a study (None: of the first)."""
        (row,) = deliveries.deliveries(self.db, uid or self.studies[0])
        return row

    def state(self, uid: str | None = None) -> tuple[str, int, str | None]:
        row = self.row(uid)
        return row.state, row.attempts, row.last_error and row.last_error["code"]

    def uids(self, uid: str | None = None) -> list[str]:
        """Return the SOP Instance UIDs of a study's newest result, in the order in which they leave."""
        return self.of(jobs.jobs(self.db, uid or self.studies[0])[-1].id)

    def of(self, job_id: int) -> list[str]:
        """Return the SOP Instance UIDs of what stands for a job."""
        job = jobs.job(self.db, job_id)
        assert job is not None
        return [a.sop_uid for a in jobs.artifacts(self.db, job)]

    def run(self, courier: Courier) -> int:
        """Take steps until nothing is due; return how many."""
        steps = 0
        while courier.step():
            steps += 1
            assert steps < 1000, "the courier does not rest"
        return steps


Answer = int | str | None
"""A status, the code of a failure to connect or to answer, or None for no answer."""


@dataclass
class Script:
    """A destination in memory: `answers` gives what becomes of each object, `holds` what it has."""

    answers: Callable[[Path], Answer] = lambda _path: 0x0000
    find: Callable[[str], Sequence[FoundStudy] | str] = lambda _uid: ()
    shows: Callable[[str], bool] | str = lambda _uid: True
    sent: list[str] = field(default_factory=list)
    holds: dict[str, str] = field(default_factory=dict)
    questions: int = 0
    associations: int = 0

    def store(self, paths: Sequence[Path]) -> Iterator[StoreReport]:
        from pydicom import dcmread

        self.associations += 1
        for path in paths:
            ds = dcmread(path)
            uid, answer = str(ds.SOPInstanceUID), self.answers(path)
            if isinstance(answer, str):
                dead = answer == "context-refused"
                reason = REASONS(
                    answer, host="h", port=1, ae_title="A", calling="B", why="w", sop_class="c", syntax="s"
                )
                yield StoreReport(path, uid, None, Outcome.DEAD if dead else Outcome.RETRY, reason)
                continue
            row = judge(answer)
            self.sent.append(uid)
            if answer is not None and row.outcome in (Outcome.DELIVERED, Outcome.DELIVERED_WITH_WARNING):
                digest = digest_dataset(path)
                assert self.holds.setdefault(uid, digest) == digest, "one UID, two contents"
            yield StoreReport(
                path, uid, answer, row.outcome, REASONS(row.code, status=answer or 0) if row.code else None
            )

    def find_study(self, study_uid: str) -> tuple[FoundStudy, ...]:
        self.questions += 1
        found = self.find(study_uid)
        if isinstance(found, str):
            raise NetworkError(REASONS(found, host="h", port=1, ae_title="A", status="0xC001"), retryable=True)
        return tuple(found)

    def find_instances(self, study_uid: str, series_uid: str, sop_uids: Collection[str]) -> frozenset[str]:
        del study_uid, series_uid
        self.questions += 1
        if isinstance(self.shows, str):
            raise NetworkError(REASONS(self.shows, host="h", port=1, ae_title="A", status="0xC001"), retryable=True)
        return frozenset(uid for uid in sop_uids if uid in self.holds and self.shows(uid))
