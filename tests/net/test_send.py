"""The sender against a PACS that stores, refuses, warns, stalls, drops and answers rubbish."""

import itertools
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import DataElement, config, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.sop_class import CTImageStorage, Verification
from pynetdicom.transport import ThreadedAssociationServer

from dicom_io import scu_query
from dicom_io.errors import NetworkError
from dicom_io.read import digest_dataset
from dicom_io.scu import Peer, Timeouts, _answer, _guard, echo, store
from dicom_io.scu_query import find_instances, find_series, find_study
from dicom_io.status import Outcome
from node.loopback_pacs import LoopbackPacs, received

pytestmark = pytest.mark.sockets

QUICK = Timeouts(connect_s=2.0, associate_s=2.0, answer_s=1.0)


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[LoopbackPacs]:
    with LoopbackPacs(tmp_path / "pacs") as running:
        yield running


def peer(port: int, title: str = "LOOPBACK") -> Peer:
    return Peer("127.0.0.1", port, title, "PACSAINODE")


@pytest.fixture
def choosy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let listeners of this process accept no more than they list; the node's own switch is for the whole process."""
    monkeypatch.setattr(_config, "UNRESTRICTED_STORAGE_SERVICE", False)


@contextmanager
def scripted(
    handlers: list[Any], contexts: Sequence[tuple[Any, list[Any]]] = ((CTImageStorage, [ExplicitVRLittleEndian]),)
) -> Iterator[int]:
    """A PACS whose handlers the test writes; yield its port."""
    ae = AE("LOOPBACK")
    for abstract, syntaxes in contexts:
        ae.add_supported_context(abstract, syntaxes)
    server = ae.make_server(("127.0.0.1", 0), evt_handlers=handlers, server_class=ThreadedAssociationServer)
    ae._servers.append(server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()


@contextmanager
def raw_peer(answer: Any) -> Iterator[int]:
    """A peer that accepts a connection and calls `answer` with it; yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def run() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                answer(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        for connection in held:
            connection.close()


def test_files_arrive_byte_for_byte_in_their_order(pacs: LoopbackPacs, write_slice: Callable[..., Path]) -> None:
    sources = [write_slice(), write_slice(ImplicitVRLittleEndian), write_slice("1.2.840.10008.1.2.1.99")]
    reports = list(store(peer(pacs.port), sources))
    assert [(r.path, r.status, r.outcome, r.reason) for r in reports] == [
        (p, 0, Outcome.DELIVERED, None) for p in sources
    ]
    assert [r.digest for r in received(pacs.folder)] == [digest_dataset(path) for path in sources]
    assert [r.sop_instance_uid for r in reports] == [r.sop_instance_uid for r in pacs.received]


@pytest.mark.parametrize(
    ("status", "outcome", "code"),
    [
        (0xB000, Outcome.DELIVERED_WITH_WARNING, "peer-warned"),
        (0xB006, Outcome.DELIVERED_WITH_WARNING, "peer-warned"),
        (0xB007, Outcome.DELIVERED_WITH_WARNING, "peer-warned"),
        (0x0111, Outcome.CHECK, "peer-has-instance"),
        (0xA700, Outcome.RETRY, "peer-cannot-now"),
        (0xA900, Outcome.DEAD, "peer-refused-object"),
        (0xC123, Outcome.DEAD, "peer-refused-object"),
        (0x0122, Outcome.DEAD, "peer-refused-class"),
        (0x0124, Outcome.DEAD, "peer-not-authorised"),
    ],
)
def test_each_status_becomes_its_outcome(
    pacs: LoopbackPacs, write_slice: Callable[..., Path], status: int, outcome: Outcome, code: str | None
) -> None:
    pacs.answer = status
    [report] = store(peer(pacs.port), [write_slice()])
    assert (report.status, report.outcome, report.reason.code) == (status, outcome, code)
    assert (len(pacs.received) == 1) == (outcome is Outcome.DELIVERED_WITH_WARNING)


@pytest.mark.usefixtures("choosy")
def test_a_refused_class_concerns_only_its_own_files(write_slice: Callable[..., Path]) -> None:
    with scripted([(evt.EVT_C_STORE, lambda _event: 0)]) as port:
        ct, private, again = write_slice(), write_slice(SOPClassUID="1.3.46.670589.5.0.1.1"), write_slice()
        reports = list(store(peer(port), [ct, private, again]))
    assert [report.outcome for report in reports] == [Outcome.DELIVERED, Outcome.DEAD, Outcome.DELIVERED]
    assert reports[1].reason.code == "context-refused"


@pytest.mark.usefixtures("choosy")
def test_if_every_context_is_refused_the_reason_says_so(write_slice: Callable[..., Path]) -> None:
    with scripted([], contexts=((Verification, [ImplicitVRLittleEndian]),)) as port:
        [report] = store(peer(port), [write_slice()])
    assert (report.outcome, report.reason.code) == (Outcome.DEAD, "context-refused")
    assert "CT Image Storage" in report.reason.text["en"]


@pytest.mark.usefixtures("choosy")
def test_a_peer_that_takes_no_rle_gets_the_same_object_without(write_slice: Callable[..., Path]) -> None:
    path = write_slice(Rows=4, Columns=6, BitsAllocated=8, BitsStored=8, HighBit=7, PixelData=bytes(range(24)))
    packed = dcmread(path)
    packed.compress(RLELossless, generate_instance_uid=False)
    packed.save_as(path)
    stored: list[Dataset] = []

    def keep(event: Event) -> int:
        stored.append(event.dataset)
        return 0

    for syntaxes in ([ExplicitVRLittleEndian], [RLELossless]):
        with scripted([(evt.EVT_C_STORE, keep)], contexts=((packed.SOPClassUID, syntaxes),)) as port:
            [report] = store(peer(port), [path])
        assert report.outcome is Outcome.DELIVERED
    plain, as_it_stands = stored
    assert plain.SOPInstanceUID == as_it_stands.SOPInstanceUID == packed.SOPInstanceUID
    assert bytes(plain.PixelData) == bytes(range(24))
    assert as_it_stands.PixelData == packed.PixelData


@pytest.mark.usefixtures("choosy")
def test_a_peer_that_takes_only_the_default_syntax_gets_the_object_re_encoded(write_slice: Callable[..., Path]) -> None:
    came = []

    def keep(event: Event) -> int:
        came.append((str(event.context.transfer_syntax), event.dataset.PixelData))
        return 0

    source = write_slice(PixelData=bytes(range(256)) * 2)
    with scripted([(evt.EVT_C_STORE, keep)], contexts=((CTImageStorage, [ImplicitVRLittleEndian]),)) as port:
        [report] = store(peer(port), [source])
    assert report.outcome is Outcome.DELIVERED
    assert came == [(ImplicitVRLittleEndian, bytes(range(256)) * 2)]


def test_more_classes_than_one_association_has_contexts_for(
    pacs: LoopbackPacs, write_slice: Callable[..., Path]
) -> None:
    sources = [write_slice(SOPClassUID=f"1.2.826.0.1.3680043.999.{n}") for n in range(80)]
    reports = list(store(peer(pacs.port), sources))
    assert [report.status for report in reports] == [0] * 80


def test_a_file_that_is_no_dicom_is_dead_and_the_others_go(
    pacs: LoopbackPacs, write_slice: Callable[..., Path], tmp_path: Path
) -> None:
    broken, gone = tmp_path / "broken.dcm", tmp_path / "gone.dcm"
    broken.write_bytes(b"not DICOM")
    reports = {r.path: r for r in store(peer(pacs.port), [broken, write_slice(), gone])}
    assert [r.outcome for r in reports.values()].count(Outcome.DELIVERED) == 1
    assert {reports[broken].reason.code, reports[gone].reason.code} == {"file-unreadable"}


def test_an_answer_that_is_lost_is_followed_by_a_new_association_for_the_rest(write_slice: Callable[..., Path]) -> None:
    count = itertools.count(1)

    def abort_second(event: Event) -> int:
        if next(count) == 2:
            event.assoc.abort()
        return 0

    with scripted([(evt.EVT_C_STORE, abort_second)]) as port:
        reports = list(store(peer(port), [write_slice() for _ in range(4)], QUICK))
    assert [report.outcome for report in reports] == [
        Outcome.DELIVERED,
        Outcome.RETRY,
        Outcome.DELIVERED,
        Outcome.DELIVERED,
    ]
    assert (reports[1].status, reports[1].reason.code) == (None, "no-answer")


def test_a_peer_that_never_answers_costs_one_time_out(write_slice: Callable[..., Path]) -> None:
    over = threading.Event()
    with scripted([(evt.EVT_C_STORE, lambda _event: over.wait(20) and 0)]) as port:
        begun = time.monotonic()
        reports = list(store(peer(port), [write_slice() for _ in range(5)], QUICK))
        taken = time.monotonic() - begun
        over.set()
    assert [report.outcome for report in reports] == [Outcome.RETRY] * 5
    assert taken < 8


def test_a_rejection_that_comes_at_once_is_read_as_one() -> None:
    """The library looks whether it is connected only when the answer has come and the connection is over."""
    association = Association(AE("NODE"), "requestor")
    assert _answer(association) is None
    rejection = A_ASSOCIATE()
    rejection.result = 0x01
    association.dul.to_user_queue.put(rejection)
    assert _answer(association) is rejection


def nothing(_connection: socket.socket) -> None:
    """Accept and say nothing."""


def close(connection: socket.socket) -> None:
    connection.close()


def half_a_pdu(connection: socket.socket) -> None:
    connection.sendall(struct.pack(">BBL", 2, 0, 300) + b"\0\1")


def rubbish(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def abort(connection: socket.socket) -> None:
    connection.recv(10)
    connection.sendall(struct.pack(">BBLBBBB", 7, 0, 4, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("answer", "codes"),
    [
        (nothing, {"peer-timeout"}),
        (close, {"association-aborted"}),
        (half_a_pdu, {"peer-timeout", "association-aborted"}),
        (rubbish, {"association-aborted"}),
        (abort, {"association-aborted"}),
    ],
)
def test_a_peer_that_does_not_speak_dicom_well(write_slice: Callable[..., Path], answer: Any, codes: set[str]) -> None:
    with raw_peer(answer) as port:
        begun = time.monotonic()
        [report] = store(peer(port), [write_slice()], QUICK)
        assert time.monotonic() - begun < 8
    assert report.outcome is Outcome.RETRY
    assert report.reason.code in codes


def test_nobody_listens(write_slice: Callable[..., Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    [report] = store(peer(port), [write_slice()], QUICK)
    assert (report.outcome, report.reason.code) == (Outcome.RETRY, "peer-refused-connection")
    with pytest.raises(NetworkError) as caught:
        echo(peer(port), QUICK)
    assert caught.value.retryable
    assert caught.value.reason.code == "peer-refused-connection"


def test_a_host_name_that_nobody_knows() -> None:
    with pytest.raises(NetworkError) as caught:
        echo(Peer("no-such-host.invalid", 104, "A", "B"), QUICK)
    assert caught.value.reason.code == "peer-name-unknown"


def test_a_rejection_says_why(pacs: LoopbackPacs, write_slice: Callable[..., Path]) -> None:
    [report] = store(peer(pacs.port, "SOMEONE"), [write_slice()])
    assert (report.outcome, report.reason.code) == (Outcome.RETRY, "association-rejected")
    assert "Called AE title not recognised" in report.reason.text["en"]


def test_echo(pacs: LoopbackPacs) -> None:
    assert 0 <= echo(peer(pacs.port)) < 5


def test_echo_where_it_is_not_offered() -> None:
    with scripted([]) as port, pytest.raises(NetworkError) as caught:
        echo(peer(port), QUICK)
    assert caught.value.reason.code == "context-refused"


def test_the_study_is_found_with_whose_it_is(pacs: LoopbackPacs, write_slice: Callable[..., Path]) -> None:
    name = "Wang^XiaoDong=王^小东"
    list(
        store(
            peer(pacs.port), [write_slice(SpecificCharacterSet="ISO_IR 192", PatientName=name, IssuerOfPatientID="H")]
        )
    )
    [found] = find_study(peer(pacs.port), "2.25.900")
    assert (found.patient_id, found.issuer_of_patient_id, found.accession_number) == ("P1", "H", "A1")
    assert found.patient_name == name
    assert "王" not in repr(found)
    assert find_study(peer(pacs.port), "2.25.404") == ()


def test_a_study_whose_uid_breaks_the_rules_is_found_too(pacs: LoopbackPacs, write_slice: Callable[..., Path]) -> None:
    source = write_slice()
    with dcmread(source) as ds:
        ds.add(DataElement("StudyInstanceUID", "UI", "1.02.A", validation_mode=config.IGNORE))
        ds.save_as(source)
    assert [report.status for report in store(peer(pacs.port), [source])] == [0]
    assert [found.patient_id for found in find_study(peer(pacs.port), "1.02.A")] == ["P1"]


def test_series_are_counted_and_instances_listed(pacs: LoopbackPacs, write_slice: Callable[..., Path]) -> None:
    files = [write_slice(SeriesInstanceUID=f"2.25.9{n % 2}") for n in range(5)]
    held = [report.sop_instance_uid for report in store(peer(pacs.port), files)]
    series = {s.series_instance_uid: s for s in find_series(peer(pacs.port), "2.25.900")}
    assert {uid: (s.modality, s.images) for uid, s in series.items()} == {"2.25.90": ("CT", 3), "2.25.91": ("CT", 2)}
    assert find_instances(peer(pacs.port), "2.25.900", "2.25.90") == set(held[0::2])
    assert find_instances(peer(pacs.port), "2.25.900", "2.25.90", held[:2]) == {held[0]}
    assert find_instances(peer(pacs.port), "2.25.900", "2.25.90", [held[1]]) == frozenset()
    assert find_series(peer(pacs.port), "2.25.404") == ()


FIND = (("1.2.840.10008.5.1.4.1.2.2.1", [ImplicitVRLittleEndian]),)


def test_a_count_that_is_missing_or_odd_is_no_count() -> None:
    def find(event: Event) -> Iterator[tuple[int, Dataset | None]]:
        assert (event.identifier.QueryRetrieveLevel, event.identifier.StudyInstanceUID) == ("SERIES", "2.25.900")
        for n, count in enumerate((None, b"", b"12", b"-3", b"1.5", b"many")):
            match = Dataset()
            match.SeriesInstanceUID = f"2.25.{n}"
            if count is not None:
                match[0x00201209] = RawDataElement(BaseTag(0x00201209), "IS", len(count), count, 0, True, True)
            yield 0xFF00, match
        yield 0x0000, None

    with scripted([(evt.EVT_C_FIND, find)], contexts=FIND) as port:
        assert [s.images for s in find_series(peer(port), "2.25.900", QUICK)] == [None, None, 12, None, None, None]


def test_an_answer_without_end_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scu_query, "_MATCHES", 50)

    def find(event: Event) -> Iterator[tuple[int, Dataset | None]]:
        while not event.is_cancelled and event.assoc.is_established:
            match = Dataset()
            match.SeriesInstanceUID = "2.25.1"
            yield 0xFF00, match

    with scripted([(evt.EVT_C_FIND, find)], contexts=FIND) as port, pytest.raises(NetworkError) as caught:
        find_series(peer(port), "2.25.900", QUICK)
    assert caught.value.reason.code == "query-unanswered"


def test_a_peer_without_queries_says_so() -> None:
    with scripted([]) as port, pytest.raises(NetworkError) as caught:
        find_study(peer(port), "2.25.900", QUICK)
    assert caught.value.reason.code == "query-not-offered"


@pytest.mark.parametrize("answer", [0xA700, 0xC001, "abort", "raise"])
def test_a_query_that_fails_is_no_empty_answer(answer: Any) -> None:
    def find(event: Event) -> Iterator[tuple[Any, None]]:
        if answer == "abort":
            event.assoc.abort()
        if answer == "raise":
            raise ValueError
        yield answer, None

    with scripted([(evt.EVT_C_FIND, find)], contexts=FIND) as port, pytest.raises(NetworkError) as caught:
        find_study(peer(port), "2.25.900", QUICK)
    assert caught.value.reason.code == ("query-unanswered" if answer == "abort" else "query-failed")


def test_what_the_pacs_received_is_known_after_a_restart(tmp_path: Path, write_slice: Callable[..., Path]) -> None:
    source = write_slice()
    for _ in range(2):
        with LoopbackPacs(tmp_path / "pacs") as pacs:
            assert [report.status for report in store(peer(pacs.port), [source])] == [0]
    assert len(received(tmp_path / "pacs")) == 2
    assert dcmread(received(tmp_path / "pacs")[0].path).PatientID == "P1"


def lost_answers(port: int, count: int, *, guarded: bool) -> int:
    """Send echoes over associations whose threads switch 50 times as often as usual; return how many were not answered."""
    ae = AE("RACE")
    ae.dimse_timeout = 0.5
    ae.add_requested_context(Verification)

    def opened(event: Event) -> None:
        event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if guarded:
            _guard(event.assoc)

    done = lost = 0
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        while done + lost < count:
            association = ae.associate(
                "127.0.0.1", port, ae_title="LOOPBACK", evt_handlers=[(evt.EVT_CONN_OPEN, opened)]
            )
            while association.is_established and done + lost < count:
                if "Status" in association.send_c_echo():
                    done += 1
                else:
                    lost += 1
            if association.is_established:
                association.release()
    finally:
        sys.setswitchinterval(interval)
    return lost


def test_the_guard_loses_no_answer(pacs: LoopbackPacs) -> None:
    assert lost_answers(pacs.port, 500, guarded=True) == 0


def test_the_guard_takes_nothing_while_a_call_waits() -> None:
    """The fault itself, made certain: the reactor looks into the queue while a caller has taken the checkpoint."""

    class Dimse:
        def __init__(self) -> None:
            self.taken = 0

        def get_msg(self, _block: bool = False) -> tuple[Any, Any]:
            self.taken += 1
            return 1, "answer"

    class Association:
        dimse = Dimse()
        _reactor_checkpoint = threading.Event()

    association = Association()
    _guard(association)
    assert association.dimse.get_msg(False) == (None, None), "a caller waits: the reactor gets nothing"
    assert association.dimse.get_msg(True) == (1, "answer"), "the caller does"
    association._reactor_checkpoint.set()
    assert association.dimse.get_msg(False) == (1, "answer"), "nobody waits: the reactor may look"
