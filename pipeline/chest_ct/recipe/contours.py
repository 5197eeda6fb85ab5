"""RT Structure Sets: closed contours onto the planes of their series, a voxel belonging where its centre lies inside.

All contours of one structure on one plane count together by the even-odd rule: a contour within another one is a hole, and the
two edges of a keyhole cancel out. The same contour drawn twice counts once.

References
----------
DICOM PS3.3 C.8.8.6 (ROI Contour): CLOSED_PLANAR, CLOSEDPLANAR_XOR, inner and outer contours.
"""

from collections import defaultdict
from collections.abc import Callable

import numpy as np
from pydicom.dataset import Dataset

from pipeline.chest_ct.recipe.place import Bools, Floats, Space
from pipeline.chest_ct.recipe.refusals import LabelRefused

_CLOSED = frozenset({"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"})
_OFF_PLANE = 0.1
"""Of the distance of two slices: contours are written with few digits."""


def names(structures: Dataset) -> dict[int, str]:
    """Return the name of every structure by its number."""
    return {int(roi.ROINumber): str(roi.get("ROIName", "")) for roi in structures.get("StructureSetROISequence", [])}


def paint(structures: Dataset, wanted: Callable[[str], bool], space: Space, out: Bools) -> None:
    """Mark in `out` the structures whose names are wanted.

    Raises
    ------
    LabelRefused
        ``contour-kind``, ``contour-off-plane``, ``label-outside`` or ``label-tool``.
    """
    named = names(structures)
    for roi in structures.get("ROIContourSequence", []):
        if wanted(named.get(int(roi.ReferencedROINumber), "")):
            _paint_one(roi, space, out)


def _paint_one(roi: Dataset, space: Space, out: Bools) -> None:
    planes: dict[int, list[Floats]] = defaultdict(list)
    for contour in roi.get("ContourSequence", []):
        kind = str(contour.get("ContourGeometricType", ""))
        if kind == "POINT":
            continue
        if kind not in _CLOSED:
            raise LabelRefused("contour-kind", kind=kind)
        values = np.array(contour.ContourData or [], np.float64)
        if values.size % 3 or values.size < 9 or not np.isfinite(values).all():
            raise LabelRefused("label-tool", error="ContourData")
        at = space.to_index(values.reshape(-1, 3))
        plane = round(float(at[:, 2].mean()))
        off = float(np.abs(at[:, 2] - plane).max())
        if off > _OFF_PLANE:
            raise LabelRefused("contour-off-plane", mm=off * float(np.linalg.norm(space.affine[:3, 2])))
        if not 0 <= plane < space.shape[0]:
            raise LabelRefused("label-outside")
        points = at[:, :2]
        if not any(_same(points, other) for other in planes[plane]):
            planes[plane].append(points)
    for plane, several in planes.items():
        out[plane] |= inside(several, space.shape[1:])


def _same(one: Floats, other: Floats) -> bool:
    return one.shape == other.shape and bool(np.allclose(one, other, atol=1e-3))


def inside(contours: list[Floats], shape: tuple[int, ...]) -> Bools:
    """Return which pixel centres lie inside an odd number of closed contours.

    Parameters
    ----------
    contours : list of ndarray, shape (n, 2)
        Points (x, y) in pixels; the centre of the first pixel is (0, 0). Each closes by itself.
    shape : tuple[int, int]
        Rows, columns.

    Raises
    ------
    LabelRefused
        ``label-outside`` if a contour reaches beyond the image by more than half a pixel.
    """
    rows, columns = shape
    crossings = np.zeros((rows, columns + 1), np.int64)
    for points in contours:
        if points.min() < -0.5 - 1e-3 or (points > np.array([columns, rows]) - 0.5 + 1e-3).any():
            raise LabelRefused("label-outside")
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
            if y0 == y1:
                continue
            low, high = sorted((y0, y1))
            # a row is crossed from its edge's lower end on, and no more at its upper end: a corner counts once
            at = np.arange(max(0, int(np.ceil(low))), min(rows, int(np.ceil(high))))
            x = x0 + (at - y0) * (x1 - x0) / (y1 - y0)
            np.add.at(crossings, (at, np.clip(np.ceil(x), 0, columns).astype(np.int64)), 1)
    out: Bools = np.cumsum(crossings, axis=1)[:, :columns] % 2 == 1
    return out
