"""`probe` against a PACS that takes some classes and refuses others."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pynetdicom import _config

from config import load
from dicom_io.status import Outcome
from node import probe
from node.cli import probe as module
from node.cli.probe import command
from pipeline import registry
from sr_writer.profiles import CARDS, profile, shipped, table
from sr_writer.seg_frames import LABEL_MAP_STORAGE
from tests.node.outbox import Script
from tests.node.probe_node import Finder
from tests.node.test_delivery_rows import Pacs

ROOT = Path(__file__).resolve().parents[2]
CT, SR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.34"
SENT = {facts["sop_class"] for facts in table()["object"].values()}


def run(tmp_path: Path, port: int, *arguments: str) -> Any:
    config = tmp_path / "node.toml"
    config.write_text(
        f'[node]\ndata_dir = "{tmp_path}/data"\n[[destination]]\nname = "pacs"\nhost = "127.0.0.1"\nport = {port}\nae_title = "PACS"\n',
        encoding="utf-8",
    )
    return CliRunner().invoke(command, ["pacs", "--config", str(config), *arguments], standalone_mode=False)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small phantom, a quick pipeline, and listeners of this process that accept no more than they list."""
    monkeypatch.setattr(_config, "UNRESTRICTED_STORAGE_SERVICE", False)
    monkeypatch.setattr(registry, "load", lambda *_: Finder())
    monkeypatch.setattr(module, "_PHANTOM", {"matrix": 64, "slices": 24})


@pytest.mark.unit
def test_every_object_of_every_profile_is_in_the_display_test_once() -> None:
    tests = probe.tests(profile("ohif"))
    forms = [t.form for t in tests]
    assert len(set(forms)) == len(forms)
    wanted = {f for p in shipped().values() for i in p.items for f in (i.form, i.instead) if f is not None}
    assert wanted <= set(forms)
    assert {f.encoding for f in forms} == {"binary", "fractional", "labelmap"}
    assert {t.form.object for t in tests} == set(table()["object"]) - {"rejection"} - (
        CARDS - {f.object for f in wanted}
    )
    assert len({t.item.number for t in tests}) == len(tests)
    assert all(t.item.description.startswith(f"TEST {t.number:02d} ") for t in tests)


@pytest.mark.sockets
def test_a_site_sees_what_is_taken_and_what_to_look_for(tmp_path: Path) -> None:
    with Pacs(lambda _uid: 0, accepts=(CT, *sorted(SENT - {SR}))) as pacs:
        done = run(tmp_path, pacs.port, "--json", "--out", str(tmp_path / "kept"))
        received = list(pacs.received)
    document = json.loads(done.output)
    schema = json.loads((ROOT / "node" / "schemas" / "probe-1.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(document)
    assert done.return_value == 0, "the other report is enough for its profile"
    assert document["images"]["taken"] == document["images"]["sent"] == 24
    refused = {o["object"] for o in document["objects"] if not o["taken"]}
    assert refused == {"sr", "card_sr", "seg"}
    assert {o["form"] for o in document["objects"] if o["object"] == "seg" and not o["taken"]} == {
        "seg (labelmap)", "seg (labelmap, rle)"
    }  # fmt: skip
    assert {o["reason"]["code"] for o in document["objects"] if not o["taken"]} == {"context-refused"}
    assert set(document["profiles"]) == set(shipped())
    assert {o["wanted"]: o["sent"] for o in document["gets"]} == {
        "seg": "seg",
        "sr": "csr",
        "sc": "sc",
        "quality_kos": "quality_kos",
        "card": "card",
    }
    told = "\n".join(module._told(document, load(tmp_path / "node.toml", {})))
    assert "csr goes instead" in told
    assert "[ ] coloured regions" in told
    assert "彩色区域" in told

    kept = {str(ds.SOPInstanceUID): ds for ds in map(dcmread, (tmp_path / "kept").rglob("*.dcm"))}
    assert set(received) < set(kept)
    assert {str(ds.PatientName) for ds in kept.values()} == {"AI^DISPLAY TEST"}
    assert {str(ds.StudyInstanceUID) for ds in kept.values()} == {document["study_instance_uid"]}
    for o in document["objects"]:
        (series,) = {
            str(ds.SeriesDescription) for ds in kept.values() if ds.SeriesInstanceUID == o["series_instance_uid"]
        }
        assert f"TEST {o['number']:02d} " in series
    assert LABEL_MAP_STORAGE in {ds.SOPClassUID for ds in kept.values()}, "written as what it is to show"


@pytest.mark.unit
def test_who_takes_no_images_gets_no_objects() -> None:
    script = Script(lambda _path: "context-refused")
    found = [probe.Found(test) for test in probe.tests(profile("ohif"))]
    (report,) = probe.send(script, [Path(get_testdata_file("CT_small.dcm", download=False))], found)
    assert report.outcome is Outcome.DEAD
    assert not any(one.taken for one in found)
    assert not probe.whole(profile("ohif"), found)
