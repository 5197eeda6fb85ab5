"""Which destinations are told of how a job ended. Pure."""

from collections.abc import Mapping
from typing import Any

ALARMS = frozenset({"C", "D"})
"""Grades of images that a person should look at now."""


def told(
    send_to: Mapping[str, list[str]], outcome: str, reason: Mapping[str, Any] | None, document: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return the destinations that are told; "not applicable" is told to nobody.

    Parameters
    ----------
    send_to : Mapping[str, list[str]]
        Destination to what it is told, as the rules say.
    outcome : str
        Of the job.
    reason : Mapping or None
        Why there is no result.
    document : Mapping
        Of the job; its grade decides about ``alarm``.
    """
    what = {outcome if outcome in ("result", "failed") else (reason or {}).get("class")}
    if outcome == "result" and (document.get("quality") or {}).get("grade") in ALARMS:
        what.add("alarm")
    return tuple(name for name, wants in send_to.items() if what & set(wants))
