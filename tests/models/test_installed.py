"""A model from `models add` to the objects that `process` writes, as a person does it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner
from pydicom import Dataset, dcmread
from pydicom.uid import MRImageStorage

import phantom
from node.cli import cli
from phantom import radiograph
from pipeline import registry
from pipeline.models.bench import measure
from pipeline.models.shelf import Installed
from pipeline.result import Segment
from tests.models import makers

pytestmark = pytest.mark.unit

SCHEMAS = Path(__file__).resolve().parents[2] / "node" / "schemas"
Call = Callable[..., dict[str, Any]]


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Run a command with a data folder of its own; return its document, which its schema knows."""
    config = tmp_path / "node.toml"
    config.write_text(f'[node]\ndata_dir = "{tmp_path / "data"}"\n[worker]\ndevice = "cpu"\n')

    def run(*arguments: str, code: int = 0) -> dict[str, Any]:
        done = CliRunner().invoke(cli, [*arguments, "--json", "--config", str(config)], standalone_mode=False)
        assert done.exception is None, done.exception
        assert done.return_value == code, done.output
        document: dict[str, Any] = json.loads(done.stdout)
        if "schema" in document:
            name = document["schema"].removeprefix("pacs-ai-node/").replace("/", "-")
            jsonschema.validate(document, json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8")))
        return document

    return run


@pytest.fixture(autouse=True)
def _no_models_of_other_tests(tmp_path: Path) -> Any:
    yield
    registry.install(tmp_path / "nothing")


@pytest.fixture(scope="module")
def made() -> phantom.Phantom:
    return phantom.build(5, thickness_mm=5.0, slices=24, matrix=64, lesions="none")


@pytest.fixture(scope="module")
def chest(made: phantom.Phantom, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return phantom.write(made, tmp_path_factory.mktemp("chest")) / "dicom"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    exposure = radiograph.Exposure(1, rows=128, columns=128)  # as in the trial of `models add`: drawn once
    return radiograph.write(radiograph.expose(exposure), tmp_path_factory.mktemp("dx")) / "dicom"


def objects(out: Path, job: dict[str, Any]) -> dict[str, Path]:
    return {row["kind"]: out / row["path"] for row in job["artifacts"]}


def agreement(seg: Dataset, folder: Path, made: phantom.Phantom) -> float:
    """Return the Dice overlap of a segmentation with the tissue of the phantom, frame by frame where each says that it lies."""
    found = np.zeros(made.array.shape, bool)
    places = {ds.SOPInstanceUID: ds for ds in map(dcmread, folder.glob("*.dcm"))}
    for frame, plane in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True):
        source = places[frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        z = np.linalg.solve(made.affine[:3, :3], np.array(source.ImagePositionPatient, float) - made.affine[:3, 3])[2]
        found[round(float(z))] = plane
    truth = made.array > makers.THRESHOLD
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


@pytest.mark.long
@pytest.mark.parametrize("scan", [{"plane": "coronal"}, {"plane": "sagittal"}, {"plane": "oblique"}, {"feet_first": True}, {"shuffle": True}], ids=str)  # fmt: skip
@pytest.mark.parametrize("orientation", ["RAS", "SPL"])
def test_masks_of_a_model_lie_where_the_patient_is_however_it_was_scanned(
    call: Call, tmp_path: Path, scan: dict[str, Any], orientation: str
) -> None:
    made = phantom.build(7, thickness_mm=6.0, slices=16, matrix=(48, 56), lesions="none", **scan)
    folder = phantom.write(made, tmp_path / "scan") / "dicom"
    call("models", "add", str(makers.torchscript(tmp_path / "in", input={"orientation": orientation})))
    document = call("process", str(folder), "--out", str(tmp_path / "out"), "--pipeline", "tissue_threshold")
    (job,) = document["studies"][0]["jobs"]
    assert agreement(dcmread(objects(tmp_path / "out", job)["seg"]), folder, made) > 0.999


@pytest.mark.parametrize(
    ("name", "make", "least"),
    [
        ("tissue_threshold", makers.torchscript, 0.999),
        ("tissue_onnx", makers.onnx, 0.999),
        ("tissue_bundle", makers.bundle, 0.9),
    ],
)
def test_a_model_comes_in_and_its_masks_go_out(
    call: Call,
    made: phantom.Phantom,
    chest: Path,
    tmp_path: Path,
    name: str,
    make: Callable[[Path], Path],
    least: float,
) -> None:
    if make is makers.onnx:
        pytest.importorskip("onnxruntime")
    added = call("models", "add", str(make(tmp_path / "brought")))
    assert added["trial"]["segments"] == 1
    rows = {row["pipeline"]: row for row in call("models")["models"]}
    assert rows[name]["weights_digest"] == added["weights_digest"]
    document = call("process", str(chest), "--out", str(tmp_path / "out"), "--pipeline", name)
    (job,) = document["studies"][0]["jobs"]
    assert job["outcome"] == "result"
    files = objects(tmp_path / "out", job)
    seg = dcmread(files["seg"])
    (segment,) = seg.SegmentSequence
    assert (segment.SegmentedPropertyTypeCodeSequence[0].CodeValue, segment.SegmentAlgorithmName) == ("87784001", name)
    assert added["weights_digest"].encode() in files["sr"].read_bytes()
    assert agreement(seg, chest, made) > least
    report = dcmread(files["sr"])
    assert report.VerificationFlag == "UNVERIFIED"
    for ds, kind in ((report, "report"), (seg, "segmentation")):
        assert ds.SeriesDescription.startswith(f"AI {name} {added['version']} {kind}")
        assert f"{name} {added['version']}" in ds.SoftwareVersions
        assert added["weights_digest"][:60] in str(ds.ContributingEquipmentSequence)
    (volume,) = [m for m in job["measurements"] if m["name"] == "volume"]
    assert (volume["status"], volume["reason"]["code"]) == ("lower_bound", "model-mask-at-edge")  # the table goes on
    assert call("models", "verify", name)["trial"]["device"] == "cpu"
    assert call("models", "card", name)["description"]["licence"] == "Apache-2.0"
    call("models", "remove", name)
    assert name not in {row["pipeline"] for row in call("models")["models"]}


def test_findings_of_a_model_have_segments_scores_and_sizes(call: Call, chest: Path, tmp_path: Path) -> None:
    label = {
        **makers.LABEL,
        "finding": True,
        "least": 50.0,
        "category": ["49755003", "SCT", "Morphologically Abnormal Structure"],
    }
    calibration = {"method": "temperature", "temperature": 1.5, "source": "made up"}
    call(
        "models",
        "add",
        str(makers.torchscript(tmp_path / "in", task="detection", label=[label], calibration=calibration)),
    )
    document = call("process", str(chest), "--out", str(tmp_path / "out"), "--pipeline", "tissue_threshold")
    (job,) = document["studies"][0]["jobs"]
    assert job["findings"]
    for finding in job["findings"]:
        names = {m["name"]: m for m in finding["measurements"]}
        assert {"volume", "long_axis", "mean_density", "probability"} == set(names)
        assert names["volume"]["value"] >= 50
        assert finding["segment_number"] is not None
    assert "gsps" not in objects(tmp_path / "out", job) or objects(tmp_path / "out", job)["seg"].exists()


def test_mr_is_shown_in_a_window_of_its_own_and_other_modalities_are_not_taken(
    call: Call, chest: Path, tmp_path: Path
) -> None:
    mr = tmp_path / "mr"
    mr.mkdir()
    for n, path in enumerate(sorted(chest.glob("*.dcm"))):
        ds = dcmread(path)
        ds.Modality, ds.SOPClassUID = "MR", MRImageStorage
        ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
        ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "SE", "NONE", "", "2D"
        ds.EchoTime, ds.EchoTrainLength, ds.RepetitionTime = 10, 1, 500
        del ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType
        ds.save_as(mr / f"{n}.dcm")
    steps = [
        {"kind": "shift", "subtract": 700.0, "divide": 2000.0},
        {"kind": "shift", "subtract": -0.35, "divide": 1.0},
    ]
    folder = makers.torchscript(tmp_path / "in", modalities=["MR"], input={"normalise": steps, "outside": 0.0})
    call("models", "add", str(folder))
    taken = call("process", str(mr), "--out", str(tmp_path / "a"), "--pipeline", "tissue_threshold")
    (job,) = taken["studies"][0]["jobs"]
    assert job["outcome"] == "result", job["reason"]
    assert {m["name"] for m in job["measurements"]} == {"volume"}  # MR has no Hounsfield units
    picture = dcmread(objects(tmp_path / "a", job)["sc"]).pixel_array[130:400, 30:900].mean(axis=-1)
    assert 5 < float(np.median(picture[picture > 0])) < 250  # neither all black nor all white
    other = call("process", str(chest), "--out", str(tmp_path / "b"), "--pipeline", "tissue_threshold", code=3)
    (job,) = other["studies"][0]["jobs"]
    assert job["reason"]["code"] == "model-other-modality"


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_a_radiograph_gets_classes_or_masks_and_no_volume(call: Call, source: Path, tmp_path: Path, task: str) -> None:
    picture = {"kind": "image", "orientation": "FL", "values": "shown", "normalise": [], "outside": 0.0}
    common = {"modalities": ["DX", "CR"], "task": task}
    if task == "classification":
        two = [{**makers.LABEL, "index": n, "name": f"class_{n}"} for n in range(2)]
        folder = makers.torchscript(
            tmp_path / "in", makers.Mean(), input={**picture, "size": [32, 32]}, label=two,
            output={"channels": 2, "activation": "softmax"}, **common,
        )  # fmt: skip
    else:
        folder = makers.torchscript(tmp_path / "in", input=picture, **common)
    call("models", "add", str(folder))
    document = call("process", str(source), "--out", str(tmp_path / "out"), "--pipeline", "tissue_threshold")
    (job,) = document["studies"][0]["jobs"]
    assert job["outcome"] == "result", job["reason"]
    assert "sr" in objects(tmp_path / "out", job)
    if task == "classification":
        (finding,) = job["findings"]  # two classes of softmax: one is above one half
        (score,) = finding["measurements"]
        assert (score["name"], score["unit"], 50 <= score["value"] <= 100) == ("model_score", "%", True)
        assert "model-score-not-probability" in {n["code"] for n in job["notes"]}
    else:
        assert {m["name"] for m in job["measurements"]} <= {"area", "area_at_detector"}


@pytest.mark.parametrize("kind", ["volume", "image"])
def test_boxes_are_findings_without_a_size(call: Call, chest: Path, source: Path, tmp_path: Path, kind: str) -> None:
    labels = [{**makers.LABEL, "index": n, "name": f"thing_{n}", "finding": True} for n in (1, 2)]
    more: dict[str, Any] = {"task": "detection", "label": labels, "output": {"form": "boxes"}}
    if kind == "image":
        chest = source
        more |= {"modalities": ["DX"], "input": {"kind": "image", "orientation": "FL", "normalise": []}}
    call("models", "add", str(makers.torchscript(tmp_path / "in", makers.Boxes(), **more)))
    document = call("process", str(chest), "--out", str(tmp_path / "out"), "--pipeline", "tissue_threshold")
    (job,) = document["studies"][0]["jobs"]
    assert job["outcome"] == "result", job["reason"]
    assert [[m["name"] for m in f["measurements"]] for f in job["findings"]] == [["model_score"]] * 2
    assert {round(m["value"]) for f in job["findings"] for m in f["measurements"]} == {75, 60}
    assert "model-boxes" in {note["code"] for note in job["notes"]}
    if kind == "volume":  # x, y, z of the network run to right, front and head
        numbers = [f["segment_number"] for f in job["findings"] if f["tracking_id"].startswith("thing 1")]
        seg = dcmread(objects(tmp_path / "out", job)["seg"])
        frames = [
            f.SegmentIdentificationSequence[0].ReferencedSegmentNumber for f in seg.PerFrameFunctionalGroupsSequence
        ]
        planes = seg.pixel_array[[n == numbers[0] for n in frames]]
        assert (len(planes), int(planes[0].sum())) == (16 - 8, (14 - 4) * (20 - 6))
        rows, columns = np.nonzero(planes[0])
        assert (rows.min(), columns.max()) == (64 - 20, 63 - 4)


def test_a_model_that_does_not_run_is_not_added(call: Call, tmp_path: Path) -> None:
    folder = makers.torchscript(tmp_path / "in", output={"channels": 2})
    document = call("models", "add", str(folder), code=1)
    assert document["error"]["code"] == "model-output-unexpected"
    assert not list((tmp_path / "data" / "models").iterdir())


def test_a_model_that_was_changed_is_a_visible_failure(call: Call, chest: Path, tmp_path: Path) -> None:
    call("models", "add", str(makers.torchscript(tmp_path / "in")))
    weights = tmp_path / "data" / "models" / "tissue_threshold" / "model.ts"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes() + b"!")
    document = call("process", str(chest), "--out", str(tmp_path / "out"), "--pipeline", "tissue_threshold", code=1)
    (job,) = document["studies"][0]["jobs"]
    assert (job["outcome"], job["reason"]["code"]) == ("failed", "model-changed")
    assert call("models", "verify", "tissue_threshold", code=1)["error"]["code"] == "model-changed"
    shutil.rmtree(weights.parent)
    assert call("models", "card", "tissue_threshold", code=1)["error"]["code"] == "model-not-there"


def test_bench_compares_every_way_with_the_model_as_it_is(tmp_path: Path) -> None:
    from pipeline.models.shelf import Shelf

    installed: Installed = Shelf(tmp_path / "models").add(
        makers.torchscript(tmp_path / "in", input={"tile": [16, 16, 16]})
    )
    rows, shape, device = measure(installed, "cpu", 2)
    assert (shape, device, [row.way for row in rows]) == (
        (1, 1, 16, 16, 16),
        "cpu",
        ["eager", "mixed", "compiled", "onnx"],
    )
    assert rows[0].seconds is not None
    assert all(row.reason or (row.seconds and (row.differs or 0) < 0.05) for row in rows[1:])


def test_a_segment_may_have_a_colour_of_its_own() -> None:
    assert Segment.__dataclass_fields__["colour"].default is None
