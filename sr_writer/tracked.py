"""What the report names: every region, finding and the image quality, with one tracking identity each."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from dicom_io.model import ImageKey
from pipeline.result import Code, Finding, Mask, Measurement, Result, Segment, Suggestion
from sr_writer.codes import concept, site_modifier
from sr_writer.outline import Outline, largest_slice, outline
from sr_writer.palette import anatomy_segments

MORPHOLOGY = Code("49755003", "SCT", "Morphologically Abnormal Structure")
ANATOMY = Code("91723000", "SCT", "Anatomical Structure")
QUALITY_ID = "image quality"


@dataclass(frozen=True, slots=True, eq=False)
class Tracked:
    """One thing that the report names.

    Parameters
    ----------
    tracking_id : str
        Readable identity, unique in the report and equal in the segmentation.
    site : str
        Region it is or lies in.
    finding : Code
        What it is.
    category : Code or None
        Anatomy or abnormality; None for the image quality.
    anatomy : Code
        Where, without side.
    laterality, modifier : Code or None
        Side, and what narrows the anatomy.
    mask : Mask
        What the numbers were taken from.
    key : Outline
        Its outline on its largest slice.
    segment : Segment or None
        What shows it in the segmentation.
    measurements : Sequence[Measurement]
        Its numbers.
    suggestion : Suggestion or None
        What rules make of the region, where it stands for that.
    """

    tracking_id: str
    site: str
    finding: Code
    category: Code | None
    anatomy: Code
    laterality: Code | None
    modifier: Code | None
    mask: Mask
    key: Outline
    segment: Segment | None = None
    measurements: Sequence[Measurement] = field(default=())
    suggestion: Suggestion | None = None


def tracked(result: Result) -> tuple[Tracked, ...]:
    """Return the findings, the regions that have numbers, what is suggested, then the image quality.

    Raises
    ------
    ValueError
        If two things would share a tracking identity, or a finding has neither segment nor site.
    """
    things = [*_findings(result), *_regions(result), *_suggestions(result), _quality(result)]
    names = [t.tracking_id for t in things]
    if len(set(names)) < len(names):
        raise ValueError(f"tracking identifiers are not unique: {sorted(n for n in names if names.count(n) > 1)}")
    return tuple(things)


def finding_mask(result: Result, finding: Finding) -> Mask:
    """Return what shows a finding: its segment, or the region that it lies in."""
    number = finding.segment_number
    return result.region(finding.site).mask if number is None else result.segments[number - 1].mask


def finding_keys(result: Result) -> list[ImageKey]:
    """Return the images of the slices on which the findings are largest, in the order of the slices."""
    slices = {largest_slice(finding_mask(result, finding)) for finding in result.findings}
    return [result.geometry.images[z] for z in sorted(slices)]


def main_mask(result: Result) -> Mask:
    """Return what was examined: the lungs, else the largest region beside the body."""
    sites = {r.site: r.mask for r in result.regions}
    return sites.get("lungs") or max(
        (m for s, m in sites.items() if s != "body"), key=lambda m: m.voxels, default=sites["body"]
    )


def _findings(result: Result) -> list[Tracked]:
    out = []
    for finding in result.findings:
        region = result.region(finding.site)
        segment = None if finding.segment_number is None else result.segments[finding.segment_number - 1]
        mask = finding_mask(result, finding)
        out.append(
            Tracked(
                finding.tracking_id, finding.site, finding.code, MORPHOLOGY, region.anatomy,
                finding.laterality or region.laterality, site_modifier(finding.site), mask,
                outline(mask, largest_slice(mask)), segment, finding.measurements,
            )
        )  # fmt: skip
    return out


def _regions(result: Result) -> list[Tracked]:
    segments = {s.site: s for s in anatomy_segments(result)}
    named = {m.site for m in result.measurements} | set(segments)
    out = []
    for region in result.regions:
        if region.site not in named:
            continue
        segment = segments.get(region.site)
        mask = region.mask if segment is None else segment.mask
        out.append(
            Tracked(
                region.site.replace("_", " ") if segment is None else segment.tracking_id, region.site, region.anatomy,
                ANATOMY, region.anatomy, region.laterality, site_modifier(region.site), mask,
                outline(mask, largest_slice(mask)), segment,
                tuple(m for m in result.measurements if m.site == region.site),
            )
        )  # fmt: skip
    return out


def _suggestions(result: Result) -> list[Tracked]:
    out = []
    for one in result.suggestions:
        region = result.region("lungs")
        out.append(
            Tracked(
                f"suggestion: {one.name.replace('_', ' ')}", region.site, concept(one.name), None, region.anatomy,
                region.laterality, None, region.mask, outline(region.mask, largest_slice(region.mask)), suggestion=one,
            )
        )  # fmt: skip
    return out


def _quality(result: Result) -> Tracked:
    body = result.region("body")
    return Tracked(
        QUALITY_ID, "body", Code("111101", "DCM", "Image Quality"), None, body.anatomy, None, None, body.mask,
        outline(body.mask, largest_slice(body.mask)),
    )  # fmt: skip
