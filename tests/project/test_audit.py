"""The audit of `make audit` finds what it is there for."""

import importlib.util
import json
import tomllib
from email.message import Message
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
TABLE = tomllib.loads((ROOT / ".ci" / "licences.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_planted_secret_is_found(audit: ModuleType, tmp_path: Path) -> None:
    baseline = json.loads((ROOT / ".secrets.baseline").read_text(encoding="utf-8"))
    # put together here, or it would be found here
    planted = {
        "key.pem": "-----BEGIN " + "PRIVATE KEY-----\n",
        "aws.py": 'aws = "AKIA' + 'IOSFODNN7QZXRTPL"\n',
        "node.toml": 'password = "' + 'Tr0ub4dor-and-3"\n',
        "url.toml": 'url = "postgresql://node:' + 'h0spital@db/node"\n',
    }
    for name, text in planted.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "harmless.py").write_text('uid = "1.2.840.10008.1.1"\n', encoding="utf-8")
    told = list(audit.secrets(sorted(tmp_path.iterdir()), baseline, tmp_path))
    assert {line.split(":")[0] for line in told} == set(planted), told
    assert not any("Tr0ub4dor" in line for line in told), "and is not repeated"


def test_what_is_installed_without_a_pin_is_found(audit: ModuleType) -> None:
    constraints = "# a comment\nnumpy==2.4.6\nPyYAML==6.0.3   # by hand\ntorch==2.13.0\n"
    there = {
        "numpy": "2.4.7",
        "pyyaml": "6.0.3",
        "torch": "2.13.0+cpu",
        "pip": "1",
        "nvidia-nccl": "2",
        "left-pad": "1",
    }
    told = list(audit.unpinned(there, constraints, TABLE["unpinned"]))
    assert [line.split()[0] for line in told] == ["left-pad", "numpy"]


@pytest.mark.parametrize(
    ("said", "allowed"),
    [
        ({"License-Expression": "MIT"}, True),
        ({"License-Expression": "GPL-3.0-or-later"}, False),
        ({"License-Expression": "MIT OR GPL-2.0-only"}, True),
        ({"License-Expression": "MIT AND GPL-2.0-only"}, False),
        ({"License-Expression": "Apache-2.0 AND (BSD-3-Clause OR AGPL-3.0-only)"}, False),
        ({"License": "BSD 3-Clause License"}, True),
        ({"License": "Copyright somebody, whose text follows", "Classifier": "License :: OSI Approved :: MIT License"}, True),
        ({"License": "LGPL-3.0-only"}, False),
        ({"Classifier": "License :: OSI Approved :: GNU General Public License v3 (GPLv3)"}, False),
        ({}, False),
    ],
)  # fmt: skip
def test_licences_are_judged(audit: ModuleType, said: dict[str, str], allowed: bool) -> None:
    metadata = Message()
    for key, value in said.items():
        metadata[key] = value
    licence = audit.licence_of(metadata, TABLE)
    assert (not list(audit.forbidden({"some": licence}, TABLE))) == allowed
    assert not list(audit.forbidden({"psycopg": "LGPL-3.0-only"}, TABLE))


def test_no_answer_is_not_taken_for_no_finding(audit: ModuleType) -> None:
    unknown = json.dumps({"dependencies": [{"name": "numpy", "skip_reason": "not found on PyPI"}]})
    assert audit.vulnerabilities(lambda _service: None) == (False, [])
    assert audit.vulnerabilities(lambda _service: unknown) == (False, []), "pip-audit calls that a success"
    bad: dict[str, Any] = {"name": "h11", "version": "0.1", "vulns": [{"id": "CVE-1", "fix_versions": ["0.2"]}]}
    good = {"name": "idna", "version": "3", "vulns": []}
    answers = {"pypi": None, "osv": json.dumps({"dependencies": [bad, good]})}
    ran, told = audit.vulnerabilities(answers.get)
    assert ran
    assert told == ["h11 0.1: CVE-1, mended in 0.2"]


def test_every_dependency_of_the_project_is_pinned() -> None:
    pins = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    names = {
        d.split(";")[0].split("[")[0].split(">")[0].split("=")[0].strip().lower().replace("_", "-") for d in wanted
    }
    assert names <= pins, names - pins
