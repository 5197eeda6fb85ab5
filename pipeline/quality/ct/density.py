"""Whether CT numbers are what they should be: air, soft tissue, vessels, metal."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_io import elements
from pipeline.quality.ct.anatomy import LEFT, RIGHT, Chest
from pipeline.quality.ct.view import View
from pipeline.quality.grade import Measured

HU = "[hnsf'U]"


def calibration(view: View, chest: Chest, p: dict[str, Any]) -> dict[str, Measured]:
    """Return ``air_hu``, ``tissue_hu`` and ``hu_offset``; `p` is the table ``density``.

    A wrong intercept moves air and tissue by the same amount: the offset is the smaller of both deviations if they point
    the same way, and 0 if they do not.
    """
    out = {}
    far = ~ndimage.binary_dilation(chest.body, iterations=p["air_away"]) & (view.hu < p["air_most"])
    if view.padded is not None:
        far &= ~ndimage.binary_dilation(view.padded, iterations=p["air_away"])
    far[:, [0, -1], :] = far[:, :, [0, -1]] = False
    air = view.hu[far]
    deviations = []
    if air.size > p["air_least"]:
        value = float(np.median(air))
        if value > p["air_clipped"] or value < -1025:
            out["air_hu"] = Measured(value, HU)
            deviations.append(value + 1000)
    inside = view.hu[ndimage.binary_erosion(chest.body)]
    low, high = p["tissue_range"]
    counts, edges = np.histogram(inside, bins=np.arange(low, high, 2.0))
    if counts.sum() > p["tissue_least"]:
        smooth = ndimage.gaussian_filter1d(counts.astype(np.float64), 4)
        value = float(edges[int(smooth.argmax())] + 1)
        out["tissue_hu"] = Measured(value, HU)
        deviations.append(value - p["tissue"])
    if len(deviations) == 2:
        same = deviations[0] * deviations[1] > 0
        out["hu_offset"] = Measured(min(deviations, key=abs) if same else 0.0, HU)
    return out


def mediastinum(chest: Chest, low: float, high: float) -> npt.NDArray[np.bool_]:
    """Return what lies between the lungs, before their back half, between two shares of their height from below."""
    levels = chest.levels
    out = np.zeros(chest.lung.shape, bool)
    at = range(levels[0] + int(low * len(levels)), levels[0] + int(np.ceil(high * len(levels))))
    columns = np.arange(chest.lung.shape[2])
    for z in at:
        right, left = (chest.lung[z] == s for s in (RIGHT, LEFT))
        rows = np.flatnonzero(right.any(axis=1) & left.any(axis=1))
        if rows.size < 2:
            continue
        for y in rows[: max(1, int(0.6 * rows.size))]:
            inner = (np.flatnonzero(right[y])[-1], np.flatnonzero(left[y])[0])
            out[z, y] = (columns > inner[0]) & (columns < inner[1])
    return out


def contrast(view: View, chest: Chest, p: dict[str, Any]) -> dict[str, Measured]:
    """Return ``vessel_hu``, the brightest tenth between the lungs, and what of it the header does not say."""
    values = view.hu[mediastinum(chest, 0.4, 0.8)]
    values = values[(values > 0) & (values < p["vessel_most"])]
    if values.size < p["vessel_least"]:
        return {}
    bright = float(np.percentile(values, 90))
    header = view.stack.instances[0].header
    agent = elements.text(header, "ContrastBolusAgent").upper()
    named = bool(agent) and agent not in p["no_contrast"]
    out = {"vessel_hu": Measured(bright, HU)}
    if named:
        out["contrast_named_hu"] = Measured(bright, HU)
    else:
        out["contrast_unnamed_hu"] = Measured(bright, HU)
    return out


def metal(view: View, chest: Chest, p: dict[str, Any]) -> dict[str, Measured]:
    """Return ``metal_cm3`` within the body: what lies together above `metal_hu` and is larger than `metal_least_mm3`."""
    bright = np.flatnonzero(view.highest > p["metal_hu"])
    if not bright.size:
        return {"metal_cm3": Measured(0.0, "cm3")}
    first, last = int(bright[0]), int(bright[-1]) + 1
    mask = view.volume.array[first:last] > p["metal_hu"]
    rows, columns = (np.flatnonzero(mask.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    box = mask[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    labels, count = ndimage.label(box)
    stack = view.stack
    voxel = stack.spacing_mm * stack.pixel_spacing_mm[0] * stack.pixel_spacing_mm[1]
    sizes = np.bincount(labels.ravel(), minlength=count + 1) * voxel
    inside = _inside(view, chest)
    total, most, where = 0.0, 0.0, None
    for label, found in enumerate(ndimage.find_objects(labels), 1):
        if sizes[label] < p["metal_least_mm3"] or found is None:
            continue
        centre = [(s.start + s.stop) // 2 + o for s, o in zip(found, (first, rows[0], columns[0]), strict=True)]
        if not inside(*centre):
            continue
        total += float(sizes[label]) / 1000
        if sizes[label] > most:
            most, where = float(sizes[label]), (centre[0], found[1], found[2])
    if where is None:
        return {"metal_cm3": Measured(0.0, "cm3")}
    z, y, x = where
    spread = (
        range(int(rows[0]) + y.start, int(rows[0]) + y.stop),
        range(int(columns[0]) + x.start, int(columns[0]) + x.stop),
    )
    place = view.around(z, (spread[0].start, spread[0].stop), (spread[1].start, spread[1].stop))
    return {"metal_cm3": Measured(total, "cm3", place)}


def _inside(view: View, chest: Chest) -> Callable[[int, int, int], bool]:
    """Return whether a source voxel lies in the body."""

    def test(z: int, y: int, x: int) -> bool:
        at = []
        for k, axis in enumerate(view.axes):
            index = (z, y, x)[axis]
            if view.flip[k]:
                index = view.volume.array.shape[axis] - 1 - index
            at.append(min(index // view.factor[k], chest.body.shape[k] - 1))
        return bool(chest.body[at[0], at[1], at[2]])

    return test
