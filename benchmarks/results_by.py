"""Who writes a segmentation and a report in `benchmarks.results`: the node with its gate, and plain highdicom."""

import gc
import pickle
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from dicom_io.model import Series, group
from dicom_io.read import digest_dataset, read_instance
from dicom_io.stack import build_stack
from dicom_io.volume import Volume, load_volume
from pipeline.result import Code, Finding, Geometry, Mask, Measurement, Quality, Region, Result, Segment
from sr_writer import gate, gate_count
from sr_writer.analysis import Analysis
from sr_writer.files import write_dicom
from sr_writer.gate_claim import Claim
from sr_writer.header import Authorship
from sr_writer.identity import AnalysisIdentity
from sr_writer.options import WriterOptions
from sr_writer.profiles import Form, Piece
from sr_writer.sources import Sources
from sr_writer.write import Artifact

LUNG, OPACITY = Code("39607008", "SCT", "Lung"), Code("112001", "DCM", "Opacity")
ANATOMY = Code("91723000", "SCT", "Anatomical Structure")
MORPHOLOGY = Code("49755003", "SCT", "Morphologically Abnormal Structure")
SIDES = {
    "right_lung": (1, Code("24028007", "SCT", "Right")),
    "left_lung": (2, Code("7771000", "SCT", "Left")),
}
BOTH = Code("51440002", "SCT", "Right and left")
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def result_of(folder: Path, count: int) -> Result:
    """Return what an analysis of the phantom in `folder` might say with `count` segments."""
    volume = load_volume(build_stack(_series(folder).instances))
    lung = np.load(folder / "truth.npz")["lung"]
    geometry = Geometry(volume.array.shape, volume.affine, volume.images, volume.frame_of_reference_uid)
    balls = _balls(lung, geometry, {1: 0, 3: 1, 10: 8}[count])
    opaque = np.zeros(lung.shape, np.bool_)
    for ball in balls:
        ball.paint(opaque)
    regions = [Region("body", Mask.of(volume.array > -400), Code("51185008", "SCT", "Thoracic structure"))]
    regions.append(Region("lungs", Mask.of(lung), LUNG, BOTH))
    regions += [Region(site, Mask.of(lung == n), LUNG, side) for site, (n, side) in SIDES.items()]
    cm3 = geometry.voxel_volume_mm3 / 1000
    measurements = []
    for r in regions[1:]:
        inside = int(np.count_nonzero(opaque[r.mask.slices] & (r.mask.box != 0)))
        measurements += [
            Measurement("lung_volume", r.site, r.mask.voxels * cm3, "cm3"),
            Measurement("opacity_volume", r.site, inside * cm3, "cm3"),
            Measurement("opacity_percent", r.site, 100 * inside / r.mask.voxels, "%"),
            Measurement("mean_lung_density", r.site, _mean(volume, r.mask), "[hnsf'U]"),
        ]
    shown = [r for r in regions[1:] if (count == 1) == (r.site == "lungs")]
    segments = [
        Segment(n, _label(r.site), r.site.replace("_", " "), r.site, ANATOMY, LUNG, r.laterality, r.mask)
        for n, r in enumerate(shown, start=1)
    ]
    findings = []
    for n, ball in enumerate(balls, start=1):
        middle = np.add(ball.offset, np.array(ball.box.shape) // 2)
        x, y, z = (float(v) for v in geometry.to_lps(middle))
        site = next(s for s, (k, _) in SIDES.items() if k == lung[tuple(middle)])
        side, name, number = SIDES[site][1], f"opacity {n}", len(segments) + 1
        segments.append(Segment(number, _label(name), name, site, MORPHOLOGY, OPACITY, side, ball))
        numbers = (
            Measurement("volume", site, ball.voxels * cm3, "cm3"),
            Measurement("mean_density", site, _mean(volume, ball), "[hnsf'U]"),
        )
        findings.append(Finding(name, OPACITY, site, side, (x, y, z), numbers, number))
    said = {"en": "Opacities." if balls else "No opacity.", "zh-CN": "密度增高影。" if balls else "未见密度增高影。"}
    return Result(
        "chest_ct", "0.1.0", volume.series_instance_uid, geometry, "cpu", Quality("A"), tuple(regions),
        tuple(measurements), tuple(segments), tuple(findings), (), said,
    )  # fmt: skip


def _series(folder: Path) -> Series:
    return group([read_instance(p) for p in sorted((folder / "dicom").glob("*.dcm"))])[0].series[0]


def _label(name: str) -> Mapping[str, str]:
    return {"en": name.replace("_", " "), "zh-CN": name}


def _mean(volume: Volume, mask: Mask) -> float:
    return float(volume.array[mask.slices][mask.box != 0].mean(dtype=np.float64))


def _balls(lung: npt.NDArray[np.uint8], geometry: Geometry, count: int) -> list[Mask]:
    """Return round opacities within the lungs, from side to side and from one end to the other, 8 to 15 mm in radius."""
    edge = np.linalg.norm(geometry.affine[:3, :3], axis=0)[::-1]
    out = []
    for n in range(count):
        inside = lung == 1 + n % 2
        filled = np.flatnonzero(inside.any(axis=(1, 2)))
        z = int(filled[round(len(filled) * (0.2 + 0.6 * n / max(count, 1)))])
        rows, columns = np.nonzero(inside[z])
        at, radius = (z, int(np.median(rows)), int(np.median(columns))), 8.0 + n
        grid = np.ogrid[tuple(slice(-c, s - c) for c, s in zip(at, lung.shape, strict=True))]
        ball = sum((g * e) ** 2 for g, e in zip(grid, edge, strict=True)) <= radius**2
        out.append(Mask.of(ball & inside))
    return out


class _Clock:
    """Seconds by phase, and memory beyond the start."""

    def __init__(self) -> None:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the highest memory so far counts from here
        self.held = _mb("VmRSS")
        self.phases: defaultdict[str, float] = defaultdict(float)
        self.begin = self.last = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.phases[phase] += now - self.last
        self.last = now

    def within(self, phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call`, its seconds counted under `phase` of their own."""

        def timed(*args: Any, **more: Any) -> Any:  # noqa: ANN401 - whatever it takes and gives
            begin = time.perf_counter()
            try:
                return call(*args, **more)
            finally:
                self.phases[phase] += time.perf_counter() - begin

        return timed

    def told(self, out: Path) -> dict[str, float]:
        seconds = time.perf_counter() - self.begin
        return {
            **self.phases, "seconds": seconds, "peak": _mb("VmHWM") - self.held,
            "bytes": sum(p.stat().st_size for p in out.glob("*.dcm")),
        }  # fmt: skip


def _mb(name: str) -> float:
    """Return the memory that this process holds (VmRSS), or the most that it has held (VmHWM), in MB, by proc(5)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return int(status[name].split()[0]) / 1024


def by_node(case: Path, out: Path) -> dict[str, float]:
    """Write and judge with the node's own code, as a job does."""
    result, series = pickle.loads((case / "case.pickle").read_bytes()), _series(case)  # noqa: S301 - written by this run
    options = WriterOptions()
    clock = _Clock()
    identity = AnalysisIdentity.of(
        installation_id="benchmark", study_instance_uid=series.instances[0].study_instance_uid,
        instances=series.instances, pipeline="chest_ct", version="0.1.0", weights_digest="sha256:" + "ab" * 32,
        options_digests=("sha256:" + "cd" * 32, options.digest),
    )  # fmt: skip
    claim = Claim.of(result, _document(result, identity))
    clock.lap("claim")
    sources = Sources(series.instances)
    by = Authorship(sources.first.header, identity, options, NOW, 1, sources.first.ascii_only)
    volume: Any = None  # pictures need it, these two do not
    analysis = Analysis(result, volume, sources, by, lambda _: ())
    seg = Form("seg")
    artifacts = []
    for piece in (Piece(seg), Piece(Form("sr"), (seg,))):
        for ds in analysis.objects(piece):
            path = out / f"{piece.form.object}.dcm"
            write_dicom(ds, path)
            artifacts.append(
                Artifact(
                    path, path.name, piece.form.object, ds.Modality, ds.SOPClassUID, ds.SOPInstanceUID,
                    ds.SeriesInstanceUID, path.stat().st_size, digest_dataset(path), piece.variant,
                )
            )  # fmt: skip
        clock.lap(f"write {piece.form.object}")
    parts = {"gate read": "read_sources", "gate decode": "frames_of"}
    for phase, name in parts.items():
        setattr(gate, name, clock.within(phase, getattr(gate, name)))
    counted = gate_count.Recount.__dict__["counted"]
    counted.func = clock.within("gate count", counted.func)
    refusals = gate.check(artifacts, series.instances, (), claim)
    clock.lap("gate compare")
    for phase in (*parts, "gate count"):
        clock.phases["gate compare"] -= clock.phases[phase]
    assert not refusals, refusals
    return clock.told(out)


def _document(result: Result, identity: AnalysisIdentity) -> dict[str, Any]:
    findings = [
        {"tracking_uid": identity.tracking_uid(f.tracking_id), "measurements": [m.as_json() for m in f.measurements]}
        for f in result.findings
    ]
    measurements = [m.as_json() for m in result.measurements]
    return {"quality": result.quality.as_json(), "measurements": measurements, "findings": findings, "summary": {}}


def by_highdicom(case: Path, out: Path, *, labels: bool = False) -> dict[str, float]:
    """Write with highdicom: masks one array a segment, or (`labels`) as one label map."""
    result = pickle.loads((case / "case.pickle").read_bytes())  # noqa: S301 - written by this run
    read = [dcmread(p, stop_before_pixels=True) for p in sorted((case / "dicom").glob("*.dcm"))]
    by_uid = {str(ds.SOPInstanceUID): ds for ds in read}
    images = [by_uid[image.sop_instance_uid] for image in result.geometry.images]
    clock = _Clock()
    numbers = len(result.segments)
    pixels = np.zeros(result.geometry.shape if labels else (*result.geometry.shape, numbers), np.uint8)
    for segment in result.segments:
        segment.mask.paint(pixels if labels else pixels[..., segment.number - 1], segment.number if labels else 1)
    maker = {"manufacturer": "benchmark", "manufacturer_model_name": "benchmark", "device_serial_number": "1"}
    seg = hd.seg.Segmentation(
        source_images=images, pixel_array=pixels, segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_described(s) for s in result.segments], series_instance_uid=generate_uid(),
        series_number=902, sop_instance_uid=generate_uid(), instance_number=1, software_versions="1", **maker,
    )  # fmt: skip
    seg.save_as(out / "seg.dcm")
    clock.lap("write seg")
    report = hd.sr.Comprehensive3DSR(
        evidence=[*images, seg], content=_report(result, seg)[0], series_instance_uid=generate_uid(),
        series_number=901, sop_instance_uid=generate_uid(), instance_number=1, manufacturer="benchmark",
    )  # fmt: skip
    report.save_as(out / "sr.dcm")
    clock.lap("write sr")
    return clock.told(out)


def by_highdicom_labels(case: Path, out: Path) -> dict[str, float]:
    """Write with highdicom, masks as a label map."""
    return by_highdicom(case, out, labels=True)


AUTHORS: Mapping[str, Callable[[Path, Path], dict[str, float]]] = {
    "node": by_node, "highdicom": by_highdicom, "highdicom-labels": by_highdicom_labels,
}  # fmt: skip


def _concept(code: Code) -> hd.sr.CodedConcept:
    return hd.sr.CodedConcept(code.value, code.scheme, code.meaning)


def _algorithm() -> hd.AlgorithmIdentificationSequence:
    family = codes.DCM.ArtificialIntelligence
    return hd.AlgorithmIdentificationSequence(name="chest_ct", version="0.1.0", family=family)


def _described(segment: Segment) -> hd.seg.SegmentDescription:
    return hd.seg.SegmentDescription(
        segment_number=segment.number, segment_label=segment.label["en"],
        segmented_property_category=_concept(segment.category), segmented_property_type=_concept(segment.kind),
        algorithm_type="AUTOMATIC", algorithm_identification=_algorithm(), tracking_uid=generate_uid(),
        tracking_id=segment.tracking_id,
    )  # fmt: skip


def _report(result: Result, seg: Dataset) -> hd.sr.MeasurementReport:
    """Return TID 1500 with a group for every segment, with the numbers of its region or finding."""
    found = {f.segment_number: f.measurements for f in result.findings}
    groups = []
    for segment, described in zip(result.segments, seg.SegmentSequence, strict=True):
        rows = found.get(segment.number) or [m for m in result.measurements if m.site == segment.site]
        concept = {"cm3": codes.SCT.Volume, "%": codes.SCT.Volume, "[hnsf'U]": codes.DCM.AttenuationCoefficient}
        units = {"cm3": codes.UCUM.CubicCentimeter, "%": codes.UCUM.Percent, "[hnsf'U]": codes.UCUM.HounsfieldUnit}
        groups.append(
            hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=hd.sr.TrackingIdentifier(described.TrackingUID, described.TrackingID),
                referenced_segment=hd.sr.ReferencedSegment(
                    seg.SOPClassUID, seg.SOPInstanceUID, segment.number,
                    source_series=hd.sr.SourceSeriesForSegmentation(result.series_instance_uid),
                ),
                finding_type=_concept(segment.kind), finding_sites=[hd.sr.FindingSite(_concept(LUNG))],
                measurements=[hd.sr.Measurement(concept[m.unit], float(m.value or 0), units[m.unit]) for m in rows],
            )
        )  # fmt: skip
    observer = hd.sr.ObserverContext(
        codes.DCM.Device, hd.sr.DeviceObserverIdentifyingAttributes(generate_uid(), "benchmark")
    )
    return hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion, imaging_measurements=groups,
    )  # fmt: skip
