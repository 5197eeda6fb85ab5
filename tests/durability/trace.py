"""What a process asked of the kernel, from the text that ``strace -f -yy -xx`` wrote; pure.

A call has two lines in time: where it was entered and where it had returned. One step is *before* another only if it had
returned when the other was entered.
"""

import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CALLS = (
    "open,openat,creat,write,pwrite64,writev,fsync,fdatasync,link,linkat,rename,renameat,renameat2,"
    "mkdir,mkdirat,sendto,sendmsg,recvfrom,recvmsg"
)
OPTIONS = ("-f", "--seccomp-bpf", "-yy", "-xx", "-s", "400000", "-e", "signal=none", "-e", f"trace={CALLS}")
"""What strace has to be told so that `parse` understands it and the checks see all they need."""

_LINE = re.compile(r"^(\d+)\s+(.*)$", re.DOTALL)
_RESUMED = re.compile(r"^<\.\.\. (\w+) resumed>(.*)$", re.DOTALL)
_CALL = re.compile(r"^(\w+)\((.*)\)\s+= (-?\d+|\?)(?:<[^>]*>)?(?: (E\w+))?", re.DOTALL)
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_FILE = re.compile(r"^\d+<((?:\\x[0-9a-f]{2})+)>")
_SOCKET = re.compile(r"^\d+<(TCP(?:v6)?:\[.*?\])>,")


@dataclass(frozen=True, slots=True)
class Call:
    """One system call.

    Parameters
    ----------
    name : str
        Of the call.
    arguments : str
        As strace wrote them.
    result : int or None
        What it returned; None if it never did.
    error : str
        ``EIO`` and the like; empty if it succeeded.
    begin, end : int
        Lines at which it was entered and had returned.
    """

    name: str
    arguments: str
    result: int | None
    error: str
    begin: int
    end: int

    @property
    def texts(self) -> list[bytes]:
        """The strings among its arguments: names of files, data."""
        return [_bytes(text) for text in _TEXT.findall(self.arguments)]

    @property
    def file(self) -> str:
        """Path of the file whose descriptor is the first argument; empty if that is no file."""
        found = _FILE.match(self.arguments)
        return _bytes(found[1]).decode() if found else ""

    @property
    def socket(self) -> str:
        """Both ends of the connection whose descriptor is the first argument; empty if that is none."""
        found = _SOCKET.match(self.arguments)
        return found[1] if found else ""

    @property
    def done(self) -> bool:
        """Whether it returned, and without an error."""
        return self.result is not None and not self.error


def parse(text: str) -> tuple[Call, ...]:
    """Return the calls in a trace, in the order in which they returned."""
    calls: list[Call] = []
    entered: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(text.splitlines()):
        match = _LINE.match(line)
        if match is None:
            continue
        pid, rest = match[1], match[2]
        if rest.endswith("<unfinished ...>"):
            entered[pid] = (number, rest.removesuffix("<unfinished ...>").rstrip())
            continue
        begin = number
        resumed = _RESUMED.match(rest)
        if resumed is not None:
            if pid not in entered:
                continue
            begin, head = entered.pop(pid)
            rest = head + resumed[2]
        call = _CALL.match(rest)
        if call is not None:
            result = None if call[3] == "?" else int(call[3])
            calls.append(Call(call[1], call[2], result, call[4] or "", begin, number))
    return tuple(calls)


def phases(text: str) -> dict[str, str]:
    """Cut a trace where the process tried to open ``/phase/<name>``."""
    parts: dict[str, list[str]] = {}
    mark = "".join(f"\\x{byte:02x}" for byte in b"/phase/")
    name = ""
    for line in text.splitlines():
        if mark in line and "open" in line:
            name = _bytes(_TEXT.findall(line)[0]).decode().removeprefix("/phase/")
        parts.setdefault(name, []).append(line)
    return {name: "\n".join(lines) for name, lines in parts.items()}


@dataclass(frozen=True, slots=True)
class Message:
    """One DIMSE command on a socket: its fields, and when its first byte was begun and its last one had passed."""

    socket: str
    sent: bool
    command: int
    uid: str
    status: int | None
    begin: int
    end: int


def messages(calls: Sequence[Call]) -> tuple[Message, ...]:
    """Return the DIMSE commands that passed, in the order of their last byte (PS3.7 annex E, PS3.8 section 9.3.5)."""
    found = []
    for (socket, sent), pdus in _pdus(calls).items():
        for kind, body, begin, end in pdus:
            if kind != 4:
                continue
            for fields in _commands(body):
                number = _number(fields.get(0x0100)) or 0
                uid = (fields.get(0x1000) or fields.get(0x1001) or b"").rstrip(b"\0 ").decode()
                found.append(Message(socket, sent, number, uid, _number(fields.get(0x0900)), begin, end))
    return tuple(sorted(found, key=lambda message: message.end))


def callers(calls: Sequence[Call]) -> dict[str, str]:
    """Return the calling AE title of each association that was asked for on a socket (PS3.8 section 9.3.2)."""
    return {
        socket: body[20:36].decode().strip()
        for (socket, sent), pdus in _pdus(calls).items()
        for kind, body, _, _ in pdus
        if kind == 1 and not sent
    }


def _pdus(calls: Sequence[Call]) -> dict[tuple[str, bool], list[tuple[int, bytes, int, int]]]:
    """Put the bytes of each connection together, both ways, and cut them into (type, body, begin, end)."""
    streams: dict[tuple[str, bool], list[Call]] = {}
    for call in calls:
        if call.socket and call.done and call.result:
            streams.setdefault((call.socket, call.name.startswith("send")), []).append(call)
    return {key: list(_cut(stream)) for key, stream in streams.items()}


def _cut(stream: Iterable[Call]) -> Iterator[tuple[int, bytes, int, int]]:
    have, begin = b"", -1
    for call in stream:
        data = b"".join(call.texts)[: call.result]
        if not have:
            begin = call.begin
        have += data
        while len(have) >= 6:
            (length,) = struct.unpack_from(">L", have, 2)
            if len(have) < 6 + length:
                break
            yield have[0], have[6 : 6 + length], begin, call.end
            have, begin = have[6 + length :], call.begin


def _commands(body: bytes) -> Iterator[dict[int, bytes]]:
    """Return the command sets in a P-DATA PDU, each in one piece, as element -> value."""
    while len(body) >= 6:
        (length,) = struct.unpack_from(">L", body)
        control, item, body = body[5], body[6 : 4 + length], body[4 + length :]
        if control & 1:
            fields = {}
            while len(item) >= 8:
                _, element, size = struct.unpack_from("<HHL", item)
                fields[element] = item[8 : 8 + size]
                item = item[8 + size :]
            yield fields


def _number(value: bytes | None) -> int | None:
    return None if value is None or len(value) != 2 else int(struct.unpack("<H", value)[0])


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def flushed(calls: Sequence[Call], path: str | Path, after: int, before: int) -> bool:
    """Say whether `path` was flushed by a call that was entered after line `after` and had returned before `before`."""
    return any(
        c.name in {"fsync", "fdatasync"} and c.done and c.file == str(path) and c.begin > after and c.end < before
        for c in calls
    )


def named(calls: Sequence[Call], path: str | Path) -> list[tuple[str, Call]]:
    """Return the calls that gave a file the name `path`, each with the name that it had before."""
    found = []
    for call in calls:
        if call.name in {"link", "linkat", "rename", "renameat", "renameat2"} and call.done:
            old, new = (text.decode() for text in call.texts[-2:])
            if new == str(path):
                found.append((old, call))
    return found


def written(calls: Sequence[Call], path: str | Path) -> list[Call]:
    """Return the calls that put data into the file `path`."""
    return [c for c in calls if c.name in {"write", "pwrite64", "writev"} and c.done and c.file == str(path)]


def made(calls: Sequence[Call]) -> dict[str, Call]:
    """Return the folders and files that were made, with the call that made them."""
    found = {}
    for call in calls:
        new = call.name.startswith("mkdir") or (call.name in {"open", "openat"} and "O_CREAT" in call.arguments)
        if new and call.done:
            found[call.texts[0].decode()] = call
    return found
