"""A whole node and single radiographs: a grade while an analysis runs and the study is open."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dicom_io.scu import Peer, store
from tests.leaving import leaving
from tests.node.conftest import RADIOGRAPHS
from tests.node.test_journey import ask, study_of, valid

pytestmark = pytest.mark.sockets


def test_a_node_judges_an_image_while_an_analysis_runs(
    make_rig: Callable[..., Any], ct: list[Path], radiographs: list[Path]
) -> None:
    rig = make_rig(rules=RADIOGRAPHS, quiet_s=600.0, check_study=True)
    assert [r.status for r in store(Peer("127.0.0.1", rig.pacs.port, "PACS", "SCANNER"), radiographs[:1])] == [0]
    (image,) = (r.sop_instance_uid for r in rig.results())
    rig.start(PROBE_SECONDS="600")
    rig.push(ct[20:44], "WHOLE")
    rig.until(lambda: rig.status()["jobs"]["running"] == 1, 30.0, "an analysis")
    rig.push(radiographs[:1])
    rig.until(lambda: len(rig.results([image])) > 0, 10.0, "what was said of the image")
    uid = study_of(radiographs)
    shown = rig.show(uid)
    valid(shown)
    assert shown["state"] == "open"
    (job,) = shown["jobs"]
    assert (job["pipeline"], job["outcome"], job["quality"]["grade"]) == ("cxr_quality", "result", "A")
    rig.until(
        lambda: rig.status()["deliveries"]["waiting"] + rig.status()["deliveries"]["sending"] == 0, 10.0, "all of it"
    )
    assert leaving(rig.show(uid), job) == {r.sop_instance_uid for r in rig.results([image])}
    assert [j["outcome"] for j in rig.show(study_of(ct))["jobs"]] == ["running"]
    code, listed = ask(rig, "studies", "--patient-id", shown["patient_id"])
    assert code == 0
    valid(listed)
    assert listed["studies"][0]["jobs"] == [
        {"pipeline": "cxr_quality", "subject": job["subject"], "outcome": "result", "grade": "A"}
    ]
    code, status = ask(rig, "status")
    valid(status)
    assert sorted(p["role"] for p in status["processes"]) == [
        "coordinator", "deliverer", "quality", "receiver", "supervisor", "worker",
    ]  # fmt: skip
