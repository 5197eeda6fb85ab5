"""Limits learned from images: which numbers, from whom, and what is left as it is."""

import random
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest

from dicom_io.device import Device
from node.quality.learn import Bound, Image, learn, percentile, policy
from pipeline import registry
from pipeline.quality.limits import shipped

pytestmark = pytest.mark.unit

DX1 = Device("Maker", "M1", "DX1")


def made(count: int, device: Device = DX1, view: str = "PA", **more: Any) -> list[Image]:
    values = {"deviation_index": 0.0, "sharpness_blur": 0.3, **more}
    return [
        Image(
            "cxr_quality", device, {"view": view}, f"s{n}", f"p{n}", "A",
            {k: v[n] if isinstance(v, Sequence) else v for k, v in values.items()},
        )
        for n in range(count)
    ]  # fmt: skip


def bound(images: Sequence[Image], code: str, device: Device = DX1, least: int = 50) -> Bound:
    (of,) = (x for x in learn(images, least) if x.device == device)
    return next(b for b in of.bounds if b.row.code == code)


def test_percentiles_are_those_of_numpy() -> None:
    rng = np.random.default_rng(3)
    for count in (1, 2, 7, 100):
        values = sorted(rng.normal(size=count).tolist())
        for per_cent in (0, 1, 2.5, 50, 99, 100):
            assert percentile(values, per_cent) == pytest.approx(np.percentile(values, per_cent), abs=1e-12)


def test_exposure_is_limited_by_mean_and_two_standard_deviations() -> None:
    values = np.random.default_rng(1).normal(0.85, 2.0, 200).tolist()
    images = made(200, deviation_index=values)
    for code, side in (("exposure-above-target", 1), ("exposure-below-target", -1)):
        found = bound(images, code)
        assert found.bound == pytest.approx(fmean(values) + side * 2 * stdev(values), rel=1e-3)
        assert found.when == {"manufacturer": "Maker", "model": "M1", "station": "DX1", "view": "PA"}
    random.Random(5).shuffle(images)
    assert learn(images, 50) == learn(made(200, deviation_index=values), 50), "their order means nothing"


def test_one_in_a_hundred_is_beyond_a_limit_by_percentile() -> None:
    values = np.linspace(0.25, 0.45, 101).tolist()
    found = bound(made(101, sharpness_blur=values), "image-blurred")
    assert found.bound == pytest.approx(0.252)
    assert "view" not in found.when


def test_a_limit_moves_only_so_far_and_says_so() -> None:
    blurred = bound(made(60, sharpness_blur=0.01), "image-blurred")
    (row,) = (r for r in shipped("cxr_quality") if r.code == "image-blurred")
    (rule,) = (r for r in policy()["learn"] if r["measure"] == "sharpness_blur")
    assert blurred.bound == pytest.approx(row.bound * rule["least"], rel=1e-3)
    assert "moves no further" in blurred.why
    exposed = made(60, deviation_index=5.0)
    assert bound(exposed, "exposure-below-target").bound == -1.0
    assert bound(exposed, "exposure-above-target").bound == 5.0


def test_noise_of_every_kernel_has_a_limit_of_its_own() -> None:
    images = [
        Image("ct_quality", DX1, {"kernel": kernel}, f"s{n}", f"p{n}", "A", {"noise_hu": noise + n / 10})
        for kernel, noise in (("B30f", 20.0), ("B70f", 100.0))
        for n in range(60)
    ]
    (of,) = learn(images, 50)
    remarks = {b.when["kernel"]: b.bound for b in of.bounds if b.row.grade == "B"}
    assert remarks == {"B30f": pytest.approx(25.75, abs=0.05), "B70f": 96.0}, "the second moves no further"


def test_what_is_not_usable_teaches_nothing() -> None:
    images = made(60)
    bad = [Image(i.pipeline, i.device, i.apart, i.study, i.patient, "D", {"sharpness_blur": 9.0}) for i in made(30)]
    (of,) = learn(images + bad, 50)
    assert (of.images, of.left_out) == (90, 30)
    assert of.spreads["sharpness_blur", "", ""].count == 60


@pytest.mark.parametrize(
    ("images", "why"),
    [
        (made(49), "too few images: 49 of at least 50"),
        (
            [Image(i.pipeline, i.device, i.apart, i.study, "p", "A", i.measures) for i in made(60)],
            "too few patients: 1",
        ),
        (made(60, Device("", "M1", "DX1")), "do not say which device"),
        (made(60, Device("Maker", "M1", "")) + made(3), "cannot be told from other devices"),
        (made(60, view=""), "do not say their view"),
    ],
)
def test_what_is_not_known_well_enough_is_not_changed(images: list[Image], why: str) -> None:
    for of in learn(images, 50)[:1]:
        found = next(b for b in of.bounds if b.row.code == "exposure-above-target")
        assert found.bound is None
        assert why in found.why


def test_a_remark_never_begins_beyond_its_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a policy asks for: where rows do not go together, they stay as they are."""
    rule = {
        "pipeline": "cxr_quality", "measure": "clipped_percent", "method": "percentile", "remark": 1.0, "alarm": 50.0,
        "least": 0.1, "most": 10.0,
    }  # fmt: skip
    monkeypatch.setattr("node.quality.learn.policy", lambda: {**policy(), "learn": [rule]})
    values = np.linspace(0.5, 4.0, 60).tolist()
    (of,) = learn(made(60, clipped_percent=values), 50)
    assert {b.bound for b in of.bounds} == {None}
    assert any("beyond its end" in b.why for b in of.bounds)


def test_the_policy_names_measures_that_there_are() -> None:
    for rule in policy()["learn"]:
        rows = [r for r in shipped(rule["pipeline"]) if r.measure == rule["measure"] and r.grade in ("B", "C")]
        assert rows, f"{rule['pipeline']} {rule['measure']}"
        assert rule["pipeline"] in registry.graded()
        for beyond in (rule.get("remark", 5.0), rule.get("alarm", 5.0)):
            assert {beyond, 100 - beyond} <= set(policy()["percentiles"])
