"""Compare what an analysis found with what was planted."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects, label

from phantom.anatomy import TABLE

LIMITS: dict[str, float] = TABLE["compare"]
SIDES = ((1, "right_lung"), (2, "left_lung"))
Box = tuple[slice, ...]
Lesions = NDArray[np.integer[Any]] | Sequence[tuple[str, NDArray[np.bool_]]]


@dataclass(frozen=True, slots=True)
class LungRow:
    """One lung: volumes in cm3, overlap, and the share of what was called this lung that is the other one."""

    site: str
    truth_cm3: float
    found_cm3: float
    dice: float
    other_side: float

    @property
    def ok(self) -> bool:
        """Whether the lung is outlined well enough and on its own side."""
        return self.dice >= LIMITS["lung_dice"] and self.other_side <= LIMITS["other_side"]


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """One planted object beside what was found of it.

    Parameters
    ----------
    number : int
        Its label in ``truth.npz``.
    kind, site : str
        As in ``truth.json``.
    truth_cm3, found_cm3 : float
        Planted volume, and the volume of every found part that belongs to it, overhang included.
    error : float
        (found - truth) / truth.
    dice : float
        Overlap of both, so that a volume cannot be right in the wrong place.
    kept : float
        Share of the object inside the lung masks or a lesion mask.
    found_as : tuple of str
        Tracking identifiers of what was found.
    required : bool
        An opacity of at least 10 cm3 that does not touch the lung's border and lies wholly in the images.
    lobar : bool
        A lobar consolidation, which must be kept unless percentages are withheld.
    ok : bool
        Whether the requirement, if any, is met.
    """

    number: int
    kind: str
    site: str
    truth_cm3: float
    found_cm3: float
    error: float
    dice: float
    kept: float
    found_as: tuple[str, ...]
    required: bool
    lobar: bool
    ok: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """The verdict and what it rests on; `extra_cm3` is the volume of found lesions that touch nothing planted."""

    lungs: tuple[LungRow, ...]
    objects: tuple[ObjectRow, ...]
    extra_cm3: float
    withheld: bool

    @property
    def ok(self) -> bool:
        """Whether everything that must be found was found."""
        return all(row.ok for row in self.lungs) and all(row.ok for row in self.objects)

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as plain JSON values."""
        lungs = [{**asdict(row), "ok": row.ok} for row in self.lungs]
        objects = [{**asdict(row), "found_as": list(row.found_as)} for row in self.objects]
        return {
            "ok": self.ok,
            "lungs": lungs,
            "objects": objects,
            "extra_cm3": self.extra_cm3,
            "withheld": self.withheld,
        }

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Return table rows: object, planted cm3, found cm3, how well, verdict ('' where nothing is required)."""
        table = [
            (
                row.site,
                f"{row.truth_cm3:.0f}",
                f"{row.found_cm3:.0f}",
                f"Dice {row.dice:.3f}",
                "ok" if row.ok else "WRONG",
            )
            for row in self.lungs
        ]
        for row in self.objects:
            how = f"{row.error:+.1%}, Dice {row.dice:.2f}" if row.found_as else "not found"
            if row.lobar:
                how = f"kept {row.kept:.0%}" + (", percentages withheld" if self.withheld else "")
            verdict = ("ok" if row.ok else "WRONG") if row.required or row.lobar else ""
            name = f"{row.number} {row.kind}, {row.site}"
            table.append((name, f"{row.truth_cm3:.1f}", f"{row.found_cm3:.1f}", how, verdict))
        return table


def compare(truth: Path, lungs: NDArray[np.uint8], lesions: Lesions, *, withheld: bool = False) -> Comparison:
    """Compare masks with the truth of a phantom.

    Parameters
    ----------
    truth : Path
        Folder with ``truth.npz`` and ``truth.json``.
    lungs : ndarray, [z, y, x] uint8
        1 right, 2 left, on the phantom's grid, opacities included.
    lesions : int label array [z, y, x], or sequence of (tracking identifier, bool array [z, y, x])
        What was found; masks of a sequence may overlap.
    withheld : bool
        Whether the analysis withheld its percentages.

    Returns
    -------
    Comparison
        Judged lesion by lesion: an error in one never makes up for an error in another. A found part that reaches over
        several planted objects is divided among them, each voxel going to the nearest.

    Raises
    ------
    ValueError
        If a mask does not have the shape of the truth.
    """
    with np.load(truth / "truth.npz") as stored:
        lung, planted, affine = stored["lung"], stored["lesion"], stored["affine"]
    document = json.loads((truth / "truth.json").read_text(encoding="utf-8"))
    found = _as_masks(lesions)
    for name, mask in (("lungs", lungs), *found):
        if mask.shape != lung.shape:
            raise ValueError(f"{name}: mask of shape {mask.shape}, truth of {lung.shape}")
    voxel_cm3 = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    parts, names, extra = _assign(planted, found, affine)
    anywhere = lungs > 0
    for _, mask in found:
        anywhere = anywhere | mask
    size = len(document["objects"]) + 1
    there = planted[planted > 0]
    counts, mine, both, kept = (
        np.bincount(labels, minlength=size)
        for labels in (there, parts[parts > 0], there[parts[planted > 0] == there], there[anywhere[planted > 0]])
    )
    rows = []
    for number, item in enumerate(document["objects"], 1):
        volume, seen = float(item["volume_cm3"]), float(mine[number] * voxel_cm3)
        dice = 2 * float(both[number]) / max(int(mine[number] + counts[number]), 1)
        share = float(kept[number] / max(int(counts[number]), 1))
        whole = bool(counts[number] * voxel_cm3 > LIMITS["whole"] * volume)
        opacity = item["kind"] in ("ground_glass", "consolidation")
        required = opacity and whole and volume >= LIMITS["least_cm3"] and not item["touches_chest_wall"]
        error = seen / volume - 1
        ok = not required or (abs(error) <= LIMITS["volume_error"] and dice >= LIMITS["lesion_dice"])
        if item["lobar"] and whole:
            ok = ok and (withheld or share >= LIMITS["lobar_kept"])
        rows.append(
            ObjectRow(
                number, item["kind"], item["site"], volume, round(seen, 3), round(error, 4), round(dice, 4), round(share, 4),
                tuple(sorted(names[number])) if number in names else (), required, bool(item["lobar"]), ok,
            )
        )  # fmt: skip
    sides = tuple(_lung_row(lung, lungs, number, site, voxel_cm3) for number, site in SIDES)
    return Comparison(sides, tuple(rows), round(extra * voxel_cm3, 3), withheld)


def _as_masks(lesions: Lesions) -> list[tuple[str, NDArray[np.bool_]]]:
    if isinstance(lesions, np.ndarray):
        return [(str(n), lesions == n) for n in np.unique(lesions) if n > 0]
    return [(name, np.asarray(mask, bool)) for name, mask in lesions]


def _lung_row(truth: NDArray[np.uint8], found: NDArray[np.uint8], number: int, site: str, voxel_cm3: float) -> LungRow:
    mine, there = found == number, truth == number
    size, wanted = int(mine.sum()), int(there.sum())
    dice = 2 * int((mine & there).sum()) / max(size + wanted, 1)
    other = int((mine & (truth == 3 - number)).sum()) / max(size, 1)
    return LungRow(site, round(wanted * voxel_cm3, 2), round(size * voxel_cm3, 2), round(dice, 4), round(other, 5))


def _assign(
    planted: NDArray[np.uint8], found: list[tuple[str, NDArray[np.bool_]]], affine: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], dict[int, set[str]], int]:
    """Give every found voxel the number of the planted object that it belongs to; 0 where none does."""
    spacing = np.linalg.norm(affine[:3, [2, 1, 0]], axis=0)
    out = np.zeros(planted.shape, np.uint8)
    names: dict[int, set[str]] = {}
    claimed = np.zeros(planted.shape, bool)
    places = find_objects(planted)
    for name, mask in found:
        claimed |= mask
        window = _bounds(mask)
        pieces, _ = label(mask[window])
        for n, place in enumerate(find_objects(pieces), 1):
            piece = pieces[place] == n
            box = tuple(slice(p.start + w.start, p.stop + w.start) for p, w in zip(place, window, strict=True))
            touched = [int(k) for k in np.unique(planted[box][piece]) if k]
            for k in touched:
                names.setdefault(k, set()).add(name)
            if len(touched) == 1:
                out[box][piece] = touched[0]
            elif touched:
                out[box][piece] = _nearest(
                    planted, touched, _hull([box, *(places[k - 1] for k in touched)]), box, spacing
                )[piece]
    return out, names, int((claimed & (out == 0)).sum())


def _nearest(
    planted: NDArray[np.uint8], touched: list[int], around: Box, box: Box, spacing: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Return, for every voxel of `box`, which of the objects `touched` (all within `around`) is nearest."""
    objects = np.where(np.isin(planted[around], touched), planted[around], 0)
    index = distance_transform_edt(objects == 0, spacing, return_distances=False, return_indices=True)
    inner = tuple(slice(b.start - a.start, b.stop - a.start) for a, b in zip(around, box, strict=True))
    return np.asarray(objects[tuple(index)][inner], np.uint8)


def _bounds(mask: NDArray[np.bool_]) -> Box:
    """Return the box that holds a mask; one voxel at the origin if there is none."""
    out = []
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(k for k in range(3) if k != axis)))
        out.append(slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 1))
    return tuple(out)


def _hull(boxes: Sequence[Box]) -> Box:
    axes = zip(*boxes, strict=True)
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in axes)
