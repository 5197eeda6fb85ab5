"""Required series, and the scripted senders of the benchmark in short, through the parts of a node."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from benchmarks import completeness
from config import load as load_settings
from config.settings import Rule
from node.facts import waiting_for
from node.route import SeriesFacts, counts, missing
from tests.more import more
from tests.node.desk import RULES, Desk, changed, small_ct

pytestmark = pytest.mark.unit


def series(description: str, modality: str = "CT") -> SeriesFacts:
    header = Dataset()
    header.Modality, header.SeriesDescription = modality, description
    return SeriesFacts(description, header, "CT1", "NODE")


RULE = Rule("chest", {"Modality": "CT"}, require=({"SeriesDescription": "*lung*"}, {"SeriesDescription": "*soft*"}))
MISSING: list[tuple[str, tuple[SeriesFacts, ...], tuple[str, ...]]] = [
    ("both there", (series("Lung 1.0"), series("Soft 5.0")), ()),
    ("one there", (series("Lung 1.0"),), ("chest: SeriesDescription = '*soft*'",)),
    ("none there", (series("Scout"),), ("chest: SeriesDescription = '*lung*'", "chest: SeriesDescription = '*soft*'")),
    ("the rule does not fire", (series("Brain", "MR"),), ()),
    ("nothing", (), ()),
]


@pytest.mark.parametrize(("name", "there", "lacking"), MISSING, ids=[m[0] for m in MISSING])
def test_what_rules_still_miss(name: str, there: tuple[SeriesFacts, ...], lacking: tuple[str, ...]) -> None:
    del name
    assert missing((RULE,), there) == lacking


@pytest.mark.parametrize(
    ("modality", "rules", "counted"),
    [("CT", (), True), ("SR", (), False), ("OT", (), False), ("OT", (Rule("r", {"Modality": "OT"}),), True)],
)
def test_what_counts_where_only_the_modality_is_known(modality: str, rules: tuple[Rule, ...], counted: bool) -> None:
    assert counts(modality, rules) == counted


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    made = Desk(tmp_path / "desk")
    made.stop()
    rules = RULES + 'require = [{ SeriesDescription = "*reformat*" }]\n'
    folder = json.dumps(str(made.folder.path))
    made.configuration.write_text(f"[node]\ndata_dir = {folder}\n{rules}", encoding="utf-8")
    made.settings = load_settings(made.configuration, {})
    made.start()
    return made


def whats(desk: Desk, uid: str) -> set[str]:
    waits = waiting_for(desk.db, desk.folder, desk.settings, desk.study(uid), desk.now)
    return {wait["what"] for wait in waits}


def test_a_study_waits_for_the_series_that_its_rule_requires(desk: Desk, tmp_path: Path) -> None:
    ct = small_ct(tmp_path / "phantom")

    def reformat(ds: Any) -> None:
        ds.SeriesDescription, ds.SeriesInstanceUID = "Coronal reformat", "2.25.5"
        ds.SOPInstanceUID = f"2.25.5.{ds.InstanceNumber}"

    others = changed(ct[:2], tmp_path / "others", reformat)
    desk.receive(ct)
    uid = next(s.uid for s in _unfinished(desk))
    desk.after(600.0)
    assert (desk.study(uid).state, whats(desk, uid)) == ("open", {"waits-required-series"})
    desk.receive(others)
    desk.after(59.0)
    assert whats(desk, uid) <= {"waits-quiet", "waits-settle", "waits-work-begun"}
    desk.after(2.0)
    (closed,) = desk.events(uid, "closed")
    assert (desk.study(uid).state, closed["evidence"]) == ("closed", "quiet")


def test_a_required_series_that_never_comes_is_said_in_the_end(desk: Desk, tmp_path: Path) -> None:
    desk.receive(small_ct(tmp_path / "phantom"))
    uid = next(s.uid for s in _unfinished(desk))
    desk.after(3599.0)
    assert desk.study(uid).state == "open"
    desk.after(2.0)
    (closed,) = desk.events(uid, "closed")
    assert closed["evidence"] == "max-open"
    assert [w["what"] for w in closed["waited_for"]] == ["open-too-long", "waits-required-series"]
    assert "*reformat*" in closed["why"]


def _unfinished(desk: Desk) -> Any:
    from node.store import studies

    return studies.unfinished(desk.db)


@pytest.mark.parametrize("part", ["count, 1-30", "5 breaks off", more("MPPS, 1-30"), more("*declared")])
def test_scripted_senders(tmp_path: Path, part: str) -> None:
    number = next(n for n, (name, _, _) in enumerate(completeness.SENDERS) if part in name)
    told = completeness.rehearse(tmp_path / "play", number, 4, seed=1)
    first, second = ([t for t in told if t.day == day] for day in (0, 1))
    assert all(t.whole for t in told), "every early close was cured"
    assert completeness.early(second) == (0, 0)
    if part.startswith("*"):
        assert sum(completeness.early(first)) == 3, (
            "twice after the first study; the second one's late series was enough"
        )
        assert {t.closed[-1].evidence for t in second} == {"quiet"}
    else:
        assert completeness.early(first) == (0, 0)
        assert {t.closed[-1].evidence for t in told} == {"strong"}
        assert max(t.closed[-1].at - t.last for t in told) < 3.5


def test_a_sender_that_goes_on_behind_a_lost_answer_is_not_believed(tmp_path: Path) -> None:
    """The image without an answer comes last, on an association of its own; what was sent whole is proven all the same."""
    number = next(n for n, (name, _, _) in enumerate(completeness.SENDERS) if "goes on" in name)
    told = completeness.rehearse(tmp_path / "play", number, 6, seed=1)
    assert all(t.whole for t in told)
    assert completeness.early(told) == (0, 0)
    assert {t.closed[-1].evidence for t in told} == {"strong", "quiet"}
