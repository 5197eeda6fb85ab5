"""Files in, artifacts and one document out."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydicom import dcmread

import phantom
from config.settings import Pipelines
from node.installation import folder_of
from node.process import OutputFolderError, ProcessOptions, exit_code, process
from pipeline import registry
from sr_writer import gate
from sr_writer.reasons import REASONS as WRITER_REASONS
from tests.node.probe_node import Probe

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "node" / "schemas" / "process-1.schema.json").read_text(encoding="utf-8"))

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def run() -> Run:
    shelf = registry.shelf(Pipelines(), "cpu")

    def call(*paths: Path, out: Path, load: Callable[[str], Any] = shelf, **more: Any) -> dict[str, Any]:
        chosen = {"pipelines": ("chest_ct",), **more}
        options = ProcessOptions(load=load, version="0", now=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), **chosen)
        document = process(paths, out, options)
        jsonschema.validate(document, SCHEMA)
        json.dumps(document)
        return document

    return call


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = phantom.build(5, thickness_mm=5.0, matrix=128, lesions="clear")
    return phantom.write(made, tmp_path_factory.mktemp("chest")) / "dicom"


@pytest.fixture(scope="module")
def done(run: Run, chest: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("out")
    return run(chest, out=out), out


@pytest.fixture(scope="module")
def quick(run: Run) -> Run:
    """The same with a pipeline that takes no time, for what no pipeline has a part in."""

    def call(*paths: Path, out: Path) -> dict[str, Any]:
        return run(*paths, out=out, load=lambda _name: Probe())

    return call


@pytest.fixture(scope="module")
def quickly_done(quick: Run, chest: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return quick(chest, out=tmp_path_factory.mktemp("quick"))


def only_job(document: dict[str, Any]) -> dict[str, Any]:
    (study,) = document["studies"]
    (job,) = study["jobs"]
    return dict(job)


def digests(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.suffix in {".dcm", ".png"})
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def changed(chest: Path, into: Path, change: Callable[[int, Any], None]) -> Path:
    into.mkdir()
    for n, path in enumerate(sorted(chest.iterdir())):
        ds = dcmread(path)
        change(n, ds)
        ds.save_as(into / path.name)
    return into


def test_a_study_gets_a_result_and_its_artifacts(done: tuple[dict[str, Any], Path]) -> None:
    document, out = done
    job = only_job(document)
    assert exit_code(document) == 0
    assert (job["outcome"], job["pipeline"], job["reason"]) == ("result", "chest_ct", None)
    assert {a["modality"] for a in job["artifacts"]} == {"SEG", "SR", "OT"}
    for artifact in job["artifacts"]:
        ds = dcmread(out / artifact["path"])
        assert ds.SOPInstanceUID == artifact["sop_instance_uid"]
        assert (out / artifact["path"]).stat().st_size == artifact["bytes"]
    folder = out / folder_of(document["studies"][0]["study_instance_uid"]) / "chest_ct"
    assert {p.name for p in folder.iterdir()} == {"seg.dcm", "sr.dcm", "sc.dcm", "preview.png", "result.json"}
    assert {"read", "volume", "work", "write", "gate", "total"} <= set(job["timings_s"])


def test_result_json_is_the_job_of_the_document(done: tuple[dict[str, Any], Path]) -> None:
    document, out = done
    (path,) = out.rglob("result.json")
    assert json.loads(path.read_text(encoding="utf-8")) == only_job(document)


def test_findings_are_segments_with_the_same_tracking(done: tuple[dict[str, Any], Path]) -> None:
    document, out = done
    job = only_job(document)
    (seg,) = out.rglob("seg.dcm")
    tracked = {int(s.SegmentNumber): (s.TrackingID, s.TrackingUID) for s in dcmread(seg).SegmentSequence}
    assert job["findings"]
    for finding in job["findings"]:
        assert tracked[finding["segment_number"]] == (finding["tracking_id"], finding["tracking_uid"])


def test_the_same_input_into_the_same_folder_gives_the_same_bytes(
    chest: Path, done: tuple[dict[str, Any], Path]
) -> None:
    document, out = done
    before = digests(out)
    shelf = registry.shelf(Pipelines(), "cpu")
    again = ProcessOptions(load=shelf, version="0", now=datetime(2027, 1, 1, tzinfo=UTC), pipelines=("chest_ct",))
    repeated = process([chest], out, again)
    assert digests(out) == before
    assert only_job(repeated)["artifacts"] == only_job(document)["artifacts"]


def test_another_installation_has_other_uids_and_other_input_another_digest(
    quick: Run, chest: Path, quickly_done: dict[str, Any], tmp_path: Path
) -> None:
    first = only_job(quickly_done)
    other = only_job(quick(chest, out=tmp_path / "a"))
    assert other["input_digest"] == first["input_digest"]
    assert not {a["sop_instance_uid"] for a in other["artifacts"]} & {a["sop_instance_uid"] for a in first["artifacts"]}
    fewer = changed(chest, tmp_path / "fewer", lambda n, ds: setattr(ds, "StudyDescription", f"x{n}"))
    assert only_job(quick(fewer, out=tmp_path / "b"))["input_digest"] != first["input_digest"]


def test_a_zip_is_the_folder_in_it(quick: Run, chest: Path, quickly_done: dict[str, Any], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as packed:
        for path in chest.iterdir():
            packed.write(path, f"a/b/{path.name}")
    job = only_job(quick(tmp_path / "study.zip", out=tmp_path / "out"))
    assert job["input_digest"] == only_job(quickly_done)["input_digest"]
    assert [p.name for p in (tmp_path / "out").iterdir() if p.name.startswith(".")] == []


def test_nothing_to_read_is_exit_code_3(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    document = run(tmp_path / "in", out=tmp_path / "out")
    assert document["studies"] == []
    assert exit_code(document) == 3


def test_repeated_and_conflicting_instances_are_told_and_the_first_is_used(
    quick: Run, chest: Path, quickly_done: dict[str, Any], tmp_path: Path
) -> None:
    other = changed(chest, tmp_path / "z-other", lambda n, ds: setattr(ds, "StationName", "X") if n == 3 else None)
    for n, path in enumerate(sorted(other.iterdir())):
        if n > 5:
            path.unlink()
    document = quick(chest, other, out=tmp_path / "out")
    assert {q["reason"]["code"] for q in document["quarantined"]} == {"conflicting-file"}
    assert len(document["quarantined"]) == 1
    assert only_job(document)["input_digest"] == only_job(quickly_done)["input_digest"]


def test_a_study_of_two_patients_is_a_failure_and_nothing_is_written(run: Run, chest: Path, tmp_path: Path) -> None:
    mixed = changed(chest, tmp_path / "mixed", lambda n, ds: setattr(ds, "PatientID", "other") if n == 7 else None)
    document = run(mixed, out=tmp_path / "out")
    assert only_job(document)["reason"]["code"] == "several-patients-in-study"
    assert exit_code(document) == 1
    assert not list((tmp_path / "out").rglob("*.dcm"))


def test_a_result_that_the_gate_refuses_arrives_as_a_card_that_says_so(
    quick: Run, chest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = gate.check

    def strict(written: Any, *more: Any) -> Any:
        refused = tuple(gate.Refusal(a, WRITER_REASONS["position-differs"]) for a in written if a.kind == "seg")
        return refused or judge(written, *more)

    monkeypatch.setattr(gate, "check", strict)
    document = quick(chest, out=tmp_path / "out")
    job = only_job(document)
    assert (job["outcome"], job["reason"]["code"], exit_code(document)) == ("failed", "refused-by-gate", 1)
    assert [a["kind"] for a in job["artifacts"]] == ["card"]
    left = {p.name for p in (tmp_path / "out").rglob("*.dcm")}
    assert left == {"card.dcm", "seg.dcm", "sr.dcm", "sc.dcm"}
    assert {p.parent.name for p in (tmp_path / "out").rglob("seg.dcm")} == {"refused"}


@pytest.mark.long
def test_a_study_with_missing_slices_gets_numbers_that_are_bounds(run: Run, tmp_path: Path) -> None:
    made = phantom.build(10, thickness_mm=5.0, matrix=128, gaps=(28, 29, 30))
    job = only_job(run(phantom.write(made, tmp_path / "p") / "dicom", out=tmp_path / "out"))
    assert job["outcome"] == "result", job["reason"]
    assert {m["status"] for m in job["measurements"] if m["name"] == "lung_volume"} == {"lower_bound"}
    assert job["quality"]["findings"]


def test_uneven_slices_are_refused_with_a_reason_that_a_person_can_act_on(
    run: Run, chest: Path, tmp_path: Path
) -> None:
    def stretch(_: int, ds: Any) -> None:
        x, y, z = (float(v) for v in ds.ImagePositionPatient)
        ds.ImagePositionPatient = [x, y, z if z < 0 else 1.4 * z]

    document = run(changed(chest, tmp_path / "uneven", stretch), out=tmp_path / "out")
    job = only_job(document)
    assert (job["outcome"], job["reason"]["code"], exit_code(document)) == ("not_analysed", "uneven-spacing", 3)
    assert [a["kind"] for a in job["artifacts"]] == ["card"]


def test_a_study_that_no_pipeline_is_meant_for_says_so(run: Run, chest: Path, tmp_path: Path) -> None:
    others = changed(chest, tmp_path / "mr", lambda _n, ds: setattr(ds, "Modality", "MR"))
    document = run(others, out=tmp_path / "out", pipelines=())
    job = only_job(document)
    assert (job["pipeline"], job["reason"]["code"]) == (None, "no-pipeline-for-study")
    assert exit_code(document) == 3


def test_without_torch_the_reason_says_what_to_install(
    run: Run, chest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    document = run(chest, out=tmp_path / "out", load=registry.shelf(Pipelines(), "cpu"))
    job = only_job(document)
    assert (job["outcome"], job["reason"]["code"]) == ("not_analysed", "pipeline-not-installed")
    assert "pip install" in job["reason"]["hint"]["en"]
    assert exit_code(document) == 3


def test_a_hostile_study_uid_names_no_folder_outside(quick: Run, chest: Path, tmp_path: Path) -> None:
    evil = changed(chest, tmp_path / "evil", lambda _n, ds: setattr(ds, "StudyInstanceUID", "../../up"))
    quick(evil, out=tmp_path / "deep" / "er" / "out")
    assert {p.name for p in tmp_path.iterdir()} == {"evil", "deep"}
    assert {p.name for p in (tmp_path / "deep").iterdir()} == {"er"}


@pytest.mark.parametrize(
    ("uid", "plain"), [("1.2.3", True), ("", False), ("..", False), ("1/2", False), ("1" * 65, False), ("a", False)]
)
def test_only_harmless_uids_are_folder_names(uid: str, plain: bool) -> None:
    assert (folder_of(uid) == uid) is plain
    assert len(folder_of(uid)) == (len(uid) if plain else 64)


def test_an_output_folder_that_is_something_else_is_refused(run: Run, chest: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(OutputFolderError, match="another folder"):
        run(chest, out=tmp_path)


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    def call(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "node", *arguments]
        return subprocess.run(
            line, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, **environ}
        )

    return call


def test_the_command_prints_exactly_one_document(
    command: Callable[..., subprocess.CompletedProcess[str]], chest: Path, tmp_path: Path
) -> None:
    ended = command("process", str(chest), "--out", str(tmp_path / "out"), "--json")
    assert ended.returncode == 0, ended.stderr
    jsonschema.validate(json.loads(ended.stdout), SCHEMA)


@pytest.mark.parametrize(
    ("arguments", "environ", "says"),
    [
        (["/does/not/exist"], {}, "no such file"),
        (["{chest}", "--pipeline", "knee"], {}, "chest_ct"),
        (["{chest}", "--profile", "nobody"], {}, "ohif"),
        (["{chest}", "--config", "/does/not/exist"], {}, "cannot be read"),
        (["{chest}", "--fast"], {}, "--fast"),
        (["{chest}"], {"PACS_AI_NODE__DICOM__PORT": "true"}, "dicom.port"),
        (["{chest}"], {"PACS_AI_NODE_FAILPOINT": "job.worked"}, "PACS_AI_NODE_TESTING"),
    ],
)
def test_wrong_use_is_exit_code_2_and_says_what_is_wrong(
    command: Callable[..., subprocess.CompletedProcess[str]],
    chest: Path,
    tmp_path: Path,
    arguments: list[str],
    environ: dict[str, str],
    says: str,
) -> None:
    filled = [a.format(chest=chest) for a in arguments]
    ended = command("process", *filled, "--out", str(tmp_path / "out"), **environ)
    assert ended.returncode == 2, ended.stderr
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_an_error_is_one_document_too_where_one_was_asked_for(
    command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    ended = command("process", "/does/not/exist", "--out", str(tmp_path), "--json")
    assert (ended.returncode, json.loads(ended.stdout)["error"]["code"]) == (2, "wrong-use")


def test_interrupted_is_130_and_leaves_nothing_half_written(chest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = [sys.executable, "-m", "node", "process", str(chest), "--out", str(out), "--json"]
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as started:
        deadline = time.monotonic() + 60
        while not (out / "manifest.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        started.send_signal(signal.SIGINT)
        stdout, stderr = started.communicate(timeout=60)
    assert started.returncode == 130, stderr
    assert json.loads(stdout)["error"]["code"] == "interrupted"
    left = {p.name for p in out.rglob("*") if p.is_file()}
    assert left <= {"manifest.json", "seg.dcm", "sr.dcm", "sc.dcm", "preview.png", "result.json"}
    for path in out.rglob("*.dcm"):
        dcmread(path)


@pytest.mark.long
def test_enhanced_ct_says_what_its_slices_say(run: Run, done: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    made = phantom.build(5, thickness_mm=5.0, matrix=128, lesions="clear", shuffle=True)
    document = run(phantom.write_enhanced(made, tmp_path / "enhanced") / "dicom", out=tmp_path / "out")
    (other,), (one,) = (d["studies"][0]["jobs"] for d in (done[0], document))
    assert (one["outcome"], document["studies"][0]["instances"]) == ("result", 1)
    for said in (one, other):
        for found in said["findings"]:
            del found["tracking_uid"]
        for found in said["quality"]["findings"]:
            del found["uids"]
    for key in ("measurements", "findings", "quality", "notes", "summary"):
        assert one[key] == other[key], key
