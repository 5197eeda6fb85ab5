"""Rejection note (IHE Imaging Object Change Management): objects of ours that a later revision replaces.

An archive that knows it hides what the note names. One that named a patient's images would hide those, so a note is made
only of rows of our own artifacts whose files are still there to show that this installation authored them.

References
----------
PS3.3 section A.35.4 (Key Object Selection Document IOD), C.17.6.1; PS3.16 TID 2010, CID 7011; IHE RAD TF RAD-66.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import KeyObjectSelectionDocumentStorage

from dicom_io.files import make_folders
from dicom_io.model import Instance
from sr_writer import write
from sr_writer.codes import localise, text
from sr_writer.content import document, language, observer, reference_item, text_item
from sr_writer.encoding import Encoder
from sr_writer.header import Authorship, finish, new_object
from sr_writer.identity import AnalysisIdentity, authored_by
from sr_writer.options import WriterOptions
from sr_writer.profiles import Form, Piece
from sr_writer.references import evidence
from sr_writer.sources import Sources
from sr_writer.write import Artifact, Predecessor

_TITLE = DicomCode("113001", "DCM", "Rejected for Quality Reasons")
_DESCRIPTION = DicomCode("113012", "DCM", "Key Object Description")


class NotOursError(ValueError):
    """What was to be rejected is not, or not provably, an object of this installation about this study."""


def write_note(
    rows: Sequence[Predecessor], instances: Sequence[Instance], identity: AnalysisIdentity, options: WriterOptions,
    out: Path, now: datetime, revision: int,
) -> Artifact:  # fmt: skip
    """Write the note that rejects `rows` into the folder `out`, in a file that is named for its UID.

    Parameters
    ----------
    rows : Sequence[Predecessor]
        As for `build`.
    instances : Sequence[Instance]
        Images of the study: whose it is.
    identity : AnalysisIdentity
        Of what replaces the rows.
    options, now, revision
        As for `sr_writer.write.write_result`.

    Returns
    -------
    Artifact
        Its `variant` is the UIDs that it names, with spaces between them.

    Raises
    ------
    NotOursError
        As `build`.
    """
    by = write.authorship(Sources(instances), identity, options, now, revision)
    ds = build(rows, by)
    make_folders(out)
    return replace(write.put(ds, out, ds.SOPInstanceUID, Piece(Form("rejection")), Encoder()), variant=_variant(rows))


def _variant(rows: Sequence[Predecessor]) -> str:
    return " ".join(sorted(row.sop_instance_uid for row in rows))


def build(rows: Sequence[Predecessor], by: Authorship) -> Dataset:
    """Return the note that rejects objects of an earlier revision.

    Parameters
    ----------
    rows : Sequence[Predecessor]
        Objects of the earlier revision, with their files; at least one.
    by : Authorship
        Of the revision that replaces them.

    Raises
    ------
    NotOursError
        If one is an input of the analysis, its file is gone or is another object, this installation did not author it, or it is
        about another patient or study.
    """
    if not rows:
        raise NotOursError("a rejection note names at least one object")
    objects = [_own(row, by) for row in rows]
    said = "\r\n".join(text("rejected", tag, revision=by.revision) for tag in by.languages)
    ds = new_object(
        by, kind="rejection", sop_class_uid=KeyObjectSelectionDocumentStorage, modality="KO", variant=_variant(rows)
    )
    items = [language(by.languages[0]), *observer(by.identity), text_item(_DESCRIPTION, said, None, by)]
    root = document(_TITLE, [*items, *(reference_item(o.SOPClassUID, o.SOPInstanceUID) for o in objects)])
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "2010"
    root.ContentTemplateSequence = [template]
    localise(root, by.languages[0])
    for element in root:
        ds.add(element)
    ds.ReferencedPerformedProcedureStepSequence = []
    ds.CurrentRequestedProcedureEvidenceSequence = evidence(objects)
    return finish(ds, by)


def _own(row: Predecessor, by: Authorship) -> Dataset:
    """Return the header of an object that may be rejected."""
    identity = by.identity
    if row.path is None:
        raise NotOursError(f"{row.sop_instance_uid}: no file shows whose object it is")
    try:
        ds = dcmread(row.path, stop_before_pixels=True)
    except (OSError, InvalidDicomError) as error:
        raise NotOursError(f"{row.sop_instance_uid}: {row.path} cannot be read") from error
    named = (row.sop_class_uid, row.sop_instance_uid, row.series_instance_uid)
    if (ds.get("SOPClassUID"), ds.get("SOPInstanceUID"), ds.get("SeriesInstanceUID")) != named:
        raise NotOursError(f"{row.sop_instance_uid}: {row.path} is another object")
    if row.sop_instance_uid in {uid for uid, _ in identity.inputs}:
        raise NotOursError(f"{row.sop_instance_uid} is an image that the analysis used")
    if not authored_by(ds, identity.installation_id):
        raise NotOursError(f"{row.sop_instance_uid} was not authored by this installation")
    if (ds.get("StudyInstanceUID"), ds.get("PatientID")) != (identity.study_instance_uid, by.source.get("PatientID")):
        raise NotOursError(f"{row.sop_instance_uid} is about another patient or study")
    return ds
