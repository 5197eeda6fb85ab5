"""Everything that is measured on a CT series, in one walk over its pixels."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dicom_io.reason import Reason
from dicom_io.stack import Stack
from dicom_io.volume import Volume
from pipeline.chest_ct.select import sharp_kernel
from pipeline.quality.ct import density, noise, sharpness
from pipeline.quality.ct.anatomy import Chest, arms, look
from pipeline.quality.ct.coverage import body_cut, coverage
from pipeline.quality.ct.geometry import geometry
from pipeline.quality.ct.order import order
from pipeline.quality.ct.parameters import parameters
from pipeline.quality.ct.situs import situs, windpipe
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
    few = _spread(view, chest)
    out = {
        **geometry(stack, volume),
        "lungs_cm3": Measured(chest.lungs_cm3, "cm3", view.whole(len(stack.instances) // 2)),
        **order(view, p["order"]),
        **density.calibration(view, chest, p["density"]),
        **density.metal(view, chest, p["density"]),
        **sharpness.sharpness(view, few, p["sharpness"]),
        **sharpness.motion(view, _height(view, chest), p["sharpness"]),
    }
    level = noise.noise(volume.array, few)
    if level is not None:
        out |= noise.measured(stack, level, p["noise"])
    sharp = sharp_kernel(stack.instances[0].header)
    if sharp is not None:
        out["sharp_kernel"] = Measured(float(sharp))
    if chest.lungs_cm3 > 0:
        out |= _of_the_lungs(view, chest, p)
    return Seen(out, tuple(_not_evaluated(out, chest, sharp)), view, chest)


def _of_the_lungs(view: View, chest: Chest, p: dict[str, Any]) -> dict[str, Measured]:
    """Return what can be measured only where there are lungs."""
    share, level = arms(chest.smooth, chest, view.spacing, p["chest"])
    return {
        **coverage(view, chest, p["coverage"]),
        **body_cut(view, chest, p["coverage"]),
        **density.contrast(view, chest, p["density"]),
        **situs(view, chest, p["situs"]),
        **windpipe(view, chest, p["situs"]),
        "lung_hu": Measured(chest.density_hu, density.HU),
        "arms_share": Measured(share, "1", view.whole(view.plane(level)) if view.axial else None),
    }


def _not_evaluated(out: Mapping[str, Measured], chest: Chest, sharp: bool | None) -> Iterator[Reason]:
    if chest.lungs_cm3 <= 0:
        yield REASONS("quality-without-lungs")
    elif "situs" not in out:
        yield REASONS("situs-not-judged")
    if "noise_hu" not in out:
        yield REASONS("noise-not-judged")
    if "edge_sigma_mm" not in out:
        yield REASONS("sharpness-not-judged")
    if "double_edges" not in out or "slice_misfit" not in out:
        yield REASONS("motion-not-judged")
    if "hu_offset" not in out:
        yield REASONS("hu-not-judged")
    if sharp is None:
        yield REASONS("kernel-unknown")


def _height(view: View, chest: Chest) -> range:
    """Return the source slices over the height of the lungs, or all there are."""
    ends = [0, len(view.stack.instances) - 1]
    if chest.levels and view.axial:
        ends = sorted((view.plane(chest.levels[0]), view.plane(chest.levels[-1])))
    return range(ends[0], ends[1] + 1)


def _spread(view: View, chest: Chest) -> range:
    """Return a few of them."""
    over = _height(view, chest)
    return over[:: -(-len(over) // NOISE_SLICES)]
