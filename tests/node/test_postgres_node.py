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


def _without_seats(rig: Rig) -> set[int]:
    """Return the processes that hold no seat; one whose seat runs out while the server is away ends, and takes it again."""
    return {p["pid"] for p in rig.status()["processes"] if p["role"] not in {"coordinator", "deliverer"}}


def test_a_server_that_goes_and_comes_again_costs_no_study(
    make_rig: Callable[..., Rig], postgres: Server, own_server: Server, ct: list[Path]
) -> None:
    del postgres  # skips where there is none
    rig = make_rig(database=own_server.url(own_server.fresh()))
    rig.start()
    before = _without_seats(rig)
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
    assert _without_seats(rig) == before, "nobody had to be started again"
    assert rig.stop() == 0
    assert "Traceback" not in rig.log.read_text(encoding="utf-8")
