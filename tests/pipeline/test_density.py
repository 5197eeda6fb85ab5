"""Densities of whole lungs: counted by hand, and withheld for each condition that fails."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from pipeline.chest_ct import density, measure
from pipeline.chest_ct.density import Acquisition
from pipeline.chest_ct.parameters import parameters
from pipeline.reasons import REASONS
from pipeline.result import Measurement, Quality, QualityFinding

pytestmark = pytest.mark.unit

CALM = measure.Circumstances(slices_missing=False, contrast=False, no_normal_lung=False)
FIT = Acquisition(60.0, 1.0, 1.0, sharp=False, normal_hu=-860.0, noise_hu=12.0, spoilt=None)
SITES = ("lungs", "left_lung", "right_lung")
BAD = REASONS("lung-cut-off")


def known(**bad: str) -> dict[tuple[str, str], Measurement]:
    rows = {}
    for name in ("lung_volume", "opacity_percent"):
        for site in SITES:
            status = bad.get(name, "ok") if site != "right_lung" else "ok"
            rows[name, site] = Measurement(
                name, site, None if status == "not_computable" else 1.0, "1", status, None if status == "ok" else BAD
            )  # type: ignore[arg-type]
    return rows


def numbers(
    made: Acquisition = FIT, now: measure.Circumstances = CALM, **bad: str
) -> dict[tuple[str, str], Measurement]:
    lung, hu = np.zeros((1, 2, 20), np.uint8), np.zeros((1, 2, 20), np.float32)
    lung[0, 0], lung[0, 1] = 1, 2
    hu[0, 0] = np.arange(-1000, -800, 10)  # 5 below -950, 15 from -950 on
    hu[0, 1] = -700
    rows = density.measurements(lung, hu, known(**bad), now, made, parameters())
    return {(m.name, m.site): m for m in rows}


def test_counted_by_hand() -> None:
    rows = numbers()
    assert {m.status for m in rows.values()} == {"ok"}
    assert [rows["laa950_percent", s].value for s in SITES] == [12.5, 0.0, 25.0]
    assert [rows["aerated_percent", s].value for s in SITES] == [37.5, 0.0, 75.0], "-950 belongs to it, -700 does not"
    assert rows["perc15", "left_lung"].value == -700
    assert rows["perc15", "right_lung"].value == pytest.approx(-971.5)


CONDITIONS: list[tuple[dict[str, Any], str, bool]] = [
    ({"years": None}, "density-age-unknown", False),
    ({"years": 17.5}, "density-not-adult", False),
    ({"thickness_mm": 2.0}, "density-slices-thick", False),
    ({"spacing_mm": 2.0}, "density-slices-thick", False),
    ({"sharp": True}, "density-kernel-sharp", True),
    ({"sharp": None}, "density-kernel-unknown", False),
    ({"normal_hu": -700.0}, "density-breath-shallow", False),
    ({"noise_hu": 55.0}, "density-noise", False),
    ({"spoilt": REASONS("hu-offset", value="20")}, "hu-offset", True),
]


@pytest.mark.parametrize(
    ("change", "code", "aerated"), CONDITIONS, ids=[f"{c[1]}-{n}" for n, c in enumerate(CONDITIONS)]
)
def test_each_condition_that_fails_is_the_reason(change: dict[str, Any], code: str, aerated: bool) -> None:
    rows = numbers(replace(FIT, **change))
    for site in SITES:
        for name in ("laa950_percent", "perc15"):
            assert (rows[name, site].value, rows[name, site].reason.code) == (None, code)
        assert (rows["aerated_percent", site].status == "not_computable") == aerated


def test_contrast_and_doubtful_masks() -> None:
    rows = numbers(now=replace(CALM, contrast=True))
    assert {m.reason.code for m in rows.values()} == {"contrast-changes-density"}
    rows = numbers(lung_volume="lower_bound")
    assert rows["laa950_percent", "lungs"].reason.code == rows["perc15", "left_lung"].reason.code == "lung-cut-off"
    assert rows["laa950_percent", "right_lung"].status == rows["aerated_percent", "lungs"].status == "ok"
    rows = numbers(opacity_percent="lower_bound")
    assert rows["aerated_percent", "lungs"].status == "not_computable", "opacities missed would be aerated lung"
    assert rows["laa950_percent", "lungs"].status == "ok"


def test_read_from_header_and_grade() -> None:
    header = Dataset()
    header.PatientAge, header.ConvolutionKernel = "045Y", "B30f"
    stack = SimpleNamespace(instances=[SimpleNamespace(header=header)], thickness_mm=None, spacing_mm=1.25)
    reason = REASONS(parameters()["density"]["spoilt_by"][0], value="30", limit="10")
    graded = Quality("C", (QualityFinding(reason, "series", ("1.2",)),))
    made = Acquisition.of(stack, -870.0, graded, parameters()["density"])  # type: ignore[arg-type]
    assert made == Acquisition(45.0, 1.25, 1.25, sharp=False, normal_hu=-870.0, noise_hu=0.0, spoilt=reason)


def test_phantoms_have_densities_only_in_thin_slices(case: Callable[..., Any]) -> None:
    result = case(5, lesions="none", thickness_mm=5.0).analysis.result
    rows = {(m.name, m.site): m for m in result.measurements}
    assert rows["laa950_percent", "lungs"].reason.code == "density-slices-thick"
    assert rows["aerated_percent", "lungs"].value > 80
    assert [rows[f"ct_severity_score_{end}", "lungs"].value for end in ("least", "most")] == [0, 0]
