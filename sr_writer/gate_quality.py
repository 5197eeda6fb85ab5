"""What must hold for everything that an object says of the images: grade, findings, numbers with their limits, places.

It is held against the job's document, taken down before anything was written. A wrong grade sends a patient home with a
bad picture or to a needless exposure, so a letter, a code, a number, a limit, a place and an image that is named each count.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from dicom_io.model import ImageKey
from dicom_io.reason import Reason
from sr_writer import codes
from sr_writer.gate_sources import Sources, frames_named, image_of
from sr_writer.gate_tree import children, name, named, tree, value
from sr_writer.reasons import REASONS

_TITLE_ISSUE = "113010"
_ASSESSMENTS, _FINDING, _GRADE = ("111050", "130550"), "111052", codes.concept("quality_grade").value
_NAME = "121071"
UPPER, LOWER = "371933006", "385524004"
"""Limits of a normal range: numbers that stand below another number."""
_SAID_TOLERANCE = 1e-4
_EDGE_PX = 0.01
_ALARMS = ("C", "D")
_SIGN = {"[hnsf'U]": ("HU",), "deg": ("deg", "°")}
_LETTER = re.compile(
    r"(?:[Gg]rade |等级 ?|quality of (?:this image|the series): |的(?:图像)?质量：)([A-D])(?![A-Za-z])"
)
_MARK = re.compile(r"(?:Alarm|Remark|警示|提示) ?[(（]([A-D])[)）]")
_FIGURES = re.compile(r"(?:measured: |测得 )(-?[\d.]+) ?([^,，\s)）]*)(?:, limit: |，限值 )(-?[\d.]+)")


@dataclass(frozen=True, slots=True)
class Flaw:
    """One finding about the images as the document has it.

    Parameters
    ----------
    own : str
        Code value of its private concept; empty without one.
    codes : frozenset[str]
        Code values of everything that it is called.
    grade : str
        Its own.
    number : tuple[float, str, float or None] or None
        What was measured, its unit and the limit; None for what nobody reads as a number.
    place : tuple[ImageKey, tuple[int, int], tuple[int, int]] or None
        Image, rows and columns.
    uids : frozenset[str]
        Of the instances that it is about; empty where it is about the whole series.
    texts : tuple[str, ...]
        What it says in each language.
    """

    own: str
    codes: frozenset[str]
    grade: str
    number: tuple[float, str, float | None] | None
    place: tuple[ImageKey, tuple[int, int], tuple[int, int]] | None
    uids: frozenset[str]
    texts: tuple[str, ...]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Flaw":
        """Take down one finding of the document."""
        own, standard = codes.quality_finding(row["code"]), codes.standard_quality(row["code"])
        called = frozenset(code.value for code in (own, standard) if code is not None)
        number = (float(row["value"]), row["unit"], row["limit"]) if row["value"] is not None and row["unit"] else None
        at = row.get("place")
        place = None
        if at is not None:
            key = ImageKey(at["sop_instance_uid"], at["frame"] or 0)
            place = key, (at["rows"][0], at["rows"][1]), (at["columns"][0], at["columns"][1])
        uids = frozenset(row["uids"]) if row["scope"] == "instance" else frozenset[str]()
        texts = tuple(row.get("text", {}).values())
        return cls("" if own is None else own.value, called, row.get("grade", "B"), number, place, uids, texts)

    def at(self, raw: Sources) -> tuple[int, int, int, int] | None:
        """Return left, top, right and bottom of its place in pixels; None without one on an image that is there."""
        if self.place is None or self.place[0] not in raw.slices:
            return None
        image, rows, columns = self.place
        down, across = raw.slices[image].shape
        left, top = min(max(columns[0], 0), across - 1), min(max(rows[0], 0), down - 1)
        return left, top, min(max(columns[1], left + 1), across), min(max(rows[1], top + 1), down)


@dataclass(frozen=True, slots=True)
class Graded:
    """What an analysis says of its images.

    Parameters
    ----------
    grade : str
        A to D.
    flaws : tuple[Flaw, ...]
        Every finding about the images.
    only : bool
        Whether the analysis is about nothing else.
    """

    grade: str
    flaws: tuple[Flaw, ...]
    only: bool

    @classmethod
    def of(cls, quality: Mapping[str, Any], pipeline: str) -> "Graded":
        """Take down what the document says under ``quality``."""
        flaws = tuple(Flaw.of(row) for row in quality["findings"])
        return cls(quality["grade"], flaws, codes.grades_images(pipeline))

    def bad(self, raw: Sources) -> set[ImageKey]:
        """Return the images that alarms are about."""
        out: set[ImageKey] = set()
        for flaw in self.flaws:
            if flaw.grade in _ALARMS:
                some = {key for key in raw.slices if key.sop_instance_uid in flaw.uids}
                some |= set() if flaw.place is None else {flaw.place[0]}
                out |= some or set(raw.slices)
        return out

    def misquoted(self, text: str) -> str | None:
        """Return what a sentence says otherwise than the document: a grade, or a number beside a limit; None if nothing."""
        for letter in _LETTER.findall(text):
            if letter != self.grade:
                return f"grade {letter}"
        for line in re.split(r"[\r\n]+", text):
            own = {f.grade for f in self.flaws if any(t in line for t in f.texts)}
            for letter in _MARK.findall(line):
                if letter not in (own or {f.grade for f in self.flaws}):
                    return f"grade {letter}"
        for shown, unit, limit in _FIGURES.findall(text):
            if not any(_reads(f, shown, unit, limit) for f in self.flaws):
                return f"{shown} {unit}, {limit}"
        return None

    def quantities(self) -> Iterator[tuple[float, str]]:
        """Yield every number with its unit, and every limit."""
        for flaw in self.flaws:
            if flaw.number is not None:
                value, unit, limit = flaw.number
                yield value, unit
                if limit is not None:
                    yield limit, unit


def _reads(flaw: Flaw, shown: str, unit: str, limit: str) -> bool:
    if flaw.number is None or flaw.number[2] is None:
        return False
    signs = {*_SIGN.get(flaw.number[1], (flaw.number[1],)), codes.unit_sign(flaw.number[1])}
    same = all(
        f"{right:z.{len(said.partition('.')[2])}f}" == said
        for said, right in ((shown, flaw.number[0]), (limit, flaw.number[2]))
    )
    return same and (unit in signs or (not unit and bool(signs & {"", "1"})))


def about_images(group: Dataset) -> bool:
    """Say whether a measurement group is about the images themselves."""
    return any(next(named(group, code), None) is not None for code in (*_ASSESSMENTS, _FINDING, _GRADE))


def limits_in(group: Dataset) -> int:
    """Return how many numbers of a group about the images stand below another one."""
    return sum(len(list(children(item, "NUM"))) for item in children(group, "NUM")) if about_images(group) else 0


def check_report(groups: Sequence[Dataset], graded: Graded, raw: Sources) -> Iterator[Reason]:
    """Yield what the groups of a report say of the images otherwise than the document."""
    mine = [g for g in groups if about_images(g)]
    main = [g for g in mine if next(named(g, _GRADE), None) is not None]
    if len(main) != 1:
        yield REASONS("quality-differs", what="Image quality grade")
    for group in main:
        yield from _whole(group, graded)
    left = [flaw for flaw in graded.flaws if flaw.at(raw) is not None]
    for group in (g for g in mine if g not in main):
        found = next((f for f in left if _is(group, f, raw)), None)
        if found is None:
            yield REASONS("quality-differs", what="place")
            continue
        left.remove(found)
        yield from _numbers(group, [found])
    if left:
        yield REASONS("quality-differs", what="place")


def _whole(group: Dataset, graded: Graded) -> Iterator[Reason]:
    """Check the group with the grade."""
    grades = [_code(item) for item in named(group, _GRADE)]
    assessments = {_code(item) for code in _ASSESSMENTS for item in named(group, code)}
    if grades != [codes.concept(f"grade_{graded.grade.lower()}").value]:
        yield REASONS("quality-differs", what="Image quality grade")
    if assessments != {codes.assessment(graded.grade).value}:
        yield REASONS("quality-differs", what="Quality Assessment")
    if {_code(item) for item in named(group, _FINDING)} != {code for f in graded.flaws for code in f.codes}:
        yield REASONS("quality-differs", what="Quality Finding")
    yield from _numbers(group, graded.flaws)


def _numbers(group: Dataset, flaws: Collection[Flaw]) -> Iterator[Reason]:
    """Check that a group has the number and the limit of every finding, and no other."""
    expected = [(f.own, *f.number) for f in flaws if f.own and f.number is not None]
    for item in children(group, "NUM"):
        match = next((e for e in expected if str(name(item).CodeValue) == e[0] and _same(item, e[1], e[2])), None)
        if match is None:
            yield REASONS("number-differs", what=name(item).CodeMeaning)
            continue
        expected.remove(match)
        limits = list(children(item, "NUM"))
        side = LOWER if match[3] is not None and match[1] < match[3] else UPPER
        if match[3] is None:
            wrong = bool(limits)
        else:
            wrong = [str(name(i).CodeValue) for i in limits] != [side] or not _same(limits[0], match[3], match[2])
        if wrong:
            yield REASONS("number-differs", what=name(item).CodeMeaning)
    if expected:
        yield REASONS("number-differs", what="Quality Finding")


def _same(item: Dataset, right: float, unit: str) -> bool:
    if not item.get("MeasuredValueSequence") or item.get("NumericValueQualifierCodeSequence"):
        return False
    own = str(item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue)
    return own == unit and abs(value(item) - right) <= _SAID_TOLERANCE * max(abs(right), 1e-3)


def _is(group: Dataset, flaw: Flaw, raw: Sources) -> bool:
    """Say whether a group is about a finding: by its codes, its image and its place."""
    place = flaw.at(raw)
    outlines = list(children(group, "SCOORD"))
    if place is None or flaw.place is None or len(outlines) != 1:
        return False
    images = [image_of(r) for i in children(outlines[0], "IMAGE") for r in i.ReferencedSOPSequence]
    called = {_code(item) for item in named(group, _FINDING)}
    named_so = {_code(item) for item in named(group, _NAME)}
    if flaw.codes and (called != flaw.codes or (flaw.own and named_so != {flaw.own})):
        return False
    return images == [flaw.place[0]] and around(np.array(outlines[0].GraphicData, float).reshape(-1, 2), place)


def around(points: npt.NDArray[np.float64], place: tuple[int, int, int, int]) -> bool:
    """Say whether a closed polyline runs along the border of a rectangle: left, top, right, bottom."""
    low, high = np.array(place[:2], float), np.array(place[2:], float)
    if np.abs(points.min(axis=0) - low).max() > _EDGE_PX or np.abs(points.max(axis=0) - high).max() > _EDGE_PX:
        return False
    border = (np.abs(points - low) <= _EDGE_PX) | (np.abs(points - high) <= _EDGE_PX)
    turns = {tuple(p) for p in np.round(points[border.all(axis=1)], 1)}
    return (
        bool(border.any(axis=1).all()) and len(turns) == 4 and bool(np.allclose(points[0], points[-1], atol=_EDGE_PX))
    )


def check_issue(ds: Dataset, graded: Graded | None, raw: Sources) -> Iterator[Reason]:
    """Yield what is wrong with key images under the title Quality Issue: only of alarms, and of nothing but bad images."""
    if graded is None or graded.grade not in _ALARMS:
        yield REASONS("quality-differs", what="Quality Issue")
        return
    shown: list[ImageKey] = []
    for item in children(ds, "IMAGE"):
        for reference in item.ReferencedSOPSequence:
            uid = str(reference.ReferencedSOPInstanceUID)
            shown += [ImageKey(uid, frame) for frame in frames_named(reference) or (0,)]
    if set(shown) != graded.bad(raw) or len(shown) != len(set(shown)):
        yield REASONS("quality-differs", what="Quality Issue")


def check_presentation(ds: Dataset, graded: Graded, raw: Sources) -> Iterator[Reason]:
    """Yield what is wrong with a presentation state of a grade: every place is framed on its image, and nothing else."""
    left = [f for f in graded.flaws if f.at(raw) is not None]
    for annotation in ds.get("GraphicAnnotationSequence") or ():
        images = [image_of(i) for i in annotation.get("ReferencedImageSequence") or ()]
        for graphic in annotation.get("GraphicObjectSequence") or ():
            points = np.array(graphic.GraphicData, float).reshape(-1, 2)
            found = next((f for f in left if _framed(f, images, points, raw)), None)
            if found is None:
                yield REASONS("quality-differs", what="place")
            else:
                left.remove(found)
    if left:
        yield REASONS("quality-differs", what="place")


def _framed(flaw: Flaw, images: Sequence[ImageKey], points: npt.NDArray[np.float64], raw: Sources) -> bool:
    place = flaw.at(raw)
    return flaw.place is not None and place is not None and images == [flaw.place[0]] and around(points, place)


def is_issue(ds: Dataset) -> bool:
    """Say whether a document names images as bad."""
    return any(str(i.get("CodeValue")).strip() == _TITLE_ISSUE for i in ds.get("ConceptNameCodeSequence") or ())


def check_texts(ds: Dataset, graded: Graded) -> Iterator[Reason]:
    """Check that no sentence has another grade than the document, or a number beside another limit."""
    for item in tree(ds):
        odd = graded.misquoted(str(item.TextValue)) if item.ValueType == "TEXT" else None
        if odd is not None:
            yield REASONS("quality-differs", what=odd)


def _code(item: Dataset) -> str:
    return str(item.ConceptCodeSequence[0].CodeValue) if item.get("ConceptCodeSequence") else ""
