"""Rules behind a suggestion: each measured by hand, each answer reached, and nothing said where nothing can be known."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dicom_io.reason import LANGUAGES
from pipeline.chest_ct import pattern, suggestion
from pipeline.chest_ct.measure import Counted, count_sites
from pipeline.chest_ct.traits import Kind, Traits
from pipeline.options import ChestCtOptions
from pipeline.reasons import REASONS
from pipeline.result import Measurement, Status, Suggestion

pytestmark = pytest.mark.unit

OK = [Measurement("opacity_percent", s, 5.0, "%") for s in ("lungs", "left_lung", "right_lung")]
RULES = [row["name"] for row in pattern.rules()["rule"]]


def opacity(
    number: int, side: int, cm3: float, kind: Kind = "opacity", *, glass: float = 0.8, contact: float = 3.0
) -> Traits:
    return Traits(
        number, side, cm3, (0.3, 0.3, 0.4), 0.8, contact, -500.0, glass, 40.0, 0.6, 0.8, -500.0, 80.0, 0.0, kind
    )  # fmt: skip


def values(*all_of: Traits, peel: float = 0.8, posterior: float | None = 70.0) -> pattern.Values:
    """Measure opacities of lungs of 2000 cm3 each, of which 40 % is peel; a voxel is one cubic centimetre."""
    row = {1: [0, 0.0], 2: [0, 0.0]}
    for one in all_of:
        row[one.side][0] += int(one.volume_cm3)
        row[one.side][1] += one.volume_cm3 * one.ground_glass
    sides = {"right_lung": Counted(2000, row[1][0], int(row[1][1]), -850.0)}
    sides["left_lung"] = Counted(2000, row[2][0], int(row[2][1]), -850.0)
    zones = {f"{n}_peel": Counted(800, int(peel * c.opaque), 0, -850.0) for n, c in sides.items()}
    counted = {**sides, **zones, "lungs": sides["right_lung"] + sides["left_lung"]}
    return pattern.measure(counted, all_of, 1000.0, posterior if all_of else None)


def suggested(found: pattern.Values, shares: list[Measurement] = OK, grade: str = "A", indication: str = "none") -> Any:
    made = suggestion.suggest(found, shares, grade, None, indication)
    return {s.name: s for s in made}


VIRAL_LIKE = [opacity(1, 1, 100), opacity(2, 2, 60), opacity(3, 2, 40)]


def test_each_rule_is_measured() -> None:
    found = values(opacity(1, 1, 300, glass=0.2), opacity(2, 2, 60, contact=0.2), opacity(3, 2, 40, "mass"))
    assert set(found) == set(RULES)
    assert found == {
        "opacity": 400, "infiltrate": 90, "mass_or_fluid": 10, "bilateral": 25, "multifocal": 3,
        "ground_glass": pytest.approx(100 * (60 + 48 + 32) / 400), "pleural": 85, "peripheral": pytest.approx(2.0),
        "posterior": 70, "lobar": 15,
    }  # fmt: skip
    nothing = values()
    assert (nothing["opacity"], nothing["multifocal"]) == (0, 0)
    assert {found for name, found in nothing.items() if name not in {"opacity", "multifocal"}} == {None}


def test_behind_is_behind_the_middle_of_that_lung() -> None:
    lung = np.zeros((1, 10, 4), np.uint8)
    lung[0, :, :2], lung[0, 5:, 2:] = 1, 2
    patch = np.zeros(lung.shape, np.uint16)
    patch[0, 5:8, 0], patch[0, 4, 0], patch[0, 5, 2] = (
        1,
        1,
        2,
    )  # row 5 is behind in the first lung, in front in the second
    back = np.arange(10.0)[None, :, None]
    assert pattern.posterior_percent(lung, patch, back) == pytest.approx(100 * 3 / 5)
    assert pattern.posterior_percent(lung, np.zeros_like(patch), back) is None


def test_zones_are_counted_and_are_the_lung() -> None:
    lung, peel = np.ones((2, 4, 4), np.uint8), np.zeros((2, 4, 4), bool)
    lung[:, :, 2:], peel[:, 0] = 2, True
    patch = peel.astype(np.uint16)
    hu = np.full(lung.shape, -800, np.float32)
    sites = count_sites(lung, np.zeros_like(lung), patch, hu, hu, -250.0, peel)
    assert (sites["left_lung_peel"].voxels, sites["left_lung_peel"].opaque) == (4, 4)
    assert (sites["left_lung_core"].voxels, sites["left_lung_core"].opaque) == (12, 0)
    assert "left_lung_peel" not in count_sites(lung, np.zeros_like(lung), patch, hu, hu, -250.0)


PATTERNS: list[tuple[str, list[Traits], str]] = [
    ("nothing", [], "no"),
    ("bilateral ground glass", VIRAL_LIKE, "yes"),
    ("ground glass of one side", VIRAL_LIKE[1:], "yes"),
    ("lobar consolidation", [opacity(1, 1, 400, glass=0.1)], "yes"),
    ("one tumour", [opacity(1, 2, 90, "mass", glass=0.1)], "no"),
    ("one tumour, not certainly one", [opacity(1, 2, 90, "undetermined", glass=0.1)], "undetermined"),
    ("one solid opacity", [opacity(1, 2, 90, glass=0.1)], "undetermined"),
    ("round solid ones in both lungs", [opacity(n, 1 + n % 2, 20, "undetermined", glass=0.1) for n in (1, 2, 3)], "undetermined"),
    ("effusions", [opacity(1, 1, 300, "effusion", glass=0.0), opacity(2, 2, 200, "effusion", glass=0.0)], "no"),
]  # fmt: skip


@pytest.mark.parametrize(("found", "answer"), [p[1:] for p in PATTERNS], ids=[p[0] for p in PATTERNS])
def test_pattern(found: list[Traits], answer: str) -> None:
    one = suggested(values(*found))["pneumonia_pattern"]
    assert one.answer == answer
    assert [e.rule for e in one.evidence] == RULES
    assert (one.reason is None) == (answer != "undetermined")
    held = {e.rule: e for e in one.evidence}
    for rule in pattern.rules()["rule"]:
        e = held[rule["name"]]
        expected = "unknown" if e.value is None else rule["pneumonia"][0 if e.value >= e.limit else 1]
        assert (e.speaks, e.limit, e.unit) == (expected, rule["at_least"], rule["unit"])


CATEGORIES: list[tuple[str, list[Traits], str, str]] = [
    ("nothing", [], "1", "negative"),
    ("bilateral ground glass at the pleura", VIRAL_LIKE, "5", "typical"),
    ("the same, not at the pleura", [replace(t, contact_cm2=0.0) for t in VIRAL_LIKE], "4", "indeterminate"),
    ("one side", VIRAL_LIKE[1:], "4", "indeterminate"),
    ("consolidations of both sides", [replace(t, ground_glass=0.1) for t in VIRAL_LIKE], "4", "indeterminate"),
    ("central ground glass", [opacity(n, 1, 30, contact=0.0) for n in (1, 2)], "3", "indeterminate"),
    ("one opacity, which a tumour is as well", [opacity(1, 2, 90, glass=0.5)], "undetermined", "undetermined"),
    ("lobar", [opacity(1, 1, 400, glass=0.1)], "2", "atypical"),
    ("one tumour", [opacity(1, 2, 90, "mass", glass=0.1)], "undetermined", "undetermined"),
]


@pytest.mark.parametrize(("found", "co_rads", "rsna"), [c[1:] for c in CATEGORIES], ids=[c[0] for c in CATEGORIES])
def test_category_only_where_the_indication_asks_for_it(found: list[Traits], co_rads: str, rsna: str) -> None:
    assert set(suggested(values(*found))) == {"pneumonia_pattern"}
    made = suggested(values(*found), indication=suggestion.VIRAL)
    assert (made["co_rads"].answer, made["rsna_consensus"].answer) == (co_rads, rsna)
    for one in made.values():
        for tag in LANGUAGES:
            said = one.text[tag]
            assert ("AI, unverified" in said) == (tag == "en")
            assert "covid" not in said.lower().replace("co-rads", "")
            assert "positive" not in said.lower()
            assert "阳性" not in said


def share(status: Status, code: str) -> list[Measurement]:
    value = None if status == "not_computable" else 5.0
    return [*OK[:2], Measurement("opacity_percent", "right_lung", value, "%", status, REASONS(code))]


@pytest.mark.parametrize(
    ("found", "shares", "grade", "code"),
    [
        (VIRAL_LIKE, share("not_computable", "lung-mask-doubtful"), "A", "lung-mask-doubtful"),
        (VIRAL_LIKE, share("lower_bound", "no-normal-lung"), "A", "no-normal-lung"),
        (VIRAL_LIKE, OK, "C", "grade-forbids-suggestion"),
        (VIRAL_LIKE, OK, "D", "grade-forbids-suggestion"),
        ([], share("lower_bound", "dense-lung-at-wall"), "A", "pattern-fits-no-rule"),
    ],
)
def test_doubt_leaves_everything_undetermined(
    found: list[Traits], shares: list[Measurement], grade: str, code: str
) -> None:
    for one in suggested(values(*found), shares, grade, suggestion.VIRAL).values():
        assert (one.answer, one.reason.code) == ("undetermined", code)
        assert one.reason.text["en"] in one.text["en"]
        assert [e.rule for e in one.evidence] == RULES, "what was measured is shown all the same"


def test_a_bound_at_the_surface_forbids_no_suggestion() -> None:
    made = suggested(values(*VIRAL_LIKE), share("lower_bound", "opacity-at-surface"))
    assert made["pneumonia_pattern"].answer == "yes"


def test_names_in_the_table_are_rules_and_answers_have_words() -> None:
    table = pattern.rules()
    for row in (*table["pneumonia_pattern"], *table["category"]):
        assert {*row["holds"], *row["fails"]} <= set(RULES)
    for name, words in table["answer"].items():
        key = "answer" if name == "pneumonia_pattern" else name
        rows = table["pneumonia_pattern" if name == "pneumonia_pattern" else "category"]
        assert set(words) == {row[key] for row in rows} | {"undetermined"}


def test_the_indication_is_part_of_the_identity() -> None:
    assert ChestCtOptions().digest != ChestCtOptions(indication="suspected-viral-pneumonia").digest


def test_phantoms(case: Callable[..., Any]) -> None:
    """Healthy lungs have no pattern; planted disease has evidence that follows from the masks."""
    none = case(5, lesions="none", thickness_mm=5.0).analysis.result
    (one,) = none.suggestions
    assert (one.name, one.answer) == ("pneumonia_pattern", "no")
    assert "pneumonia" not in none.summary["en"], "only what was asked for, or is there"
    made = case(2, lesions="clear")
    result = made.analysis.result
    (one,) = result.suggestions
    held = {e.rule: e.value for e in one.evidence}
    left, right = (np.count_nonzero((made.opacities > 0) & (made.lungs == s)) for s in (2, 1))
    assert held["bilateral"] == pytest.approx(100 * min(left, right) / (left + right))
    assert held["multifocal"] == len(result.findings)
    numbers = {(m.name, m.site): m.value for m in result.measurements}
    for side in ("left_lung", "right_lung"):
        for name in ("lung_volume", "opacity_volume"):
            whole = numbers[name, f"{side}_core"] + numbers[name, f"{side}_peel"]
            assert whole == pytest.approx(numbers[name, side])
    assert isinstance(one, Suggestion)
