"""The quality of one chest radiograph: from its file to a grade."""

import time

import numpy as np

from dicom_io.model import Instance, Series, Study
from dicom_io.radiograph import Radiograph, load_radiograph
from dicom_io.reason import Reason
from pipeline import registry
from pipeline.api import Analysis, Progress, Selection
from pipeline.options import CxrQualityOptions
from pipeline.quality.cxr import checks, model, select
from pipeline.quality.cxr.parameters import data_digest
from pipeline.quality.grade import grade
from pipeline.quality.limits import Limits
from pipeline.quality.summary import summary
from pipeline.reasons import REASONS
from pipeline.result import Code, Mask, Projection, Quality, Region, Result

NAME = "cxr_quality"
VERSION = "0.1.0"
PACKAGE, LIMITS = registry.limits(NAME)
CHEST = Code("51185008", "SCT", "Chest")


def build(options: CxrQualityOptions, _device: str = "auto") -> "CxrQuality":
    """Return the pipeline, ready to work; it runs on the processor wherever it is."""
    return CxrQuality(options)


class CxrQuality:
    """See `pipeline.api.Pipeline`; keeps nothing between two images."""

    name = NAME
    version = VERSION

    def __init__(self, options: CxrQualityOptions) -> None:
        self._limits = Limits.read(NAME, options.limits)
        self._model = model.load()

    @property
    def weights_digest(self) -> str:
        """Digest of code, data files and weights."""
        return data_digest()

    @property
    def options_digest(self) -> str:
        """Digest of the options, the content of the site's limits included."""
        return self._limits.options_digest

    def select(self, study: Study) -> Selection:
        """Choose an image by its header alone."""
        return select.select(study)

    def run(self, series: Series, progress: Progress | None = None) -> Analysis:
        """Grade the chosen image; see `pipeline.api.Pipeline`."""
        tell = progress or (lambda _stage, _share: None)
        begun = time.perf_counter()
        tell("image", 0.0)
        image = series.instances[0]
        radiograph = load_radiograph(image)
        read = time.perf_counter()
        tell("quality", 0.4)
        graded = self._grade(image, radiograph)
        timings = {"image": read - begun, "quality": time.perf_counter() - read}
        notes = (REASONS("cxr-grade-is-a-hint"), *self._limits.note(image.header))
        return Analysis(_result(series, radiograph, graded, notes, timings), radiograph)

    def _grade(self, image: Instance, radiograph: Radiograph) -> Quality:
        measures, open_ = checks.measure(image.header, radiograph, self._model)
        return grade(measures, self._limits.of(image.header), "instance", image.sop_instance_uid, open_)


def _result(
    series: Series, radiograph: Radiograph, graded: Quality, notes: tuple[Reason, ...], timings: dict[str, float]
) -> Result:
    rows, columns = radiograph.shown.shape
    whole = Mask((1, rows, columns), (0, 0, 0), np.ones((1, rows, columns), np.uint8))
    grid = Projection(rows, columns, radiograph.sop_instance_uid, radiograph.orientation, radiograph.spacing)
    return Result(
        pipeline=NAME, version=VERSION, series_instance_uid=series.series_instance_uid, geometry=grid, device="cpu",
        quality=graded, regions=(Region("body", whole, CHEST),), measurements=(), segments=(), findings=(),
        notes=notes, summary=summary(graded),
        timings_s=timings,
    )  # fmt: skip
