"""``pacs-ai-node doctor``: whether this machine is fit to run the node."""

import importlib
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from node.cli.common import common_options, print_json, settings_of

if TYPE_CHECKING:
    from config import Settings

_FREE_GIB = 10
_FORGETS = frozenset({"tmpfs", "ramfs"})
_UNSAFE = frozenset({"nobarrier", "barrier=0", "data=writeback", "sync=disabled"})
"""Options of ext4, XFS and others under which a flush need not reach the disk, or an old file's content may come back."""


@click.command(name="doctor")
@click.option(
    "--rebuild-index",
    is_flag=True,
    help="Make the index anew from spool and journals; the node must not run. The old database is kept.",
)
@common_options
def command(config_file: Path | None, *, rebuild_index: bool, as_json: bool, quiet: bool, verbose: bool) -> int:
    """Check this machine and this installation; every problem says what to do.

    Exit code 1: something would keep the node from working; after a rebuild: something that had been received is lost.
    """
    del verbose
    settings = settings_of(config_file)
    if rebuild_index:
        from node.cli._rebuild import rebuild

        return rebuild(settings, as_json=as_json, quiet=quiet)
    rows = [{"check": name, "ok": ok, "says": says} for name, ok, says in _checks(settings)]
    if as_json:
        print_json({"schema": "pacs-ai-node/doctor/1", "checks": rows})
    elif not quiet:
        for row in rows:
            click.echo(f"{'ok  ' if row['ok'] else 'FAIL'} {row['check']}: {row['says']}")
    return 0 if all(row["ok"] for row in rows) else 1


def _checks(settings: "Settings") -> Iterator[tuple[str, bool, str]]:
    for name, check in (
        ("data folder", _data_folder),
        ("disk", _disk),
        ("names", _names),
        ("index", _index),
        ("database server", _server),
        ("flushing", _flushing),
        ("pixel decoders", _decoders),
        ("pipelines", _torch),
        ("web", _web),
    ):
        ok, says = check(settings)
        yield name, ok, says
    yield from _tls(settings)
    yield "Chinese font", *_font()


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.absolute().parent)


def _data_folder(settings: "Settings") -> tuple[bool, str]:
    folder = settings.node.data_dir
    place = _existing(folder)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return False, f"{folder} cannot be written: change node.data_dir or its permissions"
    return True, str(folder.absolute())


def _disk(settings: "Settings") -> tuple[bool, str]:
    free = shutil.disk_usage(_existing(settings.node.data_dir)).free / 2**30
    least = settings.storage.min_free_mb / 1024
    if free < least * 1.25:
        return (
            False,
            f"{free:.1f} GiB free: below {least:.1f} GiB (storage.min_free_mb) every image is refused; make room",
        )
    if free < _FREE_GIB:
        return (
            False,
            f"{free:.1f} GiB free where the data stand: a chest CT takes up to 0.5 GiB; make room for {_FREE_GIB} GiB",
        )
    return True, f"{free:.0f} GiB free"


def _names(settings: "Settings") -> tuple[bool, str]:
    from node.watermarks import Limits, room

    have = room(_existing(settings.node.data_dir)).free_names
    least = 10 * Limits.of(settings.storage).free_names
    if have is not None and have < least:
        return False, f"{have} inodes free where the data stand: every image takes one; make room for {least}"
    return True, "as many as there is space" if have is None else f"{have} inodes free"


def _index(settings: "Settings") -> tuple[bool, str]:
    """Open the database as `serve` and every other command do."""
    from node.store import StoreError, exists, open_database, place_of

    place = place_of(settings)
    try:
        if not exists(place):
            return True, "none yet; `pacs-ai-node serve` makes it"
        open_database(place).close()
    except (OSError, StoreError) as error:
        return False, str(error)
    return True, "opens"


def _server(settings: "Settings") -> tuple[bool, str]:
    """Look at the database server, where there is one."""
    import time

    from node.store import StoreError, examine, place_of

    try:
        found = examine(place_of(settings), time.time)
    except StoreError as error:
        return False, str(error)
    if found is None:
        return True, "none: the index is a file in the data folder"
    what, wrong = found
    return (False, "; ".join(wrong)) if wrong else (True, what)


def _flushing(settings: "Settings") -> tuple[bool, str]:
    """Try on the data's file system what every acknowledgement rests on."""
    from dicom_io.files import mounted_as, try_flushing

    place = _existing(settings.node.data_dir)
    kind, options = mounted_as(place)
    try:
        took_s = try_flushing(place)
    except OSError as error:
        return False, f"{place} ({kind}): {error.strerror}; received images could not be made durable: use another disk"
    if kind in _FORGETS:
        return False, f"{place} is in memory ({kind}): a power cut takes everything; name a disk in node.data_dir"
    if unsafe := sorted(_UNSAFE & set(options)):
        return False, f"{place} ({kind}) is mounted with {', '.join(unsafe)}: flushes may do nothing; mount it without"
    return True, f"{kind}, {took_s * 1000:.1f} ms for a file, a link and its folder"


def _decoders(_settings: "Settings") -> tuple[bool, str]:
    missing = [name for name in ("gdcm", "openjpeg", "jpeg_ls", "pylibjpeg") if not _importable(name)]
    if missing:
        return False, f"missing: {', '.join(missing)}; install the package again (pip install pacs-ai-node)"
    return True, "JPEG, JPEG-LS, JPEG 2000, HTJ2K, RLE"


def _torch(settings: "Settings") -> tuple[bool, str]:
    if not _importable("torch"):
        return False, "torch is not installed: pip install 'pacs-ai-node[ai]'; without it nothing is analysed"
    from pipeline.device import pick

    return True, f"torch on {pick(settings.worker.device)}"


def _tls(settings: "Settings") -> Iterator[tuple[str, bool, str]]:
    from dicom_io.tls_check import complaints
    from node.certificates import named

    for place, tls in named(settings):
        found = [f"{reason.text['en']} {reason.hint['en']}" for _, reason in complaints(tls, datetime.now(UTC))]
        yield place, not found, " ".join(found) or "can be used"


def _web(settings: "Settings") -> tuple[bool, str]:
    from node.web import missing
    from node.web.auth import Clients, TokenError

    if absent := missing(settings):
        return False, absent
    if settings.web.port is None:
        return True, "STOW-RS is off (no web.port)"
    try:
        Clients(settings.web)
    except TokenError as error:
        return False, str(error)
    return True, f"STOW-RS on {settings.web.host}:{settings.web.port}{settings.web.base}"


def _importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _font() -> tuple[bool, str]:
    from sr_writer.fonts import has_chinese

    if not has_chinese():
        return False, "none found: pictures are written in English only; on Debian: apt-get install fonts-wqy-microhei"
    return True, "found"
