import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr import (
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PersonObserverIdentifyingAttributes,
    TrackingIdentifier,
)
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.tag import Tag

from dicom_io.charset import declared, raw_names, text_of
from dicom_io.discover import discover
from dicom_io.normalise import Normalised, normalise
from dicom_io.read import read_instance

pytestmark = pytest.mark.unit
Header = Callable[..., Dataset]
Save = Callable[..., Path]

TYPE_2 = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
]
CHARSETS = [
    ("ISO_IR 100", "Müller^Schäfer", "ISO_IR 100"),
    ("ISO_IR 192", "王^小東", "ISO_IR 192"),
    ("GB18030", "张^伟", "GB18030"),
    ("GB18030", "昞^㐀", "GB18030"),
    ("GBK", "張^偉", "GBK"),
    ("ISO_IR 144", "Люк^ceм", "ISO_IR 144"),
    (None, "Doe^Jane", None),
    ("ISO_IR 6", "Doe^Jane", None),
    (["ISO 2022 IR 6", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎", "ISO_IR 192"),
    (["ISO 2022 IR 6", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞", "ISO_IR 192"),
]


def written(header: Dataset) -> Dataset:
    """Write a header and read it back, warnings being errors."""
    buffer = io.BytesIO()
    header.save_as(buffer, implicit_vr=False, little_endian=True)
    buffer.seek(0)
    return dcmread(buffer, force=True)


def segmentation(source: Normalised) -> Segmentation:
    algorithm = AlgorithmIdentificationSequence("a", codes.DCM.ArtificialIntelligence, "1")
    segment = SegmentDescription(
        1, "Lung", codes.SCT.Organ, codes.SCT.Lung, algorithm_type="AUTOMATIC", algorithm_identification=algorithm
    )
    return Segmentation(
        source_images=[source.header],
        pixel_array=np.ones((1, source.header.Rows, source.header.Columns), np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=[segment],
        series_instance_uid="1.2.3.1",
        series_number=1,
        sop_instance_uid="1.2.3.2",
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="n",
        software_versions="1",
        device_serial_number="1",
    )


def report(source: Normalised) -> Comprehensive3DSR:
    person = ObserverContext(codes.DCM.Person, PersonObserverIdentifyingAttributes("Doe^Joe"))
    device = ObserverContext(codes.DCM.Device, DeviceObserverIdentifyingAttributes("1.2.3.9"))
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier("1.2.3.8", "quality"), finding_type=codes.DCM.ImageQuality
    )
    context = ObservationContext(observer_person_context=person, observer_device_context=device)
    return Comprehensive3DSR(
        evidence=[source.header],
        content=MeasurementReport(context, codes.LN.CTUnspecifiedBodyRegion, imaging_measurements=[group])[0],
        series_instance_uid="1.2.3.3",
        series_number=2,
        sop_instance_uid="1.2.3.4",
        instance_number=1,
        manufacturer="m",
    )


def note_codes(result: Normalised) -> set[str]:
    return {n.code for n in result.notes}


def with_name_bytes(save: Save, header: Dataset, raw: bytes) -> Dataset:
    """Return the header of a file whose Patient's Name holds `raw`, whatever the character set declares."""
    header.PatientName = "Q" * len(raw)
    path = save(header)
    path.write_bytes(path.read_bytes().replace(b"Q" * len(raw), raw))
    return read_instance(path).header


@pytest.mark.parametrize(("source", "name", "kept"), CHARSETS)
@pytest.mark.parametrize("touched", [False, True])
def test_names_come_out_with_the_same_bytes_or_the_same_unicode(
    make_header: Header, save_slice: Save, source: Any, name: str, kept: str | None, touched: bool
) -> None:
    path = save_slice(
        make_header(SpecificCharacterSet=source, PatientName=name, StudyDescription=name.replace("^", " "))
    )
    before = path.read_bytes()
    header = read_instance(path).header
    if touched:
        _ = header.PatientName.family_name, header.StudyDescription
    result = normalise(header)
    assert result.header.get("SpecificCharacterSet") == kept
    out = written(result.header)
    sent = raw_names(path, "PatientName", "StudyDescription")
    for keyword in ("PatientName", "StudyDescription"):
        found = text_of(out, Tag(keyword), declared(out))
        assert found is not None
        assert found.text == sent[keyword].text
        if kept == source or kept is None:
            assert found.raw == sent[keyword].raw
    assert path.read_bytes() == before
    assert not result.ascii_only


def name_bytes(out: Dataset) -> bytes | None:
    found = text_of(out, Tag("PatientName"), declared(out))
    return found.raw if found else None


def test_iso_2022_ir_58_becomes_utf_8_without_escape_sequences(make_header: Header, save_slice: Save) -> None:
    raw = b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab"
    header = with_name_bytes(save_slice, make_header(SpecificCharacterSet=["", "ISO 2022 IR 58"]), raw)
    out = written(normalise(header).header)
    assert out.SpecificCharacterSet == "ISO_IR 192"
    assert str(out.PatientName) == "Zhang^XiaoDong=张^小东"


@pytest.mark.parametrize("term", [None, "ISO_IR 6", "ISO_IR 999"])
@pytest.mark.parametrize("raw", ["Schäfer".encode("latin_1"), "张伟".encode("gb18030"), "王^小東".encode()])
def test_undeclared_bytes_are_passed_on_untouched_and_never_guessed(
    make_header: Header, save_slice: Save, term: str | None, raw: bytes
) -> None:
    sent = make_header(SpecificCharacterSet=term)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom does not know it either
        header = with_name_bytes(save_slice, sent, raw)
    result = normalise(header)
    assert result.ascii_only
    assert note_codes(result) == {"charset-unknown" if term == "ISO_IR 999" else "charset-undeclared"}
    out = written(result.header)
    assert "SpecificCharacterSet" not in out
    assert name_bytes(out) == raw


def test_highdicom_passes_undeclared_bytes_on_untouched(make_header: Header, save_slice: Save) -> None:
    raw = "张^伟".encode("gb18030")
    result = normalise(with_name_bytes(save_slice, make_header(SpecificCharacterSet=None), raw))
    for made in (segmentation(result), report(result)):
        buffer = io.BytesIO()
        made.save_as(buffer)
        buffer.seek(0)
        out = dcmread(buffer)
        assert "SpecificCharacterSet" not in out
        assert name_bytes(out) == raw


def test_a_wrong_declaration_is_passed_on_as_it_is(make_header: Header, save_slice: Save) -> None:
    raw = "张伟".encode("gbk")
    out = written(normalise(with_name_bytes(save_slice, make_header(), raw)).header)
    assert out.SpecificCharacterSet == "ISO_IR 100"
    assert name_bytes(out) == raw


def test_a_name_that_does_not_fit_its_character_set_keeps_its_bytes(make_header: Header, save_slice: Save) -> None:
    raw = "Müller".encode("latin_1")
    result = normalise(with_name_bytes(save_slice, make_header(SpecificCharacterSet="ISO_IR 192"), raw))
    assert result.ascii_only
    assert note_codes(result) == {"charset-mismatch"}
    assert name_bytes(written(result.header)) == raw


def test_a_description_cut_inside_a_character_loses_only_that_character(make_header: Header, save_slice: Save) -> None:
    name, cut = "张^伟", "胸部平扫".encode("gb18030")[:-1]
    header = make_header(SpecificCharacterSet="GB18030", PatientName=name, StudyDescription="Q" * len(cut))
    path = save_slice(header)
    path.write_bytes(path.read_bytes().replace(b"Q" * len(cut), cut))
    result = normalise(read_instance(path).header)
    assert note_codes(result) == {"charset-mismatch"}
    out = written(result.header)
    assert (out.SpecificCharacterSet, str(out.PatientName), out.StudyDescription) == ("GB18030", name, "胸部平")


def test_the_senders_real_character_set_comes_from_its_setting(make_header: Header, save_slice: Save) -> None:
    path = save_slice(make_header(SpecificCharacterSet=None, PatientName="Q" * 4))
    path.write_bytes(path.read_bytes().replace(b"QQQQ", "张伟".encode("gb18030")))
    header = read_instance(path, charset="GB18030").header
    assert str(header.PatientName) == "张伟"
    out = written(normalise(header).header)
    assert (out.SpecificCharacterSet, str(out.PatientName)) == ("GB18030", "张伟")


@pytest.mark.parametrize("keyword", TYPE_2)
@pytest.mark.parametrize("absent", [True, False])
def test_missing_and_empty_type_2_elements_never_crash_a_writer(
    make_header: Header, save_slice: Save, keyword: str, absent: bool
) -> None:
    header = read_instance(save_slice(make_header(**{keyword: None if absent else ""}))).header
    result = normalise(header)
    assert keyword in result.header
    assert not result.header[keyword].value
    assert ("attribute-missing" in note_codes(result)) is absent
    assert keyword in segmentation(result)
    assert keyword in report(result)


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("PatientSex", "Male", ""),
        ("PatientSex", "W", ""),
        ("PatientSex", "m", "M"),
        ("PatientBirthDate", "19601302", ""),
        ("PatientBirthDate", "1960.01.02", ""),
        ("PatientBirthDate", "020160", ""),
        ("StudyDate", "today", ""),
        ("StudyTime", "25:61", ""),
        ("StudyTime", "1011", "1011"),
        ("StudyTime", "101112.345", "101112.345"),
        ("PatientAge", "64", None),
        ("PatientAge", "064Y", "064Y"),
        ("PatientWeight", "heavy", None),
        ("SliceThickness", "2.0000000000000001", "2.0"),
        ("SliceThickness", "NaN", None),
        ("SeriesNumber", "3.7", None),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_invalid_values_go_and_writers_still_work(
    make_header: Header, save_slice: Save, keyword: str, value: str, expected: str | None
) -> None:
    header = make_header()
    header.add_new(keyword, "LO", "Q" * len(value))
    path = save_slice(header)
    path.write_bytes(_retyped(path.read_bytes(), keyword, value))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = normalise(read_instance(path).header)
        found = result.header.get(keyword)
        assert (str(found) if found not in (None, "") else "") == (expected or "")
        if expected == "":
            assert note_codes(result) == {"attribute-invalid"}
        out = written(result.header)
    assert out.PatientID == "P1"
    segmentation(result)
    report(result)


def _retyped(data: bytes, keyword: str, value: str) -> bytes:
    """Give the LO element that holds only Q the value and the VR that the dictionary has for it."""
    old = b"LO" + (len(value) + len(value) % 2).to_bytes(2, "little") + b"Q" * len(value)
    assert data.count(old) == 1, keyword
    return data.replace(old, dictionary_VR(keyword).encode() + old[2:4] + value.encode())


def test_a_missing_frame_of_reference_is_told_and_replaced_by_a_stable_one(
    make_header: Header, save_slice: Save
) -> None:
    header = read_instance(save_slice(make_header(FrameOfReferenceUID=None))).header
    first, second = normalise(header), normalise(header)
    assert first.frame_of_reference_absent
    assert "frame-of-reference-absent" in note_codes(first)
    assert first.header.FrameOfReferenceUID == second.header.FrameOfReferenceUID
    segmentation(first)


@pytest.mark.parametrize(("source", "name", "kept"), CHARSETS)
def test_highdicom_writes_from_every_character_set(
    make_header: Header, save_slice: Save, source: Any, name: str, kept: str | None
) -> None:
    path = save_slice(make_header(SpecificCharacterSet=source, PatientName=name))
    result = normalise(read_instance(path).header)
    for made in (segmentation(result), report(result)):
        buffer = io.BytesIO()
        made.save_as(buffer)
        buffer.seek(0)
        out = dcmread(buffer)
        assert out.get("SpecificCharacterSet") == kept
        found = text_of(out, Tag("PatientName"), declared(out))
        assert found is not None
        assert found.text == raw_names(path, "PatientName")["PatientName"].text


def test_sequences_are_copied_in_the_same_character_set_without_private_elements(
    make_header: Header, save_slice: Save
) -> None:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "L", "胸部"
    item.add_new(0x00090010, "LO", "PRIVATE")
    header = make_header(SpecificCharacterSet="GB18030", ProcedureCodeSequence=[item], OperatorsName="Op")
    header.add_new(0x00090010, "LO", "PRIVATE")
    result = normalise(read_instance(save_slice(header)).header).header
    out = written(result)
    assert out.ProcedureCodeSequence[0].CodeMeaning == "胸部"
    assert not any(e.tag.is_private for e in (*out, *out.ProcedureCodeSequence[0]))
    assert "OperatorsName" not in out


@pytest.mark.data
def test_every_real_header_normalises_and_can_be_written(real_data: Path, tmp_path: Path) -> None:
    count = 0
    for found in discover(
        [real_data / "dicom_zoo", real_data / "seg_sr", real_data / "ct" / "NY-SBU_slices"], tmp_path
    ):
        if found.instance is not None:
            out = written(normalise(found.instance.header).header)
            assert out.StudyInstanceUID == found.instance.study_instance_uid
            sent, kept = raw_names(found.path, "PatientID").get("PatientID"), out.get("PatientID")
            assert (kept or "") == (sent.text if sent else "")
            count += 1
    assert count > 80


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "charset", "patient", "ascii_only"),
    [
        ("gb18030_declared", "GB18030", "张伟", False),
        ("utf8_declared", "ISO_IR 192", "张伟", False),
        ("gb18030_charset_missing", None, "张伟".encode("gb18030").decode("latin_1"), True),
        ("gbk_but_says_latin1", "ISO_IR 100", "张伟".encode("gbk").decode("latin_1"), False),
    ],
)
def test_real_chinese_headers(real_data: Path, name: str, charset: str | None, patient: str, ascii_only: bool) -> None:
    path = real_data / "dicom_zoo" / "chinese_headers_derived" / f"{name}.dcm"
    result = normalise(read_instance(path).header)
    out = written(result.header)
    assert (out.get("SpecificCharacterSet"), str(out.PatientName), result.ascii_only) == (charset, patient, ascii_only)
    assert name_bytes(out) == raw_names(path, "PatientName")["PatientName"].raw
