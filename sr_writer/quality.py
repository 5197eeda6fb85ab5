"""What a result says of its images, put in order for every object: worst first, numbered, with places and figures.

A pipeline of the table ``codes.toml`` with ``grades_images`` says nothing else: its objects speak of the picture alone.
"""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dicom_io.model import ImageKey
from pipeline.result import Code, Grid, Projection, QualityFinding, Result
from sr_writer import codes
from sr_writer.codes import text, unit_sign
from sr_writer.outline import Points
from sr_writer.wording import decimal

ALARMS = frozenset({"C", "D"})
"""Grades at which a person should look before the patient leaves; a finding of grade B is a remark."""


@dataclass(frozen=True, slots=True)
class Remark:
    """One finding about the images with the number that it bears everywhere, from 1."""

    number: int
    found: QualityFinding

    @property
    def alarm(self) -> bool:
        """Whether a person should look now."""
        return self.found.grade in ALARMS

    @property
    def image(self) -> ImageKey:
        """The image of its place; one without a place is on none."""
        if self.found.place is None:
            raise ValueError(f"{self.found.reason.code}: no place")
        return self.found.place.image

    @property
    def tracking_id(self) -> str:
        """Readable identity of its place, unique in a report."""
        return f"image quality {self.number}: {self.found.reason.code}"


def only_quality(result: Result) -> bool:
    """Whether the pipeline of `result` grades images and does nothing else."""
    return codes.grades_images(result.pipeline)


def remarks(result: Result) -> tuple[Remark, ...]:
    """Return the findings about the images, the worst first."""
    ordered = sorted(result.quality.findings, key=lambda f: f.grade, reverse=True)
    return tuple(Remark(n, found) for n, found in enumerate(ordered, start=1))


def placed(result: Result, images: Container[ImageKey]) -> list[Remark]:
    """Return the findings that have a place on one of these images, the worst first."""
    return [r for r in remarks(result) if r.found.place is not None and r.image in images]


def concepts(found: QualityFinding) -> list[Code]:
    """Return the codes of a finding: the standard one (CID 6135) where one fits, and the private one."""
    standard, own = codes.standard_quality(found.reason.code), codes.quality_finding(found.reason.code)
    return [code for code in (standard, own) if code is not None]


def figures(found: QualityFinding, language: str, *, plain: bool = False) -> str:
    """Return what was measured and the limit, for people; empty where there is nothing to read as a number.

    Parameters
    ----------
    found : QualityFinding
        Which.
    language : str
        One of the node's.
    plain : bool
        Write units as UCUM writes them, for text that must survive older character sets.
    """
    if found.value is None or not found.unit:
        return ""
    value = quantity(found.value, found.unit, language, plain=plain)
    if found.limit is None:
        return text("measured", language, value=value)
    limit = quantity(found.limit, found.unit, language, plain=plain)
    if found.limit <= 0 < found.value - found.limit and (found.unit == "mm" or found.limit == 0):
        means = "none_expected" if found.unit != "mm" else "at_the_border" if found.limit == 0 else "before_the_border"
        limit = text("limit_means", language, limit=limit, means=text(means, language))
    return text("measured_limit", language, value=value, limit=limit)


def quantity(value: float, unit: str, language: str, *, plain: bool = False) -> str:
    """Return a number with three significant digits, or none behind the point from 100 on, and its unit."""
    sign = {"[hnsf'U]": "HU", "deg": "deg"}.get(unit, unit) if plain else unit_sign(unit)
    digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    shown = decimal(value, digits, language)
    return f"{shown.rstrip('0').rstrip('.') if '.' in shown else shown} {'' if sign == '1' else sign}".rstrip()


def rectangle(rows: tuple[int, int], columns: tuple[int, int], shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom edge of a place in pixels from the corner of the image, at least a pixel wide.

    Parameters
    ----------
    rows, columns : tuple[int, int]
        First and one past the last.
    shape : Sequence[int]
        Rows and columns of the image.
    """
    left, top = (min(max(low, 0), size - 1) for low, size in ((columns[0], shape[1]), (rows[0], shape[0])))
    right = min(max(columns[1], left + 1), shape[1])
    return left, top, right, min(max(rows[1], top + 1), shape[0])


def frame_points(found: QualityFinding, shape: Sequence[int]) -> Points:
    """Return the place of a finding as a closed polyline of eight points, shape (9, 2), (column, row) as in `outline`."""
    if found.place is None:
        raise ValueError(f"{found.reason.code}: no place")
    left, top, right, bottom = rectangle(found.place.rows, found.place.columns, shape)
    across, down = (left + right) / 2, (top + bottom) / 2
    return np.array([
        (left, top), (across, top), (right, top), (right, down), (right, bottom), (across, bottom), (left, bottom),
        (left, down), (left, top),
    ], np.float64)  # fmt: skip


def shown_images(result: Result, most: int) -> list[ImageKey]:
    """Return the images of the places, the worst first, at most so many; without places the middle of the stack."""
    there = set(result.geometry.images)
    placed = dict.fromkeys(r.found.place.image for r in remarks(result) if r.found.place is not None)
    return [key for key in placed if key in there][:most] or [middle(result.geometry)]


def middle(grid: Grid) -> ImageKey:
    """Return the image in the middle of the stack, or the radiograph."""
    return grid.images[len(grid.images) // 2]


def bad_images(result: Result, known: Iterable[ImageKey]) -> list[ImageKey]:
    """Return the images that alarms are about: those of their places and UIDs, or all where the series as a whole is meant.

    Parameters
    ----------
    result : Result
        What was graded.
    known : Iterable[ImageKey]
        Every input.
    """
    inputs = list(known)
    bad: set[ImageKey] = set()
    for remark in remarks(result):
        if not remark.alarm:
            continue
        found = remark.found
        named = {key for key in inputs if found.scope == "instance" and key.sop_instance_uid in found.uids}
        if found.place is not None:
            named.add(found.place.image)
        bad |= named or set(inputs)
    return [key for key in inputs if key in bad]


def is_radiograph(result: Result) -> bool:
    """Whether one image was graded, and not a series."""
    return isinstance(result.geometry, Projection)
