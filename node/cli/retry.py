"""``pacs-ai-node retry``: run a job again, send again what did not arrive."""

from typing import TYPE_CHECKING

from node.cli._act import act_on_jobs

if TYPE_CHECKING:
    from node.store import Database


def _retry(db: "Database", now: float, study_uid: str | None, job_id: int | None) -> int:
    from node.store import operator

    return operator.retry(db, now, study_uid=study_uid, job_id=job_id)


command = act_on_jobs(
    "retry",
    "Run jobs of STUDY, or --job, that have no result again; send again what failed, and at once what waits.",
    _retry,
    "put back into the queue",
)
