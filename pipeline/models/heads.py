"""From what a network gives to masks and probabilities on the image's own grid."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from pipeline.errors import PipelineFailed
from pipeline.models.description import Calibration, Label, Model
from pipeline.models.grid import Grid
from pipeline.models.network import Outputs
from pipeline.reasons import REASONS
from pipeline.result import Mask

Shape = tuple[int, int, int]
_ALL = np.ones((3, 3, 3), bool)
_FAINT = 1e-3
"""Below this a probability is nothing where the highest counts."""


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """One thing that a model shows.

    Parameters
    ----------
    label : Label
        What it is.
    mask : Mask or None
        Where; None for the whole image.
    score : float
        The highest probability, or score, in it; 0 to 1.
    """

    label: Label
    mask: Mask | None
    score: float


def probabilities(model: Model, given: torch.Tensor) -> torch.Tensor:
    """Turn what the network gives into probabilities, channels first, in its place; calibrated where the description says how."""
    said, kind = model.calibration, model.output.activation
    if said.method == "temperature":
        given /= said.temperature
    if said.method == "platt":
        return given.mul_(said.slope).add_(said.offset).sigmoid_()
    if kind == "sigmoid":
        return given.sigmoid_()
    if kind == "softmax":
        for part in given.unbind(dim=1) if given.dim() > 1 else (given,):  # a second copy of one plane alone
            part.copy_(torch.softmax(part, dim=0))
    return given


def calibrated(said: Calibration) -> bool:
    """Whether what a model gives may be called a probability."""
    return said.method != "none"


def threshold(model: Model, label: Label) -> float:
    """Return the operating point of a label."""
    return model.output.threshold if label.threshold is None else label.threshold


def areas(model: Model, given: torch.Tensor, grid: Grid, shape: Shape, voxel: float) -> tuple[Shown, ...]:
    """Return what a map shows: one thing a label, or one for each connected part of a finding.

    Parameters
    ----------
    given : Tensor, shape (channels, ...)
        The network's output on `grid`.
    shape : tuple[int, int, int]
        Of the image.
    voxel : float
        What one sample of the image counts towards `Label.least`: cm3, or 1 on a radiograph.
    """
    field = probabilities(model, given)
    if model.output.activation == "none":  # logits that are taken for probabilities show too much or too little
        for end in field.aminmax():
            _share(model, float(end))
    chosen = (
        _highest(model, field, grid, shape) if model.output.choose == "argmax" else _above(model, field, grid, shape)
    )
    shown: list[Shown] = []
    for label, mask, likely in chosen:
        if not label.finding and not label.least:  # nothing asks for its parts
            shown.append(Shown(label, mask, min(1.0, float(likely[mask.box != 0].max()))))
            continue
        parts = list(_parts(mask, likely, label.least / voxel if voxel else 0.0))
        if label.finding:
            shown += [Shown(label, part, score) for part, score in parts]
        elif parts:
            together = _together(mask.shape, [part for part, _ in parts])
            shown.append(Shown(label, together, max(score for _, score in parts)))
    return _most(model, shown)


def classes(model: Model, outputs: Outputs) -> tuple[Shown, ...]:
    """Return the score of every label for the whole image."""
    given = next(iter(outputs.values()), torch.zeros(0)).flatten()
    if given.numel() != model.output.channels or not bool(torch.isfinite(given).all()):
        raise _unexpected(model, given, (1, model.output.channels))
    found = probabilities(model, given)
    return tuple(Shown(label, None, _share(model, float(found[label.index]))) for label in model.label)


def boxes(model: Model, outputs: Outputs, grid: Grid, shape: Shape) -> tuple[Shown, ...]:
    """Return boxes as masks: what lies between their corners on the network's grid."""
    axes = model.input.axes
    corners, scores, kinds = (outputs.get(name) if name else None for name in model.output.boxes)
    if corners is None or scores is None or corners.numel() % (2 * axes):
        raise _unexpected(model, torch.zeros(0) if corners is None else corners, ("n", 2 * axes))
    corners, scores = corners.reshape(-1, 2 * axes).float().cpu(), scores.flatten().float().cpu()
    labels = torch.full(scores.shape, model.label[0].index) if kinds is None else kinds.flatten().long().cpu()
    finite = bool(torch.isfinite(corners).all() and torch.isfinite(scores).all())
    if not len(corners) == len(scores) == len(labels) or not finite:
        raise _unexpected(model, corners, (len(scores), 2 * axes))
    shown: list[Shown] = []
    for label in model.label:
        mine = torch.nonzero((labels == label.index) & (scores >= threshold(model, label))).flatten().tolist()
        for n in _apart(corners, scores, mine, model.output.overlap):
            low, high = corners[n, :axes].tolist(), corners[n, axes:].tolist()
            mask = _box(grid, [0.0] * (3 - axes) + low, [1.0] * (3 - axes) + high, shape)
            if mask.voxels:
                shown.append(Shown(label, mask, _share(model, float(scores[n]))))
    return _most(model, shown)


def _highest(
    model: Model, field: torch.Tensor, grid: Grid, shape: Shape
) -> Iterator[tuple[Label, Mask, npt.NDArray[np.float32]]]:
    """Yield what each label has where no other channel is higher, compared on the image's own samples.

    Only there where some label is more than faint: beside it others have nothing to win.
    """
    found = [box for label in model.label if (box := grid.around(field[label.index], _FAINT)) is not None]
    if not found:
        return
    x, y, z = (slice(min(box[k].start for box in found), max(box[k].stop for box in found)) for k in range(3))
    within = (x, y, z)
    best = winner = None
    for channel in range(field.shape[0]):
        values, where = grid.give(field[channel][within], within)
        here = values.cpu().numpy()
        if best is None or winner is None:
            best = np.full(here.shape, _FAINT, np.float32)
            winner = np.full(here.shape, -1, np.int16)
        higher = here > best
        np.copyto(best, here, where=higher)
        np.copyto(winner, channel, where=higher)
    assert best is not None  # noqa: S101 - there is a channel
    assert winner is not None  # noqa: S101 - as above
    for label in model.label:
        small = Mask.of(winner == label.index)
        if small.voxels:
            offset = [w.start + o for w, o in zip(where, small.offset, strict=True)]
            yield label, Mask(shape, (offset[0], offset[1], offset[2]), small.box), best[small.slices]


def _above(
    model: Model, field: torch.Tensor, grid: Grid, shape: Shape
) -> Iterator[tuple[Label, Mask, npt.NDArray[np.float32]]]:
    """Yield what each label has at its threshold or above."""
    for label in model.label:
        least = threshold(model, label)
        box = grid.around(field[label.index], max(least, _FAINT))
        if box is None:
            continue
        values, where = grid.give(field[label.index][box], box)
        here = values.cpu().numpy()
        small = Mask.of(here >= max(least, _FAINT))
        if small.voxels:
            offset = [w.start + o for w, o in zip(where, small.offset, strict=True)]
            yield label, Mask(shape, (offset[0], offset[1], offset[2]), small.box), here[small.slices]


def _parts(mask: Mask, likely: npt.NDArray[np.float32], least: float) -> Iterator[tuple[Mask, float]]:
    """Yield the connected parts that are not too small, the largest first, each with its highest probability."""
    numbered, count = ndimage.label(mask.box, _ALL)
    sizes = np.bincount(numbered.ravel(), minlength=count + 1)
    places = ndimage.find_objects(numbered)
    for n in sorted(range(1, count + 1), key=lambda n: (-int(sizes[n]), n)):
        if sizes[n] < max(least, 1):
            return
        place = places[n - 1]
        inside = numbered[place] == n
        offset = [o + p.start for o, p in zip(mask.offset, place, strict=True)]
        part = Mask(mask.shape, (offset[0], offset[1], offset[2]), inside.astype(np.uint8))
        yield part, min(1.0, float(likely[place][inside].max()))


def _together(shape: Shape, parts: Sequence[Mask]) -> Mask:
    out = np.zeros(shape, np.uint8)
    for part in parts:
        part.paint(out)
    return Mask.of(out)


def _box(grid: Grid, low: Sequence[float], high: Sequence[float], shape: Shape) -> Mask:
    """Return the samples of the image whose centres lie in a box of the grid."""
    spans: dict[int, tuple[int, int]] = {}
    for axis, a, b in zip(grid.axes, low, high, strict=True):
        # sample k of the network covers [k, k + 1) of a box; millimetres from the image's beginning, in the network's direction
        ends = [(axis.offset + max(0.0, end) * axis.spacing) / axis.step for end in (a, b)]
        first, last = round(ends[0]), max(round(ends[1]), round(ends[0]) + 1)
        first, last = max(0, first), min(axis.count, last)
        spans[axis.source] = (axis.count - last, axis.count - first) if axis.flip else (first, last)
    offset = (spans[0][0], spans[1][0], spans[2][0])
    size = [max(0, spans[k][1] - spans[k][0]) for k in range(3)]
    return Mask(shape, offset, np.ones(size if all(size) else (0, 0, 0), np.uint8))


def _apart(corners: torch.Tensor, scores: torch.Tensor, of: Sequence[int], overlap: float) -> list[int]:
    """Return those boxes that share no more than `overlap` with a better one that stays."""
    kept: list[int] = []
    for n in sorted(of, key=lambda n: (-float(scores[n]), n)):
        if all(_shared(corners[n], corners[k]) <= overlap for k in kept):
            kept.append(n)
    return kept


def _shared(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the intersection of two boxes over their union."""
    half = a.numel() // 2
    sides = (torch.minimum(a[half:], b[half:]) - torch.maximum(a[:half], b[:half])).clamp(min=0)
    both = float(sides.prod())
    union = float((a[half:] - a[:half]).clamp(min=0).prod() + (b[half:] - b[:half]).clamp(min=0).prod()) - both
    return both / union if union > 0 else 0.0


def _most(model: Model, shown: Sequence[Shown]) -> tuple[Shown, ...]:
    """Return the parts of the body, and no more findings than are told: the likeliest."""
    findings = sorted((s for s in shown if s.label.finding), key=lambda s: -s.score)[: model.output.most]
    kept = {id(s) for s in findings}
    return tuple(s for s in shown if not s.label.finding or id(s) in kept)


def _share(model: Model, value: float) -> float:
    """Return a probability, or a score that a person may read as a share."""
    if not -_FAINT <= value <= 1 + _FAINT:
        raise PipelineFailed(
            REASONS("model-output-unexpected", model=model.name, given=f"{value:.4g}", promised="0 to 1")
        )
    return min(1.0, max(0.0, value))


def _unexpected(model: Model, given: torch.Tensor, promised: object) -> PipelineFailed:
    return PipelineFailed(
        REASONS("model-output-unexpected", model=model.name, given=tuple(given.shape), promised=promised)
    )


def told_most(model: Model, shown: Sequence[Shown]) -> bool:
    """Whether there may be more findings than are told."""
    return sum(s.label.finding for s in shown) >= model.output.most


def scores(shown: Sequence[Shown]) -> Mapping[str, float]:
    """Return the score of every label of a classification."""
    return {s.label.name: s.score for s in shown}
