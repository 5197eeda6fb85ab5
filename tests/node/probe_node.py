"""The node with a quick pipeline in the place of chest_ct, for tests of everything around the pipelines.

It is honest in a small way: it selects the largest stack, thresholds its air and reports the volume. Started as
``python probe_node.py serve ...``; spawned children import this file again, so that workers have the pipeline too.
"""

import os
import resource
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dicom_io.errors import GeometryError
from dicom_io.model import Series, Study
from dicom_io.reason import Reason
from dicom_io.stack import build_stack
from dicom_io.volume import load_volume, stack_affine
from node.retry import policy
from pipeline import registry
from pipeline.api import Analysis, Considered, Pipeline, Progress, Selection
from pipeline.errors import NotAnalysed
from pipeline.result import Code, Finding, Geometry, Mask, Measurement, Quality, Region, Result, Segment

_ACCEPTED = Reason("probe-accepted", "note", {"en": "A stack.", "zh-CN": "图像堆栈。"}, {})
_NONE = Reason("probe-no-stack", "not_applicable", {"en": "No stack.", "zh-CN": "无图像堆栈。"}, {})
_LUNG = Code("39607008", "SCT", "Lung")
_SIDES = {"right": Code("24028007", "SCT", "Right"), "left": Code("7771000", "SCT", "Left")}


@dataclass
class Probe:
    name: str = "chest_ct"
    version: str = "0"
    weights_digest: str = "sha256:" + "0" * 64
    options_digest: str = "sha256:" + "1" * 64

    def select(self, study: Study) -> Selection:
        best = max(study.series, key=lambda s: len(s.instances))
        try:
            stack = build_stack(best.instances)
        except GeometryError as error:
            return Selection(None, (Considered(best.series_instance_uid, False, error.reason),), error.reason)
        if len(stack.instances) < 3:
            return Selection(None, (Considered(best.series_instance_uid, False, _NONE),), _NONE)
        chosen = Series(best.series_instance_uid, tuple(sorted(stack.instances, key=lambda i: i.sop_instance_uid)))
        return Selection(chosen, (Considered(best.series_instance_uid, True, _ACCEPTED),), None)

    def run(self, series: Series, progress: Progress | None = None) -> Analysis:
        stack = build_stack(series.instances)
        volume = load_volume(stack, allow_gaps=True)
        _linger(progress)
        _hunger()
        air = volume.array < -500
        air[:, :, [0, 1, -2, -1]] = air[:, [0, 1, -2, -1], :] = False
        half = np.arange(air.shape[2]) < air.shape[2] // 2
        masks = {"right_lung": air & half, "left_lung": air & ~half}
        geometry = Geometry(air.shape, stack_affine(stack), volume.images, volume.frame_of_reference_uid)
        regions = [Region("body", Mask.of(np.ones_like(air)), Code("38266002", "SCT", "Entire body"))]
        measurements, segments = [], []
        for number, (site, mask) in enumerate(masks.items(), 1):
            side = _SIDES[site.split("_")[0]]
            kept = Mask.of(mask)
            regions.append(Region(site, kept, _LUNG, side))
            value = kept.voxels * geometry.voxel_volume_mm3 / 1000
            measurements.append(Measurement("lung_volume", site, value, "cm3"))
            category = Code("123037004", "SCT", "Anatomical Structure")
            label = {"en": site, "zh-CN": site}
            segments.append(Segment(number, label, site, site, category, _LUNG, side, kept))
        result = Result(
            self.name, self.version, series.series_instance_uid, geometry, "cpu", Quality("A"), tuple(regions),
            tuple(measurements), tuple(segments), (), (), {"en": "Air.", "zh-CN": "空气。"},
        )  # fmt: skip
        return Analysis(result, volume)


class Finder(Probe):
    """The quick pipeline, which finds something too."""

    def run(self, series: Series, progress: Progress | None = None) -> Analysis:
        analysis = super().run(series, progress)
        result = analysis.result
        lung = result.region("left_lung")
        inside = np.zeros(result.geometry.shape, bool)
        lung.mask.paint(inside)
        z = int(inside.sum(axis=(1, 2)).argmax())
        spot = np.zeros_like(inside)
        spot[z] = inside[z] & (np.cumsum(inside[z].reshape(-1)).reshape(inside[z].shape) < 60)
        mask, code = Mask.of(spot), Code("112001", "DCM", "Opacity")
        kind = Code("49755003", "SCT", "Morphologically Abnormal Structure")
        label = {"en": "opacity 1", "zh-CN": "致密影 1"}
        segment = Segment(3, label, "opacity 1", "left_lung", kind, code, lung.laterality, mask)
        volume = Measurement("volume", "left_lung", mask.voxels * result.geometry.voxel_volume_mm3 / 1000, "cm3")
        centre = tuple(float(v) for v in result.geometry.to_lps(np.argwhere(spot).mean(axis=0)))
        found = Finding("opacity 1", code, "left_lung", lung.laterality, centre, (volume,), 3)
        return replace(analysis, result=replace(result, segments=(*result.segments, segment), findings=(found,)))


class Blind(Probe):
    """The quick pipeline on a day on which it cannot judge anything."""

    def run(self, series: Series, progress: Progress | None = None) -> Analysis:
        del series, progress
        raise NotAnalysed(Reason("blind", "unable", {"en": "Cannot be judged.", "zh-CN": "无法判断。"}, {}))


def _linger(progress: Progress | None) -> None:
    """Take as long as the test wants, telling the progress as a real pipeline does."""
    end = time.monotonic() + float(os.environ.get("PROBE_SECONDS", "0"))
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.05))
        if progress is not None:
            progress("work", 0.5)


def _hunger() -> None:
    """Use all the memory that this process may have, the first so many times as the test wants."""
    left = int(os.environ.get("PROBE_HUNGRY", "0"))
    if left > 0:
        os.environ["PROBE_HUNGRY"] = str(left - 1)
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + (256 << 20), resource.RLIM_INFINITY))
        hoard = [bytearray(16 << 20)]
        while True:
            hoard.append(bytearray(16 << 20))


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


_real = registry.load


def _load(name: str, options: object, device: str = "auto") -> Pipeline:
    """Load the quick pipeline for what looks at studies; what looks at single radiographs is quick itself."""
    return Probe(name) if registry.subject(name) != "instance" else _real(name, options, device)


if __name__ in {"__main__", "__mp_main__"}:  # the node and its spawned children, not a test that borrows the probe
    registry.load = _load
    policy()["nodes"]["hung_s"] = float(os.environ.get("PROBE_HUNG_S", "60"))  # type: ignore[index]

if __name__ == "__main__":
    from node.cli import main

    main()
