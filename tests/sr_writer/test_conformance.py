"""Other people's tools judge the objects."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from dicom_io.model import group
from sr_writer import gate, seg, sr, sr_card, write
from sr_writer.considered import Considered
from sr_writer.files import write_dicom
from sr_writer.header import Authorship
from sr_writer.sources import Sources

pytestmark = pytest.mark.conformance


def _tool(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=str(Path(__import__("sys").executable).parent))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def _run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [_tool(command[0]), *command[1:]], check=False, capture_output=True, text=True, errors="replace", timeout=120
    )


@pytest.fixture(scope="module", params=["not_analysed", "failed"])
def card(request: pytest.FixtureRequest, negative: Any, helpers: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    reason = helpers.reason(
        "too-thick", "The slices are too thick (10.0 mm, limit 6.0 mm).", "层厚过大（10.0 mm，上限 6.0 mm）。"
    )
    considered = [write.Considered(negative.series.series_instance_uid, reason)]
    study = group(negative.series.instances)[0]
    out = tmp_path_factory.mktemp(request.param)
    return write.write_card(
        reason, request.param, study, negative.identity, negative.options, out, helpers.now, considered=considered
    )


def _no_errors(path: Path) -> None:
    judged = _run("dciodvfy", "-new", str(path))
    errors = [line for line in (judged.stdout + judged.stderr).splitlines() if line.startswith("Error")]
    assert judged.returncode == 0, errors
    assert not errors


def test_01_dciodvfy_finds_no_error(written: Any) -> None:
    for artifact in written[1].values():
        _no_errors(artifact.path)


def test_01_dciodvfy_finds_no_error_in_cards(card: Any, negative: Any) -> None:
    (artifact,) = card
    _no_errors(artifact.path)
    assert gate.check(card, negative.series.instances) == ()


@pytest.fixture(scope="module")
def others(coronal: Any, helpers: Any, tmp_path_factory: pytest.TempPathFactory) -> "tuple[Any, dict[str, Path]]":
    """What a destination may want instead of what is written by default, for names in GB18030."""
    sources = Sources(coronal.series.instances)
    by = Authorship(sources.first.header, coronal.identity, coronal.options, helpers.now, 2)
    why = helpers.reason("too-thick", "The slices are too thick.", "层厚过大。")
    seen = [Considered(coronal.series.series_instance_uid, why)]
    segmentation = seg.build(coronal.result, sources, by)
    chinese = replace(by, options=replace(coronal.options, languages=("zh-CN", "en")))
    made = {
        "pure": sr.build(coronal.result, sources, by, segmentation, tree="pure"),
        "chinese": sr.build(coronal.result, sources, chinese, segmentation, beside=[segmentation]),
        "not-analysed": sr_card.build(why, "not_analysed", seen, sources, by),
        "failed": sr_card.build(why, "failed", seen, sources, by),
        "fractional": seg.build(coronal.result, sources, by, "fractional"),
    }
    out = tmp_path_factory.mktemp("others")
    for name, ds in made.items():
        write_dicom(ds, out / f"{name}.dcm")
    return coronal, {name: out / f"{name}.dcm" for name in made}


def test_01_02_dciodvfy_and_dcentvfy_find_no_error_in_other_forms(others: Any) -> None:
    case, paths = others
    for path in paths.values():
        _no_errors(path)
        judged = _run("dcentvfy", str(case.series.instances[0].path), str(path))
        assert judged.returncode == 0, judged.stderr


def test_report_readers_read_other_forms(others: Any) -> None:
    for name in ("pure", "chinese", "not-analysed", "failed"):
        path = str(others[1][name])
        for tool in ("dcsrdump", "dsrdump"):
            read = _run(tool, path)
            assert read.returncode == 0, read.stderr
    assert "层厚过大" in _run("dsrdump", "+U8", str(others[1]["not-analysed"])).stdout


def test_02_dcentvfy_sees_one_patient_and_study(written: Any) -> None:
    case, artifacts = written
    files = [str(i.path) for i in case.series.instances[:3]] + [str(a.path) for a in artifacts.values()]
    judged = _run("dcentvfy", *files)
    # a name that has to change its bytes to UTF-8 beside Chinese text is the one difference that is allowed
    errors = [
        e for e in re.findall(r"^Error.*$", judged.stdout + judged.stderr, re.MULTILINE) if "PatientName" not in e
    ]
    assert not errors
    ascii_name = str(case.series.header.PatientName).isascii()
    same_bytes = case.series.header.get("SpecificCharacterSet") == "GB18030"
    if ascii_name or same_bytes:
        assert judged.returncode == 0, judged.stderr


def test_04_dcmdump_reads_every_file(written: Any) -> None:
    for artifact in written[1].values():
        dumped = _run("dcmdump", "-q", str(artifact.path))
        assert dumped.returncode == 0, dumped.stderr
        assert artifact.sop_instance_uid in dumped.stdout


def test_report_readers_read_the_report(written: Any) -> None:
    case, artifacts = written
    path = str(artifacts["sr"].path)
    tree = _run("dcsrdump", path)
    assert tree.returncode == 0
    assert "(126000,DCM," in tree.stdout + tree.stderr
    text = _run("dsrdump", path)
    assert text.returncode == 0, text.stderr
    assert "Comprehensive 3D SR Document" in text.stdout
    for finding in case.result.findings:
        assert f'"{finding.tracking_id}"' in text.stdout


# an image of ITK has no place for a gantry tilt, so the tilted case is left out
@pytest.mark.parametrize("written", ["positive", "negative", "coronal"], indirect=True)
def test_35_dcmqi_reads_the_masks_voxel_for_voxel(written: Any, tmp_path: Path) -> None:
    case, artifacts = written
    read = _run(
        "segimage2itkimage", "--inputDICOM", str(artifacts["seg"].path), "--outputDirectory", str(tmp_path),
        "--outputType", "nrrd", "--prefix", "s",
    )  # fmt: skip
    assert read.returncode == 0, read.stdout + read.stderr
    to_index = np.linalg.inv(case.result.geometry.affine)
    for segment in case.result.segments:
        image = SimpleITK.ReadImage(str(tmp_path / f"s-{segment.number}.nrrd"))
        direction = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
        found = np.argwhere(SimpleITK.GetArrayFromImage(image) != 0)[:, ::-1]
        points = found @ direction.T + image.GetOrigin()
        index = points @ to_index[:3, :3].T + to_index[:3, 3]
        assert np.abs(index - index.round()).max() < 0.02, segment.tracking_id
        expected = np.argwhere(segment.mask.box) + segment.mask.offset
        assert {tuple(i) for i in index.round().astype(int)[:, ::-1].tolist()} == {tuple(i) for i in expected.tolist()}
