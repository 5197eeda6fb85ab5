"""The cases that objects are judged on: geometry x character set x object x outcome, all of them or every pair of values.

A row of one of the tables here is all that another geometry, sender or object needs.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, fields, replace
from functools import cache
from itertools import combinations, product
from types import MappingProxyType
from typing import Any

from sr_writer.profiles import CARDS, REPORTS, Form


@dataclass(frozen=True, slots=True)
class Scan:
    """How the images lie.

    Parameters
    ----------
    phantom : Mapping[str, Any]
        For `phantom.build`; of a radiograph for `phantom.radiograph.Exposure`.
    enhanced : bool
        Whether all slices are frames of one instance.
    analysed : bool
        Whether there is a result on such images; of others there is only the statement that there is none.
    """

    phantom: Mapping[str, Any]
    enhanced: bool = False
    analysed: bool = True

    @property
    def radiograph(self) -> bool:
        """Whether it is one image without slices."""
        return "modality" in self.phantom


@dataclass(frozen=True, slots=True)
class Sender:
    """How names come.

    Parameters
    ----------
    charset : str, list of str or None
        Specific Character Set (0008,0005) as declared; None: absent.
    raw : bytes
        Patient's Name as it stands in the file.
    name : str
        What it means.
    """

    charset: str | list[str] | None
    raw: bytes
    name: str


GEOMETRIES: Mapping[str, Scan] = {
    "axial": Scan({"plane": "axial"}),
    "coronal": Scan({"plane": "coronal"}),
    "sagittal": Scan({"plane": "sagittal"}),
    "oblique": Scan({"plane": "oblique"}),
    "tilted": Scan({"plane": "axial", "tilt_deg": 12.0}),
    "feet first": Scan({"plane": "axial", "feet_first": True}),
    "odd columns": Scan({"plane": "axial", "matrix": (64, 83), "shuffle": True}),
    "single slice": Scan({"plane": "axial", "slices": 1, "thickness_mm": 5.0}, analysed=False),
    "enhanced": Scan({"plane": "axial"}, enhanced=True),
    "CR": Scan({"modality": "CR"}),
    "DX": Scan({"modality": "DX"}),
}
SENDERS: Mapping[str, Sender] = {
    "ASCII": Sender(None, b"Miller^Ann", "Miller^Ann"),
    "ISO_IR 100": Sender("ISO_IR 100", "Müller^Jürgen".encode("latin-1"), "Müller^Jürgen"),
    "ISO 2022 IR 58": Sender(
        ["", "ISO 2022 IR 58"],
        b"Wang^XiaoDong=\x1b$)A" + "王".encode("gb2312") + b"^\x1b$)A" + "小东".encode("gb2312"),
        "Wang^XiaoDong=王^小东",
    ),
    "GB18030": Sender("GB18030", "王^小东".encode("gb18030"), "王^小东"),
    "GBK": Sender("GBK", "王^小东".encode("gbk"), "王^小东"),
    "ISO_IR 192": Sender("ISO_IR 192", "王^小东=Wang^XiaoDong".encode(), "王^小东=Wang^XiaoDong"),
}
KINDS: Mapping[str, Form] = {
    "seg": Form("seg"),
    "seg fractional": Form("seg", encoding="fractional", compression="rle"),
    "seg labelmap": Form("seg", encoding="labelmap"),
    "sr": Form("sr"),
    "sr pure": Form("sr", tree="pure"),
    "csr": Form("csr"),
    "text": Form("text"),
    "kos": Form("kos"),
    "sc": Form("sc"),
    "overlay": Form("overlay"),
    "gsps": Form("gsps"),
    "pdf": Form("pdf"),
    "card": Form("card"),
    "card_sr": Form("card_sr"),
    "card_csr": Form("card_csr"),
    "card_text": Form("card_text"),
    "card_pdf": Form("card_pdf"),
    "rejection": Form("rejection"),
    "graded sr": Form("sr"),
    "graded gsps": Form("gsps"),
    "graded sc": Form("sc"),
    "quality_kos": Form("quality_kos"),
}
OUTCOMES = ("positive", "negative", "not_analysed", "failed", "graded")
RESULTS = ("positive", "negative", "graded")
GRADED = ("graded sr", "graded gsps", "graded sc", "quality_kos")
"""Objects of a grade of images; few geometries and senders, for the rest of them is that of other results."""
_GRADED_OF = frozenset(product(("axial", "enhanced", "DX"), ("ASCII", "GB18030")))
_OF_FINDINGS = ("kos", "gsps")


@dataclass(frozen=True, slots=True, order=True)
class Row:
    """One case: keys of the tables above."""

    geometry: str
    sender: str
    kind: str
    outcome: str

    @property
    def analysis(self) -> tuple[str, str, str]:
        """What else is the same object's analysis."""
        return self.geometry, self.sender, self.outcome

    @property
    def form(self) -> Form:
        """The object; a segmentation of a radiograph has to be asked for."""
        form = KINDS[self.kind]
        return replace(form, radiographs=form.object == "seg" and GEOMETRIES[self.geometry].radiograph)

    @property
    def needs(self) -> tuple["Row", ...]:
        """The rows whose objects this one refers to."""
        if KINDS[self.kind].object in REPORTS and self.kind not in GRADED:
            return (Row(self.geometry, self.sender, "seg", self.outcome),)
        return ()

    @property
    def possible(self) -> bool:
        """Whether there is such an object."""
        result = self.outcome in RESULTS
        if self.outcome == "graded" or self.kind in GRADED:
            agree = self.outcome == "graded" and self.kind in GRADED
            return agree and (self.geometry, self.sender) in _GRADED_OF
        if self.kind != "rejection" and (KINDS[self.kind].object in CARDS) == result:
            return False
        if self.kind in _OF_FINDINGS and self.outcome != "positive":
            return False
        if self.kind == "seg labelmap" and GEOMETRIES[self.geometry].radiograph:
            return False  # shadows lie on each other
        return GEOMETRIES[self.geometry].analysed or not result

    @property
    def pairs(self) -> frozenset[tuple[tuple[str, str], tuple[str, str]]]:
        """Every two of its values, with the names of their axes."""
        named = zip((f.name for f in fields(self)), astuple(self), strict=True)
        return frozenset(combinations(named, 2))


@cache
def whole() -> tuple[Row, ...]:
    """Return every case that there can be."""
    return tuple(r for r in (Row(*v) for v in product(GEOMETRIES, SENDERS, KINDS, OUTCOMES)) if r.possible)


@cache
def pairwise() -> tuple[Row, ...]:
    """Return few cases in which every possible pair of values occurs, the same every time.

    Greedy: always the row that brings most pairs, of several one that needs no analysis more.
    """
    numbers = {pair: n for n, pair in enumerate(sorted({p for row in whole() for p in row.pairs}))}
    masks = {row: _mask(row, numbers) for row in whole()}
    missing, chosen, analyses = (1 << len(numbers)) - 1, dict[Row, None](), set[tuple[str, str, str]]()
    while missing:
        best = max(masks, key=lambda row: ((masks[row] & missing).bit_count(), row.analysis in analyses))
        missing &= ~masks[best]
        analyses.add(best.analysis)
        chosen |= dict.fromkeys((*best.needs, best))
    return tuple(chosen)


def _mask(row: Row, numbers: Mapping[Any, int]) -> int:
    return sum({1 << numbers[pair] for each in (row, *row.needs) for pair in each.pairs})


def analyses(rows: Iterable[Row]) -> Iterator[tuple[tuple[str, str, str], list[Row]]]:
    """Yield the rows of each analysis together."""
    together: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        together.setdefault(row.analysis, []).append(row)
    yield from MappingProxyType(together).items()
