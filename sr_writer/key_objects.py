"""Key Object Selection: the slices on which the findings are largest, marked "Of Interest".

Agreed: ``build(result, sources, by) -> Dataset | None``; None without findings, for then nothing is of interest.

References
----------
PS3.3 section A.35.4 (Key Object Selection Document IOD), C.17.6.1; PS3.16 TID 2010, which allows no concept name on IMAGE.
"""

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import KeyObjectSelectionDocumentStorage

from dicom_io.model import Instance
from pipeline.result import Result
from sr_writer.codes import localise
from sr_writer.content import document, image_item, language, observer, text_item
from sr_writer.header import Authorship, finish, new_object
from sr_writer.narrative import conclusion
from sr_writer.references import evidence, place
from sr_writer.sources import Sources
from sr_writer.tracked import finding_keys

_OF_INTEREST = DicomCode("113000", "DCM", "Of Interest")
_DESCRIPTION = DicomCode("113012", "DCM", "Key Object Description")


def build(result: Result, sources: Sources, by: Authorship) -> Dataset | None:
    """Return the key images of `result`, or None if nothing was found.

    Parameters
    ----------
    result : Result
        What was found.
    sources : Sources
        Every input.
    by : Authorship
        Whose, by whom, when.
    """
    images = [sources.images[key] for key in finding_keys(result)]
    if not images:
        return None
    ds = new_object(by, kind="kos", sop_class_uid=KeyObjectSelectionDocumentStorage, modality="KO")
    said = "\r\n".join(f"AI: {conclusion(result, tag)}" for tag in by.languages)
    items = [language(by.languages[0]), *observer(by.identity), text_item(_DESCRIPTION, said, None, by)]
    root = document(_OF_INTEREST, [*items, *map(_image, images)])
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "2010"
    root.ContentTemplateSequence = [template]
    localise(root, by.languages[0])
    for element in root:
        ds.add(element)
    ds.ReferencedPerformedProcedureStepSequence = []
    ds.CurrentRequestedProcedureEvidenceSequence = evidence(map(place, images))
    return finish(ds, by)


def _image(image: Instance) -> Dataset:
    item = image_item(image, _OF_INTEREST)
    del item.ConceptNameCodeSequence
    return item
