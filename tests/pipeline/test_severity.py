"""Scores by lobe: the published mapping, and bounds without lobes against every division that a search can try."""

import itertools

import numpy as np
import pytest

from pipeline.chest_ct import severity
from pipeline.chest_ct.severity import LOBES, Scale, scales
from pipeline.reasons import REASONS
from pipeline.result import Measurement, Status

pytestmark = pytest.mark.unit

CT, TOTAL = scales()
EXAMPLE = (3.0, 12.0, 0.0, 40.0, 80.0)


def test_worked_examples() -> None:
    """Clinical-methods 3.4, and the gaps of the published limits as they are closed here."""
    assert (CT.name, TOTAL.name) == ("ct_severity_score", "total_severity_score")
    assert (CT.total(EXAMPLE), TOTAL.total(EXAMPLE)) == (11, 8)
    assert [CT.points(p) for p in (0, 0.1, 4.99, 5, 25, 25.5, 49.5, 50, 75, 75.1, 100)] == [
        0,
        1,
        1,
        2,
        2,
        3,
        3,
        4,
        4,
        5,
        5,
    ]
    assert [TOTAL.points(p) for p in (0, 0.5, 25, 25.5, 50, 50.5, 75, 75.5, 100)] == [0, 1, 1, 2, 2, 3, 3, 4, 4]


def divisions(lobes: int, parts: int) -> np.ndarray:
    """All shares of the lung that `lobes` lobes can have in steps of 1 / `parts`, each something."""
    cuts = itertools.combinations(range(1, parts), lobes - 1)
    return np.array([np.diff((0, *c, parts)) for c in cuts]) / parts


@pytest.mark.parametrize("scale", [CT, TOTAL], ids=lambda s: s.name)
@pytest.mark.parametrize("lobes", [2, 3])
def test_no_division_is_beyond_the_bounds_and_some_reach_them(scale: Scale, lobes: int) -> None:
    levels = np.array([0, 0.02, 1, 4.9, 5, 15, 24.9, 25, 26, 49, 50, 51, 74.9, 75, 76, 90, 99.9, 100])
    points = np.array([scale.points(p) for p in levels])
    every = np.array(list(itertools.product(range(levels.size), repeat=lobes - 1)))
    # one lobe takes what the others leave; tiny ones let the others be what they like
    sizes = np.concatenate([divisions(lobes, 12), [[1e-6] * (lobes - 1) + [1 - 1e-6 * (lobes - 1)]]])
    for percent in (0.0, 0.7, 3.0, 5.0, 5.1, 20.0, 25.0, 30.0, 50.0, 60.0, 75.0, 90.0, 99.9, 100.0):
        rest = (percent - sizes[:, :-1] @ levels[every].T) / sizes[:, -1:]
        possible = (rest >= 0) & (rest <= 100)
        found = points[every].sum(axis=1)[None] + np.vectorize(scale.points)(rest)
        least, most = scale.bounds(percent, lobes)
        seen = found[possible]
        assert seen.size
        assert (seen.min(), seen.max()) == (least, most), percent


def shares(right: tuple[float | None, Status], left: tuple[float | None, Status]) -> dict[str, Measurement]:
    def one(site: str, value: float | None, status: Status) -> Measurement:
        return Measurement(
            "opacity_percent", site, value, "%", status, None if status == "ok" else REASONS("lung-cut-off")
        )

    return {"right_lung": one("right_lung", *right), "left_lung": one("left_lung", *left)}


def test_no_score_without_lobes_but_its_range() -> None:
    assert LOBES == {"right_lung": 3, "left_lung": 2}
    rows = {m.name: m for m in severity.measurements(shares((30.0, "ok"), (0.0, "ok")))}
    assert all(m.site == "lungs" for m in rows.values())
    score = rows["ct_severity_score"]
    assert (score.status, score.value) == ("not_computable", None)
    assert score.reason is not None
    assert score.reason.code == "score-needs-lobes"
    assert "3 to 13" in score.reason.text["en"]
    assert [rows[f"ct_severity_score_{end}"].value for end in ("least", "most")] == [3, 13]
    assert [rows[f"total_severity_score_{end}"].value for end in ("least", "most")] == [2, 10]


def test_of_a_bound_only_the_least_is_known_and_of_nothing_nothing() -> None:
    rows = {m.name: m for m in severity.measurements(shares((30.0, "lower_bound"), (10.0, "ok")))}
    assert (rows["ct_severity_score_least"].value, rows["ct_severity_score_least"].status) == (5, "lower_bound")
    assert rows["ct_severity_score_most"].status == "not_computable"
    assert "at least 5" in rows["ct_severity_score"].reason.text["en"]
    rows = {m.name: m for m in severity.measurements(shares((None, "not_computable"), (10.0, "ok")))}
    assert {(m.status, m.reason.code) for m in rows.values()} == {("not_computable", "lung-cut-off")}
