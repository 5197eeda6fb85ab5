"""Densities of lung as numbers for emphysema, and the share of well aerated lung.

The share below -950 HU and the 15th percentile mean emphysema only of an adult, in deep inspiration, without contrast
medium, in thin slices of a kernel that does not enhance edges, with the whole lung on the images. Where one of these does
not hold, or is not known, the number is withheld with that reason.

References
----------
Gevenois 1996 (-950 HU); classes of aeration as in Negroni 2022.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from dicom_io.reason import Reason
from dicom_io.stack import Stack
from pipeline.chest_ct import select
from pipeline.chest_ct.measure import SIDE_NAMES, Circumstances
from pipeline.reasons import REASONS
from pipeline.result import Measurement, Quality


@dataclass(frozen=True, slots=True)
class Acquisition:
    """How the images were made, as far as densities depend on it.

    Parameters
    ----------
    years : float or None
        Age of the patient.
    thickness_mm, spacing_mm : float
        Of a slice, and between neighbours.
    sharp : bool or None
        Whether the kernel enhances edges; None if it is not known.
    normal_hu : float
        This patient's most frequent density of lung.
    noise_hu : float
        Standard deviation in soft tissue; 0 if it was not measured.
    spoilt : Reason or None
        The finding about the images that forbids to read densities.
    """

    years: float | None
    thickness_mm: float
    spacing_mm: float
    sharp: bool | None
    normal_hu: float
    noise_hu: float
    spoilt: Reason | None

    @classmethod
    def of(cls, stack: Stack, normal_hu: float, graded: Quality, p: dict[str, Any]) -> "Acquisition":
        """Read it from a stack and from the grade of its images; `p` is table ``density``."""
        header: Dataset = stack.instances[0].header
        noise = graded.measures.get("noise_hu")
        spoilt = next((f.reason for f in graded.findings if f.reason.code in p["spoilt_by"]), None)
        return cls(
            select.years(header), stack.thickness_mm or stack.spacing_mm, stack.spacing_mm,
            select.sharp_kernel(header), normal_hu, noise.value if noise else 0.0, spoilt,
        )  # fmt: skip


def measurements(
    lung: npt.NDArray[np.uint8],
    hu: npt.NDArray[np.float32],
    known: Mapping[tuple[str, str], Measurement],
    now: Circumstances,
    made: Acquisition,
    p: dict[str, Any],
) -> tuple[Measurement, ...]:
    """Return the numbers for both lungs and each, or why they cannot be given.

    Parameters
    ----------
    lung : ndarray of uint8
        1 right, 2 left, on (a box of) the source grid; `hu` has its shape.
    hu : ndarray of float32
        Density as measured.
    known : mapping
        Name and site to what `measure.measurements` gives: where the volume of a lung is not its own, no density is; where
        the share of opacities is not, that of aerated lung is not.
    now : Circumstances
        What limits the whole series.
    made : Acquisition
        How the images were made.
    p : dict
        The whole of ``parameters.toml``.
    """
    q = p["density"]
    strict, loose = _strict(made, now, p), _loose(made, now)
    low, high = q["aerated"]
    values = {name: hu[lung == side] for side, name in SIDE_NAMES.items()}
    out = []
    for site in ("lungs", *SIDE_NAMES.values()):
        here = np.concatenate(list(values.values())) if site == "lungs" else values[site]
        why = strict or _unless_ok(known["lung_volume", site])
        # opacities that were missed would count as neither: the share of aerated lung would be too large
        aerated = loose or _unless_ok(known["opacity_percent", site])
        out += [
            _one(
                "aerated_percent", site, "%", aerated, lambda v: 100.0 * float(((v >= low) & (v < high)).mean()), here
            ),
            _one("laa950_percent", site, "%", why, lambda v: 100.0 * float((v < q["emphysema"]).mean()), here),
            _one("perc15", site, "[hnsf'U]", why, lambda v: float(np.percentile(v, q["percentile"])), here),
        ]
    return tuple(out)


def _one(
    name: str, site: str, unit: str, why: Reason | None, of: Callable[[npt.NDArray[np.float32]], float],
    values: npt.NDArray[np.float32],
) -> Measurement:  # fmt: skip
    if why is not None:
        return Measurement(name, site, None, unit, "not_computable", why)
    return Measurement(name, site, of(values), unit)


def _unless_ok(m: Measurement) -> Reason | None:
    return None if m.status == "ok" else m.reason


def _loose(made: Acquisition, now: Circumstances) -> Reason | None:
    """Return why no image of this series tells how much lung is aerated, or None."""
    rows = [(now.contrast, "contrast-changes-density"), (made.sharp is True, "density-kernel-sharp")]
    return made.spoilt or _first(rows)


def _strict(made: Acquisition, now: Circumstances, p: dict[str, Any]) -> Reason | None:
    """Return why no image of this series tells emphysema, or None."""
    q = p["density"]
    rows = [
        (made.years is None, "density-age-unknown"),
        (made.years is not None and made.years < q["years_least"], "density-not-adult"),
        (now.contrast, "contrast-changes-density"),
        (max(made.thickness_mm, made.spacing_mm) > q["thickness_most"], "density-slices-thick"),
        (made.sharp is True, "density-kernel-sharp"),
        (made.sharp is None, "density-kernel-unknown"),
        (made.normal_hu > p["doubt"]["normal_most"], "density-breath-shallow"),
        (made.noise_hu > q["noise_most"], "density-noise"),
    ]
    return _first(rows) or made.spoilt


def _first(rows: list[tuple[bool, str]]) -> Reason | None:
    return next((REASONS(code) for holds, code in rows if holds), None)
