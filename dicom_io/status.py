"""What a C-STORE status means: those that we answer, and what to do about those that we get.

References
----------
PS3.4 table B.2-1 (storage service), PS3.7 annex C (general statuses).
"""

from dataclasses import dataclass
from enum import Enum, IntEnum


class Answer(IntEnum):
    """The statuses that our storage SCP answers with."""

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    NOT_AUTHORISED = 0x0124
    OUT_OF_RESOURCES = 0xA700
    DATASET_MISMATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000


class Outcome(Enum):
    """What a sender does after the answer to a C-STORE request."""

    DELIVERED = "delivered"
    DELIVERED_WITH_WARNING = "delivered-with-warning"
    CHECK = "check"
    """The peer says that it has the instance already: delivered if a query shows that, else dead."""
    RETRY = "retry"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class StatusRow:
    """One row: statuses from `first` to `last` (inclusive), what to do, and the code of the reason to record."""

    first: int
    last: int
    outcome: Outcome
    code: str | None


TABLE: tuple[StatusRow, ...] = (
    StatusRow(0x0000, 0x0000, Outcome.DELIVERED, None),
    StatusRow(0x0001, 0x0001, Outcome.DELIVERED_WITH_WARNING, "peer-warned"),
    StatusRow(0x0107, 0x0107, Outcome.DELIVERED_WITH_WARNING, "peer-warned"),
    StatusRow(0x0110, 0x0110, Outcome.RETRY, "peer-cannot-now"),
    StatusRow(0x0111, 0x0111, Outcome.CHECK, "peer-has-instance"),
    StatusRow(0x0116, 0x0116, Outcome.DELIVERED_WITH_WARNING, "peer-warned"),
    StatusRow(0x0117, 0x0117, Outcome.DEAD, "peer-refused-object"),
    StatusRow(0x0122, 0x0122, Outcome.DEAD, "peer-refused-class"),
    StatusRow(0x0124, 0x0124, Outcome.DEAD, "peer-not-authorised"),
    StatusRow(0x0210, 0x0210, Outcome.RETRY, "peer-cannot-now"),
    StatusRow(0x0211, 0x0212, Outcome.DEAD, "peer-refused-object"),
    StatusRow(0x0213, 0x0213, Outcome.RETRY, "peer-cannot-now"),
    StatusRow(0xA700, 0xA7FF, Outcome.RETRY, "peer-cannot-now"),
    StatusRow(0xA900, 0xA9FF, Outcome.DEAD, "peer-refused-object"),
    StatusRow(0xB000, 0xBFFF, Outcome.DELIVERED_WITH_WARNING, "peer-warned"),
    StatusRow(0xC000, 0xCFFF, Outcome.DEAD, "peer-refused-object"),
    StatusRow(0xFE00, 0xFE00, Outcome.RETRY, "peer-cannot-now"),
)
"""C-STORE status -> outcome, ascending and without overlap. B000, B006 and B007 are the standard's warnings; every
status of that family says that the object was stored."""

NO_ANSWER = StatusRow(-1, -1, Outcome.RETRY, "no-answer")
"""No status came: whether the peer stored the object is unknown, and C-STORE may be repeated."""

UNKNOWN = StatusRow(0, 0xFFFF, Outcome.RETRY, "peer-status-unknown")
"""A status that no row names; attempts are bounded by the caller."""


def judge(status: int | None) -> StatusRow:
    """Return the row for `status`; None is an empty answer."""
    if status is None:
        return NO_ANSWER
    return next((row for row in TABLE if row.first <= status <= row.last), UNKNOWN)
