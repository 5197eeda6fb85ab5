"""What an opacity is like: where it lies, what it touches, its density and its form.

All areas and lengths are of the working grid (isotropic, to the head, to the back, to the left), shares and densities
of the source voxels that a segment shows.

Notes
-----
The area of a surface is the integral of the gradient's length of the blurred mask (coarea formula): unlike a count of
voxel faces it does not depend on how the surface lies in the grid.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist

from pipeline.chest_ct import morphology
from pipeline.chest_ct.body import Bool, bounding_box
from pipeline.chest_ct.grid import WorkingGrid
from pipeline.chest_ct.surface import Polar

Kind = Literal["opacity", "mass", "effusion", "undetermined"]


@dataclass(frozen=True, slots=True)
class Traits:
    """Of one opacity.

    Parameters
    ----------
    number : int
        Its value in `OnSource.opacity`.
    side : int
        1 right, 2 left.
    volume_cm3 : float
        Of its source voxels.
    thirds : tuple of float
        Share of its volume in the upper, middle and lower third of its lung's height.
    peel : float
        Share of its volume in the outer zone of its lung; the rest lies in the core. See `zones`.
    contact_cm2 : float
        Area of its surface next to the costal pleura.
    mean_hu : float
        Mean density.
    ground_glass : float
        Share of its volume less dense than the limit between ground glass and dense.
    extent_mm : float
        Largest distance between two of its points.
    roundness : float
        Surface of the ball of its volume over its own surface (sphericity): 1 for a ball.
    filled : float
        Its volume over that of its convex hull: 1 for what has neither dents nor branches.
    inner_hu, inner_spread : float
        Median and standard deviation of the density deep inside; NaN if it has no such part.
    dependent : float
        Share of its volume in the layer at the dependent pleura; 0 if the patient lay on one side.
    kind : str
        "opacity", "mass", "effusion" or "undetermined".
    evidence : tuple of str
        What `kind` rests on: rows of table ``evidence`` of ``texts.toml``.
    """

    number: int
    side: int
    volume_cm3: float
    thirds: tuple[float, float, float]
    peel: float
    contact_cm2: float
    mean_hu: float
    ground_glass: float
    extent_mm: float
    roundness: float
    filled: float
    inner_hu: float
    inner_spread: float
    dependent: float = 0.0
    kind: Kind = "undetermined"
    evidence: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True, eq=False)
class Zones:
    """Parts of the lungs on the working grid.

    Parameters
    ----------
    peel : ndarray of bool
        Lung near its costal or diaphragmatic surface.
    costal : ndarray of bool
        The outermost voxels of lung towards the ribs.
    dependent : ndarray of bool
        Lung just above the lowest of its column, in the direction of gravity.
    """

    peel: Bool
    costal: Bool
    dependent: Bool


@dataclass(frozen=True, slots=True)
class _Form:
    contact_cm2: float
    extent_mm: float
    roundness: float
    filled: float
    inner_hu: float
    inner_spread: float


def zones(label: npt.NDArray[np.uint8], spacing: float, p: dict[str, Any], down: int = 0) -> Zones:
    """Part the lungs into peel and core, and find the costal surface.

    Seen from the middle of the chest within an axial slice, the last voxel of lung faces the ribs; the lowest voxel of
    a column in the lower third of a lung faces the diaphragm. The mediastinal surface counts as neither: what lies at
    the hilum is central. The peel reaches `peel` millimetres deep, or to the share `peel_share` of the lung's depth
    where that is less.

    Parameters
    ----------
    label : ndarray of uint8, shape (z, y, x)
        1 right, 2 left, on the working grid.
    spacing : float
        Millimetres a voxel.
    p : dict
        Table ``traits``.
    down : int
        Where gravity points along y: 1 to the back (supine), -1 to the front (prone), 0 across or unknown.
    """
    polar = Polar.of(label, p["angle"])
    peel, costal = np.zeros(label.shape, bool), np.zeros(label.shape, bool)
    for side in (1, 2):
        whole = label == side
        if not whole.any():
            continue
        box = bounding_box(whole, 1, label.shape)
        lung = whole[box]
        _, last = polar.reach(whole[box[0]])
        beyond = polar.spread(last)[:, box[1], box[2]] - polar.radius[box[1], box[2]]
        outer = lung & (beyond < p["shell"] / spacing)
        base = np.zeros(lung.shape, bool)
        lowest = lung.argmax(axis=0)
        low = lung.any(axis=0) & (lowest > 0) & (lowest < lung.shape[0] / 3)
        rows, columns = np.nonzero(low)
        base[lowest[low], rows, columns] = True
        costal[box] |= outer
        depth = -morphology.signed_distance(outer | base) * spacing
        reach = min(p["peel"], p["peel_share"] * float(depth[lung].max()))
        peel[box] |= lung & (depth <= reach)
    layer = np.zeros(label.shape, bool)
    if down:
        lung = label[:, ::-down] > 0
        row = np.arange(lung.shape[1])[:, None]
        layer[:, ::-down] = lung & (row - lung.argmax(axis=1)[:, None] < p["dependent"] / spacing)
    return Zones(peel, costal, layer)


def describe(
    numbered: npt.NDArray[np.uint16],
    lung: npt.NDArray[np.uint8],
    third: npt.NDArray[np.uint8],
    peel: Bool,
    dependent: Bool,
    hu: npt.NDArray[np.float32],
    smooth_hu: npt.NDArray[np.float32],
    forms: Mapping[int, _Form],
    *,
    voxel_mm3: float,
    dense_hu: float,
) -> tuple[Traits, ...]:
    """Return the traits of every opacity, by number, `kind` not yet judged.

    Parameters
    ----------
    numbered : ndarray of uint16
        0, or the number of the opacity; this and the next six on the same box of the source grid.
    lung : ndarray of uint8
        1 right, 2 left.
    third : ndarray of uint8
        0 upper, 1 middle, 2 lower third.
    peel, dependent : ndarray of bool
        As in `Zones`.
    hu, smooth_hu : ndarray of float32
        Density as measured, and without noise: the latter decides the class of a voxel.
    voxel_mm3 : float
        Volume of a source voxel.
    dense_hu : float
        From here on a voxel counts as dense.
    forms : mapping
        From `forms`.
    """
    at = np.flatnonzero(numbered)
    number = numbered.ravel()[at]
    count = int(numbered.max(initial=0)) + 1
    size = np.maximum(np.bincount(number, minlength=count), 1)

    def share(of: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        return np.bincount(number, weights=of, minlength=count) / size

    places = [share(third.ravel()[at] == k) for k in range(3)]
    outer, mean, left = share(peel.ravel()[at]), share(hu.ravel()[at]), share(lung.ravel()[at] == 2)
    low, glass = share(dependent.ravel()[at]), share(smooth_hu.ravel()[at] < dense_hu)
    out = []
    for n in range(1, count):
        form = forms[n]
        out.append(
            Traits(
                n, 2 if left[n] > 0.5 else 1, float(size[n] * voxel_mm3 / 1000),
                (float(places[0][n]), float(places[1][n]), float(places[2][n])), float(outer[n]), form.contact_cm2,
                float(mean[n]), float(glass[n]), form.extent_mm, form.roundness, form.filled, form.inner_hu,
                form.inner_spread, float(low[n]),
            )
        )  # fmt: skip
    return tuple(out)


def forms(
    numbered: npt.NDArray[np.uint16], hu: torch.Tensor, inside: Bool, costal: Bool, spacing: float, p: dict[str, Any]
) -> dict[int, _Form]:
    """Measure the form of every opacity and what it touches.

    Parameters
    ----------
    numbered : ndarray of uint16
        0, or the number of the opacity, on the working grid: see `on_working`.
    hu : Tensor
        Working volume with little noise.
    inside : ndarray of bool
        Lung.
    costal : ndarray of bool
        `Zones.costal`.
    spacing : float
        Millimetres a voxel.
    p : dict
        Table ``traits``.
    """
    out = {}
    margin = int(np.ceil(max(p["contact"], 3 * p["blur"]) / spacing)) + 2
    for n, found in enumerate(ndimage.find_objects(numbered), 1):
        if found is None:
            out[n] = _Form(0.0, 0.0, 0.0, 0.0, float("nan"), float("nan"))
            continue
        box = tuple(
            slice(max(0, s.start - margin), min(size, s.stop + margin))
            for s, size in zip(found, numbered.shape, strict=True)
        )
        out[n] = _form(numbered[box] == n, hu[box].cpu().numpy(), inside[box], costal[box], spacing, p)
    return out


def _form(
    mine: Bool, hu: npt.NDArray[np.float32], inside: Bool, costal: Bool, spacing: float, p: dict[str, Any]
) -> _Form:
    # room around it: what the edge of the images cuts has a surface there, too
    pad = int(np.ceil(3 * p["blur"] / spacing)) + 1
    mine, inside, costal = (np.pad(m, pad) for m in (mine, inside, costal))
    area = surface_mm2(mine, p["blur"], spacing)
    near = np.zeros(mine.shape, bool)
    if costal.any():
        # the blurred surface reaches beyond the lung; inside, the shell itself is part of the way
        near = -morphology.signed_distance(costal) * spacing <= np.where(
            inside, p["contact"] - p["shell"], 2 * p["blur"]
        )
    volume = np.count_nonzero(mine) * spacing**3
    points = np.argwhere(mine & ~ndimage.binary_erosion(mine)).astype(np.float64) * spacing
    extent, hull = _hull(points, spacing)
    inner = (morphology.signed_distance(mine) * spacing >= p["inner"])[(slice(pad, -pad),) * 3]
    values = hu[inner]
    enough = values.size >= p["inner_voxels"]
    return _Form(
        contact_cm2=float(area[near].sum()) / 100,
        extent_mm=extent,
        roundness=float(min(1.0, np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / max(float(area.sum()), 1e-6))),
        filled=float(min(1.0, volume / max(hull, volume))),
        inner_hu=float(np.median(values)) if enough else float("nan"),
        inner_spread=float(values.std()) if enough else float("nan"),
    )


def surface_mm2(mask: Bool, blur_mm: float, spacing: float) -> npt.NDArray[np.float32]:
    """Return the area of the surface of `mask` that each voxel holds; their sum is the area of the surface."""
    soft = ndimage.gaussian_filter(mask.astype(np.float32), blur_mm / spacing, mode="constant", truncate=3.0)
    steep: npt.NDArray[np.float32] = np.sqrt(sum(np.gradient(soft, axis=k) ** 2 for k in range(3)))
    return steep * np.float32(spacing**2)


def _hull(points: npt.NDArray[np.float64], spacing: float) -> tuple[float, float]:
    """Return the largest distance between voxels at `points` and the volume of their convex hull.

    Both are those of the hull of the centres, grown by half a voxel.
    """
    volume, flat = 0.0, points
    if len(points) > 4:
        try:
            found = ConvexHull(points)
            flat, volume = points[found.vertices], float(found.volume + found.area * spacing / 2)
        except QhullError:  # all in one plane: as good as convex
            pass
    longest = float(pdist(flat).max()) if len(flat) > 1 else 0.0
    return longest + spacing, volume


def on_working(
    numbered: npt.NDArray[np.uint16], box: tuple[slice, slice, slice], inside: Bool, at: tuple[slice, slice, slice],
    grid: WorkingGrid,
) -> npt.NDArray[np.uint16]:  # fmt: skip
    """Bring the numbers of the opacities back to the working grid.

    Parameters
    ----------
    numbered : ndarray of uint16
        On the box `box` of the source grid.
    box : tuple of slice
        Where `numbered` stands in the source array.
    inside : ndarray of bool
        Opacities at the working voxels of `at`, which take the nearest number within two voxels.
    at : tuple of slice
        Where `inside` stands in the working grid.
    grid : WorkingGrid
        Between the two.
    """
    out = grid.nearest_source(numbered, box, at)
    out[~inside] = 0
    for _ in range(2):
        lacking = inside & (out == 0)
        if lacking.any():
            out[lacking] = ndimage.maximum_filter(out, 3)[lacking]
    return out
