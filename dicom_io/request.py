"""An association request as bytes: who asks whom, and whether it can be read at all.

References
----------
PS3.8 section 9.3.2 (A-ASSOCIATE-RQ), annex D (user information); PS3.7 annex D.3.3 (negotiation).
"""

import struct
from collections.abc import Iterator
from typing import Final

TITLES: Final = slice(10, 42)
"""Where the called and the calling AE title are, 16 characters each."""
_ITEMS: Final = 74
_ITEM: Final = struct.Struct(">BxH")
_CONTEXT, _ABSTRACT, _SYNTAX, _USER = 0x20, 0x30, 0x40, 0x50
_KNOWN_USER_ITEMS: Final = range(0x51, 0x59)
_ROLES: Final = 0x54
_LONGEST_UID: Final = 64


class UnreadableRequestError(Exception):
    """A request that cannot be negotiated.

    `why` is a code: ``title``, ``item-length``, ``context-id``, ``transfer-syntax``, ``uid``, ``role-selection``, ``item``
    (something else in one).
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def titles(request: bytes) -> tuple[str, str]:
    """Return the called and the calling AE title, without what would move the cursor of who reads them."""
    both = "".join(c if c.isprintable() else "?" for c in request[TITLES].decode("ascii", "replace"))
    return both[:16].strip(), both[16:].strip()


def has_title(request: bytes) -> bool:
    """Say whether the calling AE title is one: not empty, and nothing but printable ASCII (PS3.5 table 6.2-1)."""
    title = request[TITLES][16:].strip(b" ")
    return bool(title) and all(0x20 <= byte < 0x7F and byte != 0x5C for byte in title)


def readable(request: bytes) -> bytes:
    """Return the request without user information items that we do not know: they are to be ignored.

    Raises
    ------
    UnreadableRequestError
        If there is something in it with which nothing can be negotiated.
    """
    kept = [request[6:_ITEMS]]
    for kind, item in _items(request[_ITEMS:]):
        if kind == _CONTEXT:
            _judge_context(item)
        left = b"".join(_user_items(item)) if kind == _USER else item
        kept.append(_ITEM.pack(kind, len(left)) + left)
    body = b"".join(kept)
    return struct.pack(">BxL", request[0], len(body)) + body


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        if len(data) - at < _ITEM.size:
            raise UnreadableRequestError("item-length")
        kind, length = _ITEM.unpack_from(data, at)
        at += _ITEM.size + length
        if at > len(data):
            raise UnreadableRequestError("item-length")
        yield kind, data[at - length : at]


def _judge_context(item: bytes) -> None:
    if len(item) < 4:
        raise UnreadableRequestError("item-length")
    if item[0] % 2 == 0:
        raise UnreadableRequestError("context-id")
    found = list(_items(item[4:]))
    for kind, uid in found:
        if kind not in (_ABSTRACT, _SYNTAX):
            raise UnreadableRequestError("item")
        if len(uid.rstrip(b"\0")) > _LONGEST_UID:
            raise UnreadableRequestError("uid")
    if _SYNTAX not in {kind for kind, _ in found}:
        raise UnreadableRequestError("transfer-syntax")


def _user_items(item: bytes) -> Iterator[bytes]:
    for kind, value in _items(item):
        if kind == _ROLES and (len(value) < 4 or len(value) != 4 + int.from_bytes(value[:2])):
            raise UnreadableRequestError("role-selection")
        if kind in _KNOWN_USER_ITEMS:
            yield _ITEM.pack(kind, len(value)) + value
