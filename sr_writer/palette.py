"""The colour of every segment and region, the same in the segmentation, the picture and the report."""

from pipeline.result import Result, Segment
from sr_writer.codes import FINDING_COLOURS, site_colour

Colour = tuple[int, int, int]


def segment_colours(result: Result) -> dict[int, Colour]:
    """Return sRGB per segment number: its own, else findings in turn, everything else by side."""
    shown = [f.segment_number for f in result.findings if f.segment_number is not None]
    colours: dict[int, Colour] = {}
    for segment in result.segments:
        if segment.colour is not None:
            colours[segment.number] = segment.colour
        elif segment.number in shown:
            colours[segment.number] = FINDING_COLOURS[shown.index(segment.number) % len(FINDING_COLOURS)]
        else:
            colours[segment.number] = site_colour(segment.site)
    return colours


def anatomy_segments(result: Result) -> tuple[Segment, ...]:
    """Return the segments that show a region rather than a finding."""
    shown = {f.segment_number for f in result.findings}
    return tuple(s for s in result.segments if s.number not in shown)
