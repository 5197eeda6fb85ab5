"""The truth is true: images, labels and numbers agree with each other in every plane."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion, distance_transform_edt, find_objects

import phantom
from phantom import Phantom
from phantom.anatomy import HU, TABLE, Anatomy, lung_points
from phantom.build import _scene
from phantom.planting import plant
from phantom.render import expose
from phantom.trees import vessels

pytestmark = pytest.mark.unit


def _voxel_cm3(built: Phantom) -> float:
    return abs(np.linalg.det(built.affine[:3, :3])) / 1000


def _healthy_hu(y_mm: float) -> float:
    return HU["lung_front"] + (HU["lung_back"] - HU["lung_front"]) * np.clip((y_mm + 85) / 170, 0, 1)


@pytest.mark.parametrize("seed", [2])
def test_half_way_threshold_finds_each_volume_without_vessels_and_noise(seed: int) -> None:
    built = phantom.build(seed, lesions="clear", thickness_mm=2.5, matrix=256, noise_hu=0)
    scene, _ = _scene(seed, "clear")
    none = replace(
        scene.vessels,
        start=scene.vessels.start[:0],
        end=scene.vessels.end[:0],
        r0=scene.vessels.r0[:0],
        r1=scene.vessels.r1[:0],
    )
    bare = replace(scene, vessels=none)
    z = np.nonzero(built.lesion)[0]
    low, high = z.min() - 2, z.max() + 3
    image = np.concatenate(
        [
            expose(bare, built.grid, a, min(a + 8, high), 2.5, 0.0, [[0]] * (min(a + 8, high) - a))[0]
            for a in range(low, high, 8)
        ]
    )
    planted = built.lesion[low:high]
    places = find_objects(planted)
    for number, item in enumerate(built.objects, 1):
        if item.volume_cm3 < 10:
            continue
        near = tuple(slice(max(s.start - 4, 0), s.stop + 4) for s in places[number - 1])
        around = binary_dilation(planted[near] == number, iterations=3)
        limit = (item.hu + _healthy_hu(item.centroid_mm[1])) / 2
        found = (around & (image[near] > limit)).sum() * _voxel_cm3(built)
        assert found == pytest.approx(item.volume_cm3, rel=0.03), item


def test_labels_have_the_analytic_volumes_and_centroids(standard: Phantom) -> None:
    for number, item in enumerate(standard.objects, 1):
        inside = standard.lesion == number
        if item.volume_cm3 < 10:
            continue
        assert inside.sum() * _voxel_cm3(standard) == pytest.approx(item.volume_cm3, rel=0.04)
        z, y, x = (axis.mean() for axis in np.nonzero(inside))
        np.testing.assert_allclose((standard.affine @ [x, y, z, 1])[:3], item.centroid_mm, atol=1.5)


def test_standard_has_what_it_promises(standard: Phantom) -> None:
    kinds = [item.kind for item in standard.objects]
    assert [kinds.count(k) for k in ("ground_glass", "consolidation", "nodule", "effusion")] == [4, 2, 3, 1]
    (lobar,) = [item for item in standard.objects if item.lobar]
    assert lobar.volume_cm3 > 100
    assert lobar.touches_chest_wall
    assert sum(item.touches_chest_wall for item in standard.objects if item.kind == "ground_glass") == 1
    assert all(6 <= item.diameter_mm <= 14 for item in standard.objects if item.kind == "nodule")


def test_lung_holds_opacities_and_nodules_but_not_the_effusion(standard: Phantom) -> None:
    for number, item in enumerate(standard.objects, 1):
        labels = np.unique(standard.lung[standard.lesion == number])
        assert labels.tolist() == ([0] if item.kind == "effusion" else [1 if item.site.startswith("right") else 2])


def test_clear_lesions_stay_off_the_border_and_standard_ones_off_each_other(clear: Phantom, standard: Phantom) -> None:
    spacing = clear.grid.steps_mm
    depth = distance_transform_edt(clear.lung > 0, spacing)
    assert not any(item.touches_chest_wall for item in clear.objects)
    for number, item in enumerate(clear.objects, 1):
        if item.kind != "nodule":
            assert depth[clear.lesion == number].min() >= 9
    for number in range(1, len(standard.objects)):
        others = (standard.lesion > 0) & (standard.lesion != number) & (standard.lesion != len(standard.objects))
        if (standard.lesion == number).any():
            assert distance_transform_edt(~others, standard.grid.steps_mm)[standard.lesion == number].min() >= 13


def test_none_is_clean() -> None:
    built = phantom.build(4, lesions="none", slices=20, matrix=64)
    assert built.objects == ()
    assert not built.lesion.any()


def test_densities(standard: Phantom) -> None:
    array, lung = standard.array, standard.lung > 0
    assert np.median(array[:, :6, :6]) == pytest.approx(-1000, abs=3)
    healthy = lung & (standard.lesion == 0)
    y = (standard.affine[1, 1] * np.arange(array.shape[1]) + standard.affine[1, 3])[None, :, None] + np.zeros(
        array.shape
    )
    front, back = np.median(array[healthy & (y < -50)]), np.median(array[healthy & (y > 50)])
    assert -880 < front < back - 20 < -800
    for number, item in enumerate(standard.objects, 1):
        if item.volume_cm3 > 10:
            core = binary_erosion(standard.lesion == number, np.ones((1, 3, 3)), iterations=2)
            assert np.median(array[core]) == pytest.approx(item.hu, abs=20)
    liver = (np.array([-70.0, -10.0, -118.0]) - standard.affine[:3, 3]) / np.diag(standard.affine)[:3]
    x0, y0, z0 = liver.round().astype(int)
    patch = array[z0 - 1 : z0 + 2, y0 - 5 : y0 + 6, x0 - 5 : x0 + 6]
    assert patch.mean() == pytest.approx(HU["liver"], abs=4)
    assert patch.std() == pytest.approx(20, rel=0.15)


@pytest.mark.parametrize("seed", range(40, 46))
def test_any_seed_gives_lungs_of_human_size_and_room_for_lesions(seed: int) -> None:
    anatomy = Anatomy.draw(np.random.default_rng([seed, 1]))
    right, left = (len(lung_points(anatomy, side)) * 0.064 for side in (-1, 1))
    assert 4000 < right + left < 6000
    assert left < right
    tubes = vessels(anatomy, np.random.default_rng([seed, 3]))
    wide = tubes.points(TABLE["lesions"]["vessel_radius"])
    for choice, count in (("standard", 9), ("clear", 9)):
        assert len(plant(np.random.default_rng([seed, 2]), anatomy, wide, choice)[1]) == count


def test_slabs_join_without_a_seam(standard: Phantom) -> None:
    scene, _ = _scene(1, "standard")
    whole = expose(scene, standard.grid, 20, 24, 5.0, 20.0, [[1, 4, z] for z in range(20, 24)])
    part = expose(scene, standard.grid, 22, 23, 5.0, 20.0, [[1, 4, 22]])
    assert np.abs(whole[0][2].astype(int) - part[0][0]).max() <= 1
    assert (whole[1][2] == part[1][0]).all()
    assert np.abs(whole[0].astype(int) - standard.array[20:24]).max() <= 1


def test_lungs_are_covered_with_a_margin(standard: Phantom) -> None:
    assert not standard.lung[:2].any()
    assert not standard.lung[-2:].any()
    assert not standard.lung[:, :, [0, -1]].any()
    assert not standard.lung[:, [0, -1]].any()


@pytest.mark.parametrize(
    "how",
    [
        {"plane": "coronal"},
        {"plane": "sagittal"},
        {"plane": "oblique"},
        {"feet_first": True},
        {"tilt_deg": 14.0},
        {"matrix": (90, 112)},
    ],
)
def test_every_acquisition_shows_the_same_patient(standard: Phantom, how: dict[str, Any]) -> None:
    other = phantom.build(1, **{"thickness_mm": 6.0, "matrix": 112, **how})
    normal = np.cross(other.affine[:3, 0], other.affine[:3, 1])
    assert other.affine[:3, 2] @ normal > 0
    assert [item.centroid_mm for item in other.objects] == [item.centroid_mm for item in standard.objects]
    total = [(b.lung > 0).sum() * _voxel_cm3(b) for b in (standard, other)]
    assert total[1] == pytest.approx(total[0], rel=0.015)
    x, y, z = np.meshgrid(*(np.arange(0, n, 3) for n in other.array.shape[::-1]), indexing="ij")
    index = np.stack([x.ravel(), y.ravel(), z.ravel(), np.ones(x.size)])
    there = np.linalg.inv(standard.affine) @ other.affine @ index
    x1, y1, z1 = np.rint(there[:3]).astype(int)
    seen = np.all([(v >= 0) & (v < n) for v, n in zip((z1, y1, x1), standard.array.shape, strict=True)], axis=0)
    mine = other.lung[index[2].astype(int), index[1].astype(int), index[0].astype(int)][seen]
    same = standard.lung[z1[seen], y1[seen], x1[seen]]
    both = (mine > 0) & (same > 0)
    assert (mine[both] == same[both]).all()
    assert 2 * both.sum() / ((mine > 0).sum() + (same > 0).sum()) > 0.94
    inside = other.array[index[2].astype(int), index[1].astype(int), index[0].astype(int)][seen]
    shown = standard.array[z1[seen], y1[seen], x1[seen]]
    assert np.corrcoef(inside, shown)[0, 1] > 0.93


def test_equal_parameters_give_equal_images_and_labels_and_other_seeds_do_not(standard: Phantom) -> None:
    again = phantom.build(1, thickness_mm=5.0, matrix=160)
    assert (again.array == standard.array).all()
    assert (again.lesion == standard.lesion).all()
    small = [phantom.build(seed, slices=8, matrix=32) for seed in (1, 2)]
    assert (small[0].array != small[1].array).any()


@pytest.mark.parametrize(
    "wrong", [{"matrix": 8}, {"slices": 0}, {"thickness_mm": -1.0}, {"plane": "tilted"}, {"lesions": "many"}]
)
def test_parameters_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"phantom needs|plane|lesions"):
        phantom.build(1, **wrong)
