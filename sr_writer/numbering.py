"""The order in which segments are numbered: the one in which viewers go through the images.

OHIF 3.13.2 puts segments that share no voxel into one layer, in the order of their numbers. A segment that ends, in the
viewer's order of slices, before the layer does is drawn only on slices that the layer has already: on all others it is lost,
without a word. Viewers sort slices from the last of our stack to the first (from the head down), so segments that are
numbered by where they end, downwards, are all drawn.
"""

from dataclasses import replace

import numpy as np

from pipeline.result import Mask, Result


def in_viewing_order(result: Result) -> Result:
    """Return the same result with other segment numbers: what shows a region first, then what shows a finding.

    Parameters
    ----------
    result : Result
        Its names and findings stay as they are.
    """
    found = {f.segment_number for f in result.findings}
    order = sorted(result.segments, key=lambda s: (s.number in found, -_lowest(s.mask)))
    number = {s.number: n for n, s in enumerate(order, start=1)}
    return replace(
        result,
        segments=tuple(replace(s, number=number[s.number]) for s in order),
        findings=tuple(
            f if f.segment_number is None else replace(f, segment_number=number[f.segment_number])
            for f in result.findings
        ),
    )


def _lowest(mask: Mask) -> int:
    """Return the first slice of the stack on which there is something to see."""
    filled = np.flatnonzero(mask.box.any(axis=(1, 2)))
    return mask.offset[0] + (int(filled[0]) if filled.size else 0)
