"""Where lesions go: apart from each other, off wide vessels, and as near to the chest wall as wanted."""

from dataclasses import dataclass, field, replace
from math import pi
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from phantom.anatomy import TABLE, Anatomy, Effusion, Side, lung_points
from phantom.grid import sample
from phantom.lesions import Kind, Lesion
from phantom.placed import Placed, place
from phantom.shapes import Coordinates

Choice = Literal["none", "standard", "clear"]
Points = NDArray[np.floating[Any]]
LIMITS = TABLE["lesions"]


class _NoRoomError(Exception):
    """A lesion does not fit beside those already placed."""


def _at(points: Points) -> Coordinates:
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


@dataclass
class _Chest:
    """One chest being filled; `vessels` (n, 3) are points of the wide vessels."""

    rng: np.random.Generator
    anatomy: Anatomy
    vessels: Points
    lesions: list[Lesion] = field(default_factory=list)

    def has_room(self, lesion: Lesion) -> bool:
        """Whether a lesion stays off wide vessels and off all others."""
        if lesion.shape(_at(self.vessels)).max(initial=-np.inf) > -LIMITS["ragged"] * lesion.reach - 1:
            return False
        near, apart = _at(lesion.surface(LIMITS["apart"])), LIMITS["apart"]
        return not any(
            (other.shape(near) > 0).any() or (lesion.shape(_at(other.surface(0.0))) > -apart).any()
            for other in self.lesions
        )

    def add_inner(self, kind: Kind, side: Side, span: tuple[float, float], inside: float) -> None:
        """Place a lesion `inside` mm off the lung's border; the wanted volume shrinks within `span` if room is short."""
        points = lung_points(self.anatomy, side)
        hilum = np.array(self.anatomy.hilum(side))
        volume = self.rng.uniform(*span)
        for attempt in range(400):
            lesion = _draw(self.rng, kind, side, points[self.rng.integers(len(points))], volume)
            if attempt % 100 == 99:
                volume = span[0] + (volume - span[0]) * 0.5
            if np.linalg.norm(lesion.centre - hilum) < LIMITS["from_hilum"]:
                continue
            if (self.anatomy.lung(_at(lesion.surface(inside)), side) <= 0).any() or not self.has_room(lesion):
                continue
            self.lesions.append(lesion if kind == "nodule" else _sized(lesion, self.anatomy, volume))
            return
        raise _NoRoomError

    def add_at_wall(self, side: Side) -> None:
        """Place ground glass on the side wall, clear of diaphragm and mediastinum."""
        volume = float(self.rng.uniform(*LIMITS["ground_glass_touching_cm3"]))
        points = lung_points(self.anatomy, side)
        x, y, z = points.T
        high = (z > self.anatomy.dome(x, y) + 34) & (z < self.anatomy.apex - 45)
        near = points[(self.anatomy.cavity(_at(points)) < 12) & high & (np.abs(x) > 62)]
        for _ in range(400):
            lesion = _draw(self.rng, "ground_glass", side, near[self.rng.integers(len(near))], volume * 1.5)
            lesion = _sized(lesion, self.anatomy, volume)
            if self.has_room(lesion):
                self.lesions.append(lesion)
                return
        raise _NoRoomError


def plant(
    rng: np.random.Generator, anatomy: Anatomy, vessels: Points, choice: Choice | tuple[Placed, ...]
) -> tuple[Anatomy, tuple[Lesion, ...]]:
    """Return the anatomy with its effusion, if any, and the lesions.

    `vessels` (n, 3) are points of the wide vessels, which no lesion comes near.
    ``standard``: four ground glass (one at the chest wall), one inner and one lobar consolidation, three nodules, an
    effusion opposite the lobar consolidation. ``clear``: four ground glass and two consolidations, all at least 10 mm
    off the lung's border, and three nodules. Lesions asked for one by one: these and no other, wherever vessels run.
    """
    if isinstance(choice, tuple):
        return anatomy, place(rng, anatomy, choice)
    if choice not in get_args(Choice):
        raise ValueError(f"lesions {choice!r} is none of {', '.join(get_args(Choice))}")
    if choice == "none":
        return anatomy, ()
    for _ in range(LIMITS["attempts"]):
        try:
            return _plan(rng, anatomy, vessels, choice)
        except _NoRoomError:  # an unlucky order: start over with other places and sizes
            continue
    raise ValueError("no room for these lesions in this chest: use another seed")


def _plan(
    rng: np.random.Generator, anatomy: Anatomy, vessels: Points, choice: Choice
) -> tuple[Anatomy, tuple[Lesion, ...]]:
    side: Side = 1 if rng.random() < 0.5 else -1
    other: Side = 1 if side < 0 else -1
    glass, dense = LIMITS["ground_glass_cm3"], LIMITS["consolidation_cm3"]
    plan: list[tuple[Kind, Side, tuple[float, float]]] = [
        ("ground_glass", other, glass),
        ("consolidation", other, dense),
    ]
    plan += [("ground_glass", side, glass), ("ground_glass", other, glass)]
    if choice == "standard":
        anatomy = replace(anatomy, effusion=_effusion(rng, anatomy, other))
        chest = _Chest(rng, anatomy, vessels, [_lobar(rng, anatomy, side)])
        chest.add_at_wall(other)
    else:
        chest = _Chest(rng, anatomy, vessels)
        plan += [("consolidation", side, dense), ("ground_glass", side, glass)]
    for kind, where, span in plan:
        chest.add_inner(kind, where, span, LIMITS["inside"])
    for n, diameter in enumerate(LIMITS["nodule_diameters"]):
        size = pi / 6000 * (diameter * rng.uniform(0.94, 1.06)) ** 3
        chest.add_inner("nodule", side if n % 2 else other, (size, size), LIMITS["nodule_inside"])
    return anatomy, tuple(chest.lesions)
