"""Which label belongs to which series, and what it marks there."""

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from dicom_io import elements
from dicom_io.model import Instance
from dicom_io.stack import Stack
from dicom_io.volume import stack_affine
from pipeline.chest_ct.recipe import contours, nifti, seg
from pipeline.chest_ct.recipe.place import Bools, Space
from pipeline.chest_ct.recipe.refusals import LabelRefused

OBJECTS: Mapping[str, str] = {
    "1.2.840.10008.5.1.4.1.1.66.4": "seg",
    "1.2.840.10008.5.1.4.1.1.66.7": "seg",  # Label Map Segmentation Storage
    "1.2.840.10008.5.1.4.1.1.481.3": "contours",
}


@dataclass(frozen=True, slots=True)
class Label:
    """One label file of one series.

    Parameters
    ----------
    item : str
        How to name it to a person.
    path : Path
        Where it is.
    instance : Instance or None
        Of a DICOM object its header; None for NIfTI.
    """

    item: str
    path: Path
    instance: Instance | None = None

    def series(self, by_image: Mapping[str, str]) -> str:
        """Return the Series Instance UID that a DICOM label names, itself or by its images; empty if it names none."""
        assert self.instance is not None  # noqa: S101 - asked of objects alone
        header = self.instance.header
        named = [*_items(header, "ReferencedSeriesSequence")]
        for frame in _items(header, "ReferencedFrameOfReferenceSequence"):
            for study in _items(frame, "RTReferencedStudySequence"):
                named += _items(study, "RTReferencedSeriesSequence")
        for one in named:
            if uid := elements.text(one, "SeriesInstanceUID"):
                return uid
        for roi in _items(header, "ROIContourSequence"):
            for contour in _items(roi, "ContourSequence"):
                for image in _items(contour, "ContourImageSequence"):
                    if uid := by_image.get(elements.text(image, "ReferencedSOPInstanceUID"), ""):
                        return uid
        return ""

    def paint(self, stack: Stack, p: Mapping[str, Any], patient: str, out: Bools) -> None:
        """Mark in `out`, of the shape of the stack, what is a lesion by its name, or of NIfTI by its value.

        Parameters
        ----------
        stack : Stack
            Of the series.
        p : Mapping
            Table ``[lesion]``.
        patient : str
            Patient ID of the series.
        out : ndarray of bool
            Changed in place.

        Raises
        ------
        LabelRefused
            If it does not belong there, or cannot be read.
        """
        space = Space(stack_affine(stack), (len(stack.instances), stack.rows, stack.columns))
        if self.instance is None:
            values, affine = nifti.read(self.path)
            space.place(np.isin(values, p["values"]) if p["values"] else np.asarray(values != 0), affine, out)
            return
        header = self.instance.header
        self._check(header, stack, patient)
        kind = OBJECTS[self.instance.sop_class_uid]
        named = seg.names(header) if kind == "seg" else contours.names(header)
        wanted = chosen(p["names"])
        if not any(wanted(name) for name in named.values()):
            raise LabelRefused("label-names", names=", ".join(sorted(set(named.values()))[:12]))
        if kind == "seg":
            seg.paint(self.path, wanted, space, out)
        else:
            contours.paint(header, wanted, space, out)

    @staticmethod
    def _check(header: Dataset, stack: Stack, patient: str) -> None:
        if elements.text(header, "PatientID") != patient:
            raise LabelRefused("label-of-other-patient")
        frames = {elements.text(header, "FrameOfReferenceUID")}
        for one in _items(header, "ReferencedFrameOfReferenceSequence"):
            frames.add(elements.text(one, "FrameOfReferenceUID"))
        for one in _items(header, "StructureSetROISequence"):
            frames.add(elements.text(one, "ReferencedFrameOfReferenceUID"))
        if frames - {"", stack.frame_of_reference_uid}:
            raise LabelRefused("label-frame-of-reference")


def chosen(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Return whether a name fits one of the patterns (``*`` and ``?``), capitals or not."""
    return lambda name: any(fnmatch.fnmatchcase(name.casefold(), p.casefold()) for p in patterns)


def beside(file: Path, root: Path, folders: Mapping[str, Path]) -> str:
    """Return the series that a NIfTI file lies beside: the only one below the nearest folder that holds any.

    Parameters
    ----------
    file : Path
        The label.
    root : Path
        Where to stop.
    folders : Mapping[str, Path]
        Series Instance UID to the folder of its images.

    Raises
    ------
    LabelRefused
        ``label-ambiguous`` if there are several, ``label-of-absent-series`` if there is none.
    """
    for folder in (p for p in file.parents if p == root or root in p.parents):
        below = [uid for uid, where in folders.items() if where == folder or folder in where.parents]
        if len(below) > 1:
            raise LabelRefused("label-ambiguous", count=len(below))
        if below:
            return below[0]
    raise LabelRefused("label-of-absent-series")


def _items(header: Dataset, keyword: str) -> Iterator[Dataset]:
    found = elements.value(header, keyword)
    yield from (item for item in found or () if isinstance(item, Dataset))
