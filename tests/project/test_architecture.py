"""The layers of the project, proved from its imports."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_io.reason import ReasonTable

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
OURS = ("config", "dicom_io", "node", "phantom", "pipeline", "sr_writer")

# package -> what of ours its modules may import
MAY_IMPORT = {
    "dicom_io": {"dicom_io"},
    "pipeline": {"dicom_io", "pipeline"},
    "sr_writer": {"dicom_io", "pipeline", "sr_writer"},
    "config": {"config", "dicom_io", "pipeline", "sr_writer"},
    "node": {"config", "dicom_io", "node", "phantom", "pipeline", "sr_writer"},
    "phantom": {"dicom_io", "phantom"},
}
# module prefix -> libraries that it must not know
MUST_NOT_IMPORT = {
    "dicom_io": {"torch", "monai", "sqlalchemy", "highdicom"},
    "pipeline": {"sqlalchemy", "pynetdicom", "highdicom"},
    "sr_writer": {"torch", "monai", "pynetdicom", "sqlalchemy"},
    "config": {"torch", "monai", "pynetdicom", "highdicom", "sqlalchemy"},
    "node": {"torch", "monai", "highdicom", "pynetdicom"},
}


def modules() -> Iterator[tuple[str, Path]]:
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts), path


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda v: v if isinstance(v, str) else "")
def test_imports_point_one_way(name: str, path: Path) -> None:
    package = name.split(".", maxsplit=1)[0]
    for target in imported(path):
        top = target.split(".")[0]
        if top in OURS:
            assert top in MAY_IMPORT[package], f"{name} imports {target}"
        assert top not in MUST_NOT_IMPORT.get(package, set()), f"{name} imports {target}"


def test_sr_writer_sees_of_pipeline_only_results() -> None:
    for name, path in modules():
        if name.startswith("sr_writer"):
            seen = {t for t in imported(path) if t.split(".")[0] == "pipeline"}
            assert all(t in {"pipeline", "pipeline.result"} or t.startswith("pipeline.result.") for t in seen), (
                name,
                seen,
            )


def test_only_node_imports_config() -> None:
    users = {n.split(".")[0] for n, p in modules() if any(t.split(".")[0] == "config" for t in imported(p))}
    assert users <= {"config", "node"}


def test_config_sees_only_option_types_and_names() -> None:
    allowed = ("pipeline.options", "pipeline.registry", "sr_writer.options", "sr_writer.profiles", "dicom_io.")
    for name, path in modules():
        if name.startswith("config"):
            for target in imported(path):
                if target.split(".")[0] in {"pipeline", "sr_writer"}:
                    assert target.startswith(allowed), f"{name} imports {target}"


def test_phantom_is_for_command_line_tests_and_benchmarks_only() -> None:
    users = {
        n
        for n, p in modules()
        if any(t.split(".")[0] == "phantom" for t in imported(p)) and not n.startswith("phantom")
    }
    assert all(u.startswith("node.cli") for u in users), users


def test_sql_stands_in_one_place() -> None:
    users = {n for n, p in modules() if any(t.split(".")[0] == "sqlalchemy" for t in imported(p))}
    assert users
    assert all(u.startswith("node.store") for u in users), users


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["process", "--help"], ["demo", "--help"]])
def test_help_loads_neither_torch_nor_dicom_libraries(arguments: list[str]) -> None:
    code = (
        "import sys, node.cli\n"
        f"sys.argv = ['pacs-ai-node', *{arguments!r}]\n"
        "try:\n    node.cli.main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'monai', 'pydicom', 'pynetdicom', 'highdicom', 'SimpleITK', 'numpy', 'sqlalchemy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environ = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_only_who_works_loads_what_writes_results() -> None:
    code = (
        "import sys, node.receive, node.coordinator, node.deliver, node.supervisor\n"
        "heavy = {'torch', 'monai', 'highdicom', 'scipy', 'SimpleITK'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_reason_codes_are_unique_and_complete() -> None:
    seen: dict[str, str] = {}
    for package in ("dicom_io", "pipeline", "sr_writer", "node"):
        for code in ReasonTable(package):
            assert code not in seen, f"{code} stands in {package} and {seen[code]}"
            assert code == code.lower(), code
            seen[code] = package
    assert seen


def test_modules_stay_rooms() -> None:
    long = {n: len(p.read_text(encoding="utf-8").splitlines()) for n, p in modules()}
    assert {n: k for n, k in long.items() if k > 500} == {}
