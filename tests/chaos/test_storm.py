"""The short form of ``make chaos``: twenty random kills while four senders push, and what the oracle says afterwards."""

import json
from pathlib import Path

import pytest

from tests.chaos.storm import Plan, Storm

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(540)]


def test_twenty_random_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    summary = Storm(tmp_path, Plan(studies=10, kills=20, seed=20, pause_s=1.5)).run()
    assert summary["faults"] == [], json.dumps(summary, indent=1) + (tmp_path / "node.log").read_text()[-6000:]
    assert (summary["kills"], summary["studies"], summary["acknowledged"]) == (20, 10, 80)


@pytest.mark.long
def test_a_storm_that_is_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storm = Storm(tmp_path, Plan(studies=3, kills=4, seed=21, pause_s=1.0))
    kill, count = storm._kill, 0

    def interrupted(*arguments: object) -> str | None:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return kill(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(storm, "_kill", interrupted)
    with pytest.raises(KeyboardInterrupt):
        storm.run()
    again = Storm(tmp_path, Plan(studies=99, kills=99, seed=99))
    assert again.plan == storm.plan, "the plan of the folder counts"
    assert again.state.kills.total() == 2
    summary = again.run()
    assert (summary["faults"], summary["kills"], summary["acknowledged"]) == ([], 4, 24)
