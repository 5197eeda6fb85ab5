"""The degradations of the benchmark of image quality are what they claim, on phantoms; its figures count what they say."""

import dataclasses
from math import atan2, degrees
from pathlib import Path

import numpy as np
import pytest

import phantom
from benchmarks import quality_cases, quality_cases_ct, quality_degrade, quality_degrade_ct, quality_table
from benchmarks.quality_cases import DEFECTS, Subject, Variant
from benchmarks.quality_degrade_ct import Scan
from benchmarks.quality_run import Record
from dicom_io.model import group
from dicom_io.radiograph import load_radiograph
from dicom_io.read import read_instance
from dicom_io.stack import build_stack
from dicom_io.volume import load_volume
from phantom import radiograph
from pipeline import registry

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def exposed() -> radiograph.Radiograph:
    return radiograph.expose(radiograph.Exposure(3, "none", rows=128, columns=160, size_mm=400, step_mm=6))


@pytest.fixture(scope="module")
def grey(exposed: radiograph.Radiograph) -> quality_degrade.Image:
    return (exposed.array / exposed.array.max()).astype(np.float32)


@pytest.fixture(scope="module")
def scan() -> Scan:
    """A body with two lungs, a spine and noise: 40 slices of 3 mm, 64 x 64 pixels of 6 mm."""
    z, y, x = np.mgrid[:40, :64, :64].astype(np.float32)
    body = ((y - 32) / 20) ** 2 + ((x - 32) / 29) ** 2 < 1
    lungs = np.zeros(body.shape, np.bool_)
    for centre in (19, 45):
        lungs |= ((y - 30) / 12) ** 2 + ((x - centre) / 9) ** 2 + ((z - 20) / 15) ** 2 < 1
    hu = np.where(body, 40, -1000) + np.where(lungs, -850, 0)
    hu[:, 44:50, 30:35] = 500
    noisy = hu + np.random.default_rng(1).normal(0, 12, hu.shape) * body
    positions = np.stack([np.full(40, -192.0), np.full(40, -192.0), 3.0 * np.arange(40)], axis=1)
    return Scan(np.rint(noisy).astype(np.int16), lungs, positions, 6.0, 3.0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_a_tilted_line_leans_by_ten_degrees_and_no_corner_shows() -> None:
    image = np.full((200, 240), 0.5, np.float32)
    image[:, 118:122] = 1
    turned, beside = quality_degrade.tilt(image, 10)
    assert turned.shape == beside.shape
    assert turned.min() > 0.4  # a corner would be 0, or smeared from the border
    rows = np.array([5, turned.shape[0] - 6])
    columns = [np.flatnonzero(turned[r] > 0.75).mean() for r in rows]
    assert degrees(atan2(columns[1] - columns[0], rows[1] - rows[0])) == pytest.approx(10, abs=0.5)
    assert np.flatnonzero(beside[5] > 0.75).mean() == pytest.approx(np.flatnonzero(beside[-5] > 0.75).mean())


@pytest.mark.parametrize("angle", [1, 10, 30, 45])
def test_the_inscribed_rectangle_stands_inside_and_touches(angle: float) -> None:
    rows, columns = 200, 300
    height, width = quality_degrade.inscribed(rows, columns, angle)
    turned = quality_degrade.rotate(np.ones((rows, columns)), angle, reshape=True, order=1, mode="constant")
    inner = quality_degrade.middle(turned, height - 4, width - 4)
    assert inner.min() > 0.99
    assert quality_degrade.middle(turned, height + 6, width + 6).min() < 0.5


@pytest.mark.parametrize("side", quality_degrade.SIDES)
def test_a_cut_of_ten_millimetres_is_ten_millimetres(exposed: radiograph.Radiograph, side: str) -> None:
    lungs, mm = exposed.right | exposed.left, exposed.pixel_mm
    lost = quality_degrade.cut(lungs, lungs, side, mm, 10.0)
    assert lost is not None
    axis = 0 if side in {"top", "bottom"} else 1
    extent = [np.ptp(np.flatnonzero(m.any(axis=1 - axis))) * mm for m in (lungs, lost)]
    assert extent[0] - extent[1] == pytest.approx(10, abs=mm / 2 + 1e-6)
    assert quality_degrade.margins(lost)[side] == 0
    assert quality_degrade.cut(lost, lost, side, mm, 10.0) is None  # cut before: not counted


def test_two_per_cent_of_the_lung_field_are_clipped(
    exposed: radiograph.Radiograph, grey: quality_degrade.Image
) -> None:
    lungs = exposed.right | exposed.left
    assert np.mean(quality_degrade.clip(grey, lungs, 0.02)[lungs] == 0) == pytest.approx(0.02, abs=0.005)
    for low in (False, True):
        stored = exposed.array.max() - exposed.array if low else exposed.array
        made = quality_degrade.stretch(stored, lungs, 0.02, bright_is_low=low)
        black = stored.max() if low else stored.min()
        assert np.mean(made[lungs] == black) == pytest.approx(0.02, abs=0.005)


def test_noise_is_twice_what_it_was(exposed: radiograph.Radiograph, rng: np.random.Generator) -> None:
    made = quality_degrade.noise(exposed.array, 2.0, 4095, rng)
    level = quality_degrade.noise_level(exposed.array)
    assert quality_degrade.noise_level(made) == pytest.approx(2 * level, rel=0.05)
    assert quality_degrade.noise_level(quality_degrade.noise(exposed.array, 1.0, 4095, rng)) == pytest.approx(
        level, rel=0.01
    )


def test_blur_and_motion_spread_a_point_by_what_they_say(rng: np.random.Generator) -> None:
    point = np.zeros((101, 101), np.float32)
    point[50, 50] = 1
    at = np.mgrid[:101, :101] - 50
    spread = quality_degrade.blur(point, 0.5, 2.0)
    assert np.sqrt((spread * at[0] ** 2).sum()) * 0.5 == pytest.approx(2.0, rel=0.02)
    path = quality_degrade.motion(point, 0.5, 8.0, rng)
    assert np.sqrt((path * (at[0] ** 2 + at[1] ** 2)).sum() / path.sum()) * 0.5 == pytest.approx(8 / 12**0.5, rel=0.1)


def test_turns_go_clockwise_and_the_mirror_exchanges_left_and_right() -> None:
    image = np.array([[1, 2], [3, 4]], np.float32)
    assert quality_degrade.turn(image, 90).tolist() == [[3, 1], [4, 2]]
    assert quality_degrade.turn(image, 180).tolist() == [[4, 3], [2, 1]]
    assert quality_degrade.turn(image, 270).tolist() == [[2, 4], [1, 3]]
    assert quality_degrade.mirror(image).tolist() == [[2, 1], [4, 3]]


def test_an_8_bit_copy_comes_back_as_it_was_shown(grey: quality_degrade.Image, tmp_path: Path) -> None:
    subject = Subject("radiograph", "nih", "7", "a", ("a.jpg",), "AP")
    image = read_instance(quality_cases.write_radiograph(subject, Variant("clean", "", grey), tmp_path))
    assert np.abs(load_radiograph(image).shown - grey).max() < 1 / 250
    assert load_radiograph(image).spacing is None
    (piece,) = registry.subjects("cxr_quality", group([image])[0])
    assert piece[0] == image.sop_instance_uid


def test_slices_are_lacking_repeated_or_exchanged(scan: Scan, rng: np.random.Generator) -> None:
    low, high = scan.reach
    assert set(np.diff(quality_degrade_ct.dropped(scan, rng, 1).positions[:, 2])) == {3.0, 6.0}
    twice = quality_degrade_ct.duplicated(scan, rng, 1)
    (at,) = np.flatnonzero(np.diff(twice.positions[:, 2]) == 0)
    assert low < at < high
    assert np.array_equal(twice.array[at], twice.array[at + 1])
    exchanged = quality_degrade_ct.shuffled_positions(scan, rng, 40.0)
    a, b = np.flatnonzero((exchanged.array != scan.array).any(axis=(1, 2)))
    assert (b - a) * scan.step_mm == pytest.approx(40, abs=1.5)
    assert np.array_equal(exchanged.array[[a, b]], scan.array[[b, a]])
    assert np.array_equal(exchanged.positions, scan.positions)


def test_ends_are_cut_by_what_they_say(scan: Scan, rng: np.random.Generator) -> None:
    low, high = scan.reach
    top, bottom = quality_degrade_ct.cut_top(scan, rng, 20.0), quality_degrade_ct.cut_bottom(scan, rng, 20.0)
    assert (high - (len(top.array) - 1)) * scan.step_mm == pytest.approx(20, abs=1.5)
    assert (len(scan.array) - len(bottom.array) - low) * scan.step_mm == pytest.approx(20, abs=1.5)
    narrow = quality_degrade_ct.truncation(scan, rng, 12.0)
    columns = [np.ptp(np.flatnonzero(s.lungs.any(axis=(0, 1)))) for s in (scan, narrow)]
    assert columns[0] - columns[1] == 4
    assert narrow.array.shape[2] == columns[1] + 1
    x, y = (round((narrow.positions[0, axis] - scan.positions[0, axis]) / scan.pixel_mm) for axis in (0, 1))
    middle, width = narrow.array.shape[1] // 2, narrow.array.shape[2]
    assert np.array_equal(narrow.array[:, middle], scan.array[:, y + middle, x : x + width])


def test_values_are_changed_as_they_say(scan: Scan, rng: np.random.Generator) -> None:
    level = quality_degrade_ct.noise_level(scan.array, scan.pixel_mm)
    noisy = quality_degrade_ct.noise(scan, rng, 2.0)
    assert quality_degrade_ct.noise_level(noisy.array, 6.0) == pytest.approx(2 * level, rel=0.15)
    thick = quality_degrade_ct.thick(scan, rng, 10.0)
    assert thick.thickness_mm == 12
    assert thick.step_mm == 12
    assert np.array_equal(thick.array[2], np.rint(scan.array[8:12].mean(axis=0)))
    rods = quality_degrade_ct.metal(scan, rng, 14.0, 300.0)
    assert (rods.array == quality_degrade_ct.HIGHEST).any(axis=(1, 2)).all()
    away = rods.array.astype(int) - scan.array
    assert 250 < np.abs(away[rods.array < quality_degrade_ct.HIGHEST]).max() <= 301
    assert quality_degrade_ct.without_lungs(scan, rng).array[scan.lungs].min() > -50
    moved = quality_degrade_ct.motion(scan, rng, 12.0)
    changed = np.flatnonzero((moved.array != scan.array).any(axis=(1, 2)))
    assert changed.size == 13
    assert np.ptp(changed) == 12


def test_a_scan_comes_back_from_its_files(scan: Scan, rng: np.random.Generator, tmp_path: Path) -> None:
    head = next(phantom.datasets(phantom.build(1, lesions="none", slices=2, matrix=32)))
    acquired = quality_cases_ct.Acquired(scan, (head,) * len(scan.array))
    files = quality_degrade_ct.offset(quality_degrade_ct.shuffled_files(scan, rng), rng, 60.0)
    paths = quality_cases_ct.write_scan(files, acquired, ("a",), tmp_path)
    (study,) = group([read_instance(p) for p in paths])
    assert [i.header.InstanceNumber for i in study.instances] != sorted(
        i.header.InstanceNumber for i in study.instances
    )
    volume = load_volume(build_stack(study.series[0].instances))
    assert np.array_equal(volume.array, scan.array + 60.0)


def _record(defect: str, image: str, codes: dict[str, str], value: float, refused: list[str] | None = None) -> Record:
    kind = "other" if defect == "non-chest" else "radiograph"
    return Record(
        kind, "nih", image, image, defect, "", False, "C", codes, {"clipped_percent": value}, [], refused or []
    )


def test_what_is_counted() -> None:
    records = [_record("clean", str(n), {}, 0.1 * n) for n in range(10)]
    records += [_record("clipping", str(n), {"values-clipped": "C" if n else "B"}, 0.55 + 0.1 * n) for n in range(10)]
    records += [
        _record("non-chest", "x", {}, 0, ["cxr-other", "not_applicable"]),
        _record("non-chest", "y", {}, 0, ["a", "unable"]),
        _record("non-chest", "z", {}, 0),
    ]
    records[3] = dataclasses.replace(records[3], codes={"values-clipped": "D", "else": "B"})
    made = quality_table.figures(records)
    rows = {row["name"]: row for row in made["groups"][0]["defects"]}
    clipping = rows["clipping"]
    assert (clipping["recognised"], clipping["named"], clipping["false"]) == (0.9, 1.0, 0.1)
    better = sum(0.55 + 0.1 * b > 0.1 * g for b in range(10) for g in range(10)) / 100
    assert clipping["auc"] == pytest.approx(better)
    assert clipping["auc_95"][0] < better < clipping["auc_95"][1]
    assert (rows["non-chest"]["recognised"], rows["non-chest"]["unable"]) == (0.5, {"a": 1})
    assert (made["clean"][0]["alarm"], made["clean"][0]["codes"]) == (1, {"values-clipped": 1})
    assert "**weak**" in quality_table.markdown(made)
    assert quality_table.wilson(9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-3)


def test_every_defect_of_the_file_is_made_and_has_an_answer() -> None:
    radiographs = {row["name"] for row in DEFECTS["radiograph"]["defect"]}
    assert radiographs == set(quality_table.ANSWERS["radiograph"])
    slices = {row["name"] for row in DEFECTS["ct"]["defect"]}
    assert slices - quality_table.HARMLESS == set(quality_table.ANSWERS["ct"])
    assert slices - {"non-chest"} == set(quality_degrade_ct.DEFECTS)


def test_images_that_were_not_clean_as_they_came_stand_apart() -> None:
    told = {"left-side-cut": "C"}

    def record(name: str, **said: str) -> Record:
        return dataclasses.replace(_record("clean", name, said, 0.0), source="ieee8023")

    seen_cut = next(row["file"] for row in quality_table.SEEN if "ieee8023" in row["file"])
    leaning = next(f for f, deg in quality_table.OWN_TILT.items() if "ieee8023" in f and abs(deg) > 5)
    apart = [record(Path(f).stem, **told) for f in (seen_cut, leaning)] + [record("drawn", **told)]
    good = [record(f"{n}", **(told if n == 0 else {})) for n in range(4)]
    masks = {("ieee8023", "drawn"): {"left": 2.0, "top": 40.0}, ("ieee8023", "0"): {"left": 9.0, "top": 40.0}}
    (row, _) = quality_table.clean([*apart, *good], masks)
    assert (row["alarm"], row["images"], row["found_clean"]) == (4, 7, [1, 4])


def test_a_tilt_that_undoes_that_of_the_patient_is_none() -> None:
    leaning = next(f for f, deg in quality_table.OWN_TILT.items() if deg > 5)
    _, source, name = leaning.removesuffix(".jpg").split("/")
    tilts = [
        dataclasses.replace(_record("tilt", name, said, 0.0), source=source, detail=detail)
        for detail, said in (("+10", {"image-tilted": "C"}), ("-10", {}))
    ]
    assert quality_table.figures(tilts)["really_tilted"] == [1, 1]
