"""Sequences encoded once are the bytes that pydicom writes."""

from copy import deepcopy
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from sr_writer.encoding import Encoder
from sr_writer.files import write_dicom

pytestmark = pytest.mark.unit


def item(**values: object) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def written_by_pydicom(ds: Dataset, path: Path) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    FileDataset(path, ds, preamble=b"\0" * 128, file_meta=meta).save_as(path, enforce_file_format=True)
    return path.read_bytes()[path.read_bytes().index(b"\x08\0") :]


@pytest.fixture
def odd() -> Dataset:
    """What our objects hold, and what a source may hold: shared items, other character sets, delimiters, ambiguous VRs."""
    shared = item(CodeValue="1", CodeMeaning="肺", PixelPaddingValue=3)
    ds = item(
        SpecificCharacterSet="GB18030", SOPClassUID="1.2.840.10008.5.1.4.1.1.7", SOPInstanceUID="1.2.3", Rows=1, Columns=4,
        BitsAllocated=8, PixelRepresentation=0, PixelPaddingValue=7, PatientName="王^小东", PixelData=b"\0\1\2\3",
        ConceptNameCodeSequence=[shared],
        ContentSequence=[
            item(TextValue="右肺", ConceptCodeSequence=[shared, shared], ContentSequence=[]),
            item(SpecificCharacterSet="ISO_IR 100", TextValue="Müller", ConceptCodeSequence=[item(CodeMeaning="Jürgen")]),
        ],
        IssuerOfPatientIDQualifiersSequence=[item(UniversalEntityID="x", AssigningFacilitySequence=[shared])],
    )  # fmt: skip
    ds["IssuerOfPatientIDQualifiersSequence"].is_undefined_length = True
    ds.ContentSequence[0].add(ds["ConceptNameCodeSequence"])  # one element in two places
    return ds


def test_the_bytes_are_those_of_pydicom(odd: Dataset, tmp_path: Path) -> None:
    expected = written_by_pydicom(deepcopy(odd), tmp_path / "expected.dcm")
    write_dicom(odd, tmp_path / "found.dcm")
    found = (tmp_path / "found.dcm").read_bytes()
    assert found.endswith(expected[expected.index(b"\x08\0\x05\0CS") :])
    assert dcmread(tmp_path / "found.dcm") == odd


def test_a_tree_that_two_documents_share_is_encoded_for_each_character_set(odd: Dataset, tmp_path: Path) -> None:
    encoder = Encoder()
    other = Dataset(dict(odd.items()))
    other.SOPInstanceUID, other.SpecificCharacterSet = "1.2.4", "ISO_IR 192"
    assert other["ContentSequence"] is odd["ContentSequence"]
    for ds, name in ((odd, "a"), (other, "b")):
        write_dicom(ds, tmp_path / name, encoder=encoder)
        assert dcmread(tmp_path / name).ContentSequence[0].TextValue == "右肺"
        assert dcmread(tmp_path / name).ContentSequence == Sequence(odd.ContentSequence)
