"""Whether the pixels show a chest that can be measured."""

from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from dicom_io import elements
from pipeline.chest_ct.doubt import Cuts, cuts
from pipeline.chest_ct.lungs import LEFT, RIGHT, Lungs, NoLungs


def plausible(lungs: Lungs, shape: tuple[int, int, int], spacing: float, parameters: dict[str, Any]) -> Cuts:
    """Refuse what is no pair of adult lungs, or too little of it.

    Parameters
    ----------
    lungs : Lungs
        What was found.
    shape : tuple[int, int, int]
        Of the whole working grid.
    spacing : float
        Millimetres a voxel.
    parameters : dict
        The whole of ``parameters.toml``.

    Returns
    -------
    Cuts
        How much the edges of the images cut off, the worse of both lungs.

    Raises
    ------
    NoLungs
        With the code of the reason.
    """
    p, q = parameters["doubt"], parameters["lung"]
    each = [cuts(lungs, shape, s) for s in (RIGHT, LEFT)]
    worst = Cuts(max(c.top for c in each), max(c.bottom for c in each), max(c.side for c in each))
    levels = np.flatnonzero((lungs.label > 0).any(axis=(1, 2)))
    height = (levels[-1] - levels[0] + 1) * spacing
    if worst.top > p["cut_most"] and height < p["bases_height"]:
        raise NoLungs("lung-bases-only")
    if worst.bottom > p["cut_most"] and height < p["bases_height"]:
        raise NoLungs("lung-apices-only")
    if max(worst.top, worst.bottom, worst.side) > p["cut_most"]:
        raise NoLungs("lungs-cut")
    held = int((lungs.aerated > 0).sum()) * spacing**3 / 1000
    if not q["lungs_least"] <= held <= q["lungs_most"]:
        raise NoLungs("lungs-implausible", value=f"{held:.0f}")
    density = float(np.median(lungs.hu.cpu().numpy()[lungs.aerated > 0]))
    if density < p["density_least"]:
        raise NoLungs("lungs-not-tissue", value=f"{density:.0f}")
    return worst


def contrast(lungs: Lungs, header: Dataset, parameters: dict[str, Any]) -> bool:
    """Whether contrast medium was given: the header says so, or what stands between the lungs is as dense as that."""
    named = elements.text(header, "ContrastBolusAgent").upper()
    if named and named not in parameters["contrast"]["none"]:
        return True
    right, left = (np.argwhere(lungs.label == s) for s in (RIGHT, LEFT))
    low, high = int(right[:, 2].mean()), int(left[:, 2].mean())
    front, back = (int(v) for v in np.percentile(np.concatenate([right[:, 1], left[:, 1]]), (20, 80)))
    bottom, top = (int(v) for v in np.percentile(np.concatenate([right[:, 0], left[:, 0]]), (35, 75)))
    box = (slice(bottom, top), slice(front, back), slice(low, high))
    values = lungs.hu.cpu().numpy()[box][lungs.label[box] == 0]
    soft = values[(values > 0) & (values < 400)]
    return bool(soft.size > 1000 and float(np.median(soft)) > parameters["doubt"]["contrast_hu"])
