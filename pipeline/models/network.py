"""From a model's file to something that computes; nothing is unpickled, and nothing is built that is not on the list.

MONAI networks come from the list in ``allowed.toml`` and get tensors alone. TorchScript is a program of its own language: it
computes in this process with its rights, so it is read for what it must not do, and only a person adds one. ONNX is a graph of
known operators.
"""

import io
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from pipeline.errors import PipelineFailed
from pipeline.models import bundle, onnx_file, torch_file
from pipeline.models.description import Network
from pipeline.models.errors import refused
from pipeline.models.limits import limits
from pipeline.models.shelf import Installed
from pipeline.reasons import REASONS

Outputs = dict[str, torch.Tensor]
_NESTED = ("state_dict", "model_state_dict", "model")
_PREFIX = "module."


class Runner(Protocol):
    """A network that is ready: input of shape (batch, channels, ...), outputs by name or number."""

    device: torch.device

    def __call__(self, batch: torch.Tensor) -> Outputs:
        """Compute."""
        ...

    def to(self, device: torch.device) -> "Runner":
        """Return the same on another device."""
        ...


class TorchRunner:
    """A torch module, evaluating."""

    def __init__(self, module: torch.nn.Module, device: torch.device, *, mixed: bool = False) -> None:
        self.device = device
        self.module = module.to(device).eval()
        self._mixed = mixed
        for parameter in self.module.parameters():
            parameter.requires_grad = False

    def __call__(self, batch: torch.Tensor) -> Outputs:
        """Compute, in half precision where that was asked for and the device has it."""
        half = mixed_type(self.device) if self._mixed else None
        if half is None:
            return named(self.module(batch))
        with torch.autocast(self.device.type, half):
            return {name: out.float() for name, out in named(self.module(batch)).items()}

    def to(self, device: torch.device) -> "TorchRunner":
        """Return the same on another device."""
        return TorchRunner(self.module, device, mixed=self._mixed)


class OnnxRunner:
    """An ONNX graph on the processor."""

    device = torch.device("cpu")

    def __init__(self, data: bytes, name: str) -> None:
        onnx_file.check(data, name)
        try:
            import onnxruntime  # noqa: PLC0415 - an extra of its own
        except ImportError as error:
            raise PipelineFailed(REASONS("model-library-missing", model=name, library="onnxruntime")) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors share no class but this one
            raise refused(name, f"is no ONNX model that can be run ({type(error).__name__})") from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise refused(name, f"has {len(inputs)} inputs; one image is given")
        self._input = inputs[0].name
        self._outputs = [out.name for out in self._session.get_outputs()]

    def __call__(self, batch: torch.Tensor) -> Outputs:
        """Compute on the processor."""
        try:
            found = self._session.run(None, {self._input: batch.cpu().numpy()})
        except Exception as error:  # its errors share no class but this one
            short = "allocat" in str(error)
            raise MemoryError if short else RuntimeError(type(error).__name__) from error
        out = {name: torch.from_numpy(array) for name, array in zip(self._outputs, found, strict=True)}
        return out | {str(n): out[name] for n, name in enumerate(self._outputs)}

    def to(self, device: torch.device) -> "OnnxRunner":
        """Return itself: there is only the processor."""
        del device
        return self


def load(installed: Installed, device: torch.device) -> Runner:
    """Return the network of an installed model; its file is compared with its digest first.

    Raises
    ------
    PipelineFailed
        ``model-changed``, ``model-refused`` or ``model-library-missing``.
    """
    model = installed.model
    data = installed.read(model.weights)
    mixed = model.device.precision == "mixed"
    if model.format == "onnx":
        return OnnxRunner(data, model.weights)
    if model.format == "torchscript":
        return TorchRunner(_script(data, model.weights), device, mixed=mixed)
    assert model.network is not None  # noqa: S101 - by the checks of the description
    return TorchRunner(_monai(model.network, data, model.weights), device, mixed=mixed)


def mixed_type(device: torch.device) -> torch.dtype | None:
    """Return the half precision that `device` computes faster in; None if it has none."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    fast = torch.backends.cpu.get_cpu_capability() == "AMX" or torch.cpu._is_amx_tile_supported()  # noqa: SLF001 - no public name says it
    return torch.bfloat16 if fast else None


def named(found: Any) -> Outputs:  # noqa: ANN401 - a network returns what it likes
    """Return the outputs of a network by name or number, whatever it wraps them in."""
    if isinstance(found, torch.Tensor):
        return {"0": found}
    if isinstance(found, Mapping):
        return {str(k): v for k, v in found.items() if isinstance(v, torch.Tensor)}
    if isinstance(found, (list, tuple)):
        if len(found) == 1 and isinstance(found[0], (list, tuple, Mapping)):
            return named(found[0])
        return {str(n): v for n, v in enumerate(found) if isinstance(v, torch.Tensor)}
    return {}


def build(network: Network) -> torch.nn.Module:
    """Return the MONAI network that a description names, with weights of its own.

    Raises
    ------
    ModelRefused
        If it is not on the list, is too large, or cannot be built so.
    """
    name = bundle.check_network(network.target, network.arguments)
    try:
        from monai.networks import nets  # noqa: PLC0415 - takes a second
    except ImportError as error:
        raise PipelineFailed(REASONS("model-library-missing", model=name, library="monai")) from error
    make = getattr(nets, name)
    try:
        with torch.device("meta"):  # counted before any of it takes memory
            size = sum(p.numel() for p in make(**network.arguments).parameters())
        if size > limits()["network"]["parameters"]:
            raise refused(f"network {name}", f"has {size} parameters")
        module: torch.nn.Module = make(**network.arguments)
    except (TypeError, ValueError, KeyError, RuntimeError, NotImplementedError, AttributeError, IndexError) as error:
        raise refused(f"network {name}", f"cannot be built with these arguments ({type(error).__name__})") from error
    return module


def _monai(network: Network, data: bytes, name: str) -> torch.nn.Module:
    module = build(network)
    weights = _tensors(data, name)
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise refused(name, "does not fit the network: names or shapes of its tensors differ") from error
    return module


def _tensors(data: bytes, name: str) -> dict[str, torch.Tensor]:
    if name.endswith(".safetensors"):
        from safetensors import SafetensorError  # noqa: PLC0415 - not all models need it
        from safetensors.torch import load as load_safetensors  # noqa: PLC0415

        try:
            return load_safetensors(data)
        except (SafetensorError, ValueError, KeyError) as error:
            raise refused(name, "is no safetensors file") from error
    looked_at = torch_file.archive(data, name) if torch_file.is_archive(data) else io.BytesIO(data)
    try:
        found = torch.load(looked_at, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler raises what the file makes it raise
        raise refused(name, "holds something other than tensors, or is no file of torch") from error
    for key in _NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise refused(name, "holds something other than tensors")
    return {str(k).removeprefix(_PREFIX): v for k, v in found.items()}


def _script(data: bytes, name: str) -> torch.nn.Module:
    """Load TorchScript whose code was read for what touches files or calls operators of other libraries."""
    if not torch_file.is_archive(data):
        raise refused(name, "is no TorchScript file")
    looked_at = torch_file.archive(data, name)
    try:
        module: torch.nn.Module = torch.jit.load(looked_at, map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:
        raise refused(name, f"is no TorchScript that can be loaded ({type(error).__name__})") from error
    return module
