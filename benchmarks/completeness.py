"""How long a result waits for its study to be complete, and how often it left too early, sender by sender.

    python -m benchmarks.completeness [--studies 25] [--seed 1] [--only NAME]

Scripted senders are played for two days each, with a simulated clock, through the node's own journals, index, coordinator
and inquirer: what happens at every image, notice, answer and deadline is what a running node does. The first day is for
learning, the second is measured. Fixed timers are given the same arrivals: they close when nothing came for so long.
"""

import argparse
import heapq
import itertools
import json
import logging
import os
import random
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from benchmarks.senders import SENDERS, SERIES, Event, Image, Script
from config import load as load_settings
from dicom_io.read import digest_dataset
from dicom_io.scp_types import AssociationInfo, Notice, NoticeKind
from dicom_io.scu_query import FoundSeries
from node.coordinator import Coordinator
from node.installation import DataFolder
from node.notices import Notices
from node.spool import Spool, utc
from node.store import events, open_database, studies
from node.store import node as node_store
from node.store.rows import Process

DAY_S = 86400.0
SHIFT_S = 10 * 3600.0
WORK_S = 8.0  # from the begin of the work to its result
TIMERS = (2.0, 5.0, 60.0, 900.0)
BEGIN = datetime(2026, 1, 5, 7, tzinfo=UTC).timestamp()
PID = 4242
STEP_CLASS = "1.2.840.10008.3.1.2.3.3"

CONFIGURATION = """
[node]
data_dir = {folder}
[[dicom.peer]]
ae_title = "CT1"
host = "127.0.0.1"
{peer}
[[rule]]
name = "CT"
when = {{ Modality = "CT" }}
run = ["chest_ct"]
"""


@dataclass
class Closed:
    """One closing of a study: when, why, and how many of its images were there."""

    at: float
    evidence: str
    by: str | None
    begun: float
    late: float | None = None  # when the next image came


@dataclass
class Told:
    """What became of one study."""

    day: int
    images: list[float]  # arrival of each, repeated ones included
    last: float  # when the last one came that had not been there
    closed: list[Closed]
    whole: bool


class Play:
    """A node without sockets and without waiting, and one sender."""

    def __init__(self, folder: Path, peer: str) -> None:
        folder.mkdir(parents=True)
        file = folder / "node.toml"
        file.write_text(CONFIGURATION.format(folder=json.dumps(str(folder / "data")), peer=peer), encoding="utf-8")
        settings = load_settings(file, {})
        self.folder = DataFolder(settings.node.data_dir)
        self.folder.prepare()
        spool = Spool(self.folder.path)
        self.db = open_database(self.folder.database)
        self.now = BEGIN - 100.0
        node_store.process_started(self.db, Process.of("n", PID, "receiver", self.now))
        self.notices = Notices(spool, self._append, lambda _title: None, self._clock, lambda: "1.2.3")
        self.coordinator = Coordinator(self.db, self.folder, settings, self.now, self._ask)
        self._journal = spool.journals / f"20260105T000000Z-n-{PID}.jsonl"
        self.there: dict[str, list[tuple[float, list[Image]]]] = {}
        self.arrivals: dict[str, list[float]] = {}
        self.news: dict[str, list[float]] = {}
        (self.folder.spool / "00").mkdir(exist_ok=True)

    def _clock(self) -> datetime:
        return datetime.fromtimestamp(self.now, UTC)

    def _append(self, record: dict[str, Any]) -> int:
        with self._journal.open("a", encoding="utf-8") as out:
            out.write(json.dumps(record) + "\n")
        return 0

    def _ask(self, _peer: object, study: str) -> list[FoundSeries]:
        held = next((images for at, images in reversed(self.there.get(study, [])) if at <= self.now), [])
        return [FoundSeries(f"{study}.{s}", "CT", n) for s, n in sorted(Counter(i[1] for i in held).items())]

    def play(self, plan: Sequence[Event]) -> None:
        """Let everything happen in its order: what the sender does, questions, deadlines."""
        queue = list(plan)
        heapq.heapify(queue)
        sources = list(self.coordinator.inquirer.sources.values())
        while True:
            due = [(at, source) for source in sources if (at := source.due()) is not None]
            look = self.coordinator.next_look()
            times = [t for t in (queue[0].at if queue else None, look, *(at for at, _ in due)) if t is not None]
            if not times:
                return
            self.now = max(self.now, min(times))
            for at, source in due:
                if at <= self.now:
                    source.step(self.now)
            while queue and queue[0].at <= self.now:
                self._happen(heapq.heappop(queue))
            self.coordinator.tick(self.now)

    def _happen(self, event: Event) -> None:
        who = {"calling": "CT1", "called": "NODE", "peer": "127.0.0.1"}
        record: dict[str, Any] = {"utc": utc(self._clock()), "association": event.association, **who}
        if event.step is not None:
            self._notice(*event.step)
        elif event.image is not None:
            self._append({**record, **self._image(event.image)})
        else:
            self._append({**record, "kind": f"association-{event.kind}"})

    def _notice(self, uid: str, study: str, status: str, images: Sequence[Image]) -> None:
        dataset = Dataset()
        dataset.PerformedProcedureStepStatus = status
        series: dict[int, list[Dataset]] = {}
        for image in images:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, sop(image)
            series.setdefault(image[1], []).append(item)
        dataset.PerformedSeriesSequence = []
        for number, items in series.items():
            one = Dataset()
            one.SeriesInstanceUID, one.ReferencedImageSequence = f"{study}.{number}", items
            dataset.PerformedSeriesSequence.append(one)
        if status == "IN PROGRESS":
            scheduled = Dataset()
            scheduled.StudyInstanceUID = study
            dataset.ScheduledStepAttributesSequence = [scheduled]
        kind: NoticeKind = "mpps-create" if status == "IN PROGRESS" else "mpps-set"
        answer = self.notices.take(notice(kind, uid, dataset))
        assert answer.status == 0, answer

    def _image(self, image: Image) -> dict[str, Any]:
        study, series, number = image
        entry = f"00/{sop(image)}.dcm"
        path = self.folder.spool / entry
        kind = "duplicate" if path.exists() else "stored"
        if kind == "stored":
            header(image).save_as(path, enforce_file_format=True)
            self.news.setdefault(study, []).append(self.now)
        self.arrivals.setdefault(study, []).append(self.now)
        return {
            "kind": kind, "study": study, "series": f"{study}.{series}", "sop": sop(image), "sop_class": str(CTImageStorage),
            "syntax": str(ExplicitVRLittleEndian), "digest": digest_dataset(path), "bytes": path.stat().st_size,
            "entry": entry, "number": number,
        }  # fmt: skip

    def told(self, study: str, day: int) -> Told:
        """Return what the study's timeline says."""
        closed: list[Closed] = []
        begun: float | None = None
        for event in events.timeline(self.db, study):
            if event.kind == "looks-complete":
                begun = event.at
            elif event.kind == "early-work-dropped":
                begun = None
            elif event.kind == "closed":
                closed.append(Closed(event.at, event.data["evidence"], event.data["by"], begun or event.at))
            elif event.kind == "late-image":
                closed[-1].late, begun = event.at, None
        row = studies.study(self.db, study)
        whole = row is not None and row.state == "closed" and studies.counts(self.db, study)[0] == sum(SERIES)
        return Told(day, self.arrivals[study], self.news[study][-1], closed, whole)


def sop(image: Image) -> str:
    return f"{image[0]}.{image[1]}.{image[2]}"


def notice(kind: NoticeKind, uid: str, dataset: Dataset) -> Notice:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset)
    who = AssociationInfo("steps", "CT1", "NODE", "127.0.0.1")
    return Notice(kind, uid, who, STEP_CLASS, uid, str(ExplicitVRLittleEndian), buffer.getvalue(), dataset)


def header(image: Image) -> Dataset:
    """Return a slice with the least that makes it one."""
    study, series, number = image
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = sop(image)
    ds.Modality, ds.PatientID, ds.PatientName = "CT", "P1", "Phantom"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, f"{study}.{series}", f"{study}.8"
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 2 * number], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.Rows, ds.Columns = [1, 1], 2, 2
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = 15, 0, 1
    ds.PhotometricInterpretation, ds.PixelData = "MONOCHROME2", b"\0" * 8
    return ds


def rehearse(folder: Path, number: int, studies_a_day: int, seed: int, days: int = 2) -> list[Told]:
    """Play one sender for some days; return what became of its studies."""
    _, script, peer = SENDERS[number]
    rng = random.Random(seed * 100 + number)
    play = Play(folder, peer)
    names: dict[str, int] = {}
    try:
        for day in range(days):
            plan: list[Event] = []
            for n in range(studies_a_day):
                pair = [f"2.25.{number + 1}{day}{n:03}{k}" for k in (1, 2)]
                begin = BEGIN + day * DAY_S + n * SHIFT_S / studies_a_day + rng.uniform(0, 60)
                written = Script(rng, begin, pair)
                script(written)
                plan += written.events
                play.there.update(written.there)
                names.update({e.image[0]: day for e in written.events if e.image})
            play.play(plan)
        return [play.told(name, day) for name, day in names.items()]
    finally:
        play.db.close()


def timer_early(told: Told, seconds: float) -> bool:
    """Say whether a timer would have closed the study before its last image."""
    pairs = itertools.pairwise([t for t in told.images if t <= told.last])
    return any(later - earlier > seconds for earlier, later in pairs)


def early(told: Iterable[Told]) -> tuple[int, int]:
    """Return how many results left too early, and how many early closes were cured before one did."""
    closes = [c for t in told for c in t.closed if c.late is not None]
    seen = sum(max(c.at, c.begun + WORK_S) < (c.late or 0.0) for c in closes)
    return seen, len(closes) - seen


def rows(folder: Path, studies_a_day: int, seed: int, only: str) -> Iterator[tuple[str, list[Told]]]:
    for number, (name, _, _) in enumerate(SENDERS):
        if only in name:
            yield name, rehearse(folder / str(number), number, studies_a_day, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=25, help="a day")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="part of a sender's name")
    asked = parser.parse_args()
    timers = " | ".join(f"{t:.0f} s" for t in TIMERS)
    print(
        f"| sender | closed by | wait: median, longest (s) | too early, day 1 | too early, day 2 | timers, day 2: {timers} |"
    )
    print("|---|---|---|---|---|" + "---|" * len(TIMERS))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    failed = False
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - nothing secret, and quick
    with tempfile.TemporaryDirectory(dir=place) as work:
        for name, told in rows(Path(work), asked.studies, asked.seed, asked.only):
            first, second = ([t for t in told if t.day == day] for day in (0, 1))
            waits = [t.closed[-1].at - t.last for t in second]
            by = Counter(c.by or c.evidence for t in second for c in t.closed[-1:])
            words = ", ".join(f"{kind} {n}" for kind, n in by.most_common())
            left, cured = early(first)
            left2, cured2 = early(second)
            fixed = " | ".join(str(sum(timer_early(t, s) for t in second)) for s in TIMERS)
            middle, longest = statistics.median(waits), max(waits)
            print(
                f"| {name} | {words} | {middle:.1f}, {longest:.1f} | {left} (+{cured}) | {left2} (+{cured2}) | {fixed} |",
                flush=True,
            )
            failed |= bool(left2) or not all(t.whole for t in told)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
