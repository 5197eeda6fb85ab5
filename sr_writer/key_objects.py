"""Key Object Selection: the slices on which the findings are largest, marked "Of Interest"; images that are bad, "Quality Issue".

Agreed: ``build(result, sources, by) -> Dataset | None``; None without findings, for then nothing is of interest; and
``build_issue`` likewise, None without an alarm. A Quality Issue hides nothing: archives hide what a rejection note names
(113001), and whether an image is rejected is a person's to say.

References
----------
PS3.3 section A.35.4 (Key Object Selection Document IOD), C.17.6.1; PS3.16 TID 2010, which allows no concept name on IMAGE.
"""

from collections.abc import Sequence

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import KeyObjectSelectionDocumentStorage

from dicom_io.model import Instance
from pipeline.result import Code, Result
from sr_writer import codes
from sr_writer.codes import localise
from sr_writer.content import coded, document, image_item, language, observer, text_item
from sr_writer.header import Authorship, finish, new_object
from sr_writer.narrative import conclusion, remark_line
from sr_writer.profiles import ObjectName
from sr_writer.quality import bad_images, only_quality, remarks
from sr_writer.references import evidence, place
from sr_writer.sources import Sources
from sr_writer.tracked import finding_keys

_OF_INTEREST = DicomCode("113000", "DCM", "Of Interest")
_QUALITY_ISSUE = DicomCode("113010", "DCM", "Quality Issue")
_MODIFIER = DicomCode("113011", "DCM", "Document Title Modifier")
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
    said = "\r\n".join(f"AI: {conclusion(result, tag)}" for tag in by.languages)
    items = [_image([image]) for image in images]
    return _selection("kos", _OF_INTEREST, (), said, items, images, by)


def build_issue(result: Result, sources: Sources, by: Authorship) -> Dataset | None:
    """Return the images that alarms are about, and why; None without an alarm, or of what is no grade of images.

    Parameters
    ----------
    result : Result
        What was graded.
    sources : Sources
        Every input.
    by : Authorship
        Whose, by whom, when.
    """
    images = [sources.images[key] for key in bad_images(result, sources.images)] if only_quality(result) else []
    if not images:
        return None
    alarms = [r for r in remarks(result) if r.alarm]
    why = dict.fromkeys(codes.title_modifier(r.found.reason.code) for r in alarms)
    lines = []
    for tag in by.languages:
        grade = codes.concept_label(f"grade_{result.quality.grade.lower()}", tag)
        lines.append("AI: " + codes.text("grade", tag, grade=grade))
        lines += [remark_line(r, tag, plain=True, hint=True) for r in alarms]
    together: dict[str, list[Instance]] = {}
    for image in images:
        together.setdefault(image.sop_instance_uid, []).append(image)
    items = [_image(frames) for frames in together.values()]
    modifiers = [code for code in why if code is not None]
    return _selection("quality_kos", _QUALITY_ISSUE, modifiers, "\r\n".join(lines), items, images, by)


def _selection(
    kind: ObjectName, title: DicomCode, modifiers: Sequence[Code], said: str, items: Sequence[Dataset],
    images: Sequence[Instance], by: Authorship,
) -> Dataset:  # fmt: skip
    ds = new_object(by, kind=kind, sop_class_uid=KeyObjectSelectionDocumentStorage, modality="KO")
    context = [language(by.languages[0]), *(_modifier(code) for code in modifiers), *observer(by.identity)]
    root = document(title, [*context, text_item(_DESCRIPTION, said, None, by), *items])
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "2010"
    root.ContentTemplateSequence = [template]
    localise(root, by.languages[0])
    for element in root:
        ds.add(element)
    ds.ReferencedPerformedProcedureStepSequence = []
    ds.CurrentRequestedProcedureEvidenceSequence = evidence(map(place, images))
    return finish(ds, by)


def _modifier(code: Code) -> Dataset:
    """Return why, as a code of CID 7011, which TID 2010 allows under this title."""
    return sr.CodeContentItem(_MODIFIER, coded(code), relationship_type="HAS CONCEPT MOD")


def _image(frames: Sequence[Instance]) -> Dataset:
    """Return one image, or several frames of one instance."""
    item = image_item(frames[0], _OF_INTEREST)
    if len(frames) > 1:
        item.ReferencedSOPSequence[0].ReferencedFrameNumber = [image.frame for image in frames]
    del item.ConceptNameCodeSequence
    return item
