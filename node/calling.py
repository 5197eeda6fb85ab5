"""Who calls `Worker.run(job_id)`: on a database of its own the worker itself, where nodes share one procrastinate.

The job's row is the truth either way. Whoever leads calls for every job that may be claimed and has no call, so a call that was
lost, with its worker or between two commits, comes again by itself.
"""

import asyncio
import importlib.util
import threading
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from config.settings import Rule, Settings
from node import retry
from node.clock import Guard
from node.store import Database, StoreError, calls
from node.store.jobs import Lane
from pipeline import registry

if TYPE_CHECKING:
    from procrastinate import App
    from procrastinate.connector import BaseConnector

    from node.worker import Worker

_log = structlog.get_logger()

_TASK = "run"
_FAST = "quality"
"""Queue of the jobs about single series and images."""


def pipelines(rules: Sequence[Rule], lane: Lane = "all") -> tuple[str, ...]:
    """Return the pipelines that rules name, those of one lane."""
    named = sorted({name for rule in rules for name in rule.run})
    return tuple(n for n in named if lane in ("all", "studies" if registry.subject(n) == "study" else "fast"))


def prepare(db: Database) -> None:
    """Make the tables of procrastinate, where nodes share a database.

    Raises
    ------
    StoreError
        If it is not installed.
    """
    if not db.shared:
        return
    if importlib.util.find_spec("procrastinate") is None:
        raise StoreError(
            "database.url names PostgreSQL, which needs procrastinate: pip install 'pacs-ai-node[cluster]'"
        )
    from procrastinate.schema import SchemaManager  # noqa: PLC0415 - needed where nodes share a database

    version = metadata.version("procrastinate")
    if calls.prepare(db, version, SchemaManager.get_schema()):
        _log.info("calls.prepared", procrastinate=version)


class Caller:
    """Calls for jobs; one for all nodes, on the seat of who leads.

    Parameters
    ----------
    db : Database
        The rows.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._app: App | None = None

    def call(self, now: float) -> int:
        """Call for every job that may be claimed and has no call; return for how many."""
        if not self._db.shared:
            return 0
        found = calls.uncalled(self._db, now)
        if not found:
            return 0
        from procrastinate.exceptions import AlreadyEnqueued  # noqa: PLC0415 - as above

        app = self._opened()
        for job in found:
            fast = registry.subject(job.pipeline) != "study"
            queue = _FAST if fast else registry.queue(job.pipeline)
            # the highest number goes first there, 0 (STAT) here
            urgency = 1 if fast else -job.priority
            task = app.configure_task(_TASK, queue=queue, queueing_lock=str(job.id), priority=urgency)
            try:
                task.defer(job_id=job.id)
            except AlreadyEnqueued:  # by who led before
                continue
        return len(found)

    def sweep(self) -> int:
        """Forget calls whose worker is gone; return how many."""
        return calls.forget_lost(self._db, float(retry.policy()["calls"]["silent_s"])) if self._db.shared else 0

    def close(self) -> None:
        """Let go of the database."""
        if self._app is not None:
            self._app.close()

    def _opened(self) -> "App":
        if self._app is None:
            from procrastinate import SyncPsycopgConnector  # noqa: PLC0415 - as above

            where, how = calls.way(self._db)
            app = _app(SyncPsycopgConnector(conninfo=where, kwargs=how, min_size=1, max_size=1))
            app.open()
            self._app = app
        return self._app


def work(db: Database, worker: "Worker", settings: Settings, stop: threading.Event, lane: Lane = "all") -> None:
    """Run jobs of a lane until told to stop, as they are called for."""
    if not db.shared:
        worker.loop(stop)
        return
    queues = ["gpu", "cpu"] if _has_gpu(settings.worker.device) else ["cpu"]
    queues = [_FAST] if lane == "fast" else queues if lane == "studies" else [_FAST, *queues]
    guard = Guard("calls")
    while not stop.is_set():
        guard.done(lambda: asyncio.run(_listen(db, worker, queues)))
        stop.wait(float(retry.policy()["calls"]["again_s"]))


async def _listen(db: Database, worker: "Worker", queues: list[str]) -> None:
    """Be a worker of procrastinate; ends when the database is away."""
    from procrastinate import PsycopgConnector  # noqa: PLC0415 - as above

    policy = retry.policy()["calls"]
    where, how = calls.way(db)
    app = _app(PsycopgConnector(conninfo=where, kwargs=how, min_size=1, max_size=3), worker)
    async with app.open_async():
        await app.run_worker_async(
            queues=queues, name=worker.owner, concurrency=1, delete_jobs="always", install_signal_handlers=False,
            fetch_job_polling_interval=policy["poll_s"], update_heartbeat_interval=policy["beat_s"],
            stalled_worker_timeout=policy["silent_s"],
        )  # fmt: skip


def _app(connector: "BaseConnector", worker: "Worker | None" = None) -> "App":
    from procrastinate import App  # noqa: PLC0415 - as above

    app = App(connector=connector)

    async def run(job_id: int) -> None:
        if worker is not None:
            await asyncio.to_thread(worker.called, job_id)

    task: Any = app.task(name=_TASK)
    task(run)
    return app


def _has_gpu(device: str) -> bool:
    """Say whether a worker computes on a GPU, without the library that knows."""
    return device.startswith("cuda") or (device == "auto" and any(Path("/dev").glob("nvidia[0-9]*")))
