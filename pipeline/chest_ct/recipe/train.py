"""Training: steps that can be interrupted anywhere and go on with the very same numbers.

What a step sees follows from the seed and its number alone, and so does the rate: a run that was stopped and resumed ends with
the weights of one that was not (on one device and number of threads).
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.chest_ct.recipe.settings import SettingsWrong
from pipeline.models.network import mixed_type

Weights = dict[str, torch.Tensor]
_WARM = 0.05
"""Share of the steps in which the rate rises."""
_SAY_EVERY_S = 15.0
_CLIP = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and where.

    Parameters
    ----------
    steps, check_every : int
        Steps in all; steps between looks at the check side, when a checkpoint is written, too.
    rate : float
        Of AdamW, at its highest.
    seed : int
        Of weights and batches.
    device : torch.device
        Where.
    checkpoint : Path
        File of the state.
    learned_from : str
        Digest of data and settings: a checkpoint of others is refused.
    """

    steps: int
    check_every: int
    rate: float
    seed: int
    device: torch.device
    checkpoint: Path
    learned_from: str


@dataclass(slots=True)
class _State:
    step: int
    best: float
    weights: Weights


def generator(seed: int, step: int) -> np.random.Generator:
    """Return the source of chance of one step."""
    return np.random.default_rng([seed, step])


def fit(
    make: Callable[[], torch.nn.Module],
    loss: Callable[[torch.nn.Module, int], torch.Tensor],
    check: Callable[[torch.nn.Module], float],
    plan: Plan,
    say: Callable[[str], None],
) -> torch.nn.Module:
    """Train a network; return it with the weights that were best on the check side, evaluating.

    Parameters
    ----------
    make : callable
        Returns the network with weights by chance.
    loss : callable
        Loss of a step, of the network and the number of the step.
    check : callable
        Loss on the check side.
    plan : Plan
    say : callable
        Takes a line of progress.

    Raises
    ------
    SettingsWrong
        If the checkpoint was learned from other data or settings, or the loss is no number.
    """
    torch.manual_seed(plan.seed)
    net = make().to(plan.device)
    optimiser = torch.optim.AdamW(net.parameters(), lr=plan.rate, weight_decay=1e-4)
    state = _resumed(net, optimiser, plan) or _State(0, math.inf, _copied(net))
    if state.step:
        say(f"goes on after step {state.step}")
    half = mixed_type(plan.device)
    half = half if half is torch.bfloat16 else None  # float16 would need its gradients scaled
    started, told, since = time.monotonic(), time.monotonic(), state.step
    for step in range(state.step, plan.steps):
        for group in optimiser.param_groups:
            group["lr"] = plan.rate * _share(step, plan.steps)
        net.train()
        with torch.autocast(plan.device.type, half or torch.bfloat16, enabled=half is not None):
            value = loss(net, step)
        if not bool(torch.isfinite(value)):
            raise SettingsWrong(f"the loss is no number at step {step}: take a lower rate")
        optimiser.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), _CLIP)
        optimiser.step()
        state.step = step + 1
        if state.step % plan.check_every == 0 or state.step == plan.steps:
            found = _checked(net, check)
            if found < state.best:
                state.best, state.weights = found, _copied(net)
            _save(net, optimiser, state, plan)
            say(f"step {state.step} of {plan.steps}: on the check side {found:.4f}, best {state.best:.4f}")
        elif time.monotonic() - told > _SAY_EVERY_S:
            told = time.monotonic()
            left = (told - started) / (state.step - since) * (plan.steps - state.step)
            say(f"step {state.step} of {plan.steps}: loss {float(value.detach()):.4f}, {left:.0f} s left")
    net.load_state_dict(state.weights)
    return net.eval()


def _share(step: int, steps: int) -> float:
    """Return which share of the highest rate a step has: up along a line, down along half a cosine."""
    warm = max(1, round(_WARM * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _checked(net: torch.nn.Module, check: Callable[[torch.nn.Module], float]) -> float:
    net.eval()
    with torch.inference_mode():
        return check(net)


def _copied(net: torch.nn.Module) -> Weights:
    return {name: tensor.detach().cpu().clone() for name, tensor in net.state_dict().items()}


def _save(net: torch.nn.Module, optimiser: torch.optim.Optimizer, state: _State, plan: Plan) -> None:
    """Write the state whole, or not at all."""
    said: dict[str, Any] = {
        "learned_from": plan.learned_from, "step": state.step, "best": state.best, "weights": state.weights,
        "net": net.state_dict(), "optimiser": optimiser.state_dict(),
    }  # fmt: skip
    fresh = plan.checkpoint.with_suffix(".new")
    with fresh.open("wb") as out:
        torch.save(said, out)
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(plan.checkpoint)


def _resumed(net: torch.nn.Module, optimiser: torch.optim.Optimizer, plan: Plan) -> _State | None:
    if not plan.checkpoint.is_file():
        return None
    said = torch.load(plan.checkpoint, map_location="cpu", weights_only=True)
    if said["learned_from"] != plan.learned_from:
        raise SettingsWrong(
            f"{plan.checkpoint} was learned from other data or settings: remove it, or name another --out"
        )
    net.load_state_dict(said["net"])
    optimiser.load_state_dict(said["optimiser"])
    return _State(said["step"], said["best"], said["weights"])
