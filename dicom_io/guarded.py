"""GDCM in a process of its own: it ends its process on some damaged JPEG streams, and that must not be ours.

The child is started when the first such image comes and lives until the parent ends: it reads paths from its standard
input and answers with pixels, or with an empty answer if they cannot be decoded.
"""

import atexit
import contextlib
import os
import select
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt

PATIENCE_S: Final = 60.0
"""One image is decoded within this, or its decoder hangs; a slice takes 0.02 s."""

_LOCK: Final = threading.Lock()
_running: list[subprocess.Popen[bytes]] = []


class DecoderDied(Exception):  # noqa: N818 - what happened
    """The child ended while it decoded, or could not decode."""


def decode(path: Path, syntax: str) -> npt.NDArray[np.integer]:
    """Return the stored values of a single-frame file, shape (rows, columns).

    Parameters
    ----------
    path : Path
        A file that `dicom_io.read` could read.
    syntax : str
        Transfer syntax to assume where the file states none.

    Raises
    ------
    DecoderDied
        If nothing came back; the next call starts a new child.
    """
    with _LOCK:
        child = _child()
        if child.stdin is None or child.stdout is None:
            raise DecoderDied
        try:
            child.stdin.write(syntax.encode() + b" " + os.fsencode(path.absolute()).hex().encode() + b"\n")
            child.stdin.flush()
            if not select.select([child.stdout], [], [], PATIENCE_S)[0]:
                raise TimeoutError
            line = child.stdout.readline()
            if line == b"\n":
                raise DecoderDied
            rows, columns, dtype = line.decode().split()
            data = child.stdout.read(int(rows) * int(columns) * np.dtype(dtype).itemsize)
            return np.frombuffer(data, dtype).reshape(int(rows), int(columns))
        except (OSError, ValueError) as error:
            # it is dying, which takes a moment: the next image must not be given to it
            child.kill()
            child.wait()
            raise DecoderDied from error


def _child() -> subprocess.Popen[bytes]:
    if _running and _running[0].poll() is None:
        return _running[0]
    for dead in _running:
        _close(dead)
    package = str(Path(__file__).resolve().parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    _running[:] = [
        subprocess.Popen(
            [sys.executable, "-m", "dicom_io.guarded"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
    ]
    return _running[0]


@atexit.register
def _stop() -> None:
    for child in _running:
        _close(child)


def _close(child: subprocess.Popen[bytes]) -> None:
    """Close both pipes, by which the child ends, and wait for it."""
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    child.wait()


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer one line after the other until the parent closes its end."""
    from dicom_io.pixels import pixels_of  # noqa: PLC0415 - the two modules know each other

    warnings.simplefilter("ignore")
    for line in requests:
        syntax, path = line.split()
        try:
            cells = np.ascontiguousarray(pixels_of(Path(os.fsdecode(bytes.fromhex(path.decode()))), syntax.decode()))
            answers.write(f"{cells.shape[0]} {cells.shape[1]} {cells.dtype.str}\n".encode() + cells.tobytes())
        except Exception:  # noqa: BLE001 - decoders raise whatever hostile bytes make them raise
            answers.write(b"\n")
        answers.flush()


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
