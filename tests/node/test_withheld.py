"""What the gate refuses waits for a person: released after looking, or rejected for good; some faults never leave."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from pydicom import dcmread

from dicom_io.model import Series
from node import withheld
from node.cli import cli
from node.selection import select
from node.store import jobs, operator
from node.store import withheld as rows
from pipeline.api import Analysis, Progress
from pipeline.result import Mask, Result
from sr_writer import gate
from sr_writer.reasons import REASONS
from tests.cli.documents import valid
from tests.node.desk import Desk, small_ct
from tests.node.probe_node import Probe

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]


def beside_the_lungs(result: Result) -> Result:
    """Move every mask by one pixel, as a pipeline would that is wrong in this."""

    def moved(mask: Mask) -> Mask:
        whole = np.zeros(mask.shape, np.uint8)
        mask.paint(whole)
        return Mask.of(np.roll(whole, 1, axis=2))

    regions = tuple(replace(r, mask=moved(r.mask)) for r in result.regions)
    return replace(result, regions=regions, segments=tuple(replace(s, mask=moved(s.mask)) for s in result.segments))


def twice_as_large(result: Result) -> Result:
    first, *others = result.measurements
    return replace(result, measurements=(replace(first, value=(first.value or 0) * 2), *others))


class Wrong(Probe):
    """The quick pipeline with a fault."""

    def __init__(self, fault: Callable[[Result], Result]) -> None:
        super().__init__()
        self.fault = fault

    def run(self, series: Series, progress: Progress | None = None) -> Analysis:
        told = super().run(series, progress)
        return Analysis(self.fault(told.result), told.volume)


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return small_ct(tmp_path_factory.mktemp("ct"))


@pytest.fixture(scope="module")
def uid(ct: list[Path]) -> str:
    return str(dcmread(ct[0], stop_before_pixels=True).StudyInstanceUID)


@pytest.fixture
def desk(tmp_path: Path, ct: list[Path], request: pytest.FixtureRequest) -> Iterator[Desk]:
    desk = Desk(tmp_path, Wrong(getattr(request, "param", beside_the_lungs)))
    desk.receive(ct)
    desk.after(4000.0)
    desk.work()
    yield desk
    desk.stop()


def called(desk: Desk, *arguments: str) -> tuple[int, Any, str]:
    """Call a command on the desk's node; its exit code, document and words."""
    given = [*arguments, "--config", str(desk.configuration)]
    answer = CliRunner().invoke(cli, [*given, "--json"], standalone_mode=False)
    document = json.loads(answer.stdout)
    return answer.return_value, document if "error" in document else valid(document), answer.stderr


def test_what_is_kept_back_is_told_with_every_reason_and_place(desk: Desk, uid: str) -> None:
    shown = valid(desk.show(uid))
    (job,) = shown["jobs"]
    assert (job["outcome"], job["reason"]["code"]) == ("failed", "refused-by-gate")
    kept = job["withheld"]
    assert (kept["releasable"], kept["decision"]) == (True, None)
    assert {r["code"] for o in kept["objects"] for r in o["reasons"]} == {"mask-misplaced"}
    assert {o["kind"] for o in kept["objects"]} >= {"seg", "sr"}
    for one in kept["objects"]:
        path = desk.folder.path / one["path"]
        assert path.parent.name == "refused"
        assert dcmread(path).SOPInstanceUID == one["sop_instance_uid"]
    assert kept["said"]["measurements"]
    words = CliRunner().invoke(cli, ["show", uid, "--config", str(desk.configuration)], standalone_mode=False).stdout
    assert REASONS["mask-misplaced"].text["en"] in words
    assert "release" in words
    told = CliRunner().invoke(cli, ["status", "--config", str(desk.configuration)], standalone_mode=False).stdout
    assert "release" in told


def test_a_person_lets_it_go_and_it_is_the_result_with_who_when_and_why(desk: Desk, uid: str) -> None:
    assert "analysis-failed" in desk.alarms(uid)
    before = {o["sop_instance_uid"]: o["digest"] for o in desk.show(uid)["jobs"][0]["withheld"]["objects"]}
    code, document, _ = called(desk, "release", uid, "--why", "Outlines lie right.", "--by", "Dr Who")
    assert (code, document["count"]) == (0, 1)
    shown = valid(desk.show(uid))
    (job,) = shown["jobs"]
    assert (job["outcome"], job["reason"]) == ("result", None)
    assert job["measurements"]
    assert {a["sop_instance_uid"] for a in job["artifacts"]} == set(before)
    assert job["withheld"]["decision"]["by"] == "Dr Who"
    (told,) = [e for e in shown["timeline"] if e["event"] == "released"]
    assert (told["by"], told["why"], told["reasons"]) == ("Dr Who", "Outlines lie right.", ["mask-misplaced"])
    assert {(d["what"], d["state"]) for d in shown["deliveries"]} == {("refused", "superseded"), ("objects", "waiting")}
    assert desk.alarms(uid) == set()
    assert called(desk, "release", uid, "--why", "again")[0] == 3


def test_what_is_released_goes_in_the_encoding_that_a_destination_wants(
    ct: list[Path], uid: str, tmp_path: Path
) -> None:
    desk = Desk(tmp_path, Wrong(beside_the_lungs))
    (there,) = desk.settings.destination
    there = replace(there, profile="air")
    desk.stop()
    desk.settings = replace(desk.settings, destination=(there,))
    desk.start()
    desk.receive(ct)
    desk.after(4000.0)
    desk.work()
    before = {o["sop_instance_uid"]: o["variant"] for o in desk.show(uid)["jobs"][0]["withheld"]["objects"]}
    assert any(before.values())
    assert called(desk, "release", uid, "--why", "Outlines lie right.")[0] == 0
    written = jobs.artifacts(desk.db, desk.jobs(uid)[0])
    assert {a.sop_uid: a.variant for a in written} == before
    assert [a.kind for a in select(there.wants, written).objects] == ["seg", "sr"]
    desk.stop()


def test_what_is_rejected_never_leaves_and_rings_no_more(desk: Desk, uid: str) -> None:
    job = desk.jobs(uid)[0]
    code, document, _ = called(desk, "reject", "--job", str(job.id), "--why", "Lies beside the lungs.")
    assert (code, document["jobs"][0]["codes"]) == (0, ["mask-misplaced"])
    shown = valid(desk.show(uid))
    assert shown["jobs"][0]["outcome"] == "cancelled"
    assert [a["kind"] for a in shown["jobs"][0]["artifacts"]] == ["card"]
    assert desk.alarms(uid) == set()
    assert [e["why"] for e in shown["timeline"] if e["event"] == "rejected"] == ["Lies beside the lungs."]
    assert called(desk, "release", uid, "--why", "changed my mind")[0] == 3
    # put right and asked for again it is computed anew
    desk.worker.pipeline = lambda _name: Probe()
    assert operator.retry(desk.db, desk.now, study_uid=uid) == 1
    assert desk.work() == [True]
    assert desk.show(uid)["jobs"][0]["outcome"] == "result"


@pytest.mark.parametrize("desk", [twice_as_large], indirect=True)
def test_a_number_that_does_not_follow_never_leaves_whoever_asks(desk: Desk, uid: str) -> None:
    code, document, _ = called(desk, "release", uid, "--why", "I like it.")
    assert (code, document["count"]) == (3, 0)
    assert document["jobs"][0]["reason"]["code"] == "never-released"
    assert desk.show(uid)["jobs"][0]["outcome"] == "failed"
    assert called(desk, "reject", uid, "--why", "Wrong.")[0] == 0


def test_other_bytes_than_the_gate_saw_are_not_released(desk: Desk, uid: str) -> None:
    kept = desk.show(uid)["jobs"][0]["withheld"]["objects"][0]
    path = desk.folder.path / kept["path"]
    ds = dcmread(path)
    ds.PatientID = "SOMEBODY ELSE"
    ds.save_as(path)
    _, document, _ = called(desk, "release", uid, "--why", "fine")
    assert document["jobs"][0]["reason"]["code"] == "artifact-damaged"


def test_what_a_late_image_has_overtaken_is_not_released(desk: Desk, uid: str, ct: list[Path], tmp_path: Path) -> None:
    (old,) = rows.undecided(desk.db, study_uid=uid)
    ds = dcmread(ct[0])
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{ds.SOPInstanceUID}.9"
    ds.InstanceNumber = 99
    ds.save_as(tmp_path / "late.dcm")
    desk.receive([tmp_path / "late.dcm"])
    desk.after(1.0)
    assert desk.study(uid).revision == 2
    assert rows.undecided(desk.db, study_uid=uid) == ()
    done = withheld.decide(desk.db, desk.folder, old, desk.now, "released", by="x", why="y")
    assert done.reason is not None
    assert done.reason.code == "changed-meanwhile"


def test_without_a_why_nothing_is_decided(desk: Desk, uid: str) -> None:
    for arguments in (["release", uid], ["release", uid, "--why", " "], ["reject", "--why", "x"]):
        answer = CliRunner().invoke(cli, [*arguments, "--config", str(desk.configuration)])
        assert answer.exit_code == 2, answer.output
    assert len(rows.undecided(desk.db, study_uid=uid)) == 1


def test_every_reason_of_the_gate_has_a_row_that_says_whether_it_may_be_released() -> None:
    text = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")
    for code in REASONS:
        word = "yes" if gate.may_be_released(code) else "never"
        assert f"| `{code}` | {word} |" in text, code
    never = {"identity-differs", "reference-dangling", "frame-of-reference-differs", "rejects-what-is-not-ours"}
    assert not any(gate.may_be_released(code) for code in never)
    assert not gate.may_be_released("no-such-reason")
