"""Run the quality pipelines on the images of the benchmark, in several processes, and keep what they said.

What was said is kept by the digest of the code that measured. After a change of nothing but limits the images are not
looked at again: their measures are graded anew by the tables as they are.
"""

import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks import quality_cases, quality_cases_ct
from benchmarks.quality_cases import Subject
from dicom_io.errors import DicomIOError
from dicom_io.model import group
from dicom_io.read import read_instance
from pipeline import options, registry
from pipeline.api import Pipeline
from pipeline.errors import PipelineError
from pipeline.quality.grade import table

ROOT = Path(__file__).resolve().parents[1]
EVERYWHERE = ("tilt", "blur", "motion", "mirror", "inversion", "turn-90", "turn-270", "turn-180")
PIPELINES = {"cxr": "cxr_quality", "ct": "ct_quality"}


@dataclass(frozen=True, slots=True)
class Record:
    """What was said of one image.

    Parameters
    ----------
    kind, source, patient, image : str
        Of the subject; `defect` and `detail` say what was done to it.
    tuned : bool
        On which side of the split its patient is.
    grade : str
        Empty if the image was refused.
    codes : dict[str, str]
        Finding to its grade.
    measures : dict[str, float]
        Everything that was measured.
    not_evaluated : list[str]
        Codes of what could not be judged.
    refused : list[str]
        Code and class of the refusal; empty if the image was graded.
    crashed : str
        What broke, if something did.
    """

    kind: str
    source: str
    patient: str
    image: str
    defect: str
    detail: str
    tuned: bool
    grade: str = ""
    codes: dict[str, str] = field(default_factory=dict)
    measures: dict[str, float] = field(default_factory=dict)
    not_evaluated: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    crashed: str = ""

    @property
    def alarms(self) -> set[str]:
        """Findings of grade C or D."""
        return {code for code, g in self.codes.items() if g in "CD"}


def run(
    subjects: Sequence[Subject],
    data: Path,
    kept: Path,
    jobs: int,
    draw: int | None = None,
    seconds: float | None = None,
) -> list[Record]:
    """Return the records of all subjects, in their order; progress goes to the standard error.

    With `draw` a radiograph gets so many of the defects that every radiograph can have, drawn by its name. After `seconds`
    no image is begun any more: those that were not looked at, of an order that follows from their names alone, are left out.
    """
    kept = kept if draw is None else kept / f"drawn-{draw}"
    done = {n: records for n, s in enumerate(subjects) if (records := _kept(kept, s)) is not None}
    missing = [n for n in range(len(subjects)) if n not in done]
    print(f"{len(done)} of {len(subjects)} images are kept in {kept}", file=sys.stderr, flush=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        missing.sort(key=lambda n: subjects[n].rng("order").random())
        asked = {pool.submit(look, subjects[n], data, draw): n for n in missing}
        try:
            for count, future in enumerate(as_completed(asked, seconds), 1):
                n = asked[future]
                done[n] = future.result()
                _keep(_place(kept, subjects[n]), subjects[n], done[n])
                if count % 20 == 0 or count == len(missing):
                    print(f"{count} of {len(missing)}", file=sys.stderr, flush=True)
        except TimeoutError:
            pool.shutdown(wait=True, cancel_futures=True)
    return [r for n in sorted(done) for r in done[n]]


def _keep(place: Path, subject: Subject, records: list[Record]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"limits": digests(package(subject.kind))[1], "records": [asdict(r) for r in records]})
    place.write_text(text, encoding="utf-8")


def package(kind: str) -> str:
    """Return which package judges images of a kind."""
    return "ct" if kind in {"ct", "not-chest"} else "cxr"


def _place(kept: Path, subject: Subject) -> Path:
    name = hashlib.sha256(repr(subject).encode()).hexdigest()[:24]
    return kept / digests(package(subject.kind))[0][:16] / f"{name}.json"


def _kept(kept: Path, subject: Subject) -> list[Record] | None:
    place = _place(kept, subject)
    if not place.is_file():
        return None
    document = json.loads(place.read_text(encoding="utf-8"))
    records = [Record(**r) for r in document["records"]]
    same = document["limits"] == digests(package(subject.kind))[1]
    return records if same else [_graded_anew(r) for r in records]


def _graded_anew(record: Record) -> Record:
    if record.refused or record.crashed:
        return record
    codes: dict[str, str] = {}
    for limit in limits(package(record.kind)):
        if limit.measure in record.measures and limit.passed(record.measures[limit.measure]):
            codes[limit.code] = max(codes.get(limit.code, "A"), limit.grade)
    return Record(**{**asdict(record), "grade": max(codes.values(), default="A"), "codes": codes})


def _tables(package: str) -> list[Path]:
    files = sorted((ROOT / "pipeline" / "quality" / package).glob("*.toml"))
    return [f for f in files if set(tomllib.loads(f.read_text(encoding="utf-8"))) == {"finding"}]


def limits(package: str) -> tuple[Any, ...]:
    """Return the default limits of ``cxr`` or ``ct``."""
    return tuple(row for f in _tables(package) for row in table(f"pipeline.quality.{package}", f.name))


@cache
def digests(package: str) -> tuple[str, str]:
    """Return the digest of all that measures images of ``cxr`` or ``ct``, and that of their limits."""
    bounds, quality = _tables(package), ROOT / "pipeline" / "quality"
    code = [*quality.glob("*.py"), *(quality / package).rglob("*"), *(ROOT / "dicom_io").glob("*.py")]
    code += [ROOT / "benchmarks" / "quality_defects.toml"]
    code += [ROOT / "benchmarks" / f"quality_{n}.py" for n in ("cases", "cases_ct", "degrade", "degrade_ct")]
    files = sorted(p for p in code if p.is_file() and "__pycache__" not in p.parts and p not in bounds)
    return _digest(p for p in files if p.suffix != ".md"), _digest(bounds)


def _digest(paths: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        total.update(path.name.encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


@cache
def _pipeline(name: str) -> Pipeline:
    made = {"cxr_quality": "CxrQualityOptions", "ct_quality": "CtQualityOptions"}[name]
    return registry.load(name, getattr(options, made)(), "cpu")


def look(subject: Subject, data: Path, draw: int | None = None) -> list[Record]:
    """Have one subject and everything that is made of it judged, through the same door as the node's."""
    with tempfile.TemporaryDirectory() as name:
        return list(_looked(subject, data, Path(name), drawn(subject, draw)))


def look_clean(subjects: Sequence[Subject], data: Path, jobs: int) -> list[Record]:
    """Have the clean image of each subject judged, and nothing else of it."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(_clean, subjects, [data] * len(subjects)))


def _clean(subject: Subject, data: Path) -> Record:
    with tempfile.TemporaryDirectory() as name:
        return next(r for r in _looked(subject, data, Path(name), frozenset()) if r.defect == "clean")


def drawn(subject: Subject, draw: int | None) -> frozenset[str]:
    """Return the defects that are left out for one radiograph: all but `draw` of those that every radiograph can have."""
    if draw is None or subject.kind != "radiograph":
        return frozenset()
    out = frozenset(str(name) for name in subject.rng("draw").permutation(EVERYWHERE)[draw:])
    return out | ({"clean-tilt"} if "tilt" in out else set())


def _looked(subject: Subject, data: Path, folder: Path, without: frozenset[str]) -> Iterator[Record]:
    if subject.kind == "ct":
        clean = quality_cases_ct.acquire(subject, data)
        for defect, scan in quality_cases_ct.with_clean(subject, clean):
            files = quality_cases_ct.write_scan(scan, clean, (subject.name, defect), folder)
            yield judged(subject, defect, "", files)
            for file in files:
                file.unlink()
    elif subject.kind == "not-chest":
        yield judged(subject, "non-chest", "", quality_cases_ct.write_other(subject, data, folder))
    else:
        for variant in quality_cases.variants(subject, data):
            if variant.defect in without:
                continue
            file = quality_cases.write_radiograph(subject, variant, folder)
            yield judged(subject, variant.defect, variant.detail, [file])


def judged(subject: Subject, defect: str, detail: str, files: list[Path]) -> Record:
    """Have the files of one image judged."""
    name = PIPELINES[package(subject.kind)]
    names = (subject.kind, subject.source, subject.patient, subject.name, defect, detail, subject.tuned)
    try:
        (study,) = group([read_instance(path) for path in files])
        pieces = registry.subjects(name, study)
        assert len(pieces) == 1, f"{subject.name}: {len(pieces)} pieces"
        pipeline = _pipeline(name)
        selection = pipeline.select(pieces[0][1])
        if selection.chosen is None:
            assert selection.reason is not None
            return Record(*names, refused=[selection.reason.code, selection.reason.klass])
        quality = pipeline.run(selection.chosen).result.quality
    except (PipelineError, DicomIOError) as error:
        return Record(*names, refused=[error.reason.code, error.reason.klass])
    except Exception as error:  # noqa: BLE001 - a benchmark counts what breaks and goes on
        return Record(*names, crashed=f"{type(error).__name__}: {error}")
    worst: dict[str, str] = {}
    for f in quality.findings:
        worst[f.reason.code] = max(worst.get(f.reason.code, "A"), f.grade)
    measures = {name: m.value for name, m in quality.measures.items()}
    return Record(
        *names, grade=quality.grade, codes=worst, measures=measures,
        not_evaluated=sorted({r.code for r in quality.not_evaluated}),
    )  # fmt: skip
