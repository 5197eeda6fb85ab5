"""What a destination gets: its profile's objects in the profile's order, and another one where it takes no such class."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pynetdicom import _config

from dicom_io.read import digest_dataset
from dicom_io.status import Outcome
from node import show
from node.selection import Fate, select
from node.store import alarms, operator, studies
from node.store.rows import Job, Sent, StoredArtifact
from sr_writer.profiles import Form, Item, Profile, profile
from tests.node.outbox import CAPTURE, Outbox, Script, place
from tests.node.test_delivery_rows import Pacs

SEG, SR, CSR = (f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("66.4", "88.34", "88.33"))
CLASSES = {"seg": SEG, "sr": SR, "csr": CSR, "pdf": "1.2.840.10008.5.1.4.1.1.104.1"}


class Shelf(Outbox):
    """An outbox whose jobs have written these kinds of objects."""

    kinds: Sequence[str] = ("seg", "sr", "csr", "sc")

    def _write(self, of: Job, k: int, sop_class: str) -> StoredArtifact:
        kind = self.kinds[k]
        row = super()._write(of, k, CLASSES.get(kind, sop_class))
        path = self.folder / row.path
        ds = dcmread(path)
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.save_as(path)
        return replace(row, kind=kind, digest=digest_dataset(path))

    def ready(self, *kinds: str) -> tuple[str, dict[str, str]]:
        """Finish a job that has written `kinds`; return its study and the objects' UIDs."""
        self.kinds = kinds or self.kinds
        uid = self.add(objects=len(self.kinds))
        return uid, {kind: f"{uid}.9.1.{k}" for k, kind in enumerate(self.kinds)}

    def told(self, uid: str, wants: Profile) -> dict[str, object]:
        study = studies.study(self.db, uid)
        assert study is not None
        (told,) = show.show(self.db, study, "test", wants={"pacs": wants})["deliveries"]
        return dict(told)


@pytest.fixture(autouse=True)
def choosy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let listeners of this process accept no more than they list; the node's own switch is for the whole process."""
    monkeypatch.setattr(_config, "UNRESTRICTED_STORAGE_SERVICE", False)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path / "box")
    yield made
    made.db.close()


@pytest.mark.sockets
def test_who_takes_no_3d_report_gets_the_other_and_it_is_said(shelf: Shelf) -> None:
    uid, objects = shelf.ready()
    with Pacs(lambda _uid: 0, accepts=(SEG, CSR, CAPTURE)) as pacs:
        assert shelf.courier(place(port=pacs.port)).step()
        assert pacs.received == [objects["seg"], objects["sc"], objects["csr"]]
    assert shelf.state(uid) == ("delivered", 1, "sent-instead")
    told = shelf.told(uid, profile("ohif"))
    said = {o["kind"]: (o["state"], o["instead_of"]) for o in told["objects"]}  # type: ignore[attr-defined]
    assert said == {
        "seg": ("accepted", None), "sr": ("refused", None), "csr": ("accepted", "sr"), "sc": ("accepted", None)
    }  # fmt: skip
    assert alarms.standing(shelf.db) == ()

    with Pacs(lambda _uid: 0, accepts=(SEG, SR, CSR, CAPTURE)) as pacs:  # it has learned that class since
        assert operator.resend(shelf.db, uid, shelf.now) == ("pacs",)
        assert shelf.courier(place(port=pacs.port)).step()
        assert pacs.received == [objects["seg"], objects["sr"], objects["sc"]]
    assert shelf.state(uid) == ("delivered", 1, None)


@pytest.mark.sockets
def test_who_takes_all_classes_never_gets_the_other(shelf: Shelf) -> None:
    uid, objects = shelf.ready()
    with Pacs(lambda _uid: 0, accepts=(SEG, SR, CSR, CAPTURE), find="all") as pacs:
        there = place(port=pacs.port, proof="find")
        assert shelf.courier(there).step()
        assert pacs.received == [objects["seg"], objects["sr"], objects["sc"]]
        shelf.now += 10.0
        assert shelf.prover(there).step()
    assert shelf.state(uid)[0] == "confirmed", "the other choice was not missed"


@pytest.mark.sockets
def test_arrival_is_proven_of_what_was_sent_instead(shelf: Shelf) -> None:
    uid, objects = shelf.ready()
    with Pacs(lambda _uid: 0, accepts=(SEG, CSR, CAPTURE), find="all") as pacs:
        there = place(port=pacs.port, proof="find")
        assert shelf.courier(there).step()
        pacs.holds.discard(objects["csr"])
        shelf.now += 10.0
        assert shelf.prover(there).step()
        assert shelf.state(uid)[0] == "delivered"
        pacs.holds.add(objects["csr"])
        shelf.now += 100.0
        assert shelf.prover(there).step()
    assert shelf.state(uid)[0] == "confirmed"


@pytest.mark.unit
def test_a_lost_answer_between_both_choices_costs_nothing_but_time(shelf: Shelf) -> None:
    uid, objects = shelf.ready()
    answers: dict[str, int | str | None] = {"2": None}  # the other choice; the rest is taken
    pacs = Script(lambda p: "context-refused" if p.stem.endswith("-1") else answers.get(p.stem[-1], 0))
    courier = shelf.courier(place(), pacs)
    assert courier.step()
    assert shelf.state(uid) == ("waiting", 1, "no-answer")
    answers.clear()
    shelf.now += 10.0
    assert courier.step()
    assert shelf.state(uid) == ("delivered", 2, "sent-instead")
    assert pacs.sent == [objects["seg"], objects["sc"], objects["csr"], objects["csr"]]


@pytest.mark.unit
def test_what_may_be_left_out_is_left_out_and_said(shelf: Shelf) -> None:
    uid, objects = shelf.ready("sc", "overlay", "pdf")
    pacs = Script(lambda p: "context-refused" if p.stem.endswith("-2") else 0)
    assert shelf.courier(place(profile="legacy"), pacs).step()
    assert shelf.state(uid) == ("delivered", 1, "left-out")
    assert pacs.sent == [objects["sc"], objects["overlay"]]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "sent", "state"),
    [
        ("ohif", ["seg", "sr", "sc"], ("delivered", 1, None)),
        ("air", ["seg"], ("delivered", 1, None)),  # the report that stands has another tree
        ("legacy", ["sc"], ("delivered", 1, None)),
        ("pdf-only", [], ("dead", 1, "nothing-of-profile")),
    ],
)
def test_a_destination_that_is_newer_than_the_result_gets_what_is_there(
    shelf: Shelf, name: str, sent: list[str], state: tuple[str, int, str | None]
) -> None:
    uid, objects = shelf.ready()
    pacs = Script()
    assert shelf.courier(place(profile=name), pacs).step()
    assert pacs.sent == [objects[kind] for kind in sent]
    assert shelf.state(uid) == state
    missing = {"ohif": [], "air": ["sr (pure)"], "legacy": ["overlay"], "pdf-only": ["pdf"]}[name]
    assert shelf.told(uid, profile(name))["not_written"] == missing


def stored(kind: str, name: str, variant: str = "") -> StoredArtifact:
    return StoredArtifact(1, name, name, kind, "OT", "1.2", name, "1", 1, "d", variant=variant)


@pytest.mark.unit
def test_of_two_encodings_each_destination_gets_its_own() -> None:
    two = Profile("two", (Item("seg", encoding="labelmap"), Item("sc")))
    maps = two.lines(result=True)[0].piece.variant
    there = [stored("seg", "seg.dcm"), stored("seg", "seg-x.dcm", maps), stored("sc", "sc.dcm")]
    assert [a.name for a in select(two, there).objects] == ["seg-x.dcm", "sc.dcm"]
    assert [a.name for a in select(profile("ohif"), there).objects] == ["seg.dcm", "sc.dcm"]


@pytest.mark.unit
def test_a_series_leaves_in_its_order_and_cards_leave_where_there_is_no_result() -> None:
    there = [stored("overlay", f"overlay-{n:04d}.dcm") for n in (2, 10, 1)] + [stored("sc", "sc.dcm")]
    names = [a.name for a in select(profile("legacy"), there).objects]
    assert names == ["sc.dcm", "overlay-0001.dcm", "overlay-0002.dcm", "overlay-0010.dcm"]
    cards = [stored("card", "card.dcm"), stored("card_pdf", "card_pdf.dcm")]
    assert [a.kind for a in select(profile("ohif"), cards).objects] == ["card"]
    assert [a.kind for a in select(profile("pdf-only"), cards).objects] == ["card_pdf"]


@pytest.mark.unit
def test_a_refusal_that_is_not_about_the_class_brings_no_other_choice() -> None:
    there = [stored("sr", "sr.dcm"), stored("csr", "csr.dcm")]
    only = Profile("only", (Item("sr", instead=Form("csr")),))
    selected = select(only, there)
    damaged = {"sr.dcm": Fate(Outcome.DEAD, "peer-refused-object")}
    assert selected.choices[0].second(damaged) == ()
    assert selected.told(damaged)[0][0].outcome is Outcome.DEAD
    refused = {"sr.dcm": Fate(Outcome.DEAD, "peer-refused-class")}
    assert [a.name for a in selected.choices[0].second(refused)] == ["csr.dcm"]
    sent = {"sr.dcm": Sent("sr.dcm", False, None, None, 1.0), "csr.dcm": Sent("csr.dcm", True, 0, None, 1.0)}
    assert [a.name for a in selected.standing(sent)] == ["csr.dcm"]
