"""Words in several languages: plurals, numbers, and a third language that is data and nothing else."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from dicom_io.reason import LANGUAGES
from sr_writer import codes
from sr_writer.wording import decimal, plural, plurals

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
TEXTS = tomllib.loads(files("sr_writer").joinpath("texts.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_has_every_language_and_every_plural_of_it(language: str) -> None:
    for name, row in TEXTS.items():
        said = row[language]
        assert isinstance(said, str) or set(said) == plurals(language), name


def test_one_is_not_many() -> None:
    assert "1 finding is" in codes.text("found", "en", count=1)
    assert "2 findings are" in codes.text("found", "en", count=2)
    assert "1 项" in codes.text("found", "zh-CN", count=1)
    assert codes.text("page", "zh-CN", page=1) == "页码 1 /"  # the total follows, and nothing after it
    assert [plural(n, "pl") for n in (1, 2, 5)] == ["one", "few", "many"]


@pytest.mark.parametrize(
    ("value", "places", "language", "said"),
    [
        (4321.26, 1, "en", "4321.3"), (4321.26, 1, "zh-CN", "4321.3"), (4321.26, 1, "de", "4321,3"),
        (0.35, 1, "en", "0.3"), (-0.04, 1, "en", "0.0"), (-850.4, 0, "en", "-850"),
    ],
)  # fmt: skip
def test_numbers_are_written_as_the_language_writes_them(value: float, places: int, language: str, said: str) -> None:
    assert decimal(value, places, language) == said


def _third(value: Any) -> Any:
    """Give every table of texts a third language: the Chinese one with a mark before it."""
    if isinstance(value, list):
        return [_third(v) for v in value]
    if not isinstance(value, dict):
        return value
    out = {k: _third(v) for k, v in value.items()}
    if "zh-CN" in out:
        chinese = out["zh-CN"]
        out["zh-Hant"] = {k: "繁" + v for k, v in chinese.items()} if isinstance(chinese, dict) else f"繁{chinese}"
    return out


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import conftest
import pydicom
from sr_writer.options import WriterOptions

case = conftest.from_folder(Path(sys.argv[2]), options=WriterOptions(languages=("zh-Hant", "zh-CN", "en")))


def said(reason):
    return None if reason is None else replace(reason, text={**reason.text, "zh-Hant": "繁" + reason.text["zh-CN"]})


r = case.result
r = replace(
    r,
    measurements=tuple(replace(m, reason=said(m.reason)) for m in r.measurements),
    segments=tuple(replace(s, label={**s.label, "zh-Hant": "繁" + s.label["zh-CN"]}) for s in r.segments),
    quality=replace(r.quality, findings=tuple(replace(f, reason=said(f.reason)) for f in r.quality.findings)),
    notes=tuple(map(said, r.notes)),
    summary={**r.summary, "zh-Hant": "繁" + r.summary["zh-CN"]},
)
conftest.Helpers.write(replace(case, result=r), Path(sys.argv[3]))
"""


def test_a_third_language_needs_data_only(positive: Any, tmp_path: Path) -> None:
    import pydicom

    home = tmp_path / "home"
    for package in ("dicom_io", "pipeline", "sr_writer", "phantom"):
        shutil.copytree(ROOT / package, home / package, ignore=shutil.ignore_patterns("__pycache__"))
    for path in home.rglob("*.toml"):
        table = _third(tomllib.loads(path.read_text(encoding="utf-8")))
        if path.name == "languages.toml":
            table["zh-Hant"] = {"code": "zh-Hant", "meaning": "Chinese (Traditional)"}
        path.write_text("".join(f"{json.dumps(k)} = {_toml(v)}\n" for k, v in table.items()), encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(positive.folder), str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(home)}, cwd=home, check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    report = pydicom.dcmread(tmp_path / "out/sr.dcm")

    def named(code: str) -> list[pydicom.Dataset]:
        return [i for i in report.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == code]

    assert named("121049")[0].ConceptCodeSequence[0].CodeValue == "zh-Hant"
    comments = named("121106")
    assert [c.ContentSequence[0].ConceptCodeSequence[0].CodeValue for c in comments] == ["zh-Hant", "zh-CN", "en-US"]
    traditional, simplified, _ = (c.TextValue.splitlines() for c in comments)
    assert traditional[0] == "繁" + simplified[0]
    assert len(traditional) == len(simplified)
    assert report.ConceptNameCodeSequence[0].CodeMeaning == "繁影像测量报告"
    assert named("126010")[0].ConceptNameCodeSequence[0].CodeMeaning == "繁影像测量"
    segmentation = pydicom.dcmread(tmp_path / "out/seg.dcm")
    assert segmentation.SegmentSequence[0].SegmentLabel == "繁左肺"
