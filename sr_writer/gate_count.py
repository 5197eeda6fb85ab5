"""Counting again: volumes, shares, densities and lengths from the decoded segmentation and the raw pixels.

What a region without a segment covers follows from its codes: both lungs are the two together; a third is what lies in
that third of the height of its lung (LPS z of the voxel centres).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist

from dicom_io.errors import DicomIOError
from dicom_io.model import ImageKey
from sr_writer.codes import coded, concept
from sr_writer.gate_claim import Claim, Shape, Site
from sr_writer.gate_frames import Frames, Runs, union
from sr_writer.gate_seg import LEFT, LUNG, RIGHT, kind_of, side_of, voxel_volume_mm3
from sr_writer.gate_sources import Shadow, Slice, Sources

BOTH, OPACITY = "51440002", "112001"
THIRDS = tuple(concept(f"{name}_third").value for name in ("upper", "middle", "lower"))
LOWEST_HU, HIGHEST_HU = -1100, 600
"""Densities beyond count as these."""
_EDGE = 1e-6
"""Voxel centres that lie this share of the height beside the border of a third may count to either side of it."""


@dataclass(slots=True)
class Count:
    """What was counted in one place.

    Parameters
    ----------
    voxels, opaque : float
        Voxels of the region, and of the opacities in it.
    hu : float
        Sum of the values of its voxels.
    """

    voxels: float = 0.0
    opaque: float = 0.0
    hu: float = 0.0

    def add(self, other: "Count") -> None:
        """Count what was counted elsewhere too."""
        self.voxels += other.voxels
        self.opaque += other.opaque
        self.hu += other.hu


@dataclass(frozen=True, eq=False)
class Recount:
    """One segmentation and what can be counted in it.

    Parameters
    ----------
    ds : Dataset
        The segmentation.
    frames : Frames
        Its frames.
    raw : Sources
        The source files.
    """

    ds: Dataset
    frames: Frames
    raw: Sources
    _height: dict[int, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, ds: Dataset, frames: Frames, raw: Sources, before: Iterable["Recount"] = ()) -> "Recount":
        """Return it with what was counted `before`, if that was another encoding of the same masks."""
        made = cls(ds, frames, raw)
        for other in before:
            if other.frames.fingerprint == frames.fingerprint:
                made.__dict__.update(
                    {k: other.__dict__[k] for k in ("counted", "densities", "_height") if k in other.__dict__}
                )
        return made

    @classmethod
    def claimed(cls, claim: Claim, raw: Sources) -> "Recount | None":
        """Return what an analysis showed on a radiograph, which has no segmentation as a rule; None if it is not on one."""
        place = raw.slices.get(claim.shapes[0].image) if claim.shapes else None
        if place is None or place.shadow is None:
            return None
        ds, count = Dataset(), len(claim.shapes)
        ds.SegmentSequence = [_described(n, shape) for n, shape in enumerate(claim.shapes, 1)]
        sources = ((place.sop_class_uid, claim.shapes[0].image),) * count
        nothing = np.zeros(0, np.uint8)
        frames = Frames(place.shape, count, np.zeros((count, 0)), sources, tuple(range(1, count + 1)), (), nothing)
        frames.__dict__["runs"] = {(n, shape.image): shape.runs for n, shape in enumerate(claim.shapes, 1)}
        return cls(ds, frames, raw)

    @cached_property
    def flat(self) -> tuple[ImageKey, Shadow] | None:
        """The radiograph that it stands on; None if it stands on slices."""
        for _, image in self.frames.sources:
            if (shadow := self.raw.slices[image].shadow) is not None:
                return image, shadow
        return None

    @cached_property
    def voxel_mm3(self) -> float:
        """Volume of a voxel."""
        return voxel_volume_mm3(self.ds)

    @cached_property
    def lungs(self) -> dict[str, int]:
        """Side to number of the segment of that lung."""
        return {
            side_of(s): int(s.SegmentNumber)
            for s in self.ds.SegmentSequence
            if int(s.SegmentNumber) and kind_of(s) == LUNG and side_of(s)
        }

    @cached_property
    def opacities(self) -> tuple[int, ...]:
        """Numbers of the segments that are opacities."""
        return tuple(
            int(s.SegmentNumber) for s in self.ds.SegmentSequence if int(s.SegmentNumber) and kind_of(s) == OPACITY
        )

    @cached_property
    def _opaque(self) -> dict[ImageKey, Runs]:
        parts: dict[ImageKey, list[Runs]] = {}
        for (number, image), runs in self.frames.runs.items():
            if number in self.opacities:
                parts.setdefault(image, []).append(runs)
        return {image: union(some) for image, some in parts.items()}

    @cached_property
    def counted(self) -> tuple[Mapping[int, Count], Mapping[tuple[str, int], tuple[Count, Count, Count]], bool]:
        """By segment; by side and third (for borders a little higher, as they are, and a little lower); whether values were read."""
        segments: dict[int, Count] = {}
        thirds = {(side, k): (Count(), Count(), Count()) for side in self.lungs for k in range(3)}
        here: dict[ImageKey, list[tuple[int, Runs]]] = {}
        for (number, image), runs in self.frames.runs.items():
            here.setdefault(image, []).append((number, runs))
        sides = {number: side for side, number in self.lungs.items()}
        if self.flat is not None:  # its values are no densities, and nothing has a height
            for (number, _), runs in self.frames.runs.items():
                segments[number] = self._area((runs,))
            return segments, {}, False
        readable = True
        for image, parts in here.items():
            values = self._values(self.raw.slices[image]) if readable else None
            readable = values is not None
            opaque = self._opaque.get(image)
            for number, runs in parts:
                total = segments.setdefault(number, Count())
                rows = _Rows.of(runs, opaque, values)
                total.add(rows.total)
                if number in sides:
                    self._by_third(number, sides[number], image, rows, thirds)
        return segments, thirds, readable

    def _area(self, parts: Sequence[Runs]) -> Count:
        """Return the pixels that masks on a radiograph cover together, and those of opacities among them."""
        whole = union(parts)
        opaque = self._opaque.get(self.flat[0]) if self.flat else None
        return Count(whole.voxels, 0.0 if opaque is None else float(whole.sums(opaque.plane()).sum()))

    @cached_property
    def densities(self) -> Mapping[str, npt.NDArray[np.int64]]:
        """Side to how many voxels of that lung have each whole HU, from `LOWEST_HU` on; empty if values cannot be read."""
        out = {side: np.zeros(HIGHEST_HU - LOWEST_HU, np.int64) for side in self.lungs}
        sides = {number: side for side, number in self.lungs.items()}
        for (number, image), runs in self.frames.runs.items():
            if number not in sides:
                continue
            values = self._values(self.raw.slices[image])
            if values is None:
                return {}
            inside = np.floor(values[runs.plane() != 0])
            at = np.clip(inside, LOWEST_HU, HIGHEST_HU - 1).astype(np.int64) - LOWEST_HU
            out[sides[number]] += np.bincount(at, minlength=HIGHEST_HU - LOWEST_HU)
        return out

    def density(self, site: Site) -> npt.NDArray[np.int64] | None:
        """Return `densities` of one lung or both; None of any other region."""
        anatomy, side, modifier = site
        if anatomy != LUNG or modifier or self.flat is not None or set(self.lungs) != {LEFT, RIGHT}:
            return None
        parts = [counts for of, counts in self.densities.items() if side in (of, BOTH)]
        return sum(parts[1:], parts[0]) if parts else None

    @staticmethod
    def _values(place: Slice) -> npt.NDArray[np.float32] | None:
        try:
            return place.values()
        except (DicomIOError, OSError, ValueError):
            return None

    def _by_third(
        self,
        number: int,
        side: str,
        image: ImageKey,
        rows: "_Rows",
        thirds: Mapping[tuple[str, int], tuple[Count, ...]],
    ) -> None:
        low, high = self.height(number)
        at = self._heights(rows.runs, image)
        if self.raw.slices[image].orientation[2] and (at[:, 0] != at[:, 1]).any():
            rows = rows.pixels()
            at = self._heights(rows.runs, image)
        share = (high - at[:, 0]) / max(high - low, 1e-9) * 3
        for n, shift in enumerate((-_EDGE, 0.0, _EDGE)):
            third = np.clip(share + shift, 0, 2).astype(int)
            for k in range(3):
                thirds[side, k][n].add(rows.where(third == k))

    def height(self, number: int) -> tuple[float, float]:
        """Return LPS z of the lowest and of the highest voxel centre of a segment, in mm."""
        if number not in self._height:
            ends = [self._heights(runs, image) for image, runs in self.frames.of(number).items()]
            self._height[number] = min(float(e.min()) for e in ends), max(float(e.max()) for e in ends)
        return self._height[number]

    def _heights(self, runs: Runs, image: ImageKey) -> npt.NDArray[np.float64]:
        """Return LPS z of the first and the last pixel of every run, shape (runs, 2)."""
        place, (first, last) = self.raw.slices[image], runs.columns
        row = runs.rows * place.orientation[5] * place.spacing[0]
        across = place.orientation[2] * place.spacing[1]
        start = place.position[2] + (row if place.orientation[5] else 0.0)
        ends = np.stack((first * across, (last - 1) * across), axis=1) if across else np.zeros((len(first), 2))
        out: npt.NDArray[np.float64] = np.broadcast_to(start, first.shape)[:, None] + ends
        return out

    def segment(self, number: int) -> Count:
        """Return what was counted in a segment."""
        return self.counted[0].get(number, Count())

    def site(self, site: Site) -> tuple[Count, ...]:
        """Return what was counted in a region of the lungs, several where borders are in doubt; none if it is no such region."""
        anatomy, side, modifier = site
        if anatomy != LUNG or set(self.lungs) != {LEFT, RIGHT}:
            return ()
        if self.flat is not None:  # the lungs lie behind each other in part
            parts = self.covers(site, self.flat[0])
            return (self._area(parts),) if parts else ()
        if side == BOTH and not modifier:
            whole = Count()
            for number in self.lungs.values():
                whole.add(self.segment(number))
            return (whole,)
        if side not in self.lungs:
            return ()
        if not modifier:
            return (self.segment(self.lungs[side]),)
        return self.counted[1][side, THIRDS.index(modifier)] if modifier in THIRDS else ()

    def covers(self, site: Site, image: ImageKey) -> tuple[Runs, ...]:
        """Return what a region of the lungs covers on a slice, several where borders are in doubt; none if it is no such region."""
        anatomy, side, modifier = site
        if anatomy != LUNG or set(self.lungs) != {LEFT, RIGHT} or (modifier and modifier not in THIRDS):
            return ()
        numbers = [n for s, n in self.lungs.items() if side in (s, BOTH)]
        parts = [self.frames.runs[n, image] for n in numbers if (n, image) in self.frames.runs]
        if not modifier or not parts or self.flat is not None:
            return (union(parts),) if parts and not (modifier and self.flat) else ()
        low, high = self.height(numbers[0])
        rows = _Rows.of(parts[0], None, None)
        if self.raw.slices[image].orientation[2]:
            rows = rows.pixels()
        share = (high - self._heights(rows.runs, image)[:, 0]) / max(high - low, 1e-9) * 3
        out = []
        for shift in (-_EDGE, 0.0, _EDGE):
            keep = np.clip(share + shift, 0, 2).astype(int) == THIRDS.index(modifier)
            out.append(Runs(rows.runs.starts[keep], rows.runs.ends[keep], parts[0].shape))
        return tuple(out)

    def long_axis(self, number: int) -> tuple[float, float]:
        """Return the longest distance within an axial slab of a segment in mm, and how far that may be from the truth.

        Between centres of voxels, and half a pixel at each end. Where the slices are axial a slab is one slice.
        """
        points = []
        for image, runs in self.frames.of(number).items():
            place, (first, last) = self.raw.slices[image], runs.columns
            row, column = np.array(place.orientation[3:]), np.array(place.orientation[:3])
            for x in (first, last - 1):
                at = runs.rows[:, None] * row * place.spacing[0] + x[:, None] * column * place.spacing[1]
                points.append(np.array(place.position) + at)
        place = self.raw.slices[next(iter(self.frames.of(number)))]
        normal = np.cross(place.orientation[:3], place.orientation[3:])
        step = self.voxel_mm3 / (place.spacing[0] * place.spacing[1])
        edges = (*place.spacing, step)
        axial = abs(float(normal[2])) >= 0.94
        slab = step if axial else max(edges)
        longest = _longest(np.concatenate(points), slab)
        pixel = float(np.mean(place.spacing)) if axial else min(edges)
        # runs end at the outermost pixels, but slabs of other planes cut through the slices: a voxel more or less
        return longest + pixel, 0.51 * pixel if axial else 2.0 * max(edges)


def _described(number: int, shape: Shape) -> Dataset:
    """Return what a segmentation would say of a mask."""
    item, kind = Dataset(), coded(shape.kind)
    if shape.side is not None:
        kind.SegmentedPropertyTypeModifierCodeSequence = [coded(shape.side)]
    item.SegmentNumber, item.SegmentLabel, item.TrackingID = number, shape.tracking_id, shape.tracking_id
    item.SegmentedPropertyTypeCodeSequence = [kind]
    return item


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Runs of one slice with what is counted in each."""

    runs: Runs
    opaque: npt.NDArray[np.float64]
    hu: npt.NDArray[np.float64]
    images: tuple[Runs | None, npt.NDArray[np.float32] | None]

    @classmethod
    def of(cls, runs: Runs, opaque: Runs | None, values: npt.NDArray[np.float32] | None) -> "_Rows":
        nothing = np.zeros(runs.starts.size)
        return cls(
            runs, nothing if opaque is None else runs.shared(opaque), nothing if values is None else runs.sums(values),
            (opaque, values),
        )  # fmt: skip

    def pixels(self) -> "_Rows":
        """Return every pixel as a run of its own: in a slanting plane one run may lie in two thirds."""
        size = self.runs.ends - self.runs.starts
        at = np.repeat(self.runs.starts - np.concatenate(([0], size.cumsum()[:-1])), size) + np.arange(size.sum())
        return _Rows.of(Runs(at, at + 1, self.runs.shape), *self.images)

    def where(self, keep: npt.NDArray[np.bool_]) -> Count:
        size = (self.runs.ends - self.runs.starts)[keep]
        return Count(float(size.sum()), float(self.opaque[keep].sum()), float(self.hu[keep].sum()))

    @property
    def total(self) -> Count:
        return Count(float(self.runs.voxels), float(self.opaque.sum()), float(self.hu.sum()))


def _longest(points: npt.NDArray[np.float64], slab_mm: float) -> float:
    level = np.round((points[:, 2] - points[:, 2].min()) / slab_mm)
    longest = 0.0
    for k in np.unique(level):
        flat = np.unique(points[level == k, :2], axis=0)
        longest = max(longest, _span(flat))
    return longest


def _span(flat: npt.NDArray[np.float64]) -> float:
    """Return the largest distance between two of these points."""
    if len(flat) > 3:
        try:
            flat = flat[ConvexHull(flat).vertices]
        except QhullError:  # all on one line: the ends of a sorted list
            flat = flat[[0, -1]]
    return float(pdist(flat).max()) if len(flat) > 1 else 0.0
