"""Noise in soft tissue.

References
----------
Christianson O et al. AJR 2015;205:W93 (global noise level: mode of the local standard deviation in soft tissue).
"""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

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
