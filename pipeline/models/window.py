"""Windows that slide over the input, blended with a Gaussian; smaller ones, and then the processor, where memory is short.

References
----------
Isensee F et al. Nat Methods 2021;18:203 (half overlap and Gaussian importance against borders of windows).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

import torch
from torch.nn import functional

from pipeline.errors import PipelineError, PipelineFailed
from pipeline.models.description import Model
from pipeline.models.network import Outputs, Runner
from pipeline.reasons import REASONS

T = TypeVar("T")

_SIGMA = 0.125
"""Of the Gaussian, as a share of the window."""
_LEAST = 1e-3
"""On no axis does a sample of a window count less than this share of its middle."""
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to compute: where, in which windows, and how many at a time.

    Parameters
    ----------
    device, gather : torch.device
        Where the network runs, and where its outputs are put together.
    tile : tuple[int, ...]
        Size of a window.
    batch : int
        Windows at a time.
    """

    device: torch.device
    gather: torch.device
    tile: tuple[int, ...]
    batch: int


def plans(model: Model, shape: Sequence[int], device: torch.device) -> Iterator[Plan]:
    """Yield what is tried, one after the other, until memory suffices: the same numbers in less and less of it."""
    said = model.input
    tile = said.tile or tuple(-(-n // said.multiple) * said.multiple for n in shape)
    yield Plan(device, device, tile, model.device.batch)
    if model.device.batch > 1:
        yield Plan(device, device, tile, 1)
    if device.type != "cpu":
        yield Plan(device, _CPU, tile, 1)
    smaller = tile
    while (halved := _halved(smaller, said.smallest, said.multiple)) is not None:
        smaller = halved
        yield Plan(device, _CPU, smaller, 1)
    if device.type != "cpu":
        yield Plan(_CPU, _CPU, tile, 1)


def _halved(tile: tuple[int, ...], smallest: tuple[int, ...], multiple: int) -> tuple[int, ...] | None:
    """Return a window with its longest side halved; None if it is as small as it may be."""
    if not smallest:
        return None
    for k in sorted(range(len(tile)), key=lambda k: -tile[k]):
        half = max(smallest[k], -(-(tile[k] // 2) // multiple) * multiple)
        if half < tile[k]:
            return (*tile[:k], half, *tile[k + 1 :])
    return None


def maps(
    model: Model,
    runner: Runner,
    image: torch.Tensor,
    outside: float,
    told: Callable[[float], None] = lambda _share: None,
) -> tuple[torch.Tensor, Plan]:
    """Return the network's output over the whole input, before any activation.

    Parameters
    ----------
    model : Model
        Sizes, overlap, channels.
    runner : Runner
        The network.
    image : Tensor, shape (channels, ...)
        Normalised input.
    outside : float
        What windows that reach beyond the input see there.
    told : callable
        Called with the share done.

    Returns
    -------
    Tensor, shape (output channels, ...)
        On the device that had the memory for it.
    Plan
        How it was computed.

    Raises
    ------
    PipelineFailed
        ``model-output-unexpected``, or ``device-out-of-memory`` if no way had enough.
    """
    return _first_that_fits(model, runner, image, lambda now, plan: _blended(model, now, image, outside, plan, told))


def whole(model: Model, runner: Runner, image: torch.Tensor, outside: float) -> tuple[Outputs, Plan]:
    """Return every output of the network for the whole input at once, padded at its end to what the network takes."""

    def run(now: Runner, plan: Plan) -> Outputs:
        padded = _padded(image, plan.tile, outside).to(plan.device)
        return {name: out.float().cpu() for name, out in now(padded[None]).items()}

    return _first_that_fits(model, runner, image, run)


def _first_that_fits(
    model: Model, runner: Runner, image: torch.Tensor, run: Callable[[Runner, Plan], T]
) -> tuple[T, Plan]:
    shape = tuple(image.shape[1:])
    for plan in plans(model, shape, runner.device):
        try:
            return run(runner if plan.device == runner.device else runner.to(plan.device), plan), plan
        except (torch.OutOfMemoryError, MemoryError):
            pass
        except PipelineError:
            raise
        except Exception as error:  # a network of the site raises what it likes
            if "not enough memory" not in str(error):
                what = type(error.__cause__ or error).__name__
                raise PipelineFailed(REASONS("model-failed", model=model.name, error=what)) from error
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    raise PipelineFailed(REASONS("device-out-of-memory"), retryable=True)


def _blended(
    model: Model, runner: Runner, image: torch.Tensor, outside: float, plan: Plan, told: Callable[[float], None]
) -> torch.Tensor:
    shape = tuple(image.shape[1:])
    padded = _padded(image, plan.tile, outside)
    total = torch.zeros((model.output.channels, *padded.shape[1:]), device=plan.gather)
    sides = list(zip(padded.shape[1:], plan.tile, strict=True))
    starts = [_starts(n, t, model.input.overlap) for n, t in sides]
    places = list(product(*starts))
    lines = [_line(t) if len(places) > 1 else torch.ones(t) for t in plan.tile]
    importance = _outer(lines).to(plan.gather)
    for first in range(0, len(places), plan.batch):
        some = [
            tuple(slice(a, a + t) for a, t in zip(at, plan.tile, strict=True))
            for at in places[first : first + plan.batch]
        ]
        batch = torch.stack([padded[(slice(None), *box)] for box in some]).to(plan.device)
        found = _map_of(model, runner(batch), batch).to(plan.gather, torch.float32)
        for box, out in zip(some, found, strict=True):
            total[(slice(None), *box)] += out * importance
        told((first + len(some)) / len(places))
    inside = tuple(slice(0, n) for n in shape)
    for k, (line, begins, (n, t)) in enumerate(zip(lines, starts, sides, strict=True)):
        weight = torch.zeros(n)  # windows stand in a grid: what they add up to is a product of the axes too
        for begin in begins:
            weight[begin : begin + t] += line
        total /= weight.to(plan.gather).reshape([-1 if axis == k + 1 else 1 for axis in range(total.dim())])
    return total[(slice(None), *inside)]


def _map_of(model: Model, outputs: Outputs, batch: torch.Tensor) -> torch.Tensor:
    """Return the first output, if it is a map of the windows with the channels that were promised."""
    wanted = (batch.shape[0], model.output.channels, *batch.shape[2:])
    found = next(iter(outputs.values()), None)
    if found is None or tuple(found.shape) != wanted:
        given = "nothing" if found is None else str(tuple(found.shape))
        raise PipelineFailed(REASONS("model-output-unexpected", model=model.name, given=given, promised=wanted))
    return found


def _padded(image: torch.Tensor, tile: Sequence[int], outside: float) -> torch.Tensor:
    """Return the input with enough beyond its end for one window."""
    lacking = [max(0, t - n) for n, t in zip(image.shape[1:], tile, strict=True)]
    if not any(lacking):
        return image
    return functional.pad(image, [v for n in reversed(lacking) for v in (0, n)], value=outside)


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    """Return where windows begin: evenly, the last one at the end."""
    step = max(1, int(tile * (1 - overlap)))
    count = -(-(length - tile) // step) + 1
    return [round(k * (length - tile) / max(1, count - 1)) for k in range(count)]


def _line(count: int) -> torch.Tensor:
    """Return how much the samples of a window count along one axis."""
    at = torch.arange(count, dtype=torch.float32) - (count - 1) / 2
    line = torch.exp(-0.5 * (at / (_SIGMA * count)) ** 2)
    return torch.clamp(line / line.max(), min=_LEAST)  # of each axis: corners count least of all


def _outer(lines: Sequence[torch.Tensor]) -> torch.Tensor:
    out = torch.ones(())
    for line in lines:
        out = out[..., None] * line
    return out
