import ast
import string
from pathlib import Path

import pytest

import dicom_io
from dicom_io.reason import LANGUAGES
from dicom_io.reasons import REASONS

pytestmark = pytest.mark.unit
SOURCES = sorted(Path(dicom_io.__file__).parent.glob("*.py"))


def used_codes() -> dict[str, set[str]]:
    """Every code that the package asks for, and the fields it fills in."""
    found: dict[str, set[str]] = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "REASONS":
                if any(k.arg is None for k in node.keywords):
                    continue  # `**fields`: that module's own tests fill them in
                names = {k.arg for k in node.keywords if k.arg}
                for leaf in ast.walk(node.args[0]):
                    if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str) and not leaf.value[0].isupper():
                        found.setdefault(leaf.value, set()).update(names)
    return found


def test_every_code_that_is_given_is_in_the_table() -> None:
    assert used_codes().keys() <= REASONS.keys()


@pytest.mark.parametrize("code", sorted(REASONS))
def test_every_row_says_the_same_fields_in_both_languages(code: str) -> None:
    row = REASONS[code]
    texts = [*row.text.values(), *row.hint.values()]
    assert not row.hint or set(row.hint) == set(LANGUAGES)
    fields = [{name for _, name, _, _ in string.Formatter().parse(t) if name} for t in texts]
    assert fields[0::2] == fields[1::2]
    assert any("\u4e00" <= c <= "\u9fff" for c in row.text["zh-CN"])
    assert row.text["en"].endswith(".")


@pytest.mark.parametrize("code", [c for c in sorted(REASONS) if REASONS[c].klass in {"error", "unable"}])
def test_what_fails_says_what_to_do_next(code: str) -> None:
    assert code == "no-slices" or REASONS[code].hint


@pytest.mark.parametrize(("code", "given"), sorted(used_codes().items()))
def test_every_field_is_filled_in_where_the_reason_is_given(code: str, given: set[str]) -> None:
    row = REASONS[code]
    wanted = {
        name for t in (row.text["en"], row.hint.get("en", "")) for _, name, _, _ in string.Formatter().parse(t) if name
    }
    assert wanted <= given
