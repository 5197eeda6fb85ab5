"""The whole journey beside other people's software: Orthanc, as Debian ships it, sends studies and gets the results."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from pydicom import dcmread
from pydicom.dataset import Dataset

import phantom
from dicom_io.read import digest_dataset
from dicom_io.scu import store
from node.spool import journals, read_journal
from phantom.compare import compare
from tests.leaving import leaving
from tests.orthanc import Orthanc

pytestmark = pytest.mark.conformance

REPOSITORY = Path(__file__).parents[2]
CONFIGURATION = """\
[node]
data_dir = {data_dir}
[dicom]
ae_titles = ["PACSAINODE", "SECOND"]
port = 0
[[dicom.peer]]
ae_title = "HOSPITAL"
host = "127.0.0.1"
sends = "study"
[study]
settle_s = 0.2
boot_grace_s = 1.0
[[destination]]
name = "pacs"
host = "127.0.0.1"
port = {port}
ae_title = "HOSPITAL"
[[rule]]
name = "chest CT"
when = {{ Modality = "CT" }}
run = ["chest_ct"]
send_to = ["pacs"]
"""


def tool(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


class Hospital:
    """An Orthanc that knows the node under both of its titles, and the node that `serve` starts."""

    def __init__(self, folder: Path, orthanc_program: str) -> None:
        self.pacs = Orthanc(folder / "pacs", orthanc_program, "HOSPITAL")
        self.rest = self.pacs.rest
        self.folder, self.data = folder, folder / "node"
        self.log = folder / "node.log"
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self.pacs.__enter__()
        self.configuration = self.folder / "node.toml"
        text = CONFIGURATION.format(data_dir=json.dumps(str(self.data)), port=self.pacs.dicom)
        self.configuration.write_text(text, encoding="utf-8")
        self._run(self._command("serve"), self.log, _environment())
        ready: list[dict[str, Any]] = []

        def listening() -> bool:
            lines = self.log.read_bytes().splitlines()
            ready.extend(json.loads(line) for line in lines if line.startswith(b'{"event": "ready"'))
            return bool(ready)

        self.until(listening, 60.0, "the node's ready line")
        for name, title in (("node", "PACSAINODE"), ("second", "SECOND")):
            known = {"AET": title, "Host": "127.0.0.1", "Port": ready[0]["port"]}
            self.rest(f"/modalities/{name}", known, "PUT")

    def stop(self) -> None:
        for process in reversed(self._started):
            process.terminate()
            try:
                process.wait(15.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.pacs.__exit__()

    def archive(self, files: Sequence[Path]) -> str:
        """Store `files` in the PACS as a scanner does; return the study's name there."""
        before = set(self.rest("/studies"))
        assert [r.status for r in store(self.pacs.peer(), files)] == [0] * len(files)
        (study,) = set(self.rest("/studies")) - before
        return str(study)

    def forward(self, study: str, modality: str) -> None:
        """Let the PACS send a whole study, whatever is in it, in one association."""
        sent = self.rest(f"/modalities/{modality}/store", study)
        assert sent["FailedInstancesCount"] == 0

    def fetch(self, study: str, folder: Path) -> dict[str, list[Path]]:
        """Return every object that the PACS holds of a study, as files, by modality."""
        folder.mkdir()
        held: dict[str, list[Path]] = {}
        for instance in self.rest(f"/studies/{study}/instances"):
            path = folder / f"{instance['ID']}.dcm"
            path.write_bytes(self.rest(f"/instances/{instance['ID']}/file"))
            held.setdefault(str(dcmread(path, specific_tags=["Modality"]).Modality), []).append(path)
        return held

    def ask(self, *arguments: str) -> dict[str, Any]:
        done = subprocess.run(
            self._command(*arguments, "--json"), capture_output=True, check=False, env=_environment(), cwd=REPOSITORY
        )
        assert done.stdout, done.stderr.decode(errors="replace")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def finished(self, study_uid: str) -> dict[str, Any]:
        """Wait until the node has nothing left to do; return what it shows of the study."""
        self.until(lambda: bool(self.ask("status")["idle"]), 90.0, "idle")
        return self.ask("show", study_uid)

    def confirmed(self, study_uid: str) -> dict[str, Any]:
        """Wait until the PACS has shown everything that was delivered to it; return what the node shows of the study."""

        def all_there() -> bool:
            return {d["state"] for d in self.ask("show", study_uid)["deliveries"]} == {"confirmed"}

        self.finished(study_uid)
        self.until(all_there, 30.0, "proof of arrival")
        return self.ask("show", study_uid)

    def results(self, study: str, count: int) -> None:
        """Wait until the PACS holds `count` objects of a study; cheaper than to ask the node again and again."""
        self.until(lambda: len(self.rest(f"/studies/{study}/instances")) >= count, 90.0, f"{count} objects")

    def journalled(self) -> list[dict[str, Any]]:
        """Return what the node's receiver wrote down, oldest first."""
        return [r for journal in journals(self.data) for r in read_journal(journal)[0] if r.get("study")]

    def until(self, done: Callable[[], bool], within_s: float, what: str) -> None:
        deadline = time.monotonic() + within_s
        while not done():
            if time.monotonic() > deadline:
                words = self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""
                pytest.fail(f"not within {within_s} s: {what}\n{words}")
            time.sleep(0.1)

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "node", *arguments, "--config", str(self.configuration)]

    def _run(self, command: Sequence[str], log: Path, environment: dict[str, str]) -> None:
        with log.open("ab") as out:
            self._started.append(subprocess.Popen(command, stdout=out, stderr=out, env=environment, cwd=REPOSITORY))


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("PACS_AI_NODE")}


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory, orthanc_program: str) -> Iterator[Hospital]:
    made = Hospital(tmp_path_factory.mktemp("hospital"), orthanc_program)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small chest CT with opacities."""
    made = phantom.build(3, lesions="clear", matrix=128, thickness_mm=5.0, patient_name="Wang^Xiao=王^小")
    return phantom.write(made, tmp_path_factory.mktemp("chest"))


def images(folder: Path) -> list[Path]:
    return sorted((folder / "dicom").glob("*.dcm"))


def study_of(folder: Path) -> str:
    return str(dcmread(images(folder)[0], specific_tags=["StudyInstanceUID"]).StudyInstanceUID)


def no_errors(path: Path) -> None:
    judged = subprocess.run([tool("dciodvfy"), "-new", str(path)], capture_output=True, check=False, timeout=60)
    said = (judged.stdout + judged.stderr).decode(errors="replace").splitlines()
    assert not [line for line in said if line.startswith("Error")], path
    assert judged.returncode == 0


def masks(seg: Path, shape: tuple[int, ...], affine: np.ndarray, out: Path) -> dict[str, np.ndarray]:
    """Return the masks of a segmentation by label as dcmqi reads them, on the grid of the source."""
    out.mkdir()
    command = [tool("segimage2itkimage"), "--inputDICOM", str(seg), "--outputDirectory", str(out)]
    subprocess.run([*command, "--outputType", "nrrd", "--prefix", "s"], check=True, capture_output=True, timeout=120)
    found = {}
    for segment in dcmread(seg, stop_before_pixels=True).SegmentSequence:
        image = SimpleITK.ReadImage(str(out / f"s-{segment.SegmentNumber}.nrrd"))
        places = np.argwhere(SimpleITK.GetArrayFromImage(image))[:, ::-1]
        points = places @ (np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()).T + image.GetOrigin()
        to_index = np.linalg.inv(affine)
        index = (points @ to_index[:3, :3].T + to_index[:3, 3])[:, ::-1]
        assert np.abs(index - index.round()).max() < 0.02, "off the source's grid"
        mask = np.zeros(shape, bool)
        mask[tuple(index.round().astype(int).T)] = True
        found[str(segment.SegmentLabel)] = mask
    return found


def patient(path: Path) -> list[bytes]:
    """Return the encoded identity of the patient and study, and the character set it is in."""
    ds: Dataset = dcmread(path, stop_before_pixels=True)
    keywords = ("SpecificCharacterSet", "PatientName", "PatientID", "PatientBirthDate", "AccessionNumber")
    return [bytes(v) if isinstance(v := ds.get_item(k).value, bytes) else str(v).encode() for k in keywords]


def test_a_study_of_the_pacs_gets_its_results_and_sending_them_back_changes_nothing(
    hospital: Hospital, chest: Path, tmp_path: Path
) -> None:
    study = hospital.archive(images(chest))
    hospital.forward(study, "node")
    hospital.results(study, len(images(chest)) + 3)
    shown = hospital.confirmed(study_of(chest))
    (job,) = shown["jobs"]
    assert (job["outcome"], job["reason"]) == ("result", None)
    assert [(d["state"], d["identity"], d["proof"]) for d in shown["deliveries"]] == [("confirmed", "checked", "find")]

    held = hospital.fetch(study, tmp_path / "held")
    assert {m: len(files) for m, files in held.items()} == {"CT": len(images(chest)), "SEG": 1, "SR": 1, "OT": 1}
    own = leaving(shown, job)
    written = {digest_dataset(hospital.data / a["path"]) for a in job["artifacts"] if a["sop_instance_uid"] in own}
    results = [files[0] for modality, files in held.items() if modality != "CT"]
    assert {digest_dataset(path) for path in results} == written, "the PACS holds what the node wrote"
    assert len(hospital.rest("/patients")) == len(hospital.rest("/studies")), "nobody was split in two"
    for path in results:
        no_errors(path)
        assert patient(path) == patient(held["CT"][0])

    truth = np.load(chest / "truth.npz")
    found = masks(held["SEG"][0], truth["lung"].shape, truth["affine"], tmp_path / "masks")
    lungs = np.zeros(truth["lung"].shape, np.uint8)
    lungs[found.pop("Right lung")], lungs[found.pop("Left lung")] = 1, 2
    judged = compare(chest, lungs, list(found.items()))
    assert all(row.ok for row in judged.lungs), judged.lungs
    assert all(row.dice > 0.7 for row in judged.objects if row.required), judged.objects

    # the PACS sends everything it has of the study to the node's other title
    before = hospital.rest("/statistics")
    hospital.forward(study, "second")
    again = hospital.finished(study_of(chest))
    seen = Counter(r["sop"] for r in hospital.journalled() if r["called"] == "SECOND")
    assert len(seen) == len(images(chest)) + len(own)
    assert own <= set(seen), "its own objects came in"
    assert [(j["job"], j["attempts"]) for j in again["jobs"]] == [(job["job"], 1)]
    assert again["deliveries"] == shown["deliveries"]
    assert (again["revision"], again["instances"]) == (1, len(images(chest)))
    assert hospital.rest("/statistics") == before


def test_a_chest_that_cannot_be_judged_gets_one_card(hospital: Hospital, tmp_path: Path) -> None:
    thick = phantom.write(phantom.build(4, lesions="none", matrix=64, thickness_mm=10.0), tmp_path / "thick")
    study = hospital.archive(images(thick))
    hospital.forward(study, "node")
    hospital.results(study, len(images(thick)) + 1)
    shown = hospital.finished(study_of(thick))
    (job,) = shown["jobs"]
    assert (job["outcome"], job["reason"]["code"], job["reason"]["class"]) == (
        "not_analysed", "series-too-thick", "unable",
    )  # fmt: skip
    held = hospital.fetch(study, tmp_path / "held")
    assert {m: len(files) for m, files in held.items()} == {"CT": len(images(thick)), "OT": 1}
    (card,) = held["OT"]
    no_errors(card)
    ds = dcmread(card)
    assert "not analysed" in ds.SeriesDescription
    assert ds.pixel_array.std() > 1.0, "nothing is drawn"

    hospital.forward(study, "second")
    again = hospital.finished(study_of(thick))
    assert [j["job"] for j in again["jobs"]] == [job["job"]]
    assert len(hospital.rest(f"/studies/{study}/instances")) == len(images(thick)) + 1


def test_another_part_of_the_body_stays_silent(hospital: Hospital, tmp_path: Path) -> None:
    head = phantom.write(phantom.build(5, lesions="none", matrix=64, thickness_mm=10.0), tmp_path / "head")
    for path in images(head):
        ds = dcmread(path)
        ds.BodyPartExamined = "HEAD"
        ds.save_as(path)
    study = hospital.archive(images(head))
    hospital.forward(study, "node")
    shown = hospital.finished(study_of(head))
    assert [(j["outcome"], j["reason"]["class"]) for j in shown["jobs"]] == [("not_analysed", "not_applicable")]
    assert shown["deliveries"] == []
    assert len(hospital.rest(f"/studies/{study}/instances")) == len(images(head))
