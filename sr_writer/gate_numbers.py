"""The numbers of a report: recounted from segmentation and raw pixels, and compared with what the analysis said."""

from collections.abc import Iterator, Mapping
from math import isfinite

from pydicom.dataset import Dataset

from dicom_io.reason import Reason
from sr_writer.codes import concept
from sr_writer.gate_claim import SAID_TOLERANCE, Numbers, Said
from sr_writer.gate_count import Count, Recount
from sr_writer.gate_sources import Shadow
from sr_writer.gate_tree import children, name, value
from sr_writer.reasons import REASONS

VOLUME_TOLERANCE = 0.001
"""Share of the volume (`standards.md` section 8: 0.1 %)."""
PERCENT_TOLERANCE = 0.1
"""Percentage points."""
DENSITY_TOLERANCE_HU = 1.0
VOLUME, MEAN, LONG, SHORT, DIAMETER = "118565006", "112181", "103339001", "103340004", "81827009"
_OPACITY_VOLUME, _OPACITY_SHARE = concept("opacity_volume").value, concept("opacity_percent").value
AREA, AT_DETECTOR = "42798000", frozenset({concept("area_at_detector").value})
"""Area in the patient; what is measured at the detector, where it is larger."""
_OPACITY_AREA_SHARE = concept("opacity_area_percent").value
_GLASS, _DENSE = concept("ground_glass_percent").value, concept("dense_percent").value
_LOWER_BOUND = concept("lower_bound").value
_MISSING = frozenset({"114000", "114006", "114007"})
_MM3 = {"mm3": 1.0, "cm3": 1000.0, "ml": 1000.0}
_MM = {"mm": 1.0, "cm": 10.0}
_MM2 = {"mm2": 1.0, "cm2": 100.0}


def measured(group: Dataset) -> dict[str, Dataset]:
    """Return the NUM items of a measurement group by the code value of their names."""
    return {str(name(item).CodeValue): item for item in children(group, "NUM")}


def check_forms(group: Dataset, *, once: bool, shares: bool = True) -> Iterator[Reason]:
    """Yield what no number may be: infinite, without value and reason, and of a part of the body (`once`) given twice or (`shares`) no share."""
    seen: set[str] = set()
    for item in children(group, "NUM"):
        code = str(name(item).CodeValue)
        said = said_by(item)
        odd = said is None or (said.value is not None and not isfinite(said.value))
        if shares and said is not None and said.value is not None and said.unit == "%" and not 0 <= said.value <= 100:
            odd = True
        if odd or (once and code in seen):
            yield REASONS("number-differs", what=name(item).CodeMeaning)
        seen.add(code)


def said_by(item: Dataset) -> Said | None:
    """Return what a NUM item says; None if value and qualifier contradict each other."""
    qualifiers = [str(q.CodeValue) for q in item.get("NumericValueQualifierCodeSequence") or ()]
    if not item.get("MeasuredValueSequence"):
        return Said(None, "", "not_computable") if qualifiers and set(qualifiers) <= _MISSING else None
    unit = str(item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue)
    if not qualifiers:
        return Said(value(item), unit, "ok")
    return Said(value(item), unit, "lower_bound") if qualifiers == [_LOWER_BOUND] else None


def check_claim(group: Dataset, claims: tuple[Numbers, ...]) -> Iterator[Reason]:
    """Yield the numbers of a group that are not those of the document (of one of several that its codes may mean)."""
    items = measured(group)
    found = {code: said_by(item) for code, item in items.items()}
    best: list[str] | None = None
    for claim in claims or ({},):
        odd = [code for code in {*found, *claim} if not _same(found.get(code), claim.get(code))]
        if best is None or len(odd) < len(best):
            best = odd
    for code in sorted(best or ()):
        yield REASONS("number-differs", what=name(items[code]).CodeMeaning if code in items else code)


def _same(found: Said | None, claimed: Said | None) -> bool:
    if found is None or claimed is None or found.status != claimed.status:
        return False
    if found.value is None or claimed.value is None:
        return found.value is claimed.value
    near = abs(found.value - claimed.value) <= SAID_TOLERANCE * max(abs(claimed.value), 1e-3)
    return near and found.unit == claimed.unit


def check_region(group: Dataset, recount: Recount, counts: tuple[Count, ...]) -> Iterator[Reason]:
    """Yield the numbers of a region of the lungs that do not follow from the masks.

    Parameters
    ----------
    counts : tuple[Count, ...]
        What was counted there; more than one where the border of the region may be drawn either way.
    """
    yield from _of_projection(group, recount)
    found = []
    for count in counts:
        if recount.flat is not None:
            found.append(list(_compare(group, _areas(count, recount.flat[1]))))
            continue
        expected: dict[str, tuple[float, float]] = {}
        if count.voxels:
            mm3 = recount.voxel_mm3
            expected[VOLUME] = (count.voxels * mm3, VOLUME_TOLERANCE * count.voxels * mm3)
            # a share of it is known to a voxel only
            expected[_OPACITY_VOLUME] = (count.opaque * mm3, max(VOLUME_TOLERANCE * count.opaque, 0.5) * mm3)
            expected[_OPACITY_SHARE] = (100 * count.opaque / count.voxels, PERCENT_TOLERANCE)
            if recount.counted[2]:
                expected[MEAN] = (count.hu / count.voxels, DENSITY_TOLERANCE_HU)
        found.append(list(_compare(group, expected)))
    yield from min(found, key=len, default=[])
    yield from _add_up(group)


def check_segment(group: Dataset, recount: Recount, number: int) -> Iterator[Reason]:
    """Yield the numbers of a group with a segment of its own that do not follow from it."""
    if recount.flat is not None:
        yield from _of_projection(group, recount)
        areas = _areas(recount.segment(number), recount.flat[1])
        areas.pop(_OPACITY_AREA_SHARE, None)  # of a region
        yield from _compare(group, areas)
        return
    count, mm3 = recount.segment(number), recount.voxel_mm3
    expected = {VOLUME: (count.voxels * mm3, VOLUME_TOLERANCE * count.voxels * mm3)}
    if recount.counted[2] and count.voxels:
        expected[MEAN] = (count.hu / count.voxels, DENSITY_TOLERANCE_HU)
    items = measured(group)
    if {LONG, SHORT, DIAMETER} & set(items) and count.voxels:
        longest, around = recount.long_axis(number)
        expected[LONG] = (longest, around)
        for code in (SHORT, DIAMETER):
            said = said_by(items[code]) if code in items else None
            if said is not None and said.value is not None and said.value * _MM.get(said.unit, 0) > longest + around:
                yield REASONS("number-differs", what=name(items[code]).CodeMeaning)
    yield from _compare(group, expected)


def _of_projection(group: Dataset, recount: Recount) -> Iterator[Reason]:
    """Check that nothing on a radiograph has a volume or density, and sizes only what they mean there."""
    if recount.flat is None:
        return
    spacing = recount.flat[1].spacing
    meaning = "unknown" if spacing is None else spacing.meaning
    for code, item in measured(group).items():
        said = said_by(item)
        unit = "" if said is None else said.unit
        sized = unit in {*_MM, *_MM2}
        wrong = unit in {*_MM3, "[hnsf'U]"} or (sized and meaning == "unknown")
        if wrong or (sized and (code in AT_DETECTOR) != (meaning == "detector")):
            yield REASONS("number-differs", what=name(item).CodeMeaning)


def _areas(count: Count, shadow: Shadow) -> dict[str, tuple[float, float]]:
    """Return area and share of what was counted on a radiograph, and how far a number may be from them."""
    expected: dict[str, tuple[float, float]] = {}
    if count.voxels:
        expected[_OPACITY_AREA_SHARE] = (100 * count.opaque / count.voxels, PERCENT_TOLERANCE)
        if shadow.spacing is not None:
            mm2 = count.voxels * shadow.spacing.area_mm2
            expected |= dict.fromkeys((AREA, *AT_DETECTOR), (mm2, VOLUME_TOLERANCE * mm2))
    return expected


def _compare(group: Dataset, expected: Mapping[str, tuple[float, float]]) -> Iterator[Reason]:
    for code, item in measured(group).items():
        said = said_by(item)
        if code not in expected or said is None or said.value is None:
            continue
        factor = {"%": 1.0, "[hnsf'U]": 1.0, **_MM3, **_MM2, **_MM}.get(said.unit)
        right, tolerance = expected[code]
        if factor is None or not abs(said.value * factor - right) <= tolerance:
            yield REASONS("number-differs", what=name(item).CodeMeaning)


def _add_up(group: Dataset) -> Iterator[Reason]:
    """Check that ground glass and dense opacities are all opacities: their classes rest on values without noise."""
    given = {code: said_by(item) for code, item in measured(group).items()}
    parts = [given.get(code) for code in (_OPACITY_SHARE, _GLASS, _DENSE)]
    values = [p.value for p in parts if p is not None and p.value is not None]
    if len(values) == 3 and abs(values[1] + values[2] - values[0]) > PERCENT_TOLERANCE:
        yield REASONS("number-differs", what=concept("dense_percent").meaning)
