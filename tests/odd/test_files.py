"""Odd files, folders and archives given to `process`: each is told with a reason, the rest is worked on."""

import io
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydicom import dcmread

import phantom
from dicom_io import discover as finder
from dicom_io import guarded, pixels
from dicom_io.discover import discover, shown
from dicom_io.errors import PixelError, UnreadableError
from dicom_io.read import read_instance
from node.process import OutputFolderError, ProcessOptions, process
from pipeline.errors import PipelineError
from pipeline.reasons import REASONS

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "node" / "schemas" / "process-1.schema.json").read_text(encoding="utf-8"))
DEFLATED = "1.2.840.10008.1.2.1.99"
OPEN_SEQUENCE = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
CLOSE = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
EMPTY_ITEM = b"\xfe\xff\x00\xe0\0\0\0\0"

Run = Callable[..., dict[str, Any]]


def _none(name: str) -> Any:
    raise PipelineError(REASONS("pipeline-not-installed", pipeline=name, package="x"))


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run `process` with pipelines that are not installed: what is read is the matter here."""

    def call(*paths: Path) -> dict[str, Any]:
        options = ProcessOptions(load=_none, version="0", now=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
        document = process(paths, tmp_path_factory.mktemp("out"), options)
        jsonschema.validate(document, SCHEMA)
        json.dumps(document, ensure_ascii=False).encode()
        return document

    return call


def with_piece(kit: Any, tag: int, piece: bytes, **changes: Any) -> bytes:
    """Return a data set with raw bytes in front of the element `tag`."""
    elements = kit.slice_elements(**changes)
    return b"".join((piece if t == tag else b"") + kit.element(t, vr, v) for t, (vr, v) in elements.items())


def deflate(data: bytes) -> bytes:
    engine = zlib.compressobj(9, wbits=-15)
    return engine.compress(data) + engine.flush()


def nested_by_length(depth: int) -> bytes:
    inner = b""
    for _ in range(depth):
        item = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(inner)) + inner
        inner = b"\x08\x00\x40\x11SQ\x00\x00" + struct.pack("<L", len(item)) + item
    return inner


def _meta_of(kit: Any, filler: bytes) -> bytes:
    return bytes(128) + b"DICM" + filler + kit.encode(kit.slice_elements())


Make = Callable[[Any], bytes]
# name -> content, and the code of the reason; None: read, and a study
FILES: dict[str, tuple[Make, str | None]] = {
    "sound": (lambda k: k.part10(k.encode(k.slice_elements())), None),
    "bare data set": (lambda k: k.encode(k.slice_elements()), None),
    "no preamble": (lambda k: k.part10(k.encode(k.slice_elements()))[132:], None),
    "syntax says implicit": (lambda k: k.part10(k.encode(k.slice_elements()), k.IMPLICIT), None),
    "syntax unknown": (lambda k: k.part10(k.encode(k.slice_elements()), "1.2.3.4"), None),
    "meta names another object": (lambda k: k.part10(k.encode(k.slice_elements()), uid="2.25.9"), None),
    "elements out of order": (lambda k: k.part10(k.encode(dict(sorted(k.slice_elements().items(), key=lambda e: (e[0] == k.PIXELS, -e[0]))))), None),
    "pixels first": (lambda k: k.part10(k.encode(dict(reversed(k.slice_elements().items())))), "no-uids"),
    "deflated": (lambda k: k.part10(deflate(k.encode(k.slice_elements())), DEFLATED), None),
    "three thousand sequences by length": (lambda k: k.part10(with_piece(k, 0x00100010, nested_by_length(3000))), None),
    "uid as a path": (lambda k: k.part10(k.encode(k.slice_elements("../../x"))), None),
    "empty": (lambda _k: b"", "not-dicom"),
    "text": (lambda _k: b"hello\n" * 100, "not-dicom"),
    "no uids": (lambda k: k.part10(k.encode(k.slice_elements(t00080018=None))), "no-uids"),
    "empty uid": (lambda k: k.part10(k.encode(k.slice_elements(""))), "no-uids"),
    "two uids in one": (lambda k: k.part10(k.encode(k.slice_elements("2.25.1\\2.25.2"))), "no-uids"),
    "cut in the header": (lambda k: k.part10(k.encode(k.slice_elements()))[:-600], "truncated"),
    "meta of 4 GB": (lambda k: _meta_of(k, b"\x02\x00\x01\x00OB\x00\x00\xfe\xff\xff\xff"), "truncated"),
    "meta of a million elements": (lambda k: _meta_of(k, b"\x02\x00\x13\x00SH\x00\x00" * 1_000_000), "unparsable"),
    "meta of 2 MB": (lambda k: _meta_of(k, k.element(0x00020102, "OB", bytes(2 << 20))), "unparsable"),
    "meta inside": (lambda k: k.part10(with_piece(k, 0x00100010, b"\x02\x00\x10\x00UI\x00\x00")), "unparsable"),
    "five thousand sequences": (lambda k: k.part10(with_piece(k, 0x00100010, OPEN_SEQUENCE * 5000 + CLOSE * 5000)), "unparsable"),
    "five thousand open ones": (lambda k: k.part10(with_piece(k, 0x00100010, OPEN_SEQUENCE * 5000)), "unparsable"),
    "a million items": (lambda k: k.part10(with_piece(k, 0x00100010, OPEN_SEQUENCE[:12] + EMPTY_ITEM * 1_000_000 + CLOSE[8:])), "unparsable"),
    "deflated bomb": (lambda k: k.part10(deflate(k.encode(k.slice_elements(t7FE00010=("OW", bytes(257 << 20))))), DEFLATED), "inflates-too-large"),
    "not deflated": (lambda k: k.part10(k.encode(k.slice_elements()), DEFLATED), "unparsable"),
    "DICOMDIR": (lambda k: k.part10(k.element(0x00041130, "CS", b"DISK") + k.element(0x00041220, "SQ", b""), sop_class="1.2.840.10008.1.3.10"), "dicomdir"),
}  # fmt: skip


@pytest.fixture(scope="module")
def contents(kit: Any) -> dict[str, bytes]:
    return {name: make(kit) for name, (make, _) in FILES.items()}


@pytest.mark.parametrize("name", list(FILES))
def test_each_file_has_its_reason_and_the_next_one_is_read(
    run: Run, contents: dict[str, bytes], tmp_path: Path, complete_reason: Callable[..., bool], kit: Any, name: str
) -> None:
    (tmp_path / "a").write_bytes(contents[name])
    good = kit.slice_elements("2.25.55", t0020000D=("UI", b"2.25.56"), t0020000E=("UI", b"2.25.57"))
    (tmp_path / "b").write_bytes(kit.part10(kit.encode(good)))
    begin = time.perf_counter()
    document = run(tmp_path)
    assert time.perf_counter() - begin < 20.0
    told = [(e["path"], e["reason"]["code"]) for e in document["quarantined"] + document["skipped"]]
    code = FILES[name][1]
    assert told == ([] if code is None else [("a", code)])
    assert all(complete_reason(e["reason"]) for e in document["quarantined"])
    assert [s["study_instance_uid"] for s in document["studies"]] == (["2.25.56"] + ["2.25.900"] * (code is None))
    assert all(job["outcome"] for study in document["studies"] for job in study["jobs"])


def test_no_hostile_file_takes_much_memory_or_time(contents: dict[str, bytes], tmp_path: Path) -> None:
    for number, (name, content) in enumerate(contents.items()):
        (tmp_path / f"{number:02d} {name}").write_bytes(content)
    announced = contents["sound"][: -(512 + 12)] + b"\xe0\x7f\x10\x00OW\0\0\xfe\xff\xff\xff"
    (tmp_path / "4 GB of pixels").write_bytes(announced + bytes(512))
    program = (
        "import sys, tempfile, time, warnings\n"
        "from pathlib import Path\n"
        "from dicom_io.errors import PixelError\n"
        "from dicom_io.pixels import pixel_format, stored_values\n"
        "from dicom_io.discover import discover\n"
        "warnings.simplefilter('ignore')\n"
        "def peak():\n"
        "    lines = Path('/proc/self/status').read_text().splitlines()\n"
        "    return int(next(line for line in lines if line.startswith('VmHWM')).split()[1]) / 1024\n"
        "begin = peak()\n"
        "scratch = Path(tempfile.mkdtemp())\n"
        "at, slowest, count = time.perf_counter(), 0.0, 0\n"
        "for found in discover([Path(sys.argv[1])], scratch):\n"
        "    if found.instance is not None:\n"
        "        try:\n"
        "            stored_values(found.instance, pixel_format(found.instance))\n"
        "        except PixelError:\n"
        "            pass\n"
        "    now = time.perf_counter()\n"
        "    slowest, at, count = max(slowest, now - at), now, count + 1\n"
        "print(count, slowest, peak() - begin)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    count, slowest, megabytes = (float(word) for word in ended.stdout.split())
    assert count == len(contents) + 1
    assert slowest < 20.0
    assert megabytes < 700.0, "a deflated data set may take 256 MiB, twice while it is put together"


def test_what_is_no_file_is_told_and_not_opened(run: Run, tmp_path: Path, contents: dict[str, bytes]) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "image").write_bytes(contents["sound"])
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    document = run(tmp_path)
    assert {e["path"]: e["reason"]["code"] for e in document["skipped"]} == {
        "pipe": "special-file", "zero": "special-file", "again": "linked-folder",
    }  # fmt: skip
    assert {e["path"]: e["reason"]["code"] for e in document["quarantined"]} == {
        "gone": "unreadable-file", "loop": "unreadable-file",
    }  # fmt: skip
    assert document["studies"][0]["instances"] == 1


@pytest.mark.parametrize("name", ["pipe", "zero", "socket"])
def test_what_is_no_file_does_not_hang_when_it_is_named(run: Run, tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening, tempfile.TemporaryDirectory() as short:
        listening.bind(f"{short}/s")
        document = run(Path(short) / "s" if name == "socket" else tmp_path / name)
    assert [e["reason"]["code"] for e in document["skipped"]] == ["special-file"]


def test_a_folder_that_cannot_be_read_is_told(contents: dict[str, bytes], tmp_path: Path) -> None:
    """The superuser reads everything, so the test gives that up for a moment."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        (folder / "closed").mkdir()
        (folder / "closed" / "image").write_bytes(contents["sound"])
        (folder / "open").write_bytes(contents["sound"])
        (folder / "closed").chmod(0)
        me = os.geteuid()
        if me == 0:
            os.seteuid(65534)
        try:
            found = list(discover([folder], tmp_path))
        finally:
            os.seteuid(me)
            (folder / "closed").chmod(0o755)
    assert [(f.display, f.reason.code if f.reason else None, f.skipped) for f in found] == [
        ("open", None, False),
        ("closed", "unreadable-folder", False),
    ]


def test_names_of_any_bytes_are_shown_and_do_no_harm(run: Run, contents: dict[str, bytes], tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    names = ["影像.txt".encode("gbk"), "影像".encode(), b"two\nlines\x1b[31m", b"image-\xff"]
    for name in names:
        with Path(os.fsdecode(folder + b"/" + name)).open("wb") as file:
            file.write(contents["sound"] if name == names[-1] else b"text")
    document = run(tmp_path)
    shown_ = {e["path"] for e in document["quarantined"]}
    assert shown_ == {r"Ӱ\xcf\xf1.txt", "影像", r"two\nlines\x1b[31m"}
    assert document["studies"][0]["instances"] == 1
    assert shown("plain/name.dcm") == "plain/name.dcm"


def test_folders_deeper_than_the_stack_are_walked(run: Run, contents: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as made:
        here = os.open(made, os.O_RDONLY)
        for _ in range(1500):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        with os.fdopen(os.open("image", os.O_WRONLY | os.O_CREAT, dir_fd=here), "wb") as file:
            file.write(contents["sound"])
        os.close(here)
        try:
            assert run(Path(made))["studies"][0]["instances"] == 1
        finally:
            subprocess.run(["rm", "-rf", f"{made}/d"], check=True)


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def tighten(**values: Any) -> None:
        monkeypatch.setattr(finder, "LIMITS", replace(finder.LIMITS, archive=replace(finder.LIMITS.archive, **values)))

    return tighten


def told(document: dict[str, Any]) -> dict[str, str]:
    return {e["path"]: e["reason"]["code"] for e in document["quarantined"] + document["skipped"]}


def test_an_archive_of_hostile_entries_leaves_its_sound_ones(
    run: Run, contents: dict[str, bytes], tmp_path: Path, kit: Any
) -> None:
    images = [kit.part10(kit.encode(kit.slice_elements(f"2.25.{n}"))) for n in range(9)]
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as made:
        made.writestr("1", images[0])
    odd = [("../../up.dcm", images[1], 0), ("/etc/abs.dcm", images[2], 0), ("link", b"/etc/passwd", stat.S_IFLNK | 0o777),
           ("device", b"", stat.S_IFCHR | 0o666), ("C:\\x.dcm", images[3], 0), ("twice", images[4], 0), ("twice", images[5], 0),
           ("inner.zip", inner.getvalue(), 0), ("bomb", bytes(64 << 20), 0), ("new\nline\x1b[0m", b"x", 0),
           ("deep", contents["five thousand sequences"], 0)]  # fmt: skip
    archive = tmp_path / "in" / "a.zip"
    archive.parent.mkdir()
    with warnings.catch_warnings(), zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        warnings.simplefilter("ignore")  # of the name that stands there twice
        for name, content, mode in odd:
            entry = zipfile.ZipInfo(name)
            entry.external_attr, entry.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            made.writestr(entry, content)
    document = run(archive.parent)
    assert list(tmp_path.rglob("*")) == [archive.parent, archive], "nothing is written beside"
    assert not (tmp_path.parent / "up.dcm").exists()
    assert told(document) == {
        "a.zip/link": "not-dicom", "a.zip/device": "not-dicom", "a.zip/inner.zip": "archive-nested",
        "a.zip/bomb": "archive-too-large", r"a.zip/new\nline\x1b[0m": "not-dicom", "a.zip/deep": "unparsable",
    }  # fmt: skip
    assert document["studies"][0]["instances"] == 5


def test_entries_that_share_their_bytes_are_held_to_one_ratio(
    run: Run, tmp_path: Path, limit: Callable[..., None], kit: Any
) -> None:
    """Sixty entries of the list point at one entry's bytes."""
    content = kit.part10(kit.encode(kit.slice_elements(t7FE00010=("OW", bytes(3 << 20)))))
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("0", content)
    data = archive.read_bytes()
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    entry = data[start:end]
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 60, 60, len(entry) * 60, start, 0)
    archive.write_bytes(data[:start] + entry * 60 + tail)
    limit(compression_ratio=1100.0)
    document = run(archive)
    codes = [e["reason"]["code"] for e in document["quarantined"] + document["skipped"]]
    assert set(codes) <= {"archive-too-large", "archive-damaged", "duplicate-instance"}
    assert len(codes) + sum(s["instances"] for s in document["studies"]) == 60
    assert codes.count("duplicate-instance") <= 3, "each of them is 3 MB; all together may have 1100 times the archive"


def test_a_list_of_entries_is_refused_before_it_is_read(run: Run, tmp_path: Path, limit: Callable[..., None]) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        for n in range(100):
            made.writestr(f"{n:050d}", b"")
    limit(directory_bytes=5000)
    assert told(run(tmp_path / "a.zip")) == {"a.zip": "archive-too-large"}


def test_an_archive_on_a_full_disk_is_told_with_the_next_step(
    run: Run, tmp_path: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr("1", contents["sound"])

    def full(*_: Any) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(finder, "_extract", full)
    with pytest.raises(OutputFolderError, match=r"No space left on device\. Archives are unpacked there"):
        run(tmp_path / "a.zip")


# name -> changes of the elements, transfer syntax, code
JPEG_LS_60000 = b"\xff\xd8\xff\xf7\x00\x0b\x10\xea\x60\xea\x60\x01\x01\x11\x00" + bytes(40) + b"\xff\xd9"
JPEG_2000_60000 = (
    b"\xff\x4f\xff\x51\x00\x29\x00\x00" + struct.pack(">8L", 60000, 60000, 0, 0, 60000, 60000, 0, 0) + b"\x00\x01"
    + b"\x0f\x01\x01" + bytes(40) + b"\xff\xd9"
)  # fmt: skip
US_65535 = ("US", struct.pack("<H", 65535))


def encapsulated(frame: bytes) -> bytes:
    frame += b"\0" * (len(frame) % 2)
    return EMPTY_ITEM + b"\xfe\xff\x00\xe0" + struct.pack("<L", len(frame)) + frame + b"\xfe\xff\xdd\xe0\0\0\0\0"


PIXELS: list[tuple[str, dict[str, Any], str, bytes | None, str]] = [
    ("no rows", {"t00280010": ("US", b"\0\0")}, "", None, "pixels-odd-format"),
    ("65535 rows, little data", {"t00280010": US_65535}, "", None, "pixels-truncated"),
    ("65535 x 65535", {"t00280010": US_65535, "t00280011": US_65535}, "", None, "pixels-odd-format"),
    ("cells of 7 bits", {"t00280100": ("US", b"\x07\0")}, "", None, "pixels-odd-format"),
    ("colour", {"t00280002": ("US", b"\x03\0")}, "", None, "pixels-not-grey"),
    ("no pixels", {"t7FE00010": None}, "", None, "pixels-missing"),
    ("empty pixels", {"t7FE00010": ("OW", b"")}, "", None, "pixels-missing"),
    ("too few", {"t7FE00010": ("OW", bytes(500))}, "", None, "pixels-truncated"),
    ("a JPEG-LS stream of 60000 x 60000", {}, "1.2.840.10008.1.2.4.80", JPEG_LS_60000, "pixels-undecodable"),
    ("a JPEG 2000 stream of 60000 x 60000", {}, "1.2.840.10008.1.2.4.90", JPEG_2000_60000, "pixels-undecodable"),
    ("a JPEG 2000 stream without a size", {}, "1.2.840.10008.1.2.4.90", b"\xff\x4f" + bytes(40) + b"\xff\xd9", "pixels-undecodable"),
    ("a JPEG 2000 stream cut short", {}, "1.2.840.10008.1.2.4.90", JPEG_2000_60000[:-2], "pixels-truncated"),
    ("RLE that is none", {}, "1.2.840.10008.1.2.5", b"\xff" * 100, "pixels-undecodable"),
    ("a syntax of nobody", {}, "1.2.3.4", b"\xff" * 100, "pixels-undecodable"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "syntax", "frame", "code"), [p[1:] for p in PIXELS], ids=[p[0] for p in PIXELS])
def test_odd_pixels_are_refused_without_taking_the_memory_they_claim(
    kit: Any, tmp_path: Path, changes: dict[str, Any], syntax: str, frame: bytes | None, code: str
) -> None:
    elements = kit.slice_elements(**changes)
    data = kit.encode(elements)
    if frame is not None:
        elements.pop(kit.PIXELS)
        content = encapsulated(frame)
        data = kit.encode(elements) + kit.element(kit.PIXELS, "OB", content, length=0xFFFFFFFF)
    path = tmp_path / "image"
    path.write_bytes(kit.part10(data, syntax or kit.EXPLICIT))
    instance = read_instance(path)
    with pytest.raises(PixelError) as caught:
        pixels.stored_values(instance, pixels.pixel_format(instance))
    assert caught.value.reason.code == code


def _cut(data: bytes) -> bytes:
    return data[:-1000]


def _without_pixels(data: bytes) -> bytes:
    return data[: data.index(b"\xe0\x7f\x10\x00OW")]


def _rows(count: int) -> Callable[[bytes], bytes]:
    return lambda data: data.replace(
        b"\x28\x00\x10\x00US\x02\x00\x40\x00", b"\x28\x00\x10\x00US\x02\x00" + struct.pack("<H", count)
    )


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (_cut, "pixels-truncated"),
        (_without_pixels, "pixels-missing"),
        (_rows(0), None),
        (_rows(65535), None),
    ],
    ids=["cut", "no pixels", "no rows", "65535 rows"],
)
def test_a_study_with_one_odd_image_fails_visibly_and_the_next_study_has_its_result(
    kit: Any, tmp_path: Path, two_studies: list[list[bytes]], harm: Callable[[bytes], bytes], code: str | None
) -> None:
    (tmp_path / "in").mkdir()
    for number, study in enumerate(two_studies):
        for k, data in enumerate(study):
            content = harm(data) if (number, k) == (0, 5) else data
            assert (content == data) == ((number, k) != (0, 5))
            (tmp_path / "in" / f"{number}-{k:02d}").write_bytes(content)
    options = ProcessOptions(load=kit.probe, version="0", now=datetime(2026, 1, 2, tzinfo=UTC), pipelines=("chest_ct",))
    document = process([tmp_path / "in"], tmp_path / "out", options)
    jsonschema.validate(document, SCHEMA)
    assert document["quarantined"] == []
    jobs = {s["study_instance_uid"]: s["jobs"][0] for s in document["studies"]}
    odd, sound = (jobs[str(dcmread(io.BytesIO(study[0])).StudyInstanceUID)] for study in two_studies)
    assert odd["outcome"] in {"failed", "not_analysed"}
    assert code in {None, odd["reason"]["code"]}
    assert [a["kind"] for a in odd["artifacts"]] in ([], ["card"])
    assert sound["outcome"] == "result", sound["reason"]


@pytest.fixture(scope="module")
def two_studies(tmp_path_factory: pytest.TempPathFactory) -> list[list[bytes]]:
    made = []
    for seed in (11, 12):
        folder = tmp_path_factory.mktemp(f"study{seed}")
        phantom.write(phantom.build(seed, slices=12, matrix=64, lesions="none"), folder)
        made.append([p.read_bytes() for p in sorted((folder / "dicom").iterdir())])
    return made


def test_a_decoder_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded, "PATIENCE_S", 0.2)
    child = guarded._child()
    os.kill(child.pid, signal.SIGSTOP)
    with pytest.raises(guarded.DecoderDied):
        guarded.decode(tmp_path / "image", "1.2.840.10008.1.2.4.70")
    assert child.poll() is not None
    assert guarded._child().pid != child.pid, "the next image has a new one"


def test_many_frames_announced_are_no_work(kit: Any, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(kit.part10(kit.encode(kit.slice_elements(t00280008=("IS", b"2000000000")))))
    instance = read_instance(path)
    begin = time.perf_counter()
    pixels.stored_values(instance, pixels.pixel_format(instance))
    assert time.perf_counter() - begin < 2.0


def test_a_file_that_is_no_dicom_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.write(b"EFI PART" * 20)
        file.truncate(1 << 40)  # sparse
    begin = time.perf_counter()
    with pytest.raises(UnreadableError, match="not-dicom"):
        read_instance(path)
    assert time.perf_counter() - begin < 2.0


@pytest.fixture(autouse=True)
def _nothing_half_written(tmp_path: Path) -> Iterator[None]:
    yield
    assert not list(tmp_path.rglob(".unpacked-*"))


def test_progress_without_a_terminal_is_a_line_every_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    from types import SimpleNamespace

    from node.cli.process import _Lines

    now = [0.0]
    lines = _Lines(clock=lambda: now[0])
    for count in range(1, 100):
        now[0] += 0.1
        lines.reading(count)
    told = lines.job(SimpleNamespace(instances=range(60)), "chest_ct")
    for share in range(100):
        now[0] += 0.1
        told("lungs", share / 100)
    out, err = capsys.readouterr()
    assert out == ""
    written = err.splitlines()
    assert written[0] == "reading: 30 files"
    assert "job 1: chest_ct: 60 instances" in written
    assert any(line.startswith("job 1: chest_ct: 60 instances: lungs ") for line in written)
    assert 6 <= len(written) <= 8
    quiet = _Lines(quiet=True, clock=lambda: now[0])
    now[0] += 60.0
    quiet.reading(1)
    quiet.job(SimpleNamespace(instances=range(60)), "chest_ct")
    assert capsys.readouterr().err == ""
