"""Limits of a site: which files are taken, which rows move, and what the pipeline then says."""

from pathlib import Path

import click
import pytest
from pydicom.dataset import Dataset

import phantom
from dicom_io.model import group
from dicom_io.read import read_instance
from node.cli.common import settings_of
from phantom import datasets
from phantom.dicom import save
from phantom.radiograph import Exposure, dataset, expose
from pipeline import registry
from pipeline.options import CtQualityOptions, CxrQualityOptions
from pipeline.quality.grade import Limit, Measured, grade
from pipeline.quality.limits import Limits, LimitsError, SiteLimit, moved, shipped
from pipeline.result import Result

pytestmark = pytest.mark.unit

HEAD = 'schema = "pacs-ai-node/quality-limits/1"\n'
ROW = HEAD + '[[limit]]\npipeline = "cxr_quality"\ncode = "exposure-above-target"\n'


def header(**values: str) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("x = ", "", "TOML"),
        ("", "schema", "quality-limits/1"),
        (HEAD + "a = 1\n", "a", "unknown key"),
        (HEAD + "reviewed_by = 3\n", "reviewed_by", "who"),
        (HEAD + "limit = 3\n", "limit", "[[limit]]"),
        (ROW, "limit.0", "above or below"),
        (ROW + "above = 1.0\nbelow = 2.0\n", "limit.0", "above or below"),
        (ROW + "above = 1.0\nextra = 2\n", "limit.0.extra", "unknown key; allowed here: above"),
        (ROW + 'above = "1"\n', "limit.0.above", "number"),
        (ROW + "above = inf\n", "limit.0.above", "number"),
        (ROW + "above = true\n", "limit.0.above", "number"),
        (ROW + "below = 1.0\n", "limit.0.grade", "is no row"),
        (ROW + 'above = 1.0\ngrade = "D"\n', "limit.0.grade", 'grade = "B", above = 3'),
        (ROW.replace("exposure-above-target", "nothing"), "limit.0", "above or below"),
        (ROW.replace("exposure-above-target", "nothing") + "above = 1\n", "limit.0.code", "there are: "),
        (ROW.replace("exposure-above-target", "secondary-capture") + "above = 1\n", "limit.0.code", "bound"),
        (ROW.replace("cxr_quality", "chest_ct") + "above = 1\n", "limit.0.pipeline", "one of"),
        (ROW + "above = 1.0\nwhen = { serial = '7' }\n", "limit.0.when", "station"),
        (ROW + "above = 1.0\nwhen = { station = '' }\n", "limit.0.when", "texts"),
        (ROW + "above = 1.0\n" + ROW.removeprefix(HEAD) + "above = 2.0\n", "limit.1.code", "already"),
        (ROW.replace("exposure-above-target", "values-clipped-little") + "above = 2.0\n", "limit", "beyond its end"),
    ],
)
def test_a_file_of_limits_that_does_not_fit_is_refused_by_its_key(
    tmp_path: Path, text: str, key: str, says: str
) -> None:
    file = tmp_path / "limits.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(LimitsError) as raised:
        Limits.read("cxr_quality", file)
    assert raised.value.key == key
    assert says in raised.value.allowed


def test_limits_that_cannot_be_used_stop_the_start(tmp_path: Path) -> None:
    file, config = tmp_path / "limits.toml", tmp_path / "node.toml"
    config.write_text(f'[pipeline.cxr_quality]\nlimits = "{file}"\n', encoding="utf-8")
    with pytest.raises(click.UsageError, match=r"pipeline.cxr_quality.limits = .*limits.toml.*cannot be read"):
        settings_of(config)
    file.write_text(ROW + "above = 1\nwhen = { serial = '7' }\n", encoding="utf-8")
    with pytest.raises(
        click.UsageError, match=r"limits.toml: limit.0.when = .*manufacturer, model, station, view, kernel"
    ):
        settings_of(config)
    file.write_text(ROW + "above = 1\n", encoding="utf-8")
    assert settings_of(config).pipeline.cxr_quality.limits == file


def test_where_one_finding_ends_the_next_begins() -> None:
    low = Limit("m", "a", "1", "B", "above", 1.0, 2.0)
    high = Limit("m", "b", "1", "C", "above", 2.0, float("inf"))
    other = Limit("m", "c", "1", "C", "below", 2.0, 0.0)
    changed = moved((low, high, other), [SiteLimit(high, 3.0)])
    assert [(row.bound, row.until) for row in changed] == [(1.0, 3.0), (3.0, float("inf")), (2.0, 0.0)]
    with pytest.raises(ValueError, match="beyond its end"):
        moved((low, high), [SiteLimit(low, 2.0)])


def test_the_row_that_says_most_about_the_image_counts(tmp_path: Path) -> None:
    file = tmp_path / "limits.toml"
    rows = ((9.0, 'manufacturer = "Maker", model = "M", station = "DX1", view = "AP"'), (5.0, 'model = "m"'), (4.0, ""))
    text = HEAD
    for bound, when in rows:
        more = f"when = {{ {when} }}\n" if when else ""
        text += f'[[limit]]\npipeline = "cxr_quality"\ncode = "exposure-above-target"\nabove = {bound}\n{more}'
    file.write_text(text, encoding="utf-8")
    limits = Limits.read("cxr_quality", file)

    def bound(**said: str) -> float:
        return next(row.bound for row in limits.of(header(**said)) if row.code == "exposure-above-target")

    ours = {"Manufacturer": "Maker", "ManufacturerModelName": "M", "StationName": "DX1"}
    assert bound() == 4.0
    assert bound(ManufacturerModelName="M") == 5.0
    assert bound(**ours, ViewPosition="PA") == 5.0
    assert bound(**ours, ViewPosition="ap") == 9.0
    unchanged = [row for row in shipped("cxr_quality") if row.code != "exposure-above-target"]
    assert [row for row in limits.of(header(**ours)) if row.code != "exposure-above-target"] == unchanged


@pytest.mark.parametrize(
    ("hu", "ratio", "told"),
    [
        (70.0, 1.3, "noise-above-usual"),
        (70.0, 1.6, "noise-far-above"),
        (200.0, 1.3, "noise-very-high"),
        (70.0, 1.0, "noise-high"),
    ],
)
def test_noise_is_told_once_by_the_worse_of_its_two_limits(hu: float, ratio: float, told: str) -> None:
    words = {"hu": "70", "usual": "50"}
    measures = {"noise_hu": Measured(hu, "[hnsf'U]"), "noise_ratio": Measured(ratio, "1", words=words)}
    found = grade(measures, shipped("ct_quality"), "series", "1.2")
    assert [f.reason.code for f in found.findings] == [told]
    assert set(found.measures) == set(measures)


def test_what_a_pipeline_says_follows_the_limits_of_its_site(tmp_path: Path) -> None:
    """Another bound, said as such, for that device alone; another content is another analysis."""
    image = dataset(expose(Exposure(5, lesions="none", rows=352, columns=336, step_mm=4.0)))
    image.ExposureIndex, image.TargetExposureIndex, image.StationName = 400, 200, "DX1"
    image.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    study = group([read_instance(tmp_path / "image.dcm")])[0]
    file = tmp_path / "limits.toml"

    def graded(station: str, above: float) -> tuple[Result, str]:
        file.write_text(f'{ROW}above = {above}\nwhen = {{ station = "{station}" }}\n', encoding="utf-8")
        pipeline = registry.load("cxr_quality", CxrQualityOptions(file))
        chosen = pipeline.select(study).chosen
        assert chosen is not None
        return pipeline.run(chosen).result, pipeline.options_digest

    (strict, first), (mild, second), (elsewhere, _) = graded("DX1", 2.0), graded("DX1", 3.5), graded("DX2", 2.0)
    found = [f for f in strict.quality.findings if f.reason.code == "exposure-above-target"]
    assert [f.limit for f in found] == [2.0], "400 of 200 is a deviation of 3.01"
    assert "exposure-above-target" not in {f.reason.code for f in mild.quality.findings}
    assert [f.limit for f in elsewhere.quality.findings if f.reason.code == "exposure-above-target"] == [3.0]
    assert "quality-site-limits" in {n.code for n in strict.notes}
    assert "quality-site-limits" not in {n.code for n in elsewhere.notes}
    assert first != second


def test_noise_of_ct_is_limited_by_device_and_kernel(tmp_path: Path) -> None:
    slices = list(datasets(phantom.build(31, lesions="none", matrix=128, thickness_mm=5.0)))
    (tmp_path / "ct").mkdir()
    for n, ds in enumerate(slices):
        ds.ConvolutionKernel = "B70f"
        save(ds, tmp_path / "ct" / f"{n}.dcm")
    study = group([read_instance(path) for path in sorted((tmp_path / "ct").iterdir())])[0]
    file = tmp_path / "limits.toml"
    found = {}
    for kernel in ("B70f", "B30f"):
        file.write_text(
            f'{HEAD}[[limit]]\npipeline = "ct_quality"\ncode = "noise-high"\nabove = 1.0\nwhen = {{ kernel = "{kernel}" }}\n',
            encoding="utf-8",
        )
        pipeline = registry.load("ct_quality", CtQualityOptions(file))
        chosen = pipeline.select(study).chosen
        assert chosen is not None
        result = pipeline.run(chosen).result
        codes = {f.reason.code for f in result.quality.findings}, {note.code for note in result.notes}
        found[kernel] = "noise-high" in codes[0], "quality-site-limits" in codes[1]
    assert found == {"B70f": (True, True), "B30f": (False, False)}
