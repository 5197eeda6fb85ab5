"""Structured reports: Comprehensive 3D SR with template TID 1500, built from highdicom's content templates.

Everything named has a planar group (TID 1410) with an outline on one slice and a second group with its numbers
(TID 1411; TID 1501 for the image quality), both under one tracking UID: OHIF draws the first with the numbers of the
second, and shows nothing of a report in which one tracking UID has no flat region. The planar group comes first because
OHIF takes the first outline of a tracking UID.

References
----------
PS3.3 section A.35.13 (Comprehensive 3D SR IOD), C.17; PS3.16 TID 1500, 1410, 1411, 1501, 4019, 1204, 1004.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import Comprehensive3DSRStorage

from dicom_io.model import Instance
from pipeline.result import Code, Measurement, Result
from sr_writer import codes
from sr_writer.content import COMMENT, LANGUAGES, observer, text_item
from sr_writer.header import Authorship, finish, new_object
from sr_writer.narrative import joined, paragraphs, undetermined
from sr_writer.outline import Outline, outline, spread_slices
from sr_writer.references import evidence, place
from sr_writer.sources import Sources
from sr_writer.tracked import QUALITY_ID, Tracked, tracked

VOLUME_OUTLINES = 7
"""Outlines that stand for a region without a segment in its volumetric group; the numbers come from the whole mask."""

_Group = (
    sr.PlanarROIMeasurementsAndQualitativeEvaluations
    | sr.VolumetricROIMeasurementsAndQualitativeEvaluations
    | sr.MeasurementsAndQualitativeEvaluations
)

_TITLE = DicomCode("126000", "DCM", "Imaging Measurement Report")
_MEASUREMENT_FAILURE = DicomCode("114006", "DCM", "Measurement failure")
_IMAGE_LIBRARY = DicomCode("111028", "DCM", "Image Library")
_IMAGE_LIBRARY_GROUP = DicomCode("126200", "DCM", "Image Library Group")
_SOURCE = DicomCode("260753009", "SCT", "Source")
_OPACITY = DicomCode("112001", "DCM", "Opacity")
_PRESENT = DicomCode("52101004", "SCT", "Present")
_ABSENT = DicomCode("272519000", "SCT", "Absent")
_UNDETERMINED = DicomCode("373068000", "SCT", "Undetermined")
_QUALITY_ASSESSMENT = DicomCode("111050", "DCM", "Quality Assessment")


def build(
    result: Result,
    sources: Sources,
    by: Authorship,
    segmentation: Dataset | None,
    predecessors: Sequence[Dataset] = (),
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
    """
    ds = new_object(by, kind="sr", sop_class_uid=Comprehensive3DSRStorage, modality="SR")
    things = tracked(result)
    groups = [group for thing in things for group in _groups(thing, result, sources, by, segmentation)]
    keys = dict.fromkeys(result.geometry.sop_instance_uids[t.key.z] for t in things)
    report = sr.MeasurementReport(
        observation_context=observer(by.identity),
        procedure_reported=_code(codes.procedure(result.pipeline)),
        imaging_measurements=groups,
        title=_TITLE,
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(LANGUAGES[by.languages[0]]),
    )
    root = report[0]
    # before the measurements (TID 1500 row 7); highdicom's own library fails on images without slice thickness
    root.ContentSequence.insert(-1, _image_library([sources.instances[uid] for uid in keys]))
    for tag in by.languages:
        narrative = paragraphs(result, tag, research=by.options.research, plain=True)
        root.ContentSequence.append(text_item(COMMENT, joined(narrative, tag), tag, by))
    for element in root:
        ds.add(element)
    ds.CompletionFlag, ds.VerificationFlag, ds.PreliminaryFlag = "COMPLETE", "UNVERIFIED", "PRELIMINARY"
    ds.PerformedProcedureCodeSequence, ds.ReferencedPerformedProcedureStepSequence = [], []
    seg = [] if segmentation is None else [segmentation]
    ds.CurrentRequestedProcedureEvidenceSequence = evidence([*map(place, sources.instances.values()), *seg])
    if predecessors:
        ds.PredecessorDocumentsSequence = evidence(predecessors)
    return finish(ds, by)


def _image_library(images: Sequence[Instance]) -> sr.ContainerContentItem:
    """Return the key images (TID 1600); the evidence sequence names all inputs."""
    group = sr.ContainerContentItem(name=_IMAGE_LIBRARY_GROUP, relationship_type="CONTAINS")
    group.ContentSequence = sr.ContentSequence(
        [
            sr.ImageContentItem(_SOURCE, i.sop_class_uid, i.sop_instance_uid, relationship_type="CONTAINS")
            for i in images
        ]
    )
    library = sr.ContainerContentItem(name=_IMAGE_LIBRARY, relationship_type="CONTAINS")
    library.ContentSequence = sr.ContentSequence([group])
    return library


def _groups(
    thing: Tracked, result: Result, sources: Sources, by: Authorship, segmentation: Dataset | None
) -> list[_Group]:  # fmt: skip
    """Return the planar group of one thing, then the group with its numbers."""
    identity = by.identity

    def region(shape: Outline) -> sr.ImageRegion:
        source = sources.instances[result.geometry.sop_instance_uids[shape.z]]
        return sr.ImageRegion(
            graphic_type=sr.GraphicTypeValues.POLYLINE,
            graphic_data=shape.points,
            source_image=sr.SourceImageForRegion(source.sop_class_uid, source.sop_instance_uid),
        )

    common: dict[str, Any] = {
        "tracking_identifier": sr.TrackingIdentifier(
            uid=identity.tracking_uid(thing.tracking_id), identifier=thing.tracking_id
        ),
        "finding_type": _code(thing.finding),
        "finding_category": None if thing.category is None else _code(thing.category),
        "finding_sites": [sr.FindingSite(_code(thing.anatomy), _optional(thing.laterality), _optional(thing.modifier))],
        "algorithm_id": sr.AlgorithmIdentification(
            name=identity.pipeline, version=identity.version,
            parameters=[f"weights {identity.weights_digest}", f"options {identity.options_digest}"],
        ),
    }  # fmt: skip
    planar = sr.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_region=region(thing.key), **common)
    if thing.tracking_id == QUALITY_ID:
        return [planar, _quality_group(result, sources, thing, by, common)]
    if thing.segment is not None and segmentation is not None:
        shown: dict[str, Any] = {
            "referenced_segment": sr.ReferencedSegment(
                segmentation.SOPClassUID, segmentation.SOPInstanceUID, thing.segment.number,
                source_series=sr.SourceSeriesForSegmentation(result.series_instance_uid),
            )
        }  # fmt: skip
    else:
        slices = spread_slices(thing.mask, VOLUME_OUTLINES)
        shown = {"referenced_regions": [region(outline(thing.mask, z)) for z in slices]}
    volumetric = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        measurements=[_measurement(m, by) for m in thing.measurements],
        qualitative_evaluations=[_whether_found(result)] if thing.site == "lungs" else None,
        **shown,
        **common,
    )
    return [planar, volumetric]


def _whether_found(result: Result) -> sr.QualitativeEvaluation:
    """State in code whether there is an opacity: a negative report says so, it is not just silent."""
    state = _PRESENT if result.findings else _UNDETERMINED if undetermined(result) else _ABSENT
    return sr.QualitativeEvaluation(name=_OPACITY, value=state)


def _quality_group(
    result: Result, sources: Sources, thing: Tracked, by: Authorship, common: Mapping[str, Any]
) -> sr.MeasurementsAndQualitativeEvaluations:
    grade = result.quality.grade
    source = sources.instances[result.geometry.sop_instance_uids[thing.key.z]]
    group = sr.MeasurementsAndQualitativeEvaluations(
        qualitative_evaluations=[
            sr.QualitativeEvaluation(_QUALITY_ASSESSMENT, _code(codes.assessment(grade))),
            sr.QualitativeEvaluation(
                _code(codes.concept("quality_grade")), _code(codes.concept(f"grade_{grade.lower()}"))
            ),
        ],
        source_images=[sr.SourceImageForMeasurementGroup(source.sop_class_uid, source.sop_instance_uid)],
        **common,
    )
    for found in result.quality.findings:
        for language in by.languages:
            group[0].ContentSequence.append(text_item(COMMENT, found.reason.text[language], language, by))
    return group


def _measurement(m: Measurement, by: Authorship) -> sr.Measurement:
    """Return a NUM item; one that cannot be given has a qualifier instead of a value (PS3.3 section C.18.1)."""
    term = codes.measurement(m.name)
    qualifiers = {
        "ok": None,
        "lower_bound": _code(codes.concept("lower_bound")),
        "not_computable": _MEASUREMENT_FAILURE,
    }
    value = 0.0 if m.value is None else float(m.value)
    # OHIF shows no qualifier, and nothing at all where a value is exactly 0; the meaning of the name it does show
    said = [codes.text("at_least", "en")] * (m.status == "lower_bound") + [codes.text("zero", "en")] * (m.value == 0)
    name = replace(term.code, meaning=", ".join([term.code.meaning, " ".join(said)])) if said else term.code
    item = sr.Measurement(name=_code(name), value=value, unit=_code(codes.unit(m.unit)), qualifier=qualifiers[m.status])
    if m.value is None:
        item[0].MeasuredValueSequence = []
    if m.reason is not None:
        children = [text_item(COMMENT, m.reason.text[tag], tag, by, "HAS PROPERTIES") for tag in by.languages]
        item[0].ContentSequence = sr.ContentSequence(children)
    return item


def _code(code: Code) -> sr.CodedConcept:
    version = codes.SCHEME_VERSION if code.scheme == codes.DESIGNATOR else None
    return sr.CodedConcept(code.value, code.scheme, code.meaning, version)


def _optional(code: Code | None) -> sr.CodedConcept | None:
    return None if code is None else _code(code)
