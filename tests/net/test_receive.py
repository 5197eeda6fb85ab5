"""The listener on real sockets: what is answered, what is kept, and who may speak."""

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import build_context

from config.settings import Dicom, Peer
from dicom_io.contexts import STILL_IMAGE_SYNTAXES, STORAGE_CLASSES
from dicom_io.read import digest_dataset
from dicom_io.scp_types import AssociationInfo
from node.access import Access
from node.spool import journals
from node.watermarks import Limits

pytestmark = pytest.mark.sockets

STORESCU, ECHOSCU = "/usr/bin/storescu", "/usr/bin/echoscu"  # pynetdicom installs scripts of these names, too
CT = "1.2.840.10008.5.1.4.1.1.2"


def push(
    port: int, *paths: Path, called: str = "PACSAINODE", calling: str = "CT1", options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Send files with DCMTK; return the finished process."""
    command = [STORESCU, "-aet", calling, "-aec", called, *options, "127.0.0.1", str(port), *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env={"TCP_NODELAY": "1"})


def test_what_is_acknowledged_stands_in_spool_and_journal(
    listen: Callable[..., Any], write_slice: Callable[..., Path], until: Callable[..., None]
) -> None:
    node = listen()
    sources = [write_slice() for _ in range(3)]
    assert push(node.port, *sources).returncode == 0
    until(lambda: "association-released" in node.kinds)
    assert node.kinds == ["association-open", "stored", "stored", "stored", "association-released"]
    for source, record in zip(sources, node.instances(), strict=True):
        entry = node.data_dir / "spool" / record["entry"]
        assert digest_dataset(entry) == record["digest"] == digest_dataset(source)
        assert record["bytes"] == entry.stat().st_size
        assert (record["calling"], record["called"], record["peer"]) == ("CT1", "PACSAINODE", "127.0.0.1")
        assert (record["study"], record["series"]) == ("2.25.900", "2.25.901")
        assert (record["sop_class"], record["syntax"]) == (CT, ExplicitVRLittleEndian)
        assert re.fullmatch(r"[0-9a-f]{2}/[0-9a-f]{64}-0\.dcm", record["entry"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", record["utc"])
    assert [record["seq"] for record in node.records] == [1, 2, 3, 4, 5]
    assert not list((node.data_dir / "spool" / "incoming").rglob("*.part"))


def test_a_repeated_object_is_acknowledged_and_a_changed_one_is_kept_beside_it(
    listen: Callable[..., Any], write_slice: Callable[..., Path]
) -> None:
    node = listen()
    source = write_slice(SOPInstanceUID="2.25.5")
    other = write_slice(SOPInstanceUID="2.25.5", PatientID="P2")
    for path in (source, source, other):
        assert push(node.port, path).returncode == 0
    assert [record["kind"] for record in node.instances()] == ["stored", "duplicate", "conflict"]
    assert len(list(node.data_dir.glob("spool/??/*.dcm"))) == 2


def test_one_instance_sent_by_many_at_once_has_one_entry(
    listen: Callable[..., Any], write_slice: Callable[..., Path]
) -> None:
    node = listen()
    source = write_slice(SOPInstanceUID="2.25.6")
    results = []
    senders = [threading.Thread(target=lambda: results.append(push(node.port, source).returncode)) for _ in range(8)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert results == [0] * 8
    assert {record["entry"] for record in node.instances()} == {node.instances()[0]["entry"]}
    assert len(node.instances()) == 8
    assert len(list(node.data_dir.glob("spool/??/*.dcm"))) == 1


def test_every_storage_class_is_accepted_in_every_still_image_syntax(listen: Callable[..., Any]) -> None:
    node = listen()
    assert len(STORAGE_CLASSES) == 170
    assert {f"1.2.840.10008.1.2.4.{n}" for n in (201, 202, 203)} <= set(STILL_IMAGE_SYNTAXES)
    pairs = [build_context(abstract, syntax) for abstract in STORAGE_CLASSES for syntax in STILL_IMAGE_SYNTAXES]
    refused = []
    for start in range(0, len(pairs), 128):
        association = AE().associate("127.0.0.1", node.port, pairs[start : start + 128], ae_title="PACSAINODE")
        assert association.is_established
        refused += association.rejected_contexts
        association.release()
    assert not refused


def test_the_first_syntax_that_can_be_decoded_is_chosen(listen: Callable[..., Any]) -> None:
    node = listen()
    proposed = ["1.2.840.10008.1.2.4.102", "1.2.840.10008.1.2.4.80", ImplicitVRLittleEndian]
    association = AE().associate("127.0.0.1", node.port, [build_context(CT, proposed)], ae_title="PACSAINODE")
    assert [str(context.transfer_syntax[0]) for context in association.accepted_contexts] == ["1.2.840.10008.1.2.4.80"]
    association.release()


@pytest.mark.parametrize(
    ("what", "status", "code"),
    [
        ("sound", 0x0000, None),
        ("another instance", 0xA900, "object-is-another"),
        ("another class", 0xA900, "object-is-another"),
        ("no study", 0xC000, "object-without-uids"),
        ("no series", 0xC000, "object-without-uids"),
        ("no instance", 0xC000, "object-without-uids"),
        ("empty study", 0xC000, "object-without-uids"),
        ("long study", 0xC000, "object-without-uids"),
        ("garbage", 0xC000, None),
        ("nothing", 0xC000, None),
        ("cut", 0xC000, None),
    ],
)
def test_each_answer(
    listen: Callable[..., Any],
    talk: Callable[..., Any],
    make_slice: Callable[..., Dataset],
    encode: Callable[[Dataset], bytes],
    what: str,
    status: int,
    code: str | None,
) -> None:
    node = listen()
    values = {
        "another instance": {"SOPInstanceUID": "2.25.2"},
        "another class": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"},
        "no study": {"StudyInstanceUID": None},
        "no series": {"SeriesInstanceUID": None},
        "no instance": {"SOPInstanceUID": None},
        "empty study": {"StudyInstanceUID": ""},
    }
    data = encode(make_slice(**{"SOPInstanceUID": "2.25.1", **values.get(what, {})}))
    if what == "garbage":
        data = b"\xfe\xff\x00\xe0" * 500
    elif what == "nothing":
        data = b"\0\0"
    elif what == "cut":
        data = data[:50]
    elif what == "long study":
        data = data.replace(b"UI\x08\x002.25.900", b"UI\x48\x00" + b"2.25." + b"9" * 67)
    with talk(node.port) as peer:
        assert peer.store(data) == status
        assert peer.store(encode(make_slice(SOPInstanceUID="2.25.1"))) == 0x0000, "the association goes on"
    refused = node.data_dir / "quarantine" / "received"
    copies = list(refused.glob("*.dcm"))
    assert len(copies) == (status != 0x0000)
    if copies:
        note = json.loads(next(refused.glob("*.json")).read_text(encoding="utf-8"))
        assert note["status"] == f"0x{status:04X}"
        assert note["reason"]["code"] == code or code is None
        assert copies[0].read_bytes().endswith(data)
        assert len(node.instances()) == 1
    assert not list((node.data_dir / "spool" / "incoming").rglob("*.part"))


def test_the_end_of_an_association_says_how_much_of_it_was_not_taken(
    listen: Callable[..., Any],
    talk: Callable[..., Any],
    make_slice: Callable[..., Dataset],
    encode: Callable[[Dataset], bytes],
    until: Callable[..., None],
) -> None:
    node = listen()
    with talk(node.port) as peer:
        assert peer.store(encode(make_slice(SOPInstanceUID="2.25.1"))) == 0x0000
        for number in range(2):
            assert peer.store(encode(make_slice(SOPInstanceUID=f"2.25.{number}", StudyInstanceUID=None))) == 0xC000
    with talk(node.port) as peer:
        assert peer.store(encode(make_slice(SOPInstanceUID="2.25.1"))) == 0x0000
    until(lambda: sum(kind.startswith("association-") for kind in node.kinds) == 4)
    ends = [r.get("refused", 0) for r in node.records if r["kind"] in ("association-released", "association-aborted")]
    assert ends == [2, 0]


def test_a_private_class_is_stored(
    listen: Callable[..., Any],
    talk: Callable[..., Any],
    make_slice: Callable[..., Dataset],
    encode: Callable[[Dataset], bytes],
) -> None:
    node = listen()
    with talk(node.port, "1.3.46.670589.5.0.1.1") as peer:
        data = encode(make_slice(SOPClassUID="1.3.46.670589.5.0.1.1", SOPInstanceUID="2.25.1"))
        assert peer.store(data, "1.3.46.670589.5.0.1.1") == 0x0000
    assert node.instances()[0]["sop_class"] == "1.3.46.670589.5.0.1.1"


def test_deflated_and_implicit_objects_are_recognised(
    listen: Callable[..., Any], write_slice: Callable[..., Path]
) -> None:
    node = listen()
    implicit, deflated = write_slice(ImplicitVRLittleEndian), write_slice("1.2.840.10008.1.2.1.99")
    assert push(node.port, implicit, options=["-xi"]).returncode == 0
    assert push(node.port, deflated, options=["-xd"]).returncode == 0
    assert [r["syntax"] for r in node.instances()] == [ImplicitVRLittleEndian, "1.2.840.10008.1.2.1.99"]
    assert [r["digest"] for r in node.instances()] == [digest_dataset(implicit), digest_dataset(deflated)]


def test_a_full_disk_is_answered_and_the_next_object_is_taken(
    listen: Callable[..., Any],
    talk: Callable[..., Any],
    make_slice: Callable[..., Dataset],
    encode: Callable[[Dataset], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = listen()
    data = encode(make_slice(SOPInstanceUID="2.25.1"))
    with talk(node.port) as peer:
        with monkeypatch.context() as patch:
            patch.setattr(node.receiver.spool.gate, "_limits", Limits(1 << 62, 0, 0, 0.25))
            assert peer.store(data) == 0xA700
        assert peer.store(data) == 0x0000
    assert [record["kind"] for record in node.instances()] == ["stored"]


def test_a_disk_that_fills_while_an_object_arrives_is_answered(
    listen: Callable[..., Any],
    talk: Callable[..., Any],
    make_slice: Callable[..., Dataset],
    encode: Callable[[Dataset], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = listen()
    small = encode(make_slice(SOPInstanceUID="2.25.1"))
    large = encode(make_slice(SOPInstanceUID="2.25.1", PixelData=bytes(600_000)))
    write = os.write

    def full(descriptor: int, data: Path) -> int:
        if len(data) > 50_000:
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    with talk(node.port) as peer:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            assert peer.store(large) == 0xA700
        assert peer.store(small) == 0x0000


def test_a_folder_that_is_gone_is_answered(
    listen: Callable[..., Any],
    talk: Callable[..., Any],
    make_slice: Callable[..., Dataset],
    encode: Callable[[Dataset], bytes],
) -> None:
    node = listen()
    shutil.rmtree(node.data_dir / "spool" / "incoming")
    with talk(node.port) as peer:
        assert peer.store(encode(make_slice(SOPInstanceUID="2.25.1"))) == 0xA700


def test_a_journal_that_cannot_be_written_is_answered(
    listen: Callable[..., Any],
    talk: Callable[..., Any],
    make_slice: Callable[..., Dataset],
    encode: Callable[[Dataset], bytes],
    monkeypatch: pytest.MonkeyPatch,
    until: Callable[..., None],
) -> None:
    node = listen()
    data = encode(make_slice(SOPInstanceUID="2.25.1"))

    def broken(_descriptor: int) -> None:
        raise OSError(5, "broken")

    with talk(node.port) as peer:
        until(lambda: node.kinds == ["association-open"])
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", broken)
            assert peer.store(data) == 0xA700
        assert peer.store(data) == 0x0000
    assert [r["kind"] for r in node.instances()][-1] == "stored", "nobody knows whether its first record survived"


def test_the_order_is_file_link_folder_journal_answer(
    listen: Callable[..., Any], write_slice: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = listen()
    steps = []
    real = {name: getattr(os, name) for name in ("fsync", "link", "fdatasync")}

    def spy(name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            steps.append(name)
            return real[name](*args)

        return call

    assert push(node.port, write_slice()).returncode == 0  # opens the journal
    for name in real:
        monkeypatch.setattr(os, name, spy(name))
    assert push(node.port, write_slice()).returncode == 0
    assert steps[:5] == ["fdatasync", "fsync", "link", "fsync", "fdatasync"], "open; file, link, folder, journal"


@pytest.mark.parametrize("called", ["PACSAINODE", "SECOND"])
def test_every_configured_title_is_answered(listen: Callable[..., Any], called: str) -> None:
    node = listen(ae_titles=("PACSAINODE", "SECOND"))
    assert (
        subprocess.run([ECHOSCU, "-aec", called, "127.0.0.1", str(node.port)], timeout=20, check=False).returncode == 0
    )


def test_another_called_title_is_rejected(listen: Callable[..., Any], write_slice: Callable[..., Path]) -> None:
    node = listen()
    result = push(node.port, write_slice(), called="SOMEONE")
    assert result.returncode != 0
    assert "Called AE Title Not Recognized" in result.stderr
    assert not node.records


def test_a_peer_that_is_not_configured_is_rejected(
    listen: Callable[..., Any], write_slice: Callable[..., Path]
) -> None:
    node = listen(peer=(Peer("CT1", "127.0.0.1"), Peer("CT2", "192.0.2.7")))
    refused = push(node.port, write_slice(), calling="CT9")
    assert "Calling AE Title Not Recognized" in refused.stderr
    elsewhere = push(node.port, write_slice(), calling="CT2")
    assert "Calling AE Title Not Recognized" in elsewhere.stderr
    assert not node.records
    assert push(node.port, write_slice(), calling="CT1").returncode == 0


def test_without_peers_only_the_loopback_may_send() -> None:
    def let_in(dicom: Dicom, calling: str, address: str) -> bool:
        return Access(dicom).rights(AssociationInfo("1", calling, "PACSAINODE", address)) is not None

    assert [
        let_in(Dicom(), "ANY", a) for a in ("127.0.0.1", "::1", "::ffff:127.0.0.1", "192.0.2.7", "fe80::1%eth0")
    ] == [
        True,
        True,
        True,
        False,
        False,
    ]
    named = Dicom(peer=(Peer("CT1", "localhost"), Peer("CT2", "no-such-host.invalid")))
    callers = (("CT1", "127.0.0.1"), ("CT1", "192.0.2.7"), ("CT2", "127.0.0.1"))
    assert [let_in(named, *caller) for caller in callers] == [True, False, False]


def test_a_stalled_half_message_does_not_keep_others_waiting(
    listen: Callable[..., Any], write_slice: Callable[..., Path]
) -> None:
    node = listen()
    with (
        socket.create_connection(("127.0.0.1", node.port)) as silent,
        socket.create_connection(("127.0.0.1", node.port)) as half,
    ):
        half.sendall(struct.pack(">BBL", 1, 0, 500) + b"\0\1")
        assert silent.fileno() > 0
        assert push(node.port, write_slice()).returncode == 0


def test_a_peer_that_breaks_off_inside_an_object_leaves_nothing(
    listen: Callable[..., Any],
    talk: Callable[..., Any],
    make_slice: Callable[..., Dataset],
    encode: Callable[[Dataset], bytes],
    until: Callable[..., None],
) -> None:
    node = listen()
    with talk(node.port) as peer:
        association = peer.association
        data = encode(make_slice(SOPInstanceUID="2.25.1"))
        assert peer.store(data) == 0x0000
        # the command of a C-STORE request and a first piece of its data set, then nothing
        request = C_STORE()
        request.MessageID, request.Priority = 2, 2
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = CT, "2.25.2"
        request.DataSet = BytesIO(data * 3)
        message = C_STORE_RQ()
        message.primitive_to_message(request)
        pieces = message.encode_msg(association.accepted_contexts[0].context_id, 1000)
        for _ in range(3):
            association.dul.send_pdu(next(pieces))
        (incoming,) = (node.data_dir / "spool" / "incoming").iterdir()
        until(lambda: list(incoming.iterdir()))
        association.abort()
        until(lambda: not list(incoming.iterdir()))
    until(lambda: "association-aborted" in node.kinds)
    assert node.kinds.count("stored") == 1


def test_a_length_that_no_pdu_has_ends_the_connection(listen: Callable[..., Any]) -> None:
    node = listen()
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as peer:
        peer.sendall(struct.pack(">BBL", 1, 0, 0xFFFFFFFF))
        assert peer.recv(100) == bytes((7, 0, 0, 0, 0, 4, 0, 0, 0, 0)), "A-ABORT (PS3.8 AA-1)"
        assert peer.recv(100) == b""


def test_one_association_too_many_is_rejected_and_then_served(
    listen: Callable[..., Any], write_slice: Callable[..., Path], until: Callable[..., None]
) -> None:
    node = listen(max_associations=2)
    held = [
        AE().associate("127.0.0.1", node.port, [build_context("1.2.840.10008.1.1")], ae_title="PACSAINODE")
        for _ in range(2)
    ]
    assert all(association.is_established for association in held)
    source = write_slice()
    assert "Local Limit Exceeded" in push(node.port, source).stderr
    for association in held:
        association.release()
    until(lambda: push(node.port, source).returncode == 0)


def test_queries_are_not_offered(listen: Callable[..., Any]) -> None:
    node = listen()
    find = build_context("1.2.840.10008.5.1.4.1.2.2.1")
    association = AE().associate(
        "127.0.0.1", node.port, [find, build_context("1.2.840.10008.1.1")], ae_title="PACSAINODE"
    )
    assert [str(context.abstract_syntax) for context in association.accepted_contexts] == ["1.2.840.10008.1.1"]
    association.release()


def test_an_association_that_cannot_be_recorded_gets_answers_and_is_recorded_before_anything_of_it(
    listen: Callable[..., Any],
    talk: Callable[..., Any],
    make_slice: Callable[..., Dataset],
    encode: Callable[[Dataset], bytes],
    monkeypatch: pytest.MonkeyPatch,
    until: Callable[..., None],
) -> None:
    node = listen()
    data = encode(make_slice(SOPInstanceUID="2.25.1"))

    def full(*_arguments: Any, **_options: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("node.spool.JournalWriter._open", full)
        with talk(node.port) as lost:
            assert lost.store(data) == 0xA700
        with talk(node.port) as peer:
            assert peer.store(data) == 0xA700
            patch.undo()
            assert peer.store(data) == 0x0000
    until(lambda: node.kinds.count("association-released") == 2)
    assert node.kinds[:3] == ["association-open", "association-released", "association-open"]
    assert node.kinds[3:] == ["stored", "association-released"]


def test_no_log_line_names_a_patient(
    listen: Callable[..., Any],
    talk: Callable[..., Any],
    make_slice: Callable[..., Dataset],
    encode: Callable[[Dataset], bytes],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    until: Callable[..., None],
) -> None:
    node = listen()
    secret = {"PatientName": "Secret^Name", "PatientID": "SECRETID", "AccessionNumber": "SECRETACC"}
    first = make_slice(SOPInstanceUID="2.25.1", **secret)
    with talk(node.port) as peer:
        assert peer.store(encode(first)) == 0x0000
        assert peer.store(encode(make_slice(SOPInstanceUID="2.25.1", **secret, StationName="X"))) == 0x0000
        assert peer.store(encode(make_slice(SOPInstanceUID="2.25.2", **secret))) == 0xA900
        assert peer.store(encode(first)[:-300] + b"\xff" * 200) == 0xC000
    until(lambda: "association-released" in node.kinds)
    out, err = capfd.readouterr()
    assert "receive.refused" in out + err
    assert "secret" not in (out + err + caplog.text).lower()
    journal = "".join(path.read_text(encoding="utf-8") for path in journals(node.data_dir))
    assert "secret" not in journal.lower()


@pytest.mark.data
def test_parallel_senders_in_several_syntaxes(
    listen: Callable[..., Any], real_data: Path, until: Callable[..., None]
) -> None:
    zoo = real_data / "dicom_zoo" / "one_chest_ct_slice_many_syntaxes"
    options = {
        "1.2.840.10008.1.2.1.dcm": "-x=",
        "1.2.840.10008.1.2.1.99.dcm": "-xd",
        "1.2.840.10008.1.2.4.50.dcm": "-xy",
        "1.2.840.10008.1.2.4.70.dcm": "-xs",
        "1.2.840.10008.1.2.4.80.dcm": "-xt",
        "1.2.840.10008.1.2.4.90.dcm": "-xv",
        "1.2.840.10008.1.2.5.dcm": "-xr",
    }
    node = listen()
    chosen = [
        (path, flag) for path in sorted(zoo.iterdir()) for end, flag in options.items() if path.name.endswith("_" + end)
    ]
    assert len(chosen) == len(options)
    results = []
    senders = [
        threading.Thread(target=lambda p=path, f=flag: results.append(push(node.port, p, options=["-R", f])))
        for path, flag in chosen
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert [result.returncode for result in results] == [0] * len(chosen), [result.stderr for result in results]
    until(lambda: node.kinds.count("association-released") == len(chosen))
    assert {record["syntax"] for record in node.instances()} >= {
        "1.2.840.10008.1.2.4.90",
        "1.2.840.10008.1.2.5",
        "1.2.840.10008.1.2.4.80",
    }
    kept = [dcmread(node.data_dir / "spool" / record["entry"]).PixelData for record in node.instances()]
    sent = [dcmread(path).PixelData for path, flag in chosen if flag not in ("-x=", "-xd")]
    assert all(pixels in kept for pixels in sent), "compressed pixels arrive byte for byte"
