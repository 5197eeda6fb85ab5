"""On which side heart and liver lie and at which end the windpipe enters, by the patient directions that the headers state.

Two signs, told apart because disease moves one and seldom both: the heart bulges to the left between the lungs, and below
them the liver fills more of the right than stomach and spleen fill of the left.
"""

from typing import Any

import numpy as np
from scipy import ndimage

from pipeline.quality.ct.anatomy import Chest
from pipeline.quality.ct.density import mediastinum
from pipeline.quality.ct.view import View
from pipeline.quality.grade import Measured


def windpipe(view: View, chest: Chest, p: dict[str, Any]) -> dict[str, Measured]:
    """Return ``windpipe_end``; `p` is the table ``situs``.

    In how many levels of the upper end of the lungs the windpipe is seen, less in how many of the lower end, as shares: near 1
    as usual, where the stomach holds air less, below 0 if what should be the upper end is the lower one.
    """
    levels = chest.levels
    air = chest.body & (chest.smooth < p["windpipe_hu"]) & (chest.lung == 0)
    aside = np.abs(np.arange(air.shape[2])[None] - chest.middle[:, None]) * view.spacing[2]
    near = air & (aside < p["windpipe_aside_mm"])[:, None, :]
    seen = near.sum(axis=(1, 2)) * view.spacing[1] * view.spacing[2] > p["windpipe_mm2"]
    count = max(1, round(p["windpipe_levels"] * len(levels)))
    upper, lower = seen[levels[-1] + 1 - count : levels[-1] + 1], seen[levels[0] : levels[0] + count]
    place = view.whole(view.plane(levels[-1] - count // 2)) if view.axial else None
    return {"windpipe_end": Measured(float(upper.mean() - lower.mean()), "1", place)}


def situs(view: View, chest: Chest, p: dict[str, Any]) -> dict[str, Measured]:
    """Return ``heart_left_mm``, ``liver_right`` and ``situs``; `p` is the table ``situs``.

    ``heart_left_mm``: how far left of the body's middle the centre of what stands between the lungs lies.
    ``liver_right``: evenly dense tissue below the lungs, right less left, as a share of both.
    ``situs``: the larger of the two, each against what is usual: 1 as usual, -1 both on the other side.
    """
    out: dict[str, Measured] = {}
    signs: list[float] = []
    between = mediastinum(chest, *p["heart_levels"])
    if np.count_nonzero(between) > p["heart_least"]:
        z, _, x = np.nonzero(between)
        value = float((x - chest.middle[z]).mean() * view.spacing[2])
        out["heart_left_mm"] = Measured(value, "mm")
        signs.append(value / p["heart_usual_mm"])
    at = range(max(0, chest.levels[0] - round(p["liver_below_mm"] / view.spacing[0])),
               chest.levels[0] + round(p["liver_above_mm"] / view.spacing[0]))  # fmt: skip
    smooth = ndimage.gaussian_filter(view.hu[at.start : at.stop], p["liver_smooth_mm"] / np.array(view.spacing))
    low, high = p["liver_hu"]
    dense = (smooth > low) & (smooth < high) & chest.body[at.start : at.stop]
    column = np.arange(dense.shape[2])
    away = (column[None] - chest.middle[at.start : at.stop, None]) * view.spacing[2]
    left = np.count_nonzero(dense & (away > p["liver_aside_mm"])[:, None, :])
    right = np.count_nonzero(dense & (away < -p["liver_aside_mm"])[:, None, :])
    if left + right > p["liver_least"] and len(at) * view.spacing[0] > p["liver_height_mm"]:
        value = float(right - left) / float(right + left)
        out["liver_right"] = Measured(value, "1")
        signs.append(value / p["liver_usual"])
    if len(signs) == 2:
        middle = (chest.levels[0] + chest.levels[-1]) // 2
        out["situs"] = Measured(max(signs), "1", view.whole(view.plane(middle)) if view.axial else None)
    return out
