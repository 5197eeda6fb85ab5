"""First grade of the images: what limits them, with its value and limit. Limits stand in ``quality.toml``.

References
----------
Immerkær J. Comput Vis Image Underst 1996;64:300 (noise from a Laplacian difference).
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_io.stack import Stack
from dicom_io.volume import Volume
from pipeline.reasons import REASONS
from pipeline.result import Grade, Quality, QualityFinding

QUALITY_FILE = "quality.toml"
_LAPLACE = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


@cache
def _table() -> tuple[Mapping[str, Any], ...]:
    return tuple(
        tomllib.loads(files("pipeline.chest_ct").joinpath(QUALITY_FILE).read_text(encoding="utf-8"))["finding"]
    )


def geometry_measures(stack: Stack, volume: Volume) -> dict[str, float]:
    """Return what headers alone say."""
    return {
        "thickness_mm": max(stack.thickness_mm or 0.0, stack.spacing_mm),
        "missing_slices": float(sum(g.missing for g in stack.gaps)),
        "uneven_mm": 0.0 if stack.gaps else volume.affine_error_mm,
        "duplicates": float(len(stack.duplicates)),
    }


def noise(array: npt.NDArray[np.float32], slices: range) -> float | None:
    """Estimate the standard deviation of noise in soft tissue from a few slices, HU; None if there is too little of it.

    The Laplacian difference ignores constant and slanted backgrounds; it is read only where the surroundings are all
    soft tissue, because edges and vessels would pass for noise.
    """
    seen = []
    for z in slices:
        plane = array[z]
        mean = ndimage.uniform_filter(plane, 9)
        spread = ndimage.maximum_filter(ndimage.uniform_filter(plane, 5), 9) - ndimage.minimum_filter(
            ndimage.uniform_filter(plane, 5), 9
        )
        flat = (mean > 0) & (mean < 110) & (spread < 60)
        seen.append(np.abs(ndimage.convolve(plane, _LAPLACE)[flat]))
    values = np.concatenate(seen) if seen else np.zeros(0, np.float32)
    if values.size < 2000:
        return None
    return float(np.sqrt(np.pi / 2) / 6 * values.mean())


def grade(measures: Mapping[str, float], series_uid: str) -> Quality:
    """Compare measures with the table."""
    worst, findings = "A", []
    for row in _table():
        value = measures.get(row["measure"])
        if value is None or value <= row["above"] or value > row.get("upto", np.inf):
            continue
        shown = {"value": f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}", "limit": f"{row['above']:g}"}
        findings.append(
            QualityFinding(
                REASONS(row["code"], **shown), "series", (series_uid,),
                round(value, 3), row["unit"] or None, row["above"],
            )
        )  # fmt: skip
        worst = max(worst, row["grade"])
    return Quality(cast("Grade", worst), tuple(findings))
