"""Radiographs and masks of the recipe, scaled onto a common canvas; who is on which side of the split."""

import csv
import hashlib
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import center_of_mass, label

Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Side = Literal["train", "check", "figures"]

BASE = 288
"""Side of the canvas that sources stand on, in pixels; the longer side of an image takes `LONG` of them."""
LONG = 224


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One radiograph as others are made from it.

    Parameters
    ----------
    name, source, patient : str
        File, where it comes from, whose it is.
    side : {"train", "check", "figures"}
        Of the split.
    shown : ndarray, [row, column] uint8
        As displayed, in the size of the file.
    lungs : ndarray, [2, row, column] bool, or None
        The lung on the left and on the right of the image, the part behind the heart included.
    """

    name: str
    source: str
    patient: str
    side: Side
    shown: Bytes
    lungs: Bools | None


def settings() -> dict[str, Any]:
    """Return the content of ``recipe.toml``."""
    return tomllib.loads((files(__package__) / "recipe.toml").read_text(encoding="utf-8"))


def side(source: str, patient: str, split: dict[str, Any]) -> Side:
    """Return the side of the split on which a patient is."""
    byte = hashlib.sha256(f"{source}/{patient}".encode()).digest()[0]
    if source not in split["sources"] or byte >= split["tuned_below"]:
        return "figures"
    return "check" if byte < split["checked_below"] else "train"


def radiographs(table: Path, folder: Path, split: dict[str, Any]) -> list[Source]:
    """Read every radiograph of a table whose paths begin at `folder`; a mask of one colour is parted into its two lungs.

    Columns used: ``file``, ``source``, ``patient_id``, ``lung_mask`` (may be empty).
    """
    out = []
    with table.open(encoding="utf-8", newline="") as rows:
        for row in csv.DictReader(rows):
            shown = np.asarray(Image.open(folder / row["file"]).convert("L"))
            lungs = None
            if row["lung_mask"]:
                lungs = parted(np.asarray(Image.open(folder / row["lung_mask"]).convert("L")) > 0)
            where = side(row["source"], row["patient_id"], split)
            out.append(Source(row["file"], row["source"], row["patient_id"], where, shown, lungs))
    return out


def parted(mask: Bools) -> Bools | None:
    """Return the lungs on the left and right of the image, [2, row, column], from a mask of both; None unless there are two."""
    parts, count = label(mask)
    if count < 2:
        return None
    sizes = np.bincount(parts.ravel())[1:]
    two = np.argsort(sizes)[::-1][:2] + 1
    if sizes[two[1] - 1] < 0.15 * sizes[two[0] - 1]:
        return None
    first, second = sorted(two, key=lambda n: float(center_of_mass(parts == n)[1]))
    return np.stack([parts == first, parts == second])


def onto_base(picture: Bytes | Bools) -> tuple[Bytes, tuple[int, int, int, int]]:
    """Scale a picture or mask to the middle of a canvas of `BASE` pixels; return it and top, left, height, width there."""
    rows, columns = picture.shape
    scale = LONG / max(rows, columns)
    height, width = max(round(rows * scale), 1), max(round(columns * scale), 1)
    whole = Image.fromarray(picture if picture.dtype == np.uint8 else picture.astype(np.uint8) * 255)
    small = np.asarray(whole.resize((width, height), Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR))
    out = np.zeros((BASE, BASE), np.uint8)
    top, left = (BASE - height) // 2, (BASE - width) // 2
    out[top : top + height, left : left + width] = small
    return out, (top, left, height, width)
