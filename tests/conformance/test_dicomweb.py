"""STOW-RS and QIDO-RS against other people's service: Orthanc with its DICOMweb plug-in, as Debian ships them."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

import phantom
from config.settings import Destination
from dicom_io import dicomweb
from dicom_io.errors import NetworkError
from dicom_io.http_client import Service
from dicom_io.read import digest_dataset
from dicom_io.status import Outcome
from tests.node.outbox import Outbox

pytestmark = pytest.mark.conformance

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, orthanc_program: str) -> Iterator[Service]:
    if not PLUGIN.exists():
        pytest.skip("orthanc-dicomweb is not installed")
    folder = tmp_path_factory.mktemp("orthanc")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    configuration = {
        "StorageDirectory": str(folder), "IndexDirectory": str(folder), "DicomServerEnabled": False,
        "HttpServerEnabled": True, "HttpPort": port, "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
        "Plugins": [str(PLUGIN)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }  # fmt: skip
    file = folder / "orthanc.json"
    file.write_text(json.dumps(configuration))
    made = Service(f"http://127.0.0.1:{port}/dicom-web")
    with subprocess.Popen(
        [orthanc_program, str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    dicomweb.echo(made)
                    break
                except NetworkError:
                    assert time.monotonic() < deadline, "Orthanc did not start"
            yield made
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("chest")
    return sorted(
        (phantom.write(phantom.build(11, lesions="none", matrix=64, thickness_mm=10.0), folder) / "dicom").glob("*.dcm")
    )


def test_what_we_send_is_there_byte_for_byte_and_is_found(service: Service, chest: list[Path], tmp_path: Path) -> None:
    header = dcmread(chest[0], stop_before_pixels=True)
    study, series = str(header.StudyInstanceUID), str(header.SeriesInstanceUID)
    assert dicomweb.find_study(service, study) == ()
    begun = time.monotonic()
    reports = list(dicomweb.store(service, chest))
    assert time.monotonic() - begun < len(chest) * 0.2
    assert {(r.status, r.outcome) for r in reports} == {(0, Outcome.DELIVERED)}
    (found,) = dicomweb.find_study(service, study)
    assert (found.patient_id, found.patient_name) == (str(header.PatientID), str(header.PatientName))
    uids = [r.sop_instance_uid for r in reports]
    assert dicomweb.find_instances(service, study, series, uids) == set(uids)
    assert dicomweb.find_instances(service, study, series, [uids[0]]) == {uids[0]}
    assert dicomweb.find_instances(service, study, series, [*uids, "2.25.404"]) == set(uids)
    assert dicomweb.find_instances(service, study, "2.25.405", [uids[0]]) == frozenset()
    base = service.url.removesuffix("/dicom-web")
    with urllib.request.urlopen(f"{base}/instances") as answer:  # noqa: S310 - our own Orthanc
        held = json.load(answer)
    digests = set()
    for number, name in enumerate(held):
        with urllib.request.urlopen(f"{base}/instances/{name}/file") as answer:  # noqa: S310
            (tmp_path / f"{number}.dcm").write_bytes(answer.read())
        digests.add(digest_dataset(tmp_path / f"{number}.dcm"))
    assert digests == {digest_dataset(path) for path in chest}
    assert {r.outcome for r in dicomweb.store(service, chest[:2])} == {Outcome.DELIVERED}, (
        "sent again, it is no failure"
    )


def test_a_result_waits_for_its_study_arrives_and_is_proven_over_the_web(service: Service, tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "node")
    uid = outbox.add(objects=3)
    destination = Destination("pacs", kind="stow", url=service.url)
    courier, prover = outbox.courier(destination), outbox.prover(destination)
    assert courier.step()
    assert outbox.state() == ("held", 0, "study-not-at-destination")
    source = dcmread(next(outbox.folder.glob("artifacts/*-0.dcm")))
    source.SOPInstanceUID = source.file_meta.MediaStorageSOPInstanceUID = f"{uid}.1.1"
    source.SeriesInstanceUID = f"{uid}.1"
    source.save_as(tmp_path / "source.dcm")
    assert [r.outcome for r in dicomweb.store(service, [tmp_path / "source.dcm"])] == [Outcome.DELIVERED]
    outbox.now += 3600
    assert courier.step()
    assert outbox.state()[0] == "delivered"
    assert outbox.row().identity == "checked"
    outbox.now += 60
    assert prover.step()
    assert (outbox.row().state, outbox.row().proof) == ("confirmed", "find")


def test_what_it_cannot_take_is_no_success(service: Service, chest: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(chest[0].read_bytes()[:700])
    (report,) = dicomweb.store(service, [broken])
    assert report.outcome in (Outcome.DEAD, Outcome.RETRY)
    assert report.reason is not None
    elsewhere = Service(service.url.replace("dicom-web", "nowhere"))
    (report,) = dicomweb.store(elsewhere, chest[:1])
    assert report.reason is not None
    assert report.reason.code == "http-not-there"


def test_echo_says_what_a_destination_of_this_kind_answers(service: Service, tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text(f'[[destination]]\nname = "web"\nkind = "stow"\nurl = "{service.url}"\n')
    command = [sys.executable, "-m", "node", "echo", "web", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "answers QIDO-RS" in done.stdout
    config.write_text('[[destination]]\nname = "web"\nkind = "stow"\nurl = "http://127.0.0.1:9/x"\n')
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "peer-refused-connection"
