"""One window of a model, timed in every way that this machine offers, each compared with the model as it is."""

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.device import pick
from pipeline.errors import PipelineError
from pipeline.models import network
from pipeline.models.description import Input
from pipeline.models.network import OnnxRunner, Outputs, Runner, TorchRunner
from pipeline.models.shelf import Installed

_VOLUME, _IMAGE = (96, 96, 96), (512, 512)
"""Sizes where the description has none."""
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """One way to compute.

    Parameters
    ----------
    way : str
        ``eager``, ``mixed``, ``compiled`` or ``onnx``.
    seconds : float or None
        Median; None if it cannot be tried here.
    first_s : float or None
        The first run, with everything that is made once (compiling, planning).
    peak_mib : float or None
        Most memory of the device that was in use; None on the processor.
    differs : float or None
        Largest difference of an output from ``eager``, as a share of the largest output.
    reason : str
        Why it cannot be tried here.
    """

    way: str
    seconds: float | None = None
    first_s: float | None = None
    peak_mib: float | None = None
    differs: float | None = None
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the row for a document."""
        return asdict(self)


def measure(installed: Installed, device: str, rounds: int) -> tuple[tuple[Row, ...], tuple[int, ...], str]:
    """Time a model.

    Returns
    -------
    tuple[Row, ...]
        One for each way.
    tuple[int, ...]
        Shape of the input: batch, channels, and the network's own axes.
    str
        The device.

    Raises
    ------
    PipelineError
        If the model cannot be loaded.
    """
    model = installed.model
    shape = (model.device.batch, model.input.channels, *_size(model.input))
    place = pick(device)
    plain = network.load(installed, place)
    batch = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    rows: list[Row] = []
    with torch.inference_mode():
        if isinstance(plain, OnnxRunner):
            return (_timed("onnx", plain, batch, rounds, None)[0],), shape, "cpu"
        assert isinstance(plain, TorchRunner)  # noqa: S101 - there are two kinds
        eager = TorchRunner(plain.module, place)
        row, wanted = _timed("eager", eager, batch, rounds, None)
        rows.append(row)
        ways: dict[str, Callable[[], Runner]] = {
            "mixed": lambda: _mixed(eager), "compiled": lambda: _compiled(installed, eager),
            "onnx": lambda: _exported(eager, batch),
        }  # fmt: skip
        for way, make in ways.items():
            try:
                rows.append(_timed(way, make(), batch, rounds, wanted)[0])
            except _NotHere as why:
                rows.append(Row(way, reason=str(why)))
            except PipelineError as error:
                rows.append(Row(way, reason=error.reason.text["en"]))
            except Exception as error:  # noqa: BLE001 - compilers and exporters raise anything; a row says so
                rows.append(Row(way, reason=f"cannot be done with this network ({type(error).__name__})"))
    return tuple(rows), shape, str(place)


class _NotHere(Exception):  # noqa: N818 - no error: this machine has no such way
    """A way that there is not on this machine."""


def _size(said: Input) -> tuple[int, ...]:
    if said.tile or said.size:
        return said.tile or said.size
    usual = _VOLUME if said.kind == "volume" else _IMAGE
    return tuple(-(-n // said.multiple) * said.multiple for n in usual)


def _mixed(eager: TorchRunner) -> Runner:
    if network.mixed_type(eager.device) is None:
        raise _NotHere("this processor computes no faster in half precision")
    return TorchRunner(eager.module, eager.device, mixed=True)


def _compiled(installed: Installed, eager: TorchRunner) -> Runner:
    if installed.model.format == "torchscript":
        raise _NotHere("TorchScript is compiled already")
    compiled: Any = torch.compile(eager.module, dynamic=False)
    return TorchRunner(compiled, eager.device)


def _exported(eager: TorchRunner, batch: torch.Tensor) -> Runner:
    """Return the same network as ONNX on the processor."""
    module = eager.module.cpu()
    try:
        with tempfile.TemporaryDirectory() as folder, _quiet():
            file = Path(folder) / "model.onnx"
            torch.onnx.export(module, (batch,), file, dynamo=False, input_names=["input"], output_names=["output"])
            data = file.read_bytes()
    except torch.onnx.errors.OnnxExporterError as error:
        if "not installed" in str(error):
            raise _NotHere("needs the library onnx: pip install 'pacs-ai-node[onnx]'") from error
        raise
    finally:
        module.to(eager.device)
    return OnnxRunner(data, "exported")


def _timed(way: str, runner: Runner, batch: torch.Tensor, rounds: int, wanted: Outputs | None) -> tuple[Row, Outputs]:
    device = runner.device
    batch = batch.to(device)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    with _quiet():
        first, found = _once(runner, batch)
        _once(runner, batch)  # TorchScript looks at two runs before it is as fast as it gets
        times = [_once(runner, batch)[0] for _ in range(rounds)]
    peak = torch.cuda.max_memory_allocated(device) / _MIB if cuda else None
    differs = None if wanted is None else _differs(found, wanted)
    return Row(way, statistics.median(times), first, peak, differs), found


def _once(runner: Runner, batch: torch.Tensor) -> tuple[float, Outputs]:
    begin = time.perf_counter()
    found = runner(batch)
    if runner.device.type == "cuda":
        torch.cuda.synchronize(runner.device)
    return time.perf_counter() - begin, found


def _differs(found: Outputs, wanted: Outputs) -> float:
    one, other = (next(iter(outputs.values())).float().cpu() for outputs in (found, wanted))
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-9))


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what compilers warn of themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
