"""Whether a traced process kept the order that durability needs; pure. A fault is the step that was not there in time."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.durability.trace import Call, callers, flushed, made, messages, named, written

STORE_RSP, STORE_RQ = 0x8001, 0x0001
ANSWERS = frozenset({STORE_RSP, 0x8100, 0x8120, 0x8130, 0x8140})
"""Responses that acknowledge: C-STORE, N-EVENT-REPORT, N-SET, N-ACTION, N-CREATE."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`step` was missing, or came too late, for the object `uid`."""

    uid: str
    step: str


@dataclass(frozen=True, slots=True)
class _Record:
    """One record of a journal and the call that wrote it."""

    content: Mapping[str, Any]
    call: Call


def received(calls: Sequence[Call], data_dir: Path) -> tuple[list[str], list[Fault]]:
    """Check every object and notice that was acknowledged.

    The order is: data written, file flushed, linked, folder flushed, record written, record flushed, answered - on the
    socket of the association that the record names. Names of new folders and journals are flushed before the answer.

    Returns
    -------
    acknowledged : list[str]
        UIDs of what was answered with 0x0000, in that order.
    faults : list[Fault]
        What was not done in time.
    """
    spool = data_dir / "spool"
    records = _records(calls, spool / "journal")
    sockets = callers(calls)
    seen: dict[tuple[str, str], int] = defaultdict(int)
    acknowledged, faults = [], []
    for answer in messages(calls):
        if not answer.sent or answer.command not in ANSWERS or answer.status != 0:
            continue
        acknowledged.append(answer.uid)
        mine = [r for r in records if answer.uid in (r.content.get("sop"), r.content.get("uid"))]
        calling = sockets.get(answer.socket, "")
        here = [r for r in mine if r.content["calling"] == calling]
        number = seen[answer.uid, calling]
        seen[answer.uid, calling] += 1
        if mine and not here:
            faults.append(Fault(answer.uid, "socket"))
        elif number >= len(here) or here[number].call.end > answer.begin:
            faults.append(Fault(answer.uid, "record"))
        else:
            record = here[number]
            faults += [Fault(answer.uid, step) for step in _chain(calls, spool, record, answer.begin)]
    return acknowledged, faults


def _records(calls: Sequence[Call], journals: Path) -> list[_Record]:
    found = []
    for call in calls:
        if call.name != "write" or not call.done or Path(call.file).parent != journals:
            continue
        for line in b"".join(call.texts).splitlines():
            content = json.loads(line)
            if "entry" in content:
                found.append(_Record(content, call))
    return found


def _chain(calls: Sequence[Call], spool: Path, record: _Record, answer: int) -> list[str]:
    """Return the steps that one acknowledged entry lacks."""
    faults = []
    write = record.call
    if not flushed(calls, write.file, write.end, answer):
        faults.append("record-flush")
    entry = spool / str(record.content["entry"])
    links = [(source, call) for source, call in named(calls, entry) if call.end < write.begin]
    if not links:
        return [*faults, "link"]
    source, link = links[0]
    faults += _file(calls, source, link)
    if not flushed(calls, entry.parent, link.end, write.begin):
        faults.append("folder-flush")
    new = made(calls)
    for path in (write.file, *map(str, entry.parents)):
        if path in new and not flushed(calls, Path(path).parent, new[path].end, answer):
            faults.append("journal-name" if path == write.file else "folder-name")
    return faults


def _file(calls: Sequence[Call], source: str, naming: Call) -> list[str]:
    """Return what was not done for a file before it got its name."""
    last = max((c.end for c in written(calls, source)), default=-1)
    if flushed(calls, source, last, naming.begin):
        return []
    return ["write-after-flush" if flushed(calls, source, -1, naming.begin) else "file-flush"]


def sent(calls: Sequence[Call], data_dir: Path, artifacts: Mapping[str, Path]) -> list[Fault]:
    """Check every artifact (SOP Instance UID -> file) on its way out.

    The order is: data written, file flushed, renamed, folder flushed, commit written and flushed that registers it, sent,
    answer read, commit that marks the delivery.
    """
    wal = written(calls, f"{data_dir / 'node.sqlite3'}-wal")
    told = messages(calls)
    faults = []
    for uid, path in artifacts.items():
        request = next((m for m in told if m.sent and m.command == STORE_RQ and m.uid == uid), None)
        if request is None:
            faults.append(Fault(uid, "sent"))
            continue
        steps = _registered(calls, wal, uid, path, request.begin)
        mark = next((c for c in wal if any(b"delivered" in text for text in c.texts)), None)
        answers = [m for m in told if not m.sent and m.command == STORE_RSP and m.uid == uid and m.begin > request.end]
        if mark is None:
            steps.append("mark")
        elif not any(m.end < mark.begin for m in answers):
            steps.append("answer")
        elif not flushed(calls, mark.file, mark.end, 1 << 62):
            steps.append("mark-flush")
        faults += [Fault(uid, step) for step in steps]
    return faults


def _registered(calls: Sequence[Call], wal: Sequence[Call], uid: str, path: Path, send: int) -> list[str]:
    """Return what was not done for an artifact before it was sent."""
    faults = []
    commit = next((c for c in wal if any(uid.encode() in text for text in c.texts)), None)
    bound = send
    if commit is None or commit.end > send:
        faults.append("commit")
    else:
        bound = commit.begin
        if not flushed(calls, commit.file, commit.end, send):
            faults.append("commit-flush")
    names = [(source, call) for source, call in named(calls, path) if call.end < bound]
    if not names:
        return [*faults, "rename"]
    source, rename = names[-1]
    faults += _file(calls, source, rename)
    if not flushed(calls, path.parent, rename.end, bound):
        faults.append("folder-flush")
    return faults
