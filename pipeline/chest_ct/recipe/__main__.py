"""``python -m pipeline.chest_ct.recipe FOLDER --out OUT``: train on labelled DICOM, judge on patients held out, write a model.

Ends with 0 if every network that the data suffice for was written, with 1 if one was refused for what its figures say, with 2 if
there is something wrong with data, settings or arguments.
"""

import argparse
import csv
import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.chest_ct.recipe import classes, export, figures, lesions, looks, refusals, shortcuts
from pipeline.chest_ct.recipe.data import SIDES, Case, Side, counted, gather, table
from pipeline.chest_ct.recipe.export import Said
from pipeline.chest_ct.recipe.figures import Obstacle, Report, Told
from pipeline.chest_ct.recipe.prepare import Prepared, prepare
from pipeline.chest_ct.recipe.settings import SettingsWrong, settings
from pipeline.chest_ct.recipe.train import Plan
from pipeline.device import pick
from pipeline.errors import PipelineFailed
from pipeline.models.pipeline import ModelPipeline

KINDS = ("lesion", "classes")
_OF_THE_JUDGEMENT = frozenset({"judge", "shortcuts"})
"""Tables of the settings that no weight depends on."""


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """Everything that both networks need."""

    said: Mapping[str, Any]
    out: Path
    person: Said
    device: torch.device
    sides: Mapping[Side, Sequence[Prepared]]
    cases: Sequence[Case]

    def plan(self, kind: str) -> Plan:
        """Return how long one of the networks trains; a checkpoint is bound to what it learned from."""
        p = self.said[kind]
        learned = {k: v for k, v in self.said.items() if k not in _OF_THE_JUDGEMENT}
        total = hashlib.sha256(json.dumps([learned, self.person.seed, kind], sort_keys=True).encode())
        for case in sorted(self.cases, key=lambda c: c.uid):
            lesion = b"" if case.lesion is None else np.packbits(case.lesion.box).tobytes()
            total.update(f"{case.uid} {case.side} {case.klass} {case.pixels} ".encode() + lesion)
        checkpoint = self.out / f"checkpoint-{kind}.pt"
        return Plan(
            p["steps"], p["check_every"], p["rate"], self.person.seed, self.device, checkpoint, total.hexdigest()
        )


def main(arguments: list[str]) -> int:
    """Run the recipe; progress and verdict go to the terminal, figures and models into the folder."""
    given = _arguments(arguments)
    try:
        return _run(given)
    except (SettingsWrong, PipelineFailed) as error:
        sys.stderr.write(f"{error}\n")
        return 2


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline.chest_ct.recipe", description=__doc__)
    parser.add_argument(
        "folder", type=Path, help="CT series with DICOM SEG, RTSTRUCT or NIfTI labels, anywhere below it"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="images, checkpoints, figures and models are written there"
    )
    parser.add_argument("--table", type=Path, help="CSV: series, and any of patient, class, site, label")
    parser.add_argument("--licence", required=True, help="of the model: what the data permit")
    parser.add_argument(
        "--task", choices=KINDS, action="append", help="one network alone; default: what there are labels for"
    )
    parser.add_argument("--settings", type=Path, help="TOML with keys of recipe.toml")
    parser.add_argument("--name", default="site", help="models are called NAME_lesion and NAME_classes")
    parser.add_argument("--version", default="1")
    parser.add_argument("--provenance", default="", help="where images and labels come from; stands in the card")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0, help="of the processor; default: all")
    parser.add_argument(
        "--accept-shortcut", default="", metavar="REASON", help="write the model although a baseline is near it"
    )
    parser.add_argument(
        "--accept-worse", default="", metavar="REASON", help="write it although it does not beat the rules"
    )
    return parser.parse_args(arguments)


def _run(given: argparse.Namespace) -> int:
    said = settings(given.settings)
    if not given.folder.is_dir():
        raise SettingsWrong(f"{given.folder} is no folder")
    if given.threads:
        torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    accepted: dict[Obstacle, str] = {"shortcut": given.accept_shortcut, "rules": given.accept_worse}
    person = Said(given.name, given.version, given.licence, given.provenance, given.seed, accepted)
    export.check(person, said)
    with tempfile.TemporaryDirectory(prefix="recipe-") as scratch:
        rows = table(given.table) if given.table else []
        gathered = gather(given.folder, rows, said, Path(scratch))
        refusals.write(gathered.refused, given.out / "refused.csv")
        _say(
            f"{len(gathered.cases)} series are used, {len(gathered.refused)} things are not: {given.out / 'refused.csv'}"
        )
        _write_sides(gathered.cases, given.out / "sides.csv")
        several = prepare(gathered.cases, said, given.out / "prepared", _say)
        drawn = sum(looks.write(one, given.out / "looks") is not None for one in several)
        _say(f"{drawn} new pictures of labels to look at: {given.out / 'looks'}")
        sides = {s: [p for p in several if p.case.side == s] for s in SIDES}
        work = Work(said, given.out, person, pick(given.device), sides, gathered.cases)
        return max(_one(kind, work) for kind in _kinds(given.task, work))


def _kinds(asked: Sequence[str] | None, work: Work) -> list[str]:
    """Return the networks that the data suffice for.

    Raises
    ------
    SettingsWrong
        If they do not suffice for one that was asked for, or for any.
    """
    lacks: dict[str, str] = {}
    order = classes.names(work.said)
    for side, several in work.sides.items():
        if not any(p.lesion_cm3 for p in several):
            lacks.setdefault("lesion", f"nobody with a lesion label on the side: {side}")
        there = {p.case.klass for p in several if p.case.klass}
        if side == "train" and set(order) - there:
            lacks.setdefault("classes", f"nobody of class {', '.join(sorted(set(order) - there))} on the side: {side}")
        if not there:
            lacks.setdefault("classes", f"nobody with a class on the side: {side}")
    possible = [k for k in asked or KINDS if k not in lacks]
    if not possible or (asked and len(possible) < len(asked)):
        people = ", ".join(f"{n} {side}" for side, n in counted(work.cases).items())
        why = "; ".join(f"{k}: {text}" for k, text in lacks.items())
        raise SettingsWrong(
            f"too little to learn from ({people} patients): {why}. Another [split] salt deals them anew."
        )
    return possible


def _one(kind: str, work: Work) -> int:
    _say(f"{kind}: {', '.join(f'{n} {s}' for s, n in counted(work.cases).items())} patients, on {work.device}")
    net, made, report = (_lesion if kind == "lesion" else _classes)(work)
    export.write_figures(report, work.out / f"figures-{kind}.json")
    for line in export.page(report, "en"):
        _say(line)
    if missing := export.lacking(report, work.person):
        flags = {"shortcut": "--accept-shortcut REASON", "rules": "--accept-worse REASON"}
        _say(f"{kind}: not written; obstacles: {', '.join(missing)}. If it is wanted all the same: "
             + ", ".join(flags[m] for m in missing))  # fmt: skip
        return 1
    only_shows = export.demonstration(report, work.said, synthetic=any(c.synthetic for c in work.cases))
    name = export.name_of(kind, work.person, only_shows)
    card = export.card_of(kind, report, work.person, counted(work.cases), only_shows)
    installed = export.write(work.out / name, net, {**made, "name": name}, work.person, card)
    export.write_cards(installed, report)
    _say(f"{kind}: written; next: pacs-ai-node models add {installed.folder}")
    return 0


def _lesion(work: Work) -> tuple[torch.nn.Module, dict[str, Any], Report]:
    learn, check, held = work.sides["train"], work.sides["check"], work.sides["held out"]
    net = lesions.train(learn, check, work.said, work.plan("lesion"), _say)
    trial = work.out / "trial-lesion"
    made = export.lesion_table(work.said, "trial_lesion", 0.5)
    installed = export.write(trial, net, made, work.person, export.PROVISIONAL)
    best = lesions.threshold(net, installed.model, check, work.said, work.device)
    made = export.lesion_table(work.said, "trial_lesion", best)
    pipeline = ModelPipeline(export.write(trial, net, made, work.person, export.PROVISIONAL), work.device)
    density = shortcuts.density_dice(learn, held)
    seen = figures.look(lambda series: pipeline.run(series).result, held, density)
    return net, made, figures.of_lesions(seen, work.said)


def _classes(work: Work) -> tuple[torch.nn.Module, dict[str, Any], Report]:
    said, names, p = work.said, classes.names(work.said), work.said["classes"]
    learn = classes.known(work.sides["train"])
    check = figures.one_each(classes.known(work.sides["check"]))
    held = figures.one_each(classes.known(work.sides["held out"]))
    net = classes.train(learn, check, said, work.plan("classes"), _say)
    of_check, kinds = classes.logits(net, check, said, work.device), classes.truth(check, said)
    calibration: dict[str, Any] = {"method": "none"}
    temperature = 1.0
    if len(check) >= p["calibrate_least"]:
        temperature = classes.temperature(of_check, kinds)
        source = f"{len(check)} patients of the check side, all classes equally frequent in training"
        calibration = {"method": "temperature", "temperature": temperature, "source": source}
    thresholds = classes.operating_points(classes.softmax(of_check, temperature), kinds)
    given = classes.logits(net, held, said, work.device)
    told = Told(
        held, classes.truth(held, said), classes.softmax(given), classes.softmax(given, temperature),
        shortcuts.baselines(learn, classes.truth(learn, said), held, len(names), said["shortcuts"]),
    )  # fmt: skip
    made = export.classes_table(said, "trial_classes", thresholds, calibration)
    return net, made, figures.of_classes(told, names, thresholds, said)


def _write_sides(cases: Sequence[Case], path: Path) -> None:
    """Write which series stands on which side; whose it is stays in the images."""
    with path.open("w", encoding="utf-8", newline="") as opened:
        out = csv.writer(opened)
        out.writerow(["series", "side", "class", "labelled"])
        for case in sorted(cases, key=lambda c: c.uid):
            out.writerow([case.uid, case.side, case.klass, "yes" if case.lesion is not None else "no"])


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
