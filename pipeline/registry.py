"""Which pipelines there are: those that come with this program, and the models that a site has installed.

torch is imported only when one is loaded.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

from dicom_io.model import Series, Study
from pipeline.api import Pipeline, Selection
from pipeline.errors import PipelineFailed
from pipeline.models.check import RADIOGRAPHS
from pipeline.models.shelf import Broken, Installed, Shelf
from pipeline.reasons import REASONS


class Selector(Protocol):
    """The part of a pipeline that looks at headers only."""

    def select(self, study: Study) -> Selection:
        """Choose a series by headers alone; never raises for odd input."""
        ...


Subject = Literal["study", "series", "instance"]
"""What one job of a pipeline is about. What is not about the study is of the fast lane: it waits for no other image."""


@dataclass(frozen=True, slots=True)
class _Entry:
    modalities: frozenset[str]
    select: str  # module with select(study), without torch
    work: str  # module with build(options, device) -> Pipeline
    queue: Literal["cpu", "gpu"] = "cpu"  # what a machine must have to run it
    subject: Subject = "study"
    needs: tuple[str, ...] = ("torch",)  # libraries that are not always installed
    limits: tuple[str, str] | None = None  # package and file of the table of limits, where a site may move them


_PIPELINES: Mapping[str, _Entry] = MappingProxyType(
    {
        "chest_ct": _Entry(frozenset({"CT"}), "pipeline.chest_ct.select", "pipeline.chest_ct.pipeline"),
        "cxr_quality": _Entry(
            frozenset({"CR", "DX"}),
            "pipeline.quality.cxr.select",
            "pipeline.quality.cxr.pipeline",
            subject="instance",
            needs=(),
            limits=("pipeline.quality.cxr", "cxr.toml"),
        ),
        "ct_quality": _Entry(
            frozenset({"CT"}),
            "pipeline.quality.ct.select",
            "pipeline.quality.ct.pipeline",
            subject="series",
            needs=(),
            limits=("pipeline.quality.ct", "limits.toml"),
        ),
    }
)

_installed: dict[str, Installed | Broken] = {}
"""Models of the site, by name; filled once, when the settings are known."""


def install(folder: Path) -> None:
    """Take the models that stand in `folder` into the list, in the place of those before; a broken one stays and says why."""
    _installed.clear()
    for found in Shelf(folder):
        name = found.name if isinstance(found, Broken) else found.model.name
        if name not in _PIPELINES:
            _installed[name] = found


def built_in() -> frozenset[str]:
    """Names of the pipelines that come with this program."""
    return frozenset(_PIPELINES)


def available() -> tuple[str, ...]:
    """Names of all pipelines, installed here or not; those of the site last."""
    return (*_PIPELINES, *_installed)


def _entry(name: str | None) -> _Entry | None:
    """Return what is known of a pipeline; None if there is none of this name."""
    found = _installed.get(name or "")
    if found is None:
        return _PIPELINES.get(name or "")
    if isinstance(found, Broken):
        return _Entry(frozenset(), "", "")
    kinds = frozenset(found.model.modalities)
    return _Entry(kinds, "", "", subject="instance" if kinds <= RADIOGRAPHS else "study")


def modalities(name: str) -> frozenset[str]:
    """Modalities that the pipeline `name` looks at.

    Raises
    ------
    KeyError
        If there is none of this name.
    """
    entry = _entry(name)
    if entry is None:
        raise KeyError(name)
    return entry.modalities


def queue(name: str | None) -> str:
    """Return where the jobs of the pipeline `name` queue: ``gpu`` if it runs nowhere else."""
    entry = _entry(name)
    return "cpu" if entry is None else entry.queue


def subject(name: str | None) -> Subject:
    """Return what a job of the pipeline `name` is about."""
    entry = _entry(name)
    return "study" if entry is None else entry.subject


def subjects(name: str, study: Study) -> tuple[tuple[str, Study], ...]:
    """Return what the pipeline `name` would look at in `study`, piece by piece.

    Each is named by its Series or SOP Instance UID, or "study", and comes as a study that holds nothing else. Of a pipeline
    that looks at series or instances, only those of its modalities are pieces.
    """
    kind, uid = subject(name), study.study_instance_uid
    if kind == "study":
        return (("study", study),)
    own = [s for s in study.series if s.modality in modalities(name)]
    if kind == "series":
        return tuple((s.series_instance_uid, Study(uid, (s,))) for s in own)
    return tuple(
        (i.sop_instance_uid, Study(uid, (Series(s.series_instance_uid, (i,)),))) for s in own for i in s.instances
    )


def graded() -> tuple[str, ...]:
    """Names of the pipelines that grade images by a table of which sites may move the bounds."""
    return tuple(name for name, entry in _PIPELINES.items() if entry.limits is not None)


def limits(name: str) -> tuple[str, str]:
    """Return package and file of the table by which the pipeline `name`, one of `graded`, grades."""
    where = _PIPELINES[name].limits
    if where is None:
        raise KeyError(name)
    return where


def selector(name: str) -> Selector:
    """Return what chooses series for the pipeline `name`, without loading torch."""
    found = _installed.get(name)
    if found is not None:
        from pipeline.models.select import Chooser, Unusable  # noqa: PLC0415 - receivers need no geometry

        return Unusable(found.error) if isinstance(found, Broken) else Chooser(found.model)
    module: Any = importlib.import_module(_PIPELINES[name].select)
    chosen: Selector = module
    return chosen


def load(name: str, options: object, device: str = "auto") -> Pipeline:
    """Load the pipeline `name`.

    Raises
    ------
    PipelineFailed
        With the code ``pipeline-not-installed`` if a library that it needs is missing, and for what is wrong with a model.
    """
    found = _installed.get(name)
    if isinstance(found, Broken):
        raise found.error
    try:
        for library in ("torch",) if found is not None else _PIPELINES[name].needs:
            importlib.import_module(library)
    except ImportError as error:
        raise PipelineFailed(REASONS("pipeline-not-installed", pipeline=name)) from error
    module: Any = importlib.import_module("pipeline.models.pipeline" if found is not None else _PIPELINES[name].work)
    pipeline: Pipeline = module.build(options if found is None else found, device)
    return pipeline


def shelf(options: object, device: str) -> Callable[[str], Pipeline]:
    """Return a loader that keeps what it loaded; `options` has one attribute per pipeline."""
    kept: dict[str, Pipeline] = {}

    def get(name: str) -> Pipeline:
        if name not in kept:
            kept[name] = load(name, getattr(options, name, None), device)
        return kept[name]

    return get
