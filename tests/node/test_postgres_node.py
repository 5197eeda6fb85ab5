"""A whole node on PostgreSQL, and what becomes of it when the server goes away for a while."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.node.conftest import Rig
from tests.stores import Server

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("postgres")]


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server that nobody else needs."""
    server = Server()
    yield server
    server.close()


def _started_again(rig: Rig) -> list[str]:
    """Return what the supervisor said of processes that ended, but for seats that ran out while the server was away.

    Who holds such a seat ends in peace, and takes it again.
    """
    died = [line for line in rig.log.read_text(encoding="utf-8").splitlines() if "process.died" in line]
    return [
        line
        for line in died
        if "exit_code=0" not in line or not any(f"role={seat}" in line for seat in ("coordinator", "deliverer"))
    ]


def test_a_server_that_goes_and_comes_again_costs_no_study(
    make_rig: Callable[..., Rig], postgres: Server, own_server: Server, ct: list[Path]
) -> None:
    del postgres  # skips where there is none
    rig = make_rig(database=own_server.url(own_server.fresh()))
    rig.start()
    before = {p["pid"]: p["role"] for p in rig.status()["processes"]}
    rig.push(ct[:30])
    own_server.stop("immediate")  # as a crash
    rig.push(ct[30:])  # what is acknowledged is on disk: the database is not asked
    own_server.start()
    rig.idle()
    uid = str(dcmread(ct[0], specific_tags=["StudyInstanceUID"]).StudyInstanceUID)
    shown = rig.show(uid)
    assert (shown["instances"], shown["revision"], shown["state"]) == (len(ct), 1, "closed")
    assert [d["state"] for d in shown["deliveries"]] == ["delivered"]
    assert len(rig.results()) == len({r.sop_instance_uid for r in rig.results()})
    assert _started_again(rig) == [], "nobody had to be started again"
    gone = before.keys() - {p["pid"] for p in rig.status()["processes"]}
    assert {before[pid] for pid in gone} <= {"coordinator", "deliverer"}
    assert len(gone) == rig.log.read_bytes().count(b"process.died")
    assert rig.stop() == 0
    assert "Traceback" not in rig.log.read_text(encoding="utf-8")
