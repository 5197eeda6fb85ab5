"""Small models whose output is known: they mark what is brighter than a threshold. Weights are set by hand, no training."""

import io
import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.models import toml

THRESHOLD = -300.0
"""HU above which the models mark: what is neither air nor lung."""
LOW, HIGH = -1000.0, 1000.0
AT = (THRESHOLD - LOW) / (HIGH - LOW)
STEEP = 400.0
TEXT = {"en": "Tissue", "zh-CN": "组织"}
CARD = {
    "title": {"en": "Tissue by threshold", "zh-CN": "阈值组织分割"},
    "intended_use": {"en": "Tests of the runtime.", "zh-CN": "用于测试运行环境。"},
    "provenance": {"en": "Weights set by hand.", "zh-CN": "手工设定权重。"},
}
LABEL = {
    "index": 0,
    "name": "tissue",
    "text": TEXT,
    "type": ["87784001", "SCT", "Soft tissue"],
    "colour": [240, 230, 180],
}


def described(**changes: Any) -> dict[str, Any]:
    """Return a description of a volume model of one channel, with other tables where `changes` has them."""
    said: dict[str, Any] = {
        "name": "tissue_threshold", "version": "1.0.0", "licence": "Apache-2.0", "task": "segmentation", "modalities": ["CT"],
        "input": {
            "kind": "volume", "orientation": "RAS", "outside": LOW,
            "normalise": [{"kind": "range", "low": LOW, "high": HIGH}],
        },
        "output": {"channels": 1, "activation": "sigmoid"}, "label": [LABEL], "card": CARD,
    }  # fmt: skip
    for key, value in changes.items():
        said[key] = {**said[key], **value} if isinstance(value, Mapping) and key in said else value
    return said


def write_description(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.toml"
    path.write_text(toml.dump(described(**changes)), encoding="utf-8")
    return path


class Bright(torch.nn.Module):
    """One logit a voxel: how far it is above the threshold."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - 0.35) * 400.0


class Boxes(torch.nn.Module):
    """Two boxes of one thing that nearly cover each other, and one far from them, in samples."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        n = (x.dim() - 2) * 2
        first = torch.tensor([4.0, 6.0, 8.0, 14.0, 20.0, 16.0])
        if n == 4:
            first = torch.tensor([10.0, 20.0, 50.0, 80.0])
        boxes = torch.stack([first, first + 0.5, first * 1.5])
        return {"boxes": boxes, "scores": torch.tensor([0.75, 0.7, 0.6]), "labels": torch.tensor([1, 1, 2])}


class Mean(torch.nn.Module):
    """Two logits an image: how bright it is, and the opposite."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = (x.flatten(1).mean(dim=1) - 0.3) * 20.0
        return torch.stack([bright, -bright], dim=1)


def torchscript(folder: Path, module: torch.nn.Module | None = None, **changes: Any) -> Path:
    """Write a folder with a TorchScript model and its description."""
    write_description(folder, **changes)
    torch.jit.save(torch.jit.script(module or Bright()), str(folder / "model.ts"))
    return folder


def bundle(folder: Path, *, config: Mapping[str, Any] | None = None, weights: bool = True) -> Path:
    """Write a MONAI bundle, as its specification has it: a UNet whose weights pass half of the samples through."""
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    said = {
        "network_def": {
            "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [4, 8], "strides": [2],
            "num_res_units": 0, "act": "RELU", "norm": "BATCH",
        },
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
                {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": LOW, "a_max": HIGH, "b_min": 0.0, "b_max": 1.0, "clip": True},
            ],
        },
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": "@window", "sw_batch_size": 2, "overlap": 0.25},
        "window": [32, 32, 32],
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"},
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            ],
        },
    }  # fmt: skip
    said |= dict(config or {})
    (folder / "configs" / "inference.json").write_text(json.dumps(said))
    metadata = {
        "version": "0.3.0",
        "network_data_format": {
            "inputs": {"image": {"num_channels": 1, "spatial_shape": [32, 32, 32]}},
            "outputs": {"pred": {"num_channels": 2}},
        },
    }
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    part = {key: value for key, value in described().items() if key not in {"input", "output", "version"}}
    part |= {"name": "tissue_bundle", "label": [{**LABEL, "index": 1}]}
    (folder / "model.toml").write_text(toml.dump({**part, "input": {"outside": LOW, "multiple": 2}}), encoding="utf-8")
    if weights:
        torch.save(passing_unet().state_dict(), folder / "models" / "model.pt")
    return folder


def passing_unet() -> torch.nn.Module:
    """Return a UNet that takes every second sample and interpolates between them: logits of it above the threshold."""
    from monai.networks.nets import UNet

    net = UNet(3, 1, 2, (4, 8), (2,), num_res_units=0, act="RELU", norm="BATCH")
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith(("weight", "bias", "running_mean")):
                value.zero_()
        state = net.state_dict()
        state["model.0.conv.weight"][0, 0, 1, 1, 1] = 1.0
        state["model.0.adn.N.weight"].fill_(1.0)
        line = torch.tensor([0.5, 1.0, 0.5])
        state["model.2.conv.weight"][0, 1] = STEEP * torch.einsum("i,j,k->ijk", line, line, line)
        state["model.2.conv.bias"][1] = -STEEP * AT
    return net.eval()


# --- ONNX, written field by field: only who exports models needs its library -----------------------------------------------


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, value: bytes | str | int) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def tensor(name: str, values: np.ndarray, extra: bytes = b"") -> bytes:
    kind = {np.dtype("float32"): 1, np.dtype("int64"): 7}[values.dtype]
    dims = b"".join(field(1, n) for n in values.shape)
    raw = b"" if extra else field(9, values.tobytes())
    return dims + field(2, kind) + field(8, name) + raw + extra


def node(operator: str, inputs: Iterable[str], outputs: Iterable[str], domain: str = "") -> bytes:
    said = b"".join(field(1, i) for i in inputs) + b"".join(field(2, o) for o in outputs) + field(4, operator)
    return said + (field(7, domain) if domain else b"")


def value_info(name: str, shape: Iterable[int | str]) -> bytes:
    dims = b"".join(field(1, field(1, n) if isinstance(n, int) else field(2, n)) for n in shape)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, dims)))


def onnx_model(
    nodes: Iterable[bytes], tensors: Iterable[bytes], inputs: Iterable[bytes], outputs: Iterable[bytes]
) -> bytes:
    graph = b"".join(field(1, n) for n in nodes) + field(2, "made by a test") + b"".join(field(5, t) for t in tensors)
    graph += b"".join(field(11, i) for i in inputs) + b"".join(field(12, o) for o in outputs)
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 17))


def bright_onnx(extra: bytes = b"", domain: str = "") -> bytes:
    """Return an ONNX graph that does what `Bright` does; with `extra` its tensor says more, with `domain` its operators are foreign."""
    shape = ["n", 1, "x", "y", "z"]
    return onnx_model(
        [node("Sub", ["in", "at"], ["above"], domain), node("Mul", ["above", "steep"], ["out"], domain)],
        [tensor("at", np.array([0.35], np.float32), extra), tensor("steep", np.array([400.0], np.float32))],
        [value_info("in", shape)],
        [value_info("out", shape)],
    )


def onnx(folder: Path, data: bytes | None = None, **changes: Any) -> Path:
    """Write a folder with an ONNX model and its description."""
    write_description(folder, **{"name": "tissue_onnx", **changes})
    (folder / "model.onnx").write_bytes(bright_onnx() if data is None else data)
    return folder


def state_file(values: Mapping[str, Any]) -> bytes:
    out = io.BytesIO()
    torch.save(values, out)
    return out.getvalue()


def pack(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)
