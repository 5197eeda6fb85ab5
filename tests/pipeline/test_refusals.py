"""What is no chest, or too little of one, is refused with a reason that a radiologist would agree with."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import phantom
from phantom import Phantom, datasets
from phantom.dicom import save
from pipeline.errors import NotAnalysed
from pipeline.options import ChestCtOptions
from pipeline.registry import load

pytestmark = pytest.mark.unit

OFFSET = 1024


@pytest.fixture(scope="module")
def chest() -> Phantom:
    return phantom.build(6, lesions="none", matrix=128, thickness_mm=4.0)


@pytest.fixture
def refusal(tmp_path: Path, chest: Phantom, read: Callable) -> Callable[..., str]:
    """Run the pipeline on changed pixels of the phantom and return the code of its refusal."""
    pipeline = load("chest_ct", ChestCtOptions(), "cpu")

    def work(change: Callable[[np.ndarray], np.ndarray], slices: Sequence[int] | None = None) -> str:
        array = change(chest.array.astype(np.float32))
        for z, ds in enumerate(datasets(chest)):
            if slices is None or z in slices:
                ds.PixelData = np.clip(array[z] - float(ds.RescaleIntercept), 0, 4095).astype("<u2").tobytes()
                save(ds, tmp_path / f"{z}.dcm")
        study = read(tmp_path)
        with pytest.raises(NotAnalysed) as error:
            pipeline.run(study.series[0])
        return error.value.reason.code

    return work


def test_body_without_lungs(chest: Phantom, refusal: Callable) -> None:
    assert refusal(lambda a: np.where(chest.lung > 0, 40, a)) == "no-lungs"


def test_one_lung(chest: Phantom, refusal: Callable) -> None:
    assert refusal(lambda a: np.where(chest.lung == 2, 40, a)) == "one-lung"


def test_lungs_of_plain_air(chest: Phantom, refusal: Callable) -> None:
    assert refusal(lambda a: np.where(chest.lung > 0, -995, a)) == "lungs-not-tissue"


def test_only_bases(chest: Phantom, refusal: Callable) -> None:
    height = np.flatnonzero(chest.lung.any(axis=(1, 2)))
    assert refusal(lambda a: a, range(height[0] + 22)) == "lung-bases-only"


def test_upper_half(chest: Phantom, refusal: Callable) -> None:
    height = np.flatnonzero(chest.lung.any(axis=(1, 2)))
    assert refusal(lambda a: a, range(height[0] + 20, len(chest.array))) == "lungs-cut"


@pytest.mark.long
def test_one_sided_crop(refusal: Callable) -> None:
    def crop(array: np.ndarray) -> np.ndarray:
        array[:, :, : array.shape[2] // 2 - 4] = 40
        return array

    assert refusal(crop) == "one-lung"


@pytest.mark.long
def test_small_cavities(chest: Phantom, refusal: Callable) -> None:
    """Two gas-filled cavities of a head's size are no lungs."""

    def cavities(array: np.ndarray) -> np.ndarray:
        array = np.where(chest.lung > 0, 40, array)
        z, y, x = np.indices(array.shape)
        middle = array.shape[0] // 2
        for column in (45, 83):
            array[(z - middle) ** 2 * 1.9 + (y - 64) ** 2 + (x - column) ** 2 < 7**2] = -900
        return array

    assert refusal(cavities) == "no-lungs"
