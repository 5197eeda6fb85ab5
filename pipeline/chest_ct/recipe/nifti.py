"""NIfTI-1 labels: values, and where they lie, in LPS.

References
----------
nifti1.h (nifti.nimh.nih.gov): header of 348 bytes; methods 2 (qform) and 3 (sform) of orientation; RAS+ millimetres.
"""

import gzip
import struct
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from pipeline.chest_ct.recipe.place import Floats
from pipeline.chest_ct.recipe.refusals import LabelRefused

Order = Literal["<", ">"]

_HEADER: Final = 348
_MOST_BYTES: Final = 1 << 32
_TYPES: Final = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_TO_LPS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
_APART_MM: Final = 0.5
"""qform and sform may differ by rounding; more is a contradiction."""
_TO_MM: Final = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}


def read(path: Path) -> tuple[npt.NDArray[np.generic], Floats]:
    """Return values [z, y, x] and the matrix from (x, y, z, 1) of their indices to LPS millimetres.

    Raises
    ------
    LabelRefused
        ``nifti-not-read``, ``nifti-no-orientation`` or ``nifti-two-orientations``.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as opened:
            header = opened.read(_HEADER)
            order = _order(header)
            shape, kind, offset = _layout(header, order)
            size = int(np.prod(shape)) * np.dtype(kind).itemsize
            if size > _MOST_BYTES:
                raise _odd("too large")
            opened.read(max(0, offset - _HEADER))
            data = opened.read(size)
    except (OSError, EOFError, gzip.BadGzipFile) as error:
        raise _odd(type(error).__name__) from error
    if len(data) < size:
        raise _odd("cut off")
    values = np.frombuffer(data, np.dtype(kind).newbyteorder(order)).reshape(shape[::-1])
    slope, intercept = struct.unpack(order + "2f", header[112:120])
    if slope not in {0.0, 1.0} or intercept != 0.0:
        values = values * (slope or 1.0) + intercept
    return values, _TO_LPS @ _affine(header, order, shape)


def _order(header: bytes) -> Order:
    if len(header) == _HEADER and header[344:347] == b"n+1":
        orders: tuple[Order, Order] = ("<", ">")
        for order in orders:
            if struct.unpack(order + "i", header[:4])[0] == _HEADER:
                return order
    raise _odd("header")


def _layout(header: bytes, order: str) -> tuple[tuple[int, int, int], str, int]:
    dim = struct.unpack(order + "8h", header[40:56])
    kind = _TYPES.get(struct.unpack(order + "h", header[70:72])[0])
    offset = struct.unpack(order + "f", header[108:112])[0]
    if not 3 <= dim[0] <= 7 or min(dim[1:4]) < 1 or any(n > 1 for n in dim[4 : dim[0] + 1]):
        raise _odd("not one volume")
    if kind is None:
        raise _odd("type of its values")
    if not _HEADER <= offset < 1 << 20:
        raise _odd("header")
    return (dim[1], dim[2], dim[3]), kind, int(offset)


def _affine(header: bytes, order: str, shape: tuple[int, int, int]) -> Floats:
    """Return the matrix to RAS millimetres."""
    qform, sform = struct.unpack(order + "2h", header[252:256])
    if qform <= 0 and sform <= 0:
        raise LabelRefused("nifti-no-orientation")
    found = []
    if qform > 0:
        found.append(_from_quaternion(header, order))
    if sform > 0:
        rows = np.array(struct.unpack(order + "12f", header[280:328])).reshape(3, 4)
        found.append(np.vstack([rows, [0, 0, 0, 1]]).astype(np.float64))
    unit = _TO_MM.get(header[123] & 7)
    if unit is None:
        raise _odd("unit of length")
    for affine in found:
        affine[:3] *= unit
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
            raise _odd("no matrix")
    ends = np.array([[x, y, z, 1] for x in (0, shape[0] - 1) for y in (0, shape[1] - 1) for z in (0, shape[2] - 1)])
    apart = float(np.linalg.norm(ends @ (found[0] - found[-1]).T, axis=1).max())
    if apart > _APART_MM:
        raise LabelRefused("nifti-two-orientations", mm=apart)
    return found[-1]


def _from_quaternion(header: bytes, order: str) -> Floats:
    pixdim = struct.unpack(order + "8f", header[76:108])
    b, c, d, *origin = struct.unpack(order + "6f", header[256:280])
    a = np.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
    turn = np.array([
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ])  # fmt: skip
    out: Floats = np.eye(4)
    out[:3, :3] = turn * [pixdim[1], pixdim[2], pixdim[3] * (-1.0 if pixdim[0] < 0 else 1.0)]
    out[:3, 3] = origin
    return out


def _odd(why: str) -> LabelRefused:
    return LabelRefused("nifti-not-read", why=why)
