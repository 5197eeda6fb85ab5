"""Limits of one site: bounds in the place of those that are shipped, for all images or for those of one device.

`pacs-ai-node quality calibrate` makes the file, and a person reviews it::

    schema = "pacs-ai-node/quality-limits/1"

    [[limit]]
    pipeline = "cxr_quality"
    code = "exposure-above-target"   # of the finding
    grade = "B"                      # which of its rows, where it has several
    above = 4.5                      # or below, as the row has it: where the finding begins from now on
    when = { manufacturer = "Maker", model = "Model", station = "DX1", view = "PA" }   # any of these; without: everywhere

`view` is View Position (0018,5101), `kernel` is Convolution Kernel (0018,1210), beside the device that the images name.

What several rows say about one bound is decided by the one that says most about the image. Nothing else of a table can be
changed: what is measured, which grade a finding has, and whether a thing is a finding at all stay those of the pipeline.
"""

import hashlib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, Final, Literal

from pydicom.dataset import Dataset

from dicom_io.device import Device
from dicom_io.elements import text
from dicom_io.reason import Reason
from pipeline import registry
from pipeline.errors import PipelineFailed
from pipeline.quality.grade import Limit, table
from pipeline.reasons import REASONS

SCHEMA: Final = "pacs-ai-node/quality-limits/1"
_LARGEST: Final = 1 << 20
_MOST: Final = 1000
_WHEN: Final = ("manufacturer", "model", "station", "view", "kernel")
_ROW: Final = frozenset({"pipeline", "code", "grade", "above", "below", "when", "note"})
_HEAD: Final = frozenset({"schema", "made", "by", "inputs", "images", "studies", "patients", "reviewed_by", "limit"})


class LimitsError(PipelineFailed):
    """A file of limits cannot be used.

    Parameters
    ----------
    file : Path
        Which.
    key : str
        Dotted path of the key; empty for the whole file.
    value : object
        What stands there.
    allowed : str
        What may stand there.
    """

    def __init__(self, file: Path, key: str, value: object, allowed: str) -> None:
        super().__init__(REASONS("site-limits-unusable", file=file, key=key or "-", allowed=allowed))
        self.file, self.key, self.value, self.allowed = file, key, value, allowed


@dataclass(frozen=True, slots=True)
class SiteLimit:
    """One bound of a site: `bound` in the place of that of `row`, for images that say all of `when`."""

    row: Limit
    bound: float
    when: Mapping[str, str] = field(default_factory=dict)

    def fits(self, image: Mapping[str, str]) -> bool:
        """Whether it is about such an image."""
        return all(image.get(name, "").casefold() == value.casefold() for name, value in self.when.items())


@dataclass(frozen=True, slots=True)
class Limits:
    """The table of a pipeline, and what a site has changed in it.

    Parameters
    ----------
    rows : tuple[Limit, ...]
        As shipped.
    site : tuple[SiteLimit, ...]
        Changes, those that say least about the image first.
    digest : str
        Of the site's file; empty without one.
    reviewed : bool
        Whether a person has put a name into the file.
    """

    rows: tuple[Limit, ...]
    site: tuple[SiteLimit, ...] = ()
    digest: str = ""
    reviewed: bool = True

    @classmethod
    def read(cls, pipeline: str, file: Path | None) -> "Limits":
        """Return the table of `pipeline` with the limits of a site's file; None: as shipped.

        Raises
        ------
        LimitsError
            If the file cannot be read, or any row of it, of other pipelines too, does not fit.
        """
        rows = shipped(pipeline)
        if file is None:
            return cls(rows)
        try:
            with file.open("rb") as opened:
                content = opened.read(_LARGEST + 1)
            if len(content) > _LARGEST:
                raise LimitsError(file, "", None, f"is longer than {_LARGEST} bytes: these are no limits")
            data = tomllib.loads(content.decode("utf-8"))
        except OSError as error:
            raise LimitsError(file, "", None, f"cannot be read ({error.strerror})") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise LimitsError(file, "", None, f"is not TOML: {error}") from error
        site = _site(data, file)[pipeline]
        by = data.get("reviewed_by", "")
        if not isinstance(by, str):
            raise LimitsError(file, "reviewed_by", by, "must be a text: who has reviewed these limits")
        return cls(rows, site, f"sha256:{hashlib.sha256(content).hexdigest()}", bool(by.strip()))

    @property
    def options_digest(self) -> str:
        """Digest, as ``sha256:...``, of what the site has chosen."""
        return "sha256:" + hashlib.sha256(f'{{"limits": "{self.digest}"}}'.encode()).hexdigest()

    def of(self, header: Dataset) -> tuple[Limit, ...]:
        """Return the rows that count for images with this header."""
        return moved(self.rows, self._fitting(header))

    def note(self, header: Dataset) -> tuple[Reason, ...]:
        """Say which findings begin where the site has said; nothing if none."""
        codes = sorted({change.row.code for change in self._fitting(header)})
        return (REASONS("quality-site-limits", codes=", ".join(codes)),) if codes else ()

    def _fitting(self, header: Dataset) -> list[SiteLimit]:
        image = {**Device.of(header).as_json(), **apart(header)}
        return [change for change in self.site if change.fits(image)]


def apart(header: Dataset) -> dict[str, str]:
    """Return what, beside the device, images are told apart by: ``view`` and ``kernel``, empty if not said."""
    keywords = {"view": "ViewPosition", "kernel": "ConvolutionKernel"}
    return {name: " ".join(text(header, keyword).split())[:64] for name, keyword in keywords.items()}


def shipped(pipeline: str) -> tuple[Limit, ...]:
    """Return the table of `pipeline` as it is shipped."""
    package, name = registry.limits(pipeline)
    return table(package, name)


def moved(rows: Sequence[Limit], changes: Iterable[SiteLimit]) -> tuple[Limit, ...]:
    """Return the rows with other bounds; where one finding ends and the next begins moves with it.

    Raises
    ------
    ValueError
        If a finding would begin beyond where it ends.
    """
    bounds = {change.row: change.bound for change in changes}
    ends = {(row.measure, row.beyond, row.bound): bound for row, bound in bounds.items()}
    out = []
    for row in rows:
        until = ends.get((row.measure, row.beyond, row.until), row.until)
        made = replace(row, bound=bounds.get(row, row.bound), until=until)
        if (made.bound >= made.until) if row.beyond == "above" else (made.bound <= made.until):
            raise ValueError(f"{row.code} ({row.grade}) would begin at {made.bound:g}, beyond its end {made.until:g}")
        out.append(made)
    return tuple(out)


def _site(data: Mapping[str, Any], file: Path) -> dict[str, tuple[SiteLimit, ...]]:
    """Return the changes by pipeline; every combination of rows that can meet on one image must make sense."""
    if data.get("schema") != SCHEMA:
        raise LimitsError(file, "schema", data.get("schema"), f'must be "{SCHEMA}"')
    unknown = sorted(set(data) - _HEAD)
    if unknown:
        raise LimitsError(file, unknown[0], data[unknown[0]], f"unknown key; allowed here: {', '.join(sorted(_HEAD))}")
    entries = data.get("limit", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise LimitsError(file, "limit", None, "must be tables: [[limit]]")
    found: dict[str, list[SiteLimit]] = {name: [] for name in registry.graded()}
    for number, entry in enumerate(entries):
        name, change = _entry(entry, f"limit.{number}", file)
        if any((c.row, dict(c.when)) == (change.row, dict(change.when)) for c in found[name]):
            raise LimitsError(file, f"limit.{number}.code", change.row.code, "has a limit for the same images already")
        found[name].append(change)
    ordered = {name: tuple(sorted(changes, key=lambda c: len(c.when))) for name, changes in found.items()}
    for name, changes in ordered.items():
        for image in _met(changes, file):
            try:
                moved(shipped(name), [change for change in changes if change.fits(image)])
            except ValueError as error:
                raise LimitsError(file, "limit", None, f"{name}: {error}") from error
    return ordered


def _met(changes: Sequence[SiteLimit], file: Path) -> list[dict[str, str]]:
    """Return an image for every set of changes that can meet on one."""
    images: list[dict[str, str]] = [{}]
    for when in ({k: v.casefold() for k, v in change.when.items()} for change in changes):
        joined = ({**image, **when} for image in images if all(image.get(k, v) == v for k, v in when.items()))
        images += [image for image in list(joined) if image not in images]
        if len(images) > _MOST:
            raise LimitsError(file, "limit", None, "tells too many devices and views apart; leave out keys of `when`")
    return images


def _entry(entry: Mapping[str, Any], at: str, file: Path) -> tuple[str, SiteLimit]:
    unknown = sorted(set(entry) - _ROW)
    if unknown:
        says = f"unknown key; allowed here: {', '.join(sorted(_ROW))}"
        raise LimitsError(file, f"{at}.{unknown[0]}", entry[unknown[0]], says)
    name = entry.get("pipeline")
    if name not in registry.graded():
        raise LimitsError(file, f"{at}.pipeline", name, f"must be one of {', '.join(registry.graded())}")
    sides: tuple[Literal["above", "below"], ...] = ("above", "below")
    given = [side for side in sides if side in entry]
    if len(given) != 1:
        raise LimitsError(file, at, None, "needs above or below: where the finding begins")
    bound = entry[given[0]]
    if not isinstance(bound, (int, float)) or isinstance(bound, bool) or not isfinite(bound):
        raise LimitsError(file, f"{at}.{given[0]}", bound, "must be a number")
    row = _row(entry, name, given[0], at, file)
    when = entry.get("when", {})
    if not isinstance(when, dict) or not all(k in _WHEN and isinstance(v, str) and v for k, v in when.items()):
        raise LimitsError(file, f"{at}.when", when, f"must be a table of texts; it may hold {', '.join(_WHEN)}")
    return name, SiteLimit(row, float(bound), dict(when))


def _row(entry: Mapping[str, Any], name: str, side: str, at: str, file: Path) -> Limit:
    """Return the row of the table that an entry is about."""
    movable = [row for row in shipped(name) if row.unit]
    codes = sorted({row.code for row in movable})
    code, grade = entry.get("code"), entry.get("grade")
    if code not in codes:
        raise LimitsError(
            file, f"{at}.code", code, f"is no finding of {name} with a bound; there are: {', '.join(codes)}"
        )
    of_code = [row for row in movable if row.code == code]
    rows = [row for row in of_code if row.beyond == side and grade in (None, row.grade)]
    if len(rows) == 1:
        return rows[0]
    there = "; ".join(f'grade = "{row.grade}", {row.beyond} = {row.bound:g}' for row in of_code)
    says = "is said by several rows" if rows else "is no row of this finding"
    raise LimitsError(file, f"{at}.grade", grade, f"{says}; there are: {there}")
