"""What a running node writes, and where: stderr alone, in the form and with the detail that were asked for."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset

from node import log
from tests.node.conftest import Rig
from tests.node.desk import changed

pytestmark = pytest.mark.sockets


class Told:
    """A node whose two streams go to files of their own."""

    def __init__(self, rig: Rig, *options: str) -> None:
        self.out, self.err = rig.folder / "stdout", rig.log
        with rig.configuration.open("a", encoding="utf-8") as text:
            text.write('[log]\nformat = "json"\n')
        with self.out.open("wb") as out, self.err.open("wb") as err:
            rig.process = subprocess.Popen(
                rig.command("serve", *options), stdout=out, stderr=err, env=rig.environment(), cwd=rig.folder
            )
        rig.until(lambda: bool(self.events("ready")), 60.0, "the ready line")
        rig.port = self.events("ready")[0]["port"]

    def lines(self) -> list[dict[str, Any]]:
        """Return every whole line of stderr: each is JSON."""
        text = self.err.read_text(encoding="utf-8")
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if name in (line.get("event"), line.get("action"))]


def test_everything_is_told_on_stderr_as_json(rig: Rig, ct: list[Path]) -> None:
    rig.pacs.answer = 0xA900
    told = Told(rig)
    rig.push(ct, calling="WHOLE")
    rig.until(lambda: bool(told.events("delivery.dead")), 60.0, "a refused delivery")
    assert rig.stop() == 0
    assert told.out.read_text(encoding="utf-8") == ""
    uid = str(dcmread(ct[0], specific_tags=["StudyInstanceUID"]).StudyInstanceUID)
    study = log.study_hash(rig.data.installation_id, uid)
    (dead,) = told.events("delivery.dead")
    assert (dead["level"], dead["destination"], dead["study"]) == ("error", "pacs", study)
    (rung,) = told.events("alarm")
    assert (rung["code"], rung["destination"], rung["study"]) == ("delivery-failed", "pacs", study)
    (outcome,) = told.events("job.outcome")
    assert outcome["study"] == study
    assert [len(told.events(f"node.{when}")) for when in ("started", "stopped")] == [1, 1]


def altered(ds: FileDataset) -> None:
    ds.ImageComments = "again"


@pytest.mark.parametrize(("options", "association", "conflict"), [(["-q"], 0, 0), ([], 1, 0), (["-v"], 1, 1)])
def test_every_process_says_as_much_as_was_asked_for(
    rig: Rig, ct: list[Path], options: list[str], association: int, conflict: int
) -> None:
    told = Told(rig, *options)
    rig.push([*ct[:1], *changed(ct[:1], rig.folder / "again", altered)])
    rig.until(lambda: rig.status()["associations"] == 0, 20.0, "the end of the association")
    assert rig.stop() == 0
    assert len(told.events("association.released")) == association
    assert len(told.events("receive.conflict")) == conflict
