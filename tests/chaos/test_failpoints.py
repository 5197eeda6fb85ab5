"""SIGKILL at every failpoint of the contract, then the loss of the whole node, then a restart: nothing lost, nothing twice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from dicom_io.scu import Peer, store
from node import failpoint
from node.store import open_database
from tests.leaving import leaving
from tests.more import more
from tests.node.conftest import RADIOGRAPHS

pytestmark = pytest.mark.chaos


# retention and pieces have their own below; notices: tests/node/test_mpps.py and test_commitment.py
ON_THE_WAY = sorted(n for n in failpoint.NAMES if not n.startswith(("relay.", "commit.", "retention.", "piece.")))
# one of each process; a receiver is killed at its points in tests/net/test_process.py, too
IN_SHORT = {"receive.after_link", "close.before_commit", "job.before_commit", "job.written", "deliver.sent"}


@pytest.mark.parametrize("name", [name if name in IN_SHORT else more(name) for name in ON_THE_WAY])
def test_killed_there_and_started_again(name: str, rig: Any, ct: list[Path]) -> None:
    ct = ct[20:44]
    rig.start(PACS_AI_NODE_FAILPOINT=name, PACS_AI_NODE_TESTING="1")
    reports = list(store(Peer("127.0.0.1", rig.port, "PACSAINODE", "WHOLE"), ct))
    acknowledged = {r.sop_instance_uid for r in reports if r.status == 0}
    rig.until(lambda: b"process.died" in rig.log.read_bytes(), 90.0, f"a death at {name}")
    rig.kill()
    before = {r.sop_instance_uid: r.digest for r in rig.results()}

    rig.start()
    rig.push([r.path for r in reports if r.status != 0], "WHOLE")
    rig.idle(120.0)
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
    artifacts = leaving(shown, standing[0])
    there = {r.sop_instance_uid: r.digest for r in rig.results()}
    assert set(there) == artifacts
    assert len({(r.sop_instance_uid, r.digest) for r in rig.results()}) == len(artifacts), "one UID, two contents"
    assert before.items() <= there.items()


def test_a_study_that_kills_every_worker_ends_as_a_card_at_the_pacs(rig: Any, ct: list[Path]) -> None:
    rig.start(PACS_AI_NODE_FAILPOINT="job.worked", PACS_AI_NODE_TESTING="1", PACS_AI_NODE__WORKER__ATTEMPTS="2")
    rig.push(ct[20:44], "WHOLE")
    rig.until(lambda: rig.status()["jobs"]["dead"] == 1, 60.0, "a dead job")
    rig.idle(120.0)
    (job,) = rig.show(str(dcmread(ct[0]).StudyInstanceUID))["jobs"]
    assert (job["outcome"], job["reason"]["code"], job["attempts"]) == ("failed", "worker-lost", 3)
    assert [r.sop_instance_uid for r in rig.results()] == [a["sop_instance_uid"] for a in job["artifacts"]]
    assert rig.log.read_text(encoding="utf-8").count("process.died") == 2


def test_killed_before_a_piece_is_queued(make_rig: Callable[..., Any], radiographs: list[Path]) -> None:
    rig = make_rig(rules=RADIOGRAPHS)
    rig.start(PACS_AI_NODE_FAILPOINT="piece.before_commit", PACS_AI_NODE_TESTING="1")
    rig.push(radiographs)
    rig.until(lambda: b"process.died" in rig.log.read_bytes(), 60.0, "a death between index and queue")
    rig.kill()
    rig.start()
    rig.idle(120.0)
    shown = rig.show(str(dcmread(radiographs[0]).StudyInstanceUID))
    subjects = [str(dcmread(file, specific_tags=["SOPInstanceUID"]).SOPInstanceUID) for file in radiographs]
    assert [(j["subject"], j["outcome"]) for j in shown["jobs"]] == [(uid, "result") for uid in subjects]
    expected = sorted(uid for job in shown["jobs"] for uid in leaving(shown, job))
    assert sorted(r.sop_instance_uid for r in rig.results()) == expected, "each once"


@pytest.mark.long
def test_killed_while_it_removes_what_is_old(rig: Any, ct: list[Path]) -> None:
    rig.start()
    rig.push(ct[20:44], "WHOLE")
    rig.until(lambda: rig.status()["deliveries"]["confirmed"] == 1, 120.0, "results that need nothing any more")
    assert rig.stop() == 0
    old = {"PACS_AI_NODE__STORAGE__IMAGES_DAYS": "0.00001"}
    images = [p for p in rig.data.spool.glob("??/*.dcm") if p.is_file()]
    assert len(images) == 24
    rig.start(PACS_AI_NODE_FAILPOINT="retention.before_unlink", PACS_AI_NODE_TESTING="1", **old)
    rig.until(lambda: b"process.died" in rig.log.read_bytes(), 120.0, "a death after the record and before the removal")
    rig.kill()
    assert all(p.exists() for p in images)

    rig.start(**old)
    rig.until(lambda: not any(p.exists() for p in images), 90.0, "the rest is removed")
    db = open_database(rig.data.database)

    def known() -> int:
        with db.read() as c:
            return int(c.exec_driver_sql("SELECT count(*) FROM instance WHERE removed IS NOT NULL").scalar_one())

    rig.until(lambda: known() == 24, 20.0, "the index knows what was removed")
    db.close()
    rig.idle(120.0)
    shown = rig.show(str(dcmread(ct[0]).StudyInstanceUID))
    (job,) = shown["jobs"]
    assert job["outcome"] == "result"
    assert {r.sop_instance_uid for r in rig.results()} == leaving(shown, job)
