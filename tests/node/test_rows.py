"""Index, coordinator and worker on one database, in one process, with the test's own clock."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid
from structlog.testing import capture_logs

from config import load as load_settings
from config.settings import Settings
from dicom_io.read import read_instance
from dicom_io.reason import Reason
from node import recover, show
from node.coordinator import Coordinator
from node.installation import DataFolder
from node.retry import policy
from node.spool import Spool, utc
from node.store import Database, alarms, deliveries, jobs, operator, studies
from node.store.rows import Job
from node.worker import Worker
from pipeline.api import Analysis, Pipeline
from pipeline.errors import NotAnalysed, PipelineFailed
from pipeline.reasons import REASONS
from tests.node.probe_node import Probe
from tests.stores import STORES

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("back_end")]

RULES = """
[study]
quiet_s = 60.0
pace = "fixed"
settle_s = 1.0
[[destination]]
name = "pacs"
host = "127.0.0.1"
port = 1
ae_title = "PACS"
[[rule]]
name = "CT"
when = { Modality = "CT" }
run = ["chest_ct"]
send_to = ["pacs"]
"""


class Bench:
    """A data folder that receives by hand, and the parts of a node that work on rows."""

    def __init__(self, folder: Path, pipeline: Pipeline, rules: str = RULES) -> None:
        config = folder / "node.toml"
        config.write_text(f"[node]\ndata_dir = {json.dumps(str(folder / 'data'))}\n{rules}", encoding="utf-8")
        self.settings: Settings = load_settings(config, STORES.environ(folder / "data"))
        self.folder = DataFolder(self.settings.node.data_dir)
        self.folder.prepare()
        Spool(self.folder.path)
        self.db: Database = STORES.open(self.folder.path)
        self.boot = time.time()
        self.now = self.boot + 10.0
        self.coordinator = Coordinator(self.db, self.folder, self.settings, self.boot)
        self.pipeline = pipeline
        self.worker = Worker(self.db, self.folder, self.settings, "w1", lambda _name: self.pipeline, lambda: self.now)
        self._journal = self.folder.spool / "journal" / f"20260101T000000Z-n-{os.getpid()}.jsonl"
        self._associations = 0

    def note(self, kind: str, **more: Any) -> None:
        record = {
            "kind": kind,
            "utc": utc(datetime.fromtimestamp(self.now, UTC)),
            "association": str(self._associations),
        }
        who = {"calling": "CT1", "called": "NODE", "peer": "127.0.0.1"}
        with self._journal.open("a", encoding="utf-8") as out:
            out.write(json.dumps({**record, **who, **more}) + "\n")

    def arrive(self, files: Sequence[Path], end: str = "association-released") -> None:
        self._associations += 1
        self.note("association-open")
        for file in files:
            i = read_instance(file)
            entry = f"00/{i.sop_instance_uid}.dcm"
            kind = "duplicate" if (self.folder.spool / entry).exists() else "stored"
            if kind == "stored":
                os.link(file, self.folder.spool / entry)
            self.note(
                kind, study=i.study_instance_uid, series=i.series_instance_uid, sop=i.sop_instance_uid,
                sop_class=i.sop_class_uid, syntax=i.transfer_syntax_uid, digest=i.digest, bytes=file.stat().st_size, entry=entry,
            )  # fmt: skip
        self.note(end)
        self.coordinator.tick(self.now)

    def after(self, seconds: float) -> None:
        self.now += seconds
        self.coordinator.tick(self.now)

    def work(self) -> list[bool]:
        return [self.worker.run(n) for n in jobs.due(self.db, self.now, 99)]

    def die(self, n: int) -> None:
        """Let a worker claim job `n` and die."""
        assert jobs.claim(self.db, n, "killed", self.now, 30.0) is not None
        assert recover.worker_ended(self.db, "killed", self.now, self.settings.worker.attempts, planned=False) == 1
        self.now += 1000.0

    def show(self, uid: str) -> dict[str, Any]:
        study = studies.study(self.db, uid)
        assert study is not None
        return show.show(self.db, study, "test")

    def rows(self, uid: str) -> tuple[Job, ...]:
        return jobs.jobs(self.db, uid)

    def sends(self, uid: str) -> list[tuple[int, str]]:
        return [(d.job_id, d.state) for d in deliveries.deliveries(self.db, uid)]

    def deliver(self) -> None:
        while (taken := deliveries.take(self.db, "pacs", self.now)) is not None:
            deliveries.settle(self.db, taken, self.now, "delivered")


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
def bench(tmp_path: Path, probe: Any) -> Bench:
    return Bench(tmp_path, probe)


@pytest.fixture
def ct(slices: list[Path]) -> list[Path]:
    """Slices enough for weak evidence, and some that come late."""
    return slices


@pytest.fixture
def uid(ct: list[Path]) -> str:
    return str(dcmread(ct[0], specific_tags=["StudyInstanceUID"]).StudyInstanceUID)


@pytest.fixture
def other_series(ct: list[Path], tmp_path: Path) -> list[Path]:
    """Two slices more in another series of the same study: no pipeline chooses them."""
    made = []
    for n, file in enumerate(ct[:2]):
        ds = dcmread(file)
        ds.SeriesInstanceUID = generate_uid(entropy_srcs=["other series"])
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["other", str(n)])
        ds.save_as(tmp_path / f"other{n}.dcm")
        made.append(tmp_path / f"other{n}.dcm")
    return made


def test_early_work_is_held_until_the_quiet_time(bench: Bench, ct: list[Path], uid: str) -> None:
    bench.arrive(ct)
    assert bench.rows(uid) == ()
    bench.after(1.2)
    assert [j.state for j in bench.rows(uid)] == ["waiting"]
    assert bench.work() == [True]
    assert bench.sends(uid) == [(1, "held")]
    bench.after(57.0)
    assert operator.resend(bench.db, uid, bench.now, ["pacs"]) == (), "early work is not published, whoever asks"
    assert bench.sends(uid) == [(1, "held")]
    bench.after(3.0)
    assert bench.sends(uid) == [(1, "waiting")]
    assert bench.show(uid)["state"] == "closed"


def test_early_work_is_carried_forward_when_its_inputs_did_not_change(
    bench: Bench, ct: list[Path], other_series: list[Path], uid: str
) -> None:
    bench.arrive(ct)
    bench.after(1.2)
    bench.work()
    bench.arrive(other_series)
    assert [j.state for j in bench.rows(uid)] == ["superseded"]
    assert bench.sends(uid) == [(1, "superseded")]
    bench.after(61.0)
    bench.work()
    assert [(j.state, j.revision, j.carried_from) for j in bench.rows(uid)] == [("superseded", 1, None), ("done", 1, 1)]
    assert bench.sends(uid) == [(1, "superseded"), (2, "waiting")]
    document = bench.show(uid)["jobs"]
    assert document[1]["artifacts"] == document[0]["artifacts"] != []
    assert document[1]["outcome"] == "result"


def test_a_late_image_elsewhere_sends_nothing_again(
    bench: Bench, ct: list[Path], other_series: list[Path], uid: str
) -> None:
    bench.arrive(ct)
    bench.after(61.0)
    bench.work()
    bench.deliver()
    bench.arrive(other_series)
    bench.after(121.0)
    bench.work()
    assert [(j.revision, j.carried_from) for j in bench.rows(uid)] == [(1, None), (2, 1)]
    assert bench.sends(uid) == [(1, "delivered")]
    assert operator.resend(bench.db, uid, bench.now) == ("pacs",)
    assert bench.sends(uid) == [(1, "delivered"), (2, "waiting")]


def test_a_late_slice_supersedes_what_was_not_sent_and_names_what_was(bench: Bench, ct: list[Path], uid: str) -> None:
    bench.arrive(ct[:20])
    bench.after(61.0)
    bench.work()
    bench.arrive(ct[20:22])
    assert bench.sends(uid) == [(1, "superseded")]
    bench.after(121.0)
    bench.work()
    # revision 1 never left the node: nothing may name it
    report = next(a for a in bench.show(uid)["jobs"][1]["artifacts"] if a["kind"] == "sr")
    assert "PredecessorDocumentsSequence" not in dcmread(bench.folder.path / report["path"])
    bench.deliver()
    bench.arrive(ct[22:])
    bench.after(241.0)
    bench.work()
    assert bench.sends(uid) == [(1, "superseded"), (2, "delivered"), (3, "waiting")]
    newest = next(a for a in bench.show(uid)["jobs"][2]["artifacts"] if a["kind"] == "sr")
    named = dcmread(bench.folder.path / newest["path"]).PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert named.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == report["sop_instance_uid"]


def test_a_result_that_a_late_image_overtook_is_not_sent(bench: Bench, ct: list[Path], uid: str, probe: Any) -> None:
    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(probe, name)

        def run(self, series: Any, progress: Any = None) -> Analysis:
            bench.arrive(ct[20:])
            return probe.run(series, progress)

    bench.pipeline = Slow()  # type: ignore[assignment]  # everything else is the probe's
    bench.arrive(ct[:20])
    bench.after(61.0)
    assert bench.work() == [True]
    assert bench.sends(uid) == [(1, "superseded")]
    assert bench.show(uid)["revision"] == 2


def test_a_job_is_finished_only_by_its_owner(bench: Bench, ct: list[Path], uid: str) -> None:
    bench.arrive(ct)
    bench.after(61.0)
    (n,) = jobs.due(bench.db, bench.now)
    first = jobs.claim(bench.db, n, "other", bench.now, 30.0)
    assert first is not None
    assert jobs.claim(bench.db, n, "w1", bench.now, 30.0) is None
    bench.now += 31.0
    with capture_logs() as logs:
        assert recover.expired(bench.db, bench.now, 3) == 1
    assert [(told["event"], told["study"]) for told in logs] == [("job.given-back", bench.show(uid)["hash"])]
    bench.now += 60.0
    assert bench.work() == [True]
    late = {"state": "done", "outcome": "result", "reason": None, "document": {}, "send_to": ["pacs"]}
    assert not jobs.finish(bench.db, first, "other", bench.now, **late)  # type: ignore[arg-type]  # one shape, by name
    assert [(j.attempts, j.state) for j in bench.rows(uid)] == [(2, "done")]


def test_a_study_that_kills_its_worker_ends_dead_with_a_card(bench: Bench, ct: list[Path], uid: str) -> None:
    bench.arrive(ct)
    bench.after(61.0)
    (n,) = jobs.due(bench.db, bench.now)
    for _ in range(bench.settings.worker.attempts):
        bench.die(n)
    assert bench.work() == [True]
    (job,) = bench.show(uid)["jobs"]
    assert (job["state"], job["outcome"], job["reason"]["code"]) == ("dead", "failed", "worker-lost")
    assert [a["kind"] for a in job["artifacts"]] == ["card"]
    assert bench.sends(uid) == [(1, "waiting")]
    (alarm,) = bench.show(uid)["alarms"]
    assert alarm["code"] == "analysis-failed"
    assert "worker-lost" in alarm["reason"]["text"]["en"]
    # even the card killed it, every time: the row ends without one
    assert operator.retry(bench.db, bench.now, study_uid=uid) == 1
    assert bench.show(uid)["alarms"] == [], "it is tried again"
    for _ in range(bench.settings.worker.attempts + policy()["job"]["cards"]):
        assert bench.rows(uid)[0].state == "waiting"
        bench.die(n)
    (job,) = bench.show(uid)["jobs"]
    assert (job["state"], job["reason"]["code"], job["artifacts"]) == ("dead", "worker-lost", [])
    assert [a["code"] for a in bench.show(uid)["alarms"]] == ["analysis-failed"]
    assert alarms.dismissed(bench.db, "analysis-failed", uid, bench.now) == 1


def test_a_planned_stop_and_a_power_cut_cost_no_attempt(bench: Bench, ct: list[Path], uid: str) -> None:
    bench.arrive(ct)
    bench.after(61.0)
    (n,) = jobs.due(bench.db, bench.now)
    owner = recover.owner_of("node", 1.0, 2)
    for back in (
        lambda: recover.worker_ended(bench.db, owner, 0, 3, planned=True),
        lambda: recover.after_boot(bench.db, "node", 0, 3),
    ):
        assert jobs.claim(bench.db, n, owner, bench.now, 30.0) is not None
        assert back() == 1
        assert [(j.attempts, j.state) for j in bench.rows(uid)] == [(0, "waiting")]
    assert bench.rows(uid)[0].losses == 1


def failing(probe: Any, error: Exception) -> Any:
    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(probe, name)

        def run(self, *_: Any) -> Analysis:
            raise error

    return Failing()


def test_a_study_without_result_and_without_card_is_not_silent(bench: Bench, ct: list[Path], uid: str) -> None:
    bench.arrive(ct)
    with dcmread(ct[0]) as ds:
        (bench.folder.spool / "00" / f"{ds.SOPInstanceUID}.dcm").unlink()
    bench.after(61.0)
    assert bench.work() == [True]
    (job,) = bench.show(uid)["jobs"]
    assert (job["state"], job["artifacts"], bench.sends(uid)) == ("dead", [], [])
    assert bench.show(uid)["alarms"], job


def test_a_later_revision_that_succeeds_ends_the_alarm(bench: Bench, ct: list[Path], uid: str, probe: Any) -> None:
    bench.pipeline = failing(probe, RuntimeError("boom"))
    bench.arrive(ct[:20])
    bench.after(61.0)
    for _ in range(3):
        bench.work()
        bench.now += 1000.0
    assert [a["code"] for a in bench.show(uid)["alarms"]] == ["analysis-failed"]
    bench.pipeline = probe
    bench.arrive(ct[20:])
    bench.after(121.0)
    assert bench.work() == [True]
    assert bench.show(uid)["alarms"] == []


def test_who_is_told_of_a_study_that_could_not_be_judged(bench: Bench, ct: list[Path], uid: str, probe: Any) -> None:
    unable = Reason("test-unable", "unable", {"en": "No.", "zh-CN": "否。"}, {})
    never = Reason("test-never", "not_applicable", {"en": "A knee.", "zh-CN": "膝。"}, {})
    bench.pipeline = failing(probe, NotAnalysed(unable))
    bench.arrive(ct[:20])
    bench.after(61.0)
    bench.work()
    assert [(j.state, j.outcome) for j in bench.rows(uid)] == [("done", "not_analysed")]
    assert bench.sends(uid) == [(1, "waiting")]
    bench.pipeline = failing(probe, NotAnalysed(never))
    bench.arrive(ct[20:])
    bench.after(121.0)
    bench.work()
    assert [(j.state, j.outcome) for j in bench.rows(uid)][1] == ("done", "not_analysed")
    assert bench.sends(uid) == [(1, "superseded")]
    assert bench.show(uid)["jobs"][1]["artifacts"] == []


def test_a_crash_is_tried_again_then_dead_then_retried_by_hand(
    bench: Bench, ct: list[Path], uid: str, probe: Any
) -> None:
    bench.pipeline = failing(probe, RuntimeError("boom"))
    bench.arrive(ct)
    bench.after(61.0)
    for attempt in (1, 2):
        bench.worker.run(1)
        (row,) = bench.rows(uid)
        assert (row.state, row.attempts) == ("waiting", attempt)
        assert row.not_before > bench.now
        assert not bench.worker.run(1)
        bench.now = row.not_before
    bench.worker.run(1)
    assert [(j.state, j.outcome) for j in bench.rows(uid)] == [("dead", "failed")]
    assert bench.sends(uid) == [(1, "waiting")]
    assert [a["code"] for a in bench.show(uid)["alarms"]] == ["analysis-failed"]
    bench.pipeline = probe
    assert operator.retry(bench.db, bench.now, job_id=1) == 1
    bench.worker.run(1)
    assert [(j.state, j.outcome) for j in bench.rows(uid)] == [("done", "result")]
    assert bench.show(uid)["alarms"] == []
    assert {a["kind"] for a in bench.show(uid)["jobs"][0]["artifacts"]} >= {"seg", "sr"}


def test_cancelled_work_is_not_done(bench: Bench, ct: list[Path], uid: str) -> None:
    bench.arrive(ct)
    bench.after(61.0)
    assert operator.cancel(bench.db, bench.now, study_uid=uid) == 1
    assert bench.work() == []
    assert [j["outcome"] for j in bench.show(uid)["jobs"]] == ["cancelled"]
    assert operator.retry(bench.db, bench.now, study_uid=uid) == 1
    assert bench.work() == [True]
    assert operator.cancel(bench.db, bench.now, study_uid=uid) == 1
    assert bench.sends(uid) == [(1, "cancelled")]


def test_the_index_is_rebuilt_from_spool_and_journals(bench: Bench, ct: list[Path], uid: str) -> None:
    bench.arrive(ct[:20])
    bench.after(61.0)
    bench.work()
    before = bench.show(uid)
    objects = {a["path"]: (bench.folder.path / a["path"]).read_bytes() for a in before["jobs"][0]["artifacts"]}
    bench.db.close()
    STORES.lose(bench.folder.path)
    bench.db = STORES.open(bench.folder.path)
    bench.coordinator = Coordinator(bench.db, bench.folder, bench.settings, bench.now)
    bench.worker = Worker(bench.db, bench.folder, bench.settings, "w2", lambda _name: bench.pipeline, lambda: bench.now)
    bench.after(61.0)
    bench.work()
    after = bench.show(uid)
    assert (after["instances"], after["revision"], after["hash"]) == (before["instances"], 1, before["hash"])
    again = {a["path"]: (bench.folder.path / a["path"]).read_bytes() for a in after["jobs"][0]["artifacts"]}
    assert again == objects, "the first bytes are kept"


def test_no_rule_means_no_work_and_says_so(tmp_path: Path, probe: Any, ct: list[Path], uid: str) -> None:
    bench = Bench(tmp_path, probe, rules="")
    bench.arrive(ct)
    bench.after(61.0)
    (job,) = bench.show(uid)["jobs"]
    assert (job["pipeline"], job["outcome"], job["reason"]["code"]) == (None, "not_analysed", "no-rule-matched")


def test_a_shadow_rule_computes_and_sends_nothing(tmp_path: Path, probe: Any, ct: list[Path], uid: str) -> None:
    bench = Bench(tmp_path, probe, rules=RULES + 'mode = "shadow"\n')
    bench.arrive(ct)
    bench.after(61.0)
    assert bench.work() == [True]
    assert [j["outcome"] for j in bench.show(uid)["jobs"]] == ["result"]
    assert bench.sends(uid) == []


def test_a_pipeline_that_is_not_installed_is_an_outcome(bench: Bench, ct: list[Path], uid: str) -> None:
    def missing(_name: str) -> Pipeline:
        raise PipelineFailed(REASONS("pipeline-not-installed", pipeline="chest_ct"))

    bench.worker = Worker(bench.db, bench.folder, bench.settings, "w1", missing, lambda: bench.now)
    bench.arrive(ct)
    bench.after(61.0)
    assert bench.work() == [True]
    (job,) = bench.show(uid)["jobs"]
    assert job["reason"]["code"] == "pipeline-not-installed"


def test_an_aborted_association_is_no_evidence(bench: Bench, ct: list[Path], uid: str) -> None:
    bench.arrive(ct[:20], end="association-aborted")
    bench.after(5.0)
    assert bench.rows(uid) == ()
    bench.arrive(ct)  # the sender comes back with everything
    bench.after(1.2)
    assert [j.upto for j in bench.rows(uid)] == [len(ct)]


def test_a_job_waits_for_the_one_that_it_depends_on(bench: Bench, ct: list[Path]) -> None:
    bench.arrive(ct)
    bench.after(61.0)
    with bench.db.write() as c:
        c.exec_driver_sql(
            "INSERT INTO job (study_uid, revision, upto, subject, depends_on, pipeline, series, send_to, priority, state, attempts,"
            " losses, not_before, created) SELECT study_uid, revision, upto, subject, id, 'second', series, send_to, priority, state,"
            " attempts, losses, not_before, created FROM job"
        )
    assert jobs.due(bench.db, bench.now, 9) == (1,)
    assert jobs.claim(bench.db, 2, "w1", bench.now, 30.0) is None
    assert bench.work() == [True]
    assert jobs.due(bench.db, bench.now, 9) == (2,)


def test_a_series_that_only_one_rule_wants_is_no_candidate_of_the_other(
    tmp_path: Path, probe: Any, ct: list[Path], other_series: list[Path], uid: str
) -> None:
    header = dcmread(ct[0], stop_before_pixels=True)
    rules = RULES.replace('{ Modality = "CT" }', f'{{ SeriesInstanceUID = "{header.SeriesInstanceUID}" }}')
    bench = Bench(tmp_path, probe, rules=rules)
    bench.arrive([*ct, *other_series])
    bench.after(61.0)
    (job,) = bench.rows(uid)
    assert job.series == [header.SeriesInstanceUID]
    assert bench.work() == [True]
    (shown,) = bench.show(uid)["jobs"]
    assert [c["series_instance_uid"] for c in shown["series_considered"]] == [header.SeriesInstanceUID]
    (routed,) = [e for e in bench.show(uid)["timeline"] if e["event"] == "routed"]
    assert [s["matched"] for s in routed["rules"][0]["series"]].count(True) == 1


def test_what_the_gate_refuses_is_quarantined_and_visible(bench: Bench, ct: list[Path], uid: str, probe: Any) -> None:
    class Lying:
        def __getattr__(self, name: str) -> Any:
            return getattr(probe, name)

        def run(self, *given: Any) -> Analysis:
            told = probe.run(*given)
            wrong = replace(told.result.measurements[0], value=told.result.measurements[0].value * 2)
            return Analysis(replace(told.result, measurements=(wrong, *told.result.measurements[1:])), told.volume)

    bench.pipeline = Lying()  # type: ignore[assignment]  # everything else is the probe's
    bench.arrive(ct)
    bench.after(61.0)
    assert bench.work() == [True]
    shown = bench.show(uid)
    (job,) = shown["jobs"]
    assert (job["outcome"], job["reason"]["code"]) == ("failed", "refused-by-gate")
    assert [a["kind"] for a in job["artifacts"]] == ["card"]
    assert len(shown["deliveries"]) == 2, shown["deliveries"]
    card, refused = shown["deliveries"]
    assert (card["what"], card["state"]) == ("objects", "waiting")
    assert (refused["what"], refused["state"]) == ("refused", "quarantined")
    (gated,) = [e for e in shown["timeline"] if e["event"] == "gated"]
    assert gated["refused"] == [refused["last_error"]["code"]] == ["number-differs"]
    # put right and run again: the result goes where the card went, nothing refused remains
    bench.pipeline = probe
    assert operator.retry(bench.db, bench.now, study_uid=uid) == 1
    assert bench.work() == [True]
    assert [(d["what"], d["state"]) for d in bench.show(uid)["deliveries"]] == [
        ("objects", "waiting"),
        ("refused", "superseded"),
    ]
