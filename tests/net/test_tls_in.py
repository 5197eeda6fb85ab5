"""The listener by TLS: who comes in, who does not, and certificates that change while images arrive."""

import socket
import ssl
import subprocess
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.settings import Peer
from dicom_io import scu, tls
from dicom_io.errors import NetworkError
from dicom_io.scu import Timeouts, store
from dicom_io.status import Outcome
from dicom_io.tls import ClientTls
from node.refusals import refusals
from tests.net.authority import DAY, Authority, Kit, Pair, replaced

pytestmark = pytest.mark.sockets

QUICK = Timeouts(connect_s=10.0, associate_s=10.0, answer_s=10.0)


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return Kit(tmp_path_factory.mktemp("tls"))


def calling(port: int, how: ClientTls | None, title: str = "CT1") -> scu.Peer:
    return scu.Peer("127.0.0.1", port, "PACSAINODE", title, how)


def came_in(port: int, how: ClientTls | None, title: str = "CT1") -> str:
    """Ask for verification; return what came of it."""
    try:
        scu.echo(calling(port, how, title), QUICK)
    except NetworkError as error:
        return error.reason.code
    return "answered"


def refused(node: Any) -> dict[str, int]:
    """Stop a receiver; return the codes of what it refused, and how often."""
    node.receiver.stop(0.1)
    return {r.code: r.count for r in refusals(node.data_dir / "spool")}


@pytest.mark.parametrize(
    ("shows", "more", "came"),
    [
        ("node", {}, "answered"),
        ("node", {"crl": "crl"}, "answered"),
        ("revoked", {}, "answered"),
        ("revoked", {"crl": "crl"}, "tls-failed"),
        ("expired", {}, "tls-failed"),
        ("early", {}, "tls-failed"),
        ("stranger", {}, "tls-failed"),
        ("", {}, "tls-failed"),
        ("", {"verify": "none"}, "answered"),
        ("node", {"minimum": "1.3"}, "answered"),
    ],
)
def test_who_comes_in(kit: Kit, listen: Callable[..., Any], shows: str, more: dict[str, Any], came: str) -> None:
    given = {key: kit.crl if key == "crl" else value for key, value in more.items()}
    node = listen(tls=kit.listening(**given))
    pair: Pair | None = getattr(kit, shows) if shows else None
    how = kit.client(certificate=pair and pair.certificate, key=pair and pair.key)
    assert came_in(node.port, how) == came
    assert came_in(node.port, kit.client()) == "answered", "the next one is served as ever"
    assert refused(node) == ({} if came == "answered" else {"tls-caller-failed": 1})


def test_who_speaks_no_tls_or_an_old_one_does_not_come_in(kit: Kit, listen: Callable[..., Any]) -> None:
    node = listen(tls=kit.listening())
    assert came_in(node.port, None) == "association-aborted"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(kit.ours.path)
    context.load_cert_chain(kit.node.certificate, kit.node.key)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", node.port)) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")
    assert refused(node) == {"tls-caller-failed": 2}


def test_suites_without_forward_secrecy_are_not_spoken(kit: Kit, listen: Callable[..., Any]) -> None:
    node = listen(tls=kit.listening())
    for suites, works in (("ECDHE+AESGCM", True), ("ECDHE+AES:!AESGCM", False), ("DHE", False), ("RSA", False)):
        context = tls.client_context(kit.client())
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(suites)
        with socket.create_connection(("127.0.0.1", node.port)) as plain:
            try:
                secured = context.wrap_socket(plain, server_hostname="127.0.0.1")
            except (ssl.SSLError, ConnectionError):
                assert not works, suites
                continue
            with secured:
                assert works, suites
                assert secured.compression() is None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_who_was_here_before_is_looked_up_again(
    tmp_path: Path, listen: Callable[..., Any], version: ssl.TLSVersion
) -> None:
    """A session that could be resumed would outlive the revocation of its certificate."""
    authority = Authority(tmp_path / "pki", "Own")
    server, leaving = authority.issue("server"), authority.issue("leaving")
    crl = authority.revoke("own")
    node = listen(tls=tls.ServerTls(server.certificate, server.key, authority.path, crl))
    context = tls.client_context(ClientTls(authority.path, None, leaving.certificate, leaving.key))
    context.minimum_version = context.maximum_version = version

    def visit(session: ssl.SSLSession | None) -> ssl.SSLSession | None:
        plain = socket.create_connection(("127.0.0.1", node.port))
        with context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as secured:
            secured.sendall(bytes(20))  # no request: it is answered by an abort
            assert secured.recv(100)
            return secured.session

    session = visit(None)
    assert session is None or not session.has_ticket
    visit(session)
    replaced(crl, authority.revoke("own-2", leaving).read_bytes())
    with pytest.raises((ssl.SSLError, ConnectionError)):
        visit(session)


def test_a_peer_must_show_its_own_certificate(kit: Kit, listen: Callable[..., Any]) -> None:
    """One of the right authority is not enough where a pin is named."""
    node = listen(tls=kit.listening(), peer=(Peer("CT1", "127.0.0.1", certificate=kit.node.pin),))
    other = kit.client(certificate=kit.elsewhere.certificate, key=kit.elsewhere.key)
    assert came_in(node.port, kit.client()) == "answered"
    assert came_in(node.port, other) == "association-rejected"
    assert refused(node) == {"peer-not-allowed": 1}


def test_a_peer_must_show_a_certificate_for_its_name(kit: Kit, listen: Callable[..., Any]) -> None:
    node = listen(tls=kit.listening(), peer=(Peer("CT1", "127.0.0.1", certificate="name:pacs.hospital.example"),))
    other = kit.client(certificate=kit.elsewhere.certificate, key=kit.elsewhere.key)
    assert came_in(node.port, other) == "answered"
    assert came_in(node.port, kit.client()) == "association-rejected"


def storescu(node: Any, *options: str, path: Path) -> int:
    command = [
        "/usr/bin/storescu",
        *options,
        "-aet",
        "CT1",
        "-aec",
        "PACSAINODE",
        "127.0.0.1",
        str(node.port),
        str(path),
    ]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode


def test_images_of_dcmtk_come_in_by_tls(kit: Kit, listen: Callable[..., Any], write_slice: Callable[..., Path]) -> None:
    node = listen(tls=kit.listening(crl=kit.crl))
    good = ("+tls", str(kit.node.key), str(kit.node.certificate), "+cf", str(kit.ours.path))
    gone = ("+tls", str(kit.revoked.key), str(kit.revoked.certificate), "+cf", str(kit.ours.path))
    assert storescu(node, *good, path=write_slice()) == 0
    assert storescu(node, *gone, path=write_slice()) != 0
    assert storescu(node, "+tla", "+cf", str(kit.ours.path), path=write_slice()) != 0, "no certificate"
    assert storescu(node, path=write_slice()) != 0, "no TLS"
    assert len(node.instances()) == 1
    assert refused(node)["tls-caller-failed"] == 3


def test_a_handshake_that_stops_keeps_nobody_waiting(kit: Kit, listen: Callable[..., Any]) -> None:
    node = listen(tls=kit.listening())
    silent = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(20)]
    for connection in silent[:10]:
        connection.sendall(bytes.fromhex("16030100"))  # the beginning of a client's first record
    try:
        assert came_in(node.port, kit.client()) == "answered"
    finally:
        for connection in silent:
            connection.close()


def test_certificates_change_while_images_arrive(
    tmp_path: Path, listen: Callable[..., Any], write_slice: Callable[..., Path], until: Callable[..., None]
) -> None:
    """A new certificate and a new revocation list hold from the next association on, and cost no image."""
    authority = Authority(tmp_path / "pki", "Own")
    current, following = authority.issue("current"), authority.issue("following")
    scanner, leaving = authority.issue("scanner"), authority.issue("leaving")
    crl = authority.revoke("own")
    node = listen(tls=tls.ServerTls(current.certificate, current.key, authority.path, crl))
    how = ClientTls(authority.path, None, scanner.certificate, scanner.key)
    revoked = replace(how, certificate=leaving.certificate, key=leaving.key)
    over, reports, files = threading.Event(), [], [write_slice() for _ in range(3)]

    def send() -> None:
        while not over.is_set():
            reports.extend(store(calling(node.port, how), files, QUICK))

    def shown() -> str:
        with (
            socket.create_connection(("127.0.0.1", node.port)) as plain,
            tls.client_context(how).wrap_socket(plain, server_hostname="127.0.0.1") as secured,
        ):
            return "sha256:" + tls.fingerprint(secured.getpeercert(binary_form=True))

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(reports) >= 6)
        assert shown() == current.pin
        assert came_in(node.port, revoked) == "answered"
        replaced(current.key, following.key.read_bytes())  # between the two files nothing fits
        assert shown() == current.pin
        replaced(current.certificate, following.certificate.read_bytes())
        assert shown() == following.pin
        replaced(crl, authority.revoke("own-2", leaving).read_bytes())
        assert came_in(node.port, revoked) == "tls-failed"
        replaced(crl, authority.revoke("own-3", ends=-DAY).read_bytes())
        assert came_in(node.port, how) == "tls-failed", "a list that has ended lets nobody in"
        replaced(crl, authority.revoke("own-4", leaving).read_bytes())
        assert came_in(node.port, how) == "answered"
        sent = len(reports)
        until(lambda: len(reports) >= sent + 6)
    finally:
        over.set()
        for thread in threads:
            thread.join(20)
    failed = [r for r in reports if r.outcome is not Outcome.DELIVERED]
    assert {r.reason.code for r in failed if r.reason} <= {"tls-failed"}, "only while the list had ended"
    assert refused(node)["tls-caller-failed"] >= 2
