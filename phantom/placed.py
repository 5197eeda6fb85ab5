"""Lesions asked for one by one: size, density, pleural contact and shape are given, only the place follows from the seed."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import pi
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from phantom.anatomy import TABLE, Anatomy, Side, lung_points
from phantom.grid import sample
from phantom.lesions import Kind, Lesion
from phantom.shapes import Coordinates

LIMITS = TABLE["placed"]
Shape = Literal["round", "ragged", "long", "flat"]


@dataclass(frozen=True, slots=True)
class Placed:
    """One lesion asked for.

    Parameters
    ----------
    diameter_mm : float
        Of the sphere that has the volume of its part inside the lung.
    hu : float
        Density; below -250 HU it is ground glass with a texture, else consolidation.
    side : {-1, 1}
        Right or left lung.
    contact : bool
        Whether it lies broadly on the costal pleura. If so it touches neither diaphragm nor mediastinum; if not it stays off every
        border of the lung.
    shape : {"round", "ragged", "long", "flat"}
        A ball; an ellipsoid with a wavy surface; one whose axes are as 1:1:2; as 2:2:1.
    """

    diameter_mm: float
    hu: float
    side: Side
    contact: bool = False
    shape: Shape = "round"

    def __post_init__(self) -> None:
        """Refuse what no lung holds."""
        low, high = LIMITS["diameter"]
        if not low <= self.diameter_mm <= high or not -1000 < self.hu <= 1000:
            raise ValueError(
                f"a lesion of {self.diameter_mm:g} mm and {self.hu:g} HU: {low:g} to {high:g} mm, -999 to 1000 HU"
            )
        if self.shape not in get_args(Shape) or self.side not in get_args(Side):
            raise ValueError(f"lesion shape {self.shape!r}, side {self.side!r}: {', '.join(get_args(Shape))}; -1 or 1")

    @property
    def volume_mm3(self) -> float:
        """Volume of the part inside the lung."""
        return pi / 6 * self.diameter_mm**3


def place(rng: np.random.Generator, anatomy: Anatomy, wanted: tuple[Placed, ...]) -> tuple[Lesion, ...]:
    """Return one lesion for each that is wanted, in that order.

    Raises
    ------
    ValueError
        If one does not fit into its lung beside those before it.
    """
    out: list[Lesion] = []
    for one in wanted:
        lesion = next((x for x in _tries(rng, anatomy, one) if _fits(x, anatomy, one) and _apart(x, out)), None)
        if lesion is None:
            raise ValueError(
                f"no room in this chest for a lesion of {one.diameter_mm:g} mm: use another seed, side or shape"
            )
        out.append(lesion)
    return tuple(out)


def _tries(rng: np.random.Generator, anatomy: Anatomy, one: Placed) -> Iterator[Lesion]:
    points = lung_points(anatomy, one.side)
    if not one.contact:
        axes = np.array(LIMITS["axes"][one.shape], float)
        thin = one.diameter_mm / 2 * axes.min() / np.prod(axes) ** (1 / 3)
        points = points[anatomy.lung(_at(points), one.side) > thin * LIMITS["inner_depth"]]
    for _ in range(LIMITS["attempts"] if len(points) else 0):
        centre = np.asarray(points[rng.integers(len(points))], float)
        lesion = _shaped(rng, one, _to_wall(centre, rng, anatomy, one) if one.contact else centre)
        yield _sized(lesion, anatomy, one) if one.contact else lesion


def _shaped(rng: np.random.Generator, one: Placed, centre: NDArray[np.float64]) -> Lesion:
    axes = np.array(LIMITS["axes"][one.shape], float)
    radii = one.diameter_mm / 2 * axes / np.prod(axes) ** (1 / 3)
    turn, waves = np.eye(3), np.zeros((0, 4))
    if one.shape != "round":
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    if one.shape == "ragged":
        ways = rng.normal(size=(3, 3))
        low, high = LIMITS["wavelength"]
        length = one.diameter_mm * rng.uniform(low, high, (3, 1))
        ways *= 2 * pi / length / np.linalg.norm(ways, axis=1, keepdims=True)
        waves = np.hstack([ways, rng.uniform(0, 2 * pi, (3, 1))])
    kind: Kind = "ground_glass" if one.hu < LIMITS["ground_glass"] else "consolidation"
    lesion = Lesion(kind, one.side, centre, radii, turn, waves, float(one.hu))
    return lesion if one.shape != "ragged" else replace(lesion, radii=radii * _scale(lesion, None, one.volume_mm3))


def _sized(lesion: Lesion, anatomy: Anatomy, one: Placed) -> Lesion:
    """Scale a lesion at the wall so that its part inside the lung has the wanted volume."""
    return replace(lesion, radii=lesion.radii * _scale(lesion, anatomy, one.volume_mm3))


def _scale(lesion: Lesion, anatomy: Anatomy | None, volume_mm3: float) -> float:
    """Return by how much a lesion must grow to have a volume, inside the lung if there is an anatomy."""
    reach = lesion.reach * LIMITS["grow"]
    step_mm = reach / 24
    grid = sample(lesion.centre - reach, lesion.centre + reach, step_mm)
    at = grid.coordinates()
    level = np.broadcast_to(lesion.level(at)[0], grid.shape)
    level = level.ravel() if anatomy is None else level[anatomy.lung(at, lesion.side) > 0]
    count = round(volume_mm3 / step_mm**3)
    scale = float(np.partition(level, count)[count]) if count < level.size else np.inf
    return scale if scale <= LIMITS["grow"] else np.inf  # farther out, the corners of the box are all there is


def _to_wall(
    point: NDArray[np.float64], rng: np.random.Generator, anatomy: Anatomy, one: Placed
) -> NDArray[np.float64]:
    """Move a point straight away from the axis of the chest until it lies as far from the costal surface as the seed says."""
    low, high = LIMITS["contact_depth"]
    depth = one.diameter_mm / 2 * rng.uniform(low, high)
    outward = point * [1, 1, 0]
    outward = outward / max(float(np.linalg.norm(outward)), 1e-6)
    near, far = 0.0, 200.0
    for _ in range(24):
        middle = (near + far) / 2
        inside = float(anatomy.cavity(_at((point + middle * outward)[None]))[0]) > depth
        near, far = (middle, far) if inside else (near, middle)
    return np.asarray(point + near * outward)


def _fits(lesion: Lesion, anatomy: Anatomy, one: Placed) -> bool:
    """Whether the lesion touches what it must touch, and nothing else."""
    if not np.isfinite(lesion.radii).all():
        return False
    around = _at(_outline(lesion, LIMITS["clear"]))
    outside = anatomy.lung(around, one.side) <= 0
    if not one.contact:
        return not outside.any()
    costal = anatomy.cavity(around) < LIMITS["costal"]
    return bool((outside & costal).any() and not (outside & ~costal).any())


def _apart(lesion: Lesion, others: list[Lesion]) -> bool:
    near = _at(_outline(lesion, LIMITS["apart"]))
    return not any(
        (other.shape(near) > 0).any() or (lesion.shape(_at(_outline(other, 0.0))) > 0).any() for other in others
    )


def _outline(lesion: Lesion, margin: float) -> NDArray[np.float32]:
    """Return points (n, 3) all around, about `margin` mm outside the surface."""
    unit = (lesion.surface(0.0) - lesion.centre) / lesion.reach
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    points = lesion.centre + unit * lesion.radii.min() * 0.5
    for _ in range(6):  # the surface is crossed once along each way out
        level = lesion.level(_at(points))[0]
        points = lesion.centre + (points - lesion.centre) / np.maximum(level, 0.05)[:, None]
    return np.asarray(points + unit * margin, np.float32)


def _at(points: NDArray[np.floating]) -> Coordinates:
    x, y, z = np.asarray(points, np.float32).T
    return x, y, z
