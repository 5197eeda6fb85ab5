"""A folder of images in, limits of its devices out: what is read and measured, and the file that a person reviews."""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import structlog

from dicom_io.device import Device
from dicom_io.discover import discover
from dicom_io.elements import text
from dicom_io.errors import DicomIOError, UnreadableError
from dicom_io.model import Study, group
from dicom_io.read import read_instance
from node.quality.learn import Bound, Image, Learned, learn, policy
from pipeline import registry
from pipeline.api import Pipeline
from pipeline.errors import PipelineError
from pipeline.quality.limits import SCHEMA as LIMITS_SCHEMA
from pipeline.quality.limits import apart

SCHEMA: Final = "pacs-ai-node/quality-calibrate/1"

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Calibration:
    """What came of a folder.

    Parameters
    ----------
    learned : tuple[Learned, ...]
        By pipeline and device.
    images, studies, patients : int
        How many pieces (series or images) were measured, of whom.
    files : int
        Images that were read.
    refused : Mapping[str, int]
        Why pieces were not measured, and files not read: code to number.
    inputs : str
        Digest of everything that was read.
    """

    learned: tuple[Learned, ...]
    images: int
    studies: int
    patients: int
    files: int
    refused: Mapping[str, int]
    inputs: str

    @property
    def changes(self) -> tuple[tuple[str, Bound], ...]:
        """Every bound that differs from the one that is shipped, with its pipeline."""
        return tuple((of.pipeline, b) for of in self.learned for b in of.bounds if b.bound is not None)


def calibrate(
    paths: Sequence[Path], load: Callable[[str], Pipeline], least: int, tell: Callable[[str, int, int], None]
) -> Calibration:
    """Measure everything below `paths` by the pipelines that grade images, and learn from it.

    Parameters
    ----------
    paths : Sequence[Path]
        Folders, zip files or files.
    load : callable
        Name of a pipeline to pipeline, with the limits that are shipped.
    least : int
        Fewest images of a device to learn from.
    tell : callable
        Called with what is being done, how many are done, and how many there are (0: unknown).
    """
    refused: Counter[str] = Counter()
    images = []
    with tempfile.TemporaryDirectory(prefix="pacs-ai-node-calibrate-") as scratch:
        files = _found(paths, Path(scratch), refused, tell)
        studies: dict[str, list[_File]] = {}
        for file in files:
            studies.setdefault(file.study, []).append(file)
        for number, uid in enumerate(sorted(studies)):
            for name, subject, piece in _pieces(studies[uid], refused):
                tell(f"measured by {name}", number, len(studies))
                measured = _measured(load(name), subject, piece, refused)
                if measured is not None:
                    images.append(measured)
        tell("measured", len(studies), len(studies))
    said = "\n".join(sorted(f"{f.instance} {f.digest}" for f in files))
    return Calibration(
        learn(images, least), len(images), len({i.study for i in images}), len({i.patient for i in images}),
        len(files), dict(sorted(refused.items())), f"sha256:{hashlib.sha256(said.encode()).hexdigest()}",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _File:
    """What is kept of a file until its study's turn: headers of a site's images would fill the memory."""

    path: Path
    study: str
    instance: str
    digest: str


def _found(
    paths: Sequence[Path], scratch: Path, refused: Counter[str], tell: Callable[[str, int, int], None]
) -> list[_File]:
    kept: dict[str, _File] = {}
    for count, found in enumerate(discover(paths, scratch), start=1):
        tell("files read", count, 0)
        one = found.instance
        if one is not None:
            file = _File(one.path, one.study_instance_uid, one.sop_instance_uid, one.digest)
            kept.setdefault(file.instance, file)
        elif found.reason is not None and not found.skipped:
            refused[found.reason.code] += 1
    return list(kept.values())


def _pieces(files: Sequence[_File], refused: Counter[str]) -> Iterator[tuple[str, str, Study]]:
    """Yield what pipelines take of the files of one study, with their names."""
    instances = []
    for file in files:
        try:
            instances.append(read_instance(file.path))
        except UnreadableError as error:  # it was readable a moment ago
            refused[error.reason.code] += 1
    for study in group(instances):
        for name in registry.graded():
            for uid, piece in registry.subjects(name, study):
                yield name, uid, piece


def _measured(pipeline: Pipeline, uid: str, piece: Study, refused: Counter[str]) -> Image | None:
    """Measure one piece; what is not its pipeline's, or cannot be judged, is counted and not learned from."""
    try:
        selection = pipeline.select(piece)
        if selection.chosen is None:
            refused[selection.reason.code if selection.reason else "-"] += 1
            return None
        quality = pipeline.run(selection.chosen).result.quality
    except (PipelineError, DicomIOError) as error:
        refused[error.reason.code] += 1
        return None
    except Exception:  # noqa: BLE001 - one odd image among thousands; it is counted, and the log says which kind
        _log.exception("not measured", pipeline=pipeline.name, subject=hashlib.sha256(uid.encode()).hexdigest()[:16])
        refused["pipeline-crashed"] += 1
        return None
    header = selection.chosen.instances[0].header
    study = _hashed(piece.study_instance_uid)
    patient = "\0".join(text(header, keyword) for keyword in ("IssuerOfPatientID", "PatientID"))
    return Image(
        pipeline.name, Device.of(header), apart(header), study,
        _hashed(patient) if patient.strip("\0") else study, quality.grade,
        {name: m.value for name, m in quality.measures.items() if m.unit},
    )  # fmt: skip


def _hashed(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def document(found: Calibration, file: Path, least: int, version: str) -> dict[str, Any]:
    """Return ``pacs-ai-node/quality-calibrate/1``."""
    return {
        "schema": SCHEMA, "version": version, "file": str(file), "files": found.files, "images": found.images,
        "studies": found.studies, "patients": found.patients, "least": least, "inputs": found.inputs,
        "refused": dict(found.refused), "changed": len(found.changes),
        "devices": [_device(of) for of in found.learned],
    }  # fmt: skip


def _device(of: Learned) -> dict[str, Any]:
    return {
        "pipeline": of.pipeline, "device": of.device.as_json(), "images": of.images, "studies": of.studies,
        "patients": of.patients, "not_usable": of.left_out,
        "measures": [
            {
                "measure": measure, "by": name or None, "is": value, "n": s.count, "patients": s.patients, "mean": round(s.mean, 4),
                "sd": round(s.deviation, 4), "percentiles": {f"{p:g}": round(v, 4) for p, v in s.percentiles.items()},
            }
            for (measure, name, value), s in of.spreads.items()
        ],
        "limits": [
            {
                "code": b.row.code, "grade": b.row.grade, "side": b.row.beyond, "shipped": b.row.bound, "bound": b.bound,
                "when": dict(b.when), "why": b.why,
            }
            for b in of.bounds
        ],
    }  # fmt: skip


def limits_file(found: Calibration, least: int, now: datetime, by: str) -> str:
    """Return the text of the file that a person reviews; the same for the same images, time and name."""
    head = f"""\
# Limits of image quality, learned from images of this site. Review every line, put your name into `reviewed_by`, and name
# this file in [pipeline.ct_quality] or [pipeline.cxr_quality]: limits = "...". A row of [[limit]] that you delete is as
# shipped. Images that are bad as a rule make limits that let bad images pass: look at the numbers, not only at the limits.
#
# Learned from {found.images} pieces (series of CT, single radiographs) of {found.studies} studies and {found.patients} patients, counted by a hash;
# from {found.files} files. Fewer than {least} images or {policy()["least_patients"]} patients of a device change nothing. Grade D was left out.
schema = {json.dumps(LIMITS_SCHEMA)}
made = {json.dumps(f"{now:%Y-%m-%dT%H:%M:%SZ}")}
by = {_quoted(by)}
inputs = {json.dumps(found.inputs)}
images = {found.images}
studies = {found.studies}
patients = {found.patients}
reviewed_by = ""
"""
    refused = "".join(f"# Not measured: {code}: {count}\n" for code, count in found.refused.items())
    return "\n".join([head + refused, *(_block(of) for of in found.learned)])


def _block(of: Learned) -> str:
    who = ", ".join(v for v in of.device.as_json().values() if v) or "device not named"
    lines = [
        (
            f"# {_plain(who)} ({of.pipeline}): {of.images} images of {of.studies} studies, {of.patients} patients; "
            f"{of.left_out} not usable (grade D)"
        )
    ]
    for (measure, name, value), s in of.spreads.items():
        values = ", ".join(f"{p:g} %: {v:.4g}" for p, v in s.percentiles.items())
        seen = f" ({name} {_plain(value) or 'not said'})" if name else ""
        lines.append(f"#   {measure}{seen}: n {s.count}, mean {s.mean:.4g}, SD {s.deviation:.4g}; {values}")
    return "\n".join([*lines, *(_row(of.pipeline, b) for b in of.bounds), ""])


def _row(pipeline: str, b: Bound) -> str:
    shipped = f"{b.row.code} ({b.row.grade}), {b.row.beyond} {b.row.bound:g}"
    if b.bound is None:
        about = _plain(", ".join(b.when.values())) or "any device"
        return f"#   not changed: {shipped}, {about}: {b.why}"
    when = ", ".join(f"{name} = {_quoted(value)}" for name, value in b.when.items())
    return (
        f'\n[[limit]]\npipeline = "{pipeline}"\ncode = "{b.row.code}"\ngrade = "{b.row.grade}"\n'
        f"{b.row.beyond} = {b.bound!r}  # shipped: {b.row.bound:g}; {b.why}\nwhen = {{ {when} }}"
    )


def _quoted(value: str) -> str:
    """Return a basic string of TOML."""
    return json.dumps(value).replace("\x7f", "\\u007f")


def _plain(value: str) -> str:
    """Return what may stand in a comment of TOML."""
    return "".join(character if character.isprintable() else "?" for character in value)
