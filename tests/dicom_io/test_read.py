import hashlib
import io
import os
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicom_io import discover as discover_module
from dicom_io import elements, limits, read
from dicom_io.discover import Found, discover
from dicom_io.errors import UnreadableError
from dicom_io.read import digest_dataset, read_instance

pytestmark = pytest.mark.unit
Header = Callable[..., Dataset]
Save = Callable[..., Path]


def refusal(path: Path) -> str:
    with pytest.raises(UnreadableError) as caught:
        read_instance(path)
    return caught.value.reason.code


@pytest.fixture
def slice_file(make_header: Header, save_slice: Save) -> Path:
    return save_slice(make_header())


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Tighten limits: `limit("archive", entries=3)`."""

    def tighten(group: str, **values: Any) -> None:
        changed = replace(read.LIMITS, **{group: replace(getattr(read.LIMITS, group), **values)})
        monkeypatch.setattr(read, "LIMITS", changed)
        monkeypatch.setattr(discover_module, "LIMITS", changed)

    return tighten


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_a_header_is_read_up_to_the_pixels(make_header: Header, save_slice: Save, syntax: str) -> None:
    path = save_slice(make_header(), syntax=syntax)
    instance = read_instance(path)
    assert instance.transfer_syntax_uid == syntax
    assert (instance.modality, instance.header.InstanceNumber) == ("CT", 1)
    assert "PixelData" not in instance.header
    assert elements.numbers(instance.header, "PixelSpacing") == (0.75, 0.5)


def test_the_digest_is_that_of_the_bytes_after_the_file_meta_information(slice_file: Path) -> None:
    meta = dcmread(slice_file).file_meta
    start = 132 + 12 + meta.FileMetaInformationGroupLength
    expected = hashlib.sha256(slice_file.read_bytes()[start:]).hexdigest()
    assert digest_dataset(slice_file) == read_instance(slice_file).digest == expected


def test_the_digest_ignores_who_wrote_the_file_but_not_one_bit_of_it(slice_file: Path, tmp_path: Path) -> None:
    ds = dcmread(slice_file)
    ds.file_meta.ImplementationVersionName = "SOMEONE ELSE"
    ds.save_as(tmp_path / "other.dcm", enforce_file_format=True)
    assert digest_dataset(tmp_path / "other.dcm") == digest_dataset(slice_file)
    data = bytearray(slice_file.read_bytes())
    data[-1] ^= 1
    slice_file.write_bytes(data)
    assert digest_dataset(tmp_path / "other.dcm") != digest_dataset(slice_file)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_bare_data_set_is_read_and_has_the_same_digest(make_header: Header, save_slice: Save, syntax: str) -> None:
    path = save_slice(make_header(), syntax=syntax)
    whole = read_instance(path)
    start = len(path.read_bytes()) - len(_dataset_bytes(path))
    path.write_bytes(path.read_bytes()[start:])
    bare = read_instance(path)
    assert (bare.digest, bare.transfer_syntax_uid) == (whole.digest, syntax)
    assert bare.sop_instance_uid == whole.sop_instance_uid


def _dataset_bytes(path: Path) -> bytes:
    meta = dcmread(path).file_meta
    return path.read_bytes()[132 + 12 + meta.FileMetaInformationGroupLength :]


def test_meta_information_without_preamble_is_read(slice_file: Path) -> None:
    digest = digest_dataset(slice_file)
    slice_file.write_bytes(slice_file.read_bytes()[132:])
    assert read_instance(slice_file).digest == digest


def test_a_charset_setting_replaces_what_is_declared_but_not_in_the_file(make_header: Header, save_slice: Save) -> None:
    path = save_slice(make_header(SpecificCharacterSet="GB18030", PatientName="张^伟"))
    before = path.read_bytes()
    assert str(read_instance(path, charset="ISO_IR 100").header.PatientName) == "张^伟".encode("gb18030").decode(
        "latin_1"
    )
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "not-dicom"),
        (b"hello", "not-dicom"),
        (b"a,b\n" * 1000, "not-dicom"),
        (b"\x08\x00" + bytes(500), "not-dicom"),
        (bytes(128) + b"DICM", "no-uids"),
        (bytes(128) + b"DICM\x02\x00\x00\x00UL\x04\x00\xff\xff\xff\xff", "no-uids"),
        (bytes(128) + b"DICM\x02\x00\x01\x00OB\x00\x00\xff\xff\xff\x7f", "truncated"),
    ],
)
def test_what_is_not_dicom_is_told_apart(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert refusal(path) == code


def test_a_missing_file_may_come_later(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError) as caught:
        read_instance(tmp_path / "absent.dcm")
    assert (caught.value.reason.code, caught.value.retryable) == ("unreadable-file", True)


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID"])
def test_an_object_without_its_uids_belongs_nowhere(make_header: Header, save_slice: Save, keyword: str) -> None:
    path = save_slice(make_header(), name="x.dcm")
    ds = dcmread(path)
    delattr(ds, keyword)
    ds.save_as(path)
    assert refusal(path) == "no-uids"


def test_no_cut_of_a_file_raises_anything_else(slice_file: Path) -> None:
    data, seen = slice_file.read_bytes(), set()
    for length in range(0, len(data), 7):
        slice_file.write_bytes(data[:length])
        try:
            read_instance(slice_file)
        except UnreadableError as error:
            seen.add(error.reason.code)
    assert seen >= {"not-dicom", "truncated", "no-uids"}


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_no_damage_raises_anything_else_at_reading_or_later(make_header: Header, save_slice: Save, syntax: str) -> None:
    item = Dataset()
    item.CodeValue, item.NumericValue = "1", "5"
    path = save_slice(make_header(ProcedureCodeSequence=[item]), syntax=syntax)
    data, rng = path.read_bytes(), np.random.default_rng(9)
    for _ in range(150):
        damaged = bytearray(data)
        for at in rng.integers(132, len(data) - 100, 4):
            damaged[at] = int(rng.integers(256))
        path.write_bytes(damaged)
        try:
            header = read_instance(path).header
        except UnreadableError:
            continue
        for element in list(header.keys()):
            if not element.is_private:
                elements.texts(header, header[element].keyword)


@pytest.mark.parametrize(
    ("keyword", "vr", "raw"), [("SliceThickness", "DS", b"abc "), ("InstanceNumber", "IS", b"1.5x")]
)
def test_values_that_are_no_numbers_are_absent(
    make_header: Header, save_slice: Save, keyword: str, vr: str, raw: bytes
) -> None:
    header = make_header(**{keyword: None})
    header.add_new(keyword, "LO", "QQQQ")
    path = save_slice(header)
    path.write_bytes(path.read_bytes().replace(b"LO\x04\0QQQQ", vr.encode() + b"\x04\0" + raw))
    read_back = read_instance(path).header
    assert read_back.get(keyword) is None
    assert elements.number(read_back, keyword) is None
    assert elements.text(read_back, keyword) == ""


def test_elements_are_text_or_numbers_or_absent(make_header: Header) -> None:
    header = make_header(ImageType=["ORIGINAL", "PRIMARY"], ImagePositionPatient=[1, 2.5, -3])
    assert elements.texts(header, "ImageType") == ("ORIGINAL", "PRIMARY")
    assert elements.text(header, "ImageType") == "ORIGINAL\\PRIMARY"
    assert elements.numbers(header, "ImagePositionPatient") == (1.0, 2.5, -3.0)
    assert elements.number(header, "PixelSpacing") == 0.75
    assert elements.integer(header, "PixelSpacing") is None
    assert elements.integer(header, "Rows") == 8
    assert elements.numbers(header, "PatientName") == ()
    assert elements.texts(header, "EchoTime") == ()


def test_long_elements_before_the_pixels_are_left_on_disk(make_header: Header, save_slice: Save) -> None:
    header = make_header()
    header.add_new(0x00091010, "OB", bytes(3 << 20))
    instance = read_instance(save_slice(header))
    assert 0x00091010 not in instance.header
    assert instance.header.Rows == 8


def test_a_claimed_length_beyond_the_file_is_truncation(slice_file: Path) -> None:
    data = slice_file.read_bytes()
    at = data.index(b"\x08\x00\x60\x00CS")
    slice_file.write_bytes(data[:at] + b"\x08\x00\x60\x00UT\x00\x00" + struct.pack("<I", 0x7FFFFFF0) + data[at + 8 :])
    assert refusal(slice_file) in {"truncated", "no-uids"}


def test_nesting_without_end_is_refused(tmp_path: Path, slice_file: Path) -> None:
    depth = sys.getrecursionlimit() * 2
    start = b"\x32\x00\x64\x10SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    data = slice_file.read_bytes()
    at = data.index(b"\xe0\x7f\x10\x00")
    (tmp_path / "deep.dcm").write_bytes(data[:at] + start * depth)
    assert refusal(tmp_path / "deep.dcm") in {"unparsable", "truncated"}


def test_a_deflated_bomb_is_refused(make_header: Header, save_slice: Save, limit: Callable[..., None]) -> None:
    header = make_header()
    header.add_new(0x00091010, "OB", bytes(1 << 20))
    path = save_slice(header, syntax=DeflatedExplicitVRLittleEndian)
    assert path.stat().st_size < 10_000
    limit("read", inflated_bytes=1 << 19)
    assert refusal(path) == "inflates-too-large"


def test_a_dicomdir_is_skipped_not_quarantined(tmp_path: Path, slice_file: Path) -> None:
    ds = dcmread(slice_file)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.1.3.10"
    ds.save_as(tmp_path / "DICOMDIR")
    (found,) = list(discover([tmp_path / "DICOMDIR"], tmp_path))
    assert found.reason is not None
    assert (found.reason.code, found.skipped, found.instance) == ("dicomdir", True, None)


def outcomes(found: list[Found]) -> list[tuple[str, str | None, bool]]:
    return [(f.display, f.reason.code if f.reason else None, f.skipped) for f in found]


@pytest.fixture
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


def test_folders_are_walked_in_sorted_order(
    make_header: Header, save_slice: Save, tmp_path: Path, scratch: Path
) -> None:
    for folder in ("b", "a/z", "a/c"):
        (tmp_path / folder).mkdir(parents=True)
    for number, name in enumerate(["b/1", "a/z/1", "a/c/2", "a/c/1", "top"]):
        save_slice(make_header(number + 1), name=name)
    (tmp_path / "a" / "readme.txt").write_text("not an image")
    (tmp_path / "a" / ".DS_Store").write_bytes(b"\0" * 200)
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(tmp_path / "a" / "pipe")
    assert outcomes(list(discover([tmp_path], scratch))) == [
        ("top", None, False),
        ("a/.DS_Store", "system-file", True),
        ("a/loop", "linked-folder", True),
        ("a/pipe", "special-file", True),
        ("a/readme.txt", "not-dicom", False),
        ("a/c/1", None, False),
        ("a/c/2", None, False),
        ("a/z/1", None, False),
        ("b/1", None, False),
    ]
    assert list(scratch.iterdir()) == []


def test_a_zip_member_without_a_name_ends_nothing(slice_file: Path, tmp_path: Path, scratch: Path) -> None:
    archive = tmp_path / "odd.zip"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("NAMELESS", slice_file.read_bytes())
        made.writestr("named", slice_file.read_bytes())
    archive.write_bytes(archive.read_bytes().replace(b"NAMELESS", b"\0AMELESS"))  # zipfile reads to the zero
    found = list(discover([archive], scratch))
    assert [f.instance is not None for f in found] == [True, True]


def test_a_zip_file_is_read_without_trusting_its_names(slice_file: Path, tmp_path: Path, scratch: Path) -> None:
    archive, inner = tmp_path / "study.zip", io.BytesIO()
    with zipfile.ZipFile(inner, "w") as made:
        made.writestr("x", "y")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        made.write(slice_file, "../../escape.dcm")
        made.writestr(zipfile.ZipInfo("/absolute.dcm"), slice_file.read_bytes())
        made.writestr("folder/notes.txt", "hello")
        made.writestr("inner.zip", inner.getvalue())
        made.writestr("__MACOSX/._a.dcm", "junk")
    before = set(tmp_path.iterdir())
    found = list(discover([archive], scratch))
    assert outcomes(found) == [
        ("study.zip/../../escape.dcm", None, False),
        ("study.zip//absolute.dcm", None, False),
        ("study.zip/__MACOSX/._a.dcm", "system-file", True),
        ("study.zip/folder/notes.txt", "not-dicom", False),
        ("study.zip/inner.zip", "archive-nested", True),
    ]
    assert set(tmp_path.iterdir()) == before
    assert {f.path.parent for f in found if f.instance} == {scratch}
    assert len(list(scratch.iterdir())) == 2
    assert found[0].instance is not None
    assert found[0].instance.digest == digest_dataset(slice_file)


def test_a_zip_bomb_is_stopped_by_what_it_writes(tmp_path: Path, scratch: Path, limit: Callable[..., None]) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("zeros", bytes(8 << 20))
    assert outcomes(list(discover([tmp_path / "bomb.zip"], scratch))) == [
        ("bomb.zip/zeros", "archive-too-large", False)
    ]
    limit("archive", compression_ratio=1e6, total_bytes=1 << 20)
    assert outcomes(list(discover([tmp_path / "bomb.zip"], scratch))) == [
        ("bomb.zip/zeros", "archive-too-large", False)
    ]
    assert list(scratch.iterdir()) == []


def test_a_zip_of_too_many_files_is_refused(tmp_path: Path, scratch: Path, limit: Callable[..., None]) -> None:
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as made:
        for k in range(4):
            made.writestr(f"{k}", "x")
    limit("archive", entries=3)
    assert outcomes(list(discover([tmp_path / "many.zip"], scratch))) == [("many.zip", "archive-too-large", False)]


def test_damaged_and_locked_zip_files_are_told(slice_file: Path, tmp_path: Path, scratch: Path) -> None:
    whole = tmp_path / "a.zip"
    with zipfile.ZipFile(whole, "w") as made:
        made.write(slice_file, "1.dcm")
    data = bytearray(whole.read_bytes())
    whole.write_bytes(data[:-30])
    assert outcomes(list(discover([whole], scratch))) == [("a.zip", "archive-damaged", False)]
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    whole.write_bytes(data)
    assert outcomes(list(discover([whole], scratch))) == [("a.zip/1.dcm", "archive-encrypted", False)]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_one_damaged_member_does_not_lose_the_others(
    slice_file: Path, tmp_path: Path, scratch: Path, method: int
) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", method) as made:
        for name in ("1.dcm", "2.dcm", "3.dcm"):
            made.write(slice_file, name)
        middle = made.getinfo("2.dcm")
    data = bytearray(archive.read_bytes())
    start = middle.header_offset + 30 + len("2.dcm")
    data[start + 20 : start + middle.compress_size - 20] = b"\xa5" * (middle.compress_size - 40)
    archive.write_bytes(data)
    assert outcomes(list(discover([archive], scratch))) == [
        ("a.zip/1.dcm", None, False),
        ("a.zip/2.dcm", "archive-damaged", False),
        ("a.zip/3.dcm", None, False),
    ]
    assert len(list(scratch.iterdir())) == 2


def test_a_preamble_that_looks_like_a_zip_file_is_still_dicom(slice_file: Path, scratch: Path) -> None:
    slice_file.write_bytes(b"PK\x03\x04" + slice_file.read_bytes()[4:])
    (found,) = discover([slice_file], scratch)
    assert found.instance is not None


def test_the_limits_are_those_of_the_data_file() -> None:
    assert read.LIMITS is limits.LIMITS
    assert limits.LIMITS.stack.gap_ratio == 1.5
    assert limits.LIMITS.stack.duplicate_ratio == 0.1


@pytest.mark.data
def test_every_real_odd_file_is_read_or_refused_with_a_code(real_data: Path, scratch: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = {f.display: f.reason.code if f.reason else "" for f in discover([real_data / "dicom_zoo"], scratch)}
    refused = {name.split("/")[-1]: code for name, code in found.items() if code}
    assert refused == {
        "files.csv": "not-dicom",
        "chrSQEncoding.dcm": "no-uids",
        "GH220.dcm": "no-uids",
        "GH223.dcm": "no-uids",
        "GH487.dcm": "no-uids",
        "UN_sequence.dcm": "no-uids",
        "empty_charset_LEI.dcm": "no-uids",
        "meta_missing_tsyntax.dcm": "no-uids",
        "nested_priv_SQ.dcm": "no-uids",
        "no_meta.dcm": "not-dicom",
        "no_meta_group_length.dcm": "no-uids",
        "priv_SQ.dcm": "no-uids",
        "rtplan_truncated.dcm": "truncated",
    }


@pytest.mark.data
def test_every_real_study_is_found_whole(real_data: Path, scratch: Path) -> None:
    found = list(discover([real_data / "ct", real_data / "seg_sr"], scratch))
    assert {Path(f.display).suffix for f in found if f.instance is None} <= {".txt", ".csv", ".nrrd", ".gz"}
    assert sum(f.instance is not None for f in found) >= 390
