"""Things in a radiograph that are not the patient: metal and lines over the lungs, writing, plain frames."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.quality.cxr.image import Look
from pipeline.quality.grade import Measured

Flags = npt.NDArray[np.bool_]
_EVERY = np.ones((3, 3), np.bool_)


def frame(look: Look, p: Mapping[str, Any]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the rows and columns within a plain frame: first and one past the last.

    A line of pixels belongs to the frame if nearly all of them have one value: a shutter, the margin of a screenshot or of a
    film, or air that the X-rays reached without any patient. At least half of each side stays.
    """
    out = []
    for axis in (0, 1):
        lines = look.small if axis == 0 else look.small.T
        middle = np.median(lines, axis=1, keepdims=True)
        plain = (np.abs(lines - middle) < p["flat"]).mean(axis=1) >= p["share"]
        n = plain.size
        first = int(np.argmin(plain)) if not plain.all() else 0
        last = n - int(np.argmin(plain[::-1])) if not plain.all() else n
        out.append((min(first, n // 4), max(last, n - n // 4)))
    return out[0], out[1]


def framed(look: Look, rows: tuple[int, int], columns: tuple[int, int]) -> dict[str, Measured]:
    """Return the share, in percent, of the image that is a plain frame."""
    inner = (rows[1] - rows[0]) * (columns[1] - columns[0])
    return {"frame_percent": Measured(100 * (1 - inner / look.small.size), "%")}


def objects(look: Look, lungs: Flags, p: Mapping[str, Any]) -> dict[str, Measured]:
    """Return the length, in mm, of the longest bright, thin and sharp thing over the lungs, and where it lies.

    What is brighter than everything that surrounds it within a few millimetres, by far more than ribs and vessels are.
    """
    if not lungs.any():
        return {}
    image = ndimage.gaussian_filter(look.small, p["smooth"])
    size = 2 * max(1, round(p["width_mm"] / look.mm / 2)) + 1
    over = image - ndimage.grey_opening(image, size=(size, size))
    spread = float(np.median(over[lungs])) / 0.6745
    bright = (over > max(p["times"] * spread, p["least"])) & ndimage.binary_dilation(lungs, _EVERY, iterations=3)
    labels, _ = ndimage.label(bright, _EVERY)
    best, place = 0.0, None
    for n, box in enumerate(ndimage.find_objects(labels), 1):
        length = float(np.hypot(*(s.stop - s.start for s in box))) * look.mm
        if length > best and int((labels[box] == n).sum()) >= p["least_pixels"]:
            best = length
            place = look.place((box[0].start, box[0].stop), (box[1].start, box[1].stop))
    return {"object_mm": Measured(best, "mm", place)}


def writing(look: Look, lungs: Flags, p: Mapping[str, Any]) -> dict[str, Measured]:
    """Return how many characters stand in the longest line of writing, and where.

    Characters are bright, small, sharp parts of like height beside each other; one or two alone are a side marker.
    """
    image = look.small
    over = image - ndimage.grey_opening(image, size=(p["stroke"], p["stroke"]))
    labels, _ = ndimage.label((over > p["contrast"]) & ~lungs, _EVERY)
    boxes = [
        (rows, columns)
        for rows, columns in ndimage.find_objects(labels)
        if p["low"] <= rows.stop - rows.start <= p["high"] and columns.stop - columns.start <= p["wide"]
    ]
    best: list[tuple[slice, slice]] = []
    for rows, columns in boxes:
        height = rows.stop - rows.start
        line = [
            b for b in boxes
            if abs(b[0].stop - rows.stop) <= 1 and abs((b[0].stop - b[0].start) - height) <= max(1, height // 4)
        ]  # fmt: skip
        near = _chain(line, columns, height * p["gap"])
        best = near if len(near) > len(best) else best
    if not best:
        return {"characters": Measured(0.0, "1")}
    place = look.place(
        (min(r.start for r, _ in best), max(r.stop for r, _ in best)),
        (min(c.start for _, c in best), max(c.stop for _, c in best)),
    )
    return {"characters": Measured(float(len(best)), "1", place)}


def _chain(line: list[tuple[slice, slice]], start: slice, gap: float) -> list[tuple[slice, slice]]:
    """Return the parts that follow `start` to the right, each closer than `gap` to the one before."""
    out: list[tuple[slice, slice]] = []
    end = start.start
    for part in sorted(line, key=lambda b: b[1].start):
        if part[1].start < start.start:
            continue
        if part[1].start - end > gap:
            break
        out.append(part)
        end = part[1].stop
    return out
