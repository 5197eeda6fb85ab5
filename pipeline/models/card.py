"""The card of a model: what a person must know before it is used, as text."""

import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files

from pipeline.models.check import RADIOGRAPHS
from pipeline.models.description import Label, Model
from pipeline.models.shelf import Installed


@cache
def _words() -> Mapping[str, Mapping[str, str]]:
    said: Mapping[str, Mapping[str, str]] = tomllib.loads(
        files("pipeline.models").joinpath("texts.toml").read_text(encoding="utf-8")
    )["card"]
    return said


def card(installed: Installed, language: str) -> str:
    """Return the card of a model in `language`."""
    return "\n".join(_lines(installed, language))


def _lines(installed: Installed, tag: str) -> Iterator[str]:
    model, words = installed.model, _words()
    yield f"# {model.card.title[tag]}"
    yield ""
    for key, value in _facts(installed, tag):
        yield f"- {words[key][tag]}: {value}"
    texts = {"intended_use": model.card.intended_use, "provenance": model.card.provenance, "limits": model.card.limits}
    for key, text in texts.items():
        if text.get(tag):
            yield from ("", f"## {words[key][tag]}", "", text[tag])
    yield from ("", f"## {words['labels'][tag]}", "")
    for label in model.label:
        yield f"- {_label(model, label, tag)}"
    yield from ("", f"## {words['operating_point'][tag]}", "")
    point = [f"{name}: {value}" for name, value in model.card.operating_point.items()]
    yield from (f"- {line}" for line in point or [words["nothing"][tag]])
    yield f"- {words['calibration'][tag]}: {words['calibration_' + model.calibration.method.replace(' ', '_')][tag]}"
    if model.calibration.source:
        yield f"- {words['source'][tag]}: {model.calibration.source}"
    yield from ("", f"## {words['files'][tag]}", "")
    for name, digest in model.files.items():
        yield f"- {name}: {digest}"


def _facts(installed: Installed, tag: str) -> Iterator[tuple[str, str]]:
    model = installed.model
    said = model.input
    yield "name", f"{model.name} {model.version}"
    yield "licence", model.licence
    yield "format", model.format + (f", {model.network.target}" if model.network else "")
    yield "task", _words()["task_" + model.task][tag]
    yield "modalities", ", ".join(model.modalities)
    if model.select.body_parts:
        yield "body_parts", ", ".join(model.select.body_parts)
    if said.orientation:
        yield "orientation", said.orientation
    if said.spacing and not RADIOGRAPHS.issuperset(model.modalities):
        yield "spacing", " x ".join(f"{v:g}" for v in said.spacing) + " mm"
    if said.tile or said.size:
        yield "size", " x ".join(map(str, said.tile or said.size))
    yield "digest", installed.digest


def _label(model: Model, label: Label, tag: str) -> str:
    value, scheme, meaning = label.type
    least = model.output.threshold if label.threshold is None else label.threshold
    at = "" if model.output.choose == "argmax" else f", ≥ {least:g}"
    kind = _words()["finding" if label.finding or model.task == "classification" else "part"][tag]
    return f"{label.text[tag]} ({value}, {scheme}, {meaning}): {kind}{at}"
