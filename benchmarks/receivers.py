"""What `benchmarks.receive` compares: the node, dcmtk's storescp and Orthanc, each as a real process, and the sender.

All stand on one disk and get TCP_NODELAY=1 in their environment; everybody listens on loopback only.
"""

import contextlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

TITLE = "RECEIVER"
CT, DX = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.1.1"
_DCMTK = Path("/usr/bin")  # pynetdicom installs scripts of these names, too
_PROCESSES = 5
"""Of a node: supervisor, receivers, coordinator, worker, deliverer; more than this when all have been started."""
_ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}
_CONFIGURATION = """\
[node]
data_dir = {folder}
[dicom]
ae_titles = ["{title}"]
port = 0
{dicom}
[study]
quiet_s = 3600.0
pace = "fixed"
"""


@dataclass(frozen=True, slots=True)
class Running:
    """A receiver that accepts associations, and the process that was started for it."""

    port: int
    pid: int
    log: Path

    def tree(self) -> list[int]:
        """Return its process numbers, children included."""
        found = [self.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return found

    def cpu_s(self, pids: Sequence[int] = ()) -> float:
        """Return the processor time of the whole tree, or of `pids`, so far."""
        return sum(cpu_s(pid) for pid in pids or self.tree())

    def receivers(self) -> list[int]:
        """Return the processes that hold a connected or listening socket of its port (of the node: the receivers)."""
        inodes = {
            row.split()[9]
            for row in Path("/proc/net/tcp").read_text().splitlines()[1:]
            if row.split()[1].endswith(f":{self.port:04X}")
        }
        return [pid for pid in self.tree() if pid != self.pid and inodes & set(_sockets(pid))]


def cpu_s(pid: int) -> float:
    """Return the processor time of a process so far (s); 0 once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process now (MB)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _sockets(pid: int) -> Iterator[str]:
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            link = str(fd.readlink())
            if link.startswith("socket:["):
                yield link[8:-1]


def write_objects(
    folder: Path, count: int, *, modality: str = "CT", senders: int = 1, shape: tuple[int, int] | None = None
) -> list[Path]:
    """Write `count` objects for each sender into folders of their own: CT slices of 0.5 MB or radiographs of 18 MB."""
    shape = shape or ((512, 512) if modality == "CT" else (3000, 3000))
    pixels = np.random.default_rng(1).integers(0, 4096, shape, dtype=np.uint16).tobytes()
    folders = []
    for sender in range(senders):
        place = folder / f"{modality}-{sender}"
        place.mkdir(parents=True)
        for number in range(count):
            dataset = described(modality, f"{sender + 1}", number, shape)
            dataset.PixelData = pixels
            dataset.save_as(place / f"{number:05d}.dcm", enforce_file_format=True)
        folders.append(place)
    return folders


def write_large(path: Path, gigabytes: float) -> None:
    """Write one multi-frame object of this size."""
    frame = 512 * 512 * 2
    frames = int(gigabytes * 1e9 / frame)
    dataset = described("CT", "9", 0, (512, 512))
    dataset.NumberOfFrames = frames
    dataset.save_as(path, enforce_file_format=True)
    block = np.random.default_rng(1).integers(0, 4096, frame // 2, dtype=np.uint16).tobytes()
    with path.open("ab") as file:
        file.write(b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<L", frames * frame))
        for _ in range(frames):
            file.write(block)


def described(modality: str, study: str, number: int, shape: tuple[int, int]) -> Dataset:
    """Return an image without its pixels."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CT if modality == "CT" else DX
    root = f"2.25.{1 + (modality == 'CT')}77{study}"
    dataset.SOPInstanceUID = f"{root}.1.{number + 1}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = root, f"{root}.1"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20260101", "120000", "1"
    dataset.PatientName, dataset.PatientID, dataset.AccessionNumber = "Phantom", f"P{study}", f"A{study}"
    dataset.PatientBirthDate, dataset.PatientSex, dataset.ReferringPhysicianName = "", "", ""
    dataset.Modality, dataset.InstanceNumber, dataset.SeriesNumber = modality, number + 1, 1
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, number], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [0.7, 0.7], 1
    dataset.Rows, dataset.Columns = shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.RescaleIntercept, dataset.RescaleSlope = -1024, 1
    return dataset


@contextlib.contextmanager
def node(folder: Path, dicom: str = "", more: str = "") -> Iterator[Running]:
    """Run the node, all its processes."""
    folder.mkdir(parents=True)
    file, log = folder / "node.toml", folder / "node.log"
    text = _CONFIGURATION.format(folder=json.dumps(str(folder / "data")), title=TITLE, dicom=dicom)
    file.write_text(text + more, encoding="utf-8")
    with log.open("wb") as out:
        command = [sys.executable, "-m", "node", "serve", "--config", str(file)]
        process = subprocess.Popen(command, stdout=out, stderr=out)
        with _stopped(process):
            until(lambda: b'"ready"' in log.read_bytes(), 60)
            line = next(line for line in log.read_bytes().splitlines() if line.startswith(b"{") and b'"ready"' in line)
            running = Running(json.loads(line)["port"], process.pid, log)
            until(lambda: len(running.tree()) > _PROCESSES, 60)
            settled(running)
            yield running


@contextlib.contextmanager
def storescp(folder: Path) -> Iterator[Running]:
    """Run dcmtk's storescp: a process for each association, bytes stored as they come, nothing flushed, no index."""
    (folder / "objects").mkdir(parents=True)
    port, log = free_port(), folder / "log"
    with log.open("wb") as out:
        command = [
            str(_DCMTK / "storescp"),
            "--fork",
            "-pdu",
            "131072",
            "+B",
            "-aet",
            TITLE,
            "-od",
            str(folder / "objects"),
        ]
        process = subprocess.Popen(
            [*command, str(port)], stdout=out, stderr=out, env={**_ENVIRONMENT, "LD_PRELOAD": str(_loopback(folder))}
        )
        with _stopped(process):
            running = Running(port, process.pid, log)
            until(lambda: echoes(running), 30)
            yield running


@contextlib.contextmanager
def orthanc(folder: Path, **configuration: object) -> Iterator[Running]:
    """Run Orthanc as it comes: files flushed (``SyncStorageArea``), indexed in SQLite."""
    folder.mkdir(parents=True)
    port, log = free_port(), folder / "log"
    (folder / "orthanc.json").write_text(
        json.dumps({
            "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "DicomPort": port,
            "DicomAet": TITLE, "DicomAlwaysAllowStore": True, "HttpServerEnabled": False, "Plugins": [],
            **configuration,
        })
    )  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(
            [shutil.which("Orthanc") or "Orthanc", str(folder / "orthanc.json")], stdout=out, stderr=out,
            env={**_ENVIRONMENT, "LD_PRELOAD": str(_loopback(folder))},
        )  # fmt: skip
        with _stopped(process):
            running = Running(port, process.pid, log)
            until(lambda: echoes(running), 60)
            yield running


def send(running: Running, folders: Sequence[Path], limit_s: float = 600.0) -> float:
    """Send each folder by a storescu of its own, all at the same time; return how long that took (s)."""
    begin = time.monotonic()
    senders = [subprocess.Popen(_storescu(running, folder), env=_ENVIRONMENT) for folder in folders]
    codes = [sender.wait(limit_s) for sender in senders]
    took = time.monotonic() - begin
    assert not any(codes), f"storescu ended with {codes}"
    return took


def _storescu(running: Running, *what: Path) -> list[str]:
    program = [str(_DCMTK / "storescu"), "-q", "-R", "-xe", "-aet", "SENDER", "-aec", TITLE]
    return [*program, "+sd", "127.0.0.1", str(running.port), *map(str, what)]


def echoes(running: Running) -> bool:
    """Say whether an association is accepted and C-ECHO is answered."""
    command = [str(_DCMTK / "echoscu"), "-q", "-aec", TITLE, "127.0.0.1", str(running.port)]
    return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0


def settled(running: Running, share: float = 0.04) -> None:
    """Wait until a receiver has nothing left to do: models loaded, index written, disk quiet."""

    def quiet() -> bool:
        before = running.cpu_s()
        time.sleep(0.5)
        return running.cpu_s() - before <= share * 0.5 * len(running.tree())

    until(quiet, 120)
    os.sync()


def until(condition: Callable[[], object], seconds: float) -> None:
    """Wait until `condition` holds, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "this did not come true in time"
        time.sleep(0.02)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def _stopped(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _loopback(folder: Path) -> Path:
    """Build what ties programs without a setting for it to loopback; see ``tests/loopback_bind.c``."""
    shim = folder / "loopback_bind.so"
    source = Path(__file__).parents[1] / "tests" / "loopback_bind.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(shim), str(source), "-ldl"], check=True)
    return shim
