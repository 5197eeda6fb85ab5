"""Opacities and nodules: their shapes, and how large they really are."""

from dataclasses import dataclass
from math import pi
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from phantom.anatomy import TABLE, Anatomy, Side
from phantom.grid import sample
from phantom.shapes import Array, Coordinates

Kind = Literal["ground_glass", "consolidation", "nodule", "effusion"]
LIMITS = TABLE["lesions"]


@dataclass(frozen=True, slots=True, eq=False)
class Lesion:
    """An ellipsoid with a wavy surface; what of it lies outside the lung does not exist.

    Parameters
    ----------
    kind : Kind
        What it is.
    side : Side
        Whose lung it is in.
    centre : ndarray, (3,)
        Millimetres.
    radii : ndarray, (3,)
        Semi-axes in mm, along the rows of `turn`.
    turn : ndarray, (3, 3)
        Orthonormal directions of the semi-axes.
    waves : ndarray, (3, 4)
        Per wave of the surface: wave vector (1/mm) and phase.
    hu : float
        Its density.
    lobar : bool
        Fills a large part of a lobe up to the chest wall.
    """

    kind: Kind
    side: Side
    centre: NDArray[np.float64]
    radii: NDArray[np.float64]
    turn: NDArray[np.float64]
    waves: NDArray[np.float64]
    hu: float
    lobar: bool = False

    def level(self, at: Coordinates) -> tuple[Array, Array]:
        """Return the scale at which the surface would pass through each point (1 at the surface), and its gradient."""
        p = [c - np.float32(q) for c, q in zip(at, self.centre, strict=True)]
        k0 = k1 = np.zeros((), np.float32)
        for axis, radius in zip(self.turn, self.radii, strict=True):
            u = sum((np.float32(a / radius) * c for a, c in zip(axis, p, strict=True)), np.float32(0))
            k0, k1 = k0 + u * u, k1 + (u / np.float32(radius)) ** 2
        k0 = np.sqrt(k0)
        bumps: Array = np.ones((), np.float32)
        for *wave, phase in self.waves:
            argument = sum((np.float32(w) * c for w, c in zip(wave, p, strict=True)), np.float32(phase))
            bumps = bumps + np.float32(LIMITS["ragged"]) * np.sin(argument)
        slope = np.sqrt(k1) / np.maximum(k0, np.float32(1e-3)) / bumps
        return k0 / bumps, np.maximum(slope, np.float32(1e-4))

    def shape(self, at: Coordinates) -> Array:
        """Distance inside the surface, not yet cut off at the lung's border."""
        level, slope = self.level(at)
        return cast("Array", (1 - level) / slope)

    @property
    def reach(self) -> float:
        """No point of the lesion is farther than this from its centre."""
        return float(self.radii.max() * (1 + LIMITS["ragged"] * len(self.waves)))

    def surface(self, margin: float) -> NDArray[np.float32]:
        """Return points (n, 3) all around, `margin` mm outside the largest extent of the surface."""
        n = 180
        k = np.arange(n) + 0.5
        height, angle = 1 - 2 * k / n, pi * (1 + 5**0.5) * k
        flat = np.sqrt(1 - height**2)
        unit = np.stack([flat * np.cos(angle), flat * np.sin(angle), height], -1)
        grown = self.radii * (1 + LIMITS["ragged"] * len(self.waves)) + margin
        return np.asarray(self.centre + (unit * grown) @ self.turn, np.float32)


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known about one planted object.

    `volume_cm3`, `centroid_mm` (LPS) are of the unblurred geometry inside the lung (effusion: inside the pleural cavity);
    `diameter_mm` is that of the sphere of that volume; `touches_chest_wall` is true within 2 mm of the lung's border.
    """

    kind: Kind
    site: str
    volume_cm3: float
    diameter_mm: float
    centroid_mm: tuple[float, float, float]
    hu: float
    touches_chest_wall: bool
    lobar: bool


def measure(anatomy: Anatomy, lesions: tuple[Lesion, ...]) -> tuple[Truth, ...]:
    """Measure every object on a grid far finer than its size; the effusion comes last."""
    out = []
    for lesion in lesions:
        step_mm = max(0.25, lesion.reach / 36)
        grid = sample(lesion.centre - lesion.reach, lesion.centre + lesion.reach, step_mm)
        at = grid.coordinates()
        lung = anatomy.lung(at, lesion.side)
        inside = (lesion.shape(at) > 0) & (lung > 0)
        touches = bool(lung[inside].min() < 2)
        site = "right_lung" if lesion.side < 0 else "left_lung"
        out.append(_truth(lesion.kind, site, at, inside, step_mm, lesion.hu, touches=touches, lobar=lesion.lobar))
    if anatomy.effusion is not None:
        low, high = anatomy.lung_box(anatomy.effusion.side)
        low[1], high[2] = 0.0, 40.0
        grid = sample(low, high, 1.5)
        at = grid.coordinates()
        site = "right_pleural_space" if anatomy.effusion.side < 0 else "left_pleural_space"
        inside = anatomy.fluid(at) > 0
        out.append(_truth("effusion", site, at, inside, 1.5, anatomy.effusion.hu, touches=True, lobar=False))
    return tuple(out)


def _truth(
    kind: Kind,
    site: str,
    at: Coordinates,
    inside: NDArray[np.bool_],
    step_mm: float,
    hu: float,
    *,
    touches: bool,
    lobar: bool,
) -> Truth:
    count = int(inside.sum())
    x, y, z = (float(np.broadcast_to(c, inside.shape)[inside].mean()) for c in at)
    mm3 = count * step_mm**3
    diameter = (6 * mm3 / pi) ** (1 / 3)
    return Truth(
        kind,
        site,
        round(mm3 / 1000, 3),
        round(diameter, 2),
        (round(x, 2), round(y, 2), round(z, 2)),
        round(hu, 1),
        touches,
        lobar,
    )
