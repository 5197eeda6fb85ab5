"""Which series of a study is the chest CT: headers against the table in ``series_rules.toml``; no torch, no pixels."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from dicom_io import elements
from dicom_io.errors import DicomIOError
from dicom_io.frames import header_of
from dicom_io.model import Series, Study
from dicom_io.reason import Reason
from dicom_io.stack import Stack, build_stack
from pipeline.api import Considered, Selection
from pipeline.reasons import REASONS

RULES_FILE = "series_rules.toml"
_DAYS = {"Y": 365.25, "M": 30.44, "W": 7.0, "D": 1.0}


@cache
def rules() -> Mapping[str, Any]:
    """Return the table of rules, preferences, kernels and body parts."""
    return tomllib.loads(files("pipeline.chest_ct").joinpath(RULES_FILE).read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class _Judged:
    """One series after the table: refused with a reason, or a candidate with its stack and score."""

    series: Series
    rank: int  # row of the table that refused it; later rows are nearer to acceptance
    reason: Reason | None = None
    stack: Stack | None = None
    score: float = 0.0

    @property
    def slices(self) -> int:
        return len(self.stack.images) if self.stack else 0


def select(study: Study) -> Selection:
    """Choose the series to work on.

    Parameters
    ----------
    study : Study
        Candidates: all of its series.

    Returns
    -------
    Selection
        With one reason for every series. The reason of a selection without a series is that of the series that came
        nearest to acceptance; of class ``not_applicable`` if none could have been a chest CT.
    """
    judged = [_judge(series) for series in study.series]
    fit = [j for j in judged if j.stack is not None]
    if not fit:
        return Selection(None, tuple(_considered(j, None) for j in judged), _no_series(judged))
    best = max(fit, key=lambda j: (j.score, j.slices, j.series.series_instance_uid))
    assert best.stack is not None  # noqa: S101 - by the filter above
    uids = {image.sop_instance_uid for image in best.stack.images}
    used = tuple(i for i in best.series.instances if i.sop_instance_uid in uids)
    chosen = Series(best.series.series_instance_uid, used)
    return Selection(chosen, tuple(_considered(j, best) for j in judged), None)


def _considered(one: _Judged, best: _Judged | None) -> Considered:
    chosen = one is best
    if one.reason is not None:
        reason = one.reason
    elif chosen:
        reason = REASONS("series-chosen")
    elif one.stack and best and best.stack and one.stack.plane != "axial" and best.stack.plane == "axial":
        reason = REASONS("series-reformat")
    else:
        reason = REASONS("series-not-preferred")
    return Considered(one.series.series_instance_uid, chosen, reason)


def _no_series(judged: Iterable[_Judged]) -> Reason:
    refused = [j for j in judged if j.reason is not None]
    unable = [j for j in refused if j.reason and j.reason.klass != "not_applicable"]
    if unable and all(names_other_part(header_of(j.series.instances[0])) for j in unable):
        return REASONS("study-other-body-part")
    nearest = max(unable or refused, key=lambda j: j.rank)
    assert nearest.reason is not None  # noqa: S101 - by the filter above
    return nearest.reason


def _judge(series: Series) -> _Judged:
    try:
        return _tried(series)
    except Exception:  # noqa: BLE001 - a header can be odd in ways no list foresees, and selection must answer
        return _Judged(series, 0, REASONS("series-header-unusable"))


def _tried(series: Series) -> _Judged:
    table = rules()["rule"]
    localizers = {i for i, one in enumerate(series.instances) if is_localizer(header_of(one))}
    instances = [one for i, one in enumerate(series.instances) if i not in localizers] or list(series.instances)
    header = header_of(instances[0])
    stack: Stack | None = None
    values: Mapping[str, float] = {}
    for rank, rule in enumerate(table):
        if "header" in rule:
            if _header_fits(rule, header):
                return _Judged(series, rank, REASONS(rule["code"]))
            continue
        if stack is None:
            try:
                stack = build_stack(instances)
            except DicomIOError as error:
                return _Judged(series, rank, error.reason)
            values = measures(stack)
        value = values[rule["stack"]]
        limit = rule.get("below", rule.get("above"))
        if ("below" in rule and value < limit) or ("above" in rule and value > limit):
            return _Judged(series, rank, REASONS(rule["code"], value=f"{value:g}", limit=f"{limit:g}"))
    stack = stack or build_stack(instances)
    return _Judged(series, len(table), stack=stack, score=_score(stack, header))


def measures(stack: Stack) -> Mapping[str, float]:
    """Return what rows of kind ``stack`` test: counts, millimetres, degrees, percent."""
    thickness = stack.thickness_mm or stack.spacing_mm
    missing = sum(g.missing for g in stack.gaps)
    directions = np.abs(np.stack([stack.row, stack.column, stack.normal]))
    lengths = [stack.columns * stack.pixel_spacing_mm[1], stack.rows * stack.pixel_spacing_mm[0], stack.extent_mm]
    covered = {axis: lengths[int(np.argmax(directions[:, axis]))] for axis in range(3)}
    return {
        "slices": float(len(stack.instances)),
        "tilt_deg": round(stack.tilt_deg, 2),
        "thickness_mm": round(thickness, 2),
        "spacing_mm": round(stack.spacing_mm, 2),
        "spacing_to_thickness": round(stack.spacing_mm / thickness, 2),
        "missing_percent": round(100 * missing / (len(stack.instances) + missing), 1),
        "pixel_mm": round(max(stack.pixel_spacing_mm), 2),
        "width_mm": round(covered[0]),
        "depth_mm": round(covered[1]),
        "height_mm": round(covered[2]),
    }


def header_refusal(header: Dataset) -> str | None:
    """Return the code of the first row of the table that refuses a series by its header alone."""
    rows = (rule for rule in rules()["rule"] if "header" in rule)
    return next((str(rule["code"]) for rule in rows if _header_fits(rule, header)), None)


def is_localizer(header: Dataset) -> bool:
    """Whether an image is a localizer."""
    rule = next(r for r in rules()["rule"] if r["code"] == "series-localizer")
    return _header_fits(rule, header)


def _header_fits(rule: Mapping[str, Any], header: Dataset) -> bool:
    keyword = rule["header"]
    text = elements.text(header, keyword).upper()
    if "any_of" in rule:
        return text in rule["any_of"]
    if "none_of" in rule:
        return text not in rule["none_of"]
    if "any_part" in rule:
        return not set(rule["any_part"]).isdisjoint(part.upper() for part in elements.texts(header, keyword))
    if "matches" in rule:
        return re.search(rule["matches"], text, re.IGNORECASE) is not None
    number = years(header) if keyword == "PatientAge" else elements.number(header, keyword)
    if number is None:
        return False
    return bool(number < rule["below"] if "below" in rule else number > rule["above"])


def years(header: Dataset) -> float | None:
    """Return the age in years, or None if it is not stated; ``000Y`` is what de-identification leaves behind."""
    stated = re.fullmatch(r"(\d{1,3})([YMWD])", elements.text(header, "PatientAge").upper())
    if stated and int(stated[1]):
        return int(stated[1]) * _DAYS[stated[2]] / _DAYS["Y"]
    born, studied = (
        re.fullmatch(r"(\d{4})(\d{2})(\d{2})", elements.text(header, k)) for k in ("PatientBirthDate", "StudyDate")
    )
    if not born or not studied:
        return None
    days = [int(d[1]) * 365.25 + (int(d[2]) - 1) * 30.44 + int(d[3]) for d in (born, studied)]
    years = (days[1] - days[0]) / 365.25
    # dates that a de-identification moved apart say nothing
    return years if 0 < years < 120 else None


def names_other_part(header: Dataset) -> bool:
    """Whether Body Part Examined names another part of the body."""
    named = elements.text(header, "BodyPartExamined").upper().replace(" ", "").replace("_", "")
    return named in rules()["body_parts"]["other"]


def sharp_kernel(header: Dataset) -> bool | None:
    """Whether the reconstruction kernel enhances edges; None if it is unknown."""
    kernels = [k.lower() for k in elements.texts(header, "ConvolutionKernel")]
    for name, answer in (("sharp", True), ("soft", False)):
        if any(re.search(pattern, k) for pattern in rules()["kernels"][name] for k in kernels):
            return answer
    return None


def _score(stack: Stack, header: Dataset) -> float:
    p, value = rules()["preference"], measures(stack)
    kind = [part.upper() for part in elements.texts(header, "ImageType")]
    score = p["height_weight"] * min(value["height_mm"], p["height_mm_most"])
    score -= p["thickness_weight"] * max(0.0, max(value["thickness_mm"], value["spacing_mm"]) - p["thickness_best"])
    score += p["axial"] * (stack.plane == "axial")
    score += p["original"] * (kind[:1] == ["ORIGINAL"])
    score += p["primary"] * (kind[1:2] != ["SECONDARY"])
    score += p["no_gaps"] * (not stack.gaps and stack.uniform)
    score += p["soft_kernel"] * (sharp_kernel(header) is False)
    score += p["other_body_part"] * names_other_part(header)
    return float(score)
