"""What an attempt to deliver comes to. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from dicom_io.reason import Reason
from dicom_io.scu import StoreReport
from dicom_io.scu_query import FoundStudy
from dicom_io.status import Outcome
from node import retry
from node.reasons import REASONS
from node.selection import Fate
from node.store.rows import DeliveryState, Identity
from node.whose import Whose, differences

NOT_HEARD = frozenset({
    "no-answer", "query-unanswered", "peer-name-unknown", "peer-refused-connection", "peer-timeout",
    "association-rejected", "association-aborted", "http-unanswered", "http-not-authorised", "http-not-there",
    "http-token-missing", "webhook-not-there",
})  # fmt: skip
"""Reasons that mean: the destination did not connect, negotiate or answer."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an attempt comes to.

    Parameters
    ----------
    state : DeliveryState
        Next state of the delivery.
    wait_s : float or None
        Seconds until the next attempt; None if there is none.
    reason : Reason or None
        Why not, or what was remarkable.
    counts : bool
        Whether the attempt counts.
    heard : bool or None
        Whether the destination answered; None if it was not spoken to.
    identity : Identity or None
        Whether it was asked whose study it is.
    """

    state: DeliveryState
    wait_s: float | None = None
    reason: Reason | None = None
    counts: bool = True
    heard: bool | None = None
    identity: Identity | None = None


def judge_store(fates: Sequence[Fate], attempts: int, chance: float) -> Verdict:
    """Judge where a delivery stands after an attempt at what was left of it.

    One object that the destination will never take does not keep the others from arriving, and not for ever: the
    delivery is `dead` once nothing is left to try. A result that is there in part is not delivered.
    """
    if not fates:
        return Verdict("dead", reason=REASONS("nothing-to-send"))
    again = [f for f in fates if f.outcome in (Outcome.RETRY, Outcome.CHECK)]
    if again:
        return Verdict("waiting", retry.after_failed_delivery(attempts, chance), again[0].reason)
    refused = [f for f in fates if f.outcome is Outcome.DEAD]
    if not refused:
        return Verdict("delivered", reason=next((f.reason for f in fates if f.reason is not None), None))
    arrived = len(fates) - len(refused)
    if not arrived:
        return Verdict("dead", reason=refused[0].reason)
    codes = ", ".join(sorted({str(f.code) for f in refused}))
    return Verdict("dead", reason=REASONS("partly-delivered", arrived=arrived, total=len(fates), codes=codes))


def judge_study(
    found: Sequence[FoundStudy], ours: Whose, destination: str, asked: int, chance: float
) -> Verdict | None:
    """Judge what the destination knows of a study, asked for the `asked`-th time; None if the results may go."""
    if not found:
        wait_s = retry.Backoff.of("unknown_study").wait(asked, chance)
        return Verdict("held", wait_s, REASONS("study-not-at-destination"), counts=False)
    differ = sorted({keyword for match in found for keyword in differences(ours, match)})
    if not differ:
        return None
    reason = REASONS("identity-differs-at-destination", destination=destination, what=", ".join(differ))
    return Verdict("quarantined", reason=reason)


def heard(reports: Sequence[StoreReport]) -> bool | None:
    """Say whether a destination answered: any status, and any refusal of a single object, is an answer."""
    said = [r.reason.code if r.status is None and r.reason is not None else None for r in reports]
    said = [code for code in said if code != "file-unreadable"]
    return None if not said else any(code not in NOT_HEARD for code in said)
