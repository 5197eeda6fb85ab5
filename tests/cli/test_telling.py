"""What a person reads: structure, language and time, not wording."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from rich.cells import cell_len

from node.cli import _node_state, _study
from node.cli._words import Words, columns, size, span
from tests.cli.documents import AT, delivery, destination, job, reason, show, status

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 21, 9, 1, 0, tzinfo=UTC)
ENGLISH = Words("en", NOW, UTC)
CHINESE = Words("zh-CN", NOW, timezone(timedelta(hours=8), "CST"))


def told(document: dict[str, Any], words: Words = ENGLISH, **more: Any) -> list[str]:
    return list(_study.tell(document, words, **more))


def sections(lines: list[str]) -> dict[str, list[str]]:
    """Return title -> lines; the head has the title ''."""
    found: dict[str, list[str]] = {"": []}
    title = ""
    for before, line in zip(["x", *lines], lines, strict=False):
        if not before and line:
            title = line
            found[title] = []
        elif line:
            found[title].append(line)
    return found


def test_chinese_takes_two_cells_and_columns_stay_aligned() -> None:
    lines = columns([("张三", "1", "", "x"), ("Miller", "22", "", "y")], ("name", "n", "empty", "last"), indent=0)
    places = [cell_len(line[: line.rindex(end)]) for line, end in zip(lines, ("last", "x", "y"), strict=True)]
    assert len(set(places)) == 1
    assert "empty" not in lines[0]
    assert columns([]) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (7325, "2 h 2 min"),
        (200000, "2 d 7 h"),
        (-5, "5 s"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_sizes_and_times() -> None:
    assert size(2.5e9) == "2.5 GB"
    assert size(3e6) == "3 MB"
    assert ENGLISH.time(AT) == "09:00:00"
    assert CHINESE.time(AT) == "17:00:00"
    assert ENGLISH.time("2026-11-19T09:00:00.000Z") == "2026-11-19 09:00:00"
    assert ENGLISH.until("2026-11-21T09:01:40.000Z") == "09:01:40 (in 40 s)"
    assert ENGLISH.until(AT) == "09:00:00 (now)"


def test_a_study_that_waits_says_for_what_and_until_when() -> None:
    wait = {
        "what": "waits-step-in-progress",
        "detail": {"en": "A step.", "zh-CN": "步骤。"},
        "until": "2026-11-21T09:02:00.000Z",
    }
    head = sections(told(show(state="open", waiting_for=[wait])))[""]
    assert any("A step." in line and "09:02:00 (in 1 min)" in line for line in head)
    head = sections(told(show(state="open", waiting_for=[wait]), CHINESE))[""]
    assert any("步骤。" in line and "17:02:00" in line for line in head)


def test_a_closed_study_says_first_what_came_of_it() -> None:
    lines = told(show(jobs=[job()], deliveries=[delivery()]))
    assert any("chest_ct" in line and "pacs: delivered" in line for line in sections(lines)[""])
    refused = job(outcome="not_analysed", reason=reason("too-thick", "unable"))
    head = sections(told(show(jobs=[refused])))[""]
    assert any("not analysed" in line and "too-thick in English" in line for line in head)


def test_only_the_present_revision_is_in_the_headline() -> None:
    jobs = [job(1, outcome="superseded", state="superseded"), job(2, revision=2)]
    found = sections(told(show(revision=2, jobs=jobs)))
    assert not any("superseded" in line for line in found[""])
    assert any("superseded" in line for line in found["Jobs"])


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (delivery(state="waiting", next_attempt="2026-11-21T09:01:30.000Z", last_error=reason("no-answer")),
         ["no-answer in English", "no-answer: do this", "09:01:30 (in 30 s)"]),
        (delivery(state="held", next_attempt="2026-11-21T09:01:30.000Z", last_error=reason("study-not-at-destination", "note")),
         ["study-not-at-destination: do this", "in 30 s"]),
        (delivery(state="held", proof=None), ["until the study is complete"]),
        (delivery(state="waiting", next_attempt=AT, proof=None), ["`pacs-ai-node status`"]),
        (delivery(state="waiting", next_attempt=AT, proof=None, breaker="open"), ["does not answer"]),
        (delivery(state="held", proof=None, breaker="open"), ["until the study is complete"]),
        (delivery(state="delivered", identity="not-offered"), ["identity there was not checked"]),
        (delivery(state="delivered", proof="missing"), ["NOT FOUND"]),
        (delivery(state="dead", proof=None, objects=[
            {"sop_instance_uid": "1.9", "kind": "seg", "modality": "SEG", "state": "refused", "instead_of": None,
             "status": "A900", "reason": reason("mismatch"), "utc": AT}]),
         ["SEG 1.9", "A900", "mismatch in English", "mismatch: do this"]),
        (delivery(state="delivered", last_error=reason("instead"), objects=[
            {"sop_instance_uid": "1.8", "kind": "csr", "modality": "SR", "state": "accepted", "instead_of": "sr",
             "status": "0000", "reason": None, "utc": AT}], not_written=["overlay", "pdf"]),
         ["of profile ohif: csr.", "csr stands in for sr.", "instead in English", "were not written", "overlay, pdf"]),
        (delivery(state="dead", what="rejection", proof=None, last_error=reason("rejection-not-provable"), rejects=[
            {"sop_instance_uid": f"1.{n}", "kind": kind, "revision": 1} for n, kind in enumerate(("seg", "sc", "sc"))]),
         ["rejection note", "of revision 1: seg, sc (2).", "rejection-not-provable: do this"]),
    ],
    ids=lambda v: v["state"] if isinstance(v, dict) else "",
)  # fmt: skip
def test_every_delivery_that_has_not_arrived_says_why_and_what_to_do(row: dict[str, Any], says: list[str]) -> None:
    lines = "\n".join(sections(told(show(jobs=[job()], deliveries=[row])))["Deliveries"])
    for text in says:
        assert text in lines


def test_what_needs_a_hand_comes_before_how_it_went_and_the_rules_come_last() -> None:
    alarm = {
        "code": "conflicting-instance",
        "subject": "1.2.3.4",
        "study": "1.2.3.4",
        "raised": AT,
        "reason": reason("conflicting-instance"),
    }
    correction = {
        "utc": AT,
        "cancelled": 2,
        "unknown_at": [],
        "delivered": [{"destination": "pacs", "sop_instance_uid": "1.8", "state": "delivered"}],
    }
    routed = {"utc": AT, "event": "routed", "matched": ["a"], "rules": [
        {"rule": "a", "matched": True, "mode": "live", "series": [{"series_instance_uid": "1", "matched": True, "failed": {}}]},
        {"rule": "b", "matched": False, "mode": "live", "series": [
            {"series_instance_uid": "1", "matched": False, "failed": {"Modality": {"found": ["MR"], "wanted": "CT"}}}]},
    ]}  # fmt: skip
    document = show(alarms=[alarm], corrections=[correction], jobs=[job()], deliveries=[delivery()], timeline=[routed])
    titles = list(sections(told(document)))
    assert [t.split(",")[0].split(" ")[0] for t in titles] == [
        "",
        "Alarms",
        "Jobs",
        "Deliveries",
        "Corrections",
        "Timeline",
        "Rules",
    ]
    found = sections(told(document))
    assert any("conflicting-instance: do this" in line for line in found["Alarms"])
    assert any("1.8" in line for line in found["Corrections of identity"])
    assert not any("Modality" in line for line in found["Rules"])
    assert any("Modality is MR" in line for line in sections(told(document, verbose=True))["Rules"])


def test_a_study_that_no_rule_took_says_why_without_being_asked() -> None:
    routed = {"utc": AT, "event": "routed", "matched": [], "rules": [
        {"rule": "b", "matched": False, "mode": "live", "series": [
            {"series_instance_uid": "1", "matched": False, "failed": {"Modality": {"found": [], "wanted": "CT"}}}]},
    ]}  # fmt: skip
    assert any("Modality is absent" in line for line in sections(told(show(timeline=[routed])))["Rules"])


def test_the_timeline_tells_reasons_in_the_readers_language() -> None:
    entry = {
        "utc": AT,
        "event": "closed",
        "evidence": "strong",
        "why": "English",
        "waited_for": [{"what": "x", "detail": {"en": "English", "zh-CN": "中文"}}],
    }
    (line,) = sections(told(show(timeline=[entry]), CHINESE))["Timeline, CST"]
    assert "中文" in line
    assert "English" not in line


def test_status_says_whether_it_runs_accepts_and_what_needs_a_hand() -> None:
    alarm = {
        "code": "destination-down",
        "subject": "pacs",
        "study": None,
        "raised": AT,
        "reason": reason("destination-down"),
    }
    down = destination(
        breaker="open", since=AT, next_try="2026-11-21T09:01:30.000Z", waiting=3, last_error=reason("no-answer")
    )
    document = status(alarms=[alarm], destinations=[down])
    found = sections(list(_node_state.tell(document, ENGLISH)))
    assert any(line.startswith("accepts") and line.endswith("yes") for line in found[""])
    assert any("running for 1 min" in line for line in found[""])
    assert any("destination-down: do this" in line for line in found["Alarms"])
    text = "\n".join(found["Destinations"])
    assert all(said in text for said in ("pacs", "for 1 min", "3 waiting", "in 30 s", "no-answer in English"))
    assert any("full in 20 days" in line for line in found[""])
    full = {**document["disk"], "accepting": False, "reason": reason("not-accepting")}
    closed = sections(list(_node_state.tell(status(disk=full), ENGLISH)))[""]
    assert any(line.startswith("accepts") and "NO: not-accepting in English" in line for line in closed)
    stopped = sections(list(_node_state.tell(status(running=False, processes=[]), ENGLISH)))
    assert "NOT RUNNING" in stopped[""][0]


@pytest.mark.parametrize(
    ("row", "running", "says"),
    [
        ({}, True, "no trouble known  nothing accepted yet"),
        ({"dead": 2, "quarantined": 1}, True, "RESULTS DID NOT ARRIVE  nothing accepted yet  2 dead, 1 quarantined"),
        ({"dead": 1, "last_accepted": AT}, True, "answers  last accepted 1 min ago  1 dead"),
        ({"last_accepted": AT}, True, "answers  last accepted 1 min ago"),
        ({"last_accepted": AT}, False, "no trouble known  last accepted 1 min ago"),
        ({"last_accepted": "2026-11-20T09:01:00.000Z"}, True, "no trouble known  last accepted 1 d ago"),
        ({"last_accepted": AT, "last_error": reason("no-answer")}, True, "failed last time  last accepted 1 min ago"),
        ({"breaker": "half-open", "since": AT}, True, "is tried  for 1 min"),
        ({"breaker": "open", "since": AT, "next_try": AT}, False, "DID NOT ANSWER  since 09:00:00"),
    ],
)
def test_a_destination_answers_only_if_it_did_of_late(row: dict[str, Any], says: str, *, running: bool) -> None:
    document = status(running=running, destinations=[destination(**row)])
    first = sections(list(_node_state.tell(document, ENGLISH)))["Destinations"][0]
    assert first == f"  pacs  {says}"


def test_a_node_that_stands_still_claims_no_work_in_progress() -> None:
    document = status(
        running=False, processes=[], idle=False, jobs={"waiting": 2, "running": 1, "dead": 0},
        deliveries={**status()["deliveries"], "sending": 1},
    )  # fmt: skip
    head = "\n".join(sections(list(_node_state.tell(document, ENGLISH)))[""])
    assert "2 waiting, 1 interrupted" in head
    assert not any(word in head for word in ("1 running", "sending", "busy"))


@pytest.mark.parametrize("state", ["cancelled", "superseded"])
def test_what_is_over_says_no_old_error(state: str) -> None:
    rows = [delivery(state=state, proof=None, last_error=reason("no-answer"))]
    (line,) = sections(told(show(jobs=[job()], deliveries=rows)))["Deliveries"]
    assert state in line


def test_a_study_of_several_patients_says_whose_which_series_is() -> None:
    patients = [
        {"patient_id": "P1", "images": 60, "series": ["1.2.1", "1.2.2"]},
        {"patient_id": "", "images": 4, "series": ["1.2.3"]},
    ]
    lines = sections(told(show(patients=patients)))["Patients"]
    assert lines == [
        "  P1: 60 images in 2 series",
        "    1.2.1",
        "    1.2.2",
        "  no patient ID: 4 images in 1 series",
        "    1.2.3",
    ]
    assert "Patients" not in sections(told(show()))


def test_status_says_what_it_has_learned_of_each_sender() -> None:
    row = {
        "ae_title": "CT1",
        "studies": 40,
        "longest_pause_s": 8.0,
        "quiet_s": 24.0,
        "quiet_open_s": 60.0,
        "learned": True,
        "doubted": ["count"],
    }
    (line,) = sections(list(_node_state.tell(status(senders=[row]), ENGLISH)))["Senders"]
    assert all(said in line for said in ("CT1", "40", "8 s", "24 s", "learned", "count"))
