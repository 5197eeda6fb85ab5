"""The classifier: batches with all classes alike, temperature and thresholds from the check side."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from pipeline.chest_ct.recipe.contract import classes_input, classes_network
from pipeline.chest_ct.recipe.prepare import Prepared
from pipeline.chest_ct.recipe.train import Plan, fit, generator
from pipeline.models.description import Input
from pipeline.models.network import build
from pipeline.models.prepare import normalise

Floats = npt.NDArray[np.float64]
_TEMPERATURES = np.exp(np.linspace(np.log(0.25), np.log(10.0), 149))


def names(settings: Mapping[str, Any]) -> list[str]:
    """Return the classes in the order of the network's outputs."""
    return [str(c["name"]) for c in settings["classes"]["class"]]


def known(several: Sequence[Prepared]) -> list[Prepared]:
    """Return those with a class."""
    return [p for p in several if p.case.klass]


def _input(one: Prepared, said: Input, rng: np.random.Generator | None, p: Mapping[str, Any]) -> torch.Tensor:
    """Return a series as the network takes it, changed a little if there is a source of chance."""
    image = np.asarray(one.whole, np.float32)
    if rng is not None:
        image = image + np.float32(rng.uniform(-1, 1) * p["shift_hu"])
        image = image + rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0, p["noise_hu"]))
        image = _moved(image, rng.integers(-p["move"], p["move"] + 1, 3))
        if rng.random() < 0.5:
            image = image[..., ::-1]
    return normalise(torch.from_numpy(np.ascontiguousarray(image)), said)[0]


def _moved(image: npt.NDArray[np.float32], by: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Move an image by whole voxels; what comes in at an end is its outermost plane."""
    most = int(np.abs(by).max())
    padded = np.pad(image, most, mode="edge")
    return padded[tuple(slice(most - b, most - b + n) for b, n in zip(by, image.shape, strict=True))]


def train(
    learn: Sequence[Prepared],
    check: Sequence[Prepared],
    settings: Mapping[str, Any],
    plan: Plan,
    say: Callable[[str], None],
) -> torch.nn.Module:
    """Train the classifier; see `pipeline.chest_ct.recipe.train.fit`."""
    p, said, order = settings["classes"], classes_input(settings), names(settings)
    mine = known(learn)
    by_class = [[o for o in mine if o.case.klass == name] for name in order]

    def loss(net: torch.nn.Module, step: int) -> torch.Tensor:
        rng = generator(plan.seed, step)
        kinds = rng.permutation(np.arange(p["batch"]) % len(order))
        drawn = [by_class[k][int(rng.integers(len(by_class[k])))] for k in kinds]
        images = torch.stack([_input(o, said, rng, p) for o in drawn]).to(plan.device)
        return functional.cross_entropy(net(images).float(), torch.from_numpy(kinds).to(plan.device))

    def looked(net: torch.nn.Module) -> float:
        return nll(logits(net, check, settings, plan.device), truth(check, settings), 1.0)

    return fit(lambda: build(classes_network(settings)), loss, looked, plan, say)


def logits(
    net: torch.nn.Module, several: Sequence[Prepared], settings: Mapping[str, Any], device: torch.device
) -> Floats:
    """Return what the network gives for every series that has a class, shape (series, classes)."""
    said = classes_input(settings)
    out = np.zeros((0, len(names(settings))))
    with torch.inference_mode():
        for one in known(several):
            row = net(_input(one, said, None, settings["classes"])[None].to(device)).float().cpu().numpy()
            out = np.concatenate([out, row.astype(np.float64)])
    return out


def truth(several: Sequence[Prepared], settings: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    """Return the class of every series that has one, as a number."""
    order = names(settings)
    return np.array([order.index(p.case.klass) for p in known(several)], np.int64)


def softmax(given: Floats, temperature: float = 1.0) -> Floats:
    """Return probabilities, shape as given."""
    scaled = given / temperature
    scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    out: Floats = scaled / scaled.sum(axis=1, keepdims=True)
    return out


def nll(given: Floats, kinds: npt.NDArray[np.int64], temperature: float) -> float:
    """Return the mean negative log-likelihood."""
    return float(-np.log(np.maximum(softmax(given, temperature)[np.arange(len(kinds)), kinds], 1e-12)).mean())


def temperature(given: Floats, kinds: npt.NDArray[np.int64]) -> float:
    """Return the temperature with the least negative log-likelihood, between 0.25 and 10 (Guo et al., ICML 2017)."""
    return float(min(_TEMPERATURES, key=lambda t: nll(given, kinds, float(t))))


def operating_points(found: Floats, kinds: npt.NDArray[np.int64]) -> list[float]:
    """Return for every class the threshold with the highest sum of sensitivity and specificity, half-way between two series."""
    return [round(_best_cut(found[:, k], kinds == k), 4) for k in range(found.shape[1])]


def _best_cut(values: Floats, mine: npt.NDArray[np.bool_]) -> float:
    steps = np.unique(values)
    if mine.all() or not mine.any() or len(steps) < 2:
        return 0.5
    cuts = (steps[1:] + steps[:-1]) / 2
    worth = [float((values[mine] >= c).mean() + (values[~mine] < c).mean()) for c in cuts]
    best = np.flatnonzero(np.isclose(worth, max(worth)))
    return float(cuts[best[np.abs(cuts[best] - 0.5).argmin()]])
