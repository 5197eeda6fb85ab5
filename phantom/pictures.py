"""Radiographs of many chests as plain pictures with masks and a table, the way collections of radiographs come.

``python -m phantom.pictures OUT --count 24 --first-seed 9000`` writes ``OUT/<seed>.png``, ``OUT/<seed>_lungs.png`` and ``OUT/labels.csv``.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from phantom.radiograph import Exposure, expose

COLUMNS = ("file", "source", "patient_id", "view", "lung_mask", "licence")


def write(out: Path, *, count: int, first_seed: int, size: int = 224) -> Path:
    """Expose chests in turn from behind and from the front, and write what a reader would see.

    Parameters
    ----------
    out : Path
        Folder; made if it is not there.
    count, first_seed : int
        The seeds are `first_seed` and those after it.
    size : int
        Rows and columns of the pictures.

    Returns
    -------
    Path
        The table, one row per picture; its paths begin at `out`.
    """
    out.mkdir(parents=True, exist_ok=True)
    table = out / "labels.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, COLUMNS)
        rows.writeheader()
        for n in range(count):
            seed, view = first_seed + n, "AP" if n % 2 else "PA"
            made = expose(Exposure(seed=seed, view="AP" if n % 2 else "PA", rows=size, columns=size, step_mm=4.0))
            grey = made.array / max(int(made.array.max()), 1)
            Image.fromarray((grey * 255).astype(np.uint8)).save(out / f"{seed}.png")
            Image.fromarray((made.right | made.left).astype(np.uint8) * 255).save(out / f"{seed}_lungs.png")
            rows.writerow(
                dict(
                    zip(
                        COLUMNS, (f"{seed}.png", "phantom", seed, view, f"{seed}_lungs.png", "none needed"), strict=True
                    )
                )
            )
    return table


def main(arguments: list[str]) -> int:
    """Write pictures as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m phantom.pictures", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--first-seed", type=int, default=9000)
    given = parser.parse_args(arguments)
    sys.stdout.write(f"{write(given.out, count=given.count, first_seed=given.first_seed)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
