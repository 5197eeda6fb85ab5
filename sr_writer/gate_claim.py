"""What an analysis says, taken down before anything is written, so that the gate can hold the objects against it.

Where the masks lie is kept as digests of runs (`sr_writer.gate_frames`): the writer packs bits, and a frame that it mirrors,
moves by one pixel or gives to another slice has another digest. The numbers are those of the job's document.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np

from dicom_io.model import ImageKey
from pipeline.result import Code, Mask, Projection, Result
from sr_writer.codes import measurement, site_modifier
from sr_writer.gate_frames import Runs
from sr_writer.gate_quality import Graded

Site = tuple[str, str, str]
"""Code values of anatomy, side and what narrows it; empty where there is none."""

_NUMBER = re.compile(
    r"(?<![\w.-])(-?\d+(?:\.\d+)?)\s*(cm3|cm³|mm3|mm³|cm2|cm²|mm2|mm²|ml|mL|mm|cm|HU|%|立方厘米|平方厘米|毫升|毫米|厘米)(?![A-Za-z0-9])"
)
_SAME = {
    "cm³": "cm3", "mm³": "mm3", "ml": "cm3", "mL": "cm3", "立方厘米": "cm3", "cm²": "cm2", "mm²": "mm2", "平方厘米": "cm2", "毫升": "cm3", "毫米": "mm", "厘米": "cm",
}  # fmt: skip
_SIGNS = {"[hnsf'U]": "HU"}


@dataclass(frozen=True, slots=True)
class Said:
    """One number as the document has it."""

    value: float | None
    unit: str
    status: str


Numbers = Mapping[str, Said]
"""By the code value of the measurement's name."""


SAID_TOLERANCE = 1e-4
"""Share of a number by which report and document may differ: DS has 16 characters."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule behind a suggestion as the document has it."""

    rule: str
    value: float | None
    unit: str
    limit: float
    speaks: str


@dataclass(frozen=True, slots=True)
class Suggested:
    """One suggestion as the document has it."""

    name: str
    answer: str
    rules: tuple[Rule, ...]
    texts: tuple[str, ...]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Suggested":
        """Take down one suggestion of the document."""
        rules = tuple(Rule(e["rule"], e["value"], e["unit"], e["limit"], e["speaks"]) for e in row["evidence"])
        return cls(row["name"], row["answer"], rules, tuple(row["text"].values()))


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """One mask on a radiograph: what it is, on which side, and where it lies."""

    tracking_id: str
    kind: Code
    side: Code | None
    image: ImageKey
    runs: Runs


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """What an analysis says.

    Parameters
    ----------
    planes : Mapping[str, Mapping[ImageKey, bytes]]
        Tracking identifier of a segment to image to digest of its runs there.
    findings : Mapping[str, Numbers]
        By tracking UID.
    regions : Mapping[Site, tuple[Numbers, ...]]
        By what they are about; several where the codes do not tell them apart.
    graded : Graded
        What it says of the images.
    quantities : frozenset[tuple[str, str]]
        Digits and unit of every number with a unit in the texts of the document.
    shapes : tuple[Shape, ...]
        The segments of a result on a radiograph as they are: it is one image, and there is no segmentation as a rule.
    kinds : Mapping[str, str]
        Tracking identifier of a segment or finding to the code value of what it is.
    labels : Mapping[str, frozenset[str]]
        Tracking identifier of a segment to its label in each language.
    suggested : tuple[Suggested, ...]
        What it suggests.
    """

    planes: Mapping[str, Mapping[ImageKey, bytes]]
    findings: Mapping[str, Numbers]
    regions: Mapping[Site, tuple[Numbers, ...]]
    graded: Graded
    quantities: frozenset[tuple[str, str]]
    shapes: tuple[Shape, ...] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, frozenset[str]] = field(default_factory=dict)
    suggested: tuple[Suggested, ...] = ()

    @classmethod
    def of(cls, result: Result, document: Mapping[str, Any]) -> "Claim":
        """Take down what `result` shows and what `document`, made of it, says."""
        images = result.geometry.images
        planes = {s.tracking_id: _digests(s.mask, images) for s in result.segments}
        sites: dict[str, Site] = {}
        for region in result.regions:
            modifier = site_modifier(region.site)
            sites[region.site] = (
                region.anatomy.value, region.laterality.value if region.laterality else "",
                modifier.value if modifier else "",
            )  # fmt: skip
        regions: dict[Site, tuple[Numbers, ...]] = {}
        for name in dict.fromkeys(row["site"] for row in document["measurements"]):
            numbers = _numbers([row for row in document["measurements"] if row["site"] == name])
            regions[sites[name]] = (*regions.get(sites[name], ()), numbers)
        findings = {row["tracking_uid"]: _numbers(row["measurements"]) for row in document["findings"]}
        graded = Graded.of(document["quality"], result.pipeline)
        told = frozenset(found for text in _texts(document) for found in _quantities(text))
        shapes: tuple[Shape, ...] = ()
        if isinstance(result.geometry, Projection):
            shapes = tuple(
                Shape(s.tracking_id, s.kind, s.laterality, images[0], Runs.of(s.mask.plane(0))) for s in result.segments
            )
        kinds = {s.tracking_id: s.kind.value for s in result.segments} | {
            f.tracking_id: f.code.value for f in result.findings
        }
        labels = {s.tracking_id: frozenset(label[:64] for label in s.label.values()) for s in result.segments}
        suggested = tuple(Suggested.of(row) for row in document.get("suggestions", ()))
        return cls(planes, findings, regions, graded, told, shapes, kinds, labels, suggested)

    def mislabels(self, tracking_id: str, label: str) -> bool:
        """Say whether a segment bears the label of another one."""
        others = (labels for one, labels in self.labels.items() if one != tracking_id)
        return label not in self.labels.get(tracking_id, ()) and any(label in labels for labels in others)

    def allows(self, text: str) -> str | None:
        """Return the first number with a unit in `text` that the document does not have; None if all follow from it."""
        tables = [*self.findings.values(), *(numbers for some in self.regions.values() for numbers in some)]
        values = [said for numbers in tables for said in numbers.values()]
        values += [Said(value, unit, "ok") for value, unit in self.graded.quantities()]
        rules = [rule for one in self.suggested for rule in one.rules]
        values += [Said(v, r.unit, "ok") for r in rules for v in (r.value, r.limit)]
        for digits, unit in _quantities(text):
            places = len(digits.partition(".")[2])
            shown = (
                f"{s.value:z.{places}f}" for s in values if s.value is not None and _SIGNS.get(s.unit, s.unit) == unit
            )
            if (digits, unit) not in (self.quantities | _OWN) and digits not in shown:
                return f"{digits} {unit}"
        return None


def _numbers(rows: list[Mapping[str, Any]]) -> dict[str, Said]:
    return {measurement(r["name"]).code.value: Said(r["value"], r["unit"], r["status"]) for r in rows}


def _digests(mask: Mask, images: tuple[ImageKey, ...]) -> dict[ImageKey, bytes]:
    plane = np.zeros(mask.shape[1:], np.bool_)
    _, rows, columns = mask.slices
    out = {}
    for k, box in enumerate(mask.box):
        if box.any():
            plane[rows, columns] = box
            out[images[mask.offset[0] + k]] = Runs.of(plane).digest
    return out


def _quantities(text: str) -> Iterator[tuple[str, str]]:
    for digits, unit in _NUMBER.findall(text):
        yield digits, _SAME.get(unit, unit)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts(part)


_OWN = frozenset(
    found
    for name in ("codes.toml", "texts.toml")
    for found in _quantities(files("sr_writer").joinpath(name).read_text(encoding="utf-8"))
)
"""The writer's own words hold numbers too: limits of density classes."""
