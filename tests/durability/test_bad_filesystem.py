"""File systems that fail: no image is acknowledged that is not durable, and when they work again so does the node."""

import errno
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dicom_io.read import digest_dataset
from dicom_io.scu import Peer, store
from node.spool import journals, read_journal
from tests.durability.test_received import PROBE, REPOSITORY, write

pytestmark = [pytest.mark.sockets, pytest.mark.xdist_group("durability")]

FULL, QUOTA, BROKEN, READ_ONLY = errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS
PLENTY = 1 << 40

FAULTS: dict[str, Sequence[str]] = {
    "the arriving file cannot be made: no names left": (f"open incoming {FULL}",),
    "the arriving file cannot be made: quota": (f"open incoming {QUOTA}",),
    "the arriving file cannot be made: read-only": (f"open incoming {READ_ONLY}",),
    "the arriving file cannot be made: broken": (f"open incoming {BROKEN}",),
    "the disk fills while a file arrives": (f"write incoming {FULL}",),
    "the quota is met while a file arrives": (f"write incoming {QUOTA}",),
    "the disk breaks while a file arrives": (f"write incoming {BROKEN}",),
    "the file cannot be flushed": (f"fsync incoming {BROKEN}",),
    "the file cannot be flushed: full": (f"fsync incoming {FULL}",),
    "no link: no names left": (f"link .dcm {FULL}",),
    "no link: quota": (f"link .dcm {QUOTA}",),
    "no link: read-only": (f"link .dcm {READ_ONLY}",),
    "no link: broken": (f"link .dcm {BROKEN}",),
    "the folder cannot be flushed": ("fsync spool/?? 5",),
    "the record cannot be written: full": (f"write journal {FULL}",),
    "the record cannot be written: quota": (f"write journal {QUOTA}",),
    "the record cannot be written: broken": (f"write journal {BROKEN}",),
    "the record cannot be flushed": (f"fdatasync journal {BROKEN}",),
    "no journal can be written nor begun": (f"write journal {FULL}", f"open journal {FULL}"),
    "everything is read-only": tuple(f"{call} /real/ {READ_ONLY}" for call in ("open", "write", "link")),
    "too little space": (f"statvfs spool 1000000 {PLENTY}",),
    "too few names": (f"statvfs spool {PLENTY} 10",),
}


class Receiver:
    """A real receiver process on a file system whose faults can be chosen while it runs."""

    def __init__(self, folder: Path) -> None:
        self.data, self._control = folder / "real", folder / "faults"
        shim = folder / "badfs.so"
        compiler = shutil.which("cc") or "gcc"
        source = Path(__file__).parent / "badfs.c"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", shim, source, "-ldl"], check=True)
        self.faults()
        environment = {
            "PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin", "LD_PRELOAD": str(shim), "BADFS": str(self._control),
            "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        self.log = folder / "log"
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, str(PROBE), str(folder), "real"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, env=environment, cwd=folder, text=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        self.port = int(json.loads(self._process.stdout.readline())["port"])

    def faults(self, *lines: str) -> None:
        part = self._control.with_suffix(".part")
        part.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
        part.replace(self._control)

    def push(self, *files: Path) -> list[int | None]:
        return [r.status for r in store(Peer("127.0.0.1", self.port, "PACSAINODE", "CT1"), list(files))]

    def told(self) -> list[str]:
        text = self.log.read_text(encoding="utf-8")
        return [line for line in text.splitlines() if "receive." in line]

    def stop(self) -> int:
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()
            return process.wait(20.0)


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    receiver = Receiver(tmp_path_factory.mktemp("badfs"))
    yield receiver
    assert receiver.stop() == 0


@pytest.mark.parametrize("name", FAULTS)
def test_no_answer_says_stored_and_the_next_one_does_once_it_works_again(
    name: str, receiver: Receiver, tmp_path: Path
) -> None:
    uids = [f"2.25.{int(hashlib.sha256(f'{name} {n}'.encode()).hexdigest()[:24], 16)}" for n in range(3)]
    files = [write(tmp_path, SOPInstanceUID=uid) for uid in uids]
    entry = hashlib.sha256(uids[0].encode()).hexdigest()
    before = len(receiver.told())
    receiver.faults(*(line.replace("??", entry[:2]) for line in FAULTS[name]))
    try:
        first = files[:1] if "??" in FAULTS[name][0] else files
        assert receiver.push(*first) == [0xA700] * len(first)
        said = receiver.told()[before:]
        assert len(said) == 1, "told once, not for every image"
    finally:
        receiver.faults()
    assert receiver.push(*files) == [0x0000] * 3
    deadline = time.monotonic() + 10.0
    while len(receiver.told()) < before + 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    last = receiver.told()[before:]
    assert last, "and once when it is over"
    assert ("stores-again" in last[-1]) or ("receive.accepting" in last[-1])

    records = [r for path in journals(receiver.data) for r in read_journal(path)[0]]
    for uid, file in zip(uids, files, strict=True):
        mine = [r for r in records if r.get("sop") == uid]
        assert mine
        assert digest_dataset(receiver.data / "spool" / mine[-1]["entry"]) == digest_dataset(file)
    assert not list((receiver.data / "spool" / "incoming").rglob("*.part"))
    ended = {r["association"] for r in records if r["kind"] == "association-open"}
    assert {r["association"] for r in records if "sop" in r} <= ended, "what is recorded late is recorded"


def test_a_log_that_cannot_be_written_keeps_no_image_out(receiver: Receiver, tmp_path: Path) -> None:
    receiver.faults(f"write /log {FULL}")
    try:
        assert receiver.push(write(tmp_path, SOPInstanceUID="2.25.81"), write(tmp_path, SOPInstanceUID="2.25.82")) == [
            0,
            0,
        ]
        # a conflict is told, too
        assert receiver.push(write(tmp_path, SOPInstanceUID="2.25.81", PatientID="P2")) == [0]
    finally:
        receiver.faults()
    assert receiver.push(write(tmp_path, SOPInstanceUID="2.25.83")) == [0]
