"""The measurement groups of a report: one for the numbers of each thing, and one more with its outline.

Both trees of a report are made of these. The pure one has a group for each thing: TID 1411 where a segment shows it, else
TID 1501. The one with outlines puts a planar group (TID 1410) with an outline on one slice before it, under the same tracking
UID: OHIF draws that with the numbers of the other, and shows nothing of a report in which one tracking UID has no flat
region. The planar group comes first because OHIF takes the first outline of a tracking UID.
On a radiograph nothing has a volume: there both trees have one planar group a thing, with its outline and its numbers.

References
----------
PS3.16 TID 1410, 1411, 1501, 4019 (Algorithm Identification), 1210 and 1211 (Equivalent Meanings), CID 7036.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as DicomCode

from dicom_io.model import Instance
from pipeline.result import Code, Measurement, Projection, Result
from sr_writer import codes, quality_groups, suggestions
from sr_writer.content import COMMENT, algorithm, coded, text_item
from sr_writer.header import Authorship
from sr_writer.narrative import undetermined
from sr_writer.outline import Outline, Points, outline, spread_slices
from sr_writer.profiles import Tree
from sr_writer.quality import Remark, frame_points
from sr_writer.references import frame_numbers
from sr_writer.sources import Sources
from sr_writer.tracked import QUALITY_ID, Tracked

Group = (
    sr.PlanarROIMeasurementsAndQualitativeEvaluations
    | sr.VolumetricROIMeasurementsAndQualitativeEvaluations
    | sr.MeasurementsAndQualitativeEvaluations
)

VOLUME_OUTLINES = 7
"""Outlines that stand for a region without a segment in its volumetric group; the numbers come from the whole mask."""

_MEASUREMENT_FAILURE = DicomCode("114006", "DCM", "Measurement failure")
_OPACITY = Code("112001", "DCM", "Opacity")
_PRESENT = DicomCode("52101004", "SCT", "Present")
_ABSENT = DicomCode("272519000", "SCT", "Absent")
_UNDETERMINED = DicomCode("373068000", "SCT", "Undetermined")
_EQUIVALENT_NAME = DicomCode("121050", "DCM", "Equivalent Meaning of Concept Name")
_EQUIVALENT_VALUE = DicomCode("121051", "DCM", "Equivalent Meaning of Value")
_FINDING, _CATEGORY = "121071", "276214006"
_FIXED_NAMES = {_FINDING, _CATEGORY}
"""Names that the template gives; what every group has need not be said again."""
_WHOLE = "lungs"
"""The site whose group says what is present and what is not."""


class _Region(sr.ImageRegion):
    """An outline on an image of a scanner, which is never tiled.

    highdicom's own looks that up in a table of all attributes of all classes: 110 MB for each process, and half a second.
    """

    def __init__(self, points: Points, image: sr.SourceImageForRegion) -> None:
        sr.ScoordContentItem.__init__(
            self, sr.CodedConcept("111030", "DCM", "Image Region"), sr.GraphicTypeValues.POLYLINE, points,
            relationship_type=sr.RelationshipTypeValues.CONTAINS,
        )  # fmt: skip
        self.ContentSequence = [image]


@dataclass(frozen=True, eq=False)
class GroupWriter:
    """Writes the groups of one report.

    Parameters
    ----------
    result : Result
        What to report.
    sources : Sources
        Every input.
    by : Authorship
        Whose, by whom, when.
    segmentation : Dataset or None
        What shows the segments of the result: SOP Class and SOP Instance UID.
    tree : Tree
        Whether everything has an outline.
    """

    result: Result
    sources: Sources
    by: Authorship
    segmentation: Dataset | None
    tree: Tree

    def groups(self, thing: Tracked) -> Iterator[Group]:
        """Yield the planar group of one thing where the tree has one, then the group with its numbers."""
        common = self._common(thing)
        planar = isinstance(self.result.geometry, Projection)  # there one group has both outline and numbers
        without = thing.tracking_id == QUALITY_ID or thing.suggestion is not None
        if without if planar else self.tree == "outlines":
            region = self._region(thing.key)
            yield sr.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_region=region, **common)
        about_images = thing.tracking_id == QUALITY_ID
        if thing.suggestion is not None:
            group: Group = suggestions.group(thing.suggestion, self.by, common)
        else:
            group = self._quality(thing, common) if about_images else self._numbers(thing, common)
        groups = [group, *(quality_groups.place_groups(self.result, self.by, self._place) if about_images else ())]
        for made in groups:
            translate(made[0].ContentSequence, self.by)
            yield made

    def _common(self, thing: Tracked) -> dict[str, Any]:
        site = sr.FindingSite(coded(thing.anatomy), _optional(thing.laterality), _optional(thing.modifier))
        return {
            "tracking_identifier": sr.TrackingIdentifier(
                uid=self.by.tracking_uid(thing.tracking_id), identifier=thing.tracking_id
            ),
            "finding_type": coded(thing.finding),
            "finding_category": _optional(thing.category),
            "finding_sites": [site],
            "algorithm_id": algorithm(self.by),
        }

    def _region(self, shape: Outline) -> sr.ImageRegion:
        return self._on_image(shape.points, self.sources.images[self.result.geometry.images[shape.z]])

    @staticmethod
    def _on_image(points: Points, source: Instance) -> sr.ImageRegion:
        image = sr.SourceImageForRegion(source.sop_class_uid, source.sop_instance_uid, frame_numbers(source))
        return _Region(points, image)

    def _numbers(self, thing: Tracked, common: Mapping[str, Any]) -> Group:
        content = {
            **common,
            "measurements": [_measurement(m, self.by) for m in thing.measurements],
            "qualitative_evaluations": _whether_found(self.result) if thing.site == _WHOLE else None,
        }
        if isinstance(self.result.geometry, Projection):
            region = self._region(thing.key)
            return sr.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_region=region, **content)
        ds = self.segmentation
        if thing.segment is not None and ds is not None:
            segment = sr.ReferencedSegment(
                ds.SOPClassUID, ds.SOPInstanceUID, thing.segment.number,
                source_series=sr.SourceSeriesForSegmentation(self.result.series_instance_uid),
            )  # fmt: skip
            return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=segment, **content)
        if self.tree == "pure":
            return sr.MeasurementsAndQualitativeEvaluations(**content)
        regions = [self._region(outline(thing.mask, z)) for z in spread_slices(thing.mask, VOLUME_OUTLINES)]
        return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_regions=regions, **content)

    def _quality(self, thing: Tracked, common: Mapping[str, Any]) -> Group:
        source = self.sources.images[self.result.geometry.images[thing.key.z]]
        group = sr.MeasurementsAndQualitativeEvaluations(
            measurements=quality_groups.measurements(self.result) or None,
            qualitative_evaluations=quality_groups.evaluations(self.result),
            source_images=[
                sr.SourceImageForMeasurementGroup(source.sop_class_uid, source.sop_instance_uid, frame_numbers(source))
            ],
            **common,
        )
        group[0].ContentSequence.extend(quality_groups.comments(self.result, self.by))
        return group

    def _place(self, remark: Remark) -> sr.ImageRegion | None:
        """Return the place of a finding about the images as a region."""
        place = remark.found.place
        if place is None or place.image not in self.sources.images:
            return None
        points = frame_points(remark.found, self.result.geometry.shape[1:])
        return self._on_image(points, self.sources.images[place.image])


def emphasise(items: Iterable[Dataset], language: str) -> None:
    """Say in the meaning of a number's name that it is a lower bound, or zero.

    OHIF shows no qualifier, and nothing at all where a value is exactly 0; the meaning of the name it does show.
    """
    bound = codes.concept("lower_bound").value
    for item in items:
        emphasise(item.get("ContentSequence") or (), language)
        if item.ValueType != "NUM" or not item.MeasuredValueSequence:
            continue
        qualifiers = [str(q.CodeValue) for q in item.get("NumericValueQualifierCodeSequence") or ()]
        said = [codes.text("at_least", language)] * (bound in qualifiers)
        said += [codes.text("zero", language)] * (float(item.MeasuredValueSequence[0].NumericValue) == 0)
        if said:
            name = item.ConceptNameCodeSequence[0]
            name.CodeMeaning = codes.text("list", language).join([name.CodeMeaning, " ".join(said)])


def _whether_found(result: Result) -> list[sr.QualitativeEvaluation]:
    """State in code what is there and what is not: a negative report says so, it is not just silent."""
    state = _PRESENT if result.findings else _UNDETERMINED if undetermined(result) else _ABSENT
    out = [sr.QualitativeEvaluation(name=coded(_OPACITY), value=state)]
    numbers = {m.name: m for m in result.measurements if m.site == _WHOLE}
    for name, concept in codes.PRESENCE.items():
        if (m := numbers.get(name)) is not None:
            state = _PRESENT if m.value else _ABSENT if m.status == "ok" else _UNDETERMINED
            out.append(sr.QualitativeEvaluation(name=coded(codes.concept(concept)), value=state))
    return out


def _measurement(m: Measurement, by: Authorship) -> sr.Measurement:
    """Return a NUM item; one that cannot be given has a qualifier instead of a value (PS3.3 section C.18.1)."""
    qualifiers = {
        "ok": None,
        "lower_bound": coded(codes.concept("lower_bound")),
        "not_computable": _MEASUREMENT_FAILURE,
    }
    item = sr.Measurement(
        name=coded(codes.measurement(m.name).code), value=float(m.value or 0), unit=coded(codes.unit(m.unit)),
        qualifier=qualifiers[m.status],
    )  # fmt: skip
    if m.value is None:
        item[0].MeasuredValueSequence = []
    if m.reason is not None:
        children = [text_item(COMMENT, m.reason.text[tag], tag, by, "HAS PROPERTIES") for tag in by.languages]
        item[0].ContentSequence = sr.ContentSequence(children)
    return item


def translate(items: Iterable[Dataset], by: Authorship) -> None:
    """Say in the other languages what is measured and what is found (PS3.16 TID 1210, 1211)."""
    for item in items:
        if item.RelationshipType != "CONTAINS" or item.ValueType not in {"NUM", "CODE"}:
            continue
        name_code = item.ConceptNameCodeSequence[0]
        said = [] if name_code.CodeValue in _FIXED_NAMES else [(_EQUIVALENT_NAME, name_code)]
        if item.ValueType == "CODE" and name_code.CodeValue != _CATEGORY:
            said.append((_EQUIVALENT_VALUE, item.ConceptCodeSequence[0]))
        children = []
        for name, code in said:
            for tag in by.languages[1:]:
                meaning = codes.meaning(code, tag) or (str(code.CodeMeaning) if tag == "en" else None)
                if meaning:
                    children.append(text_item(name, meaning, tag, by, "HAS CONCEPT MOD"))
        if children:
            item.ContentSequence = sr.ContentSequence([*children, *(item.get("ContentSequence") or ())])


def _optional(code: Code | None) -> sr.CodedConcept | None:
    return None if code is None else coded(code)
