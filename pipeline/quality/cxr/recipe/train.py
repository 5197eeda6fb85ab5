"""Training: batches of views, losses, an average of the weights, and masks that the network gives itself."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pipeline.quality.cxr.network import Network
from pipeline.quality.cxr.recipe.data import Source
from pipeline.quality.cxr.recipe.torch_network import TorchNetwork, continued, folded
from pipeline.quality.cxr.recipe.views import Pool, Views, take


@dataclass(frozen=True, slots=True)
class Round:
    """So many steps; before them, masks are proposed for the pictures without if `propose` is set."""

    steps: int
    propose: bool


OWN_DEG = 2.5
"""How far radiographs are tilted as they come: the spread that `loss` expects of `own`."""


def loss(
    head: torch.Tensor, lungs: torch.Tensor, views: Views, own: torch.Tensor
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss of a batch and its parts.

    `own`, in degrees, is how far each picture was tilted before anything was done to it. Nobody has measured that, so it is
    found while training: the same for all views of a picture, and 0 but for `OWN_DEG`.
    """
    chest = views.chest * views.judged
    certain = chest > 0
    eight = head[certain, :8]
    lies = views.orientation[certain]
    turn = functional.cross_entropy(torch.logaddexp(eight[:, :4], eight[:, 4:]), lies % 4, label_smoothing=0.02)
    known = lies % 4 == 0
    mirror = functional.binary_cross_entropy_with_logits((eight[:, 4] - eight[:, 0])[known], (lies[known] >= 4).float())
    inverted = functional.binary_cross_entropy_with_logits(head[certain, 8], views.inverted[certain])
    kind = functional.binary_cross_entropy_with_logits(head[views.judged, 9], views.chest[views.judged])
    straight = certain & (views.orientation % 4 == 0)
    truth = (
        torch.where(views.orientation[straight] == 0, 1.0, -1.0) * (views.tilt + own)[straight]
    )  # of a mirror image: the other way
    error = (head[straight, 10] * 10 - truth).abs()
    spread = head[straight, 11].clamp(-2, 4)
    tilt = (error * torch.exp(-spread) + spread).mean() + 0.1 * error.mean()
    weight = views.known.expand_as(lungs)
    total = weight.sum().clamp(min=1)
    every = functional.binary_cross_entropy_with_logits(lungs, views.lungs, reduction="none")
    probability = torch.sigmoid(lungs)
    overlap = 2 * (probability * views.lungs * weight).sum() + 1
    dice = 1 - overlap / (((probability + views.lungs) * weight).sum() + 1)
    parts = {
        "turn": turn,
        "mirror": mirror,
        "inverted": inverted,
        "kind": kind,
        "tilt": 0.6 * tilt,
        "own": 0.1 * (own[straight] / OWN_DEG).square().mean(),
        "ends": ends(probability, views),
        "mask": 3 * (every * weight).sum() / total,
        "dice": dice,
    }
    return torch.stack(list(parts.values())).sum(), {k: round(float(v.detach()), 4) for k, v in parts.items()}


def ends(probability: torch.Tensor, views: Views) -> torch.Tensor:
    """Return how far the profiles of both lungs along rows and columns, from which margins are read, are from the truth."""
    found, truth = probability.amax(dim=1), views.lungs.amax(dim=1)
    known = views.known[:, 0]
    out = []
    for axis in (1, 2):
        one, other = (v.topk(4, dim=3 - axis).values.mean(dim=3 - axis) for v in (found, truth))
        sure = known.mean(dim=3 - axis) > 0.8
        value = functional.binary_cross_entropy(one.clamp(1e-4, 1 - 1e-4), other.clamp(0, 1), reduction="none")
        out.append((value * sure).sum() / sure.sum().clamp(min=1))
    return 2 * (out[0] + out[1])


def train(
    pool: Pool,
    sources: list[Source],
    rounds: list[Round],
    settings: dict[str, Any],
    *,
    seed: int,
    start: Network | None = None,
    say: Callable[[str], None],
) -> Network:
    """Train on a pool whose first pictures are `sources`.

    Parameters
    ----------
    pool : Pool
        Masks are added to it in rounds that propose.
    sources : list of Source
        The radiographs; what follows them in the pool are phantoms (chest) and negatives.
    rounds : list of Round
    settings : dict
        ``[training]`` of the recipe.
    seed : int
        Of weights and views.
    start : Network or None
        What training goes on from; None: from random weights.
    say : callable
        Takes a line of progress.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = (
        TorchNetwork()
        if start is None
        else continued(start, take(pool, rng.integers(0, len(pool.boxes), 96), rng).canvas)
    )
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steady = TorchNetwork()
    steady.load_state_dict(net.state_dict())
    steps = sum(r.steps for r in rounds)
    own = nn.Parameter(torch.zeros(len(pool.boxes)))
    groups = [[p for p in net.parameters() if p.ndim > 1], [p for p in net.parameters() if p.ndim == 1]]
    optimiser = torch.optim.AdamW(
        [
            {"params": groups[0], "weight_decay": settings["decay"]},
            {"params": groups[1], "weight_decay": 0.0},
            {"params": [own], "weight_decay": 0.0},
        ],
        lr=settings["rate"],
    )
    rates = [settings["rate"], settings["rate"], settings["rate_of_own_tilts"]]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=steps, pct_start=0.1)
    mine = np.arange(len(sources))
    phantoms = np.flatnonzero(pool.chest[len(sources) :]) + len(sources)
    others = np.flatnonzero(~pool.chest)
    done, started = 0, time.monotonic()
    for turn in rounds:
        if turn.propose:
            say(f"masks proposed for {propose(pool, sources, Network(folded(steady.state_dict())))} radiographs")
        masked = np.array([n for n in mine if sources[n].lungs is not None])
        for _ in range(turn.steps):
            which = _drawn(settings, mine, masked, phantoms, others, rng)
            views = take(pool, which, rng)
            net.train()
            with torch.autocast("cpu", torch.bfloat16):
                head, lungs = net(views.canvas.to(memory_format=torch.channels_last))
            value, parts = loss(head.float(), lungs.float(), views, own[torch.from_numpy(which)])
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(value)
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            done += 1
            _follow(steady, net, min(settings["average"], done / (done + 20)))
            if done % 50 == 0 or done == steps:
                say(
                    f"step {done} of {steps}, {time.monotonic() - started:.0f} s: {parts}, own tilts {float(own.detach()[mine].std()):.2f}"
                )
    return Network(folded(steady.state_dict()))


def _drawn(
    settings: dict[str, Any],
    mine: np.ndarray[Any, Any],
    masked: np.ndarray[Any, Any],
    phantoms: np.ndarray[Any, Any],
    others: np.ndarray[Any, Any],
    rng: np.random.Generator,
) -> np.ndarray[Any, Any]:
    """Draw a batch: shares of phantoms and of negatives are fixed, a third of the radiographs have drawn masks."""
    kinds = rng.random(settings["batch"])
    negative, phantom = settings["share_of_negatives"], settings["share_of_phantoms"]
    out = rng.choice(mine, len(kinds))
    if len(masked):
        out = np.where(rng.random(len(kinds)) < 1 / 3, rng.choice(masked, len(kinds)), out)
    if len(phantoms):
        out = np.where(kinds < negative + phantom, rng.choice(phantoms, len(kinds)), out)
    if len(others):
        out = np.where(kinds < negative, rng.choice(others, len(kinds)), out)
    return out


def _follow(steady: nn.Module, net: nn.Module, keep: float) -> None:
    with torch.no_grad():
        for (name, mean), value in zip(steady.state_dict().items(), net.state_dict().values(), strict=True):
            if mean.dtype.is_floating_point and "num_batches" not in name:
                mean.mul_(keep).add_(value, alpha=1 - keep)
            else:
                mean.copy_(value)


def propose(pool: Pool, sources: list[Source], network: Network) -> int:
    """Give masks to radiographs that have no drawn ones, where the network is sure of both lungs; return to how many."""
    from pipeline.quality.cxr.model import Model  # noqa: PLC0415 - the model is made of these modules' product

    model, count = Model(network), 0
    for n, source in enumerate(sources):
        if source.lungs is not None:
            continue
        pool.hulls[n] = None
        pool.known[n] = 0
        seen = model.upright(source.shown.astype(np.float32) / 255)
        lungs = seen > 0.5
        sure = [float(((p > 0.85) | (p < 0.15))[p > 0.05].mean()) if (p > 0.5).any() else 0.0 for p in seen]
        shares = lungs.mean(axis=(1, 2))
        if min(sure) > 0.6 and shares.min() > 0.03 and shares.max() < 0.4 and 0.3 < shares[0] / shares[1] < 3:
            pool.give_lungs(n, lungs)
            count += 1
    return count
