"""``python -m pipeline.quality.cxr.recipe FOLDER --out OUT``: train, take figures, write the weights and ``model.toml``."""

import argparse
import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save

from pipeline.quality.cxr.model import Model, shrunk
from pipeline.quality.cxr.network import Floats, Network
from pipeline.quality.cxr.recipe.data import Bytes, Source, settings
from pipeline.quality.cxr.recipe.figures import Figures, Limits, of_others, of_sources
from pipeline.quality.cxr.recipe.prepare import Prepared, prepare
from pipeline.quality.cxr.recipe.torch_sides import train_sides
from pipeline.quality.cxr.recipe.train import Round, train
from pipeline.quality.cxr.sides import Sides

WEIGHTS = "weights.safetensors"


def main(arguments: list[str]) -> int:
    """Run the recipe; figures are printed and stand in ``model.toml``."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.quality.cxr.recipe", description=__doc__)
    parser.add_argument("folder", type=Path, help="holds what recipe.toml names, for example cxr/labels.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights and model.toml")
    parser.add_argument("--phantoms", type=Path, help="what python -m phantom.pictures wrote")
    parser.add_argument(
        "--steps",
        type=int,
        help="steps per round, instead of those of recipe.toml; for the sides ten times as many at most",
    )
    parser.add_argument(
        "--start", type=Path, help="weights to go on from; masks are then proposed before the first round too"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-most", type=int, default=60, help="radiographs of a source that figures are taken on")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--hold-out-check",
        action="store_true",
        help="train without the patients on whom limits are set; take figures on them",
    )
    parser.add_argument(
        "--weights", type=Path, help="train nothing: take figures of these, on patients never trained on"
    )
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    rows = settings()
    ready = prepare(given.folder, given.phantoms, rows, seed=given.seed, with_check=not given.hold_out_check)
    weights = load_file(given.weights) if given.weights else trained(ready, rows, given)
    raw = save(weights)
    (given.out / WEIGHTS).write_bytes(raw)
    limits = Limits(**rows["limits"])
    judged = ready.check if given.hold_out_check and not given.weights else ready.figures
    figures = measured(Model(Network(weights), Sides(weights)), some_of(judged, given.at_most), ready.others, limits)
    text = described(raw, limits, figures)
    (given.out / "model.toml").write_text(text, encoding="utf-8")
    _say(text)
    return 0


def trained(ready: Prepared, rows: dict[str, Any], given: argparse.Namespace) -> dict[str, Floats]:
    """Train all networks; return their weights together."""
    steps = [given.steps] * 3 if given.steps else rows["training"]["rounds"]
    start = None if given.start is None else Network(load_file(given.start))
    if given.steps:
        rows["sides"]["steps"] = min(rows["sides"]["steps"], 10 * given.steps)
    rounds = [Round(n, propose=bool(k) or start is not None) for k, n in enumerate(steps)]
    network = train(ready.pool, ready.trained, rounds, rows["training"], seed=given.seed, start=start, say=_say)
    model = Model(network)
    sides = train_sides(
        ready.trained,
        lambda s: model.found(shrunk(np.asarray(s.shown / 255, np.float32))),
        rows["sides"],
        seed=given.seed,
        say=_say,
    )
    return network.weights | sides


def some_of(sources: list[Source], at_most: int) -> list[Source]:
    """Return so many of each source at most, drawn by chance, those with drawn lungs before the others."""
    rng = np.random.default_rng(0)
    out: list[Source] = []
    for name in dict.fromkeys(s.source for s in sources):
        mine = [s for s in sources if s.source == name]
        order = sorted(rng.permutation(len(mine)), key=lambda n: mine[n].lungs is None)
        out += [mine[n] for n in order[:at_most]]
    return out


def measured(model: Model, judged: list[Source], others: dict[str, list[Bytes]], limits: Limits) -> Figures:
    """Return the figures of radiographs and of pictures of other things together."""
    out, beside = of_sources(model, judged, limits), of_others(model, others, limits)
    out.counts |= beside.counts
    out.values |= beside.values
    return out


def described(raw: bytes, limits: Limits, figures: Figures) -> str:
    """Return the text of ``model.toml``."""
    lines = [
        "# Written by pipeline.quality.cxr.recipe; CARD.md says what it means.",
        'name = "cxr_quality-net"',
        'version = "2"',
        f'weights = "{WEIGHTS}"',
        f'sha256 = "{hashlib.sha256(raw).hexdigest()}"',
        "",
        "[limits]                 # the figures below are at these",
        *[f"{name} = {getattr(limits, name)}" for name in limits.__dataclass_fields__],
        "",
        "# What, on whose pictures: how many of how many.",
    ]
    for (what, source), count in sorted(figures.counts.items()):
        lines += [
            "[[figure]]",
            f'what = "{what}"',
            f'source = "{source}"',
            f"yes = {count.yes}",
            f"of = {count.of}",
            "",
        ]
    lines.append("# What, on whose pictures: number, mean, standard deviation.")
    for (what, source), values in sorted(figures.values.items()):
        mean, spread = float(np.mean(values)), float(np.std(values))
        lines += [
            "[[value]]",
            f'what = "{what}"',
            f'source = "{source}"',
            f"of = {len(values)}",
            f"mean = {mean:.3f}",
            f"sd = {spread:.3f}",
            "",
        ]
    return "\n".join(lines)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
