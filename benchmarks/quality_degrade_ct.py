"""What the benchmark of image quality does to CT series: see ``quality_defects.toml`` for how badly.

A `Scan` is a series in memory: Hounsfield units [z, y, x], z from the feet to the head, rows to the back, columns to the
patient's left. Each degradation returns a new one. Nothing here knows a pipeline or a limit.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation, gaussian_filter, shift, uniform_filter

HIGHEST = 3071
LOWEST = -1024
Volume = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """One series of axial slices.

    Parameters
    ----------
    array : ndarray, int16, [z, y, x]
        Hounsfield units.
    lungs : ndarray, bool, [z, y, x]
        Where the lungs are, roughly; of the whole series.
    positions : ndarray, float64, shape (slices, 3)
        Image Position (Patient) of every slice.
    pixel_mm : float
        Between rows and between columns.
    thickness_mm : float
        Slice Thickness.
    intercept_error : float
        By how much the stated Rescale Intercept is wrong.
    order : tuple[int, ...]
        Slices in the order of file names and instance numbers.
    """

    array: Volume
    lungs: npt.NDArray[np.bool_]
    positions: npt.NDArray[np.float64]
    pixel_mm: float
    thickness_mm: float
    intercept_error: float = 0.0
    order: tuple[int, ...] = ()

    @property
    def step_mm(self) -> float:
        """Between slices."""
        return float(np.median(np.abs(np.diff(self.positions[:, 2]))))

    def only(self, slices: npt.NDArray[Any] | list[int]) -> "Scan":
        """Return the scan with these slices, in this order."""
        at = np.asarray(slices)
        return replace(self, array=self.array[at], lungs=self.lungs[at], positions=self.positions[at])

    def changed(self, slices: npt.NDArray[Any] | slice, values: npt.NDArray[Any]) -> "Scan":
        """Return the scan with new values in some slices."""
        array = self.array.copy()
        array[slices] = np.clip(np.rint(values), LOWEST, HIGHEST)
        return replace(self, array=array)

    @property
    def reach(self) -> tuple[int, int]:
        """First and last slice with 4 cm2 of lung: less may be windpipe."""
        found = np.flatnonzero(self.lungs.sum(axis=(1, 2)) * self.pixel_mm**2 >= 400)
        return int(found[0]), int(found[-1])


def dropped(scan: Scan, rng: np.random.Generator, slices: int) -> Scan:
    """Leave out slices within the lungs."""
    low, high = scan.reach
    at = int(rng.integers(low + 2, high - 1 - slices))
    return scan.only([z for z in range(len(scan.array)) if not at <= z < at + slices])


def duplicated(scan: Scan, rng: np.random.Generator, slices: int) -> Scan:
    """Have slices within the lungs twice."""
    low, high = scan.reach
    at = int(rng.integers(low + 2, high - 1 - slices))
    return scan.only([*range(at + slices), *range(at, len(scan.array))])


def shuffled_files(scan: Scan, rng: np.random.Generator) -> Scan:
    """Give file names and instance numbers in any order."""
    return replace(scan, order=tuple(int(z) for z in rng.permutation(len(scan.array))))


def shuffled_positions(scan: Scan, rng: np.random.Generator, mm: float) -> Scan:
    """Exchange the pixels of two slices within the lungs."""
    low, high = scan.reach
    apart = max(1, round(mm / scan.step_mm))
    first = int(rng.integers(low + 1, max(low + 2, high - apart)))
    return scan.changed(np.array([first, first + apart]), scan.array[[first + apart, first]])


def thick(scan: Scan, _rng: np.random.Generator, mm: float) -> Scan:
    """Make means of neighbouring slices; the header says so."""
    n = ceil(mm / scan.step_mm - 1e-6)
    starts = range(0, len(scan.array) - n + 1, n)
    return replace(
        scan,
        array=np.stack([np.rint(scan.array[z : z + n].mean(axis=0)).astype(np.int16) for z in starts]),
        lungs=np.stack([scan.lungs[z : z + n].any(axis=0) for z in starts]),
        positions=np.stack([scan.positions[z : z + n].mean(axis=0) for z in starts]),
        thickness_mm=n * scan.step_mm,
    )


def noise_level(array: npt.NDArray[Any], pixel_mm: float) -> float:
    """Return the global noise level: the most frequent local standard deviation in soft tissue.

    Christianson et al., AJR 205 (2015) W23: squares of about 6 mm; where the local mean is that of soft tissue, 0 to
    100 HU, and the window holds nothing but soft tissue.
    """
    size = max(3, round(6 / pixel_mm)) | 1
    found = []
    for plane in array[:: max(1, len(array) // 16)]:
        a = plane.astype(np.float64)
        mean = uniform_filter(a, size)
        deviation = np.sqrt(np.maximum(uniform_filter(a * a, size) - mean * mean, 0) * size**2 / (size**2 - 1))
        found.append(deviation[(mean > 0) & (mean < 100) & (deviation < 150)])
    values = np.concatenate(found)
    counts, edges = np.histogram(values, bins=300, range=(0, 150))
    return float(edges[np.argmax(gaussian_filter(counts.astype(np.float64), 2))] + 0.25)


def noise(scan: Scan, rng: np.random.Generator, factor: float) -> Scan:
    """Add noise with a correlation of 0.6 pixels, so that the global noise level is `factor` times as large."""
    grain = np.stack([gaussian_filter(rng.normal(size=scan.array.shape[1:]), 0.6) for _ in scan.array])
    grain = (grain / grain.std()).astype(np.float32)
    level = noise_level(scan.array, scan.pixel_mm)
    amount, made = level * (factor**2 - 1) ** 0.5, scan
    for _ in range(4):
        made = scan.changed(slice(None), scan.array + np.float32(amount) * grain)
        now = noise_level(made.array, scan.pixel_mm)
        amount *= (max(factor**2 - 1, 1e-6) / max((now / level) ** 2 - 1, 0.05)) ** 0.5
    return made


def blur(scan: Scan, _rng: np.random.Generator, sigma_mm: float) -> Scan:
    """Blur every slice by a Gaussian."""
    sigma = sigma_mm / scan.pixel_mm
    return scan.changed(slice(None), np.stack([gaussian_filter(p.astype(np.float32), sigma) for p in scan.array]))


def motion(scan: Scan, rng: np.random.Generator, mm: float) -> Scan:
    """Have a third of the slices, in a row within the lungs where they fit, be the mean of themselves and themselves aside."""
    low, high = scan.reach
    n = max(1, len(scan.array) // 3)
    start = max(0, min((low + high - n) // 2, len(scan.array) - n))
    angle = rng.uniform(0, 2 * np.pi)
    way = (mm / scan.pixel_mm * np.sin(angle), mm / scan.pixel_mm * np.cos(angle))
    here = scan.array[start : start + n].astype(np.float32)
    aside = np.stack([shift(plane, way, order=1, mode="nearest") for plane in here])
    return scan.changed(slice(start, start + n), (here + aside) / 2)


def spine(scan: Scan) -> tuple[float, float]:
    """Return row and column (pixels) of the back of the spine: bone near the middle, behind the lungs' centre."""
    z, y, x = (np.flatnonzero(scan.lungs.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3))
    centre = (x[0] + x[-1]) / 2
    half = round(20 / scan.pixel_mm)
    block = scan.array[z[0] : z[-1] + 1, :, int(centre) - half : int(centre) + half + 1] > 200
    rows = np.arange(block.shape[1])
    counts = block.sum(axis=(0, 2)) * (rows > (y[0] + y[-1]) / 2)
    return float((counts * rows).sum() / max(counts.sum(), 1)), float(centre)


def metal(scan: Scan, rng: np.random.Generator, diameter_mm: float, streaks_hu: float) -> Scan:
    """Put two rods along the spine, with streaks that fade with the distance from them."""
    row, column = spine(scan)
    yy, xx = np.mgrid[: scan.array.shape[1], : scan.array.shape[2]].astype(np.float32)
    streaks, rods = np.zeros((len(scan.array), *yy.shape), np.float32), np.zeros(yy.shape, np.bool_)
    for side in (-1, 1):
        dy, dx = (yy - row) * scan.pixel_mm, (xx - column) * scan.pixel_mm - side * 15
        away = np.hypot(dy, dx)
        rods |= away <= diameter_mm / 2
        bins = ((np.arctan2(dy, dx) + np.pi) / (2 * np.pi) * 255.99).astype(np.int16)
        rays = gaussian_filter(rng.normal(size=(len(scan.array), 256)), (1.5, 2.0), mode="wrap")
        rays /= np.abs(rays).max(axis=1, keepdims=True)
        streaks += rays.astype(np.float32)[:, bins] * np.exp(-away / 100)
    streaks *= streaks_hu / np.abs(streaks).max()
    inside = scan.array > -950
    made = scan.array + streaks * inside
    made[:, rods] = HIGHEST
    return scan.changed(slice(None), made)


def truncation(scan: Scan, _rng: np.random.Generator, mm: float) -> Scan:
    """End the field of view so far inside the lungs, on both sides; it stays square where the lungs allow it."""
    y, x = (np.flatnonzero(scan.lungs.any(axis=(0, 3 - axis))) for axis in (1, 2))
    lost = round(mm / scan.pixel_mm)
    left, right = int(x[0]) + lost, int(x[-1]) - lost + 1
    middle, half = (int(y[0]) + int(y[-1])) // 2, (right - left) // 2
    top = max(0, min(middle - half, int(y[0]) - lost))
    bottom = min(scan.array.shape[1], max(middle + half, int(y[-1]) + lost))
    moved = scan.positions + np.array([left, top, 0]) * scan.pixel_mm
    window = (slice(None), slice(top, bottom), slice(left, right))
    return replace(scan, array=scan.array[window].copy(), lungs=scan.lungs[window], positions=moved)


def cut_top(scan: Scan, _rng: np.random.Generator, mm: float) -> Scan:
    """Leave out slices from the head end: so much of the lungs is lacking."""
    return scan.only(list(range(scan.reach[1] + 1 - round(mm / scan.step_mm))))


def cut_bottom(scan: Scan, _rng: np.random.Generator, mm: float) -> Scan:
    """Leave out slices from the foot end: so much of the lungs is lacking."""
    return scan.only(list(range(scan.reach[0] + round(mm / scan.step_mm), len(scan.array))))


def mirror(scan: Scan, _rng: np.random.Generator) -> Scan:
    """Reverse the columns; the header stays."""
    return replace(scan, array=scan.array[:, :, ::-1].copy(), lungs=scan.lungs[:, :, ::-1])


def offset(scan: Scan, _rng: np.random.Generator, hu: float) -> Scan:
    """State a wrong Rescale Intercept."""
    return replace(scan, intercept_error=hu)


def without_lungs(scan: Scan, rng: np.random.Generator) -> Scan:
    """Fill the lungs with soft tissue of the scan's own noise: a body that is no chest."""
    inside = np.stack([binary_dilation(plane, iterations=2) for plane in scan.lungs]) & (scan.array < 0)
    filled = np.where(inside, 45 + rng.normal(0, noise_level(scan.array, scan.pixel_mm), scan.array.shape), scan.array)
    return scan.changed(slice(None), filled)


DEFECTS: dict[str, Callable[..., Scan]] = {
    "dropped": dropped, "duplicated": duplicated, "shuffled-files": shuffled_files,
    "shuffled-positions": shuffled_positions, "thick": thick, "noise": noise, "blur": blur, "motion": motion,
    "metal": metal, "truncation": truncation, "cut-top": cut_top, "cut-bottom": cut_bottom, "mirror": mirror,
    "offset": offset,
}  # fmt: skip
"""By the names of the file; called with the scan, a generator and the severities of the file."""
