"""A PACS that behaves badly on purpose: a table of scripts; a new enemy is a row.

`HostilePacs` stands before a real small PACS and meddles with the first connections, one protocol data unit (PDU) at a
time; later ones pass untouched.
"""

import contextlib
import gc
import socket
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from node.loopback_pacs import LoopbackPacs, Received
from tests.chaos.wire import ABORTS, AC, DATA, GARBAGE, RELEASE_RQ, RJ, RQ, pdu, pdv, read_pdu, reset

Where = Literal["connect", "request", "accept", "object", "answer", "release"]
"""When a script acts: on the new connection, on the A-ASSOCIATE-RQ, on its answer, on a P-DATA of the client, on a P-DATA
of the server, on the A-RELEASE-RQ."""


class Link:
    """One connection under way: the client, the server behind, and an end for those who wait."""

    def __init__(self, client: socket.socket, server: socket.socket, over: threading.Event) -> None:
        self.client, self.server, self.over = client, server, over

    def close(self) -> None:
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


Meddle = Callable[[Link, bytes], bool]
"""Gets the PDU that would have been passed on; sends what it likes; says whether the connection goes on as if it had."""


def _close(link: Link, _: bytes) -> bool:
    link.close()
    return False


def _reset(link: Link, _: bytes) -> bool:
    reset(link.client)
    link.close()
    return False


def _stall(link: Link, _: bytes) -> bool:
    link.over.wait()
    return False


def _swallow(_: Link, __: bytes) -> bool:
    return True


def _half_then(rest: Meddle) -> Meddle:
    def meddle(link: Link, whole: bytes) -> bool:
        link.client.sendall(whole[: len(whole) // 2])
        return rest(link, whole)

    return meddle


def _say(data: bytes, then: Meddle = _stall) -> Meddle:
    def meddle(link: Link, whole: bytes) -> bool:
        link.client.sendall(data)
        return then(link, whole)

    return meddle


def _lie_about_length(length: int) -> Meddle:
    """Send a PDU that claims to be so much longer or shorter than it is."""

    def meddle(link: Link, whole: bytes) -> bool:
        claimed = length if length > 1 << 20 else len(whole) - 6 + length
        link.client.sendall(whole[:2] + claimed.to_bytes(4) + whole[6:])
        return True

    return meddle


def drip(pause_s: float) -> Meddle:
    def meddle(link: Link, whole: bytes) -> bool:
        for byte in whole:
            link.client.sendall(bytes([byte]))
            if link.over.wait(pause_s):
                return False
        return True

    return meddle


def _replace(old: bytes, new: Callable[[bytes], bytes]) -> Meddle:
    """Overwrite the two bytes of a command element (its tag and length are `old`)."""

    def meddle(link: Link, whole: bytes) -> bool:
        at = whole.find(old) + len(old)
        if at >= len(old):
            whole = whole[:at] + new(whole[at : at + 2]) + whole[at + 2 :]
        link.client.sendall(whole)
        return True

    return meddle


def _status(status: int) -> Meddle:
    return _replace(bytes.fromhex("0000000902000000"), lambda _: status.to_bytes(2, "little"))


def _other_message() -> Meddle:
    return _replace(
        bytes.fromhex("0000200102000000"),
        lambda was: (int.from_bytes(was, "little") ^ 0x5500).to_bytes(2, "little"),
    )


def _twice(link: Link, whole: bytes) -> bool:
    link.client.sendall(whole + whole)
    return True


def _contexts(result: int) -> Meddle:
    """Accept the association and refuse each of its presentation contexts (PS3.8 table 9-18)."""

    def meddle(link: Link, whole: bytes) -> bool:
        data, at = bytearray(whole), 6 + 68
        while at + 4 <= len(data):
            if data[at] == 0x21:
                data[at + 6] = result
            at += 4 + int.from_bytes(data[at + 2 : at + 4])
        link.client.sendall(data)
        return True

    return meddle


def _tiny_pdus(size: int) -> Meddle:
    """Accept no more than `size` bytes in one PDU (PS3.8 annex D.1)."""

    def meddle(link: Link, whole: bytes) -> bool:
        link.client.sendall(_largest(whole, size))
        return True

    return meddle


def _largest(accept: bytes, size: int) -> bytes:
    data, at = bytearray(accept), 6 + 68
    while at + 4 <= len(data):
        if data[at] == 0x50:
            data[at + 8 : at + 12] = size.to_bytes(4)
        at += 4 + int.from_bytes(data[at + 2 : at + 4])
    return bytes(data)


@dataclass(frozen=True, slots=True)
class PacsScript:
    """What a hostile PACS does, when, and what a delivery to it comes to once it behaves.

    Parameters
    ----------
    nth : int
        The PDU of this kind on which it acts, from 1.
    ends : {"delivered", "dead"}
        State of the delivery in the end.
    """

    name: str
    at: Where
    do: Meddle
    nth: int = 1
    ends: Literal["delivered", "dead"] = "delivered"


_REJECTIONS = [(r, s, w) for r in (1, 2) for s, w in ((1, 1), (1, 2), (1, 3), (1, 7), (2, 1), (2, 2), (3, 1), (3, 2))]
_DEAD = (0x0117, 0x0122, 0x0124, 0xA900, 0xC000, 0xCFFF)
_AGAIN = (0x0110, 0x0213, 0xA700, 0xA7FF, 0xFE00, 0x7777)
_DONE = (0x0001, 0xB000, 0xB006, 0xB007, 0x0111)

PACS_SCRIPTS: tuple[PacsScript, ...] = (
    PacsScript("closes-at-once", "connect", _close),
    PacsScript("resets-at-once", "connect", _reset),
    PacsScript("says-nothing", "connect", _stall),
    PacsScript("talks-http", "connect", _say(b"HTTP/1.0 400 Bad Request\r\n\r\n", _close)),
    PacsScript("garbage-at-once", "connect", _say(GARBAGE)),
    *(PacsScript(f"rejects-{r}-{s}-{w}", "request", _say(pdu(RJ, bytes((0, r, s, w))), _close)) for r, s, w in _REJECTIONS),
    PacsScript("rejects-oddly", "request", _say(pdu(RJ, bytes((0, 9, 9, 9))), _close)),
    *(PacsScript(f"aborts-request-{n}", "request", _say(abort, _close)) for n, abort in enumerate(ABORTS)),
    PacsScript("closes-on-request", "request", _close),
    PacsScript("never-answers-request", "request", _stall),
    PacsScript("garbage-for-accept", "request", _say(GARBAGE)),
    PacsScript("half-accept-closed", "accept", _half_then(_close)),
    PacsScript("half-accept-stalled", "accept", _half_then(_stall)),
    PacsScript("accept-too-long", "accept", _lie_about_length(+100)),
    PacsScript("accept-too-short", "accept", _lie_about_length(-20)),
    PacsScript("accept-of-4-GiB", "accept", _lie_about_length(0xFFFFFFFF)),
    PacsScript("accept-drips", "accept", drip(0.2)),
    *(PacsScript(f"refuses-contexts-{n}", "accept", _contexts(n), ends="dead") for n in (1, 2, 3, 4)),
    PacsScript("takes-200-bytes-a-time", "accept", _tiny_pdus(200)),
    PacsScript("closes-on-command", "object", _close),
    PacsScript("resets-in-object", "object", _reset, 2),
    PacsScript("aborts-in-object", "object", _say(ABORTS[1], _close), 2),
    PacsScript("stalls-in-object", "object", _stall, 2),
    PacsScript("closes-on-second-object", "object", _close, 4),
    PacsScript("never-answers", "answer", _swallow),
    PacsScript("closes-for-answer", "answer", _close),
    PacsScript("resets-for-answer", "answer", _reset),
    PacsScript("aborts-for-answer", "answer", _say(ABORTS[0], _close)),
    PacsScript("aborts-for-second-answer", "answer", _say(ABORTS[0], _close), 2),
    PacsScript("half-answer-closed", "answer", _half_then(_close)),
    PacsScript("half-answer-stalled", "answer", _half_then(_stall)),
    PacsScript("garbage-for-answer", "answer", _say(GARBAGE)),
    PacsScript("unknown-pdu-for-answer", "answer", _say(pdu(0x55, GARBAGE))),
    PacsScript("empty-data-for-answer", "answer", _say(pdu(DATA, b""))),
    PacsScript("lying-pdv-for-answer", "answer", _say(pdu(DATA, pdv(1, 3, GARBAGE, 70000)))),
    PacsScript("garbage-command-for-answer", "answer", _say(pdu(DATA, pdv(1, 3, GARBAGE)))),
    PacsScript("answer-too-long", "answer", _lie_about_length(+100)),
    PacsScript("answer-too-short", "answer", _lie_about_length(-20)),
    PacsScript("answer-drips", "answer", drip(0.02)),
    PacsScript("answers-another-message", "answer", _other_message()),
    PacsScript("answers-twice", "answer", _twice),
    *(PacsScript(f"lies-{s:04x}", "answer", _status(s)) for s in (*_AGAIN, *_DONE)),
    *(PacsScript(f"lies-{s:04x}", "answer", _status(s), ends="dead") for s in _DEAD),
    PacsScript("never-answers-release", "release", _stall),
    PacsScript("aborts-for-release", "release", _say(ABORTS[0], _close)),
)  # fmt: skip


class HostilePacs:
    """A PACS on 127.0.0.1 that follows a script on its first connections and behaves afterwards; a context manager.

    Parameters
    ----------
    script : PacsScript
        What it does.
    folder : Path
        Of the small PACS behind it; what was stored is in `received`.
    times : int
        Connections that it meddles with.
    """

    def __init__(self, script: PacsScript, folder: Path, ae_title: str = "PACS", *, times: int = 1) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.script, self.ae_title = script, ae_title
        self._pacs = LoopbackPacs(folder, ae_title)
        self._left = times
        self.met = 0
        self._over = threading.Event()
        self._links: list[Link] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.host, self.port = self._listener.getsockname()
        threading.Thread(target=self._accept, daemon=True, name=f"pacs {script.name}").start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        let_go([self])

    def stop(self) -> None:
        """Stop listening and let go of everything; of several, see `let_go`."""
        self._over.set()
        self._listener.close()
        for link in self._links:
            link.close()
        self._pacs.stop()

    @property
    def received(self) -> list[Received]:
        """What the PACS behind has answered with success."""
        return self._pacs.received

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection((self._pacs.host, self._pacs.port))
            except OSError:
                return
            hostile = self._left > 0
            self._left -= hostile
            self.met += hostile
            link = Link(client, server, self._over)
            self._links.append(link)
            for direction in ("up", "down"):
                threading.Thread(target=self._pass, args=(link, direction, hostile), daemon=True).start()

    def _pass(self, link: Link, direction: Literal["up", "down"], hostile: bool) -> None:
        source, target = (link.client, link.server) if direction == "up" else (link.server, link.client)
        seen: dict[Where, int] = {}
        with contextlib.suppress(OSError):
            if direction == "up" and hostile and self.script.at == "connect":
                self.script.do(link, b"")
                return
            while whole := read_pdu(source):
                where = _where(direction, whole[0])
                if where is not None:
                    seen[where] = seen.get(where, 0) + 1
                if hostile and where == self.script.at and seen[where] == self.script.nth:
                    if not self.script.do(link, whole):
                        return
                    continue
                target.sendall(whole)
        link.close()


def _where(direction: Literal["up", "down"], kind: int) -> Where | None:
    up: dict[int, Where] = {RQ: "request", DATA: "object", RELEASE_RQ: "release"}
    down: dict[int, Where] = {AC: "accept", DATA: "answer"}
    return (up if direction == "up" else down).get(kind)


def let_go(enemies: Iterable[HostilePacs]) -> None:
    """Stop them all at once; each waits for its own threads."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(HostilePacs.stop, enemies))
    gc.collect()  # the network library leaves sockets that were reset to the collector: now, not in another test
