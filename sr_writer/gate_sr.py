"""What must hold for a report: it has an outline for everything, and its numbers follow from the segmentation."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from pydicom.dataset import Dataset

from dicom_io.reason import Reason
from sr_writer.codes import concept
from sr_writer.gate_seg import LEFT, LUNG, RIGHT, Frames, kind_of, side_of, voxel_volume_mm3
from sr_writer.gate_sources import Sources
from sr_writer.reasons import REASONS

VOLUME_TOLERANCE = 0.001
PERCENT_TOLERANCE = 0.1
OUTLINE_TOLERANCE_PX = 1.5
_MEASUREMENTS, _GROUP = "126010", "125007"
_TRACKING_UID, _TRACKING_ID = "112040", "112039"
_SEGMENT, _VOLUME = "121191", "118565006"
_SITE, _LATERALITY = "363698007", "272741003"
_PER_MM3 = {"mm3": 1.0, "cm3": 1000.0}


def check(
    ds: Dataset, raw: Sources, segmentations: Mapping[str, Dataset], frames: Mapping[str, Frames]
) -> Iterator[Reason]:
    """Yield what is wrong between a report, its images and the segmentations beside it (by SOP Instance UID)."""
    groups = [g for c in _named(ds, _MEASUREMENTS) for g in _named(c, _GROUP)]
    if not groups:
        yield REASONS("report-empty")
    yield from _evidence(ds)
    segments = {
        str(s.TrackingUID): (str(s.TrackingID), uid, int(s.SegmentNumber))
        for uid, seg in segmentations.items()
        for s in seg.SegmentSequence
    }
    outlined: set[str] = set()
    tracked: dict[str, str] = {}
    for group in groups:
        tracking_uid = next((str(i.UID) for i in _named(group, _TRACKING_UID)), "")
        tracking_id = next((str(i.TextValue) for i in _named(group, _TRACKING_ID)), "")
        if not tracking_uid or tracked.setdefault(tracking_uid, tracking_id) != tracking_id:
            yield REASONS("tracking-differs")
        segment = segments.get(tracking_uid)
        if segment is not None and segment[0] != tracking_id:
            yield REASONS("tracking-differs")
        if _template(group) == "1410" and any(_is_outline(i, raw) for i in _children(group, "SCOORD")):
            outlined.add(tracking_uid)
        if segment is not None:
            yield from _outlines(group, frames[segment[1]], segment[2])
        yield from _sides(group, segmentations, frames, segment)
        yield from _numbers(group, segmentations, frames, segment)
    if set(tracked) - outlined:
        yield REASONS("outline-missing")
    if set(segments) - set(tracked):
        yield REASONS("tracking-differs")


def _evidence(ds: Dataset) -> Iterator[Reason]:
    """Every image reference of the tree must stand in an evidence sequence (PS3.3 section C.17.2)."""
    listed = set()
    for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
        for study in ds.get(keyword) or ():
            for series in study.ReferencedSeriesSequence:
                listed |= {str(i.ReferencedSOPInstanceUID) for i in series.ReferencedSOPSequence}
    for item in _tree(ds):
        for reference in item.get("ReferencedSOPSequence") or ():
            if str(reference.ReferencedSOPInstanceUID) not in listed:
                yield REASONS("reference-dangling", what="CurrentRequestedProcedureEvidenceSequence")


def _is_outline(item: Dataset, raw: Sources) -> bool:
    """Whether an SCOORD is a closed polyline of six points or more that lies inside a source image."""
    points = np.array(item.GraphicData, float).reshape(-1, 2)
    references = [r for child in _children(item, "IMAGE") for r in child.ReferencedSOPSequence]
    places = [raw.slices.get(str(r.ReferencedSOPInstanceUID)) for r in references]
    if item.GraphicType != "POLYLINE" or len(places) != 1 or places[0] is None or len(points) < 6:
        return False
    rows, columns = places[0].shape
    inside = (points >= 0).all() and (points <= (columns, rows)).all()
    return bool(inside and np.allclose(points[0], points[-1], atol=0.01))


def _outlines(group: Dataset, frames: Frames, segment: int) -> Iterator[Reason]:
    """Check that outlines lie within the box around their segment; with rows and columns confused they do not."""
    for item in _children(group, "SCOORD"):
        points = np.array(item.GraphicData, float).reshape(-1, 2)
        uid = str(next(_children(item, "IMAGE")).ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        frame = frames.index.get((segment, uid))
        plane = None if frame is None else frames.plane(frame)
        if plane is None or not plane.any():
            yield REASONS("outline-differs")
            continue
        rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
        low, high = np.array([columns[0], rows[0]]), np.array([columns[-1] + 1, rows[-1] + 1])
        if (points < low - OUTLINE_TOLERANCE_PX).any() or (points > high + OUTLINE_TOLERANCE_PX).any():
            yield REASONS("outline-differs")


def _sides(
    group: Dataset, segmentations: Mapping[str, Dataset], frames: Mapping[str, Frames],
    segment: tuple[str, str, int] | None,
) -> Iterator[Reason]:  # fmt: skip
    """Check the side that a group claims: against its segment, else against the lung nearest to its outlines."""
    claimed = {str(i.ConceptCodeSequence[0].CodeValue) for s in _named(group, _SITE) for i in _named(s, _LATERALITY)}
    if not claimed & {LEFT, RIGHT}:
        return
    if segment is not None:
        shown = side_of(segmentations[segment[1]].SegmentSequence[segment[2] - 1])
        if shown and claimed != {shown}:
            yield REASONS("side-differs")
        return
    for item in _children(group, "SCOORD"):
        nearest = _nearest_lung(item, segmentations, frames)
        if nearest and claimed != {nearest}:
            yield REASONS("side-differs")


def _nearest_lung(outline: Dataset, segmentations: Mapping[str, Dataset], frames: Mapping[str, Frames]) -> str:
    """Return the side of the lung whose mean column on the outline's slice is nearest; empty without both lungs there."""
    image = str(next(_children(outline, "IMAGE")).ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
    column = float(np.array(outline.GraphicData, float).reshape(-1, 2)[:, 0].mean())
    away = {}
    for uid, seg in segmentations.items():
        for lung in (s for s in seg.SegmentSequence if kind_of(s) == LUNG and side_of(s)):
            frame = frames[uid].index.get((int(lung.SegmentNumber), image))
            columns = () if frame is None else np.flatnonzero(frames[uid].plane(frame).any(axis=0))
            if len(columns):
                away[side_of(lung)] = abs(float(np.mean(columns)) - column)
    return min(away, key=lambda side: away[side]) if {LEFT, RIGHT} <= set(away) else ""


def _numbers(
    group: Dataset, segmentations: Mapping[str, Dataset], frames: Mapping[str, Frames],
    expected: tuple[str, str, int] | None,
) -> Iterator[Reason]:  # fmt: skip
    for item in _children(group, "NUM"):
        given = bool(item.get("MeasuredValueSequence"))
        if (given and not np.isfinite(_value(item))) or not (given or item.get("NumericValueQualifierCodeSequence")):
            yield REASONS("number-differs", what=_name(item).CodeMeaning)
    for image in _named(group, _SEGMENT):
        reference = image.ReferencedSOPSequence[0]
        uid, number = str(reference.ReferencedSOPInstanceUID), int(reference.ReferencedSegmentNumber)
        if uid not in segmentations:
            yield REASONS("reference-dangling", what="Referenced Segment")
            continue
        if expected is None or expected[1:] != (uid, number):
            yield REASONS("tracking-differs")
        if not _volume_follows(group, frames[uid].voxels(number) * voxel_volume_mm3(segmentations[uid])):
            yield REASONS("number-differs", what="Volume")
    yield from _shares(group)


def _volume_follows(group: Dataset, volume_mm3: float) -> bool:
    for item in _named(group, _VOLUME):
        if item.get("MeasuredValueSequence"):
            factor = _PER_MM3.get(item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue, 0.0)
            if abs(_value(item) * factor - volume_mm3) > VOLUME_TOLERANCE * volume_mm3:
                return False
    return True


def _shares(group: Dataset) -> Iterator[Reason]:
    """Check that the share of opacities is their volume over the volume of the same region."""
    values = {}
    for item in _children(group, "NUM"):
        if item.get("MeasuredValueSequence"):
            values[_name(item).CodeValue] = _value(item)
    whole, part = values.get(_VOLUME), values.get(concept("opacity_volume").value)
    share = values.get(concept("opacity_percent").value)
    if whole and part is not None and share is not None and abs(100 * part / whole - share) > PERCENT_TOLERANCE:
        yield REASONS("number-differs", what=concept("opacity_percent").meaning)


def _value(item: Dataset) -> float:
    value = item.MeasuredValueSequence[0]
    return float(value.get("FloatingPointValue", value.NumericValue))


def _name(item: Dataset) -> Dataset:
    name: Dataset = item.ConceptNameCodeSequence[0]
    return name


def _template(group: Dataset) -> str:
    templates: Sequence[Dataset] = group.get("ContentTemplateSequence") or ()
    return str(templates[0].TemplateIdentifier) if templates else ""


def _named(item: Dataset, code: str) -> Iterator[Dataset]:
    for child in item.get("ContentSequence") or ():
        if "ConceptNameCodeSequence" in child and _name(child).CodeValue == code:
            yield child


def _children(item: Dataset, value_type: str) -> Iterator[Dataset]:
    for child in item.get("ContentSequence") or ():
        if child.ValueType == value_type:
            yield child


def _tree(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence") or ():
        yield child
        yield from _tree(child)
