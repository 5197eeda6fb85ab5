"""Opacities of known size, density, contact and shape under known noise, thickness and kernel: what chest_ct makes of them.

    python -m benchmarks.chest_ct_grid --out DIR [--scans 56] [--plot FILE.png]

The grid is in chest_ct_grid.toml, the chests are seeds that nothing was tuned on. A scan has one lesion in each lung, a row is one lung: the
volume of the lesion against the volume of opacity that the result gives for that lung, with its status. A row more than 20 % off is a failure;
it is *flagged* if the volume or share is not `ok`, if the images have an alarm or the result a note that not every result has, *declared* if
the lesion is smaller than what every result says is not looked for, else *silent*. Rows are kept in DIR and used again while the code is the
same. Prints silent failures first, then one table by factor; ends with 1 if there are any, or if more than 10 % of the good rows carry a flag.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import phantom
import pipeline
from benchmarks.chest_ct_grid_table import Row, failed, specific, table
from dicom_io.model import group
from dicom_io.read import read_instance
from phantom import Phantom, Placed
from phantom.anatomy import Side
from phantom.render import Kernel
from pipeline.api import Pipeline
from pipeline.errors import PipelineError
from pipeline.options import ChestCtOptions
from pipeline.registry import load
from pipeline.result import Result

DESIGN: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
SITES: dict[Side, tuple[str, int]] = {-1: ("right_lung", 1), 1: ("left_lung", 2)}


@dataclass(frozen=True, slots=True)
class Scan:
    """One chest: the acquisition and its two lesions, the right one first."""

    seed: int
    noise_hu: float
    thickness_mm: float
    kernel: Kernel
    lesions: tuple[Placed, Placed]

    def build(self) -> Phantom:
        """Return the phantom."""
        return phantom.build(
            self.seed, lesions=self.lesions, thickness_mm=self.thickness_mm, noise_hu=self.noise_hu, kernel=self.kernel,
            matrix=DESIGN["matrix"],
        )  # fmt: skip


def design() -> list[Scan]:
    """Return all scans of the grid."""
    rng, factors, scan = np.random.default_rng(DESIGN["seed"]), DESIGN["lesion"], DESIGN["scan"]
    index = list(product(*(range(len(factors[name])) for name in ("diameter_mm", "hu", "contact"))))
    halves = []
    for half in range(2):
        shapes = [factors["shape"][(i + j + k + 2 * half) % 4] for i, j, k in index]
        cells = [
            (float(factors["diameter_mm"][i]), float(factors["hu"][j]), bool(factors["contact"][k]), shape)
            for (i, j, k), shape in zip(index, shapes, strict=True)
        ]
        halves.append([cells[n] for n in rng.permutation(len(cells))])
    acquisitions = list(product(scan["noise_hu"], scan["thickness_mm"], scan["kernel"]))
    order = [acquisitions[n] for _ in range(4) for n in rng.permutation(len(acquisitions))]
    out = []
    for n, (one, other) in enumerate(zip(*halves, strict=True)):
        # the left lung has no room for the largest off its borders
        right, left = (one, other) if (n % 2 == 0 or _largest(one)) and not _largest(other) else (other, one)
        lesions = tuple(Placed(d, hu, side, c, s) for side, (d, hu, c, s) in ((-1, right), (1, left)))
        noise, thickness, kernel = order[n]
        out.append(Scan(DESIGN["first"] + n, noise, thickness, kernel, (lesions[0], lesions[1])))
    return out


def _largest(cell: tuple[float, float, bool, str]) -> bool:
    return cell[0] == max(DESIGN["lesion"]["diameter_mm"]) and not cell[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder where rows are kept")
    parser.add_argument("--scans", type=int, default=0, help="the first so many scans; default all")
    parser.add_argument("--plot", type=Path, help="draw the rows into this PNG")
    asked = parser.parse_args()
    scans = design()[: asked.scans or None]
    rows = specific(list(kept(asked.out, scans)))
    print(table(rows, DESIGN["judged"]))
    if asked.plot:
        from benchmarks.chest_ct_grid_plot import draw

        draw(rows, DESIGN["judged"], asked.plot)
    sys.exit(1 if failed(rows, DESIGN["judged"]) else 0)


def kept(folder: Path, scans: list[Scan]) -> Iterator[Row]:
    """Yield the rows of `scans`, from `folder` where they were made by the same code, else made now and kept there."""
    folder.mkdir(parents=True, exist_ok=True)
    path, code = folder / f"rows-{digest()}.jsonl", load("chest_ct", ChestCtOptions(), "cpu")
    known: dict[str, list[Row]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        document = json.loads(line)
        known[document["scan"]] = [Row(**row) for row in document["rows"]]
    for n, scan in enumerate(scans, 1):
        name = repr(scan)
        if name not in known:
            begin = time.process_time()
            known[name] = measured(scan, code)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"scan": name, "rows": [asdict(row) for row in known[name]]}) + "\n")
            print(f"{n} of {len(scans)}: {time.process_time() - begin:.1f} s", file=sys.stderr, flush=True)
        yield from known[name]


def digest() -> str:
    """Return what all code and data behind the rows amount to."""
    roots = [Path(package.__file__ or "").parent for package in (phantom, pipeline)]
    files = [f for root in roots for f in sorted(root.rglob("*")) if f.suffix in {".py", ".toml", ".safetensors"}]
    total = hashlib.sha256()
    for path in [*files, Path(__file__), Path(__file__).with_suffix(".toml")]:
        total.update(path.read_bytes())
    return total.hexdigest()[:16]


def measured(scan: Scan, code: Pipeline) -> list[Row]:
    """Build, write, read and analyse one scan; return a row for each lung."""
    built = scan.build()
    with tempfile.TemporaryDirectory() as name:
        phantom.write(built, Path(name))
        (study,) = group([read_instance(p) for p in sorted((Path(name) / "dicom").glob("*.dcm"))])
        chosen = code.select(study).chosen
        assert chosen is not None, "no series chosen"
        try:
            result = code.run(chosen).result
        except PipelineError as error:
            return [_row(scan, built, n, None, [error.reason.code]) for n in (1, 2)]
    return [_row(scan, built, n, result, []) for n in (1, 2)]


def _row(scan: Scan, built: Phantom, number: int, result: Result | None, refused: list[str]) -> Row:
    asked, truth = scan.lesions[number - 1], built.objects[number - 1]
    there, (site, _) = built.lesion == number, SITES[asked.side]
    values: dict[str, Any] = {
        "seed": scan.seed, "side": site, "diameter_mm": asked.diameter_mm, "hu": asked.hu, "contact": asked.contact, "shape": asked.shape,
        "noise_hu": scan.noise_hu, "thickness_mm": scan.thickness_mm, "kernel": scan.kernel, "truth_cm3": truth.volume_cm3,
    }  # fmt: skip
    if result is None:
        return Row(**values, found_cm3=None, dice=0.0, kept=0.0, statuses=refused, images=[], notes=[])
    by = {(m.name, m.site): m for m in result.measurements}
    shown = [by["opacity_volume", site], by["opacity_percent", site]]
    mine, lung = np.zeros(there.shape, bool), np.zeros(there.shape, bool)
    result.region(site).mask.paint(lung, 1)
    for finding in result.findings:
        mask = result.segments[finding.segment_number - 1].mask
        marked = np.zeros(there.shape, bool)
        mask.paint(marked, 1)
        if finding.site == site or (marked & there).any():
            mine |= marked
            shown.append(next(m for m in finding.measurements if m.name == "volume"))
    dice = 2 * np.count_nonzero(mine & there) / max(np.count_nonzero(mine) + np.count_nonzero(there), 1)
    covered = np.count_nonzero((lung | mine) & there) / max(np.count_nonzero(there), 1)
    statuses = {f"{m.name} {m.status}: {m.reason.code if m.reason else ''}" for m in shown if m.status != "ok"}
    grades = DESIGN["judged"]["grades"]
    return Row(
        **values, found_cm3=shown[0].value, dice=round(dice, 4), kept=round(covered, 4), statuses=sorted(statuses),
        images=sorted(f.reason.code for f in result.quality.findings if f.grade in grades),
        notes=sorted(note.code for note in result.notes),
    )  # fmt: skip


if __name__ == "__main__":
    main()
