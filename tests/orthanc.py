"""Orthanc, as Debian ships it, on loopback: a PACS that other people wrote."""

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pytest

from dicom_io.errors import NetworkError
from dicom_io.scu import Peer, echo


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Orthanc:
    """One server with its files in `folder`; a context manager."""

    def __init__(self, folder: Path, program: str, ae_title: str = "ORTHANC", more: Mapping[str, Any] = {}) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.ae_title = folder, ae_title
        self.dicom, self.http = free_port(), free_port()
        settings = {
            "StorageDirectory": str(folder / "orthanc"), "IndexDirectory": str(folder / "orthanc"),
            "DicomAet": ae_title, "DicomPort": self.dicom, "HttpPort": self.http, "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False, "DicomModalitiesInDatabase": False, "Plugins": [], **more,
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(settings))
        quick = {**os.environ, "TCP_NODELAY": "1"}  # Debian's DCMTK waits 40 ms for every answer otherwise
        with (folder / "orthanc.log").open("ab") as log:
            self._process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log, env=quick)

    def __enter__(self) -> Self:
        deadline = time.monotonic() + 30.0
        while not self.answers():
            if time.monotonic() > deadline:
                pytest.fail(f"Orthanc does not answer: {(self.folder / 'orthanc.log').read_text()[-2000:]}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(15.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def peer(self, calling: str = "SCANNER") -> Peer:
        return Peer("127.0.0.1", self.dicom, self.ae_title, calling)

    def answers(self) -> bool:
        try:
            echo(self.peer())
        except NetworkError:
            return False
        return True

    def rest(self, path: str, body: object = None, method: str | None = None) -> Any:
        data = None if body is None else (body if isinstance(body, str) else json.dumps(body)).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", data, method=method)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            raw: bytes = answer.read()
        return json.loads(raw) if raw[:1] in (b"{", b"[") else raw
