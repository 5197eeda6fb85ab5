"""Training of `Sides`: boxes of lungs against their mirror images, moved, turned and changed in grey a little."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pipeline.quality.cxr.model import shrunk
from pipeline.quality.cxr.network import Floats
from pipeline.quality.cxr.recipe.data import Source
from pipeline.quality.cxr.recipe.torch_network import array
from pipeline.quality.cxr.sides import CHANNELS, CROP, HIDDEN, MEMBERS, boxed

AROUND = 0.2
"""Boxes are kept wider by this share on each side, to be moved about in."""


class TorchSides(nn.Module):
    """One member; gives the logarithm of the odds that its picture is not mirrored."""

    def __init__(self) -> None:
        super().__init__()
        pairs = list(zip((1, *CHANNELS[:-1]), CHANNELS, strict=True))
        self.c = nn.ModuleList([nn.Conv2d(i, o, 3, 2, 1, bias=False) for i, o in pairs])
        self.n = nn.ModuleList([nn.BatchNorm2d(o) for o in CHANNELS])
        self.f = nn.ModuleList([nn.Linear(CHANNELS[-1] * (CROP // 8) ** 2, HIDDEN), nn.Linear(HIDDEN, 1)])
        self.drop = nn.Dropout(0.3)

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        """Return one number for each picture [n, 1, CROP, CROP], compared with its mirror image."""
        x = torch.cat([seen, seen.flip(3)])
        for convolution, norm in zip(self.c, self.n, strict=True):
            x = torch.relu(norm(convolution(x)))
        x = self.f[1](self.drop(torch.relu(self.f[0](self.drop(x.flatten(1))))))[:, 0]
        difference: torch.Tensor = x[: len(seen)] - x[len(seen) :]
        return difference


def train_sides(
    sources: list[Source],
    lungs: Callable[[Source], Any],
    settings: dict[str, Any],
    *,
    seed: int,
    say: Callable[[str], None],
) -> dict[str, Floats]:
    """Train every member on all sources whose lungs are found; return the weights of `Sides`.

    Parameters
    ----------
    sources : list of Source
        Upright radiographs.
    lungs : callable
        Gives the probabilities of both lungs, [2, row, column] in the shape of `shrunk`, of a source.
    """
    boxes = []
    wide = round(CROP * (1 + 2 * AROUND))
    for source in sources:
        small = shrunk(np.asarray(source.shown / 255, np.float32))
        found = lungs(source) > 0.5
        if found.any(axis=(1, 2)).all():
            boxes.append(boxed(small, found.any(axis=0), AROUND, wide))
    pictures = torch.from_numpy(np.stack(boxes))[:, None]
    out: dict[str, Floats] = {}
    for m in range(MEMBERS):
        torch.manual_seed(seed * MEMBERS + m)
        net = TorchSides()
        steps = settings["steps"]
        optimiser = torch.optim.AdamW(net.parameters(), settings["rate"], weight_decay=settings["decay"])
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings["rate"], total_steps=steps)
        for _ in range(steps):
            value = functional.softplus(
                -net(_moved(pictures[torch.randint(len(pictures), (settings["batch"],))]))
            ).mean()
            optimiser.zero_grad()
            torch.autograd.backward(value)
            optimiser.step()
            schedule.step()
        say(f"sides, member {m}: {len(pictures)} pictures, last loss {float(value.detach()):.3f}")
        out |= _folded(net.state_dict(), m)
    return out


def _moved(pictures: torch.Tensor) -> torch.Tensor:
    n, inner = len(pictures), 1 / (1 + 2 * AROUND)
    turn = (torch.rand(n) - 0.5) * 0.35
    high, wide = (inner * (0.9 + 0.2 * torch.rand(n)) for _ in range(2))
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = wide * turn.cos(), -high * turn.sin()
    theta[:, 1, 0], theta[:, 1, 1] = wide * turn.sin(), high * turn.cos()
    theta[:, :, 2] = (torch.rand(n, 2) - 0.5) * 0.12
    grid = functional.affine_grid(theta, [n, 1, CROP, CROP], align_corners=False)
    out = functional.grid_sample(pictures, grid, align_corners=False, padding_mode="border").clamp(0, 1)
    out = out ** torch.exp((torch.rand(n, 1, 1, 1) - 0.5) * 1.6)
    out = out + torch.randn(out.shape) * torch.rand(n, 1, 1, 1) * 0.05
    return (out - out.mean((2, 3), keepdim=True)) / (out.std((2, 3), keepdim=True) + 1e-3)


def _folded(state: dict[str, torch.Tensor], member: int) -> dict[str, Floats]:
    out: dict[str, Floats] = {}
    for k in range(len(CHANNELS)):
        scale = state[f"n.{k}.weight"] / torch.sqrt(state[f"n.{k}.running_var"] + 1e-5)
        out[f"s{member}.c{k}.weight"] = array(state[f"c.{k}.weight"] * scale[:, None, None, None])
        out[f"s{member}.c{k}.bias"] = array(state[f"n.{k}.bias"] - state[f"n.{k}.running_mean"] * scale)
    return out | {f"s{member}.f{k}.{w}": array(state[f"f.{k}.{w}"]) for k in range(2) for w in ("weight", "bias")}
