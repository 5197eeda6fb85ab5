"""What must hold for pictures of a radiograph: the image in them is the source image, turned as that is, and black is black.

A picture is compared with the raw pixels by ranks: whatever window and table it was made with, what is brighter in the one
must be brighter in the other, but for what a window makes all black or all white. Where the image itself asks to be shown
otherwise, by a table that falls or by a window that leaves little, it is compared with what it asks for.
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
LEAST = 100
"""With fewer samples that differ from the rest there is nothing to compare."""
_TABLES = ("ModalityLUTSequence", "VOILUTSequence")
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
    grey = (seen[..., 0] == seen[..., 1]) & (seen[..., 1] == seen[..., 2])
    try:
        return any(_looks_like(seen, grey, image) for image in _asked_for(place))
    except (DicomIOError, OSError, ValueError):
        return True


def _asked_for(place: Slice) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the raw image with black as black, then, where that does not do, the image as its header asks to be shown.

    A table may fall, so that high values are dark: with one only what it makes of them counts.
    """
    if not any(place.instance.header.get(table) for table in _TABLES):
        values = place.values()
        yield -values if place.shadow is not None and place.shadow.inverse else values
    if place.shadow is not None:
        yield np.asarray(radiograph.load_radiograph(place.instance).shown * 255, np.uint8).astype(np.float32)


def _looks_like(seen: npt.NDArray[np.uint8], grey: npt.NDArray[np.bool_], image: npt.NDArray[np.float32]) -> bool:
    """Whether a picture is nearer to an image than to one that is turned over; true if there is nothing to compare."""
    own = _of_size(image, (seen.shape[1], seen.shape[0]))
    step = max(1, round((grey.sum() / SAMPLES) ** 0.5))
    right = _alike(seen, own, grey, step)
    if right is None:
        return True
    others = (own[:, ::-1], own[::-1], own[::-1, ::-1])
    turned = max((_alike(seen, other, grey, step) or 0.0) for other in others)
    return right >= ALIKE and 1 - turned >= LEFT_OVER * (1 - right)


def _of_size(image: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return an image with so many columns and rows, by way of twice as many, as `sr_writer.radiograph` makes pictures.

    What is as fine as its pixels, noise above all, comes out otherwise by another way.
    """
    if size == image.shape[::-1]:
        return image
    twice = Image.fromarray(image).resize((2 * size[0], 2 * size[1]), Image.Resampling.BICUBIC)
    return np.asarray(twice.resize(size, Image.Resampling.LANCZOS))


def _alike(
    seen: npt.NDArray[np.uint8], image: npt.NDArray[np.float32], grey: npt.NDArray[np.bool_], step: int
) -> float | None:
    """Return the rank correlation of picture and image where the picture is grey; None if there is nothing to compare."""
    looked = grey[::step, ::step]
    a, b = seen[::step, ::step, 0][looked], image[::step, ::step][looked]
    if not b.size or np.count_nonzero(b != np.median(b)) < LEAST:
        return None
    if a.min() == a.max():
        return 0.0
    # what a window makes black or white is one rank there, and many in the image
    dark, bright = (a == a.min()).mean(), (a == a.max()).mean()
    clipped = np.clip(b, np.quantile(b, dark), np.quantile(b, 1 - bright))
    if clipped.min() < clipped.max():  # else the image has hardly more than two tones
        b = clipped
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])
