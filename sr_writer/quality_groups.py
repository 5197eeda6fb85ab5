"""What a report says of the images: the grade with every finding, and a flat region for each place.

One group (TID 1501) has the standard assessment, the grade, every finding as a code, its number with the limit beside it, and
everything once more in words. What is seen at one place has a group of its own (TID 1410) with the place as a region and the
same number, so that viewers draw it there.

A limit stands as the limit of the normal range of its number (TID 312): that is what it is, and which number it belongs to
stands in the tree.

References
----------
PS3.16 TID 1501, 1410, 300, 310 and 312 (Normal Range Properties), CID 7036 (Image Quality Assessment), CID 6135 (Image
Quality Finding), CID 223 (Normal Range Value).
"""

from collections.abc import Callable, Iterator

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as DicomCode

from pipeline.result import Code, QualityFinding, Result
from sr_writer import codes
from sr_writer.content import COMMENT, algorithm, coded, text_item
from sr_writer.header import Authorship
from sr_writer.narrative import remark_line, unjudged_lines
from sr_writer.quality import Remark, concepts, is_radiograph, only_quality, remarks

_ASSESSMENT = DicomCode("111050", "DCM", "Quality Assessment")
_SERIES_QUALITY = DicomCode("130550", "DCM", "Imaging Series Quality")
_FINDING = DicomCode("111052", "DCM", "Quality Finding")
_UPPER = DicomCode("371933006", "SCT", "Normal Range Upper Limit")
_LOWER = DicomCode("385524004", "SCT", "Normal Range Lower Limit")
Group = sr.PlanarROIMeasurementsAndQualitativeEvaluations
IMAGE_QUALITY = Code("111101", "DCM", "Image Quality")


def evaluations(result: Result) -> list[sr.QualitativeEvaluation]:
    """Return assessment, grade and every finding as codes; of a whole series the assessment as that of the series too."""
    grade = result.quality.grade
    assessment = coded(codes.assessment(grade))
    said = [sr.QualitativeEvaluation(_ASSESSMENT, assessment)]
    if only_quality(result) and not is_radiograph(result):
        said.append(sr.QualitativeEvaluation(_SERIES_QUALITY, assessment))
    names = coded(codes.concept("quality_grade")), coded(codes.concept(f"grade_{grade.lower()}"))
    said.append(sr.QualitativeEvaluation(*names))
    # a standard code may stand for several findings
    found = dict.fromkeys(code for remark in remarks(result) for code in concepts(remark.found))
    return [*said, *(sr.QualitativeEvaluation(_FINDING, coded(code)) for code in found)]


def measurements(result: Result) -> list[sr.Measurement]:
    """Return the number of every finding that has one, with its limit."""
    made = (_measurement(remark.found) for remark in remarks(result))
    return [item for item in made if item is not None]


def comments(result: Result, by: Authorship) -> Iterator[Dataset]:
    """Yield every finding, and what was not evaluated, in words."""
    for remark in remarks(result):
        yield from _said(remark, result, by)
    for lines in zip(*(unjudged_lines(result, tag) for tag in by.languages), strict=True):
        for tag, line in zip(by.languages, lines, strict=True):
            yield text_item(COMMENT, line, tag, by)


def place_groups(result: Result, by: Authorship, region: Callable[[Remark], sr.ImageRegion | None]) -> Iterator[Group]:
    """Yield one group for every finding that is seen at one place.

    Parameters
    ----------
    result : Result
        What was graded.
    by : Authorship
        Whose, by whom, when.
    region : Callable
        Returns the region of a finding on its image, or None.
    """
    for remark in remarks(result):
        own, shape = codes.quality_finding(remark.found.reason.code), region(remark)
        if shape is None:
            continue
        number = _measurement(remark.found)
        group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            referenced_region=shape,
            tracking_identifier=sr.TrackingIdentifier(
                uid=by.tracking_uid(remark.tracking_id), identifier=remark.tracking_id
            ),
            finding_type=coded(own or IMAGE_QUALITY),
            algorithm_id=algorithm(by),
            measurements=[] if number is None else [number],
            qualitative_evaluations=[
                sr.QualitativeEvaluation(_FINDING, coded(code)) for code in concepts(remark.found) or [IMAGE_QUALITY]
            ],
        )
        group[0].ContentSequence.extend(_said(remark, result, by))
        yield group


def _said(remark: Remark, result: Result, by: Authorship) -> Iterator[Dataset]:
    for tag in by.languages:
        line = remark_line(remark, tag, plain=True, hint=only_quality(result))
        yield text_item(COMMENT, line, tag, by)


def _measurement(found: QualityFinding) -> sr.Measurement | None:
    """Return the number of a finding with its limit; None for what nobody reads as a number."""
    own = codes.quality_finding(found.reason.code)
    if own is None or found.value is None or not found.unit:
        return None
    unit = coded(codes.unit(found.unit))
    item = sr.Measurement(coded(own), float(found.value), unit)
    if found.limit is not None:
        name = _LOWER if found.value < found.limit else _UPPER
        limit = sr.NumContentItem(coded(Code(*name[:3])), float(found.limit), unit, relationship_type="HAS PROPERTIES")
        item[0].ContentSequence = sr.ContentSequence([limit])
    return item
