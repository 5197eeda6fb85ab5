"""Encapsulated PDF: the report as a document, for archives and viewers that show nothing else of ours.

Agreed: ``build(result, volume, sources, by) -> Dataset``, and where there is no result
``build_card(reason, outcome, considered, sources, by) -> Dataset``.

Every page names the patient, as a PACS expects of a document: what is printed or exported has left its header behind.
Therefore Burned In Annotation is YES.

References
----------
PS3.3 section A.45.1 (Encapsulated PDF IOD), C.24.2 (Encapsulated Document).
"""

from collections.abc import Iterable, Sequence
from typing import Literal

from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage

from dicom_io.model import Instance
from dicom_io.reason import Reason
from pipeline.result import Code, Result
from sr_writer import pdf_report
from sr_writer.codes import coded
from sr_writer.considered import Considered, card_variant
from sr_writer.header import Authorship, finish, new_object
from sr_writer.radiograph import Values
from sr_writer.references import reference
from sr_writer.sources import Sources
from sr_writer.summary import key_images

_TITLE = Code("18748-4", "LN", "Diagnostic Imaging Report")


def build(result: Result, values: Values, sources: Sources, by: Authorship) -> Dataset:
    """Return the document about `result`.

    Parameters
    ----------
    result : Result
        What to report; a negative one says so.
    values : Values
        What it was computed from, for the pictures.
    sources : Sources
        Every input.
    by : Authorship
        Whose, by whom, when.
    """
    keys = [sources.images[key] for key in key_images(result)]
    return _document(pdf_report.of_result(result, values, sources, by), keys, by)


def build_card(
    reason: Reason,
    outcome: Literal["not_analysed", "failed"],
    considered: Sequence[Considered],
    sources: Sources,
    by: Authorship,
) -> Dataset:
    """Return the document that says why there is no result.

    Parameters
    ----------
    reason : Reason
        Why.
    outcome : {"not_analysed", "failed"}
        Whether it worked as designed.
    considered : Sequence[Considered]
        Series that were looked at, with what was thought of them.
    sources : Sources
        What was looked at.
    by : Authorship
        Whose, by whom, when.
    """
    first_of_series = {i.series_instance_uid: i for i in reversed(sources.instances.values())}
    pages = pdf_report.of_card(reason, outcome, considered, by)
    return _document(pages, first_of_series.values(), by, card_variant(reason, outcome, considered))


def _document(pages: bytes, sources: Iterable[Instance], by: Authorship, variant: str = "") -> Dataset:
    ds = new_object(by, kind="pdf", sop_class_uid=EncapsulatedPDFStorage, modality="DOC", variant=variant)
    ds.ConversionType = "SYN"
    ds.AcquisitionDateTime = ""
    ds.BurnedInAnnotation = "YES"
    ds.RecognizableVisualFeatures = "NO"
    ds.DocumentTitle = f"AI report, unverified: {by.identity.pipeline} {by.identity.version}"
    ds.ConceptNameCodeSequence = [coded(_TITLE)]
    ds.SourceInstanceSequence = [
        reference(*uids) for uids in dict.fromkeys((i.sop_class_uid, i.sop_instance_uid) for i in sources)
    ]
    ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
    ds.EncapsulatedDocument = pages + b"\0" * (len(pages) % 2)
    ds.EncapsulatedDocumentLength = len(pages)
    return finish(ds, by)
