"""Segments are numbered so that OHIF draws all of them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.result import Mask, Result
from sr_writer.numbering import in_viewing_order

pytestmark = pytest.mark.unit


def drawn(result: Result) -> dict[str, int]:
    """Return how many pixels OHIF 3.13.2 draws of each segment; its adapter puts them into layers like this.

    A layer is a sparse list of slices in the viewer's order. What is merged are the slices that the longer list has.
    """
    slices = result.geometry.shape[0]
    layers: list[dict[int, np.ndarray]] = []
    for segment in result.segments:
        there = range(segment.mask.offset[0], segment.mask.offset[0] + segment.mask.box.shape[0])
        new = {slices - 1 - z: segment.mask.plane(z) * segment.number for z in there if segment.mask.plane(z).any()}
        for layer in layers:
            if any((layer[k] * new[k]).any() for k in layer.keys() & new.keys()):
                continue
            longer = layer if max(layer) > max(new) else new
            for k in list(longer):
                if k in new:
                    layer[k] = np.where(layer[k], layer[k], new[k]) if k in layer else new[k]
            break
        else:
            layers.append(new)
    count = {
        s.number: sum(int((plane == s.number).sum()) for layer in layers for plane in layer.values())
        for s in result.segments
    }
    return {s.tracking_id: count[s.number] for s in result.segments}


def test_every_pixel_of_every_segment_is_drawn(positive: Any) -> None:
    case = positive.result
    voxels = {s.tracking_id: s.mask.voxels for s in case.segments}
    assert drawn(case) != voxels, "by size something is lost: else this shows nothing"
    ordered = in_viewing_order(case)
    assert drawn(ordered) == voxels


def test_nothing_but_numbers_changes(positive: Any) -> None:
    case = positive.result
    ordered = in_viewing_order(case)
    assert [s.number for s in ordered.segments] == list(range(1, len(case.segments) + 1))
    assert {s.tracking_id: (s.label, s.site, s.kind, id(s.mask)) for s in ordered.segments} == {
        s.tracking_id: (s.label, s.site, s.kind, id(s.mask)) for s in case.segments
    }
    assert [replace(f, segment_number=None) for f in ordered.findings] == [
        replace(f, segment_number=None) for f in case.findings
    ]
    for finding in ordered.findings:
        assert ordered.segments[finding.segment_number - 1].tracking_id == finding.tracking_id
    regions = [s.tracking_id for s in ordered.segments[:2]]
    assert sorted(regions) == ["left lung", "right lung"]
    assert [s.tracking_id for s in in_viewing_order(ordered).segments] == [s.tracking_id for s in ordered.segments]


def test_a_lung_that_ends_lower_comes_last(positive: Any) -> None:
    """Of two lungs that reach differently far up and down, neither loses a slice."""
    left, right = (np.zeros(positive.result.geometry.shape, bool) for _ in range(2))
    left[2:12, 4:9, 4:9], right[5:20, 4:9, 20:25] = True, True
    segments = tuple(
        replace(s, mask=Mask.of(mask)) for s, mask in zip(positive.result.segments[:2], (left, right), strict=True)
    )
    case = replace(positive.result, segments=segments, findings=())
    assert drawn(case)["right lung"] < int(right.sum())
    assert drawn(in_viewing_order(case)) == {"left lung": int(left.sum()), "right lung": int(right.sum())}
