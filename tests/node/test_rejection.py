"""Where a destination asks for it, what a later revision replaces is named in a note there: exactly that, and once."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from config.settings import Destination
from node import attempt
from node.cli import _study
from node.cli._words import Words
from node.courier import Courier
from node.rejection import Notes
from node.store import deliveries, operator, rejections
from node.store import jobs as rows
from node.store.rows import Sent, StoredArtifact
from sr_writer import rejection
from tests.cli.documents import valid
from tests.leaving import chosen
from tests.node.desk import Desk, changed
from tests.node.outbox import Outbox, Script, place
from tests.node.test_revisions import renamed

pytestmark = pytest.mark.unit

KOS = "1.2.840.10008.5.1.4.1.1.88.59"


@pytest.fixture(scope="module")
def twice(slices: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Script]:
    """A node whose first result has arrived and whose second waits, and the PACS that has the first."""
    desk = Desk(tmp_path_factory.mktemp("twice"))
    pacs = Script()
    desk.receive(slices[:-1])
    desk.after(4000.0)
    assert desk.work() == [True]
    send(desk, pacs, asks=False)
    desk.receive(slices[-1:])
    desk.after(4000.0)
    assert desk.work() == [True]
    desk.stop()
    return desk.configuration.parent, pacs


@pytest.fixture
def desk(twice: tuple[Path, Script], tmp_path: Path) -> Iterator[Desk]:
    shutil.copytree(twice[0], tmp_path / "desk")
    desk = Desk(tmp_path / "desk")
    desk.now += 10_000.0
    yield desk
    desk.stop()


@pytest.fixture
def pacs(twice: tuple[Path, Script]) -> Script:
    return Script(sent=list(twice[1].sent), holds=dict(twice[1].holds))


def wanting(desk: Desk, *, asks: bool = True) -> Destination:
    (there,) = desk.settings.destination
    return replace(there, check_study=False, reject_superseded=asks)


def courier(desk: Desk, pacs: Script, *, asks: bool = True) -> Courier:
    clock: Callable[[], float] = lambda: desk.now  # noqa: E731 - the desk's clock
    notes = Notes(desk.db, desk.folder, desk.settings, clock)
    return Courier(desk.db, desk.folder.path, wanting(desk, asks=asks), "NODE", transport=pacs, now=clock, notes=notes)


def send(desk: Desk, pacs: Script, *, asks: bool = True) -> None:
    sender = courier(desk, pacs, asks=asks)
    while sender.step():
        pass


def ends(desk: Desk, uid: str) -> list[tuple[str, str]]:
    return [(d.what, d.state) for d in deliveries.deliveries(desk.db, uid)]


def note_of(desk: Desk, uid: str) -> Dataset:
    (note,) = (n for job in desk.jobs(uid) for n in rejections.notes(desk.db, job.id))
    return dcmread(desk.folder.path / note.path)


def names(note: Dataset) -> set[str]:
    items = [i for i in note.ContentSequence if "ReferencedSOPSequence" in i]
    return {str(i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) for i in items}


def test_after_the_new_objects_a_note_names_exactly_what_is_there_of_the_old(
    desk: Desk, pacs: Script, uid: str
) -> None:
    first, second = desk.jobs(uid)
    old, new = chosen(desk.db, [first]), chosen(desk.db, [second])
    assert set(pacs.sent) == old
    assert len(rows.artifacts(desk.db, first)) > len(old), "the report that stood by has not left"
    send(desk, pacs)
    note = note_of(desk, uid)
    assert names(note) == old
    assert (note.SOPClassUID, note.PatientID) == (
        KOS,
        dcmread(desk.folder.path / rows.artifacts(desk.db, first)[0].path).PatientID,
    )
    assert pacs.sent[len(old) :][-1] == note.SOPInstanceUID, "it follows what it makes room for"
    assert set(pacs.sent) == old | new | {note.SOPInstanceUID}
    assert ends(desk, uid) == [("objects", "delivered"), ("objects", "delivered"), ("rejection", "delivered")]
    proofs = [d.proof for d in deliveries.deliveries(desk.db, uid)]
    assert proofs == ["waiting", "waiting", "none"], "an archive may hide the note with what it names"

    shown = valid(desk.show(uid))
    told = shown["deliveries"][-1]
    assert {r["sop_instance_uid"] for r in told["rejects"]} == old
    assert {(r["revision"], r["kind"]) for r in told["rejects"]} == {(1, "seg"), (1, "sr"), (1, "sc")}
    assert [(o["kind"], o["state"]) for o in told["objects"]] == [("rejection", "accepted")]
    assert not any(a["kind"] == "rejection" for job in shown["jobs"] for a in job["artifacts"])
    words = "\n".join(_study.tell(shown, Words("en", datetime.fromtimestamp(desk.now, UTC))))
    assert "rejection note" in words
    assert "of revision 1" in words

    # once: neither another step, nor the same objects again, bring another note
    count = len(pacs.sent)
    assert operator.resend(desk.db, uid, desk.now) == ("pacs",)
    send(desk, pacs)
    assert len(pacs.sent) == count + len(new)


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("where", ["before it is written down", "after it is written down"])
def test_killed_between_the_note_and_its_mark_it_is_the_same_note(
    desk: Desk, pacs: Script, uid: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember, passing = deliveries.remember, attempt.passing

    def dies(*arguments: Any) -> bool:
        if pacs.sent[-1] not in known:
            raise Killed
        return remember(*arguments)

    def dies_later(name: str) -> None:
        if name == "deliver.sent" and pacs.sent[-1] not in known:
            raise Killed
        passing(name)

    known = chosen(desk.db, desk.jobs(uid))
    if where.startswith("before"):
        monkeypatch.setattr(deliveries, "remember", dies)
    else:
        monkeypatch.setattr(attempt, "passing", dies_later)
    with pytest.raises(Killed):
        send(desk, pacs)
    monkeypatch.undo()
    bytes_before = pacs.holds[pacs.sent[-1]]
    deliveries.interrupted(desk.db, desk.now)
    desk.now += 3600.0
    send(desk, pacs)
    assert ends(desk, uid)[-1] == ("rejection", "delivered")
    note = note_of(desk, uid)
    assert pacs.holds[note.SOPInstanceUID] == bytes_before
    assert pacs.sent.count(note.SOPInstanceUID) == (2 if where.startswith("before") else 1)
    assert len(pacs.holds) == len(known) + 1


@pytest.mark.parametrize("fate", ["gone", "changed"])
def test_where_a_file_is_gone_nothing_is_guessed_and_a_person_hears_of_it(
    desk: Desk, pacs: Script, uid: str, fate: str
) -> None:
    first, second = desk.jobs(uid)
    gone = next(a for a in rows.artifacts(desk.db, first) if a.kind == "seg")
    path = desk.folder.path / gone.path
    if fate == "gone":
        path.unlink()
    else:
        ds = dcmread(path)
        ds.PatientComments = "not what was sent"
        ds.save_as(path)
    send(desk, pacs)
    assert ends(desk, uid) == [("objects", "delivered"), ("objects", "delivered"), ("rejection", "dead")]
    assert set(pacs.sent) == chosen(desk.db, [first, second])
    shown = valid(desk.show(uid))
    assert shown["deliveries"][-1]["last_error"]["code"] == "rejection-not-provable"
    assert {r["sop_instance_uid"] for r in shown["deliveries"][-1]["rejects"]} == chosen(desk.db, [first])
    assert desk.alarms(uid) == {"delivery-failed"}
    assert operator.cancel(desk.db, desk.now, study_uid=uid) == 1
    assert desk.alarms(uid) == set()


def test_the_gate_stands_at_this_door_too(
    desk: Desk, pacs: Script, uid: str, slices: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = dcmread(slices[0], stop_before_pixels=True)
    build = rejection.build

    def too_much(*arguments: Any) -> Dataset:
        note = build(*arguments)
        reference = note.ContentSequence[-1].ReferencedSOPSequence[0]
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
        return note

    monkeypatch.setattr(rejection, "build", too_much)
    send(desk, pacs)
    assert ends(desk, uid)[-1] == ("rejection", "dead")
    (told,) = (d for d in desk.show(uid)["deliveries"] if d["what"] == "rejection")
    assert "rejects-what-is-not-ours" in told["last_error"]["text"]["en"]
    assert set(pacs.sent) == chosen(desk.db, desk.jobs(uid))
    assert not list(desk.folder.artifacts.rglob("rejected/*.dcm"))
    monkeypatch.undo()
    desk.now += 3600.0
    assert operator.retry(desk.db, desk.now, study_uid=uid) == 1, "put right, it is made and sent"
    send(desk, pacs)
    assert names(note_of(desk, uid)) == chosen(desk.db, desk.jobs(uid)[:1])


def test_what_is_another_patients_is_left_to_a_person(
    desk: Desk, pacs: Script, uid: str, slices: list[Path], tmp_path: Path
) -> None:
    old = chosen(desk.db, desk.jobs(uid)[:1])
    desk.receive(changed(slices, tmp_path / "right", renamed))
    desk.after(4000.0)
    desk.work()
    send(desk, pacs)
    assert [what for what, _ in ends(desk, uid)] == ["objects"] * 3
    assert "results-under-old-identity" in desk.alarms(uid)
    assert {o["sop_instance_uid"] for c in desk.show(uid)["corrections"] for o in c["delivered"]} == old


def take(box: Outbox, uid: str, accepted: Sequence[str], *, asks: bool = True, at: str = "pacs") -> None:
    """Let a PACS take some objects of what is due, and call it delivered."""
    taken = deliveries.take(box.db, at, box.now)
    assert taken is not None
    assert taken.study_uid == uid
    for sop in accepted:
        assert deliveries.remember(box.db, taken, Sent(sop, True, 0, None, box.now))
    assert deliveries.settle(box.db, taken, box.now, "delivered", reject=asks)


def due(box: Outbox, uid: str) -> list[list[str]]:
    """Return what the notes that wait would name."""
    waiting = [d for d in deliveries.deliveries(box.db, uid) if d.what == "rejection" and d.state == "waiting"]
    return [[a.sop_uid for a in rejections.replaced(box.db, d)] for d in waiting]


@pytest.mark.parametrize("back_end", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)], indirect=True)
@pytest.mark.usefixtures("back_end")
def test_only_what_has_arrived_and_does_not_stand_any_more_is_named(tmp_path: Path) -> None:
    box = Outbox(tmp_path)
    uid = box.add(objects=3)
    first = box.uids(uid)
    take(box, uid, first[:2])
    assert due(box, uid) == [], "nothing was there before"
    box.arrive(uid, 3)
    box.finish(uid, carried_from=1)
    assert due(box, uid) == [], "the same result stands"
    box.arrive(uid, 4)
    box.finish(uid, objects=1)
    take(box, uid, box.uids(uid))
    assert due(box, uid) == [first[:2]]
    # the note waits; a late image comes, and the next result's note names all that is left
    box.arrive(uid, 5)
    second = box.uids(uid)
    box.finish(uid, objects=1)
    assert due(box, uid) == []
    take(box, uid, box.uids(uid))
    assert due(box, uid) == [[*first[:2], *second]]
    # it arrives; what it names is not named again
    third = box.uids(uid)
    job = rows.jobs(box.db, uid)[-1]
    note = StoredArtifact(
        job.id, "n", "artifacts/n.dcm", "rejection", "KO", KOS, f"{uid}.7", f"{uid}.6", 1, "", None, None,
        " ".join([*first[:2], *second]),
    )  # fmt: skip
    rejections.register(box.db, note)
    take(box, uid, [note.sop_uid])
    box.arrive(uid, 6)
    box.finish(uid, objects=1)
    take(box, uid, box.uids(uid))
    assert due(box, uid) == [third]


def test_each_destination_is_told_of_what_it_has_itself(tmp_path: Path) -> None:
    box = Outbox(tmp_path)
    both = ("pacs", "second")
    uid = box.add(objects=2, to=both)
    old = box.uids(uid)
    take(box, uid, old[:1])
    take(box, uid, old, at="second")
    box.arrive(uid, 3)
    box.finish(uid, objects=1, to=both)
    for at in both:
        take(box, uid, box.uids(uid), at=at)
    assert due(box, uid) == [old[:1], old]


@pytest.mark.parametrize(
    ("outcome", "asks", "notes"),
    [("result", True, 1), ("not_analysed", True, 1), ("failed", True, 0), ("result", False, 0)],
)
def test_a_failure_replaces_nothing_and_who_does_not_ask_gets_no_note(
    tmp_path: Path, outcome: str, asks: bool, notes: int
) -> None:
    box = Outbox(tmp_path)
    uid = box.add(objects=1)
    take(box, uid, box.uids(uid))
    box.arrive(uid, 3)
    box.finish(uid, objects=1, outcome=outcome)
    take(box, uid, box.uids(uid), asks=asks)
    assert len(due(box, uid)) == notes


def test_a_destination_asks_for_notes_by_itself() -> None:
    assert not place().reject_superseded
    assert place(reject_superseded=True).reject_superseded
