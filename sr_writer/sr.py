"""Structured reports: Comprehensive 3D SR with template TID 1500, the root of everything that one analysis gives.

The report refers to every object that goes with it, so that who has it can find the rest (IHE AI Results). Its groups are
those of `sr_writer.groups`: reports of both trees say the same under the same tracking UIDs.

References
----------
PS3.3 section A.35.13 (Comprehensive 3D SR IOD), C.17; PS3.16 TID 1500, 1600, 1501, 1204, 1004.
"""

from collections.abc import Iterable, Mapping, Sequence

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import (
    Comprehensive3DSRStorage,
)

from dicom_io.model import Instance
from pipeline.result import Code, Result
from sr_writer import codes
from sr_writer.content import COMMENT, LANGUAGES, coded, image_item, observer, reference_item, text_item
from sr_writer.groups import Group, GroupWriter, emphasise
from sr_writer.header import Authorship, finish, new_object
from sr_writer.narrative import Paragraph, joined, paragraphs
from sr_writer.profiles import Tree
from sr_writer.references import evidence, place
from sr_writer.sources import Sources
from sr_writer.tracked import tracked

_TITLE = DicomCode("126000", "DCM", "Imaging Measurement Report")
_IMAGE_LIBRARY = DicomCode("111028", "DCM", "Image Library")
_IMAGE_LIBRARY_GROUP = DicomCode("126200", "DCM", "Image Library Group")
_SOURCE = DicomCode("260753009", "SCT", "Source")


def build(
    result: Result,
    sources: Sources,
    by: Authorship,
    segmentation: Dataset | None,
    predecessors: Sequence[Dataset] = (),
    *,
    beside: Sequence[Dataset] = (),
    tree: Tree = "outlines",
) -> Dataset:
    """Return the report of `result`.

    Parameters
    ----------
    result : Result
        What to report; a negative one still names lungs and image quality.
    sources : Sources
        Every input.
    by : Authorship
        Whose, by whom, when.
    segmentation : Dataset or None
        The segmentation of the same result; None if it has no segment.
    predecessors : Sequence[Dataset]
        Reports of earlier revisions: Study, Series, SOP Class and SOP Instance UID.
    beside : Sequence[Dataset]
        The other objects that go with the report, likewise.
    tree : Tree
        ``outlines``: everything named has an outline on an image; ``pure``: as IHE AI Results wants it.
    """
    things = tracked(result)
    writer = GroupWriter(result, sources, by, segmentation, tree)
    groups = [group for thing in things for group in writer.groups(thing)]
    keys = dict.fromkeys(result.geometry.images[t.key.z] for t in things)
    others = [*([] if segmentation is None else [segmentation]), *beside]
    said = {tag: paragraphs(result, tag, research=by.options.research, plain=True) for tag in by.languages}
    ds = new_object(by, kind="sr", sop_class_uid=Comprehensive3DSRStorage, modality="SR")
    fill(ds, by, codes.procedure(result.pipeline), groups, [sources.images[key] for key in keys], others, said)
    if tree == "outlines":
        emphasise(ds.ContentSequence, by.languages[0])
    ds.CurrentRequestedProcedureEvidenceSequence = evidence([*map(place, sources.instances.values()), *others])
    if predecessors:
        ds.PredecessorDocumentsSequence = evidence(predecessors)
    return finish(ds, by)


def fill(
    ds: Dataset, by: Authorship, procedure: Code, groups: Sequence[Group], keys: Sequence[Instance],
    others: Sequence[Dataset], said: Mapping[str, Iterable[Paragraph]],
) -> None:  # fmt: skip
    """Put the content tree of TID 1500, and what every report says of itself, into `ds`.

    Parameters
    ----------
    ds : Dataset
        The report.
    by : Authorship
        Whose, by whom, when.
    procedure : Code
        The imaging procedure that was analysed.
    groups : Sequence[Group]
        Measurement groups, at least one.
    keys : Sequence[Instance]
        Images of the library.
    others : Sequence[Dataset]
        The other objects of the analysis.
    said : Mapping[str, Iterable[Paragraph]]
        The narrative in every language.
    """
    report = sr.MeasurementReport(
        observation_context=observer(by.identity),
        procedure_reported=coded(procedure),
        imaging_measurements=groups,
        title=_TITLE,
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(LANGUAGES[by.languages[0]]),
    )
    root = report[0]
    # before the measurements (TID 1500 row 7); highdicom's own library fails on images without slice thickness
    root.ContentSequence.insert(-1, _image_library(keys))
    if others:
        root.ContentSequence.append(_others(others))
    for tag, narrative in said.items():
        root.ContentSequence.append(text_item(COMMENT, joined(narrative, tag), tag, by))
    for element in root:
        ds.add(element)
    codes.localise(ds, by.languages[0])
    ds.CompletionFlag, ds.VerificationFlag, ds.PreliminaryFlag = "COMPLETE", "UNVERIFIED", "PRELIMINARY"
    ds.PerformedProcedureCodeSequence, ds.ReferencedPerformedProcedureStepSequence = [], []


def _image_library(images: Sequence[Instance]) -> sr.ContainerContentItem:
    """Return the key images (TID 1600); the evidence sequence names all inputs."""
    items = [image_item(image, _SOURCE) for image in images]
    return _container(_IMAGE_LIBRARY, [_container(_IMAGE_LIBRARY_GROUP, items)])


def _others(objects: Iterable[Dataset]) -> sr.ContainerContentItem:
    """Return references to the other objects of the analysis; one to a series of pictures names its first."""
    name, items, series = coded(codes.concept("result_object")), list[Dataset](), set[str]()
    for ds in objects:
        if ds.SeriesInstanceUID in series:
            continue  # the evidence sequence names all
        series.add(ds.SeriesInstanceUID)
        items.append(reference_item(ds.SOPClassUID, ds.SOPInstanceUID, name))
    return _container(coded(codes.concept("result_objects")), items)


def _container(name: DicomCode | sr.CodedConcept, items: Sequence[Dataset]) -> sr.ContainerContentItem:
    container = sr.ContainerContentItem(name=name, relationship_type="CONTAINS")
    container.ContentSequence = DicomSequence(items)
    return container
