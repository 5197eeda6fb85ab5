"""A worker that runs out of memory: a second attempt, then a card; never silence. (Killed for it: `test_failpoints`.)"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.more import more
from tests.node.conftest import Rig

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(200)]


@pytest.mark.parametrize(("times", "outcome"), [more(1, "result"), (9, "failed")])
def test_a_job_that_gets_no_memory(
    rig: Rig, copies: Callable[..., list[Path]], judge: Callable[..., list[str]], times: int, outcome: str
) -> None:
    rig.start(PROBE_HUNGRY=str(times), PACS_AI_NODE__WORKER__ATTEMPTS="2")
    files = copies(1)
    rig.push(files, "WHOLE", within_s=60.0)
    rig.until(lambda: rig.status()["studies"]["closed"] == 1, 60.0, "a closed study")
    rig.idle(90.0)
    (job,) = rig.show("1.2.3.1")["jobs"]
    assert (job["outcome"], job["attempts"]) == (outcome, 2)
    if outcome == "failed":
        assert job["reason"]["code"] == "out-of-memory"
        assert [a["kind"] for a in job["artifacts"]] == ["card"]
    assert judge(rig, files) == []
    assert rig.log.read_bytes().count(b"process.died") == 0
