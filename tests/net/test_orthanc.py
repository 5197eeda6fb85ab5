"""The sender against other people's PACS: Orthanc as Debian ships it."""

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicom_io.errors import NetworkError
from dicom_io.scu import Peer, echo, store
from dicom_io.scu_query import find_instances, find_series, find_study

pytestmark = pytest.mark.conformance


def listens_on(pid: int) -> set[str]:
    """IPv4 addresses that a process listens on (Linux, /proc/net/tcp: addresses are little endian, state 0A listens)."""
    links = [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    mine = {link[8:-1] for link in links if link.startswith("socket:[")}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    here = {row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in mine}
    return {socket.inet_ntoa(bytes.fromhex(a)[::-1]) for a in here}


@pytest.fixture
def orthanc(tmp_path: Path, until: Callable[..., None], orthanc_program: str) -> Iterator[Peer]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    configuration = {
        "StorageDirectory": str(tmp_path / "orthanc"),
        "IndexDirectory": str(tmp_path / "orthanc"),
        "DicomPort": port,
        "DicomAet": "ORTHANC",
        "DicomCheckCalledAet": True,
        "HttpServerEnabled": False,
        "Plugins": [],
        "DicomModalities": {"node": ["PACSAINODE", "127.0.0.1", 104]},
    }
    file = tmp_path / "orthanc.json"
    file.write_text(json.dumps(configuration))
    peer = Peer("127.0.0.1", port, "ORTHANC", "PACSAINODE")

    def answers() -> bool:
        try:
            echo(peer)
        except NetworkError:
            return False
        return True

    with subprocess.Popen(
        [orthanc_program, str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            until(answers, 30)
            assert listens_on(process.pid) == {"127.0.0.1"}
            yield peer
        finally:
            process.terminate()


def test_objects_go_there_without_stalls_and_the_study_is_found(
    orthanc: Peer, write_slice: Callable[..., Path]
) -> None:
    name = "Wang^XiaoDong=王^小东"
    sources = [
        write_slice(SpecificCharacterSet="ISO_IR 192", PatientName=name, StudyDate="20260101") for _ in range(60)
    ]
    begun = time.monotonic()
    reports = list(store(orthanc, sources))
    taken = time.monotonic() - begun
    assert [report.status for report in reports] == [0] * 60
    assert taken < 60 * 0.04, "40 ms an object is Nagle's algorithm against delayed acknowledgements"
    [found] = find_study(orthanc, "2.25.900")
    assert (found.patient_id, found.accession_number) == ("P1", "A1")
    assert found.patient_name.startswith("Wang^XiaoDong"), "Orthanc answers in Latin-1 and drops the rest"
    assert find_study(orthanc, "2.25.404") == ()
    [series] = find_series(orthanc, "2.25.900")
    assert (series.modality, series.images) == ("CT", 60)
    held = {report.sop_instance_uid for report in reports}
    some = sorted(held)[:3]
    assert find_instances(orthanc, "2.25.900", series.series_instance_uid) == held
    assert find_instances(orthanc, "2.25.900", series.series_instance_uid, [*some, "2.25.404"]) == set(some)
    assert find_instances(orthanc, "2.25.900", series.series_instance_uid, some[:1]) == set(some[:1])
    assert find_series(orthanc, "2.25.404") == ()


def test_a_title_that_is_not_its_own_is_rejected(orthanc: Peer) -> None:
    with pytest.raises(NetworkError) as caught:
        echo(Peer(orthanc.host, orthanc.port, "SOMEONE", "PACSAINODE"))
    assert caught.value.reason.code == "association-rejected"
