"""Whether neighbouring slices show neighbouring anatomy.

A slice is more like each of its neighbours than these, two steps apart, are like each other. One that is not, on both
sides, does not belong where it stands: two slices have each other's pixels, or it comes from elsewhere.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_io import elements
from pipeline.quality.ct.view import View
from pipeline.quality.grade import Measured


def order(view: View, p: dict[str, Any]) -> dict[str, Measured]:
    """Return ``slice_misfit`` and ``slice_jump``; `p` is the table ``order``.

    ``slice_misfit``: how much more a slice differs from the more alike of its neighbours than these differ from each other.
    ``slice_jump``: how much more two neighbours differ than neighbours near them do.
    """
    seen = np.clip(view.slices, *p["window"])
    if len(seen) < p["least"]:
        return {}
    next_ = _apart(seen, 1)
    over = np.maximum(_apart(seen, 2), p["floor_hu"])
    misfit = np.minimum(next_[:-1], next_[1:]) / over
    z = int(misfit.argmax()) + 1
    usual = np.maximum(ndimage.median_filter(next_, p["near"], mode="nearest"), p["floor_hu"])
    jump = next_ / usual
    k = int(jump.argmax())
    image = view.stack.instances[z]
    odd = [int(n) + 1 for n in np.flatnonzero(misfit > p["odd"])]
    words = {"count": len(odd), "images": ", ".join(_number(view, n) for n in odd[: p["named"]])}
    return {
        "slice_misfit": Measured(float(misfit.max()), "1", view.whole(z), (image.sop_instance_uid,), words),
        "slice_jump": Measured(
            float(jump.max()), "1", view.whole(k),
            words={"after": _number(view, k), "before": _number(view, k + 1)},
        ),
    }  # fmt: skip


def _apart(seen: npt.NDArray[np.float32], step: int) -> npt.NDArray[np.float64]:
    """Return the mean difference of slices `step` apart, HU."""
    return np.array([float(np.abs(a - b).mean()) for a, b in zip(seen[:-step], seen[step:], strict=True)])


def _number(view: View, z: int) -> str:
    number = elements.integer(view.stack.instances[z].header, "InstanceNumber")
    return f"{number}" if number is not None else f"{z + 1}"
