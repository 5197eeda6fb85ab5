"""What a pipeline says: frozen, plain, without DICOM objects.

Arrays are indexed [z, y, x] on the grid of the source series; positions are millimetres in LPS.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from dicom_io.model import ImageKey
from dicom_io.reason import Reason
from pipeline.space import Geometry, Grid, Mask, Projection

__all__ = [
    "Code",
    "Evidence",
    "Finding",
    "Geometry",
    "Grade",
    "Grid",
    "Mask",
    "Measure",
    "Measurement",
    "Place",
    "Projection",
    "Quality",
    "QualityFinding",
    "Region",
    "Result",
    "Segment",
    "Speaks",
    "Status",
    "Suggestion",
]

Status = Literal["ok", "lower_bound", "not_computable"]
Grade = Literal["A", "B", "C", "D"]
Speaks = Literal["for", "against", "neither", "unknown"]


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept (PS3.3 section 8): value, coding scheme designator, meaning."""

    value: str
    scheme: str
    meaning: str

    def as_json(self) -> list[str]:
        """Return ``[value, scheme, meaning]``."""
        return [self.value, self.scheme, self.meaning]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number, or the statement that it cannot be given.

    Parameters
    ----------
    name : str
        Name of the contract, for example ``lung_volume``.
    site : str
        Where, for example ``left_lung``; names a `Region` of the result.
    value : float or None
        None exactly if `status` is ``not_computable``.
    unit : str
        UCUM, for example ``cm3``, ``%``, ``[hnsf'U]``.
    status : Status
        ``lower_bound``: the true value is at least this.
    reason : Reason or None
        Why it is a bound or missing; required unless `status` is ``ok``.
    """

    name: str
    site: str
    value: float | None
    unit: str
    status: Status = "ok"
    reason: Reason | None = None

    def __post_init__(self) -> None:
        if (self.value is None) != (self.status == "not_computable"):
            raise ValueError(f"measurement {self.name}: value {self.value} with status {self.status}")
        if self.value is not None and not np.isfinite(self.value):
            raise ValueError(f"measurement {self.name} is not finite")
        if self.status != "ok" and self.reason is None:
            raise ValueError(f"measurement {self.name}: status {self.status} without a reason")

    def as_json(self) -> dict[str, Any]:
        """Return the measurement as the contract's JSON object."""
        reason = None if self.reason is None else self.reason.as_json()
        return {
            "name": self.name, "site": self.site, "value": self.value, "unit": self.unit, "status": self.status, "reason": reason,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A named part of the body that measurements refer to; `mask` is what they were taken from.

    Parameters
    ----------
    site : str
        ``lungs``, ``left_lung``, ``right_lung``, ``left_lung_upper_third`` ..., ``body``.
    mask : Mask
        Not empty.
    anatomy : Code
        What it is, without its side.
    laterality : Code or None
        (7771000, SCT, Left), (24028007, SCT, Right) or (51440002, SCT, Right and left).
    """

    site: str
    mask: Mask
    anatomy: Code
    laterality: Code | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """One segment of the segmentation object; `number` counts from 1 without gaps.

    `colour` is sRGB, 0 to 255; None: the palette's.
    """

    number: int
    label: Mapping[str, str]
    tracking_id: str
    site: str
    category: Code
    kind: Code
    laterality: Code | None
    mask: Mask
    colour: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found.

    Parameters
    ----------
    tracking_id : str
        Readable identity within the study, for example ``opacity 1``; equal in SR and SEG.
    code : Code
        What it is.
    site : str
        The region it lies in.
    laterality : Code or None
        Its side.
    centroid_mm : tuple[float, float, float] or None
        LPS millimetres; None on a radiograph.
    measurements : tuple[Measurement, ...]
        About this finding; their `site` is that of the finding.
    segment_number : int or None
        The segment that shows it.
    """

    tracking_id: str
    code: Code
    site: str
    laterality: Code | None
    centroid_mm: tuple[float, float, float] | None
    measurements: tuple[Measurement, ...]
    segment_number: int | None


@dataclass(frozen=True, slots=True)
class Place:
    """A rectangle on one image, in its stored pixels.

    Parameters
    ----------
    image : ImageKey
        Which.
    rows, columns : tuple[int, int]
        First and one past the last, counted from 0.
    """

    image: ImageKey
    rows: tuple[int, int]
    columns: tuple[int, int]

    def as_json(self) -> dict[str, Any]:
        """Return the place as the contract's JSON object."""
        return {
            "sop_instance_uid": self.image.sop_instance_uid, "frame": self.image.frame or None,
            "rows": list(self.rows), "columns": list(self.columns),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class QualityFinding:
    """One thing that limits the images: coded, measured, located.

    Parameters
    ----------
    reason : Reason
        What it is, and what a person who decides should look at.
    scope : {"study", "series", "instance"}
        What `uids` are of.
    uids : tuple[str, ...]
        What it is about.
    value, unit, limit : float, str, float, or None
        What was measured, in UCUM, and where the finding begins.
    grade : Grade
        The best grade that images with it can have. B is a remark; C and D are alarms.
    place : Place or None
        Where it is seen.
    """

    reason: Reason
    scope: Literal["study", "series", "instance"]
    uids: tuple[str, ...]
    value: float | None = None
    unit: str | None = None
    limit: float | None = None
    grade: Grade = "B"
    place: Place | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the finding as the contract's JSON object."""
        return {
            "code": self.reason.code, "scope": self.scope, "uids": list(self.uids), "value": self.value,
            "unit": self.unit, "limit": self.limit, "grade": self.grade,
            "place": None if self.place is None else self.place.as_json(),
            "text": dict(self.reason.text), "hint": dict(self.reason.hint),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measure:
    """One number that the grade rests on, within its limit or not; `unit` in UCUM."""

    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class Quality:
    """Grade of the images (A good, B usable, C limited, D not usable) and what it rests on.

    Parameters
    ----------
    grade : Grade
        The worst that a finding allows.
    findings : tuple[QualityFinding, ...]
        What is beyond a limit, the worst first.
    not_evaluated : tuple[Reason, ...]
        What could not be judged, and why.
    measures : Mapping[str, Measure]
        Everything that was measured.
    """

    grade: Grade
    findings: tuple[QualityFinding, ...] = ()
    not_evaluated: tuple[Reason, ...] = ()
    measures: Mapping[str, Measure] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the quality as the contract's JSON object."""
        return {
            "grade": self.grade,
            "findings": [f.as_json() for f in self.findings],
            "not_evaluated": [r.as_json() for r in self.not_evaluated],
            "measures": {name: {"value": m.value, "unit": m.unit} for name, m in self.measures.items()},
        }


@dataclass(frozen=True, slots=True)
class Evidence:
    """One rule behind a suggestion.

    Parameters
    ----------
    rule : str
        Its name.
    text : Mapping[str, str]
        What is measured, by language.
    value : float or None
        What was measured; None where there was nothing to measure.
    unit : str
        UCUM, of value and limit.
    limit : float
        The rule holds from here on.
    speaks : Speaks
        For or against what is suggested about, neither, or unknown (without a value).
    """

    rule: str
    text: Mapping[str, str]
    value: float | None
    unit: str
    limit: float
    speaks: Speaks

    def __post_init__(self) -> None:
        if (self.value is None) != (self.speaks == "unknown"):
            raise ValueError(f"evidence {self.rule}: value {self.value} speaks {self.speaks}")

    def as_json(self) -> dict[str, Any]:
        """Return the evidence as the contract's JSON object."""
        return {
            "rule": self.rule, "text": dict(self.text), "value": self.value, "unit": self.unit, "limit": self.limit,
            "speaks": self.speaks,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What rules make of the measurements: for a person to judge, never a diagnosis.

    Parameters
    ----------
    name : str
        What is asked, for example ``pneumonia_pattern``.
    answer : str
        One of those that the question has, or ``undetermined``.
    text : Mapping[str, str]
        One or two sentences by language.
    evidence : tuple[Evidence, ...]
        Every rule that was looked at.
    reason : Reason or None
        Why it is undetermined; None exactly if it is not.
    """

    name: str
    answer: str
    text: Mapping[str, str]
    evidence: tuple[Evidence, ...]
    reason: Reason | None = None

    def __post_init__(self) -> None:
        if (self.answer == "undetermined") != (self.reason is not None):
            raise ValueError(f"suggestion {self.name}: {self.answer} with reason {self.reason}")

    def as_json(self) -> dict[str, Any]:
        """Return the suggestion as the contract's JSON object."""
        return {
            "name": self.name, "answer": self.answer, "text": dict(self.text),
            "evidence": [e.as_json() for e in self.evidence],
            "reason": None if self.reason is None else self.reason.as_json(),
        }  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """Everything one pipeline says about one series.

    Parameters
    ----------
    pipeline, version : str
        Which pipeline spoke.
    series_instance_uid : str
        The series it looked at.
    geometry : Grid
        Grid of all masks: of a series of slices, or of one radiograph.
    device : str
        What it ran on, for example ``cpu`` or ``cuda:0``.
    quality : Quality
        Grade of the images.
    regions : tuple[Region, ...]
        Every site that a measurement or finding names, and ``body``.
    measurements : tuple[Measurement, ...]
        About whole regions.
    segments : tuple[Segment, ...]
        What the segmentation object shows; numbers 1..n.
    findings : tuple[Finding, ...]
        Empty if nothing was found.
    notes : tuple[Reason, ...]
        Limits of the analysis that a reader must know.
    summary : Mapping[str, str]
        Language tag to one or two sentences for the radiologist.
    timings_s : Mapping[str, float]
        Seconds per stage.
    window : tuple[float, float] or None
        Values of a volume that pictures show black and white; None: the lung window.
    suggestions : tuple[Suggestion, ...]
        What rules make of the measurements; they are about the region ``lungs``.
    """

    pipeline: str
    version: str
    series_instance_uid: str
    geometry: Grid
    device: str
    quality: Quality
    regions: tuple[Region, ...]
    measurements: tuple[Measurement, ...]
    segments: tuple[Segment, ...]
    findings: tuple[Finding, ...]
    notes: tuple[Reason, ...] = ()
    summary: Mapping[str, str] = field(default_factory=dict)
    timings_s: Mapping[str, float] = field(default_factory=dict)
    window: tuple[float, float] | None = None
    suggestions: tuple[Suggestion, ...] = ()

    def __post_init__(self) -> None:
        if [s.number for s in self.segments] != list(range(1, len(self.segments) + 1)):
            raise ValueError("segment numbers must count from 1 without gaps")
        known = {r.site for r in self.regions}
        named = {m.site for m in self.measurements} | {f.site for f in self.findings}
        if not named <= known:
            raise ValueError(f"no region for {sorted(named - known)}")
        empty = [m.site for m in self.regions if not m.mask.voxels] + [
            s.tracking_id for s in self.segments if not s.mask.voxels
        ]
        if empty:
            raise ValueError(f"empty mask for {empty}")

    def region(self, site: str) -> Region:
        """Return the region named `site`."""
        return next(r for r in self.regions if r.site == site)
