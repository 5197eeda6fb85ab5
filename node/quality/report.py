"""Image quality by device and month, and a control chart of every measure. Pure: rows in, one document out."""

import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any, Final

from dicom_io.device import Device
from node.quality.charts import Control, control, moving_ranges, out_of_control
from node.show import utc
from node.store.quality import Graded
from node.told import ALARMS

SCHEMA: Final = "pacs-ai-node/quality-report/1"
GRADES: Final = ("A", "B", "C", "D")


@dataclass(frozen=True, slots=True)
class Value:
    """One measured value: when, of which study (its hash), and the value."""

    at: float
    study: str
    value: float


@dataclass(frozen=True, slots=True)
class Chart:
    """The values of one measure of one device, in order."""

    pipeline: str
    device: Device
    measure: str
    unit: str
    values: tuple[Value, ...]
    limits: Control | None
    broken: Mapping[int, tuple[int, ...]]


@dataclass(slots=True)
class Month:
    """What was said of the images of one device in one month."""

    images: int = 0
    grades: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything: months by pipeline, device and month, charts by pipeline, device and measure."""

    months: Mapping[tuple[str, Device, str], Month]
    charts: tuple[Chart, ...]

    @property
    def images(self) -> int:
        """How many images were graded."""
        return sum(month.images for month in self.months.values())


@cache
def policy() -> Mapping[str, Any]:
    """Return ``report.toml``."""
    return tomllib.loads(files("node.quality").joinpath("report.toml").read_text(encoding="utf-8"))


def report(rows: Iterable[Graded]) -> Report:
    """Count and chart `rows`, which come in the order of time."""
    months: dict[tuple[str, Device, str], Month] = defaultdict(Month)
    values: dict[tuple[str, Device, str, str], list[Value]] = defaultdict(list)
    for row in rows:
        device = Device(**(row.document.get("device_of_origin") or {}))
        month = months[row.pipeline, device, f"{datetime.fromtimestamp(row.at, UTC):%Y-%m}"]
        quality = row.document.get("quality")
        if row.outcome != "result" or not quality:
            month.refused[(row.document.get("reason") or {}).get("code", "-")] += 1
            continue
        month.images += 1
        month.grades[quality["grade"]] += 1
        month.findings.update({finding["code"] for finding in quality["findings"]})
        for name, measure in quality["measures"].items():
            if measure["unit"]:  # what is only yes or no stands among the findings
                key = row.pipeline, device, name, measure["unit"]
                values[key].append(Value(row.at, row.study_hash, measure["value"]))
    return Report(dict(sorted(months.items())), tuple(_chart(key, of) for key, of in sorted(values.items())))


def _chart(key: tuple[str, Device, str, str], values: Sequence[Value]) -> Chart:
    rules = policy()["chart"]
    numbers = [v.value for v in values]
    limits = control(numbers, rules["baseline"], rules["least"])
    broken = {} if limits is None else out_of_control(numbers, limits)
    return Chart(*key, tuple(values), limits, broken)


def document(found: Report, since: float | None, now: float, version: str) -> dict[str, Any]:
    """Return ``pacs-ai-node/quality-report/1``."""
    return {
        "schema": SCHEMA, "version": version, "made": utc(now), "since": None if since is None else utc(since),
        "images": found.images,
        "months": [_month(*key, month) for key, month in found.months.items()],
        "charts": [_as_json(chart) for chart in found.charts],
    }  # fmt: skip


def _month(pipeline: str, device: Device, name: str, month: Month) -> dict[str, Any]:
    return {
        "pipeline": pipeline, "device": device.as_json(), "month": name, "images": month.images,
        "grades": {grade: month.grades[grade] for grade in GRADES},
        "alarms": sum(month.grades[grade] for grade in ALARMS),
        "findings": dict(sorted(month.findings.items())), "refused": dict(sorted(month.refused.items())),
    }  # fmt: skip


def _as_json(chart: Chart) -> dict[str, Any]:
    limits = chart.limits
    told = None if limits is None else {
        "baseline": limits.baseline, "centre": round(limits.centre, 4), "low": round(limits.low, 4),
        "high": round(limits.high, 4), "range_centre": round(limits.range_centre, 4),
        "range_high": round(limits.range_high, 4),
    }  # fmt: skip
    ranges = [None, *moving_ranges([v.value for v in chart.values])]
    out = [
        {
            "utc": utc(v.at),
            "study": v.study,
            "value": v.value,
            "moving_range": _rounded(ranges[n]),
            "rules": list(rules),
        }
        for n, rules in chart.broken.items()
        for v in (chart.values[n],)
    ]
    return {
        "pipeline": chart.pipeline, "device": chart.device.as_json(), "measure": chart.measure, "unit": chart.unit,
        "n": len(chart.values), "limits": told, "out_of_control": out,
    }  # fmt: skip


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
