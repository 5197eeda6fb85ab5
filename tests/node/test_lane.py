"""The fast lane: jobs about single radiographs and single CT series, which wait for no other image."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from config.settings import Settings
from node import process
from node.assemble import Sender
from node.lane import Waits, ready_at
from node.store import deliveries, jobs
from node.store.rows import Job
from pipeline import registry
from tests.node.desk import RULES, Desk, changed
from tests.node.probe_node import Probe
from tests.node.test_rebuild import rebuilt
from tests.node.test_revisions import renamed

pytestmark = pytest.mark.unit

PIECES = """
[[rule]]
name = "series"
when = { Modality = "CT" }
run = ["ct_quality"]
send_to = ["pacs"]
[[rule]]
name = "radiographs"
when = { Modality = ["CR", "DX"] }
run = ["cxr_quality"]
send_to = ["pacs"]
"""
WAITS = Waits(settle_s=1.0, silent_s=4.0, longest_s=60.0, images=20)


@pytest.fixture(autouse=True)
def series_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick pipeline of the other tests stands for the one that looks at every series."""
    entries = dict(registry._PIPELINES)
    entries["ct_quality"] = replace(entries["chest_ct"], subject="series")
    monkeypatch.setattr(registry, "_PIPELINES", entries)


@pytest.fixture
def lane(tmp_path: Path) -> Iterator[Desk]:
    """A desk whose rules run the study's pipeline and both of the fast lane; all of them are the quick one."""
    desk = Desk(tmp_path / "desk", rules=RULES + PIECES)
    with_pipelines(desk)
    yield desk
    desk.stop()


def with_pipelines(desk: Desk) -> None:
    pieces: dict[str, Any] = {name: Probe(name) for name in ("chest_ct", "ct_quality")}
    pieces["cxr_quality"] = registry.load("cxr_quality", desk.settings.pipeline.cxr_quality)
    desk.worker.pipeline = pieces.__getitem__


def study_of(files: Sequence[Path]) -> str:
    return str(dcmread(files[0], specific_tags=["StudyInstanceUID"]).StudyInstanceUID)


def sop(file: Path) -> str:
    return str(dcmread(file, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)


def about(desk: Desk, uid: str) -> list[tuple[str | None, str, str]]:
    """Return pipeline, subject and state of every job."""
    return [(j.pipeline, j.subject, j.state) for j in desk.jobs(uid)]


def fast(desk: Desk, uid: str) -> list[Job]:
    return [j for j in desk.jobs(uid) if j.subject != "study"]


def test_an_image_is_judged_and_published_while_its_study_is_open(lane: Desk, radiographs: list[Path]) -> None:
    uid = study_of(radiographs)
    lane.receive(radiographs[:1], released=False)
    (first,) = lane.jobs(uid)
    assert (first.pipeline, first.subject, first.state, first.priority) == (
        "cxr_quality", sop(radiographs[0]), "waiting", 0,
    )  # fmt: skip
    lane.work()
    assert lane.study(uid).state == "open"
    (sent,) = deliveries.deliveries(lane.db, uid)
    assert (sent.state, sent.priority) == ("waiting", 0)
    lane.deliver()

    lane.receive(radiographs[1:])
    assert about(lane, uid) == [
        ("cxr_quality", sop(radiographs[0]), "done"), ("cxr_quality", sop(radiographs[1]), "waiting"),
    ]  # fmt: skip
    lane.finish()
    lane.coordinator.tick(lane.now + 1.0)
    assert lane.study(uid).state == "closed"
    assert [j.outcome for j in lane.jobs(uid)] == ["result", "result"], (
        "one job each, and none that stands for the study"
    )
    assert lane.sends(uid) == ["delivered", "delivered"]
    shown = lane.show(uid)["jobs"]
    assert [j["subject"] for j in shown] == [sop(f) for f in radiographs]
    paths = [j["artifacts"][0]["path"] for j in shown]
    assert all(f"/cxr_quality/{sop(f)}/" in path for f, path in zip(radiographs, paths, strict=True))


def test_a_late_image_of_another_series_leaves_a_piece_alone(lane: Desk, radiographs: list[Path]) -> None:
    uid = study_of(radiographs)
    lane.receive(radiographs[:1])
    lane.after(4000.0)
    assert lane.study(uid).state == "closed"
    lane.receive(radiographs[1:])
    assert (lane.study(uid).revision, lane.study(uid).state) == (2, "open")
    assert [state for *_, state in about(lane, uid)] == ["waiting", "waiting"], "nothing about the first is dropped"
    lane.work()
    assert lane.sends(uid) == ["waiting", "waiting"]
    lane.finish()
    assert len(lane.jobs(uid)) == 2, "nor done twice"
    reports = [
        dcmread(lane.folder.path / a.path) for j in lane.jobs(uid) for a in jobs.artifacts(lane.db, j) if a.kind == "sr"
    ]
    assert all("PredecessorDocumentsSequence" not in r and "evision" not in r.SeriesDescription for r in reports)


RELEASED = Sender("released", 24, False, 100.0, 101.0)


@pytest.mark.parametrize(
    ("by", "before", "then"),
    [
        (RELEASED, 0, 102.0),  # settle_s after the release
        (RELEASED, 2, 105.0),  # each job that one more image has overtaken doubles the wait
        (replace(RELEASED, images=1), 0, 104.0),  # an association for each slice: its release says nothing
        (replace(RELEASED, end="open"), 0, 104.0),  # silence
        (replace(RELEASED, end="open"), 30, 160.0),  # and not for ever
        (replace(RELEASED, end="aborted"), 0, None),  # what is left comes again
        (None, 0, 104.0),
    ],
)
def test_a_series_is_complete_after_its_release_or_after_silence(
    by: Sender | None, before: int, then: float | None
) -> None:
    assert ready_at(100.0, by, before, WAITS) == then


def test_a_series_is_judged_when_it_looks_complete_and_once_more_when_it_grows(
    lane: Desk, slices: list[Path], uid: str
) -> None:
    lane.receive(slices[:22])
    series = lane.jobs(uid)
    assert series == (), "its association may be followed by the next one"
    lane.after(1.1)
    assert [(p, s == uid) for p, s, _ in about(lane, uid)] == [("ct_quality", False), ("chest_ct", False)]
    lane.work()
    states = {d.job_id: d.state for d in deliveries.deliveries(lane.db, uid)}
    assert [states[j.id] for j in lane.jobs(uid)] == ["waiting", "held"], "the study's own result waits for its study"
    lane.deliver()

    lane.receive(slices[22:23])
    assert lane.study(uid).state == "open"
    assert [j.state for j in fast(lane, uid)] == ["done"]
    lane.after(4.1)
    assert [j.state for j in fast(lane, uid)] == ["done"], "the second time it waits twice as long"
    lane.after(4.1)
    assert [j.state for j in fast(lane, uid)] == ["done", "waiting"]
    lane.receive(slices[23:])
    assert [j.state for j in fast(lane, uid)] == ["done", "superseded"]
    lane.finish()
    first, _, last = fast(lane, uid)
    assert [j.state for j in (first, last)] == ["done", "done"]
    assert first.subject == last.subject
    (report,) = [a for a in jobs.artifacts(lane.db, last) if a.kind == "sr"]
    (before,) = [a for a in jobs.artifacts(lane.db, first) if a.kind == "sr"]
    named = dcmread(lane.folder.path / report.path).PredecessorDocumentsSequence[0]
    assert named.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == before.sop_uid


def test_a_series_with_a_gap_or_of_few_slices_is_judged_when_its_study_closes(
    lane: Desk, slices: list[Path], uid: str
) -> None:
    lane.receive([*slices[:3], *slices[4:]])
    lane.after(50.0)
    assert lane.jobs(uid) == ()
    lane.after(4000.0)
    assert {(p, s) for p, _, s in about(lane, uid)} == {("chest_ct", "waiting"), ("ct_quality", "waiting")}


def test_who_was_killed_between_index_and_queue_finds_it_again(
    lane: Desk, radiographs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = study_of(radiographs)
    with monkeypatch.context() as patched:
        patched.setattr("node.store.pieces.passing", lambda name: (_ for _ in ()).throw(KeyboardInterrupt(name)))
        with pytest.raises(KeyboardInterrupt):
            lane.receive(radiographs)
    assert lane.jobs(uid) == ()
    lane.stop()
    lane.start()
    for _ in range(3):
        lane.coordinator.tick(lane.now)
    assert [s for _, s, _ in about(lane, uid)] == [sop(f) for f in radiographs]


def test_a_corrected_identity_is_judged_anew_and_what_has_left_is_told(
    lane: Desk, radiographs: list[Path], tmp_path: Path
) -> None:
    uid = study_of(radiographs)
    lane.receive(radiographs)
    lane.work()
    lane.deliver()
    assert lane.study(uid).state == "open"
    right = changed(radiographs, tmp_path / "right", renamed)
    lane.receive(right[:1])
    lane.work()
    assert len(lane.jobs(uid)) == 2, "nobody is told anything while nobody knows whose it is"
    lane.receive(right[1:])
    lane.work()
    lane.deliver()
    first, second = (lane.jobs(uid)[:2], lane.jobs(uid)[2:])
    assert [j.subject for j in second] == [j.subject for j in first]
    assert [(j.revision, j.outcome) for j in second] == [(2, "result"), (2, "result")]
    (told,) = lane.show(uid)["corrections"]
    gone = {o["sop_instance_uid"] for o in told["delivered"]}
    assert gone == {a.sop_uid for j in first for a in jobs.artifacts(lane.db, j)} & gone != set()
    reports = [dcmread(lane.folder.path / a.path) for j in second for a in jobs.artifacts(lane.db, j) if a.kind == "sr"]
    assert [(r.PatientID, "PredecessorDocumentsSequence" in r) for r in reports] == [("RIGHT-1", False)] * 2
    lane.finish()
    assert len(lane.jobs(uid)) == 4


def test_what_a_correction_does_not_touch_stands_and_leaves(
    lane: Desk, radiographs: list[Path], tmp_path: Path
) -> None:
    uid = study_of(radiographs)
    right = changed(radiographs, tmp_path / "right", lambda ds: setattr(ds, "AccessionNumber", "ACC-RIGHT"))
    lane.receive([right[0]])
    lane.work()  # its delivery still waits
    lane.receive([radiographs[1]])
    lane.receive([right[1]])
    lane.work()
    (own,) = [j for j in lane.jobs(uid)[1:] if j.subject == sop(right[0]) and j.state == "done"]
    assert own.carried_from == lane.jobs(uid)[0].id
    states = {d.job_id: d.state for d in deliveries.deliveries(lane.db, uid)}
    assert "waiting" in {states.get(own.id), states.get(own.carried_from)}


def test_two_patients_in_one_study_fail_visibly_when_it_closes(
    lane: Desk, radiographs: list[Path], tmp_path: Path
) -> None:
    uid = study_of(radiographs)
    stranger = changed(radiographs[1:], tmp_path / "stranger", renamed)
    lane.receive([radiographs[0], *stranger])
    assert lane.jobs(uid) == ()
    lane.finish()
    assert [(j.pipeline, j.outcome) for j in lane.jobs(uid)] == [("cxr_quality", "failed")] * 2
    assert lane.alarms(uid) == {"several-patients-in-study"}
    assert lane.sends(uid) == []


def test_a_rule_is_tested_on_the_piece_itself(tmp_path: Path, radiographs: list[Path]) -> None:
    desk = Desk(tmp_path / "desk", rules=RULES + PIECES.replace('["CR", "DX"]', '"DX", SeriesInstanceUID = "*.2"'))
    desk.receive(radiographs)
    desk.after(4000.0)
    uid = study_of(radiographs)
    assert about(desk, uid) == [("cxr_quality", sop(radiographs[1]), "waiting")]
    desk.stop()


def test_a_failure_of_a_piece_rings_until_a_person_has_seen_it(lane: Desk, radiographs: list[Path]) -> None:
    uid = study_of(radiographs)
    lane.receive(radiographs[:1])
    path = next(p for p in lane.folder.spool.glob("??/*.dcm"))
    path.write_bytes(path.read_bytes()[:-2] + b"\1\1")  # another file than what was received
    lane.work()
    assert lane.alarms(uid) == {"analysis-failed"}
    lane.after(4000.0)
    lane.receive(radiographs[1:])
    lane.work()
    assert lane.study(uid).revision == 2
    assert lane.alarms(uid) == {"analysis-failed"}, "a second image mends nothing"


def test_a_rebuilt_index_judges_anew_only_what_the_old_one_had_not_seen(
    lane: Desk, slices: list[Path], uid: str, radiographs: list[Path], tmp_path: Path
) -> None:
    lane.receive(radiographs)
    lane.receive(slices[:22])
    lane.finish()
    lane.stop()
    shutil.copy(lane.folder.database, tmp_path / "older")
    lane.start()
    lane.receive(slices[22:23])
    for old in lane.folder.path.glob("node.sqlite3*"):
        old.unlink()
    shutil.copy(tmp_path / "older", lane.folder.database)
    rebuilt(lane)
    with_pipelines(lane)
    lane.finish()
    assert [j.state for j in lane.jobs(study_of(radiographs))] == ["done", "done"]
    assert [(j.state, j.outcome) for j in fast(lane, uid)] == [("done", "result")] * 2


def test_fast_jobs_go_first_and_each_worker_takes_its_own(
    lane: Desk, slices: list[Path], radiographs: list[Path]
) -> None:
    lane.receive(slices)
    lane.after(1.1)
    lane.receive(radiographs[:1])
    (image,) = lane.jobs(study_of(radiographs))
    series, study = lane.jobs(study_of(slices))
    assert (series.pipeline, study.pipeline) == ("ct_quality", "chest_ct")
    assert jobs.due(lane.db, lane.now, 9) == (series.id, image.id, study.id)
    assert jobs.due(lane.db, lane.now, 9, "fast") == (series.id, image.id)
    assert jobs.due(lane.db, lane.now, 9, "studies") == (study.id,)


def test_process_judges_every_piece_in_a_folder_of_its_own_and_grades_alone_are_no_result_of_a_study(
    tmp_path: Path, slices: list[Path], radiographs: list[Path]
) -> None:
    options = process.ProcessOptions(load=_quick, version="test", now=datetime(2026, 1, 2, tzinfo=UTC))
    seen: list[str] = []
    document = process.process(radiographs, tmp_path / "out", options, lambda _s, name: seen.append(name))
    (study,) = document["studies"]
    assert [(j["subject"], j["outcome"]) for j in study["jobs"]] == [(sop(f), "result") for f in radiographs]
    for job in study["jobs"]:
        folder = tmp_path / "out" / study["study_instance_uid"] / "cxr_quality" / job["subject"]
        assert all((tmp_path / "out" / a["path"]).parent == folder for a in job["artifacts"])
    assert seen == ["cxr_quality"] * 2
    assert process.exit_code(document) == 0

    document = process.process(slices, tmp_path / "ct", options)
    (study,) = document["studies"]
    assert [j["pipeline"] for j in study["jobs"]] == ["chest_ct", "ct_quality"], "analyses go first"
    assert process.exit_code(document) == 0
    study["jobs"][0]["outcome"] = "not_analysed"
    assert process.exit_code(document) == 3, "the series has a grade, and the study no result"


def _quick(name: str) -> Any:
    return registry.load(name, Settings().pipeline.cxr_quality) if name == "cxr_quality" else Probe(name)
