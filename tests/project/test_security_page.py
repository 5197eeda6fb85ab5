"""The page about security: its steps work as they stand, its tables say what is so."""

import configparser
import re
import socket
import ssl
import subprocess
import threading
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

from config import load
from config.load import _LARGEST
from config.settings import Dicom, Peer
from dicom_io import guarded, tls
from dicom_io.limits import LIMITS
from dicom_io.rights import RIGHTS
from dicom_io.tls import ClientTls
from dicom_io.tls_check import complaints
from node import refusals
from tests.project.test_architecture import ROOT

pytestmark = pytest.mark.unit

PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def part(title: str) -> str:
    return PAGE.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_every_control_names_a_test_that_there_is() -> None:
    tests = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_[a-z0-9_]+)`", PAGE)
    assert len(named) > 30
    assert [name for name in named if f"def {name}(" not in tests] == []
    for row in re.findall(r"^\| .*", part("Who can do what"), re.MULTILINE)[2:]:
        assert "`test_" in row, row


def test_limits_are_those_of_the_code() -> None:
    told = {place: int(number) for number, place in re.findall(r"\| (\d+)[^|]*\| `([a-z_./]+)` \|", part("Limits"))}
    of_files = {"read": asdict(LIMITS.read), "archive": asdict(LIMITS.archive)}
    for table, limits in of_files.items():
        assert {k: v for k, v in told.items() if k.startswith(f"{table}.")} == {
            f"{table}.{k}": v for k, v in limits.items()
        }
    assert told["dicom.max_associations"] == Dicom().max_associations
    assert told["config/load.py"] == _LARGEST
    assert told["node/refusals.py"] == refusals.ROWS
    assert told["dicom_io/guarded.py"] == guarded.PATIENCE_S


def test_rights_are_those_of_the_code() -> None:
    text = part("Who may come in, and do what")
    assert set(re.findall(r"^\| `([a-z]+)` \|", text, re.MULTILINE)) == RIGHTS
    (default,) = re.findall(r"The default is `(\[.*?\])`", text)
    assert re.findall(r"[a-z]+", default) == list(Peer("A", "h").rights)


def run(block: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def welcome(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> bool:
    """Shake hands over a pair of sockets; say whether the server lets the client in."""
    here, there = socket.socketpair()
    came: list[bool] = []

    def serve() -> None:
        try:
            with server.wrap_socket(there, server_side=True) as secured:
                came.append(secured.recv(1) == b"x")
        except OSError:
            came.append(False)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(here, server_hostname=name) as secured:
            secured.sendall(b"x")
            secured.recv(1)
    except OSError:
        pass
    thread.join(10)
    return came == [True]


def test_the_steps_make_what_they_promise(tmp_path: Path) -> None:
    text = part("TLS step by step")
    make, issue, pin, revoke = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    run(make, tmp_path)
    run(issue, tmp_path)
    (block,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "node.toml").write_text(block.replace("/etc/pacs-ai-node/tls/", f"{tmp_path}/"), encoding="utf-8")
    settings = load(tmp_path / "node.toml", {})
    own, called = settings.dicom.tls, settings.destination[0].tls
    assert own is not None
    assert called is not None
    assert complaints(own, datetime.now(UTC)) == complaints(called, datetime.now(UTC)) == ()
    name = "ai.hospital.example"
    assert welcome(tls.server_context(own), tls.client_context(called), name)
    told = run(pin, tmp_path).strip()
    assert welcome(
        tls.server_context(own), tls.client_context(ClientTls(None, None, own.certificate, own.key, pin=told)), name
    )
    assert load(
        tmp_path / "node.toml", {"PACS_AI_NODE__DICOM__PEER": f'[{{ae_title="A", host="h", certificate="{told}"}}]'}
    )
    run(revoke, tmp_path)
    assert not welcome(
        tls.server_context(own), tls.client_context(ClientTls(own.ca, None, own.certificate, own.key)), name
    )


def test_the_unit_starts_the_node_in_a_sandbox() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(ROOT / "config" / "pacs-ai-node.service")
    service = unit["Service"]
    assert service["ExecStart"].split()[1:] == ["serve", "--config", "/etc/pacs-ai-node/config.toml"]
    wanted = {
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "UMask": "0077",
        "CapabilityBoundingSet": "",
    }
    assert wanted.items() <= dict(service).items()
    assert service["Environment"].endswith(f"/var/lib/{service['StateDirectory']}")
