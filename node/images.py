"""The images of a job, read from the spool."""

from collections.abc import Mapping
from pathlib import Path

from dicom_io.errors import UnreadableError
from dicom_io.model import Instance
from dicom_io.read import read_instance
from node.reasons import REASONS
from node.store import Database, studies
from node.store.rows import Job


def images(db: Database, spool: Path, charsets: Mapping[str, str], job: Job) -> tuple[Instance, ...]:
    """Return the candidates of a job, exactly as they were received.

    Parameters
    ----------
    db : Database
        The rows.
    spool : Path
        Where the files stand.
    charsets : Mapping[str, str]
        What senders really write, by AE title, see `node.indexer.charsets`.
    job : Job
        Which.

    Raises
    ------
    UnreadableError
        If a file is gone or cannot be read, or is not what was received.
    """
    rows = studies.images(db, job.study_uid, job.upto, job.series)
    if job.subject not in ("study", *job.series):
        rows = tuple(row for row in rows if row.sop_uid == job.subject)
    gone = sum(r.removed is not None for r in rows)
    if gone:
        raise UnreadableError(REASONS("images-removed", count=gone))
    calling = {c.association: c.calling for c in studies.carriers(db, job.study_uid)}
    instances = tuple(read_instance(spool / r.entry, charsets.get(calling.get(r.association, ""))) for r in rows)
    changed = sum(i.digest != r.digest for i, r in zip(instances, rows, strict=True))
    if changed:
        raise UnreadableError(REASONS("inputs-changed-on-disk", count=changed))
    return instances
