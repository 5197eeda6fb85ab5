"""How fast a sender sends: what its recent studies say about how long to wait for its next image. Pure.

The quiet time is a safety factor times the longest pause of its recent studies. While an association is open only a pause
can end, so pauses of any kind count; when all are over, only pauses between associations do. A sender has to be seen often
and long enough before it may wait less than the configured time; it waits longer at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from config.settings import StudyTimes
from dicom_io.reason import Reason
from node import retry
from node.assemble import Quiet
from node.reasons import REASONS
from node.store.rows import Seen


@dataclass(frozen=True, slots=True)
class Pace:
    """The quiet times of one sender (s), and whether they are learned."""

    seen: Seen
    open_s: float
    over_s: float
    learned: bool


def pace(seen: Seen, times: StudyTimes) -> Pace:
    """Return how long to wait for a sender."""
    if times.pace == "fixed":
        return Pace(seen, times.quiet_s, times.quiet_s, learned=False)
    numbers = retry.policy()["pace"]
    enough = seen.studies >= numbers["studies"] and seen.last - seen.first >= numbers["hours"] * 3600.0
    least = times.quiet_min_s if enough else times.quiet_s
    most = max(times.quiet_max_s, least)

    def wait(pause_s: float) -> float:
        return min(max(float(numbers["factor"]) * pause_s, least), most)

    return Pace(seen, max(wait(max(seen.within_s, seen.between_s)), times.quiet_s), wait(seen.between_s), enough)


def quiet(seen: Sequence[Seen], times: StudyTimes, *, broken: bool) -> Quiet:
    """Return the waits of a study with these senders: those of the slowest.

    Parameters
    ----------
    seen : Sequence[Seen]
        One for each sender.
    times : StudyTimes
        Of the configuration.
    broken : bool
        Whether the last association was aborted: its sender will come back, and how soon no pace says.
    """
    if not seen:
        return Quiet(times.quiet_s, times.quiet_s, REASONS("waits-quiet", seconds=f"{times.quiet_s:.0f}"))
    slowest = max((pace(one, times) for one in seen), key=lambda p: (p.over_s, p.open_s))
    open_s = max(pace(one, times).open_s for one in seen)
    over_s = max(slowest.over_s, times.quiet_s) if broken else slowest.over_s
    return Quiet(open_s, over_s, _why(slowest, over_s))


def _why(slowest: Pace, over_s: float) -> Reason:
    seen, seconds = slowest.seen, f"{over_s:.0f}"
    if not slowest.learned:
        return REASONS("waits-quiet", seconds=seconds)
    return REASONS(
        "waits-pace", seconds=seconds, sender=seen.sender, studies=seen.studies, pause=f"{seen.between_s:.0f}"
    )


def doubted(seen: Sequence[Seen]) -> frozenset[str]:
    """Return the kinds of strong evidence that late images of these senders have refuted too often to be believed."""
    limit = retry.policy()["pace"]["refuted"]
    return frozenset(kind for one in seen for kind, count in one.refuted.items() if count >= limit)


def senders(seen: Sequence[Seen], times: StudyTimes) -> list[dict[str, Any]]:
    """Return the senders as `status` tells them."""
    return [
        {
            "ae_title": p.seen.sender, "studies": p.seen.studies,
            "longest_pause_s": round(max(p.seen.within_s, p.seen.between_s), 3),
            "quiet_s": round(p.over_s, 3), "quiet_open_s": round(p.open_s, 3), "learned": p.learned,
            "doubted": sorted(doubted([p.seen])),
        }
        for p in (pace(one, times) for one in sorted(seen, key=lambda s: s.sender))
    ]  # fmt: skip
