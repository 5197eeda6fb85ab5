"""Evidence of completeness through a running node: a scanner with MPPS, a source that is asked, a sender that lies."""

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE

from dicom_io.contexts import PERFORMED_STEP
from dicom_io.scu import Peer, store
from node.loopback_pacs import LoopbackPacs

pytestmark = pytest.mark.sockets

STEP = "2.25.77"
SCHEMA = Path(__file__).parents[2] / "node" / "schemas" / "show-1.schema.json"


def item(**values: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def study_of(files: Sequence[Path]) -> str:
    return str(dcmread(files[0], specific_tags=["StudyInstanceUID"]).StudyInstanceUID)


def step(rig: Any, files: Sequence[Path], status: str) -> None:
    """Create the step, or end it with everything that `files` are."""
    ae = AE("SCANNER")
    ae.add_requested_context(PERFORMED_STEP)
    association = ae.associate("127.0.0.1", rig.port, ae_title="PACSAINODE")
    assert association.is_established
    if status == "IN PROGRESS":
        scheduled = [item(StudyInstanceUID=study_of(files), AccessionNumber="A1")]
        said = item(ScheduledStepAttributesSequence=scheduled, PerformedProcedureStepStatus=status, Modality="CT",
                    PatientName="", PerformedProcedureStepID="P1", PerformedStationAETitle="CT1")  # fmt: skip
        answer, _ = association.send_n_create(said, PERFORMED_STEP, STEP)
    else:
        headers = [dcmread(file, stop_before_pixels=True) for file in files]
        images = [item(ReferencedSOPClassUID=h.SOPClassUID, ReferencedSOPInstanceUID=h.SOPInstanceUID) for h in headers]
        series = item(SeriesInstanceUID=headers[0].SeriesInstanceUID, ReferencedImageSequence=images)
        said = item(PerformedSeriesSequence=[series], PerformedProcedureStepStatus=status)
        answer, _ = association.send_n_set(said, PERFORMED_STEP, STEP)
    assert answer.Status == 0
    association.release()


def shown(rig: Any, uid: str) -> dict[str, Any]:
    """What the command line shows: it names what a study waits for."""
    done = subprocess.run(rig.command("show", uid, "--json"), capture_output=True, env=rig.environment(), check=True)
    document: dict[str, Any] = json.loads(done.stdout)
    Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8"))).validate(document)
    return document


def entry(document: dict[str, Any], event: str) -> dict[str, Any]:
    return next(e for e in reversed(document["timeline"]) if e["event"] == event)


def waits(document: dict[str, Any]) -> set[str]:
    return {wait["what"] for wait in document["waiting_for"]}


def seconds(later: str, earlier: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def test_a_scanner_with_steps_is_waited_for_and_not_longer(make_rig: Callable[..., Any], ct: list[Path]) -> None:
    rig = make_rig(quiet_s=600.0)
    rig.start()
    uid = study_of(ct)
    step(rig, ct, "IN PROGRESS")
    rig.push(ct[:40], "WHOLE")  # declared to send whole studies: the step says otherwise
    rig.until(lambda: rig.status()["studies"]["open"] == 1, 60.0, "the study")
    time.sleep(0.5)  # two ticks: long enough to be closed wrongly
    before = shown(rig, uid)
    assert (before["state"], waits(before)) == ("open", {"waits-step-in-progress"})
    step(rig, ct, "COMPLETED")
    rig.until(lambda: waits(shown(rig, uid)) == {"waits-named-images"}, 60.0, "the step's end")
    assert shown(rig, uid)["waiting_for"][0]["detail"]["en"].startswith("24 image(s)")
    rig.push(ct[40:], "SCANNER")
    rig.idle(120.0)
    after = shown(rig, uid)
    closed = entry(after, "closed")
    assert (closed["evidence"], closed["by"], closed["revision"]) == ("strong", "procedure-step", 1)
    assert closed["waited_for"][0]["what"] == "complete-procedure-step"
    assert after["waiting_for"] == []
    last = max(e["until"] for e in after["timeline"] if e["event"] == "received")
    assert seconds(closed["utc"], last) < 10.0, "well under 2 s on a machine that is not busy"
    assert [j["outcome"] for j in after["jobs"]] == ["result"]


@pytest.mark.long
def test_a_source_that_is_asked_has_more_and_then_the_same(
    make_rig: Callable[..., Any], ct: list[Path], tmp_path: Path
) -> None:
    rig = make_rig(quiet_s=600.0)
    (tmp_path / "source").mkdir()
    with LoopbackPacs(tmp_path / "source", "CTQ") as source:
        assert {r.status for r in store(Peer("127.0.0.1", source.port, "CTQ", "SCANNER"), ct)} == {0}
        text = rig.configuration.read_text(encoding="utf-8")
        asked = f'ae_title = "SCANNER"\nquery_port = {source.port}\nquery_ae_title = "CTQ"\n'
        rig.configuration.write_text(text.replace('ae_title = "SCANNER"\n', asked), encoding="utf-8")
        rig.start()
        uid = study_of(ct)
        rig.push(ct[:62])
        rig.until(lambda: rig.status()["studies"]["open"] == 1, 30.0, "the study")
        rig.until(lambda: "waits-counted-images" in waits(shown(rig, uid)), 60.0, "the source's count")
        document = shown(rig, uid)
        assert document["state"] != "closed", "work may have begun, nothing leaves"
        assert rig.results() == []
        assert (
            document["waiting_for"][0]["detail"]["en"] == "SCANNER has 2 image(s) more of this study than have arrived."
        )
        rig.push(ct[62:])
        rig.idle(120.0)
        after = shown(rig, uid)
    closed = entry(after, "closed")
    assert (closed["evidence"], closed["by"], closed["revision"]) == ("strong", "count", 1)
    assert entry(after, "evidence")["by"] == "count"
    assert closed["utc"] == entry(after, "evidence")["utc"]
    assert [j["outcome"] for j in after["jobs"]][-1] == "result"


@pytest.mark.long
def test_a_sender_that_breaks_its_declaration_is_not_believed_any_more(
    make_rig: Callable[..., Any], ct: list[Path], tmp_path: Path
) -> None:
    rig = make_rig(quiet_s=3.0, pace="learn")
    rig.start()

    def copy(study: str) -> list[Path]:
        files = []
        for n, file in enumerate(ct[20:28]):
            ds = dcmread(file)
            ds.StudyInstanceUID, ds.SeriesInstanceUID = study, f"{study}.1"
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{study}.1.{n + 1}"
            files.append(tmp_path / f"{study}-{n}.dcm")
            ds.save_as(files[-1])
        return files

    def closings(study: str, images: int) -> list[Any]:
        """What has closed the study, if it is closed with so many images."""
        if rig.status()["studies"] == {"open": 0, "closed": 0}:
            return []
        document = rig.show(study)
        whole = (document["state"], document["instances"]) == ("closed", images)
        return [e for e in document["timeline"] if e["event"] == "closed"] if whole else []

    closed = []
    for study in ("2.25.101", "2.25.102", "2.25.103"):
        files = copy(study)
        rig.push(files[:4], "WHOLE")
        rig.until(lambda: sum(rig.status()["studies"].values()) > len(closed), 60.0, "the study")
        if len(closed) < 2:
            rig.until(lambda study=study: bool(closings(study, 4)), 60.0, "believed")
        rig.push(files[4:], "WHOLE")
        rig.until(lambda study=study: bool(closings(study, 8)), 90.0, "the end")
        closed.append(closings(study, 8))
    assert [[c["by"] for c in one] for one in closed] == [["sender", "sender"], ["sender", None], [None]]
    done = subprocess.run(rig.command("status", "--json"), capture_output=True, env=rig.environment(), check=True)
    (sender,) = json.loads(done.stdout)["senders"]
    assert (sender["ae_title"], sender["studies"], sender["doubted"], sender["learned"]) == (
        "WHOLE",
        3,
        ["sender"],
        False,
    )
