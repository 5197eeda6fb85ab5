"""Results about images alone, made by hand on the phantoms of other tests."""

from dataclasses import replace
from types import MappingProxyType
from typing import Any

from dicom_io.reason import Reason
from pipeline.result import Code, Mask, Measure, Place, Projection, Quality, QualityFinding, Region, Result
from sr_writer.gate_claim import Claim
from sr_writer.identity import AnalysisIdentity

THORAX = Code("51185008", "SCT", "Thoracic structure")


def reason(code: str, en: str, zh: str, hint: str = "", hint_zh: str = "") -> Reason:
    hints = {"en": hint, "zh-CN": hint_zh} if hint else {}
    return Reason(code, "note", MappingProxyType({"en": en, "zh-CN": zh}), MappingProxyType(hints))


CUT = reason(
    "lung-cut-bottom", "Left costophrenic angle cut by about 12 mm.", "左侧肋膈角被截去约 12 mm。",
    "check whether a repeat is justified.", "是否有必要重复摄片。",
)  # fmt: skip
NOISE = reason("noise-high", "The images are noisy: 43.6 HU.", "图像噪声较高：43.6 HU。", "look at the dose.", "剂量。")
TWICE = reason("slices-twice", "2 images repeat the position of another.", "2 幅图像与其他图像位置重复。")
NO_DEPTH = reason("depth-of-8-bit", "Noise: the image has 8 bits.", "噪声：图像为 8 位。")


def quality_of(result: Result, grade: str = "C") -> Quality:
    """Return a grade with a remark on everything, an alarm on one place, and one on single images, as far as it goes."""
    images = result.geometry.images
    _, rows, columns = result.geometry.shape
    place = Place(images[0], (rows - rows // 5, rows), (columns // 2, columns - 2))
    series = result.series_instance_uid
    planar = isinstance(result.geometry, Projection)
    unit = "1" if planar else "[hnsf'U]"
    noise = QualityFinding(
        NOISE,
        "instance" if planar else "series",
        (images[0].sop_instance_uid if planar else series,),
        43.567,
        unit,
        40.0,
        "B",
    )
    cut = QualityFinding(CUT, "instance" if planar else "series", noise.uids, 12.0, "mm", 5.0, "C", place)
    twice = QualityFinding(TWICE, "instance", tuple(i.sop_instance_uid for i in images[2:4]), grade="D")
    found = {"A": (), "B": (noise,), "C": (noise, cut), "D": (noise, cut, twice)}[grade]
    return Quality(grade, found, (NO_DEPTH,), {"noise": Measure(43.567, unit)})  # type: ignore[arg-type]


def graded(case: Any, grade: str = "C") -> Any:
    """Turn the case of an analysis into one of a grade of the same images."""
    old: Result = case.result
    name = "cxr_quality" if isinstance(old.geometry, Projection) else "ct_quality"
    result = Result(
        name, "0.1.0", old.series_instance_uid, old.geometry, "cpu", quality_of(old, grade), (_body(old),), (), (), ()
    )
    identity = AnalysisIdentity.of(
        installation_id=case.identity.installation_id, study_instance_uid=case.identity.study_instance_uid,
        instances=case.series.instances, pipeline=name, version="0.1.0", weights_digest="sha256:" + "ab" * 32,
        options_digests=("sha256:" + "cd" * 32, case.options.digest),
    )  # fmt: skip
    return replace(case, result=result, identity=identity)


def _body(old: Result) -> Region:
    mask: Mask = old.region("body").mask
    return Region("body", mask, THORAX)


def document_of(case: Any) -> dict[str, Any]:
    """Return what the job's document says."""
    return {"quality": case.result.quality.as_json(), "measurements": [], "findings": [], "notes": [], "summary": {}}


def claim_of(case: Any) -> Claim:
    """Take down what a case says, as the node does before it writes."""
    return Claim.of(case.result, document_of(case))
