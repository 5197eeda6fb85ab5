"""The same patient gives the same share of opacity: at two kernels, in thicker slices, in other orders, planes and orientations.

The form with a phantom is in `test_masks`, which has the analysis to compare with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset

from dicom_io.model import Study
from dicom_io.stack import build_stack
from dicom_io.volume import Volume, load_volume
from pipeline.api import Analysis
from pipeline.chest_ct import checks
from pipeline.chest_ct.doubt import Cuts
from pipeline.chest_ct.lungs import LEFT, RIGHT
from pipeline.chest_ct.pipeline import ChestCt
from pipeline.options import ChestCtOptions
from tests.more import more
from tests.pipeline import recut

pytestmark = pytest.mark.data

POINTS, RELATIVE = 3.0, 0.20
SIDES = ("lungs", "right_lung", "left_lung")
PATIENT, SHARP, SOFT = "ct/Lung_Dx-A0001", "s2_lung_kernel_L", "s3_soft_kernel_B"

HOW: dict[str, tuple[tuple[int, int, int], tuple[bool, bool, bool]]] = {
    "as it was": ((0, 1, 2), (False, False, False)),
    "from head to feet": ((0, 1, 2), (True, False, False)),
    "rows and columns from the other end": ((0, 1, 2), (False, True, True)),
    "mirrored storage": ((0, 1, 2), (False, False, True)),
    "coronal": ((1, 0, 2), (False, True, False)),
    "sagittal": ((2, 0, 1), (True, True, False)),
}
"""Order of the old axes [z, y, x], and which of the new ones run the other way."""


def shares(analysis: Analysis) -> dict[str, float]:
    return {m.site: m.value or 0.0 for m in analysis.result.measurements if m.name == "opacity_percent"}


def opaque(analysis: Analysis) -> list[tuple[str, float]]:
    return [(f.site, f.measurements[0].value or 0.0) for f in analysis.result.findings]


def alike(one: dict[str, float], other: dict[str, float]) -> None:
    for site in SIDES:
        difference = abs(one[site] - other[site])
        assert difference <= POINTS, site
        assert difference <= RELATIVE * max(one[site], other[site]), site


@dataclass(frozen=True, eq=False)
class Patient:
    """One real chest: headers, voxels, and what the pipeline says of the series as it came."""

    header: Dataset
    volume: Volume
    analysis: Analysis

    def written(self, folder: Path, change: Callable[..., tuple[np.ndarray, np.ndarray]], *how: Any) -> Path:
        """Write the voxels, changed; the files are in no order."""
        array = np.asarray(self.volume.array)
        if self.volume.padding is not None:
            array = np.where(self.volume.padding, recut.PADDING, array)
        made, affine = change(array, self.volume.affine, *how)
        order = np.random.default_rng(2).permutation(len(made))
        return recut.series(folder, self.header, made, affine, order=order)


@pytest.fixture(scope="module")
def patient(real_data: Path, analyse: Callable[..., Analysis], read: Callable[..., Study]) -> Patient:
    study = read(real_data / PATIENT / SHARP)
    return Patient(study.header, load_volume(build_stack(study.instances)), analyse(study))


@pytest.mark.parametrize("how", ["mirrored storage", *(more(h) for h in HOW if h != "mirrored storage")])
def test_a_patient_stored_in_another_way_has_the_same_share(
    patient: Patient, analyse: Callable[..., Analysis], read: Callable[..., Study], tmp_path: Path, how: str
) -> None:
    other = analyse(read(patient.written(tmp_path, recut.turned, *HOW[how])))
    assert patient.analysis.result.findings
    alike(shares(patient.analysis), shares(other))
    assert [site for site, _ in opaque(other)] == [site for site, _ in opaque(patient.analysis)]
    assert [v for _, v in opaque(other)] == pytest.approx([v for _, v in opaque(patient.analysis)], rel=0.01)


@pytest.mark.parametrize("spacing_mm", [6.9, more(6.0)])
def test_a_patient_in_thicker_slices_has_the_same_share(
    patient: Patient, analyse: Callable[..., Analysis], read: Callable[..., Study], tmp_path: Path, spacing_mm: float
) -> None:
    alike(shares(patient.analysis), shares(analyse(read(patient.written(tmp_path, recut.thicker, spacing_mm)))))


def test_two_kernels_of_one_scan_give_the_same_share_of_their_common_slab(
    real_data: Path, read: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The soft series has 18 slices, which is refused: the work on masks is asked for without that question."""
    soft = build_stack(read(real_data / PATIENT / SOFT).instances)
    there = soft.origins_mm[:, 2]
    whole = read(real_data / PATIENT / SHARP).instances
    sharp = build_stack([i for i in whole if np.abs(there - float(i.header.ImagePositionPatient[2])).min() < 0.1])
    assert len(sharp.instances) == len(soft.instances)
    monkeypatch.setattr(checks, "plausible", lambda *_: Cuts(0.0, 0.0, 0.0))
    code = ChestCt(ChestCtOptions(), torch.device("cpu"))
    found = []
    for stack in (sharp, soft):
        with torch.inference_mode():
            parts = code._work(stack, load_volume(stack), lambda *_: None)
        lungs = {"lungs": parts.lung > 0, "right_lung": parts.lung == RIGHT, "left_lung": parts.lung == LEFT}
        found.append({site: 100 * float((parts.opacity[mask] > 0).mean()) for site, mask in lungs.items()})
    assert found[0]["left_lung"] > 2, "the tumour"
    alike(*found)
