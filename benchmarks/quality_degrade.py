"""What the benchmark of image quality does to radiographs: see ``quality_defects.toml`` for how badly.

Images are float32 [rows, columns], 0 black and 1 white as shown, unless a function says otherwise. Lengths are millimetres
and become pixels by `mm`, the distance between neighbouring pixels. Nothing here knows a pipeline or a limit.
"""

from math import cos, floor, radians, sin
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import convolve, gaussian_filter, rotate, shift

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
SIDES = ("top", "bottom", "left", "right")


def inscribed(rows: int, columns: int, degrees: float) -> tuple[int, int]:
    """Return rows and columns of the largest upright rectangle that a turned image of this size fills.

    The solution for a rectangle turned about its centre: either all four corners of the inner rectangle touch, or two of
    them do, in the middle of the longer sides.
    """
    s, c = abs(sin(radians(degrees))), abs(cos(radians(degrees)))
    long, short = max(rows, columns), min(rows, columns)
    if short <= 2 * s * c * long:
        a, b = short / (2 * s), short / (2 * c)
        width, height = (a, b) if columns >= rows else (b, a)
    else:
        span = c * c - s * s
        width, height = (columns * c - rows * s) / span, (rows * c - columns * s) / span
    return floor(height), floor(width)


def middle(image: npt.NDArray[Any], rows: int, columns: int) -> npt.NDArray[Any]:
    """Return the middle of an image."""
    r, c = (image.shape[0] - rows) // 2, (image.shape[1] - columns) // 2
    return image[r : r + rows, c : c + columns]


def tilt(image: Image, degrees: float) -> tuple[Image, Image]:
    """Return the image turned in its plane (counter-clockwise), and the clean one, both cut so that no corner shows."""
    rows, columns = (n - 2 for n in inscribed(*image.shape, degrees))  # a pixel less: the spline's edge
    turned = rotate(image, degrees, reshape=False, order=3, mode="nearest")
    return np.clip(middle(turned, rows, columns), 0, 1), middle(image, rows, columns)


def margins(lungs: Mask) -> dict[str, int]:
    """Return how many pixels lie between the lungs and each border of the image."""
    rows, columns = np.flatnonzero(lungs.any(axis=1)), np.flatnonzero(lungs.any(axis=0))
    return {
        "top": int(rows[0]), "bottom": lungs.shape[0] - 1 - int(rows[-1]),
        "left": int(columns[0]), "right": lungs.shape[1] - 1 - int(columns[-1]),
    }  # fmt: skip


def cut(image: npt.NDArray[Any], lungs: Mask, side: str, mm: float, depth_mm: float) -> npt.NDArray[Any] | None:
    """Return the image with its border `side` so far inside the lungs; None if they were not wholly on it before.

    "Wholly" means that more than `depth_mm` lie between them and the border.
    """
    free = margins(lungs)[side]
    if free * mm <= depth_mm:
        return None
    lost = free + round(depth_mm / mm)
    rows, columns = image.shape
    return {
        "top": image[lost:], "bottom": image[: rows - lost], "left": image[:, lost:], "right": image[:, : columns - lost],
    }[side]  # fmt: skip


def blur(image: Image, mm: float, sigma_mm: float) -> Image:
    """Return the image blurred by a Gaussian."""
    return np.asarray(gaussian_filter(image, sigma_mm / mm, mode="nearest"), np.float32)


def motion(image: Image, mm: float, path_mm: float, rng: np.random.Generator) -> Image:
    """Return the mean of the image along a straight path in a random direction."""
    angle, pixels = rng.uniform(0, np.pi), path_mm / mm
    steps = np.linspace(-pixels / 2, pixels / 2, max(3, 2 * round(pixels) + 1))
    moved = [shift(image, (t * np.sin(angle), t * np.cos(angle)), order=1, mode="nearest") for t in steps]
    return np.mean(moved, axis=0, dtype=np.float32)


def clip(image: Image, lungs: Mask, share: float) -> Image:
    """Return the grey values stretched until `share` of the lung field is black."""
    dark = float(np.quantile(image[lungs], share))
    return np.asarray(np.clip((image - dark) / max(1 - dark, 1e-6), 0, 1), np.float32)


def stretch(stored: npt.NDArray[Any], lungs: Mask, share: float, *, bright_is_low: bool) -> npt.NDArray[np.uint16]:
    """Return stored values stretched until `share` of the lung field is at the end that is shown black.

    The other end of the values that occur stays where it is.
    """
    values = stored.astype(np.float64)
    ends = values.min(), values.max()
    black, white = (ends[1], ends[0]) if bright_is_low else ends
    edge = float(np.quantile(values[lungs], 1 - share if bright_is_low else share))
    made = white + (values - white) * (black - white) / (edge - white)
    return np.asarray(np.rint(np.clip(made, *ends)), np.uint16)


def noise_level(values: npt.NDArray[Any]) -> float:
    """Return the standard deviation of the noise: the median deviation of a second difference that edges hardly enter.

    Immerkaer, Comput Vis Image Underst 64 (1996) 300, with the median in place of the mean. Pixels at the lowest and
    highest value are left out: there is no noise where everything is clipped.
    """
    a = values.astype(np.float64)
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float64)
    inner = (a > a.min()) & (a < a.max())
    inner[[0, -1]] = inner[:, [0, -1]] = False
    return float(np.median(np.abs(convolve(a, kernel)[inner])) / 0.6745 / 6)


def noise(stored: npt.NDArray[Any], factor: float, top: int, rng: np.random.Generator) -> npt.NDArray[np.uint16]:
    """Return stored values with white noise that makes the measured noise `factor` times as large."""
    level = noise_level(stored)
    amount = level * (factor**2 - 1) ** 0.5
    grain = rng.normal(size=stored.shape)
    for _ in range(4):  # rounding and clipping take a part
        made = np.asarray(np.clip(np.rint(stored + amount * grain), 0, top), np.uint16)
        amount *= factor * level / noise_level(made)
    return made


def mirror(image: Image) -> Image:
    """Return the image seen from behind."""
    return np.ascontiguousarray(image[:, ::-1])


def inversion(image: Image) -> Image:
    """Return the image with black and white exchanged."""
    return np.asarray(1 - image, np.float32)


def turn(image: Image, degrees: int) -> Image:
    """Return the image turned clockwise by a multiple of 90 degrees."""
    return np.ascontiguousarray(np.rot90(image, -degrees // 90))
