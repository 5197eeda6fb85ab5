"""What must hold for a segmentation: it lies on its source slices, as the analysis said, and left is left."""

from collections.abc import Iterator, Mapping

import numpy as np
from pydicom.dataset import Dataset

from dicom_io import radiograph
from dicom_io.model import ImageKey
from dicom_io.reason import Reason
from sr_writer.gate_claim import Claim
from sr_writer.gate_frames import Frames, Runs, union
from sr_writer.gate_place import better_places
from sr_writer.gate_sources import Slice, Sources
from sr_writer.reasons import REASONS

TOLERANCE_MM = 0.01
TOLERANCE_COSINE = 1e-4

LUNG, LEFT, RIGHT = "39607008", "7771000", "24028007"
_WORDS = {LEFT: ("left", "左"), RIGHT: ("right", "右")}


def voxel_volume_mm3(ds: Dataset) -> float:
    """Return the volume of one voxel as the segmentation states it."""
    measures = ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    return float(measures.PixelSpacing[0]) * float(measures.PixelSpacing[1]) * float(measures.SpacingBetweenSlices)


def check(ds: Dataset, frames: Frames, raw: Sources, claim: Claim | None) -> Iterator[Reason]:
    """Yield what is wrong with a segmentation."""
    used = {image for _, image in frames.sources}
    if used - set(raw.slices):
        yield REASONS("reference-dangling", what="SourceImageSequence")
        return
    if {raw.slices[image].frame_of_reference_uid for image in used} != {str(ds.get("FrameOfReferenceUID") or "")}:
        yield REASONS("frame-of-reference-differs")
    if len({raw.slices[image].series_instance_uid for image in used}) > 1:
        yield REASONS("geometry-differs", what="SeriesInstanceUID")
    yield from _series(ds, raw, used)
    yield from _shadow(ds, raw, used) if _flat(frames, raw) else _grid(ds, raw, used)
    yield from _positions(frames, raw)
    yield from _segments(ds, frames)
    yield from _order(ds, frames)
    yield from _sides(ds, frames, raw)
    if claim is not None:
        yield from _as_said(ds, frames, claim)
    if not _flat(frames, raw):
        yield from _on_air(ds, frames, raw)


def _flat(frames: Frames, raw: Sources) -> bool:
    """Whether it stands on a radiograph."""
    return any(raw.slices[image].shadow is not None for _, image in frames.sources)


def _shadow(ds: Dataset, raw: Sources, used: set[ImageKey]) -> Iterator[Reason]:
    """Check that a segmentation of a radiograph is as large as that, is turned as that, and claims no place."""
    shadows = [raw.slices[image].shadow for image in used]
    if len(used) != 1 or raw.slices[next(iter(used))].shape != (int(ds.Rows), int(ds.Columns)):
        yield REASONS("geometry-differs", what="Rows, Columns")
    if any(shadow is None or radiograph.orientation(ds) != shadow.orientation for shadow in shadows):
        yield REASONS("geometry-differs", what="PatientOrientation")
    shared = ds.SharedFunctionalGroupsSequence[0]
    if any(
        keyword in shared for keyword in ("PlaneOrientationSequence", "PlanePositionSequence", "PixelMeasuresSequence")
    ):
        yield REASONS("geometry-differs", what="SharedFunctionalGroupsSequence")


def _series(ds: Dataset, raw: Sources, used: set[ImageKey]) -> Iterator[Reason]:
    """Check that Referenced Series Sequence names every slice that a frame stands on, under its series."""
    named = {
        (str(series.SeriesInstanceUID), str(item.ReferencedSOPInstanceUID))
        for series in ds.get("ReferencedSeriesSequence") or ()
        for item in series.get("ReferencedInstanceSequence") or ()
    }
    if not {(raw.slices[image].series_instance_uid, image.sop_instance_uid) for image in used} <= named:
        yield REASONS("reference-dangling", what="ReferencedSeriesSequence")


def _grid(ds: Dataset, raw: Sources, used: set[ImageKey]) -> Iterator[Reason]:
    shared = ds.SharedFunctionalGroupsSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, float)
    slices = [raw.slices[image] for image in used]
    if any(s.shape != (int(ds.Rows), int(ds.Columns)) for s in slices):
        yield REASONS("geometry-differs", what="Rows, Columns")
    if any(len(s.orientation) != 6 or np.abs(orientation - s.orientation).max() > TOLERANCE_COSINE for s in slices):
        yield REASONS("geometry-differs", what="ImageOrientationPatient")
    if any(len(s.spacing) != 2 or np.abs(spacing - s.spacing).max() > TOLERANCE_MM / 10 for s in slices):
        yield REASONS("geometry-differs", what="PixelSpacing")
    positions = np.array([s.position for s in raw.slices.values() if len(s.position) == 3])
    if len(positions) > 1:
        along = np.sort(positions @ np.cross(orientation[:3], orientation[3:]))
        step = float(shared.PixelMeasuresSequence[0].get("SpacingBetweenSlices") or 0)
        if abs(float(np.median(np.diff(along))) - step) > max(10 * TOLERANCE_MM, 0.02 * step):
            yield REASONS("geometry-differs", what="SpacingBetweenSlices")


def _positions(frames: Frames, raw: Sources) -> Iterator[Reason]:
    slices = [raw.slices[image] for _, image in frames.sources]
    if any(s.sop_class_uid != sop_class for s, (sop_class, _) in zip(slices, frames.sources, strict=True)):
        yield REASONS("reference-dangling", what="SourceImageSequence")
    expected = np.array([s.position for s in slices if len(s.position) == 3 or s.shadow is not None])
    same = expected.shape == frames.positions.shape
    if not same or np.abs(frames.positions - expected).max(initial=0.0) > TOLERANCE_MM:
        yield REASONS("position-differs")


def _segments(ds: Dataset, frames: Frames) -> Iterator[Reason]:
    numbers = [int(s.SegmentNumber) for s in _described(ds)]
    if numbers != list(range(1, len(numbers) + 1)):
        yield REASONS("segments-inconsistent", what="SegmentNumber")
    if {number for number, _ in frames.runs} != set(numbers):
        yield REASONS("segments-inconsistent", what="empty segment")
    if set(frames.segments) - {0} - set(numbers):
        yield REASONS("segments-inconsistent", what="ReferencedSegmentNumber")
    if len(frames.sources) != frames.number:
        yield REASONS("segments-inconsistent", what="NumberOfFrames")
    if len(set(zip(frames.segments, frames.sources, strict=True))) != len(frames.sources):
        yield REASONS("segments-inconsistent", what="a slice twice")


def _order(ds: Dataset, frames: Frames) -> Iterator[Reason]:
    """Check that the dimension indices count the segments, and the slices from one end to the other."""
    shared = ds.SharedFunctionalGroupsSequence[0]
    labels = 0 in frames.segments
    if not labels and any(index[0] != segment for index, segment in zip(frames.indices, frames.segments, strict=True)):
        yield REASONS("segments-inconsistent", what="DimensionIndexValues")
    if not frames.positions.size:
        return
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    along = frames.positions @ np.cross(orientation[:3], orientation[3:])
    rank = np.array([index[-1] for index in frames.indices])
    order = np.argsort(along, kind="stable")
    steps = np.diff(rank[order])
    moved = np.diff(along[order]) > TOLERANCE_MM
    if (steps[~moved] != 0).any() or not ((steps[moved] > 0).all() or (steps[moved] < 0).all()):
        yield REASONS("segments-inconsistent", what="DimensionIndexValues")


def _as_said(ds: Dataset, frames: Frames, claim: Claim) -> Iterator[Reason]:
    """Check that every segment covers, pixel for pixel and slice for slice, what the analysis said."""
    segments = {str(s.get("TrackingID")): int(s.SegmentNumber) for s in _described(ds)}
    if set(segments) != set(claim.planes):
        yield REASONS("segments-inconsistent", what="TrackingID")
    if any(kind_of(s) != claim.kinds.get(str(s.get("TrackingID")), kind_of(s)) for s in _described(ds)):
        yield REASONS("segments-inconsistent", what="SegmentedPropertyTypeCodeSequence")
    if any(claim.mislabels(str(s.get("TrackingID")), str(s.get("SegmentLabel"))) for s in _described(ds)):
        yield REASONS("segments-inconsistent", what="SegmentLabel")
    whole = int(ds.get("MaximumFractionalValue") or 0)
    if ds.SegmentationType == "FRACTIONAL" and ((frames.cells != 0) & (frames.cells != whole)).any():
        yield REASONS("mask-differs")  # our masks are whole voxels
    for name, number in segments.items():
        if {image: runs.digest for image, runs in frames.of(number).items()} != claim.planes.get(name):
            yield REASONS("mask-differs")


def _on_air(ds: Dataset, frames: Frames, raw: Sources) -> Iterator[Reason]:
    numbers = [int(s.SegmentNumber) for s in _described(ds) if kind_of(s) == LUNG]
    shared = ds.SharedFunctionalGroupsSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    normal = np.cross(orientation[:3], orientation[3:])
    series = {raw.slices[image].series_instance_uid for _, image in frames.sources}
    stack = [s for s in raw.slices.values() if s.series_instance_uid in series and len(s.position) == 3]
    stack = [s for s in stack if s.shape == frames.shape]
    images = {id(s): image for image, s in raw.slices.items()}
    stack.sort(key=lambda s: float(np.dot(s.position, normal)))
    lungs = [_together([frames.runs.get((n, images[id(s)])) for n in numbers]) for s in stack]
    for _ in better_places(lungs, stack):
        yield REASONS("mask-misplaced")
        return


def _together(parts: list[Runs | None]) -> Runs | None:
    there = [part for part in parts if part is not None]
    return union(there) if there else None


def _sides(ds: Dataset, frames: Frames, raw: Sources) -> Iterator[Reason]:
    """Left lung must lie further left (+x) than right lung; what overlaps a lung must not claim the other side."""
    described = _described(ds)
    sides = {int(s.SegmentNumber): side_of(s) for s in described}
    for segment in described:  # viewers show the label
        label = str(segment.SegmentLabel).lower()
        words = {*label.split(), *label}  # a Chinese word is not set apart by spaces
        sides_said = {side for side, some in _WORDS.items() if words & set(some)}
        if len(sides_said) == 1 and sides_said != {side_of(segment)}:
            yield REASONS("side-differs")
    lungs = {sides[n]: n for s in described if kind_of(s) == LUNG and sides[n := int(s.SegmentNumber)]}
    if set(lungs) >= {LEFT, RIGHT}:
        covered = {side: frames.of(number) for side, number in lungs.items()}
        left, right = (_centre_x(covered[side], raw.slices) for side in (LEFT, RIGHT))
        if left is not None and right is not None and not left > right:
            yield REASONS("side-differs")
        for number, side in sides.items():
            if number in lungs.values() or side not in lungs:
                continue
            mine = frames.of(number)
            other = covered[RIGHT if side == LEFT else LEFT]
            if _shared(mine, other) > _shared(mine, covered[side]):
                yield REASONS("side-differs")


def _described(ds: Dataset) -> list[Dataset]:
    """Return the segments that are described; a label map describes its background as well (PS3.3 section C.8.20.4)."""
    return [s for s in ds.SegmentSequence if int(s.SegmentNumber) > 0]


def kind_of(segment: Dataset) -> str:
    """Return the code value of a segment's property type."""
    return str(segment.SegmentedPropertyTypeCodeSequence[0].CodeValue)


def side_of(segment: Dataset) -> str:
    """Return the code value of a segment's side; empty if it claims none."""
    modifiers = segment.SegmentedPropertyTypeCodeSequence[0].get("SegmentedPropertyTypeModifierCodeSequence") or ()
    return next((str(m.CodeValue) for m in modifiers if m.CodeValue in {LEFT, RIGHT}), "")


def _centre_x(covered: Mapping[ImageKey, Runs], slices: Mapping[ImageKey, Slice]) -> float | None:
    """Return how far to the patient's left a segment's centre lies: LPS x in mm, of a radiograph in pixels; None if unknown."""
    total, weighted = 0.0, 0.0
    for image, runs in covered.items():
        place = slices[image]
        first, last = runs.columns
        size = (last - first).astype(float)
        if place.shadow is not None:
            if place.shadow.leftwards is None:
                return None
            axis, sign = place.shadow.leftwards
            x = sign * ((first + last - 1) / 2 if axis else runs.rows)
            return float((size * x).sum() / size.sum())
        x = (
            place.position[0]
            + (first + last - 1) / 2 * place.spacing[1] * place.orientation[0]
            + runs.rows * place.spacing[0] * place.orientation[3]
        )
        total += float(size.sum())
        weighted += float((size * x).sum())
    return weighted / total if total else float("nan")


def _shared(a: Mapping[ImageKey, Runs], b: Mapping[ImageKey, Runs]) -> int:
    """Return how many pixels two segments share."""
    return sum(int(a[image].shared(b[image]).sum()) for image in a.keys() & b.keys())
