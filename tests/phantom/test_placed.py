"""Lesions asked for one by one have the size, density, contact and shape that was asked for; the sharp kernel is sharp."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import phantom
from phantom import Phantom, Placed
from phantom.anatomy import Anatomy
from phantom.build import _scene
from phantom.dicom import datasets, uid
from phantom.grid import Grid
from phantom.lesions import measure
from phantom.placed import place
from phantom.render import Kernel, expose, point_spread

pytestmark = pytest.mark.unit

KERNELS: tuple[Kernel, ...] = ("soft", "sharp")
OLDER = (
    142.745,
    17.668,
    21.38,
    18.731,
    16.602,
    13.946,
    0.12,
    0.357,
    1.011,
    77.163,
)  # cm3 of seed 1 since its first day
ASKED = (Placed(20.0, 40.0, -1), Placed(32.0, -450.0, 1, contact=True, shape="flat"), Placed(8.0, -620.0, 1))


@pytest.fixture(scope="module")
def placed() -> Phantom:
    return phantom.build(31, lesions=ASKED, thickness_mm=4.0, matrix=160, noise_hu=15.0)


@pytest.fixture(scope="module")
def chest() -> Anatomy:
    return Anatomy.draw(np.random.default_rng([32, 1]))


@pytest.mark.parametrize("shape", ["round", "ragged", "long", "flat"])
@pytest.mark.parametrize(("diameter", "contact"), [(5.0, True), (50.0, True), (80.0, False)])
def test_size_contact_and_shape_are_those_asked_for(chest: Anatomy, diameter: float, contact: bool, shape: Any) -> None:
    (lesion,) = place(np.random.default_rng([32, 2]), chest, (Placed(diameter, 30.0, -1, contact, shape),))
    (truth,) = measure(chest, (lesion,))
    assert truth.diameter_mm == pytest.approx(diameter, rel=0.02)
    assert (truth.touches_chest_wall, truth.site, truth.kind) == (contact, "right_lung", "consolidation")
    longest, shortest = lesion.radii.max(), lesion.radii.min()
    assert longest / shortest == pytest.approx({"round": 1, "ragged": 1.1 / 0.9, "long": 2, "flat": 2}[shape])


def test_images_show_them_where_and_as_dense_as_truth_says(placed: Phantom) -> None:
    assert [(o.site, o.kind, o.touches_chest_wall) for o in placed.objects] == [
        ("right_lung", "consolidation", False), ("left_lung", "ground_glass", True), ("left_lung", "ground_glass", False),
    ]  # fmt: skip
    voxel = abs(np.linalg.det(placed.affine[:3, :3])) / 1000
    for number, (asked, truth) in enumerate(zip(ASKED, placed.objects, strict=True), 1):
        inside = placed.lesion == number
        assert inside.sum() * voxel == pytest.approx(
            asked.volume_mm3 / 1000, rel=0.06 if asked.diameter_mm > 10 else 0.3
        )
        z, y, x = (axis.mean() for axis in np.nonzero(inside))
        np.testing.assert_allclose((placed.affine @ [x, y, z, 1])[:3], truth.centroid_mm, atol=1.5)
        assert set(np.unique(placed.lung[inside])) == {1 if asked.side < 0 else 2}
    assert np.median(placed.array[placed.lesion == 1]) > -60
    assert np.median(placed.array[placed.lesion == 2]) == pytest.approx(-450, abs=25)


def test_no_room_and_impossible_lesions_are_refused(chest: Anatomy) -> None:
    with pytest.raises(ValueError, match="no room"):
        place(np.random.default_rng([32, 2]), chest, (Placed(80.0, 0.0, 1, shape="long"), Placed(80.0, 0.0, 1)))
    for wrong in ({"diameter_mm": 200.0}, {"hu": 2000.0}, {"shape": "square"}, {"side": 0}):
        with pytest.raises(ValueError, match="lesion"):
            Placed(**{"diameter_mm": 20.0, "hu": 0.0, "side": 1, **wrong})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kernel"):
        phantom.build(31, kernel="bone", slices=1, matrix=16)  # type: ignore[arg-type]


def test_a_sharp_kernel_overshoots_at_edges_and_keeps_the_noise(standard: Phantom) -> None:
    edge = np.repeat([-850.0, 50.0], 40)
    shown = {name: np.convolve(edge, point_spread(name, 0.7), mode="valid") for name in KERNELS}
    assert shown["soft"].max() <= 50.1
    assert shown["sharp"].max() > 70
    rise = {name: np.diff(values).max() for name, values in shown.items()}
    assert rise["sharp"] > 1.5 * rise["soft"]
    affine = np.diag([0.7, 0.7, 3.0, 1.0])
    affine[:3, 3] = [5.0, -50.0, -40.0]  # nothing but heart
    scene, _ = _scene(1, "standard")
    heart = {
        k: expose(scene, Grid(affine, (1, 48, 48)), 0, 1, 3.0, 20.0, [[1]], k)[0][0].astype(float) for k in KERNELS
    }
    for image in heart.values():
        assert image.std() == pytest.approx(20, rel=0.15)
    grain = {name: np.diff(image, axis=1).std() for name, image in heart.items()}
    assert grain["sharp"] > 1.3 * grain["soft"], "finer grain: neighbours differ more"
    sharp = replace(standard, parameters=replace(standard.parameters, kernel="sharp"))
    assert next(datasets(sharp)).ConvolutionKernel == "LUNG"


def test_uids_and_scenes_of_older_phantoms_stay_what_they_were(standard: Phantom) -> None:
    old = standard.parameters
    assert uid(old, "study") == "2.25.141956009444828262027566975157138315549"
    assert "kernel" not in standard.truth_document()["parameters"]
    others = {uid(one, "study") for one in (old, replace(old, kernel="sharp"), replace(old, lesions=ASKED))}
    assert len(others) == 3
    assert [o.volume_cm3 for o in standard.objects] == pytest.approx(list(OLDER), rel=1e-3)
