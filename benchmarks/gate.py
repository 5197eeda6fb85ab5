"""The outbound gate: how long it takes, how surely it sees lungs that lie wrong, and whether it refuses what is good.

``python -m benchmarks.gate``: `chest_ct` on phantoms of every plane and, with PACS_AI_NODE_TEST_DATA, on every real CT there;
for each what the gate refuses (nothing should be), what the lungs would gain elsewhere, and seconds.
``python -m benchmarks.gate time``: one phantom of 300 x 512 x 512: seconds for SEG, SR and gate, and peak memory.
"""

import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydicom import dcmread

import phantom
from dicom_io.errors import DicomIOError
from dicom_io.model import Series, Study, group
from dicom_io.read import read_instance
from node.execute import ExecutionContext, execute
from pipeline import registry
from pipeline.options import ChestCtOptions
from sr_writer import gate
from sr_writer.gate_frames import Runs, frames_of, union
from sr_writer.gate_place import gains
from sr_writer.gate_sources import read_sources

LUNG = "39607008"
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def study_of(files: list[Path]) -> Iterator[Study]:
    instances = []
    for path in files:
        try:
            instances.append(read_instance(path))
        except DicomIOError:
            continue
    yield from group(instances)


def cases(scratch: Path) -> Iterator[tuple[str, Study]]:
    planes = ("axial", "coronal", "sagittal", "oblique")
    for n, plane in enumerate(planes * 2):
        made = phantom.build(
            100 + n, plane=plane, thickness_mm=2.5 if n < 4 else 5.0, matrix=192, feet_first=n % 3 == 1,
            tilt_deg=10.0 if n == 4 else 0.0, lesions="none" if n == 5 else "standard",
        )  # fmt: skip
        folder = phantom.write(made, scratch / f"p{n}")
        for study in study_of(sorted((folder / "dicom").iterdir())):
            yield f"phantom {plane} {100 + n}", study
    data = os.environ.get("PACS_AI_NODE_TEST_DATA")
    for folder in sorted((Path(data) / "ct").iterdir()) if data else ():
        for study in study_of(sorted(p for p in folder.rglob("*") if p.is_file())):
            yield folder.name, study


def lungs_of(seg: Path, series: Series) -> dict[str, float]:
    """Return what the lungs of a segmentation would gain elsewhere."""
    ds = dcmread(seg)
    frames, raw = frames_of(ds), read_sources(series.instances)
    numbers = [
        int(s.SegmentNumber) for s in ds.SegmentSequence if s.SegmentedPropertyTypeCodeSequence[0].CodeValue == LUNG
    ]
    first = next(iter(raw.slices.values()))
    normal = np.cross(first.orientation[:3], first.orientation[3:])
    uids = sorted(raw.slices, key=lambda uid: float(np.dot(raw.slices[uid].position, normal)))
    lungs: list[Runs | None] = []
    for uid in uids:
        parts = [frames.runs[n, uid] for n in numbers if (n, uid) in frames.runs]
        lungs.append(union(parts) if parts else None)
    return gains(lungs, [raw.slices[uid] for uid in uids])


def places() -> None:
    pipeline = registry.load("chest_ct", ChestCtOptions())
    refused = analysed = objects = 0
    print(f"{'study':28} {'outcome':14} {'gate s':>6} {'least gain HU':>14}  where")
    with tempfile.TemporaryDirectory() as folder:
        for n, (name, study) in enumerate(cases(Path(folder))):
            context = ExecutionContext("benchmark", Path(folder) / f"out{n}" / "s", NOW)
            done = execute(study, pipeline, context)
            refused += bool(done.refusals)
            objects += len(done.artifacts)
            told = ", ".join(sorted({f"{r.artifact.kind} {r.reason.code}" for r in done.refusals}))
            gain = ""
            segs = [a.path for a in done.artifacts if a.kind == "seg"]
            if segs:
                analysed += 1
                chosen = pipeline.select(study).chosen
                assert chosen is not None
                found = lungs_of(segs[0], chosen)
                worst = min(found, key=lambda k: found[k])
                gain = f"{found[worst]:14.0f}  {worst}"
            took = done.document["timings_s"].get("gate", 0.0)
            print(f"{name:28} {done.outcome:14} {took:6.2f} {gain} {told}")
    print(f"{analysed} analysed, {objects} objects, {refused} analyses refused")


def seconds() -> None:
    from tests.sr_writer import conftest as hands

    with tempfile.TemporaryDirectory() as folder:
        made = phantom.build(7, slices=300, matrix=512, lesions="standard")
        case = hands.case(Path(folder), made)
        claim = hands.claim(case)
        for _ in range(3):
            out = Path(tempfile.mkdtemp(dir=folder))
            begin = time.perf_counter()
            written = hands.Helpers.write(case, out)
            between = time.perf_counter()
            found = gate.check(written, case.series.instances, (), claim)
            after = time.perf_counter()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            count = len(case.result.segments)
            print(
                f"{count} segments: written {between - begin:.2f} s, gate {after - between:.2f} s, "
                f"{len(found)} refusals, peak {peak:.0f} MB"
            )


if __name__ == "__main__":
    seconds() if "time" in sys.argv[1:] else places()
