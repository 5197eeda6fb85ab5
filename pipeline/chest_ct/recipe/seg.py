"""DICOM Segmentation objects: frame by frame onto their series, by the positions that each frame states.

References
----------
DICOM PS3.3 C.8.20 (Segmentation), C.7.6.16.2 (functional groups: Pixel Measures, Plane Position, Plane Orientation).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset

from pipeline.chest_ct.recipe.place import Bools, Space
from pipeline.chest_ct.recipe.refusals import LabelRefused


def names(header: Dataset) -> dict[int, str]:
    """Return the label of every segment by its number."""
    return {int(s.SegmentNumber): str(s.get("SegmentLabel", "")) for s in header.get("SegmentSequence", [])}


def paint(path: Path, wanted: Callable[[str], bool], space: Space, out: Bools) -> None:
    """Mark in `out` the segments whose labels are wanted.

    Raises
    ------
    LabelRefused
        ``seg-not-binary``, ``label-tool``, ``label-elsewhere`` or ``label-outside``.
    """
    ds = pydicom.dcmread(path)
    kind = str(ds.get("SegmentationType", ""))
    chosen = {number for number, name in names(ds).items() if wanted(name)}
    try:
        pixels: npt.NDArray[Any] = np.asarray(ds.pixel_array)
        frames = pixels.reshape(-1, int(ds.Rows), int(ds.Columns))
        groups = list(ds.PerFrameFunctionalGroupsSequence)
        shared = ds.SharedFunctionalGroupsSequence[0] if ds.get("SharedFunctionalGroupsSequence") else Dataset()
        if len(groups) != len(frames):
            raise LabelRefused("label-tool", error="NumberOfFrames")
        for plane, group in zip(frames, groups, strict=True):
            mask = _mask(ds, kind, plane, group, shared, chosen)
            if mask.any():
                _place(mask, group, shared, space, out)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise LabelRefused("label-tool", error=type(error).__name__) from error


def _mask(ds: Dataset, kind: str, plane: npt.NDArray[Any], group: Dataset, shared: Dataset, chosen: set[int]) -> Bools:
    """Return which pixels of a frame belong to a chosen segment."""
    if kind == "LABELMAP":
        out: Bools = np.isin(plane, sorted(chosen))
        return out
    if kind not in {"BINARY", "FRACTIONAL"}:
        raise LabelRefused("seg-not-binary", kind=kind or "?")
    number = int(_item(group, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)
    if number not in chosen:
        return np.zeros(plane.shape, np.bool_)
    half = 1 if kind == "BINARY" else int(ds.MaximumFractionalValue) / 2
    inside: Bools = plane >= half
    return inside


def _place(mask: Bools, group: Dataset, shared: Dataset, space: Space, out: Bools) -> None:
    origin = np.array(_item(group, shared, "PlanePositionSequence").ImagePositionPatient, np.float64)
    cosines = np.array(_item(group, shared, "PlaneOrientationSequence").ImageOrientationPatient, np.float64)
    rows_mm, columns_mm = (float(v) for v in _item(group, shared, "PixelMeasuresSequence").PixelSpacing)
    space.place_plane(mask, origin, cosines[:3] * columns_mm, cosines[3:] * rows_mm, out)


def _item(group: Dataset, shared: Dataset, keyword: str) -> Dataset:
    found = group.get(keyword) or shared.get(keyword)
    item: Dataset = found[0]
    return item
