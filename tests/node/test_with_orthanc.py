"""The node beside other people's PACS: Orthanc as Debian ships it forwards everything, results included."""

import json
import socket
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from dicom_io.errors import NetworkError
from dicom_io.scu import Peer, echo, store
from node.store import open_database

pytestmark = pytest.mark.conformance


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def ask(http: int, path: str, body: str | None = None) -> Any:
    request = urllib.request.Request(f"http://127.0.0.1:{http}{path}", None if body is None else body.encode())
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - as above
        return json.loads(answer.read())


def test_results_come_back_and_forwarding_them_changes_nothing(
    make_rig: Callable[..., Any], ct: list[Path], tmp_path: Path, orthanc_program: str
) -> None:
    dicom, http = free_port(), free_port()
    rig = make_rig(elsewhere=("ORTHANC", dicom), check_study=True)
    rig.start()
    configuration = {
        "StorageDirectory": str(tmp_path / "orthanc"),
        "IndexDirectory": str(tmp_path / "orthanc"),
        "DicomPort": dicom,
        "DicomAet": "ORTHANC",
        "HttpPort": http,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [],
        "DicomModalities": {
            "node": ["PACSAINODE", "127.0.0.1", rig.port],
            "again": ["SECOND", "127.0.0.1", rig.port],
        },
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(configuration))
    command = [orthanc_program, str(tmp_path / "orthanc.json")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            peer = Peer("127.0.0.1", dicom, "ORTHANC", "SCANNER")
            rig.until(lambda: answers(peer), 30.0, "Orthanc")
            assert all(r.status == 0 for r in store(peer, ct))
            (study,) = ask(http, "/studies")
            ask(http, "/modalities/node/store", study)
            rig.idle()
            uid = str(dcmread(ct[0]).StudyInstanceUID)
            rig.until(lambda: rig.show(uid)["deliveries"][0]["state"] == "confirmed", 20.0, "the proof")
            shown = rig.show(uid)
            artifacts = {a["sop_instance_uid"] for a in shown["jobs"][0]["artifacts"]}
            assert [(d["proof"], d["identity"]) for d in shown["deliveries"]] == [("find", "checked")], rig.words()
            assert instances(http, study) == len(ct) + len(artifacts)

            ask(http, "/modalities/again/store", study)
            rig.idle()
            db = open_database(rig.data.database)
            with db.read() as c:
                mine = {row[0] for row in c.exec_driver_sql("SELECT sop_uid FROM instance WHERE role = 'authored'")}
            db.close()
            assert mine == artifacts, "the results came in"
            after = rig.show(uid)
            assert (len(after["jobs"]), len(after["deliveries"]), after["revision"]) == (1, 1, 1)
            assert instances(http, study) == len(ct) + len(artifacts)
        finally:
            process.terminate()


def answers(peer: Peer) -> bool:
    try:
        echo(peer)
    except NetworkError:
        return False
    return True


def instances(http: int, study: str) -> int:
    return len(ask(http, f"/studies/{study}/instances"))
