"""Pixels of a stack as one array.

References
----------
DICOM PS3.3 C.7.6.3 (Image Pixel), C.11.1 (Modality LUT), C.7.5.1.1.2 (Pixel Padding Value); PS3.5 section 8.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dicom_io import elements
from dicom_io.errors import GeometryError, PixelError
from dicom_io.limits import LIMITS
from dicom_io.model import ImageKey, Instance
from dicom_io.pixels import Format, pixel_format, stored_values
from dicom_io.reasons import REASONS
from dicom_io.stack import Stack


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """Voxel values on the grid of the source slices; never flipped to anatomical order.

    Parameters
    ----------
    array : ndarray, float32, shape (slices, rows, columns)
        Indexed [z, y, x]. Hounsfield units for CT, else what Rescale Slope and Intercept give. Read only.
    affine : ndarray, float64, shape (4, 4)
        Maps (x, y, z, 1) of array indices [z, y, x] to LPS millimetres of voxel centres. The z column is the true
        slice-to-slice displacement, so it leans with the gantry.
    affine_error_mm : float
        Largest distance between a slice's stated position and where the affine puts it; above rounding only if the
        volume was loaded with `allow_gaps`.
    images : tuple[ImageKey, ...]
        ``images[z]`` is the image that slice z came from.
    frame_of_reference_uid : str
        Empty if the source has none.
    series_instance_uid : str
        Of the first slice.
    padding : ndarray, bool, shape of `array`, or None
        Voxels that were declared padding or lie outside the reconstruction circle; they hold -1024 HU. None if there
        are none, or if the modality is not CT.
    """

    array: npt.NDArray[np.float32]
    affine: npt.NDArray[np.float64]
    affine_error_mm: float
    images: tuple[ImageKey, ...]
    frame_of_reference_uid: str
    series_instance_uid: str
    padding: npt.NDArray[np.bool_] | None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along z, y and x; along z that of the slanted step if tilted."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(z), float(y), float(x)


def stack_affine(stack: Stack) -> npt.NDArray[np.float64]:
    """Return the 4x4 matrix from (x, y, z, 1) of array indices to LPS millimetres of voxel centres."""
    affine = np.eye(4)
    affine[:3, 0] = stack.row * stack.pixel_spacing_mm[1]
    affine[:3, 1] = stack.column * stack.pixel_spacing_mm[0]
    affine[:3, 2] = stack.displacement_mm
    affine[:3, 3] = stack.origins_mm[0]
    return affine


def load_volume(stack: Stack, *, allow_gaps: bool = False) -> Volume:
    """Decode every slice of a stack once, straight into one array.

    Parameters
    ----------
    stack : Stack
        The slices.
    allow_gaps : bool
        Load a stack with missing or unevenly spaced slices as well. No slice is invented: `images` stay
        right, but positions and volumes from the affine are then wrong by up to `affine_error_mm` and must not be
        reported.

    Returns
    -------
    Volume
        Voxel values and where they are.

    Raises
    ------
    GeometryError
        ``slices-missing`` or ``uneven-spacing``, unless `allow_gaps`.
    PixelError
        ``pixels-missing``, ``pixels-truncated``, ``pixels-undecodable``, ``pixels-not-grey`` or ``pixels-odd-format``.
    """
    affine = stack_affine(stack)
    index = np.arange(len(stack.instances))[:, None]
    error_mm = float(np.linalg.norm(affine[:3, 3] + index * affine[:3, 2] - stack.origins_mm, axis=1).max())
    if not allow_gaps:
        if stack.gaps:
            raise GeometryError(REASONS("slices-missing", missing=sum(g.missing for g in stack.gaps)))
        if not stack.uniform:
            raise GeometryError(REASONS("uneven-spacing", mm=error_mm))
    array = np.empty((len(stack.instances), stack.rows, stack.columns), np.float32)
    padding: npt.NDArray[np.bool_] | None = None
    for z, instance in enumerate(stack.instances):
        outside = _fill(array[z], instance)
        if outside is not None:
            if padding is None:
                padding = np.zeros(array.shape, np.bool_)
            padding[z] = outside
    for made in (array, affine):
        made.setflags(write=False)
    return Volume(
        array=array,
        affine=affine,
        affine_error_mm=error_mm,
        images=stack.images,
        frame_of_reference_uid=stack.frame_of_reference_uid,
        series_instance_uid=stack.instances[0].series_instance_uid,
        padding=padding,
    )


def _fill(out: npt.NDArray[np.float32], instance: Instance) -> npt.NDArray[np.bool_] | None:
    """Write the rescaled values of one slice into `out`; return its padding, or None if it has none."""
    form = pixel_format(instance)
    stored = stored_values(instance, form)
    slope, intercept = _rescale(instance)
    np.multiply(stored, np.float32(slope), out=out, casting="unsafe")
    out += np.float32(intercept)
    if not np.isfinite(out.sum(dtype=np.float64)):
        raise PixelError(REASONS("pixels-odd-format"))
    if instance.modality != "CT":
        return None
    limits = LIMITS.volume
    outside: npt.NDArray[np.bool_] = out < limits.outside_hu
    declared = _padding_range(instance, form)
    if declared is not None:
        low, high = (bound * slope + intercept for bound in declared)
        if high < limits.padding_below_hu or low > limits.padding_above_hu:
            outside |= (stored >= declared[0]) & (stored <= declared[1])
    if not outside.any():
        return None
    out[outside] = limits.air_hu
    return outside


def _rescale(instance: Instance) -> tuple[float, float]:
    """Return slope and intercept; absent ones are 1 and 0, present ones must be numbers and the slope positive."""
    header = instance.header
    slope, intercept = elements.number(header, "RescaleSlope"), elements.number(header, "RescaleIntercept")
    stated = [bool(elements.text(header, k)) for k in ("RescaleSlope", "RescaleIntercept")]
    if (
        (stated[0] and slope is None)
        or (stated[1] and intercept is None)
        or (slope is not None and not 0 < slope < 1e6)
    ):
        raise PixelError(REASONS("pixels-odd-format"))
    return (1.0 if slope is None else slope), (0.0 if intercept is None else intercept)


def _padding_range(instance: Instance, form: Format) -> tuple[int, int] | None:
    """Return the stored values that Pixel Padding Value (0028,0120) and Range Limit (0028,0121) declare as padding."""
    value = elements.integer(instance.header, "PixelPaddingValue")
    if value is None:
        return None
    limit = elements.integer(instance.header, "PixelPaddingRangeLimit")
    bounds = sorted(form.as_stored(v) for v in (value, value if limit is None else limit))
    return bounds[0], bounds[1]
