"""The clock: a few ticks that ask the database what is due. Never a queue; a missed tick costs one interval."""

import logging
from collections.abc import Callable, Mapping

import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

_log = structlog.get_logger()


def clock(ticks: Mapping[str, tuple[float, Callable[[], object]]]) -> BackgroundScheduler:
    """Return a scheduler, not yet started, for ticks given as name -> (seconds between, what to do).

    A tick that is still running is not started again, and one that raises is logged and comes again.
    """
    logging.getLogger("apscheduler").setLevel(logging.ERROR)  # "still running" is normal here
    defaults = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
    scheduler = BackgroundScheduler(
        executors={"default": ThreadPoolExecutor(max(1, len(ticks)))}, job_defaults=defaults, timezone="UTC"
    )
    for name, (every_s, do) in ticks.items():
        scheduler.add_job(surviving(name, do), "interval", seconds=every_s, id=name)
    return scheduler


def surviving(name: str, do: Callable[[], object]) -> Callable[[], None]:
    """Return `do` so that no exception leaves it: one bad round must not end all that follow."""

    def tick() -> None:
        try:
            do()
        except Exception:  # noqa: BLE001 - whatever it was, the next round must come
            _log.exception("tick failed", tick=name)

    return tick
