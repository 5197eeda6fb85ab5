"""The chest CT pipeline: from a chosen series to a result."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dicom_io import elements
from dicom_io.model import Series, Study
from dicom_io.stack import Stack, build_stack
from dicom_io.volume import Volume, load_volume
from pipeline.api import Analysis, Progress, Selection
from pipeline.chest_ct import (
    body,
    checks,
    claims,
    doubt,
    kind,
    lungs,
    measure,
    morphology,
    opacity,
    report,
    select,
    traits,
)
from pipeline.chest_ct.body import Box
from pipeline.chest_ct.grid import WorkingGrid, heights
from pipeline.chest_ct.parameters import data_digest, parameters
from pipeline.device import pick
from pipeline.errors import NotAnalysed, PipelineFailed
from pipeline.options import ChestCtOptions
from pipeline.quality.ct.measures import measure as measure_quality
from pipeline.quality.grade import Measured, grade
from pipeline.reasons import REASONS

NAME = "chest_ct"
VERSION = "0.2.0"


def build(options: ChestCtOptions, device: str = "auto") -> "ChestCt":
    """Return the pipeline, ready to work."""
    return ChestCt(options, pick(device))


@dataclass(frozen=True, slots=True, eq=False)
class OnSource:
    """Masks on a box of the source grid.

    Parameters
    ----------
    box : tuple of slice
        Where the arrays stand in the source array.
    lung : ndarray of uint8
        1 right, 2 left.
    opacity : ndarray of uint16
        0, or the number of the opacity, 1 the largest.
    smooth_hu : ndarray of float32
        Density without noise, read for the class of a voxel; 0 far from any opacity.
    at_rim : frozenset of int
        Numbers of the opacities that reach the surface of the lung.
    """

    box: Box
    lung: npt.NDArray[np.uint8]
    opacity: npt.NDArray[np.uint16]
    smooth_hu: npt.NDArray[np.float32]
    at_rim: frozenset[int]


class ChestCt:
    """See `pipeline.api.Pipeline`; keeps nothing between two series."""

    name = NAME
    version = VERSION

    def __init__(self, options: ChestCtOptions, device: torch.device) -> None:
        self._options = options
        self._device = device

    @property
    def weights_digest(self) -> str:
        """Digest of the data files; there are no weights."""
        return data_digest()

    @property
    def options_digest(self) -> str:
        """Digest of the options."""
        return self._options.digest

    def select(self, study: Study) -> Selection:
        """Choose a series by headers alone."""
        return select.select(study)

    def run(self, series: Series, progress: Progress | None = None) -> Analysis:
        """Work on the chosen series; see `pipeline.api.Pipeline`."""
        timings: dict[str, float] = {}
        tell = progress or (lambda _stage, _share: None)
        with _timed(timings, "volume"):
            tell("volume", 0.0)
            stack = build_stack(series.instances)
            # a missing slice takes its volume with it; uneven slices would give every other one a wrong volume
            volume = load_volume(stack, allow_gaps=bool(stack.gaps))
        with _timed(timings, "quality"):
            tell("quality", 0.1)
            shared = claims.allowed(measure_quality(stack, volume).measures)
        with _timed(timings, "work"), torch.inference_mode():
            try:
                parts = self._work(stack, volume, tell)
            except lungs.NoLungs as found:
                raise NotAnalysed(REASONS(found.code, **found.values)) from found
            except torch.OutOfMemoryError as error:
                raise PipelineFailed(REASONS("device-out-of-memory"), retryable=True) from error
        with _timed(timings, "measure"):
            tell("measure", 0.8)
            measures = {**shared, **self._measures(stack, parts)}
            graded = grade(measures, claims.limits(), "series", series.series_instance_uid)
            parts = replace(parts, now=replace(parts.now, sides=claims.sides(graded)))
            result = report.result(self, series, volume, parts, graded, f"{self._device}", self._options.indication)
        return Analysis(replace(result, timings_s=timings), volume)

    def _work(self, stack: Stack, volume: Volume, tell: Progress) -> "report.Parts":
        p = parameters()
        spacing = p["grid"]["spacing"]
        grid = WorkingGrid.of(volume, spacing, None if stack.uniform else stack.positions_mm)
        hu = grid.take(volume.array, self._device)
        padded = None if volume.padding is None else grid.take(volume.padding, self._device) > 0.5
        tell("lungs", 0.15)
        found = lungs.segment(hu, padded, spacing, p)
        edges = checks.plausible(found, grid.shape, spacing, p)
        tell("opacities", 0.5)
        dense = opacity.find(found, spacing, grid.source_spacing, p["opacity"])
        doubts = doubt.judge(found, grid.shape, spacing, p)
        if padded is not None:
            circle = morphology.dilate(padded[found.box], (0, 5, 5)).cpu().numpy()
            for side in (s for s in doubts if (circle & (found.label == s)).any()):
                doubts[side] = replace(doubts[side], cut=max(doubts[side].cut, p["doubt"]["cut_circle"]))
                edges = replace(edges, side=max(edges.side, p["doubt"]["cut_circle"]))
        tell("measure", 0.7)
        masks = self._on_source(grid, found, dense, volume, p["opacity"])
        for side in doubts:
            reaches = bool(np.isin(masks.opacity[masks.lung == side], [*masks.at_rim]).any())
            doubts[side] = replace(doubts[side], at_rim=reaches)
        now = measure.Circumstances(
            slices_missing=bool(stack.gaps),
            contrast=checks.contrast(found, stack.instances[0].header, p),
            no_normal_lung=dense.normal_hu > p["doubt"]["normal_most"],
        )
        down = {"S": 1, "P": -1}.get(elements.text(stack.instances[0].header, "PatientPosition").upper()[-1:], 0)
        zones = traits.zones(found.label, grid.spacing, p["traits"], down)
        peel = grid.nearest(zones.peel, found.box)
        return report.Parts(
            masks.box, masks.lung, masks.opacity, masks.smooth_hu, masks.at_rim, doubts, edges, now, dense.normal_hu,
            stack, self._traits(grid, found, dense, masks, stack, volume, zones, peel), peel,
        )  # fmt: skip

    def _traits(
        self,
        grid: WorkingGrid,
        found: lungs.Lungs,
        dense: opacity.Opacities,
        masks: OnSource,
        stack: Stack,
        volume: Volume,
        zones: traits.Zones,
        peel: npt.NDArray[np.bool_],
    ) -> tuple[traits.Traits, ...]:
        """Say what every opacity is like."""
        if not masks.opacity.any():
            return ()
        p = parameters()
        opaque = (dense.level > 0).cpu().numpy() & (found.label > 0)
        numbered = traits.on_working(masks.opacity, masks.box, opaque, found.box, grid)
        third = measure.thirds(masks.lung, heights(stack, masks.box))
        low = grid.nearest(zones.dependent, found.box)
        voxel = float(abs(np.linalg.det(volume.affine[:3, :3])))
        forms = traits.forms(numbered, dense.sharp, found.label > 0, zones.costal, grid.spacing, p["traits"])
        found_traits = traits.describe(
            masks.opacity, masks.lung, third, peel, low, volume.array[masks.box], masks.smooth_hu, forms,
            voxel_mm3=voxel, dense_hu=p["opacity"]["dense"],
        )  # fmt: skip
        return kind.judge(found_traits, p["kind"])

    def _on_source(
        self, grid: WorkingGrid, found: lungs.Lungs, dense: opacity.Opacities, volume: Volume, p: dict[str, Any]
    ) -> OnSource:
        """Bring the masks to the source grid: interpolate what they are the half level of, then compare."""
        masks = [
            torch.from_numpy((found.label == s).astype(np.float32)).to(self._device) for s in (lungs.RIGHT, lungs.LEFT)
        ]
        right, left = (morphology.gaussian(m, 0.6) for m in masks)
        share, box = grid.give(right + left, found.box)
        side = torch.where(right >= left, lungs.RIGHT, lungs.LEFT).to(torch.uint8).cpu().numpy()
        lung = grid.nearest(side, found.box) * (share >= 0.5).cpu().numpy()
        numbered = np.zeros(lung.shape, np.uint16)
        smooth_hu = np.zeros(lung.shape, np.float32)
        at_rim: frozenset[int] = frozenset()
        opaque = (dense.level > -opacity.FAR).cpu().numpy()
        if opaque.any():
            near = body.bounding_box(opaque, 2, opaque.shape)
            within = body.shifted(near, found.box)
            level, at = grid.give(dense.level[near], within)
            inner = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(at, box, strict=True))
            voxel = float(abs(np.linalg.det(volume.affine[:3, :3])))
            numbered[inner] = opacity.label(level.cpu().numpy(), lung[inner], voxel, p)
            smooth_hu[inner] = grid.give(dense.sharp[near], within)[0].cpu().numpy()
            at_rim = opacity.at_rim(numbered[inner], grid.nearest(dense.rim[near], within), voxel, p)
        return OnSource(box, lung, numbered, smooth_hu, at_rim)

    def _measures(self, stack: Stack, parts: "report.Parts") -> dict[str, Measured]:
        """Return what this pipeline alone knows of the images."""
        p = parameters()["doubt"]
        return {
            "cut_top": Measured(parts.edges.top * (parts.edges.top > p["cut_some"]), "1"),
            "cut_bottom": Measured(parts.edges.bottom * (parts.edges.bottom > p["cut_some"]), "1"),
            "cut_side": Measured(parts.edges.side, "1"),
            "sharp_kernel": Measured(float(select.sharp_kernel(stack.instances[0].header) is True)),
            "normal_hu": Measured(parts.normal_hu, "[hnsf'U]"),
        }


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    timings[stage] = time.perf_counter() - begin
