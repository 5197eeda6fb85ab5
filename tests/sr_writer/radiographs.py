"""Results on a radiograph made by hand from a phantom's truth, and every object of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from dicom_io.model import Series, Study, group
from dicom_io.radiograph import Radiograph, load_radiograph
from dicom_io.read import read_instance
from dicom_io.reason import Reason
from phantom.radiograph import Exposure, expose
from phantom.radiograph import write as write_phantom
from pipeline.result import (
    Code,
    Finding,
    Mask,
    Measurement,
    Projection,
    Quality,
    QualityFinding,
    Region,
    Result,
    Segment,
)
from sr_writer import write
from sr_writer.considered import Considered
from sr_writer.gate_claim import Claim
from sr_writer.identity import AnalysisIdentity
from sr_writer.options import WriterOptions
from sr_writer.profiles import Form, Piece

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
LEFT, RIGHT = Code("7771000", "SCT", "Left"), Code("24028007", "SCT", "Right")
BOTH = Code("51440002", "SCT", "Right and left")
LUNG, HEART = Code("39607008", "SCT", "Lung"), Code("80891009", "SCT", "Heart")
THORAX = Code("51185008", "SCT", "Thoracic structure")
ANATOMY = Code("91723000", "SCT", "Anatomical Structure")
MORPHOLOGY = Code("49755003", "SCT", "Morphologically Abnormal Structure")
OPACITY = Code("112001", "DCM", "Opacity")
FOUND = 3
"""The largest shadows alone count as found: reports of fewer groups are judged faster."""
RESULT = ("seg", "sc", "overlay", "gsps", "kos", "pdf", "text")
BESIDE = tuple(Form(kind, radiographs=kind == "seg") for kind in RESULT)  # type: ignore[arg-type]
PIECES = (
    *(Piece(form) for form in BESIDE),
    *(Piece(Form(kind), BESIDE) for kind in ("sr", "csr")),  # type: ignore[arg-type]
    Piece(Form("sr", tree="pure"), BESIDE),
)
CARDS = tuple(Piece(Form(kind)) for kind in ("card", "card_sr", "card_csr", "card_text", "card_pdf"))  # type: ignore[arg-type]


def reason(code: str, en: str, zh: str) -> Reason:
    return Reason(code, "note", MappingProxyType({"en": en, "zh-CN": zh}), MappingProxyType({}))


ROTATED = reason("patient-rotated", "The patient is turned by 8 degrees (limit 5)", "患者旋转 8 度（上限 5 度）")
NO_SIZE = reason("no-calibration", "The image does not say how large a pixel is.", "图像未标明像素大小。")
SHADOWS = reason("shadows-overlap", "Shadows lie behind each other.", "影像相互重叠。")


@dataclass(frozen=True, eq=False)
class PlanarCase:
    """A radiograph on disk with a result, and everything that `write_result` needs."""

    folder: Path
    result: Result
    volume: Radiograph
    series: Series
    study: Study
    identity: AnalysisIdentity
    options: WriterOptions


def result_of(image: Radiograph, truth: Mapping[str, np.ndarray], *, negative: bool) -> Result:
    """Build a result from the masks of a phantom."""
    rows, columns = image.array.shape
    grid = Projection(rows, columns, image.sop_instance_uid, image.orientation, image.spacing)
    shadows = [] if negative else sorted(truth["opacities"], key=np.sum)[: -FOUND - 1 : -1]
    opaque = np.any([np.zeros((rows, columns), bool), *shadows], axis=0)

    def area(site: str, mask: np.ndarray) -> Measurement:
        if image.spacing is None or image.spacing.meaning == "unknown":
            return Measurement("area", site, None, "cm2", "not_computable", NO_SIZE)
        name = "area" if image.spacing.meaning == "calibrated" else "area_at_detector"
        return Measurement(name, site, float(mask.sum()) * image.spacing.area_mm2 / 100, "cm2")

    parts: list[tuple[str, Code, Code | None, np.ndarray, str]] = [
        ("lungs", LUNG, BOTH, truth["right"] | truth["left"], "双肺"),
        ("right_lung", LUNG, RIGHT, truth["right"], "右肺"),
        ("left_lung", LUNG, LEFT, truth["left"], "左肺"),
        ("heart", HEART, None, truth["heart"], "心脏"),
    ]
    regions = [Region("body", _mask(truth["body"]), THORAX)]
    regions += [Region(site, _mask(mask), anatomy, side) for site, anatomy, side, mask, _ in parts]
    measurements: list[Measurement] = []
    segments: list[Segment] = []
    for site, anatomy, side, mask, zh in parts:
        measurements.append(area(site, mask))
        if anatomy is LUNG:
            share = 100 * float((opaque & mask).sum() / mask.sum())
            measurements.append(Measurement("opacity_area_percent", site, share, "%"))
        if site != "lungs":
            name = site.replace("_", " ")
            label = {"en": name, "zh-CN": zh}
            segments.append(Segment(len(segments) + 1, label, name, site, ANATOMY, anatomy, side, _mask(mask)))
    findings = []
    for n, mask in enumerate(shadows, 1):
        left = (mask & truth["left"]).sum() > (mask & truth["right"]).sum()
        site, side = ("left_lung", LEFT) if left else ("right_lung", RIGHT)
        name, number = f"opacity {n}", len(segments) + 1
        label = {"en": name, "zh-CN": f"致密影 {n}"}
        segments.append(Segment(number, label, name, site, MORPHOLOGY, OPACITY, side, _mask(mask)))
        findings.append(Finding(name, OPACITY, site, side, None, (area(site, mask),), number))
    quality = Quality("B", (QualityFinding(ROTATED, "instance", (image.sop_instance_uid,)),))
    summary = {"en": "Opacities in the lungs.", "zh-CN": "肺内可见致密影。"} if findings else {}
    return Result(
        "chest_xray", "0.1.0", image.series_instance_uid, grid, "cpu", quality, tuple(regions), tuple(measurements),
        tuple(segments), tuple(findings), (SHADOWS,), summary,
    )  # fmt: skip


def _mask(plane: np.ndarray) -> Mask:
    return Mask.of(plane[None].astype(np.uint8))


def radiograph_case(
    folder: Path,
    modality: Literal["DX", "CR"] = "DX",
    charset: str = "",
    *,
    negative: bool = False,
    patient_name: str = "Phantom^Chest",
    options: WriterOptions | None = None,
    **exposure: Any,
) -> PlanarCase:
    """Write a radiograph into `folder` and turn its truth into a result; see `phantom.radiograph.Exposure`."""
    wanted = Exposure(5, rows=120, columns=109, step_mm=4.0, lesions="none" if negative else "standard")
    made = expose(replace(wanted, modality=modality, charset=charset, patient_name=patient_name, **exposure))
    write_phantom(made, folder)
    return from_folder(folder, negative=negative, options=options)


def from_folder(folder: Path, *, negative: bool = False, options: WriterOptions | None = None) -> PlanarCase:
    """Turn the truth of a radiograph on disk, whatever was done to its header, into a result."""
    study = group([read_instance(p) for p in sorted((folder / "dicom").iterdir())])[0]
    image = load_radiograph(study.instances[0])
    with np.load(folder / "truth.npz") as stored:
        result = result_of(image, dict(stored), negative=negative)
    options = options or WriterOptions()
    identity = AnalysisIdentity.of(
        installation_id="0f2c7e9a-installation", study_instance_uid=study.study_instance_uid,
        instances=study.instances, pipeline="chest_xray", version="0.1.0", weights_digest="sha256:" + "ab" * 32,
        options_digests=("sha256:" + "cd" * 32, options.digest),
    )  # fmt: skip
    return PlanarCase(folder, result, image, study.series[0], study, identity, options)


def claim_of(c: PlanarCase) -> Claim:
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
    }
    return Claim.of(c.result, document)


def radiograph_written(c: PlanarCase, out: Path, pieces: tuple[Piece, ...] = PIECES) -> list[write.Artifact]:
    """Write a result on a radiograph as every kind of object that there is."""
    return list(write.write_result(c.result, c.volume, c.series, c.identity, c.options, out, NOW, pieces=pieces))


def radiograph_cards(c: PlanarCase, out: Path) -> list[write.Artifact]:
    """Write the statement that a radiograph was not analysed as every kind of object that there is."""
    said = (Considered(c.series.series_instance_uid, ROTATED),)
    return list(
        write.write_card(
            ROTATED, "not_analysed", c.study, c.identity, c.options, out, NOW, considered=said, pieces=CARDS
        )
    )
