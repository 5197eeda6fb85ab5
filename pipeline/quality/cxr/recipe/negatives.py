"""Pictures that are no frontal chest radiograph: slices and projections of CT, and drawn ones of other things."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, zoom

from pipeline.quality.cxr.recipe.data import LONG, Bytes

Array = NDArray[np.float32]


def of_ct(folder: Path, rows: dict[str, Any], rng: np.random.Generator) -> list[Bytes]:
    """Return slices and projections of the volumes and slices that the recipe names."""
    out: list[Bytes] = []
    for row in rows.get("volume", []):
        if (folder / row["folder"]).is_dir():
            out += _of_volume(*_volume(folder / row["folder"]), chest=row["chest"], rng=rng)
    for row in rows.get("slices", []):
        for file in sorted((folder / row["folder"]).rglob("*")):
            if file.is_file() and file.suffix != ".csv":
                hu = _hu(pydicom.dcmread(file, force=True))
                out += [_windowed(hu, centre, width) for centre, width in ((40, 400), (-500, 1500))]
    return out


def _hu(ds: pydicom.Dataset) -> Array:
    values = ds.pixel_array.astype(np.float32)
    return values * np.float32(ds.get("RescaleSlope", 1)) + np.float32(ds.get("RescaleIntercept", 0))


def _volume(folder: Path) -> tuple[Array, float, float]:
    """Return HU [slice, row, column] from head to feet, distance of slices, distance of pixels."""
    slices = [pydicom.dcmread(p) for p in sorted(folder.iterdir()) if p.is_file() and p.suffix in {"", ".dcm"}]
    slices = sorted((s for s in slices if "ImagePositionPatient" in s), key=lambda s: -float(s.ImagePositionPatient[2]))
    step = abs(float(slices[0].ImagePositionPatient[2]) - float(slices[1].ImagePositionPatient[2]))
    return np.stack([_hu(s) for s in slices]), step, float(slices[0].PixelSpacing[0])


def _of_volume(hu: Array, step: float, pixel: float, *, chest: bool, rng: np.random.Generator) -> list[Bytes]:
    windows = ((40.0, 400.0), (-500.0, 1500.0), (300.0, 1500.0))
    out = [_windowed(hu[k], *windows[rng.integers(3)]) for k in range(0, len(hu), 2)]
    shape = (step / pixel, 1.0)
    for k in np.linspace(0.15, 0.85, 16):
        for axis in (1, 2):
            plane = np.take(hu, int(k * hu.shape[axis]), axis=axis)
            out.append(_windowed(zoom(plane, shape, order=1), *windows[rng.integers(3)]))
    for axis in (0, 1, 2):
        if axis == 1 and chest:
            continue  # what a radiograph shows
        density = np.maximum(hu / 1000 + 1, 0)
        for projection in (density.sum(axis), hu.max(axis), density[:, :, ::2].sum(axis)):
            picture = projection if axis == 0 else zoom(projection, shape, order=1)
            low, high = np.percentile(picture, [1, 99.5])
            out += [_bytes((picture - low) / max(high - low, 1e-6))] * 3
    return out


def _windowed(hu: Array, centre: float, width: float) -> Bytes:
    return _bytes((hu - centre) / width + 0.5)


def _bytes(grey: NDArray[Any]) -> Bytes:
    return np.asarray(np.clip(grey, 0, 1) * 255, np.uint8)


def drawn(count: int, rng: np.random.Generator) -> list[Bytes]:
    """Draw limbs, skulls, pelvis-like shapes, text, test patterns, noise and empty fields."""
    makers = (_limb, _limb, _blobs, _blobs, _text, _pattern, _noise, _noise)
    return [_bytes(makers[n % len(makers)](rng)) for n in range(count)]


def _axes() -> tuple[Array, Array]:
    y, x = np.mgrid[0:LONG, 0:LONG].astype(np.float32) / LONG * 2 - 1
    return y, x


def _thickness(y: Array, x: Array, rng: np.random.Generator, size: tuple[float, float]) -> Array:
    """Return the depth of an ellipsoid at a random place, turned at random."""
    cy, cx, angle = rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.6), rng.uniform(0, np.pi)
    a, b = rng.uniform(*size), rng.uniform(*size)
    u = ((x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)) / a
    v = (-(x - cx) * np.sin(angle) + (y - cy) * np.cos(angle)) / b
    return np.asarray(np.sqrt(np.maximum(1 - u * u - v * v, 0)), np.float32)


def _limb(rng: np.random.Generator) -> Array:
    """One or several long bones, or the rays of a hand, in soft tissue."""
    y, x = _axes()
    out = np.zeros((LONG, LONG), np.float32)
    rays = int(rng.integers(1, 6))
    fan, angle = rng.uniform(0, 0.4), rng.uniform(0, np.pi)
    for n in range(rays):
        turn = angle + fan * (n - (rays - 1) / 2)
        u = x * np.cos(turn) + y * np.sin(turn) - (n - (rays - 1) / 2) * rng.uniform(0.25, 0.4)
        v = -x * np.sin(turn) + y * np.cos(turn)
        wide = rng.uniform(0.05, 0.3 if rays < 3 else 0.1)
        ends = 1 + 0.5 * np.cos(v * rng.uniform(3, 8) + rng.uniform(0, 6))
        out += 0.6 * np.sqrt(np.maximum(1 - (u / (wide * 2.2)) ** 2, 0))
        bone = np.sqrt(np.maximum(1 - (u / (wide * ends)) ** 2, 0)) - 0.5 * np.sqrt(
            np.maximum(1 - (u / (wide * 0.5)) ** 2, 0)
        )
        out += rng.uniform(0.4, 1.0) * np.maximum(bone, 0)
    return _finished(out, rng)


def _blobs(rng: np.random.Generator) -> Array:
    """Ellipsoids of any density upon one another: a skull, an abdomen, a pelvis, fruit."""
    y, x = _axes()
    out = rng.uniform(0.5, 1.5) * _thickness(y, x, rng, (0.5, 1.4))
    for _ in range(int(rng.integers(2, 14))):
        outer = _thickness(y, x, rng, (0.05, 0.7))
        shell = outer - 0.8 * (outer > 0.4) * outer if rng.random() < 0.4 else outer
        out = out + rng.uniform(-0.5, 0.9) * shell
    return _finished(np.maximum(out, 0), rng)


def _finished(depth: Array, rng: np.random.Generator) -> Array:
    texture = gaussian_filter(rng.standard_normal((LONG, LONG)), rng.uniform(1, 5)) * rng.uniform(0, 0.4)
    grey = depth + texture * (depth > 0) + rng.normal(0, 0.02, depth.shape)
    return np.asarray((grey - grey.min()) / max(float(np.ptp(grey)), 1e-6), np.float32)


def _text(rng: np.random.Generator) -> Array:
    """Draw a page or a screen: lines of characters, boxes, curves."""
    ground = int(rng.choice([0, 20, 235, 255]))
    page = Image.new("L", (LONG, LONG), ground)
    pen = ImageDraw.Draw(page)
    ink = int(rng.choice([255, 200])) if ground < 100 else 0
    for top in range(4, LONG - 12, int(rng.integers(11, 24))):
        words = "".join(rng.choice(list("abcdefgh klmnop rstuv 0123456789 ABCDE"), int(rng.integers(3, 36))))
        pen.text((float(rng.integers(2, 60)), float(top)), words, fill=ink)
    for _ in range(int(rng.integers(0, 5))):
        corner = rng.integers(0, LONG - 40, 2)
        size = rng.integers(10, 120, 2)
        pen.rectangle((*map(int, corner), *map(int, corner + size)), outline=ink, fill=int(rng.integers(0, 255)))
    return np.asarray(np.asarray(page) / 255, np.float32)


def _pattern(rng: np.random.Generator) -> Array:
    """Bars, wedges and discs of test objects, or an even field."""
    y, x = _axes()
    kind = int(rng.integers(4))
    turn = rng.uniform(0, np.pi)
    along = x * np.cos(turn) + y * np.sin(turn)
    if kind == 0:
        return np.asarray(np.sin(along * rng.uniform(5, 80)) > 0, np.float32)
    if kind == 1:
        return np.asarray(np.floor((along + 1) * rng.uniform(2, 8)) / 16, np.float32)
    if kind == 2:
        return np.asarray(np.sin((x * x + y * y) * rng.uniform(10, 60)) * 0.5 + 0.5, np.float32)
    return np.asarray(rng.uniform(0.1, 0.9) + rng.normal(0, rng.uniform(0.01, 0.1), x.shape) + 0.1 * along, np.float32)


def _noise(rng: np.random.Generator) -> Array:
    """Noise with a power law between white and that of natural pictures."""
    frequency = np.hypot(np.fft.fftfreq(LONG)[:, None], np.fft.rfftfreq(LONG)[None])
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(rng.standard_normal((LONG, LONG))) / frequency ** rng.uniform(0, 2)
    grey = np.fft.irfft2(spectrum, (LONG, LONG))
    low, high = np.percentile(grey, [2, 98])
    return np.asarray((grey - low) / (high - low), np.float32)
