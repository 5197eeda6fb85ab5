"""What the pixels of a radiograph show without any landmark: noise, sharpness, lost values, frames."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.quality.cxr.image import Look, Plane, blocks
from pipeline.quality.grade import Measured

Flags = npt.NDArray[np.bool_]


def clipped(look: Look, field: Flags, p: Mapping[str, Any]) -> dict[str, Measured]:
    """Return the share, in percent, of a field whose stored values stand at either end of the image's values.

    A value at an end is one of many different exposures: what was there cannot be told again, whatever the window. An end at
    which few pixels of the whole image stand is the end of a tail, not a stop.
    """
    values = look.radiograph.array
    step = max(1, int(np.sqrt(values.size / p["most_pixels"])))
    inside = _enlarged(field, values.shape, step)
    values = values[::step, ::step]
    low, high = float(values.min()), float(values.max())
    if high <= low or not inside.any():
        return {}
    near = (high - low) * p["end_share"]
    seen = values[inside]
    shares = (float((seen <= low + near).mean()), float((seen >= high - near).mean()))
    return {"clipped_percent": Measured(100 * max(shares), "%", look.around(field))}


def _enlarged(field: Flags, shape: tuple[int, ...], step: int) -> Flags:
    """Return every `step`-th row and column of a field made as large as `shape`."""
    rows, columns = ((np.arange(0, n, step) * m // n) for n, m in zip(shape, field.shape, strict=True))
    return field[np.ix_(rows, columns)]


def sharpness(look: Look, p: Mapping[str, Any]) -> dict[str, Measured]:
    """Return how fine structures stand out against coarse ones, in the direction in which they do least.

    Second differences over a short and over a long step, of the image smoothed to fit, in eight directions. Blur takes the
    short ones in all directions, motion in its own. The patient's own contrast cancels. Nothing is measured where the pixels
    of the small copy are too large for the short step.
    """
    if look.mm > p["most_mm"]:
        return {}
    fine, coarse = (ndimage.gaussian_filter(look.small, p[f"{k}_mm"] / look.mm / 2) for k in ("fine", "coarse"))
    ratios = []
    for angle in np.arange(8) * np.pi / 8:
        way = np.array([np.sin(angle), np.cos(angle)]) / look.mm
        short, far = (
            np.abs(_second(image, way * p[f"{k}_mm"], p["rim"])).mean()
            for image, k in ((fine, "fine"), (coarse, "coarse"))
        )
        ratios.append(float(short / max(far, 1e-6)))
    least, even = min(ratios), min(ratios) / max(*ratios, 1e-6)
    out = {"sharpness": Measured(least, "1"), "sharpness_even": Measured(even, "1")}
    out["sharpness_motion" if even < p["even"] else "sharpness_blur"] = out["sharpness"]
    return out


def _second(image: Plane, step: npt.NDArray[np.float64], rim: float) -> Plane:
    """Return the second difference along `step` of what lies further than the share `rim` of its side from every border."""
    return 2 * _beside(image, np.zeros(2), rim) - _beside(image, step, rim) - _beside(image, -step, rim)


def _beside(image: Plane, step: npt.NDArray[np.float64], rim: float) -> Plane:
    """Return the image as seen from `step` pixels beside, between pixels by bilinear interpolation."""
    whole = np.floor(step).astype(int)
    part = step - whole
    first = [max(int(rim * n), int(np.ceil(abs(s))) + 1) for n, s in zip(image.shape, step, strict=True)]
    size = [max(n - 2 * f, 1) for n, f in zip(image.shape, first, strict=True)]
    out = np.zeros(size, np.float32)
    for dy, wy in ((0, 1 - part[0]), (1, part[0])):
        for dx, wx in ((0, 1 - part[1]), (1, part[1])):
            if wy * wx > 0:
                y, x = first[0] + whole[0] + dy, first[1] + whole[1] + dx
                out += np.float32(wy * wx) * image[y : y + size[0], x : x + size[1]]
    return out


def middle(shape: tuple[int, ...], rim: float) -> Flags:
    """Return what lies further than the share `rim` of its side from every border."""
    out = np.zeros(shape, np.bool_)
    rows, columns = (slice(int(rim * n), max(int((1 - rim) * n), int(rim * n) + 1)) for n in shape)
    out[rows, columns] = True
    return out


def bits(look: Look) -> int:
    """Return how many bits the stored values need: 8 in a copy, however many the header promises."""
    values = look.radiograph.array
    return int(np.ceil(np.log2(max(np.unique(values[::4, ::4]).size, 2))))


def noise(look: Look, field: Flags, p: Mapping[str, Any]) -> dict[str, Measured]:
    """Return the noise of the stored values in percent of the image's range (1st to 99th percentile) of values.

    Median of local estimates by Immerkaer (1996) over a field, so that edges are left out, with pixels of at least
    `pixel_mm`: finer ones are put together, as they are seen, or detectors with fine pixels would look worse.
    """
    values = look.radiograph.array
    around = look.around(field)
    part = values[slice(*around.rows), slice(*around.columns)]
    factor = max(1, round(p["pixel_mm"] * max(values.shape) / max(look.small.shape) / look.mm))
    if factor > 1:
        part = blocks(part, factor)
    second = part[:-2] - 2 * part[1:-1] + part[2:]
    both = np.abs(second[:, :-2] - 2 * second[:, 1:-1] + second[:, 2:])
    block = p["block"]
    h, w = (n // block * block for n in both.shape)
    if h == 0 or w == 0:
        return {}
    means = both[:h, :w].reshape(h // block, block, w // block, block).mean(axis=(1, 3))
    sigma = float(np.sqrt(np.pi / 2) / 6 * np.median(means))
    low, high = np.percentile(values[::4, ::4], (1, 99))
    return {"noise_percent": Measured(100 * sigma / max(float(high - low), 1e-6), "%", around)}
