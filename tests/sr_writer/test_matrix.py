"""The matrix has every pair of values in few rows, and the list of what is checked names what there is."""

import re
from itertools import chain
from pathlib import Path

import pytest

from sr_writer.profiles import CARDS, profile, shipped
from tests.sr_writer import judges, matrix

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "what-is-checked.md").read_text(encoding="utf-8")


def test_every_possible_pair_of_values_occurs_in_few_rows() -> None:
    rows, every = matrix.pairwise(), matrix.whole()
    wanted = {pair for row in every for pair in row.pairs}
    assert {pair for row in rows for pair in row.pairs} == wanted
    assert set(rows) <= set(every)
    assert len(rows) == len(set(rows)) < len(every) / 7
    matrix.pairwise.cache_clear()
    assert matrix.pairwise() == rows


def test_what_a_row_refers_to_is_written_too() -> None:
    rows = set(matrix.pairwise())
    assert all(set(row.needs) <= rows for row in rows)
    assert any(row.needs for row in rows)


def test_every_object_of_every_profile_is_in_the_matrix() -> None:
    of_profiles = {i.object for name in shipped() for i in profile(name).items}
    assert of_profiles | CARDS <= {form.object for form in matrix.KINDS.values()}
    assert {row.kind for row in matrix.whole()} == set(matrix.KINDS)


def test_every_assertion_has_a_test_or_a_reason() -> None:
    rows = dict(re.findall(r"^\| (\d+) \|[^|]+\| ([^|]+) \|$", PAGE, re.MULTILINE))
    assert list(rows) == [str(n) for n in range(1, 41)]
    sources = {p: p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("test_*.py")}
    there = set(chain.from_iterable(re.findall(r"^def (test_\w+)\(", text, re.MULTILINE) for text in sources.values()))
    for number, said in rows.items():
        tests = set(re.findall(r"`(test_\w+)`", said))
        assert tests <= there, tests - there
        assert tests or "does not apply: " in said, number
        assert all(int(number) in _numbers(name) for name in tests if _numbers(name)), number
    for name in re.findall(
        r"^def (test_\w+)\(", sources[Path(__file__).with_name("test_conformance.py")], re.MULTILINE
    ):
        assert all(f"`{name}`" in rows[str(n)] for n in _numbers(name)), f"{name} does not stand under its number"


def _numbers(name: str) -> set[int]:
    """Return the numbers that the name of a test begins with."""
    begin = re.match(r"test((?:_\d\d)*)_", name)
    return set() if begin is None else {int(n) for n in begin[1].split("_") if n}


def test_a_message_is_allowed_for_a_reason_and_for_nothing_else() -> None:
    for allowed in judges.baseline():
        assert re.compile(allowed.pattern)
        assert len(allowed.why) > 20
        assert allowed.judge in {"dciodvfy", "dcentvfy", "dsrdump", "pixelmed"}
    ds = judges.Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    said = "Error - </PatientName> - Character invalid for character repertoire (default or as defined in SpecificCharacterSet) = x"
    message = judges.Message("dciodvfy", said, ())
    assert not any(a.covers(message, ds) for a in judges.baseline())
    ds.SpecificCharacterSet = "GBK"
    assert any(a.covers(message, ds) for a in judges.baseline())
