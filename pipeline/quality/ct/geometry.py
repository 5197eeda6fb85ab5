"""What headers alone say of a stack: thickness, missing, repeated and uneven slices, tilt."""

from dicom_io import elements
from dicom_io.model import Instance
from dicom_io.stack import Stack
from dicom_io.volume import Volume
from pipeline.quality.grade import Measured
from pipeline.result import Place


def geometry(stack: Stack, volume: Volume) -> dict[str, Measured]:
    """Return ``thickness_mm``, ``missing_slices``, ``uneven_mm``, ``duplicates``, ``pixel_mm`` and ``tilt_deg``."""
    return {
        "thickness_mm": Measured(round(max(stack.thickness_mm or 0.0, stack.spacing_mm), 2), "mm"),
        "missing_slices": _missing(stack),
        "uneven_mm": Measured(0.0 if stack.gaps else volume.affine_error_mm, "mm"),
        "duplicates": _duplicates(stack),
        "pixel_mm": Measured(round(max(stack.pixel_spacing_mm), 3), "mm"),
        "tilt_deg": Measured(round(stack.tilt_deg, 2), "deg"),
    }


def _missing(stack: Stack) -> Measured:
    if not stack.gaps:
        return Measured(0.0, "1")
    widest = max(stack.gaps, key=lambda g: g.mm)
    below, above = stack.instances[widest.after_index], stack.instances[widest.after_index + 1]
    words = {"mm": f"{widest.mm:g}", "after": _number(below), "before": _number(above)}
    whole = Place(below.key, (0, stack.rows), (0, stack.columns))
    return Measured(float(sum(g.missing for g in stack.gaps)), "1", whole, words=words)


def _duplicates(stack: Stack) -> Measured:
    keys = stack.duplicates
    if not keys:
        return Measured(0.0, "1")
    uids = tuple(dict.fromkeys(key.sop_instance_uid for key in keys))
    return Measured(float(len(keys)), "1", uids=uids)


def _number(image: Instance) -> str:
    """Return the number by which a person finds the image."""
    number = elements.integer(image.header, "InstanceNumber")
    return f"{number}" if number is not None else "?"
