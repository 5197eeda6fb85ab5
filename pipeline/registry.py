"""Which pipelines there are; torch is imported only when one is loaded."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol

from dicom_io.model import Study
from pipeline.api import Pipeline, Selection
from pipeline.errors import PipelineFailed
from pipeline.reasons import REASONS


class Selector(Protocol):
    """The part of a pipeline that looks at headers only."""

    def select(self, study: Study) -> Selection:
        """Choose a series by headers alone; never raises for odd input."""
        ...


@dataclass(frozen=True, slots=True)
class _Entry:
    modalities: frozenset[str]
    select: str  # module with select(study), without torch
    work: str  # module with build(options, device) -> Pipeline
    queue: Literal["cpu", "gpu"] = "cpu"  # what a machine must have to run it


_PIPELINES: Mapping[str, _Entry] = MappingProxyType(
    {"chest_ct": _Entry(frozenset({"CT"}), "pipeline.chest_ct.select", "pipeline.chest_ct.pipeline")}
)


def available() -> tuple[str, ...]:
    """Names of all pipelines, installed here or not."""
    return tuple(_PIPELINES)


def modalities(name: str) -> frozenset[str]:
    """Modalities that the pipeline `name` looks at."""
    return _PIPELINES[name].modalities


def queue(name: str | None) -> str:
    """Return where the jobs of the pipeline `name` queue: ``gpu`` if it runs nowhere else."""
    entry = _PIPELINES.get(name or "")
    return "cpu" if entry is None else entry.queue


def selector(name: str) -> Selector:
    """Return what chooses series for the pipeline `name`, without loading torch."""
    module: Any = importlib.import_module(_PIPELINES[name].select)
    chosen: Selector = module
    return chosen


def load(name: str, options: object, device: str = "auto") -> Pipeline:
    """Load the pipeline `name`.

    Raises
    ------
    PipelineFailed
        With the code ``pipeline-not-installed`` if torch is missing.
    """
    try:
        importlib.import_module("torch")
    except ImportError as error:
        raise PipelineFailed(REASONS("pipeline-not-installed", pipeline=name)) from error
    module: Any = importlib.import_module(_PIPELINES[name].work)
    pipeline: Pipeline = module.build(options, device)
    return pipeline


def shelf(options: object, device: str) -> Callable[[str], Pipeline]:
    """Return a loader that keeps what it loaded; `options` has one attribute per pipeline."""
    kept: dict[str, Pipeline] = {}

    def get(name: str) -> Pipeline:
        if name not in kept:
            kept[name] = load(name, getattr(options, name), device)
        return kept[name]

    return get
