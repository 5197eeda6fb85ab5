"""Deliveries that would wait in silence: too old, for a destination that is gone, or for one that stays away."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from config.settings import Destination
from node import alarm, breaker, retry
from node.reasons import REASONS
from node.store import Database, alarms, breakers, deliveries, studies
from node.store.rows import Delivery

_log = structlog.get_logger()


def sweep(db: Database, destinations: Sequence[Destination], now: float, *, by_age: bool = True) -> int:
    """End what will not arrive, call a person where a destination stays away; return how many deliveries ended.

    Not `by_age`: the clock cannot be believed, and nothing is too old.
    """
    ended: list[Delivery] = []
    for place in destinations:
        if place.max_age_h and by_age:
            reason = REASONS("delivery-too-old", hours=place.max_age_h).as_json()
            before = now - place.max_age_h * 3600.0
            ended.extend(
                deliveries.give_up(db, now, reason, _alarm(reason), destination=place.name, queued_before=before)
            )
    known = {place.name for place in destinations}
    reason = REASONS("destination-removed").as_json()
    ended.extend(deliveries.give_up(db, now, reason, _alarm(reason), unknown_to=known))
    for delivery in ended:
        study = studies.study(db, delivery.study_uid)
        code = (delivery.last_error or {}).get("code")
        hashed = None if study is None else study.hash
        _log.error("delivery.dead", destination=delivery.destination, study=hashed, reason=code)
        alarm.tell("delivery-failed", hashed, destination=delivery.destination)
    for name, row in breakers.breakers(db).items():
        if name in known and breaker.long_open(row, now):
            code = (row.last_error or {}).get("code", "")
            alarm.ring(db, REASONS("destination-down", destination=name, code=code), name, now)
        elif name not in known or row.state == "closed":
            alarm.quieten(db, "destination-down", name, now)
    if by_age:
        _tell_late(db, now)
    return len(ended)


def _tell_late(db: Database, now: float) -> None:
    """Call a person where a destination answers and yet takes nothing: it is full, or never gets to know the study.

    What waited for a destination that was silent has its time from when that answers again.
    """
    late_s = float(retry.policy()["overdue"]["late_s"])
    known = breakers.breakers(db)
    told = {a.subject for a in alarms.standing(db) if a.code == "delivery-late"}
    for delivery in deliveries.old(db, now - late_s):
        place = known.get(delivery.destination)
        if delivery.study_uid in told:
            continue
        if place is not None and (place.state != "closed" or place.since > now - late_s):
            continue
        study = studies.study(db, delivery.study_uid)
        code = (delivery.last_error or {}).get("code", "")
        reason = REASONS("delivery-late", destination=delivery.destination, hours=f"{late_s / 3600:.0f}", code=code)
        about = None if study is None else (study.uid, study.hash)
        alarm.ring(db, reason, delivery.study_uid, now, study=about)


def _alarm(reason: Mapping[str, Any]) -> Callable[[str], Mapping[str, Any]]:
    return lambda destination: REASONS("delivery-failed", destination=destination, code=reason["code"]).as_json()
