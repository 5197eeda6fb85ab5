"""The phantom's radiograph: the patient's right is on the left, shadows are where they must be, and the object is valid."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicom_io.radiograph import Spacing, load_radiograph
from dicom_io.read import read_instance
from phantom.radiograph import Exposure, Radiograph, dataset, expose, write

pytestmark = pytest.mark.unit

SMALL = Exposure(3, rows=112, columns=100, step_mm=4.0)


@pytest.fixture(scope="module")
def frontal() -> Radiograph:
    return expose(SMALL)


def _column(mask: np.ndarray) -> float:
    return float(np.argwhere(mask)[:, 1].mean())


def test_the_patients_right_is_on_the_left_and_the_heart_lies_to_the_left(frontal: Radiograph) -> None:
    assert _column(frontal.right) < frontal.array.shape[1] / 2 < _column(frontal.heart) < _column(frontal.left)
    for truth, mask in zip(frontal.objects, frontal.opacities, strict=True):
        assert mask.any()
        lung = frontal.right if truth.site.startswith("right") else frontal.left
        if truth.kind != "effusion":
            assert (mask & lung).sum() > 0.9 * mask.sum()


def test_lungs_are_dark_and_opacities_whiter_than_without(frontal: Radiograph) -> None:
    clear = expose(replace(SMALL, lesions="none"))
    assert frontal.array[frontal.heart].mean() > 1.3 * frontal.array[frontal.left & ~frontal.heart].mean()
    consolidations = [m for o, m in zip(frontal.objects, frontal.opacities, strict=True) if o.kind == "consolidation"]
    for mask in consolidations:
        assert frontal.array[mask].mean() > clear.array[mask].mean() + 40
    outside = ~frontal.body
    assert abs(frontal.array[outside].astype(float) - clear.array[outside]).mean() < 5


def test_the_heart_is_larger_where_the_beam_comes_from_the_front(frontal: Radiograph) -> None:
    assert expose(replace(SMALL, view="AP")).heart.sum() > 1.1 * frontal.heart.sum()


def test_black_and_white_are_the_same_however_they_are_stored(tmp_path: Path, frontal: Radiograph) -> None:
    shown = []
    for n, made in enumerate((frontal, expose(replace(SMALL, photometric="MONOCHROME1", modality="CR")))):
        write(made, tmp_path / str(n))
        shown.append(load_radiograph(read_instance(tmp_path / str(n) / "dicom" / "0001.dcm")))
    assert np.allclose(shown[0].shown, shown[1].shown, atol=0.01)
    assert shown[0].orientation == ("L", "F")
    assert shown[0].spacing == Spacing(4.0, 4.0, "detector")


def test_equal_parameters_give_equal_bytes_and_another_folder_is_refused(tmp_path: Path, frontal: Radiograph) -> None:
    folders = [write(frontal, tmp_path / "a"), write(expose(SMALL), tmp_path / "b")]
    first, second = ((f / "dicom" / "0001.dcm").read_bytes() for f in folders)
    assert first == second
    (tmp_path / "a" / "dicom" / "other.dcm").touch()
    with pytest.raises(ValueError, match=r"other\.dcm, which is no part"):
        write(frontal, tmp_path / "a")
    with pytest.raises(ValueError, match="10 to 16 bits"):
        expose(replace(SMALL, bits=8))


@pytest.mark.conformance
@pytest.mark.parametrize(
    "changes", [{}, {"modality": "CR"}, {"photometric": "MONOCHROME1", "calibrated": True, "bits": 16, "charset": "GB18030"}]
)  # fmt: skip
def test_dciodvfy_finds_no_error(tmp_path: Path, changes: dict[str, object]) -> None:
    path = tmp_path / "image.dcm"
    dataset(expose(replace(SMALL, **changes))).save_as(path, enforce_file_format=True)  # type: ignore[arg-type]
    judged = subprocess.run([str(shutil.which("dciodvfy")), str(path)], capture_output=True, text=True, check=False)
    assert "Error" not in judged.stderr, judged.stderr
    assert pydicom.dcmread(path).Modality == changes.get("modality", "DX")
