"""Folders, zip archives and single files: every file that is met is read or told with a reason.

References
----------
PKWARE APPNOTE.TXT 4.3 (zip); DICOM PS3.10 section 7.1 (preamble).
"""

import contextlib
import hashlib
import os
import stat
import struct
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from dicom_io.errors import UnreadableError
from dicom_io.limits import LIMITS
from dicom_io.model import Instance
from dicom_io.read import read_instance
from dicom_io.reason import Reason
from dicom_io.reasons import REASONS

_CHUNK: Final = 1 << 20
_PREAMBLE: Final = 132
_ZIP_END: Final = 65_535 + 22 + 20 + 56
"""The end of an archive: the longest comment, and the records before it (bytes)."""
_SYSTEM_FILES: Final = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


@dataclass(frozen=True, slots=True)
class Found:
    """One file that was met on the way.

    Parameters
    ----------
    path : Path
        Where its bytes are: the file itself, or its copy in the scratch folder.
    display : str
        How to name it to a person; inside an archive ``archive.zip/member``.
    instance : Instance or None
        What was read.
    reason : Reason or None
        Why nothing was read; None exactly if `instance` is given.
    skipped : bool
        Whether leaving it out is as it should be (a DICOMDIR), not a fault of the file.
    """

    path: Path
    display: str
    instance: Instance | None
    reason: Reason | None
    skipped: bool = False


def discover(paths: Iterable[Path], scratch: Path) -> Iterator[Found]:
    """Read every file below `paths`, in sorted order.

    Parameters
    ----------
    paths : Iterable[Path]
        Folders (walked, symbolic links to folders not followed), zip files and single files.
    scratch : Path
        Existing folder for what is unpacked; names there never come from an archive. The caller removes it.

    Yields
    ------
    Found
        One for each file, and for each folder that cannot be read; the caller decides about copies of one instance.

    Raises
    ------
    OSError
        If `scratch` cannot be written.
    """
    for path in paths:
        root = path if path.is_dir() else path.parent
        for file, reason in _walk(path, scratch):
            display = shown(file.relative_to(root).as_posix())
            if reason is not None:
                yield Found(file, display, None, reason, skipped=reason.klass == "note")
            elif _is_zip(file):
                yield from _unpack(file, display, scratch)
            else:
                yield _look(file, display)


def shown(name: str) -> str:
    r"""Return a file's name fit for documents and terminals: what is not printable, or no UTF-8, as ``\xNN``."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _look(path: Path, display: str) -> Found:
    if path.name in _SYSTEM_FILES or Path(display).name in _SYSTEM_FILES or "__MACOSX" in Path(display).parts:
        return Found(path, display, None, REASONS("system-file"), skipped=True)
    try:
        return Found(path, display, read_instance(path), None)
    except UnreadableError as error:
        return Found(path, display, None, error.reason, skipped=error.reason.klass == "note")


def _walk(path: Path, scratch: Path) -> Iterator[tuple[Path, Reason | None]]:
    """Yield every file below `path`; with a reason what is no file, and folders that cannot be read.

    Each folder's files come before its folders. Without recursion: folders may be nested deeper than Python's stack.
    """
    if not path.is_dir():
        yield path, _not_readable(path)
        return
    folders = [path]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            yield folder, REASONS("unreadable-folder")
            continue
        below = [Path(e) for e in found if e.is_dir(follow_symlinks=False)]
        folders += [f for f in reversed(below) if f != scratch]
        yield from ((Path(e), _not_readable(Path(e))) for e in found if not e.is_dir(follow_symlinks=False))


def _not_readable(path: Path) -> Reason | None:
    """Return why `path` is not to be opened: opening a pipe or a device may never end."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return REASONS("unreadable-file")
    if stat.S_ISDIR(mode):
        return REASONS("linked-folder")
    return None if stat.S_ISREG(mode) else REASONS("special-file")


def _is_zip(path: Path) -> bool:
    """Whether the file starts as a zip archive does; a DICOM preamble may hold anything, so ``DICM`` wins."""
    try:
        with path.open("rb") as file:
            head = file.read(_PREAMBLE)
    except OSError:
        return False
    return head[:4] in {b"PK\x03\x04", b"PK\x05\x06"} and head[128:] != b"DICM"


def _unpack(archive: Path, display: str, scratch: Path) -> Iterator[Found]:
    try:
        if _directory_bytes(archive) > LIMITS.archive.directory_bytes:
            yield Found(archive, display, None, REASONS("archive-too-large"))
            return
        with zipfile.ZipFile(archive) as opened:
            members = sorted((m for m in opened.infolist() if not m.filename.endswith("/")), key=lambda m: m.filename)
            if len(members) > LIMITS.archive.entries:
                yield Found(archive, display, None, REASONS("archive-too-large"))
                return
            stem = hashlib.sha256(os.fsencode(archive.absolute())).hexdigest()[:16]
            # entries that overlap would each be unpacked from the same bytes: all together are held to the ratio
            room = min(LIMITS.archive.total_bytes, _unpacked_bytes(archive.stat().st_size))
            for number, member in enumerate(members):
                target = scratch / f"{stem}-{number:06d}.dcm"
                found = _member(opened, member, target, room)
                with contextlib.suppress(FileNotFoundError):
                    room -= target.stat().st_size
                if found.instance is None:
                    target.unlink(missing_ok=True)
                name = f"{display}/{shown(member.filename)}"
                yield replace(found, display=name, path=target if found.instance else archive)
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError):
        yield Found(archive, display, None, REASONS("archive-damaged"))


def _unpacked_bytes(packed: int) -> int:
    return int(LIMITS.archive.compression_ratio * packed) + _CHUNK


def _directory_bytes(archive: Path) -> int:
    """Return the length of an archive's list of entries; the library would read all of it before it can be asked.

    APPNOTE 4.3.14 to 4.3.16; 0 if there is none, about which the library complains by itself.
    """
    with archive.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _ZIP_END))
        tail = file.read()
    if (at := tail.rfind(b"PK\x06\x06")) >= 0 and len(tail) >= at + 48:
        return int(struct.unpack_from("<Q", tail, at + 40)[0])
    if (at := tail.rfind(b"PK\x05\x06")) >= 0 and len(tail) >= at + 16:
        return int(struct.unpack_from("<L", tail, at + 12)[0])
    return 0


def _member(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, room: int) -> Found:
    """Unpack one member to `target` and read it; at most `room` bytes are written."""
    if member.flag_bits & 1:
        return Found(target, member.filename, None, REASONS("archive-encrypted"))
    # measured against what is really written: the sizes that an archive states are claims
    room = min(LIMITS.archive.entry_bytes, room, _unpacked_bytes(member.compress_size))
    try:
        if not _extract(opened, member, target, room):
            return Found(target, member.filename, None, REASONS("archive-too-large"))
    except zipfile.BadZipFile:
        return Found(target, member.filename, None, REASONS("archive-damaged"))
    if _is_zip(target):
        return Found(target, member.filename, None, REASONS("archive-nested"), skipped=True)
    return _look(target, member.filename)


def _extract(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, room: int) -> bool:
    """Write one member to `target`; False as soon as it grows beyond `room` bytes."""
    with target.open("wb") as out:
        for block in _blocks(opened, member):
            room -= len(block)
            if room < 0:
                return False
            out.write(block)
    return True


def _blocks(opened: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """Yield the content of one member; whatever its compression method raises becomes BadZipFile."""
    try:
        with opened.open(member) as source:
            while block := source.read(_CHUNK):
                yield block
    except Exception as error:
        raise zipfile.BadZipFile(member.filename) from error
