"""One job, several destinations: what is written, what each of them gets, and what a destination that comes later gets."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid

from config import load
from node.courier import Courier
from node.store import deliveries, jobs, operator
from tests.node.desk import Desk, changed
from tests.node.outbox import Script
from tests.stores import STORES

pytestmark = pytest.mark.unit

WORKSTATION = """
[[destination]]
name = "workstation"
host = "127.0.0.1"
port = 2
ae_title = "WS"
check_study = false
"""
OBJECTS = """profile = "custom"
[[destination.objects]]
object = "seg"
[[destination.objects]]
object = "sr"
series_number = 1901
instead = { object = "csr" }
"""
OLD = WORKSTATION.replace("workstation", "old") + 'profile = "legacy"\n'
WORKSTATION += OBJECTS


def configure(desk: Desk, more: str, send_to: str) -> None:
    """Give the node another configuration, as a restart does."""
    desk.stop()
    before, _, _ = desk.configuration.read_text(encoding="utf-8").partition("send_to = ")
    desk.configuration.write_text(f"{before}send_to = {send_to}\n{more}", encoding="utf-8")
    desk.settings = load(desk.configuration, STORES.environ(desk.folder.path))
    desk.start()


def analysed(desk: Desk, slices: Sequence[Path]) -> None:
    configure(desk, WORKSTATION, '["pacs", "workstation"]')
    desk.receive(slices)
    desk.after(4000.0)
    assert desk.work() == [True]


def send(desk: Desk, name: str) -> list[str]:
    """Deliver what is due to a destination; return the SOP Instance UIDs that it got."""
    there = next(d for d in desk.settings.destination if d.name == name)
    script = Script()
    courier = Courier(desk.db, desk.folder.path, there, "NODE", transport=script, now=lambda: desk.now)
    while courier.step():
        pass
    return script.sent


def test_a_job_writes_what_its_destinations_want_and_each_gets_its_own(
    desk: Desk, slices: list[Path], uid: str
) -> None:
    analysed(desk, slices)
    (job,) = desk.jobs(uid)
    written = jobs.artifacts(desk.db, job)
    assert sorted(a.kind for a in written) == ["csr", "csr", "sc", "seg", "sr", "sr"], "one segmentation serves both"
    assert len({a.path for a in written}) == len({a.sop_uid for a in written}) == 6
    told = {d["destination"]: d for d in desk.show(uid)["deliveries"]}
    assert {name: [o["kind"] for o in d["objects"]] for name, d in told.items()} == {
        "pacs": ["seg", "sr", "sc"], "workstation": ["seg", "sr"]
    }  # fmt: skip
    assert not any(d["not_written"] for d in told.values())
    segmentation, report = send(desk, "workstation")
    seg_of, sr_of = (next(a for a in written if a.sop_uid == u) for u in (segmentation, report))
    assert (seg_of.variant, '"series_number":1901' in sr_of.variant) == ("", True)
    assert told["pacs"]["objects"][0]["sop_instance_uid"] == segmentation
    assert told["pacs"]["objects"][1]["sop_instance_uid"] != report


def test_a_destination_that_comes_later_makes_no_work_and_no_new_objects(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path
) -> None:
    analysed(desk, slices)
    before = jobs.artifacts(desk.db, desk.jobs(uid)[0])
    send(desk, "workstation")
    configure(desk, WORKSTATION + OLD, '["pacs", "workstation", "old"]')

    assert operator.resend(desk.db, uid, desk.now, ["old"]) == ("old",)
    (picture,) = send(desk, "old")
    assert picture == next(a.sop_uid for a in before if a.kind == "sc")
    told = next(d for d in desk.show(uid)["deliveries"] if d["destination"] == "old")
    assert told["state"] == "delivered"
    assert told["not_written"] == ["overlay"], "the document may be left out"

    # a late series does not change what was analysed: the result is carried, and so are its objects
    def elsewhere(dataset: FileDataset) -> None:
        dataset.SeriesInstanceUID, dataset.SOPInstanceUID = (
            "2.25.77",
            generate_uid(entropy_srcs=[dataset.SOPInstanceUID]),
        )

    desk.receive(changed(slices[:1], tmp_path / "late", elsewhere))
    desk.after(4000.0)
    desk.work()
    first, second = desk.jobs(uid)
    assert second.carried_from == first.id
    assert jobs.artifacts(desk.db, second) == before
    assert send(desk, "workstation") == []
    states = {d.destination: d.state for d in deliveries.deliveries(desk.db, uid) if d.job_id == first.id}
    assert states["old"] == "delivered"


def test_what_is_sent_nowhere_is_written_as_the_writer_says(desk: Desk, slices: list[Path], uid: str) -> None:
    configure(desk, '[writer]\nprofile = "weasis"\n', "[]")
    desk.receive(slices)
    desk.after(4000.0)
    desk.work()
    (job,) = desk.jobs(uid)
    assert sorted(a.kind for a in jobs.artifacts(desk.db, job)) == ["csr", "seg", "sr"]
    assert (desk.folder.path / jobs.artifacts(desk.db, job)[0].path).parent.joinpath("preview.png").exists()
