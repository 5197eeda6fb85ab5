"""Training goes on where it stopped, figures know what they do not know, shortcuts are seen, and a model reaches the PACS's objects."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from click.testing import CliRunner  # noqa: E402 - after the question whether torch is there
from pydicom import dcmread  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402

from dicom_io.model import Instance, Series  # noqa: E402
from node.cli import cli  # noqa: E402
from pipeline import registry  # noqa: E402
from pipeline.chest_ct.recipe import classes, data, export, figures, lesions, shortcuts, statistics  # noqa: E402
from pipeline.chest_ct.recipe.__main__ import main  # noqa: E402
from pipeline.chest_ct.recipe.data import Case  # noqa: E402
from pipeline.chest_ct.recipe.export import Said  # noqa: E402
from pipeline.chest_ct.recipe.figures import Seen, Told  # noqa: E402
from pipeline.chest_ct.recipe.prepare import Prepared, Rules  # noqa: E402
from pipeline.chest_ct.recipe.settings import SettingsWrong, settings  # noqa: E402
from pipeline.chest_ct.recipe.train import Plan  # noqa: E402
from pipeline.result import Mask  # noqa: E402
from tests.pipeline.recipe import makers  # noqa: E402

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")
Array = np.ndarray[Any, Any]


def small() -> dict[str, Any]:
    said = settings()
    said["lesion"] |= {"patch": [16, 16, 16], "channels": [4, 8], "check_patches": 2, "batch": 2, "rate": 0.01}
    said["classes"] |= {"size": [8, 12, 12], "init_features": 4, "growth_rate": 4, "blocks": [1, 1], "batch": 3}
    said["judge"] |= {"bootstrap": 200}
    return said


def one(n: int, klass: str = "", *, site: str = "here", kernel: str = "B", image: Array | None = None) -> Prepared:
    """Return a series as prepared: a bright block in noise; what the classifier sees is the noise alone."""
    rng = np.random.default_rng(n)
    header = Dataset()
    header.ConvolutionKernel, header.SOPInstanceUID = kernel, f"1.{n}"
    series = Series(f"1.2.{n}", (Instance(Path("none"), "", "", header),))
    lesion = np.zeros((20, 24, 24), np.uint8)
    lesion[5:13, 8 : 14 + n % 3, 6:14] = 1
    hu = (rng.normal(-850, 30, lesion.shape) + 900.0 * lesion).astype(np.int16)
    whole = rng.normal(-600, 80, (8, 12, 12)).astype(np.int16) if image is None else image
    case = Case(series, f"P{n}", "train", site, klass, Mask.of(lesion), f"{n}")
    return Prepared(case, hu, lesion, np.ones_like(lesion), whole, 0.001, Rules("", 0.0, 0.4))


def plan(folder: Path, steps: int, **more: Any) -> Plan:
    return Plan(**{"steps": steps, "check_every": 2, "rate": 0.01, "seed": 3, "device": CPU, "checkpoint": folder / "c.pt", "learned_from": "x", **more})  # fmt: skip


def test_training_that_was_stopped_ends_with_the_same_weights(tmp_path: Path) -> None:
    said, several, lines = small(), [one(n) for n in range(3)], []
    whole = lesions.train(several, several, said, plan(tmp_path / "a", 4, checkpoint=tmp_path / "a.pt"), lines.append)

    class Stopped(Exception):  # noqa: N818 - a person did it
        pass

    def stop(line: str) -> None:
        if line.startswith("step 2"):
            raise Stopped

    with pytest.raises(Stopped):
        lesions.train(several, several, said, plan(tmp_path, 4), stop)
    resumed = lesions.train(several, several, said, plan(tmp_path, 4), lines.append)
    assert any("goes on after step 2" in line for line in lines)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    with pytest.raises(SettingsWrong, match="other data"):
        lesions.train(several, several, said, plan(tmp_path, 4, learned_from="y"), lines.append)


def test_patches_are_lesion_where_the_image_is_and_reach_beyond_small_volumes() -> None:
    said = small()
    said["lesion"] |= {"patch": [24, 16, 32], "noise_hu": 0.0, "shift_hu": 0.0}
    patches = lesions.Patches([one(n) for n in range(3)], said)
    seen = 0
    for n in range(20):
        image, truth = patches.draw(np.random.default_rng(n), change=True)
        assert image.shape == truth.shape == (24, 16, 32)
        assert np.array_equal(image > -500, truth > 0)
        assert (image[20:] == -1000).all()
        seen += bool(truth.any())
    assert seen >= 10


def table_of(kinds: Sequence[str], n: int, *, marked: bool) -> list[Prepared]:
    """Return series of classes that nothing but the border (bright on one face) or the site tells apart."""
    out = []
    for k in range(n):
        kind = k % len(kinds)
        rng = np.random.default_rng(k)
        image = rng.normal(-600, 80, (8, 12, 12)).astype(np.int16)
        if marked:
            image[:, -1, :] = (-600, 0, 600)[kind]
        out.append(one(1000 + k, kinds[kind], image=image, kernel="ABC"[kind] if marked else "A"))
    return out


@pytest.mark.parametrize("marked", [True, False])
def test_baselines_see_border_and_site_where_they_tell_and_only_there(marked: bool) -> None:
    said = small()
    names = classes.names(said)
    learn, held = table_of(names, 60, marked=marked), table_of(names, 90, marked=marked)[60:]
    kinds = classes.truth(learn, said)
    found = shortcuts.baselines(learn, kinds, held, 3, said["shortcuts"])
    areas = {k: statistics.mean_area(v, classes.truth(held, said)) for k, v in found.items()}
    for name in ("border", "site"):
        assert (areas[name] > 0.95) == marked, (name, areas)  # type: ignore[operator]
    truth = classes.truth(held, said)
    good = np.full((30, 3), 0.1) + 0.7 * np.eye(3)[truth]
    report = figures.of_classes(Told(held, truth, good, good, found), names, [0.5] * 3, said)
    assert ("shortcut" in report.obstacles) == marked
    assert report.find("area", "viral") == (1.0, 1.0, 1.0, 30)


def seen(n: int, mine: float, rules: float | None, density: float | None, cm3: float = 10.0) -> Seen:
    return Seen(f"1.{n}", f"P{n}", "AB"[n % 2], cm3, cm3 * 1.1 if mine else 0.0, mine, rules, density)


def test_a_network_is_given_away_only_where_it_beats_rules_and_density() -> None:
    said, rng = small(), np.random.default_rng(1)
    better = [seen(n, 0.8 + rng.normal(0, 0.03), 0.6, 0.3) for n in range(12)]
    good = figures.of_lesions([*better, Seen("1.99", "P99", "A", 0.0, 0.05, 0.0, None, None)], said)
    assert good.obstacles == []
    assert good.find("nothing_marked", "network")[:1] == (1.0,)  # type: ignore[index]
    assert good.find("dice", "site: B").of == 6  # type: ignore[union-attr]
    error = good.find("volume_error_percent", "network")
    assert error is not None
    assert error.value == pytest.approx(10)
    same = figures.of_lesions([seen(n, 0.8 + rng.normal(0, 0.05), 0.8, 0.3) for n in range(12)], said)
    assert same.obstacles == ["rules"]
    grey = figures.of_lesions([seen(n, 0.8, 0.6, 0.78) for n in range(12)], said)
    assert grey.obstacles == ["shortcut"]
    alone = figures.of_lesions([seen(0, 0.9, 0.1, 0.1)], said)  # of one patient nothing is known
    assert alone.obstacles == ["rules"]
    unknown = figures.of_lesions([seen(n, 0.9, None, None) for n in range(12)], said)
    assert unknown.obstacles == ["rules", "shortcut"]
    person = Said("x", "1", "none", accepted={"rules": "wanted", "shortcut": "  "})
    assert export.lacking(unknown, person) == ["shortcut"]


def test_intervals_draw_patients_and_areas_count_ties_half() -> None:
    values = [0.0] * 50 + [1.0]
    interval = statistics.bootstrap(["one"] * 50 + ["other"], statistics.mean_of(values), 500)
    assert interval is not None
    assert (interval.low, interval.high, interval.of) == (0.0, 1.0, 2)
    alone = statistics.bootstrap(["one"] * 9, statistics.mean_of(values[:9]), 500)
    assert alone is not None
    assert math.isinf(alone.high)
    positive = np.array([True, True, False, False])
    assert statistics.area(np.array([0.9, 0.5, 0.5, 0.1]), positive) == 0.875
    assert statistics.area(np.array([1.0, 2.0]), np.array([True, True])) is None
    share = statistics.wilson(0, 10)
    assert share is not None
    assert (share.low, round(share.high, 3)) == (0.0, 0.278)  # Wilson 1927 by hand


def test_the_temperature_mends_what_is_too_sure() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (3000, 3))
    kinds = np.array([rng.choice(3, p=row) for row in classes.softmax(logits)])
    found = classes.temperature(4 * logits, kinds)
    assert found == pytest.approx(4, rel=0.1)
    after, before = classes.softmax(4 * logits, found), classes.softmax(4 * logits)
    assert statistics.calibration_error(after, kinds) < 0.03
    assert statistics.calibration_error(before, kinds) > 0.1
    assert statistics.brier(after, kinds) < statistics.brier(before, kinds)
    assert classes.operating_points(np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]), np.array([0, 0, 1])) == [0.55, 0.45]


@pytest.mark.parametrize("said", [["--name", "Ward 7"], ["--version", "one two"], ["--provenance", "x" * 2100]])
def test_what_would_not_fit_into_a_card_is_told_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], said: list[str]
) -> None:
    (tmp_path / "in").mkdir()
    given = [str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--licence", "none"]
    assert main([*given, *said]) == 2
    assert "The model's description" in capsys.readouterr().err
    assert main(given) == 2  # an empty folder
    assert "too little to learn from" in capsys.readouterr().err


# From phantoms to the objects that a PACS gets.

QUICK = """
[series]
slices = 10
thickness_mm = 12.0
[lesion]
spacing = [4.0, 4.0, 4.0]
patch = [{patch}, {patch}, {patch}]
channels = [{channels}]
steps = {steps}
batch = 1
rate = 0.01
check_every = {every}
check_patches = 8
names = ["*lesion*"]
[classes]
size = [32, 40, 40]
init_features = 8
growth_rate = 8
blocks = [2, 2]
steps = {class_steps}
check_every = {class_every}
calibrate_least = {calibrate}
[judge]
bootstrap = 300
"""
CHOICES = {"normal": "none", "viral": "clear", "other": "standard"}


def hospital(folder: Path, counts: dict[str, int], **more: Any) -> None:
    """Write phantoms of every class for every side, with SEG labels of what ails them, and the table."""
    split, rows, number = settings()["split"], ["series,class"], 0
    for klass, choice in CHOICES.items():
        left = dict(counts)
        while any(left.values()):
            number += 1
            patient = f"PHANTOM-{number}"
            side = data.side(patient, split)
            if not left[side]:
                continue
            left[side] -= 1
            place = folder / patient
            made = makers.chest(place, number, lesions=choice, **more)
            rows.append(f"{makers.images(place)[0].SeriesInstanceUID},{klass}")
            if choice != "none":
                kinds = {n for n, o in enumerate(made.objects, 1) if o.kind != "effusion"}
                makers.seg(place, np.isin(made.lesion, [*kinds]), place / "seg.dcm")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")


def in_pacs(folder: Path, model: Path, chest: Path) -> dict[str, Any]:
    """Install a model, run it on a study as a person does; return the job."""
    folder.mkdir()
    config = folder / "node.toml"
    config.write_text(f'[node]\ndata_dir = "{folder / "data"}"\n[worker]\ndevice = "cpu"\n')

    def call(*arguments: str) -> Any:
        done = CliRunner().invoke(cli, [*arguments, "--json", "--config", str(config)], standalone_mode=False)
        assert done.exception is None, done.exception
        assert done.return_value == 0, done.output
        return json.loads(done.stdout)

    call("models", "add", str(model))
    document = call("process", str(chest), "--out", str(folder / "out"), "--pipeline", model.name)
    registry.install(folder / "nothing")
    (job,) = document["studies"][0]["jobs"]
    assert job["outcome"] == "result"
    return dict(job)


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_from_labelled_phantoms_to_objects_in_the_pacs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hospital(tmp_path / "in", {"train": 3, "check": 1, "held out": 2}, thickness_mm=5.0, matrix=96)
    quick = tmp_path / "quick.toml"
    quick.write_text(QUICK.format(patch=64, channels="8, 16, 32", steps=300, every=50, class_steps=60, class_every=20, calibrate=3))  # fmt: skip
    table = tmp_path / "in" / "labels.csv"
    said = [str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--table", str(table), "--settings", str(quick), "--licence", "Apache-2.0"]  # fmt: skip
    refused = main(said)
    capsys.readouterr()
    accepted = main([*said, "--accept-worse", "phantoms", "--accept-shortcut", "phantoms"])
    printed = capsys.readouterr().out
    assert accepted == 0, printed
    assert refused in {0, 1}
    assert "goes on after step 300" in printed  # nothing is trained twice
    lesion = json.loads((tmp_path / "out" / "figures-lesion.json").read_text())
    dice = {(f["what"], f["of"]): f["value"] for f in lesion["figures"]}
    assert dice["dice", "network"] > 0.5, lesion["figures"]
    for kind in ("lesion", "classes"):
        for tag in ("en", "zh-CN"):
            card = (tmp_path / "out" / f"demo_site_{kind}" / f"CARD.{tag}.md").read_text(encoding="utf-8")
            assert {"en": "Demonstration, not for use", "zh-CN": "演示，不得使用"}[tag] in card
    held = next(p for p in (tmp_path / "in").iterdir() if (p / "seg.dcm").exists() and data.side(p.name, settings()["split"]) == "held out")  # fmt: skip
    job = in_pacs(tmp_path / "a", tmp_path / "out" / "demo_site_lesion", held / "images")
    files = {row["kind"]: tmp_path / "a" / "out" / row["path"] for row in job["artifacts"]}
    found = np.asarray(dcmread(files["seg"]).pixel_array).sum()
    assert 0.5 < found / np.asarray(dcmread(held / "seg.dcm").pixel_array).sum() < 2.0
    job = in_pacs(tmp_path / "b", tmp_path / "out" / "demo_site_classes", held / "images")
    uid = makers.images(held)[0].SeriesInstanceUID
    said = next(
        r["said"]
        for r in json.loads((tmp_path / "out" / "figures-classes.json").read_text())["series"]
        if r["series"] == uid
    )
    assert job["findings"]
    for finding in job["findings"]:  # the runtime gives what the figures were taken from
        assert finding["measurements"][0]["value"] / 100 == pytest.approx(said[finding["tracking_id"]], abs=0.01)
