"""The housekeeper of the coordinator: measures space and queue, warns before the disk is full, lets retention work."""

import math
import time
from dataclasses import dataclass
from typing import Any

from config.settings import Settings
from node import alarm, retry, watermarks
from node.installation import DataFolder
from node.reasons import REASONS
from node.retention import Retention
from node.spool import Spool
from node.store import Database, storage
from node.store.rows import Receipts
from node.watermarks import Cause, Limits

_DAY_S = 86400.0
NOT_ACCEPTING, FILLS = "not-accepting", "disk-fills"


@dataclass(frozen=True, slots=True)
class Forecast:
    """How fast images come (bytes a day), and in how many days there is no room left; None: not in sight."""

    bytes_per_day: int
    full_in_days: float | None


def forecast(received: Receipts, now: float, free_bytes: int, min_free_bytes: int, images_days: float) -> Forecast:
    """Say when the disk will be full if as much comes as of late.

    Less than a day of history counts as a day. Retention takes images after `images_days` (0: never): then they never
    take more room than so many days bring, and if that fits, the disk never fills on their account.
    """
    span_s = _DAY_S if received.first is None else max(_DAY_S, now - received.first)
    per_day = received.bytes / (span_s / _DAY_S)
    room = max(0, free_bytes - min_free_bytes)
    if per_day <= 0 or (images_days > 0 and per_day * images_days - received.held <= room):
        return Forecast(round(per_day), None)
    return Forecast(round(per_day), room / per_day)


def disk(db: Database, folder: DataFolder, settings: Settings | None, now: float) -> dict[str, Any]:
    """Return the ``disk`` of ``status``; without settings, whether the node accepts is what it wrote down last."""
    total = watermarks.total_bytes(folder.path)
    measured = watermarks.room(folder.path, storage.waiting_jobs(db))
    closed = watermarks.read_state(folder.spool)
    if settings is not None:
        closed = watermarks.decide(measured, Limits.of(settings.storage), closed)
    said = None if not closed else REASONS(NOT_ACCEPTING, causes=", ".join(sorted(closed))).as_json()
    ahead = _ahead(db, settings or Settings(), now, measured.free_bytes or 0)
    return {
        "free_bytes": measured.free_bytes or 0,
        "total_bytes": total,
        "accepting": not closed,
        "reason": said,
        "bytes_per_day": ahead.bytes_per_day,
        "full_in_days": None if ahead.full_in_days is None else round(ahead.full_in_days, 1),
    }


def _ahead(db: Database, settings: Settings, now: float, free_bytes: int) -> Forecast:
    since = now - float(retry.policy()["storage"]["forecast_days"]) * _DAY_S
    received = storage.receipts(db, since)
    limits = settings.storage
    return forecast(received, now, free_bytes, limits.min_free_mb << 20, limits.images_days)


class Housekeeper:
    """Watches the disk and the queue, and tidies up.

    Parameters
    ----------
    db : Database
        The rows.
    folder : DataFolder
        Of the node.
    settings : Settings
        Of the node.
    """

    def __init__(self, db: Database, folder: DataFolder, settings: Settings) -> None:
        self._db, self._folder, self._settings = db, folder, settings
        self._limits = Limits.of(settings.storage)
        self.spool = Spool(folder.path, self._limits, settings.node.name)
        self.retention = Retention(db, folder, settings.storage, self.spool)
        self._closed = watermarks.read_state(folder.spool)
        self._told: frozenset[Cause] | None = None

    def watch(self, now: float | None = None) -> None:
        """Decide whether the node accepts, tell receivers, and ring while it does not."""
        now = time.time() if now is None else now
        measured = watermarks.room(self._folder.spool, storage.waiting_jobs(self._db))
        self._closed = watermarks.decide(measured, self._limits, self._closed)
        if self._closed == self._told:
            return
        watermarks.write_state(self._folder.spool, self._closed)
        # an alarm keeps its first text: another cause is another text
        alarm.quieten(self._db, NOT_ACCEPTING, "", now)
        if self._closed:
            alarm.ring(self._db, REASONS(NOT_ACCEPTING, causes=", ".join(sorted(self._closed))), "", now)
        self._told = self._closed

    def refusing(self) -> bool:
        """Say whether images are refused now."""
        return bool(self._closed)

    def tidy(self, now: float | None = None, *, by_age: bool = True) -> None:
        """Let retention work, also `by_age` where the clock can be believed, then look ahead."""
        now = time.time() if now is None else now
        self.retention.tick(now, by_age=by_age)
        free = watermarks.room(self._folder.path).free_bytes
        if free is None:
            return
        days = _ahead(self._db, self._settings, now, free).full_in_days
        if days is not None and days < float(retry.policy()["storage"]["warn_days"]):
            alarm.ring(self._db, REASONS(FILLS, days=math.floor(days)), "", now)
        else:
            alarm.quieten(self._db, FILLS, "", now)

    def close(self) -> None:
        """Close what is open."""
        self.retention.close()
