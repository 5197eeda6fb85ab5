"""The geometry of a series from its headers alone: order, spacing, gaps, duplicates, tilt.

References
----------
DICOM PS3.3 C.7.6.2 (Image Plane), C.7.4.1 (Frame of Reference).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from dicom_io import elements
from dicom_io.errors import GeometryError
from dicom_io.frames import check_alike, images_of
from dicom_io.limits import LIMITS
from dicom_io.model import ImageKey, Instance
from dicom_io.reasons import REASONS

Plane = Literal["axial", "coronal", "sagittal", "oblique"]
Vector = npt.NDArray[np.float64]

_PLANES: Final[tuple[Plane, ...]] = ("sagittal", "coronal", "axial")


@dataclass(frozen=True, slots=True)
class Gap:
    """Slices that are missing.

    Parameters
    ----------
    after_index : int
        Index of the slice below the gap.
    missing : int
        How many slices would fit into it, at least one.
    mm : float
        Distance between the two slices around it.
    """

    after_index: int
    missing: int
    mm: float


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Parallel slices of one size in one frame of reference, sorted along their normal.

    Parameters
    ----------
    instances : tuple[Instance, ...]
        One image for each position; index 0 has the smallest position.
    origins_mm : ndarray, shape (n, 3)
        LPS position of the centre of the first voxel of each slice.
    positions_mm : ndarray, shape (n,)
        Projection of the origins on `normal`, increasing.
    row, column, normal : ndarray, shape (3,)
        Unit vectors in LPS: direction of a row (increasing column index), of a column (increasing row index), and
        their cross product.
    plane : Plane
        Body axis that the normal lies next to.
    pixel_spacing_mm : tuple[float, float]
        Distance between rows, distance between columns.
    rows, columns : int
        Size of every slice.
    spacing_mm : float
        Step along the normal: the mean of a uniform stack, else the median; of a single slice its thickness, or 1 if it
        states none.
    thickness_mm : float or None
        Median Slice Thickness (0018,0050).
    gaps : tuple[Gap, ...]
        Steps longer than 1.5 medians.
    duplicates : tuple[ImageKey, ...]
        Images that were dropped because another slice stands at the same position.
    tilt_deg : float
        Angle between the slice-to-slice displacement and the normal (gantry tilt).
    uniform : bool
        Whether all slices lie on an even grid within rounding; never with gaps.
    frame_of_reference_uid : str
        Empty if no slice has one.
    """

    instances: tuple[Instance, ...]
    origins_mm: Vector
    positions_mm: Vector
    row: Vector
    column: Vector
    normal: Vector
    plane: Plane
    pixel_spacing_mm: tuple[float, float]
    rows: int
    columns: int
    spacing_mm: float
    thickness_mm: float | None
    gaps: tuple[Gap, ...]
    duplicates: tuple[ImageKey, ...]
    tilt_deg: float
    uniform: bool
    frame_of_reference_uid: str

    @property
    def images(self) -> tuple[ImageKey, ...]:
        """Which image each slice is, in order."""
        return tuple(i.key for i in self.instances)

    @property
    def displacement_mm(self) -> Vector:
        """LPS step from one slice to the next, shape (3,); along the normal only if there is no tilt.

        The mean, which rounded positions leave exact; the median where slices are missing, so that a slice keeps its volume.
        """
        if len(self.instances) == 1:
            return self.normal * self.spacing_mm
        if self.gaps:
            middle: Vector = np.median(np.diff(self.origins_mm, axis=0), axis=0)
            return middle
        step: Vector = (self.origins_mm[-1] - self.origins_mm[0]) / (len(self.instances) - 1)
        return step

    @property
    def extent_mm(self) -> float:
        """Length covered along the normal, half a step beyond the outer slices included."""
        return float(self.positions_mm[-1] - self.positions_mm[0]) + self.spacing_mm


@dataclass(frozen=True, slots=True, eq=False)
class _Slice:
    """What one header says of its plane."""

    instance: Instance
    origin: Vector
    row: Vector
    column: Vector
    spacing: tuple[float, float]
    size: tuple[int, int]
    frame: str
    number: float


def build_stack(instances: Sequence[Instance]) -> Stack:
    """Sort slices along the normal of their planes.

    Parameters
    ----------
    instances : Sequence[Instance]
        Slices of one series in any order; the frames of enhanced CT are slices.

    Returns
    -------
    Stack
        Of slices at one position the one with the lowest Instance Number is kept.

    Raises
    ------
    GeometryError
        ``no-slices``, ``multi-frame-not-supported``, ``frames-too-many``, ``frames-inconsistent``, ``frames-mixed``, ``no-geometry``, ``mixed-size``, ``mixed-pixel-spacing``,
        ``mixed-orientation``, ``mixed-frames-of-reference``, ``positions-repeated`` or ``slices-not-in-line``.
    """
    if not instances:
        raise GeometryError(REASONS("no-slices"))
    images = [image for instance in instances for image in images_of(instance)]
    check_alike(images)
    slices = [_slice(i) for i in images]
    _check_alike(slices)
    normal = np.cross(slices[0].row, slices[0].column)
    normal /= np.linalg.norm(normal)
    slices.sort(key=lambda s: (float(s.origin @ normal), s.number, s.instance.key))
    kept, duplicates = _drop_duplicates(slices, normal)
    origins = np.array([s.origin for s in kept], dtype=np.float64)
    positions = origins @ normal
    steps = np.diff(positions)
    thicknesses = [t for s in kept if (t := elements.number(s.instance.header, "SliceThickness")) is not None and t > 0]
    thickness = float(np.median(thicknesses)) if thicknesses else None
    median = float(np.median(steps)) if steps.size else thickness or 1.0
    gaps = tuple(
        Gap(int(k), max(1, round(float(steps[k]) / median) - 1), float(steps[k]))
        for k in np.flatnonzero(steps > LIMITS.stack.gap_ratio * median)
    )
    uniform = not gaps and _even(positions, median)
    for array in (origins, positions, normal):
        array.setflags(write=False)
    return Stack(
        instances=tuple(s.instance for s in kept),
        origins_mm=origins,
        positions_mm=positions,
        row=kept[0].row,
        column=kept[0].column,
        normal=normal,
        plane=_plane(normal),
        pixel_spacing_mm=kept[0].spacing,
        rows=kept[0].size[0],
        columns=kept[0].size[1],
        # the mean is not coarsened by positions that were rounded when they were written
        spacing_mm=float(steps.mean()) if uniform and steps.size else median,
        thickness_mm=thickness,
        gaps=gaps,
        duplicates=duplicates,
        tilt_deg=_tilt(origins, positions, normal, min(kept[0].spacing)),
        uniform=uniform,
        frame_of_reference_uid=kept[0].frame,
    )


def continuous(stack: Stack) -> bool:
    """Whether no slice is missing between the first and the last and all lie on an even grid."""
    return not stack.gaps and stack.uniform


def _slice(instance: Instance) -> _Slice:
    header = instance.header
    several = (elements.number(header, "NumberOfFrames") or 1) > 1
    if several or elements.value(header, "PerFrameFunctionalGroupsSequence"):
        raise GeometryError(REASONS("multi-frame-not-supported"))
    origin = elements.numbers(header, "ImagePositionPatient")
    cosines = elements.numbers(header, "ImageOrientationPatient")
    spacing = elements.numbers(header, "PixelSpacing")
    size = elements.integer(header, "Rows"), elements.integer(header, "Columns")
    if len(origin) != 3 or len(cosines) != 6 or len(spacing) != 2 or min(spacing) <= 0:
        raise GeometryError(REASONS("no-geometry"))
    rows, columns = size
    if not rows or not columns or rows < 1 or columns < 1:
        raise GeometryError(REASONS("no-geometry"))
    row, column = np.array(cosines[:3]), np.array(cosines[3:])
    lengths = float(np.linalg.norm(row)), float(np.linalg.norm(column))
    # a tenth off unit length or square is no rounding: the header does not describe a plane
    if min(lengths) < 0.9 or max(lengths) > 1.1 or abs(float(row @ column)) > 0.1:
        raise GeometryError(REASONS("no-geometry"))
    row, column = row / lengths[0], column / lengths[1]
    for array in (row, column):
        array.setflags(write=False)
    return _Slice(
        instance,
        np.array(origin),
        row,
        column,
        (spacing[0], spacing[1]),
        (rows, columns),
        elements.text(header, "FrameOfReferenceUID"),
        elements.number(header, "InstanceNumber") or 0.0,
    )


def _check_alike(slices: Sequence[_Slice]) -> None:
    first = slices[0]
    limits = LIMITS.stack
    if len({s.frame for s in slices}) > 1:
        raise GeometryError(REASONS("mixed-frames-of-reference"))
    if len({s.size for s in slices}) > 1:
        raise GeometryError(REASONS("mixed-size"))
    spacings = np.array([s.spacing for s in slices])
    if np.abs(spacings / spacings[0] - 1).max() > limits.pixel_spacing_ratio:
        raise GeometryError(REASONS("mixed-pixel-spacing"))
    cosine = np.cos(np.radians(limits.orientation_deg))
    if any(min(float(s.row @ first.row), float(s.column @ first.column)) < cosine for s in slices):
        raise GeometryError(REASONS("mixed-orientation"))


def _drop_duplicates(slices: Sequence[_Slice], normal: Vector) -> tuple[list[_Slice], tuple[ImageKey, ...]]:
    """Keep one slice for each position of a sorted list.

    The median step is taken over steps longer than rounding, so that a series whose every position is held twice does
    not hide behind a median of zero.
    """
    positions = np.array([s.origin @ normal for s in slices])
    steps = np.diff(positions)
    real = steps[steps > LIMITS.stack.rounding_mm]
    shortest = LIMITS.stack.duplicate_ratio * float(np.median(real)) if real.size else np.inf
    starts = [0, *(int(k) + 1 for k in np.flatnonzero(steps >= shortest))]
    groups = [slices[a:b] for a, b in zip(starts, [*starts[1:], len(slices)], strict=True)]
    repeated = sum(len(g) > 1 for g in groups)
    if len(groups) > 1 and repeated > LIMITS.stack.repeated_share * len(groups):
        raise GeometryError(REASONS("positions-repeated", positions=len(groups), slices=len(slices)))
    ordered = [sorted(g, key=lambda s: (s.number, s.instance.key)) for g in groups]
    dropped = tuple(s.instance.key for g in ordered for s in g[1:])
    return [g[0] for g in ordered], dropped


def _even(positions: Vector, step: float) -> bool:
    """Whether every position lies next to an even grid from the first to the last.

    Positions are compared, not steps: rounding moves each position by half a unit, but a step by a whole one, while
    small deviations that add up are seen here and not there.
    """
    grid = np.linspace(positions[0], positions[-1], len(positions))
    return bool(np.abs(positions - grid).max() <= max(LIMITS.stack.uneven_ratio * step, LIMITS.stack.rounding_mm))


def _tilt(origins: Vector, positions: Vector, normal: Vector, pixel_mm: float) -> float:
    """Fit a straight line through the slice origins; return its angle to the normal in degrees.

    Raises
    ------
    GeometryError
        If a slice lies beside the line: no affine describes such a stack.
    """
    if len(positions) < 2:
        return 0.0
    along = positions - positions.mean()
    offset = origins - origins.mean(axis=0)
    slope = (along @ offset) / float(along @ along)
    beside = np.linalg.norm(offset - along[:, None] * slope, axis=1)
    if float(beside.max()) > LIMITS.stack.drift_pixels * pixel_mm:
        raise GeometryError(REASONS("slices-not-in-line"))
    across = slope - (slope @ normal) * normal
    return float(np.degrees(np.arctan2(np.linalg.norm(across), abs(float(slope @ normal)))))


def _plane(normal: Vector) -> Plane:
    axis = int(np.argmax(np.abs(normal)))
    return _PLANES[axis] if abs(float(normal[axis])) >= LIMITS.stack.plane_cosine else "oblique"
