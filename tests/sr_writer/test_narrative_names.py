"""Words about numbers name the thing that was measured."""

from types import SimpleNamespace
from typing import Any

import pytest

from dicom_io.reason import LANGUAGES
from sr_writer import codes, narrative

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_bound_of_a_finding_is_not_said_of_its_lung(positive: Any, language: str) -> None:
    """The long axis of an opacity is at least 77 mm: the lung has no long axis, and its volume is no bound."""
    result = positive.result
    finding = result.findings[0]
    reason = SimpleNamespace(text=dict.fromkeys(LANGUAGES, "WHY"))
    bound = SimpleNamespace(
        name="volume", site=finding.site, status="lower_bound", reason=reason, value=1.0, unit="cm3"
    )
    lung = SimpleNamespace(
        name="volume", site=finding.site, status="not_computable", reason=reason, value=None, unit="cm3"
    )
    copy = SimpleNamespace(
        measurements=(lung,), segments=result.segments,
        findings=(SimpleNamespace(
            measurements=(bound,), site=finding.site, segment_number=finding.segment_number, tracking_id=finding.tracking_id,
        ),),
    )  # fmt: skip
    of_lung, of_finding = narrative._missing(copy, language)
    site, name = codes.site_label(finding.site, language), narrative.finding_label(finding, result, language)
    assert site in of_lung
    assert name not in of_lung
    assert name in of_finding
    assert site not in of_finding


def test_a_share_that_findings_have_too_is_not_said_of_the_lung() -> None:
    """Findings carry GGO_CLASS_SHARE of their own voxels: 100 % of an opacity is not 100 % of the lung."""
    import tomllib
    from importlib.resources import files

    rows = tomllib.loads(files("sr_writer").joinpath("codes.toml").read_text(encoding="utf-8"))["concept"]
    assert "lung" not in rows["ground_glass_percent"]["en"]
    assert "肺" not in rows["ground_glass_percent"]["zh-CN"]
