"""Every profile end to end: one node, a destination for each, and beside them Orthanc, which gets it all."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom.events import Event

from config import load
from config.settings import Destination
from node.cli import _study
from node.cli import probe as probe_command
from node.cli._words import Words
from node.courier import Courier
from node.loopback_pacs import LoopbackPacs
from node.proof import Prover
from node.rejection import Notes
from node.store import operator, rejections
from pipeline import registry
from pipeline.api import Pipeline
from sr_writer.profiles import SYNTAXES, Line, Profile, shipped, table
from tests.cli.documents import valid
from tests.leaving import chosen
from tests.node.desk import Desk, changed, small_ct
from tests.node.probe_node import Blind, Finder, Probe
from tests.node.test_delivery_rows import Pacs
from tests.orthanc import Orthanc
from tests.stores import STORES

pytestmark = pytest.mark.conformance

SR = "1.2.840.10008.5.1.4.1.1.88.34"
CUSTOM = """
[[destination.objects]]
object = "sr"
series_number = 1901
description = "site's report"
[[destination.objects]]
object = "seg"
encoding = "fractional"
compression = "rle"
omit_empty_frames = false
series_number = 1902
"""
NAMES = (*shipped(), "custom")
FOUND_ONLY = {"gsps", "kos"}
"""What is written only where something was found."""


def destination(name: str, port: int, profile: str, ae_title: str, proof: str) -> str:
    head = f'[[destination]]\nname = "{name}"\nhost = "127.0.0.1"\nport = {port}\nae_title = "{ae_title}"\n'
    return (
        f'{head}profile = "{profile}"\ncheck_study = false\nproof = "{proof}"\n{CUSTOM if profile == "custom" else ""}'
    )


class Choosy(Pacs):
    """A PACS that knows no Comprehensive 3D SR, as old archives do."""

    def _store(self, event: Event) -> int:
        return 0x0122 if event.request.AffectedSOPClassUID == SR else super()._store(event)


@dataclass
class World:
    """A node, a small PACS for every profile, one that takes no Comprehensive 3D SR, and Orthanc."""

    desk: Desk
    places: dict[str, LoopbackPacs]
    choosy: Pacs
    orthanc: Orthanc

    def there(self, name: str) -> Destination:
        return next(d for d in self.desk.settings.destination if d.name == name)

    def analyse(self, files: Sequence[Path], pipeline: Pipeline) -> str:
        """Let a study come, be judged by `pipeline` and leave; return its UID."""
        self.desk.pipeline = pipeline
        self.desk.receive(files)
        self.desk.after(4000.0)
        assert self.desk.work() == [True]
        self.send()
        return str(dcmread(files[0], specific_tags=["StudyInstanceUID"]).StudyInstanceUID)

    def send(self) -> None:
        desk = self.desk
        for there in desk.settings.destination:
            courier = Courier(desk.db, desk.folder.path, there, "PACSAINODE", now=lambda: desk.now)
            while courier.step():
                pass

    def shown(self, uid: str, name: str) -> dict[str, Any]:
        return next(d for d in valid(self.desk.show(uid))["deliveries"] if d["destination"] == name)

    def came(self, uid: str, name: str) -> list[Dataset]:
        """Return what a small PACS got of a study, in that order; of a series of pictures the first alone."""
        rows = [dcmread(r.path) for r in self.places[name].received if r.study_instance_uid == uid]
        return list({ds.SeriesInstanceUID: ds for ds in reversed(rows)}.values())[::-1]


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return small_ct(tmp_path_factory.mktemp("ct"))


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory, orthanc_program: str) -> Iterator[Orthanc]:
    with Orthanc(tmp_path_factory.mktemp("pacs"), orthanc_program, "ORTHANC", {"DicomAlwaysAllowFind": True}) as server:
        yield server


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, orthanc: Orthanc) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    choosy = Choosy(lambda _uid: 0)
    places = {name: LoopbackPacs(folder / name) for name in NAMES}
    desk = Desk(folder / "desk")
    desk.stop()
    text = [f'[node]\ndata_dir = {json.dumps(str(desk.folder.path))}\n[study]\nboot_grace_s = 0.0\npace = "fixed"\n']
    for name, pacs in places.items():
        text.append(destination(name, pacs.port, name, pacs.ae_title, "none"))
        text.append(destination(f"orthanc-{name}", orthanc.dicom, name, "ORTHANC", "find"))
    text.append(destination("choosy", choosy.port, "air", "PACS", "none"))
    everywhere = json.dumps([*places, "choosy"])
    text.append(f'[[rule]]\nname = "CT"\nwhen = {{ Modality = "CT" }}\nrun = ["chest_ct"]\nsend_to = {everywhere}\n')
    desk.configuration.write_text("\n".join(text), encoding="utf-8")
    desk.settings = load(desk.configuration, STORES.environ(desk.folder.path))
    desk.start()
    try:
        with choosy:
            yield World(desk, places, choosy, orthanc)
    finally:
        desk.stop()
        for pacs in places.values():
            pacs.stop()


def another(files: Sequence[Path], into: Path) -> list[Path]:
    """Return the images as those of another study."""

    def renumber(ds: Dataset) -> None:
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
            setattr(ds, keyword, generate_uid(entropy_srcs=[into.name, getattr(ds, keyword)]))

    return changed(files, into, renumber)


def as_the_table_says(lines: Sequence[Line], came: Sequence[Dataset]) -> None:
    forms = [line.piece.form for line in lines]
    facts = table()["object"]
    assert [str(ds.SOPClassUID) for ds in came] == [facts[f.object]["sop_class"] for f in forms]
    assert [str(ds.file_meta.TransferSyntaxUID) for ds in came] == [SYNTAXES[f.compression] for f in forms]
    assert [int(ds.SeriesNumber) for ds in came] == [f.number for f in forms]
    assert [str(ds.Modality) for ds in came] == [facts[f.object]["modality"] for f in forms]
    for ds, form in zip(came, forms, strict=True):
        assert str(ds.SeriesDescription) == f"AI chest_ct 0 {form.word} [RESEARCH]"


def lines(of: Profile, *, found: bool) -> list[Line]:
    without = {"quality_kos", *(() if found else FOUND_ONLY)}  # this pipeline grades no images
    return [line for line in of.lines(result=True) if line.piece.form.object not in without]


@pytest.fixture(scope="module")
def found(world: World, ct: list[Path]) -> str:
    """UID of a study in which something was found, and of which everything has left."""
    return world.analyse(ct, Finder())


@pytest.mark.parametrize("pipeline", [Finder(), Probe()], ids=["positive", "negative"])
def test_each_destination_gets_what_its_profile_says_and_nothing_else(
    world: World, found: str, ct: list[Path], tmp_path: Path, pipeline: Pipeline
) -> None:
    positive = isinstance(pipeline, Finder)
    uid = found if positive else world.analyse(another(ct, tmp_path / "negative"), pipeline)
    (job,) = world.desk.jobs(uid)
    assert (job.outcome, bool((job.document or {})["findings"])) == ("result", positive)
    for name in NAMES:
        came = world.came(uid, name)
        as_the_table_says(lines(world.there(name).wants, found=positive), came)
        assert {str(ds.PatientID) for ds in came} == {str(dcmread(ct[0]).PatientID)}
        told = world.shown(uid, name)
        assert (told["state"], told["last_error"], told["not_written"]) == ("delivered", None, [])
    pictures = [r for r in world.places["legacy"].received if r.study_instance_uid == uid]
    assert len(pictures) == 2 + len(ct), "summary, PDF, and one picture a slice"
    segmentation = next(ds for ds in world.came(uid, "custom") if ds.Modality == "SEG")
    kept = 3 * len(ct) if positive else 2 * len(ct)
    assert (segmentation.SegmentationType, int(segmentation.NumberOfFrames)) == ("FRACTIONAL", kept)


def test_where_there_is_no_result_each_gets_its_card(world: World, ct: list[Path], tmp_path: Path) -> None:
    uid = world.analyse(another(ct, tmp_path / "blind"), Blind())
    for name in NAMES:
        as_the_table_says(world.there(name).wants.lines(result=False), world.came(uid, name))
    assert {o["kind"] for o in world.shown(uid, "choosy")["objects"] if o["state"] == "accepted"} == {"card_csr"}


def test_who_takes_no_comprehensive_3d_sr_gets_the_other_report_and_show_says_so(world: World, found: str) -> None:
    told = world.shown(found, "choosy")
    assert told["state"] == "delivered"
    assert [(o["kind"], o["state"], o["instead_of"]) for o in told["objects"]] == [
        ("seg", "accepted", None), ("sr", "refused", None), ("csr", "accepted", "sr (pure)"),
    ]  # fmt: skip
    assert told["last_error"]["code"] == "sent-instead"
    accepted = [o["sop_instance_uid"] for o in told["objects"] if o["state"] == "accepted"]
    assert [uid for uid in world.choosy.received if uid in accepted] == accepted
    for language, words in (("en", "csr (pure) was sent instead"), ("zh-CN", "已改发 csr (pure)")):
        now = Words(language, datetime.fromtimestamp(world.desk.now, UTC))
        assert words in "\n".join(_study.tell(world.desk.show(found), now))


def test_orthanc_holds_every_object_of_every_profile_once(world: World, found: str) -> None:
    desk = world.desk
    names = [f"orthanc-{name}" for name in NAMES]
    assert set(operator.resend(desk.db, found, desk.now, names)) == set(names)
    world.send()
    desk.now += 3600.0
    for name in names:
        assert Prover(desk.db, world.there(name), "PACSAINODE", now=lambda: desk.now).step()
        assert world.shown(found, name)["state"] == "confirmed"
    wanted = [chosen(desk.db, desk.jobs(found), world.there(name).wants) for name in names]
    assert held(world.orthanc, found) == set().union(*wanted)


def held(orthanc: Orthanc, uid: str) -> set[str]:
    """Return the SOP Instance UIDs that Orthanc has of a study."""
    (study,) = orthanc.rest("/tools/find", {"Level": "Study", "Query": {"StudyInstanceUID": uid}}, "POST")
    return {i["MainDicomTags"]["SOPInstanceUID"] for i in orthanc.rest(f"/studies/{study}/instances")}


def test_a_rejection_note_stands_in_orthanc_and_names_our_objects_alone(
    orthanc: Orthanc, ct: list[Path], tmp_path: Path
) -> None:
    files = another(ct, tmp_path / "late")
    desk = Desk(tmp_path / "desk", Finder())
    (there,) = desk.settings.destination
    pacs = replace(
        there, port=orthanc.dicom, ae_title="ORTHANC", check_study=False, proof="none", reject_superseded=True
    )
    desk.settings = replace(desk.settings, destination=(pacs,))
    uid = str(dcmread(files[0], specific_tags=["StudyInstanceUID"]).StudyInstanceUID)
    notes = Notes(desk.db, desk.folder, desk.settings, lambda: desk.now)
    courier = Courier(desk.db, desk.folder.path, pacs, "PACSAINODE", now=lambda: desk.now, notes=notes)
    for come in (files[:-1], files[-1:]):
        desk.receive(come)
        desk.after(4000.0)
        assert desk.work() == [True]
        while courier.step():
            pass
    first, second = desk.jobs(uid)
    (note,) = rejections.notes(desk.db, second.id)
    old = chosen(desk.db, [first])
    assert held(orthanc, uid) == old | chosen(desk.db, [second]) | {note.sop_uid}, "others would hide the old"
    found = {"Level": "Instance", "Query": {"SOPInstanceUID": note.sop_uid}}
    (stored,) = orthanc.rest("/tools/find", found, "POST")
    path = tmp_path / "note.dcm"
    path.write_bytes(orthanc.rest(f"/instances/{stored}/file"))
    items = [i for i in dcmread(path).ContentSequence if "ReferencedSOPSequence" in i]
    assert {str(i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) for i in items} == old
    desk.stop()
    if program := shutil.which("dciodvfy"):
        judged = subprocess.run([program, "-new", str(path)], check=False, capture_output=True, timeout=60)
        assert judged.returncode == 0


def test_a_display_test_of_orthanc_is_a_study_of_its_own(
    orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "load", lambda *_: Finder())
    monkeypatch.setattr(probe_command, "_PHANTOM", {"matrix": 64, "slices": 24})
    config = tmp_path / "node.toml"
    text = f"[node]\ndata_dir = {json.dumps(str(tmp_path / 'data'))}\n"
    config.write_text(text + destination("pacs", orthanc.dicom, "ohif", "ORTHANC", "find"), encoding="utf-8")
    before = set(orthanc.rest("/studies"))
    done = CliRunner().invoke(probe_command.command, ["pacs", "--config", str(config), "--json"], standalone_mode=False)
    document = json.loads(done.stdout)
    assert done.return_value == 0
    # Debian's Orthanc knows no label maps; everything else of every profile is taken
    assert {o["form"] for o in document["objects"] if not o["taken"]} == {"seg (labelmap)", "seg (labelmap, rle)"}
    assert set(document["profiles"]) == set(shipped())
    (new,) = set(orthanc.rest("/studies")) - before
    study = orthanc.rest(f"/studies/{new}")
    assert study["PatientMainDicomTags"]["PatientID"] == "AI-DISPLAY-TEST"
    assert study["MainDicomTags"]["StudyDescription"] == "AI DISPLAY TEST - NOT A PATIENT"
    taken = sum(o["instances"] for o in document["objects"] if o["taken"])
    assert len(held(orthanc, document["study_instance_uid"])) == document["images"]["sent"] + taken
