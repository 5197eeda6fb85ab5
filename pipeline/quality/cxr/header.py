"""What the header of a radiograph says about its quality: exposure, view, sides, what kind of copy it is."""

from collections.abc import Iterator, Mapping
from math import log10
from typing import Any

from pydicom.dataset import Dataset

from dicom_io import elements
from dicom_io.radiograph import Radiograph
from dicom_io.reason import Reason
from pipeline.quality.grade import Measured
from pipeline.reasons import REASONS

_SECONDARY = "1.2.840.10008.5.1.4.1.1.7"


def measures(header: Dataset, image: Radiograph, p: Mapping[str, Any]) -> dict[str, Measured]:
    """Return what the header gives; what it does not say is not there."""
    out = dict(_exposure(header))
    if elements.text(header, "BurnedInAnnotation").upper() == "YES":
        out["burned_in"] = Measured(1.0)
    if elements.text(header, "SOPClassUID") == _SECONDARY:
        out["secondary_capture"] = Measured(1.0)
    if elements.text(header, "LossyImageCompression") == "01":
        out["lossy_compression"] = Measured(elements.number(header, "LossyImageCompressionRatio") or 1.0)
    if image.orientation and image.orientation not in {("L", "F"), ("R", "F")}:
        out["stated_turned"] = Measured(1.0, words={"orientation": "\\".join(image.orientation)})
    if image.orientation == ("R", "F") and view(header) in p["views"]["frontal"]:
        out["stated_mirrored"] = Measured(1.0)
    return out


def view(header: Dataset) -> str:
    """Return View Position (0018,5101) in upper case, without blanks; empty if it is not said."""
    return elements.text(header, "ViewPosition").upper().replace(" ", "").replace("_", "")


def _exposure(header: Dataset) -> Iterator[tuple[str, Measured]]:
    """Return the deviation index, computed where it can be (IEC 62494-1: ten times the logarithm of EI / target).

    The device's own number counts where there is nothing to compute it from.
    """
    index, target, stated = (
        elements.number(header, k) for k in ("ExposureIndex", "TargetExposureIndex", "DeviationIndex")
    )
    computed = None
    if index is not None and target is not None and index > 0 and target > 0:
        computed = 10 * log10(index / target)
    if index is not None and index > 0:
        yield "exposure_index", Measured(index, "1")
    deviation = stated if computed is None else computed
    if deviation is None:
        return
    yield "deviation_index", Measured(deviation, "1")
    if computed is not None and stated is not None:
        words = {"stated": f"{stated:.2f}", "computed": f"{computed:.2f}"}
        yield "deviation_disagrees", Measured(abs(computed - stated), "1", words=words)


def not_evaluated(header: Dataset) -> Iterator[Reason]:
    """Yield what the header leaves open."""
    if elements.number(header, "DeviationIndex") is None and elements.number(header, "TargetExposureIndex") is None:
        yield REASONS("cxr-exposure-not-stated")
    if not view(header):
        yield REASONS("cxr-view-not-stated")
