"""What must hold for a segmentation: it lies on its source slices, and left is left."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from dicom_io.reason import Reason
from sr_writer.gate_sources import Sources
from sr_writer.reasons import REASONS

TOLERANCE_MM = 0.01
TOLERANCE_COSINE = 1e-4
SAMPLED_FRAMES = 32
"""Frames per segment from which its centre is estimated."""

LUNG, LEFT, RIGHT = "39607008", "7771000", "24028007"
_WORDS = {LEFT: "left", RIGHT: "right"}


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Decoded frames.

    Parameters
    ----------
    bits : ndarray, uint8
        Pixel Data as stored.
    shape : tuple[int, int]
        Rows, columns.
    index : Mapping[tuple[int, str], int]
        (segment number, SOP Instance UID of the slice) to frame.
    positions : ndarray, float64, shape (frames, 3)
        Image Position (Patient) of every frame.
    sources : tuple[tuple[str, str], ...]
        SOP Class and SOP Instance UID of the one slice that each frame was derived from.
    """

    bits: npt.NDArray[np.uint8]
    shape: tuple[int, int]
    index: Mapping[tuple[int, str], int]
    positions: npt.NDArray[np.float64]
    sources: tuple[tuple[str, str], ...]

    def plane(self, frame: int) -> npt.NDArray[np.uint8]:
        """Return one frame, 0 or 1, shape (rows, columns)."""
        size = self.shape[0] * self.shape[1]
        first, last = frame * size, (frame + 1) * size
        bits = np.unpackbits(self.bits[first // 8 : (last + 7) // 8], bitorder="little")
        return bits[first % 8 : first % 8 + size].reshape(self.shape)

    def voxels(self, segment: int) -> int:
        """Return how many pixels of a segment are set."""
        size = self.shape[0] * self.shape[1]
        frames = [k for (number, _), k in self.index.items() if number == segment]
        if size % 8:
            return sum(int(np.count_nonzero(self.plane(k))) for k in frames)
        step = size // 8
        return sum(int(np.bitwise_count(self.bits[k * step : (k + 1) * step]).sum(dtype=np.int64)) for k in frames)


def frames_of(ds: Dataset) -> Frames:
    """Return the frames of a segmentation.

    Raises
    ------
    ValueError
        If a frame does not name exactly one source slice.
    """
    shared = ds.SharedFunctionalGroupsSequence[0]
    index: dict[tuple[int, str], int] = {}
    positions, sources = [], []
    for k, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        identification = group.get("SegmentIdentificationSequence") or shared.SegmentIdentificationSequence
        named = [s for d in group.DerivationImageSequence for s in d.SourceImageSequence]
        if len(named) != 1:
            raise ValueError(f"frame {k + 1} names {len(named)} source slices")
        sources.append((str(named[0].ReferencedSOPClassUID), str(named[0].ReferencedSOPInstanceUID)))
        positions.append([float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient])
        index[int(identification[0].ReferencedSegmentNumber), sources[-1][1]] = k
    bits = np.frombuffer(ds.PixelData, np.uint8)
    return Frames(bits, (int(ds.Rows), int(ds.Columns)), index, np.array(positions), tuple(sources))


def voxel_volume_mm3(ds: Dataset) -> float:
    """Return the volume of one voxel as the segmentation states it."""
    measures = ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    return float(measures.PixelSpacing[0]) * float(measures.PixelSpacing[1]) * float(measures.SpacingBetweenSlices)


def check(ds: Dataset, frames: Frames, raw: Sources) -> Iterator[Reason]:
    """Yield what is wrong with a segmentation."""
    used = {uid for _, uid in frames.index}
    unknown = used - set(raw.slices)
    if unknown:
        yield REASONS("reference-dangling", what="SourceImageSequence")
        return
    if {raw.slices[uid].frame_of_reference_uid for uid in used} != {str(ds.get("FrameOfReferenceUID") or "")}:
        yield REASONS("frame-of-reference-differs")
    yield from _grid(ds, raw, used)
    yield from _positions(frames, raw)
    yield from _segments(ds, frames)
    yield from _sides(ds, frames, raw)


def _grid(ds: Dataset, raw: Sources, used: set[str]) -> Iterator[Reason]:
    shared = ds.SharedFunctionalGroupsSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, float)
    slices = [raw.slices[uid] for uid in used]
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
    slices = [raw.slices[uid] for _, uid in frames.sources]
    if any(s.sop_class_uid != sop_class for s, (sop_class, _) in zip(slices, frames.sources, strict=True)):
        yield REASONS("reference-dangling", what="SourceImageSequence")
    expected = np.array([s.position for s in slices if len(s.position) == 3])
    if expected.shape != frames.positions.shape or np.abs(frames.positions - expected).max() > TOLERANCE_MM:
        yield REASONS("position-differs")


def _segments(ds: Dataset, frames: Frames) -> Iterator[Reason]:
    numbers = [int(s.SegmentNumber) for s in ds.SegmentSequence]
    if numbers != list(range(1, len(numbers) + 1)):
        yield REASONS("segments-inconsistent", what="SegmentNumber")
    if {n for n, _ in frames.index} != set(numbers) or any(not frames.voxels(n) for n in numbers):
        yield REASONS("segments-inconsistent", what="empty segment")
    if len(ds.PerFrameFunctionalGroupsSequence) != int(ds.NumberOfFrames) or len(frames.index) != int(
        ds.NumberOfFrames
    ):
        yield REASONS("segments-inconsistent", what="NumberOfFrames")
    if frames.bits.size * 8 < int(ds.NumberOfFrames) * frames.shape[0] * frames.shape[1]:
        yield REASONS("segments-inconsistent", what="PixelData")


def _sides(ds: Dataset, frames: Frames, raw: Sources) -> Iterator[Reason]:
    """Left lung must lie further left (+x) than right lung; what overlaps a lung must not claim the other side."""
    sides = {int(s.SegmentNumber): side_of(s) for s in ds.SegmentSequence}
    for segment in ds.SegmentSequence:  # viewers show the label
        words = set(str(segment.SegmentLabel).lower().split())
        if any(word in words and side != side_of(segment) for side, word in _WORDS.items()):
            yield REASONS("side-differs")
    lungs = {sides[n]: n for s in ds.SegmentSequence if kind_of(s) == LUNG and sides[n := int(s.SegmentNumber)]}
    if set(lungs) >= {LEFT, RIGHT}:
        left, right = (_centre_x(lungs[side], frames, raw) for side in (LEFT, RIGHT))
        if left <= right:
            yield REASONS("side-differs")
        for number, side in sides.items():
            if number in lungs.values() or side not in lungs:
                continue
            mine, other = (
                _shared(number, lungs[side], frames),
                _shared(number, lungs[RIGHT if side == LEFT else LEFT], frames),
            )
            if other > mine:
                yield REASONS("side-differs")


def kind_of(segment: Dataset) -> str:
    """Return the code value of a segment's property type."""
    return str(segment.SegmentedPropertyTypeCodeSequence[0].CodeValue)


def side_of(segment: Dataset) -> str:
    """Return the code value of a segment's side; empty if it claims none."""
    modifiers = segment.SegmentedPropertyTypeCodeSequence[0].get("SegmentedPropertyTypeModifierCodeSequence") or ()
    return next((str(m.CodeValue) for m in modifiers if m.CodeValue in {LEFT, RIGHT}), "")


def _centre_x(segment: int, frames: Frames, raw: Sources) -> float:
    """Return the LPS x of a segment's centre in mm, from a sample of its frames."""
    mine = [(uid, k) for (n, uid), k in frames.index.items() if n == segment]
    total, weighted = 0.0, 0.0
    for uid, k in mine[:: max(1, len(mine) // SAMPLED_FRAMES)]:
        plane, place = frames.plane(k), raw.slices[uid]
        rows, columns = plane.sum(axis=1, dtype=np.int64), plane.sum(axis=0, dtype=np.int64)
        count = float(rows.sum())
        along_row = float(np.dot(columns, np.arange(columns.size))) * place.spacing[1] * place.orientation[0]
        along_column = float(np.dot(rows, np.arange(rows.size))) * place.spacing[0] * place.orientation[3]
        total += count
        weighted += count * place.position[0] + along_row + along_column
    return weighted / total if total else float("nan")


def _shared(a: int, b: int, frames: Frames) -> int:
    """Return how many pixels two segments share."""
    both = [(k, frames.index[b, uid]) for (n, uid), k in frames.index.items() if n == a and (b, uid) in frames.index]
    return sum(int(np.count_nonzero(frames.plane(k) & frames.plane(m))) for k, m in both)
