"""Other people's tools judge the fallback objects."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sr_writer.files import write_dicom

pytestmark = pytest.mark.conformance


def _run(*command: str) -> "subprocess.CompletedProcess[str]":
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(command, check=False, capture_output=True, text=True, errors="replace", timeout=120)


@pytest.fixture(scope="module")
def files(fallbacks: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, list[Path]]]:
    """Every kind as files; of the overlay the first, the middle and the last."""
    case, made = fallbacks
    folder = tmp_path_factory.mktemp("fallbacks")
    paths: dict[str, list[Path]] = {}
    for kind, objects in made.items():
        for n in sorted({0, len(objects) // 2, len(objects) - 1}) if objects else ():
            paths.setdefault(kind, []).append(folder / f"{kind}-{n}.dcm")
            write_dicom(objects[n], paths[kind][-1])
    return case, paths


def test_01_dciodvfy_finds_no_error(files: Any) -> None:
    for path in (p for paths in files[1].values() for p in paths):
        judged = _run("dciodvfy", "-new", str(path))
        errors = [line for line in (judged.stdout + judged.stderr).splitlines() if line.startswith("Error")]
        assert (judged.returncode, errors) == (0, []), path.name


def test_02_dcentvfy_sees_one_patient_and_study(files: Any) -> None:
    case, paths = files
    names = [str(p) for kind in paths.values() for p in kind]
    judged = _run("dcentvfy", *(str(i.path) for i in case.series.instances[:3]), *names)
    # a name that has to change its bytes to UTF-8 beside Chinese text is the one difference that is allowed
    errors = re.findall(r"^Error.*$", judged.stdout + judged.stderr, re.MULTILINE)
    assert not [e for e in errors if "PatientName" not in e]
    if str(case.series.header.PatientName).isascii() or case.series.header.get("SpecificCharacterSet") == "GB18030":
        assert judged.returncode == 0, errors


def test_dsrdump_reads_every_document(files: Any) -> None:
    titles = {
        "kos": "Key Object Selection Document", "text": "Basic Text SR Document", "text_card": "Basic Text SR Document",
        "csr": "Comprehensive SR Document",
    }  # fmt: skip
    for kind, title in titles.items():
        for path in files[1].get(kind, ()):
            read = _run("dsrdump", str(path))
            assert read.returncode == 0, read.stderr
            assert title in read.stdout
            assert "E:" not in read.stderr
