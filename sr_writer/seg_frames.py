"""The frames of a segmentation: which there are, and their pixels in each encoding.

One frame is made at a time: a four-dimensional array of every segment would take the memory of several studies.

References
----------
PS3.3 section C.8.20.2 (Segmentation Image), C.8.20.4; PS3.5 section 8.1.1 (pixel cells of one bit).
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydicom.uid import UID

from pipeline.result import Mask, Segment
from sr_writer.profiles import Encoding

LABEL_MAP_STORAGE = UID("1.2.840.10008.5.1.4.1.1.66.7")
"""Label Map Segmentation Storage (Supplement 243), which pydicom 3.0 does not know."""
FULL = 255
"""Maximum Fractional Value (0062,000E): the whole voxel."""


class Frame(NamedTuple):
    """One frame: the slice that it stands on, and what it shows; in a label map several segments."""

    z: int
    segments: tuple[Segment, ...]


def overlap(segments: Sequence[Segment]) -> bool:
    """Say whether two segments share a voxel."""
    return any(_share(a.mask, b.mask) for a, b in combinations(segments, 2))


def frames(segments: Sequence[Segment], slices: int, encoding: Encoding, *, omit_empty: bool) -> list[Frame]:
    """Return the frames in their order: by segment, then by slice; of a label map by slice.

    Parameters
    ----------
    segments : Sequence[Segment]
        What is shown.
    slices : int
        Slices of the source.
    encoding : Encoding
        How.
    omit_empty : bool
        Leave out slices on which there is nothing to see.
    """
    parts = [tuple(segments)] if encoding == "labelmap" else [(s,) for s in segments]
    out = []
    for part in parts:
        filled = {int(z) + s.mask.offset[0] for s in part for z in np.flatnonzero(s.mask.box.any(axis=(1, 2)))}
        out += [Frame(z, part) for z in range(slices) if z in filled or not omit_empty]
    return out


def pixel_data(frames: Sequence[Frame], encoding: Encoding) -> bytes:
    """Return Pixel Data (7FE0,0010) of all frames, uncompressed."""
    if encoding == "binary":
        data = _packed(f.segments[0].mask.plane(f.z) for f in frames)
    elif encoding == "fractional":
        data = b"".join((f.segments[0].mask.plane(f.z) * np.uint8(FULL)).tobytes() for f in frames)
    else:
        data = b"".join(_labels(f).tobytes() for f in frames)
    rows, columns = frames[0].segments[0].mask.shape[1:]
    bits = {"binary": 1, "fractional": 8, "labelmap": 8 * label_bytes(frames[0].segments)}[encoding]
    expected = (len(frames) * rows * columns * bits + 7) // 8
    if len(data) != expected:
        raise ValueError(f"segmentation: {len(data)} bytes of frames instead of {expected}")
    return data + b"\0" * (len(data) % 2)


def unpacked(data: bytes, shape: tuple[int, int], frame: int) -> npt.NDArray[np.uint8]:
    """Return one frame of a BINARY segmentation's Pixel Data, 0 or 1."""
    size = shape[0] * shape[1]
    first, last = frame * size, (frame + 1) * size
    cells = np.frombuffer(data, np.uint8, (last + 7) // 8 - first // 8, first // 8)
    return np.unpackbits(cells, bitorder="little")[first % 8 : first % 8 + size].reshape(shape)


def label_bytes(segments: Sequence[Segment]) -> int:
    """Return how many bytes a label needs."""
    return 1 if len(segments) < 256 else 2


def _labels(frame: Frame) -> npt.NDArray[np.unsignedinteger]:
    shape = frame.segments[0].mask.shape[1:]
    out = np.zeros(shape, "u1" if label_bytes(frame.segments) == 1 else "<u2")
    for segment in frame.segments:
        out[segment.mask.plane(frame.z) != 0] = segment.number
    return out


def _packed(planes: Iterator[npt.NDArray[np.uint8]]) -> bytes:
    """Return one bit a pixel, the first pixel in the lowest bit, frames without padding between them."""
    out = bytearray()
    rest: npt.NDArray[np.uint8] = np.zeros(0, np.uint8)
    for plane in planes:
        bits = plane.reshape(-1)
        if rest.size:
            bits = np.concatenate((rest, bits))
        whole = bits.size - bits.size % 8
        out += np.packbits(bits[:whole], bitorder="little").tobytes()
        rest = bits[whole:]
    if rest.size:
        out += np.packbits(rest, bitorder="little").tobytes()
    return bytes(out)


def _share(a: Mask, b: Mask) -> bool:
    low = np.maximum(a.offset, b.offset)
    high = np.minimum(np.add(a.offset, a.box.shape), np.add(b.offset, b.box.shape))
    if (low >= high).any():
        return False
    parts = [m.box[tuple(slice(i - o, j - o) for i, j, o in zip(low, high, m.offset, strict=True))] for m in (a, b)]
    return bool((parts[0] & parts[1]).any())
