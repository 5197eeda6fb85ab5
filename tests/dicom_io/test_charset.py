from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from dicom_io.charset import charset_of, declared, raw_names, text_of
from dicom_io.read import read_instance

pytestmark = pytest.mark.unit
Header = Callable[..., Dataset]
Save = Callable[..., Path]


def put(path: Path, old: bytes, new: bytes) -> Path:
    """Replace bytes of equal length in a file: what a sender really wrote, whatever it declared."""
    data = path.read_bytes()
    assert len(old) == len(new)
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("terms", "raw", "text"),
    [
        # PS3.5 annexes H, I, J, K
        (["", "ISO 2022 IR 87"], b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "Yamada^Tarou=山田^太郎"),
        (
            ["ISO 2022 IR 6", "ISO 2022 IR 149"],
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7",
            "Hong^Gildong=洪^吉洞",
        ),
        (["", "ISO 2022 IR 58"], b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab", "Zhang^XiaoDong=张^小东"),
        (["ISO 2022 IR 6", "ISO 2022 IR 58"], b"\x1b$)A\xd5\xc5\xce\xb0", "张伟"),
        (["ISO 2022 IR 58"], b"\x1b$)A\xd5\xc5\xce\xb0", "张伟"),
        (["ISO_IR 192"], "Wang^XiaoDong=王^小東".encode(), "Wang^XiaoDong=王^小東"),
        (["GB18030"], "王^小东".encode("gb18030"), "王^小东"),
        (["GB18030"], "昞㐀".encode("gb18030"), "昞㐀"),  # 95 5C holds a backslash byte, 㐀 takes four bytes
        (["GBK"], "張偉".encode("gbk"), "張偉"),
        (["ISO_IR 100"], b"M\xfcller^Sch\xe4fer", "Müller^Schäfer"),
        (["ISO_IR 144"], "Люк".encode("iso8859_5"), "Люк"),
        ([""], b"Plain^Name", "Plain^Name"),
        (["ISO_IR 6"], b"Plain^Name  ", "Plain^Name"),
    ],
)
def test_names_decode_without_escape_sequences(terms: list[str], raw: bytes, text: str) -> None:
    assert charset_of(*terms).decode(raw, "PN") == (text, True)


@pytest.mark.parametrize(
    ("terms", "raw"),
    [(["ISO_IR 192"], b"M\xfcller"), (["GB18030"], b"\xd5\xc5\xce"), (["", "ISO 2022 IR 58"], b"\x1b$)A\xd5\xc5\xce")],
)
def test_bytes_that_do_not_fit_are_reported(terms: list[str], raw: bytes) -> None:
    text, valid = charset_of(*terms).decode(raw)
    assert not valid
    assert "�" in text


@pytest.mark.parametrize(
    ("spelled", "meant"),
    [
        ("ISO_IR 100", "ISO_IR 100"),
        ("ISO-IR 100", "ISO_IR 100"),
        ("ISO IR 192", "ISO_IR 192"),
        ("iso_ir_192", "ISO_IR 192"),
        ("gb18030 ", "GB18030"),
        ("UTF-8", "ISO_IR 192"),
        ("ISO 2022 GBK", "GBK"),
    ],
)
def test_common_misspellings_are_understood(spelled: str, meant: str) -> None:
    charset = charset_of(spelled)
    assert (charset.terms, charset.known, charset.single) == ((meant,), True, meant)


@pytest.mark.parametrize("terms", [[], [""], ["ISO_IR 6"], ["ISO 2022 IR 6"]])
def test_the_default_repertoire_declares_nothing(terms: list[str]) -> None:
    assert charset_of(*terms).terms == ()


def test_an_unknown_term_maps_every_byte_to_itself() -> None:
    charset = charset_of("ISO_IR 999")
    assert not charset.known
    assert charset.decode(bytes(range(33, 256))) == (bytes(range(33, 256)).decode("latin_1"), True)


def test_code_extensions_are_no_single_character_set() -> None:
    assert charset_of("", "ISO 2022 IR 58").single == ""
    assert charset_of("ISO 2022 IR 58").single == ""


def test_text_is_the_same_before_and_after_pydicom_decoded_it(make_header: Header, save_slice: Save) -> None:
    name, study = "昞^某=王", "胸部昞扫"
    path = save_slice(make_header(SpecificCharacterSet="GB18030", PatientName=name, StudyDescription=study))
    header = read_instance(path).header
    before = [text_of(header, Tag(k), declared(header)) for k in ("PatientName", "StudyDescription")]
    assert [t.text for t in before if t] == [name, study]
    assert [t.raw for t in before if t] == [name.encode("gb18030"), study.encode("gb18030")]
    _ = header.PatientName, header.StudyDescription
    after = [text_of(header, Tag(k), declared(header)) for k in ("PatientName", "StudyDescription")]
    assert [t.text for t in after if t] == [name, study]
    assert after[0] == before[0]


@pytest.mark.parametrize(
    "term", ["utf_7", "unicode_escape", "raw_unicode_escape", "gb2312", "utf_16", "undefined", "idna"]
)
@pytest.mark.parametrize("undefined_length", [False, True])
def test_the_name_of_a_codec_is_no_defined_term(
    make_header: Header, save_slice: Save, term: str, *, undefined_length: bool
) -> None:
    raw = b"+2AA-\\ud800 \xd5\xc5.x--"
    header = make_header(StudyDescription="S" * len(raw))
    inherits, own = Dataset(), Dataset()
    own.SpecificCharacterSet = "ISO_IR 100" + " " * len(term)
    for item in (inherits, own):
        item.CodeMeaning = "M" * len(raw)
    header.ProcedureCodeSequence, header.RequestAttributesSequence = [inherits], [own]
    header["ProcedureCodeSequence"].is_undefined_length = undefined_length
    header["RequestAttributesSequence"].is_undefined_length = undefined_length
    header.SpecificCharacterSet = "ISO_IR 100" + " " * len(term)
    path = save_slice(header)
    content = path.read_bytes().replace(("ISO_IR 100" + " " * len(term)).encode(), term.ljust(10 + len(term)).encode())
    path.write_bytes(content.replace(b"S" * len(raw), raw).replace(b"M" * len(raw), raw))
    header = read_instance(path).header
    assert not declared(header).known
    found = [
        header.StudyDescription, header.ProcedureCodeSequence[0].CodeMeaning, header.RequestAttributesSequence[0].CodeMeaning,
    ]  # fmt: skip
    assert ["\\".join(v) if not isinstance(v, str) else v for v in found] == [raw.decode("latin_1")] * 3


def test_absent_text_is_none(make_header: Header) -> None:
    assert text_of(make_header(PatientName=None), Tag("PatientName"), charset_of()) is None


def test_names_come_straight_from_the_file(make_header: Header, save_slice: Save) -> None:
    path = put(save_slice(make_header(PatientName="Zhang^San")), b"Zhang^San", "张^伟啊".encode("gb18030") + b"  ")
    found = raw_names(path, "PatientName", "PatientID", "OtherPatientNames")
    assert found["PatientName"].raw == "张^伟啊".encode("gb18030")
    assert found["PatientID"].text == "P1"
    assert "OtherPatientNames" not in found


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("chrX1", "Wang^XiaoDong=王^小東"),
        ("chrX2", "Wang^XiaoDong=王^小东"),
        ("chrH31", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("chrH32", "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
        ("chrI2", "Hong^Gildong=洪^吉洞=홍^길동"),
        ("chrKoreanMulti", "김희중"),
        ("chrGerm", "Äneas^Rüdiger"),
        ("chrFren", "Buc^Jérôme"),
        ("chrRuss", "Люкceмбypг"),
        ("chrArab", "قباني^لنزار"),
    ],
)
def test_real_names(real_data: Path, name: str, text: str) -> None:
    found = raw_names(real_data / "dicom_zoo" / "charset" / f"{name}.dcm", "PatientName")["PatientName"]
    assert (found.text, found.valid) == (text, True)
