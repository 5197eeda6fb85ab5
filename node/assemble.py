"""When is a study complete? Pure: facts in, a decision with its evidence out.

Work starts on weak evidence, because an early result costs nothing but time. Results leave on strong evidence or after
the quiet time, because a result on half a study is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["open", "early"]
End = Literal["open", "released", "aborted"]


@dataclass(frozen=True, slots=True)
class Times:
    """The waits, in seconds; as in ``[study]`` of the configuration."""

    settle_s: float
    quiet_s: float
    boot_grace_s: float
    max_open_s: float
    weak_images: int


@dataclass(frozen=True, slots=True)
class Sender:
    """One association that carried images of the study.

    Parameters
    ----------
    end : End
        ``open`` while it lasts; one whose process died is ``aborted``.
    images : int
        Images of this study that it carried, repeated ones included.
    whole : bool
        Whether this peer is declared to send whole studies.
    last, ended : float
        When its last image came and when it ended (s since the epoch); `ended` counts only if it has.
    """

    end: End
    images: int
    whole: bool
    last: float
    ended: float


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one unfinished study.

    Parameters
    ----------
    state : State
        ``early``: work has begun, nothing may leave yet.
    revision : int
        From 1.
    dropped : int
        Early results of this revision that a late image made void.
    opened, active : float
        First image of this revision; last image, repeated ones included (s since the epoch).
    senders : Sequence[Sender]
        In the order of their last image.
    continuous : bool
        Whether every stack of at least ``weak_images`` slices is without gaps, and there is one.
    """

    state: State
    revision: int
    dropped: int
    opened: float
    active: float
    senders: Sequence[Sender]
    continuous: bool


@dataclass(frozen=True, slots=True)
class KeepOpen:
    """Wait; without news nothing changes before `until`."""

    until: float
    why: str


@dataclass(frozen=True, slots=True)
class LooksComplete:
    """Begin to work, publish nothing."""

    why: str


@dataclass(frozen=True, slots=True)
class Close:
    """The revision stands: results may leave."""

    evidence: Literal["strong", "quiet", "max-open"]
    why: str

    def as_json(self) -> dict[str, Any]:
        """Return what the timeline says."""
        return {"evidence": self.evidence, "why": self.why}


Decision = KeepOpen | LooksComplete | Close


def weak(facts: Facts, weak_images: int) -> Sender | None:
    """Return the released association that makes the study look complete but for its geometry; None if there is none.

    While another association carries the study, it does not look complete.
    """
    if any(s.end == "open" for s in facts.senders):
        return None
    return next((s for s in reversed(facts.senders) if s.end == "released" and s.images >= weak_images), None)


def decide(facts: Facts, times: Times, boot: float, now: float) -> Decision:
    """Decide about one study.

    Parameters
    ----------
    facts : Facts
        What is known.
    times : Times
        The waits.
    boot : float
        When the node started (s since the epoch). A study that began before may be half-sent: its sender gets time to
        come back.
    now : float
        The time.
    """
    grace = boot + times.boot_grace_s if facts.opened < boot else boot
    if now < grace:
        return KeepOpen(grace, "the node has just started; the sender of this study may come back")
    # each further revision of a study whose images keep trickling in costs a second look at every result
    longest = max(times.max_open_s, times.quiet_s)
    quiet = facts.active + min(times.quiet_s * 2.0 ** min(facts.revision - 1, 30), longest)
    close = _close(facts, quiet, facts.opened + times.max_open_s, now)
    if close is not None:
        return close
    until = min(quiet, facts.opened + times.max_open_s)
    if facts.state == "early":
        return KeepOpen(until, "work has begun; waiting for the quiet time")
    sender = weak(facts, times.weak_images)
    if sender is None or not facts.continuous:
        return KeepOpen(until, "images may follow")
    settled = max(facts.active, sender.ended) + min(times.settle_s * 2.0 ** min(facts.dropped, 30), times.quiet_s)
    if now < settled:
        return KeepOpen(min(settled, until), "looks complete; letting it settle")
    return LooksComplete(f"{sender.images} images in one released association, stacks without gaps")


def _close(facts: Facts, quiet: float, longest: float, now: float) -> Close | None:
    """Close a study on strong evidence, after the quiet time, or because it has been open for too long."""
    last = facts.senders[-1] if facts.senders else None
    over = all(s.end != "open" for s in facts.senders)
    if last is not None and over and last.whole and last.end == "released":
        return Close("strong", "the peer sends whole studies and has released its association")
    if now >= quiet:
        return Close("quiet", f"no image for {now - facts.active:.1f} s")
    if now >= longest:
        return Close("max-open", f"open for {now - facts.opened:.0f} s")
    return None
