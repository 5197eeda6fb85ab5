"""A picture of every label on its images, for a person to look at before anything is learned from it."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from pipeline.chest_ct.recipe.prepare import Prepared

_WINDOW = (-1000.0, 400.0)
_OUTLINE = (255, 80, 60)
_SCALE = 3


def write(one: Prepared, folder: Path) -> Path | None:
    """Write the axial slice with most of the label, its outline drawn; None if nothing is marked, or the picture is there.

    As radiologists look at it: the patient's right on the left of the picture, the back below.
    """
    path = folder / f"{one.case.uid}.png"
    if one.lesion is None or path.is_file() or not one.lesion.any():
        return None
    z = int(np.count_nonzero(one.lesion, axis=(1, 2)).argmax())
    low, high = _WINDOW
    grey = np.clip((np.asarray(one.image[z], np.float32) - low) / (high - low), 0, 1)
    big = np.kron((255 * grey).astype(np.uint8), np.ones((_SCALE, _SCALE), np.uint8))
    inside = np.kron(one.lesion[z], np.ones((_SCALE, _SCALE), np.uint8)) != 0
    picture = np.repeat(big[..., None], 3, axis=2)
    picture[inside & ~ndimage.binary_erosion(inside)] = _OUTLINE
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path
