"""Which series or image an installed model takes, by headers alone; no torch, no pixels."""

import fnmatch
from dataclasses import dataclass

from dicom_io import elements
from dicom_io.errors import DicomIOError
from dicom_io.frames import header_of
from dicom_io.model import Instance, Series, Study
from dicom_io.radiograph import SOP_CLASSES
from dicom_io.reason import Reason
from dicom_io.stack import Stack, build_stack
from pipeline.api import Considered, Selection
from pipeline.errors import PipelineFailed
from pipeline.models.description import Model
from pipeline.reasons import REASONS


@dataclass(frozen=True, slots=True)
class _Judged:
    """One series: refused with a reason (nearer to acceptance the higher its rank), or what would be used."""

    series: Series
    rank: int
    reason: Reason | None = None
    used: Series | None = None
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Chooser:
    """What chooses for one model."""

    model: Model

    def select(self, study: Study) -> Selection:
        """Choose a series by headers alone; never raises for odd input."""
        judged = [self._judge(series) for series in study.series]
        fit = [j for j in judged if j.used is not None]
        if not fit:
            refused = [j for j in judged if j.reason is not None]
            nearest = max(refused, key=lambda j: j.rank, default=None)
            reason = REASONS("model-no-series", model=self.model.name) if nearest is None else nearest.reason
            return Selection(None, tuple(_considered(j, None) for j in judged), reason)
        best = max(fit, key=lambda j: (j.score, j.series.series_instance_uid))
        return Selection(best.used, tuple(_considered(j, best) for j in judged), None)

    def _judge(self, series: Series) -> _Judged:
        try:
            return self._tried(series)
        except DicomIOError as error:
            return _Judged(series, 3, error.reason)
        except Exception:  # noqa: BLE001 - a header can be odd in ways no list foresees, and selection must answer
            return _Judged(series, 0, REASONS("series-header-unusable"))

    def _tried(self, series: Series) -> _Judged:
        model, said = self.model, self.model.select
        if series.modality not in model.modalities:
            return _Judged(series, 1, REASONS("model-other-modality", modalities=", ".join(model.modalities)))
        header = header_of(series.instances[0])
        part = elements.text(header, "BodyPartExamined").upper()
        if said.body_parts and part and part not in {p.upper() for p in said.body_parts}:
            return _Judged(series, 2, REASONS("model-other-body-part", parts=", ".join(said.body_parts)))
        for keyword, pattern in said.match.items():
            values = elements.texts(header, keyword)
            if not any(fnmatch.fnmatchcase(value.upper(), pattern.upper()) for value in values):
                return _Judged(series, 2, REASONS("model-other-series", keyword=keyword, pattern=pattern))
        if model.input.kind == "image":
            return self._image(series)
        stack = build_stack(series.instances)
        return self._volume(series, stack)

    def _image(self, series: Series) -> _Judged:
        images = [i for i in series.instances if i.sop_class_uid in SOP_CLASSES]
        if not images:
            return _Judged(series, 2, REASONS("model-no-image"))
        first = min(images, key=_order)
        meant = elements.text(first.header, "PresentationIntentType").upper() != "FOR PROCESSING"
        return _Judged(series, 4, None, Series(series.series_instance_uid, (first,)), float(meant))

    def _volume(self, series: Series, stack: Stack) -> _Judged:
        said = self.model.select
        if len(stack.images) < said.slices:
            return _Judged(series, 4, REASONS("model-too-few-slices", value=len(stack.images), limit=said.slices))
        thickness = max(stack.thickness_mm or 0.0, stack.spacing_mm)
        if said.thickness_mm is not None and thickness > said.thickness_mm:
            values = {"value": f"{thickness:g}", "limit": f"{said.thickness_mm:g}"}
            return _Judged(series, 4, REASONS("model-slices-thick", **values))
        uids = {image.sop_instance_uid for image in stack.images}
        used = Series(series.series_instance_uid, tuple(i for i in series.instances if i.sop_instance_uid in uids))
        original = [part.upper() for part in elements.texts(stack.instances[0].header, "ImageType")][:1] == ["ORIGINAL"]
        return _Judged(series, 5, None, used, original * 1e6 + len(stack.images) - thickness)


@dataclass(frozen=True, slots=True)
class Unusable:
    """What chooses for a model whose folder is broken: nothing, and says why."""

    error: PipelineFailed

    def select(self, study: Study) -> Selection:
        """Choose nothing."""
        del study
        return Selection(None, (), self.error.reason)


def _order(instance: Instance) -> tuple[int, str]:
    return elements.integer(instance.header, "InstanceNumber") or 0, instance.sop_instance_uid


def _considered(one: _Judged, best: _Judged | None) -> Considered:
    chosen = one is best
    reason = one.reason or REASONS("model-series-chosen" if chosen else "model-series-not-preferred")
    return Considered(one.series.series_instance_uid, chosen, reason)
