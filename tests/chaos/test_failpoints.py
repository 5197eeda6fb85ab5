"""SIGKILL at every failpoint of the contract, then the loss of the whole node, then a restart: nothing lost, nothing twice."""

from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from dicom_io.scu import Peer, store
from node import failpoint
from node.store import open_database

pytestmark = pytest.mark.chaos


# notices have their own: tests/node/test_mpps.py and test_commitment.py
ON_THE_WAY = sorted(name for name in failpoint.NAMES if not name.startswith(("relay.", "commit.")))


@pytest.mark.parametrize("name", ON_THE_WAY)
def test_killed_there_and_started_again(name: str, rig: Any, ct: list[Path]) -> None:
    ct = ct[20:44]
    rig.start(PACS_AI_NODE_FAILPOINT=name, PACS_AI_NODE_TESTING="1")
    reports = list(store(Peer("127.0.0.1", rig.port, "PACSAINODE", "WHOLE"), ct))
    acknowledged = {r.sop_instance_uid for r in reports if r.status == 0}
    rig.until(lambda: b"process.died" in rig.log.read_bytes(), 30.0, f"a death at {name}")
    rig.kill()
    before = {r.sop_instance_uid: r.digest for r in rig.results()}

    rig.start()
    rig.push([r.path for r in reports if r.status != 0], "WHOLE")
    rig.idle()
    db = open_database(rig.data.database)
    with db.read() as c:
        rows = c.exec_driver_sql("SELECT sop_uid, entry, role FROM instance").all()
    db.close()
    sources = {str(dcmread(f, specific_tags=["SOPInstanceUID"]).SOPInstanceUID) for f in ct}
    assert {row[0] for row in rows if row[2] == "image"} == sources >= acknowledged
    assert all((rig.data.spool / row[1]).is_file() for row in rows)

    shown = rig.show(str(dcmread(ct[0]).StudyInstanceUID))
    standing = [j for j in shown["jobs"] if j["outcome"] == "result"]
    assert len(standing) == 1, rig.words()
    artifacts = {a["sop_instance_uid"] for a in standing[0]["artifacts"]}
    there = {r.sop_instance_uid: r.digest for r in rig.results()}
    assert set(there) == artifacts
    assert len({(r.sop_instance_uid, r.digest) for r in rig.results()}) == len(artifacts), "one UID, two contents"
    assert before.items() <= there.items()


def test_a_study_that_kills_every_worker_ends_as_a_card_at_the_pacs(rig: Any, ct: list[Path]) -> None:
    rig.start(PACS_AI_NODE_FAILPOINT="job.worked", PACS_AI_NODE_TESTING="1", PACS_AI_NODE__WORKER__ATTEMPTS="2")
    rig.push(ct[20:44], "WHOLE")
    rig.until(lambda: rig.status()["jobs"]["dead"] == 1, 60.0, "a dead job")
    rig.idle()
    (job,) = rig.show(str(dcmread(ct[0]).StudyInstanceUID))["jobs"]
    assert (job["outcome"], job["reason"]["code"], job["attempts"]) == ("failed", "worker-lost", 3)
    assert [r.sop_instance_uid for r in rig.results()] == [a["sop_instance_uid"] for a in job["artifacts"]]
    assert rig.log.read_text(encoding="utf-8").count("process.died") == 2
