"""What must hold for a report: it has an outline for everything, and its numbers follow from the segmentation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from dicom_io.model import ImageKey
from dicom_io.reason import Reason
from sr_writer import gate_lung, gate_quality, gate_suggestion
from sr_writer.gate_claim import Claim, Numbers, Site
from sr_writer.gate_count import Recount
from sr_writer.gate_frames import Runs
from sr_writer.gate_numbers import check_claim, check_forms, check_region, check_segment, measured
from sr_writer.gate_outline import fits
from sr_writer.gate_seg import LEFT, RIGHT, side_of
from sr_writer.gate_sources import Sources, image_of
from sr_writer.gate_tree import children, named, template, tree
from sr_writer.reasons import REASONS

_MEASUREMENTS, _GROUP = "126010", "125007"
_TRACKING_UID, _TRACKING_ID = "112040", "112039"
_SEGMENT, _FINDING = "121191", "121071"
_SITE, _LATERALITY, _MODIFIER = "363698007", "272741003", "106233006"
_REGIONAL = "91723000"
"""Anatomical Structure: the category of a group that is about the region itself."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """The segment that shows what a group is about."""

    tracking_id: str
    seg: str
    number: int


@dataclass(frozen=True, slots=True, eq=False)
class _Thing:
    """One measurement group with what it says that it is about."""

    group: Dataset
    tracking_uid: str
    tracking_id: str
    site: Site
    finding: str
    regional: bool
    segment: _Shown | None


def check(ds: Dataset, raw: Sources, recounts: Mapping[str, Recount], claim: Claim | None) -> Iterator[Reason]:
    """Yield what is wrong between a report, its images and the segmentations beside it (by SOP Instance UID)."""
    groups = [g for c in named(ds, _MEASUREMENTS) for g in named(c, _GROUP)]
    if not groups:
        yield REASONS("report-empty")
    counted = sum(_numbers_in(g) for g in groups)
    if sum(item.ValueType == "NUM" for item in tree(ds)) > counted:
        yield REASONS("number-differs", what="Measurement Group")
    yield from check_evidence(ds)
    # an analysis may have several encodings of its segmentation: this report is about the one whose segments it names
    measured_in = {_named_uid(image) for group in groups for image in named(group, _SEGMENT)}
    mentioned = measured_in or {_named_uid(item) for item in tree(ds) if item.get("ReferencedSOPSequence")}
    beside = {uid: r for uid, r in recounts.items() if uid in mentioned} or dict(list(recounts.items())[:1])
    named_so = {_tracking(g)[1]: _tracking(g)[0] for g in groups}
    segments = {
        str(s.get("TrackingUID") or named_so.get(str(s.TrackingID), s.TrackingID)): _Shown(
            str(s.TrackingID), uid, int(s.SegmentNumber)
        )
        for uid, r in beside.items()
        for s in r.ds.SegmentSequence
        if int(s.SegmentNumber) > 0
    }
    things = [_thing(group, segments) for group in groups]
    for thing in things:
        yield from _one(thing, beside, claim)
    yield from _all(things, raw, segments)
    suggested, recount = None if claim is None else claim.suggested, next(iter(beside.values()), None)
    yield from gate_suggestion.check_report(groups, suggested, recount)
    if recount is not None:
        numbered = {t.site: t.group for t in things if t.regional and measured(t.group)}
        yield from gate_lung.check_zones(numbered, recount)
    if claim is not None:
        yield from gate_quality.check_report(groups, claim.graded, raw)
        yield from _left_out(claim, {t.tracking_uid for t in things if measured(t.group)})
        yield from check_texts(ds, claim)


def _numbers_in(group: Dataset) -> int:
    """Return how many numbers a group has: its own, and the limits below them."""
    return len(list(children(group, "NUM"))) + gate_quality.limits_in(group) + gate_suggestion.limits_in(group)


def _named_uid(item: Dataset) -> str:
    """Return the SOP Instance UID that a content item refers to."""
    return str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)


def _one(thing: _Thing, recounts: Mapping[str, Recount], claim: Claim | None) -> Iterator[Reason]:
    """Check one measurement group."""
    if thing.segment is not None and thing.segment.tracking_id != thing.tracking_id:
        yield REASONS("tracking-differs")
    yield from _outlines(thing, recounts)
    yield from _sides(thing, recounts)
    yield from _segment_named(thing, recounts)
    if claim is not None and thing.finding != claim.kinds.get(thing.tracking_id, thing.finding):
        yield REASONS("tracking-differs")
    about_anatomy = thing.segment is not None or thing.regional
    yield from check_forms(thing.group, once=about_anatomy, shares=not gate_quality.about_images(thing.group))
    yield from _recounted(thing, recounts)
    if claim is not None and (about_anatomy or thing.tracking_uid in claim.findings):
        if measured(thing.group):
            yield from check_claim(thing.group, _claims(thing, claim))
    elif claim is not None and measured(thing.group) and not _apart(thing.group):
        yield REASONS("number-differs", what="Measurement Group")


def _apart(group: Dataset) -> bool:
    """Say whether the numbers of a group are held against the document elsewhere."""
    return gate_quality.about_images(group) or gate_suggestion.question(group) is not None


def _all(things: Sequence[_Thing], raw: Sources, segments: Mapping[str, _Shown]) -> Iterator[Reason]:
    """Check what the groups must have together: one identity each, a group for every segment, outlines."""
    tracked: dict[str, str] = {}
    for thing in things:
        if not thing.tracking_uid or tracked.setdefault(thing.tracking_uid, thing.tracking_id) != thing.tracking_id:
            yield REASONS("tracking-differs")
    outlined = {
        t.tracking_uid
        for t in things
        if template(t.group) == "1410" and any(_is_outline(i, raw) for i in children(t.group, "SCOORD"))
    }
    # the pure tree of AIR has no outlines but of places; viewers that need them need one of everything
    places = {t.tracking_uid for t in things if template(t.group) == "1410" and gate_quality.about_images(t.group)}
    if outlined - places and set(tracked) - outlined:
        yield REASONS("outline-missing")
    if set(segments) - set(tracked):
        yield REASONS("tracking-differs")


def _tracking(group: Dataset) -> tuple[str, str]:
    """Return tracking UID and tracking identifier of a group."""
    uid = next((str(i.UID) for i in named(group, _TRACKING_UID)), "")
    return uid, next((str(i.TextValue) for i in named(group, _TRACKING_ID)), "")


def _thing(group: Dataset, segments: Mapping[str, _Shown]) -> _Thing:
    uid, tracking_id = _tracking(group)
    site: Site = ("", "", "")
    for item in named(group, _SITE):
        inner = [next((_code(i) for i in named(item, c)), "") for c in (_LATERALITY, _MODIFIER)]
        site = (_code(item), inner[0], inner[1])
        break
    finding = next((_code(i) for i in named(group, _FINDING)), "")
    return _Thing(group, uid, tracking_id, site, finding, finding == site[0] != "", segments.get(uid))


def _code(item: Dataset) -> str:
    return str(item.ConceptCodeSequence[0].CodeValue)


def _claims(thing: _Thing, claim: Claim) -> tuple[Numbers, ...]:
    if thing.tracking_uid in claim.findings:
        return (claim.findings[thing.tracking_uid],)
    return claim.regions.get(thing.site, ()) if thing.regional else ()


def _left_out(claim: Claim, numbered: set[str]) -> Iterator[Reason]:
    """Check that every finding with numbers stands in the report with numbers."""
    if {uid for uid, numbers in claim.findings.items() if numbers} - numbered:
        yield REASONS("number-differs", what="Measurement Group")


def check_texts(ds: Dataset, claim: Claim) -> Iterator[Reason]:
    """Check that every number in a sentence, and every grade of the images, is the document's."""
    yield from gate_quality.check_texts(ds, claim.graded)
    yield from gate_suggestion.check_texts(ds, claim.suggested)
    for item in tree(ds):
        odd = claim.allows(str(item.TextValue)) if item.ValueType == "TEXT" else None
        if odd is not None:
            yield REASONS("number-differs", what=odd)


def check_evidence(ds: Dataset) -> Iterator[Reason]:
    """Every reference of the tree must stand in an evidence sequence (PS3.3 section C.17.2)."""
    listed = set()
    for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
        for study in ds.get(keyword) or ():
            for series in study.ReferencedSeriesSequence:
                listed |= {str(i.ReferencedSOPInstanceUID) for i in series.ReferencedSOPSequence}
    for item in tree(ds):
        for reference in item.get("ReferencedSOPSequence") or ():
            if str(reference.ReferencedSOPInstanceUID) not in listed:
                yield REASONS("reference-dangling", what="CurrentRequestedProcedureEvidenceSequence")


def _is_outline(item: Dataset, raw: Sources) -> bool:
    """Whether an SCOORD is a closed polyline of six points or more that lies inside a source image."""
    points = _points(item)
    references = [r for child in children(item, "IMAGE") for r in child.ReferencedSOPSequence]
    places = [raw.slices.get(image_of(r)) for r in references]
    if item.GraphicType != "POLYLINE" or len(places) != 1 or places[0] is None or len(points) < 6:
        return False
    rows, columns = places[0].shape
    inside = (points >= 0).all() and (points <= (columns, rows)).all()
    return bool(inside and np.allclose(points[0], points[-1], atol=0.01))


def _points(item: Dataset) -> npt.NDArray[np.float64]:
    return np.array(item.GraphicData, float).reshape(-1, 2)


def _image(outline: Dataset) -> ImageKey:
    return image_of(next(children(outline, "IMAGE")).ReferencedSOPSequence[0])


def _outlines(thing: _Thing, recounts: Mapping[str, Recount]) -> Iterator[Reason]:
    """Check that every outline is that of the segment, or of the region of the lungs, that its group is about."""
    for item in children(thing.group, "SCOORD"):
        image = _image(item)
        if thing.segment is not None:
            runs = recounts[thing.segment.seg].frames.runs.get((thing.segment.number, image))
            masks: tuple[Runs, ...] = () if runs is None else (runs,)
        elif (thing.regional or gate_suggestion.question(thing.group)) and any(
            r.site(thing.site) for r in recounts.values()
        ):
            masks = next(r for r in recounts.values() if r.site(thing.site)).covers(thing.site, image)
        else:
            continue
        if not any(fits(_points(item), mask) for mask in masks):
            yield REASONS("outline-differs")


def _recounted(thing: _Thing, recounts: Mapping[str, Recount]) -> Iterator[Reason]:
    if thing.segment is not None:
        yield from check_segment(thing.group, recounts[thing.segment.seg], thing.segment.number)
        if thing.regional:
            yield from _region(thing, recounts[thing.segment.seg])
    elif thing.regional:
        for recount in list(recounts.values())[:1]:
            yield from _region(thing, recount)


def _region(thing: _Thing, recount: Recount) -> Iterator[Reason]:
    counts = recount.site(thing.site)
    if counts:
        yield from check_region(thing.group, recount, counts)
        yield from gate_lung.check(thing.group, recount, thing.site)


def _segment_named(thing: _Thing, recounts: Mapping[str, Recount]) -> Iterator[Reason]:
    for image in named(thing.group, _SEGMENT):
        reference = image.ReferencedSOPSequence[0]
        numbers = reference.ReferencedSegmentNumber
        uid, number = str(reference.ReferencedSOPInstanceUID), int(numbers if isinstance(numbers, int) else numbers[0])
        if uid not in recounts:
            yield REASONS("reference-dangling", what="Referenced Segment")
        elif thing.segment is None or (thing.segment.seg, thing.segment.number) != (uid, number):
            yield REASONS("tracking-differs")


def _sides(thing: _Thing, recounts: Mapping[str, Recount]) -> Iterator[Reason]:
    """Check the side that a group claims: against its segment, else against the lung nearest to its outlines."""
    claimed = thing.site[1]
    if claimed not in {LEFT, RIGHT}:
        return
    if thing.segment is not None:
        shown = side_of(_described(recounts[thing.segment.seg].ds, thing.segment.number))
        if shown and claimed != shown:
            yield REASONS("side-differs")
        return
    for item in children(thing.group, "SCOORD"):
        nearest = _nearest_lung(item, recounts)
        if nearest and claimed != nearest:
            yield REASONS("side-differs")


def _described(seg: Dataset, number: int) -> Dataset:
    found: Dataset = next(s for s in seg.SegmentSequence if int(s.SegmentNumber) == number)
    return found


def _nearest_lung(outline: Dataset, recounts: Mapping[str, Recount]) -> str:
    """Return the side of the lung whose mean column on the outline's slice is nearest; empty without both lungs there."""
    image, column = _image(outline), float(_points(outline)[:, 0].mean())
    away = {}
    for recount in recounts.values():
        for side, number in recount.lungs.items():
            runs = recount.frames.runs.get((number, image))
            if runs is not None:
                columns = np.flatnonzero(runs.plane().any(axis=0))
                away[side] = abs(float(np.mean(columns)) - column)
    return min(away, key=lambda side: away[side]) if {LEFT, RIGHT} <= set(away) else ""
