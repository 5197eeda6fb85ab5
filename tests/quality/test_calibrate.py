"""``quality calibrate``: a folder in, a file out that a person reviews and the node takes."""

import gc
import json
import shutil
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from config.settings import Pipelines
from dicom_io.device import Device
from dicom_io.model import Instance
from node.cli.check_config import command as check_config
from node.cli.common import settings_of
from node.cli.quality import command
from node.quality.calibrate import Calibration, calibrate, document, limits_file
from node.quality.learn import Image, learn
from phantom.radiograph import Exposure, dataset, expose
from pipeline import registry
from pipeline.api import Pipeline
from pipeline.quality.limits import SCHEMA as LIMITS_SCHEMA
from pipeline.quality.limits import Limits
from tests.cli.documents import valid

pytestmark = pytest.mark.unit
COUNT = 3
NOW = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return radiographs of one device and many patients, and a file that is none."""
    into = tmp_path_factory.mktemp("site")
    image = dataset(expose(Exposure(5, lesions="none", rows=352, columns=336, step_mm=4.0)))
    image.StationName, image.ViewPosition, image.TargetExposureIndex = 'DX "1"', "PA", 300
    for n in range(COUNT):
        image.PatientID, image.ExposureIndex = f"SECRET{n}", 300 + 10 * n
        image.StudyInstanceUID, image.SOPInstanceUID = f"2.25.4711{n:03d}", f"2.25.4712{n:03d}"
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.save_as(into / f"{n:02d}.dcm", enforce_file_format=True)
    (into / "broken.dcm").write_bytes(b"no DICOM")
    return into


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, ["calibrate", *map(str, arguments)], standalone_mode=False)


def test_what_was_learned_becomes_limits_that_the_node_takes(tmp_path: Path) -> None:
    device = Device("Maker\n", "M\\1", 'DX "1"')
    images = [
        Image(
            "cxr_quality", device, {"view": "PA", "kernel": ""}, f"s{n}", f"p{n}", "A",
            {"deviation_index": n / 10 - 3, "sharpness_blur": 0.3, "noise_percent": 0.3 + n / 1000},
        )
        for n in range(60)
    ]  # fmt: skip
    found = Calibration(learn(images, 50), 60, 60, 60, 60, {"not-dicom": 1}, "sha256:" + "0" * 64)
    valid(document(found, tmp_path / "x", 50, "1"))
    out, config = tmp_path / "limits.toml", tmp_path / "node.toml"
    out.write_text(limits_file(found, 50, NOW, "A Physicist"), encoding="utf-8")
    data = tomllib.loads(out.read_text(encoding="utf-8"))
    assert (data["by"], data["reviewed_by"], data["patients"]) == ("A Physicist", "", 60)
    assert {"exposure-above-target", "exposure-below-target", "image-blurred", "image-noisy"} == {
        row["code"] for row in data["limit"]
    }
    config.write_text(f'[pipeline.cxr_quality]\nlimits = "{out}"\n', encoding="utf-8")
    limits = Limits.read("cxr_quality", settings_of(config).pipeline.cxr_quality.limits)
    assert len(limits.site) == len(data["limit"]) == len(found.changes)
    assert {change.when["station"] for change in limits.site} == {'DX "1"'}


def test_a_folder_becomes_a_file_without_any_patient(folder: Path, tmp_path: Path) -> None:
    """Three images are too few: nothing is changed, and the file says so."""
    out = tmp_path / "limits.toml"
    done = run(folder, "--out", out, "--least", 20, "--by", "A Physicist", "--json", "-q")
    assert done.return_value == 3, done.output
    said: dict[str, Any] = valid(json.loads(done.stdout))
    assert (said["images"], said["studies"], said["patients"], said["changed"]) == (COUNT, COUNT, COUNT, 0)
    assert said["refused"] == {"not-dicom": 1}
    text = out.read_text(encoding="utf-8")
    assert f"too few images: {COUNT} of at least 20" in text
    assert not any(word in text + done.stdout for word in ("SECRET", "2.25.4711", "2.25.4712")), "a patient is in it"
    assert "limit" not in tomllib.loads(text)


def test_the_same_images_give_the_same_file(folder: Path, tmp_path: Path) -> None:
    turned = tmp_path / "turned"
    turned.mkdir()
    few = sorted(folder.iterdir())[:2]
    for n, file in enumerate(reversed(few)):
        shutil.copyfile(file, turned / f"{n:02d}.dcm")
    load = registry.shelf(Pipelines(), "cpu")
    told: list[tuple[str, int, int]] = []
    files = [
        limits_file(calibrate(places, load, 20, lambda *said: told.append(said)), 20, NOW, "x")
        for places in (few, [turned])
    ]
    assert files[0] == files[1]
    assert told[-1] == ("measured", 2, 2)


def test_only_the_headers_of_one_study_are_held_at_a_time(folder: Path) -> None:
    shelf = registry.shelf(Pipelines(), "cpu")
    held: list[int] = []

    def load(name: str) -> Pipeline:
        uids = {o.sop_instance_uid for o in gc.get_objects() if type(o) is Instance}
        held.append(len({uid for uid in uids if uid.startswith("2.25.4712")}))
        return shelf(name)

    assert calibrate([folder], load, 20, lambda *_: None).images == COUNT
    assert held == [1] * COUNT


def test_nonsense_is_refused(folder: Path, tmp_path: Path) -> None:
    there = tmp_path / "reviewed.toml"
    there.write_text("x", encoding="utf-8")
    for arguments, says in (
        ((folder, "--out", there), "there already"),
        ((folder, "--out", tmp_path / "a", "--least", 5), "fewer than 20"),
        ((tmp_path / "none", "--out", tmp_path / "a"), "no such file"),
    ):
        done = run(*arguments)
        assert isinstance(done.exception, click.UsageError)
        assert says in str(done.exception)
    assert there.read_text(encoding="utf-8") == "x"


def test_limits_that_nobody_has_reviewed_are_warned_of(tmp_path: Path) -> None:
    out, config = tmp_path / "limits.toml", tmp_path / "node.toml"
    config.write_text(f'[pipeline.cxr_quality]\nlimits = "{out}"\n', encoding="utf-8")
    for by, warned in (("", True), ("A Physicist", False)):
        out.write_text(f'schema = "{LIMITS_SCHEMA}"\nreviewed_by = "{by}"\n', encoding="utf-8")
        done = CliRunner().invoke(check_config, ["--config", str(config)], standalone_mode=False)
        assert done.return_value == 0
        assert ("reviewed_by" in done.output) == warned
