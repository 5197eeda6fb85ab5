"""What must hold for pictures of a radiograph: the image in them is the source image, turned as that is, and black is black.

A picture is compared with the raw pixels by ranks: whatever window and table it was made with, what is brighter in the one
must be brighter in the other, but for what a window makes all black or all white.
"""

import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import Dataset
from scipy.stats import rankdata

from dicom_io import elements, radiograph
from dicom_io.errors import DicomIOError
from dicom_io.reason import Reason
from sr_writer.gate_sources import Slice
from sr_writer.reasons import REASONS

ALIKE = 0.9
"""Rank correlation that a picture of an image has with it at least."""
LEFT_OVER = 0.7
"""The image turned over, or another way round, is what a picture shows if it leaves less than this share unexplained."""
SAMPLES = 40_000
WHOLE_IMAGE = re.compile(r"whole image in columns (\d+) to (\d+), rows (\d+) to (\d+)")


def check(ds: Dataset, place: Slice) -> Iterator[Reason]:
    """Yield what is wrong with a picture whose one source is a radiograph.

    Either it is as large as that, or its Derivation Description (0008,2111) says where on it the whole image stands; of
    other pictures nothing can be said.
    """
    shape = int(ds.Rows), int(ds.Columns)
    found = WHOLE_IMAGE.search(str(ds.get("DerivationDescription") or ""))
    if shape == place.shape:
        left, right, top, bottom = 0, shape[1] - 1, 0, shape[0] - 1
        stated = elements.numbers(ds, "PixelSpacing")
        if stated and stated != place.spacing:
            yield REASONS("geometry-differs", what="PixelSpacing")
        if place.shadow is not None and radiograph.orientation(ds) != place.shadow.orientation:
            yield REASONS("geometry-differs", what="PatientOrientation")
    elif found is not None:
        left, right, top, bottom = (int(n) for n in found.groups())
        if not (left < right < shape[1] and top < bottom < shape[0]):
            yield REASONS("geometry-differs", what="DerivationDescription")
            return
    else:
        return
    pixels = np.frombuffer(ds.PixelData, np.uint8)[: 3 * shape[0] * shape[1]].reshape(*shape, 3)
    if not _shows(pixels[top : bottom + 1, left : right + 1], place):
        yield REASONS("picture-differs")


def _shows(seen: npt.NDArray[np.uint8], place: Slice) -> bool:
    """Whether what is grey in a picture looks like its image; true where the image cannot be read again."""
    try:
        values = place.values()
    except (DicomIOError, OSError, ValueError):
        return True
    if place.shadow is not None and place.shadow.inverse:
        values = -values
    size = seen.shape[1], seen.shape[0]
    own = np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BOX))
    grey = (seen[..., 0] == seen[..., 1]) & (seen[..., 1] == seen[..., 2])
    step = max(1, round((grey.sum() / SAMPLES) ** 0.5))
    right = _alike(seen, own, grey, step)
    if right is None:
        return True
    others = (own[:, ::-1], own[::-1], own[::-1, ::-1])
    turned = max((_alike(seen, other, grey, step) or 0.0) for other in others)
    return right >= ALIKE and 1 - turned >= LEFT_OVER * (1 - right)


def _alike(
    seen: npt.NDArray[np.uint8], image: npt.NDArray[np.float32], grey: npt.NDArray[np.bool_], step: int
) -> float | None:
    """Return the rank correlation of picture and image where the picture is grey; None if there is nothing to compare."""
    looked = grey[::step, ::step]
    a, b = seen[::step, ::step, 0][looked], image[::step, ::step][looked]
    if a.size < 100 or a.min() == a.max() or b.min() == b.max():
        return None
    # what a window makes black or white is one rank there, and many in the image
    dark, bright = (a == a.min()).mean(), (a == a.max()).mean()
    b = np.clip(b, np.quantile(b, dark), np.quantile(b, 1 - bright))
    if b.min() == b.max():
        return None
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])
