"""Every way one pipeline can end is an outcome."""

import errno
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

import phantom
from dicom_io.model import Series, Study, group
from dicom_io.read import read_instance
from dicom_io.reason import Reason
from node import execute as module
from node.execute import ExecutionContext, JobOutcome, execute
from pipeline.api import Analysis, Considered, Progress, Selection
from pipeline.errors import NotAnalysed, PipelineFailed
from sr_writer.gate import Refusal
from sr_writer.reasons import REASONS as WRITER_REASONS

pytestmark = pytest.mark.unit


def reason(klass: Any) -> Reason:
    return Reason("because", klass, {"en": "Because.", "zh-CN": "因为。"}, {})


class Scripted:
    """A pipeline that does what the test wants to see handled."""

    name, version, weights_digest, options_digest = "scripted", "1", "sha256:0", "sha256:1"

    def __init__(self, selects: Reason | None = None, raises: BaseException | None = None) -> None:
        self.selects, self.raises = selects, raises

    def select(self, study: Study) -> Selection:
        series = study.series[0]
        if self.selects is not None:
            return Selection(None, (Considered(series.series_instance_uid, False, self.selects),), self.selects)
        return Selection(series, (Considered(series.series_instance_uid, True, reason("note")),), None)

    def run(self, series: Series, progress: Progress | None = None) -> Analysis:
        del series, progress
        assert self.raises is not None
        raise self.raises


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = phantom.write(phantom.build(1, slices=8, matrix=64), tmp_path_factory.mktemp("s")) / "dicom"
    return group(read_instance(p) for p in sorted(folder.iterdir()))[0]


def outcome(study: Study, tmp_path: Path, pipeline: Scripted) -> JobOutcome:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return execute(study, pipeline, ExecutionContext(installation_id="i", out=tmp_path / "study", now=now))


@pytest.mark.parametrize(
    ("pipeline", "is_now", "code", "again", "cards"),
    [
        (Scripted(selects=reason("not_applicable")), "not_analysed", "because", False, 0),
        (Scripted(selects=reason("unable")), "not_analysed", "because", False, 1),
        (Scripted(raises=NotAnalysed(reason("unable"))), "not_analysed", "because", False, 1),
        (Scripted(raises=NotAnalysed(reason("not_applicable"))), "not_analysed", "because", False, 0),
        (Scripted(raises=PipelineFailed(reason("error"))), "failed", "because", False, 1),
        (Scripted(raises=PipelineFailed(reason("error"), retryable=True)), "failed", "because", True, 1),
        (Scripted(raises=MemoryError()), "failed", "out-of-memory", True, 1),
        (Scripted(raises=OSError(errno.ENOSPC, "x")), "failed", "writing-failed", True, 1),
        (Scripted(raises=ZeroDivisionError()), "failed", "pipeline-crashed", True, 1),
    ],
)
def test_every_end_is_an_outcome(
    study: Study, tmp_path: Path, pipeline: Scripted, is_now: str, code: str, again: bool, cards: int
) -> None:
    ended = outcome(study, tmp_path, pipeline)
    assert ended.reason is not None
    assert (ended.outcome, ended.reason.code, ended.retryable) == (is_now, code, again)
    assert [a.kind for a in ended.artifacts] == ["card"] * cards
    assert [a["kind"] for a in ended.document["artifacts"]] == ["card"] * cards
    for artifact in ended.artifacts:
        assert dcmread(artifact.path).StudyInstanceUID == study.study_instance_uid


def test_an_interruption_is_no_outcome(study: Study, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        outcome(study, tmp_path, Scripted(raises=KeyboardInterrupt()))


def test_a_card_that_cannot_be_drawn_does_not_hide_the_outcome(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Sequence[Any]:
        raise ValueError

    monkeypatch.setattr(module.write, "write_card", broken)
    ended = outcome(study, tmp_path, Scripted(selects=reason("unable")))
    assert (ended.outcome, ended.artifacts) == ("not_analysed", ())


def test_what_the_gate_refuses_is_set_aside_and_nothing_leaves(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = next(iter(WRITER_REASONS))
    refused = WRITER_REASONS[code]
    monkeypatch.setattr(module.gate, "check", lambda written, *_: tuple(Refusal(a, refused) for a in written))
    ended = outcome(study, tmp_path, Scripted(selects=reason("unable")))
    assert ended.artifacts == ()
    assert [r.reason.code for r in ended.refusals] == [code]
    assert [p.name for p in (tmp_path / "study" / "scripted" / "refused").iterdir()] == ["card.dcm"]
