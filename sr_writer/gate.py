"""The outbound gate: nothing wrong leaves.

Every object is compared with the raw source files, read apart from everything that made it. What is compared with what:
`sr_writer.gate_object` identity, UIDs, references, marks, text and codes of any object; `sr_writer.gate_seg` geometry
and sides of segmentations; `sr_writer.gate_sr` numbers and outlines of reports.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from pydicom import dcmread
from pydicom.dataset import FileDataset

from dicom_io.model import Instance
from dicom_io.reason import Reason
from sr_writer import gate_object, gate_seg, gate_sr
from sr_writer.gate_sources import Sources, SourcesError, read_sources
from sr_writer.reasons import REASONS
from sr_writer.write import Artifact, Predecessor


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one object must not leave."""

    artifact: Artifact
    reason: Reason


def check(
    artifacts: Sequence[Artifact], sources: Sequence[Instance], known: Sequence[Predecessor] = ()
) -> tuple[Refusal, ...]:
    """Compare authored objects with the raw source files.

    Parameters
    ----------
    artifacts : Sequence[Artifact]
        The objects of one analysis; their files are read.
    sources : Sequence[Instance]
        The instances that were used; their files are read again.
    known : Sequence[Predecessor]
        Objects of earlier revisions that may be named.

    Returns
    -------
    tuple[Refusal, ...]
        One for everything that is wrong, each code once an object; empty if all may leave. Never raises for bad objects.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            raw = read_sources(sources)
        except SourcesError as error:
            return tuple(Refusal(a, error.reason) for a in artifacts)
        objects: dict[int, FileDataset] = {}
        refusals = []
        for n, artifact in enumerate(artifacts):
            try:
                objects[n] = dcmread(artifact.path)
            except Exception as error:  # noqa: BLE001 - whatever a broken file makes the reader raise is a refusal
                refusals.append(Refusal(artifact, REASONS("object-unreadable", what=type(error).__name__)))
        frames: dict[str, gate_seg.Frames] = {}
        for n in objects:
            reasons = _run(partial(_checks, n, artifacts, objects, raw, known, frames))
            refusals += [Refusal(artifacts[n], reason) for reason in reasons]
    return tuple(refusals)


def _checks(
    n: int, artifacts: Sequence[Artifact], objects: Mapping[int, FileDataset], raw: Sources,
    known: Sequence[Predecessor], frames: dict[str, gate_seg.Frames],
) -> Iterator[Reason]:  # fmt: skip
    """Yield everything wrong with object `n`; segmentations come before the reports that refer to them."""
    ds, artifact = objects[n], artifacts[n]
    others = {str(o.get("SOPInstanceUID")): str(o.get("SOPClassUID")) for k, o in objects.items() if k != n}
    others |= {p.sop_instance_uid: p.sop_class_uid for p in known}
    yield from gate_object.check(ds, raw, others, (artifact.sop_instance_uid, artifact.sop_class_uid))
    if artifact.kind == "seg":
        frames[artifact.sop_instance_uid] = gate_seg.frames_of(ds)
        yield from gate_seg.check(ds, frames[artifact.sop_instance_uid], raw)
    if artifact.kind == "sr":
        beside = {a.sop_instance_uid: objects[k] for k, a in enumerate(artifacts) if a.sop_instance_uid in frames}
        yield from gate_sr.check(ds, raw, beside, frames)


def _run(check: Callable[[], Iterator[Reason]]) -> list[Reason]:
    """Return what a check finds, each code once; a check that breaks is itself a finding."""
    found: dict[str, Reason] = {}
    try:
        for reason in check():
            found.setdefault(reason.code, reason)
    except Exception as error:  # noqa: BLE001 - an object that breaks a check must not leave, whatever broke
        found.setdefault("object-unreadable", REASONS("object-unreadable", what=type(error).__name__))
    return list(found.values())
