"""From shapes to Hounsfield units: one slab of sub-slices at a time."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from phantom import trees
from phantom.anatomy import HU, TABLE, Anatomy, Side
from phantom.grid import Grid
from phantom.lesions import Lesion
from phantom.shapes import Array, blend, ellipse, ellipsoid, occupancy, step

SIDES: tuple[Side, Side] = (-1, 1)
Kernel = Literal["soft", "sharp"]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """Everything that has a place: one chest, its lesions and its tubes."""

    anatomy: Anatomy
    lesions: tuple[Lesion, ...]
    vessels: trees.Tubes
    airways: trees.Tubes
    ribs: trees.Tubes
    cartilage: trees.Tubes
    great: trees.Tubes
    texture: NDArray[np.float64]  # (n, 4): wave vector (1/mm) and phase

    @classmethod
    def draw(
        cls, rng: np.random.Generator, anatomy: Anatomy, lesions: tuple[Lesion, ...], vessels: trees.Tubes
    ) -> "Scene":
        """Add bones, airways and texture to an anatomy."""
        bone, cartilage = trees.ribs(anatomy)
        ways = rng.normal(size=(3, 3))
        ways *= 2 * np.pi / rng.uniform(35, 80, (3, 1)) / np.linalg.norm(ways, axis=1, keepdims=True)
        texture = np.hstack([ways, rng.uniform(0, 6.28, (3, 1))])
        bones = bone + trees.sternum(anatomy)
        return cls(
            anatomy, lesions, vessels, trees.airways(anatomy), bones, cartilage, trees.great_vessels(anatomy), texture
        )


def paint(scene: Scene, grid: Grid) -> tuple[Array, NDArray[np.uint8], NDArray[np.uint8]]:
    """Return density (HU, no blur, no noise), lung label (1 right, 2 left) and lesion label at the samples of `grid`."""
    anatomy, at = scene.anatomy, grid.coordinates()
    width = max(grid.steps_mm)
    hu = np.full(grid.shape, HU["air"], np.float32)
    _table(hu, grid, anatomy, width)
    skin = anatomy.body(at)
    blend(hu, occupancy(skin, width), HU["fat"])
    blend(hu, occupancy(skin - np.float32(anatomy.fat), width), HU["muscle"])
    del skin
    _inside(hu, scene, grid, width)
    blend(hu, scene.cartilage.draw(grid, width), HU["cartilage"])
    blend(hu, scene.ribs.draw(grid, width), HU["cortical"])
    blend(hu, scene.ribs.widened(-1.7).draw(grid, width), HU["cancellous"])
    _spine(hu, anatomy, grid, width)
    lung = np.zeros(grid.shape, np.uint8)
    lesion = np.zeros(grid.shape, np.uint8)
    tubes = scene.vessels.draw(grid, width)
    for side in SIDES:
        _lung(hu, lung, lesion, scene, grid, side, tubes, width)
    blend(hu, scene.airways.widened(1.4).draw(grid, width), HU["airway_wall"])
    blend(hu, scene.airways.draw(grid, width), HU["airway"])
    return hu, lung, lesion


def _waves(grid_at: tuple[Array, Array, Array], waves: NDArray[np.float64]) -> Array:
    x, y, z = grid_at
    out = np.zeros((), np.float32)
    for a, b, c, phase in waves:
        out = out + np.sin(np.float32(a) * x + np.float32(b) * y + np.float32(c) * z + np.float32(phase))
    return out


def _lung(
    hu: Array,
    lung: NDArray[np.uint8],
    label: NDArray[np.uint8],
    scene: Scene,
    grid: Grid,
    side: Side,
    tubes: Array,
    width: float,
) -> None:
    anatomy = scene.anatomy
    low, high = anatomy.lung_box(side)
    box = grid.box(low, high)
    if box is None:
        return
    at = grid.coordinates(box)
    pleural = anatomy.pleural(at, side)
    distance = pleural
    if anatomy.effusion is not None and anatomy.effusion.side == side:
        distance = anatomy.lung(at, side)
        fluid = np.minimum(pleural, anatomy.effusion.depth(at))
        blend(hu[box], occupancy(fluid, width), anatomy.effusion.hu)
        label[box][fluid > 0] = len(scene.lesions) + 1
    back = np.clip((at[1] + 85) / np.float32(170), 0, 1)
    content = HU["lung_front"] + (HU["lung_back"] - HU["lung_front"]) * back
    content = (content + HU["lung_texture"] / 2 * _waves(at, scene.texture)).astype(np.float32)
    inside = distance > 0
    lung[box][inside] = 1 if side < 0 else 2
    origin = np.array([s.start for s in box])
    for n, item in enumerate(scene.lesions, 1):
        if item.side != side:
            continue
        near = grid.box(item.centre - item.reach - width, item.centre + item.reach + width)
        if near is None:
            continue
        near = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(near, box, strict=True))  # type: ignore[assignment]  # three slices
        if any(s.start >= s.stop for s in near):
            continue
        here = grid.coordinates(near)
        shape = item.shape(here)
        local = tuple(slice(s.start - o, s.stop - o) for s, o in zip(near, origin, strict=True))
        density: Array | float = item.hu
        if item.kind == "ground_glass":
            density = np.float32(item.hu) + np.float32(TABLE["lesions"]["texture_hu"] / 2) * _waves(
                here, scene.texture * 2
            )
        blend(content[local], _share(shape, item, width), density)
        label[near][(shape > 0) & inside[local]] = n
    blend(content, tubes[box], HU["vessel"])
    blend(hu[box], occupancy(distance, width), content)


def _share(shape: Array, item: Lesion, width: float) -> Array:
    """Occupancy; a sphere thinner than a sample keeps its mass, not its peak."""
    radius = float(item.radii.min())
    if radius >= width / 2:
        return occupancy(shape, width)
    return occupancy(shape + np.float32(width / 2 - radius), width) * np.float32((2 * radius / width) ** 3)


def _inside(hu: Array, scene: Scene, grid: Grid, width: float) -> None:
    """Mediastinum, heart, great vessels and what lies below the diaphragm."""
    anatomy, at = scene.anatomy, grid.coordinates()
    x, y, z = at
    cavity = occupancy(anatomy.cavity(at) - 2, width)
    front = HU["mediastinum"] + (HU["mediastinal_fat"] - HU["mediastinum"]) * step((-y - 26) / 7)
    below = anatomy.dome(x, y) - z
    share = occupancy(below + 3, width)
    organs = HU["abdomen"] + (HU["liver"] - HU["abdomen"]) * occupancy(np.float32(30) - x - np.float32(0.25) * y, 4.0)
    fill = front * (1 - share) + (HU["muscle"] + (organs - HU["muscle"]) * occupancy(below - 1, width)) * share
    blend(hu, cavity * (z < np.float32(anatomy.apex + 10)), fill)
    left = anatomy.dome_right - anatomy.dome_left_below_right
    for centre, radii, value in (
        ((88.0, 42.0, left - 46), (30.0, 36.0, 40.0), HU["spleen"]),
        ((56.0, -22.0, left - 42), (34.0, 38.0, 30.0), HU["muscle"]),
        ((56.0, -30.0, left - 42), (29.0, 25.0, 24.0), HU["stomach_gas"]),
    ):
        _ball(hu, grid, centre, radii, value, width)
    heart = grid.box(
        np.array([-50.0, -90.0, anatomy.dome_right - 60]), np.array([110.0, 50.0, anatomy.dome_right + 90])
    )
    if heart is not None:
        blend(hu[heart], occupancy(anatomy.heart_shape(grid.coordinates(heart)), width), HU["blood"])
    for side in SIDES:
        _ball(hu, grid, anatomy.hilum(side), (13.0, 13.0, 17.0), HU["blood"], width)
    blend(hu, scene.great.draw(grid, width), HU["blood"])


def _ball(
    hu: Array,
    grid: Grid,
    centre: tuple[float, float, float],
    radii: tuple[float, float, float],
    value: float,
    width: float,
) -> None:
    c, r = np.array(centre), np.array(radii) + width
    box = grid.box(c - r, c + r)
    if box is not None:
        blend(hu[box], occupancy(ellipsoid(grid.coordinates(box), centre, radii), width), value)


def _spine(hu: Array, anatomy: Anatomy, grid: Grid, width: float) -> None:
    """Vertebral bodies with discs, canal, arch and processes."""
    back, far = anatomy.spine_y, 1e4
    box = grid.box(np.array([-45.0, back - 22, -far]), np.array([45.0, back + 60, far]))
    if box is None:
        return
    part = hu[box]
    x, y, z = at = grid.coordinates(box)
    skin = anatomy.body(at) - 4  # the neck is thinner than the longest processes
    pitch = np.float32(24)
    level = np.abs(np.mod(z, pitch) - pitch / 2)
    column = ellipse(x, y - np.float32(back), 18.0, 15.0)
    blend(part, occupancy(column, width), HU["disc"])
    for rind, value in ((0.0, HU["cortical"]), (1.6, HU["cancellous"])):
        body = np.minimum(column - np.float32(rind), np.float32(9.5 - rind) - level)
        blend(part, occupancy(body, width), value)
    arch = ellipse(x, y - np.float32(back + 23), 14.0, 12.0)
    blend(part, occupancy(np.minimum(skin, np.minimum(arch, 8 - level)), width), HU["cortical"] * 0.6)
    spinous = np.minimum(np.float32(3.5) - np.abs(x), np.minimum(y - np.float32(back + 30), np.float32(back + 50) - y))
    blend(part, occupancy(np.minimum(skin, np.minimum(spinous, 7 - level)), width), HU["cortical"] * 0.6)
    wings = np.minimum(np.float32(34) - np.abs(x), 4 - np.abs(y - np.float32(back + 24)))
    blend(part, occupancy(np.minimum(skin, np.minimum(wings, 4 - level)), width), HU["cortical"] * 0.6)
    blend(part, occupancy(ellipse(x, y - np.float32(back + 22), 9.0, 8.0), width), HU["canal"])


def _table(hu: Array, grid: Grid, anatomy: Anatomy, width: float) -> None:
    """Paint the couch just behind the back: a thin curved shell around foam."""
    x, y, _ = grid.coordinates()
    top = np.float32(8 + anatomy.cavity_half_depth + anatomy.wall + anatomy.fat + 2)
    surface = y - top + x * x / np.float32(1900) + np.float32(0)
    slab = np.minimum(surface, np.float32(26) - surface)
    slab = np.minimum(slab, np.float32(185) - np.abs(x))
    blend(hu, occupancy(slab, width), HU["table_shell"])
    blend(hu, occupancy(slab - 3, width), HU["table_core"])


def profile(step_mm: float, thickness_mm: float, sigma_mm: float) -> NDArray[np.float64]:
    """Return weights of sub-slices `step_mm` apart: a box of the slice thickness, blurred by the point spread."""
    reach = int(np.ceil((thickness_mm / 2 + 2.5 * sigma_mm) / step_mm))
    fine = np.arange(-reach * 40, reach * 40 + 1) * step_mm / 40
    box = (np.abs(fine) <= thickness_mm / 2).astype(float)
    spread = np.exp(-((fine / sigma_mm) ** 2) / 2)
    curve = np.convolve(box, spread, mode="same")
    weights = np.interp(np.arange(-reach, reach + 1) * step_mm, fine, curve)
    return np.asarray(weights / weights.sum())


def kernel(sigma: float) -> NDArray[np.float32]:
    """Return a Gaussian of `sigma` samples, integrated over each sample."""
    reach = max(1, int(np.ceil(3 * sigma)))
    fine = np.arange(-reach * 20 - 10, reach * 20 + 10) + 0.5
    weights = np.exp(-((fine / 20 / sigma) ** 2) / 2).reshape(-1, 20).sum(1)
    return np.asarray(weights / weights.sum(), np.float32)


def point_spread(name: Kernel, pixel_mm: float) -> NDArray[np.float32]:
    """Return the in-plane point spread along one axis; that of the sharp kernel has a negative ring around its peak."""
    p = TABLE["image"]
    if name == "soft":
        return kernel(p["psf_sigma"] / pixel_mm)
    wide = kernel(p["sharp_ring"] / pixel_mm)
    narrow = kernel(p["sharp_sigma"] / pixel_mm)
    narrow = np.pad(narrow, (len(wide) - len(narrow)) // 2)
    return np.asarray((1 + p["sharp_gain"]) * narrow - p["sharp_gain"] * wide, np.float32)


def expose(
    scene: Scene,
    grid: Grid,
    start: int,
    stop: int,
    thickness_mm: float,
    noise_hu: float,
    seeds: list[list[int]],
    kernel_name: Kernel = "soft",
) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.uint8]]:
    """Return slices `start`..`stop` of `grid` as a scanner would show them (HU), with lung and lesion labels.

    Sub-slices are averaged over the slice profile, noise is added, and the in-plane point spread blurs both, so that
    the noise is correlated as the kernel leaves it.
    """
    spacing, row, column = grid.steps_mm
    fine = min(5, 1 + 2 * int(np.ceil((max(spacing, thickness_mm) / 1.7 - 1) / 2)) if spacing > 1.7 else 1)
    sigma = TABLE["image"]["psf_sigma"]
    weights = profile(spacing / fine, thickness_mm, sigma)
    halo = max(len(weights) // 2 - (fine - 1) // 2, 0)
    slab = grid.slab(start, stop, fine, halo)
    hu, lung, lesion = paint(scene, slab)
    middle = slice(halo + (fine - 1) // 2, halo + (stop - start) * fine, fine)
    out = np.zeros((stop - start, *grid.shape[1:]), np.float32)
    first = middle.start - len(weights) // 2
    for k, weight in enumerate(weights):
        out += np.float32(weight) * hu[first + k : first + k + fine * (stop - start - 1) + 1 : fine]
    blur_y, blur_x = point_spread(kernel_name, row), point_spread(kernel_name, column)
    gain = float(np.sqrt((blur_y.astype(float) ** 2).sum() * (blur_x.astype(float) ** 2).sum()))
    for i, seed in enumerate(seeds):
        noise = np.random.default_rng(seed).standard_normal(grid.shape[1:], np.float32)
        out[i] += noise * np.float32(noise_hu / gain)
    out = correlate1d(out, blur_y, axis=1, mode="nearest")
    out = correlate1d(out, blur_x, axis=2, mode="nearest")
    return np.clip(np.rint(out), -1024, 3071).astype(np.int16), lung[middle], lesion[middle]
