"""From a folder of data to a pool that views are taken of, and to the pictures that figures are taken on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.quality.cxr.recipe import data, negatives
from pipeline.quality.cxr.recipe.data import Bytes, Source
from pipeline.quality.cxr.recipe.views import Pool, pool


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What the recipe works on.

    Parameters
    ----------
    train, check, figures : list of Source
        Radiographs by side of the split; patients are on one side only.
    pool : Pool
        `train` (and `check`, if it was wanted), then phantoms, then pictures of other things.
    trained : list of Source
        The radiographs in the pool, in its order.
    others : dict
        Drawn pictures of other things that are not in the pool.
    """

    train: list[Source]
    check: list[Source]
    figures: list[Source]
    pool: Pool
    trained: list[Source]
    others: dict[str, list[Bytes]]


def prepare(folder: Path, phantoms: Path | None, settings: dict[str, Any], *, seed: int, with_check: bool) -> Prepared:
    """Read everything under `folder` that the recipe names, and what ``phantom.pictures`` wrote to `phantoms`.

    Raises
    ------
    ValueError
        If there is no radiograph to train on.
    """
    rng = np.random.default_rng([seed, 1])
    everyone = data.radiographs(folder / settings["split"]["table"], folder, settings["split"])
    sides = {s: [r for r in everyone if r.side == s] for s in ("train", "check", "figures")}
    trained = sides["train"] + (sides["check"] if with_check else [])
    if not any(r.lungs is not None for r in trained):
        raise ValueError(
            f"{folder / settings['split']['table']}: no radiograph of the training side has a mask of both lungs"
        )
    made_up = [] if phantoms is None else data.radiographs(phantoms / "labels.csv", phantoms, settings["split"])
    other = negatives.of_ct(folder, settings["negatives"], rng) + negatives.drawn(
        settings["negatives"]["synthetic"], rng
    )
    pictures = [r.shown for r in trained + made_up] + other
    chest = np.arange(len(pictures)) < len(trained) + len(made_up)
    # a phantom's masks are shadows, which go on behind the diaphragm; drawn ones end at it
    masks = [r.lungs for r in trained] + [None] * (len(made_up) + len(other))
    made = pool(pictures, masks, chest)
    unseen = {"drawn": negatives.drawn(80, np.random.default_rng([seed, 2]))}
    return Prepared(sides["train"], sides["check"], sides["figures"], made, trained, unseen)
