"""The clock is set while an archive's answer is awaited: the question is not asked anew for hours."""

from pathlib import Path

import pytest

from node import commitment
from node.store import commitments, deliveries, jobs, waits
from node.store.clocks import Jump
from tests.more import ON_FILES_FIRST, once
from tests.node.desk import Desk, small_ct

pytestmark = [pytest.mark.unit, ON_FILES_FIRST, pytest.mark.usefixtures("back_end")]


@pytest.mark.parametrize(
    ("jump_s", "asked_before"),
    once([(-21600.0, True), (21600.0, False)], [-21600.0, 21600.0], [True, False]),
)
def test_a_question_that_waits_for_its_answer_survives_a_jump_of_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float, *, asked_before: bool
) -> None:
    desk = Desk(tmp_path / "desk")
    desk.receive(small_ct(tmp_path / "phantom"))
    desk.after(4000.0)
    desk.work()
    taken = deliveries.take(desk.db, "pacs", desk.now)
    assert taken is not None
    deliveries.settle(desk.db, taken, desk.now, "delivered", proof=("waiting", desk.now + 2.0))
    asked: list[str] = []
    monkeypatch.setattr(commitment, "request_commitment", lambda _peer, uid, _refs, **_more: asked.append(uid))

    def ask() -> None:
        archive = commitment.Archive(
            desk.db, desk.folder.spool, desk.settings.destination[0], "NODE", now=lambda: desk.now
        )
        (delivery,) = deliveries.deliveries(desk.db, taken.study_uid)
        job = jobs.job(desk.db, delivery.job_id)
        assert job is not None
        archive.confirm(delivery, jobs.artifacts(desk.db, job))
        assert len(commitments.of_delivery(desk.db, delivery)) == 1
        desk.now += 10.0

    if asked_before:
        ask()
    desk.now += jump_s
    waits.shift(desk.db, lambda: desk.now, Jump.noticed(jump_s, desk.now, desk.now - jump_s))
    for _ in range(3):
        ask()
    assert len(asked) == 1
    desk.stop()
