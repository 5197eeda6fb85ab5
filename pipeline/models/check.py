"""Whether a description fits together: what no type can say."""

import re
from collections.abc import Iterator, Mapping

from dicom_io.reason import LANGUAGES
from pipeline.models.archive import safe_name
from pipeline.models.description import Input, Label, Model
from pipeline.models.errors import ModelRefused

RADIOGRAPHS = frozenset({"CR", "DX", "MG"})
_NAME = re.compile(r"[a-z][a-z0-9_]{1,39}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]*")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SIDES = ({"R", "L"}, {"A", "P"}, {"S", "I"})
_FLAT_SIDES = ({"R", "L"}, {"A", "P"}, {"H", "F"})
_ENDINGS = {"monai": (".pt", ".pth", ".safetensors"), "torchscript": (".ts", ".pt"), "onnx": (".onnx",)}
_TAKEN = frozenset({"body", "lungs", "image quality"})
"""Sites that mean something of their own in a result."""

_CODE = re.compile(r"[A-Za-z0-9.-]{1,16}")
_NAMED, _TITLE = 48, 120
"""Characters of a label, to which a number is added where 64 are the most (PS3.5 table 6.2-1, LO), and of a card's title."""

Problem = tuple[str, str]
"""Key, and what is wrong with it."""


def problems(model: Model) -> Iterator[Problem]:
    """Yield what contradicts itself in a description."""
    if not _NAME.fullmatch(model.name):
        yield "name", "2 to 40 small letters, digits and _, the first a letter: it is the name of a pipeline"
    if not _VERSION.fullmatch(model.version):
        yield "version", "letters, digits and . + - _"
    yield from _files(model)
    yield from _texts(model)
    yield from _modalities(model)
    yield from _input(model.input)
    yield from _output(model)
    yield from _labels(model)


def _files(model: Model) -> Iterator[Problem]:
    for name, said in model.files.items():
        try:
            safe_name(name)
        except ModelRefused:
            yield f"files.{name}", "is no name of a file in the model's folder"
        if not _DIGEST.fullmatch(said):
            yield f"files.{name}", "is no digest: sha256: and 64 small hexadecimal digits"
    if model.weights not in model.files:
        yield "weights", "is none of [files]"
    elif not model.weights.endswith(_ENDINGS[model.format]):
        yield "weights", f"of format {model.format} end in {', '.join(_ENDINGS[model.format])}"
    if (model.format == "monai") != (model.network is not None):
        yield "network", 'is needed for format = "monai", and for no other'


def _texts(model: Model) -> Iterator[Problem]:
    card = model.card
    rows: dict[str, Mapping[str, str]] = {
        "card.title": card.title, "card.intended_use": card.intended_use, "card.provenance": card.provenance,
    }  # fmt: skip
    if card.limits:
        rows["card.limits"] = card.limits
    rows |= {f"label.{n}.text": label.text for n, label in enumerate(model.label)}
    for key, texts in rows.items():
        if missing := [tag for tag in LANGUAGES if not texts.get(tag, "").strip()]:
            yield key, f"no text in {', '.join(missing)}"
        if any(len(text) > 2000 or not text.replace("\n", " ").isprintable() for text in texts.values()):
            yield key, "a text is longer than 2000 characters, or holds some that cannot be printed"
        most = _TITLE if key == "card.title" else _NAMED if key.endswith(".text") else None
        if most and any(len(text) > most or not _one_line(text) for text in texts.values()):
            yield key, f"is a name: one line of up to {most} characters without a backslash"


def _modalities(model: Model) -> Iterator[Problem]:
    flat = model.input.kind == "image"
    for modality in model.modalities:
        if (modality in RADIOGRAPHS) != flat:
            yield "modalities", f"{modality} images are no {model.input.kind}s"


def _input(said: Input) -> Iterator[Problem]:
    axes = said.axes
    for key in ("spacing", "size", "tile", "smallest"):
        if getattr(said, key) and len(getattr(said, key)) != axes:
            yield f"input.{key}", f"needs {axes} values, one for each axis"
    sides = _SIDES if axes == 3 else _FLAT_SIDES
    named = [next((n for n, pair in enumerate(sides) if letter in pair), -1) for letter in said.orientation]
    if (said.orientation or axes == 3) and (len(named) != axes or -1 in named or len(set(named)) < axes):
        example = "RAS" if axes == 3 else "FL"
        yield "input.orientation", f"needs {axes} letters of different pairs, for example {example}"
    if said.size and (said.spacing or said.tile):
        yield "input.size", "all is brought to one size: spacing and tile have no meaning beside it"
    if said.smallest and (not said.tile or any(a > b for a, b in zip(said.smallest, said.tile, strict=False))):
        yield "input.smallest", "is no smaller than tile"
    if said.tile and any(n % said.multiple for n in (*said.tile, *said.smallest)):
        yield "input.multiple", "does not divide tile and smallest"
    if said.values == "shown" and axes == 3:
        yield "input.values", '"shown" is for radiographs'
    for n, step in enumerate(said.normalise):
        if (step.kind == "range" and step.high <= step.low) or (step.kind == "shift" and step.divide == 0):
            yield f"input.normalise.{n}", "maps everything to one value"


def _output(model: Model) -> Iterator[Problem]:
    output, one = model.output, model.task == "classification"
    if output.form == "boxes" and model.task != "detection":
        yield "output.form", "boxes are for detection"
    if output.form == "boxes" and output.boxes[0] == "":
        yield "output.boxes", "the output with the boxes has no name"
    if one and (model.input.tile or any(label.within for label in model.label)):
        yield "input.tile", "a classification is of the whole image"
    if one and output.choose == "argmax":
        yield "output.choose", "a classification has thresholds: one for each label"
    if output.activation == "softmax" and output.channels < 2:
        yield "output.activation", "softmax of one channel is always 1"
    if output.choose == "argmax" and output.channels < 2:
        yield "output.choose", "argmax of one channel chooses nothing"
    if output.activation == "none" and model.calibration.method in {"temperature", "platt"}:
        yield "calibration.method", "needs logits: name the activation that makes probabilities of them"


def _labels(model: Model) -> Iterator[Problem]:
    names = [label.name for label in model.label]
    indices = [label.index for label in model.label]
    for n, label in enumerate(model.label):
        if names.count(label.name) > 1 or indices.count(label.index) > 1:
            yield f"label.{n}", "has the name or the index of another one"
        if not _NAME.fullmatch(label.name) or label.name in _TAKEN:
            yield f"label.{n}.name", "2 to 40 small letters, digits and _; not body, lungs"
        if model.output.form == "map" and label.index >= model.output.channels:
            yield f"label.{n}.index", "is no channel of the output"
        if model.output.choose == "argmax" and label.index == 0:
            yield f"label.{n}.index", "0 is the background where the highest channel is chosen"
        if label.colour and len(label.colour) != 3:
            yield f"label.{n}.colour", "needs red, green and blue"
        if label.within and (label.within not in names or label.within == label.name or not label.finding):
            yield f"label.{n}.within", "names another label, and only of a finding"
        yield from _codes(label, n)


def _one_line(text: str) -> bool:
    """Whether a text is one value of one line: a backslash ends a value in DICOM (PS3.5 section 6.1.2.3)."""
    return text.isprintable() and "\\" not in text


def _codes(label: Label, n: int) -> Iterator[Problem]:
    for key in ("type", "category", "anatomy"):
        value, scheme, meaning = getattr(label, key)
        plain = _CODE.fullmatch(value) and _CODE.fullmatch(scheme) and meaning.strip() and _one_line(meaning)
        if not plain or len(meaning) > 64:
            yield (
                f"label.{n}.{key}",
                "needs a value and a scheme of up to 16 letters, digits, . and -, and a meaning of up to 64 characters",
            )
        if scheme.startswith("99"):
            yield (
                f"label.{n}.{key}",
                "private schemes are not declared in the objects; name one of DICOM PS3.16 section 8",
            )
