"""Everything that is measured on a CT series, in one walk over its pixels."""

from dataclasses import dataclass

import numpy as np

from dicom_io.reason import Reason
from dicom_io.stack import Stack
from dicom_io.volume import Volume
from pipeline.quality.ct.anatomy import Chest, look
from pipeline.quality.ct.coverage import coverage
from pipeline.quality.ct.geometry import geometry
from pipeline.quality.ct.noise import noise
from pipeline.quality.ct.parameters import parameters
from pipeline.quality.ct.view import View
from pipeline.quality.grade import Measured
from pipeline.reasons import REASONS

NOISE_SLICES = 7


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What was measured, what was not, and what it was measured on."""

    measures: dict[str, Measured]
    not_evaluated: tuple[Reason, ...]
    view: View
    chest: Chest


def measure(stack: Stack, volume: Volume) -> Seen:
    """Measure a CT series.

    Parameters
    ----------
    stack, volume
        The slices and their pixels; slices may be missing.
    """
    p = parameters()
    view = View.of(stack, volume, **p["view"])
    chest = look(view, p["chest"])
    out = geometry(stack, volume)
    out["lungs_cm3"] = Measured(chest.lungs_cm3, "cm3", view.whole(len(stack.instances) // 2))
    missed: list[Reason] = []
    if chest.lungs_cm3 > 0:
        out |= coverage(view, chest, p["coverage"])
        out["lung_hu"] = Measured(chest.density_hu, "[hnsf'U]")
    else:
        missed.append(REASONS("quality-without-lungs"))
    level = noise(volume.array, _spread(view, chest))
    if level is None:
        missed.append(REASONS("noise-not-judged"))
    else:
        out["noise_hu"] = Measured(level, "[hnsf'U]")
    return Seen(out, tuple(missed), view, chest)


def _spread(view: View, chest: Chest) -> range:
    """Return a few source slices over the height of the lungs, or of all there are."""
    count = len(view.stack.instances)
    ends = [0, count - 1]
    if chest.levels and view.axial:
        ends = sorted((view.plane(chest.levels[0]), view.plane(chest.levels[-1])))
    return range(ends[0], ends[1] + 1, int(np.ceil((ends[1] - ends[0] + 1) / NOISE_SLICES)))
