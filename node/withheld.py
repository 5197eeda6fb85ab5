"""A person decides what becomes of a result that the gate refused: it is let go, or never leaves."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dicom_io.read import digest_dataset
from dicom_io.reason import Reason
from node.installation import DataFolder
from node.reasons import REASONS
from node.show import utc
from node.store import Database, withheld
from node.store.rows import Job, StoredArtifact
from node.told import told
from sr_writer import gate

What = Literal["released", "rejected"]


@dataclass(frozen=True, slots=True)
class Decided:
    """What came of one decision: `reason` says why nothing did."""

    job: int
    codes: tuple[str, ...]
    reason: Reason | None


def decide(db: Database, folder: DataFolder, job: Job, now: float, what: What, *, by: str, why: str) -> Decided:
    """Let go what the gate keeps back of `job`, or see to it that it never leaves.

    Never let go is what no person can judge by looking (``sr_writer/gate_release.toml``), and what is not byte for byte what
    the gate saw.

    Parameters
    ----------
    db : Database
        The rows.
    folder : DataFolder
        Where the objects stand.
    job : Job
        One of `node.store.withheld.undecided`.
    now : float
        The time.
    what : What
        The decision.
    by, why : str
        Who decided, and the reason; both stay with the job and in the timeline.
    """
    document = job.document or {}
    kept: Mapping[str, Any] = document["withheld"]
    codes = tuple(sorted({r["code"] for o in kept["objects"] for r in o["reasons"]}))
    decision = {"what": what, "by": by, "why": why, "utc": utc(now)}
    noted = {"by": by, "why": why, "reasons": list(codes)}
    if what == "rejected":
        closed = {**document, "withheld": {**kept, "decision": decision}}
        done = withheld.reject(db, job, now, decision=noted, document=closed)
        return Decided(job.id, codes, None if done else REASONS("changed-meanwhile"))
    never = [code for code in codes if not gate.may_be_released(code)]
    if never:
        return Decided(job.id, codes, REASONS("never-released", codes=", ".join(never)))
    rows = [_row(o, job) for o in kept["objects"]]
    if not all(_intact(folder, row) for row in rows):
        return Decided(job.id, codes, REASONS("artifact-damaged"))
    rest = {key: value for key, value in kept.items() if key != "said"}
    opened = {
        **document, **kept["said"], "outcome": "result", "reason": None, "withheld": {**rest, "decision": decision},
    }  # fmt: skip
    send_to = told(job.send_to, "result", None, opened)
    done = withheld.release(
        db, job, now, decision=noted, document=opened, artifacts=rows, send_to=send_to,
    )  # fmt: skip
    return Decided(job.id, codes, None if done else REASONS("changed-meanwhile"))


def _intact(folder: DataFolder, row: StoredArtifact) -> bool:
    try:
        return digest_dataset(folder.path / row.path) == row.digest
    except Exception:  # noqa: BLE001 - whatever a damaged file makes the reader raise: it is not what was written
        return False


def _row(kept: Mapping[str, Any], job: Job) -> StoredArtifact:
    return StoredArtifact(
        job.id, kept["path"].rsplit("/", 1)[-1], kept["path"], kept["kind"], kept["modality"], kept["sop_class_uid"],
        kept["sop_instance_uid"], kept["series_instance_uid"], kept["bytes"], kept["digest"],
        variant=kept["variant"],
    )  # fmt: skip
