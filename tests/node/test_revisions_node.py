"""Corrected studies, killed nodes and lost databases: real processes, real sockets."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset

from tests.leaving import leaving
from tests.node.desk import changed, small_ct
from tests.node.test_journey import ask, study_of, valid

pytestmark = pytest.mark.sockets


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return small_ct(tmp_path_factory.mktemp("phantom"))


def renamed(dataset: FileDataset) -> None:
    dataset.PatientName, dataset.PatientID = "RIGHT^PATIENT", "RIGHT-1"


def test_a_corrected_study_survives_a_kill_and_leaves_under_its_new_identity(
    rig: Any, ct: list[Path], tmp_path: Path
) -> None:
    rig.start()
    rig.push(ct, "WHOLE")
    rig.idle()
    old = {r.sop_instance_uid for r in rig.results()}
    uid = study_of(ct)
    right = changed(ct, tmp_path / "right", renamed)
    rig.push(right[:14], "SCANNER")
    rig.until(lambda: rig.show(uid)["corrections"] != [], 20.0, "the correction")
    rig.kill()
    rig.start()
    rig.push(right, "WHOLE")
    rig.idle()
    code, shown = ask(rig, "show", uid)
    assert code in (0, 1)
    valid(shown)
    assert (shown["patient_id"], shown["jobs"][-1]["outcome"]) == ("RIGHT-1", "result")
    new = {r.sop_instance_uid: r.path for r in rig.results() if r.sop_instance_uid not in old}
    assert set(new) == leaving(shown, shown["jobs"][-1])
    assert {str(dcmread(p, stop_before_pixels=True).PatientID) for p in new.values()} == {"RIGHT-1"}
    (correction,) = shown["corrections"]
    assert {d["sop_instance_uid"] for d in correction["delivered"]} == old
    assert [a["code"] for a in shown["alarms"]] == ["results-under-old-identity"]
    words = rig.log.read_text(encoding="utf-8")
    assert any(shown["hash"] in line and "results-under-old-identity" in line for line in words.splitlines())
    assert "RIGHT" not in words

    # the scanner repeats what it sent first: nothing goes back
    sent = len(rig.results())
    rig.push(ct, "WHOLE")
    rig.idle()
    again = rig.show(uid)
    assert (again["patient_id"], again["revision"], len(rig.results())) == ("RIGHT-1", shown["revision"], sent)
    assert {a["code"] for a in again["alarms"]} == {"results-under-old-identity", "earlier-identity-returned"}


@pytest.mark.long
def test_the_index_is_rebuilt_and_the_same_objects_leave_again(rig: Any, ct: list[Path]) -> None:
    rig.start()
    rig.push(ct, "WHOLE")
    rig.idle()
    uid = study_of(ct)
    sent = [(r.sop_instance_uid, r.digest) for r in rig.results()]
    refused = ask_to_rebuild(rig)
    assert refused.returncode == 2
    assert b"another node" in refused.stderr
    rig.kill()
    code, document = ask(rig, "doctor", "--rebuild-index")
    assert code == 0
    valid(document)
    assert document["old_database"]["carried_over"]
    rig.start()
    rig.push(ct, "WHOLE")
    rig.idle()
    assert [(r.sop_instance_uid, r.digest) for r in rig.results()] == sent, "nothing is sent again"
    assert len(rig.show(uid)["jobs"]) == 1

    rig.stop()
    for file in rig.data.path.glob("node.sqlite3*"):
        file.unlink()
    code, document = ask(rig, "doctor", "--rebuild-index")
    assert (code, document["old_database"]["kept_as"]) == (0, None)
    rig.start()
    rig.idle()
    assert sorted((r.sop_instance_uid, r.digest) for r in rig.results()) == sorted(sent * 2)
    assert [j["outcome"] for j in rig.show(uid)["jobs"]] == ["result"]


def ask_to_rebuild(rig: Any) -> Any:
    command = rig.command("doctor", "--rebuild-index")
    return subprocess.run(command, capture_output=True, env=rig.environment(), check=False)
