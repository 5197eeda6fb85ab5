"""The recipe of the network of `cxr_quality`: truth of the views that it trains on, sides of the split, and one run from end to end."""

import csv
import hashlib
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from phantom import pictures

torch = pytest.importorskip("torch")

from pipeline.quality.cxr.model import put_upright  # noqa: E402 - what imports torch comes after the question whether it is there
from pipeline.quality.cxr.network import INNER, SIDE  # noqa: E402
from pipeline.quality.cxr.recipe import data, figures, views  # noqa: E402

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[3]


def drawing() -> tuple[np.ndarray, np.ndarray]:
    """Return a picture that lies like no turn of itself, and masks of two lungs."""
    rng = np.random.default_rng(5)
    picture = np.kron(rng.integers(40, 220, (7, 7)), np.ones((32, 32))).astype(np.uint8)
    lungs = np.zeros((2, 224, 224), np.bool_)
    lungs[0, 40:180, 30:90] = lungs[1, 60:170, 130:200] = True
    return picture, lungs


@pytest.mark.parametrize("lies", range(8))
def test_turning_as_the_views_do_is_undone_as_the_model_does(lies: int) -> None:
    picture, lungs = drawing()
    source = views.pool([picture], [lungs], np.array([True]))
    matrix = np.zeros((1, 2, 3))
    matrix[0, :, :2] = views.turned(lies) * (data.LONG / INNER)
    canvas = views._warped(source.pictures[:, None], views._grid(matrix, SIDE))[0, 0].numpy()
    upright = np.zeros((1, 2, 3))
    upright[0, :, :2] = np.eye(2) * (data.LONG / INNER)
    straight = views._warped(source.pictures[:, None], views._grid(upright, SIDE))[0, 0].numpy()
    assert np.abs(put_upright(canvas, lies) - straight).max() < 0.01


def test_a_positive_tilt_is_clockwise() -> None:
    at_right = views.rotation(10.0).T @ np.array([1.0, 0.0])  # where a point on the right of the straight picture goes
    assert at_right[1] > 0.1  # rows grow downwards


def test_lungs_beyond_a_border_are_unknown_only_where_they_meet_it() -> None:
    picture, lungs = drawing()
    lungs[0, 40:180, :30] = True  # meets the left border
    source = views.pool([picture], [lungs], np.array([True]))
    known = source.known[0].numpy() > 0
    middle, first, last = data.BASE // 2, 5, data.BASE - 5
    assert known[middle, middle]
    assert not known[middle, first]
    assert known[middle, last]
    assert known[first, middle]
    assert not known[first, first]


def test_views_keep_left_and_right_lung_apart_when_mirrored() -> None:
    picture, lungs = drawing()
    source = views.pool([picture] * 64, [lungs] * 64, np.ones(64, np.bool_))
    made = views.take(source, np.arange(64), np.random.default_rng(3))
    for n in range(64):
        left, right = made.lungs[n].numpy() * made.known[n].numpy()
        if made.orientation[n] in {0, 4} and left.sum() > 50 and right.sum() > 50:
            assert np.argwhere(left > 0.5)[:, 1].mean() < np.argwhere(right > 0.5)[:, 1].mean()


def test_nobody_is_on_two_sides_and_only_named_sources_are_trained_on() -> None:
    split = data.settings()["split"]
    fixed = tomllib.loads((ROOT / "benchmarks" / "quality_defects.toml").read_text(encoding="utf-8"))["split"]
    assert split["tuned_below"] == fixed["tuned_below"]
    assert not set(split["sources"]) & set(fixed["only_figures"])
    for n in range(300):
        byte = hashlib.sha256(f"nih/{n}".encode()).digest()[0]
        assert (data.side("nih", str(n), split) == "figures") == (byte >= fixed["tuned_below"])
        assert data.side("openist", str(n), split) == "figures"


def test_the_interval_is_wilsons() -> None:
    assert figures.Count(9, 10).interval() == pytest.approx((0.596, 0.982), abs=1e-3)
    assert figures.Count(0, 0).interval() == (0.0, 1.0)


@pytest.mark.long
def test_the_recipe_runs_from_pictures_to_weights_that_load(tmp_path: Path) -> None:
    table = pictures.write(tmp_path / "cxr", count=3, first_seed=40, size=96)
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    split = data.settings()["split"]
    some = {
        side: [str(n) for n in range(80) if data.side("nih", str(n), split) == side] for side in ("train", "figures")
    }
    with table.open("w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, pictures.COLUMNS)
        out.writeheader()
        for n, row in enumerate(rows):
            patient = some["figures" if n == 0 else "train"][n]
            paths = {"file": f"cxr/{row['file']}", "lung_mask": f"cxr/{row['lung_mask']}"}
            out.writerow(row | paths | {"source": "nih", "patient_id": patient})
    command = [sys.executable, "-m", "pipeline.quality.cxr.recipe", str(tmp_path), "--steps", "1", "--threads", "1"]
    subprocess.run([*command, "--out", str(tmp_path / "out")], check=True, cwd=ROOT, capture_output=True)
    again = [*command, "--start", str(tmp_path / "out" / "weights.safetensors"), "--out", str(tmp_path / "again")]
    subprocess.run(again, check=True, cwd=ROOT, capture_output=True)
    for folder in ("out", "again"):
        about = tomllib.loads((tmp_path / folder / "model.toml").read_text(encoding="utf-8"))
        raw = (tmp_path / folder / "weights.safetensors").read_bytes()
        assert about["sha256"] == hashlib.sha256(raw).hexdigest()
        assert {f["what"] for f in about["figure"]} >= {"orientation 4", "inversion", "tilt", "cut top", "non-chest"}
