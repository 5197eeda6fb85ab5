"""Reading what strace wrote, and judging it: by hand-written traces."""

import struct
from pathlib import Path

import pytest

from tests.durability.order import Fault, received
from tests.durability.trace import callers, flushed, made, messages, named, parse, phases, written

pytestmark = pytest.mark.unit

SOCKET = "TCP:[127.0.0.1:104->127.0.0.1:5000]"
ENTRY = f"ab/{'0' * 64}-0.dcm"


def x(text: str | bytes) -> str:
    data = text.encode() if isinstance(text, str) else text
    return "".join(f"\\x{byte:02x}" for byte in data)


def store_response(uid: str, status: int) -> bytes:
    """One P-DATA PDU with a C-STORE response."""
    fields = b""
    even = uid.encode() + b"\0" * (len(uid) % 2)
    for element, value in ((0x0100, struct.pack("<H", 0x8001)), (0x0900, struct.pack("<H", status)), (0x1000, even)):
        fields += struct.pack("<HHL", 0, element, len(value)) + value
    pdv = struct.pack(">LBB", len(fields) + 2, 1, 3) + fields
    return struct.pack(">BBL", 4, 0, len(pdv)) + pdv


def request(calling: str) -> bytes:
    body = struct.pack(">HH", 1, 0) + b"NODE".ljust(16) + calling.encode().ljust(16) + bytes(32)
    return struct.pack(">BBL", 1, 0, len(body)) + body


LINES = {
    "asked": f'1 recvfrom(7<{SOCKET}>, "{x(request("CT1"))}", 400, 0, NULL, NULL) = 74',
    "data": f'2 write(8<{x("/d/spool/incoming/1.part")}>, "{x("abc")}", 3) = 3',
    "file flush": f"2 fsync(8<{x('/d/spool/incoming/1.part')}>) = 0",
    "link": f'2 link("{x("/d/spool/incoming/1.part")}", "{x(f"/d/spool/{ENTRY}")}") = 0',
    "folder flush": f"2 fsync(8<{x('/d/spool/ab')}>) = 0",
    "record": f'2 write(9<{x("/d/spool/journal/j.jsonl")}>, "'
    + x(f'{{"entry": "{ENTRY}", "sop": "1.2", "calling": "CT1"}}\n')
    + '", 99) = 99',
    "record flush": f"2 fdatasync(9<{x('/d/spool/journal/j.jsonl')}>) = 0",
    "answer": f'2 sendto(7<{SOCKET}>, "{x(store_response("1.2", 0))}", 200, 0, NULL, 0) = 200',
}


def check(lines: list[str]) -> list[str]:
    acknowledged, faults = received(parse("\n".join(lines)), Path("/d"))
    assert acknowledged == ["1.2"]
    assert all(isinstance(fault, Fault) and fault.uid == "1.2" for fault in faults)
    return [fault.step for fault in faults]


def test_the_right_order_has_no_fault() -> None:
    assert check(list(LINES.values())) == []


@pytest.mark.parametrize(
    ("missing", "fault"),
    [
        ("asked", "socket"),
        ("file flush", "file-flush"),
        ("link", "link"),
        ("folder flush", "folder-flush"),
        ("record", "record"),
        ("record flush", "record-flush"),
    ],
)
def test_each_missing_line_is_its_fault(missing: str, fault: str) -> None:
    assert check([line for name, line in LINES.items() if name != missing]) == [fault]


@pytest.mark.parametrize(
    ("step", "follows", "fault"),
    [
        ("data", "file flush", "write-after-flush"),
        ("file flush", "link", "file-flush"),
        ("link", "folder flush", "folder-flush"),
        ("folder flush", "record", "folder-flush"),
        ("record flush", "answer", "record-flush"),
    ],
)
def test_each_line_that_comes_too_late_is_its_fault(step: str, follows: str, fault: str) -> None:
    names = [name for name in LINES if name != step]
    names.insert(names.index(follows) + 1, step)
    assert check([LINES[name] for name in names]) == [fault]


@pytest.mark.parametrize(("step", "fault"), [("file flush", "file-flush"), ("record flush", "record-flush")])
def test_a_failed_flush_is_none(step: str, fault: str) -> None:
    lines = {**LINES, step: LINES[step].removesuffix("0") + "-1 EIO (Input/output error) (INJECTED)"}
    assert check(list(lines.values())) == [fault]


def test_a_flush_that_has_not_returned_when_the_answer_leaves_came_too_late() -> None:
    whole = LINES["record flush"]
    begun, ended = whole.removesuffix(") = 0") + " <unfinished ...>", "2 <... fdatasync resumed>) = 0"
    before = [line for name, line in LINES.items() if name not in {"record flush", "answer"}]
    answer = LINES["answer"].replace("2 sendto", "3 sendto")
    assert check([*before, begun, ended, answer]) == []
    assert check([*before, begun, answer, ended]) == ["record-flush"]


def test_a_refusal_is_no_acknowledgement() -> None:
    answer = f'2 sendto(7<{SOCKET}>, "{x(store_response("1.2", 0xA700))}", 200, 0, NULL, 0) = 200'
    assert received(parse(answer), Path("/d")) == ([], [])
    assert [(m.command, m.uid, m.status, m.sent) for m in messages(parse(answer))] == [(0x8001, "1.2", 0xA700, True)]


def test_a_message_in_two_pieces_ends_with_the_second() -> None:
    data = store_response("1.2", 0)
    lines = [
        f'4 recvfrom(7<{SOCKET}>, "{x(data[:6])}", 6, 0, NULL, NULL) = 6',
        "5 --- SIGCHLD {si_signo=SIGCHLD} ---",
        f'4 recvfrom(7<{SOCKET}>, "{x(data[6:])}", 900, 0, NULL, NULL) = {len(data) - 6}',
        "4 recvfrom(7<" + SOCKET + ">, 0x7f, 6, 0, NULL, NULL) = ? ERESTARTSYS (To be restarted)",
        "4 +++ killed by SIGKILL +++",
    ]
    (message,) = messages(parse("\n".join(lines)))
    assert (message.sent, message.begin, message.end) == (False, 0, 2)


def test_names_files_and_folders_are_read() -> None:
    calls = parse("\n".join([
        f'1 openat(AT_FDCWD, "{x("/a/b")}", O_WRONLY|O_CREAT|O_CLOEXEC, 0600) = 3<{x("/a/b")}>',
        f'1 pwrite64(3<{x("/a/b")}>, "{x("q")}"..., 1, 0) = 1',
        f'1 rename("{x("/a/b")}", "{x("/a/c")}") = 0',
        f'1 link("{x("/a/c")}", "{x("/a/d")}") = -1 EEXIST (File exists)',
        f'1 mkdir("{x("/a/m")}", 0700) = 0',
        f"1 fsync(4<{x('/a')}>) = 0",
        "not a line of strace",
    ]))  # fmt: skip
    assert list(made(calls)) == ["/a/b", "/a/m"]
    assert [(c.name, c.texts) for c in written(calls, "/a/b")] == [("pwrite64", [b"q"])]
    assert [source for source, _ in named(calls, "/a/c")] == ["/a/b"]
    assert named(calls, "/a/d") == []
    assert flushed(calls, "/a", 4, 6)
    assert not flushed(calls, "/a", 5, 6)


def test_a_trace_is_cut_at_its_marks() -> None:
    mark = f'1 openat(AT_FDCWD, "{x("/phase/two words")}", O_RDONLY|O_CLOEXEC) = -1 ENOENT (No such file or directory)'
    assert {name: text.count("\n") for name, text in phases("a\nb\n" + mark + "\nc").items()} == {"": 1, "two words": 1}


def test_the_title_of_a_caller_is_read() -> None:
    assert callers(parse(LINES["asked"])) == {SOCKET: "CT1"}
