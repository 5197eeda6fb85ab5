"""Names on disk: what must be flushed so that a power cut takes nothing away (fsync(2), rename(2))."""

import contextlib
import os
import tempfile
import time
from pathlib import Path


def sync_file(path: Path) -> None:
    """Flush a file's content to disk."""
    _sync(path, os.O_RDONLY)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def make_folders(*folders: Path, mode: int = 0o777) -> None:
    """Make the folders that are not there; when this returns no crash takes one away.

    What stands already is flushed, too: whoever made it may have died before that. Above it nothing can be missing,
    because no folder is made in one whose own name is not on disk.
    """
    parents = sorted({folder.parent for folder in folders})
    for parent in parents:
        _climb(parent, mode)
    for folder in folders:
        folder.mkdir(mode=mode, exist_ok=True)
    for parent in parents:
        _sync_names(parent)


def mounted_as(folder: Path) -> tuple[str, tuple[str, ...]]:
    """Return the type of the file system on which `folder` stands, and its mount options; "unknown" where none is told.

    Source: proc(5), ``/proc/self/mountinfo``; the most special mount point wins.
    """
    found: tuple[int, str, tuple[str, ...]] = (-1, "unknown", ())
    real = folder.resolve()
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            place, _, rest = line.partition(" - ")
            fields, kind = place.split(), rest.split()
            point = Path(fields[4].encode("latin-1", "replace").decode("unicode_escape"))
            if real.is_relative_to(point) and len(point.parts) >= found[0]:
                found = (len(point.parts), kind[0], (*fields[5].split(","), *kind[2].split(",")))
    return found[1:]


def try_flushing(folder: Path) -> float:
    """Flush a new file, link it and flush the folder, as for every image; return how long that took (s).

    Raises
    ------
    OSError
        If the file system refuses a step.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".flush-") as aside:
        first, second = Path(aside, "1"), Path(aside, "2")
        first.write_bytes(b"\0" * 4096)
        begun = time.perf_counter()
        sync_file(first)
        os.link(first, second)
        sync_folder(Path(aside))
        return time.perf_counter() - begun


def _climb(folder: Path, mode: int) -> None:
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    _sync_names(folder.parent)
    for place in reversed(missing):
        place.mkdir(mode=mode, exist_ok=True)
        _sync_names(place.parent)


def _sync_names(folder: Path) -> None:
    with contextlib.suppress(PermissionError):  # a folder of somebody else that may be passed, not read
        sync_folder(folder)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
