"""Opacities, nodules and effusion: shapes, where they go, and how large they really are."""

from dataclasses import dataclass, replace
from math import pi
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from phantom.anatomy import TABLE, Anatomy, Effusion, Side, lung_points
from phantom.grid import sample
from phantom.shapes import Array, Coordinates

Kind = Literal["ground_glass", "consolidation", "nodule", "effusion"]
Choice = Literal["none", "standard", "clear"]
Points = NDArray[np.floating[Any]]
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


def _at(points: NDArray[np.floating]) -> Coordinates:
    x, y, z = points.astype(np.float32).T
    return x, y, z


def _draw(rng: np.random.Generator, kind: Kind, side: Side, centre: NDArray[np.floating], volume_cm3: float) -> Lesion:
    radius = (volume_cm3 * 1000 * 3 / (4 * pi)) ** (1 / 3)
    stretch = np.exp(rng.uniform(-0.16, 0.16, 3))
    radii = radius * stretch / np.prod(stretch) ** (1 / 3)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    ways = rng.normal(size=(3, 3))
    ways *= (2 * pi / rng.uniform(LIMITS["wavelength"][0], LIMITS["wavelength"][1], (3, 1))) / np.linalg.norm(
        ways, axis=1, keepdims=True
    )
    waves = np.hstack([ways, rng.uniform(0, 2 * pi, (3, 1))])
    hu = float(rng.uniform(*LIMITS[f"{kind}_hu"]))
    if kind == "nodule":
        radii, turn, waves = np.full(3, radius), np.eye(3), np.zeros((0, 4))
    return Lesion(kind, side, np.asarray(centre, float), radii, turn, waves, hu)


def _sized(lesion: Lesion, anatomy: Anatomy, volume_cm3: float) -> Lesion:
    """Scale a lesion so that its part inside the lung has the wanted volume."""
    reach = lesion.reach * 1.8
    step_mm = max(1.0, reach / 40)
    grid = sample(lesion.centre - reach, lesion.centre + reach, step_mm)
    at = grid.coordinates()
    level = lesion.level(at)[0][anatomy.lung(at, lesion.side) > 0]
    wanted = round(volume_cm3 * 1000 / step_mm**3)
    if wanted >= level.size:
        return lesion
    scale = float(np.partition(level, wanted)[wanted])
    return replace(lesion, radii=lesion.radii * scale)


def _fits(lesion: Lesion, others: list[Lesion], anatomy: Anatomy, vessels: Points, inside: float | None) -> bool:
    hilum = np.array(anatomy.hilum(lesion.side))
    if inside is not None and np.linalg.norm(lesion.centre - hilum) < LIMITS["from_hilum"]:
        return False
    if inside is not None and (anatomy.lung(_at(lesion.surface(inside)), lesion.side) <= 0).any():
        return False
    if lesion.shape(_at(vessels)).max(initial=-np.inf) > -LIMITS["ragged"] * lesion.reach - 1:
        return False
    near, apart = _at(lesion.surface(LIMITS["apart"])), LIMITS["apart"]
    return not any((o.shape(near) > 0).any() or (lesion.shape(_at(o.surface(0.0))) > -apart).any() for o in others)


def _inner(
    rng: np.random.Generator,
    anatomy: Anatomy,
    others: list[Lesion],
    vessels: Points,
    kind: Kind,
    side: Side,
    span: tuple[float, float],
    inside: float,
) -> Lesion:
    """Place a lesion that stays `inside` mm off the lung's border; the wanted volume shrinks if there is no room."""
    points = lung_points(anatomy, side)
    volume = rng.uniform(*span)
    for attempt in range(600):
        lesion = _draw(rng, kind, side, points[rng.integers(len(points))], volume)
        if attempt % 100 == 99:
            volume = span[0] + (volume - span[0]) * 0.5
        if _fits(lesion, others, anatomy, vessels, inside):
            return lesion if kind == "nodule" else _sized(lesion, anatomy, volume)
    raise _NoRoomError


def _at_wall(
    rng: np.random.Generator, anatomy: Anatomy, others: list[Lesion], vessels: Points, side: Side, volume: float
) -> Lesion:
    """Place ground glass on the side wall, clear of diaphragm and mediastinum."""
    points = lung_points(anatomy, side)
    depth = anatomy.cavity(_at(points))
    x, y, z = points.T
    border = (depth < 12) & (z > anatomy.dome(x, y) + 34) & (z < anatomy.apex - 45) & (np.abs(x) > 62)
    near = points[border]
    for _ in range(400):
        lesion = _sized(_draw(rng, "ground_glass", side, near[rng.integers(len(near))], volume * 1.5), anatomy, volume)
        if _fits(lesion, others, anatomy, vessels, None):
            return lesion
    raise _NoRoomError


def _lobar(rng: np.random.Generator, anatomy: Anatomy, side: Side) -> Lesion:
    """Fill the back of the lower lung, from the chest wall inwards."""
    volume = float(rng.uniform(*LIMITS["lobar_cm3"]))
    z = anatomy.dome_right + rng.uniform(22, 34)
    centre = np.array([side * rng.uniform(72, 80), anatomy.cavity_half_depth * 0.72, z])
    lesion = _draw(rng, "consolidation", side, centre, volume * 1.6)
    radii = (volume * 1600 * 3 / (4 * pi)) ** (1 / 3) * np.array([0.9, 0.95, 1.2])
    lesion = replace(lesion, radii=radii, turn=np.eye(3), hu=float(rng.uniform(*LIMITS["lobar_hu"])), lobar=True)
    return _sized(lesion, anatomy, volume)


def _effusion(rng: np.random.Generator, anatomy: Anatomy, side: Side) -> Effusion:
    """Let a little fluid run to the back of the base of one side."""
    normal = np.array([0.0, 0.93, -0.37])
    places = np.sort(lung_points(anatomy, side, 3.0) @ normal)
    count = round(float(rng.uniform(*LIMITS["effusion_cm3"])) * 1000 / 27)
    return Effusion(side, (0.0, 0.93, -0.37), float(places[-count]), float(rng.uniform(*LIMITS["effusion_hu"])))


def plant(
    rng: np.random.Generator, anatomy: Anatomy, vessels: Points, choice: Choice
) -> tuple[Anatomy, tuple[Lesion, ...]]:
    """Return the anatomy with its effusion, if any, and the lesions.

    `vessels` (n, 3) are points of the wide vessels, which no lesion comes near.
    ``standard``: four ground glass (one at the chest wall), one inner and one lobar consolidation, three nodules, an
    effusion opposite the lobar consolidation. ``clear``: four ground glass and two consolidations, all at least 10 mm
    off the lung's border, and three nodules.
    """
    if choice == "none":
        return anatomy, ()
    for _ in range(LIMITS["attempts"]):
        try:
            return _plan(rng, anatomy, vessels, choice)
        except _NoRoomError:  # an unlucky order: start over with other places and sizes
            continue
    raise ValueError("no room for these lesions in this chest: use another seed")


class _NoRoomError(Exception):
    """A lesion does not fit beside those already placed."""


def _plan(
    rng: np.random.Generator, anatomy: Anatomy, vessels: Points, choice: Choice
) -> tuple[Anatomy, tuple[Lesion, ...]]:
    side: Side = 1 if rng.random() < 0.5 else -1
    other: Side = 1 if side < 0 else -1
    lesions: list[Lesion] = []
    glass, dense = LIMITS["ground_glass_cm3"], LIMITS["consolidation_cm3"]
    plan: list[tuple[Kind, Side, tuple[float, float]]] = [
        ("ground_glass", other, glass),
        ("consolidation", other, dense),
    ]
    plan += [("ground_glass", side, glass), ("ground_glass", other, glass)]
    if choice == "standard":
        anatomy = replace(anatomy, effusion=_effusion(rng, anatomy, other))
        lesions.append(_lobar(rng, anatomy, side))
        lesions.append(
            _at_wall(rng, anatomy, lesions, vessels, other, float(rng.uniform(*LIMITS["ground_glass_touching_cm3"])))
        )
    else:
        plan += [("consolidation", side, dense), ("ground_glass", side, glass)]
    for kind, where, span in plan:
        lesions.append(_inner(rng, anatomy, lesions, vessels, kind, where, span, LIMITS["inside"]))
    for n, diameter in enumerate(LIMITS["nodule_diameters"]):
        size = pi / 6000 * (diameter * rng.uniform(0.94, 1.06)) ** 3
        where = side if n % 2 else other
        lesions.append(_inner(rng, anatomy, lesions, vessels, "nodule", where, (size, size), LIMITS["nodule_inside"]))
    return anatomy, tuple(lesions)


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
