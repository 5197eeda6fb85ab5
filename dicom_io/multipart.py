"""Multipart messages, read while they arrive: constant memory, whatever the size of a part.

References
----------
RFC 2046 section 5.1 (multipart), RFC 2387 (multipart/related), RFC 9110 section 5.6.6 (parameters).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from dicom_io.errors import UnreadableError
from dicom_io.reasons import REASONS

BOUNDARY_BYTES: Final = 70
"""A boundary is no longer (RFC 2046 section 5.1.1)."""
_HEADER_BYTES: Final = 8192
_PREAMBLE_BYTES: Final = 65536
_PADDING_BYTES: Final = 64
"""White space that may stand between a boundary and the end of its line."""
_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_TYPE: Final = re.compile(r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*")
_PARAMETER: Final = re.compile(r';\s*(?:([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;"]+))?\s*')


@dataclass(frozen=True, slots=True)
class MediaType:
    """A Content-Type: type in lower case, and its parameters, names in lower case."""

    name: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def media_type(text: str) -> MediaType | None:
    """Read a Content-Type; None if it is none."""
    begun = _TYPE.match(text)
    if begun is None:
        return None
    parameters: dict[str, str] = {}
    at = begun.end()
    while at < len(text):
        found = _PARAMETER.match(text, at)
        if found is None:
            return None
        at = found.end()
        if found[1] is not None:
            value = found[2]
            if value.startswith('"'):
                value = re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL)
            if parameters.setdefault(found[1].lower(), value) != value:
                return None  # two boundaries: two readers may each take another one
    return MediaType(begun[1].lower(), parameters)


def boundary_of(kind: MediaType) -> bytes:
    """Return the boundary of a multipart message.

    Raises
    ------
    UnreadableError
        ``multipart-broken`` if there is none, or none that RFC 2046 allows.
    """
    named = kind.parameters.get("boundary", "")
    if not _BOUNDARY.fullmatch(named):
        raise _broken("boundary")
    return named.encode("ascii")


class Parts(Protocol):
    """What a reader tells about the parts; data come in pieces of any size, valid during the call only."""

    def begin(self, headers: Mapping[str, str]) -> None:
        """Begin a part; names of headers are in lower case."""

    def data(self, piece: memoryview) -> None:
        """Take some of the bytes of the part."""

    def end(self) -> None:
        """End the part: it is whole."""


class Reader:
    """Reads one message in pieces.

    Parameters
    ----------
    boundary : bytes
        As `boundary_of` returns it.
    parts : Parts
        Told of each part in the order of the message. What it raises goes through; the reader is spent then.
    """

    def __init__(self, boundary: bytes, parts: Parts) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._parts = parts
        self._state: Literal["preamble", "headers", "body", "epilogue"] = "preamble"
        self._rest = b"\r\n"  # a message may begin with its first delimiter
        self._skipped = 0

    @property
    def ended(self) -> bool:
        """Whether the closing delimiter has come."""
        return self._state == "epilogue"

    def feed(self, piece: bytes) -> None:
        """Take the next bytes.

        Raises
        ------
        UnreadableError
            ``multipart-broken``.
        """
        data = self._rest + piece
        at = 0
        while self._state != "epilogue":
            before = at, self._state
            at = self._headers(data, at) if self._state == "headers" else self._content(data, at)
            if (at, self._state) == before:
                break
        self._rest = b"" if self._state == "epilogue" else data[at:]

    def close(self) -> None:
        """Say that nothing more comes.

        Raises
        ------
        UnreadableError
            ``multipart-broken`` if the closing delimiter has not come.
        """
        if not self.ended:
            raise _broken("end")

    def _content(self, data: bytes, at: int) -> int:
        """Pass on what is certainly no delimiter; return where to go on."""
        search = at
        while True:
            found = data.find(self._delimiter, search)
            if found < 0:
                # what may be the beginning of a delimiter stays for the next call
                tail = data.find(b"\r", max(at, len(data) - len(self._delimiter) + 1))
                keep = len(data) if tail < 0 else tail
                self._pass(data, at, keep)
                return keep
            after = self._line_end(data, found + len(self._delimiter))
            if after is None:  # cannot be told yet
                self._pass(data, at, found)
                return found
            if after:
                break
            search = found + 2  # a line that only begins like a delimiter
        self._pass(data, at, found)
        if self._state == "body":
            self._parts.end()
        if after < 0:
            self._state = "epilogue"
            return len(data)
        self._state = "headers"
        return after

    def _pass(self, data: bytes, begin: int, end: int) -> None:
        if self._state == "body":
            if end > begin:
                self._parts.data(memoryview(data)[begin:end])
            return
        self._skipped += end - begin
        if self._skipped > _PREAMBLE_BYTES:
            raise _broken("preamble")

    @staticmethod
    def _line_end(data: bytes, at: int) -> int | None:
        """Return where the line of a delimiter ends, -1 for the closing one, 0 if it is none, None: not known yet."""
        if data[at : at + 2] == b"--":
            return -1
        padded = at
        while padded < min(len(data), at + _PADDING_BYTES) and data[padded] in b" \t":
            padded += 1
        line = data[padded : padded + 2]
        if line == b"\r\n":
            return padded + 2
        return None if line in (b"", b"\r") or (line == b"-" and padded == at) else 0

    def _headers(self, data: bytes, at: int) -> int:
        if data[at : at + 2] == b"\r\n":
            end, after = at, at + 2
        else:
            end = data.find(b"\r\n\r\n", at, at + _HEADER_BYTES)
            after = end + 4
            if end < 0:
                if len(data) - at >= _HEADER_BYTES:
                    raise _broken("headers")
                return at
        headers: dict[str, str] = {}
        for line in data[at:end].split(b"\r\n") if end > at else ():
            name, colon, value = line.partition(b":")
            if not colon or not name.strip() or name != name.strip() or b"\r" in line or b"\n" in line:
                raise _broken("headers")
            headers[name.decode("latin-1").lower()] = value.decode("latin-1").strip()
        self._parts.begin(headers)
        self._state = "body"
        return after


def _broken(where: str) -> UnreadableError:
    return UnreadableError(REASONS("multipart-broken", where=where))
