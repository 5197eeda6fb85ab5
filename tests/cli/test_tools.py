"""The operator's hands that need no running node."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicom_io.read import read_instance
from dicom_io.stack import build_stack
from dicom_io.volume import load_volume
from node.cli import main
from node.store import open_database
from tests.cli.documents import valid

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "node", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, **environ})


def answer(*arguments: str, **environ: str) -> tuple[int, dict[str, Any]]:
    ended = run(*arguments, "--json", **environ)
    document = json.loads(ended.stdout)
    return ended.returncode, valid(document) if "schema" in document else document


def test_matrices_are_multiplied_on_one_core_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "OPENBLAS_NUM_THREADS"
    for given, then in (("3", "3"), (None, "1")):
        monkeypatch.setenv(name, given or "")
        if given is None:
            monkeypatch.delenv(name)
        monkeypatch.setattr(sys, "argv", ["pacs-ai-node", "--help"])
        with pytest.raises(SystemExit):
            main()
        assert os.environ[name] == then
    early = "import sys, node.cli; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", early], check=False, cwd=ROOT).returncode == 0, (
        "numpy has read it by then"
    )


def test_doctor_looks_at_everything_the_node_needs(tmp_path: Path) -> None:
    code, document = answer("doctor", PACS_AI_NODE__NODE__DATA_DIR=str(tmp_path))
    rows = {row["check"]: row for row in document["checks"]}
    assert set(rows) == {
        "data folder", "disk", "names", "index", "database server", "flushing", "pixel decoders", "pipelines", "web",
        "Chinese font",
    }  # fmt: skip
    assert rows["pixel decoders"]["ok"]
    assert rows["pipelines"]["ok"]
    assert code == (0 if all(row["ok"] for row in rows.values()) else 1)


def test_doctor_tells_an_index_that_this_version_cannot_read(tmp_path: Path) -> None:
    def index() -> dict[str, Any]:
        _, document = answer("doctor", PACS_AI_NODE__NODE__DATA_DIR=str(tmp_path))
        return next(row for row in document["checks"] if row["check"] == "index")

    assert index()["ok"]
    assert not (tmp_path / "node.sqlite3").exists()
    db = open_database(tmp_path / "node.sqlite3")
    assert index()["ok"]
    with db.write() as c:
        c.exec_driver_sql("PRAGMA user_version = 99")
    db.close()
    assert not index()["ok"]
    assert "version 99" in index()["says"]
    assert "pacs-ai-node doctor --rebuild-index" in index()["says"]


def test_doctor_tells_a_disk_below_its_reserve_and_one_that_forgets() -> None:
    memory = "/dev/shm"  # noqa: S108 - a file system in memory is meant
    code, document = answer(
        "doctor", PACS_AI_NODE__NODE__DATA_DIR=f"{memory}/data", PACS_AI_NODE__STORAGE__MIN_FREE_MB=str(1 << 40)
    )
    rows = {row["check"]: row for row in document["checks"]}
    assert code == 1
    assert not rows["disk"]["ok"]
    assert "storage.min_free_mb" in rows["disk"]["says"]
    assert not rows["flushing"]["ok"]
    assert "in memory" in rows["flushing"]["says"]


def test_doctor_says_what_is_wrong_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, document = answer("doctor", PACS_AI_NODE__NODE__DATA_DIR=str(tmp_path / "file" / "data"))
    row = next(row for row in document["checks"] if row["check"] == "data folder")
    assert (code, row["ok"]) == (1, False)
    assert "node.data_dir" in row["says"]


def test_models_names_what_each_pipeline_rests_on() -> None:
    code, document = answer("models")
    (row,) = (m for m in document["models"] if m["pipeline"] == "chest_ct")
    assert (code, row["installed"], row["modalities"]) == (0, True, ["CT"])
    assert row["weights_digest"].startswith("sha256:")


@pytest.mark.parametrize(("form", "files"), [((), 12), (("--enhanced",), 1)])
def test_phantom_writes_images_that_agree_with_their_truth(tmp_path: Path, form: tuple[str, ...], files: int) -> None:
    code, document = answer("phantom", "--out", str(tmp_path), "--seed", "3", "--slices", "12", "--matrix", "64", *form)
    assert code == 0
    assert len(list((tmp_path / "dicom").iterdir())) == files
    assert document == json.loads((tmp_path / "truth.json").read_text(encoding="utf-8"))
    stack = build_stack([read_instance(p) for p in (tmp_path / "dicom").iterdir()])
    with np.load(tmp_path / "truth.npz") as truth:
        volume = load_volume(stack)
        assert volume.array.shape == truth["lung"].shape
        np.testing.assert_allclose(volume.affine, truth["affine"], atol=1e-4)
        assert volume.array[truth["lung"] > 0].mean() < -600 < volume.array[truth["lung"] == 0].max()


def test_phantom_writes_a_radiograph_that_agrees_with_its_truth(tmp_path: Path) -> None:
    code, document = answer("phantom", "--out", str(tmp_path), "--radiograph", "cr", "--view", "AP", "--matrix", "64")
    assert code == 0
    instance = read_instance(tmp_path / "dicom" / "0001.dcm")
    assert (instance.modality, instance.header.ViewPosition, instance.header.Rows) == ("CR", "AP", 64)
    with np.load(tmp_path / "truth.npz") as truth:
        area = truth["right"].sum() * (400 / 64) ** 2 / 100
    assert document["shadow_cm2"]["right_lung"] == pytest.approx(area, abs=0.01)


@pytest.mark.parametrize(
    "arguments",
    [
        ["phantom"],
        ["phantom", "--out", "x", "--plane", "up"],
        ["phantom", "--out", "x", "--enhanced", "--radiograph", "dx"],
        ["nothing"],
        [],
    ],
)
def test_wrong_use_is_exit_code_2_or_the_help(arguments: list[str]) -> None:
    ended = run(*arguments)
    assert ended.returncode == 2
    assert "Usage" in ended.stderr
