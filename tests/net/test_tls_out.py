"""What we open by TLS: whom we believe, what we show, and files that change."""

import os
import re
import socket
import ssl
import subprocess
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from dicom_io import scu, tls
from dicom_io.errors import NetworkError, TlsError
from dicom_io.reasons import REASONS as TLS_REASONS
from dicom_io.scu import Peer, Timeouts, store
from dicom_io.status import Outcome
from dicom_io.tls import ClientTls, ServerTls
from dicom_io.tls_check import complaints
from tests.net.authority import DAY, Authority, Kit, replaced, together

pytestmark = pytest.mark.sockets

QUICK = Timeouts(connect_s=5.0, associate_s=5.0, answer_s=5.0)
STORESCP = "/usr/bin/storescp"


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return Kit(tmp_path_factory.mktemp("tls"))


@contextmanager
def answering(context: ssl.SSLContext | None) -> Iterator[int]:
    """A peer that takes associations by TLS, and answers verification; yield its port."""
    ae = AE("PEER")
    ae.add_supported_context(Verification)
    server: Any = ae.start_server(("127.0.0.1", 0), block=False, ssl_context=context)
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


def context_of(kit: Kit, name: str, **more: Any) -> ssl.SSLContext:
    pair = getattr(kit, name)
    return tls.server_context(ServerTls(pair.certificate, pair.key, kit.ours.path, **more))


def old(kit: Kit) -> ssl.SSLContext:
    """A server of ten years ago: TLS 1.1 at most."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.load_cert_chain(kit.server.certificate, kit.server.key)
    return context


def verified(port: int, how: ClientTls | None, host: str = "127.0.0.1") -> str:
    """Ask for verification; return what came of it.

    Whatever is wrong with certificates, a person can put it right: nothing that waits for it is given up.
    """
    try:
        scu.echo(Peer(host, port, "PEER", "NODE", how), QUICK)
    except NetworkError as error:
        return f"{error.reason.code}: {error.reason.text['en']}{'' if error.retryable else ' FOR GOOD'}"
    return "answered"


@pytest.mark.parametrize(
    ("server", "mine", "came"),
    [
        ("server", {}, "answered"),
        ("server", {"minimum": "1.3"}, "answered"),
        ("server", {"crl": "crl"}, "answered"),
        ("expired", {}, "tls-peer-not-trusted.*certificate has expired"),
        ("early", {}, "tls-peer-not-trusted.*not yet valid"),
        ("stranger", {}, "tls-peer-not-trusted.*unable to get local issuer"),
        ("elsewhere", {}, "tls-peer-not-trusted.*IP address mismatch"),
        ("elsewhere", {"server_name": "pacs.hospital.example"}, "answered"),
        ("server", {"server_name": "pacs.hospital.example"}, "tls-peer-not-trusted.*[Hh]ostname mismatch"),
        ("revoked", {"crl": "crl"}, "tls-peer-not-trusted.*revoked"),
        ("stranger", {"ca": None, "pin": "stranger"}, "answered"),
        ("elsewhere", {"pin": "elsewhere"}, "answered"),
        ("stranger", {"pin": "stranger"}, "tls-peer-not-trusted.*unable to get local issuer"),
        ("server", {"ca": None, "pin": "stranger"}, "tls-peer-not-trusted.*not the pinned one"),
        ("server", {"certificate": None, "key": None}, "tls-failed.*certificate required"),
        ("server", {"certificate": "stranger"}, "tls-failed.*unknown ca"),
        ("server", {"certificate": "expired"}, "tls-failed.*expired"),
    ],
)  # fmt: skip
def test_whom_we_believe_and_who_believes_us(kit: Kit, server: str, mine: dict[str, Any], came: str) -> None:
    more: dict[str, Any] = dict(mine)
    if isinstance(pair := more.get("certificate"), str):
        more |= {"certificate": getattr(kit, pair).certificate, "key": getattr(kit, pair).key}
    if "pin" in more:
        more["pin"] = getattr(kit, more["pin"]).pin
    if "crl" in more:
        more["crl"] = kit.crl
    with answering(context_of(kit, server)) as port:
        said = verified(port, kit.client(**more))
    assert_matches(came, said)


def assert_matches(pattern: str, said: str) -> None:
    assert re.match(pattern, said, re.IGNORECASE), said
    assert "FOR GOOD" not in said


def test_an_old_protocol_is_not_spoken(kit: Kit) -> None:
    with answering(old(kit)) as port:
        assert_matches("tls-failed.*(protocol|closed)", verified(port, kit.client()))
    newest = context_of(kit, "server")
    newest.maximum_version = ssl.TLSVersion.TLSv1_2
    with answering(newest) as port:
        assert_matches("tls-failed", verified(port, kit.client(minimum="1.3")))
        assert verified(port, kit.client()) == "answered"


def test_who_speaks_no_tls_gets_nothing(kit: Kit) -> None:
    with answering(None) as port:
        assert_matches("tls-failed", verified(port, kit.client()))


def test_who_says_nothing_at_all_is_not_waited_for(kit: Kit) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(NetworkError) as error:
            scu.echo(Peer("127.0.0.1", port, "PEER", "NODE", kit.client()), Timeouts(0.3, 0.3, 0.3))
    assert error.value.reason.code == "peer-timeout"


def test_a_chain_needs_its_middle(kit: Kit) -> None:
    leaf = kit.middle.issue("leaf")
    both = together(kit.folder / "both.crt", [leaf.certificate, kit.middle.path])
    for certificate, came in ((leaf.certificate, "tls-peer-not-trusted"), (both, "answered")):
        context = tls.server_context(ServerTls(certificate, leaf.key, kit.ours.path))
        with answering(context) as port:
            assert_matches(came, verified(port, kit.client()))
    lists = together(kit.folder / "lists.crl", [kit.crl, kit.middle.revoke("department")])
    with answering(tls.server_context(ServerTls(both, leaf.key, kit.ours.path))) as port:
        assert verified(port, kit.client(crl=lists)) == "answered"
        assert_matches(".*unable to get certificate CRL", verified(port, kit.client(crl=kit.crl)))


def test_objects_go_to_dcmtk_by_tls(kit: Kit, tmp_path: Path, write_slice: Callable[..., Path]) -> None:
    """Both sides show certificates; storescp refuses who has none."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        STORESCP, "+tls", str(kit.server.key), str(kit.server.certificate), "+cf", str(kit.ours.path), "-rc",
        "-od", str(tmp_path), str(port),
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            peer = Peer("127.0.0.1", port, "STORESCP", "NODE", kit.client())
            while not _listens(port):
                assert process.poll() is None
            reports = list(store(peer, [write_slice(), write_slice()], QUICK))
            assert [r.outcome for r in reports] == [Outcome.DELIVERED] * 2, reports
            bare = replace(peer, tls=kit.client(certificate=None, key=None))
            (refused,) = store(bare, [write_slice()], QUICK)
            assert (refused.outcome, refused.reason and refused.reason.code) == (Outcome.RETRY, "tls-failed")
        finally:
            process.terminate()
    assert len(list(tmp_path.glob("CT*"))) == 2


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_new_files_are_used_at_once_and_broken_ones_never(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "Own")
    current, following = authority.issue("current"), authority.issue("following")
    told: list[str] = []
    how = ServerTls(current.certificate, current.key, authority.path)
    contexts = tls.server(how, lambda error: told.append(error.reason.code if error else "usable"))
    old_key = current.key.read_bytes()

    def shown() -> str:
        with answering(contexts()) as port:
            plain = socket.create_connection(("127.0.0.1", port))
            mine = tls.client_context(ClientTls(authority.path, None, following.certificate, following.key))
            with mine.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
                return "sha256:" + tls.fingerprint(secured.getpeercert(binary_form=True))

    assert shown() == current.pin
    replaced(current.certificate, following.certificate.read_bytes())
    assert shown() == current.pin, "without its key the new one cannot be used"
    assert told[-1] == "tls-key-mismatch"
    replaced(current.key, following.key.read_bytes())
    assert shown() == following.pin
    assert told[-1] == "usable"
    for broken in (b"", b"not a key"):
        replaced(current.key, broken)
        assert shown() == following.pin
    assert told[-1] == "tls-file-broken"
    current.key.unlink()
    assert shown() == following.pin
    assert told[-1] == "tls-file-unreadable"
    replaced(current.key, old_key)
    assert shown() == following.pin
    assert told[-1] == "tls-key-mismatch"


def test_a_file_is_read_again_only_when_it_has_changed(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(tls, "_SETTLED_NS", 0)
    contexts = tls.Contexts(lambda: made.append(1) or ssl.create_default_context(), (kit.server.key,))  # type: ignore[func-returns-value]
    threads = [threading.Thread(target=contexts) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    os.utime(kit.server.key)
    contexts()
    contexts()
    assert len(made) == 2


def test_what_could_not_be_read_once_is_tried_again_though_no_file_changes(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A revocation list that came while no descriptor was free must count all the same."""
    monkeypatch.setattr(tls, "_SETTLED_NS", 0)
    monkeypatch.setattr(tls, "_AGAIN_S", 0.0)
    made = [ssl.create_default_context() for _ in range(2)]
    results: list[Any] = [
        made[0],
        TlsError(TLS_REASONS("tls-file-unreadable", file="crl", why="too many files")),
        made[1],
    ]
    told: list[object] = []

    def make() -> ssl.SSLContext:
        result = results.pop(0)
        if isinstance(result, TlsError):
            raise result
        return cast("ssl.SSLContext", result)

    contexts = tls.Contexts(make, (kit.server.key,), told.append)
    os.utime(kit.server.key)
    assert contexts() is made[0]
    assert contexts() is made[1]
    assert contexts() is made[1]
    assert [type(t) for t in told] == [TlsError, type(None)]


def test_two_changes_under_one_stamp_are_both_seen(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system stamps changes in steps; what has just changed may change again within the same one."""
    made: list[int] = []
    clock = [1_000_050_000_000]
    monkeypatch.setattr(
        tls, "_stamped", lambda files: iter([(1_000_000_000_000, 1_000_000_000_000, 1, 1)] * len(files))
    )
    monkeypatch.setattr(tls.time, "time_ns", lambda: clock[0])
    contexts = tls.Contexts(lambda: made.append(1) or ssl.create_default_context(), (kit.server.key,))  # type: ignore[func-returns-value]
    contexts()
    contexts()
    assert len(made) == 3, "as long as it is new"
    clock[0] += 200_000_000
    for _ in range(3):
        contexts()
    assert len(made) == 4, "once more when it is settled, and then no more"


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda p: p.key.chmod(0o644), "tls-key-exposed"),
        (lambda p: p.key.unlink(), "tls-file-unreadable"),
        (lambda p: p.certificate.write_text("no certificate"), "tls-file-broken"),
        (lambda p: p.key.write_bytes(_locked(p.key)), "tls-key-encrypted"),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path: Path, spoil: Callable[[Any], None], code: str) -> None:
    authority = Authority(tmp_path, "Own")
    pair = authority.issue("pair")
    spoil(pair)
    with pytest.raises(TlsError) as error:
        tls.server_context(ServerTls(pair.certificate, pair.key, authority.path))
    assert error.value.reason.code == code
    assert str(tmp_path) in error.value.reason.text["en"]
    said = verified(9, ClientTls(authority.path, None, pair.certificate, pair.key))
    assert_matches(code, said)


def _locked(path: Path) -> bytes:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(path.read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"secret")
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)


def test_a_weak_key_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "Own")
    weak = authority.issue("weak", bits=1024)
    with pytest.raises(TlsError, match="tls-file-broken"):
        tls.server_context(ServerTls(weak.certificate, weak.key, authority.path))


def test_an_operator_hears_of_it_in_time(kit: Kit, tmp_path: Path) -> None:
    def said(tls_of: ServerTls) -> list[str]:
        return [reason.code for _, reason in complaints(tls_of, datetime.now(UTC))]

    ours = kit.ours.path

    def of(pair: Any, **more: Any) -> ServerTls:
        return ServerTls(pair.certificate, pair.key, ours, **more)

    assert said(of(kit.server)) == said(of(kit.server, crl=kit.crl)) == []
    assert said(of(kit.expired)) == ["certificate-expired"]
    assert said(of(kit.early)) == ["certificate-not-yet-valid"]
    assert said(of(kit.ours.issue("soon", ends=29 * DAY))) == ["certificate-expires"]
    assert said(of(kit.server, crl=kit.ours.revoke("stale", ends=-DAY))) == ["crl-expired"]
    assert said(of(kit.server, crl=kit.ours.revoke("short", ends=2 * DAY))) == ["crl-expires"]
    assert said(of(kit.server, crl=kit.theirs.revoke("foreign"))) == ["crl-missing"]
    odd = together(tmp_path / "odd.crt", [kit.server.certificate, kit.theirs.path])
    assert said(ServerTls(odd, kit.server.key, ours)) == ["certificate-chain-broken"]
    assert said(replace(of(kit.server), key=kit.node.key)) == ["tls-key-mismatch"]
