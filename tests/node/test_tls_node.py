"""Nodes that speak TLS with one another, and alarms about their certificates."""

import contextlib
import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from config.settings import RIS, Destination, Dicom, Node, Settings
from config.settings import Peer as Sender
from dicom_io.contexts import PERFORMED_STEP
from dicom_io.errors import NetworkError
from dicom_io.notices import Reference, encode, part10
from dicom_io.scu import Peer, echo, store
from dicom_io.scu_notices import relay_step, report_commitment
from dicom_io.status import Outcome
from node.certificates import Certificates
from node.commitment import Archive, _address
from node.inquire import Inquirer, ask
from node.receive import Receiver
from node.ris import Relayer
from node.spool import journals, read_journal
from node.store import Database, alarms, open_database
from node.store.commitments import Transaction
from node.transport import Network, peer_of
from tests.net.authority import DAY, Kit, replaced
from tests.node.desk import Desk

pytestmark = [pytest.mark.sockets, pytest.mark.xdist_group("tls node")]


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return Kit(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def other(tmp_path: Path, kit: Kit) -> Iterator[tuple[Receiver, int]]:
    """A second node: it knows the first by its certificate."""
    peer = Sender("PACSAINODE", "127.0.0.1", rights=("store",), certificate=kit.node.pin)
    dicom = Dicom(ae_titles=("SECOND",), port=0, tls=kit.listening(), peer=(peer,))
    receiver = Receiver(Settings(node=Node(data_dir=tmp_path / "second"), dicom=dicom))
    yield receiver, receiver.start().port
    receiver.stop(0.1)


def test_a_study_goes_from_scanner_to_node_to_node_by_tls(
    rig: Any, kit: Kit, other: tuple[Receiver, int], slices: list[Path]
) -> None:
    receiver, port = other
    text = rig.configuration.read_text(encoding="utf-8")
    own = f'certificate = "{kit.node.certificate}"\nkey = "{kit.node.key}"\nca = "{kit.ours.path}"\ncrl = "{kit.crl}"\n'
    text = text.replace("[[dicom.peer]]", f"[dicom.tls]\n{own}[[dicom.peer]]", 1)
    begin, place, rest = text.partition("[[destination]]")
    _, _, rest = rest.partition("[[rule]]")
    there = f'name = "pacs"\nhost = "127.0.0.1"\nport = {port}\nae_title = "SECOND"\ntls = {{ }}\ncheck_study = false\nproof = "none"\n'
    rig.configuration.write_text(f"{begin}{place}\n{there}[[rule]]{rest}", encoding="utf-8")

    checked = run(rig, "check-config")
    assert checked.returncode == 0, checked.stderr
    assert "TLS 1.2 and newer, with certificates on both sides" in checked.stdout
    assert run(rig, "echo", "pacs").returncode == 0
    looked = {c["check"]: c["ok"] for c in json.loads(run(rig, "doctor", "--json").stdout)["checks"]}
    assert looked["dicom.tls"]
    assert looked["tls of pacs"]

    rig.start()
    scanner = Peer("127.0.0.1", rig.port, "PACSAINODE", "SCANNER", kit.client())
    with pytest.raises(NetworkError):
        echo(replace(scanner, tls=None))
    with pytest.raises(NetworkError):
        echo(replace(scanner, tls=kit.client(certificate=kit.revoked.certificate, key=kit.revoked.key)))
    assert {r.outcome for r in store(scanner, slices)} == {Outcome.DELIVERED}
    arrived = Path(receiver.spool.root).parent

    def classes() -> set[str]:
        return {r["sop_class"] for p in journals(arrived) for r in read_journal(p)[0] if "sop_class" in r}

    rig.until(lambda: len(classes()) >= 3, 60.0, "segmentation, report and picture at the second node")
    told = json.loads(run(rig, "status", "--json").stdout)
    assert [(r["code"], r["count"]) for r in told["refused"]] == [("tls-caller-failed", 2)]


def run(rig: Any, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*rig.command(words[0]), *words[1:]]
    return subprocess.run(command, env=rig.environment(), cwd=rig.folder, capture_output=True, text=True, check=False)


def test_a_key_that_everybody_may_read_stops_the_node(rig: Any, kit: Kit) -> None:
    pair = kit.ours.issue("careless")
    pair.key.chmod(0o644)
    own = f'certificate = "{pair.certificate}"\nkey = "{pair.key}"\nca = "{kit.ours.path}"\n'
    text = rig.configuration.read_text(encoding="utf-8")
    rig.configuration.write_text(
        text.replace("[[dicom.peer]]", f"[dicom.tls]\n{own}[[dicom.peer]]", 1), encoding="utf-8"
    )
    for word in ("serve", "check-config"):
        answer = run(rig, word)
        assert answer.returncode == 2
        assert "Everybody on this machine may read the key" in answer.stderr


@pytest.fixture
def db(desk: Desk) -> Iterator[Database]:
    opened = open_database(desk.folder.database)
    yield opened
    opened.close()


def test_certificates_ring_in_time_and_until_they_are_mended(db: Database, kit: Kit) -> None:
    pair = kit.ours.issue("ageing", ends=100 * DAY)
    how = kit.listening(certificate=pair.certificate, key=pair.key)
    watch = Certificates(db, Settings(dicom=Dicom(tls=how)))
    start = pair.certificate.stat().st_mtime

    def rings(after_days: float) -> list[tuple[str, str]]:
        watch.check(start + after_days * 86400)
        return [(a.code, a.subject) for a in alarms.standing(db)]

    assert rings(69) == []
    assert rings(71) == rings(80) == [("certificate-expires", str(pair.certificate))]
    assert rings(101) == [("certificate-expired", str(pair.certificate))]
    good = kit.ours.issue("successor")
    replaced(pair.certificate, good.certificate.read_bytes())
    assert rings(1) == [("tls-key-mismatch", str(pair.certificate))]
    replaced(pair.key, good.key.read_bytes())
    assert rings(1) == []


def test_nodes_of_one_database_do_not_quieten_one_another(db: Database, kit: Kit) -> None:
    def standing() -> list[str]:
        return sorted(a.subject for a in alarms.standing(db))

    settings = Settings(dicom=Dicom(tls=kit.listening(certificate=kit.expired.certificate, key=kit.expired.key)))
    for node in ("here", "there"):
        Certificates(db, settings, node).check()
    assert standing() == [f"{node}: {kit.expired.certificate}" for node in ("here", "there")]
    Certificates(db, Settings(), "here").check()
    assert standing() == [f"there: {kit.expired.certificate}"], "of files that are not named any more nothing rings"


def test_whatever_we_open_to_a_place_with_tls_begins_with_a_handshake(db: Database, kit: Kit, tmp_path: Path) -> None:
    """Results, questions, commitment, its reports, steps and counts: not one byte leaves in plain."""
    first: list[bytes] = []
    some = [Reference("1.2.840.10008.5.1.4.1.1.2", "2.25.1")]
    step = tmp_path / "step.dcm"
    step.write_bytes(part10(PERFORMED_STEP, "2.25.7", "1.2.840.10008.1.2", encode(Dataset(), "1.2.840.10008.1.2")))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        there = {"host": "127.0.0.1", "port": port, "ae_title": "PEER", "tls": kit.client()}
        destination, ris = Destination("pacs", **there), RIS("ris", **there)
        sender = Sender("CT1", "127.0.0.1", query_port=port, commit_port=port, tls=kit.client())
        network = Network(peer_of(destination, "NODE"))
        source = Inquirer(db, Settings(dicom=Dicom(peer=(sender,))), lambda _study: None).sources["CT1"]
        calls: dict[str, Callable[[], Any]] = {
            "store": lambda: list(network.store([step])),
            "query": lambda: network.find_study("2.25.1"),
            "proof": lambda: network.find_instances("2.25.1", "2.25.2", ["2.25.3"]),
            "commitment": lambda: Archive(db, tmp_path, destination, "NODE").request("2.25.9", some),
            "report": lambda: report_commitment(
                _address(sender, Transaction("2.25.9", "pacs", called="NODE")), "2.25.9", some, {}
            ),
            "step": lambda: relay_step(Relayer(db, tmp_path, ris, "NODE")._peer, "mpps-create", "2.25.7", step),
            "count": lambda: ask(source._peer, "2.25.1"),
        }
        for name, call in calls.items():
            answering = threading.Thread(target=hear, args=(server, first))
            answering.start()
            with contextlib.suppress(NetworkError):
                call()
            answering.join(20)
            assert len(first) == 1, name
            assert first.pop() == b"\x16", name


def hear(server: socket.socket, first: list[bytes]) -> None:
    """Accept once, note the first byte and hang up."""
    server.settimeout(15.0)
    connection, _ = server.accept()
    with connection:
        first.append(connection.recv(1))
