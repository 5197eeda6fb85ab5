"""Whether an upright picture of a chest is mirrored: a tiny network that compares the lungs with their mirror image.

It sees the box around both lungs and nothing else, so that neither letters nor borders decide, but heart, arch and diaphragm.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.quality.cxr.network import Floats, check, convolved

CROP = 40
"""Rows and columns that the box is scaled to."""
CHANNELS = (8, 16, 24)
HIDDEN = 16
MEMBERS = 3
"""So many such networks, trained from other beginnings; the mean counts."""


@dataclass(frozen=True, slots=True, eq=False)
class Sides:
    """The weights, ready to run.

    Parameters
    ----------
    weights : dict
        Kernels ``s<member>.c<layer>.weight`` [out, in, row, column], ``s<member>.f<layer>.weight`` [out, in], and their ``.bias``.
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

    def mirrored(self, picture: Floats, lungs: NDArray[np.bool_]) -> float:
        """Return the logarithm of the odds that an upright picture is mirrored; exactly the negative for its mirror image.

        Parameters
        ----------
        picture : ndarray, [row, column]
            Grey, 0 black.
        lungs : ndarray, [row, column] bool
            Both lungs; not empty.
        """
        seen = boxed(picture, lungs, 0.0, CROP)
        seen = (seen - seen.mean()) / (seen.std() + 1e-3)
        return float(np.mean([self._value(m, seen[:, ::-1]) - self._value(m, seen) for m in range(MEMBERS)]))

    def _value(self, member: int, seen: Floats) -> float:
        x = np.ascontiguousarray(seen)[None]
        for layer in range(len(CHANNELS)):
            name = f"s{member}.c{layer}"
            x = np.maximum(convolved(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], 2), 0)
        hidden = np.maximum(self.weights[f"s{member}.f0.weight"] @ x.ravel() + self.weights[f"s{member}.f0.bias"], 0)
        return float((self.weights[f"s{member}.f1.weight"] @ hidden)[0] + self.weights[f"s{member}.f1.bias"][0])


def boxed(picture: Floats, lungs: NDArray[np.bool_], around: float, size: int) -> Floats:
    """Return the box of the lungs, wider by a share `around` on each side, scaled to `size` rows and columns."""
    rows, columns = np.flatnonzero(lungs.any(axis=1)), np.flatnonzero(lungs.any(axis=0))
    high, wide = (int((at[-1] - at[0] + 1) * around) for at in (rows, columns))
    wider = np.pad(picture, ((high, high), (wide, wide)), mode="edge") if around else picture
    part = wider[rows[0] : rows[-1] + 1 + 2 * high, columns[0] : columns[-1] + 1 + 2 * wide]
    how = Image.Resampling.BOX if min(part.shape) >= size else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(np.ascontiguousarray(part, np.float32)).resize((size, size), how), np.float32)


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every array of weights."""
    out: dict[str, tuple[int, ...]] = {}
    cells = (CROP // 2 ** len(CHANNELS)) ** 2
    for m in range(MEMBERS):
        for layer, (into, channels) in enumerate(zip((1, *CHANNELS[:-1]), CHANNELS, strict=True)):
            out[f"s{m}.c{layer}.weight"], out[f"s{m}.c{layer}.bias"] = (channels, into, 3, 3), (channels,)
        out |= {f"s{m}.f0.weight": (HIDDEN, CHANNELS[-1] * cells), f"s{m}.f0.bias": (HIDDEN,)}
        out |= {f"s{m}.f1.weight": (1, HIDDEN), f"s{m}.f1.bias": (1,)}
    return out
