"""Odd data sets over a real socket: the right status, a copy with a reason, and the listener goes on."""

import json
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from node import show
from node.indexer import Indexer
from node.installation import DataFolder, folder_of
from node.store import open_database, studies
from tests.chaos.hostile_scanner import SCANNER_SCRIPTS, HostileScanner

pytestmark = pytest.mark.sockets

DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
PRIVATE = "1.2.840.113619.5.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
OPEN_SEQUENCE = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
CLOSE = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
EMPTY_ITEM = b"\xfe\xff\x00\xe0\0\0\0\0"
WITHOUT_UIDS, UNPARSABLE = "object-without-uids", "object-unparsable"
TRUNCATED, ANOTHER, AMBIGUOUS = "object-truncated", "object-is-another", "object-ambiguous"

Make = Callable[[Any], bytes]
Case = tuple[str, Make, str, str | bytes, int, str | None]


def changed(**changes: Any) -> Make:
    return lambda kit: kit.encode(kit.slice_elements(**changes))


def uid(value: bytes) -> Make:
    return changed(t00080018=("UI", value))


def before(tag: int, piece: bytes) -> Make:
    """Put raw bytes in front of the element `tag`."""

    def make(kit: Any) -> bytes:
        elements = kit.slice_elements()
        return b"".join((piece if t == tag else b"") + kit.element(t, vr, v) for t, (vr, v) in elements.items())

    return make


def ending(piece: bytes, keep: int | None = None) -> Make:
    return lambda kit: kit.encode(kit.slice_elements())[:keep] + piece


def nested(depth: int, *, closed: bool) -> Make:
    return before(0x00100010, OPEN_SEQUENCE * depth + (CLOSE * depth if closed else b""))


def defined_nesting(_kit: Any) -> bytes:
    inner = b""
    for _ in range(3000):
        item = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(inner)) + inner
        inner = b"\x08\x00\x40\x11SQ\x00\x00" + struct.pack("<L", len(item)) + item
    return before(0x00100010, inner)(_kit)


def reordered(kit: Any, *, pixels_first: bool = False) -> bytes:
    elements = sorted(kit.slice_elements().items(), key=lambda e: ((e[0] == kit.PIXELS) != pixels_first, -e[0]))
    return kit.encode(dict(elements))


def pixels(**geometry: int) -> Make:
    tags = {"rows": "t00280010", "columns": "t00280011"}
    return lambda kit: kit.encode(
        kit.slice_elements(**{tags[name]: ("US", struct.pack("<H", value)) for name, value in geometry.items()})
    )


def deflated(make: Make, cut: int | None = None) -> Make:
    def packed(kit: Any) -> bytes:
        engine = zlib.compressobj(9, wbits=-15)
        return (engine.compress(make(kit)) + engine.flush())[:cut]

    return packed


# name, data set, transfer syntax, UID in the command, status, reason of the copy
CASES: list[Case] = [
    ("sound", changed(), "", "2.25.1", 0x0000, None),
    # values and order that the standard forbids and that can be read nevertheless
    ("odd lengths", lambda k: b"".join(k.element(t, vr, v, pad=False) for t, (vr, v) in k.slice_elements().items()), "", "2.25.1", 0x0000, None),
    ("empty values", changed(t00080060=("CS", b""), t00100010=("PN", b""), t00100020=("LO", b""), t00200013=("IS", b"")), "", "2.25.1", 0x0000, None),
    ("elements out of order", reordered, "", "2.25.1", 0x0000, None),
    ("pixels before all else", lambda k: reordered(k, pixels_first=True), "", "2.25.1", 0xC000, WITHOUT_UIDS),
    ("element twice, alike", before(0x00100010, b"\x08\x00\x18\x00UI\x06\x002.25.1"), "", "2.25.1", 0x0000, None),
    ("patient twice", before(0x00100020, b"\x10\x00\x20\x00LO\x02\x00P2"), "", "2.25.1", 0x0000, None),
    ("private element of unknown VR", before(0x00100010, b"\x09\x00\x10\x00ZZ\x02\x00ab"), "", "2.25.1", 0x0000, None),
    ("charset of no standard", before(0x00080016, b"\x08\x00\x05\x00CS\x08\x00KLINGON "), "", "2.25.1", 0x0000, None),
    ("padding behind the end", ending(bytes(4)), "", "2.25.1", 0x0000, None),
    ("zeros behind the end", ending(bytes(400)), "", "2.25.1", 0x0000, None),
    ("wrong amount of pixels", changed(t7FE00010=("OW", bytes(500))), "", "2.25.1", 0x0000, None),
    ("no pixels", changed(t7FE00010=None), "", "2.25.1", 0x0000, None),
    ("no rows", pixels(rows=0), "", "2.25.1", 0x0000, None),
    ("65535 rows of nothing", pixels(rows=65535, columns=65535), "", "2.25.1", 0x0000, None),
    ("two thousand million frames", changed(t00280008=("IS", b"2000000000")), "", "2.25.1", 0x0000, None),
    ("implicit where explicit was agreed", lambda k: b"".join(struct.pack("<HHL", t >> 16, t & 65535, len(v) + len(v) % 2) + v + b"\0" * (len(v) % 2) for t, (_, v) in k.slice_elements().items()), "", "2.25.1", 0x0000, None),
    ("thirty sequences deep", nested(30, closed=True), "", "2.25.1", 0x0000, None),
    ("an open sequence in the pixels", lambda k: k.encode(k.slice_elements(t7FE00010=None)) + b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + EMPTY_ITEM + b"\xfe\xff\x00\xe0\x04\0\0\0abcd", "", "2.25.1", 0x0000, None),
    # UIDs: nothing is named by them, so characters do not matter as long as they are characters
    ("uid as a path", uid(b"../../etc/passwd"), "", "../../etc/passwd", 0x0000, None),
    ("uid with percent", uid(b"1.2.%s%n%00"), "", "1.2.%s%n%00", 0x0000, None),
    ("study uid as a path", changed(t0020000D=("UI", b"../../../etc/passwd"), t00080018=("UI", b"2.25.31")), "", "2.25.31", 0x0000, None),
    ("study uid as a command", changed(t0020000D=("UI", b"$(touch /tmp/x);'\" --"), t00080018=("UI", b"2.25.32")), "", "2.25.32", 0x0000, None),
    ("uid with spaces around", uid(b" 2.25.1 "), "", "2.25.1", 0x0000, None),
    ("uid with a NUL inside", uid(b"1.2\x00.3"), "", "1.2", 0xC000, WITHOUT_UIDS),
    ("uid with a newline", uid(b"1.2\n.3"), "", "1.2", 0xC000, WITHOUT_UIDS),
    ("two uids in one", uid(b"2.25.1\\2.25.2"), "", "2.25.1", 0xC000, WITHOUT_UIDS),
    ("uid of 65 characters", uid(b"1" * 65), "", "1" * 64, 0xC000, WITHOUT_UIDS),
    ("uid of 60000 characters", uid(b"1" * 60000), "", "1" * 64, 0xC000, WITHOUT_UIDS),
    ("empty uid", uid(b""), "", "2.25.1", 0xC000, WITHOUT_UIDS),
    ("uid that is not ASCII", uid("２.25".encode()), "", "2.25.1", 0xC000, UNPARSABLE),
    ("no uids at all", changed(t00080016=None, t00080018=None, t0020000D=None, t0020000E=None), "", "2.25.1", 0xC000, WITHOUT_UIDS),
    ("no study", changed(t0020000D=None), "", "2.25.1", 0xC000, WITHOUT_UIDS),
    ("no series", changed(t0020000E=None), "", "2.25.1", 0xC000, WITHOUT_UIDS),
    ("a DICOMDIR", lambda k: k.element(0x00041130, "CS", b"DISK") + k.element(0x00041220, "SQ", b""), "", "2.25.1", 0xC000, WITHOUT_UIDS),
    # said and sent differ
    ("another instance", uid(b"2.25.2"), "", "2.25.1", 0xA900, ANOTHER),
    ("another class", changed(t00080016=("UI", MR.encode())), "", "2.25.1", 0xA900, ANOTHER),
    ("two different instances", before(0x00100010, b"\x08\x00\x18\x00UI\x06\x002.25.2"), "", "2.25.1", 0xC000, AMBIGUOUS),
    ("a second study at the end", ending(b"\x20\x00\x0d\x00UI\x06\x001.2.3\0"), "", "2.25.1", 0xC000, AMBIGUOUS),
    # not a data set, or not all of it
    ("garbage", lambda _k: b"\xfe\xff\x00\xe0" * 500, "", "2.25.1", 0xC000, None),
    ("text", lambda _k: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 9, "", "2.25.1", 0xC000, None),
    ("two bytes", lambda _k: b"\0\0", "", "2.25.1", 0xC000, WITHOUT_UIDS),
    ("pixels cut short", ending(b"", -100), "", "2.25.1", 0xC000, TRUNCATED),
    ("header cut short", ending(b"", 85), "", "2.25.1", 0xC000, TRUNCATED),
    ("4 GB of pixels announced", lambda k: k.encode(k.slice_elements(t7FE00010=None)) + k.element(k.PIXELS, "OW", b"ab", length=0xFFFFFFFE), "", "2.25.1", 0xC000, TRUNCATED),
    ("2 GB of a name announced", before(0x00100010, b"\x10\x00\x00\x40UT\0\0\xff\xff\xff\x7f"), "", "2.25.1", 0xC000, TRUNCATED),
    ("a sequence without end", before(0x00100010, OPEN_SEQUENCE), "", "2.25.1", 0xC000, TRUNCATED),
    ("five thousand sequences deep", nested(5000, closed=True), "", "2.25.1", 0xC000, UNPARSABLE),
    ("five thousand sequences without end", nested(5000, closed=False), "", "2.25.1", 0xC000, UNPARSABLE),
    ("a million items", before(0x00100010, OPEN_SEQUENCE[:12] + EMPTY_ITEM * 1_000_000 + CLOSE[8:]), "", "2.25.1", 0xC000, UNPARSABLE),
    ("half a million items, length given", before(0x00100010, b"\x08\x00\x40\x11SQ\0\0" + struct.pack("<L", 4_000_000) + EMPTY_ITEM * 500_000), "", "2.25.1", 0xC000, UNPARSABLE),
    ("file meta information in the data set", before(0x00080016, b"\x02\x00\x10\x00UI\x12\x001.2.840.10008.1.2\0"), "", "2.25.1", 0xC000, UNPARSABLE),
    ("a whole file as a data set", lambda k: k.part10(k.encode(k.slice_elements())), "", "2.25.1", 0xC000, None),
    # other transfer syntaxes
    ("private syntax", changed(), PRIVATE, "2.25.1", 0x0000, None),
    ("deflated", deflated(changed()), DEFLATED, "2.25.1", 0x0000, None),
    ("deflated, large", deflated(changed(t7FE00010=("OW", bytes(8 << 20)))), DEFLATED, "2.25.1", 0x0000, None),
    ("deflated and cut", deflated(changed(), -5), DEFLATED, "2.25.1", 0xC000, TRUNCATED),
    ("deflated bomb", deflated(changed(t7FE00010=("OW", bytes(257 << 20)))), DEFLATED, "2.25.1", 0xC000, UNPARSABLE),
    ("not deflated at all", changed(), DEFLATED, "2.25.1", 0xC000, UNPARSABLE),
    ("little endian where big was agreed", changed(), BIG_ENDIAN, "2.25.1", 0xC000, None),
    # the command itself
    ("uid of 65 characters in the command", changed(), "", "1" * 65, -1, None),
]  # fmt: skip


@pytest.fixture(scope="module")
def wires(station: Any, kit: Any) -> Iterator[Callable[[str], Any]]:
    """Associations by transfer syntax, opened again after one was aborted."""
    opened: dict[str, Any] = {}

    def wire(syntax: str, *, again: bool = False) -> Any:
        if syntax not in opened or again:
            opened[syntax] = kit.Wire(station.port, ((kit.CT, syntax), (kit.VERIFICATION, kit.IMPLICIT)))
        return opened[syntax]

    yield wire
    for made in opened.values():
        made.close()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_each_odd_object_gets_its_status_and_its_place(
    station: Any, kit: Any, wires: Callable[..., Any], complete_reason: Callable[..., bool], case: Case
) -> None:
    _, make, syntax, asked, status, code = case
    data = make(kit)
    begin = time.perf_counter()
    answer = wires(syntax or kit.EXPLICIT).store(data, asked)
    assert time.perf_counter() - begin < 15.0
    if status < 0:
        assert answer is None, "aborted: the sender keeps its object"
        wires(kit.EXPLICIT, again=True)
    else:
        assert answer == status, f"0x{answer or 0:04X}"
        kept = station.account(data, refused=status != 0)
        if status == 0:
            assert kept["entry"]
            assert not set(kept["entry"]) - set("0123456789abcdef/-.dcm"), "nothing is named by what came"
        else:
            assert kept["status"] == f"0x{status:04X}"
            assert code in (None, kept["reason"]["code"])
            assert complete_reason(kept["reason"])
    good = wires(kit.EXPLICIT)
    assert good.store(kit.encode(kit.slice_elements("2.25.7")), "2.25.7") == 0x0000
    assert good.echo() == 0x0000


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_was_acknowledged_is_indexed_and_told(station: Any, kit: Any) -> None:
    """Runs behind the table above: everything of it that was answered 0x0000 goes into the index of a node."""
    wire = kit.Wire(station.port)
    assert wire.store(kit.encode(kit.slice_elements("2.25.9")), "2.25.9") == 0x0000
    wire.close()
    folder = DataFolder(station.data_dir)
    folder.prepare()
    db = open_database(folder.database)
    indexer = Indexer(db, folder, station.settings)
    while indexer.advance():
        pass
    document = show.status(db, folder, "test")
    json.dumps(document)
    for uid in {record["study"] for record in station.records()}:
        study = studies.study(db, uid)
        assert study is not None
        assert folder_of(study.uid).strip(".")
        assert "/" not in folder_of(study.uid)
        json.dumps(show.show(db, study, "test"))
    db.close()


@pytest.mark.parametrize("script", ["command-in-object", "aborts-while-objects-wait", "stalls-in-object"])
def test_what_was_cut_off_leaves_nothing_behind(station: Any, script: str) -> None:
    before = station.kinds.count("association-aborted")
    with HostileScanner(station.port) as enemy:
        SCANNER_SCRIPTS[script](enemy)
        time.sleep(0.5)
    deadline = time.monotonic() + 10.0
    while station.kinds.count("association-aborted") == before or station.incoming:
        assert time.monotonic() < deadline, station.incoming
        time.sleep(0.05)


def test_what_was_aborted_leaves_nothing_behind(station: Any, kit: Any) -> None:
    wire = kit.Wire(station.port)
    assert wire.store(kit.encode(kit.slice_elements("2.25.8")), "1" * 65) is None
    wire.socket.close()
    deadline = time.monotonic() + 10.0
    while station.incoming:
        assert time.monotonic() < deadline, station.incoming
        time.sleep(0.05)
