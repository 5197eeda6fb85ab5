"""Noise in soft tissue.

References
----------
Christianson O et al. AJR 2015;205:W93 (global noise level: mode of the local standard deviation in soft tissue).
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_io import elements
from dicom_io.stack import Stack
from pipeline.chest_ct.select import sharp_kernel
from pipeline.quality.grade import Measured

_WINDOW = 7


def noise(array: npt.NDArray[np.float32], slices: range) -> float | None:
    """Return the global noise level of a few slices, HU; None if there is too little soft tissue.

    The most frequent standard deviation of small windows in soft tissue: edges and vessels make larger ones, but rarer.
    """
    seen = []
    for z in slices:
        plane = array[z].astype(np.float64)
        mean = ndimage.uniform_filter(plane, _WINDOW)
        variance = ndimage.uniform_filter(plane * plane, _WINDOW) - mean * mean
        seen.append(np.sqrt(np.maximum(variance, 0))[(mean > 0) & (mean < 170)])
    values = np.concatenate(seen) if seen else np.zeros(0)
    if values.size < 2000:
        return None
    counts, edges = np.histogram(values, bins=np.arange(0, 200.5, 0.5))
    counts = ndimage.uniform_filter1d(counts.astype(np.float64), 5)
    return float(edges[int(counts.argmax())] + 0.25)


def measured(stack: Stack, level: float, p: dict[str, Any]) -> dict[str, Measured]:
    """Return ``noise_hu``, and ``noise_ratio``: how many times as large as usual for thickness, dose and kind of kernel.

    Usual is `typical_hu` for `thickness_mm` and `ctdi_mgy`, times a factor for kernels that enhance edges; the variance of
    noise falls with thickness and dose (Brooks RA, Di Chiro G. Med Phys 1976;3:237). `p` is the table ``noise``.
    """
    header = stack.instances[0].header
    sharp = sharp_kernel(header)
    kernel = p["kernel"][{True: "sharp", False: "soft", None: "unknown"}[sharp]]
    thickness = max(stack.thickness_mm or stack.spacing_mm, p["thinnest_mm"])
    dose = elements.number(header, "CTDIvol")
    share = p["ctdi_mgy"] / dose if dose is not None and dose > 0 else 1.0
    low, high = p["dose_range"]
    usual = p["typical_hu"] * kernel * float(np.sqrt(p["thickness_mm"] / thickness * np.clip(share, low, high)))
    words = {"hu": f"{level:.0f}", "usual": f"{usual:.0f}"}
    return {
        "noise_hu": Measured(level, "[hnsf'U]"),
        "noise_ratio": Measured(level / usual, "1", words=words),
    }
