"""What can be told without looking at the lungs: baselines that see only the border, only the grey values, or only the site.

Where one of them does nearly as well as the network, what the network learned may be the scanner or the table, and not the disease.

References
----------
DeGrave AJ, Janizek JD, Lee SI. Nat Mach Intell 2021;3:610 (U). Maguolo G, Nanni L. Inf Fusion 2021;76:1 (U).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from dicom_io import elements
from pipeline.chest_ct.recipe.prepare import Prepared

Floats = npt.NDArray[np.float64]
_WORDS = (
    "Manufacturer",
    "ManufacturerModelName",
    "ConvolutionKernel",
    "InstitutionName",
    "StationName",
    "PatientPosition",
)
_NUMBERS = ("KVP", "SliceThickness", "Rows", "XRayTubeCurrent", "ReconstructionDiameter")


def border(one: Prepared, p: Mapping[str, Any]) -> Floats:
    """Return mean, spread and share of air of the shell at each of the six sides of what the classifier sees."""
    image = np.asarray(one.whole, np.float64)
    out: list[float] = []
    for axis in range(3):
        depth = max(1, round(p["shell"] * image.shape[axis]))
        for side in (slice(0, depth), slice(-depth, None)):
            part = image[(slice(None),) * axis + (side,)]
            out += [float(part.mean()), float(part.std()), float((part < -900).mean())]
    return np.array(out)


def histogram(one: Prepared, p: Mapping[str, Any]) -> Floats:
    """Return the shares of grey values of what the classifier sees, wherever they stand."""
    counts = np.histogram(np.clip(one.whole, p["low"], p["high"]), bins=p["bins"], range=(p["low"], p["high"]))[0]
    out: Floats = counts / max(1, counts.sum())
    return out


def site_words(one: Prepared) -> set[str]:
    """Return what the headers and the table say of the place and the device, as words."""
    header = one.case.series.header
    said = {f"{k}={elements.text(header, k)}" for k in _WORDS}
    return said | {f"site={one.case.site}"}


def site_numbers(one: Prepared) -> Floats:
    """Return numbers of the protocol: tube, thickness, matrix, field of view, slices."""
    found = [elements.number(one.case.series.header, k) for k in _NUMBERS]
    return np.array([*(0.0 if v is None else v for v in found), float(len(one.case.series.instances))])


def baselines(
    learn: Sequence[Prepared],
    kinds: npt.NDArray[np.int64],
    judged: Sequence[Prepared],
    count: int,
    p: Mapping[str, Any],
) -> dict[str, Floats]:
    """Return what each baseline, learned from one side, says of the other: name to probabilities (series, classes).

    Parameters
    ----------
    learn : Sequence[Prepared]
        Series with a class.
    kinds : ndarray
        Their classes.
    judged : Sequence[Prepared]
        Series of other patients.
    count : int
        Number of classes.
    p : Mapping
        ``[shortcuts]``.
    """
    vocabulary = sorted({w for one in learn for w in site_words(one)})

    def site(one: Prepared) -> Floats:
        words = site_words(one)
        return np.concatenate([site_numbers(one), np.array([float(w in words) for w in vocabulary])])

    see = {"border": lambda o: border(o, p), "histogram": lambda o: histogram(o, p), "site": site}
    return {
        name: regression(
            np.stack([feature(o) for o in learn]), kinds, np.stack([feature(o) for o in judged]), count, p["decay"]
        )
        for name, feature in see.items()
    }


def regression(learn: Floats, kinds: npt.NDArray[np.int64], judged: Floats, count: int, decay: float) -> Floats:
    """Return the probabilities of a logistic regression with all classes weighted alike, shape (judged, classes)."""
    mean, spread = learn.mean(axis=0), learn.std(axis=0)
    spread[spread < 1e-9] = 1.0
    x, y = (torch.from_numpy((v - mean) / spread) for v in (learn, judged))
    target = torch.from_numpy(kinds)
    share = torch.bincount(target, minlength=count).clamp(min=1).double()
    weight = len(kinds) / (count * share)
    matrix = torch.zeros((x.shape[1], count), dtype=torch.float64, requires_grad=True)
    offset = torch.zeros(count, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([matrix, offset], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        solver.zero_grad()
        every = functional.cross_entropy(x @ matrix + offset, target, weight=weight, reduction="sum")
        value = every + decay / 2 * (matrix**2).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        out: Floats = torch.softmax(y @ matrix + offset, dim=1).numpy()
    return out


def density_dice(learn: Sequence[Prepared], judged: Sequence[Prepared]) -> dict[str, float]:
    """Return the Dice of every judged series, by its UID, of one threshold of density in the lungs.

    The threshold is the one that is best on the side that is learned from: what a network must beat to have seen more than
    grey values. Series without a lesion, or without lungs that the rules find, are left out.

    Parameters
    ----------
    learn, judged : Sequence[Prepared]
    """
    limits = np.linspace(-800.0, 0.0, 17)
    usable = [o for o in learn if _usable(o)]
    if not usable:
        return {}
    means = [np.mean([_by_density(o, limit) for o in usable]) for limit in limits]
    best = float(limits[int(np.argmax(means))])
    return {o.case.uid: _by_density(o, best) for o in judged if _usable(o)}


def _usable(one: Prepared) -> bool:
    return one.lung is not None and one.lesion is not None and bool(np.any(one.lesion))


def _by_density(one: Prepared, limit: float) -> float:
    assert one.lung is not None  # noqa: S101 - by the caller
    assert one.lesion is not None  # noqa: S101 - by the caller
    found = (np.asarray(one.image) >= limit) & (np.asarray(one.lung) != 0)
    truth = np.asarray(one.lesion) != 0
    return float(2 * (found & truth).sum() / max(1, found.sum() + truth.sum()))
