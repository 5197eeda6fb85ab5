"""Places for associations, over all receiver processes of a node: how many there are in all and for one peer.

Each process writes to its own row of a shared table and reads those of the others. Whoever wants a place takes it first
and then looks whether that was one too many: two that take the last place at the same moment may both give it back and
try again, but they never both keep it. No lock is held, so a process that is killed blocks nobody; who watches over the
processes clears its row (`Slots.clear`).
"""

import ctypes
import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace

Table = list[int] | ctypes.Array[ctypes.c_uint64]
"""Memory of one process, or shared memory."""

_LOAD = 0
"""First cell of a row: how many connections the process holds, and one; 0: it accepts none."""
REMEMBERED_PEERS = 4096


def table_size(processes: int, associations: int) -> int:
    """Return how many cells of 64 bits the table of `processes` needs."""
    return processes * (associations + 1)


def peer_key(address: str, calling: str) -> int:
    """Return the number that stands for a peer in the table; never 0."""
    digest = hashlib.blake2b(f"{calling}@{address}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") | 1


@dataclass(frozen=True, slots=True)
class Slots:
    """The places of one process.

    Parameters
    ----------
    table : Table
        `table_size` cells, 0 at first; shared by all processes.
    in_all, per_peer : int
        How many associations there may be, over all processes.
    row : int
        Which process this is.
    """

    table: Table
    in_all: int
    per_peer: int
    row: int = 0

    @classmethod
    def alone(cls, in_all: int, per_peer: int) -> "Slots":
        """Return the places of a process that is the only one."""
        return cls([0] * table_size(1, in_all), in_all, per_peer)

    def of(self, row: int) -> "Slots":
        """Return the same table as process `row` sees it."""
        return replace(self, row=row)

    def clear(self) -> None:
        """Free every place of this process."""
        begin = self.row * (self.in_all + 1)
        for cell in range(begin, begin + self.in_all + 1):
            self.table[cell] = 0

    def take(self, peer: int) -> int | None:
        """Take a place for `peer`; return its number, or None if there is none.

        One thread of a process takes places.
        """
        begin = self.row * (self.in_all + 1) + 1
        own = self.table[begin : begin + self.in_all]
        if 0 not in own:
            return None
        cell = begin + list(own).index(0)
        self.table[cell] = peer
        if self.taken() > self.in_all or self.taken(peer) > self.per_peer:
            self.table[cell] = 0
            return None
        return cell

    def give_back(self, cell: int) -> None:
        """Free a place."""
        self.table[cell] = 0

    def taken_here(self) -> int:
        """Return how many places this process has taken."""
        begin = self.row * (self.in_all + 1) + 1
        own = list(self.table[begin : begin + self.in_all])
        return self.in_all - own.count(0)

    def taken(self, peer: int | None = None) -> int:
        """Return how many places are taken, by all or by one peer."""
        cells = [row[_LOAD + 1 :] for row in self._rows()]
        if peer is not None:
            return sum(row.count(peer) for row in cells)
        return sum(len(row) - row.count(0) for row in cells)

    def tell_load(self, load: int) -> None:
        """Let the other processes know how many connections this one has."""
        self.table[self.row * (self.in_all + 1)] = load + 1

    def least_elsewhere(self) -> int | None:
        """Return how many connections the least busy other process has; None: there is no other."""
        others = [row[_LOAD] - 1 for number, row in enumerate(self._rows()) if number != self.row and row[_LOAD]]
        return min(others, default=None)

    def _rows(self) -> Iterator[list[int]]:
        cells = list(self.table)
        width = self.in_all + 1
        return (cells[begin : begin + width] for begin in range(0, len(cells), width))


class Pace:
    """How often each peer may open an association: a bucket of tokens that fills steadily.

    Parameters
    ----------
    per_second : float
        0: as often as it likes.
    """

    def __init__(self, per_second: float) -> None:
        self._rate = per_second
        self._full: OrderedDict[int, float] = OrderedDict()
        """By peer: when its bucket is full again."""

    def allows(self, peer: int, now: float | None = None) -> bool:
        """Take a token of `peer`, if it has one: as many as it gets in a second, but at least one, wait for it."""
        if not self._rate:
            return True
        now = time.monotonic() if now is None else now
        full = max(self._full.get(peer, now), now) + 1 / self._rate
        if full > now + max(1.0, 1 / self._rate):
            return False
        self._full[peer] = full
        self._full.move_to_end(peer)
        while len(self._full) > REMEMBERED_PEERS:
            self._full.popitem(last=False)
        return True
