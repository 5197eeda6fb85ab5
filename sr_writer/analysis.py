"""Which writer makes which object: of a result, and of the statement that there is none."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from dicom_io.model import Study
from dicom_io.radiograph import Radiograph
from dicom_io.reason import Reason
from pipeline.result import Geometry, Result
from sr_writer import (
    card,
    comprehensive,
    gsps,
    key_objects,
    overlay,
    pdf,
    sc,
    seg,
    sr,
    sr_card,
    summary,
    text_sr,
)
from sr_writer.considered import Considered, card_variant
from sr_writer.header import Authorship
from sr_writer.profiles import Form, ObjectName, Piece, Tree
from sr_writer.quality import only_quality, placed
from sr_writer.radiograph import Values
from sr_writer.references import evidence
from sr_writer.sources import Sources

Pixels = npt.NDArray[np.uint8]
Follows = Callable[[Piece], Sequence[Dataset]]
"""Which earlier documents a report follows."""


class Analysis:
    """One result as objects; reports are asked for last, because they refer to the others.

    Parameters
    ----------
    result : Result
        What the pipeline said.
    values : Values
        What it was computed from, for pictures.
    sources : Sources
        Every input.
    by : Authorship
        Whose, by whom, when.
    follows : Follows
        Which earlier documents a report follows.
    """

    def __init__(self, result: Result, values: Values, sources: Sources, by: Authorship, follows: Follows) -> None:
        self._result, self._values, self._sources, self._by, self._follows = result, values, sources, by, follows
        self._made: dict[Form, list[Dataset]] = {}
        self._told: dict[tuple[Tree, tuple[Form, ...]], Dataset] = {}
        self._writers: Mapping[ObjectName, Callable[[Piece, Authorship], Iterator[Dataset]]] = {
            "seg": self._segmentation, "sr": self._report, "csr": self._comprehensive, "text": self._text,
            "sc": self._summary, "overlay": self._overlay, "gsps": self._markings, "kos": self._key_images,
            "pdf": self._document, "quality_kos": self._bad_images,
        }  # fmt: skip

    @cached_property
    def picture(self) -> Pixels:
        """The summary: RGB of shape (rows, columns, 3)."""
        return summary.draw(self._result, self._values, self._sources, self._by).pixels()

    def objects(self, piece: Piece) -> Iterator[Dataset]:
        """Yield the instances of one object; none if there is nothing to show."""
        made = self._made[piece.form] = []
        for ds in self._writers[piece.form.object](piece, replace(self._by, piece=piece)):
            made.append(_place(ds))
            yield ds

    def _segmentation(self, piece: Piece, by: Authorship) -> Iterator[Dataset]:
        stack = isinstance(self._result.geometry, Geometry)
        if self._result.segments and (stack or piece.form.radiographs):
            yield seg.build(self._result, self._sources, by, piece.form.encoding)

    def _report(self, piece: Piece, by: Authorship) -> Iterator[Dataset]:
        """Yield the report; it shows what the segmentation of its own profile shows, and refers to the other objects."""
        there = [(form, ds) for form in piece.beside for ds in self._made.get(form, ())]
        shown = next((ds for form, ds in there if form.object == "seg"), None)
        ds = sr.build(
            self._result, self._sources, by, shown, self._follows(piece),
            beside=[ds for _, ds in there if ds is not shown], tree=piece.form.tree,
        )  # fmt: skip
        self._told[piece.form.tree, piece.beside] = ds
        yield ds

    def _comprehensive(self, piece: Piece, by: Authorship) -> Iterator[Dataset]:
        """Yield what a report says as another class; it follows reports of that class."""
        said = self._told.get((piece.form.tree, piece.beside)) or next(self._report(piece, by))
        ds = comprehensive.build(said, by)
        ds.pop("PredecessorDocumentsSequence", None)
        if before := self._follows(piece):
            ds.PredecessorDocumentsSequence = evidence(before)
        yield ds

    def _text(self, piece: Piece, by: Authorship) -> Iterator[Dataset]:
        del piece
        yield text_sr.build(self._result, self._sources, by)

    def _summary(self, piece: Piece, by: Authorship) -> Iterator[Dataset]:
        del piece
        keys = [self._sources.images[key] for key in summary.key_images(self._result)]
        what, shows = "AI summary", "key images with outlines, numbers"
        if only_quality(self._result):
            what, shows = f"AI grade {self._result.quality.grade} of image quality", "images with places framed"
        if isinstance(self._values, Radiograph):
            left, top, width, height = summary.place(self._values, self._result)
            shows = f"whole image in columns {left} to {left + width - 1}, rows {top} to {top + height - 1}"
        what = f"{what}: {shows}"
        yield sc.build(self.picture, keys, by, kind="sc", description=what)

    def _overlay(self, piece: Piece, by: Authorship) -> Iterator[Dataset]:
        modality = self._sources.first.header.Modality if piece.form.modality == "source" else "OT"
        yield from overlay.build(self._result, self._values, self._sources, by, modality)

    def _markings(self, piece: Piece, by: Authorship) -> Iterator[Dataset]:
        del piece
        places = only_quality(self._result) and placed(self._result, self._sources.images)
        if self._result.findings or places:
            yield gsps.build(self._result, self._sources, by)

    def _document(self, piece: Piece, by: Authorship) -> Iterator[Dataset]:
        del piece
        yield pdf.build(self._result, self._values, self._sources, by)

    def _key_images(self, piece: Piece, by: Authorship) -> Iterator[Dataset]:
        del piece
        made = key_objects.build(self._result, self._sources, by)
        if made is not None:
            yield made

    def _bad_images(self, piece: Piece, by: Authorship) -> Iterator[Dataset]:
        del piece
        made = key_objects.build_issue(self._result, self._sources, by)
        if made is not None:
            yield made


@dataclass(frozen=True, slots=True)
class NoResult:
    """The statement that there is no result, as objects.

    Parameters
    ----------
    reason : Reason
        Why.
    outcome : {"not_analysed", "failed"}
        Whether it worked as designed.
    study : Study
        The whole study revision.
    considered : Sequence[Considered]
        Series that were looked at, with what was thought of them.
    sources : Sources
        What was considered.
    by : Authorship
        Whose, by whom, when.
    """

    reason: Reason
    outcome: Literal["not_analysed", "failed"]
    study: Study
    considered: Sequence[Considered]
    sources: Sources
    by: Authorship

    def picture(self) -> Pixels:
        """Return the card: RGB of shape (rows, columns, 3)."""
        return card.draw(self.reason, self.outcome, self.study, self.considered, self.by).pixels()

    def object(self, piece: Piece) -> Dataset:
        """Return one object that says it."""
        by, said = replace(self.by, piece=piece), card_variant(self.reason, self.outcome, self.considered)
        match piece.form.object:
            case "card":
                return self._card(by, said)
            case "card_text":
                return text_sr.build_card(self.reason, self.outcome, self.considered, self.sources, by)
            case "card_pdf":
                return pdf.build_card(self.reason, self.outcome, self.considered, self.sources, by)
            case "card_sr":
                return self._report(by, said)
            case "card_csr":
                return comprehensive.build(self._report(by, said), by, said)
            case other:
                raise ValueError(f"no writer for {other!r}")

    def _card(self, by: Authorship, said: str) -> Dataset:
        first_of_series = {i.series_instance_uid: i for i in reversed(self.sources.instances.values())}
        sources = [i for _, i in sorted(first_of_series.items())]
        what = {"not_analysed": "not analysed", "failed": "failed"}[self.outcome]
        description = f"AI {what}: {self.reason.code}"
        return sc.build(self.picture(), sources, by, kind="card", what=what, description=description, variant=said)

    def _report(self, by: Authorship, said: str) -> Dataset:
        return sr_card.build(self.reason, self.outcome, self.considered, self.sources, by, variant=said)


def _place(ds: Dataset) -> Dataset:
    """Return what others need in order to refer to an object; the object itself may be large."""
    out = Dataset()
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID"):
        setattr(out, keyword, ds[keyword].value)
    return out
