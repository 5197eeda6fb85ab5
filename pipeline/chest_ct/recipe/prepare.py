"""Series as the networks take them, kept on disk: made once, mapped into memory, found again after an interruption.

The very code of the runtime of models lays the grid and resamples; the rules of `chest_ct` give the lungs that patches are drawn in,
and the opacities that the network is compared with.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dicom_io.errors import DicomIOError
from dicom_io.stack import build_stack
from dicom_io.volume import Volume, load_volume
from pipeline.chest_ct.pipeline import ChestCt, build
from pipeline.chest_ct.recipe.contract import classes_input, lesion_input
from pipeline.chest_ct.recipe.data import Case
from pipeline.errors import PipelineError
from pipeline.models.grid import Grid, of_volume
from pipeline.options import ChestCtOptions
from pipeline.result import Mask, Result

Int16 = npt.NDArray[np.int16]
Uint8 = npt.NDArray[np.uint8]
_CPU = torch.device("cpu")
_FACTS = "facts.json"


@dataclass(frozen=True, slots=True)
class Rules:
    """What the rules of `chest_ct` make of a series.

    Parameters
    ----------
    reason : str
        Code of the reason for which they gave nothing; empty if they did.
    opacity_cm3 : float
        All that they mark.
    dice : float or None
        Against the label; None without a label, or where the label is empty.
    """

    reason: str
    opacity_cm3: float = 0.0
    dice: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """One case on the networks' grids; arrays are mapped from disk, [z, y, x] to head, back and left.

    Parameters
    ----------
    case : Case
        Whose it is.
    image : ndarray of int16
        Hounsfield units at the lesion network's spacing.
    lesion, lung : ndarray of uint8, or None
        0 or 1 there; the lesion None if it is not known, the lung if the rules found none.
    whole : ndarray of int16
        As the classifier sees it.
    voxel_cm3 : float
        Volume of a voxel of the series.
    rules : Rules
        What stands for the rules.
    """

    case: Case
    image: Int16
    lesion: Uint8 | None
    lung: Uint8 | None
    whole: Int16
    voxel_cm3: float
    rules: Rules

    @property
    def lesion_cm3(self) -> float:
        """Volume of the label."""
        return 0.0 if self.case.lesion is None else self.case.lesion.voxels * self.voxel_cm3


def dice(one: Mask, other: Mask) -> float:
    """Return the overlap of two masks of one grid: 2 |a and b| / (|a| + |b|); 1 if both are empty."""
    total = one.voxels + other.voxels
    if not total:
        return 1.0
    if not one.voxels or not other.voxels:
        return 0.0
    field = np.zeros(one.shape, np.bool_)
    other.paint(field)
    return float(2 * np.count_nonzero(field[one.slices] & (one.box != 0)) / total)


def union(shape: tuple[int, int, int], masks: Iterable[Mask]) -> Mask:
    """Return all masks together."""
    out = np.zeros(shape, np.uint8)
    for mask in masks:
        mask.paint(out)
    return Mask.of(out)


def prepare(
    cases: Iterable[Case], settings: Mapping[str, Any], folder: Path, say: Callable[[str], None]
) -> list[Prepared]:
    """Return every case ready for training; what stands in `folder` already is not made again.

    Parameters
    ----------
    cases : Iterable[Case]
    settings : Mapping
        ``recipe.toml``.
    folder : Path
        Images of patients are written there.
    say : callable
        Takes a line of progress.
    """
    rules = build(ChestCtOptions())
    out = []
    several = list(cases)
    for n, case in enumerate(several, 1):
        place = folder / _key(case, settings, rules)
        if not (place / _FACTS).is_file():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            _make(case, settings, rules, place)
        out.append(_load(case, place))
        if n % 20 == 0 or n == len(several):
            say(f"prepared {n} of {len(several)} series")
    return out


def _key(case: Case, settings: Mapping[str, Any], rules: ChestCt) -> str:
    """Return a name that follows from all that the arrays follow from."""
    total = hashlib.sha256(case.pixels.encode())
    if case.lesion is not None:
        total.update(repr((case.lesion.shape, case.lesion.offset, case.lesion.box.shape)).encode())
        total.update(np.packbits(case.lesion.box != 0).tobytes())
    inputs = [asdict(lesion_input(settings)), asdict(classes_input(settings))]
    total.update(json.dumps([case.uid, inputs, rules.weights_digest, case.lesion is None], sort_keys=True).encode())
    return total.hexdigest()[:32]


def _make(case: Case, settings: Mapping[str, Any], rules: ChestCt, place: Path) -> None:
    volume = load_volume(build_stack(case.series.instances))
    fine, small = of_volume(volume, lesion_input(settings)), of_volume(volume, classes_input(settings))
    outside = settings["input"]["outside"]
    np.save(place / "image.npy", _hu(fine, volume, outside))
    np.save(place / "whole.npy", _hu(small, volume, outside))
    if case.lesion is not None:
        np.save(place / "lesion.npy", _share(fine, case.lesion))
    found, reason = _by_rules(case, rules)
    facts: dict[str, Any] = {"reason": reason, "opacity_cm3": 0.0, "dice": None}
    voxel = float(abs(np.linalg.det(volume.affine[:3, :3]))) / 1000
    if found is not None:
        shape = (volume.array.shape[0], volume.array.shape[1], volume.array.shape[2])
        lungs = next(region.mask for region in found.regions if region.site == "lungs")
        np.save(place / "lung.npy", _share(fine, lungs))
        told = {f.segment_number for f in found.findings}
        opaque = union(shape, (s.mask for s in found.segments if s.number in told))
        facts["opacity_cm3"] = opaque.voxels * voxel
        if case.lesion is not None and case.lesion.voxels:
            facts["dice"] = dice(opaque, case.lesion)
    facts["voxel_cm3"] = voxel
    (place / _FACTS).write_text(json.dumps(facts), encoding="utf-8")  # last: without it nothing here counts


def _by_rules(case: Case, rules: ChestCt) -> tuple[Result | None, str]:
    try:
        return rules.run(case.series).result, ""
    except (PipelineError, DicomIOError) as error:
        return None, error.reason.code


def _hu(grid: Grid, volume: Volume, outside: float) -> Int16:
    taken = grid.take(volume.array, outside, _CPU)
    out: Int16 = taken.round().clamp(-32768, 32767).to(torch.int16).numpy()
    return out


def _share(grid: Grid, mask: Mask) -> Uint8:
    """Return where the grid's samples lie in a mask by half or more."""
    whole = np.zeros(mask.shape, np.float32)
    mask.paint(whole)
    out: Uint8 = (grid.take(whole, 0.0, _CPU) >= 0.5).to(torch.uint8).numpy()
    return out


def _load(case: Case, place: Path) -> Prepared:
    facts = json.loads((place / _FACTS).read_text(encoding="utf-8"))

    def mapped(name: str) -> npt.NDArray[Any] | None:
        path = place / f"{name}.npy"
        return np.load(path, mmap_mode="r") if path.is_file() else None

    image, whole = mapped("image"), mapped("whole")
    assert image is not None  # noqa: S101 - written before the facts
    assert whole is not None  # noqa: S101 - as above
    rules = Rules(facts["reason"], facts["opacity_cm3"], facts["dice"])
    return Prepared(case, image, mapped("lesion"), mapped("lung"), whole, facts["voxel_cm3"], rules)
