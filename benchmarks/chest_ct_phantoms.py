"""The chest CT pipeline against phantoms with known truth, one Markdown row each; ends with 1 if a requirement is not met.

    python -m benchmarks.chest_ct_phantoms --seeds 101-110 [--lesions standard clear none] [--thickness 2.5]
        [--matrix 256] [--plane axial] [--feet-first]

Required: lungs Dice 0.95 on their own side; opacities of 10 cm3 or more off the lung's border within 10 % and Dice 0.85;
a lobar consolidation kept by 80 % or all shares withheld; no false claim (a volume of status `ok` more than 10 % off, a
lower bound more than 10 % above the truth); shares given where no opacity touches the border; nothing marked where nothing was planted.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

import phantom
from dicom_io.model import group
from dicom_io.read import read_instance
from phantom.anatomy import TABLE
from phantom.compare import Comparison, compare
from pipeline.api import Pipeline
from pipeline.errors import PipelineError
from pipeline.options import ChestCtOptions
from pipeline.registry import load
from pipeline.result import Result

COLUMNS = (
    "seed", "lesions", "mm", "Dice right, left", "opacities required", "largest error", "least Dice", "lobar kept",
    "shares of the lungs", "false claims", "marked beside, cm³", "met",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="101-110", help="one, or first-last")
    parser.add_argument("--lesions", nargs="+", default=["standard", "clear"], choices=("standard", "clear", "none"))
    parser.add_argument("--thickness", type=float, default=2.5)
    parser.add_argument("--matrix", type=int, default=256)
    parser.add_argument("--plane", default="axial", choices=("axial", "coronal", "sagittal", "oblique"))
    parser.add_argument("--feet-first", action="store_true")
    asked = parser.parse_args()
    first, _, last = asked.seeds.partition("-")
    pipeline, met = load("chest_ct", ChestCtOptions(), "cpu"), True
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    for seed in range(int(first), int(last or first) + 1):
        for lesions in asked.lesions:
            built = phantom.build(
                seed, lesions=lesions, thickness_mm=asked.thickness, matrix=asked.matrix, plane=asked.plane,
                feet_first=asked.feet_first,
            )  # fmt: skip
            row, ok = judged(built, pipeline, lesions)
            met &= ok
            cells = (str(seed), lesions, f"{asked.thickness:g}", *row, "yes" if ok else "**no**")
            print(f"| {' | '.join(cells)} |", flush=True)
    sys.exit(0 if met else 1)


def judged(built: phantom.Phantom, pipeline: Pipeline, lesions: str) -> tuple[tuple[str, ...], bool]:
    """Return the figures of one phantom and whether all that is required of it holds."""
    with tempfile.TemporaryDirectory() as name:
        phantom.write(built, Path(name))
        (study,) = group([read_instance(p) for p in sorted((Path(name) / "dicom").glob("*.dcm"))])
        chosen = pipeline.select(study).chosen
        try:
            assert chosen is not None, "no series chosen"
            result = pipeline.run(chosen).result
        except PipelineError as error:
            return (error.reason.code, *[""] * (len(COLUMNS) - 5)), False
        lungs = np.zeros(built.lung.shape, np.uint8)
        for value, site in ((1, "right_lung"), (2, "left_lung")):
            result.region(site).mask.paint(lungs, value)
        masks = []
        for segment in result.segments[2:]:
            masks.append((segment.tracking_id, np.zeros(built.lung.shape, bool)))
            segment.mask.paint(masks[-1][1], 1)
        share = next(m for m in result.measurements if (m.name, m.site) == ("opacity_percent", "lungs"))
        seen = compare(Path(name), lungs, masks, withheld=share.status == "not_computable")
    required = [o for o in seen.objects if o.required]
    lobar = [o for o in seen.objects if o.lobar]
    wrong = _wrong(result, seen)
    ok = seen.ok and not wrong and (lesions == "standard" or share.status != "not_computable")
    ok = ok and (lesions != "none" or not result.findings)
    return (
        ", ".join(f"{r.dice:.3f}" for r in seen.lungs),
        str(len(required)),
        f"{max((o.error for o in required), key=abs, default=0):+.1%}" if required else "",
        f"{min(o.dice for o in required):.2f}" if required else "",
        f"{lobar[0].kept:.0%}" if lobar else "",
        "not given" if share.value is None else f"{'at least ' * (share.status != 'ok')}{share.value:.1f} %",
        ", ".join(wrong),
        f"{seen.extra_cm3:.1f}",
    ), ok


def _wrong(result: Result, seen: Comparison) -> list[str]:
    """Name the opacities of 10 cm3 or more whose volume claims what is not so.

    One opacity may stand for several planted objects that touch.
    """
    limits, out = TABLE["compare"], []
    for finding in result.findings:
        volume = next(m for m in finding.measurements if m.name == "volume")
        mine = [o for o in seen.objects if finding.tracking_id in o.found_as and o.kind != "effusion"]
        truth = sum(o.truth_cm3 for o in mine)
        if volume.value is None or truth < limits["least_cm3"]:
            continue
        error = volume.value / truth - 1
        if (error if volume.status == "lower_bound" else abs(error)) > limits["volume_error"]:
            out.append(f"{finding.tracking_id}: {volume.status} {volume.value:.1f} of {truth:.1f}")
    return out


if __name__ == "__main__":
    main()
