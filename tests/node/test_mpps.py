"""Procedure steps on to the RIS: every answer, in order, through silence, refusals and deaths of the node."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE

from config.settings import RIS, Dicom, Node, Settings
from dicom_io import notices
from dicom_io.contexts import AVAILABILITY, PERFORMED_STEP
from dicom_io.errors import NetworkError
from dicom_io.reasons import REASONS
from dicom_io.scu_notices import TABLE, Reply, judge
from dicom_io.status import Outcome
from node.retry import policy
from node.ris import Relayer, decide, decide_error
from node.store import alarms, relays
from node.store.relays import Relay
from tests.more import more
from tests.node.notice_peers import Bench, Ris, Scanner, begun, ended

LAST = int(policy()["relay"]["refusals"])
WAITING = Relay(1, "mpps-set", "2.25.1", "e", 0.0, 3, 0, 0.0)

ANSWERS: list[tuple[str, int | None, int | None, Outcome]] = [
    ("mpps-create", 0x0000, None, Outcome.DELIVERED),
    ("mpps-create", 0x0001, None, Outcome.DELIVERED_WITH_WARNING),
    ("mpps-create", 0x0111, None, Outcome.DELIVERED),
    ("mpps-set", 0x0111, None, Outcome.DEAD),
    ("mpps-set", 0x0110, 0xA506, Outcome.DELIVERED_WITH_WARNING),
    ("mpps-set", 0xA506, None, Outcome.DELIVERED_WITH_WARNING),
    ("mpps-create", 0x0110, 0xA506, Outcome.RETRY),
    ("mpps-set", 0x0110, None, Outcome.RETRY),
    ("mpps-set", 0x0112, None, Outcome.DEAD),
    ("mpps-create", 0x0106, None, Outcome.DEAD),
    ("mpps-create", 0x0107, None, Outcome.DELIVERED_WITH_WARNING),
    ("mpps-create", 0x0120, None, Outcome.DEAD),
    ("mpps-create", 0x0122, None, Outcome.DEAD),
    ("mpps-create", 0x0124, None, Outcome.DEAD),
    ("mpps-create", 0x0213, None, Outcome.RETRY),
    ("mpps-create", 0xA700, None, Outcome.RETRY),
    ("mpps-create", 0xB000, None, Outcome.DELIVERED_WITH_WARNING),
    ("mpps-create", 0xC123, None, Outcome.RETRY),
    ("mpps-create", None, None, Outcome.RETRY),
]


@pytest.mark.unit
@pytest.mark.parametrize(("kind", "status", "error_id", "outcome"), ANSWERS)
def test_answer_row(kind: Any, status: int | None, error_id: int | None, outcome: Outcome) -> None:
    assert judge(kind, Reply(status, error_id)) is outcome


@pytest.mark.unit
def test_rows_ascend_without_overlap() -> None:
    assert all(row.first <= row.last for row in TABLE)
    assert all(a.last < b.first for a, b in itertools.pairwise(TABLE))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("status", "refused", "state", "counts"),
    [
        (None, 0, "waiting", False),
        (None, LAST + 5, "waiting", False),
        (0x0213, 0, "waiting", True),
        (0x0213, LAST - 2, "waiting", True),
        (0x0213, LAST - 1, "dead", True),
        (0x0112, 0, "dead", True),
        (0x0000, LAST, "delivered", False),
    ],
)
def test_silence_is_waited_out_and_refusals_are_counted(
    status: int | None, refused: int, state: str, counts: bool
) -> None:
    verdict = decide("mpps-set", Reply(status), replace(WAITING, refused=refused), "ris", 0.5)
    assert (verdict.state, verdict.refused) == (state, counts)
    assert (verdict.wait_s is not None) == (state == "waiting")
    assert (verdict.reason is None) == (state == "delivered")


@pytest.mark.unit
def test_a_ris_that_is_down_or_not_yet_set_up_is_waited_for() -> None:
    down = NetworkError(REASONS("peer-timeout", host="h", port=1), retryable=True)
    assert decide_error(down, replace(WAITING, refused=LAST * 9), "ris", 0.5).state == "waiting"
    refused = NetworkError(REASONS("context-refused", ae_title="R", sop_class="x", syntax="y"))
    assert decide_error(refused, WAITING, "ris", 0.5).refused
    assert decide_error(refused, replace(WAITING, refused=LAST - 1), "ris", 0.5).state == "dead"


class Hospital(Bench):
    """A bench with one RIS."""

    def __init__(self, folder: Path, ris: Ris) -> None:
        self.ris = ris
        super().__init__(
            Settings(node=Node(data_dir=folder), dicom=Dicom(port=0), ris=(RIS("ris", "127.0.0.1", ris.port, "RIS"),))
        )
        self.relayer = Relayer(
            self.db, self.spool, self.settings.ris[0], "PACSAINODE", now=lambda: self.now, chance=lambda: 0.5
        )
        self.now = 4e9  # everything received by the machine's clock is past

    def go(self, steps: int = 99) -> int:
        """Index, then take steps until nothing is due."""
        self.index()
        done = 0
        while done < steps and self.relayer.step():
            done += 1
        return done

    def alarms(self) -> set[str]:
        return {a.code for a in alarms.standing(self.db)}


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[Hospital]:
    ris = Ris()
    made = Hospital(tmp_path / "data", ris)
    yield made
    made.stop()
    made.ris.stop()


@pytest.mark.sockets
def test_steps_arrive_unchanged_and_in_order(hospital: Hospital) -> None:
    odd = begun("2.25.1", "2.25.2")
    odd.add_new(0x00091010, "UN", b"private ")
    odd.SpecificCharacterSet, odd.PatientName = "GB18030", "Wang^XiaoDong=王^小东"
    with Scanner(hospital.port) as scanner:
        status, _ = scanner.association.send_n_create(odd, PERFORMED_STEP, "2.25.70")
        assert status.Status == 0
        assert scanner.create("2.25.71") == 0
        assert scanner.set("2.25.70", ended("2.25.6")) == 0
        assert scanner.set("2.25.71", ended(status="DISCONTINUED")) == 0
    assert hospital.go() == 4
    assert hospital.ris.said == [("create", "2.25.70"), ("create", "2.25.71"), ("set", "2.25.70"), ("set", "2.25.71")]
    assert hospital.ris.heard[0][2] == notices.encode(odd, "1.2.840.10008.1.2")
    assert hospital.ris.heard[2][2] == notices.encode(ended("2.25.6"), "1.2.840.10008.1.2")
    assert relays.counts(hospital.db) == {"waiting": 0, "dead": 0}
    assert hospital.go() == 0


@pytest.mark.sockets
def test_a_step_in_a_syntax_that_the_ris_does_not_take_is_encoded_anew(hospital: Hospital) -> None:
    ae = AE("CT1")
    ae.add_requested_context(PERFORMED_STEP, ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", hospital.port, ae_title="PACSAINODE")
    assert association.send_n_create(begun("2.25.1"), PERFORMED_STEP, "2.25.70")[0].Status == 0
    association.release()
    hospital.ris.stop()
    hospital.ris = Ris(hospital.ris.port, syntaxes=(str(ImplicitVRLittleEndian),))
    assert hospital.go() == 1
    assert hospital.ris.heard[0][2] == notices.encode(begun("2.25.1"), str(ImplicitVRLittleEndian))


@pytest.mark.sockets
def test_nothing_overtakes_a_step_that_the_ris_does_not_take_now(hospital: Hospital) -> None:
    with Scanner(hospital.port) as scanner:
        scanner.create("2.25.70")
        scanner.set("2.25.70", ended("2.25.6"))
        scanner.create("2.25.71")
    hospital.ris.script = [0x0213, "abort", 0]
    assert hospital.go() == 1, "it waits"
    hospital.now += 1000
    assert hospital.go() == 1
    hospital.now += 1000
    assert hospital.go() == 3
    assert [uid for _, uid in hospital.ris.said] == ["2.25.70"] * 4 + ["2.25.71"]
    assert [kind for kind, _ in hospital.ris.said] == ["create", "create", "create", "set", "create"]


@pytest.mark.sockets
def test_a_ris_that_is_down_for_days_gets_everything_when_it_is_back(hospital: Hospital) -> None:
    with Scanner(hospital.port) as scanner:
        scanner.create("2.25.70")
        hospital.ris.stop()
        hospital.index()
        for _ in range(LAST + 3):
            hospital.go()
            hospital.now += 20_000
        scanner.set("2.25.70", ended("2.25.6"))
    hospital.go()
    assert relays.counts(hospital.db) == {"waiting": 2, "dead": 0}
    assert hospital.alarms() == {"ris-behind"}
    hospital.ris = Ris(hospital.ris.port)
    hospital.now += 20_000
    assert hospital.go() == 2
    assert hospital.ris.said == [("create", "2.25.70"), ("set", "2.25.70")]
    assert hospital.alarms() == set()


@pytest.mark.sockets
def test_what_the_ris_refuses_for_good_is_given_up_and_rings(hospital: Hospital) -> None:
    with Scanner(hospital.port) as scanner:
        scanner.create("2.25.70")
        scanner.set("2.25.70", ended("2.25.6"))
        scanner.create("2.25.71")
    hospital.ris.script = [0x0120]
    assert hospital.go() == 3
    assert hospital.ris.said == [("create", "2.25.70"), ("create", "2.25.71")], "no end without its beginning"
    assert relays.counts(hospital.db) == {"waiting": 0, "dead": 2}
    assert hospital.alarms() == {"relay-refused", "relay-without-beginning"}


@pytest.mark.sockets
def test_what_the_ris_has_already_is_delivered(hospital: Hospital) -> None:
    with Scanner(hospital.port) as scanner:
        scanner.create("2.25.70")
        scanner.set("2.25.70", ended("2.25.6"))
    hospital.ris.steps["2.25.70"] = "COMPLETED"
    assert hospital.go() == 2
    assert relays.counts(hospital.db) == {"waiting": 0, "dead": 0}
    assert hospital.alarms() == set()


@pytest.mark.sockets
def test_a_ris_without_the_service_is_given_time_to_be_set_up(hospital: Hospital) -> None:
    with Scanner(hospital.port) as scanner:
        scanner.create("2.25.70")
    hospital.ris.stop()
    hospital.ris = Ris(hospital.ris.port, (AVAILABILITY,))
    for _ in range(LAST):
        assert relays.counts(hospital.db)["dead"] == 0
        hospital.go()
        hospital.now += 1000
    assert relays.counts(hospital.db) == {"waiting": 0, "dead": 1}
    assert hospital.alarms() >= {"relay-not-offered"}


@pytest.mark.sockets
def test_a_notice_whose_file_is_gone_stops_nobody(hospital: Hospital) -> None:
    with Scanner(hospital.port) as scanner:
        scanner.create("2.25.70")
        scanner.create("2.25.71")
    hospital.index()
    next(iter(sorted((hospital.spool / "notices").iterdir()))).unlink()
    assert hospital.go() == 2
    assert relays.counts(hospital.db) == {"waiting": 0, "dead": 1}
    assert len(hospital.ris.said) == 1


@pytest.mark.sockets
@pytest.mark.parametrize(
    "point",
    ["relay.sent", *(more(p) for p in ("receive.after_link", "relay.before_commit"))],
)
def test_killed_and_started_again_the_ris_hears_everything_once_and_in_order(
    point: str, make_rig: Callable[..., Any]
) -> None:
    ris = Ris()
    rig = make_rig()
    text = rig.configuration.read_text(encoding="utf-8")
    text += f'[[ris]]\nname = "ris"\nhost = "127.0.0.1"\nport = {ris.port}\nae_title = "RIS"\n'
    rig.configuration.write_text(text, encoding="utf-8")
    rig.start(PACS_AI_NODE_FAILPOINT=point, PACS_AI_NODE_TESTING="1")
    try:
        with Scanner(rig.port, "SCANNER") as scanner:
            first = scanner.create("2.25.70")
        rig.until(lambda: b"process.died" in rig.log.read_bytes(), 30.0, f"a death at {point}")
        rig.kill()
        assert (first == 0) == (not point.startswith("receive."))
        rig.start()
        with Scanner(rig.port, "SCANNER") as scanner:
            again = scanner.create("2.25.70")
            assert again == 0x0111, "it was on disk, acknowledged or not"
            assert scanner.set("2.25.70", ended("2.25.6")) == 0
            assert scanner.set("2.25.70", ended("2.25.6")) == 0x0110
        rig.until(lambda: ris.steps.get("2.25.70") == "COMPLETED", 30.0, "the end of the step at the RIS")
        rig.until(lambda: rig.status()["relays"] == {"waiting": 0, "dead": 0}, 30.0, "nothing left to pass on")
        said = ris.said
        assert said[-1] == ("set", "2.25.70")
        assert set(said[:-1]) == {("create", "2.25.70")}
        assert len({data for kind, _, data in ris.heard if kind == "create"}) == 1
        assert rig.status()["alarms"] == []
    finally:
        ris.stop()
