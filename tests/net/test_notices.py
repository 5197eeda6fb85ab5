"""Notices over real sockets: every answer, what is kept before it, and what a restart knows."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.dimse_primitives import N_ACTION, N_CREATE, N_EVENT_REPORT, N_SET
from pynetdicom.presentation import build_context

from config.settings import Commitment, Destination, Dicom, Node, Peer, Settings
from dicom_io import notices, scu
from dicom_io.contexts import AVAILABILITY, COMMITMENT, COMMITMENT_INSTANCE, PERFORMED_STEP, VERIFICATION
from dicom_io.errors import NetworkError
from dicom_io.limits import LIMITS
from node.notices import noticed, set_stem, stem
from node.receive import Receiver
from node.spool import journals, read_journal

pytestmark = pytest.mark.sockets

CT = "1.2.840.10008.5.1.4.1.1.2"
ARCHIVE = Destination("pacs", "127.0.0.1", 104, "ARCHIVE")


def item(**values: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def created(*studies: str, status: str | None = "IN PROGRESS", **more: Any) -> Dataset:
    ds = item(
        ScheduledStepAttributesSequence=[item(StudyInstanceUID=uid, AccessionNumber="A1") for uid in studies],
        PatientName="Nobody^At All",
        PerformedProcedureStepID="P1",
        PerformedStationAETitle="CT1",
        Modality="CT",
        **more,
    )
    if status is not None:
        ds.PerformedProcedureStepStatus = status
    return ds


def ended(status: str, series: str = "2.25.5", *images: str) -> Dataset:
    references = [item(ReferencedSOPClassUID=CT, ReferencedSOPInstanceUID=uid) for uid in images]
    others = [item(ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.88.67", ReferencedSOPInstanceUID="2.25.99")]
    performed = item(
        SeriesInstanceUID=series,
        ReferencedImageSequence=references,
        ReferencedNonImageCompositeSOPInstanceSequence=others,
    )
    return item(PerformedProcedureStepStatus=status, PerformedSeriesSequence=[performed])


class Modality:
    """One association that sends notices with whatever bytes a test wants."""

    def __init__(self, association: Any) -> None:
        self.association = association

    def ask(self, request: Any, class_uid: str = PERFORMED_STEP) -> Any:
        association = self.association
        context = next(c for c in association.accepted_contexts if c.abstract_syntax == class_uid)
        request.MessageID = 1
        association._reactor_checkpoint.clear()
        while not association._is_paused:
            time.sleep(0.0001)
        association.dimse.send_msg(request, context.context_id)
        _, answer = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
        return answer

    def create(self, uid: str | None, data: Dataset | bytes | None, class_uid: str = PERFORMED_STEP) -> Any:
        request = N_CREATE()
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = class_uid, uid
        request.AttributeList = self.encoded(data)
        return self.ask(request, class_uid)

    def set(self, uid: str, data: Dataset | bytes, class_uid: str = PERFORMED_STEP) -> Any:
        request = N_SET()
        request.RequestedSOPClassUID, request.RequestedSOPInstanceUID = class_uid, uid
        request.ModificationList = self.encoded(data)
        return self.ask(request)

    def action(self, data: Dataset, kind: int = 1, instance: str = COMMITMENT_INSTANCE) -> Any:
        request = N_ACTION()
        request.RequestedSOPClassUID, request.RequestedSOPInstanceUID = COMMITMENT, instance
        request.ActionTypeID, request.ActionInformation = kind, self.encoded(data)
        return self.ask(request, COMMITMENT)

    def report(self, data: Dataset, kind: int = 1, instance: str = COMMITMENT_INSTANCE) -> Any:
        request = N_EVENT_REPORT()
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = COMMITMENT, instance
        request.EventTypeID, request.EventInformation = kind, self.encoded(data)
        return self.ask(request, COMMITMENT)

    @staticmethod
    def encoded(data: Dataset | bytes | None) -> BytesIO | None:
        if data is None:
            return None
        encoded = data if isinstance(data, bytes) else notices.encode(data, str(ImplicitVRLittleEndian))
        return BytesIO(encoded) if encoded else None


@contextmanager
def modality(
    port: int, *classes: str, syntax: str = ImplicitVRLittleEndian, roles: bool = False, calling: str = "CT1"
) -> Iterator[Modality]:
    contexts = [build_context(uid, [syntax]) for uid in classes or (PERFORMED_STEP, AVAILABILITY)]
    node = scu.Peer("127.0.0.1", port, "PACSAINODE", calling)
    association = scu.associate(node, contexts, scu.Timeouts(), provider_of=COMMITMENT if roles else None)
    try:
        yield Modality(association)
    finally:
        scu.release(association)


class Place:
    """A data folder with a receiver that can be started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[Receiver] = []

    def start(self, *peers: Peer, archive: str = "", proof: str = "find") -> int:
        for old in self.running:
            old.stop(0.2)
        destination = Destination(
            "pacs", "127.0.0.1", 104, "ARCHIVE", proof="commitment" if proof != "find" else "find"
        )
        settings = Settings(
            node=Node(data_dir=self.folder),
            dicom=Dicom(port=0, peer=peers),
            destination=(destination,),
            commitment=Commitment(archive),
        )
        self.settings = settings
        self.running = [Receiver(settings, new_uid=lambda: "2.25.4242")]
        return self.running[0].start().port

    def start_another(self) -> int:
        self.running.append(Receiver(self.settings))
        return self.running[-1].start().port

    @property
    def records(self) -> list[dict[str, Any]]:
        return [r for path in journals(self.folder) for r in read_journal(path)[0] if r["kind"] == "notice"]

    @property
    def kinds(self) -> list[str]:
        return [r["notice"] for r in self.records]

    def file(self, name: str) -> Path:
        return self.folder / "spool" / "notices" / f"{name}-0.dcm"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "data")
    yield made
    for receiver in made.running:
        receiver.stop(0.2)


def test_a_step_is_kept_as_it_came_and_journalled_before_the_answer(place: Place) -> None:
    port = place.start()
    data = notices.encode(created("2.25.1"), str(ImplicitVRLittleEndian))
    odd = data + bytes.fromhex("ffff0000") + (4).to_bytes(4, "little") + b"tail"  # a group that nobody knows
    with modality(port) as peer:
        assert peer.create("2.25.7", odd).Status == 0x0000
        path = place.file(stem("2.25.7", "mpps-create"))
        assert notices.data_of(path) == odd, "byte for byte"
        assert place.kinds == ["mpps-create"]
        assert peer.set("2.25.7", ended("COMPLETED", "2.25.5", "2.25.6")).Status == 0x0000
    meta = dcmread(path).file_meta
    assert (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID) == (PERFORMED_STEP, "2.25.7")
    assert meta.TransferSyntaxUID == ImplicitVRLittleEndian
    first, second = (noticed(r, place.folder / "spool") for r in place.records)
    assert first.procedure == ("2.25.7", "IN PROGRESS", ("2.25.1",))
    assert second.procedure == ("2.25.7", "COMPLETED", ("2.25.1",))
    assert second.announced == (("2.25.1", "2.25.5", "2.25.6"),)
    assert (second.calling, second.peer) == ("CT1", "127.0.0.1")


def test_the_syntax_that_everybody_takes_is_chosen(place: Place) -> None:
    port = place.start()
    ae = AE("CT1")
    ae.add_requested_context(PERFORMED_STEP, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    association = ae.associate("127.0.0.1", port, ae_title="PACSAINODE")
    assert [c.transfer_syntax for c in association.accepted_contexts] == [[ImplicitVRLittleEndian]]
    association.release()
    with modality(port, PERFORMED_STEP, syntax=ExplicitVRLittleEndian) as peer:
        data = notices.encode(created("2.25.1"), str(ExplicitVRLittleEndian))
        assert peer.create("2.25.8", data).Status == 0x0000
    assert dcmread(place.file(stem("2.25.8", "mpps-create"))).PatientName == "Nobody^At All"


CREATES: list[tuple[Dataset | bytes | None, int]] = [
    (created("2.25.1"), 0x0000),
    (created("2.25.1", "2.25.2"), 0x0000),
    (created("2.25.1", status="in progress "), 0x0000),
    (created("2.25.1", status="COMPLETED"), 0x0106),
    (created("2.25.1", status="RUNNING"), 0x0106),
    (created("2.25.1", status=None), 0x0120),
    (created("2.25.1", status=""), 0x0120),
    (created(), 0x0120),
    (created("2.25.1", ""), 0x0120),
    (Dataset(), 0x0120),
    (None, 0x0120),
    (b"\x08\x00\x18\x00\xff\xff\xff\x00cut", 0x0110),
    (b"\xff" * 300, 0x0110),
]


def test_every_answer_to_a_create(place: Place) -> None:
    port = place.start()
    with modality(port) as peer:
        for number, (data, status) in enumerate(CREATES):
            assert peer.create(f"2.25.{number}", data).Status == status, (number, data)
        assert peer.create("2.25.0", created("2.25.3")).Status == 0x0111
        assert peer.create("2.25.500", created("2.25.1"), AVAILABILITY).Status == 0x0120, "no step, as an availability"
    assert len(place.records) == len([s for _, s in CREATES if s == 0])


def test_a_step_without_a_uid_gets_one(place: Place) -> None:
    with modality(place.start()) as peer:
        answer = peer.create(None, created("2.25.1"))
        assert (answer.Status, answer.AffectedSOPInstanceUID) == (0x0000, "2.25.4242")
        assert peer.set("2.25.4242", ended("COMPLETED")).Status == 0x0000


@pytest.mark.parametrize("last", ["COMPLETED", "DISCONTINUED"])
@pytest.mark.parametrize("restart", [False, True])
def test_every_answer_to_a_set(place: Place, last: str, restart: bool) -> None:
    port = place.start()

    def again() -> int:
        return place.start() if restart else port

    with modality(port) as peer:
        assert peer.set("2.25.9", ended("COMPLETED")).Status == 0x0112
        assert peer.create("2.25.9", created("2.25.1")).Status == 0x0000
    with modality(again()) as peer:
        assert peer.set("2.25.9", ended("ENDED")).Status == 0x0106
        assert peer.set("2.25.9", b"\xff" * 99).Status == 0x0110
        assert peer.set("2.25.9", Dataset()).Status == 0x0120
        assert peer.set("2.25.9", item(PerformedProcedureStepDescription="chest")).Status == 0x0000
        assert peer.set("2.25.9", item(PerformedProcedureStepDescription="chest")).Status == 0x0000, (
            "its answer was lost"
        )
        assert peer.set("2.25.9", ended("IN PROGRESS")).Status == 0x0000
        assert peer.set("2.25.9", ended(last, "2.25.5", "2.25.6")).Status == 0x0000
    port = again()
    with modality(port) as peer:
        answer = peer.set("2.25.9", ended("COMPLETED"))
        assert (answer.Status, answer.ErrorID) == (0x0110, 0xA506)
        assert peer.set("2.25.9", item(PerformedProcedureStepDescription="x")).ErrorID == 0xA506
        assert peer.create("2.25.9", created("2.25.1")).Status == 0x0111
    entries = list(dict.fromkeys(r["entry"] for r in place.records))
    assert [e.split("-", 1)[1] for e in entries] == [
        "mpps-create-0.dcm", "mpps-set-0000-0.dcm", "mpps-set-0001-0.dcm", "mpps-set-0002-0.dcm",
    ]  # fmt: skip
    if not restart:
        assert len(entries) == len(place.records)
    rows = {r["entry"]: noticed(r, place.folder / "spool") for r in place.records}
    assert [rows[e].procedure and rows[e].procedure[1] for e in entries] == [
        "IN PROGRESS", "IN PROGRESS", "IN PROGRESS", last,
    ]  # fmt: skip


def test_what_was_linked_and_not_journalled_is_journalled_by_the_next_process(place: Place) -> None:
    port = place.start()
    with modality(port) as peer:
        peer.create("2.25.9", created("2.25.1"))
        peer.set("2.25.9", ended("COMPLETED"))
    before = place.records
    for path in journals(place.folder):  # as if the process had died between the two
        place.running[0].stop(0.2)
        path.unlink()
    with modality(place.start()) as peer:
        assert peer.create("2.25.9", created("2.25.1")).Status == 0x0111
    assert [r["entry"] for r in place.records] == [r["entry"] for r in before]


def test_several_receivers_know_the_same_of_a_step(place: Place) -> None:
    first = place.start()
    second = place.start_another()
    with modality(first) as one, modality(second) as two:
        assert one.create("2.25.9", created("2.25.1")).Status == 0x0000
        assert two.create("2.25.9", created("2.25.1")).Status == 0x0111
        assert two.set("2.25.9", item(PerformedProcedureStepDescription="chest")).Status == 0x0000
        assert one.set("2.25.9", ended("COMPLETED", "2.25.5", "2.25.6")).Status == 0x0000
        for late in (one, two):
            assert late.set("2.25.9", ended("DISCONTINUED")).ErrorID == 0xA506
    entries = list(dict.fromkeys(r["entry"].split("-", 1)[1] for r in place.records))
    assert sorted(entries) == ["mpps-create-0.dcm", "mpps-set-0000-0.dcm", "mpps-set-0001-0.dcm"]


def test_a_step_of_several_studies_leaves_open_which_image_is_whose(place: Place) -> None:
    with modality(place.start()) as peer:
        peer.create("2.25.9", created("2.25.1", "2.25.2", "2.25.1"))
        peer.set("2.25.9", ended("DISCONTINUED", "2.25.5", "2.25.6"))
    last = noticed(place.records[-1], place.folder / "spool")
    assert last.procedure == ("2.25.9", "DISCONTINUED", ("2.25.1", "2.25.2"))
    assert last.announced[0] == ("", "2.25.5", "2.25.6")


def test_an_availability_notification(place: Place) -> None:
    sops = [
        item(ReferencedSOPClassUID=CT, ReferencedSOPInstanceUID="2.25.6", InstanceAvailability="ONLINE"),
        item(ReferencedSOPClassUID=CT, ReferencedSOPInstanceUID="2.25.7", InstanceAvailability="UNAVAILABLE"),
    ]
    series = item(SeriesInstanceUID="2.25.5", ReferencedSOPSequence=sops)
    told = item(StudyInstanceUID="2.25.1", ReferencedSeriesSequence=[series])
    with modality(place.start()) as peer:
        assert peer.create("2.25.20", told, AVAILABILITY).Status == 0x0000
        assert peer.create("2.25.20", told, AVAILABILITY).Status == 0x0111
        assert peer.create("2.25.21", item(StudyInstanceUID="2.25.1"), AVAILABILITY).Status == 0x0120
        assert peer.create(None, told, AVAILABILITY).AffectedSOPInstanceUID == "2.25.4242"
    assert place.kinds[0] == "ian"
    row = noticed(place.records[0], place.folder / "spool")
    assert (row.procedure, row.announced) == (None, (("2.25.1", "2.25.5", "2.25.6"),))


def test_a_class_that_was_not_agreed_for_the_context_is_refused(place: Place) -> None:
    with modality(place.start()) as peer:
        request = N_CREATE()
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = AVAILABILITY, "2.25.1"
        request.AttributeList = peer.encoded(created("2.25.1"))
        assert peer.ask(request, PERFORMED_STEP).Status == 0x0118
    assert place.records == []


REQUEST = notices.commitment_request(
    notices.CommitmentRequest("2.25.77", (notices.Reference(CT, "2.25.6"), notices.Reference(CT, "2.25.8")))
)
RESULT = notices.commitment_result("2.25.78", [notices.Reference(CT, "2.25.6")], {})
SENDER = Peer("CT1", "127.0.0.1", commit_port=11113)


def test_commitment_is_not_offered_unless_it_is_configured(place: Place) -> None:
    for roles in (False, True):
        with modality(place.start(), COMMITMENT, VERIFICATION, roles=roles) as peer:
            assert [c.abstract_syntax for c in peer.association.accepted_contexts] == [VERIFICATION]


def test_every_answer_to_a_commitment_request(place: Place) -> None:
    port = place.start(SENDER, Peer("CT2", "127.0.0.1"), archive="pacs")
    other = notices.commitment_request(notices.CommitmentRequest("2.25.77", (notices.Reference(CT, "2.25.9"),)))
    with modality(port, COMMITMENT) as peer:
        assert peer.action(REQUEST, kind=2).Status == 0x0123
        assert peer.action(REQUEST, instance="2.25.1").Status == 0x0112
        assert peer.action(item(TransactionUID="2.25.1")).Status == 0x0115
        assert peer.action(item(ReferencedSOPSequence=[item(ReferencedSOPInstanceUID="2.25.6")])).Status == 0x0115
        assert peer.action(Dataset()).Status == 0x0115
        assert place.records == []
        assert peer.action(REQUEST).Status == 0x0000
        assert peer.action(REQUEST).Status == 0x0000, "its answer was lost"
        assert peer.action(other).Status == 0x0210
    with modality(port, COMMITMENT, calling="CT2") as peer:
        assert peer.action(REQUEST).Status == 0x0124, "there is no port to report to"
    assert {(r["notice"], r["uid"], r["calling"]) for r in place.records} == {("commit-request", "2.25.77", "CT1")}
    assert len({r["entry"] for r in place.records}) == 1


@pytest.mark.parametrize("peers", [(), (SENDER,)])
def test_a_request_is_refused_where_no_archive_is_named(place: Place, peers: tuple[Peer, ...]) -> None:
    with modality(place.start(*peers, proof="commitment"), COMMITMENT) as peer:
        assert peer.action(REQUEST).Status == 0x0124


def test_without_peers_there_is_nobody_to_report_to(place: Place) -> None:
    with modality(place.start(archive="pacs"), COMMITMENT) as peer:
        assert peer.action(REQUEST).Status == 0x0124


def test_a_result_comes_from_an_archive_that_is_the_provider_of_the_association(place: Place) -> None:
    port = place.start(proof="commitment")
    with modality(port, COMMITMENT, roles=True, calling="ARCHIVE") as peer:
        (context,) = peer.association.accepted_contexts
        assert context.as_scp, "the role was agreed"
        assert peer.report(RESULT, kind=3).Status == 0x0113
        assert peer.report(RESULT, instance="2.25.1").Status == 0x0112
        assert peer.report(Dataset()).Status == 0x0115
        assert peer.report(RESULT).Status == 0x0000
        assert peer.report(RESULT).Status == 0x0000
    with modality(port, COMMITMENT, calling="ARCHIVE") as peer:  # some archives negotiate no role
        assert peer.report(RESULT).Status == 0x0000
    assert {(r["notice"], r["uid"]) for r in place.records} == {("commit-result", "2.25.78")}
    assert len({r["entry"] for r in place.records}) == 1


def test_an_archive_may_report_without_being_a_sender(place: Place) -> None:
    port = place.start(Peer("CT1", "127.0.0.1"), proof="commitment")
    with modality(port, COMMITMENT, roles=True, calling="ARCHIVE") as peer:
        assert peer.report(RESULT).Status == 0x0000
    with pytest.raises(NetworkError, match="association-rejected"), modality(port, COMMITMENT, calling="SOMEONE"):
        pass


def test_a_notice_that_cannot_be_kept_is_not_acknowledged(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    port = place.start()
    receiver = place.running[0]

    def full(*_: Any) -> Any:
        raise OSError(28, "full")

    with modality(port) as peer:
        with monkeypatch.context() as patch:
            patch.setattr(receiver.spool, "keep", full)
            assert peer.create("2.25.9", created("2.25.1")).Status == 0x0213
        with monkeypatch.context() as patch:
            patch.setattr(receiver._notices, "_append", full)
            assert peer.create("2.25.9", created("2.25.1")).Status == 0x0213
        assert place.records == []
        # the file of the second attempt stands there: it is journalled now, and the sender knows that it exists
        assert peer.create("2.25.9", created("2.25.1")).Status == 0x0111
        assert place.kinds == ["mpps-create"]
        with monkeypatch.context() as patch:
            patch.setattr(receiver._notices, "_append", full)
            assert peer.set("2.25.9", ended("COMPLETED")).Status == 0x0213
        # what was refused is not what the step says now, whatever stands on disk
        assert peer.set("2.25.9", ended("DISCONTINUED")).Status == 0x0000
        assert noticed(place.records[-1], place.folder / "spool").procedure == ("2.25.9", "DISCONTINUED", ("2.25.1",))
    with modality(place.start()) as peer:
        assert peer.set("2.25.9", ended("COMPLETED")).ErrorID == 0xA506


def test_a_notice_without_end_does_not_fill_the_memory(place: Place, until: Callable[..., None]) -> None:
    port = place.start()
    with modality(port) as peer:
        huge = bytes(LIMITS.read.message_bytes + (1 << 20))
        request = N_CREATE()
        request.MessageID, request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = 1, PERFORMED_STEP, "2.25.1"
        request.AttributeList = BytesIO(huge)
        (context, *_) = peer.association.accepted_contexts
        sending = threading.Thread(target=peer.association.dimse.send_msg, args=(request, context.context_id))
        sending.start()
        until(lambda: not peer.association.is_established)
        sending.join(10)
    with modality(port) as peer:
        assert peer.create("2.25.1", created("2.25.1")).Status == 0x0000
    assert len(place.records) == 1


def test_nothing_in_a_name_comes_from_the_wire(place: Place) -> None:
    name = "../../../etc/x"
    with modality(place.start()) as peer:
        assert peer.create(name, created("2.25.1")).Status == 0x0000
        assert peer.set(name, ended("COMPLETED")).Status == 0x0000
    expected = hashlib.sha256(name.encode()).hexdigest()
    assert stem(name, "mpps-create") == f"{expected}-mpps-create"
    assert sorted(p.name for p in (place.folder / "spool" / "notices").iterdir()) == [
        f"{expected}-mpps-create-0.dcm", f"{set_stem(name, 0)}-0.dcm",
    ]  # fmt: skip
