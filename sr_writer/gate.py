"""The outbound gate: nothing wrong leaves.

Every object is compared with the raw source files, read apart from everything that made it. What is compared with what:
`sr_writer.gate_object` identity, UIDs, references, marks, text and codes of any object; `sr_writer.gate_seg` geometry
and sides of segmentations; `sr_writer.gate_sr` numbers and outlines of reports.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

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
        for n, ds in objects.items():
            others = {
                str(objects[k].get("SOPInstanceUID")): str(objects[k].get("SOPClassUID")) for k in objects if k != n
            }
            others |= {p.sop_instance_uid: p.sop_class_uid for p in known}
            refusals += [Refusal(artifacts[n], reason) for reason in _distinct(ds, raw, others, artifacts[n])]
        refusals += _reports(artifacts, objects, raw)
    return tuple(refusals)


def _distinct(ds: FileDataset, raw: Sources, others: dict[str, str], artifact: Artifact) -> list[Reason]:
    """Return everything wrong with one object by itself, each code once."""
    checks: list[Callable[[], Iterator[Reason]]] = [
        lambda: gate_object.check(ds, raw, others, (artifact.sop_instance_uid, artifact.sop_class_uid))
    ]
    if artifact.kind == "seg":
        checks.append(lambda: gate_seg.check(ds, raw))
    return _run(checks)


def _reports(artifacts: Sequence[Artifact], objects: dict[int, FileDataset], raw: Sources) -> list[Refusal]:
    """Return everything wrong between reports and the segmentation beside them."""
    segmentations = {str(ds.get("SOPInstanceUID")): ds for n, ds in objects.items() if artifacts[n].kind == "seg"}
    out = []
    for n, ds in objects.items():
        if artifacts[n].kind == "sr":
            reasons = _run([lambda ds=ds: gate_sr.check(ds, raw, segmentations)])  # type: ignore[misc]
            out += [Refusal(artifacts[n], reason) for reason in reasons]
    return out


def _run(checks: Sequence[Callable[[], Iterator[Reason]]]) -> list[Reason]:
    found: dict[str, Reason] = {}
    for run in checks:
        try:
            for reason in run():
                found.setdefault(reason.code, reason)
        except Exception as error:  # noqa: BLE001 - an object that breaks a check must not leave, whatever broke
            found.setdefault("object-unreadable", REASONS("object-unreadable", what=type(error).__name__))
    return list(found.values())
