"""An installed model as a pipeline: from a chosen series to a result."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from dicom_io.model import Series, Study
from dicom_io.radiograph import Radiograph, load_radiograph
from dicom_io.reason import Reason
from dicom_io.stack import build_stack
from dicom_io.volume import load_volume
from pipeline.api import Analysis, Progress, Selection
from pipeline.device import pick
from pipeline.errors import NotAnalysed, PipelineFailed
from pipeline.models import grid, heads, network, report, window
from pipeline.models.heads import Shown
from pipeline.models.prepare import normalise
from pipeline.models.report import Subject
from pipeline.models.select import Chooser
from pipeline.models.shelf import Installed
from pipeline.reasons import REASONS


class ModelPipeline:
    """See `pipeline.api.Pipeline`. The network is loaded when it is first needed, and stays.

    Parameters
    ----------
    installed : Installed
        The model.
    device : torch.device
        Where it computes while memory suffices.
    """

    def __init__(self, installed: Installed, device: torch.device) -> None:
        self.name = installed.model.name
        self.version = installed.model.version
        self._installed = installed
        self._device = device
        self._runner: network.Runner | None = None

    @property
    def weights_digest(self) -> str:
        """Digest of the description, which holds those of the weights."""
        return self._installed.digest

    @property
    def options_digest(self) -> str:
        """Digest of nothing: what can be chosen stands in the description."""
        return "sha256:" + hashlib.sha256(b"{}").hexdigest()

    def select(self, study: Study) -> Selection:
        """Choose a series by headers alone."""
        return Chooser(self._installed.model).select(study)

    @property
    def runner(self) -> network.Runner:
        """The network; its file is compared with its digest when it is loaded."""
        if self._runner is None:
            self._runner = network.load(self._installed, self._device)
        return self._runner

    def run(self, series: Series, progress: Progress | None = None) -> Analysis:
        """Work on the chosen series; see `pipeline.api.Pipeline`."""
        timings: dict[str, float] = {}
        tell = progress or (lambda _stage, _share: None)
        with _timed(timings, "load"):
            tell("load", 0.0)
            runner = self.runner
        with _timed(timings, "volume"):
            tell("volume", 0.05)
            subject = self._subject(series)
        with torch.inference_mode():
            shown, device, notes = self._work(subject, runner, timings, tell)
        with _timed(timings, "measure"):
            tell("measure", 0.85)
            said = [*notes, *self._notes(shown)]
            result = report.result(self._installed.model, subject, shown, device, said)
        return Analysis(replace(result, timings_s=timings), subject.values)

    def _subject(self, series: Series) -> Subject:
        if self._installed.model.input.kind == "image":
            return Subject(series, load_radiograph(series.instances[0]))
        stack = build_stack(series.instances)
        return Subject(series, load_volume(stack), stack)

    def _work(
        self, subject: Subject, runner: network.Runner, timings: dict[str, float], tell: Progress
    ) -> tuple[Sequence[Shown], str, list[Reason]]:
        """Return what the model shows, where it was computed, and what must be said about it."""
        model, values = self._installed.model, subject.values
        notes: list[Reason] = []
        with _timed(timings, "prepare"):
            if isinstance(values, Radiograph):
                try:
                    laid = grid.of_radiograph(values, model.input)
                except grid.Unfit as found:
                    raise NotAnalysed(REASONS("model-other-view", sides=str(found))) from found
                if model.input.orientation and not values.orientation:
                    notes.append(REASONS("model-orientation-unknown"))
                array = (values.shown if model.input.values == "shown" else values.array)[None]
            else:
                laid, array = grid.of_volume(values, model.input), values.array
            image = laid.take(array, model.input.outside, runner.device)
            flat = image[0] if isinstance(values, Radiograph) else image
            ready, edge = normalise(flat, model.input)
        with _timed(timings, "network"):
            shape = subject.grid.shape
            if model.output.form == "boxes" or model.task == "classification":
                outputs, plan = window.whole(model, runner, ready, edge)
            else:
                given, plan = window.maps(model, runner, ready, edge, lambda share: tell("network", 0.1 + 0.6 * share))
        with _timed(timings, "masks"):
            tell("masks", 0.75)
            if model.task == "classification":
                shown = heads.classes(model, outputs)
            elif model.output.form == "boxes":
                shown = heads.boxes(model, outputs, laid, shape)
            else:
                if not bool(torch.isfinite(given).all()):
                    raise PipelineFailed(
                        REASONS("model-output-unexpected", model=model.name, given="NaN", promised="numbers")
                    )
                whole = given[:, None] if isinstance(values, Radiograph) else given
                shown = heads.areas(model, whole, laid, shape, subject.unit)
        return shown, str(plan.device), notes

    def _notes(self, shown: Sequence[Shown]) -> list[Reason]:
        model = self._installed.model
        notes = [
            REASONS("model-of-site", title=model.card.title["en"], title_zh=model.card.title["zh-CN"]),
            REASONS("quality-not-graded"),
        ]
        if any(s.label.finding or s.mask is None for s in shown) and not heads.calibrated(model.calibration):
            notes.append(REASONS("model-score-not-probability"))
        if model.output.form == "boxes" and shown:
            notes.append(REASONS("model-boxes"))
        if heads.told_most(model, shown):
            notes.append(REASONS("model-most-findings", count=model.output.most))
        return notes


def build(installed: Installed, device: str = "auto") -> ModelPipeline:
    """Return the pipeline of an installed model; its network is loaded with the first series."""
    return ModelPipeline(installed, pick(device))


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    timings[stage] = time.perf_counter() - begin
