"""A source that is left alone while the clock is set: it is left alone for minutes, not for hours."""

from pathlib import Path

import pytest

from dicom_io.errors import NetworkError
from dicom_io.reasons import REASONS
from dicom_io.scu import Peer
from dicom_io.scu_query import FoundSeries
from node.inquire import Source
from node.store import open_database

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("jump_s", [-21600.0, 21600.0])
def test_a_clock_that_is_set_does_not_silence_a_source(tmp_path: Path, jump_s: float) -> None:
    asked: list[str] = []

    def ask(peer: Peer, study_uid: str) -> tuple[FoundSeries, ...]:
        asked.append(study_uid)
        raise NetworkError(REASONS("peer-timeout", host=peer.host, port=peer.port), retryable=True)

    db = open_database(tmp_path / "node.sqlite3")
    source = Source(db, "CT1", Peer("h", 104, "CT1", "NODE"), (), lambda _uid: None, ask)
    now = 1_000_000.0
    source.plan("1.2", now)
    source.step(now)
    source.plan("1.2", now)
    source.step(now + 1.0)
    assert len(asked) == 1, "it did not answer: it is left alone"
    now += jump_s
    source.plan("1.2", now)
    source.step(now + 301.0)
    assert len(asked) == 2
    db.close()
