"""The small network for chest radiographs, as numpy runs it: convolutions, an encoder, a decoder, one head.

The canvas is a square of `SIDE` pixels. The image stands in its middle with its longer side on `INNER` pixels, so that `FRAME`
pixels remain on each side: there the network says where lungs go on that the image no longer shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SIDE = 192
"""Side of the canvas in pixels."""
INNER = 160
"""What the longer side of the image takes of it."""
FRAME = (SIDE - INNER) // 2
"""What remains beside it."""
WIDTHS = (12, 24, 48, 96)
"""Channels at a half, a quarter, an eighth and a sixteenth of the canvas."""
POOL = 4
"""The head sees the deepest features as means over so many cells in each direction."""
HIDDEN = 64
OUTPUTS = 12
"""Eight orientations, inverted, chest, tilt in tens of degrees, logarithm of the spread of the tilt."""

ENCODER: tuple[tuple[str, int, int, int], ...] = (
    ("e0", 2, WIDTHS[0], 2), ("e1", WIDTHS[0], WIDTHS[0], 1),
    ("e2", WIDTHS[0], WIDTHS[1], 2), ("e3", WIDTHS[1], WIDTHS[1], 1),
    ("e4", WIDTHS[1], WIDTHS[2], 2), ("e5", WIDTHS[2], WIDTHS[2], 1), ("e6", WIDTHS[2], WIDTHS[2], 1),
    ("e7", WIDTHS[2], WIDTHS[3], 2), ("e8", WIDTHS[3], WIDTHS[3], 1), ("e9", WIDTHS[3], WIDTHS[3], 1),
)  # fmt: skip
"""Name, channels in, channels out, stride; where in and out agree at stride 1, the input is added."""
DECODER: tuple[tuple[str, int, int, str], ...] = (
    ("d0", WIDTHS[3], WIDTHS[2], "e6"), ("d1", WIDTHS[2], WIDTHS[2], ""),
    ("d2", WIDTHS[2], WIDTHS[1], "e3"), ("d3", WIDTHS[1], WIDTHS[1], ""),
    ("d4", WIDTHS[1], WIDTHS[0], "e1"),
)  # fmt: skip
"""Name, channels in, channels out, and what is added after doubling; without a name: no doubling, the input is added."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What the network says of one canvas, before any scale.

    Parameters
    ----------
    head : ndarray, [OUTPUTS]
        Orientations, inverted and chest as logits; tilt; logarithm of its spread.
    lungs : ndarray, [2, SIDE / 2, SIDE / 2]
        Logits of the lung on the left and on the right of the canvas.
    """

    head: Floats
    lungs: Floats


def check(weights: Mapping[str, Floats], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError, naming the first, if a layer is not there in its shape."""
    for name, shape in shapes.items():
        found = weights.get(name)
        if found is None or found.shape != shape or found.dtype != np.float32:
            raise ValueError(f"weights of another network: {name} is not float32 {shape}")


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """The weights, ready to run.

    Parameters
    ----------
    weights : dict
        Kernels ``<name>.weight`` [out, in, row, column] with the normalisation folded in, and ``<name>.bias`` [out].
    """

    weights: dict[str, Floats]

    def __post_init__(self) -> None:
        """Every layer must be there in its shape.

        Raises
        ------
        ValueError
            Naming the first that is not.
        """
        check(self.weights, shapes())

    def run(self, canvas: Floats) -> Answer:
        """Look at one canvas.

        Parameters
        ----------
        canvas : ndarray, [2, SIDE, SIDE]
            The standardised image, 0 beside it; and 1 where it is.
        """
        x, kept = canvas, {}
        for name, into, out, stride in ENCODER:
            y = self._convolved(name, x, stride)
            x = np.maximum(y + x if into == out and stride == 1 else y, 0)
            kept[name] = x
        cells = x.reshape(x.shape[0], POOL, x.shape[1] // POOL, POOL, x.shape[2] // POOL).mean(axis=(2, 4))
        hidden = np.maximum(self.weights["h0.weight"] @ cells.ravel() + self.weights["h0.bias"], 0)
        head = self.weights["h1.weight"] @ hidden + self.weights["h1.bias"]
        for name, _, _, skip in DECODER:
            y = self._convolved(name, x.repeat(2, axis=1).repeat(2, axis=2) if skip else x, 1)
            x = np.maximum(y + (kept[skip] if skip else x), 0)
        return Answer(head, self._convolved("m", x, 1))

    def _convolved(self, name: str, x: Floats, stride: int) -> Floats:
        return convolved(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], stride)


def convolved(x: Floats, kernels: Floats, bias: Floats, stride: int) -> Floats:
    """Correlate [channel, row, column] with 3 x 3 kernels [out, in, 3, 3], zeros around."""
    channels, rows, columns = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    out = (rows // stride, columns // stride)
    patches = np.empty((channels, 3, 3, *out), np.float32)
    for i in range(3):
        for j in range(3):
            patches[:, i, j] = padded[:, i : i + rows : stride, j : j + columns : stride]
    flat = kernels.reshape(len(kernels), -1) @ patches.reshape(channels * 9, -1)
    flat += bias[:, None]
    return flat.reshape(len(kernels), *out)


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every array of weights."""
    out: dict[str, tuple[int, ...]] = {}
    layers: list[tuple[Any, ...]] = [*ENCODER, *DECODER, ("m", WIDTHS[0], 2)]
    for name, into, channels, *_ in layers:
        out[f"{name}.weight"], out[f"{name}.bias"] = (channels, into, 3, 3), (channels,)
    out |= {"h0.weight": (HIDDEN, WIDTHS[3] * POOL**2), "h0.bias": (HIDDEN,)}
    return out | {"h1.weight": (OUTPUTS, HIDDEN), "h1.bias": (OUTPUTS,)}
