"""Radiographs of a phantom with one thing wrong each, and what the pipeline says of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from pydicom.dataset import Dataset

from dicom_io.model import Study, group
from dicom_io.radiograph import load_radiograph
from dicom_io.read import read_instance
from phantom.radiograph import Radiograph, dataset
from pipeline.quality.cxr import checks
from pipeline.quality.cxr.model import ORIENTATIONS, Margins, Seen
from pipeline.quality.cxr.pipeline import LIMITS, PACKAGE
from pipeline.quality.grade import grade, table
from pipeline.result import Quality

Change = Callable[[Dataset], None]


def study(folder: Path, made: Radiograph, change: Change | None = None) -> Study:
    ds = dataset(made)
    if change:
        change(ds)
    folder.mkdir(parents=True, exist_ok=True)
    ds.save_as(folder / "image.dcm", enforce_file_format=True)
    return group([read_instance(folder / "image.dcm")])[0]


def alarms(quality: Quality) -> set[str]:
    return {f.reason.code for f in quality.findings if f.grade in "CD"}


def said(quality: Quality) -> set[str]:
    return {f.reason.code for f in quality.findings}


def put(**values: object) -> Change:
    def change(ds: Dataset) -> None:
        for keyword, value in values.items():
            setattr(ds, keyword, value)

    return change


def spoiled(made: Radiograph, image: np.ndarray) -> Radiograph:
    return replace(made, array=np.clip(np.rint(image), 0, 4095).astype(np.uint16))


@dataclass(frozen=True, eq=False)
class Given:
    """A model that saw what a test says: what is tested is what follows from it."""

    seen: Seen

    def look(self, _shown: np.ndarray) -> Seen:
        return self.seen


def seen(made: Radiograph, **what: Any) -> Seen:
    """Return what a model would have seen of a phantom that knew the truth."""
    n = max(made.array.shape)
    rows, columns = (np.flatnonzero((made.right | made.left).any(axis=axis)) for axis in (1, 0))
    borders = Margins(
        rows[0] / n,
        (made.array.shape[0] - 1 - rows[-1]) / n,
        columns[0] / n,
        (made.array.shape[1] - 1 - columns[-1]) / n,
    )
    truth = Seen(
        one_of("upright"), 0.01, 0.99, 0.0, 1.0, made.right.astype(np.float32), made.left.astype(np.float32), borders,
        Margins(0.01, 0.01, 0.01, 0.01),
    )  # fmt: skip
    return replace(truth, **what)


def one_of(lying: str) -> np.ndarray:
    return np.array([0.99 if name == lying else 0.01 / 7 for name in ORIENTATIONS], np.float32)


def judged(folder: Path, made: Radiograph, what: Seen, change: Change | None = None) -> Quality:
    image = study(folder, made, change).instances[0]
    measures, open_ = checks.measure(image.header, load_radiograph(image), cast("Any", Given(what)))
    return grade(measures, table(PACKAGE, LIMITS), "instance", image.sop_instance_uid, open_)
