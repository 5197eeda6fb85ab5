"""``pacs-ai-node cancel``: take work back."""

from typing import TYPE_CHECKING

from node.cli._act import act_on_jobs

if TYPE_CHECKING:
    from node.store import Database


def _cancel(db: "Database", now: float, study_uid: str | None, job_id: int | None) -> int:
    from node.store import operator

    return operator.cancel(db, now, study_uid=study_uid, job_id=job_id)


command = act_on_jobs(
    "cancel",
    "Cancel waiting and running jobs of STUDY, or --job, and deliveries that have not arrived.",
    _cancel,
    "cancelled",
)
