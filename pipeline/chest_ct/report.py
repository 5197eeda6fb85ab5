"""Masks and numbers put into a `Result`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_io.model import Series
from dicom_io.reason import LANGUAGES, Reason
from dicom_io.stack import Stack
from dicom_io.volume import Volume
from pipeline.chest_ct import density, morphology, pattern, severity, suggestion
from pipeline.chest_ct.body import Box
from pipeline.chest_ct.doubt import Cuts, Doubt
from pipeline.chest_ct.grid import along, heights
from pipeline.chest_ct.kind import DEPENDENT
from pipeline.chest_ct.lungs import LEFT, RIGHT
from pipeline.chest_ct.measure import (
    SIDE_NAMES,
    THIRD_NAMES,
    ZONE_NAMES,
    Circumstances,
    Counted,
    count_sites,
    finding_worth,
    long_axis_mm,
    measurements,
    thirds,
)
from pipeline.chest_ct.parameters import parameters, texts
from pipeline.chest_ct.traits import Traits
from pipeline.reasons import REASONS
from pipeline.result import Code, Finding, Geometry, Mask, Measurement, Quality, Region, Result, Segment, Suggestion

LUNG = Code("39607008", "SCT", "Lung")
CHEST = Code("51185008", "SCT", "Chest")
OPACITY = Code("112001", "DCM", "Opacity")
ANATOMICAL = Code("91723000", "SCT", "Anatomical Structure")
ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
SIDES: Mapping[str, Code] = {
    "left_lung": Code("7771000", "SCT", "Left"),
    "right_lung": Code("24028007", "SCT", "Right"),
    "lungs": Code("51440002", "SCT", "Right and left"),
}


class Named(Protocol):
    """Who speaks."""

    name: str
    version: str


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What the pipeline found, on the box `box` of the source grid; see `pipeline.chest_ct.pipeline`."""

    box: Box
    lung: npt.NDArray[np.uint8]
    opacity: npt.NDArray[np.uint16]
    smooth_hu: npt.NDArray[np.float32]
    at_rim: frozenset[int]
    doubts: Mapping[int, Doubt]
    edges: Cuts
    now: Circumstances
    normal_hu: float
    stack: Stack
    traits: tuple[Traits, ...] = ()
    peel: npt.NDArray[np.bool_] | None = None


def result(
    who: Named, series: Series, volume: Volume, parts: Parts, graded: Quality, device: str, indication: str = "none"
) -> Result:
    """Put everything into a `Result`; `indication` as in ``[pipeline.chest_ct]``."""
    p = parameters()
    geometry = Geometry(volume.array.shape, volume.affine, volume.images, volume.frame_of_reference_uid)
    place = _Place(geometry, parts)
    third = thirds(parts.lung, place.height())
    hu = volume.array[parts.box]
    counted = count_sites(parts.lung, third, parts.opacity, hu, parts.smooth_hu, p["opacity"]["dense"], parts.peel)
    numbers = measurements(counted, parts.doubts, parts.now, geometry.voxel_volume_mm3, p["doubt"])
    numbers = (*numbers, *_derived(numbers, hu, parts, graded))
    findings, shown, merged = _findings(place, hu, p["opacity"])
    segments = _segments(place, shown)
    suggestions = _suggestions(place, counted, numbers, graded, indication)
    return Result(
        pipeline=who.name, version=who.version, series_instance_uid=series.series_instance_uid, geometry=geometry,
        device=device, quality=graded, regions=_regions(place, volume, third), measurements=numbers, segments=segments,
        findings=findings, notes=_notes(parts, merged=merged),
        summary=_summary(numbers, findings, len(shown) + merged, parts.now.sides, suggestions),
        suggestions=suggestions,
    )  # fmt: skip


def _derived(
    numbers: tuple[Measurement, ...], hu: npt.NDArray[np.float32], parts: Parts, graded: Quality
) -> tuple[Measurement, ...]:
    """Return what rests on the first numbers: densities of the whole lungs, and scores."""
    p = parameters()
    known = {(m.name, m.site): m for m in numbers}
    made = density.Acquisition.of(parts.stack, parts.normal_hu, graded, p["density"])
    densities = density.measurements(parts.lung, hu, known, parts.now, made, p)
    return (*densities, *severity.measurements({site: known["opacity_percent", site] for site in SIDE_NAMES.values()}))


def _suggestions(
    place: "_Place", counted: Mapping[str, Counted], numbers: tuple[Measurement, ...], graded: Quality, indication: str
) -> tuple[Suggestion, ...]:
    parts = place.parts
    posterior = pattern.posterior_percent(parts.lung, parts.opacity, along(parts.stack, parts.box, 1))
    values = pattern.measure(counted, parts.traits, place.geometry.voxel_volume_mm3, posterior)
    shares = [m for m in numbers if m.name == "opacity_percent" and m.site in {"lungs", *SIDE_NAMES.values()}]
    spoilt = next((f.reason for f in graded.findings if f.grade == graded.grade), None)
    return suggestion.suggest(values, shares, graded.grade, spoilt, indication)


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """The box and where its voxels lie in the body."""

    geometry: Geometry
    parts: Parts

    def mask(self, inside: npt.NDArray[Any], within: Box | None = None) -> Mask:
        """Return a mask of the whole grid from one of the box, or of a box `within` the box."""
        small = Mask.of(inside)
        start = [b.start + o for b, o in zip(self.parts.box, small.offset, strict=True)]
        start = [s + w.start for s, w in zip(start, within, strict=True)] if within else start
        return Mask(self.geometry.shape, (start[0], start[1], start[2]), small.box)

    def lps(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Map indices [z, y, x] of the box to LPS millimetres; slices stand where their headers say."""
        stack, source = self.parts.stack, indices + [b.start for b in self.parts.box]
        row = stack.row * stack.pixel_spacing_mm[1]
        column = stack.column * stack.pixel_spacing_mm[0]
        out: npt.NDArray[np.float64] = (
            stack.origins_mm[source[:, 0]] + source[:, 1:2] * column[None] + source[:, 2:3] * row[None]
        )
        return out

    def height(self) -> npt.NDArray[np.float64]:
        """Return LPS z of every voxel of the box, shaped to broadcast."""
        return heights(self.parts.stack, self.parts.box)


def _regions(place: _Place, volume: Volume, third: npt.NDArray[np.uint8]) -> tuple[Region, ...]:
    lung = place.parts.lung
    regions = [Region("lungs", place.mask(lung), LUNG, SIDES["lungs"])]
    for side, name in SIDE_NAMES.items():
        regions.append(Region(name, place.mask(lung == side), LUNG, SIDES[name]))
        for k, part in enumerate(THIRD_NAMES):
            inside = (lung == side) & (third == k)
            regions.append(Region(f"{name}_{part}_third", place.mask(inside), LUNG, SIDES[name]))
    if (peel := place.parts.peel) is not None:
        zones = [
            ((lung == s) & (peel == k), f"{n}_{z}", n) for s, n in SIDE_NAMES.items() for k, z in enumerate(ZONE_NAMES)
        ]
        regions += [Region(site, place.mask(inside), LUNG, SIDES[n]) for inside, site, n in zones if inside.any()]
    return (*regions, Region("body", _body(place, volume), CHEST))


def _body(place: _Place, volume: Volume) -> Mask:
    """Return the body on the slice with most lung; other slices would cost memory and show nothing more."""
    z = int((place.parts.lung > 0).sum(axis=(1, 2)).argmax()) + place.parts.box[0].start
    tissue = ndimage.binary_opening(volume.array[z] > parameters()["body"]["tissue"], iterations=2)
    labels, _ = morphology.components(tissue[None])
    inside = ndimage.binary_fill_holes(labels[0] == 1)
    small = Mask.of(inside[None])
    return Mask(place.geometry.shape, (z, small.offset[1], small.offset[2]), small.box)


def _segments(place: _Place, shown: list[tuple[str, str, Mapping[str, str], Mask]]) -> tuple[Segment, ...]:
    named = texts()["label"]
    out = [
        Segment(
            n, {tag: named[name][tag] for tag in LANGUAGES}, name.replace("_", " "), name, ANATOMICAL, LUNG, SIDES[name],
            place.mask(place.parts.lung == side),
        )
        for n, (name, side) in enumerate((("left_lung", LEFT), ("right_lung", RIGHT)), 1)
    ]  # fmt: skip
    for n, (tracking, site, label, mask) in enumerate(shown, len(out) + 1):
        out.append(Segment(n, label, tracking, site, ABNORMAL, OPACITY, SIDES[site], mask))
    return tuple(out)


def _findings(
    place: _Place, hu: npt.NDArray[np.float32], p: dict[str, Any]
) -> tuple[tuple[Finding, ...], list[tuple[str, str, Mapping[str, str], Mask]], int]:
    """Return the findings, what their segments show, and how many opacities were merged into the last one."""
    parts, named = place.parts, texts()["label"]
    count = int(parts.opacity.max(initial=0))
    alone = count if count <= p["most_findings"] else p["most_findings"] - 1
    boxes = ndimage.find_objects(parts.opacity)
    groups: list[tuple[tuple[int, ...], Any]] = [((n,), boxes[n - 1]) for n in range(1, alone + 1)]
    if count > alone:
        groups.append((tuple(range(alone + 1, count + 1)), tuple(slice(0, s) for s in parts.opacity.shape)))
    findings = []
    shown: list[tuple[str, str, Mapping[str, str], Mask]] = []
    for n, (numbers, box) in enumerate(groups, 1):
        inside = np.isin(parts.opacity[box], numbers)
        at = np.argwhere(inside) + [b.start for b in box]
        sides = np.unique(parts.lung[box][inside])
        site = SIDE_NAMES[int(sides[0])] if sides.size == 1 else "lungs"
        other = len(numbers) > 1
        tracking = "opacity, other" if other else f"opacity {n}"
        label = {t: named["other"][t] if other else named["opacity"][t].format(n=n) for t in LANGUAGES}
        points = place.lps(at)
        worth = finding_worth(parts.now, at_rim=not parts.at_rim.isdisjoint(numbers))
        values = [
            Measurement("volume", site, len(at) * place.geometry.voxel_volume_mm3 / 1000, "cm3", *worth),
            Measurement("mean_density", site, float(hu[box][inside].mean()), "[hnsf'U]"),
            Measurement(
                "ground_glass_percent", site, 100 * float((parts.smooth_hu[box][inside] < p["dense"]).mean()), "%"
            ),
        ]
        if not other:
            values.append(Measurement("long_axis", site, _long_axis(place, points), "mm", *worth))
        centre = points.mean(axis=0)
        where = (float(centre[0]), float(centre[1]), float(centre[2]))
        findings.append(Finding(tracking, OPACITY, site, SIDES[site], where, tuple(values), n + 2))
        shown.append((tracking, site, label, place.mask(inside, box)))
    return tuple(findings), shown, max(0, count - alone - 1)


def _long_axis(place: _Place, points: npt.NDArray[np.float64]) -> float:
    stack = place.parts.stack
    edges = (*stack.pixel_spacing_mm, stack.spacing_mm)
    axial = stack.plane == "axial"
    return long_axis_mm(
        points, stack.spacing_mm if axial else max(edges), float(np.mean(edges[:2])) if axial else min(edges)
    )


def _notes(parts: Parts, *, merged: int) -> tuple[Reason, ...]:
    codes = [
        "opacity-is-density",
        "opacity-limits",
        "thirds-are-not-lobes",
        "zones-are-not-anatomy",
        "suggestion-by-rules",
    ]
    codes += ["contrast-given"] * parts.now.contrast + ["too-many-findings"] * (merged > 0)
    codes += ["fluid-beside-lung"] * any(d.fluid > parameters()["doubt"]["fluid_some"] for d in parts.doubts.values())
    codes += ["air-beside-lung"] * any(d.air > parameters()["doubt"]["air_some"] for d in parts.doubts.values())
    codes += ["dependent-band"] * any(DEPENDENT in t.evidence for t in parts.traits)
    first = () if parts.now.sides is None else (parts.now.sides,)
    return (*first, *(REASONS(code) for code in codes))


def _summary(
    numbers: tuple[Measurement, ...], findings: tuple[Finding, ...], count: int, doubt: Reason | None,
    suggestions: tuple[Suggestion, ...],
) -> dict[str, str]:  # fmt: skip
    said, site = texts()["summary"], texts()["site"]
    by = {(m.name, m.site): m for m in numbers}
    volume, share = by["lung_volume", "lungs"], by["opacity_percent", "lungs"]
    each = {k: f"{by['lung_volume', f'{k}_lung'].value or 0:.0f}" for k in ("right", "left")}
    out = {}
    for tag in LANGUAGES:
        row = "volumes" if volume.status == "ok" else "volumes_bound"
        reason = volume.reason.text[tag] if volume.reason else ""
        sides = "" if doubt else said["sides"][tag].format(**each)
        parts = [doubt.text[tag]] if doubt else []
        parts.append(said[row][tag].format(total=f"{volume.value or 0:.0f}", sides=sides, reason=reason))
        if not findings:
            parts.append(said["none"][tag])
        else:
            kind = {"ok": "share", "lower_bound": "share_bound", "not_computable": "share_none"}[share.status]
            sizes = [f.measurements[0] for f in findings]
            bound = [said["at_least"][tag] * any(m.status != "ok" for m in some) for some in (sizes, sizes[:1])]
            parts.append(
                said["found"][tag].format(
                    count=count, volume=f"{bound[0]}{sum(m.value or 0 for m in sizes):.0f}",
                    largest=f"{bound[1]}{sizes[0].value or 0:.0f}",
                    side=site[findings[0].site][tag], share=said[kind][tag].format(percent=f"{share.value or 0:.1f}"),
                )
            )  # fmt: skip
        parts += [s.text[tag] for s in suggestions if suggestion.is_news(s)]
        out[tag] = said["joint"][tag].join(parts)
    return out
