"""How the clocks of the machine stand to each other, and how the time of day has jumped: one row that outlives processes."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import sqlalchemy as sa

from node.store import tables as t
from node.store.engine import Database
from node.store.sql import insert

_KEY = "clocks"
KEPT = 16
"""So many jumps are remembered: more than can happen between the writing of a record and its reading."""
SLACK_S = 0.25
"""Two clocks are not read in one instant (`READING_S`), and records know milliseconds."""
READING_S = 0.1


@dataclass(frozen=True, slots=True)
class Jump:
    """The time of day was set.

    Parameters
    ----------
    seconds : float
        By how much; positive: forwards.
    before : float
        The latest time that the clock can have shown before.
    after : float
        The earliest time that it can have shown since.
    """

    seconds: float
    before: float
    after: float

    @classmethod
    def noticed(cls, seconds: float, now: float, since: float) -> "Jump":
        """Return a jump that came after `since`, as the clock then showed it, and was noticed `now`."""
        after = since + seconds
        if seconds > 0:  # looked at too seldom to know better: what stands before the jump is older
            after = max(after, now - seconds + 2 * SLACK_S)
        return cls(seconds, now - seconds, after)


@dataclass(frozen=True, slots=True)
class Clocks:
    """What is known of the clocks.

    Parameters
    ----------
    run : str
        Names the run of the machine: its steady clock begins anew with the next one.
    offset : float
        How far the time of day is ahead of the steady clock (s).
    seen : float
        The last time of day that was written down.
    hold_until : float
        Nothing ends by its age before.
    behind : float
        By how much the machine came back before the last time seen, and was not set right since (s).
    jumps : Sequence[Jump]
        The last ones, in their order.
    """

    run: str
    offset: float
    seen: float
    hold_until: float = 0.0
    behind: float = 0.0
    jumps: Sequence[Jump] = field(default=())

    def moved(self, stamp: float, steady: float) -> float:
        """Return a time of day that was stamped under any of these clocks as the present one would have shown it."""
        seconds, latest = 0.0, self.offset + steady
        for jump in reversed(self.jumps):
            if jump.after - SLACK_S <= stamp <= latest + SLACK_S:
                break
            seconds, latest = seconds + jump.seconds, jump.before
        # later than any clock has shown: it has jumped once more, which is not noticed yet
        return stamp + seconds if stamp <= latest + SLACK_S else stamp

    def plausible(self, run: str, now: float, steady: float, least_s: float) -> bool:
        """Say whether ages can be believed: no jump is unnoticed, and none, nor a long absence, has just been."""
        return run == self.run and abs(now - steady - self.offset) < least_s and now >= self.hold_until


def read(db: Database) -> Clocks | None:
    """Return what was written down last."""
    with db.read() as c:
        return known(c)


def known(c: sa.Connection) -> Clocks | None:
    """Return it as part of the caller's transaction."""
    text = c.execute(sa.select(t.meta.c.value).where(t.meta.c.key == _KEY)).scalar_one_or_none()
    if text is None:
        return None
    row = json.loads(text)
    return Clocks(**{**row, "jumps": tuple(Jump(**jump) for jump in row["jumps"])})


def put(db: Database, clocks: Clocks) -> None:
    """Write it down."""
    with db.write() as c:
        note(c, clocks)


def note(c: sa.Connection, clocks: Clocks) -> None:
    """Write it down as part of the caller's transaction."""
    row = {"value": json.dumps(asdict(clocks))}
    c.execute(insert(t.meta).values(key=_KEY, **row).on_conflict_do_update(index_elements=["key"], set_=row))
