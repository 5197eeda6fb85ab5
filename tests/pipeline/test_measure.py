"""Arithmetic, worth of numbers, and small geometry, on arrays that can be counted by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline.chest_ct import measure, morphology, opacity, surface
from pipeline.chest_ct.doubt import Doubt
from pipeline.chest_ct.grid import WorkingGrid
from pipeline.chest_ct.parameters import QUALITY_FILE, data_digest, parameters
from pipeline.quality.ct.noise import noise
from pipeline.quality.grade import Measured, grade, table
from pipeline.reasons import REASONS
from pipeline.result import Quality

pytestmark = pytest.mark.unit

FINE = Doubt(lacking=0.0, restored=0.0, cut=0.0, small=False)
CALM = measure.Circumstances(slices_missing=False, contrast=False, no_normal_lung=False)


def counted() -> dict[str, measure.Counted]:
    lung = np.zeros((6, 1, 4), np.uint8)
    lung[:, :, :2], lung[:, :, 2:] = 1, 2
    third = measure.thirds(lung, np.arange(6.0)[:, None, None])
    hu = np.where(lung == 1, -800, -900).astype(np.float32)
    patch = np.zeros(lung.shape, np.uint16)
    patch[5, 0, 2:] = 1
    smooth = np.full(lung.shape, -500, np.float32)
    smooth[5, 0, 3] = 0
    return measure.count_sites(lung, third, patch, hu, smooth, -250.0)


def test_sites_are_counted() -> None:
    sites = counted()
    assert sites["lungs"].voxels == 24
    assert sites["right_lung_lower_third"].voxels == 4
    assert (sites["left_lung_upper_third"].opaque, sites["left_lung_upper_third"].ground_glass) == (2, 1)
    assert sites["left_lung_lower_third"].opaque == 0
    assert sites["lungs"].hu == pytest.approx(-850)


def values(doubts: dict[int, Doubt], now: measure.Circumstances, site: str) -> dict[str, tuple[str, str, float | None]]:
    rows = measure.measurements(counted(), doubts, now, 500.0, parameters()["doubt"])
    return {m.name: (m.status, m.reason.code if m.reason else "", m.value) for m in rows if m.site == site}


def test_values() -> None:
    row = values({1: FINE, 2: FINE}, CALM, "left_lung")
    assert {status for status, *_ in row.values()} == {"ok"}
    assert row["lung_volume"][2] == pytest.approx(6.0)
    assert row["opacity_volume"][2] == pytest.approx(1.0)
    assert row["opacity_percent"][2] == pytest.approx(100 * 2 / 12)
    assert row["ground_glass_percent"][2] == row["dense_percent"][2] == pytest.approx(100 / 12)
    assert row["mean_lung_density"][2] == pytest.approx(-900)


# what is wrong with the left lung -> status and reason of its volume and of its shares
WORTH = [
    (FINE, CALM, ("ok", ""), ("ok", "")),
    (Doubt(0.3, 0, 0, small=False), CALM, ("lower_bound", "lung-mask-doubtful"), ("not_computable", "lung-mask-doubtful")),
    (Doubt(0, 0, 0, small=False, held_off=0.1), CALM, ("lower_bound", "lung-mask-doubtful"), ("not_computable", "lung-mask-doubtful")),
    (Doubt(0, 0.4, 0, small=False), CALM, ("lower_bound", "lung-mask-doubtful"), ("not_computable", "lung-mask-doubtful")),
    (Doubt(0, 0.05, 0, small=False), CALM, ("ok", ""), ("lower_bound", "dense-lung-at-wall")),
    (Doubt(0, 0, 0, small=False, at_rim=True), CALM, ("ok", ""), ("lower_bound", "opacity-at-surface")),
    (Doubt(0, 0, 0.05, small=False), CALM, ("lower_bound", "lung-cut-off"), ("ok", "")),
    (Doubt(0, 0, 0.3, small=False), CALM, ("lower_bound", "lung-cut-off"), ("not_computable", "lung-cut-off")),
    (Doubt(0, 0, 0, small=True), CALM, ("lower_bound", "lungs-uneven"), ("not_computable", "lungs-uneven")),
    (
        FINE, measure.Circumstances(slices_missing=True, contrast=False, no_normal_lung=False),
        ("lower_bound", "volume-between-slices-missing"), ("not_computable", "volume-between-slices-missing"),
    ),
    (
        FINE, measure.Circumstances(slices_missing=False, contrast=False, no_normal_lung=True),
        ("ok", ""), ("lower_bound", "no-normal-lung"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("doubt", "now", "volume", "share"), WORTH)
def test_worth(doubt: Doubt, now: measure.Circumstances, volume: tuple[str, str], share: tuple[str, str]) -> None:
    doubts = {1: FINE, 2: doubt}
    for site in ("left_lung", "lungs"):
        row = values(doubts, now, site)
        assert row["lung_volume"][:2] == volume
        assert row["opacity_percent"][:2] == row["dense_percent"][:2] == share
        assert (row["opacity_percent"][2] is None) == (share[0] == "not_computable")
        assert (row["opacity_volume"][0] == "ok") == (volume[0] == share[0] == "ok")
    if now == CALM:
        assert {status for status, *_ in values(doubts, now, "right_lung").values()} == {"ok"}


def test_an_opacity_is_worth_less_at_the_surface_and_between_lacking_slices() -> None:
    gaps = measure.Circumstances(slices_missing=True, contrast=False, no_normal_lung=False)
    assert measure.finding_worth(CALM, at_rim=False) == ("ok", None)
    for now, at_rim, code in ((CALM, True, "opacity-at-surface"), (gaps, False, "volume-between-slices-missing")):
        status, reason = measure.finding_worth(now, at_rim=at_rim)
        assert (status, reason and reason.code) == ("lower_bound", code)


def test_contrast_withholds_the_mean_density_only() -> None:
    now = measure.Circumstances(slices_missing=False, contrast=True, no_normal_lung=False)
    row = values({1: FINE, 2: FINE}, now, "lungs")
    assert row["mean_lung_density"][:2] == ("not_computable", "contrast-changes-density")
    assert row["opacity_percent"][0] == "ok"


def test_long_axis_is_the_longest_within_a_slice() -> None:
    points = np.array([[0, 0, 0], [3, 4, 0], [0, 0, 90], [1, 0, 90], [0, 1, 90], [1, 1, 90.0]])
    assert measure.long_axis_mm(points, 5.0, 0.5) == pytest.approx(5.5)


def test_grade_is_the_worst_finding() -> None:
    limits = table("pipeline.chest_ct", QUALITY_FILE)

    def graded(**values: float) -> Quality:
        return grade({name: Measured(value) for name, value in values.items()}, limits, "series", "1.2")

    assert graded(thickness_mm=3.0).grade == "A"
    found = graded(thickness_mm=5.0, missing_slices=2.0)
    assert found.grade == "C"
    assert [(f.reason.code, f.value, f.limit, f.grade) for f in found.findings] == [
        ("slices-lacking", 2.0, 0.0, "C"),
        ("thick-slices", 5.0, 3.0, "B"),
    ]
    assert found.measures["thickness_mm"].value == 5.0
    assert [f.reason.code for f in graded(normal_hu=-700.0).findings] == ["breath-shallow"]


def test_noise_is_the_noise() -> None:
    rng = np.random.default_rng(1)
    array = np.full((3, 128, 128), -1000, np.float32)
    array[:, 20:110, 20:110] = 40
    array[:, 50:60, 50:60] = 300
    noisy = (array + rng.normal(0, 25, array.shape)).astype(np.float32)
    assert noise(noisy, range(3)) == pytest.approx(25, rel=0.08)
    assert noise(array[:, :20], range(3)) is None


@pytest.mark.parametrize("radius", [(1, 1, 1), (2, 3, 0), (5, 4, 7)])
def test_box_morphology_agrees_with_scipy(radius: tuple[int, int, int]) -> None:
    volume = np.random.default_rng(2).normal(size=(13, 17, 19)).astype(np.float32)
    size = tuple(2 * r + 1 for r in radius)
    tensor = torch.from_numpy(volume)
    assert np.array_equal(
        morphology.dilate(tensor, radius).numpy(), ndimage.maximum_filter(volume, size, mode="nearest")
    )
    assert np.array_equal(
        morphology.erode(tensor, radius).numpy(), ndimage.minimum_filter(volume, size, mode="nearest")
    )
    opened = ndimage.maximum_filter(ndimage.minimum_filter(volume, size, mode="nearest"), size, mode="nearest")
    assert np.array_equal(morphology.opening(tensor, radius).numpy(), opened)
    mask = volume > 1
    assert np.array_equal(
        morphology.dilate(torch.from_numpy(mask), radius).numpy(), ndimage.maximum_filter(mask, size, mode="nearest")
    )


def test_gaussian_keeps_constants_and_agrees_inside() -> None:
    assert torch.allclose(morphology.gaussian(torch.full((5, 6, 7), 3.0), 2.0), torch.tensor(3.0))
    point = np.zeros((25, 25, 25), np.float32)
    point[12, 12, 12] = 1
    ours = morphology.gaussian(torch.from_numpy(point), 2.0).numpy()
    assert np.abs(ours - ndimage.gaussian_filter(point, 2.0, truncate=3.0)).max() < 1e-4


def test_components_come_by_size() -> None:
    mask = np.zeros((4, 4, 8), bool)
    mask[0, 0, 0], mask[2:, 2:, 5:] = True, True
    labels, sizes = morphology.components(mask)
    assert list(sizes) == [0, 12, 1]
    assert (labels[3, 3, 7], labels[0, 0, 0], labels[1, 1, 1]) == (1, 2, 0)
    empty, none = morphology.components(np.zeros((3, 3, 3), bool))
    assert not empty.any()
    assert none.sum() == 0


def test_ball_opening_drops_a_rod_and_keeps_a_ball() -> None:
    z, y, x = np.mgrid[:40, :40, :40]
    ball = (z - 20) ** 2 + (y - 20) ** 2 + (x - 20) ** 2 <= 8**2
    rod = (abs(y - 20) <= 1) & (abs(x - 20) <= 1)
    opened = morphology.open_ball(ball | rod, 4.0)
    assert opened[20, 20, 20]
    assert not opened[:9].any()
    assert opened[ball].sum() > 0.75 * ball.sum()


DIRECTIONS = {
    "axial": np.eye(3),
    "feet first": np.diag([-1.0, 1, -1]),
    "coronal": np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0.0]]),
    "sagittal": np.array([[0, 0, 1], [1, 0, 0], [0, -1, 0.0]]),
}


@pytest.mark.parametrize("columns", DIRECTIONS.values(), ids=DIRECTIONS)
def test_working_grid_keeps_patient_coordinates(columns: np.ndarray) -> None:
    """A ramp along each patient axis must come out as that ramp, and go back as it came."""
    affine = np.eye(4)
    affine[:3, :3] = columns * np.array([0.8, 0.7, 2.5])
    affine[:3, 3] = (10, -20, 30)
    shape = (30, 50, 40)
    z, y, x = np.indices(shape)
    points = np.stack([x, y, z, np.ones(shape)], -1) @ affine.T
    for axis in range(3):
        volume = SimpleNamespace(array=np.ascontiguousarray(points[..., axis], np.float32), affine=affine)
        grid = WorkingGrid.of(volume, 1.5)
        work = grid.take(volume.array, torch.device("cpu"))
        assert tuple(work.shape) == grid.shape
        inner = tuple(slice(4, n - 4) for n in grid.shape)
        index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1)
        assert np.abs(work.numpy() - grid.to_lps(index)[..., axis])[inner].max() < 0.05
        assert (np.diff(work.numpy(), axis=2 - axis)[inner] > 0).all(), "z to the head, y to the back, x to the left"
        back, where = grid.give(work[inner], inner)
        assert np.abs(back.numpy() - volume.array[where])[2:-2, 4:-4, 4:-4].max() < 0.4
        nearest = grid.nearest(work.numpy()[inner], inner)
        assert nearest.shape == tuple(back.shape)
        assert np.abs(nearest - back.numpy()).max() <= 0.8
        part = tuple(slice(3, n - 2) for n in shape)
        source = grid.nearest_source(volume.array[part], part, inner)
        known = source != 0
        assert np.abs(source - grid.to_lps(index)[..., axis][inner])[known].max() <= 1.26, "half a slice"
        assert known.mean() > 0.5
        whole = tuple(slice(0, n) for n in shape)
        assert (grid.nearest_source(np.ones(shape), whole, inner) == 1).all()


def test_missing_slices_stay_where_they_are() -> None:
    heights = np.array([0.0, 2, 4, 6, 14, 16, 18, 20])
    array = np.broadcast_to(heights.astype(np.float32)[:, None, None], (8, 12, 12)).copy()
    volume = SimpleNamespace(array=array, affine=np.diag([1.5, 1.5, 20 / 7, 1.0]))
    grid = WorkingGrid.of(volume, 1.5, heights)
    work = grid.take(array, torch.device("cpu"))
    z = (np.arange(grid.shape[0]) + 0.5) * 1.5 - 1.0
    assert np.abs(work[2:-2, 5, 5].numpy() - z[2:-2]).max() < 1.1


def test_chords_bridge_a_dent_but_invent_nothing_on_a_circle() -> None:
    radius = np.full((5, 144), 50, np.float32)
    assert np.nanmax(surface.bridge_around(radius, 2.5, 40, outward=True)) <= 50
    dented = radius.copy()
    dented[:, 30:38] = 30
    bridged = surface.bridge_around(dented, 2.5, 40, outward=True)
    assert bridged[2, 34] > 48
    missing = radius.copy()
    missing[2, 10] = np.nan
    assert surface.across_gap(missing, 2)[2, 10] == pytest.approx(50)
    missing[:, 10] = np.nan
    assert np.isnan(surface.across_gap(missing, 2)[2, 10])


def test_a_dome_is_not_enclosed_but_a_mass_is() -> None:
    lung = np.ones((20, 20, 20), bool)
    lung[:8, 6:14, 6:14] = False
    assert not surface.enclosed(lung)[2, 10, 10]
    lung = np.ones((20, 20, 20), bool)
    lung[8:14, 8:14, 8:14] = False
    assert surface.enclosed(lung)[10, 10, 10]


def test_the_middle_of_a_mass_is_lung_and_what_has_no_lung_below_is_not() -> None:
    lung = np.ones((30, 20, 20), bool)
    lung[12:15, 6:14, 6:14] = False
    lung[10:12, 6:14, 6:] = False  # below, the mass reaches the mediastinum
    inner = surface.bracketed(lung, 10)
    assert inner[12:15, 6:14, 6:14].all()
    assert not inner[10:12].any()
    assert not surface.bracketed(lung, 2).any(), "no lung near enough below"
    lung[:12, 6:14, 6:14] = False
    assert not surface.bracketed(lung, 30).any(), "a dome"


def test_holes_are_filled_slice_by_slice() -> None:
    mask = np.zeros((3, 9, 9), bool)
    mask[1, 2:7, 2:7] = True
    mask[1, 4, 4] = False
    assert morphology.fill_slices(mask)[1, 4, 4]
    mask[1, 4, 4:] = False
    assert not morphology.fill_slices(mask)[1, 4, 4]


def test_an_opacity_on_the_rim_is_named_and_one_that_touches_it_is_not() -> None:
    p = parameters()["opacity"]
    found, rim = np.zeros((20, 30, 30), np.uint16), np.zeros((20, 30, 30), bool)
    rim[:, :, :2] = True
    found[2:12, 2:22, 0:8], found[15:19, 4:8, 1:9], found[2:12, 2:22, 15:25] = 1, 2, 3
    assert opacity.at_rim(found, rim, 1.0, p) == frozenset({1})


def test_opacities_are_numbered_by_size_and_small_ones_dropped() -> None:
    p = parameters()["opacity"]
    level = np.full((20, 20, 40), -200, np.float32)
    level[2:8, 2:8, 2:8], level[2:12, 2:12, 20:30], level[15:17, 15:17, 15:17] = 50, 50, 50
    lung = np.ones(level.shape, np.uint8)
    lung[..., 25:] = 2
    found = opacity.label(level, lung, 10.0, p)
    assert found.max() == 3
    assert found[5, 5, 22] == 1
    assert found[5, 5, 27] == 2, "nothing lies in two lungs"
    assert found[5, 5, 5] == 3
    assert found[16, 16, 16] == 0


def test_reasons_named_in_data_files_exist() -> None:
    assert {row.code for row in table("pipeline.chest_ct", QUALITY_FILE)} <= set(REASONS)
    assert data_digest().startswith("sha256:")
