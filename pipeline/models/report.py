"""From what a model shows to a `Result`: segments, findings, numbers, and what must be said beside them."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from dicom_io.model import Series
from dicom_io.radiograph import Radiograph
from dicom_io.reason import LANGUAGES, Reason
from dicom_io.stack import Stack
from dicom_io.volume import Volume
from pipeline.chest_ct.measure import long_axis_mm
from pipeline.models.description import Label, Model
from pipeline.models.heads import Shown, calibrated, threshold
from pipeline.reasons import REASONS
from pipeline.result import (
    Code,
    Finding,
    Geometry,
    Grid,
    Mask,
    Measurement,
    Projection,
    Quality,
    Region,
    Result,
    Segment,
    Status,
)

BODY = "body"
SIDES = {
    "left": Code("7771000", "SCT", "Left"), "right": Code("24028007", "SCT", "Right"),
    "both": Code("51440002", "SCT", "Right and left"),
}  # fmt: skip
_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True, eq=False)
class Subject:
    """What was analysed: a stack with its volume, or one radiograph."""

    series: Series
    values: Volume | Radiograph
    stack: Stack | None = None
    grid: Grid = field(init=False)

    def __post_init__(self) -> None:
        values = self.values
        made: Grid
        if isinstance(values, Radiograph):
            rows, columns = values.array.shape
            made = Projection(rows, columns, values.sop_instance_uid, values.orientation, values.spacing)
        else:
            made = Geometry(values.array.shape, values.affine, values.images, values.frame_of_reference_uid)
        object.__setattr__(self, "grid", made)

    @property
    def unit(self) -> float:
        """What one sample counts: cm3, or 1 on a radiograph."""
        return self.grid.voxel_volume_mm3 / 1000 if isinstance(self.grid, Geometry) else 1.0

    @property
    def hounsfield(self) -> bool:
        """Whether values are Hounsfield units."""
        return self.series.modality == "CT"


def result(model: Model, subject: Subject, shown: Sequence[Shown], device: str, notes: Sequence[Reason]) -> Result:
    """Put everything into a `Result`."""
    anatomy = {s.label.name: s for s in shown if s.mask is not None and not s.label.finding}
    found = [s for s in shown if s.label.finding or (s.mask is None and s.score >= threshold(model, s.label))]
    about = next((label for label in model.label if label.finding), model.label[0])
    body = Region(BODY, _middle(subject, [s.mask for s in shown if s.mask is not None]), Code(*about.anatomy))
    regions = [_region(s) for s in anatomy.values()]
    segments = [_segment(n, s, s.label.name.replace("_", " "), s.label.text) for n, s in enumerate(anatomy.values(), 1)]
    numbers = [m for s in anatomy.values() for m in _sizes(subject, s, s.label.name)]
    findings: list[Finding] = []
    for n, one in enumerate(found, 1):
        count = sum(f.label is one.label for f in found[:n])
        alone = one.mask is None
        tracking = one.label.name.replace("_", " ") if alone else f"{one.label.name.replace('_', ' ')} {count}"
        site = _site(one, anatomy)
        number = None
        if one.mask is not None:
            number = len(segments) + 1
            text = {tag: f"{one.label.text[tag]} {count}" for tag in LANGUAGES}
            segments.append(_segment(number, one, tracking, text, site))
        findings.append(_finding(model, subject, one, tracking, site, number))
    return Result(
        pipeline=model.name, version=model.version, series_instance_uid=subject.series.series_instance_uid,
        geometry=subject.grid, device=device, quality=Quality("B", (), (REASONS("quality-not-graded"),)),
        regions=(*regions, body), measurements=tuple(numbers), segments=tuple(segments),
        findings=tuple(findings), notes=tuple(notes), summary=_summary(model, shown), window=_window(model, subject),
    )  # fmt: skip


def _site(one: Shown, anatomy: dict[str, Shown]) -> str:
    """Return the region that a finding lies in: the label that it is said to lie in, where they touch."""
    host = anatomy.get(one.label.within)
    if host is None or host.mask is None or one.mask is None:
        return BODY
    near = np.zeros(one.mask.shape, bool)
    host.mask.paint(near)
    return host.label.name if near[one.mask.slices][one.mask.box != 0].any() else BODY


def _region(one: Shown) -> Region:
    assert one.mask is not None  # noqa: S101 - parts of the body have masks
    return Region(one.label.name, one.mask, Code(*one.label.type), SIDES.get(one.label.laterality))


def _segment(number: int, one: Shown, tracking: str, text: Mapping[str, str], site: str | None = None) -> Segment:
    label = one.label
    assert one.mask is not None  # noqa: S101 - what has no mask is no segment
    colour = (label.colour[0], label.colour[1], label.colour[2]) if label.colour else None
    return Segment(
        number, dict(text), tracking, site or label.name, Code(*label.category), Code(*label.type),
        SIDES.get(label.laterality), one.mask, colour,
    )  # fmt: skip


def _finding(model: Model, subject: Subject, one: Shown, tracking: str, site: str, number: int | None) -> Finding:
    name = "probability" if calibrated(model.calibration) else "model_score"
    score = Measurement(name, site, round(100 * one.score, 2), "%")
    centre = None
    if one.mask is not None and isinstance(subject.grid, Geometry):
        at = subject.grid.to_lps(np.argwhere(one.mask.box) + one.mask.offset).mean(axis=0)
        centre = (float(at[0]), float(at[1]), float(at[2]))
    sizes = _sizes(subject, one, site) if model.output.form == "map" else []
    return Finding(
        tracking, Code(*one.label.type), site, SIDES.get(one.label.laterality), centre, (*sizes, score), number
    )


def _sizes(subject: Subject, one: Shown, site: str) -> list[Measurement]:
    """Return how large something is; of what reaches the end of the images at least so large."""
    mask = one.mask
    if mask is None:
        return []
    at_edge = _at_edge(mask, flat=isinstance(subject.grid, Projection))
    status: Status = "lower_bound" if at_edge else "ok"
    reason = REASONS("model-mask-at-edge") if at_edge else None
    if isinstance(subject.grid, Projection):
        spacing = subject.grid.spacing
        if spacing is None or spacing.meaning == "unknown":
            return []
        name = "area_at_detector" if spacing.meaning == "detector" else "area"
        return [Measurement(name, site, mask.voxels * spacing.area_mm2 / 100, "cm2", status, reason)]
    out = [Measurement("volume", site, mask.voxels * subject.unit, "cm3", status, reason)]
    if subject.hounsfield:
        inside: npt.NDArray[np.float32] = subject.values.array[mask.slices][mask.box != 0]
        out.append(Measurement("mean_density", site, float(inside.mean(dtype=np.float64)), "[hnsf'U]"))
    if one.label.finding and subject.stack is not None:
        out.append(Measurement("long_axis", site, _long_axis(subject.stack, subject.grid, mask), "mm", status, reason))
    return out


def _long_axis(stack: Stack, grid: Geometry, mask: Mask) -> float:
    edges = (*stack.pixel_spacing_mm, stack.spacing_mm)
    axial = stack.plane == "axial"
    points = grid.to_lps(np.argwhere(mask.box) + mask.offset)
    return long_axis_mm(
        points, stack.spacing_mm if axial else max(edges), float(np.mean(edges[:2])) if axial else min(edges)
    )


def _at_edge(mask: Mask, *, flat: bool) -> bool:
    """Whether a mask reaches the end of the images: the rest of it may lie beyond."""
    return any(
        mask.offset[k] == 0 or mask.offset[k] + mask.box.shape[k] == mask.shape[k] for k in range(1 if flat else 0, 3)
    )


def _middle(subject: Subject, masks: Sequence[Mask]) -> Mask:
    """Return one whole image as what was looked at: the one with most to see; more would cost memory and show no more."""
    slices, rows, columns = subject.grid.shape
    count = np.zeros(slices, np.int64)
    for mask in masks:
        count[mask.slices[0]] += np.count_nonzero(mask.box, axis=(1, 2))
    z = int(count.argmax()) if count.any() else slices // 2
    return Mask((slices, rows, columns), (z, 0, 0), np.ones((1, rows, columns), np.uint8))


def _window(model: Model, subject: Subject) -> tuple[float, float] | None:
    """Return what is drawn black and white: what the network is shown, else nearly all values that there are."""
    if isinstance(subject.values, Radiograph):
        return None
    for step in model.input.normalise:
        if step.kind == "range":
            return step.low, step.high
    low, high = np.percentile(subject.values.array[:: max(1, len(subject.values.array) // 32), ::4, ::4], _PERCENTILES)
    return float(low), max(float(high), float(low) + 1)


@cache
def _texts() -> Mapping[str, Mapping[str, str]]:
    told: Mapping[str, Mapping[str, str]] = tomllib.loads(
        files("pipeline.models").joinpath("texts.toml").read_text(encoding="utf-8")
    )["summary"]
    return told


def _summary(model: Model, shown: Sequence[Shown]) -> dict[str, str]:
    """Return one sentence: of a classification what each class got, of others what was marked."""
    texts, out = _texts(), {}
    for tag in LANGUAGES:
        said = (
            [_class(model, s, tag) for s in shown]
            if model.task == "classification"
            else [_counted(label, shown, tag) for label in model.label]
        )
        out[tag] = texts["whole"][tag].format(title=model.card.title[tag], said=texts["comma"][tag].join(said))
    return out


def _class(model: Model, one: Shown, tag: str) -> str:
    least = f"{100 * threshold(model, one.label):.0f}"
    return _texts()["class"][tag].format(label=one.label.text[tag], percent=f"{100 * one.score:.1f}", threshold=least)


def _counted(label: Label, shown: Sequence[Shown], tag: str) -> str:
    count = sum(s.label is label for s in shown)
    row = "count" if label.finding else "shown" if count else "absent"
    return _texts()[row][tag].format(label=label.text[tag], count=count)
