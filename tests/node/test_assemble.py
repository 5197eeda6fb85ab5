"""When is a study complete: the table row by row, and what must hold for any facts."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.assemble import Close, Decision, Facts, KeepOpen, LooksComplete, Sender, Times, decide

pytestmark = pytest.mark.unit

TIMES = Times(settle_s=1.0, quiet_s=60.0, boot_grace_s=15.0, max_open_s=3600.0, weak_images=20)
BOOT = 1000.0


def sender(end: str = "released", images: int = 64, *, whole: bool = False, last: float = 1100.0) -> Sender:
    return Sender(end, images, whole, last, last + 0.1)  # type: ignore[arg-type]  # the table below names only real ends


def facts(*senders: Sender, continuous: bool = True, state: str = "open", **more: float) -> Facts:
    values = {"revision": 1, "dropped": 0, "opened": 1090.0, "active": 1100.0, **more}
    return Facts(state, senders=senders, continuous=continuous, **values)  # type: ignore[arg-type]  # as above


TABLE: list[tuple[str, Facts, float, type[Decision], str]] = [
    ("weak, not settled", facts(sender()), 1100.9, KeepOpen, "settle"),
    ("weak, settled", facts(sender()), 1101.2, LooksComplete, "64 images"),
    ("weak, settled late after a dropped result", facts(sender(), dropped=3), 1107.0, KeepOpen, "settle"),
    ("weak, dropped result, settled", facts(sender(), dropped=3), 1108.2, LooksComplete, "64 images"),
    ("work has begun", facts(sender(), state="early"), 1110.0, KeepOpen, "has begun"),
    ("work has begun, quiet", facts(sender(), state="early"), 1160.0, Close, "no image"),
    ("gaps", facts(sender(), continuous=False), 1150.0, KeepOpen, "may follow"),
    ("too few", facts(sender(images=19)), 1150.0, KeepOpen, "may follow"),
    ("just enough", facts(sender(images=20)), 1150.0, LooksComplete, "20 images"),
    ("aborted", facts(sender("aborted")), 1150.0, KeepOpen, "may follow"),
    ("still open", facts(sender("open")), 1150.0, KeepOpen, "may follow"),
    ("released, another one open", facts(sender(), sender("open", 1)), 1150.0, KeepOpen, "may follow"),
    ("released, another one aborted", facts(sender("aborted", 3), sender()), 1150.0, LooksComplete, "64 images"),
    ("nothing but quiet", facts(sender("aborted", 3)), 1160.0, Close, "no image"),
    ("quiet even while open", facts(sender("open")), 1160.0, Close, "no image"),
    ("second revision waits twice as long", facts(sender("aborted"), revision=2), 1160.0, KeepOpen, "may follow"),
    ("second revision, quiet", facts(sender("aborted"), revision=2), 1220.0, Close, "no image"),
    ("the wait does not grow for ever", facts(sender("aborted"), revision=40), 1100.0 + 3600.0, Close, "no image"),
    ("whole study", facts(sender(whole=True)), 1100.2, Close, "whole studies"),
    ("whole study, one slice", facts(sender(whole=True, images=1)), 1100.2, Close, "whole studies"),
    ("whole study, aborted", facts(sender("aborted", whole=True)), 1150.0, KeepOpen, "may follow"),
    ("whole study, then another sender", facts(sender(whole=True), sender("aborted", 2)), 1100.2, KeepOpen, "settle"),
    ("whole study, another one open", facts(sender("open", 2), sender(whole=True)), 1150.0, KeepOpen, "may follow"),
    ("aborted, then sent whole", facts(sender("aborted", 30, whole=True), sender(whole=True, images=34)), 1101.0, Close, "whole"),
    ("trickling for an hour", facts(sender("open"), opened=1100.0 - 3600.0, active=1099.9), 1100.0, Close, "open for"),
    ("known from before the start", facts(sender(whole=True), opened=990.0, active=991.0), 1014.9, KeepOpen, "just started"),
    ("from before the start, after the grace", facts(sender(whole=True), opened=990.0, active=991.0), 1015.0, Close, "whole"),
    ("from before the start, quiet", facts(sender("aborted"), opened=900.0, active=900.0), 1014.0, KeepOpen, "just started"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given_facts", "now", "kind", "why"), TABLE, ids=[row[0] for row in TABLE])
def test_row(name: str, given_facts: Facts, now: float, kind: type[Decision], why: str) -> None:
    decision = decide(given_facts, TIMES, BOOT, now)
    assert isinstance(decision, kind), f"{name}: {decision}"
    assert why in decision.why


senders = st.builds(
    Sender,
    end=st.sampled_from(["open", "released", "aborted"]),
    images=st.integers(1, 400),
    whole=st.booleans(),
    last=st.floats(900, 2000),
    ended=st.floats(900, 2000),
)
any_facts = st.builds(
    Facts,
    state=st.sampled_from(["open", "early"]),
    revision=st.integers(1, 60),
    dropped=st.integers(0, 60),
    opened=st.floats(900, 1500),
    active=st.floats(1500, 2000),
    senders=st.lists(senders, max_size=4).map(tuple),
    continuous=st.booleans(),
)


@given(any_facts, st.floats(1000, 9000))
def test_what_must_hold(f: Facts, now: float) -> None:
    decision = decide(f, TIMES, BOOT, now)
    if isinstance(decision, KeepOpen):
        assert decision.until > now, "waiting for a moment that is over"
        assert isinstance(decide(f, TIMES, BOOT, max(decision.until, f.active + 3600.0) + 1), Close), "never ends"
    if isinstance(decision, LooksComplete):
        assert f.state == "open"
        assert any(s.end == "released" and s.images >= 20 for s in f.senders)
    if isinstance(decision, Close) and decision.evidence == "strong":
        assert f.senders[-1].whole
        assert all(s.end != "open" for s in f.senders)
    if isinstance(decision, Close) and decision.evidence == "quiet":
        assert now - f.active >= TIMES.quiet_s


@given(any_facts, st.floats(1000, 9000))
def test_weak_evidence_never_publishes_sooner_than_none(f: Facts, now: float) -> None:
    weak = decide(replace(f, continuous=True), TIMES, BOOT, now)
    none = decide(replace(f, continuous=False), TIMES, BOOT, now)
    assert isinstance(weak, Close) == isinstance(none, Close)
