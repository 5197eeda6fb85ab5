"""Storage commitment with other people's software: Orthanc, as Debian ships it, asks for it and grants it."""

import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

import phantom
from config.settings import Commitment, Destination, Dicom, Node, Peer, Settings
from dicom_io import scu
from dicom_io.errors import NetworkError
from dicom_io.notices import CommitmentResult, Reference
from dicom_io.scu_notices import request_commitment
from node.commitment import Messenger
from node.store import commitments
from tests.node.notice_peers import Bench, Listener, Scanner
from tests.orthanc import free_port

pytestmark = pytest.mark.conformance


class Hospital(Bench):
    """An Orthanc that is the archive of a node and also a sender to it; and a scanner."""

    def __init__(self, folder: Path, program: str) -> None:
        self.dicom, self.http, self.scanner = free_port(), free_port(), Listener()
        destination = Destination("pacs", "127.0.0.1", self.dicom, "ORTHANC", proof="commitment")
        peers = (
            Peer("ORTHANC", "127.0.0.1", commit_port=self.dicom), Peer("CT1", "127.0.0.1", commit_port=self.scanner.port),
        )  # fmt: skip
        super().__init__(
            Settings(
                node=Node(data_dir=folder / "data"), dicom=Dicom(port=0, peer=peers), destination=(destination,),
                commitment=Commitment("pacs"),
            )
        )  # fmt: skip
        self.peer = scu.Peer("127.0.0.1", self.dicom, "ORTHANC", "PACSAINODE")
        self.messenger = Messenger(self.db, self.spool, self.settings, destination)
        settings = {
            "StorageDirectory": str(folder / "orthanc"), "IndexDirectory": str(folder / "orthanc"),
            "DicomAet": "ORTHANC", "DicomPort": self.dicom, "HttpPort": self.http, "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False, "Plugins": [],
            "DicomModalities": {"node": {"AET": "PACSAINODE", "Host": "127.0.0.1", "Port": self.port}},
        }  # fmt: skip
        file = folder / "orthanc.json"
        file.write_text(json.dumps(settings))
        with (folder / "orthanc.log").open("ab") as log:
            self.process = subprocess.Popen(
                [program, "--verbose", str(file)], stdout=log, stderr=log, env={**os.environ}
            )

    def rest(self, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", data)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return json.loads(answer.read())

    def answers(self) -> bool:
        try:
            scu.echo(self.peer)
        except NetworkError:
            return False
        return True

    def go(self, until: Callable[[], Any]) -> None:
        """Do the node's work until something has come true."""
        deadline = time.monotonic() + 30.0
        while not until():
            assert time.monotonic() < deadline, commitments.counts(self.db)
            self.index()
            if not (self.messenger.ask() or self.messenger.tell()):
                time.sleep(0.05)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory, orthanc_program: str) -> Iterator[Hospital]:
    made = Hospital(tmp_path_factory.mktemp("hospital"), orthanc_program)
    try:
        deadline = time.monotonic() + 30.0
        while not made.answers():
            assert time.monotonic() < deadline, "Orthanc does not answer"
            time.sleep(0.05)
        yield made
    finally:
        made.process.terminate()
        made.process.wait(15.0)
        made.scanner.stop()
        made.stop()


@pytest.fixture(scope="module")
def held(hospital: Hospital, ct: list[Path]) -> list[Reference]:
    """Two images that the archive holds."""
    assert [r.status for r in scu.store(hospital.peer, ct[:2])] == [0, 0]
    return [reference(path) for path in ct[:2]]


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of a small chest CT."""
    folder = tmp_path_factory.mktemp("phantom")
    phantom.write(phantom.build(7, matrix=64, slices=8), folder)
    return sorted((folder / "dicom").glob("*.dcm"))


def reference(path: Path) -> Reference:
    ds = dcmread(path, specific_tags=["SOPClassUID", "SOPInstanceUID"])
    return Reference(str(ds.SOPClassUID), str(ds.SOPInstanceUID))


def test_orthanc_reports_to_us_on_an_association_of_its_own(
    hospital: Hospital, held: list[Reference], ct: list[Path]
) -> None:
    lost = reference(ct[2])
    assert request_commitment(hospital.peer, "2.25.600", [*held, lost]) is None
    query = "SELECT entry FROM notice WHERE uid = '2.25.600'"

    def entries() -> list[str]:
        with hospital.db.read() as c:
            return list(c.exec_driver_sql(query).scalars())

    hospital.go(entries)
    (entry,) = entries()
    result = hospital.messenger._archive.read(entry)
    assert result is not None
    assert result.missing([*held, lost]) == {lost.sop_instance_uid: 0x0112}


def test_a_scanner_is_told_what_orthanc_has_committed(
    hospital: Hospital, held: list[Reference], ct: list[Path]
) -> None:
    lost = reference(ct[2])
    with Scanner(hospital.port) as scanner:
        assert scanner.ask("2.25.601", *held, lost) == 0
    hospital.go(lambda: hospital.scanner.told)
    assert hospital.scanner.told == [CommitmentResult("2.25.601", tuple(held), {lost.sop_instance_uid: 0x0112})]


@pytest.mark.parametrize("whole", [True, False])
def test_orthanc_as_a_sender_takes_our_report(
    hospital: Hospital, held: list[Reference], ct: list[Path], whole: bool
) -> None:
    asked = held if whole else [*held, reference(ct[2])]
    body = {"DicomInstances": [[r.sop_class_uid, r.sop_instance_uid] for r in asked]}
    transaction = hospital.rest("/modalities/node/storage-commitment", body)["ID"]
    hospital.go(lambda: hospital.rest(f"/storage-commitment/{transaction}")["Status"] != "Pending")
    report = hospital.rest(f"/storage-commitment/{transaction}")
    assert report["Status"] == ("Success" if whole else "Failure")
    assert {s["SOPInstanceUID"] for s in report["Success"]} == {r.sop_instance_uid for r in held}
    assert [f["SOPInstanceUID"] for f in report["Failures"]] == [r.sop_instance_uid for r in asked[2:]]
    hospital.go(lambda: commitments.counts(hospital.db)["to_tell"] == 0)
