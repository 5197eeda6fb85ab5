"""Names of every character set on their way from the sender's bytes into what leaves the node; nothing is ever guessed."""

import io
import json
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydicom import dcmread

import phantom
from config.load import ConfigError, load
from config.settings import Dicom, Node, Peer, Settings
from dicom_io.charset import charset_of, raw_names
from dicom_io.normalise import normalise, text_of_sender
from dicom_io.read import read_instance
from node import show
from node.indexer import Indexer
from node.installation import DataFolder
from node.process import ProcessOptions, process
from node.spool import JournalWriter, Spool
from node.store import open_database

pytestmark = [pytest.mark.unit, pytest.mark.filterwarnings("ignore::UserWarning")]

# the table of names that are valid GB18030 as Latin-1 bytes, most of them: declared Latin-1 stays Latin-1
EUROPEAN = (
    "Schäfer", "Müller", "Jürgen", "Jérôme", "François", "Núñez", "Åström", "Sørensen", "Gonçalves", "Béatrice",
    "Grün", "Weiß", "Désirée", "Ibáñez",
)  # fmt: skip

# charset as declared, bytes of the name, its Unicode; PS3.5 annexes H to K and the repertoires of PS3.3 C.12.1.1.2
NAMES: list[tuple[str, str | None, bytes, str]] = [
    ("default", None, b"Doe^Jane", "Doe^Jane"),
    ("IR 6", "ISO_IR 6", b"Doe^Jane", "Doe^Jane"),
    ("Latin 1", "ISO_IR 100", b"Buc^J\xe9r\xf4me", "Buc^Jérôme"),
    ("Latin 2", "ISO_IR 101", "Wałęsa^Lech".encode("iso8859_2"), "Wałęsa^Lech"),
    ("Latin 3", "ISO_IR 109", "Ġorġ^Ħal".encode("iso8859_3"), "Ġorġ^Ħal"),
    ("Latin 4", "ISO_IR 110", "Ģirts^Ķ".encode("iso8859_4"), "Ģirts^Ķ"),
    ("Cyrillic", "ISO_IR 144", "Люкceмбypг".encode("iso8859_5"), "Люкceмбypг"),
    ("Arabic", "ISO_IR 127", "قباني^لنزار".encode("iso8859_6"), "قباني^لنزار"),
    ("Greek", "ISO_IR 126", "Διονυσιος".encode("iso8859_7"), "Διονυσιος"),
    ("Hebrew", "ISO_IR 138", "שרון^דבורה".encode("iso8859_8"), "שרון^דבורה"),
    ("Latin 5", "ISO_IR 148", "Çavuşoğlu".encode("iso8859_9"), "Çavuşoğlu"),
    ("Thai", "ISO_IR 166", "นามสกุล^ชื่อ".encode("iso8859_11"), "นามสกุล^ชื่อ"),
    ("Japanese katakana", "ISO_IR 13", b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3", "ﾔﾏﾀﾞ^ﾀﾛｳ"),
    ("UTF-8, three groups", "ISO_IR 192", "Wang^XiaoDong=王^小東=ワン".encode(), "Wang^XiaoDong=王^小東=ワン"),
    ("GB18030", "GB18030", "Wang^XiaoDong=王^小东=".encode("gb18030"), "Wang^XiaoDong=王^小东"),
    ("GB18030, four bytes", "GB18030", "㐂^𠮷".encode("gb18030"), "㐂^𠮷"),
    ("GB18030, a backslash inside", "GB18030", "昞^鋅".encode("gb18030"), "昞^鋅"),
    ("GBK", "GBK", "張^偉".encode("gbk"), "張^偉"),
    ("IR 58", "\\ISO 2022 IR 58", b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=", "Zhang^XiaoDong=张^小东"),
    ("IR 58, first", "ISO 2022 IR 6\\ISO 2022 IR 58", b"\x1b$)A\xd5\xc5\xce\xb0", "张伟"),
    ("IR 87", "\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ("IR 13 and 87", "ISO 2022 IR 13\\ISO 2022 IR 87", b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J", "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎"),
    ("IR 159", "\\ISO 2022 IR 87\\ISO 2022 IR 159", b"A^B=\x1b$(D\x30\x21\x1b(B", "A^B=丂"),
    ("IR 149", "\\ISO 2022 IR 149", b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf", "Hong^Gildong=洪^吉洞=홍^길동"),
    ("Latin 1 and Cyrillic", "ISO 2022 IR 100\\ISO 2022 IR 144", b"Andr\xe9^\x1b-L\xbb\xee\xda", "André^Люк"),
    *((name, "ISO_IR 100", name.encode("latin_1"), name) for name in EUROPEAN),
]  # fmt: skip

# what cannot be read as declared: the bytes stay, the sender is flagged
ODD: list[tuple[str, str | None, bytes, str]] = [
    ("GB18030 undeclared", None, "张^伟".encode("gb18030"), "charset-undeclared"),
    ("Latin 1 undeclared", None, "Schäfer^Anna".encode("latin_1"), "charset-undeclared"),
    ("undeclared in IR 6", "ISO_IR 6", "Schäfer^Anna".encode("latin_1"), "charset-undeclared"),
    ("Latin 1 as UTF-8", "ISO_IR 192", "Müller^Anna".encode("latin_1"), "charset-mismatch"),
    ("Windows 1252 as Latin 1", "ISO_IR 100", "D’Arc^Jeanne".encode("cp1252"), "charset-mismatch"),
    ("GBK as Latin 1, where a byte is no letter", "ISO_IR 100", "丂^伟".encode("gbk"), "charset-mismatch"),
    ("half a character", "GB18030", b"\xd5\xc5\xce", "charset-mismatch"),
    ("an escape sequence not declared", "\\ISO 2022 IR 87", b"A^B=\x1b$)A\xd5\xc5", "charset-mismatch"),
    ("an escape sequence of nobody", "\\ISO 2022 IR 58", b"A^B=\x1b$)Z\xd5\xc5", "charset-mismatch"),
    ("a term of nobody", "KLINGON", b"\xc4\xd6^A", "charset-unknown"),
    ("a term of nobody among others", "\\ISO 2022 IR 999", b"\xc4\xd6^A", "charset-unknown"),
]


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    phantom.write(phantom.build(8, slices=12, matrix=64, lesions="none"), folder)
    return folder / "dicom"


def renamed(slices: Path, to: Path, charset: str | None, raw: bytes, count: int | None = None) -> Path:
    """Copy slices with these very bytes as the name."""
    to.mkdir(exist_ok=True)
    for path in sorted(slices.iterdir())[:count]:
        ds = dcmread(path)
        ds.PatientName = "Q" * (len(raw) + len(raw) % 2)
        ds.pop("SpecificCharacterSet", None)
        if charset is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ds.SpecificCharacterSet = charset.split("\\")
        buffer = io.BytesIO()
        ds.save_as(buffer)
        data = buffer.getvalue()
        (to / path.name).write_bytes(data.replace(b"Q" * (len(raw) + len(raw) % 2), raw + b" " * (len(raw) % 2)))
    return to


@pytest.mark.parametrize(("charset", "raw", "text"), [n[1:] for n in NAMES], ids=[n[0] for n in NAMES])
def test_a_rightly_labelled_name_is_read_and_nothing_is_flagged(
    slices: Path, tmp_path: Path, charset: str | None, raw: bytes, text: str
) -> None:
    (path,) = renamed(slices, tmp_path / "in", charset, raw, 1).iterdir()
    found = raw_names(path, "PatientName")["PatientName"]
    assert (found.text, found.valid, found.raw) == (text, True, raw)
    notes, telling = text_of_sender(read_instance(path).header)
    assert notes == ()
    assert telling == (not text.isascii())


@pytest.mark.parametrize(("charset", "raw", "code"), [n[1:] for n in ODD], ids=[n[0] for n in ODD])
def test_a_name_that_is_not_what_it_says_keeps_its_bytes_and_is_flagged(
    slices: Path, tmp_path: Path, charset: str | None, raw: bytes, code: str
) -> None:
    (path,) = renamed(slices, tmp_path / "in", charset, raw, 1).iterdir()
    result = normalise(read_instance(path).header)
    assert [n.code for n in result.notes if n.code.startswith("charset")] == [code]
    assert result.ascii_only
    assert "SpecificCharacterSet" not in result.header
    buffer = io.BytesIO()
    result.header.save_as(buffer, implicit_vr=False, little_endian=True)
    assert raw in buffer.getvalue()


def test_european_names_are_never_taken_for_chinese() -> None:
    trap = [name for name in EUROPEAN if _decodes(name.encode("latin_1"))]
    assert len(EUROPEAN) == 14
    assert len(trap) >= 10, "the table is worth something only if guessing would go wrong"
    for name in EUROPEAN:
        assert charset_of("ISO_IR 100").decode(name.encode("latin_1"), "PN") == (name, True)


def _decodes(raw: bytes) -> bool:
    try:
        raw.decode("gb18030")
    except UnicodeDecodeError:
        return False
    return True


def through(
    kit: Any, slices: Path, tmp_path: Path, charset: str | None, raw: bytes
) -> tuple[dict[str, Any], list[Path]]:
    options = ProcessOptions(load=kit.probe, version="0", now=datetime(2026, 1, 2, tzinfo=UTC), pipelines=("chest_ct",))
    source = renamed(slices, tmp_path / "in", charset, raw)
    ((job,),) = [s["jobs"] for s in process([source], tmp_path / "out", options)["studies"]]
    return job, sorted((tmp_path / "out").rglob("*.dcm"))


THROUGH = [n for n in NAMES if n[0] in {
    "Latin 1", "Cyrillic", "Arabic", "Greek", "Thai", "Japanese katakana", "UTF-8, three groups", "GB18030",
    "GB18030, a backslash inside", "GBK", "IR 58", "IR 87", "IR 13 and 87", "IR 149", "Latin 1 and Cyrillic", "Schäfer",
}]  # fmt: skip
BYTES_KEPT = {"ISO_IR 192", "GB18030", "GBK"}


@pytest.mark.parametrize(("charset", "raw", "text"), [n[1:] for n in THROUGH], ids=[n[0] for n in THROUGH])
def test_names_leave_in_every_object_as_they_came(
    kit: Any, slices: Path, tmp_path: Path, charset: str, raw: bytes, text: str
) -> None:
    job, written = through(kit, slices, tmp_path, charset, raw)
    assert job["outcome"] == "result", job["reason"]
    assert job["notes"] == []
    assert {p.name for p in written} == {"seg.dcm", "sr.dcm", "sc.dcm"}
    for path in written:
        found = raw_names(path, "PatientName")["PatientName"]
        assert (found.text, found.valid) == (text, True), path.name
        assert b"\x1b" not in (found.raw or b"")
        if charset in BYTES_KEPT:
            assert found.raw == raw.rstrip(b"=") or found.raw == raw


@pytest.mark.parametrize(("charset", "raw", "code"), [n[1:] for n in ODD[:5]], ids=[n[0] for n in ODD[:5]])
def test_names_of_unknown_meaning_leave_byte_for_byte_with_a_note(
    kit: Any, slices: Path, tmp_path: Path, charset: str | None, raw: bytes, code: str
) -> None:
    job, written = through(kit, slices, tmp_path, charset, raw)
    assert job["outcome"] == "result", job["reason"]
    assert [n["code"] for n in job["notes"]] == [code]
    assert json.loads((written[0].parent / "result.json").read_text(encoding="utf-8"))["notes"] == job["notes"]
    assert len(written) == 3
    for path in written:
        assert raw_names(path, "PatientName")["PatientName"].raw == raw
        assert "SpecificCharacterSet" not in dcmread(path, stop_before_pixels=True)


@pytest.mark.parametrize(
    ("charset", "raw", "setting", "text"),
    [
        (None, "张^伟".encode("gb18030"), "GB18030", "张^伟"),
        ("ISO_IR 100", "张^伟".encode("gbk"), "GBK", "张^伟"),
        ("ISO_IR 192", "Müller^Anna".encode("latin_1"), "ISO_IR 100", "Müller^Anna"),
        (None, b"A^B=\x1b$)A\xd5\xc5", "\\ISO 2022 IR 58", "A^B=张"),
    ],
)
def test_what_a_sender_really_writes_is_a_setting_of_that_sender(
    slices: Path, tmp_path: Path, charset: str | None, raw: bytes, setting: str, text: str
) -> None:
    (path,) = renamed(slices, tmp_path / "in", charset, raw, 1).iterdir()
    before = path.read_bytes()
    result = normalise(read_instance(path, setting).header)
    assert [n.code for n in result.notes if n.code.startswith("charset")] == []
    assert str(result.header.PatientName) == text
    assert path.read_bytes() == before


@pytest.mark.parametrize(("value", "fine"), [("GB18030", True), ("\\ISO 2022 IR 58", True), ("gb-18030", False)])
def test_a_setting_that_is_no_character_set_stops_the_start(tmp_path: Path, value: str, fine: bool) -> None:
    file = tmp_path / "node.toml"
    file.write_text(f"[[dicom.peer]]\nae_title = 'CT1'\nhost = '127.0.0.1'\ncharset = '{value}'\n", encoding="utf-8")
    if fine:
        assert load(file, {}).dicom.peer[0].charset == value
        return
    with pytest.raises(ConfigError, match=r"dicom\.peer\.0\.charset"):
        load(file, {})


@pytest.fixture
def indexed(tmp_path: Path, slices: Path) -> Iterator[Callable[..., list[tuple[str, str]]]]:
    """Index an object of a sender as the node does; return code and subject of the alarms that stand in `status`."""
    folder = DataFolder(tmp_path / "data")
    folder.prepare()
    Spool(folder.path)
    db = open_database(folder.database)
    made = SimpleNamespace(number=0)

    def send(
        calling: str, charset: str | None, raw: bytes, really: str = "", cut: int | None = None
    ) -> list[tuple[str, str]]:
        made.number += 1
        (path,) = renamed(slices, tmp_path / f"in{made.number}", charset, raw, 1).iterdir()
        ds = dcmread(path)
        ds.StudyInstanceUID = f"2.25.{made.number}"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.{made.number}.1"
        entry = folder.spool / f"00/{made.number}.dcm"
        ds.save_as(entry)
        instance = read_instance(entry)
        entry.write_bytes(entry.read_bytes()[:cut])
        writer = JournalWriter(folder.spool / "journal")
        writer.append({
            "kind": "stored", "association": f"a{made.number}", "calling": calling, "called": "N", "peer": "127.0.0.1",
            "utc": datetime(2026, 1, 2, tzinfo=UTC).isoformat(), "study": instance.study_instance_uid,
            "series": instance.series_instance_uid, "sop": instance.sop_instance_uid, "sop_class": instance.sop_class_uid,
            "syntax": instance.transfer_syntax_uid, "digest": instance.digest, "bytes": 1,
            "entry": f"00/{made.number}.dcm",
        })  # fmt: skip
        writer.close()
        peers = (Peer(calling, "127.0.0.1", really),) if really else ()
        indexer = Indexer(db, folder, Settings(node=Node(data_dir=folder.path), dicom=Dicom(peer=peers)))
        indexer.advance()
        return [(a["code"], a["subject"]) for a in show.status(db, folder, "test")["alarms"]]

    yield send
    db.close()


def test_status_names_the_sender_until_it_is_mended(indexed: Callable[..., list[tuple[str, str]]]) -> None:
    gb = "张^伟".encode("gb18030")
    assert indexed("CT1", None, b"Doe^Jane") == []
    assert indexed("CT1", None, gb) == [("charset-undeclared", "CT1")]
    assert indexed("CT2", "ISO_IR 100", "Schäfer".encode("latin_1")) == [("charset-undeclared", "CT1")]
    assert indexed("CT1", None, b"Doe^Jane") == [("charset-undeclared", "CT1")], "an ASCII name says nothing"
    assert indexed("CT1", None, gb, really="GB18030") == []


def test_an_acknowledged_image_that_cannot_be_read_any_more_rings(
    indexed: Callable[..., list[tuple[str, str]]],
) -> None:
    assert indexed("CT1", None, b"Doe^Jane", cut=600) == [("truncated", "2.25.1")]
