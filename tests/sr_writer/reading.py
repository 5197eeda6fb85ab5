"""Reading objects back by pydicom alone: items, groups, texts, masks. Nothing here is shared with what writes them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset

TEXTS = {"LO", "SH", "LT", "ST", "UT", "UC", "PN"}


def items(ds: Dataset) -> Iterator[Dataset]:
    """Yield every sequence item at any depth."""
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                yield item
                yield from items(item)


def content(item: Dataset) -> Iterator[Dataset]:
    """Yield every content item below one."""
    for child in item.get("ContentSequence") or ():
        yield child
        yield from content(child)


def named(item: Dataset, code: str) -> list[Dataset]:
    """Return the children whose concept name has this code value."""
    return [i for i in item.get("ContentSequence") or () if name_of(i) == code]


def name_of(item: Dataset) -> str:
    """Return the code value of a concept name; empty if there is none."""
    return next((str(n.CodeValue) for n in item.get("ConceptNameCodeSequence") or ()), "")


def groups(report: Dataset) -> list[Dataset]:
    """Return the measurement groups of a report."""
    return [group for holder in named(report, "126010") for group in holder.ContentSequence]


def tracked(report: Dataset) -> dict[str, list[Dataset]]:
    """Return the measurement groups by tracking UID."""
    out: dict[str, list[Dataset]] = {}
    for group in groups(report):
        out.setdefault(named(group, "112040")[0].UID, []).append(group)
    return out


def texts(ds: Dataset) -> Iterator[tuple[str, str]]:
    """Yield keyword and value of every text."""
    for item in (ds, *items(ds)):
        for element in item:
            if element.VR in TEXTS and element.value:
                values = element.value if element.VM > 1 else [element.value]
                yield from ((element.keyword, str(value)) for value in values)


def sources_of(frame: Dataset) -> tuple[str, int]:
    """Return the image that a frame of a segmentation was made from: SOP Instance UID and frame number, else 0."""
    source = frame.DerivationImageSequence[0].SourceImageSequence[0]
    return str(source.ReferencedSOPInstanceUID), int(source.get("ReferencedFrameNumber") or 0)


def images(path: Path) -> dict[tuple[str, int], Dataset]:
    """Return where the images of a file lie, by SOP Instance UID and frame number, else 0: as single images say it."""
    ds = dcmread(path, stop_before_pixels=True)
    if "PerFrameFunctionalGroupsSequence" not in ds:
        return {(str(ds.SOPInstanceUID), 0): ds}
    out = {}
    for n, frame in enumerate(ds.PerFrameFunctionalGroupsSequence, 1):
        one = Dataset()
        one.FrameOfReferenceUID = ds.FrameOfReferenceUID
        for groups in (ds.SharedFunctionalGroupsSequence[0], frame):
            for sequence in ("PixelMeasuresSequence", "PlaneOrientationSequence", "PlanePositionSequence"):
                one.update(groups[sequence].value[0] if sequence in groups else {})
        one.InstanceNumber = n
        out[str(ds.SOPInstanceUID), n] = one
    return out


def masks(ds: Dataset, order: Mapping[tuple[str, int], int]) -> dict[int, np.ndarray[Any, Any]]:
    """Return the mask of each segment, [z, y, x], slices in the order of their images."""
    numbers = [int(s.SegmentNumber) for s in ds.SegmentSequence if s.SegmentNumber]
    out = {n: np.zeros((len(order), ds.Rows, ds.Columns), bool) for n in numbers}
    planes = ds.pixel_array.reshape(int(ds.NumberOfFrames), ds.Rows, ds.Columns)
    for plane, frame in zip(planes, ds.PerFrameFunctionalGroupsSequence, strict=True):
        z = order[sources_of(frame)]
        if ds.SegmentationType == "LABELMAP":
            for number, mask in out.items():
                mask[z] = plane == number
        else:
            out[int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber)][z] = plane > 0
    return out
