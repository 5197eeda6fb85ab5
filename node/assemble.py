"""When is a study complete? Pure: facts in, a decision with its evidence out.

Work starts on weak evidence, because an early result costs nothing but time. Results leave on strong evidence or after
the quiet time, because a result on half a study is wrong.

Strong evidence (the first that holds is named):

* *procedure-step*: no performed procedure step of the study is in progress, every image that they name has arrived, and
  we hold none that they do not name. A completed step that names nothing leaves it unknown what it made; a discontinued
  one that names nothing made nothing.
* *count*: a source that was asked twice counted the same both times, and in every series as much as we hold.
* *sender*: a peer that is declared to send whole studies has released its association, and was the last to send. After
  an association that broke off, only one that brings everything again says so: a sender may go on with what is left, and
  bring the image whose answer it lost later still. If nothing of a broken association was kept, no release says so.

An instance availability notification closes nothing by itself: it says that what it names can be had, and archives send
one for a series or a batch as well as for a study (PS3.4 annex R). What it names and we lack keeps the study open, and
beside finished steps it names images too.

Evidence against completeness (a step in progress, an image named or counted that has not arrived, a required series that
is missing) outweighs any of this and the quiet time; such a study closes when it has been open for too long. Evidence of
a kind that late images of the same sender have refuted before is not evidence from that sender (`node.pace`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dicom_io.reason import Reason
from node.reasons import REASONS

State = Literal["open", "early"]
End = Literal["open", "released", "aborted"]
StepStatus = Literal["IN PROGRESS", "COMPLETED", "DISCONTINUED"]
Kind = Literal["procedure-step", "count", "sender"]


@dataclass(frozen=True, slots=True)
class Times:
    """The waits, in seconds; as in ``[study]`` of the configuration."""

    settle_s: float
    boot_grace_s: float
    max_open_s: float
    weak_images: int


@dataclass(frozen=True, slots=True)
class Quiet:
    """How long no image must come (s): while an association that carries the study is open, and when all are over.

    `why` says whose pace that is.
    """

    open_s: float
    over_s: float
    why: Reason


@dataclass(frozen=True, slots=True)
class Sender:
    """One association that carried images of the study.

    Parameters
    ----------
    end : End
        ``open`` while it lasts; one whose process died is ``aborted``, and so is one of which something was not taken,
        because that comes again.
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
class Step:
    """One performed procedure step of the study: how many images it names, and how many of them have not arrived."""

    status: StepStatus
    named: int
    missing: int


@dataclass(frozen=True, slots=True)
class Count:
    """What a source counts, beside what we hold.

    Parameters
    ----------
    source : str
        Its AE title.
    more : int
        Images that it has in its series and we do not hold.
    equal : bool
        Whether it has, series by series, exactly what we hold.
    steady : bool
        Whether it has said the same twice, long enough apart.
    """

    source: str
    more: int
    equal: bool
    steady: bool


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
    quiet : Quiet
        The waits that the senders' pace asks for.
    steps : Sequence[Step]
        Performed procedure steps.
    unnamed : int
        Images that we hold and that neither a step nor a notification names.
    available : int
        Images that an availability notification names and that have not arrived.
    counts : Sequence[Count]
        One for each source that has answered.
    required : Sequence[str]
        What matching rules still miss: ``rule: tests``.
    doubted : frozenset[str]
        Kinds of strong evidence that these senders' late images have refuted too often.
    deaf : float
        Until when nothing could be received: the node was not there, or refused (s since the epoch). Silence before that
        says nothing.
    apart : int
        Images that the last association has not brought, if one has broken off.
    lost : int
        Associations of these senders, of late, of which something was not taken and nothing of this study was.
    """

    state: State
    revision: int
    dropped: int
    opened: float
    active: float
    senders: Sequence[Sender]
    continuous: bool
    quiet: Quiet
    steps: Sequence[Step] = ()
    unnamed: int = 0
    available: int = 0
    counts: Sequence[Count] = ()
    required: Sequence[str] = ()
    doubted: frozenset[str] = frozenset()
    deaf: float = 0.0
    apart: int = 0
    lost: int = 0

    @property
    def listening(self) -> float:
        """Since when no image has come although it could (s since the epoch)."""
        return max(self.active, self.deaf)


@dataclass(frozen=True, slots=True)
class Wait:
    """One thing that a study waits for, or waited for; without news it does so until then (s since the epoch)."""

    reason: Reason
    until: float


@dataclass(frozen=True, slots=True)
class KeepOpen:
    """Wait; without news nothing changes before `until`."""

    until: float
    waits: tuple[Wait, ...]

    @property
    def why(self) -> str:
        """The same in one line."""
        return _line(self.waits)


@dataclass(frozen=True, slots=True)
class LooksComplete:
    """Begin to work, publish nothing."""

    waits: tuple[Wait, ...]

    @property
    def why(self) -> str:
        """The same in one line."""
        return _line(self.waits)


@dataclass(frozen=True, slots=True)
class Close:
    """The revision stands: results may leave. `by` is the kind of strong evidence."""

    evidence: Literal["strong", "quiet", "max-open"]
    waits: tuple[Wait, ...]
    by: Kind | None = None

    @property
    def why(self) -> str:
        """The same in one line."""
        return _line(self.waits)

    def as_json(self) -> dict[str, Any]:
        """Return what the timeline says."""
        waited = [{"what": w.reason.code, "detail": dict(w.reason.text)} for w in self.waits]
        return {"evidence": self.evidence, "by": self.by, "why": self.why, "waited_for": waited}


Decision = KeepOpen | LooksComplete | Close


def weak(facts: Facts, weak_images: int) -> Sender | None:
    """Return the released association that makes the study look complete but for its geometry; None if there is none.

    While another association carries the study, or something is known to be missing, it does not look complete.
    """
    if any(s.end == "open" for s in facts.senders) or against(facts):
        return None
    return next((s for s in reversed(facts.senders) if s.end == "released" and s.images >= weak_images), None)


def against(facts: Facts) -> tuple[Reason, ...]:
    """Return what says that the study is not complete, whatever else is known."""
    said = []
    if running := sum(s.status == "IN PROGRESS" for s in facts.steps):
        said.append(REASONS("waits-step-in-progress", count=running))
    if missing := sum(s.missing for s in facts.steps):
        said.append(REASONS("waits-named-images", count=missing))
    if facts.available:
        said.append(REASONS("waits-available-images", count=facts.available))
    said += [REASONS("waits-counted-images", source=c.source, count=c.more) for c in facts.counts if c.more]
    said += [REASONS("waits-required-series", rule=rule) for rule in facts.required]
    return tuple(said)


def proof(facts: Facts) -> tuple[tuple[Kind, Reason], ...]:
    """Return all strong evidence that there is, the best first, doubted or not and whatever says otherwise."""
    found: list[tuple[Kind, Reason]] = []
    named = sum(s.named for s in facts.steps)
    final = all(s.status != "IN PROGRESS" and not s.missing for s in facts.steps)
    said = all(s.named or s.status == "DISCONTINUED" for s in facts.steps)
    if named and final and said and not facts.unnamed:
        found.append(("procedure-step", REASONS("complete-procedure-step", images=named, steps=len(facts.steps))))
    if counted := [c.source for c in facts.counts if c.equal and c.steady]:
        found.append(("count", REASONS("complete-count", source=", ".join(counted))))
    if _sent_whole(facts):
        found.append(("sender", REASONS("complete-sender")))
    return tuple(found)


def trusted(facts: Facts) -> tuple[tuple[Kind, Reason], ...]:
    """Return the strong evidence that is not doubted."""
    return tuple((kind, reason) for kind, reason in proof(facts) if kind not in facts.doubted)


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
    grace = boot + times.boot_grace_s
    if facts.opened < boot and now < grace:
        return KeepOpen(grace, (Wait(REASONS("waits-boot-grace"), grace),))
    longest = max(facts.opened + times.max_open_s, facts.deaf + facts.quiet.over_s)
    contra = against(facts)
    quiet = _quiet(facts, times)
    close = _close(facts, contra, quiet, longest, now)
    if close is not None:
        return close
    # an hour of trickling is enough, even where nothing has contradicted
    until = longest if contra else min(quiet, longest)
    waits = [Wait(reason, longest) for reason in contra]
    if facts.deaf >= now:
        waits.append(Wait(REASONS("waits-refusing"), until))
    waits += [Wait(REASONS("doubted-evidence", kind=kind), until) for kind, _ in proof(facts) if kind in facts.doubted]
    if not contra:
        waits.append(Wait(facts.quiet.why, until))
    if facts.state == "early":
        return KeepOpen(until, (*waits, Wait(REASONS("waits-work-begun"), until)))
    sender = weak(facts, times.weak_images)
    if sender is None or not facts.continuous:
        return KeepOpen(until, tuple(waits))
    settle_s = min(times.settle_s * 2.0 ** min(facts.dropped, 30), max(facts.quiet.over_s, times.settle_s))
    settled = max(facts.active, sender.ended) + settle_s
    if now < settled:
        return KeepOpen(min(settled, until), (*waits, Wait(REASONS("waits-settle"), min(settled, until))))
    return LooksComplete((Wait(REASONS("looks-complete", images=sender.images), until),))


def _quiet(facts: Facts, times: Times) -> float:
    """Return when it has been quiet for long enough.

    Each further revision of a study whose images keep trickling in costs a second look at every result: it waits twice
    as long. An association that has just ended may be followed by the next one.
    """
    is_open = any(s.end == "open" for s in facts.senders)
    wait_s = facts.quiet.open_s if is_open else facts.quiet.over_s
    grown = min(wait_s * 2.0 ** min(facts.revision - 1, 30), max(times.max_open_s, wait_s))
    ended = max((s.ended for s in facts.senders if s.end != "open"), default=facts.active)
    return max(facts.listening + grown, facts.active if is_open else ended + min(times.settle_s, grown))


def _close(facts: Facts, contra: Sequence[Reason], quiet: float, longest: float, now: float) -> Close | None:
    """Close a study on strong evidence, after the quiet time, or because it has been open for too long."""
    strong = trusted(facts)
    if strong and not contra:
        return Close("strong", tuple(Wait(reason, now) for _, reason in strong), strong[0][0])
    if now >= quiet and not contra:
        gone = Wait(REASONS("complete-quiet", seconds=f"{now - facts.listening:.1f}"), now)
        return Close("quiet", (gone, Wait(facts.quiet.why, now)))
    if now >= longest:
        gone = Wait(REASONS("open-too-long", seconds=f"{now - facts.opened:.0f}"), now)
        return Close("max-open", (gone, *(Wait(reason, now) for reason in contra)))
    return None


def _sent_whole(facts: Facts) -> bool:
    """Say whether a declared sender was the last to send, and has brought everything."""
    if not facts.senders or facts.apart or facts.lost:
        return False
    last = facts.senders[-1]
    return last.whole and last.end == "released" and all(s.end != "open" for s in facts.senders)


def _line(waits: Sequence[Wait]) -> str:
    return " ".join(w.reason.text["en"] for w in waits)
