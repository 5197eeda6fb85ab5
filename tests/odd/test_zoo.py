"""Odd files from the field, as they are: through the listener in their own syntax, and through `process`.

What is expected of each is written here; what is not named is sound enough to be stored, and `process` has an outcome
for it.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from config.settings import Pipelines
from dicom_io.read import dataset_offset
from node.process import ProcessOptions, process
from pipeline import registry

pytestmark = [pytest.mark.sockets, pytest.mark.data, pytest.mark.filterwarnings("ignore::UserWarning")]

NOT_DICOM = {".csv", ".nrrd"}
# PS3.4 B.2.3: C000 "cannot understand", with the reason of the copy in quarantine; the first ten are data sets of no
# composite object, as their makers cut them for tests of parsers
REFUSED = {
    "chrSQEncoding.dcm": "object-without-uids",
    "GH220.dcm": "object-without-uids",
    "GH223.dcm": "object-without-uids",
    "GH487.dcm": "object-without-uids",
    "UN_sequence.dcm": "object-without-uids",
    "empty_charset_LEI.dcm": "object-without-uids",
    "meta_missing_tsyntax.dcm": "object-without-uids",
    "nested_priv_SQ.dcm": "object-without-uids",
    "no_meta_group_length.dcm": "object-without-uids",
    "priv_SQ.dcm": "object-without-uids",
    "no_meta.dcm": "object-truncated",
    "MR_truncated.dcm": "object-truncated",
    "rtplan_truncated.dcm": "object-truncated",
}
QUARANTINED = {
    **{name: "no-uids" for name, code in REFUSED.items() if code == "object-without-uids"},
    "no_meta.dcm": "not-dicom",  # begins with no group that a data set begins with
    "rtplan_truncated.dcm": "truncated",
}
# CT, but nothing that chest CT can judge: reason, and whether the destination would be told by a card
CHEST_CT = {
    "GH178.dcm": ("series-secondary-capture", False),
    "J2K_pixelrep_mismatch.dcm": ("study-other-body-part", False),
    "bad_sequence.dcm": ("study-other-body-part", False),
    "24x38x3__image__IMG0001.dcm": ("series-not-hu", False),
    "24x38x3__image__IMG0002.dcm": ("series-not-hu", False),
    "24x38x3__image__IMG0003.dcm": ("series-not-hu", False),
    "24x38x3__multiframe__mf.dcm": ("series-not-hu", False),
}
# what says that it is a radiograph: its grade, or why it has none
RADIOGRAPHS = {
    "RG1_J2KI.dcm": "A",
    "CR-MONO1-10-chest": "A",
    "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm": "B",
    "Fake_MONOHR1.dcm": "C",
    "normal1.dcm": "cxr-colour",
    "pneumonia1.dcm": "cxr-colour",
    "chrJapMulti.dcm": "cxr-small",
    "chrKoreanMulti.dcm": "cxr-small",
}


def files(real_data: Path) -> list[Path]:
    found = [p for folder in ("dicom_zoo", "seg_sr") for p in sorted((real_data / folder).rglob("*")) if p.is_file()]
    assert len(found) >= 70
    return found


def described(path: Path) -> tuple[bytes, str, str, str]:
    """Return the data set of a file as bytes, the syntax that it has, its class and its instance."""
    with path.open("rb") as file:
        offset = dataset_offset(file)
    header = dcmread(path, stop_before_pixels=True, force=True)
    implicit, little = header.original_encoding
    plain = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    syntax = str(header.file_meta.get("TransferSyntaxUID") or plain)
    instance, sop_class = str(header.get("SOPInstanceUID") or "2.25.1"), str(header.get("SOPClassUID") or "1.2.3")
    return path.read_bytes()[offset:], syntax, sop_class, instance


def test_each_file_is_stored_or_refused_with_a_reason_and_the_listener_goes_on(
    station: Any, kit: Any, real_data: Path, complete_reason: Callable[..., bool]
) -> None:
    met, other = set(), kit.Wire(station.port)
    for number, path in enumerate(p for p in files(real_data) if p.suffix not in NOT_DICOM):
        data, syntax, sop_class, instance = described(path)
        wire = kit.Wire(station.port, ((sop_class, syntax), (kit.VERIFICATION, kit.IMPLICIT)))
        expected = REFUSED.get(path.name)
        assert wire.store(data, instance, sop_class) == (0xC000 if expected else 0x0000), path.name
        kept = station.account(data, refused=expected is not None)
        assert kept, f"{path.name} is neither in the spool nor in quarantine"
        if expected:
            assert (kept["status"], kept["reason"]["code"]) == ("0xC000", expected), path.name
            assert complete_reason(kept["reason"])
            met.add(path.name)
        assert wire.echo() == 0x0000
        wire.close()
        good = f"2.25.77{number}"
        assert other.store(kit.encode(kit.slice_elements(good)), good) == 0x0000
    other.close()
    assert met == set(REFUSED)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., dict[str, Any]]]:
    options = ProcessOptions(
        load=registry.shelf(Pipelines(), "cpu"), version="0", now=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    )
    out = tmp_path_factory.mktemp("out")
    return lambda *paths: process(paths, out, options)


def test_process_has_an_outcome_for_each_file(run: Callable[..., dict[str, Any]], real_data: Path) -> None:
    for path in files(real_data):
        document = run(path)
        if path.suffix in NOT_DICOM or path.name in QUARANTINED:
            (left,) = document["quarantined"]
            assert left["reason"]["code"] == QUARANTINED.get(path.name, "not-dicom"), path.name
            assert document["studies"] == []
            continue
        ((job, *others),) = [study["jobs"] for study in document["studies"]]
        assert [(j["pipeline"], j["outcome"]) for j in others] in ([], [("ct_quality", "not_analysed")]), path.name
        if job["pipeline"] == "cxr_quality":
            said = job["quality"]["grade"] if job["quality"] else job["reason"]["code"]
            assert said == RADIOGRAPHS[path.name], path.name
            assert job["artifacts"]
            continue
        assert job["outcome"] == "not_analysed", path.name
        if job["pipeline"] is None:
            assert job["reason"]["code"] == "no-pipeline-for-study"
            assert path.name not in CHEST_CT
        else:
            code, card = CHEST_CT.get(path.name, ("series-too-few-slices", True))
            assert (job["reason"]["code"], bool(job["artifacts"])) == (code, card), path.name


def test_process_goes_on_over_all_of_them_at_once(run: Callable[..., dict[str, Any]], real_data: Path) -> None:
    document = run(real_data / "dicom_zoo", real_data / "seg_sr")
    told = {Path(entry["path"]).name for entry in document["quarantined"]}
    assert set(QUARANTINED) <= told
    # one UID for several files of one image: the first in order is used, the others are named
    conflicts = [e for e in document["quarantined"] if e["reason"]["code"] == "conflicting-file"]
    used = sum(study["instances"] for study in document["studies"])
    assert used + len(document["quarantined"]) + len(document["skipped"]) == len(files(real_data))
    assert len(conflicts) >= 10
