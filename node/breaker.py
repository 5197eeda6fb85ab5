"""When a destination is left alone: decisions on one row, without a clock and without a database.

Closed: everything is sent. After some failures in a row to connect, to negotiate or to answer it opens, and nothing is
sent; from time to time one delivery goes as a probe (half-open), and what becomes of it closes the breaker or opens it
for longer. A destination that refuses single objects answers: it is not down.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from node.retry import Backoff, policy
from node.store.rows import Breaker


def closed(destination: str, now: float) -> Breaker:
    """Return the breaker of a destination of which nothing bad is known."""
    return Breaker(destination, "closed", 0, now, None, None)


def may(breaker: Breaker, now: float) -> bool:
    """Say whether something may be sent now; half-open is a probe whose outcome was never written down."""
    return breaker.state != "open" or breaker.next_try is None or now >= breaker.next_try


def probing(breaker: Breaker) -> Breaker:
    """Return the breaker while a delivery is sent: a closed one stays as it is."""
    return breaker if breaker.state == "closed" else replace(breaker, state="half-open", next_try=None)


def after(
    breaker: Breaker, *, heard: bool | None, now: float, chance: float, error: Mapping[str, Any] | None = None
) -> Breaker:
    """Return the breaker after an attempt.

    Parameters
    ----------
    breaker : Breaker
        As it was while the attempt was made.
    heard : bool or None
        Whether the destination answered; None if it was not spoken to, which says nothing.
    now : float
        The time.
    chance : float
        Uniform in 0..1; spreads the waits.
    error : Mapping or None
        Why it did not answer.
    """
    if heard is None:
        return breaker
    if heard:
        return breaker if breaker.state == "closed" and not breaker.failures else closed(breaker.destination, now)
    failures = breaker.failures + 1
    error = None if error is None else dict(error)
    beyond = failures - int(policy()["breaker"]["failures"])
    if breaker.state == "closed" and beyond < 0:
        return replace(breaker, failures=failures, last_error=error)
    next_try = now + Backoff.of("breaker").wait(max(beyond, 0) + 1, chance)
    since = now if breaker.state == "closed" else breaker.since
    return Breaker(breaker.destination, "open", failures, since, next_try, error)


def long_open(breaker: Breaker, now: float) -> bool:
    """Say whether a person should look at it."""
    return breaker.state != "closed" and now - breaker.since >= float(policy()["breaker"]["alarm_s"])
