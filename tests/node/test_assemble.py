"""When is a study complete: the table row by row, and what must hold for any facts."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.assemble import (
    Close,
    Count,
    Decision,
    Facts,
    KeepOpen,
    LooksComplete,
    Quiet,
    Sender,
    Step,
    Times,
    against,
    decide,
    proof,
)
from node.reasons import REASONS

pytestmark = pytest.mark.unit

TIMES = Times(settle_s=1.0, boot_grace_s=15.0, max_open_s=3600.0, weak_images=20)
BOOT = 1000.0
WHY = REASONS("waits-quiet", seconds="60")
QUIET = Quiet(60.0, 60.0, WHY)
QUICK = Quiet(60.0, 5.0, WHY)


def sender(end: str = "released", images: int = 64, *, whole: bool = False, last: float = 1100.0) -> Sender:
    return Sender(end, images, whole, last, last + 0.1)  # type: ignore[arg-type]  # the table below names only real ends


def facts(*senders: Sender, continuous: bool = True, state: str = "open", **more: Any) -> Facts:
    values = {"revision": 1, "dropped": 0, "opened": 1090.0, "active": 1100.0, "quiet": QUIET, **more}
    return Facts(state, senders=senders, continuous=continuous, **values)  # type: ignore[arg-type]  # as above


DONE = Step("COMPLETED", 64, 0)
LACKING = Step("COMPLETED", 64, 3)
RUNNING = Step("IN PROGRESS", 0, 0)
EMPTY = Step("COMPLETED", 0, 0)
STOPPED = Step("DISCONTINUED", 0, 0)
SAME = Count("CT1", 0, equal=True, steady=True)
ONCE = Count("CT1", 0, equal=True, steady=False)
MORE = Count("CT1", 7, equal=False, steady=True)
LESS = Count("CT1", 0, equal=False, steady=True)
LONG = 1090.0 + 3600.0

TABLE: list[tuple[str, Facts, float, type[Decision], str]] = [
    ("weak, not settled", facts(sender()), 1100.9, KeepOpen, "settle"),
    ("weak, settled", facts(sender()), 1101.2, LooksComplete, "64 images"),
    ("weak, settled late after a dropped result", facts(sender(), dropped=3), 1107.0, KeepOpen, "settle"),
    ("weak, dropped result, settled", facts(sender(), dropped=3), 1108.2, LooksComplete, "64 images"),
    ("work has begun", facts(sender(), state="early"), 1110.0, KeepOpen, "has begun"),
    ("work has begun, quiet", facts(sender(), state="early"), 1160.0, Close, "No image"),
    ("gaps", facts(sender(), continuous=False), 1150.0, KeepOpen, "no image may come"),
    ("too few", facts(sender(images=19)), 1150.0, KeepOpen, "no image may come"),
    ("just enough", facts(sender(images=20)), 1150.0, LooksComplete, "20 images"),
    ("aborted", facts(sender("aborted")), 1150.0, KeepOpen, "no image may come"),
    ("still open", facts(sender("open")), 1150.0, KeepOpen, "no image may come"),
    ("released, another one open", facts(sender(), sender("open", 1)), 1150.0, KeepOpen, "no image may come"),
    ("released, another one aborted", facts(sender("aborted", 3), sender()), 1150.0, LooksComplete, "64 images"),
    ("nothing but quiet", facts(sender("aborted", 3)), 1160.0, Close, "No image"),
    ("quiet even while open", facts(sender("open")), 1160.0, Close, "No image"),
    ("second revision waits twice as long", facts(sender("aborted"), revision=2), 1160.0, KeepOpen, "may come"),
    ("second revision, quiet", facts(sender("aborted"), revision=2), 1220.0, Close, "No image"),
    ("the wait does not grow for ever", facts(sender("aborted"), revision=40), 1100.0 + 3600.0, Close, "No image"),
    ("a quick sender", facts(sender("aborted"), quiet=QUICK), 1105.0, Close, "No image for 5.0 s"),
    ("a quick sender, still open", facts(sender("open"), quiet=QUICK), 1105.0, KeepOpen, "may come"),
    ("an open association that has just ended", facts(Sender("released", 3, False, 1100.0, 1110.0), quiet=QUICK), 1110.5, KeepOpen, "may come"),
    ("and has settled", facts(Sender("released", 3, False, 1100.0, 1110.0), quiet=QUICK), 1111.0, Close, "No image for 11.0 s"),
    # declared senders
    ("whole study", facts(sender(whole=True)), 1100.2, Close, "whole studies"),
    ("whole study, one slice", facts(sender(whole=True, images=1)), 1100.2, Close, "whole studies"),
    ("whole study, aborted", facts(sender("aborted", whole=True)), 1150.0, KeepOpen, "may come"),
    ("whole study, then another sender", facts(sender(whole=True), sender("aborted", 2)), 1100.2, KeepOpen, "settle"),
    ("whole study, another one open", facts(sender("open", 2), sender(whole=True)), 1150.0, KeepOpen, "may come"),
    ("aborted, then all again", facts(sender("aborted", 30, whole=True), sender(whole=True, images=64)), 1101.0, Close, "whole"),
    ("aborted, then the rest", facts(sender("aborted", 30, whole=True), sender(whole=True, images=34), apart=30), 1159.0, LooksComplete, "34 images"),
    ("aborted, then the rest, quiet", facts(sender("aborted", 30, whole=True), sender(whole=True, images=34), apart=30), 1160.0, Close, "No image"),
    ("another one aborted, then all of its own", facts(sender("aborted", 2), sender(whole=True, images=62), apart=2), 1150.0, LooksComplete, "62 images"),
    ("one before lost all that it sent", facts(sender(whole=True), lost=1), 1150.0, LooksComplete, "64 images"),
    ("released twice, whole", facts(sender(images=30, whole=True), sender(whole=True, images=34)), 1100.2, Close, "whole"),
    ("whole, but that was wrong before", facts(sender(whole=True), continuous=False, doubted=frozenset({"sender"})), 1150.0, KeepOpen, "not believed"),
    ("doubted, then quiet", facts(sender(whole=True), doubted=frozenset({"sender"})), 1160.0, Close, "No image"),
    # performed procedure steps
    ("steps done, all arrived", facts(sender("open"), steps=(DONE,)), 1100.1, Close, "All 64 images"),
    ("steps done, work has begun", facts(sender(), steps=(DONE,), state="early"), 1100.1, Close, "All 64 images"),
    ("two steps done", facts(sender(), steps=(DONE, DONE)), 1100.1, Close, "All 128 images"),
    ("discontinued with images, all arrived", facts(sender(), steps=(Step("DISCONTINUED", 9, 0),)), 1100.1, Close, "All 9 images"),
    ("step in progress", facts(sender(), steps=(RUNNING,)), 1150.0, KeepOpen, "in progress"),
    ("step in progress, quiet", facts(sender(), steps=(RUNNING,)), 1200.0, KeepOpen, "in progress"),
    ("step in progress, open for too long", facts(sender(), steps=(RUNNING,)), LONG, Close, "in progress"),
    ("one done, one in progress", facts(sender(), steps=(DONE, RUNNING)), 1200.0, KeepOpen, "in progress"),
    ("in progress and all it names so far arrived", facts(sender(), steps=(Step("IN PROGRESS", 64, 0),)), 1200.0, KeepOpen, "in progress"),
    ("step done, images missing", facts(sender(), steps=(LACKING,)), 1200.0, KeepOpen, "3 image(s)"),
    ("step done, images missing for too long", facts(sender(), steps=(LACKING,)), LONG, Close, "3 image(s)"),
    ("discontinued, images missing", facts(sender(), steps=(Step("DISCONTINUED", 9, 2),)), 1200.0, KeepOpen, "2 image(s)"),
    ("a completed step that names nothing", facts(sender("aborted"), steps=(EMPTY,)), 1150.0, KeepOpen, "may come"),
    ("a completed step that names nothing, quiet", facts(sender("aborted"), steps=(EMPTY,)), 1160.0, Close, "No image"),
    ("beside one that names all", facts(sender("aborted"), steps=(DONE, EMPTY)), 1150.0, KeepOpen, "may come"),
    ("discontinued, nothing made", facts(sender("aborted"), steps=(STOPPED,)), 1150.0, KeepOpen, "may come"),
    ("discontinued, nothing made, another done", facts(sender("aborted"), steps=(STOPPED, DONE)), 1100.1, Close, "All 64"),
    ("images that no step names", facts(sender("aborted"), steps=(DONE,), unnamed=1), 1150.0, KeepOpen, "may come"),
    ("steps done, but that was wrong before", facts(sender("aborted"), steps=(DONE,), doubted=frozenset({"procedure-step"})), 1150.0, KeepOpen, "procedure-step is not believed"),
    # instance availability
    ("available and not here", facts(sender(), available=4), 1200.0, KeepOpen, "availability"),
    ("all that is available is here", facts(sender("aborted")), 1150.0, KeepOpen, "may come"),
    # counts of the source
    ("counted twice, equal", facts(sender("aborted"), counts=(SAME,)), 1103.5, Close, "CT1 counted"),
    ("counted once, equal", facts(sender("aborted"), counts=(ONCE,)), 1103.5, KeepOpen, "may come"),
    ("counted, more", facts(sender(), counts=(MORE,)), 1200.0, KeepOpen, "CT1 has 7 image(s) more"),
    ("counted, more, for too long", facts(sender(), counts=(MORE,)), LONG, Close, "CT1 has 7 image(s) more"),
    ("counted, less", facts(sender("aborted"), counts=(LESS,)), 1150.0, KeepOpen, "may come"),
    ("counted, less, quiet", facts(sender("aborted"), counts=(LESS,)), 1160.0, Close, "No image"),
    ("two sources, one has more", facts(sender("aborted"), counts=(SAME, MORE)), 1200.0, KeepOpen, "7 image(s) more"),
    ("two sources, one has less", facts(sender("aborted"), counts=(SAME, LESS)), 1103.5, Close, "CT1 counted"),
    # evidence against evidence
    ("released whole, step in progress", facts(sender(whole=True), steps=(RUNNING,)), 1200.0, KeepOpen, "in progress"),
    ("released whole, step in progress, too long", facts(sender(whole=True), steps=(RUNNING,)), LONG, Close, "in progress"),
    ("released whole, images missing", facts(sender(whole=True), steps=(LACKING,)), 1200.0, KeepOpen, "3 image(s)"),
    ("released whole, counted more", facts(sender(whole=True), counts=(MORE,)), 1200.0, KeepOpen, "7 image(s) more"),
    ("steps done, counted more", facts(sender(), steps=(DONE,), counts=(MORE,)), 1200.0, KeepOpen, "7 image(s) more"),
    ("counted equal, step in progress", facts(sender(), steps=(RUNNING,), counts=(SAME,)), 1200.0, KeepOpen, "in progress"),
    ("work has begun, then counted more", facts(sender(), state="early", counts=(MORE,)), 1200.0, KeepOpen, "7 image(s) more"),
    # required series
    ("a required series missing", facts(sender(), required=("CT: X = 'lung'",)), 1200.0, KeepOpen, "X = 'lung'"),
    ("a required series missing, released whole", facts(sender(whole=True), required=("CT: X",)), 1200.0, KeepOpen, "requires"),
    ("a required series missing for too long", facts(sender(), required=("CT: X = 'lung'",)), LONG, Close, "X = 'lung'"),
    # time
    ("trickling for an hour", facts(sender("open"), opened=1100.0 - 3600.0, active=1099.9), 1100.0, Close, "Open for"),
    ("known from before the start", facts(sender(whole=True), opened=990.0, active=991.0), 1014.9, KeepOpen, "just started"),
    ("from before the start, after the grace", facts(sender(whole=True), opened=990.0, active=991.0), 1015.0, Close, "whole"),
    ("from before the start, quiet", facts(sender("aborted"), opened=900.0, active=900.0), 1014.0, KeepOpen, "just started"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given_facts", "now", "kind", "why"), TABLE, ids=[row[0] for row in TABLE])
def test_row(name: str, given_facts: Facts, now: float, kind: type[Decision], why: str) -> None:
    decision = decide(given_facts, TIMES, BOOT, now)
    assert isinstance(decision, kind), f"{name}: {decision}"
    assert why in decision.why
    if isinstance(decision, Close):
        assert (decision.evidence == "max-open") == (now == LONG or "Open for" in why)
        assert (decision.by is not None) == (decision.evidence == "strong")
    elif not against(given_facts):
        assert decide(given_facts, TIMES, BOOT, 1e6) != decision, "it ends"


def test_what_the_timeline_says() -> None:
    closed = decide(facts(sender(whole=True), steps=(DONE,)), TIMES, BOOT, 1100.2)
    assert isinstance(closed, Close)
    said = closed.as_json()
    assert (said["evidence"], said["by"]) == ("strong", "procedure-step")
    assert [w["what"] for w in said["waited_for"]] == ["complete-procedure-step", "complete-sender"]
    assert all(w["detail"]["en"] and w["detail"]["zh-CN"] for w in said["waited_for"])


senders = st.builds(
    Sender,
    end=st.sampled_from(["open", "released", "aborted"]),
    images=st.integers(1, 400),
    whole=st.booleans(),
    last=st.floats(900, 2000),
    ended=st.floats(900, 2000),
)
steps = st.builds(
    lambda status, named, missing: Step(status, named, min(named, missing)),
    st.sampled_from(["IN PROGRESS", "COMPLETED", "DISCONTINUED"]),
    st.integers(0, 3),
    st.sampled_from([0, 0, 1]),
)
counts = st.builds(
    lambda more, equal, steady: Count("CT1", more, equal and not more, steady),
    st.sampled_from([0, 0, 1]),
    st.booleans(),
    st.booleans(),
)
any_facts = st.builds(
    Facts,
    state=st.sampled_from(["open", "early"]),
    revision=st.integers(1, 60),
    dropped=st.integers(0, 60),
    opened=st.floats(900, 1500),
    active=st.floats(1500, 2000),
    apart=st.sampled_from([0, 0, 3]),
    lost=st.sampled_from([0, 0, 0, 1]),
    senders=st.lists(senders, max_size=4).map(tuple),
    continuous=st.booleans(),
    quiet=st.builds(Quiet, st.floats(60, 900), st.floats(5, 900), st.just(WHY)),
    steps=st.lists(steps, max_size=3).map(tuple),
    unnamed=st.sampled_from([0, 0, 1]),
    available=st.sampled_from([0, 0, 0, 1]),
    counts=st.lists(counts, max_size=2).map(tuple),
    required=st.sampled_from([(), (), ("CT: X",)]),
    doubted=st.frozensets(st.sampled_from(["procedure-step", "count", "sender"])),
)


@given(any_facts, st.floats(1000, 9000))
def test_what_must_hold(f: Facts, now: float) -> None:
    decision = decide(f, TIMES, BOOT, now)
    if isinstance(decision, KeepOpen):
        assert decision.until > now, "waiting for a moment that is over"
        assert decision.waits
        assert all(w.until > now for w in decision.waits)
        assert now < max(f.opened + TIMES.max_open_s, BOOT + TIMES.boot_grace_s), "open for too long"
    if isinstance(decision, LooksComplete):
        assert f.state == "open"
        assert any(s.end == "released" and s.images >= 20 for s in f.senders)
        assert not against(f)
    if isinstance(decision, Close):
        assert decision.evidence == "max-open" or not against(f)
    if isinstance(decision, Close) and decision.evidence == "strong":
        assert decision.by in {kind for kind, _ in proof(f)} - f.doubted
    if isinstance(decision, Close) and decision.evidence == "quiet":
        assert now - f.active >= f.quiet.over_s
    if isinstance(decision, Close) and decision.evidence == "max-open":
        assert now >= f.opened + TIMES.max_open_s


@given(any_facts, st.floats(1000, 9000))
def test_weak_evidence_never_publishes_sooner_than_none(f: Facts, now: float) -> None:
    weak = decide(replace(f, continuous=True), TIMES, BOOT, now)
    none = decide(replace(f, continuous=False), TIMES, BOOT, now)
    assert isinstance(weak, Close) == isinstance(none, Close)


DEAF = [
    ("silence while nobody listened is no silence", 1100.0, 1100.0, 1150.0, KeepOpen),
    ("it counts from then on", 1100.0, 1100.0, 1160.0, Close),
    ("while the node refuses, nothing closes by silence", 1100.0, 1159.9, 1159.9, KeepOpen),
    ("nor by having been open for too long", 1100.0, 9000.0, 9000.0, KeepOpen),
    ("but then it does", 1100.0, 9000.0, 9060.0, Close),
]


@pytest.mark.parametrize(("name", "active", "deaf", "now", "kind"), DEAF, ids=[row[0] for row in DEAF])
def test_silence_counts_only_while_the_node_listens(
    name: str, active: float, deaf: float, now: float, kind: type[Decision]
) -> None:
    slow = Quiet(60.0, 60.0, REASONS("waits-quiet", seconds="60"))
    one = facts(Sender("aborted", 3, True, active, active), quiet=slow, opened=1050.0, active=active - 60.0, deaf=deaf)
    assert isinstance(decide(one, TIMES, BOOT, now), kind), name
