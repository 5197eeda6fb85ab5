"""The same network in torch, for training; its normalisations are folded into the kernels when it is done."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.quality.cxr.network import DECODER, ENCODER, HIDDEN, OUTPUTS, POOL, WIDTHS, Floats, Network


class TorchNetwork(nn.Module):
    """Layers of `ENCODER`, `DECODER` and the head, with batch normalisation after every convolution but the last."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[tuple[Any, ...]] = [*ENCODER, *[(n, i, o, 1) for n, i, o, _ in DECODER]]
        self.convolutions = nn.ModuleDict({n: nn.Conv2d(i, o, 3, s, 1, bias=False) for n, i, o, s in layers})
        self.norms = nn.ModuleDict({n: nn.BatchNorm2d(o) for n, _, o, _ in layers})
        self.m = nn.Conv2d(WIDTHS[0], 2, 3, 1, 1)
        self.h0 = nn.Linear(WIDTHS[3] * POOL**2, HIDDEN)
        self.h1 = nn.Linear(HIDDEN, OUTPUTS)
        self.drop = nn.Dropout(0.2)

    def forward(self, canvas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return head [n, OUTPUTS] and logits of the lungs [n, 2, row, column]; see `Network.run`."""
        x, kept = canvas, {}
        for name, into, out, stride in ENCODER:
            y = self.norms[name](self.convolutions[name](x))
            x = torch.relu(y + x if into == out and stride == 1 else y)
            kept[name] = x
        cells = nn.functional.adaptive_avg_pool2d(x, POOL).flatten(1)
        head = self.h1(self.drop(torch.relu(self.h0(self.drop(cells)))))
        for name, _, _, skip in DECODER:
            y = nn.functional.interpolate(x, scale_factor=2.0) if skip else x
            y = self.norms[name](self.convolutions[name](y))
            x = torch.relu(y + (kept[skip] if skip else x))
        return head, self.m(x)


def folded(state: dict[str, torch.Tensor]) -> dict[str, Floats]:
    """Return the weights that `Network` runs, from the state of a `TorchNetwork`."""
    out: dict[str, Floats] = {}
    for name, *_ in [*ENCODER, *DECODER]:
        scale = state[f"norms.{name}.weight"] / torch.sqrt(state[f"norms.{name}.running_var"] + 1e-5)
        out[f"{name}.weight"] = array(state[f"convolutions.{name}.weight"] * scale[:, None, None, None])
        out[f"{name}.bias"] = array(state[f"norms.{name}.bias"] - state[f"norms.{name}.running_mean"] * scale)
    return out | {f"{n}.{k}": array(state[f"{n}.{k}"]) for n in ("m", "h0", "h1") for k in ("weight", "bias")}


def continued(network: Network, canvases: torch.Tensor) -> TorchNetwork:
    """Return a network to be trained on from finished weights.

    Parameters
    ----------
    network : Network
    canvases : tensor, [n, 2, SIDE, SIDE]
        A batch as in training: each normalisation is set to what it measures there, so that it changes nothing at first.
    """
    out = TorchNetwork()
    weights = {name: torch.from_numpy(values.copy()) for name, values in network.weights.items()}
    with torch.no_grad():
        for name in out.convolutions:
            out.get_parameter(f"convolutions.{name}.weight").copy_(weights[f"{name}.weight"])
        for name in ("m", "h0", "h1"):
            layer: Any = getattr(out, name)
            layer.weight.copy_(weights[f"{name}.weight"])
            layer.bias.copy_(weights[f"{name}.bias"])

        def measured(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
            def measure(layer: nn.Module, values: tuple[torch.Tensor, ...]) -> None:
                norm: Any = layer  # torch types its buffers loosely
                norm.running_mean.copy_(values[0].mean(dim=(0, 2, 3)))
                norm.running_var.copy_(values[0].var(dim=(0, 2, 3)))
                norm.weight.copy_((norm.running_var + norm.eps).sqrt())
                norm.bias.copy_(norm.running_mean + weights[f"{name}.bias"])

            return measure

        hooks = [norm.register_forward_pre_hook(measured(name)) for name, norm in out.norms.items()]
        out.eval()(canvases)
        for hook in hooks:
            hook.remove()
    return out


def array(tensor: torch.Tensor) -> Floats:
    """Return what numpy keeps of a tensor."""
    return np.ascontiguousarray(tensor.detach().float().numpy())
