"""Every DIMSE status that this node gives or must understand, and every way to be rejected: who produces it on a socket.

The table below names the test for each; it fails if one is missing, is not run on sockets, or does not speak of the
status any more.
"""

import ast
import resource
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from config.settings import Peer
from dicom_io.notices import NoticeStatus
from dicom_io.status import TABLE, Answer

pytestmark = pytest.mark.sockets

TESTS = Path(__file__).resolve().parents[1]
HERE = "odd/test_statuses.py"

# standards: PS3.4 table B.2-1 and annexes F, J, R; PS3.7 annex C and table 9.3-21; PS3.8 table 9-21
GIVEN_TO_STORE = {
    0x0000: (HERE, "test_each_answer_to_a_store"),
    0x0110: ("net/test_listener.py", "test_a_callable_that_fails_is_answered"),
    0x0124: ("net/test_rights.py", "test_a_message_on_somebody_elses_context_is_refused_too"),
    0xA700: (HERE, "test_a_disk_that_takes_no_more_is_answered_and_the_next_object_is_taken"),
    0xA900: (HERE, "test_each_answer_to_a_store"),
    0xC000: (HERE, "test_each_answer_to_a_store"),
}
_CREATE, _SET = "test_every_answer_to_a_create", "test_every_answer_to_a_set"
_COMMIT = "test_every_answer_to_a_commitment_request"
GIVEN_TO_NOTICES = {
    0x0000: ("net/test_notices.py", _CREATE),
    0x0106: ("net/test_notices.py", _CREATE),
    0x0110: ("net/test_notices.py", _SET),
    0x0111: ("net/test_notices.py", _CREATE),
    0x0112: ("net/test_notices.py", _SET),
    0x0113: ("net/test_notices.py", "test_a_result_comes_from_an_archive_that_is_the_provider_of_the_association"),
    0x0115: ("net/test_notices.py", _COMMIT),
    0x0118: ("net/test_notices.py", "test_a_class_that_was_not_agreed_for_the_context_is_refused"),
    0x0120: ("net/test_notices.py", _CREATE),
    0x0123: ("net/test_notices.py", _COMMIT),
    0x0124: ("net/test_notices.py", _COMMIT),
    0x0210: ("net/test_notices.py", _COMMIT),
    0x0213: ("net/test_notices.py", "test_a_notice_that_cannot_be_kept_is_not_acknowledged"),
}
# one per row of the table of outcomes: a scripted PACS answers with the first and the last status of each
RECEIVED = {
    **{row.first: ("node/test_delivery_rows.py", "test_row") for row in TABLE},
    0x0111: ("node/test_delivery_rows.py", "test_row_0111_is_delivered_only_if_a_query_shows_it"),
    **dict.fromkeys((0xB000, 0xB006, 0xB007, 0x0122, 0x0124), ("net/test_send.py", "test_each_status_becomes_its_outcome")),
}  # fmt: skip
# what an archive or a RIS may answer to a notice of ours
NOTICES_RECEIVED = {
    0x0111: ("node/test_mpps.py", "test_what_the_ris_has_already_is_delivered"),
    0x0120: ("node/test_mpps.py", "test_what_the_ris_refuses_for_good_is_given_up_and_rings"),
    0x0213: ("node/test_mpps.py", "test_nothing_overtakes_a_step_that_the_ris_does_not_take_now"),
}
STANDARD = {0x0000, 0x0111, 0x0122, 0x0124, 0xA700, 0xA900, 0xB000, 0xB006, 0xB007, 0xC000}
"""The statuses of the storage service that a sender must know."""


@pytest.mark.parametrize(
    ("table", "needed"),
    [
        (GIVEN_TO_STORE, set(Answer)),
        (GIVEN_TO_NOTICES, set(NoticeStatus)),
        (RECEIVED, {row.first for row in TABLE} | STANDARD),
        (NOTICES_RECEIVED, {0x0111, 0x0120, 0x0213}),
    ],
    ids=["given to C-STORE", "given to notices", "received for C-STORE", "received for notices"],
)
def test_every_status_has_its_test(table: dict[int, tuple[str, str]], needed: set[int]) -> None:
    assert set(table) == {int(s) for s in needed}
    for status, (file, name) in table.items():
        module = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        functions = {n.name: n for n in module.body if isinstance(n, ast.FunctionDef)}
        assert name in functions, f"0x{status:04X}: {file} has no {name}"
        constants = {n.value for n in ast.walk(module) if isinstance(n, ast.Constant) and isinstance(n.value, int)}
        by_table = name == "test_row"  # its rows are made from the table itself
        assert by_table or status in constants, f"{file} does not speak of 0x{status:04X}"
        marks = ast.dump(functions[name]) + "".join(
            ast.dump(n) for n in module.body if isinstance(n, ast.Assign) and "pytestmark" in ast.dump(n)
        )
        assert "'sockets'" in marks, f"{name} is not run on sockets"


def test_each_answer_to_a_store(station: Any, kit: Any) -> None:
    wire = kit.Wire(station.port)
    sound = kit.encode(kit.slice_elements("2.25.1"))
    assert wire.store(sound, "2.25.1") == 0x0000
    assert wire.store(sound, "2.25.1") == 0x0000, "the same bytes again"
    assert wire.store(sound, "2.25.2") == 0xA900
    assert wire.store(sound[:100], "2.25.1") == 0xC000
    assert wire.echo() == 0x0000
    wire.close()


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Let the kernel refuse this process files beyond a length, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda count: resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_takes_no_more_is_answered_and_the_next_object_is_taken(
    station: Any, kit: Any, small_files: Callable[[int], None]
) -> None:
    wire = kit.Wire(station.port)
    large = kit.encode(kit.slice_elements("2.25.3", t7FE00010=("OW", bytes(900_000))))
    small_files(300_000)
    assert wire.store(large, "2.25.3") == 0xA700
    assert wire.store(kit.encode(kit.slice_elements("2.25.4")), "2.25.4") == 0x0000, "what still fits is taken"
    small_files(1 << 30)
    assert wire.store(large, "2.25.3") == 0x0000
    wire.close()
    assert station.account(large, refused=False)["kind"] == "stored"


# called, calling -> result, source, reason of PS3.8 table 9-21
REJECTED = [
    ("NOBODY", "ODD", (1, 1, 7)),  # called AE title not recognized
    ("PACSAINODE", "STRANGER", (1, 1, 3)),  # calling AE title not recognized: 0x0124 at this level
]


@pytest.fixture(scope="module")
def strict(kit: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    made = kit.Station(tmp_path_factory.mktemp("strict"), peer=(Peer("ODD", "127.0.0.1"),), max_associations=2)
    yield made
    made.receiver.stop(grace_s=0.2)


@pytest.mark.parametrize(("called", "calling", "why"), REJECTED)
def test_an_association_that_is_not_allowed_is_rejected_with_its_reason(
    strict: Any, kit: Any, called: str, calling: str, why: tuple[int, int, int]
) -> None:
    wire = kit.Wire(strict.port, calling=calling, called=called)
    assert not wire.accepted
    assert tuple(wire.reply[1:4]) == why
    wire.socket.close()


def test_one_association_too_many_is_rejected_for_now(strict: Any, kit: Any) -> None:
    deadline = time.monotonic() + 15.0
    while strict.receiver._server._running():  # those that the tests before had rejected
        assert time.monotonic() < deadline
        time.sleep(0.02)
    wires = [kit.Wire(strict.port) for _ in range(3)]
    assert [w.accepted for w in wires] == [True, True, False]
    assert tuple(wires[2].reply[1:4]) == (2, 3, 2), "transient; provider, presentation; local limit exceeded"
    assert wires[0].echo() == 0x0000
    for wire in wires[:2]:
        wire.close()
    wires[2].socket.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the library's reader stumbles
def test_a_class_that_is_no_storage_is_refused_in_negotiation(station: Any, kit: Any) -> None:
    """0x0122 at this level: every storage class is accepted, so nothing else gets as far as a message."""
    find = "1.2.840.10008.5.1.4.1.2.1.1"
    wire = kit.Wire(station.port, ((find, kit.EXPLICIT), (kit.CT, kit.EXPLICIT), (kit.VERIFICATION, kit.IMPLICIT)))
    assert wire.accepted
    assert contexts(wire.reply) == {1: 3, 3: 0, 5: 0}, "abstract syntax not supported; accepted"
    assert wire.store(kit.encode(kit.slice_elements("2.25.5")), "2.25.5") == 0x0000
    assert wire.store(b"", "2.25.5", context=find) is None, "a message on a refused context ends the association"
    wire.socket.close()


def contexts(accept: bytes) -> dict[int, int]:
    """Return the result for each presentation context of an A-ASSOCIATE-AC (PS3.8 table 9-18)."""
    found, at = {}, 68
    while at < len(accept):
        kind, length = struct.unpack_from(">BxH", accept, at)
        if kind == 0x21:
            found[accept[at + 4]] = accept[at + 6]
        at += 4 + length
    return found
