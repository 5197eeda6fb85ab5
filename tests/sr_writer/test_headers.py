"""Names in any script and headers with anything missing: nobody's name changes and nothing crashes."""

import warnings
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.charset import convert_encodings
from pydicom.tag import Tag
from pydicom.valuerep import PersonName

import phantom
from dicom_io.charset import declared, raw_names, text_of
from sr_writer import gate
from tests.sr_writer.authored import short

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    phantom.write(phantom.build(8, slices=12, matrix=64, lesions="none"), folder)
    return folder


def _copy(plain: Path, to: Path, change: Any) -> Path:
    """Copy a study with every header changed."""
    (to / "dicom").mkdir(parents=True)
    (to / "truth.npz").write_bytes((plain / "truth.npz").read_bytes())
    for path in sorted((plain / "dicom").iterdir()):
        ds = pydicom.dcmread(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd values and unknown terms are what some of these tests are about
            change(ds)
            ds.save_as(to / "dicom" / path.name)
    return to


def _name(charset: str | list[str] | None, raw: bytes) -> Any:
    """Set a name by its very bytes."""

    def change(ds: pydicom.Dataset) -> None:
        if charset is None:
            ds.pop("SpecificCharacterSet", None)
        else:
            ds.SpecificCharacterSet = charset
        ds.PatientName = PersonName(raw, convert_encodings(charset or ""))

    return change


NAMES = [
    ("ISO_IR 100", "Müller^Jürgen", "latin-1"),
    ("ISO_IR 192", "王^小东", "utf-8"),
    ("ISO_IR 192", "Müller^Jürgen=王^小东", "utf-8"),
    ("GB18030", "王^小东", "gb18030"),
    ("GB18030", "㐂^𠮷", "gb18030"),
    ("GBK", "张^伟", "gbk"),
    (None, "Smith^John", "ascii"),
    (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎", "iso2022"),
]


def _encoded(name: str, codec: str) -> bytes:
    if codec == "iso2022":
        return name.split("=", maxsplit=1)[0].encode() + b"=" + b"\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"
    return name.encode(codec) + b" " * (len(name.encode(codec)) % 2)


@pytest.mark.parametrize(("charset", "name", "codec"), NAMES, ids=[f"{c}-{n}" for c, n, _ in NAMES])
def test_07_08_09_10_names_come_out_as_they_went_in(
    plain: Path, helpers: Any, tmp_path: Path, charset: Any, name: str, codec: str
) -> None:
    raw = _encoded(name, codec)
    case = short(helpers.from_folder(_copy(plain, tmp_path / "in", _name(charset, raw))))
    written = helpers.write(case, tmp_path / "out")
    for artifact in written:
        out = raw_names(artifact.path, "PatientName")["PatientName"]
        assert out.text == name
        if charset in ("GB18030", "ISO_IR 192"):
            assert out.raw == raw.rstrip()  # the same bytes wherever the object's character set allows it
    sr = pydicom.dcmread(next(a.path for a in written if a.kind == "sr"))
    assert sr.SpecificCharacterSet in {"ISO_IR 192", "GB18030", "GBK"}
    texts = [i.TextValue for i in sr.ContentSequence if i.ValueType == "TEXT"]
    assert any("not for primary diagnosis" in t for t in texts)
    assert any("未经核实" in t for t in texts)
    assert gate.check(written, case.series.instances) == ()


def test_07_latin_names_keep_their_bytes_where_only_ascii_is_added(plain: Path, helpers: Any, tmp_path: Path) -> None:
    raw = "Müller^Jürgen ".encode("latin-1")
    case = short(helpers.from_folder(_copy(plain, tmp_path / "in", _name("ISO_IR 100", raw))))
    seg = next(a.path for a in helpers.write(case, tmp_path / "out") if a.kind == "seg")
    assert raw_names(seg, "PatientName")["PatientName"].raw == raw.rstrip()
    assert pydicom.dcmread(seg).SpecificCharacterSet == "ISO_IR 100"


@pytest.mark.parametrize(
    ("charset", "raw"),
    [
        (None, "王^小东 ".encode("gb18030")),
        ("ISO_IR 192", "Müller^Anna".encode("latin-1")),
        ("KLINGON", "Müller".encode("latin-1")),
    ],
    ids=["undeclared", "declared wrongly", "unknown"],
)
def test_10_names_of_unknown_meaning_keep_their_bytes(
    plain: Path, helpers: Any, tmp_path: Path, charset: str | None, raw: bytes
) -> None:
    case = short(helpers.from_folder(_copy(plain, tmp_path / "in", _name(charset, raw + b" " * (len(raw) % 2)))))
    written = helpers.write(case, tmp_path / "out")
    for artifact in written:
        out = raw_names(artifact.path, "PatientName")["PatientName"]
        assert out.raw == raw.rstrip()
        assert "SpecificCharacterSet" not in pydicom.dcmread(artifact.path)
        data = artifact.path.read_bytes()
        assert "未".encode() not in data
        assert "未".encode("gb18030") not in data or artifact.kind == "sc"  # pixels hold any bytes
    assert gate.check(written, case.series.instances) == ()


TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName",
    "StudyID", "AccessionNumber", "SeriesNumber", "InstanceNumber", "PositionReferenceIndicator", "Manufacturer",
    "BodyPartExamined", "StudyDescription", "SliceThickness", "KVP", "PatientPosition",
)  # fmt: skip


@pytest.mark.parametrize("keyword", ["all of them", *(pytest.param(k, marks=pytest.mark.long) for k in TYPE_2)])
def test_11_missing_attributes_never_crash_a_writer(plain: Path, helpers: Any, tmp_path: Path, keyword: str) -> None:
    def change(ds: pydicom.Dataset) -> None:
        for name in TYPE_2 if keyword == "all of them" else [keyword]:
            ds.pop(name, None)

    case = short(helpers.from_folder(_copy(plain, tmp_path / "in", change)))
    written = helpers.write(case, tmp_path / "out")
    assert len(written) == 3
    assert gate.check(written, case.series.instances) == ()


ODD = [
    ("PatientSex", "Male"),
    ("PatientBirthDate", "01.02.1960"),
    ("PatientAge", "sixty"),
    ("StudyTime", "noon"),
    ("StudyDate", "2025-01-06"),
    ("AccessionNumber", "?4711"),
    ("StudyDescription", "Chest? " + "x" * 80),
    ("BodyPartExamined", "thorax and a lot more than sixteen"),
    ("TimezoneOffsetFromUTC", "CET"),
]


@pytest.mark.parametrize(("keyword", "value"), ODD, ids=[o[0] for o in ODD])
def test_11_odd_values_never_crash_a_writer(
    plain: Path, helpers: Any, tmp_path: Path, keyword: str, value: str
) -> None:
    def change(ds: pydicom.Dataset) -> None:
        tag = Tag(keyword)
        raw = value.encode() + b" " * (len(value) % 2)
        vr = pydicom.datadict.dictionary_VR(tag)
        ds[tag] = pydicom.dataelem.RawDataElement(
            tag, vr, len(raw), raw, 0, is_implicit_VR=False, is_little_endian=True
        )

    case = short(helpers.from_folder(_copy(plain, tmp_path / "in", change)))
    written = helpers.write(case, tmp_path / "out")
    assert gate.check(written, case.series.instances) == ()
    if keyword == "PatientSex":
        assert {pydicom.dcmread(a.path).PatientSex for a in written} == {""}


def test_33_positions_longer_than_a_decimal_string_may_be(plain: Path, helpers: Any, tmp_path: Path) -> None:
    def change(ds: pydicom.Dataset) -> None:
        raw = "\\".join(f"{float(v):.18f}" for v in ds.ImagePositionPatient).encode()
        raw += b" " * (len(raw) % 2)
        tag = Tag("ImagePositionPatient")
        ds[tag] = pydicom.dataelem.RawDataElement(
            tag, "DS", len(raw), raw, 0, is_implicit_VR=False, is_little_endian=True
        )

    case = short(helpers.from_folder(_copy(plain, tmp_path / "in", change)))
    written = helpers.write(case, tmp_path / "out")
    assert gate.check(written, case.series.instances) == ()
    seg = pydicom.dcmread(next(a.path for a in written if a.kind == "seg"))
    for group in seg.PerFrameFunctionalGroupsSequence:
        assert all(len(str(v)) <= 16 for v in group.PlanePositionSequence[0].ImagePositionPatient)


def test_32_no_frame_of_reference_in_the_source_none_in_the_result(plain: Path, helpers: Any, tmp_path: Path) -> None:
    case = short(helpers.from_folder(_copy(plain, tmp_path / "in", lambda ds: ds.pop("FrameOfReferenceUID", None))))
    written = helpers.write(case, tmp_path / "out")
    assert "FrameOfReferenceUID" not in pydicom.dcmread(next(a.path for a in written if a.kind == "seg"))
    assert gate.check(written, case.series.instances) == ()


def test_issuer_of_patient_id_is_copied(plain: Path, helpers: Any, tmp_path: Path) -> None:
    case = short(
        helpers.from_folder(_copy(plain, tmp_path / "in", lambda ds: setattr(ds, "IssuerOfPatientID", "CLINIC")))
    )
    for artifact in helpers.write(case, tmp_path / "out"):
        ds = pydicom.dcmread(artifact.path)
        found = text_of(ds, Tag("IssuerOfPatientID"), declared(ds))
        assert found is not None
        assert found.text == "CLINIC"
