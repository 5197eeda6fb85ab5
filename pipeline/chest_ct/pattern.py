"""What is measured of the pattern of opacities, each value held against its limit of ``suggestion.toml``."""

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.chest_ct.lungs import LEFT, RIGHT
from pipeline.chest_ct.measure import Counted
from pipeline.chest_ct.traits import Traits

RULES_FILE = "suggestion.toml"
Values = Mapping[str, float | None]
"""Name of a rule to what was measured; None where there is nothing to measure it on."""


@cache
def rules() -> dict[str, Any]:
    """Return ``suggestion.toml``."""
    return tomllib.loads(files("pipeline.chest_ct").joinpath(RULES_FILE).read_text(encoding="utf-8"))


def posterior_percent(
    lung: npt.NDArray[np.uint8], opacity: npt.NDArray[np.uint16], back: npt.NDArray[np.float64]
) -> float | None:
    """Return the share of opacities that lies behind the middle of its lung, in percent; None without opacities.

    Parameters
    ----------
    lung : ndarray of uint8
        1 right, 2 left.
    opacity : ndarray of uint16
        Not 0 inside an opacity; of the same shape.
    back : ndarray of float64
        LPS y of every voxel, broadcastable to `lung`. The middle of a lung is the mean over its voxels.
    """
    behind, total = 0, 0
    back = np.broadcast_to(back, lung.shape)
    for side in (RIGHT, LEFT):
        mine = lung == side
        marked = back[mine & (opacity != 0)]
        total += marked.size
        if marked.size:
            behind += int((marked > back[mine].mean()).sum())
    return 100.0 * behind / total if total else None


def measure(
    counted: Mapping[str, Counted], traits: Sequence[Traits], voxel_mm3: float, posterior: float | None
) -> Values:
    """Return what every rule is about.

    Parameters
    ----------
    counted : mapping
        Site to sums, from `measure.count_sites`, zones included.
    traits : sequence of Traits
        Of every opacity.
    voxel_mm3 : float
        Volume of a source voxel.
    posterior : float or None
        From `posterior_percent`.
    """
    p = rules()["limits"]
    both = counted["lungs"]
    volume = sum(t.volume_cm3 for t in traits)
    values: dict[str, float | None] = {
        "opacity": both.opaque * voxel_mm3 / 1000, "multifocal": float(len(traits)), "posterior": posterior,
        **dict.fromkeys(("infiltrate", "mass_or_fluid", "bilateral", "ground_glass", "pleural", "peripheral", "lobar")),
    }  # fmt: skip
    if not both.opaque or not volume:
        return values

    def share(of: Sequence[Traits]) -> float:
        return 100.0 * sum(t.volume_cm3 for t in of) / volume

    values["infiltrate"] = share([t for t in traits if t.kind == "opacity"])
    values["mass_or_fluid"] = share([t for t in traits if t.kind in {"mass", "effusion"}])
    values["pleural"] = share([t for t in traits if t.contact_cm2 >= p["contact_cm2"]])
    less = min(counted["left_lung"].opaque, counted["right_lung"].opaque)
    values["bilateral"] = 100.0 * less / both.opaque
    values["ground_glass"] = 100.0 * both.ground_glass / both.opaque
    peel = [row for site, row in counted.items() if site.endswith("_peel")]
    if peel and any(row.voxels for row in peel):
        outside = sum(r.opaque for r in peel) / both.opaque
        values["peripheral"] = outside * both.voxels / sum(r.voxels for r in peel)
    size = {
        side: counted[name].voxels * voxel_mm3 / 1000 for side, name in ((RIGHT, "right_lung"), (LEFT, "left_lung"))
    }
    solid = [t for t in traits if t.kind == "opacity" and 100 * t.ground_glass < p["lobar_glass_percent"]]
    values["lobar"] = max((100.0 * t.volume_cm3 / max(size[t.side], 1e-9) for t in solid), default=0.0)
    return values
