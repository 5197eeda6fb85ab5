"""First grade of the images: what limits them, with its value and limit. Limits stand in ``quality.toml``.

References
----------
Christianson O et al. AJR 2015;205:W93 (global noise level: mode of the local standard deviation in soft tissue).
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
_WINDOW = 7


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
    """Return the global noise level of a few slices, HU; None if there is too little soft tissue.

    The most frequent standard deviation of small windows in soft tissue: edges and vessels make larger ones, but rarer.
    """
    seen = []
    for z in slices:
        plane = array[z].astype(np.float64)
        mean = ndimage.uniform_filter(plane, _WINDOW)
        variance = ndimage.uniform_filter(plane * plane, _WINDOW) - mean * mean
        seen.append(np.sqrt(np.maximum(variance, 0))[(mean > 0) & (mean < 170)])
    values = np.concatenate(seen) if seen else np.zeros(0)
    if values.size < 2000:
        return None
    counts, edges = np.histogram(values, bins=np.arange(0, 200.5, 0.5))
    counts = ndimage.uniform_filter1d(counts.astype(np.float64), 5)
    return float(edges[int(counts.argmax())] + 0.25)


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
