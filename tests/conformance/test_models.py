"""A model of the site in the journey beside Orthanc: the PACS sends a study and gets the model's results."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

import phantom
from pipeline.models.shelf import Shelf
from tests.conformance import test_pacs as pacs
from tests.models import makers

pytestmark = pytest.mark.conformance


@pytest.fixture
def hospital(tmp_path: Path, orthanc_program: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[pacs.Hospital]:
    made = pacs.Hospital(tmp_path, orthanc_program)
    Shelf(made.data / "models").add(makers.bundle(tmp_path / "bundle"))
    monkeypatch.setattr(
        pacs, "CONFIGURATION", pacs.CONFIGURATION.replace('run = ["chest_ct"]', 'run = ["tissue_bundle"]')
    )
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.mark.long
def test_a_model_of_the_site_answers_the_pacs(hospital: pacs.Hospital, tmp_path: Path) -> None:
    made = phantom.build(5, thickness_mm=5.0, slices=24, matrix=64, lesions="none")
    chest = phantom.write(made, tmp_path / "chest")
    study = hospital.archive(pacs.images(chest))
    hospital.forward(study, "node")
    hospital.results(study, len(pacs.images(chest)) + 3)
    (job,) = hospital.confirmed(pacs.study_of(chest))["jobs"]
    assert (job["pipeline"], job["outcome"]) == ("tissue_bundle", "result")
    held = hospital.fetch(study, tmp_path / "held")
    (seg,), (report,) = held["SEG"], held["SR"]
    for path in (seg, report):
        pacs.no_errors(path)
        assert pacs.patient(path)[1:] == pacs.patient(pacs.images(chest)[0])[1:]
    (segment,) = dcmread(seg, stop_before_pixels=True).SegmentSequence
    found = pacs.masks(seg, made.array.shape, made.affine, tmp_path / "masks")[segment.SegmentLabel]
    truth = made.array > makers.THRESHOLD
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.9
