"""The radiograph that every test of this folder spoils in its own way."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from phantom.radiograph import Exposure, Radiograph, expose


@pytest.fixture(scope="session")
def chest() -> Radiograph:
    """Return a chest with the grain that vessels and ribs have in real images, which the phantom's grid is too coarse for."""
    made = expose(Exposure(5, lesions="none", rows=352, columns=336, step_mm=4.0))
    grain = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal(made.array.shape), 0.8)
    grained = made.array + np.where(made.body, 120 * grain, 0)
    return replace(made, array=np.clip(np.rint(grained), 0, 4095).astype(np.uint16))
