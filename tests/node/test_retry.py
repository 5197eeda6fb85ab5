"""What happens to work that did not end well."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.retry import Back, Backoff, after_failed_delivery, after_failure, after_loss, only_card, policy

pytestmark = pytest.mark.unit

FIRST = policy()["job"]["first_s"]

LOSSES = [
    ("planned", 1, 0, Back(0, 0, 0.0)),
    ("planned", 4, 5, Back(3, 5, 0.0)),
    ("tree", 1, 0, Back(0, 1, 0.0)),
    ("tree", 4, 19, Back(3, 20, 0.0)),
    ("tree", 2, 20, Back(2, 20, 2 * FIRST)),
    ("tree", 4, 20, Back(4, 20, FIRST)),
    ("tree", 6, 20, None),
    ("worker", 1, 0, Back(1, 0, FIRST)),
    ("worker", 2, 0, Back(2, 0, 2 * FIRST)),
    ("worker", 3, 0, Back(3, 0, 0.0)),
    ("worker", 4, 0, Back(4, 0, FIRST)),  # the card, once more
    ("worker", 5, 0, Back(5, 0, 2 * FIRST)),
    ("worker", 6, 0, None),
    ("lease", 2, 1, Back(2, 1, 2 * FIRST)),
    ("lease", 4, 1, Back(4, 1, FIRST)),
    ("lease", 6, 1, None),
]


@pytest.mark.parametrize(("loss", "attempts", "losses", "back"), LOSSES)
def test_loss(loss: str, attempts: int, losses: int, back: Back | None) -> None:
    assert after_loss(loss, attempts, losses, 3, 0.5) == back  # type: ignore[arg-type]  # the table names only real losses


@pytest.mark.parametrize(("attempt", "card"), [(1, False), (3, False), (4, True)])
def test_the_claim_after_the_last_attempt_is_for_the_card(attempt: int, card: bool) -> None:
    assert only_card(attempt, 3) is card


FAILURES = [(1, True, FIRST), (2, True, 2 * FIRST), (3, True, None), (1, False, None)]


@pytest.mark.parametrize(("attempts", "retryable", "wait"), FAILURES)
def test_failure(attempts: int, retryable: bool, wait: float | None) -> None:
    assert after_failure(attempts, 3, 0.5, retryable=retryable) == wait


def test_a_delivery_is_tried_soon_then_seldom_and_never_given_up_by_its_number() -> None:
    waits = [after_failed_delivery(n, 0.5) for n in (1, 2, 3, 20, 10_000)]
    assert waits == [2.0, 4.0, 8.0, 600.0, 600.0]


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_waits_are_bounded(attempts: int, chance: float) -> None:
    backoff = Backoff(2.0, 2.0, 600.0, 0.2)
    assert 0 < backoff.wait(attempts, chance) <= 600.0 * 1.2
