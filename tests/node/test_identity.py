"""Whose an image is, and what a second object under its UID is: every row of the table."""

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, RLELossless

from dicom_io.read import read_instance
from dicom_io.same import equal_pixels
from node.identity import behind, compare, compare_identities, identity_of, patients, table

pytestmark = pytest.mark.unit

WHO = {"PatientID": "A1", "PatientName": "DOE^JANE", "PatientBirthDate": "19600102", "AccessionNumber": "ACC1"}


def header(**values: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def identity(**values: Any) -> str:
    return identity_of(header(**values))


@pytest.mark.parametrize(("one", "other", "count"), [
    ({}, {}, 1),
    (WHO, WHO, 1),
    (WHO, {**WHO, "PatientID": "A1  "}, 1),
    (WHO, {**WHO, "PatientID": "A2"}, 2),
    (WHO, {**WHO, "PatientID": "a1"}, 1),
    (WHO, {**WHO, "PatientID": "0A1"}, 2),
    (WHO, {**WHO, "PatientID": ""}, 2),
    (WHO, {**WHO, "IssuerOfPatientID": "HOSP"}, 1),
    ({**WHO, "IssuerOfPatientID": "HOSP"}, {**WHO, "IssuerOfPatientID": "HOSP "}, 1),
    ({**WHO, "IssuerOfPatientID": "HOSP"}, {**WHO, "IssuerOfPatientID": "CLINIC"}, 2),
    (WHO, {**WHO, "PatientName": "Doe^Jane"}, 1),
    (WHO, {**WHO, "PatientName": "DOE^JANE^^^"}, 1),
    (WHO, {**WHO, "PatientName": " DOE ^ JANE"}, 1),
    (WHO, {**WHO, "PatientName": ""}, 1),
    (WHO, {**WHO, "PatientName": "DOE^JOHN"}, 2),
    (WHO, {**WHO, "PatientName": "DOE^JANE="}, 1),
    (WHO, {**WHO, "PatientBirthDate": ""}, 1),
    (WHO, {**WHO, "PatientBirthDate": "19600201"}, 2),
    (WHO, {**WHO, "AccessionNumber": "ACC2"}, 1),
    (WHO, {**WHO, "PatientSex": "F"}, 1),
    (WHO, {**WHO, "StudyDate": "20260101"}, 1),
])  # fmt: skip
def test_what_makes_another_patient(one: Mapping[str, Any], other: Mapping[str, Any], count: int) -> None:
    assert patients((identity(**one), identity(**other))) == count
    assert patients((identity(**other), identity(**one))) == count


def test_two_issuers_are_two_patients_whatever_stands_between_them() -> None:
    three = [identity(**WHO), identity(**WHO, IssuerOfPatientID="X"), identity(**WHO, IssuerOfPatientID="Y")]
    assert patients(three) == 2
    assert patients([]) == 0
    assert patients([identity(**WHO, PatientSex=s) for s in ("F", "M", "O")]) == 1


def test_a_name_in_two_scripts_is_one_name_and_an_unknown_script_says_nothing() -> None:
    both, latin = header(**WHO), header(**WHO)
    both.SpecificCharacterSet = "ISO_IR 192"
    both.PatientName = "DOE^JANE=王^小东"
    assert patients((identity_of(both), identity_of(latin))) == 1
    other = header(**WHO)
    other.SpecificCharacterSet = "ISO_IR 192"
    other.PatientName = "DOE^JANE=李^小东"
    assert patients((identity_of(both), identity_of(other))) == 2


@pytest.mark.parametrize(("name", "other", "count"), [
    ("ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう", "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう", 1),
    ("WANG^XD=Wang^XiaoDong", "WANG^XD=Wang^XiaoDong", 1),
    ("홍^길동=洪^吉洞", "홍^길동", 1),
    ("Иванов^Иван", "Ivanov^Ivan", 1),
    ("李^?", "王^小东", 2),
])  # fmt: skip
def test_names_within_a_study_are_compared_as_at_a_destination(
    ct: list[Path], name: str, other: str, count: int
) -> None:
    def of(patient: str, accession: str) -> str:
        ds = dcmread(ct[0])
        ds.SpecificCharacterSet = "ISO_IR 192"
        ds.PatientName, ds.AccessionNumber = patient, accession
        return identity_of(ds)

    assert patients((of(name, "A1"), of(other, "A2"))) == count


@pytest.mark.parametrize(("charset", "name", "count"), [
    ("GB18030", "王^小东".encode("gb18030"), 1),
    ("ISO_IR 192", b"WANG^XIAODONG", 1),
    ("ISO_IR 192", "WANG^XIAODONG=王^小东".encode(), 1),
    ("ISO_IR 192", b"??^??", 1),
    ("", "王^小东".encode("gb18030"), 1),
    ("ISO_IR 100", "王^小东".encode("gb18030"), 1),
    ("ISO_IR 192", "李^小东".encode(), 2),
    ("GB18030", "李^小东".encode("gb18030"), 2),
])  # fmt: skip
def test_one_name_as_other_equipment_writes_it(
    ct: list[Path], tmp_path: Path, charset: str, name: bytes, count: int
) -> None:
    def written(file: Path, term: str, raw: bytes) -> str:
        ds = dcmread(ct[0])
        ds.SpecificCharacterSet = term or None
        ds.PatientName = "PLACEHOLDER"
        ds.save_as(file)
        content = file.read_bytes()
        at = content.index(b"PLACEHOLDER ")
        raw += b" " * (len(raw) % 2)
        file.write_bytes(content[: at - 2] + len(raw).to_bytes(2, "little") + raw + content[at + 12 :])
        return identity_of(read_instance(file).header)

    scanner = written(tmp_path / "scanner.dcm", "ISO_IR 192", "王^小东".encode())
    assert patients((scanner, written(tmp_path / "other.dcm", charset, name))) == count


def test_the_table_is_complete_and_each_row_means_what_it_says() -> None:
    t = table()
    listed = [*t["identity"], *t["decides"]["keywords"], *t["describes"]["keywords"]]
    assert len(listed) == len(set(listed))
    assert all(dictionary_VR(keyword) for keyword in listed)
    for keyword, meanings in t["identity"].items():
        old, new = json.dumps({keyword: "1"}), json.dumps({keyword: "2"})
        assert compare_identities(old, old).meaning == "same"
        assert compare_identities(old, new).meaning == meanings["changed"]
        assert compare_identities("", new).meaning == meanings["added"]
        assert compare_identities(old, "{}").meaning == meanings["dropped"]
    worst = compare_identities(json.dumps({"PatientID": "1", "PatientSex": "M"}), json.dumps({"PatientSex": "F"}))
    assert (worst.meaning, worst.changed) == ("conflict", ("PatientID",))


@pytest.mark.parametrize(("was", "now", "said", "left"), [
    ({"AccessionNumber": "A"}, {"AccessionNumber": "B"}, {"AccessionNumber": "A"}, True),
    ({"AccessionNumber": "A"}, {"AccessionNumber": "B"}, {"AccessionNumber": "a"}, True),
    ({"AccessionNumber": "A"}, {"AccessionNumber": "B"}, {"AccessionNumber": "A", "PatientAge": "050Y"}, True),
    ({"AccessionNumber": "A", "StudyID": "7"}, {"AccessionNumber": "B"}, {"AccessionNumber": "A"}, True),
    ({"AccessionNumber": "A"}, {"AccessionNumber": "B"}, {"AccessionNumber": "B"}, False),
    ({"AccessionNumber": "A"}, {"AccessionNumber": "B"}, {"AccessionNumber": "C"}, False),
    ({"AccessionNumber": "A"}, {"AccessionNumber": "B"}, {}, False),
    ({}, {"PatientSex": "F"}, {}, True),
    ({}, {"PatientSex": "F"}, {"PatientSex": "M"}, False),
    ({}, {"PatientSex": "F", "StudyID": "7", "IssuerOfPatientID": "X"}, {"PatientSex": "F"}, False),
    ({"PatientSex": "M", "StudyID": "7"}, {"PatientSex": "F"}, {"PatientSex": "F", "StudyID": "7"}, False),
])  # fmt: skip
def test_an_image_is_behind_that_says_what_was_corrected_in_another(
    was: Mapping[str, str], now: Mapping[str, str], said: Mapping[str, str], left: bool
) -> None:
    before, after, other = (identity(PatientID="1", **values) for values in (was, now, said))
    assert behind([other, after], [(before, after)]) == ({other} if left else set())


def test_what_a_second_correction_brought_back_is_not_behind() -> None:
    first, second, third = (
        identity(**WHO), identity(**{**WHO, "AccessionNumber": "ACC2"}), identity(**WHO, PatientSex="F")
    )  # fmt: skip
    assert behind([third], [(first, third), (second, third)]) == set()
    assert behind([first, second], [(first, third), (second, third)]) == {first, second}


def test_everything_that_pipelines_read_is_in_the_table() -> None:
    root = Path(__file__).parents[2]
    files = [
        *(
            f for f in (root / "pipeline").rglob("*.py") if "recipe" not in f.parts
        ),  # training reads no study of the node
        *(root / "dicom_io" / f"{n}.py" for n in ("stack", "volume", "pixels")),
    ]
    t = table()
    listed = {*t["identity"], *t["decides"]["keywords"], *t["describes"]["keywords"]}
    used: dict[str, str] = {}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            words = [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []
            words += [node.attr] if isinstance(node, ast.Attribute) else []
            for word in words:
                try:
                    dictionary_VR(word)
                except (KeyError, ValueError, TypeError):
                    continue
                if word[:1].isupper():
                    used[word] = file.name
    known = {"PixelData", "SOPInstanceUID", "TransferSyntaxUID", "Grid", "Status"}  # the last two: names of types
    assert {"PixelSpacing", "RescaleSlope", "PatientAge"} <= set(used), "the search finds nothing"
    assert {w: f for w, f in used.items() if w not in listed | known} == {}


@pytest.mark.parametrize(("keyword", "value", "meaning"), [
    ("PatientName", "ROE^RICHARD", "corrected"),
    ("PatientName", "", "conflict"),
    ("PatientID", "phantom-7 ", "same"),
    ("PatientID", "B2", "corrected"),
    ("AccessionNumber", "OTHER", "corrected"),
    ("PatientAge", "012Y", "corrected"),
    ("PatientIdentityRemoved", "YES", "conflict"),
    ("PatientIdentityRemoved", "NO", "same"),
    ("PatientID", "", "conflict"),
    ("PatientBirthDate", "", "same"),
    ("SeriesDescription", "coerced", "same"),
    ("InstitutionName", "elsewhere", "same"),
    ("BodyPartExamined", "THORAX", "same"),
    ("SliceThickness", "9", "conflict"),
    ("ImagePositionPatient", [0, 0, 17], "conflict"),
    ("RescaleIntercept", "-1000", "conflict"),
    ("SeriesInstanceUID", "1.2.3", "conflict"),
    ("Modality", "MR", "conflict"),
])  # fmt: skip
def test_one_attribute_changed(ct: list[Path], keyword: str, value: Any, meaning: str) -> None:
    old, new = read_instance(ct[0]).header, dcmread(ct[0], stop_before_pixels=True)
    setattr(new, keyword, value)
    identities = (identity_of(old), identity_of(new))
    found = compare(old, new, identities, same_pixels=True)
    assert found.meaning == meaning
    assert found.changed == (() if meaning == "same" else (keyword,))
    assert compare(old, new, identities, same_pixels=False).meaning == "conflict"


def test_numbers_are_compared_as_numbers(ct: list[Path]) -> None:
    old, new = read_instance(ct[0]).header, dcmread(ct[0], stop_before_pixels=True)
    new.PixelSpacing = [f"{v:.6f}" for v in old.PixelSpacing]
    assert compare(old, new, ("", ""), same_pixels=True).meaning == "same"


def test_pixels_are_equal_whatever_their_encoding(ct: list[Path], tmp_path: Path) -> None:
    first = read_instance(ct[0])
    for n, syntax in enumerate((RLELossless, JPEG2000Lossless)):
        ds = dcmread(ct[0])
        ds.compress(syntax, generate_instance_uid=False)
        ds.save_as(tmp_path / f"{n}.dcm")
        again = read_instance(tmp_path / f"{n}.dcm")
        assert again.digest != first.digest
        assert equal_pixels(first, again)
    ds = dcmread(ct[0])
    ds.PatientID = "other"
    ds.save_as(tmp_path / "who.dcm")
    assert equal_pixels(first, read_instance(tmp_path / "who.dcm"))
    cells = ds.pixel_array.copy()
    cells[0, 0] += np.int16(1)
    ds.PixelData = cells.tobytes()
    ds.save_as(tmp_path / "pixel.dcm")
    assert not equal_pixels(first, read_instance(tmp_path / "pixel.dcm"))
    del ds.PixelData
    ds.save_as(tmp_path / "none.dcm")
    assert not equal_pixels(read_instance(tmp_path / "none.dcm"), read_instance(tmp_path / "none.dcm"))
