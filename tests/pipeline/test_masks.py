"""Lungs and opacities against the phantoms' truth."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import phantom
from phantom import Phantom, datasets
from phantom.dicom import save
from pipeline.result import Measurement, Result
from tests.more import more
from tests.pipeline import recut

SHARES = ("opacity_percent", "ground_glass_percent", "dense_percent")

pytestmark = pytest.mark.unit

PADDING = -2000

CASES = [
    (1, {"lesions": "standard"}),
    (2, {"lesions": "clear"}),
    (3, {"lesions": "standard", "plane": "coronal", "feet_first": True}),
    (5, {"lesions": "none", "thickness_mm": 5.0}),
    (780156854, {"lesions": "clear", "plane": "coronal", "thickness_mm": 5.0}),
]
IDS = ["axial", "clear", "coronal feet first", "nothing, 5 mm", "clear, coronal 5 mm"]
EACH = pytest.mark.parametrize(("seed", "parameters"), [*CASES[:4], more(*CASES[4])], ids=IDS)


def measured(result: Result, name: str, site: str) -> Measurement:
    return next(m for m in result.measurements if (m.name, m.site) == (name, site))


@EACH
def test_lungs_agree_with_truth_on_their_own_side(case: Callable, seed: int, parameters: dict) -> None:
    one = case(seed, **parameters)
    for side in (1, 2):
        mine, truth = one.lungs == side, one.phantom.lung == side
        assert 2 * np.count_nonzero(mine & truth) / (mine.sum() + truth.sum()) >= 0.97
    assert not np.any((one.lungs == 1) & (one.phantom.lung == 2))


@EACH
def test_every_opacity_of_ten_cm3_is_measured_within_ten_percent(case: Callable, seed: int, parameters: dict) -> None:
    one = case(seed, **parameters)
    voxel = one.analysis.result.geometry.voxel_volume_mm3 / 1000
    used = set()
    for number, planted in enumerate(one.phantom.objects, 1):
        if planted.kind == "effusion":
            continue
        seen = np.bincount(one.opacities[one.phantom.lesion == number], minlength=1)
        seen[0] = 0
        found = int(seen.argmax()) if seen.any() else 0
        used.add(found)
        if planted.volume_cm3 < 10 or planted.touches_chest_wall:
            continue
        assert found, planted
        mine, truth = one.opacities == found, one.phantom.lesion == number
        assert mine.sum() * voxel == pytest.approx(planted.volume_cm3, rel=0.10), planted
        # errors may not cancel
        assert 2 * np.count_nonzero(mine & truth) / (mine.sum() + truth.sum()) > 0.9, planted
    assert set(np.unique(one.opacities)) - {0} <= used, "marked where nothing was planted"


def test_lobar_consolidation_is_kept_and_its_shares_are_a_bound(case: Callable) -> None:
    one = case(*CASES[0][:1], **CASES[0][1])
    number, lobar = next((n, o) for n, o in enumerate(one.phantom.objects, 1) if o.lobar)
    inside = one.phantom.lesion == number
    assert np.count_nonzero(one.lungs[inside]) >= 0.8 * inside.sum()
    share = measured(one.analysis.result, "opacity_percent", lobar.site)
    assert share.status != "ok"
    assert share.reason is not None
    assert share.reason.code in {"dense-lung-at-wall", "lung-mask-doubtful"}


def test_effusion_is_not_lung(case: Callable) -> None:
    one = case(*CASES[0][:1], **CASES[0][1])
    fluid = one.phantom.lesion == 1 + next(n for n, o in enumerate(one.phantom.objects) if o.kind == "effusion")
    assert np.count_nonzero(one.lungs[fluid]) < 0.1 * fluid.sum()


@pytest.mark.parametrize(("seed", "parameters"), CASES[:3], ids=IDS[:3])
def test_an_opacity_at_the_wall_is_a_lower_bound_and_others_are_not(
    case: Callable, seed: int, parameters: dict
) -> None:
    one = case(seed, **parameters)
    seen = {"ok": 0, "lower_bound": 0}
    for number, finding in enumerate(one.analysis.result.findings, 1):
        volume = finding.measurements[0]
        planted = np.unique(one.phantom.lesion[one.opacities == number])
        mine = [one.phantom.objects[n - 1] for n in planted[planted > 0]]
        at_wall = any(o.touches_chest_wall for o in mine)
        if sum(o.volume_cm3 for o in mine) >= 10:
            seen[volume.status] += 1
            assert (volume.status, volume.reason and volume.reason.code) == (
                ("lower_bound", "opacity-at-surface") if at_wall else ("ok", None)
            )
            if at_wall:
                assert volume.value <= 1.1 * sum(o.volume_cm3 for o in mine)
    assert seen["ok"]
    assert bool(seen["lower_bound"]) == (parameters["lesions"] == "standard")


def test_clear_lungs_print_percentages(case: Callable) -> None:
    for seed, parameters in (CASES[1], CASES[3]):
        result = case(seed, **parameters).analysis.result
        assert {m.status for m in result.measurements if m.name in SHARES} == {"ok"}


def test_nothing_is_found_in_healthy_lungs(case: Callable) -> None:
    result = case(*CASES[3][:1], **CASES[3][1]).analysis.result
    assert result.findings == ()
    assert measured(result, "opacity_percent", "lungs").value == 0
    assert [f.reason.code for f in result.quality.findings] == ["thick-slices"]
    assert result.quality.grade == "B"


@EACH
def test_numbers_follow_from_the_segments(case: Callable, seed: int, parameters: dict) -> None:
    one = case(seed, **parameters)
    result = one.analysis.result
    cm3 = result.geometry.voxel_volume_mm3 / 1000
    opaque = sum(s.mask.voxels for s in result.segments[2:])
    lung = sum(s.mask.voxels for s in result.segments[:2])
    assert measured(result, "lung_volume", "lungs").value == pytest.approx(lung * cm3)
    assert measured(result, "opacity_volume", "lungs").value == pytest.approx(opaque * cm3)
    assert measured(result, "opacity_percent", "lungs").value == pytest.approx(100 * opaque / lung)
    for site in ("left_lung", "right_lung", "lungs"):
        parts = [measured(result, n, site).value for n in ("ground_glass_percent", "dense_percent", "opacity_percent")]
        assert parts[0] + parts[1] == pytest.approx(parts[2])
        if site != "lungs":
            each = [measured(result, "lung_volume", f"{site}_{t}_third").value for t in ("upper", "middle", "lower")]
            assert sum(each) == pytest.approx(measured(result, "lung_volume", site).value)


@EACH
def test_findings_are_in_order_and_where_they_say(case: Callable, seed: int, parameters: dict) -> None:
    result = case(seed, **parameters).analysis.result
    assert [s.site for s in result.segments[:2]] == ["left_lung", "right_lung"]
    assert [f.segment_number for f in result.findings] == [s.number for s in result.segments[2:]]
    volumes = [f.measurements[0].value for f in result.findings]
    assert all(a >= b for a, b in pairwise(volumes))
    for finding, segment in zip(result.findings, result.segments[2:], strict=True):
        assert finding.tracking_id == segment.tracking_id
        assert (finding.centroid_mm[0] > 0) == (finding.site == "left_lung")
        at = np.argwhere(segment.mask.box) + segment.mask.offset
        assert np.allclose(result.geometry.to_lps(at.mean(axis=0)), finding.centroid_mm, atol=0.5)


def test_thirds_are_stacked_from_head_to_feet(case: Callable) -> None:
    for seed, parameters in (CASES[0], CASES[2]):
        result = case(seed, **parameters).analysis.result
        for side in ("left_lung", "right_lung"):
            heights = []
            for part in ("upper", "middle", "lower"):
                mask = result.region(f"{side}_{part}_third").mask
                z = result.geometry.to_lps(np.argwhere(mask.box) + mask.offset)[:, 2]
                heights.append((z.min(), z.max()))
            assert heights[0][0] >= heights[1][1] - 0.01
            assert heights[1][0] >= heights[2][1] - 0.01


def test_densities_are_those_of_the_phantom(case: Callable) -> None:
    one = case(*CASES[1][:1], **CASES[1][1])
    value = measured(one.analysis.result, "mean_lung_density", "lungs").value
    assert value == pytest.approx(float(one.phantom.array[one.phantom.lung > 0].mean()), abs=12)


def test_the_same_series_gives_the_same_masks(case: Callable, analyse: Callable) -> None:
    del analyse
    one, again = case(*CASES[3][:1], **CASES[3][1]), case(*CASES[3][:1], **CASES[3][1], accession="another")
    assert np.array_equal(one.lungs, again.lungs)
    assert one.analysis.result.measurements == again.analysis.result.measurements


def test_the_same_voxels_cut_sagittally_from_the_left_and_shuffled_give_the_same_numbers(
    case: Callable, analyse: Callable, read: Callable, tmp_path: Path
) -> None:
    one = case(*CASES[1][:1], **CASES[1][1])
    array, affine = recut.turned(one.analysis.volume.array, one.analysis.volume.affine, (2, 0, 1), (True, True, False))
    order = np.random.default_rng(1).permutation(len(array))
    again = analyse(read(recut.series(tmp_path, next(datasets(one.phantom)), array, affine, order=order))).result
    for before, after in zip(one.analysis.result.findings, again.findings, strict=True):
        assert after.site == before.site
        assert after.measurements[0].value == pytest.approx(before.measurements[0].value, rel=0.01)
    for site in ("lungs", "left_lung", "right_lung"):
        value = measured(one.analysis.result, "opacity_percent", site).value
        assert measured(again, "opacity_percent", site).value == pytest.approx(value, rel=0.01)


def test_summary_speaks_both_languages(case: Callable) -> None:
    result = case(*CASES[0][:1], **CASES[0][1]).analysis.result
    assert "Opacities marked" in result.summary["en"]
    assert "标出致密影" in result.summary["zh-CN"]
    assert "pneumonia" not in result.summary["en"].lower()
    assert "{" not in "".join(result.summary.values())


def changed(one: Phantom, folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Write the phantom with changed densities, which may be padding."""
    array = change(one.array.astype(np.float32))
    for z, ds in enumerate(datasets(one)):
        ds.PixelRepresentation, ds.RescaleIntercept = 1, 0
        ds.PixelPaddingValue = PADDING
        ds.PixelData = np.clip(array[z], PADDING, 3000).astype("<i2").tobytes()
        save(ds, folder / f"{z}.dcm")
    return folder


@pytest.fixture(scope="module")
def healthy() -> Phantom:
    return phantom.build(6, lesions="none", matrix=128, thickness_mm=4.0)


def dependent(healthy: Phantom) -> np.ndarray:
    back = np.argwhere(healthy.lung > 0)[:, 1]
    limit = back.min() + 0.72 * np.ptp(back)
    low: np.ndarray = (healthy.lung > 0) & (np.arange(healthy.lung.shape[1])[:, None] > limit)
    assert 0.1 < low.sum() / (healthy.lung > 0).sum() < 0.3
    return low


def test_consolidation_of_both_dependent_parts_is_put_back_as_a_bound(
    healthy: Phantom, analyse: Callable, read: Callable, tmp_path: Path
) -> None:
    """Both sides alike: comparing them shows nothing, their distance from the ribs does."""
    low = dependent(healthy)
    result = analyse(read(changed(healthy, tmp_path, lambda a: np.where(low, 35, a)))).result
    truth = 100 * low.sum() / (healthy.lung > 0).sum()
    for site in ("lungs", "right_lung", "left_lung"):
        share = measured(result, "opacity_percent", site)
        assert share.status == "lower_bound"
        assert 0.25 * truth < share.value < truth
        volume = measured(result, "lung_volume", site)
        assert (volume.status, volume.reason.code) == ("lower_bound", "lung-border-guessed")


def test_water_in_both_dependent_parts_is_fluid_and_neither_lung_nor_opacity(
    healthy: Phantom, analyse: Callable, read: Callable, tmp_path: Path
) -> None:
    low = dependent(healthy)
    result = analyse(read(changed(healthy, tmp_path, lambda a: np.where(low, 8, a)))).result
    assert "fluid-beside-lung" in {n.code for n in result.notes}
    mine = np.zeros(healthy.lung.shape, np.uint8)
    result.region("lungs").mask.paint(mine)
    assert np.count_nonzero(mine[low]) < 0.2 * low.sum()
    share = measured(result, "opacity_percent", "lungs")
    assert share.status == "lower_bound"
    assert share.value < 1.0


def test_air_between_lung_and_ribs_is_no_lung(
    healthy: Phantom, analyse: Callable, read: Callable, tmp_path: Path
) -> None:
    front = np.argwhere(healthy.lung == 1)[:, 1]
    limit = front.min() + 0.2 * np.ptp(front)
    high = (healthy.lung == 1) & (np.arange(healthy.lung.shape[1])[:, None] < limit)
    result = analyse(read(changed(healthy, tmp_path, lambda a: np.where(high, -1000, a)))).result
    mine = np.zeros(healthy.lung.shape, np.uint8)
    result.region("lungs").mask.paint(mine)
    assert np.count_nonzero(mine[high]) < 0.3 * high.sum()
    assert "air-beside-lung" in {n.code for n in result.notes}
    volume = measured(result, "lung_volume", "right_lung")
    assert (volume.status, volume.reason.code) == ("lower_bound", "air-beside-lung")
    assert measured(result, "lung_volume", "left_lung").status == "ok"


def test_lungs_cut_by_the_reconstruction_circle_withhold_shares_and_invent_nothing(
    healthy: Phantom, analyse: Callable, read: Callable, tmp_path: Path
) -> None:
    at = np.argwhere(healthy.lung > 0)
    middle, reach = (at.max(axis=0) + at.min(axis=0)) / 2, np.ptp(at[:, 2]) / 2
    y, x = np.mgrid[: healthy.lung.shape[1], : healthy.lung.shape[2]]
    outside = np.hypot(y - middle[1], x - middle[2]) > 0.96 * reach
    assert 0 < (outside & (healthy.lung > 0)).sum() < 0.05 * (healthy.lung > 0).sum()
    result = analyse(read(changed(healthy, tmp_path, lambda a: np.where(outside, PADDING, a)))).result
    assert result.findings == ()
    assert measured(result, "opacity_percent", "lungs").status == "not_computable"
    assert measured(result, "lung_volume", "lungs").status == "lower_bound"
    assert "lung-cut-side" in {f.reason.code for f in result.quality.findings}
    mine = np.zeros(healthy.lung.shape, np.uint8)
    result.region("lungs").mask.paint(mine)
    kept = (healthy.lung > 0) & ~outside
    assert np.count_nonzero(mine[kept]) >= 0.95 * kept.sum()
