"""From pixels to the network's input: values, then the steps of ``[[input.normalise]]``."""

import torch

from pipeline.models.description import Input, Step

_TINY = 1e-6


def normalise(image: torch.Tensor, said: Input) -> tuple[torch.Tensor, float]:
    """Return the network's input, shape (channels, ...), and what lies outside the image on the same scale."""
    edge = said.outside
    for step in said.normalise:
        scale, shift = _line(image, step)
        moved = image * scale + shift
        if step.kind == "zscore" and step.nonzero:  # what is 0 stays 0, as in MONAI
            image, edge = torch.where(image != 0, moved, image), edge * scale + shift if edge else 0.0
        else:
            image, edge = moved, edge * scale + shift
        if step.kind == "range" and step.clip:
            low, high = sorted((step.to_low, step.to_high))
            image, edge = image.clamp(low, high), min(max(edge, low), high)
    return image[None].expand(said.channels, *image.shape), edge


def _line(image: torch.Tensor, step: Step) -> tuple[float, float]:
    """Return the factor, and what is added after it."""
    if step.kind == "shift":
        return 1 / step.divide, -step.subtract / step.divide
    if step.kind == "zscore":
        seen = image[image != 0] if step.nonzero else image
        if seen.numel() < 2:
            return 1.0, 0.0
        spread = max(float(seen.std(correction=0)), _TINY)
        return 1 / spread, -float(seen.mean()) / spread
    low, high = (step.low, step.high) if step.kind == "range" else (float(image.min()), float(image.max()))
    scale = (step.to_high - step.to_low) / max(high - low, _TINY)
    return scale, step.to_low - low * scale
