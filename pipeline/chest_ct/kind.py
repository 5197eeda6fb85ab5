"""What an opacity may be called by its form and density: opacity, mass, effusion, or undetermined.

A word about the picture, not about the patient: a round solid solitary opacity is called a mass whether it grows or
heals. Every row is an engineering default (tag E of the card); what fits none is undetermined.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import isnan
from typing import Any

from pipeline.chest_ct.traits import Kind, Traits

DEPENDENT = "dependent-band"
"""Evidence: bands at the dependent pleura of both sides, as healthy people have when they lie."""


def judge(all_of: Sequence[Traits], p: dict[str, Any]) -> tuple[Traits, ...]:
    """Return the same opacities with `kind` and its evidence.

    Parameters
    ----------
    all_of : sequence of Traits
        Every opacity of the series: whether one is alone decides too.
    p : dict
        Table ``kind``.
    """
    out = []
    for one in all_of:
        kind, evidence = _kind(one, all_of, p)
        out.append(replace(one, kind=kind, evidence=evidence))
    return tuple(out)


def _band(one: Traits, p: dict[str, Any]) -> bool:
    """Whether it is a thin layer along the dependent pleura."""
    return bool(
        one.dependent >= p["band_dependent"]
        and one.contact_cm2 >= p["band_contact"]
        and 10 * one.volume_cm3 <= p["band"] * one.contact_cm2
    )


def _kind(one: Traits, all_of: Sequence[Traits], p: dict[str, Any]) -> tuple[Kind, tuple[str, ...]]:
    """Return what the first row that holds says."""
    solid, inner = one.ground_glass <= p["solid_glass"], not isnan(one.inner_hu)
    low, high = p["water"]
    water = inner and low <= one.inner_hu <= high and one.inner_spread <= p["water_spread"]
    alone = sum(o.volume_cm3 for o in all_of if o is not one) <= p["alone"] * one.volume_cm3
    uneven = inner and one.inner_spread >= p["uneven"]
    compact = one.roundness >= p["round"] and one.filled >= p["filled"]
    bands = {o.side for o in all_of if _band(o, p)}
    rows: list[tuple[bool, Kind, tuple[str, ...]]] = [
        (one.side in bands and len(bands) == 2 and _band(one, p), "undetermined", (DEPENDENT,)),
        (
            solid and water and one.contact_cm2 >= p["water_contact"],
            "effusion",
            ("water-density", "even-density", "wide-contact"),
        ),
        (one.ground_glass >= p["glass"], "opacity", ("ground-glass",)),
        # a single lump with air in it may be a tumour that grew around lung, or decays
        (uneven and alone, "undetermined", ("uneven-density", "single")),
        (uneven, "opacity", ("uneven-density", "several")),
        (one.filled < p["branched"], "opacity", ("irregular",)),
        (not compact, "undetermined", ("dense", "not-round")),
        (not solid, "undetermined", ("round", "partly-ground-glass")),
        (not alone, "undetermined", ("round", "dense", "several")),
        (one.extent_mm < p["mass"], "undetermined", ("round", "dense", "small")),
    ]
    return next(((name, evidence) for holds, name, evidence in rows if holds), ("mass", ("round", "dense", "single")))
