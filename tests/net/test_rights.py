"""Each right granted and denied, with other people's senders; and who has which."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_FIND, C_STORE, N_ACTION, N_EVENT_REPORT
from pynetdicom.presentation import build_context

from config.settings import Destination, Dicom, Peer
from dicom_io import notices, scu
from dicom_io.contexts import COMMITMENT, COMMITMENT_INSTANCE, PERFORMED_STEP, STUDY_ROOT_FIND, VERIFICATION
from dicom_io.door import Caller
from dicom_io.errors import NetworkError
from dicom_io.notices import Reference
from dicom_io.rights import RIGHTS, Right
from dicom_io.scp import AssociationEvent, Handlers, Listener, Server, StoredObject, serve
from dicom_io.scp_types import AssociationInfo, Notice, NoticeAnswer
from dicom_io.scu_notices import report_commitment, request_commitment
from dicom_io.tls import ClientTls
from node.access import Access
from node.refusals import refusals
from tests.chaos.wire import RQ, pdu

pytestmark = pytest.mark.sockets

CT = "1.2.840.10008.5.1.4.1.1.2"
PIN = "ab" * 32


class House:
    """A listener on which a caller has the rights that its title names: ``STORE``, ``QUERY``, ``NONE``, ``ALL``."""

    def __init__(self, incoming: Path) -> None:
        self.stored: list[str] = []
        self.asked = 0
        self.notices: list[str] = []
        self.events: list[AssociationEvent] = []
        handlers = Handlers(
            self._store,
            self.events.append,
            lambda _refused: None,
            self._rights,
            on_find=self._find,
            on_notice=self._notice,
            commitment=True,
        )
        self.server: Server = serve(Listener(("PACSAINODE",), "127.0.0.1", 0, incoming), handlers)
        self.port = self.server.port

    @staticmethod
    def _rights(who: AssociationInfo) -> frozenset[Right]:
        return RIGHTS if who.calling == "ALL" else RIGHTS & {who.calling.lower()}

    def _store(self, arrived: StoredObject) -> int:
        self.stored.append(arrived.association.calling)
        return 0

    def _find(self, _identifier: Dataset) -> Iterator[Dataset]:
        self.asked += 1
        return iter(())

    def _notice(self, notice: Notice) -> NoticeAnswer:
        self.notices.append(notice.kind)
        return NoticeAnswer(0x0000)

    def denied(self) -> list[tuple[str, str]]:
        return [(e.association.calling, e.reason.code) for e in self.events if e.kind == "denied" and e.reason]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.server.stop(0.1)


def dcmtk(program: str, port: int, calling: str, *more: str) -> subprocess.CompletedProcess[str]:
    command = [
        f"/usr/bin/{program}",
        "-aet",
        calling,
        "-aec",
        "PACSAINODE",
        *more[:-1],
        "127.0.0.1",
        str(port),
        *more[-1:],
    ]
    return subprocess.run([c for c in command if c], capture_output=True, text=True, timeout=60, check=False)


def test_storing_needs_its_right(house: House, write_slice: Callable[..., Path]) -> None:
    granted = dcmtk("storescu", house.port, "STORE", str(write_slice()))
    assert granted.returncode == 0, granted.stderr
    refused = dcmtk("storescu", house.port, "QUERY", "-v", str(write_slice()))
    assert refused.returncode != 0
    assert "No Acceptable Presentation Contexts" in refused.stderr, "the image does not even leave its sender"
    assert house.stored == ["STORE"]
    assert house.denied() == [("QUERY", "right-missing")]


def test_asking_needs_its_right(house: House) -> None:
    key = ("-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID=1.2", "")
    assert dcmtk("findscu", house.port, "QUERY", *key).returncode == 0
    assert house.asked == 1
    refused = dcmtk("findscu", house.port, "STORE", *key)
    assert "No Acceptable Presentation Contexts" in refused.stderr
    assert house.asked == 1
    assert house.denied() == [("STORE", "right-missing")]


def test_verification_needs_none(house: House) -> None:
    assert dcmtk("echoscu", house.port, "NONE", "").returncode == 0
    assert not house.denied()


def peer(house: House, calling: str) -> scu.Peer:
    return scu.Peer("127.0.0.1", house.port, "PACSAINODE", calling)


def test_asking_for_commitment_and_reporting_it_need_each_its_own(house: House) -> None:
    some = [Reference(CT, "2.25.1")]
    assert request_commitment(peer(house, "COMMIT"), "2.25.10", some) is None, "taken; the answer comes later"
    report_commitment(peer(house, "REPORT"), "2.25.10", some, {})
    assert house.notices == ["commit-request", "commit-result"]
    for calling, call in (
        ("REPORT", lambda p: request_commitment(p, "2.25.10", some)),
        ("COMMIT", lambda p: report_commitment(p, "2.25.10", some, {})),
        ("STORE", lambda p: request_commitment(p, "2.25.10", some)),
    ):
        with pytest.raises(NetworkError) as error:
            call(peer(house, calling))
        assert error.value.reason.code == ("commitment-not-offered" if calling == "STORE" else "commitment-refused")
        assert ("0x0124" in error.value.reason.text["en"]) == (calling != "STORE")
    assert house.notices == ["commit-request", "commit-result"]


def test_a_step_needs_the_right_to_store(house: House) -> None:
    ae = AE("COMMIT")
    for uid in (PERFORMED_STEP, COMMITMENT, VERIFICATION):
        ae.add_requested_context(uid)
    association = ae.associate("127.0.0.1", house.port, ae_title="PACSAINODE")
    assert {str(c.abstract_syntax) for c in association.accepted_contexts} == {COMMITMENT, VERIFICATION}
    association.release()


@pytest.mark.parametrize("message", ["store", "find", "action", "report"])
def test_a_message_on_somebody_elses_context_is_refused_too(
    house: House, message: str, make_slice: Callable[..., Dataset], encode: Callable[[Dataset], bytes]
) -> None:
    """For some services the library looks at the class that the message names, not at the context that it came on."""
    allowed = COMMITMENT if message in ("action", "report") else VERIFICATION
    calling = {"action": "REPORT", "report": "COMMIT"}.get(message, "NONE")
    association = scu.associate(
        peer(house, calling), [build_context(allowed, "1.2.840.10008.1.2.1")], scu.Timeouts(), provider_of=COMMITMENT
    )
    try:
        request = REQUESTS[message](encode(make_slice(SOPInstanceUID="2.25.1")))
        request.MessageID = 1
        association._reactor_checkpoint.clear()
        while not association._is_paused:
            continue
        association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
        _, answer = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
        assert (None if answer is None else answer.Status) == (None if message == "find" else 0x0124)
    finally:
        scu.release(association)
    assert not house.stored
    assert not house.asked
    assert not house.notices


def _store(data: bytes) -> C_STORE:
    request = C_STORE()
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID, request.Priority = CT, "2.25.1", 2
    request.DataSet = BytesIO(data)
    return request


def _find(data: bytes) -> C_FIND:
    request = C_FIND()
    request.AffectedSOPClassUID, request.Priority, request.Identifier = STUDY_ROOT_FIND, 2, BytesIO(data)
    return request


def _commitment(prefix: str, request: Any, number: str, data: str) -> Any:
    setattr(request, f"{prefix}SOPClassUID", COMMITMENT)
    setattr(request, f"{prefix}SOPInstanceUID", COMMITMENT_INSTANCE)
    setattr(request, number, 1)
    asked = notices.commitment_request(notices.CommitmentRequest("2.25.10", (Reference(CT, "2.25.1"),)))
    setattr(request, data, BytesIO(notices.encode(asked, "1.2.840.10008.1.2.1")))
    return request


REQUESTS: dict[str, Callable[[bytes], Any]] = {
    "store": _store,
    "find": _find,
    "action": lambda _: _commitment("Requested", N_ACTION(), "ActionTypeID", "ActionInformation"),
    "report": lambda _: _commitment("Affected", N_EVENT_REPORT(), "EventTypeID", "EventInformation"),
}


ARCHIVE = Destination("pacs", "10.0.0.9", 104, "PACS", proof="commitment")
PEERS = (
    Peer("CT1", "10.0.0.1"),
    Peer("CT2", "10.0.1.0/24", rights=("store",)),
    Peer("CT3", "localhost", rights=()),
    Peer("CT4", "10.0.0.4", certificate=f"sha256:{PIN}"),
    Peer("CT5", "2001:db8::/32"),
    Peer("PACS", "10.0.0.9", rights=("query",)),
    Peer("CT6", "10.0.0.6", rights=("store",)),
    Peer("CT7", "10.0.0.7", rights=("store",), certificate="name:ct7.example"),
    Peer("CT6", "10.0.0.6", rights=("query",), certificate=f"sha256:{PIN}"),
)


@pytest.mark.parametrize(
    ("calling", "address", "certificate", "rights"),
    [
        ("CT1", "10.0.0.1", "", {"store", "commit"}),
        ("CT1", "::ffff:10.0.0.1", "", {"store", "commit"}),
        ("CT1", "10.0.0.2", "", None),
        ("CT1", "127.0.0.1", "", None),
        ("ct1", "10.0.0.1", "", None),
        ("CT2", "10.0.1.255", "", {"store"}),
        ("CT2", "10.0.2.0", "", None),
        ("CT2", "2001:db8::1", "", None),
        ("CT3", "127.0.0.1", "", set()),
        ("CT4", "10.0.0.4", PIN, {"store", "commit"}),
        ("CT4", "10.0.0.4", "", None),
        ("CT4", "10.0.0.4", "cd" * 32, None),
        ("CT4", "10.0.0.5", PIN, None),
        ("CT5", "2001:db8:1::7", "", {"store", "commit"}),
        ("PACS", "10.0.0.9", "", {"query", "report"}),
        ("CT6", "10.0.0.6", "", {"store"}),
        ("CT7", "10.0.0.7", PIN, {"store"}),
        ("CT7", "10.0.0.7", "cd" * 32, None),
        ("CT6", "10.0.0.6", PIN, {"store", "query"}),
    ],
)
def test_who_may_do_what(calling: str, address: str, certificate: str, rights: set[str] | None) -> None:
    access = Access(Dicom(peer=PEERS), (ARCHIVE,))
    names = ("ct7.example", "10.0.0.7") if certificate == PIN else ("xct7.example", "example")
    found = access.rights(AssociationInfo("1", calling, "PACSAINODE", address, certificate, names))
    assert found == (None if rights is None else frozenset(rights))


def test_an_archive_that_is_no_sender_may_report_and_nothing_else() -> None:
    access = Access(Dicom(peer=PEERS[:1]), (ARCHIVE,))
    assert access.rights(AssociationInfo("1", "PACS", "PACSAINODE", "10.0.0.9")) == {"report"}
    assert Access(Dicom(peer=PEERS[:1])).rights(AssociationInfo("1", "PACS", "PACSAINODE", "10.0.0.9")) is None


@pytest.mark.parametrize(
    ("expected", "shown", "names", "may"),
    [
        (ClientTls(pin=f"sha256:{PIN}"), PIN, (), True),
        (ClientTls(pin=f"sha256:{PIN}"), "cd" * 32, ("10.0.0.9",), False),
        (ClientTls(), PIN, ("10.0.0.9", "pacs.example"), True),
        (ClientTls(), PIN, ("ct7.example",), False),
        (ClientTls(server_name="pacs.example"), PIN, ("pacs.example",), True),
        (ClientTls(server_name="pacs.example"), PIN, ("10.0.0.9",), False),
        (ClientTls(pin=f"sha256:{PIN}"), "", (), True),  # the listener has no TLS
        (None, "cd" * 32, ("ct7.example",), True),
    ],
)
def test_an_archive_that_is_reached_by_tls_reports_with_its_own_certificate(
    expected: ClientTls | None, shown: str, names: tuple[str, ...], may: bool
) -> None:
    access = Access(Dicom(peer=PEERS[:1]), (replace(ARCHIVE, tls=expected),))
    found = access.rights(AssociationInfo("1", "PACS", "PACSAINODE", "10.0.0.9", shown, names))
    assert found == ({"report"} if may else None)


def test_everything_refused_is_logged_and_counted(
    listen: Callable[..., Any], write_slice: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    node = listen(peer=(Peer("CT1", "127.0.0.1", rights=()),))
    for calling, called in (("CT9", "PACSAINODE"), ("CT9", "PACSAINODE"), ("CT1", "PACSAINODE"), ("CT1", "OTHER")):
        sent = subprocess.run(
            ["/usr/bin/storescu", "-aet", calling, "-aec", called, "127.0.0.1", str(node.port), str(write_slice())],
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert sent.returncode != 0
    node.receiver.stop(0.1)
    counted = {(r.code, r.calling): (r.peer, r.count) for r in refusals(node.data_dir / "spool")}
    assert counted == {
        ("peer-not-allowed", "CT9"): ("127.0.0.1", 2),
        ("right-missing", "CT1"): ("127.0.0.1", 1),
        ("called-title-unknown", "CT1"): ("127.0.0.1", 1),
    }
    said = capsys.readouterr().out
    assert all(code in said for code, _ in counted)
    assert "Nobody" not in said
    assert not node.instances()


def test_a_title_moves_nobodys_cursor() -> None:
    """The door reports callers that it rejects before the library has judged their request."""
    titles = b"PACSAINODE".ljust(16) + b"CT\x1b[2J\x9b\r\n".ljust(16)
    with socket.socket() as connection:
        caller = Caller(connection, ("127.0.0.1", 1), pdu(RQ, bytes((0, 1, 0, 0)) + titles + bytes(32)), "")
        assert caller.titles == ("PACSAINODE", "CT?[2J\ufffd??")
