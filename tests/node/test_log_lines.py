"""What the log says of images that come again, without a line for each and without patient data."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.node.desk import Desk, changed
from tests.node.test_revisions import Change, new_accession, renamed, whitened

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("change", "verdict", "level"),
    [(renamed, "corrected", "info"), (new_accession, "corrected", "info"), (whitened, "conflict", "warning")],
)
def test_images_that_come_again_are_told_once_per_association_and_study(
    desk: Desk, slices: list[Path], uid: str, tmp_path: Path, change: Change, verdict: str, level: str
) -> None:
    with capture_logs() as logs:
        desk.receive(slices)
        assert not [told for told in logs if told["event"].startswith("index.")]
        again = changed(slices, tmp_path / "again", change)
        desk.receive(again[:-1])
        desk.receive(again[-1:])
    told = [line for line in logs if line["event"].startswith("index.")]
    assert [(line["event"], line["log_level"], line["association"]) for line in told] == [
        (f"index.{verdict}", level, "a2"), (f"index.{verdict}", level, "a3"),
    ]  # fmt: skip
    assert {line["study"] for line in told} == {desk.study(uid).hash}
    assert not any(secret in str(logs) for secret in (uid, "RIGHT", "ACC-RIGHT"))
