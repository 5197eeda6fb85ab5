"""A source corrects one series of a study: what becomes of results that were made from the others."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset

from node.retention import why_kept
from node.store import deliveries, jobs, operator, storage
from tests.more import once
from tests.node.desk import Desk, changed
from tests.node.test_revisions import new_accession, other_series, renamed, strange

pytestmark = pytest.mark.unit


def scout(slices: list[Path], into: Path, **values: str) -> list[Path]:
    """Write a series of its own from the first slice: no pipeline chooses it. `values` are what its header says."""
    into.mkdir(exist_ok=True)
    alone = other_series(slices[:1], into, SeriesNumber=0)
    return changed(alone, into, strange(**values))


def left(desk: Desk, uid: str) -> list[str]:
    """Return the accession numbers of the objects that arrived, one for each object and each time."""
    return [
        str(dcmread(desk.folder.path / a.path, stop_before_pixels=True).AccessionNumber)
        for d in deliveries.deliveries(desk.db, uid)
        if d.state == "delivered"
        for job in [jobs.job(desk.db, d.job_id)]
        if job is not None
        for a in jobs.artifacts(desk.db, job)
    ]


def last(desk: Desk, uid: str) -> tuple[str | None, str | None]:
    job = desk.jobs(uid)[-1]
    return job.outcome, (job.reason or {}).get("code")


WHEN = ["held", "waiting", "sending", "quarantined", "dead"]
OTHER = [({"AccessionNumber": "WRONG"}, {}), ({"PatientBirthDate": ""}, {}), ({"PatientSex": ""}, {"PatientSex": "F"})]


@pytest.mark.parametrize(("when", "other"), once(zip(WHEN, OTHER * 2, strict=False), WHEN, OTHER))
def test_a_result_that_the_correction_is_not_about_leaves_all_the_same(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path, when: str, other: tuple[dict[str, str], dict[str, str]]
) -> None:
    wrong, right = other
    desk.receive([*scout(slices, tmp_path / "wrong", **wrong), *slices])
    desk.after(2.0 if when == "held" else 4000.0)
    assert desk.study(uid).state == ("early" if when == "held" else "closed")
    desk.work()
    if when in ("sending", "quarantined", "dead"):
        taken = deliveries.take(desk.db, "pacs", desk.now)
        assert taken is not None
        if when != "sending":
            assert deliveries.settle(desk.db, taken, desk.now, "dead" if when == "dead" else "quarantined")
    desk.after(5.0)
    desk.receive(scout(slices, tmp_path / "right", **right))
    assert desk.sends(uid) == ["cancelled"]
    desk.after(4000.0)
    desk.work()
    found = storage.finished(desk.db, uid)
    assert found is not None
    assert why_kept(found) == "undelivered"
    desk.finish()
    assert [(j.outcome, j.carried_from) for j in desk.jobs(uid)] == [("result", None), ("result", 1)]
    assert desk.sends(uid) == ["cancelled", "delivered"]
    assert set(left(desk, uid)) == {str(dcmread(slices[0]).AccessionNumber)}
    assert desk.alarms(uid) == ({"results-under-old-identity"} if when == "sending" else set())


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_a_person_cancelled_stays_cancelled(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path, when: str
) -> None:
    desk.receive([*scout(slices, tmp_path / "wrong", AccessionNumber="WRONG"), *slices])
    desk.after(4000.0)
    desk.work()
    if when == "after":  # a correction has cancelled it once, and it was queued again
        desk.receive(scout(slices, tmp_path / "right", AccessionNumber="WRONG TOO"))
        desk.after(4000.0)
        desk.work()
        assert desk.sends(uid) == ["cancelled", "waiting"]
    assert operator.cancel(desk.db, desk.now, study_uid=uid) == 1
    desk.receive(scout(slices, tmp_path / "right at last"))
    desk.finish()
    assert desk.jobs(uid)[-1].carried_from == 1
    assert set(desk.sends(uid)) == {"cancelled"}


def test_what_has_arrived_is_not_sent_again(desk: Desk, slices: list[Path], uid: str, tmp_path: Path) -> None:
    desk.receive([*scout(slices, tmp_path / "wrong", AccessionNumber="WRONG"), *slices])
    desk.finish()
    desk.receive(scout(slices, tmp_path / "right"))
    desk.finish()
    assert desk.jobs(uid)[-1].carried_from == 1
    assert desk.sends(uid) == ["delivered"]


@pytest.mark.parametrize(
    ("between", "change"),
    once([("nothing", renamed), ("closed", new_accession)], ["nothing", "closed"], [renamed, new_accession]),
)
def test_a_result_whose_own_images_are_corrected_later_never_leaves(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path, between: str, change: Callable[[FileDataset], None]
) -> None:
    alone = scout(slices, tmp_path / "wrong", PatientAge="050Y")
    desk.receive([*alone, *slices])
    desk.after(4000.0)
    desk.work()
    desk.receive(changed(alone, tmp_path / "right alone", change))
    if between == "closed":
        desk.finish()
        assert last(desk, uid)[0] == "failed"
        assert "identity-partly-corrected" in desk.alarms(uid)
    desk.receive(changed(slices, tmp_path / "right", change))
    desk.finish()
    assert desk.jobs(uid)[-1].carried_from is None
    assert desk.sends(uid) == ["cancelled", "delivered"]
    assert set(left(desk, uid)) == {str(dcmread(tmp_path / "right" / slices[0].name).AccessionNumber)}
    assert desk.alarms(uid) == set()


@pytest.mark.parametrize(("said", "old", "new"), [
    ({"PatientAge": "050Y", "StudyID": "9"}, {}, {"AccessionNumber": "RIGHT"}),
    ({"IssuerOfPatientID": "HOSPITAL"}, {}, {"PatientBirthDate": "19650202"}),
    ({"PatientSex": "F"}, {"AccessionNumber": ""}, {"AccessionNumber": "RIGHT"}),
])  # fmt: skip
def test_half_a_correction_is_noticed_whatever_else_the_series_say(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path, said: dict[str, str], old: dict[str, str],
    new: dict[str, str],
) -> None:  # fmt: skip
    files = changed(slices, tmp_path / "old", strange(**old))
    alone = scout(slices, tmp_path / "wrong", **old, **said)
    desk.receive([*files, *alone])
    desk.after(2.0)
    desk.work()
    assert desk.sends(uid) == ["held"]
    desk.receive(changed(alone, tmp_path / "right alone", strange(**new)))
    desk.finish()
    assert last(desk, uid)[0] == "failed"
    assert desk.sends(uid) == ["cancelled"]
    assert "identity-partly-corrected" in desk.alarms(uid)
    desk.receive(changed(files, tmp_path / "right", strange(**new)))
    desk.finish()
    assert last(desk, uid) == ("result", None)
    assert desk.alarms(uid) == set()


def test_a_series_that_never_had_what_was_corrected_is_not_left_behind(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path
) -> None:
    alone = scout(slices, tmp_path / "wrong", AccessionNumber="A-1", PatientAge="050Y")
    desk.receive([*alone, *slices])
    desk.receive(changed(alone, tmp_path / "second", strange(AccessionNumber="A-2")))
    desk.receive(changed(alone, tmp_path / "third", strange(AccessionNumber="A-3")))
    desk.finish()
    assert last(desk, uid) == ("result", None)
    assert desk.alarms(uid) == set()


def test_a_card_under_the_old_identity_is_made_anew(desk: Desk, slices: list[Path], uid: str, tmp_path: Path) -> None:
    def tilted(dataset: FileDataset) -> None:
        dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]

    files = [*changed(slices[:1], tmp_path / "tilted", tilted), *slices[1:]]
    desk.receive(files)
    desk.after(4000.0)
    desk.work()
    assert last(desk, uid) == ("not_analysed", "mixed-orientation")
    assert desk.sends(uid) == ["waiting"]
    alone = scout(slices, tmp_path / "late")
    desk.receive(alone)
    desk.after(4000.0)
    desk.work()
    assert desk.jobs(uid)[-1].carried_from == 1, "a late image changes nothing of it"
    desk.receive(
        [*changed(files, tmp_path / "right", new_accession), *changed(alone, tmp_path / "alone", new_accession)]
    )
    desk.finish()
    assert last(desk, uid) == ("not_analysed", "mixed-orientation")
    assert desk.jobs(uid)[-1].carried_from is None
    assert left(desk, uid) == ["ACC-RIGHT"]
