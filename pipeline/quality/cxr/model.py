"""What a small learned network sees in a chest radiograph: how it lies, whether it is one, where the lungs are and go on.

Trained by ``pipeline.quality.cxr.recipe``; what it can do and where it fails stands in ``CARD.md``.
"""

import hashlib
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load as read_weights
from scipy.ndimage import label

from pipeline.errors import PipelineFailed
from pipeline.quality.cxr.network import INNER, SIDE, Floats, Network
from pipeline.quality.cxr.sides import Sides
from pipeline.reasons import REASONS

ORIENTATIONS = (
    "upright", "turned-90", "turned-180", "turned-270",
    "mirrored", "mirrored-turned-90", "mirrored-turned-180", "mirrored-turned-270",
)  # fmt: skip
"""How the shown picture comes from the upright one: mirrored left to right or not, then turned counter-clockwise by so many degrees."""
LEAST = 32
"""Rows and columns that a picture has at least."""
FLIPPED = (4, 7, 6, 5, 0, 3, 2, 1)
"""Index of the orientation that each becomes when the shown picture is mirrored left to right."""


@dataclass(frozen=True, slots=True)
class Margins:
    """Distances from the borders of the shown picture to the lungs, in shares of its longer side.

    Negative: the lungs go on for so much beyond that border. They are seen to at most 0.1 beyond it.
    """

    top: float
    bottom: float
    left: float
    right: float


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What was seen in one picture.

    Parameters
    ----------
    orientation : ndarray, [8]
        Probabilities in the order of `ORIENTATIONS`.
    inverted : float
        Probability that dark and bright are exchanged (air shown bright).
    chest : float
        Probability that this is a frontal radiograph of a chest.
    tilt_deg, tilt_sd_deg : float
        How far the patient is turned clockwise in the plane of the picture once it is put upright, and how uncertain that is.
    right, left : ndarray, [row, column]
        Probability that the patient's right and left lung, the part behind the heart included, are there. The grid covers the shown
        picture exactly, with its longer side in `INNER` cells; see `mask`.
    margins, margins_sd : Margins or None
        From each border of the shown picture to the lungs, and how uncertain; None where no lung is seen.
    """

    orientation: Floats
    inverted: float
    chest: float
    tilt_deg: float
    tilt_sd_deg: float
    right: Floats
    left: Floats
    margins: Margins | None
    margins_sd: Margins | None

    @property
    def lying(self) -> str:
        """The most probable of `ORIENTATIONS`."""
        return ORIENTATIONS[int(self.orientation.argmax())]

    def mask(self, shape: tuple[int, int]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return right and left lung in `shape`, that of the shown picture or of a smaller copy, where the probability is a half."""
        return _resized(self.right, shape) > 0.5, _resized(self.left, shape) > 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A trained network.

    Parameters
    ----------
    network : Network
    sides : Sides or None
        Says whether an upright picture is mirrored; without it, and where it sees no two lungs, the network does.
    about : dict
        Content of ``model.toml``.
    """

    network: Network
    sides: Sides | None = None
    about: dict[str, Any] | None = None

    def look(self, shown: NDArray[np.floating]) -> Seen:
        """Look at one picture.

        Parameters
        ----------
        shown : ndarray, [row, column]
            Grey as displayed, 0 black to 1 white, of any size from 32 pixels on; rows and columns equally far apart.

        Raises
        ------
        ValueError
            If it is no such picture.
        """
        if shown.ndim != 2 or min(shown.shape) < LEAST or not np.isfinite(shown).all():
            raise ValueError("a picture has rows and columns, 32 at least, of finite grey values")
        small = shrunk(shown)
        head, lungs = self._both(small)
        orientation, inverted, chest = _softmax(head[:8]), _sigmoid(head[8]), _sigmoid(head[9])
        turns = orientation[:4] + orientation[4:]
        turn = int(turns.argmax())
        straight = np.ascontiguousarray(np.rot90(1 - small if inverted > 0.5 else small, -turn))
        if turn or inverted > 0.5:  # what was not learned on pictures that lie or look otherwise
            head, lungs = self._both(straight)
        tilt = float(head[10]) * 10
        mirrored = _sigmoid(self._mirrored(straight, lungs, head[4] - head[0]))
        orientation[[turn, turn + 4]] = turns[turn] * (1 - mirrored), turns[turn] * mirrored
        lies = turn + 4 * (mirrored > 0.5)
        if mirrored > 0.5:
            tilt, lungs = -tilt, lungs[::-1, :, ::-1]
        rows, columns = put_upright(small, lies).shape
        margins, spreads = _margins(lungs, rows, columns)
        inside = _resized_pair(lungs, rows, columns)
        back = np.stack([_as_shown(p, lies) for p in inside])
        return Seen(
            orientation, inverted, chest, tilt, float(np.exp(np.clip(head[11], -2, 4))), back[0], back[1],
            _of_shown(margins, lies), _of_shown(spreads, lies),
        )  # fmt: skip

    def upright(self, shown: NDArray[np.floating]) -> Floats:
        """Return probabilities of the lungs on the left and right of a picture known to be upright, [2, row, column] of its size."""
        small = shrunk(shown)
        return np.stack([_resized(p, shown.shape) for p in self.found(small)])

    def found(self, small: Floats) -> Floats:
        """Return probabilities of the lungs on the left and right of an upright picture, [2, row, column], as `shrunk` made it."""
        return _resized_pair(self._both(small)[1], *small.shape)

    def _mirrored(self, straight: Floats, lungs: Floats, otherwise: float) -> float:
        """Return the logarithm of the odds that an upright picture is mirrored."""
        both = _resized_pair(lungs, *straight.shape) > 0.5
        if self.sides is None or not both.any(axis=(1, 2)).all():
            return otherwise
        return self.sides.mirrored(straight, np.asarray(both.any(axis=0)))

    def _both(self, small: Floats) -> tuple[Floats, Floats]:
        """Run the network on the picture and its mirror image; return the mean head and the mean probabilities of the lungs."""
        one = self.network.run(canvas(small))
        two = self.network.run(canvas(np.ascontiguousarray(small[:, ::-1])))
        mirrored = two.head.copy()
        mirrored[:8] = two.head[list(FLIPPED)]
        mirrored[10] *= -1
        lungs = _alone(np.asarray((_sigmoids(one.lungs) + _sigmoids(two.lungs)[::-1, :, ::-1]) / 2, np.float32))
        return np.asarray((one.head + mirrored) / 2, np.float32), lungs


@cache
def load() -> Model:
    """Return the model of this package.

    Raises
    ------
    PipelineFailed
        If the weights are not those that ``model.toml`` names.
    """
    here = files(__package__)
    about = tomllib.loads((here / "model.toml").read_text(encoding="utf-8"))
    raw = (here / about["weights"]).read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if found != about["sha256"]:
        raise PipelineFailed(REASONS("weights-not-named", file=about["weights"], found=found))
    weights = read_weights(raw)
    return Model(Network(weights), Sides(weights), about)


def canvas(small: Floats) -> Floats:
    """Place a picture whose longer side is `INNER` pixels on the canvas, standardised as in training; [2, SIDE, SIDE]."""
    rows, columns = small.shape
    top, left = (SIDE - rows) // 2, (SIDE - columns) // 2
    out = np.zeros((2, SIDE, SIDE), np.float32)
    out[0, top : top + rows, left : left + columns] = (small - small.mean()) / (small.std() + 1e-3)
    out[1, top : top + rows, left : left + columns] = 1
    return out


def put_upright(shown: Floats, lies: int) -> Floats:
    """Undo orientation number `lies`."""
    straight = np.rot90(shown, -(lies % 4))
    return straight[:, ::-1] if lies >= 4 else straight


def _as_shown(upright: Floats, lies: int) -> Floats:
    return np.ascontiguousarray(np.rot90(upright[:, ::-1] if lies >= 4 else upright, lies % 4))


def _of_shown(upright: tuple[float, ...] | None, lies: int) -> Margins | None:
    """Name margins (top, right, bottom, left; as one goes around) by the borders of the shown picture."""
    if upright is None:
        return None
    around = list(upright)
    if lies >= 4:
        around[1], around[3] = around[3], around[1]
    quarter = lies % 4  # counter-clockwise: what was right is top
    top, right, bottom, left = around[quarter:] + around[:quarter]
    return Margins(top, bottom, left, right)


def _alone(lungs: Floats) -> Floats:
    """Take away what is not joined to the largest part of its lung."""
    out = lungs.copy()
    for lung in out:
        parts, count = label(lung > 0.5)
        if count > 1:
            largest = 1 + int(np.bincount(parts.ravel())[1:].argmax())
            lung[(parts > 0) & (parts != largest)] = 0
    return out


def _margins(lungs: Floats, rows: int, columns: int) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Return distances (top, right, bottom, left) from the borders to the lungs' extent in shares of the longer side, and spreads."""
    either = lungs.max(axis=0)
    if (either > 0.5).sum() < 16:
        return None, None
    values, spreads = [], []
    for axis, size, backwards in ((0, rows, False), (1, columns, True), (0, rows, True), (1, columns, False)):
        strong = np.sort(either, axis=1 - axis)
        profile = (strong[:, -4:] if axis == 0 else strong[-4:].T).mean(axis=1)
        if backwards:
            profile = profile[::-1]
        border = (SIDE - size) // 2 if not backwards else SIDE - (SIDE - size) // 2 - size
        begin, early, late = (_crossing(profile, p) for p in (0.5, 0.25, 0.75))
        values.append((begin - border) / INNER)
        spreads.append(max((late - early) / 2, 1.0) / INNER)
    return tuple(values), tuple(spreads)


def _crossing(profile: Floats, level: float) -> float:
    """Return where a profile of cells first rises above a level, in pixels of the canvas from its edge."""
    above = np.flatnonzero(profile > level)
    if not len(above):
        return float(SIDE // 2)
    k = int(above[0])
    if k == 0:
        return 0.0
    part = (level - profile[k - 1]) / (profile[k] - profile[k - 1])
    return float((k - 1 + part) * 2 + 1)


def _resized_pair(lungs: Floats, rows: int, columns: int) -> Floats:
    """Return the part of the canvas that the picture takes, in its pixels."""
    top, left = (SIDE - rows) // 2, (SIDE - columns) // 2
    fine = np.stack([_resized(p, (SIDE, SIDE)) for p in lungs])
    return fine[:, top : top + rows, left : left + columns]


def shrunk(shown: NDArray[np.floating]) -> Floats:
    """Return the picture with its longer side in `INNER` pixels, each the mean of what it covers."""
    scale = INNER / max(shown.shape)
    shape = (max(round(shown.shape[0] * scale), 16), max(round(shown.shape[1] * scale), 16))
    return _resized(np.asarray(shown, np.float32), shape)


def _resized(picture: Floats, shape: tuple[int, ...]) -> Floats:
    rows, columns = shape
    how = Image.Resampling.BOX if rows < picture.shape[0] else Image.Resampling.BILINEAR
    return np.asarray(
        Image.fromarray(np.ascontiguousarray(picture, np.float32)).resize((columns, rows), how), np.float32
    )


def _softmax(logits: Floats) -> Floats:
    raised = np.exp(logits - logits.max())
    return np.asarray(raised / raised.sum(), np.float32)


def _sigmoids(logits: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -30, 30))), np.float32)


def _sigmoid(logit: float | np.floating) -> float:
    return float(1 / (1 + np.exp(-np.clip(logit, -30, 30))))
