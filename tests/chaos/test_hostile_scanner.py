"""A scanner that says anything: whatever it does, a good one gets through, and the receiver is the same afterwards."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import FileMetaDataset

from dicom_io.scu import Peer, Timeouts, store
from node.loopback_pacs import LoopbackPacs
from node.store import open_database
from tests.chaos.hostile_scanner import SCANNER_SCRIPTS, HostileScanner
from tests.chaos.wire import CT, EXPLICIT
from tests.node.conftest import Rig

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("hostile scanner")]

GOOD_S = 12.0
"""A good sender is served within so long while an enemy is at work: connections without a request last 10 s."""
FULL_S = 35.0
"""The same when an enemy holds every association: idle ones last 30 s."""


class Ward:
    """One node for all scripts, and everything that good senders were told is safe."""

    def __init__(self, rig: Rig, folder: Path) -> None:
        self.rig, self.folder = rig, folder
        rig.start(PACS_AI_NODE__STUDY__QUIET_S="600.0", PACS_AI_NODE__STUDY__PACE='"fixed"')
        self.acknowledged: dict[str, Path] = {}
        self.receiver = self._receiver()
        self.send(HostileScanner(rig.port))
        self.files = self.descriptors()

    def _receiver(self) -> int:
        return next(p["pid"] for p in self.rig.status()["processes"] if p["role"] == "receiver")

    def descriptors(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.receiver}/fd").iterdir())

    def send(self, enemy: HostileScanner) -> float:
        """Store one good image; return how long it took until it was acknowledged."""
        image = enemy.image()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = EXPLICIT
        path = self.folder / f"{image.SOPInstanceUID}.dcm"
        image.save_as(path, enforce_file_format=True)
        begun = time.monotonic()
        peer = Peer("127.0.0.1", self.rig.port, "PACSAINODE", "WHOLE")
        while time.monotonic() - begun < 40.0:
            (report,) = store(peer, [path], Timeouts(associate_s=10.0))
            if report.status == 0:
                self.acknowledged[str(image.SOPInstanceUID)] = path
                return time.monotonic() - begun
            time.sleep(0.2)
        pytest.fail(f"a good sender did not get through: {report.reason}\n{self.rig.words()}")


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    folder = tmp_path_factory.mktemp("ward")
    with LoopbackPacs(folder / "pacs", "PACS") as pacs:
        rig = Rig(folder, pacs, receivers=2)
        try:
            yield Ward(rig, folder)
        finally:
            if rig.process is not None:
                rig.stop()


@pytest.mark.parametrize("name", SCANNER_SCRIPTS)
def test_a_good_sender_gets_through(ward: Ward, name: str) -> None:
    with HostileScanner(ward.rig.port) as enemy:
        SCANNER_SCRIPTS[name](enemy)
        assert ward.send(enemy) < (FULL_S if name == "associations-by-the-hundred" else GOOD_S)
    assert Path(f"/proc/{ward.receiver}").exists(), "the receiver died"


def test_nothing_of_it_stays(ward: Ward) -> None:
    """Runs last: sockets, half objects and rows."""
    ward.rig.until(lambda: ward.descriptors() <= ward.files + 3, 60.0, "the receiver lets go of every socket")
    incoming = ward.rig.data.spool / "incoming"
    ward.rig.until(lambda: not list(incoming.rglob("*.part")), 10.0, "half-received objects are removed")
    assert ward._receiver() == ward.receiver

    def indexed() -> dict[str, str]:
        db = open_database(ward.rig.data.database)
        with db.read() as c:
            rows: Any = c.exec_driver_sql("SELECT sop_uid, entry FROM instance").all()
        db.close()
        return {row[0]: row[1] for row in rows}

    ward.rig.until(lambda: ward.acknowledged.keys() <= indexed().keys(), 20.0, "everything acknowledged is indexed")
    entries = indexed()
    for uid, path in ward.acknowledged.items():
        kept = dcmread(ward.rig.data.spool / entries[uid])
        assert kept.SOPClassUID == CT
        assert kept.PixelData == dcmread(path).PixelData
