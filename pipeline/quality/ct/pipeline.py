"""Grades one CT series as a picture of a chest; no torch, no weights."""

import time

import numpy as np
from scipy import ndimage

from dicom_io.model import Series, Study
from dicom_io.stack import build_stack
from dicom_io.volume import load_volume
from pipeline.api import Analysis, Progress, Selection
from pipeline.options import CtQualityOptions
from pipeline.quality.ct import select
from pipeline.quality.ct.measures import Seen, measure
from pipeline.quality.ct.parameters import data_digest
from pipeline.quality.grade import grade
from pipeline.quality.limits import Limits
from pipeline.quality.summary import summary
from pipeline.result import Code, Geometry, Mask, Region, Result

NAME = "ct_quality"
VERSION = "0.1.0"
CHEST = Code("51185008", "SCT", "Chest")


def build(options: CtQualityOptions, _device: str = "auto") -> "CtQuality":
    """Return the pipeline, ready to work; it always runs on the processor."""
    return CtQuality(options)


class CtQuality:
    """See `pipeline.api.Pipeline`; keeps nothing between two series."""

    name = NAME
    version = VERSION

    def __init__(self, options: CtQualityOptions) -> None:
        self._limits = Limits.read(NAME, options.limits)

    @property
    def weights_digest(self) -> str:
        """Digest of code and data files; there are no weights."""
        return data_digest()

    @property
    def options_digest(self) -> str:
        """Digest of the options, the content of the site's limits included."""
        return self._limits.options_digest

    def select(self, study: Study) -> Selection:
        """Choose a series by headers alone."""
        return select.select(study)

    def run(self, series: Series, progress: Progress | None = None) -> Analysis:
        """Grade the chosen series; see `pipeline.api.Pipeline`."""
        tell = progress or (lambda _stage, _share: None)
        times = [time.perf_counter()]
        tell("volume", 0.0)
        stack = build_stack(series.instances)
        volume = load_volume(stack, allow_gaps=True)  # of lengths and volumes nothing is reported
        times.append(time.perf_counter())
        tell("quality", 0.4)
        seen = measure(stack, volume)
        uid = series.series_instance_uid
        header = series.instances[0].header
        graded = grade(seen.measures, self._limits.of(header), "series", uid, seen.not_evaluated)
        times.append(time.perf_counter())
        geometry = Geometry(volume.array.shape, volume.affine, volume.images, volume.frame_of_reference_uid)
        result = Result(
            pipeline=NAME, version=VERSION, series_instance_uid=uid, geometry=geometry, device="cpu", quality=graded,
            regions=(Region("body", _body(seen), CHEST),), measurements=(), segments=(), findings=(),
            notes=self._limits.note(header), summary=summary(graded),
            timings_s={"volume": times[1] - times[0], "quality": times[2] - times[1]},
        )  # fmt: skip
        return Analysis(result, volume)


def _body(seen: Seen) -> Mask:
    """Return the body on one slice, the one with most lung; the whole slice if no body is seen."""
    view, chest = seen.view, seen.chest
    z = len(view.stack.instances) // 2
    if view.axial and chest.levels:
        z = view.plane(int(chest.lung.any(axis=2).sum(axis=1).argmax()))
    tissue = ndimage.binary_opening(view.volume.array[z] > -500, iterations=2)
    labels, count = ndimage.label(tissue)
    inside = np.ones(tissue.shape, bool)
    if count:
        inside = ndimage.binary_fill_holes(labels == np.bincount(labels.ravel())[1:].argmax() + 1)
    small = Mask.of(inside[None])
    return Mask(view.volume.array.shape, (z, small.offset[1], small.offset[2]), small.box)
