"""The chest itself: sizes drawn from a seed, and implicit functions of patient position.

Patient coordinates are LPS millimetres (+x left, +y back, +z head); the origin lies in the middle of the chest.
"""

import tomllib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from phantom.grid import sample
from phantom.shapes import Array, Coordinates, ellipse, ellipsoid, smooth_min, step

Side = Literal[-1, 1]
"""-1 right, +1 left: the sign of x."""

TABLE: dict[str, Any] = tomllib.loads(files("phantom").joinpath("anatomy.toml").read_text(encoding="utf-8"))
HU: dict[str, float] = TABLE["hu"]


@dataclass(frozen=True, slots=True)
class Effusion:
    """Pleural fluid of one side: what of the cavity lies behind a tilted plane; `level` in mm along `normal`."""

    side: Side
    normal: tuple[float, float, float]
    level: float
    hu: float

    def depth(self, at: Coordinates) -> Array:
        """Distance below the fluid's surface."""
        x, y, z = at
        nx, ny, nz = (np.float32(v) for v in self.normal)
        return nx * x + ny * y + nz * z - np.float32(self.level)


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Sizes of one chest; see ``anatomy.toml`` for each name."""

    cavity_half_width: float
    cavity_half_depth: float
    apex: float
    dome_right: float
    dome_left_below_right: float
    dome_fall: float
    wall: float
    fat: float
    heart: float
    spine_y: float
    carina: float
    trachea_radius: float
    effusion: Effusion | None = None

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Anatomy":
        """Draw every size from its range."""
        sizes = {name: float(mean + half * rng.uniform(-1, 1)) for name, (mean, half) in TABLE["size"].items()}
        return cls(**sizes, effusion=None)

    def hilum(self, side: Side) -> tuple[float, float, float]:
        """Where vessels and bronchi enter the lung."""
        return (side * 31.0, 20.0, self.carina - (26.0 if side < 0 else 30.0))

    def _narrowing(self, z: Array) -> Array:
        return np.clip((z + 50) / np.float32(self.apex + 50), 0, 1.25) ** 2

    def wall_axes(self, z: Array) -> tuple[Array, Array, Array]:
        """Half-width, half-depth and centre (y) of the chest cavity at height `z`."""
        u = self._narrowing(z)
        return (
            np.float32(self.cavity_half_width) * (1 - np.float32(0.26) * u),
            np.float32(self.cavity_half_depth) * (1 - np.float32(0.24) * u),
            np.float32(7.0) * u,
        )

    def cavity(self, at: Coordinates) -> Array:
        """Distance inside the chest cavity's wall (no upper or lower end)."""
        x, y, z = at
        a, b, c = self.wall_axes(z)
        return ellipse(x, y - c, a, b)

    def body(self, at: Coordinates) -> Array:
        """Distance below the skin."""
        x, y, z = at
        layer = np.float32(self.wall + self.fat)
        neck = 1 - np.float32(0.5) * step((z - np.float32(self.apex + 22)) / np.float32(11))
        a = (np.float32(self.cavity_half_width) + layer) * neck
        b = (np.float32(self.cavity_half_depth) + layer) * (np.float32(0.35) + np.float32(0.65) * neck)
        return ellipse(x, y - np.float32(8.0), a, b)

    def dome(self, x: Array, y: Array) -> Array:
        """Height of the diaphragm over (x, y)."""
        left = step(x / np.float32(9))
        top = np.float32(self.dome_right) - np.float32(self.dome_left_below_right) * left
        u = (np.abs(x) - np.float32(60)) / np.float32(self.cavity_half_width - 60)
        v = (y + np.float32(18)) / np.float32(74)
        fall = np.float32(self.dome_fall) * (np.where(u > 0, u * u, np.float32(0.25) * u * u) + v * v)
        limit = np.float32(78)
        return np.asarray(top - limit * (1 - np.exp(-fall / limit)), np.float32)

    def heart_shape(self, at: Coordinates, margin: float = 0.0) -> Array:
        """Distance inside the heart, grown by `margin`."""
        s = self.heart
        return ellipsoid(at, (27.0, -29.0, self.dome_right + 19), (61 * s + margin, 49 * s + margin, 57 * s + margin))

    def _mediastinum(self, y: Array, z: Array, side: Side) -> Array:
        """Half-width of the mediastinum towards `side`: thin in front, widest beside the spine."""
        m = (
            6
            + 18 * step((y + np.float32(0.36 * self.cavity_half_depth)) / 11)
            + 7 * step((y - np.float32(self.spine_y - 14)) / 7)
        )
        m = m + 5 * step((z - np.float32(self.carina + 38)) / 9) * step((y + 40) / 10)
        if side > 0:
            aorta = np.exp(-(((y - np.float32(self.spine_y - 14)) / 14) ** 2)) * step((self.carina + 20 - z) / 9)
            arch = np.exp(-(((z - np.float32(self.carina + 18)) / 15) ** 2) - ((y - 12) / 30) ** 2)
            m = m + 10 * aorta + 11 * arch
        return np.asarray(m, np.float32)

    def pleural(self, at: Coordinates, side: Side) -> Array:
        """Distance inside the pleural cavity of `side`: lung and effusion together."""
        x, y, z = at
        up = np.maximum(z - np.float32(self.apex - 105), 0)
        bullet = ellipsoid((x, y, up), (side * 60.0, 10.0, 0.0), (80.0, 112.0, 105.0))
        d = smooth_min(self.cavity(at), bullet, 12)
        d = smooth_min(d, (side * x - self._mediastinum(y, z, side)) * np.float32(0.95), 9)
        lowered = (x, y, np.maximum(z, np.float32(self.dome_right + 19)))  # the heart rests on the diaphragm
        d = smooth_min(d, -self.heart_shape(lowered, 4.0), 7)
        h = self.hilum(side)
        d = smooth_min(d, -ellipsoid(at, h, (15.0, 15.0, 19.0)), 6)
        return smooth_min(d, (z - self.dome(x, y)) * np.float32(0.82), 5)

    def lung(self, at: Coordinates, side: Side) -> Array:
        """Distance inside the lung of `side` (opacities included, effusion not)."""
        d = self.pleural(at, side)
        if self.effusion is not None and self.effusion.side == side:
            d = smooth_min(d, -self.effusion.depth(at), 4)
        return d

    def fluid(self, at: Coordinates) -> Array:
        """Distance inside the effusion."""
        if self.effusion is None:
            return np.full(np.broadcast_shapes(*(c.shape for c in at)), -1e3, np.float32)
        return np.minimum(self.pleural(at, self.effusion.side), self.effusion.depth(at))

    def lung_box(self, side: Side) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return low and high corner (mm) of a box that surely holds the lung of `side`."""
        far, near = self.cavity_half_width + 3, 4.0
        low = (-far, -self.cavity_half_depth - 3, self.dome_right - self.dome_left_below_right - 80)
        high = (-near, self.cavity_half_depth + 5, self.apex + 3)
        if side > 0:
            low, high = (near, *low[1:]), (far, *high[1:])
        return np.array(low), np.array(high)


@lru_cache(maxsize=16)
def lung_points(anatomy: Anatomy, side: Side, step_mm: float = 4.0) -> NDArray[np.float32]:
    """Return the points (n, 3) of a `step_mm` lattice that lie in the lung of `side`; each stands for step_mm^3."""
    grid = sample(*anatomy.lung_box(side), step_mm)
    at = grid.coordinates()
    inside = anatomy.lung(at, side) > 0
    return np.stack([np.broadcast_to(c, grid.shape)[inside] for c in at], -1)
