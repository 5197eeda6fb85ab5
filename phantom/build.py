"""Build a phantom: parameters in, image and truth out."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from math import ceil, radians, tan
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from phantom import trees
from phantom.anatomy import TABLE, Anatomy, Side, lung_points
from phantom.grid import Grid, Plane, directions
from phantom.lesions import Truth, measure
from phantom.placed import Placed
from phantom.planting import Choice, plant
from phantom.render import Kernel, Scene, expose

IMAGE = TABLE["image"]
DEFAULT_THICKNESS = 2.5
CHUNK_SAMPLES = 3_000_000


@dataclass(frozen=True, slots=True)
class Breakage:
    """What is wrong with the series on purpose; slice numbers count along the stack from 0.

    Parameters
    ----------
    gaps : tuple of int
        Slices that are missing.
    duplicates : tuple of int
        Slices that come twice, under two SOP Instance UIDs.
    mixed_frame_of_reference : bool
        The upper half of the slices has a Frame of Reference UID of its own.
    shuffle : bool
        File names and instance numbers do not follow the stack.
    """

    gaps: tuple[int, ...] = ()
    duplicates: tuple[int, ...] = ()
    mixed_frame_of_reference: bool = False
    shuffle: bool = False


@dataclass(frozen=True, slots=True)
class Parameters:
    """Everything that a phantom follows from; see `build`."""

    seed: int
    lesions: Choice | tuple[Placed, ...] = "standard"
    plane: Plane = "axial"
    thickness_mm: float = DEFAULT_THICKNESS
    spacing_mm: float = DEFAULT_THICKNESS
    slices: int = 0
    rows: int = 256
    columns: int = 256
    pixel_spacing_mm: tuple[float, float] = (1.0, 1.0)
    noise_hu: float = 20.0
    tilt_deg: float = 0.0
    feet_first: bool = False
    patient_name: str = "Phantom^Chest"
    patient_id: str = ""
    accession: str = ""
    charset: str = ""
    breakage: Breakage = field(default_factory=Breakage)
    kernel: Kernel = "soft"

    def document(self) -> dict[str, Any]:
        """Return what tells this phantom from others, as plain values; a soft kernel is not mentioned.

        UIDs follow from it: what was added later must not change those of older phantoms.
        """
        values = asdict(self)
        if self.kernel == "soft":
            del values["kernel"]
        return values


@dataclass(frozen=True, slots=True, eq=False)
class Phantom:
    """One acquisition of one chest.

    Parameters
    ----------
    parameters : Parameters
        What it follows from.
    grid : Grid
        Voxel centres; z = 0 has the smallest position along row x column.
    array : ndarray, [z, y, x] int16
        Hounsfield units.
    lung : ndarray, [z, y, x] uint8
        1 right, 2 left; opacities and nodules included, effusion not.
    lesion : ndarray, [z, y, x] uint8
        0, or n for ``objects[n - 1]``.
    objects : tuple of Truth
        Planted objects, measured independently of the grid.
    """

    parameters: Parameters
    grid: Grid
    array: NDArray[np.int16]
    lung: NDArray[np.uint8]
    lesion: NDArray[np.uint8]
    objects: tuple[Truth, ...]

    @property
    def affine(self) -> NDArray[np.float64]:
        """(x, y, z, 1) of indices [z, y, x] to LPS millimetres."""
        return self.grid.affine

    def truth_document(self) -> dict[str, Any]:
        """Return the content of ``truth.json``."""
        volumes = {
            name: round(float((self.lung == n).sum() * abs(np.linalg.det(self.affine[:3, :3])) / 1000), 2)
            for n, name in ((1, "right_lung"), (2, "left_lung"))
        }
        return {
            "schema": "pacs-ai-node/phantom/1",
            "seed": self.parameters.seed,
            "parameters": self.parameters.document(),
            "lung_volume_cm3": volumes,
            "objects": [asdict(o) for o in self.objects],
        }


@lru_cache(maxsize=4)
def _scene(seed: int, lesions: Choice | tuple[Placed, ...]) -> tuple[Scene, tuple[Truth, ...]]:
    rng = np.random.default_rng([seed, 1])
    anatomy = Anatomy.draw(rng)
    vessels = trees.vessels(anatomy, np.random.default_rng([seed, 3]))
    wide = vessels.points(TABLE["lesions"]["vessel_radius"])
    anatomy, planted = plant(np.random.default_rng([seed, 2]), anatomy, wide, lesions)
    scene = Scene.draw(np.random.default_rng([seed, 6]), anatomy, planted, vessels)
    return scene, measure(anatomy, planted)


def _extent(anatomy: Anatomy) -> NDArray[np.float64]:
    """Return the 8 corners (mm) of the box that holds both lungs and a margin."""
    sides: tuple[Side, Side] = (-1, 1)
    points = np.concatenate([lung_points(anatomy, side) for side in sides])
    low, high = points.min(0) - IMAGE["margin"], points.max(0) + IMAGE["margin"]
    return np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), -1).reshape(-1, 3).astype(np.float64)


def build(
    seed: int,
    *,
    lesions: Choice | Sequence[Placed] = "standard",
    plane: Plane = "axial",
    thickness_mm: float | None = None,
    spacing_mm: float | None = None,
    slices: int | None = None,
    matrix: int | tuple[int, int] = 256,
    pixel_spacing_mm: float | tuple[float, float] | None = None,
    noise_hu: float = 20.0,
    kernel: Kernel = "soft",
    tilt_deg: float = 0.0,
    feet_first: bool = False,
    patient_name: str = "Phantom^Chest",
    patient_id: str | None = None,
    accession: str | None = None,
    charset: str | None = None,
    gaps: tuple[int, ...] = (),
    duplicates: tuple[int, ...] = (),
    mixed_frame_of_reference: bool = False,
    shuffle: bool = False,
) -> Phantom:
    """Build the chest of `seed` and scan it.

    Parameters
    ----------
    seed : int
        Patient, lesions and noise follow from it; acquisition parameters change none of the first two.
    lesions : {"standard", "clear", "none"} or sequence of Placed
        See `phantom.planting.plant`; or exactly the lesions asked for.
    plane : {"axial", "coronal", "sagittal", "oblique"}
        Direction of the slices.
    thickness_mm, spacing_mm : float, optional
        Slice thickness and distance between slices; the distance defaults to the thickness, the thickness to 2.5 mm or,
        with `slices`, to what covers both lungs.
    slices : int, optional
        Number of slices, centred on the lungs; by default both lungs are covered with a margin.
    matrix : int or (rows, columns)
        Pixels.
    pixel_spacing_mm : float or (between rows, between columns), optional
        By default the field of view holds the whole body.
    noise_hu : float
        Standard deviation of the noise in soft tissue, whatever the kernel.
    kernel : {"soft", "sharp"}
        Reconstruction kernel: the sharp one has finer noise and edges that overshoot.
    tilt_deg : float
        Gantry tilt: the slices lean, the table still moves along the body.
    feet_first : bool
        Patient position FFS.
    patient_name, patient_id, accession : str
        Identity; the last two follow from the seed by default.
    charset : str, optional
        Specific Character Set of the data set; ``""`` declares none. Default: ISO_IR 100 for ASCII names, else ISO_IR 192.
    gaps, duplicates, mixed_frame_of_reference, shuffle
        See `Breakage`.

    Returns
    -------
    Phantom
        Image and truth.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """
    rows, columns = (matrix, matrix) if isinstance(matrix, int) else matrix
    if (
        min(rows, columns) < 16
        or (slices is not None and slices < 1)
        or (thickness_mm is not None and thickness_mm <= 0)
    ):
        raise ValueError("a phantom needs at least 16 rows and columns, one slice, and a positive thickness")
    if kernel not in get_args(Kernel):
        raise ValueError(f"kernel {kernel!r} is none of {', '.join(get_args(Kernel))}")
    chosen = lesions if isinstance(lesions, str) else tuple(lesions)
    scene, objects = _scene(seed, chosen)
    row, column = directions(plane, feet_first=feet_first)
    normal = np.cross(row, column)
    if tilt_deg:
        turn = tan(radians(tilt_deg))
        column = column + turn * normal
        column /= np.linalg.norm(column)
    corners = _extent(scene.anatomy)
    centre = corners.mean(0) * [0, 0, 1] + [0, 8, 0]
    along = (corners - centre) @ normal
    low, high = float(along.min()), float(along.max())
    if thickness_mm is None:
        thickness_mm = (
            DEFAULT_THICKNESS if slices is None or spacing_mm is not None else round((high - low) / slices, 3)
        )
    spacing_mm = thickness_mm if spacing_mm is None else spacing_mm
    count = ceil((high - low) / spacing_mm) + 1 if slices is None else slices
    if pixel_spacing_mm is None:
        view = IMAGE["field_of_view"]
        tall = np.ptp((corners - centre) @ column) if plane != "axial" else 0.0
        pixel = round(max(view / columns, max(tall, 290.0) / rows), 6)
        pixel_spacing_mm = (pixel, pixel)
    elif not isinstance(pixel_spacing_mm, tuple):
        pixel_spacing_mm = (pixel_spacing_mm, pixel_spacing_mm)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = (
        row * pixel_spacing_mm[1],
        column * pixel_spacing_mm[0],
        normal * spacing_mm,
    )
    middle = normal * (low + high) / 2
    affine[:3, 3] = centre + middle - affine[:3, :3] @ (np.array([columns - 1, rows - 1, count - 1]) / 2)
    affine = np.round(affine, 9)
    grid = Grid(affine, (count, rows, columns))
    breakage = Breakage(tuple(gaps), tuple(duplicates), mixed_frame_of_reference, shuffle)
    parameters = Parameters(
        seed, chosen, plane, thickness_mm, spacing_mm, count, rows, columns, pixel_spacing_mm, noise_hu, tilt_deg, feet_first,
        patient_name, f"PHANTOM-{seed}" if patient_id is None else patient_id, f"A{seed:06d}" if accession is None else accession,
        ("ISO_IR 100" if patient_name.isascii() else "ISO_IR 192") if charset is None else charset, breakage, kernel,
    )  # fmt: skip
    array = np.empty(grid.shape, np.int16)
    lung, lesion = np.empty(grid.shape, np.uint8), np.empty(grid.shape, np.uint8)
    size = max(1, CHUNK_SAMPLES // (rows * columns) // max(1, round(spacing_mm / 1.25)))

    def part(start: int) -> None:
        stop = min(start + size, count)
        seeds = [[seed, 4, i] for i in range(start, stop)]
        array[start:stop], lung[start:stop], lesion[start:stop] = expose(
            scene, grid, start, stop, thickness_mm, noise_hu, seeds, kernel
        )

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(part, range(0, count, size)))
    return Phantom(parameters, grid, array, lung, lesion, objects)
