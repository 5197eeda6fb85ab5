"""What is found again in a later revision keeps its name and its Tracking UID; what is new gets others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from pipeline.result import Finding, Mask, Result, Segment
from sr_writer import write
from sr_writer.tracking import follow

pytestmark = pytest.mark.unit


def _renumbered(result: Result, order: list[int]) -> Result:
    """Return the same findings in another order, named by their new places, as a pipeline would."""
    findings, segments = [], list(result.segments[:2])
    for n, k in enumerate(order, start=1):
        old, shown = result.findings[k], result.segments[result.findings[k].segment_number - 1]  # type: ignore[operator]
        name = f"opacity {n}"
        segments.append(
            replace(shown, number=n + 2, tracking_id=name, label={"en": f"Opacity {n}", "zh-CN": f"致密影 {n}"})
        )
        findings.append(replace(old, tracking_id=name, segment_number=n + 2))
    return replace(result, findings=tuple(findings), segments=tuple(segments))


@pytest.fixture(scope="module")
def before(positive: Any, helpers: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, write.Artifact]:
    return {a.kind: a for a in helpers.write(positive, tmp_path_factory.mktemp("before"))}


def _paths(before: dict[str, write.Artifact]) -> list[Path]:
    return [a.path for a in before.values()]


def _centres(result: Result) -> dict[str, tuple[float, ...]]:
    return {f.tracking_id: f.centroid_mm for f in result.findings}


def test_25_findings_keep_names_and_uids_in_another_order(positive: Any, before: dict[str, write.Artifact]) -> None:
    turned = _renumbered(positive.result, list(range(len(positive.result.findings)))[::-1])
    result, known = follow(turned, _paths(before))
    assert _centres(result) == _centres(positive.result)
    assert [f.tracking_id for f in result.findings] != [f.tracking_id for f in positive.result.findings]
    for finding in result.findings:
        segment = result.segments[finding.segment_number - 1]  # type: ignore[operator]
        number = finding.tracking_id.split()[-1]
        assert segment.tracking_id == finding.tracking_id
        assert dict(segment.label) == {"en": f"Opacity {number}", "zh-CN": f"致密影 {number}"}
        assert known[finding.tracking_id] == positive.identity.tracking_uid(finding.tracking_id)


def test_25_report_and_segmentation_of_the_next_revision_carry_them(
    positive: Any, before: dict[str, write.Artifact], helpers: Any, tmp_path: Path
) -> None:
    identity = positive.identified(weights_digest="sha256:" + "12" * 32)
    turned = _renumbered(positive.result, list(range(len(positive.result.findings)))[::-1])
    result, known = follow(turned, _paths(before))
    after = {
        a.kind: pydicom.dcmread(a.path)
        for a in helpers.write(replace(positive, result=result), tmp_path, identity=identity, revision=2, tracks=known)
    }
    old = {a.kind: pydicom.dcmread(a.path) for a in before.values()}
    for kind in ("seg", "sr"):
        assert old[kind].SOPInstanceUID != after[kind].SOPInstanceUID
    pairs = [{(str(s.TrackingID), str(s.TrackingUID)) for s in ds["seg"].SegmentSequence} for ds in (old, after)]
    assert pairs[0] == pairs[1]


def test_25_what_is_new_gets_a_name_that_was_not_used(positive: Any, before: dict[str, write.Artifact]) -> None:
    shape = positive.result.geometry.shape
    corner = np.zeros(shape, bool)
    corner[:2, :3, :3] = True
    count = len(positive.result.findings)
    lesion = Segment(
        count + 3, {"en": f"Opacity {count + 1}"}, f"opacity {count + 1}", "left_lung", positive.result.segments[2].category,
        positive.result.segments[2].kind, None, Mask.of(corner),
    )  # fmt: skip
    first = positive.result.findings[0]
    new = Finding(lesion.tracking_id, first.code, "left_lung", None, (0.0, 0.0, 0.0), (), lesion.number)
    grown = replace(
        positive.result, findings=(*positive.result.findings, new), segments=(*positive.result.segments, lesion)
    )
    # the new one comes first, as the largest would
    n = len(grown.findings)
    result, known = follow(_renumbered(grown, [n - 1, *range(n - 1)]), _paths(before))
    assert [f.tracking_id for f in result.findings] == [f"opacity {n}", *(f"opacity {k}" for k in range(1, n))]
    assert f"opacity {n}" not in known


def test_25_half_is_not_the_same(positive: Any, before: dict[str, write.Artifact]) -> None:
    """A finding that covers less than half of what it and the old one cover together is another one."""
    k = max(range(len(positive.result.findings)), key=lambda i: positive.result.segments[i + 2].mask.voxels)
    segment = positive.result.segments[k + 2]
    whole = np.zeros(segment.mask.shape, bool)
    segment.mask.paint(whole)
    inside = np.argwhere(whole)
    for share, same in ((0.7, True), (0.4, False)):
        part = np.zeros_like(whole)
        part[tuple(inside[: int(share * len(inside))].T)] = True
        segments = tuple(replace(s, mask=Mask.of(part)) if s is segment else s for s in positive.result.segments)
        result, known = follow(replace(positive.result, segments=segments), _paths(before))
        assert (result.findings[k].tracking_id in known) == same, share


def test_25_a_late_slice_changes_no_identity(positive: Any, helpers: Any, tmp_path: Path) -> None:
    """Revision 1 lacks the last slices; only the common ones are compared."""
    geometry = positive.result.geometry
    kept = geometry.shape[0] - 6

    def cut(mask: Mask) -> Mask:
        whole = np.zeros(mask.shape, bool)
        mask.paint(whole)
        return Mask.of(whole[:kept])

    there = [s for s in positive.result.segments if cut(s.mask).voxels]
    order = [
        k for k, f in enumerate(positive.result.findings) if positive.result.segments[f.segment_number - 1] in there
    ]
    small = _renumbered(positive.result, order)
    images = geometry.images[:kept]
    shorter = replace(geometry, shape=(kept, *geometry.shape[1:]), images=images)
    first = replace(
        small, geometry=shorter,
        segments=tuple(replace(s, mask=cut(s.mask)) for s in small.segments),
        regions=tuple(replace(r, mask=cut(r.mask)) for r in small.regions if cut(r.mask).voxels),
        measurements=tuple(m for m in small.measurements if cut(small.region(m.site).mask).voxels),
    )  # fmt: skip
    instances = tuple(i for i in positive.series.instances if i.key in images)
    from sr_writer import seg, sr
    from sr_writer.files import write_dicom
    from sr_writer.header import Authorship
    from sr_writer.sources import Sources

    sources = Sources(instances)
    by = Authorship(sources.first.header, positive.identity, positive.options, helpers.now, 1)
    segmentation = seg.build(first, sources, by)
    write_dicom(segmentation, tmp_path / "seg.dcm")
    write_dicom(sr.build(first, sources, by, segmentation), tmp_path / "sr.dcm")
    result, known = follow(positive.result, [tmp_path / "sr.dcm", tmp_path / "seg.dcm"])
    before = _centres(first)
    after = _centres(result)
    assert len(before) >= 2
    assert {name: after[name] for name in before} == before
    assert set(after) - set(known) == {name for name in after if name not in before}


def test_25_nothing_to_go_by_changes_nothing(positive: Any, tmp_path: Path, before: dict[str, write.Artifact]) -> None:
    broken = tmp_path / "sr.dcm"
    broken.write_bytes(b"half")
    for paths in ([], [tmp_path / "gone.dcm", broken], [before["sc"].path]):
        result, known = follow(positive.result, paths)
        assert (result, known) == (positive.result, {})


def test_25_parts_of_the_body_are_known_by_name(negative: Any, helpers: Any, tmp_path: Path) -> None:
    paths = [a.path for a in helpers.write(negative, tmp_path)]
    _, known = follow(negative.result, paths)
    assert known["left lung"] == negative.identity.tracking_uid("left lung")
    assert {"right lung", "image quality"} <= set(known)


def test_25_what_a_negative_result_comes_between_is_the_same_thing(
    positive: Any, negative: Any, before: dict[str, write.Artifact], helpers: Any, tmp_path: Path
) -> None:
    """The findings are looked for in the last segmentation, whatever came after it."""
    # a report without findings, of the same study: it names what it has
    later = [a.path for a in helpers.write(negative, tmp_path) if a.kind == "sr"]
    turned = _renumbered(positive.result, list(range(len(positive.result.findings)))[::-1])
    result, known = follow(turned, later, _paths(before))
    assert _centres(result) == _centres(positive.result)
    assert known["opacity 1"] == positive.identity.tracking_uid("opacity 1")
    assert known["left lung"] == negative.identity.tracking_uid("left lung"), "the latest word counts"
    # found again in the latest revision, it is not looked for in the ones before
    both, _ = follow(turned, _paths(before), _paths(before))
    assert _centres(both) == _centres(positive.result)
