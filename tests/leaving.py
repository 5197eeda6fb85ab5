"""What leaves of what was written: a report that stands by for one that is not taken stays, where that is taken."""

from collections.abc import Mapping, Sequence
from typing import Any

from node.selection import select
from node.store import Database, jobs
from node.store.rows import Job
from sr_writer.profiles import Profile, profile

OHIF = profile("ohif")


def leaving(shown: Mapping[str, Any], *of: Mapping[str, Any], to: str = "pacs") -> set[str]:
    """Return the SOP Instance UIDs of what a destination gets of the jobs `of`, as `show` has it."""
    wanted = {job["job"] for job in of}
    sends = [d for d in shown["deliveries"] if d["job"] in wanted and (d["destination"], d["what"]) == (to, "objects")]
    return {o["sop_instance_uid"] for d in sends for o in d["objects"]}


def chosen(db: Database, found: Sequence[Job], wants: Profile = OHIF) -> set[str]:
    """Return the SOP Instance UIDs of what a destination gets of these jobs."""
    return {a.sop_uid for job in found for a in select(wants, jobs.artifacts(db, job)).objects}
