"""The outbound gate: nothing wrong leaves.

Every object is compared with the raw source files, read apart from everything that made it, and with what the analysis
said before anything was written. What is compared with what:

* `sr_writer.gate_object` identity, UIDs, references, text and codes of any object; `sr_writer.gate_modules` required
  attributes and marks by SOP class;
* `sr_writer.gate_seg` geometry, masks and sides of segmentations; `sr_writer.gate_place` whether lungs lie on air;
* `sr_writer.gate_sr` the tree of documents, `sr_writer.gate_numbers` their numbers, `sr_writer.gate_outline` their outlines;
* `sr_writer.gate_quality` what is said of the images: grade, findings, limits, places, key images that are bad;
* `sr_writer.gate_picture` pictures, presentation states and PDF.

What a person may let go all the same says ``gate_release.toml``.
"""

import tomllib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path

from pydicom import dcmread
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileDataset

from dicom_io.model import ImageKey, Instance
from dicom_io.reason import Reason
from sr_writer import gate_card, gate_modules, gate_object, gate_picture, gate_quality, gate_seg, gate_sr
from sr_writer.gate_claim import Claim
from sr_writer.gate_count import Recount
from sr_writer.gate_frames import frames_of
from sr_writer.gate_object import Ours
from sr_writer.gate_sources import Sources, SourcesError, image_of, read_sources
from sr_writer.gate_tree import CONTENT, named, tree
from sr_writer.reasons import REASONS
from sr_writer.write import Artifact, Predecessor

_RELEASE: Mapping[str, Mapping[str, object]] = tomllib.loads(
    files("sr_writer").joinpath("gate_release.toml").read_text(encoding="utf-8")
)
_MEASUREMENTS = "126010"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one object must not leave."""

    artifact: Artifact
    reason: Reason


@dataclass(slots=True)
class _Analysis:
    """What the checks of one analysis share."""

    raw: Sources
    known: Mapping[str, Ours]
    claim: Claim | None
    others: dict[str, Ours] = field(default_factory=dict)
    recounts: dict[str, Recount] = field(default_factory=dict)
    pictures: set[tuple[str, ImageKey]] = field(default_factory=set)
    contents: dict[tuple[bytes, str], DataElement] = field(default_factory=dict)

    def read(self, path: Path) -> FileDataset:
        """Read an object; a content tree that has the same bytes in two documents is decoded once."""
        ds = dcmread(path)
        element: object = ds.get_item(CONTENT) if CONTENT in ds else None
        if isinstance(element, RawDataElement) and element.value is not None:
            key = bytes(element.value), str(ds.get("SpecificCharacterSet"))
            if key not in self.contents:
                self.contents[key] = ds[CONTENT]
            ds[CONTENT] = self.contents[key]
        return ds

    @property
    def counted(self) -> Mapping[str, Recount]:
        """Recounts of the segmentations, by SOP Instance UID; where there is none, of what was shown on a radiograph."""
        if not self.recounts and self.claim is not None and (made := Recount.claimed(self.claim, self.raw)) is not None:
            self.recounts[""] = made
        return self.recounts


def may_be_released(code: str) -> bool:
    """Say whether a person may let an object go that was refused for the reason `code`; an unknown reason: no."""
    return bool(_RELEASE.get(code, {}).get("release", False))


def check(
    artifacts: Sequence[Artifact],
    sources: Sequence[Instance],
    known: Sequence[Predecessor] = (),
    claim: Claim | None = None,
) -> tuple[Refusal, ...]:
    """Compare authored objects with the raw source files.

    Parameters
    ----------
    artifacts : Sequence[Artifact]
        The objects of one analysis; their files are read.
    sources : Sequence[Instance]
        The instances that were used; their files are read again.
    known : Sequence[Predecessor]
        Objects of this installation beside them that may be named, or rejected.
    claim : Claim or None
        What the analysis said, taken down before it was written; None where it had no result.

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
        old = {p.sop_instance_uid: Ours(p.sop_class_uid, p.series_instance_uid) for p in known}
        about = _Analysis(raw, old, claim)
        found: dict[int, list[Reason]] = {}
        for n, artifact in enumerate(artifacts):
            try:
                about.others[artifact.sop_instance_uid] = _ours(artifact)
            except Exception as error:  # noqa: BLE001 - whatever a broken file makes the reader raise is a refusal
                found[n] = [REASONS("object-unreadable", what=type(error).__name__)]
        uids = [a.sop_instance_uid for a in artifacts]
        for n, uid in enumerate(uids):
            if uids.count(uid) > 1:
                found.setdefault(n, []).append(REASONS("uid-collides", what="SOPInstanceUID"))
        # segmentations first: what refers to them is counted in them
        order = sorted(range(len(artifacts)), key=lambda n: (_kind(artifacts[n]) != "seg", n))
        for n in order:
            if n not in found:
                found[n] = _run(partial(_checks, artifacts[n], about))
    return tuple(Refusal(artifacts[n], reason) for n in range(len(artifacts)) for reason in found[n])


def _ours(artifact: Artifact) -> Ours:
    wanted = ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"]
    ds = dcmread(artifact.path, specific_tags=wanted, stop_before_pixels=True)
    return Ours(str(ds.get("SOPClassUID")), str(ds.get("SeriesInstanceUID")))


def _kind(artifact: Artifact) -> str:
    return gate_modules.kind_of(artifact.sop_class_uid)


def _checks(artifact: Artifact, about: _Analysis) -> Iterator[Reason]:
    """Yield everything wrong with one object."""
    ds = about.read(artifact.path)
    beside = {uid: ours for uid, ours in about.others.items() if uid != artifact.sop_instance_uid} | dict(about.known)
    expected = artifact.sop_instance_uid, artifact.sop_class_uid
    yield from gate_object.check(ds, about.raw, beside, expected, result=about.claim is not None)
    match gate_modules.kind_of(str(ds.SOPClassUID)):
        case "seg":
            frames = frames_of(ds)
            about.recounts[artifact.sop_instance_uid] = Recount.of(ds, frames, about.raw, about.recounts.values())
            yield from gate_seg.check(ds, frames, about.raw, about.claim)
        case "document":
            yield from _document(ds, about)
        case "picture":
            if artifact.kind == "overlay" and "ImagePositionPatient" not in ds:
                named = [about.raw.slices.get(image_of(i)) for i in ds.get("SourceImageSequence") or ()]
                if any(place is not None and place.position for place in named):
                    yield REASONS("position-differs")
            yield from gate_picture.check_picture(ds, about.raw)
            if artifact.kind == "sc" and about.claim is not None and about.claim.graded.only:
                yield from gate_card.check(ds, about.raw, about.claim.graded)
            yield from _once(ds, about)
        case "presentation":
            yield from gate_picture.check_presentation(ds, about.raw, about.counted, about.claim)
        case "pdf":
            yield from gate_picture.check_pdf(ds, about.raw)


def _document(ds: FileDataset, about: _Analysis) -> Iterator[Reason]:
    """Check a document: one with measurements against masks and pixels, any against the words of the analysis."""
    if next(named(ds, _MEASUREMENTS), None) is not None or _title(ds) == "126000":
        yield from gate_sr.check(ds, about.raw, about.counted, about.claim)
        return
    yield from gate_sr.check_evidence(ds)
    if gate_quality.is_issue(ds):
        yield from gate_quality.check_issue(ds, None if about.claim is None else about.claim.graded, about.raw)
    if next(tree(ds), None) is None:
        yield REASONS("report-empty")
    if about.claim is not None:
        yield from gate_sr.check_texts(ds, about.claim)


def _title(ds: Dataset) -> str:
    return next((str(i.CodeValue) for i in ds.get("ConceptNameCodeSequence") or ()), "")


def _once(ds: FileDataset, about: _Analysis) -> Iterator[Reason]:
    """Check that a series of pictures shows no source image twice."""
    if "ImagePositionPatient" in ds:
        for item in ds.get("SourceImageSequence") or ():
            key = (str(ds.SeriesInstanceUID), image_of(item))
            if key in about.pictures:
                yield REASONS("uid-collides", what="SourceImageSequence")
            about.pictures.add(key)


def _run(check: Callable[[], Iterator[Reason]]) -> list[Reason]:
    """Return what a check finds, each code once; a check that breaks is itself a finding."""
    found: dict[str, Reason] = {}
    try:
        for reason in check():
            found.setdefault(reason.code, reason)
    except Exception as error:  # noqa: BLE001 - an object that breaks a check must not leave, whatever broke
        found.setdefault("object-unreadable", REASONS("object-unreadable", what=type(error).__name__))
    return list(found.values())
