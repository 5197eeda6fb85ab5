"""``model.toml``: what a model takes, what it gives, where it comes from. Read strictly: a key that is not known is an error.

All sizes, spacings and letters of orientation are in the order of the network's own axes, the batch and the channels left out.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Len

from pipeline.models.errors import wrong
from pipeline.models.limits import limits

FILE = "model.toml"
SCHEMA = "pacs-ai-node/model/1"

_STRICT: dict[str, Any] = {"extra": "forbid"}
Texts = Mapping[str, str]
Triplet = Annotated[tuple[str, str, str], Len(3)]
Format = Literal["monai", "torchscript", "onnx"]
Task = Literal["segmentation", "detection", "classification"]


@dataclass(frozen=True, slots=True)
class Step:
    """``[[input.normalise]]``: one change of the values.

    ``range`` maps [low, high] to [to_low, to_high] (and cuts off there with `clip`); ``zscore`` takes away the mean and divides
    by the standard deviation of the image (of what is not 0 with `nonzero`); ``minmax`` maps the image's own lowest and
    highest value to [to_low, to_high]; ``shift`` takes away `subtract` and divides by `divide`.
    """

    __pydantic_config__: ClassVar = _STRICT
    kind: Literal["range", "zscore", "minmax", "shift"]
    low: float = 0.0
    high: float = 1.0
    to_low: float = 0.0
    to_high: float = 1.0
    clip: bool = True
    nonzero: bool = False
    subtract: float = 0.0
    divide: float = 1.0


@dataclass(frozen=True, slots=True)
class Input:
    """``[input]``: how an image becomes the network's input.

    Parameters
    ----------
    kind : {"volume", "image"}
        A stack of slices, or one radiograph.
    orientation : str
        The side that each axis runs to: of volumes for example ``RAS`` (as MONAI and NIfTI say it) or ``SPL``; of
        radiographs for example ``FL`` (rows to the feet, columns to the left). Empty: as stored, radiographs only.
    spacing : tuple[float, ...]
        Millimetres between samples of each axis; empty: as stored.
    size : tuple[int, ...]
        All is resampled to exactly this size instead (`fit`: stretched, or kept in shape and padded).
    tile : tuple[int, ...]
        Windows of this size slide over the input; empty: all at once.
    overlap : float
        Share of a window that neighbours have in common.
    multiple : int
        Sides of windows are multiples of this; smaller windows are tried where memory is short.
    smallest : tuple[int, ...]
        No window is smaller; empty: `tile`, windows keep their size.
    channels : int
        The one image is repeated for each.
    values : {"modality", "shown"}
        Values after the modality LUT (Hounsfield units for CT), or as the image asks to be shown, 0 black to 1 white.
    outside : float
        What lies outside the image, in its own values before any step.
    normalise : tuple[Step, ...]
        In this order.
    """

    __pydantic_config__: ClassVar = _STRICT
    kind: Literal["volume", "image"]
    orientation: str = ""
    spacing: tuple[Annotated[float, Gt(0.0)], ...] = ()
    size: tuple[Annotated[int, Ge(1), Le(4096)], ...] = ()
    fit: Literal["stretch", "pad"] = "stretch"
    tile: tuple[Annotated[int, Ge(1), Le(4096)], ...] = ()
    overlap: Annotated[float, Ge(0.0), Le(0.9)] = 0.25
    multiple: Annotated[int, Ge(1), Le(512)] = 1
    smallest: tuple[Annotated[int, Ge(1)], ...] = ()
    channels: Annotated[int, Ge(1), Le(16)] = 1
    values: Literal["modality", "shown"] = "modality"
    outside: float = 0.0
    normalise: tuple[Step, ...] = ()

    @property
    def axes(self) -> int:
        """Number of spatial axes."""
        return 3 if self.kind == "volume" else 2


@dataclass(frozen=True, slots=True)
class Output:
    """``[output]``: what the network gives.

    Parameters
    ----------
    channels : int
        Of its output: maps, or classes.
    activation : {"none", "sigmoid", "softmax"}
        What turns it into probabilities.
    choose : {"argmax", "threshold"}
        A voxel belongs to the label with the highest value, or to every label above its threshold.
    threshold : float
        For labels without their own: the operating point.
    form : {"map", "boxes"}
        Of a detector: a map of where things are, or boxes, scores and labels.
    boxes : tuple[str, str, str]
        Of boxes: names (or numbers) of the outputs that hold boxes (lowest corner, then highest, in samples of the network's
        axes), scores and labels; the labels may be "" where there is one.
    overlap : float
        Of two boxes of one label that share more (intersection over union), the better stays.
    most : int
        Boxes or findings that are told at most, the best first.
    """

    __pydantic_config__: ClassVar = _STRICT
    channels: Annotated[int, Ge(1), Le(1024)]
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    choose: Literal["argmax", "threshold"] = "threshold"
    threshold: Annotated[float, Ge(0.0), Le(1.0)] = 0.5
    form: Literal["map", "boxes"] = "map"
    boxes: tuple[str, str, str] = ("boxes", "scores", "labels")
    overlap: Annotated[float, Ge(0.0), Le(1.0)] = 0.3
    most: Annotated[int, Ge(1), Le(200)] = 50


@dataclass(frozen=True, slots=True)
class Label:
    """``[[label]]``: what one channel or class means.

    Parameters
    ----------
    index : int
        Channel, or class.
    name : str
        The site in results: letters, digits, ``_``.
    text : Texts
        For people, in every language of the node.
    category, type : Triplet
        Coded (value, scheme, meaning): of the segment, and of the finding.
    anatomy : Triplet
        Where a finding lies.
    laterality : {"left", "right", "both", ""}
        Its side.
    colour : tuple[int, int, int]
        sRGB; empty: the node's palette.
    finding : bool
        Each connected part is a finding of its own; otherwise all of it is one part of the body.
    threshold : float or None
        Instead of the output's.
    least : float
        Smaller connected parts are left out: cm3, on a radiograph pixels.
    within : str
        A finding lies in this label where they touch.
    """

    __pydantic_config__: ClassVar = _STRICT
    index: Annotated[int, Ge(0), Le(1023)]
    name: str
    text: Texts
    type: Triplet
    category: Triplet = ("91723000", "SCT", "Anatomical Structure")
    anatomy: Triplet = ("38266002", "SCT", "Entire body")
    laterality: Literal["left", "right", "both", ""] = ""
    colour: tuple[Annotated[int, Ge(0), Le(255)], ...] = ()
    finding: bool = False
    threshold: Annotated[float, Ge(0.0), Le(1.0)] | None = None
    least: Annotated[float, Ge(0.0)] = 0.0
    within: str = ""


@dataclass(frozen=True, slots=True)
class Calibration:
    """``[calibration]``: from what the network gives to a probability; ``none``: it is told as a score, not a probability.

    ``temperature`` divides the logits; ``platt`` makes the probability of ``slope * logit + offset``. `source` says on which
    patients it was found.
    """

    __pydantic_config__: ClassVar = _STRICT
    method: Literal["none", "temperature", "platt", "as given"] = "none"
    temperature: Annotated[float, Gt(0.0)] = 1.0
    slope: float = 1.0
    offset: float = 0.0
    source: str = ""


@dataclass(frozen=True, slots=True)
class Select:
    """``[select]``: which series or images it takes, by headers alone.

    `body_parts` are values of Body Part Examined; an image that says nothing is taken. `match` names attributes and patterns
    (``*`` and ``?``) that one of their values must fit.
    """

    __pydantic_config__: ClassVar = _STRICT
    body_parts: tuple[str, ...] = ()
    slices: Annotated[int, Ge(1)] = 3
    thickness_mm: Annotated[float, Gt(0.0)] | None = None
    match: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Network:
    """``[network]``: of a MONAI model, which class with which arguments; both must be on the list of what is allowed."""

    __pydantic_config__: ClassVar = _STRICT
    target: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Device:
    """``[device]``: ``mixed`` computes in bfloat16 or float16 where the device is faster so; `batch` windows at a time."""

    __pydantic_config__: ClassVar = _STRICT
    precision: Literal["full", "mixed"] = "full"
    batch: Annotated[int, Ge(1), Le(256)] = 1


@dataclass(frozen=True, slots=True)
class Card:
    """``[card]``: what a person must know before using it."""

    __pydantic_config__: ClassVar = _STRICT
    title: Texts
    intended_use: Texts
    provenance: Texts
    operating_point: Mapping[str, float | str] = field(default_factory=dict)
    limits: Texts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Model:
    """One ``model.toml``."""

    __pydantic_config__: ClassVar = _STRICT
    schema: Literal["pacs-ai-node/model/1"]
    name: str
    version: Annotated[str, Len(1, 32)]
    licence: Annotated[str, Len(1, 200)]
    format: Format
    task: Task
    modalities: Annotated[tuple[str, ...], Len(1)]
    weights: str
    files: Mapping[str, str]
    input: Input
    output: Output
    label: Annotated[tuple[Label, ...], Len(1)]
    card: Card
    network: Network | None = None
    select: Select = field(default_factory=Select)
    calibration: Calibration = field(default_factory=Calibration)
    device: Device = field(default_factory=Device)

    def as_table(self) -> dict[str, Any]:
        """Return it as tables for a TOML file, without what is not said."""
        out: dict[str, Any] = _said(asdict(self))
        return out


def _said(value: Any) -> Any:  # noqa: ANN401 - any value of TOML
    if isinstance(value, Mapping):
        return {k: _said(v) for k, v in value.items() if v is not None}
    return [_said(v) for v in value] if isinstance(value, (list, tuple)) else value


def read(file: Path) -> Model:
    """Read a ``model.toml``.

    Raises
    ------
    ModelRefused
        With the key and what may stand there.
    """
    return parse(table(file))


def table(file: Path) -> dict[str, Any]:
    """Return the tables of a TOML file, which is no longer than one may be."""
    most = limits()["text"]["bytes"]
    try:
        with file.open("rb") as opened:
            data = opened.read(most + 1)
    except OSError as error:
        raise wrong("", f"cannot be read ({error.strerror})") from error
    if len(data) > most:
        raise wrong("", f"is longer than {most} bytes")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise wrong("", f"is not TOML: {error}") from error
    except RecursionError as error:
        raise wrong("", "is nested too deeply") from error


def parse(data: Mapping[str, Any]) -> Model:
    """Return the model that `data` describes, with everything in it checked against each other."""
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - 0.3 s that --help need not pay

    try:
        text = json.dumps(data)
    except TypeError as error:
        raise wrong("", f"holds a value of a type that no key has ({error})") from error
    try:
        model = TypeAdapter(Model).validate_json(text, strict=True)
    except ValidationError as error:
        first = min(error.errors(), key=lambda e: e["type"] not in {"unexpected_keyword_argument", "extra_forbidden"})
        key = ".".join(str(part) for part in first["loc"])
        unknown = first["type"] in {"unexpected_keyword_argument", "extra_forbidden"}
        raise wrong(key, "unknown key" if unknown else first["msg"]) from error
    _check(model)
    return model


def _check(model: Model) -> None:
    from pipeline.models.check import problems  # noqa: PLC0415 - it checks what is defined here

    for key, why in problems(model):
        raise wrong(key, why)
