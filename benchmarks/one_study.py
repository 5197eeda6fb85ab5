"""The phantom that benchmarks of a single study ask for."""

import argparse
from pathlib import Path

import phantom


def asked_for(description: str | None) -> argparse.Namespace:
    """Return what the command line asks for: slices, matrix, seed, runs."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--matrix", type=int, default=512)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--runs", type=int, default=3)
    return parser.parse_args()


def written(asked: argparse.Namespace, folder: Path) -> list[Path]:
    """Write the phantom; return its slices in order."""
    phantom.write(phantom.build(asked.seed, slices=asked.slices, matrix=asked.matrix), folder)
    return sorted((folder / "dicom").glob("*.dcm"))
