"""Rejection notes: what a destination has of an earlier result is named in a note, once a later one has arrived there.

Only where the destination asks for it (IHE Imaging Object Change Management). A note that named anything else would hide a
patient's images, so it names only files of our own that still are what was sent, and passes the gate. What cannot be shown
to be ours is never named: a person hears of it.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from config.settings import Settings
from dicom_io.errors import UnreadableError
from dicom_io.model import Instance
from dicom_io.reason import Reason
from node.images import images
from node.indexer import charsets
from node.installation import DataFolder, folder_of
from node.reasons import REASONS
from node.store import Database, jobs, rejections
from node.store.rows import Delivery, Job, StoredArtifact
from sr_writer.identity import AnalysisIdentity

FOLDER = "rejected"
"""Folder of the notes below that of a study's artifacts."""


class Notes:
    """Writes rejection notes, each once; for all couriers of a process.

    Parameters
    ----------
    db : Database
        The rows.
    folder : DataFolder
        Spool and artifacts.
    settings : Settings
        Of the node.
    now : Callable[[], float]
        The clock (s since the epoch).
    """

    def __init__(
        self, db: Database, folder: DataFolder, settings: Settings, now: Callable[[], float] = time.time
    ) -> None:
        self._db, self._folder, self._now = db, folder, now
        self._charsets = charsets(settings)
        self._options = replace(settings.writer, languages=settings.node.languages)
        self._one = threading.Lock()

    def note(self, delivery: Delivery, old: Sequence[StoredArtifact]) -> StoredArtifact | Reason:
        """Return the note that rejects `old` at the destination of `delivery`; it stands on disk and is registered.

        A reason: it cannot be written, because nobody can show that they are ours, or the images that say whose study it is
        are gone.

        Parameters
        ----------
        delivery : Delivery
            Of the note.
        old : Sequence[StoredArtifact]
            What it names; their files are what was sent.
        """
        names = {a.sop_uid for a in old}
        with self._one:
            for written in rejections.notes(self._db, delivery.job_id):
                if set(rejections.names(written)) == names:
                    return written
            job = jobs.job(self._db, delivery.job_id)
            if job is None:
                return REASONS("nothing-to-send")
            try:
                sources = images(self._db, self._folder.spool, self._charsets, job)
            except UnreadableError as error:
                return error.reason
            return self._write(job, sources, old)

    def _write(self, job: Job, sources: Sequence[Instance], old: Sequence[StoredArtifact]) -> StoredArtifact | Reason:
        from sr_writer import gate, rejection  # noqa: PLC0415 - what few destinations ask for is loaded for them alone
        from sr_writer.write import Predecessor  # noqa: PLC0415

        said = job.document or {}
        identity = AnalysisIdentity(
            self._folder.installation_id, job.study_uid, tuple((i.sop_instance_uid, i.digest) for i in sources),
            said["pipeline"], said["pipeline_version"], said["weights_digest"], said["pipeline_digest"],
        )  # fmt: skip
        root = self._folder.path
        rows = [Predecessor(a.sop_class, a.sop_uid, a.series_uid, root / a.path, a.variant) for a in old]
        out = self._folder.artifacts / folder_of(job.study_uid) / FOLDER
        now = datetime.fromtimestamp(self._now(), UTC)
        try:
            note = rejection.write_note(rows, sources, identity, self._options, out, now, job.revision)
        except rejection.NotOursError:
            return REASONS("rejection-not-provable", count=len(rows))
        if refusals := gate.check([note], sources, rows):
            note.path.unlink()
            return REASONS("rejection-refused", codes=", ".join(sorted({r.reason.code for r in refusals})))
        row = StoredArtifact(
            job.id, note.name, str(note.path.relative_to(root)), note.kind, note.modality, note.sop_class_uid,
            note.sop_instance_uid, note.series_instance_uid, note.bytes, note.digest, variant=note.variant,
        )  # fmt: skip
        rejections.register(self._db, row)
        return row
