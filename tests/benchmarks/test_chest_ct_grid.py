"""The grid of lesions is balanced and does not change; its figures call silent what nothing tells."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import chest_ct_grid, chest_ct_grid_plot, chest_ct_stages
from benchmarks.chest_ct_grid_table import Row, declared, failed, outside, silent, specific, table

pytestmark = pytest.mark.unit

JUDGED = chest_ct_grid.DESIGN["judged"]
GOOD = Row(
    seed=1, side="left_lung", diameter_mm=32.0, hu=40.0, contact=False, shape="round", noise_hu=10.0, thickness_mm=1.0, kernel="soft",
    truth_cm3=10.0, found_cm3=10.5, dice=0.9, kept=1.0, statuses=[], images=[], notes=[],
)  # fmt: skip


def test_every_size_meets_every_density_and_contact_twice_in_two_shapes() -> None:
    scans = chest_ct_grid.design()
    assert scans == chest_ct_grid.design()
    lesions = [lesion for scan in scans for lesion in scan.lesions]
    cells = Counter((one.diameter_mm, one.hu, one.contact) for one in lesions)
    assert set(cells.values()) == {2}
    assert len(cells) == 7 * 4 * 2
    assert len({(one.diameter_mm, one.hu, one.contact, one.shape) for one in lesions}) == len(lesions)
    assert {scan.lesions[0].side for scan in scans} == {-1}
    assert {scan.lesions[1].side for scan in scans} == {1}
    assert len({scan.seed for scan in scans}) == len(scans)
    assert min(scan.seed for scan in scans) > 300
    used = Counter((scan.noise_hu, scan.thickness_mm, scan.kernel) for scan in scans)
    assert len(used) == 18
    assert max(used.values()) - min(used.values()) <= 1


def test_a_failure_is_silent_unless_number_images_note_or_size_tell_it() -> None:
    missed = replace(GOOD, found_cm3=0.0)
    assert not outside(GOOD, JUDGED)
    assert outside(replace(GOOD, found_cm3=12.1), JUDGED)
    assert silent(missed, JUDGED)
    assert not silent(replace(missed, statuses=["volume lower_bound: opacity-at-surface"]), JUDGED)
    assert not silent(replace(missed, images=["noise-high"]), JUDGED)
    assert not silent(replace(missed, notes=["small-parts"]), JUDGED)
    small = replace(missed, diameter_mm=JUDGED["declared_mm"])
    assert declared(small, JUDGED)
    assert not silent(small, JUDGED)
    assert silent(replace(small, found_cm3=13.0), JUDGED), "too much is not what was declared"
    refused = replace(GOOD, found_cm3=None, statuses=["one-lung"])
    assert outside(refused, JUDGED)
    assert not silent(refused, JUDGED)


def test_what_every_result_says_is_no_flag() -> None:
    common = replace(GOOD, found_cm3=0.0, notes=["new-note-of-all", "opacity-limits"])
    warned = replace(common, notes=["new-note-of-all", "opacity-limits", "small-parts"])
    refused = replace(GOOD, found_cm3=None, statuses=["one-lung"])
    rows = specific([common, warned, refused])
    assert [row.notes for row in rows] == [[], ["small-parts"], []]
    assert [silent(row, JUDGED) for row in rows] == [True, False, False]


def test_flags_on_more_than_a_tenth_of_the_good_rows_fail_too() -> None:
    flagged = replace(GOOD, statuses=["volume lower_bound: opacity-at-surface"])
    assert not failed([GOOD] * 9 + [flagged], JUDGED)
    assert failed([GOOD] * 8 + [flagged], JUDGED)
    assert failed([GOOD] * 99 + [replace(GOOD, found_cm3=0.0)], JUDGED)


def test_the_table_says_silent_failures_first_and_the_picture_is_small(tmp_path: Path) -> None:
    rows = [GOOD, replace(GOOD, diameter_mm=5.0, found_cm3=0.0), replace(GOOD, hu=-450.0, contact=True, found_cm3=4.0)]
    lines = table(rows, JUDGED).splitlines()
    assert lines[0] == "Silent failures: 1"
    assert "-450 HU round at the pleura" in lines[1]
    (whole,) = [line for line in lines if line.startswith("| all")]
    assert [cell.strip() for cell in whole.split("|")[7:12]] == ["1", "0", "1", "**1**", "0"]
    path = tmp_path / "grid.png"
    chest_ct_grid_plot.draw(rows, JUDGED, path)
    assert path.stat().st_size < 150_000
    with Image.open(path) as image:
        colours = {entry[1] for entry in image.convert("RGB").getcolors(1 << 20) or ()}
    wanted = tuple(int(chest_ct_grid_plot.SILENT[n : n + 2], 16) for n in (1, 3, 5))
    assert min(sum(abs(a - b) for a, b in zip(wanted, c, strict=True)) for c in colours) < 30


def test_memory_of_one_stage_is_not_that_of_the_next() -> None:
    clock = chest_ct_stages.Clock()
    clock("large")
    held = np.ones(40_000_000)
    clock("small")
    del held
    clock("after")
    clock("")
    assert set(clock.stages) == {"large", "small", "after"}
    assert clock.stages["large"][2] > clock.stages["after"][2] + 0.25
    assert all(seconds >= 0 for seconds, _, _ in clock.stages.values())
