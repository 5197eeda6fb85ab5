"""The frames of a segmentation, decoded by other code than that which wrote them.

A mask is kept as runs: where along the rows it begins and ends. Counts, sums over an image and comparisons follow from
the runs alone, so the gate never holds a second volume.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array

from dicom_io.model import ImageKey
from sr_writer.gate_sources import image_of

Plane = npt.NDArray[np.uint8]
Key = tuple[int, ImageKey]
"""Segment number, image of the slice."""


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Where a mask lies on one slice.

    Parameters
    ----------
    starts, ends : ndarray of int64
        Half open runs along the rows, none across two rows, as flat indices into rows of ``columns + 1`` pixels.
    shape : tuple[int, int]
        Rows, columns.
    """

    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    shape: tuple[int, int]

    @classmethod
    def of(cls, plane: npt.NDArray[Any]) -> "Runs":
        """Find the runs of a plane [row, column]; whatever is not 0 is inside."""
        rows, columns = plane.shape
        padded = np.zeros((rows, columns + 1), np.bool_)
        padded[:, :columns] = plane
        flat = padded.reshape(-1)
        changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        if flat[0]:
            changes = np.concatenate(([0], changes))
        return cls(changes[0::2], changes[1::2], (rows, columns))

    @property
    def voxels(self) -> int:
        """Number of pixels inside."""
        return int((self.ends - self.starts).sum())

    @property
    def digest(self) -> bytes:
        """Digest of where the mask lies."""
        return hashlib.blake2b(
            self.starts.astype("<i8").tobytes() + self.ends.astype("<i8").tobytes(), digest_size=16
        ).digest()

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Row of every run."""
        return self.starts // (self.shape[1] + 1)

    @property
    def columns(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """First column of every run, and the one after its last."""
        first = self.rows * (self.shape[1] + 1)
        return self.starts - first, self.ends - first

    def plane(self) -> Plane:
        """Return the mask as a plane, 0 or 1."""
        edges = np.zeros(self.shape[0] * (self.shape[1] + 1) + 1, np.int8)
        edges[self.starts] += 1
        edges[self.ends] -= 1
        inside = np.cumsum(edges[:-1], dtype=np.int8).view(np.uint8)
        return inside.reshape(self.shape[0], self.shape[1] + 1)[:, : self.shape[1]]

    def sums(self, image: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return the sum of an image [row, column] over every run."""
        if not self.starts.size:
            return np.zeros(0)
        rows = self.rows  # the image has no pixel between its rows
        edges = np.stack((self.starts - rows, self.ends - rows), axis=1).reshape(-1)
        flat = image.reshape(-1)
        if edges[-1] == flat.size:
            edges = edges[:-1]
        out: npt.NDArray[np.float64] = np.add.reduceat(flat, edges, dtype=np.float64)[::2]
        return out

    def shared(self, other: "Runs") -> npt.NDArray[np.float64]:
        """Return how many pixels of every run lie in `other`, a mask of the same shape."""
        before = np.concatenate(([0], np.cumsum(other.ends - other.starts)))

        def up_to(at: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
            begun = np.searchsorted(other.starts, at)
            rest = np.maximum(other.ends[begun - 1] - at, 0) if other.ends.size else 0
            found: npt.NDArray[np.int64] = before[begun] - np.where(begun, rest, 0)
            return found

        return (up_to(self.ends) - up_to(self.starts)).astype(np.float64)

    def moved(self, rows: int, columns: int) -> "Runs":
        """Return the mask moved by whole pixels; what leaves the image is cut off."""
        row, (first, last) = self.rows + rows, self.columns
        first, last = np.maximum(first + columns, 0), np.minimum(last + columns, self.shape[1])
        keep = (row >= 0) & (row < self.shape[0]) & (first < last)
        at = row[keep] * (self.shape[1] + 1)
        return Runs(at + first[keep], at + last[keep], self.shape)

    def mirrored(self, *, rows: bool) -> "Runs":
        """Return the mask upside down (`rows`), or with left and right exchanged."""
        row, (first, last) = self.rows, self.columns
        if rows:
            row = self.shape[0] - 1 - row
        else:
            first, last = self.shape[1] - last, self.shape[1] - first
        at = row * (self.shape[1] + 1)
        order = np.argsort(at + first)
        return Runs((at + first)[order], (at + last)[order], self.shape)


def union(parts: Sequence[Runs]) -> Runs:
    """Return what lies inside any of `parts`, at least one."""
    if len(parts) == 1:
        return parts[0]
    total = parts[0].plane()
    for part in parts[1:]:
        total = total | part.plane()
    return Runs.of(total)


@dataclass(frozen=True, eq=False)
class Frames:
    """Decoded frames.

    Parameters
    ----------
    shape : tuple[int, int]
        Rows, columns.
    number : int
        Number of Frames (0028,0008).
    positions : ndarray, float64, shape (frames, 3)
        Image Position (Patient) of every frame.
    sources : tuple[tuple[str, ImageKey], ...]
        SOP Class UID, and which one image each frame was derived from.
    segments : tuple[int, ...]
        Segment that each frame shows; 0 where one frame shows all of them by their numbers.
    indices : tuple[tuple[int, ...], ...]
        Dimension Index Values of every frame.
    cells : ndarray of uint8
        The stored bytes of a BINARY segmentation, one bit a pixel; else the pixels, shape (frames, rows, columns).
    """

    shape: tuple[int, int]
    number: int
    positions: npt.NDArray[np.float64]
    sources: tuple[tuple[str, ImageKey], ...]
    segments: tuple[int, ...]
    indices: tuple[tuple[int, ...], ...]
    cells: npt.NDArray[np.unsignedinteger]

    @cached_property
    def runs(self) -> Mapping[Key, Runs]:
        """What every segment covers on every slice, empty planes left out; of a frame that comes twice the last."""
        out: dict[Key, Runs] = {}
        for k, (segment, (_, image)) in enumerate(zip(self.segments, self.sources, strict=True)):
            plane = self._plane(k)
            if segment:
                found = Runs.of(plane)
                if found.starts.size:
                    out[segment, image] = found
            else:
                for number in np.unique(plane[plane > 0]):
                    out[int(number), image] = Runs.of(plane == number)
        return out

    def of(self, segment: int) -> dict[ImageKey, Runs]:
        """Return where a segment lies, by slice."""
        return {image: runs for (number, image), runs in self.runs.items() if number == segment}

    def _plane(self, frame: int) -> npt.NDArray[np.unsignedinteger]:
        if self.cells.ndim == 3:
            whole: npt.NDArray[np.unsignedinteger] = self.cells[frame]
            return whole
        size = self.shape[0] * self.shape[1]
        first, last = frame * size, (frame + 1) * size
        bits = np.unpackbits(self.cells[first // 8 : (last + 7) // 8], bitorder="little")
        return bits[first % 8 : first % 8 + size].reshape(self.shape)

    @cached_property
    def fingerprint(self) -> bytes:
        """Digest of all masks: two encodings of one segmentation have the same."""
        total = hashlib.blake2b()
        for (segment, image), runs in sorted(self.runs.items()):
            total.update(f"{segment} {image.sop_instance_uid} {image.frame} ".encode() + runs.digest)
        return total.digest()


def frames_of(ds: Dataset) -> Frames:
    """Return the frames of a segmentation.

    Raises
    ------
    ValueError
        If a frame does not name exactly one source slice, or the pixels are too few.
    """
    shared = ds.SharedFunctionalGroupsSequence[0]
    labels = ds.SegmentationType == "LABELMAP"
    positions, sources, segments, indices = [], [], [], []
    image, place = _Read(_source), _Read(_position)
    for group in ds.PerFrameFunctionalGroupsSequence:
        sources.append(image.of(group, "DerivationImageSequence"))
        positions.append(place.of(group, "PlanePositionSequence"))
        segments.append(0 if labels else _segment(group, shared))
        values = group.FrameContentSequence[0].DimensionIndexValues
        indices.append(tuple(int(v) for v in ([values] if isinstance(values, int) else values)))
    return Frames(
        (int(ds.Rows), int(ds.Columns)), int(ds.NumberOfFrames), np.array(positions), tuple(sources), tuple(segments),
        tuple(indices), _cells(ds, len(sources)),
    )  # fmt: skip


T = TypeVar("T")


class _Read(Generic[T]):
    """Reads a sequence of a functional group; what has the same bytes in many frames is decoded once."""

    def __init__(self, read: Callable[[Dataset], T]) -> None:
        self._read, self._known = read, dict[bytes, T]()

    def of(self, group: Dataset, keyword: str) -> T:
        element: object = group.get_item(keyword)
        if not isinstance(element, RawDataElement) or element.value is None:
            return self._read(group)
        if element.value not in self._known:
            self._known[element.value] = self._read(group)
        return self._known[element.value]


def _source(group: Dataset) -> tuple[str, ImageKey]:
    named = [s for d in group.DerivationImageSequence for s in d.SourceImageSequence]
    if len(named) != 1:
        raise ValueError(f"a frame names {len(named)} source slices")
    return str(named[0].ReferencedSOPClassUID), image_of(named[0])


def _position(group: Dataset) -> list[float]:
    place = group.get("PlanePositionSequence") or [Dataset()]  # there is none on a radiograph
    return [float(v) for v in place[0].get("ImagePositionPatient") or ()]


def _segment(group: Dataset, shared: Dataset) -> int:
    item = group.get("SegmentIdentificationSequence") or shared.SegmentIdentificationSequence
    return int(item[0].ReferencedSegmentNumber)


def _cells(ds: Dataset, frames: int) -> npt.NDArray[np.unsignedinteger]:
    size = frames * int(ds.Rows) * int(ds.Columns)
    if ds.SegmentationType == "BINARY" and not ds.file_meta.TransferSyntaxUID.is_encapsulated:
        bits = np.frombuffer(ds.PixelData, np.uint8)
        if bits.size * 8 < size:
            raise ValueError("PixelData")
        return bits
    cells: npt.NDArray[np.unsignedinteger] = pixel_array(ds)
    if cells.size != size:
        raise ValueError("PixelData")
    return cells.reshape(frames, int(ds.Rows), int(ds.Columns))
