"""Rules: every kind of test, row by row; unions; explanations; what is no image."""

from typing import Any

import pytest
from pydicom.dataset import Dataset

from config.settings import Rule
from node.route import SeriesFacts, is_image, meets, plan

pytestmark = pytest.mark.unit


def header(**more: Any) -> Dataset:
    ds = Dataset()
    ds.Modality = "CT"
    ds.SliceThickness = "1.25"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SeriesDescription = "Lung 1.0  B60f "
    ds.BodyPartExamined = ""
    item = Dataset()
    item.CodeValue = "P5-09051"
    ds.ProcedureCodeSequence = [item]
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    return ds


def series(uid: str = "1", calling: str = "CT1", called: str = "NODE", **more: Any) -> SeriesFacts:
    return SeriesFacts(uid, header(**more), calling, called)


TESTS: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    ({"Modality": "CT"}, True),
    ({"Modality": " ct "}, True),
    ({"Modality": "MR"}, False),
    ({"Modality": ("MR", "CT")}, True),
    ({"Modality": "C?"}, True),
    ({"SeriesDescription": "*b60*"}, True),
    ({"SeriesDescription": "b60"}, False),
    ({"SeriesDescription": "[Ll]ung*"}, False),
    ({"ImageType": "AXIAL"}, True),
    ({"ImageType": "LOCALIZER"}, False),
    ({"ImageType": {"not": "LOCALIZER"}}, True),
    ({"ImageType": {"not": ("LOCALIZER", "AXIAL")}}, False),
    ({"BodyPartExamined": ""}, True),
    ({"BodyPartExamined": ("", "CHEST")}, True),
    ({"Modality": ""}, False),
    ({"PatientAge": ""}, True),
    ({"PatientAge": {"missing": True}}, True),
    ({"PatientAge": {"missing": False}}, False),
    ({"Modality": {"missing": False}}, True),
    ({"SliceThickness": {"le": 3.0}}, True),
    ({"SliceThickness": {"ge": 3.0}}, False),
    ({"SliceThickness": {"ge": 1.25, "le": 1.25}}, True),
    ({"SliceThickness": 1.25}, True),
    ({"KVP": {"ge": 1}}, False),
    ({"SeriesDescription": {"ge": 1}}, False),
    ({"ProcedureCodeSequence.CodeValue": "P5-*"}, True),
    ({"ProcedureCodeSequence.CodeMeaning": ""}, True),
    ({"ProcedureCodeSequence.CodeValue": "X"}, False),
    ({"CallingAETitle": "CT1"}, True),
    ({"CallingAETitle": "CT2"}, False),
    ({"CalledAETitle": "NODE", "Modality": "CT"}, True),
    ({"CalledAETitle": "NODE", "Modality": "MR"}, False),
]


@pytest.mark.parametrize(("when", "fires"), TESTS, ids=[str(row[0]) for row in TESTS])
def test_row(when: dict[str, Any], fires: bool) -> None:
    rule = Rule("r", when, run=("chest_ct",), send_to=("pacs",))
    found = plan([rule], [series()])
    assert bool(found.matched) is fires
    verdict = found.explanation[0]["series"][0]
    assert verdict["matched"] is fires
    assert bool(verdict["failed"]) is not fires


def test_one_series_must_meet_every_test() -> None:
    rule = Rule("r", {"Modality": "CT", "SliceThickness": {"le": 2}}, run=("chest_ct",))
    thick, mr = series("1", SliceThickness="5"), series("2", Modality="MR", SliceThickness="1")
    assert not plan([rule], [thick, mr]).matched
    assert plan([rule], [thick, mr, series("3")]).pipelines == {"chest_ct": ("3",)}


def test_all_matching_rules_count() -> None:
    rules = [
        Rule("a", {"Modality": "CT"}, run=("chest_ct",), send_to=("pacs",), tell=("result",)),
        Rule(
            "b",
            {"SliceThickness": {"le": 2}},
            run=("chest_ct",),
            send_to=("pacs", "archive"),
            tell=("result", "failed"),
        ),
        Rule("c", {"Modality": "MR"}, run=("brain",), send_to=("elsewhere",)),
        Rule("d", {"Modality": "CT"}, run=("nodule",), send_to=("trial",), mode="shadow"),
    ]
    found = plan(rules, [series("1"), series("2", SliceThickness="5")])
    assert found.matched == ("a", "b", "d")
    assert found.pipelines == {"chest_ct": ("1", "2"), "nodule": ("1", "2")}
    assert found.destinations == {"pacs": ("result", "failed"), "archive": ("result", "failed")}
    assert found.live == {"chest_ct"}
    assert [e["matched"] for e in found.explanation] == [True, True, False, True]
    why_not = found.explanation[2]["series"][0]["failed"]
    assert why_not == {"Modality": {"wanted": "MR", "found": ["CT"]}}


CT, SC, SR, SEG, VL = (
    "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.88.67",
    "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.77.1.1",
)  # fmt: skip

IMAGES = [
    (CT, "CT", {}, True),
    (VL, "ES", {}, True),
    ("1.2.840.10008.5.1.4.1.1.1.1", "DX", {}, True),
    (SC, "OT", {}, False),
    (SC, "CT", {"Modality": "CT"}, False),
    (SC, "CT", {"SOPClassUID": SC}, True),
    (SC + ".4", "OT", {}, False),
    (SR, "SR", {}, False),
    (SR, "SR", {"Modality": "SR"}, True),
    (SR, "SR", {"Modality": "*"}, False),
    (SEG, "SEG", {"Modality": ("CT", "SEG")}, True),
    ("1.2.840.10008.5.1.4.1.1.88.67", "SR", {"Modality": {"not": "SR"}}, False),
    ("1.2.840.10008.5.1.4.1.1.104.1", "DOC", {}, False),
    ("1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT", {}, False),
]


@pytest.mark.parametrize(("sop_class", "modality", "when", "is_one"), IMAGES)
def test_what_is_an_image(sop_class: str, modality: str, when: dict[str, Any], is_one: bool) -> None:
    assert is_image(sop_class, modality, [Rule("r", when)] if when else []) is is_one


def test_a_test_of_several_values() -> None:
    assert meets({"not": ""}, ["x"])
    assert not meets({"not": ""}, [])


URGENCY = [((), 2), (("routine",), 2), (("routine", "high"), 1), (("stat", "routine", "high"), 0)]


@pytest.mark.parametrize(("priorities", "urgency"), URGENCY)
def test_the_most_urgent_rule_that_fires_says_how_urgent_it_is(priorities: Any, urgency: int) -> None:
    rules = [Rule(f"r{n}", {"Modality": "CT"}, ("a",), priority=p) for n, p in enumerate(priorities)]
    rules.append(Rule("MR", {"Modality": "MR"}, ("a",), priority="stat"))
    assert plan(rules, [series()]).priority == urgency
