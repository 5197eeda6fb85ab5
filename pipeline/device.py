"""Where a pipeline computes."""

import torch

from pipeline.errors import PipelineFailed
from pipeline.reasons import REASONS


def pick(device: str = "auto") -> torch.device:
    """Return the torch device for a setting: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` ...

    Raises
    ------
    PipelineFailed
        With the code ``device-not-available`` if the setting names a device that is not there.
    """
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise PipelineFailed(REASONS("device-not-available", device=device)) from error
    return chosen
