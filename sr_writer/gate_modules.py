"""Required attributes by SOP class, and what marks an object as an unverified AI result; the table is ``gate_modules.toml``."""

import tomllib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

from pydicom.dataset import Dataset

from dicom_io.reason import Reason
from sr_writer.gate_tree import tree
from sr_writer.reasons import REASONS

_TABLE: Mapping[str, Any] = tomllib.loads(files("sr_writer").joinpath("gate_modules.toml").read_text(encoding="utf-8"))
SOP_CLASSES: Mapping[str, Mapping[str, Any]] = _TABLE["object"]
"""What may leave at all."""


def kind_of(sop_class_uid: str) -> str:
    """Return which checks a SOP class goes through; empty if objects of it never leave."""
    return str(SOP_CLASSES.get(sop_class_uid, {}).get("kind", ""))


def check(ds: Dataset) -> Iterator[Reason]:
    """Yield what an object of its SOP class lacks."""
    row = SOP_CLASSES.get(str(ds.get("SOPClassUID")))
    if row is None:
        yield REASONS("required-missing", what="SOPClassUID")
        return
    for module in (_TABLE["module"][name] for name in row["modules"]):
        yield from _required(ds, module.get("type1", ()), module.get("type2", ()))
    if row["modality"] and ds.get("Modality") not in row["modality"]:
        yield REASONS("required-missing", what="Modality")
    for keyword, required in _TABLE["item"].items():
        for item in ds.get(keyword) or ():
            yield from _required(item, required)
    if ds.get("ValueType") is not None:
        yield from _content(ds)
    yield from _conditional(ds)
    yield from _marks(ds, row["marks"])


def _required(ds: Dataset, type1: Any, type2: Any = ()) -> Iterator[Reason]:  # noqa: ANN401 - lists of the table
    for keyword in type1:
        if keyword not in ds or _empty(ds[keyword].value):
            yield REASONS("required-missing", what=keyword)
    for keyword in type2:
        if keyword not in ds:
            yield REASONS("required-missing", what=keyword)


def _empty(value: object) -> bool:
    return value is None or (hasattr(value, "__len__") and len(value) == 0)


def _content(ds: Dataset) -> Iterator[Reason]:
    if ds.ValueType != "CONTAINER":
        yield REASONS("required-missing", what="ValueType")
    for item in tree(ds):
        required = _TABLE["content"].get(item.get("ValueType"))
        if required is None:
            yield REASONS("required-missing", what="ValueType")
            continue
        yield from _required(item, ("RelationshipType", *required))
        if item.ValueType == "NUM" and "MeasuredValueSequence" not in item:
            yield REASONS("required-missing", what="MeasuredValueSequence")


def _conditional(ds: Dataset) -> Iterator[Reason]:
    """Check what is required where something else is there."""
    if "PixelData" in ds and ds.get("SamplesPerPixel") == 3 and "PlanarConfiguration" not in ds:
        yield REASONS("required-missing", what="PlanarConfiguration")
    if "FrameOfReferenceUID" in ds and "PositionReferenceIndicator" not in ds:
        yield REASONS("required-missing", what="PositionReferenceIndicator")
    for segment in ds.get("SegmentSequence") or ():
        if segment.get("SegmentAlgorithmType") != "MANUAL" and not segment.get("SegmentAlgorithmName"):
            yield REASONS("required-missing", what="SegmentAlgorithmName")
    if kind_of(str(ds.SOPClassUID)) == "document" and any("ReferencedSOPSequence" in i for i in tree(ds)):
        yield from _required(ds, ("CurrentRequestedProcedureEvidenceSequence",))


def _marks(ds: Dataset, marks: Mapping[str, str]) -> Iterator[Reason]:
    """Check that everyone can see that a computer made it and nobody checked it."""
    if not str(ds.get("SeriesDescription") or "").startswith("AI "):
        yield REASONS("not-marked", what="SeriesDescription")
    if not any(item.get("DeviceUID") for item in ds.get("ContributingEquipmentSequence") or ()):
        yield REASONS("not-marked", what="ContributingEquipmentSequence")
    for keyword, wanted in marks.items():
        found = ds.get(keyword)
        if (found if isinstance(found, str) else next(iter(found or ()), None)) != wanted:
            yield REASONS("not-marked", what=keyword)
    if any(s.get("SegmentAlgorithmType") != "AUTOMATIC" for s in ds.get("SegmentSequence") or () if s.SegmentNumber):
        yield REASONS("not-marked", what="SegmentAlgorithmType")
