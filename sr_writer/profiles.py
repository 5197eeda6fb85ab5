"""Destination profiles: which objects a kind of viewer gets, in which encoding, under which series numbers and words.

The tables stand in ``profiles.toml``. A *form* is one object in one encoding; its `variant` is part of the object's UIDs,
so that another encoding is another object, and what one destination wants changes nothing of what another one has.
"""

import hashlib
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib.resources import files
from typing import Any, ClassVar, Literal, get_args

ObjectName = Literal[
    "seg", "sr", "csr", "text", "sc", "overlay", "gsps", "kos", "pdf", "card", "card_sr", "card_csr", "card_text",
    "card_pdf", "rejection", "quality_kos",
]  # fmt: skip
Shipped = Literal["air", "ohif", "weasis", "slicer", "legacy", "pdf-only"]
ProfileName = Literal[Shipped, "custom"]
Encoding = Literal["binary", "fractional", "labelmap"]
"""Segmentation Type (0062,0001): a bit a voxel and segment; a share from 0 to 255; one label a voxel."""
Compression = Literal["none", "deflated", "rle"]
Modality = Literal["OT", "source"]
Tree = Literal["outlines", "pure"]
"""Of TID 1500 reports: ``outlines`` has a flat region for every Tracking UID, ``pure`` refers to segments alone."""

SYNTAXES: Mapping[Compression, str] = {
    "none": "1.2.840.10008.1.2.1", "deflated": "1.2.840.10008.1.2.1.99", "rle": "1.2.840.10008.1.2.5",
}  # fmt: skip
"""Compression -> transfer syntax that the object is written in."""

CARDS: frozenset[str] = frozenset({"card", "card_sr", "card_csr", "card_text", "card_pdf"})
"""Objects that say why there is no result; the others bring one."""
SERIES: frozenset[str] = frozenset({"overlay"})
"""Objects that are several instances."""
UNNAMED: frozenset[str] = frozenset({"quality_kos"})
"""Objects that a report does not refer to: with or without them it is the same object, under the same UID."""
REPORTS: frozenset[str] = frozenset({"sr", "csr"})
"""Objects that refer to the others of their profile."""
_ONLY: Mapping[str, frozenset[str]] = {
    "encoding": frozenset({"seg"}), "compression": frozenset({"seg"}), "omit_empty_frames": frozenset({"seg"}), "radiographs": frozenset({"seg"}),
    "tree": REPORTS, "modality": frozenset({"overlay"}),
}  # fmt: skip
"""Option -> the objects that have it."""


@dataclass(frozen=True, slots=True)
class Form:
    """One object in one encoding, as a profile wants it.

    Parameters
    ----------
    object : ObjectName
        Which.
    encoding, compression, omit_empty_frames
        Of a segmentation. What has overlapping segments is written as ``binary`` where ``labelmap`` is wanted: a label
        map holds one label a voxel (PS3.3 section C.8.20.2).
    radiographs : bool
        Of a segmentation: write it of a radiograph too. Few viewers show one without a place in the patient; the outlines
        stand in the report, in presentation states and on pictures.
    tree : Tree
        Of a TID 1500 report.
    modality : {"OT", "source"}
        Of an overlay series: ``OT``, so that nobody takes it for images of the scanner, or that of its source, for viewers
        that link only series of one modality.
    series_number : int or None
        Series Number (0020,0011); None: that of the table of objects.
    description : str
        Words that end the series description; empty: those of the table of objects.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    object: ObjectName
    encoding: Encoding = "binary"
    compression: Compression = "none"
    omit_empty_frames: bool = True
    radiographs: bool = False
    tree: Tree = "outlines"
    modality: Modality = "OT"
    series_number: int | None = None
    description: str = ""

    def __post_init__(self) -> None:
        if self.object not in get_args(ObjectName):
            raise ValueError(f"object {self.object!r} is none of {', '.join(get_args(ObjectName))}")
        changed = {f.name for f in fields(Form) if f.name != "object" and getattr(self, f.name) != f.default}
        for name in sorted(changed & set(_ONLY)):
            if self.object not in _ONLY[name]:
                raise ValueError(f"{name} of {self.object!r}: only {', '.join(sorted(_ONLY[name]))} has it")
        for name, kind in (
            ("encoding", Encoding),
            ("compression", Compression),
            ("tree", Tree),
            ("modality", Modality),
        ):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} {getattr(self, name)!r} is none of {', '.join(get_args(kind))}")
        if self.encoding == "binary" and self.compression == "rle":
            raise ValueError("compression 'rle' with encoding 'binary': one bit a pixel has no RLE; take deflated")
        if self.series_number is not None and not 1 <= self.series_number < 2**31:
            raise ValueError(f"series_number {self.series_number}: 1 to {2**31 - 1}")
        if len(self.description) > 40 or not self.description.isascii() or not (self.description + "x").isprintable():
            raise ValueError(f"description {self.description!r}: at most 40 characters of ASCII")

    @property
    def own(self) -> dict[str, Any]:
        """Everything in which it differs from the plain form of its object."""
        return {f.name: getattr(self, f.name) for f in fields(Form)[1:] if getattr(self, f.name) != f.default}

    @property
    def number(self) -> int:
        """Series Number (0020,0011)."""
        return self.series_number or int(table()["object"][self.object]["series_number"])

    @property
    def word(self) -> str:
        """What ends the series description."""
        return self.description or str(table()["object"][self.object]["word"])

    @property
    def title(self) -> str:
        """For people: ``seg (labelmap, rle)``."""
        words = {"omit_empty_frames": "every frame", "radiographs": "of radiographs too"}
        said = [words.get(k, str(v)) for k, v in self.own.items() if k in _ONLY]
        return f"{self.object} ({', '.join(said)})" if said else self.object


@dataclass(frozen=True, slots=True)
class Item(Form):
    """One line of a profile.

    Parameters
    ----------
    needed : bool
        Whether a delivery without it has failed.
    instead : Form or None
        What is sent where the destination does not take the SOP class of this one.
    """

    needed: bool = True
    instead: Form | None = None

    def __post_init__(self) -> None:
        super(Item, self).__post_init__()  # not without arguments: slots make another class
        if self.object == "rejection":
            raise ValueError("object 'rejection' belongs to no profile: a destination asks for it by itself")
        if self.instead is not None and (self.instead.object in CARDS) != (self.object in CARDS):
            raise ValueError(f"instead of {self.object!r}: {self.instead.object!r} says something else")

    @property
    def form(self) -> Form:
        """Without what is only about sending."""
        return Form(**{f.name: getattr(self, f.name) for f in fields(Form)})


@dataclass(frozen=True, slots=True)
class Piece:
    """One object that is to be written: a form, and which others a report refers to.

    Parameters
    ----------
    form : Form
        What.
    beside : tuple[Form, ...]
        For a report: the other objects of its profile.
    """

    form: Form
    beside: tuple[Form, ...] = ()

    @property
    def variant(self) -> str:
        """What makes it another object than the plain form; part of its UIDs, empty for the plain form."""
        own = self.form.own
        if self.beside:
            own["beside"] = [[f.object, f.own] for f in self.beside]
        return json.dumps(own, sort_keys=True, separators=(",", ":")) if own else ""

    @property
    def key(self) -> tuple[str, str]:
        """Object and variant: the same for the same object."""
        return self.form.object, self.variant

    @property
    def stem(self) -> str:
        """A file name without its ending, the same for the same object and for no other."""
        mark = hashlib.sha256(self.variant.encode()).hexdigest()[:8]
        return f"{self.form.object}-{mark}" if self.variant else self.form.object


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a profile as it is written and sent: the object, and what goes in its place if it is not taken."""

    piece: Piece
    needed: bool
    instead: Piece | None

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Everything that is written for it."""
        return (self.piece,) if self.instead is None else (self.piece, self.instead)


@dataclass(frozen=True, slots=True)
class Profile:
    """What one kind of destination gets.

    Parameters
    ----------
    name : str
        Of the table.
    items : tuple[Item, ...]
        In the order of sending; a card is added where none is named.
    about : Mapping[str, str]
        Language to sentence: for whom it is.
    """

    name: str
    items: tuple[Item, ...]
    about: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not any(i.object not in CARDS for i in self.items):
            raise ValueError(f"profile {self.name!r} names no object that brings a result")
        if not any(i.object in CARDS for i in self.items):
            object.__setattr__(self, "items", (*self.items, Item("card")))
        for cards in (True, False):
            numbers = [i.number for i in self.items if (i.object in CARDS) == cards]
            if twice := sorted({n for n in numbers if numbers.count(n) > 1}):
                raise ValueError(f"series_number {twice[0]} stands for two objects: viewers show one of them")

    def lines(self, *, result: bool) -> tuple[Line, ...]:
        """Return what is written and sent, in the order of sending, of a result or of the lack of one."""
        items = [i for i in self.items if (i.object not in CARDS) == result]
        others = tuple(i.form for i in items if i.object not in REPORTS | UNNAMED)

        def piece(form: Form) -> Piece:
            return Piece(form, others if form.object in REPORTS else ())

        return tuple(Line(piece(i.form), i.needed, None if i.instead is None else piece(i.instead)) for i in items)


def wanted(profiles: Iterable[Profile], *, result: bool) -> tuple[Piece, ...]:
    """Return everything that several profiles want written, each object once."""
    pieces = (p for profile in profiles for line in profile.lines(result=result) for p in line.pieces)
    return tuple({p.key: p for p in pieces}.values())


def profile(name: str) -> Profile:
    """Return a profile of the table.

    Raises
    ------
    ValueError
        If there is none of this name.
    """
    found = shipped().get(name)
    if found is None:
        raise ValueError(f"profile {name!r} is none of {', '.join(shipped())}")
    return found


def of_site(name: ProfileName, objects: tuple[Item, ...] = (), seg: Mapping[str, Any] | None = None) -> Profile:
    """Return what one destination gets.

    Parameters
    ----------
    name : ProfileName
        A profile of the table, or ``custom``.
    objects : tuple[Item, ...]
        The table of ``custom``.
    seg : Mapping or None
        What is different about the segmentations of the profile: `encoding`, `compression`, `omit_empty_frames`, `radiographs`.

    Raises
    ------
    ValueError
        If these do not fit together; the text begins with the key.
    """
    if (name == "custom") != bool(objects):
        raise ValueError('objects: is the table of profile = "custom", and needed there')
    base = Profile("custom", objects) if objects else profile(name)
    if not seg:
        return base
    if all(i.object != "seg" for i in base.items):
        raise ValueError(f"seg: profile {name!r} has no segmentation")
    try:
        return replace(base, items=tuple(replace(i, **seg) if i.object == "seg" else i for i in base.items))
    except ValueError as error:
        raise ValueError(f"seg: {error}") from error


@cache
def shipped() -> Mapping[str, Profile]:
    """Return the profiles of the table by name."""
    return {
        name: Profile(name, tuple(_item(row) for row in facts["objects"]), facts["about"])
        for name, facts in table()["profile"].items()
    }


def _item(row: Mapping[str, Any]) -> Item:
    instead = row.get("instead")
    return Item(**{**row, "instead": None if instead is None else Form(**instead)})


@cache
def table() -> Mapping[str, Any]:
    """Return ``profiles.toml``: the objects and the profiles."""
    return tomllib.loads(files("sr_writer").joinpath("profiles.toml").read_text(encoding="utf-8"))


def rows(of: Profile) -> Iterator[tuple[str, str, str, str]]:
    """Yield (object, series number, description, what if it is not taken) of every line, for people."""
    for item in of.items:
        otherwise = f"{item.instead.title}" if item.instead else "" if item.needed else "left out"
        yield item.form.title, str(item.number), item.word, otherwise
