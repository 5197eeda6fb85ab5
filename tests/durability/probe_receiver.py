"""A receiver whose order can be spoiled, one step at a time. To be run under strace.

``python probe_receiver.py FOLDER NAME...``: one receiver after the other, each on ``FOLDER/NAME``, with the step NAME
spoiled. Prints a JSON line when one listens, and goes on to the next when a line comes in. ``real`` is the receiver
process as the supervisor starts it, unspoiled; it ends with its pipe.
"""

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from pathlib import Path
from typing import Any
from unittest.mock import patch

from config.settings import Dicom, Node, Settings
from dicom_io import files
from node import log, receive, spool
from node.child import heard
from node.installation import DataFolder
from node.spool import JournalWriter

LATER_S = 0.4
_real = {name: getattr(os, name) for name in ("link", "write", "fdatasync")}
_sync, _sync_folder, _append = spool.sync_file, spool.sync_folder, JournalWriter.append


def _is_entry(folder: Path) -> bool:
    return len(folder.name) == 2


def _no_file_flush(_path: Path) -> None:
    """Leave the file to the kernel."""


def _no_folder_flush(which: Callable[[Path], bool]) -> Callable[[Path], None]:
    return lambda folder: None if which(folder) else _sync_folder(folder)


def _link_then_flush(source: Path, target: Path) -> None:
    _real["link"](source, target)
    _sync(source)


def _write_then_link(source: Path, target: Path) -> None:
    with source.open("ab") as file:
        file.write(b"\0")
    _real["link"](source, target)


def _flush_folder_then_link(source: Path, target: Path) -> None:
    _sync_folder(target.parent)
    _real["link"](source, target)


def _flush_then_write(descriptor: int, data: bytes) -> int:
    if Path(f"/proc/self/fd/{descriptor}").readlink().suffix == ".jsonl":
        _real["fdatasync"](descriptor)
    return int(_real["write"](descriptor, data))


def _flush_later(descriptor: int) -> None:
    threading.Timer(LATER_S, _real["fdatasync"], [descriptor]).start()


def _no_record(self: JournalWriter, record: dict[str, Any]) -> int:
    return 1 if "entry" in record else _append(self, record)


def _record_later(self: JournalWriter, record: dict[str, Any]) -> int:
    if "entry" not in record:
        return _append(self, record)
    threading.Timer(LATER_S, _append, [self, record]).start()
    return 1


def _record_of_another(self: JournalWriter, record: dict[str, Any]) -> int:
    return _append(self, {**record, "calling": "ANOTHER"} if "entry" in record else record)


@contextlib.contextmanager
def _after_record(step: str) -> Iterator[None]:
    """Put off linking, or flushing the folder, until the record is durable."""
    waiting = threading.local()

    def put_off(*arguments: Path) -> None:
        waiting.call = arguments

    def append(self: JournalWriter, record: dict[str, Any]) -> int:
        number = _append(self, record)
        if "entry" in record:
            (_real["link"] if step == "link" else _sync_folder)(*waiting.call)
        return number

    def folder(path: Path) -> None:
        put_off(path) if _is_entry(path) else _sync_folder(path)

    late = patch.object(os, "link", put_off) if step == "link" else patch.object(spool, "sync_folder", folder)
    with late, patch.object(JournalWriter, "append", append):
        yield


@contextlib.contextmanager
def _spoiled(*patches: Any) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for each in patches:
            stack.enter_context(each)
        yield


SPOILED: dict[str, tuple[str, Callable[[], Any]]] = {
    # name -> (the fault that must be found, how)
    "no file flush": ("file-flush", lambda: patch.object(spool, "sync_file", _no_file_flush)),
    "file flush after link": (
        "file-flush",
        lambda: _spoiled(patch.object(spool, "sync_file", _no_file_flush), patch.object(os, "link", _link_then_flush)),
    ),
    "data after file flush": ("write-after-flush", lambda: patch.object(os, "link", _write_then_link)),
    "no link": ("link", lambda: patch.object(os, "link", lambda _a, _b: None)),
    "link after record": ("link", lambda: _after_record("link")),
    "no folder flush": ("folder-flush", lambda: patch.object(spool, "sync_folder", _no_folder_flush(_is_entry))),
    "folder flush before link": (
        "folder-flush",
        lambda: _spoiled(
            patch.object(spool, "sync_folder", _no_folder_flush(_is_entry)),
            patch.object(os, "link", _flush_folder_then_link),
        ),
    ),
    "folder flush after record": ("folder-flush", lambda: _after_record("folder")),
    "no record": ("record", lambda: patch.object(JournalWriter, "append", _no_record)),
    "record after answer": ("record", lambda: patch.object(JournalWriter, "append", _record_later)),
    "no record flush": ("record-flush", lambda: patch.object(os, "fdatasync", lambda _fd: None)),
    "record flush before record": (
        "record-flush",
        lambda: _spoiled(patch.object(os, "fdatasync", lambda _fd: None), patch.object(os, "write", _flush_then_write)),
    ),
    "record flush after answer": ("record-flush", lambda: patch.object(os, "fdatasync", _flush_later)),
    "no journal name": (
        "journal-name",
        lambda: patch.object(spool, "sync_folder", _no_folder_flush(lambda f: f.name == "journal")),
    ),
    "no folder name": (
        "folder-name",
        lambda: patch.object(files, "sync_folder", _no_folder_flush(lambda f: f.name == "spool")),
    ),
    "no name of the data folder": (
        "folder-name",
        lambda: patch.object(files, "sync_folder", _no_folder_flush(lambda f: f == Path(sys.argv[1]))),
    ),
    "record of another association": ("socket", lambda: patch.object(JournalWriter, "append", _record_of_another)),
}


def settings(folder: Path) -> Settings:
    return Settings(node=Node(data_dir=folder), dicom=Dicom(port=0))


def _say(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _serve_real(folder: Path) -> None:
    ours, theirs = Pipe()

    def attend() -> None:
        _say(name="real", **heard(ours))
        sys.stdin.readline()
        ours.close()

    threading.Thread(target=attend, daemon=True).start()
    receive.run_receiver(settings(folder), theirs)


def _serve_spoiled(folder: Path, name: str) -> None:
    if "link" in name:
        DataFolder(folder).prepare()  # a folder gets its identity by a link, too
    with SPOILED[name][1]():
        receiver = receive.Receiver(settings(folder))
        _say(name=name, port=receiver.start().port)
        sys.stdin.readline()
        receiver.stop(grace_s=0.1)


if __name__ == "__main__":
    log.configure()
    for each in sys.argv[2:]:
        with contextlib.suppress(OSError):
            Path("/phase", each).read_bytes()
        place = Path(sys.argv[1]) / each
        _serve_real(place) if each == "real" else _serve_spoiled(place, each)
