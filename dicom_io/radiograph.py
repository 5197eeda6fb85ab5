"""One projection radiograph: its pixels, what a pixel measures, and how the image asks to be shown.

A radiograph is a projection: it has no place in the patient, no slices and no volume. What its pixels measure in millimetres
depends on where: at the detector, or, after a calibration, at some depth in the patient.

References
----------
DICOM PS3.3 C.8.1.1 and C.8.11.1 (CR, DX image), 10.7.1.3 (meaning of pixel spacings), C.7.6.1.1.1 (Patient Orientation),
C.11.1 (Modality LUT), C.11.2 (VOI LUT), C.11.6 (Presentation LUT Shape).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from dicom_io import elements
from dicom_io.errors import PixelError
from dicom_io.model import Instance
from dicom_io.pixels import pixel_format, stored_values
from dicom_io.reasons import REASONS

Image = npt.NDArray[np.float32]
Meaning = Literal["calibrated", "detector", "unknown"]
Orientation = tuple[str, str] | tuple[()]

SOP_CLASSES = frozenset({
    "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1.1",
    "1.2.840.10008.5.1.4.1.1.1.2", "1.2.840.10008.5.1.4.1.1.1.2.1",
})  # fmt: skip
"""CR, DX and digital mammography, the last two for presentation and for processing."""
OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "H": "F", "F": "H"}
_MOST_ENTRIES = 1 << 16


@dataclass(frozen=True, slots=True)
class Spacing:
    """Millimetres between neighbouring pixels, and where that holds (PS3.3 section 10.7.1.3).

    Parameters
    ----------
    row_mm, column_mm : float
        Between rows and between columns.
    meaning : {"calibrated", "detector", "unknown"}
        ``calibrated``: corrected for magnification or by an object of known size; ``detector``: at the front plane of the
        detector, so that what lies before it is smaller than it measures; ``unknown``: the image does not say, and no
        length or area may be given.
    """

    row_mm: float
    column_mm: float
    meaning: Meaning

    @property
    def area_mm2(self) -> float:
        """Area of a pixel in mm2, where `meaning` says."""
        return self.row_mm * self.column_mm


@dataclass(frozen=True, slots=True, eq=False)
class Radiograph:
    """The pixels of one radiograph as stored, never turned or flipped.

    Parameters
    ----------
    array : ndarray, float32, shape (rows, columns)
        Values after the Modality LUT or rescale. Read only.
    shown : ndarray, float32, shape (rows, columns)
        How the image asks to be shown by its first VOI LUT or window: 0 black, 1 white. Without one all values are shown.
        Read only.
    spacing : Spacing or None
        None if the image states none.
    orientation : tuple[str, str] or ()
        Patient Orientation (0020,0020) towards the end of the rows and of the columns, for example ("L", "F"); empty if
        the image does not say, or says what cannot be.
    relationship : str
        Pixel Intensity Relationship (0028,1040): ``LIN``, ``LOG``, ``DISP`` or what else is said; empty if nothing is.
    sign : int
        Pixel Intensity Relationship Sign (0028,1041): 1 where higher values mean more X-rays, -1 where fewer, 0 if unknown.
    intent : str
        Presentation Intent Type (0008,0068): ``FOR PRESENTATION``, ``FOR PROCESSING`` or empty (CR).
    sop_instance_uid, series_instance_uid : str
        Of the instance.
    """

    array: Image
    shown: Image
    spacing: Spacing | None
    orientation: Orientation
    relationship: str
    sign: int
    intent: str
    sop_instance_uid: str
    series_instance_uid: str


def load_radiograph(instance: Instance) -> Radiograph:
    """Decode one radiograph.

    Raises
    ------
    PixelError
        ``pixels-missing``, ``pixels-truncated``, ``pixels-undecodable``, ``pixels-not-grey`` or ``pixels-odd-format``.
    """
    header = instance.header
    form = pixel_format(instance)
    array = _modality(stored_values(instance, form), header)
    shown = _voi(array, header)
    if inverse(header):
        shown = np.float32(1) - shown
    for made in (array, shown):
        made.setflags(write=False)
    return Radiograph(
        array=array,
        shown=shown,
        spacing=spacing(header),
        orientation=orientation(header),
        relationship=elements.text(header, "PixelIntensityRelationship").upper(),
        sign=int(np.sign(elements.integer(header, "PixelIntensityRelationshipSign") or 0)),
        intent=elements.text(header, "PresentationIntentType").upper(),
        sop_instance_uid=instance.sop_instance_uid,
        series_instance_uid=instance.series_instance_uid,
    )


def spacing(header: Dataset) -> Spacing | None:
    """Return what a pixel measures; None if the header states no spacing.

    Pixel Spacing (0028,0030) that differs from Imager Pixel Spacing (0018,1164), or names its calibration, is calibrated;
    Imager Pixel Spacing, and Pixel Spacing equal to it, hold at the detector; Pixel Spacing alone may be either.
    """
    own, imager = (_pair(header, keyword) for keyword in ("PixelSpacing", "ImagerPixelSpacing"))
    if own is None:
        return None if imager is None else Spacing(*imager, "detector")
    if elements.text(header, "PixelSpacingCalibrationType").upper() in {"GEOMETRY", "FIDUCIAL"}:
        return Spacing(*own, "calibrated")
    if imager is None:
        return Spacing(*own, "unknown")
    same = all(abs(a - b) <= 1e-4 * b for a, b in zip(own, imager, strict=True))
    return Spacing(*own, "detector" if same else "calibrated")


def _pair(header: Dataset, keyword: str) -> tuple[float, float] | None:
    values = elements.numbers(header, keyword)
    return (values[0], values[1]) if len(values) == 2 and all(1e-3 < v < 100 for v in values) else None


def orientation(header: Dataset) -> Orientation:
    """Return the patient directions towards the end of the rows and of the columns; empty if they make no sense."""
    found = tuple(text.upper() for text in elements.texts(header, "PatientOrientation"))
    if len(found) != 2 or not all(part and set(part) <= set(OPPOSITE) for part in found):
        return ()
    axes = ["".join(min(letter, OPPOSITE[letter]) for letter in part) for part in found]
    twice = any(len(set(axis)) < len(axis) for axis in axes) or axes[0][0] == axes[1][0]
    return () if twice else (found[0], found[1])


def inverse(header: Dataset) -> bool:
    """Whether the highest value is shown black: by Presentation LUT Shape (2050,0020), else by Photometric Interpretation.

    In a DX image both say the same (PS3.3 section C.8.11.3.1.2); where they contradict each other the shape counts, as for
    a presentation state.
    """
    shape = elements.text(header, "PresentationLUTShape").upper()
    if shape in {"IDENTITY", "INVERSE"}:
        return shape == "INVERSE"
    return elements.text(header, "PhotometricInterpretation").upper() == "MONOCHROME1"


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """A look-up table (PS3.3 section C.11.1.1.1): the first value that it maps, what the entries give, the highest possible."""

    first: int
    entries: npt.NDArray[np.uint16]
    top: int

    def look_up(self, values: npt.NDArray[np.integer] | Image) -> Image:
        at = np.clip(np.rint(values).astype(np.int64) - self.first, 0, self.entries.size - 1)
        return self.entries[at].astype(np.float32)


def _table(header: Dataset, keyword: str) -> _Table | None:
    """Return the first table of a sequence; None if there is none, or it contradicts itself."""
    items = elements.value(header, keyword)
    if not isinstance(items, Sequence) or not items:
        return None
    descriptor = elements.numbers(items[0], "LUTDescriptor")
    data = elements.value(items[0], "LUTData")
    if len(descriptor) != 3 or data is None:
        return None
    count, first, bits = (int(v) for v in descriptor)
    count = count or _MOST_ENTRIES
    if not 1 < count <= _MOST_ENTRIES or not 8 <= bits <= 16:
        return None
    if isinstance(data, bytes):  # bytes, or words of little endian
        entries = np.frombuffer(data, "u1" if len(data) < 2 * count else "<u2")
    else:
        entries = np.array(data, np.int64)
    if entries.size < count or entries.min() < 0 or entries.max() >= 1 << bits:
        return None
    return _Table(first, entries[:count].astype(np.uint16), (1 << bits) - 1)


def _modality(stored: npt.NDArray[np.integer], header: Dataset) -> Image:
    """Return the values after the modality transformation: a table, else a straight line."""
    table = _table(header, "ModalityLUTSequence")
    if table is not None:
        return table.look_up(stored)
    slope, intercept = elements.number(header, "RescaleSlope"), elements.number(header, "RescaleIntercept")
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    out = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    if not 0 < slope < 1e6 or not np.isfinite(out.sum(dtype=np.float64)):
        raise PixelError(REASONS("pixels-odd-format"))
    return out


def _voi(array: Image, header: Dataset) -> Image:
    """Return the values as shown, 0 to 1: by the first VOI LUT, else the first window, else from lowest to highest."""
    table = _table(header, "VOILUTSequence")
    if table is not None:
        return np.asarray(table.look_up(array) / np.float32(table.top), np.float32)
    centre, width = (elements.number(header, keyword) for keyword in ("WindowCenter", "WindowWidth"))
    function = elements.text(header, "VOILUTFunction").upper() or "LINEAR"
    if centre is None or width is None or width <= (function == "LINEAR"):
        low, high = float(array.min()), float(array.max())
        centre, width, function = (low + high) / 2, max(high - low, 1e-6), "LINEAR_EXACT"
    if function == "SIGMOID":
        bent = np.clip(np.float32(-4 / width) * (array - np.float32(centre)), -80, 80)
        return np.asarray(1 / (1 + np.exp(bent)), np.float32)
    if function == "LINEAR":  # PS3.3 section C.11.2.1.2.1
        centre, width = centre - 0.5, width - 1
    return np.asarray(np.clip((array - np.float32(centre)) / np.float32(width) + np.float32(0.5), 0, 1), np.float32)
