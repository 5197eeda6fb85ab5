"""Take a model out of a folder or a zip file: plain files with plain names, bounded in number and size.

References
----------
CWE-22 (path traversal), CWE-59 (links), CWE-409 (decompression bombs).
"""

import hashlib
import os
import shutil
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from pipeline.models.errors import ModelRefused, refused
from pipeline.models.limits import limits

_CHUNK = 1 << 20
_SYMLINK, _FILE = 0o120000, 0o100000


def take(source: Path, into: Path) -> None:
    """Copy everything at `source`, a folder, a zip file or one file, into the empty folder `into`.

    Raises
    ------
    ModelRefused
        If something in it is no plain file, has a name that leads elsewhere, or is too large; nothing outside `into` was
        written.
    """
    if source.is_symlink():
        raise refused(source.name, "is a link; name the file or folder itself")
    if source.is_dir():
        _folder(source, into)
    elif not source.is_file():
        raise refused(source.name, "is no file and no folder")
    elif source.suffix.lower() == ".zip":
        _zip(source, into)
    else:
        _Quota().copy(source, into / safe_name(source.name))


def digest(path: Path) -> str:
    """Return ``sha256:`` and the digest of a file."""
    with path.open("rb") as opened:
        return "sha256:" + hashlib.file_digest(opened, "sha256").hexdigest()


def safe_name(name: str) -> str:
    """Return `name`, a relative path with slashes, if it cannot lead anywhere else.

    Raises
    ------
    ModelRefused
        If it could, on this or another system.
    """
    shown = name[:60].encode("ascii", "backslashreplace").decode()
    parts = name.split("/")
    if not name or len(name) > limits()["archive"]["name_length"] or not name.isprintable():
        raise refused(shown, "is no plain file name")
    if name.startswith("/") or "\\" in name or ":" in name or any(part in {"", ".", ".."} for part in parts):
        raise refused(shown, "leads out of the model's folder")
    return name


class _Quota:
    """Counts files and bytes while they are copied."""

    def __init__(self) -> None:
        self._limits = limits()["archive"]
        self._left = self._limits["total_bytes"]
        self._entries = 0
        self._seen: set[str] = set()

    def entry(self, name: str) -> None:
        """Count one name; two names that some file systems take for one are refused."""
        self._entries += 1
        if self._entries > self._limits["entries"]:
            raise refused(name, f"more than {self._limits['entries']} files")
        if name.casefold() in self._seen:
            raise refused(name, "stands there twice")
        self._seen.add(name.casefold())

    def copy(self, source: Path, target: Path) -> None:
        """Copy a plain file that is not replaced by a link meanwhile."""
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise refused(source.name, "is no plain file")
            self.pour(opened, target, source.name)

    def pour(self, opened: IO[bytes], target: Path, name: str, packed: int | None = None) -> None:
        """Write what `opened` gives to `target`, no more than is allowed, whatever a header says."""
        target.parent.mkdir(parents=True, exist_ok=True)
        bounds, written = self._limits, 0
        with target.open("xb") as out:
            while chunk := opened.read(_CHUNK):
                written += len(chunk)
                self._left -= len(chunk)
                if written > bounds["entry_bytes"] or self._left < 0:
                    raise refused(name, "is larger than a model may be")
                if packed is not None and written > max(bounds["ratio_from"], bounds["ratio"] * packed):
                    raise refused(name, "unpacks to far more than it holds")
                out.write(chunk)


def _folder(source: Path, into: Path) -> None:
    quota = _Quota()
    for path in _walk(source):
        name = safe_name(path.relative_to(source).as_posix())
        quota.entry(name)
        if path.is_symlink():
            raise refused(name, "is a link")
        if path.is_dir():
            continue
        if not stat.S_ISREG(path.stat(follow_symlinks=False).st_mode):
            raise refused(name, "is no plain file")
        quota.copy(path, into / name)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield what is in a folder, without following links."""
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        path = Path(entry.path)
        yield path
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(path)


def _zip(source: Path, into: Path) -> None:
    quota = _Quota()
    try:
        with zipfile.ZipFile(source) as archive:
            infos = archive.infolist()
            for info in infos:
                _entry(archive, info, into, quota)
    except ModelRefused:
        raise
    except Exception as error:  # zipfile and the decoders below it raise what a broken file makes them raise
        raise refused(source.name, f"cannot be unpacked ({type(error).__name__})") from error
    _lift(into)


def _entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo, into: Path, quota: _Quota) -> None:
    name = safe_name(info.orig_filename.rstrip("/"))  # `filename` was already mended by zipfile
    kind = (info.external_attr >> 16) & 0o170000
    quota.entry(name)
    if kind == _SYMLINK:
        raise refused(name, "is a link")
    if info.flag_bits & 1:
        raise refused(name, "is encrypted")
    if info.is_dir():
        return
    if kind not in {0, _FILE}:
        raise refused(name, "is no plain file")
    if info.file_size > limits()["archive"]["entry_bytes"]:
        raise refused(name, "is larger than a model may be")
    with archive.open(info) as opened:
        quota.pour(opened, into / PurePosixPath(name), name, info.compress_size)


def _lift(into: Path) -> None:
    """Take away the one folder in which archives of bundles usually wrap everything."""
    inside = list(into.iterdir())
    if len(inside) == 1 and inside[0].is_dir():
        wrapped = inside[0].rename(into / ".wrapped")
        for path in wrapped.iterdir():
            path.rename(into / path.name)
        shutil.rmtree(wrapped)
