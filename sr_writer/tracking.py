"""Tracking over the revisions of a study: what is found again keeps its tracking identifier and its Tracking UID.

What is there to go by are the objects of the revision before, and of those before it back to the last with a segmentation:
what a negative result or a card comes between is the same thing all the same. A part of the body or the image quality is the same thing if
it has the same name. A finding is the same if it has the same code and shares more than half of the voxels that either covers
with a segment of the old segmentation, on the slices that both revisions have; no two findings can do so with one segment.
Everything else is new, and gets an identifier that the revision before did not use. Without the old objects everything is.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array

from dicom_io.model import ImageKey
from pipeline.result import Finding, Mask, Result, Segment
from sr_writer.seg_frames import unpacked

SAME = 0.5
"""Share of the voxels of two masks together that must be in both."""
_TRACKING_ID, _TRACKING_UID = "112039", "112040"
_NUMBERED = re.compile(r"(.*\D)(\d+)")


@dataclass(slots=True)
class _Shared:
    """Voxels of an old segment and of a new finding, and of both at once, on common slices."""

    old: int = 0
    new: int = 0
    both: int = 0

    @property
    def same(self) -> bool:
        return self.both > SAME * (self.old + self.new - self.both)


def follow(result: Result, *earlier: Iterable[Path]) -> tuple[Result, Mapping[str, str]]:
    """Give what was there in an earlier revision the name that it had.

    Parameters
    ----------
    result : Result
        What the pipeline said; it names its findings by number.
    *earlier : Iterable[Path]
        Objects of earlier revisions, the latest first: of the reports the names are read, of the segmentations the masks.
        Others, and what cannot be read, are passed over.

    Returns
    -------
    Result
        The same with the tracking identifiers of before, also in the labels of the segments.
    Mapping[str, str]
        Tracking identifier to Tracking UID of everything that was there before.
    """
    known: dict[str, str] = {}
    again: dict[str, str] = {}
    for revision in earlier:
        objects = [ds for path in revision if (ds := _read(path)) is not None]
        known = {name: uid for ds in objects if ds.Modality == "SR" for name, uid in _pairs(ds)} | known
        for ds in objects:
            if ds.Modality == "SEG":
                found = _found_again(ds, result, known)
                again |= {new: old for new, old in found.items() if new not in again and old not in again.values()}
    if not known:
        return result, {}
    names = _names(result.findings, again, known)
    findings = tuple(replace(f, tracking_id=names[f.tracking_id]) for f in result.findings)
    segments = tuple(_named(s, names.get(s.tracking_id, s.tracking_id)) for s in result.segments)
    return replace(result, findings=findings, segments=segments), known


def _read(path: Path) -> Dataset | None:
    """Return a report or segmentation; None if it is neither, or is gone or broken, which is no reason to have no result."""
    try:
        ds = dcmread(path, defer_size=1 << 20)
    except Exception:  # noqa: BLE001 - whatever a broken file makes the reader raise
        return None
    return ds if ds.get("Modality") in {"SR", "SEG"} else None


def _pairs(item: Dataset) -> Iterator[tuple[str, str]]:
    """Yield tracking identifier and UID of every group of a report."""
    children = item.get("ContentSequence") or ()
    said = {str(c.ConceptNameCodeSequence[0].CodeValue): c for c in children if c.get("ConceptNameCodeSequence")}
    if _TRACKING_ID in said and _TRACKING_UID in said:
        yield str(said[_TRACKING_ID].TextValue), str(said[_TRACKING_UID].UID)
    for child in children:
        yield from _pairs(child)


def _found_again(ds: Dataset, result: Result, known: Mapping[str, str]) -> dict[str, str]:
    """Return the new tracking identifier of each finding of an old segmentation that is there again, and its old one."""
    old = {
        int(s.SegmentNumber): s
        for s in ds.SegmentSequence
        if known.get(str(s.get("TrackingID"))) == s.get("TrackingUID") and _NUMBERED.fullmatch(str(s.TrackingID))
    }
    new = [f for f in result.findings if f.segment_number is not None and _NUMBERED.fullmatch(f.tracking_id)]
    masks = {f.tracking_id: result.segments[(f.segment_number or 0) - 1].mask for f in new}
    counts = {(n, f.tracking_id): _Shared() for n, s in old.items() for f in new if _kind(s) == f.code.value}
    places = {uid: z for z, uid in enumerate(result.geometry.images)}
    common = {
        str(i.ReferencedSOPInstanceUID) for r in ds.ReferencedSeriesSequence for i in r.ReferencedInstanceSequence
    }
    slices = {z for key, z in places.items() if key.sop_instance_uid in common}
    for (_, name), shared in counts.items():
        shared.new = sum(int(np.count_nonzero(_plane(masks[name], z))) for z in slices)
    for z, number, plane in _planes(ds, places):
        for (n, name), shared in counts.items():
            if n == number:
                shared.old += int(np.count_nonzero(plane))
                shared.both += int(np.count_nonzero(plane[masks[name].slices[1:]] & _plane(masks[name], z)))
    return {name: str(old[n].TrackingID) for (n, name), shared in counts.items() if shared.same}


def _planes(ds: Dataset, places: Mapping[ImageKey, int]) -> Iterator[tuple[int, int, npt.NDArray[np.bool_]]]:
    """Yield slice index, segment number and plane of every frame of an old segmentation on a slice that is still there."""
    shape = (int(ds.Rows), int(ds.Columns))
    cells = None if ds.SegmentationType == "BINARY" else pixel_array(ds).reshape(-1, *shape)
    for k, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        z = places.get(_source(group.DerivationImageSequence[0].SourceImageSequence[0]))
        if z is None:
            continue
        frame = unpacked(ds.PixelData, shape, k) if cells is None else cells[k]
        if ds.SegmentationType == "LABELMAP":
            yield from ((z, int(n), frame == n) for n in np.unique(frame) if n)
        else:
            yield z, int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber), frame != 0


def _source(item: Dataset) -> ImageKey:
    return ImageKey(str(item.ReferencedSOPInstanceUID), int(item.get("ReferencedFrameNumber") or 0))


def _plane(mask: Mask, z: int) -> npt.NDArray[np.bool_]:
    """Return slice `z` of a mask within its box; False if it does not reach there."""
    k = z - mask.offset[0]
    return mask.box[k] != 0 if 0 <= k < len(mask.box) else np.zeros(mask.box.shape[1:], np.bool_)


def _kind(segment: Dataset) -> str:
    return str(segment.SegmentedPropertyTypeCodeSequence[0].CodeValue)


def _names(findings: Iterable[Finding], again: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """Return what each finding is called from now on; a number once used stands for one thing."""
    last: dict[str, int] = {}
    for name in known:
        if numbered := _NUMBERED.fullmatch(name):
            last[numbered[1]] = max(last.get(numbered[1], 0), int(numbered[2]))
    out = {}
    for finding in findings:
        numbered = _NUMBERED.fullmatch(finding.tracking_id)
        if finding.tracking_id in again or numbered is None:
            out[finding.tracking_id] = again.get(finding.tracking_id, finding.tracking_id)
        else:
            last[numbered[1]] = last.get(numbered[1], 0) + 1
            out[finding.tracking_id] = f"{numbered[1]}{last[numbered[1]]}"
    return out


def _named(segment: Segment, name: str) -> Segment:
    """Return a segment under another tracking identifier, whose number stands in its labels too."""
    before, after = _NUMBERED.fullmatch(segment.tracking_id), _NUMBERED.fullmatch(name)
    if before is None or after is None or name == segment.tracking_id:
        return segment
    number = re.compile(rf"(?<!\d){before[2]}(?!\d)")
    label = {tag: number.sub(after[2], text) for tag, text in segment.label.items()}
    return replace(segment, tracking_id=name, label=label)
