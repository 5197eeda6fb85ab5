"""Late images, repeated images, corrected identities, strangers in a study: what becomes of results."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import RLELossless, generate_uid

from dicom_io.errors import UnreadableError
from dicom_io.model import Instance
from dicom_io.reasons import REASONS
from node import indexer
from node.store import alarms, deliveries, jobs, operator
from node.store.rows import Job
from tests.leaving import chosen
from tests.node.desk import Desk, changed
from tests.node.probe_node import Blind
from tests.node.test_journey import valid

pytestmark = pytest.mark.unit

Change = Callable[[FileDataset], None]


def renamed(dataset: FileDataset) -> None:
    dataset.PatientName = "RIGHT^PATIENT"
    dataset.PatientID = "RIGHT-1"


def new_accession(dataset: FileDataset) -> None:
    dataset.AccessionNumber = "ACC-RIGHT"


def whitened(dataset: FileDataset) -> None:
    cells = dataset.pixel_array.copy()
    cells[:4] = 1000
    dataset.PixelData = cells.tobytes()


def used(desk: Desk, uid: str) -> set[str]:
    with desk.db.read() as c:
        rows = c.exec_driver_sql("SELECT entry FROM instance WHERE study_uid = ? AND role = 'image'", (uid,))
        return {row[0] for row in rows}


def predecessors(desk: Desk, uid: str) -> list[bool]:
    """Say of every report in the order of the jobs whether it names a predecessor."""
    reports = [a for j in desk.jobs(uid) for a in jobs.artifacts(desk.db, j) if a.kind == "sr" and a.job_id == j.id]
    return ["PredecessorDocumentsSequence" in dcmread(desk.folder.path / a.path) for a in reports]


def test_the_same_bytes_again_are_no_new_work_ever(desk: Desk, slices: list[Path], uid: str) -> None:
    desk.receive(slices)
    desk.finish()
    before = (desk.study(uid), desk.jobs(uid), desk.sends(uid))
    assert desk.sends(uid) == ["delivered"]

    def nothing_new() -> None:
        desk.finish()
        assert (desk.study(uid), desk.jobs(uid), desk.sends(uid)) == before
        assert desk.alarms() == set()

    desk.receive(slices)
    nothing_new()
    desk.stop()
    desk.start()
    assert set(desk.receive(slices, "PACS")) == {"stored"}, "a receiver that has just started remembers nothing"
    nothing_new()
    entries = sorted(used(desk, uid))
    for entry in entries:
        desk.remove(entry)
    desk.after(1.0)
    with desk.db.read() as c:
        assert c.exec_driver_sql("SELECT count(*) FROM instance WHERE removed IS NULL").scalar_one() == 0
    desk.receive(slices)
    nothing_new()
    assert sorted(used(desk, uid)) == entries
    with desk.db.read() as c:
        assert c.exec_driver_sql("SELECT count(*) FROM instance WHERE removed IS NOT NULL").scalar_one() == 0


def test_equal_pixels_encoded_otherwise_are_the_same_image(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path
) -> None:
    desk.receive(slices)
    desk.finish()
    before = (desk.study(uid), desk.jobs(uid), used(desk, uid))

    def repacked(dataset: FileDataset) -> None:
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.InstitutionName = "passed on by an archive"

    assert set(desk.receive(changed(slices[:5], tmp_path / "rle", repacked))) == {"conflict"}
    desk.finish()
    assert (desk.study(uid), desk.jobs(uid), used(desk, uid)) == before
    assert desk.alarms() == set()
    assert desk.events(uid, "conflicting-instance") == []


def test_other_pixels_under_one_uid_are_a_conflict_and_the_first_is_used(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    desk.receive(slices)
    desk.finish()
    before = (desk.study(uid), desk.jobs(uid), used(desk, uid))
    second = changed(slices[3:5], tmp_path / "white", whitened)
    capfd.readouterr()
    desk.receive(second)
    desk.finish()
    assert (desk.study(uid), desk.jobs(uid), used(desk, uid)) == before
    assert desk.alarms(uid) == {"conflicting-instance"}
    words = capfd.readouterr()
    lines = [line for line in (words.out + words.err).splitlines() if desk.study(uid).hash in line]
    assert any("alarm" in line and "conflicting-instance" in line for line in lines)
    shown = desk.show(uid)
    valid(shown)
    assert [a["code"] for a in shown["alarms"]] == ["conflicting-instance"]
    told = desk.events(uid, "conflicting-instance")
    assert {e["sop_instance_uid"] for e in told} == {str(dcmread(f).SOPInstanceUID) for f in second}
    assert all(e["attributes"] == ["PixelData"] for e in told)
    with desk.db.read() as c:
        kept = c.exec_driver_sql("SELECT entry FROM version WHERE state = 'conflict'").scalars().all()
    assert len(kept) == 2
    assert all((desk.folder.spool / entry).is_file() for entry in kept)
    desk.receive(second)
    assert len(desk.events(uid, "conflicting-instance")) == 2, "the second time is no news"
    assert operator.resend(desk.db, uid, desk.now) == ("pacs",)
    assert desk.alarms(uid) == {"conflicting-instance"}, "nobody has said which image is right"
    assert alarms.dismissed(desk.db, "conflicting-instance", uid, desk.now) == 1
    assert desk.alarms(uid) == set()


def test_a_corrected_study_is_a_new_revision_under_its_new_identity(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path
) -> None:
    desk.receive(slices)
    desk.finish()
    old = [a.sop_uid for a in jobs.artifacts(desk.db, desk.jobs(uid)[0])]
    desk.receive(changed(slices, tmp_path / "right", renamed), "PACS")
    study = desk.study(uid)
    assert (study.patient_id, study.state, study.revision, study.corrected) == ("RIGHT-1", "open", 2, 1)
    assert desk.alarms(uid) == {"results-under-old-identity"}
    assert operator.resend(desk.db, uid, desk.now) == (), "nothing leaves under the old identity, whoever asks"
    desk.finish()
    first, second = desk.jobs(uid)
    assert (second.revision, second.outcome, second.carried_from) == (2, "result", None)
    new = [a.sop_uid for a in jobs.artifacts(desk.db, second)]
    assert set(new).isdisjoint(old)
    assert desk.sends(uid) == ["delivered", "delivered"]
    for artifact in jobs.artifacts(desk.db, second):
        ds = dcmread(desk.folder.path / artifact.path, stop_before_pixels=True)
        assert (str(ds.PatientID), str(ds.PatientName)) == ("RIGHT-1", "RIGHT^PATIENT")
    assert predecessors(desk, uid) == [False, False], "a stranger's report is nobody's predecessor"
    shown = desk.show(uid)
    valid(shown)
    (correction,) = shown["corrections"]
    assert correction["cancelled"] == 0
    assert {(d["destination"], d["sop_instance_uid"], d["state"]) for d in correction["delivered"]} == {
        ("pacs", sop, "delivered") for sop in chosen(desk.db, desk.jobs(uid)[:1])
    }
    (event,) = desk.events(uid, "identity-corrected")
    assert event["attributes"] == ["PatientID", "PatientName"]
    (alarm,) = shown["alarms"]
    assert "pacs" in alarm["reason"]["text"]["en"]
    assert len(used(desk, uid)) == len(slices)
    assert all(entry.endswith("-1.dcm") for entry in used(desk, uid))
    assert sum(1 for _ in desk.folder.spool.glob("??/*.dcm")) == 2 * len(slices), "all versions stay"
    # what the hint of another alarm says, and another place: the wrong patient's objects are still at the first
    assert operator.resend(desk.db, uid, desk.now) == ("pacs",)
    assert operator.resend(desk.db, uid, desk.now, ["elsewhere"]) == ("elsewhere",)
    operator.retry(desk.db, desk.now, study_uid=uid)
    operator.cancel(desk.db, desk.now, study_uid=uid)
    desk.finish()
    assert desk.alarms(uid) == {"results-under-old-identity"}
    assert "dismiss" in alarm["reason"]["hint"]["en"]
    assert alarms.dismissed(desk.db, "results-under-old-identity", uid, desk.now) == 1
    assert desk.alarms(uid) == set()
    assert first.state == "done"


def test_the_same_patient_corrected_keeps_the_predecessor(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path
) -> None:
    desk.receive(slices)
    desk.finish()
    desk.receive(changed(slices, tmp_path / "right", new_accession))
    desk.finish()
    assert desk.study(uid).accession == "ACC-RIGHT"
    assert predecessors(desk, uid) == [False, True]


@pytest.mark.parametrize("when", ["open", "early", "held", "running", "waiting", "sending"])
def test_what_has_not_left_under_the_old_identity_never_does(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path, when: str
) -> None:
    desk.receive(slices)
    if when in ("early", "held"):
        desk.after(1.5)
        assert desk.study(uid).state == "early"
    if when in ("running", "waiting", "sending"):
        desk.after(4000.0)
    if when in ("held", "waiting", "sending"):
        desk.work()
    if when == "running":
        job = jobs.claim(desk.db, 1, "w1", desk.now, 30.0)
        assert job is not None
    taken = deliveries.take(desk.db, "pacs", desk.now) if when == "sending" else None
    desk.receive(changed(slices, tmp_path / "right", renamed), "PACS")
    old = [d for d in deliveries.deliveries(desk.db, uid) if d.revision == 1 and d.job_id == 1]
    assert {d.state for d in old} <= {"cancelled"}
    assert len(old) == (when in ("held", "waiting", "sending"))
    if when == "running":
        assert not jobs.renew(desk.db, 1, "w1", desk.now + 30.0, None, None), "a running job is overtaken"
    if taken is not None:
        assert not deliveries.settle(desk.db, taken, desk.now, "waiting", next_attempt=desk.now)
        assert desk.alarms(uid) == {"results-under-old-identity"}, "an object may have been on its way"
    desk.finish()
    last = desk.jobs(uid)[-1]
    assert (last.outcome, desk.study(uid).patient_id) == ("result", "RIGHT-1")
    left = [d for d in deliveries.deliveries(desk.db, uid) if d.state == "delivered"]
    assert [d.job_id for d in left] == [last.id]
    assert operator.retry(desk.db, desk.now, study_uid=uid) == 0
    (correction,) = desk.show(uid)["corrections"]
    assert correction["cancelled"] == len(old)
    assert correction["delivered"] == []


def test_a_study_that_is_corrected_in_part_fails_until_the_rest_comes(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path
) -> None:
    right = changed(slices, tmp_path / "right", renamed)
    desk.receive(slices)
    desk.finish()
    desk.receive(right[:12])
    desk.after(2.0)
    assert desk.study(uid).state == "open", "a mixed study does not look complete"
    desk.finish()
    last = desk.jobs(uid)[-1]
    assert (last.state, last.outcome, (last.reason or {})["code"]) == ("dead", "failed", "several-patients-in-study")
    assert jobs.artifacts(desk.db, last) == ()
    assert desk.sends(uid) == ["delivered"]
    standing = {"several-patients-in-study", "identity-partly-corrected", "results-under-old-identity"}
    assert desk.alarms(uid) == standing
    assert operator.retry(desk.db, desk.now, study_uid=uid) == 1
    desk.finish()
    assert desk.jobs(uid)[-1].outcome == "failed"
    desk.receive(right[12:])
    desk.finish()
    last = desk.jobs(uid)[-1]
    assert (last.outcome, last.revision) == ("result", 3)
    assert desk.alarms(uid) == {"results-under-old-identity"}
    assert desk.study(uid).corrected == 1, "one correction in two parts"
    assert desk.sends(uid) == ["delivered", "delivered"]


def test_series_that_say_it_in_other_words_are_one_correction(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path
) -> None:
    second = other_series(slices[:3], tmp_path / "second", PatientAge="061Y")
    desk.receive([*slices, *second])
    desk.finish()
    desk.receive([*changed(slices, tmp_path / "right", renamed), *changed(second, tmp_path / "right2", renamed)])
    desk.finish()
    assert (desk.study(uid).corrected, len(desk.show(uid)["corrections"])) == (1, 1)
    assert [j.outcome for j in desk.jobs(uid)] == ["result", "result"]
    assert desk.alarms(uid) == {"results-under-old-identity"}


def test_an_accession_that_is_corrected_in_part_fails_too(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path
) -> None:
    desk.receive(slices)
    desk.finish()
    desk.receive(changed(slices[:12], tmp_path / "right", new_accession))
    desk.finish()
    assert (desk.jobs(uid)[-1].reason or {})["code"] == "identity-partly-corrected"
    assert desk.alarms(uid) == {"identity-partly-corrected", "results-under-old-identity"}


def test_an_image_that_moves_to_another_study_is_a_conflict_of_both(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path
) -> None:
    desk.receive(slices)
    desk.finish()
    before = (desk.study(uid), desk.jobs(uid), used(desk, uid))
    other = generate_uid(entropy_srcs=["another study"])
    desk.receive(changed(slices[:2], tmp_path / "moved", lambda ds: setattr(ds, "StudyInstanceUID", other)))
    desk.finish()
    assert (desk.study(uid), desk.jobs(uid), used(desk, uid)) == before
    assert desk.alarms(uid) == desk.alarms(other) == {"conflicting-instance"}
    (job,) = desk.jobs(other)
    assert (job.outcome, (job.reason or {})["code"]) == ("not_analysed", "no-usable-images")


def test_an_unreadable_object_does_not_take_the_place_of_an_image_and_gives_way_to_one(
    desk: Desk, slices: list[Path], uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = indexer.read_instance
    bad: set[str] = set()

    def read(path: Path, charset: str | None = None) -> Instance:
        if path.name in bad:
            raise UnreadableError(REASONS("unparsable"))
        return damaged(path, charset)

    monkeypatch.setattr(indexer, "read_instance", read)
    name = hashlib.sha256(str(dcmread(slices[0]).SOPInstanceUID).encode()).hexdigest()
    bad.add(f"{name}-0.dcm")
    desk.receive(slices)
    assert len(used(desk, uid)) == len(slices) - 1
    desk.receive(changed(slices[:1], desk.folder.path.parent / "readable", lambda ds: setattr(ds, "StationName", "X")))
    assert len(used(desk, uid)) == len(slices)
    bad.add(f"{name}-2.dcm")
    desk.receive(changed(slices[:1], desk.folder.path.parent / "worse", lambda ds: setattr(ds, "StationName", "Y")))
    assert len(used(desk, uid)) == len(slices)


@pytest.mark.parametrize("again", ["bytes", "encoding"])
def test_the_earlier_identity_does_not_come_back(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path, again: str
) -> None:
    desk.receive(slices)
    desk.receive(changed(slices, tmp_path / "right", renamed))
    desk.finish()
    before = (desk.study(uid), desk.jobs(uid), used(desk, uid))
    files = (
        slices
        if again == "bytes"
        else changed(slices, tmp_path / "old", lambda ds: setattr(ds, "StationName", "ELSEWHERE"))
    )
    desk.receive(files)
    desk.finish()
    assert (desk.study(uid), desk.jobs(uid), used(desk, uid)) == before
    assert desk.alarms(uid) == {"earlier-identity-returned"}
    assert len(desk.events(uid, "earlier-identity-returned")) == 1
    desk.receive(changed(slices, tmp_path / "right", renamed))
    desk.finish()
    assert (desk.study(uid), desk.jobs(uid), used(desk, uid)) == before
    assert operator.resend(desk.db, uid, desk.now) == ("pacs",)
    assert desk.alarms(uid) == {"earlier-identity-returned"}, "nobody has said whose the study is"
    assert alarms.dismissed(desk.db, "earlier-identity-returned", uid, desk.now) == 1
    assert desk.alarms(uid) == set()


def test_a_late_image_of_the_earlier_identity_stops_everything(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path
) -> None:
    desk.receive(slices[:-1])
    desk.receive(changed(slices[:-1], tmp_path / "right", new_accession))
    desk.finish()
    desk.receive(slices[-1:])
    desk.finish()
    assert (desk.jobs(uid)[-1].reason or {})["code"] == "identity-partly-corrected"
    desk.receive(changed(slices[-1:], tmp_path / "right", new_accession))
    desk.finish()
    assert desk.jobs(uid)[-1].outcome == "result"
    assert "identity-partly-corrected" not in desk.alarms(uid)


def test_an_anonymous_copy_is_no_correction(desk: Desk, slices: list[Path], uid: str, tmp_path: Path) -> None:
    desk.receive(slices)
    desk.finish()
    before = (desk.study(uid), desk.jobs(uid), used(desk, uid))

    def anonymous(dataset: FileDataset) -> None:
        dataset.PatientName = dataset.PatientID = "ANON"
        dataset.PatientIdentityRemoved = "YES"

    desk.receive(changed(slices[:3], tmp_path / "anon", anonymous))
    desk.finish()
    assert (desk.study(uid), desk.jobs(uid), used(desk, uid)) == before
    assert desk.alarms(uid) == {"conflicting-instance"}


def strange(**values: str) -> Change:
    def change(dataset: FileDataset) -> None:
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return change


@pytest.mark.parametrize(("change", "reason"), [
    ({"PatientID": "SOMEBODY-ELSE", "PatientName": "ELSE^SOMEBODY"}, "several-patients-in-study"),
    ({"PatientID": ""}, "several-patients-in-study"),
    ({"IssuerOfPatientID": "OTHER"}, "several-patients-in-study"),
    ({"PatientBirthDate": "18991231"}, "several-patients-in-study"),
    ({"PatientName": ""}, None),
    ({"PatientSex": "O"}, None),
    ({"StudyDescription": "other words"}, None),
])  # fmt: skip
def test_two_patients_in_one_study_uid(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path, change: dict[str, str], reason: str | None
) -> None:
    issued = changed(slices, tmp_path / "issued", strange(IssuerOfPatientID="HOSPITAL"))

    def elsewhere(dataset: FileDataset) -> None:
        strange(**change)(dataset)
        dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["stranger"])
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=["stranger", dataset.SOPInstanceUID])

    # in another series: no pipeline would choose it, and nobody would look at its header
    desk.receive([*issued, *changed(issued[:2], tmp_path / "strange", elsewhere)])
    desk.finish()
    (job,) = desk.jobs(uid)
    assert (job.reason or {}).get("code") == reason
    assert len(used(desk, uid)) == len(slices) + 2
    assert desk.alarms(uid) == ({reason} if reason else set())
    assert desk.sends(uid) == ([] if reason else ["delivered"])
    if reason:
        assert (job.state, job.outcome) == ("dead", "failed")
        desk.receive(changed(issued[:2], tmp_path / "strange", lambda ds: (elsewhere(ds), back(ds, issued[0]))[1]))
        desk.finish()
        assert desk.alarms(uid) == set()


def back(dataset: FileDataset, to: Path) -> None:
    first = dcmread(to)
    for keyword in ("PatientID", "PatientName", "IssuerOfPatientID", "PatientBirthDate"):
        setattr(dataset, keyword, getattr(first, keyword))


def other_series(slices: Sequence[Path], into: Path, **values: Any) -> list[Path]:
    def change(dataset: FileDataset) -> None:
        dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[str(values)])
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(values), dataset.SOPInstanceUID])
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return changed(slices, into, change)


DOSE, KEYS, CAPTURE, CT = (
    f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("88.67", "88.59", "7", "2")
)  # fmt: skip


def test_a_late_image_after_retention_fails_until_the_study_comes_again(
    desk: Desk, slices: list[Path], uid: str
) -> None:
    desk.receive(slices[:-1])
    desk.finish()
    for entry in used(desk, uid):
        desk.remove(entry)
    desk.after(1.0)
    desk.receive(slices[-1:])
    desk.finish()
    last = desk.jobs(uid)[-1]
    assert (last.revision, (last.document or {})["outcome"], (last.reason or {})["code"]) == (
        2,
        "failed",
        "images-removed",
    )
    assert desk.alarms(uid) == {"images-removed"}
    desk.receive(slices)
    desk.finish()
    last = desk.jobs(uid)[-1]
    assert (last.revision, last.outcome) == (3, "result")
    assert desk.alarms(uid) == set()
    valid(desk.show(uid))


@pytest.mark.parametrize(("sop_class", "modality", "revises"), [
    (DOSE, "SR", False), (KEYS, "KO", False), (CAPTURE, "OT", False), (CT, "CT", True),
])  # fmt: skip
def test_what_follows_minutes_later_gives_no_second_result(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path, sop_class: str, modality: str, revises: bool
) -> None:
    desk.receive(slices)
    desk.finish()
    late = other_series(slices[:10], tmp_path / "late", SOPClassUID=sop_class, Modality=modality, SeriesNumber=9)
    desk.after(300.0)
    desk.receive(late)
    desk.finish()
    assert desk.study(uid).revision == 1 + revises
    assert desk.sends(uid) == ["delivered"], "nothing is sent a second time"
    results = [j for j in desk.jobs(uid) if j.carried_from is None]
    assert len(results) == 1
    told = desk.events(uid, "carried-forward")
    assert [e["carried_from"] for e in told] == ([1] if revises else [])


def test_interleaved_associations_and_twenty_studies_in_one(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path
) -> None:
    a, b = slices[0::2], slices[1::2]
    for n in range(0, len(a), 8):
        desk.receive(a[n : n + 8], "CT1", released=False)
        desk.receive(b[n : n + 8], "CT2", released=False)
        desk.now += 5.0
    many = []
    for n in range(20):

        def change(dataset: FileDataset, n: int = n) -> None:
            for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
                setattr(dataset, keyword, generate_uid(entropy_srcs=[keyword, str(n)]))
            dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(n), dataset.SOPInstanceUID])
            dataset.PatientID = f"P{n}"

        many.append(changed(slices[:4], tmp_path / str(n), change))
    desk.receive([file for files in zip(*many, strict=True) for file in files])
    desk.finish()
    assert [(j.revision, j.outcome) for j in desk.jobs(uid)] == [(1, "result")]
    assert desk.study(uid).revision == 1
    uids = [str(dcmread(files[0]).StudyInstanceUID) for files in many]
    assert [[j.outcome for j in desk.jobs(u)] for u in uids] == [["result"]] * 20
    assert [desk.study(u).patient_id for u in uids] == [f"P{n}" for n in range(20)]
    assert [desk.sends(u) for u in uids] == [["delivered"]] * 20
    assert desk.alarms() == set()


def test_a_card_between_two_results_does_not_break_what_is_followed(desk: Desk, slices: list[Path], uid: str) -> None:
    seeing = desk.pipeline
    for files, pipeline in ((slices[:-2], seeing), (slices[-2:-1], Blind()), (slices[-1:], seeing)):
        desk.pipeline = pipeline
        desk.receive(files)
        desk.finish()
    first, card, last = desk.jobs(uid)
    assert [a.kind for a in jobs.artifacts(desk.db, card)] == ["card"]
    assert jobs.predecessor(desk.db, last) == card

    def tracked(job: Job) -> dict[str, str]:
        (seg,) = (a for a in jobs.artifacts(desk.db, job) if a.kind == "seg")
        return {str(s.TrackingID): str(s.TrackingUID) for s in dcmread(desk.folder.path / seg.path).SegmentSequence}

    assert first.input_digest != last.input_digest
    assert tracked(first) == tracked(last) != {}
