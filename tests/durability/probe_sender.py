"""A worker and a courier whose order can be spoiled, one step at a time. To be run under strace.

``python probe_sender.py FOLDER PORT FILES NAME...``: for each NAME the slices in FILES become a study in ``FOLDER/NAME``,
its job is run and its result sent to the PACS on PORT, with the step NAME spoiled (``real``: none). Prints one JSON line
for each: UIDs and paths of what was written.
"""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import sqlalchemy as sa
from pydicom import dcmread

from dicom_io.files import sync_file, sync_folder
from dicom_io.scu import StoreReport
from dicom_io.status import Outcome
from node import log
from node.courier import Courier
from node.selection import select
from node.store import deliveries, jobs
from node.transport import Network
from sr_writer import files
from tests.node.desk import Desk

LATER_S = 0.4
_store, _finish, _rename, _settle = Network.store, jobs.finish, Path.replace, deliveries.settle
_nothing = patch.object(log, "study_hash", log.study_hash)  # a patch that changes nothing


def _rename_then_flush(temporary: Path, path: Path) -> Path:
    named = _rename(temporary, path)
    if path.suffix == ".dcm":
        sync_file(path)
    return named


def _write_then_rename(temporary: Path, path: Path) -> Path:
    if path.suffix == ".dcm":
        with temporary.open("ab") as file:
            file.write(b"\0" * 8)
    return _rename(temporary, path)


def _flush_folder_then_rename(temporary: Path, path: Path) -> Path:
    if not list(path.parent.glob("*.dcm")):  # once: before the next rename it would come after this one
        sync_folder(path.parent)
    return _rename(temporary, path)


def _flushes_off(desk: Desk) -> None:
    """Let the database commit without flushing from now on."""
    sa.event.listen(desk.db.engine, "connect", lambda c, _record: c.execute("PRAGMA synchronous = OFF"))
    desk.db.engine.dispose()


def _send_then_finish(desk: Desk, network: Network) -> Callable[..., bool]:
    def finish(*arguments: Any, **more: Any) -> bool:
        paths = [desk.folder.path / a.path for a in more["artifacts"]]
        assert all(r.status == 0 for r in _store(network, paths))
        return _finish(*arguments, **more)

    return finish


def _mark_then_send(desk: Desk) -> Callable[..., Iterator[StoreReport]]:
    def store(self: Network, paths: Sequence[Path]) -> Iterator[StoreReport]:
        for state in ("delivered", "sending"):  # back again: what is no longer being sent is not sent
            with desk.db.write() as c:
                c.exec_driver_sql("UPDATE delivery SET state = ?", (state,))
        yield from _store(self, paths)

    return store


def _send_unheard(self: Network, paths: Sequence[Path]) -> Iterator[StoreReport]:
    """Report success and send later."""
    threading.Timer(LATER_S, lambda: list(_store(self, paths))).start()
    for path in paths:
        yield StoreReport(path, str(dcmread(path).SOPInstanceUID), 0x0000, Outcome.DELIVERED)


def _settle_unflushed(desk: Desk) -> Callable[..., bool]:
    def settle(*arguments: Any, **more: Any) -> bool:
        _flushes_off(desk)
        return _settle(*arguments, **more)

    return settle


Spoil = Callable[[Desk, Network], Any]
SPOILED: dict[str, tuple[set[str], Spoil]] = {
    # name -> (the faults that must be found, how)
    "no file flush": ({"file-flush"}, lambda _d, _n: patch.object(files, "sync_file", lambda _path: None)),
    "file flush after rename": (
        {"file-flush"},
        lambda _d, _n: _both(
            patch.object(files, "sync_file", lambda _path: None), patch.object(Path, "replace", _rename_then_flush)
        ),
    ),
    "data after file flush": ({"write-after-flush"}, lambda _d, _n: patch.object(Path, "replace", _write_then_rename)),
    "no folder flush": ({"folder-flush"}, lambda _d, _n: patch.object(files, "sync_folder", lambda _path: None)),
    "folder flush before rename": (
        {"folder-flush"},
        lambda _d, _n: _both(
            patch.object(files, "sync_folder", lambda _path: None),
            patch.object(Path, "replace", _flush_folder_then_rename),
        ),
    ),
    "sent before commit": ({"commit"}, lambda d, n: patch.object(jobs, "finish", _send_then_finish(d, n))),
    "no flush of commits": ({"commit-flush", "mark-flush"}, lambda d, _n: (_flushes_off(d), _nothing)[1]),
    "marked before answer": ({"answer"}, lambda d, _n: patch.object(Network, "store", _mark_then_send(d))),
    "answer not waited for": ({"answer"}, lambda _d, _n: patch.object(Network, "store", _send_unheard)),
    "no mark": ({"mark"}, lambda _d, _n: patch.object(deliveries, "settle", lambda *_a, **_m: False)),
    "no flush of mark": ({"mark-flush"}, lambda d, _n: patch.object(deliveries, "settle", _settle_unflushed(d))),
}


@contextlib.contextmanager
def _both(*patches: Any) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for each in patches:
            stack.enter_context(each)
        yield


def _run(folder: Path, port: int, slices: Sequence[Path], name: str) -> dict[str, str]:
    desk = Desk(folder)
    place = replace(desk.settings.destination[0], port=port, check_study=False, proof="none")
    desk.receive(slices)
    desk.after(4000.0)
    courier = Courier(desk.db, desk.folder.path, place, "NODE", now=lambda: desk.now)
    network: Any = courier._attempts._transport
    spoil: Any = contextlib.nullcontext() if name == "real" else SPOILED[name][1](desk, network)
    with spoil:
        assert desk.work() == [True]
        (job,) = jobs.jobs(desk.db, str(dcmread(slices[0]).StudyInstanceUID))
        leaves = select(place.wants, jobs.artifacts(desk.db, job)).objects
        written = {a.sop_uid: str(desk.folder.path / a.path) for a in leaves}
        assert courier.step()
    if name == "answer not waited for":
        time.sleep(2 * LATER_S)
    desk.stop()
    return written


if __name__ == "__main__":
    log.configure()
    sources = sorted(Path(sys.argv[3]).glob("*.dcm"))
    for each in sys.argv[4:]:
        with contextlib.suppress(OSError):
            Path("/phase", each).read_bytes()
        said = {"name": each, "artifacts": _run(Path(sys.argv[1]) / each, int(sys.argv[2]), sources, each)}
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
