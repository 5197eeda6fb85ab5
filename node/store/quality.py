"""What has been said of the quality of images; no patient is in it."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from node.store import tables as t
from node.store.engine import Database

_BATCH = 500
_j, _s = t.job.c, t.study.c


@dataclass(frozen=True, slots=True)
class Graded:
    """One image or series that was looked at: when, by what, the hash of its study, and the job's document."""

    at: float
    pipeline: str
    study_hash: str
    outcome: str
    document: dict[str, Any]


def graded(db: Database, pipelines: Collection[str], since: float) -> Iterator[Graded]:
    """Return what the jobs of `pipelines` have said since a time, in order; of what was looked at again, the last word."""
    last = (
        sa.select(sa.func.max(_j.id))
        .where(_j.pipeline.in_(pipelines), _j.state.in_(("done", "dead")))
        .group_by(_j.study_uid, _j.pipeline, _j.subject)
    )
    first = t.job.alias("first")  # of what is carried forward: when it was said
    at = sa.func.coalesce(first.c.ended, _j.ended)
    query = (
        sa.select(at.label("at"), _j.pipeline, _s.hash, _j.outcome, _j.document, _j.id)
        .join(t.study, _s.uid == _j.study_uid)
        .outerjoin(first, first.c.id == _j.carried_from)
        .where(_j.id.in_(last), at >= since)
        .order_by(at, _j.id)
    )
    with db.read() as c:
        for row in c.execute(query.execution_options(yield_per=_BATCH)):
            yield Graded(row.at, row.pipeline, row.hash, row.outcome, row.document or {})
