"""How sharp edges are, and whether they are doubled.

An edge between air and tissue blurred by a Gaussian of sigma has its steepest slope of height / (sigma x sqrt(2 pi)).
Two positions of a moving patient in one image double every edge: its spectrum is multiplied by cosines, and its cepstrum
(Bogert, Healy, Tukey 1963: the spectrum of the logarithm of the spectrum) has a peak at the displacement.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from pipeline.quality.ct.view import View
from pipeline.quality.grade import Measured


def sharpness(view: View, slices: range, p: dict[str, Any]) -> dict[str, Measured]:
    """Return ``edge_sigma_mm`` of the sharpest quarter of the edges of a few slices; `p` is the table ``sharpness``.

    What the size of the pixels explains is taken off.
    """
    mm = view.stack.pixel_spacing_mm
    if max(mm) > p["pixel_most_mm"]:
        return {}
    sigmas = []
    reach = max(3, round(p["edge_mm"] / min(mm))) | 1
    for z in slices:
        plane = np.clip(view.volume.array[z], -1000, 200)
        plane = plane[: plane.shape[0] // 2 * 2]
        high, low = ndimage.maximum_filter(plane, reach), ndimage.minimum_filter(plane, reach)
        height = high - low
        dy, dx = np.gradient(plane)
        slope = np.hypot(dy / mm[0], dx / mm[1])
        edge = (height > p["height_least"]) & (slope == ndimage.maximum_filter(slope, reach))
        if view.volume.padding is not None:
            edge &= ~ndimage.binary_dilation(view.volume.padding[z][: plane.shape[0]], iterations=reach)
        sigmas.append(height[edge] / (slope[edge] * np.sqrt(2 * np.pi)))
    values = np.concatenate(sigmas) if sigmas else np.zeros(0)
    if values.size < p["edges_least"]:
        return {}
    own = p["pixel_share"] * max(mm)  # what a pixel blurs by itself
    sigma = float(np.sqrt(max(float(np.percentile(values, 25)) ** 2 - own**2, 0.0)))
    return {"edge_sigma_mm": Measured(sigma, "mm", view.whole(slices[len(slices) // 2]))}


def motion(view: View, over: range, p: dict[str, Any]) -> dict[str, Measured]:
    """Return ``double_edges``: how far doubled edges stand out in a run of slices of `over`; `p` is the table ``sharpness``."""
    if max(view.stack.pixel_spacing_mm) > p["pixel_most_mm"] or len(over) < p["double_least_slices"]:
        return {}
    slices = over[:: max(1, len(over) // p["double_slices"])]
    run = ndimage.median_filter(_doubled(view, slices, p), p["double_run"], mode="nearest")
    k = int(run.argmax())
    return {"double_edges": Measured(float(run[k]), "1", view.whole(slices[k]))}


def _doubled(view: View, slices: range, p: dict[str, Any]) -> npt.NDArray[np.float64]:
    """Return how far the cepstrum of each slice stands out at a displacement of some millimetres."""
    mm = view.stack.pixel_spacing_mm
    block = max(1, round(p["double_grid_mm"] / max(mm)))
    out = []
    for z in slices:
        plane = np.clip(view.volume.array[z], -1000, 200)
        rows, columns = (n // block * block for n in plane.shape)
        small = plane[:rows, :columns].reshape(rows // block, block, columns // block, block).mean(axis=(1, 3))
        window = np.hanning(small.shape[0])[:, None] * np.hanning(small.shape[1])[None]
        power = np.abs(fft.rfft2((small - small.mean()) * window)) ** 2
        cepstrum = fft.irfft2(np.log(power + p["double_floor"] * np.median(power)), s=small.shape)
        half = round(p["double_most_mm"] / (block * min(mm))) + 2
        near = np.roll(cepstrum, (half, half), (0, 1))[: 2 * half + 1, : 2 * half + 1]
        yy, xx = np.mgrid[-half : half + 1, -half : half + 1]
        away = np.hypot(yy * block * mm[0], xx * block * mm[1])
        ring = (away >= p["double_least_mm"]) & (away <= p["double_most_mm"])
        near = ndimage.gaussian_filter(near, 0.6)
        values = near[ring]
        spread = np.median(np.abs(values - np.median(values))) * 1.4826
        out.append(float((values.max() - np.median(values)) / max(spread, 1e-9)))
    return np.array(out)
