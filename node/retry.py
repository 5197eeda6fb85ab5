"""What happens to work that did not end well: decisions on the row, without a clock and without a database."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

Loss = Literal["planned", "tree", "worker", "lease"]
"""``planned``: the node was told to stop; ``tree``: the whole node ended without notice; ``worker``: this worker alone
did; ``lease``: it no longer renews its lease."""


@cache
def policy() -> Mapping[str, Any]:
    """Return the numbers of ``policy.toml``."""
    return tomllib.loads(files("node").joinpath("policy.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that grow from `first_s` by `factor` up to `cap_s`, spread by the share `jitter`."""

    first_s: float
    factor: float
    cap_s: float
    jitter: float

    @classmethod
    def of(cls, table: str) -> "Backoff":
        """Return the waits of one table of ``policy.toml``."""
        row = policy()[table]
        return cls(row["first_s"], row["factor"], row["cap_s"], row["jitter"])

    def wait(self, attempts: int, chance: float) -> float:
        """Return the wait in seconds after `attempts` attempts; `chance` is uniform in 0..1."""
        plain = min(self.cap_s, self.first_s * self.factor ** min(max(attempts - 1, 0), 64))
        return plain * (1 + self.jitter * (2 * chance - 1))


@dataclass(frozen=True, slots=True)
class Back:
    """Put the job back into the queue like this."""

    attempts: int
    losses: int
    wait_s: float


def after_loss(loss: Loss, attempts: int, losses: int, limit: int, chance: float) -> Back | None:
    """Decide about a job whose worker is gone; None if it is dead.

    A planned stop gives the attempt back. So does the loss of the whole process tree (a power cut is not the study's
    fault), but not for ever: it may be. After `limit` attempts that ended so, a few more are granted for the card that
    says so, see `only_card`: it costs little, and what ends it is hardly the study.
    """
    if loss == "planned":
        return Back(max(attempts - 1, 0), losses, 0.0)
    if loss == "tree" and losses < policy()["job"]["tree_losses"]:
        return Back(max(attempts - 1, 0), losses + 1, 0.0)
    if attempts >= limit + int(policy()["job"]["cards"]):
        return None
    wait_s = Backoff.of("job").wait(attempts - limit if attempts > limit else attempts, chance)
    return Back(attempts, losses, 0.0 if attempts == limit else wait_s)


def only_card(attempt: int, limit: int) -> bool:
    """Say whether the `attempt`-th claim of a job is only for the card that says why there is no result."""
    return attempt > limit


def after_failure(attempts: int, limit: int, chance: float, *, retryable: bool) -> float | None:
    """Return the wait in seconds before a failed job runs again, or None if it is dead."""
    if not retryable or attempts >= limit:
        return None
    return Backoff.of("job").wait(attempts, chance)


def after_failed_delivery(attempts: int, chance: float) -> float:
    """Return the wait in seconds before a delivery is tried again; its age ends it, not the number of attempts."""
    return Backoff.of("delivery").wait(attempts, chance)
