"""DICOMweb over TLS, both ways: certificates and tokens decide who gets in, and whom we send to."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from config.settings import Node, Settings, Storage, Web, WebClient
from dicom_io import dicomweb
from dicom_io.http_client import Service
from dicom_io.scu import StoreReport, Timeouts
from dicom_io.status import Outcome
from dicom_io.tls import ClientTls, ServerTls
from node.intake import Intake
from node.refusals import refusals
from node.web import app, door
from node.web.auth import Clients
from tests.net.authority import Authority, Pair

pytestmark = pytest.mark.sockets

TOKEN = "a-token-that-is-long-enough"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca", "hospital")


@contextmanager
def serving(folder: Path, **values: Any) -> Iterator[str]:
    settings = Settings(node=Node(data_dir=folder), web=Web(**values), storage=Storage(min_free_mb=0))
    intake = Intake(settings)
    server = app.server_of(settings, intake, Clients(settings.web, {"TOKEN": TOKEN}))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"https://localhost:{listening.getsockname()[1]}/dicom-web"
        finally:
            server.should_exit = True
            thread.join()
            intake.close()


def send(url: str, path: Path, tls: ClientTls | None, **more: Any) -> tuple[Outcome, str | None]:
    timeouts = Timeouts(connect_s=5, associate_s=5, answer_s=5)
    report: StoreReport
    (report,) = dicomweb.store(Service(url, tls=tls, **more), [path], timeouts)
    return report.outcome, report.reason and report.reason.code


def test_a_certificate_of_a_client_opens_the_door_and_no_other_does(
    authority: Authority, tmp_path: Path, write_slice: Callable[..., Path]
) -> None:
    ours, known, other = (authority.issue(name) for name in ("node", "known", "other"))
    stranger = Authority(tmp_path / "elsewhere", "elsewhere").issue("stranger")
    path = write_slice()
    own = ServerTls(ours.certificate, ours.key, authority.path)
    client = WebClient("KNOWN", certificate=known.pin)

    def by(pair: Pair | None, **more: Any) -> ClientTls:
        shown = {} if pair is None else {"certificate": pair.certificate, "key": pair.key}
        return ClientTls(**{"ca": authority.path, **shown, **more})

    with serving(tmp_path / "data", tls=own, client=(client,)) as url:
        assert send(url, path, by(known)) == (Outcome.DELIVERED, None)
        assert send(url, path, by(known, ca=None, pin=ours.pin)) == (Outcome.DELIVERED, None)
        assert send(url, path, by(other)) == (Outcome.RETRY, "http-not-authorised")
        for refused in (
            by(stranger),
            by(None),
        ):  # TLS 1.3 refuses after our handshake, and a reset may overtake its alert
            outcome, code = send(url, path, refused)
            assert (outcome, code in ("tls-failed", "http-unanswered")) == (Outcome.RETRY, True)
        assert send(url, path, by(known, pin=other.pin)) == (Outcome.RETRY, "tls-peer-not-trusted")
        assert send(url, path, None) == (Outcome.RETRY, "tls-peer-not-trusted"), (
            "no authority of this machine signed it"
        )
        assert send(url, path, by(known, server_name="elsewhere")) == (Outcome.RETRY, "tls-peer-not-trusted")
        assert send(url.replace("https", "http"), path, None) == (Outcome.RETRY, "http-unanswered")


def test_a_token_over_tls_needs_no_certificate(
    authority: Authority, tmp_path: Path, write_slice: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = authority.issue("node")
    own = ServerTls(ours.certificate, ours.key, verify="none")
    monkeypatch.setenv("SHOWN", TOKEN)
    with serving(tmp_path / "data", tls=own, client=(WebClient("A", token_env="TOKEN"),)) as url:
        tls = ClientTls(authority.path)
        assert send(url, write_slice(), tls, token_env="SHOWN") == (Outcome.DELIVERED, None)
        monkeypatch.setenv("SHOWN", TOKEN + "x")
        assert send(url, write_slice(), tls, token_env="SHOWN") == (Outcome.RETRY, "http-not-authorised")


def test_new_files_are_used_from_the_next_connection_on_and_broken_ones_are_not(
    authority: Authority, tmp_path: Path, write_slice: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = authority.issue("node"), authority.issue("renewed")
    own = ServerTls(first.certificate, first.key, verify="none")
    monkeypatch.setenv("SHOWN", TOKEN)
    good = (Outcome.DELIVERED, None)
    with serving(tmp_path / "data", tls=own, client=(WebClient("A", token_env="TOKEN"),)) as url:
        assert send(url, write_slice(), ClientTls(pin=first.pin), token_env="SHOWN") == good
        assert send(url, write_slice(), ClientTls(pin=second.pin), token_env="SHOWN")[1] == "tls-peer-not-trusted"
        for old, new in ((first.certificate, second.certificate), (first.key, second.key)):
            old.write_bytes(new.read_bytes())
        assert send(url, write_slice(), ClientTls(pin=second.pin), token_env="SHOWN") == good
        first.certificate.write_text("half a file")
        assert send(url, write_slice(), ClientTls(pin=second.pin), token_env="SHOWN") == good


def test_connections_that_say_nothing_keep_no_sender_out(
    authority: Authority, tmp_path: Path, write_slice: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With half of them before and half of them after their handshake; all are shown out in time."""
    monkeypatch.setattr(door, "HEADER_S", 3.0)
    ours = authority.issue("node")
    own = ServerTls(ours.certificate, ours.key, verify="none")
    monkeypatch.setenv("SHOWN", TOKEN)
    idle: list[socket.socket] = []
    trusting = ssl._create_unverified_context()  # noqa: S323 - whoever is there
    with serving(tmp_path / "data", tls=own, client=(WebClient("A", token_env="TOKEN"),)) as url:
        place = ("127.0.0.1", int(url.split(":")[2].split("/")[0]))
        for number in range(200):
            made = socket.create_connection(place, timeout=10)
            idle.append(trusting.wrap_socket(made) if number % 2 else made)
        begun = time.monotonic()
        assert send(url, write_slice(), ClientTls(authority.path), token_env="SHOWN") == (Outcome.DELIVERED, None)
        assert time.monotonic() - begun < 2.0
        for one in idle:
            one.settimeout(max(0.1, begun + 6.0 - time.monotonic()))
            with contextlib.suppress(ConnectionResetError, ssl.SSLError):
                assert one.recv(1) == b""
            one.close()
    assert {r.code for r in refusals(tmp_path / "data" / "spool")} == {"web-crowded"}
