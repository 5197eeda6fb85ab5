"""Where a result stands: the grid of its source, and masks on it.

Arrays are indexed [z, y, x] on the grid of the source series; positions are millimetres in LPS.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dicom_io.model import ImageKey
from dicom_io.radiograph import Orientation, Spacing


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """The grid that all masks of a result stand on: that of the source series.

    Parameters
    ----------
    shape : tuple[int, int, int]
        Slices, rows, columns.
    affine : ndarray, shape (4, 4), float64
        Maps (x, y, z, 1) of array indices [z, y, x] to LPS millimetres of voxel centres.
    images : tuple[ImageKey, ...]
        ``images[z]`` is the image that slice z came from.
    frame_of_reference_uid : str
        Frame of Reference UID (0020,0052) of the source; empty if it has none.
    """

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]
    images: tuple[ImageKey, ...]
    frame_of_reference_uid: str

    def __post_init__(self) -> None:
        if len(self.images) != self.shape[0] or self.affine.shape != (4, 4):
            raise ValueError(f"geometry: {len(self.images)} images for shape {self.shape}")

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in mm3."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def to_lps(self, zyx: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map array indices, shape (..., 3) in order [z, y, x], to LPS millimetres, shape (..., 3)."""
        index = np.asarray(zyx, dtype=np.float64)[..., ::-1]
        return index @ self.affine[:3, :3].T + self.affine[:3, 3]


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """The grid of a result on one radiograph: pixels, but no place in the patient and no volume.

    Masks are those of one slice, shape (1, rows, columns).

    Parameters
    ----------
    rows, columns : int
        Of the image.
    sop_instance_uid : str
        The image.
    orientation : Orientation
        Patient directions towards the end of the rows and of the columns; empty where the image does not say.
    spacing : Spacing or None
        What a pixel measures, and where; None where the image does not say.
    """

    rows: int
    columns: int
    sop_instance_uid: str
    orientation: Orientation
    spacing: Spacing | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """One slice, rows, columns."""
        return 1, self.rows, self.columns

    @property
    def images(self) -> tuple[ImageKey, ...]:
        """The one image."""
        return (ImageKey(self.sop_instance_uid),)

    @property
    def frame_of_reference_uid(self) -> str:
        """Empty: there are no coordinates to refer to."""
        return ""


Grid = Geometry | Projection


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A binary mask on the source grid, kept as its bounding box.

    Parameters
    ----------
    shape : tuple[int, int, int]
        Shape of the whole grid.
    offset : tuple[int, int, int]
        Index [z, y, x] of the first voxel of the box.
    box : ndarray, uint8
        0 or 1; ``box[0, 0, 0]`` stands at `offset`.
    """

    shape: tuple[int, int, int]
    offset: tuple[int, int, int]
    box: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, array: npt.NDArray[Any]) -> "Mask":
        """Crop a whole-grid array [z, y, x] (true where non-zero) to its bounding box; an empty one has a 0-size box."""
        shape = (int(array.shape[0]), int(array.shape[1]), int(array.shape[2]))
        hit = array != 0
        bounds = []
        for axis in range(3):
            line = np.flatnonzero(hit.any(axis=tuple(a for a in range(3) if a != axis)))
            if line.size == 0:
                return cls(shape, (0, 0, 0), np.zeros((0, 0, 0), np.uint8))
            bounds.append((int(line[0]), int(line[-1]) + 1))
        box = hit[tuple(slice(a, b) for a, b in bounds)].astype(np.uint8)
        return cls(shape, (bounds[0][0], bounds[1][0], bounds[2][0]), box)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Where the box stands in the whole grid."""
        z, y, x = (slice(o, o + n) for o, n in zip(self.offset, self.box.shape, strict=True))
        return z, y, x

    def paint(self, out: npt.NDArray[Any], value: int = 1) -> None:
        """Write `value` into `out`, an array of the whole grid, where the mask is set."""
        out[self.slices][self.box != 0] = value

    def plane(self, z: int) -> npt.NDArray[np.uint8]:
        """Return slice `z` of the whole grid, shape (rows, columns)."""
        out = np.zeros(self.shape[1:], np.uint8)
        k = z - self.offset[0]
        if 0 <= k < self.box.shape[0]:
            out[self.slices[1:]] = self.box[k]
        return out

    @property
    def voxels(self) -> int:
        """Number of voxels set."""
        return int(np.count_nonzero(self.box))
