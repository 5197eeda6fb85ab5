"""Results made by hand from a phantom's truth, so that the writer is tested without any pipeline."""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from pydicom.dataset import Dataset
from scipy.ndimage import binary_dilation

import phantom
from dicom_io.model import Series, group
from dicom_io.read import read_instance
from dicom_io.reason import Reason
from dicom_io.stack import build_stack
from dicom_io.volume import Volume, load_volume
from pipeline.result import (
    Code,
    Finding,
    Geometry,
    Mask,
    Measurement,
    Quality,
    QualityFinding,
    Region,
    Result,
    Segment,
)
from sr_writer import comprehensive, gsps, key_objects, overlay, pdf, seg, sr, text_sr, write
from sr_writer.considered import Considered
from sr_writer.files import write_dicom
from sr_writer.gate_claim import Claim
from sr_writer.header import Authorship
from sr_writer.identity import AnalysisIdentity
from sr_writer.options import WriterOptions
from sr_writer.sources import Sources

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
LEFT = Code("7771000", "SCT", "Left")
RIGHT = Code("24028007", "SCT", "Right")
BOTH = Code("51440002", "SCT", "Right and left")
LUNG = Code("39607008", "SCT", "Lung")
THORAX = Code("51185008", "SCT", "Thoracic structure")
OPACITY = Code("112001", "DCM", "Opacity")
ANATOMY = Code("91723000", "SCT", "Anatomical Structure")
MORPHOLOGY = Code("49755003", "SCT", "Morphologically Abnormal Structure")
INSTALLATION = "0f2c7e9a-installation"


def reason(code: str, en: str, zh: str) -> Reason:
    return Reason(code, "note", MappingProxyType({"en": en, "zh-CN": zh}), MappingProxyType({}))


THICK = reason("thick-slices", "Slices are 5.0 mm thick (limit 3.0 mm)", "层厚 5.0 mm（上限 3.0 mm）")
CUT = reason("lung-cut", "Part of the lung lies outside the images", "部分肺组织位于图像之外")
NOTE = reason("no-vessels", "Small vessels may be counted as opacity.", "细小血管可能被计入致密影。")


@dataclass(frozen=True, eq=False)
class Case:
    """A study on disk with a result, and everything `write_result` needs."""

    folder: Path
    result: Result
    volume: Volume
    series: Series
    identity: AnalysisIdentity
    options: WriterOptions

    def identified(self, **changes: str) -> AnalysisIdentity:
        fields = {
            "installation_id": INSTALLATION,
            "study_instance_uid": self.series.instances[0].study_instance_uid,
            "instances": self.series.instances,
            "pipeline": "chest_ct",
            "version": "0.1.0",
            "weights_digest": "sha256:" + "ab" * 32,
            "options_digests": ("sha256:" + "cd" * 32, self.options.digest),
        }
        return AnalysisIdentity.of(**(fields | changes))


def load(folder: Path) -> tuple[Series, Volume]:
    instances = [read_instance(p) for p in sorted(folder.rglob("*.dcm"))]
    series = group(instances)[0].series[0]
    return series, load_volume(build_stack(series.instances))


def case(
    folder: Path, made: "phantom.Phantom", *, options: WriterOptions | None = None, negative: bool = False
) -> Case:
    """Write a phantom and turn its truth into a result."""
    phantom.write(made, folder)
    return from_folder(folder, options=options, negative=negative)


def from_folder(folder: Path, *, options: WriterOptions | None = None, negative: bool = False) -> Case:
    """Turn the truth of a phantom on disk, whatever was done to its headers, into a result."""
    truth = np.load(folder / "truth.npz")
    series, volume = load(folder / "dicom")
    result = result_of(volume, truth["lung"], np.zeros_like(truth["lesion"]) if negative else truth["lesion"])
    out = Case(folder, result, volume, series, None, options or WriterOptions())  # type: ignore[arg-type]
    object.__setattr__(out, "identity", out.identified())
    return out


def without_result(folder: Path) -> Case:
    """Take what is on disk as a series that has no result, whatever it shows."""
    series = group([read_instance(p) for p in sorted((folder / "dicom").rglob("*.dcm"))])[0].series[0]
    out = Case(folder, None, None, series, None, WriterOptions())  # type: ignore[arg-type]
    object.__setattr__(out, "identity", out.identified())
    return out


def result_of(volume: Volume, lung: np.ndarray, lesion: np.ndarray) -> Result:
    """Build a result from a lung mask (1 right, 2 left) and numbered lesions."""
    shape = volume.array.shape
    geometry = Geometry(shape, volume.affine, volume.images, volume.frame_of_reference_uid)
    cm3 = geometry.voxel_volume_mm3 / 1000
    sides = (("left_lung", LEFT, lung == 2), ("right_lung", RIGHT, lung == 1))
    regions = [Region("body", Mask.of(binary_dilation(volume.array > -400)), THORAX)]
    regions.append(Region("lungs", Mask.of(lung), LUNG, BOTH))
    for site, side, mask in sides:
        regions.append(Region(site, Mask.of(mask), LUNG, side))
        height = np.einsum("i,i...->...", volume.affine[2, [2, 1, 0]], np.indices(shape))
        low, high = height[mask].min(), height[mask].max()
        third = np.clip((high - height) / max(high - low, 1e-9) * 3, 0, 2).astype(int)
        for k, name in enumerate(("upper", "middle", "lower")):
            part = mask & (third == k)
            if part.any():
                regions.append(Region(f"{site}_{name}_third", Mask.of(part), LUNG, side))
    measurements = []
    opaque = lesion > 0
    for region in regions[1:]:
        here = np.zeros(shape, bool)
        region.mask.paint(here)
        inside = here & opaque
        measurements += [
            Measurement("lung_volume", region.site, float(here.sum() * cm3), "cm3"),
            Measurement("opacity_volume", region.site, float(inside.sum() * cm3), "cm3"),
            Measurement("opacity_percent", region.site, float(100 * inside.sum() / here.sum()), "%"),
            Measurement("mean_lung_density", region.site, float(volume.array[here].mean()), "[hnsf'U]"),
        ]
        if region.site == "lungs":
            measurements += [
                Measurement("ground_glass_percent", region.site, float(inside.mean() * 100), "%", "lower_bound", CUT),
                Measurement("dense_percent", region.site, None, "%", "not_computable", CUT),
            ]
    segments = [
        Segment(n, {"en": s.replace("_", " "), "zh-CN": z}, s.replace("_", " "), s, ANATOMY, LUNG, side, Mask.of(mask))
        for n, ((s, side, mask), z) in enumerate(zip(sides, ("左肺", "右肺"), strict=True), start=1)
    ]
    findings = []
    for n in (int(v) for v in np.unique(lesion[lesion > 0])):
        mask = lesion == n
        index = np.argwhere(mask).mean(axis=0)
        x, y, z = (float(v) for v in geometry.to_lps(index))
        site, side = ("left_lung", LEFT) if x > 0 else ("right_lung", RIGHT)
        number = len(segments) + 1
        name = f"opacity {len(findings) + 1}"
        kept = Mask.of(mask)
        segments.append(
            Segment(number, {"en": name, "zh-CN": f"致密影 {n}"}, name, site, MORPHOLOGY, OPACITY, side, kept)
        )
        numbers = (
            Measurement("volume", site, kept.voxels * cm3, "cm3"),
            Measurement("mean_density", site, float(volume.array[mask].mean()), "[hnsf'U]"),
        )
        findings.append(Finding(name, OPACITY, site, side, (x, y, z), numbers, number))
    quality = Quality("B", (QualityFinding(THICK, "series", (volume.series_instance_uid,), 5.0, "mm", 3.0),))
    summary = {"en": "Opacities in both lungs.", "zh-CN": "双肺可见致密影。"} if findings else {}
    return Result(
        "chest_ct", "0.1.0", volume.series_instance_uid, geometry, "cpu", quality, tuple(regions), tuple(measurements),
        tuple(segments), tuple(findings), (NOTE,), summary,
    )  # fmt: skip


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="session")
def positive(studies: Path) -> Case:
    # 90 x 99 pixels: frames do not end on a byte
    made = phantom.build(3, slices=24, matrix=(90, 99), shuffle=True)
    return case(studies / "positive", made)


@pytest.fixture(scope="session")
def negative(studies: Path) -> Case:
    made = phantom.build(
        4, slices=20, matrix=80, lesions="none", patient_name="M\u00fcller^J\u00fcrgen", charset="ISO_IR 100"
    )
    return case(studies / "negative", made, negative=True)


@pytest.fixture(scope="session")
def coronal(studies: Path) -> Case:
    made = phantom.build(
        5, plane="coronal", slices=24, matrix=(80, 104), patient_name="\u738b^\u5c0f\u4e1c", charset="GB18030"
    )
    return case(studies / "coronal", made)


@pytest.fixture(scope="session")
def tilted(studies: Path) -> Case:
    return case(studies / "tilted", phantom.build(6, slices=20, matrix=80, tilt_deg=12.0, feet_first=True))


def authorship(c: Case, revision: int = 1, now: datetime = NOW) -> Authorship:
    first = Sources(c.series.instances).first
    return Authorship(first.header, c.identity, c.options, now, revision, first.ascii_only)


def build_fallbacks(c: Case, revision: int = 1, now: datetime = NOW) -> dict[str, list[Dataset]]:
    """Build every fallback object of a case, by kind; the overlay has one for each slice."""
    sources, by = Sources(c.series.instances), authorship(c, revision, now)
    segmentation = seg.build(c.result, sources, by) if c.result.segments else None
    report = sr.build(c.result, sources, by, segmentation)
    key = key_objects.build(c.result, sources, by)
    thick = [Considered(c.series.series_instance_uid, THICK)]
    return {
        "overlay": list(overlay.build(c.result, c.volume, sources, by)),
        "gsps": [gsps.build(c.result, sources, by)],
        "kos": [] if key is None else [key],
        "text": [text_sr.build(c.result, sources, by)],
        "sr": [report],
        "csr": [comprehensive.build(report, by)],
        "pdf": [pdf.build(c.result, c.volume, sources, by)],
        "text_card": [text_sr.build_card(CUT, "not_analysed", thick, sources, by)],
        "pdf_card": [pdf.build_card(CUT, "failed", thick, sources, by)],
    }


@cache
def fallbacks_of(c: Case) -> dict[str, list[Dataset]]:
    """Build them once a session; nobody changes them."""
    return build_fallbacks(c)


def claim(c: Case) -> Claim:
    """Take down what a case says, as the node does before it writes."""
    findings = [
        {
            "tracking_id": f.tracking_id,
            "tracking_uid": c.identity.tracking_uid(f.tracking_id),
            "measurements": [m.as_json() for m in f.measurements],
        }
        for f in c.result.findings
    ]
    document = {
        "quality": c.result.quality.as_json(),
        "measurements": [m.as_json() for m in c.result.measurements],
        "findings": findings,
        "notes": [n.as_json() for n in c.result.notes],
        "summary": dict(c.result.summary),
        "suggestions": [s.as_json() for s in c.result.suggestions],
    }
    return Claim.of(c.result, document)


def everything(c: Case, out: Path) -> list[write.Artifact]:
    """Write a case as every kind of object that there is."""
    written = list(Helpers.write(c, out))
    made = build_fallbacks(c)
    named = [
        (f"{kind}-{n:04d}", ds)
        for kind in ("csr", "text", "gsps", "kos", "pdf", "overlay")
        for n, ds in enumerate(made[kind], 1)
    ]
    return [*written, *(stored(ds, out, name) for name, ds in named)]


def stored(ds: Dataset, out: Path, name: str) -> write.Artifact:
    path = out / f"{name}.dcm"
    write_dicom(ds, path)
    uids = ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID
    kind = name.split("-", maxsplit=1)[0]
    return write.Artifact(path, path.name, kind, ds.Modality, *uids, path.stat().st_size, "0" * 64)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Helpers:
    """What test modules of this folder share (they are not a package)."""

    now = NOW
    installation = INSTALLATION
    case = staticmethod(case)
    claim = staticmethod(claim)
    everything = staticmethod(everything)
    stored = staticmethod(stored)
    authorship = staticmethod(authorship)
    build_fallbacks = staticmethod(build_fallbacks)
    fallbacks_of = staticmethod(fallbacks_of)
    from_folder = staticmethod(from_folder)
    load = staticmethod(load)
    reason = staticmethod(reason)
    result_of = staticmethod(result_of)
    without_result = staticmethod(without_result)

    @staticmethod
    def write(c: Case, out: Path, **changes: object) -> "tuple[write.Artifact, ...]":
        arguments = {"identity": c.identity, "options": c.options, "now": NOW} | changes
        return write.write_result(c.result, c.volume, c.series, out=out, **arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def helpers() -> Helpers:
    return Helpers()


@pytest.fixture(scope="session", params=["positive", "negative", "coronal", "tilted"])
def written(request: pytest.FixtureRequest) -> "tuple[Case, dict[str, write.Artifact]]":
    """Each case in turn with what was written for it, by kind."""
    c: Case = request.getfixturevalue(request.param)
    return c, {a.kind: a for a in Helpers.write(c, c.folder / "out")}


@pytest.fixture(scope="session", params=["positive", "negative", "coronal", "tilted"])
def fallbacks(request: pytest.FixtureRequest) -> "tuple[Case, dict[str, list[Dataset]]]":
    """Each case in turn with its fallback objects."""
    c: Case = request.getfixturevalue(request.param)
    return c, fallbacks_of(c)
