"""Phantom studies for the chest CT pipeline; each is analysed once for all tests."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import phantom
from dicom_io.model import Study, group
from dicom_io.read import read_instance
from phantom import Phantom
from pipeline.api import Analysis
from pipeline.options import ChestCtOptions
from pipeline.registry import load


def read_study(folder: Path) -> Study:
    (study,) = group([read_instance(p) for p in sorted(folder.rglob("*")) if p.suffix == ".dcm"])
    return study


@pytest.fixture(scope="session")
def read() -> Callable[[Path], Study]:
    return read_study


@dataclass(frozen=True, eq=False)
class Case:
    """A phantom and what the pipeline says of it."""

    phantom: Phantom
    analysis: Analysis
    lungs: npt.NDArray[np.uint8]
    opacities: npt.NDArray[np.uint16]


@pytest.fixture(scope="session")
def analyse() -> Callable[[Study], Analysis]:
    """Select and run; the pipeline is loaded once."""
    pipeline = load("chest_ct", ChestCtOptions(), "cpu")

    def work(study: Study) -> Analysis:
        selection = pipeline.select(study)
        assert selection.chosen is not None, selection.reason
        return pipeline.run(selection.chosen)

    return work


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory, analyse: Callable[[Study], Analysis]) -> Callable[..., Case]:
    """Build, write, read and analyse a phantom; equal parameters are worked on once."""
    kept: dict[str, Case] = {}

    def make(seed: int, **parameters: Any) -> Case:
        key = repr((seed, sorted(parameters.items())))
        if key not in kept:
            built = phantom.build(seed, **{"matrix": 160, "thickness_mm": 2.5, **parameters})
            folder = tmp_path_factory.mktemp("phantom")
            phantom.write(built, folder)
            analysis = analyse(read_study(folder / "dicom"))
            lungs = np.zeros(built.lung.shape, np.uint8)
            opacities = np.zeros(built.lung.shape, np.uint16)
            for value, site in ((1, "right_lung"), (2, "left_lung")):
                analysis.result.region(site).mask.paint(lungs, value)
            for value, segment in enumerate(analysis.result.segments[2:], 1):
                segment.mask.paint(opacities, value)
            kept[key] = Case(built, analysis, lungs, opacities)
        return kept[key]

    return make
