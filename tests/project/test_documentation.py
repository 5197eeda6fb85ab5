"""What the documentation says is what the code does."""

import json
import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from jsonschema import Draft202012Validator

from config import load
from dicom_io.reason import ReasonTable
from node.cli import COMMANDS
from node.store.rows import DeliveryState
from sr_writer import profiles

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
PAGES = sorted(
    p for p in ROOT.rglob("*.md") if not any(part.startswith(".") for part in p.relative_to(ROOT).parts[:-1])
)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_names_only_commands_that_there_are() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"pacs-ai-node ([a-z][a-z-]+)", text))
    assert named - {"-f"} <= set(COMMANDS), named - set(COMMANDS)
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"make ([a-z]+)", text)) - {"up"} <= targets


def test_toml_in_the_readme_is_a_configuration_that_starts(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        text = "\n".join(line.strip() for line in block.splitlines())
        tomllib.loads(text)
        path = tmp_path / "readme.toml"
        path.write_text(text, encoding="utf-8")
        assert load(path, {}).rule


def test_every_hazard_names_a_test_that_there_is() -> None:
    text = (ROOT / "HAZARDS.md").read_text(encoding="utf-8")
    tests = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_[a-z0-9_]+)`", text)
    assert len(named) >= 8
    for name in named:
        assert f"def {name}(" in tests, f"HAZARDS.md names {name}, which is no test"


def test_every_decision_has_the_next_number_and_a_date() -> None:
    text = (ROOT / "node" / "DECISIONS.md").read_text(encoding="utf-8")
    numbers = [int(n) for n in re.findall(r"^## (\d+)\. .*\(\d{4}-\d{2}-\d{2}\)$", text, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) == len(re.findall(r"^## \d", text, re.MULTILINE))


def test_every_document_has_a_schema() -> None:
    written = (p for package in ("node", "phantom") for p in (ROOT / package).rglob("*.py"))
    code = "\n".join(p.read_text(encoding="utf-8") for p in written)
    named = set(re.findall(r'"pacs-ai-node/([a-z-]+/\d)"', code)) | {"retry/1", "cancel/1", "release/1", "reject/1"}
    schemas = {p.name.removesuffix(".schema.json"): p for p in (ROOT / "node" / "schemas").glob("*.json")}
    assert {name.replace("/", "-") for name in named} == set(schemas)
    for path in schemas.values():
        Draft202012Validator.check_schema(json.loads(path.read_text(encoding="utf-8")))


def test_operations_explain_every_state_of_a_delivery() -> None:
    listed = re.findall(r"^\| `([a-z]+)` \|", OPERATIONS.split("## Where is a result?")[1], re.MULTILINE)
    assert set(get_args(DeliveryState)) <= set(listed)


def test_operations_say_of_every_alarm_what_its_reason_says() -> None:
    reasons = {code: table[code] for table in map(ReasonTable, ("node", "dicom_io")) for code in table}
    rows = dict(
        re.findall(r"^\| `([a-z-]+)` (\|.*)$", OPERATIONS.split("## Alarms")[1].split("\n## ")[0], re.MULTILINE)
    )
    code = "\n".join(p.read_text(encoding="utf-8") for k in ("node", "dicom_io") for p in (ROOT / k).rglob("*.py"))
    for name, row in rows.items():
        reason = reasons[name]
        text, hint = (re.sub(r"\{[^}]*\}", "…", said["en"]) for said in (reason.text, reason.hint))
        assert row == f"| {text} | {hint} |", name
        assert f'"{name}"' in code, f"{name} is raised nowhere"
    assert len(rows) >= 20


@pytest.mark.parametrize("package", ["node", "dicom_io", "pipeline", "sr_writer"])
def test_every_hint_is_in_both_languages_and_its_commands_can_be_typed(package: str) -> None:
    for code, row in ReasonTable(package).items():
        assert set(row.hint) in (set(), {"en", "zh-CN"}), code
        for command, rest in re.findall(r"`pacs-ai-node ([a-z-]+)([^`]*)`", " ".join(row.hint.values())):
            needs = {"dismiss": f" {code}", **dict.fromkeys(("show", "retry", "resend", "cancel"), " STUDY")}
            assert command in COMMANDS, code
            assert rest.startswith(needs.get(command, "")), f"{code}: {command}{rest}"


def test_a_refused_object_is_sent_again_alone() -> None:
    """`resend` sends everything to everybody; `retry` what is missing."""
    for code, row in ReasonTable("dicom_io").items():
        assert "resend" not in " ".join(row.hint.values()), code


def test_the_page_of_viewers_has_the_tables_of_the_profiles() -> None:
    page = (ROOT / "docs" / "what-each-viewer-shows.md").read_text(encoding="utf-8")
    for name, profile in profiles.shipped().items():
        told = page.split(f"### `{name}`\n", 1)[1].split("\n#", 1)[0]
        rows = [f"| {' | '.join((*row[:3], row[3] or 'a failure'))} |" for row in profiles.rows(profile)]
        assert [line for line in told.splitlines() if line.startswith("| ")][1:] == rows, name
        assert f"{profile.about['en']}." in told, name
    for name, facts in profiles.table()["object"].items():
        told = (" · ".join(facts[of].values()) for of in ("name", "look"))
        assert f"| `{name}` | {' | '.join(told)} |" in page, name
    assert set(re.findall(r"^### `([a-z-]+)`$", page, re.MULTILINE)) == set(profiles.shipped())


def test_toml_in_the_page_of_viewers_is_a_configuration_that_starts(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "what-each-viewer-shows.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    path = tmp_path / "page.toml"
    for block in blocks:
        path.write_text(block, encoding="utf-8")
        assert load(path, {}).destination[0].wants.lines(result=True)
