"""From a network and its figures to what ``pacs-ai-node models add`` takes: weights, ``model.toml``, a card in every language.

A network that does not beat the rules, or that a baseline without anatomy comes near, is written only with a reason that a person
gave; the reason stands in the card.
"""

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from dicom_io.reason import LANGUAGES
from pipeline.chest_ct.pipeline import VERSION
from pipeline.chest_ct.recipe.contract import classes_input, classes_network, lesion_input, lesion_network
from pipeline.chest_ct.recipe.data import SIDES, Side
from pipeline.chest_ct.recipe.figures import Obstacle, Report
from pipeline.chest_ct.recipe.settings import texts
from pipeline.models import description, toml
from pipeline.models.archive import digest
from pipeline.models.card import card
from pipeline.models.description import FILE, SCHEMA, Model
from pipeline.models.shelf import Installed

WEIGHTS = "weights.safetensors"
PROVISIONAL: Mapping[str, Any] = {
    "title": dict.fromkeys(LANGUAGES, "-"), "intended_use": dict.fromkeys(LANGUAGES, "-"),
    "provenance": dict.fromkeys(LANGUAGES, "-"),
}  # fmt: skip
_BODY_PARTS = ["CHEST", "LUNG", "THORAX"]
_INDICATION = {"lesion": "dice_over_rules", "classes": "balanced_accuracy_over_rules"}


@dataclass(frozen=True, slots=True)
class Said:
    """What the person who runs the recipe says.

    Parameters
    ----------
    name, version, licence : str
        Of the model.
    provenance : str
        Where images and labels come from, and under which licence; may be empty.
    seed : int
    accepted : Mapping
        Obstacle to the reason for which the model is written all the same.
    """

    name: str
    version: str
    licence: str
    provenance: str = ""
    seed: int = 1
    accepted: Mapping[Obstacle, str] = field(default_factory=dict)


def lesion_table(settings: Mapping[str, Any], name: str, threshold: float) -> dict[str, Any]:
    """Return the tables of ``model.toml`` that say what the lesion network takes and gives."""
    p = settings["lesion"]
    label = {**p["label"], "index": 0, "finding": True, "least": p["least_cm3"]}
    return {
        "name": name, "task": "segmentation", **_common(settings), "input": asdict(lesion_input(settings)),
        "network": asdict(lesion_network(settings)),
        "output": {"channels": 1, "activation": "sigmoid", "choose": "threshold", "threshold": threshold}, "label": [label],
        "device": {"precision": "mixed", "batch": 2},
    }  # fmt: skip


def classes_table(
    settings: Mapping[str, Any], name: str, thresholds: Sequence[float], calibration: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the tables of ``model.toml`` that say what the classifier takes and gives."""
    labels = [
        {**row, "index": k, "threshold": threshold, "anatomy": settings["lesion"]["label"]["anatomy"]}
        for k, (row, threshold) in enumerate(zip(settings["classes"]["class"], thresholds, strict=True))
    ]
    return {
        "name": name, "task": "classification", **_common(settings), "input": asdict(classes_input(settings)),
        "network": asdict(classes_network(settings)),
        "output": {"channels": len(labels), "activation": "softmax", "choose": "threshold"}, "label": labels,
        "calibration": dict(calibration), "device": {"precision": "full"},
    }  # fmt: skip


def _common(settings: Mapping[str, Any]) -> dict[str, Any]:
    p = settings["series"]
    select = {"body_parts": _BODY_PARTS, "slices": p["slices"], "thickness_mm": p["thickness_mm"]}
    return {"modalities": ["CT"], "format": "monai", "weights": WEIGHTS, "select": select}


def check(said: Said, settings: Mapping[str, Any]) -> None:
    """See that what a person says fits into a description, before hours of training.

    Raises
    ------
    ModelRefused
        With the key and what may stand there.
    """
    worst, nobody = Report(obstacles=["rules", "shortcut"]), dict.fromkeys(SIDES, 0)
    only_shows = demonstration(worst, settings, synthetic=False)
    for kind in ("lesion", "classes"):
        name = name_of(kind, said, only_shows)
        table = lesion_table(settings, name, 0.5)
        if kind == "classes":
            table = classes_table(settings, name, [0.5] * len(settings["classes"]["class"]), {"method": "none"})
        _described(table, said, card_of(kind, worst, said, nobody, only_shows), "sha256:" + "0" * 64)


def name_of(kind: str, said: Said, only_shows: Mapping[str, str] | None) -> str:
    """Return the name of a model; that of a demonstration says so."""
    return f"{'demo_' if only_shows else ''}{said.name}_{kind}"


def _described(table: Mapping[str, Any], said: Said, card_said: Mapping[str, Any], weights: str) -> Model:
    return description.parse(
        {
            "schema": SCHEMA, "version": said.version, "licence": said.licence, **table, "card": dict(card_said),
            "files": {WEIGHTS: weights},
        }
    )  # fmt: skip


def write(
    folder: Path, net: torch.nn.Module, table: Mapping[str, Any], said: Said, card_said: Mapping[str, Any]
) -> Installed:
    """Write weights and ``model.toml`` into the fresh folder `folder`, and read them back as the runtime does."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in net.state_dict().items()}
    (folder / WEIGHTS).write_bytes(save(tensors))
    model = _described(table, said, card_said, digest(folder / WEIGHTS))
    (folder / FILE).write_text(toml.dump(model.as_table()), encoding="utf-8")
    return Installed.at(folder)


def lacking(report: Report, said: Said) -> list[Obstacle]:
    """Return what stands against giving the model away and was not accepted."""
    return [o for o in report.obstacles if not said.accepted.get(o, "").strip()]


def demonstration(report: Report, settings: Mapping[str, Any], *, synthetic: bool) -> dict[str, str] | None:
    """Return why a model is a demonstration only; None if it is none."""
    said, least = texts()["demonstration"], settings["judge"]["patients_least"]
    if synthetic:
        return dict(said["why_synthetic"])
    if report.patients < least:
        return {tag: said["why_few"][tag].format(patients=report.patients, least=least) for tag in LANGUAGES}
    return None


def card_of(
    kind: str, report: Report, said: Said, counts: Mapping[Side, int], only_shows: Mapping[str, str] | None
) -> dict[str, Any]:
    """Return ``[card]``.

    Parameters
    ----------
    kind : {"lesion", "classes"}
    report : Report
    said : Said
    counts : Mapping[Side, int]
        Patients of each side.
    only_shows : Mapping or None
        Why it is a demonstration.
    """
    all_texts = texts()
    mine = all_texts[kind]
    out: dict[str, Any] = {"title": {}, "intended_use": {}, "provenance": {}, "limits": {}}
    for tag in LANGUAGES:
        prefix = all_texts["demonstration"]["title"][tag] if only_shows else ""
        title = prefix + mine["title"][tag]
        out["title"][tag] = title[0].upper() + title[1:]
        out["intended_use"][tag] = (only_shows[tag] + "\n\n" if only_shows else "") + mine["intended_use"][tag]
        source = all_texts["provenance"]["text"][tag].format(
            version=VERSION, train=counts["train"], check=counts["check"], held=counts["held out"], seed=said.seed
        )
        out["provenance"][tag] = "\n\n".join(filter(None, (source, said.provenance)))
        verdict = [_on_rules(kind, report, said, tag), _on_shortcuts(kind, report, said, tag)]
        out["limits"][tag] = "\n\n".join([*verdict, mine["limits"][tag]])
    out["operating_point"] = {
        f"{f.what}, {f.group}": _shown(f.value.shown()) for f in report.figures if not f.group.startswith("site: ")
    }
    return out


def _on_rules(kind: str, report: Report, said: Said, tag: str) -> str:
    words, what = texts()["verdict"], _INDICATION[kind]
    figure = report.find(what, "network")
    interval = words["nothing"][tag] if figure is None else _shown(figure.shown())
    if "rules" in report.obstacles:
        return str(words["rules"][tag].format(interval=interval, reason=said.accepted.get("rules", "")))
    return str(words["beats"][tag].format(figure=texts()["figure"][what][tag], interval=interval))


def _on_shortcuts(kind: str, report: Report, said: Said, tag: str) -> str:
    words = texts()["verdict"]
    what, groups = ("dice", ("density alone",)) if kind == "lesion" else ("mean_area", ("border", "histogram", "site"))
    several = [("network", report.find(what, "network")), *((g, report.find(what, g)) for g in groups)]
    shown = [f"{name} {words['nothing'][tag] if v is None else _shown(v.shown())}" for name, v in several]
    row = "shortcut" if "shortcut" in report.obstacles else "clear"
    return str(words[row][tag].format(names="; ".join(shown), reason=said.accepted.get("shortcut", "")))


def _shown(text: str) -> str:
    """Return a figure without an interval that says nothing."""
    return text.replace("-inf to inf; ", "")


def write_cards(installed: Installed, report: Report) -> None:
    """Write ``CARD.en.md`` and so on beside a model: its card, and every figure."""
    for tag in LANGUAGES:
        lines = [card(installed, tag), "", *page(report, tag)]
        (installed.folder / f"CARD.{tag}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def page(report: Report, tag: str) -> Iterator[str]:
    """Yield all figures as a table."""
    words, named = texts()["page"], texts()["figure"]
    yield from (f"## {words['figures'][tag]}", "", words["note"][tag], "")
    yield "| " + " | ".join(words[k][tag] for k in ("what", "group", "value", "interval", "patients")) + " |"
    yield "|---|---|---|---|---|"
    for f in report.figures:
        value, low, high, of = f.value
        interval = f"{low:.3f} - {high:.3f}" if math.isfinite(low) else ""
        yield f"| {named[f.what][tag]} | {f.group.replace('|', '/')} | {value:.3f} | {interval} | {of} |"


def write_figures(report: Report, path: Path) -> None:
    """Write all figures as JSON, with a row for each series; an interval that says nothing is null."""

    def bound(value: float) -> float | None:
        return value if math.isfinite(value) else None

    figures = [
        {
            "what": f.what, "of": f.group, "value": f.value.value, "low": bound(f.value.low), "high": bound(f.value.high),
            "patients": f.value.of,
        }
        for f in report.figures
    ]  # fmt: skip
    said = {"patients": report.patients, "obstacles": report.obstacles, "figures": figures, "series": report.rows}
    path.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
