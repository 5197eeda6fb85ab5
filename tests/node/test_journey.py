"""A study's whole journey through a running node."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydicom import dcmread

from node.store import open_database
from tests.leaving import leaving

pytestmark = pytest.mark.sockets
SCHEMAS = Path(__file__).parents[2] / "node" / "schemas"


def study_of(files: list[Path]) -> str:
    return str(dcmread(files[0], specific_tags=["StudyInstanceUID"]).StudyInstanceUID)


def events(shown: dict[str, Any]) -> list[str]:
    return [entry["event"] for entry in shown["timeline"]]


def valid(document: dict[str, Any]) -> None:
    name = document["schema"].removeprefix("pacs-ai-node/").replace("/", "-")
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(document)


def arrived(shown: dict[str, Any]) -> list[bool]:
    return [d["state"] in ("delivered", "confirmed") for d in shown["deliveries"]]


def ask(rig: Any, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(rig.command(*arguments, "--json"), capture_output=True, env=rig.environment(), check=False)
    return done.returncode, json.loads(done.stdout)


def test_a_study_goes_in_and_results_come_back(rig: Any, ct: list[Path]) -> None:
    ready = rig.start()
    assert ready["ae_titles"] == ["PACSAINODE", "SECOND"]
    assert rig.process is not None
    assert ready["pid"] == rig.process.pid
    second = subprocess.run(rig.command("serve"), capture_output=True, env=rig.environment(), check=False)
    assert second.returncode == 2
    assert b"another node" in second.stderr
    rig.push(ct, "WHOLE")
    rig.idle()
    shown = rig.show(study_of(ct))
    valid(shown)
    assert [j["outcome"] for j in shown["jobs"]] == ["result"]
    assert arrived(shown) == [True]
    told = events(shown)
    assert [
        told.index(e) for e in ("received", "closed", "routed", "attempt", "written", "gated", "published")
    ] == sorted(told.index(e) for e in ("received", "closed", "routed", "attempt", "written", "gated", "published"))
    closed = next(e for e in shown["timeline"] if e["event"] == "closed")
    assert closed["evidence"] == "strong"
    assert sorted(r.sop_instance_uid for r in rig.results()) == sorted(leaving(shown, shown["jobs"][0]))
    assert all((rig.data.path / a["path"]).is_file() for a in shown["jobs"][0]["artifacts"])

    header = dcmread(ct[0], stop_before_pixels=True)
    words = rig.log.read_text(encoding="utf-8")
    assert shown["hash"] in words
    for secret in (header.PatientID, header.PatientName, header.AccessionNumber, header.StudyInstanceUID):
        assert str(secret)
        assert str(secret) not in words

    code, status = ask(rig, "status")
    assert code == 0
    valid(status)
    assert {p["role"] for p in status["processes"]} == {"supervisor", "receiver", "coordinator", "worker", "deliverer"}
    code, listed = ask(rig, "studies", "--patient-id", shown["patient_id"])
    assert code == 0
    valid(listed)
    assert ask(rig, "show", shown["hash"])[1]["study_instance_uid"] == study_of(ct)
    assert ask(rig, "show", "1.2.3") == (1, {"error": ask(rig, "show", "1.2.3")[1]["error"]})
    assert ask(rig, "show", "1.2.3")[1]["error"]["code"] == "unknown-study"


def test_nothing_is_done_twice_and_the_node_never_answers_itself(rig: Any, ct: list[Path]) -> None:
    rig.start()
    rig.push(ct, "WHOLE")
    rig.idle()
    shown = rig.show(study_of(ct))
    own = leaving(shown, shown["jobs"][0])
    # the same study again: nothing new. Sent again on request: the same objects
    rig.push(ct, "WHOLE")
    rig.idle()
    assert len(rig.show(study_of(ct))["jobs"]) == 1
    before = [r.digest for r in rig.results()]
    assert ask(rig, "resend", study_of(ct))[0] == 0
    rig.until(lambda: len(rig.results()) == 2 * len(before), 20.0, "the resent objects")
    assert sorted(r.digest for r in rig.results()) == sorted(before * 2)
    rig.idle()

    # everything forwarded back: the node never answers itself
    rig.push([r.path for r in rig.results()] + ct[:3], "SCANNER", "SECOND")
    rig.idle()
    after = rig.show(study_of(ct))
    assert (after["revision"], len(after["jobs"])) == (1, 1)
    db = open_database(rig.data.database)
    with db.read() as c:
        roles = {row[0]: row[1] for row in c.exec_driver_sql("SELECT role, count(*) FROM instance GROUP BY role")}
    db.close()
    assert roles == {"image": len(ct), "authored": len(own)}

    begin = time.monotonic()
    assert rig.stop() == 0
    assert time.monotonic() - begin < 10.0
    assert rig.status()["processes"] == []


def test_one_association_per_slice_gives_one_result_and_late_slices_a_revision(rig: Any, ct: list[Path]) -> None:
    rig.start()
    for file in ct[:-2]:
        rig.push([file])
    rig.idle()
    first = rig.show(study_of(ct))
    assert [(j["revision"], j["outcome"]) for j in first["jobs"]] == [(1, "result")]
    old = {a["kind"]: a["sop_instance_uid"] for a in first["jobs"][0]["artifacts"]}
    for file in ct[-2:]:
        rig.push([file])
    rig.idle()
    second = rig.show(study_of(ct))
    assert [(j["revision"], j["outcome"]) for j in second["jobs"]] == [(1, "result"), (2, "result")]
    report = next(a for a in second["jobs"][1]["artifacts"] if a["kind"] == "sr")
    named = dcmread(rig.data.path / report["path"]).PredecessorDocumentsSequence
    assert named[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == old["sr"]
    assert arrived(second) == [True, True]
    uids = [r.sop_instance_uid for r in rig.results()]
    assert len(uids) == len(set(uids)) == len(leaving(second, *second["jobs"]))


@pytest.mark.long
def test_early_work_on_a_growing_study_is_dropped_unseen(make_rig: Callable[..., Any], ct: list[Path]) -> None:
    rig = make_rig(quiet_s=600.0)
    rig.start()
    rig.push(ct[:30])
    rig.until(lambda: any(j["outcome"] == "result" for j in jobs_of(rig, ct)), 20.0, "an early result")
    assert [d["state"] for d in rig.show(study_of(ct))["deliveries"]] == ["held"]
    assert rig.results() == []
    rig.push(ct[30:], "WHOLE")  # strong evidence: nobody waits for the quiet time
    rig.idle()
    shown = rig.show(study_of(ct))
    assert [(j["revision"], j["outcome"]) for j in shown["jobs"]] == [(1, "superseded"), (1, "result")]
    assert shown["deliveries"][0]["state"] == "superseded"
    assert arrived(shown) == [False, True]
    assert {r.sop_instance_uid for r in rig.results()} == leaving(shown, shown["jobs"][1])


def jobs_of(rig: Any, ct: list[Path]) -> list[dict[str, Any]]:
    """Jobs of the study, none while it is not known yet."""
    return rig.show(study_of(ct))["jobs"] if rig.status()["studies"]["open"] + rig.status()["studies"]["closed"] else []


def test_children_end_with_the_supervisor_and_the_next_one_goes_on(rig: Any, ct: list[Path]) -> None:
    rig.start(PROBE_SECONDS="3")
    rig.push(ct, "WHOLE")
    rig.until(lambda: any(j["state"] == "running" for j in jobs_of(rig, ct)), 20.0, "a running job")
    assert rig.process is not None
    pids = [p["pid"] for p in rig.status()["processes"] if p["role"] != "supervisor"]
    port = rig.port
    rig.process.kill()
    rig.process.wait(10.0)
    rig.start(PACS_AI_NODE__DICOM__PORT=str(port))  # at once, on the port that the orphan may still hold
    rig.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 10.0, "the end of the children")
    rig.idle()
    shown = rig.show(study_of(ct))
    assert [j["outcome"] for j in shown["jobs"]] == ["result"]
    assert len(rig.results()) == len(leaving(shown, shown["jobs"][0]))


def test_a_worker_killed_at_work_is_replaced(rig: Any, ct: list[Path]) -> None:
    rig.start(PROBE_SECONDS="2")
    rig.push(ct, "WHOLE")
    rig.until(lambda: any(j["state"] == "running" for j in jobs_of(rig, ct)), 20.0, "a running job")
    worker = next(p["pid"] for p in rig.status()["processes"] if p["role"] == "worker")
    os.kill(worker, signal.SIGKILL)
    rig.until(lambda: jobs_of(rig, ct)[0]["state"] == "waiting", 10.0, "the job back in the queue")
    assert jobs_of(rig, ct)[0]["attempts"] == 1
    rig.idle()
    assert [(j["outcome"], j["attempts"]) for j in jobs_of(rig, ct)] == [("result", 2)]


def test_a_stop_in_the_middle_of_a_job_is_quick_and_costs_no_attempt(rig: Any, ct: list[Path]) -> None:
    rig.start(PROBE_SECONDS="60")
    rig.push(ct, "WHOLE")
    rig.until(lambda: any(j["state"] == "running" for j in jobs_of(rig, ct)), 20.0, "a running job")
    begin = time.monotonic()
    assert rig.stop() == 0
    assert time.monotonic() - begin < 10.0
    assert [(j["state"], j["attempts"]) for j in jobs_of(rig, ct)] == [("waiting", 0)]
    rig.start()
    rig.idle()
    assert [j["outcome"] for j in jobs_of(rig, ct)] == ["result"]


@pytest.mark.long
def test_two_workers_share_the_jobs(rig: Any, ct: list[Path], tmp_path: Path) -> None:
    rig.start(PACS_AI_NODE__WORKER__SLOTS="2", PROBE_SECONDS="1")
    for n in range(3):
        files = []
        for k, file in enumerate(ct[24:40]):
            ds = dcmread(file)
            ds.StudyInstanceUID = f"1.2.3.{n}"
            ds.SeriesInstanceUID = f"1.2.3.{n}.1"
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{n}.1.{k + 1}"
            files.append(tmp_path / f"{n}-{k}.dcm")
            ds.save_as(files[-1])
        rig.push(files, "WHOLE")
    rig.idle()
    shown = [rig.show(f"1.2.3.{n}") for n in range(3)]
    assert [[(j["outcome"], j["attempts"]) for j in s["jobs"]] for s in shown] == [[("result", 1)]] * 3
    assert len({r.sop_instance_uid for r in rig.results()}) == len(rig.results())


def test_only_workers_load_torch_and_what_is_written_is_private(rig: Any) -> None:
    pytest.importorskip("torch")
    rig.program = ["-m", "node"]
    rig.start()

    def heavy() -> set[str]:
        maps = {
            p["role"]: Path(f"/proc/{p['pid']}/maps").read_text(encoding="utf-8") for p in rig.status()["processes"]
        }
        return {role for role, mapped in maps.items() if "libtorch" in mapped}

    rig.until(lambda: heavy() == {"worker"}, 30.0, "torch in the worker, and nowhere else")
    rig.until(lambda: len(rig.status()["processes"]) == 5, 10.0, "every process")
    assert heavy() == {"worker"}
    loose = [p for p in [rig.data.path, *rig.data.path.rglob("*")] if p.stat().st_mode & 0o077 and not p.is_symlink()]
    assert loose == []
