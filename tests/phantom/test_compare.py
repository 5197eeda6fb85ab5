"""The comparison sees what it must see, and errors never cancel."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion

import phantom
from phantom import Phantom
from phantom.compare import compare

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def folder(standard: Phantom, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return phantom.write(standard, tmp_path_factory.mktemp("truth"))


def _inner(built: Phantom) -> list[int]:
    return [
        n for n, o in enumerate(built.objects, 1)
        if o.kind in {"ground_glass", "consolidation"} and o.volume_cm3 >= 10 and not o.touches_chest_wall
    ]  # fmt: skip


def _masks(built: Phantom) -> list[tuple[str, NDArray[np.bool_]]]:
    return [(f"opacity {n}", built.lesion == n) for n, o in enumerate(built.objects, 1) if o.kind != "effusion"]


def test_the_truth_itself_is_right(folder: Path, standard: Phantom) -> None:
    seen = compare(folder, standard.lung, _masks(standard))
    assert seen.ok
    assert {row.number for row in seen.objects if row.required} == set(_inner(standard))
    assert len(seen.rows()) == 2 + len(standard.objects)
    assert json.loads(json.dumps(seen.as_json()))["ok"] is True
    assert compare(folder, standard.lung, np.where(standard.lung > 0, standard.lesion, 0)).ok


def test_one_too_large_and_one_too_small_do_not_cancel(folder: Path, standard: Phantom) -> None:
    grown, shrunk = _inner(standard)[:2]
    masks = dict(_masks(standard))
    masks[f"opacity {grown}"] = binary_dilation(masks[f"opacity {grown}"])
    masks[f"opacity {shrunk}"] = binary_erosion(masks[f"opacity {shrunk}"])
    seen = compare(folder, standard.lung, list(masks.items()))
    assert {row.number for row in seen.objects if not row.ok} == {grown, shrunk}
    assert not seen.ok


def test_a_missing_lesion_is_missed(folder: Path, standard: Phantom) -> None:
    gone = _inner(standard)[0]
    seen = compare(folder, standard.lung, [m for m in _masks(standard) if m[0] != f"opacity {gone}"])
    (row,) = [r for r in seen.objects if r.number == gone]
    assert (row.ok, row.found_cm3, row.found_as) == (False, 0.0, ())


def test_the_right_volume_in_the_wrong_place_is_wrong(folder: Path, standard: Phantom) -> None:
    moved = _inner(standard)[0]
    masks = dict(_masks(standard))
    masks[f"opacity {moved}"] = np.roll(masks[f"opacity {moved}"], 5, axis=2)
    seen = compare(folder, standard.lung, list(masks.items()))
    (row,) = [r for r in seen.objects if r.number == moved]
    assert abs(row.error) < 0.1
    assert not row.ok


def test_one_mask_over_several_lesions_is_divided_among_them(folder: Path, standard: Phantom) -> None:
    a, b = _inner(standard)[:2]
    rest = [m for m in _masks(standard) if m[0] not in {f"opacity {a}", f"opacity {b}"}]
    both = np.isin(standard.lesion, [a, b])
    first, second = (np.argwhere(standard.lesion == n).mean(0) for n in (a, b))
    for t in np.linspace(0, 1, 400):
        both[tuple(np.rint(first + t * (second - first)).astype(int))] = True
    seen = compare(folder, standard.lung, [*rest, ("opacity, other", both)])
    rows = {r.number: r for r in seen.objects}
    for n in (a, b):
        assert rows[n].found_as == ("opacity, other",)
        assert rows[n].error < 0.2


def test_swapped_sides_and_a_lost_lung_are_wrong(folder: Path, standard: Phantom) -> None:
    swapped = np.where(standard.lung > 0, 3 - standard.lung, 0).astype(np.uint8)
    seen = compare(folder, swapped, _masks(standard))
    assert [row.other_side for row in seen.lungs] == [1.0, 1.0]
    assert not seen.ok
    assert not compare(folder, np.where(standard.lung == 1, 1, 0).astype(np.uint8), _masks(standard)).ok


def test_a_lost_lobar_consolidation_is_allowed_only_if_percentages_are_withheld(
    folder: Path, standard: Phantom
) -> None:
    (lobar,) = [n for n, o in enumerate(standard.objects, 1) if o.lobar]
    lungs = np.where(standard.lesion == lobar, 0, standard.lung)
    masks = [m for m in _masks(standard) if m[0] != f"opacity {lobar}"]
    assert not compare(folder, lungs, masks).ok
    assert compare(folder, lungs, masks, withheld=True).ok
    assert compare(folder, standard.lung, masks).ok


def test_what_touches_nothing_planted_is_extra(folder: Path, standard: Phantom) -> None:
    blob = np.zeros(standard.lung.shape, bool)
    free = np.argwhere((standard.lung == 1) & (standard.lesion == 0))[0]
    blob[tuple(free)] = True
    seen = compare(folder, standard.lung, [*_masks(standard), ("opacity 99", blob)])
    assert seen.extra_cm3 > 0
    assert seen.ok


def test_masks_of_another_shape_are_refused(folder: Path, standard: Phantom) -> None:
    with pytest.raises(ValueError, match="lungs: mask of shape"):
        compare(folder, standard.lung[:-1], _masks(standard))


def test_a_clean_chest_and_an_empty_mask_compare(tmp_path: Path) -> None:
    clean = phantom.build(4, lesions="none", slices=12, matrix=48)
    folder = phantom.write(clean, tmp_path)
    seen = compare(folder, clean.lung, [("opacity 1", np.zeros(clean.lung.shape, bool))])
    assert seen.ok
    assert json.dumps(seen.as_json())


def test_objects_that_the_images_cut_off_are_reported_but_not_required(tmp_path: Path) -> None:
    cut = phantom.build(1, slices=12, thickness_mm=3.0, matrix=64)
    folder = phantom.write(cut, tmp_path)
    seen = compare(folder, cut.lung, [])
    assert json.dumps(seen.as_json())
    assert not any(row.required for row in seen.objects if not (cut.lesion == row.number).any())
