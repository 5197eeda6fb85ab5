"""The lesion network: patches, loss, and the threshold that is best on the check side."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from pipeline.chest_ct.recipe.contract import lesion_input, lesion_network
from pipeline.chest_ct.recipe.prepare import Prepared
from pipeline.chest_ct.recipe.train import Plan, fit, generator
from pipeline.models.description import Input, Model
from pipeline.models.network import TorchRunner, build
from pipeline.models.prepare import normalise
from pipeline.models.window import maps

_CHECK_STEP = 1 << 40
"""Number of the step whose chance draws the patches of the check side: no training comes so far."""
_MOST_VOXELS = 20_000
Pair = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


class Patches:
    """Draws patches from series whose lesions are known.

    Parameters
    ----------
    several : Sequence[Prepared]
        Of one side.
    settings : Mapping
        ``recipe.toml``.
    """

    def __init__(self, several: Sequence[Prepared], settings: Mapping[str, Any]) -> None:
        self._several = [p for p in several if p.lesion is not None]
        self._p: Mapping[str, Any] = settings["lesion"]
        self._outside = settings["input"]["outside"]
        self._lesion = [_some(p.lesion) for p in self._several]
        self._lung = [_some(p.lung) for p in self._several]
        self._marked = [n for n, voxels in enumerate(self._lesion) if len(voxels)]

    @property
    def marked(self) -> int:
        """Series with a lesion."""
        return len(self._marked)

    def draw(self, rng: np.random.Generator, *, change: bool) -> Pair:
        """Return one patch in Hounsfield units and what is lesion in it, changed as other patients and scanners would."""
        kind = rng.random()
        if kind < self._p["share_lesion"] and self._marked:
            n = self._marked[int(rng.integers(len(self._marked)))]
            centre = self._lesion[n][int(rng.integers(len(self._lesion[n])))]
        else:
            n = int(rng.integers(len(self._several)))
            shape = self._several[n].image.shape
            lung = self._lung[n] if kind < self._p["share_lesion"] + self._p["share_lung"] else ()
            centre = lung[int(rng.integers(len(lung)))] if len(lung) else [int(rng.integers(s)) for s in shape]
        one = self._several[n]
        size = self._p["patch"]
        corner = [
            int(np.clip(c - s // 2 + rng.integers(-s // 4, s // 4 + 1), 0, max(0, length - s)))
            for c, s, length in zip(centre, size, one.image.shape, strict=True)
        ]
        assert one.lesion is not None  # noqa: S101 - by the constructor
        image = _cut(one.image, corner, size, self._outside)
        truth = _cut(one.lesion, corner, size, 0.0)
        if change:
            image = image + np.float32(rng.uniform(-1, 1) * self._p["shift_hu"])
            image = image + rng.standard_normal(image.shape, np.float32) * np.float32(
                rng.uniform(0, self._p["noise_hu"])
            )
            if rng.random() < 0.5:  # a lesion looks alike on both sides
                image, truth = image[..., ::-1], truth[..., ::-1]
        return image, truth

    def batch(
        self, rng: np.random.Generator, count: int, said: Input, *, change: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `count` patches, normalised, and their truth; both (count, 1, z, y, x)."""
        pairs = [self.draw(rng, change=change) for _ in range(count)]
        images = torch.stack([normalise(torch.from_numpy(np.ascontiguousarray(i)), said)[0] for i, _ in pairs])
        return images, torch.from_numpy(np.stack([t for _, t in pairs]))[:, None]


def _some(mask: npt.NDArray[np.uint8] | None) -> npt.NDArray[np.int64]:
    """Return voxels of a mask, evenly taken from all where there are many."""
    if mask is None:
        return np.zeros((0, 3), np.int64)
    where = np.flatnonzero(mask)
    where = where[:: max(1, len(where) // _MOST_VOXELS)]
    return np.stack(np.unravel_index(where, mask.shape), axis=-1)


def _cut(
    array: npt.NDArray[Any], corner: Sequence[int], size: Sequence[int], outside: float
) -> npt.NDArray[np.float32]:
    part = np.asarray(array[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))], np.float32)
    lacking = [(0, s - n) for s, n in zip(size, part.shape, strict=True)]
    return np.pad(part, lacking, constant_values=outside) if any(n for _, n in lacking) else part


def loss_of(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return cross-entropy plus 1 - Dice of a batch as a whole: patches without lesion count in it by what is marked there."""
    logits = logits.float()
    found = torch.sigmoid(logits)
    overlap = (2 * (found * truth).sum() + 1) / (found.sum() + truth.sum() + 1)
    return functional.binary_cross_entropy_with_logits(logits, truth) + 1 - overlap


def train(
    learn: Sequence[Prepared],
    check: Sequence[Prepared],
    settings: Mapping[str, Any],
    plan: Plan,
    say: Callable[[str], None],
) -> torch.nn.Module:
    """Train the lesion network.

    Parameters
    ----------
    learn, check : Sequence[Prepared]
        Of the two sides; at least one series of each must hold a lesion.
    settings, plan, say
        See `pipeline.chest_ct.recipe.train.fit`.
    """
    p, said = settings["lesion"], lesion_input(settings)
    patches = Patches(learn, settings)
    fixed = Patches(check, settings).batch(generator(plan.seed, _CHECK_STEP), p["check_patches"], said, change=False)

    def loss(net: torch.nn.Module, step: int) -> torch.Tensor:
        images, truth = patches.batch(generator(plan.seed, step), p["batch"], said, change=True)
        return loss_of(net(images.to(plan.device)), truth.to(plan.device))

    def looked(net: torch.nn.Module) -> float:
        parts = []
        for first in range(0, len(fixed[0]), p["batch"]):
            images, truth = (part[first : first + p["batch"]].to(plan.device) for part in fixed)
            parts.append(loss_of(net(images), truth))
        return float(torch.stack(parts).mean())

    return fit(lambda: build(lesion_network(settings)), loss, looked, plan, say)


def threshold(
    net: torch.nn.Module, model: Model, check: Sequence[Prepared], settings: Mapping[str, Any], device: torch.device
) -> float:
    """Return the threshold with the best mean Dice on series of the check side that hold a lesion."""
    p, said = settings["lesion"], lesion_input(settings)
    runner = TorchRunner(net, device)
    sums = np.zeros(len(p["thresholds"]))
    for one in [c for c in check if c.lesion is not None and c.lesion.any()][: p["check_patients"]]:
        image, edge = normalise(torch.from_numpy(np.asarray(one.image, np.float32)).to(device), said)
        with torch.inference_mode():
            found = torch.sigmoid(maps(model, runner, image, edge)[0][0]).cpu().numpy()
        truth = np.asarray(one.lesion, np.bool_)
        for n, limit in enumerate(p["thresholds"]):
            mine = found >= limit
            sums[n] += 2 * (mine & truth).sum() / max(1, mine.sum() + truth.sum())
    return float(p["thresholds"][int(sums.argmax())])
