"""What both networks take and give: one text of ``model.toml`` for training, figures and use."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.models.description import Input, Network, Step

ORIENTATION = "SPL"
"""Axes of all arrays of the recipe: to the head, to the back, to the left."""


def _normalise(settings: Mapping[str, Any]) -> tuple[Step, ...]:
    p = settings["input"]
    return (Step("range", low=p["low"], high=p["high"]),)


def lesion_input(settings: Mapping[str, Any]) -> Input:
    """Return how a series becomes the input of the lesion network: windows at one spacing."""
    p = settings["lesion"]
    step = 2 ** (len(p["channels"]) - 1)
    return Input(
        "volume", ORIENTATION, spacing=tuple(p["spacing"]), tile=tuple(p["patch"]), overlap=p["overlap"], multiple=step,
        outside=settings["input"]["outside"], normalise=_normalise(settings),
    )  # fmt: skip


def classes_input(settings: Mapping[str, Any]) -> Input:
    """Return how a series becomes the input of the classifier: the whole of it at one size, its shape kept."""
    return Input(
        "volume", ORIENTATION, size=tuple(settings["classes"]["size"]), fit="pad", outside=settings["input"]["outside"],
        normalise=_normalise(settings),
    )  # fmt: skip


def lesion_network(settings: Mapping[str, Any]) -> Network:
    """Return the lesion network: a residual U-Net that halves its input once for each number of channels but the first."""
    channels: Sequence[int] = settings["lesion"]["channels"]
    arguments = {
        "spatial_dims": 3, "in_channels": 1, "out_channels": 1, "channels": list(channels),
        "strides": [2] * (len(channels) - 1), "num_res_units": 1, "norm": "instance",
    }  # fmt: skip
    return Network("monai.networks.nets.UNet", arguments)


def classes_network(settings: Mapping[str, Any]) -> Network:
    """Return the classifier: a small DenseNet with one output a class."""
    p = settings["classes"]
    arguments = {
        "spatial_dims": 3, "in_channels": 1, "out_channels": len(p["class"]), "init_features": p["init_features"],
        "growth_rate": p["growth_rate"], "block_config": list(p["blocks"]), "norm": "batch",
    }  # fmt: skip
    return Network("monai.networks.nets.DenseNet", arguments)
