"""What an opacity is said to be like, on shapes whose truth is known."""

from dataclasses import replace
from math import pi
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.chest_ct import kind, traits
from pipeline.chest_ct.parameters import parameters
from pipeline.chest_ct.traits import Traits

pytestmark = pytest.mark.unit

P = parameters()["traits"]
SPACING = 1.5
SHAPE = (120, 90, 170)
MM = [np.arange(n) * SPACING for n in SHAPE]
Z, Y, X = np.meshgrid(*MM, indexing="ij", sparse=True)
MIDDLE = 85 * SPACING


def ball(z: float, y: float, x: float, radii: tuple[float, float, float]) -> np.ndarray:
    return ((Z - z) / radii[0]) ** 2 + ((Y - y) / radii[1]) ** 2 + ((X - x) / radii[2]) ** 2 < 1


@pytest.fixture(scope="module")
def chest() -> np.ndarray:
    """Two half cylinders beside a mediastinum 30 mm wide: flat diaphragm at 12 mm, ribs 66 mm from the inner edge."""
    label = np.zeros(SHAPE, np.uint8)
    inside = (Z >= 12) & (Z < 160) & (np.abs(Y - 67) < 55)
    label[inside & (X > MIDDLE - 81) & (X < MIDDLE - 15)] = 1
    label[inside & (X > MIDDLE + 15) & (X < MIDDLE + 81)] = 2
    return label


@pytest.fixture(scope="module")
def found(chest: np.ndarray) -> traits.Zones:
    return traits.zones(chest, SPACING, P)


NONE = np.zeros(SHAPE, bool)


def form(mask: np.ndarray, inside: np.ndarray = NONE, costal: np.ndarray = NONE, hu: np.ndarray | None = None) -> Any:
    field = torch.zeros(SHAPE) if hu is None else torch.from_numpy(hu.astype(np.float32))
    return traits.forms(mask.astype(np.uint16), field, inside, costal, SPACING, P)[1]


@pytest.mark.parametrize("radii", [(20, 20, 20), (30, 18, 18), (12, 12, 12), (25, 25, 8)])
def test_area_extent_and_roundness_are_those_of_the_shape(radii: tuple[float, float, float]) -> None:
    a, b, c = radii
    mask = ball(90, 67, MIDDLE, radii)
    one = form(mask)
    area = 4 * pi * (((a * b) ** 1.6075 + (a * c) ** 1.6075 + (b * c) ** 1.6075) / 3) ** (1 / 1.6075)  # Thomsen, 1 %
    seen = float(traits.surface_mm2(mask, P["blur"], SPACING).sum())
    assert seen == pytest.approx(area, rel=0.04)
    assert one.extent_mm == pytest.approx(2 * max(radii), abs=SPACING)
    assert one.roundness == pytest.approx(pi ** (1 / 3) * (8 * pi * a * b * c) ** (2 / 3) / area, rel=0.04)
    assert one.filled > 0.9


def test_a_bent_shape_is_not_filled() -> None:
    hook = ball(90, 67, MIDDLE, (40, 9, 9)) | ball(55, 67, MIDDLE + 25, (9, 9, 40))
    one = form(hook)
    assert one.filled < 0.6
    assert one.roundness < 0.7


def test_the_peel_is_20_mm_deep_and_has_no_mediastinal_side(chest: np.ndarray, found: traits.Zones) -> None:
    row = found.peel[60, 45]
    right = chest[60, 45] == 1
    at = MM[2][right & row]
    assert at.max() - (MIDDLE - 81) == pytest.approx(20, abs=2)
    assert not row[right & (MM[2] > MIDDLE - 40)].any()
    assert found.peel[9:15, 45, 60].all(), "the diaphragm"
    assert not found.peel[45, 45, 72], "beside the mediastinum"
    assert not (found.peel & (chest == 0)).any()


def test_in_a_shallow_lung_the_peel_is_a_third(chest: np.ndarray) -> None:
    thin = chest.copy()
    thin[:, :, : int((MIDDLE - 45) / SPACING)] = 0
    peel = traits.zones(thin, SPACING, P).peel[60, 45] & (thin[60, 45] == 1)
    assert peel.sum() * SPACING == pytest.approx(10, abs=2.5)


def test_the_dependent_layer_follows_gravity(chest: np.ndarray) -> None:
    at = np.flatnonzero(chest[60, :, 45])
    for down, rows in ((1, at[-20:]), (-1, at[:20]), (0, at[:0])):
        layer = traits.zones(chest, SPACING, P, down).dependent[60, :, 45]
        assert np.array_equal(np.flatnonzero(layer), rows), "30 mm"


def test_contact_is_the_area_at_the_costal_pleura(chest: np.ndarray, found: traits.Zones) -> None:
    radius, cut = 24.0, 12.0
    at_wall = ball(90, 67, MIDDLE + 81 - cut, (radius,) * 3) & (chest == 2)
    patch = pi * (radius**2 - cut**2)
    rim = 2 * pi * radius * P["contact"]  # of the ball's side, within reach of the pleura
    assert patch <= 100 * form(at_wall, chest > 0, found.costal).contact_cm2 <= 1.1 * (patch + rim)
    assert form(ball(90, 67, MIDDLE + 45, (24, 24, 24)), chest > 0, found.costal).contact_cm2 == 0
    hilar = ball(90, 67, MIDDLE + 27, (20, 20, 20)) & (chest == 2)
    assert form(hilar, chest > 0, found.costal).contact_cm2 == 0, "the mediastinum is no costal pleura"


def test_density_inside_leaves_out_the_blurred_border() -> None:
    mask = ball(90, 67, MIDDLE, (20, 20, 20))
    deep = ball(90, 67, MIDDLE, (17, 17, 17))
    one = form(mask, hu=np.where(deep, 40.0, -500.0))
    assert one.inner_hu == 40
    assert one.inner_spread == 0
    small = form(ball(90, 67, MIDDLE, (4, 4, 4)))
    assert np.isnan(small.inner_hu)


def test_shares_count_source_voxels() -> None:
    numbered = np.zeros((6, 4, 4), np.uint16)
    numbered[1:5, 1:3, 1:3] = 1
    numbered[0, 0, 3] = 2
    third = np.repeat(np.array([2, 2, 1, 1, 0, 0], np.uint8), 16).reshape(6, 4, 4)
    peel = np.zeros((6, 4, 4), bool)
    peel[1] = True
    hu = np.where(third == 2, -600, 40).astype(np.float32)
    lung = np.full((6, 4, 4), 2, np.uint8)
    lung[0] = 1
    forms = {n: traits._Form(1.0, 10.0, 1.0, 1.0, 0.0, 0.0) for n in (1, 2)}
    first, second = traits.describe(numbered, lung, third, peel, ~peel, hu, hu, forms, voxel_mm3=250.0, dense_hu=-250.0)
    assert first.thirds == (0.25, 0.5, 0.25)
    assert (first.side, first.peel, first.ground_glass, first.volume_cm3) == (2, 0.25, 0.25, 4.0)
    assert first.mean_hu == pytest.approx(-120)
    assert first.dependent == 0.75
    assert (second.side, second.thirds, second.peel) == (1, (0.0, 0.0, 1.0), 0.0)


MASS = Traits(1, 2, 60.0, (0.0, 1.0, 0.0), 0.4, 5.0, 20.0, 0.05, 52.0, 0.85, 0.92, 35.0, 18.0)


@pytest.mark.parametrize(
    ("change", "others", "expected"),
    [
        ({}, [], "mass"),
        ({}, [10.0], "mass"),
        ({}, [40.0], "undetermined"),
        ({"extent_mm": 22.0}, [], "undetermined"),
        ({"ground_glass": 0.7}, [], "opacity"),
        ({"ground_glass": 0.4}, [], "undetermined"),
        ({"inner_spread": 90.0}, [], "undetermined"),
        ({"inner_spread": 90.0}, [40.0], "opacity"),
        ({"roundness": 0.5}, [], "undetermined"),
        ({"roundness": 0.4, "filled": 0.4}, [], "opacity"),
        ({"inner_hu": 10.0, "contact_cm2": 60.0, "roundness": 0.5}, [], "effusion"),
        ({"inner_hu": 10.0}, [], "mass"),
        ({"inner_hu": 38.0, "contact_cm2": 60.0, "roundness": 0.5}, [], "undetermined"),
        ({"inner_hu": float("nan"), "inner_spread": float("nan")}, [], "mass"),
    ],
)
def test_kind(change: dict, others: list[float], expected: str) -> None:
    all_of = [replace(MASS, **change), *(replace(MASS, number=n, volume_cm3=v) for n, v in enumerate(others, 2))]
    one = kind.judge(all_of, parameters()["kind"])[0]
    assert one.kind == expected
    assert one.evidence


def test_bands_at_both_dependent_pleurae_are_told_apart() -> None:
    band = replace(MASS, volume_cm3=12.0, contact_cm2=20.0, dependent=0.95, ground_glass=0.9)
    p = parameters()["kind"]
    one, two = kind.judge([band, replace(band, number=2, side=1)], p)
    assert (one.kind, one.evidence, two.evidence) == ("undetermined", (kind.DEPENDENT,), (kind.DEPENDENT,))
    for other in (replace(band, number=2), replace(band, number=2, side=1, volume_cm3=40.0)):
        assert kind.judge([band, other], p)[0].evidence != (kind.DEPENDENT,)
