"""What a person sends once more, beside what of it is under way already: nothing goes twice but by that."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.reasons import REASONS
from node.store import alarms, deliveries, operator, proofs
from node.store.rows import Delivery
from tests.node.outbox import Outbox, Script, place

pytestmark = pytest.mark.unit

RINGS = {
    "dead": REASONS("delivery-failed", destination="pacs", code="c"),
    "quarantined": REASONS("identity-differs-at-destination", destination="pacs", what="w"),
    "missing": REASONS("delivered-but-not-found", destination="pacs", missing=1, total=2),
}


@pytest.fixture
def box(back_end: str, tmp_path: Path) -> Iterator[Outbox]:
    del back_end
    made = Outbox(tmp_path / "box")
    yield made
    made.db.close()


def rows(box: Outbox) -> list[tuple[int, str]]:
    return [(row.job_id, row.state) for row in deliveries.deliveries(box.db, box.studies[0])]


def late(box: Outbox, *, carried: bool = True) -> None:
    """An image of which no result was made; when the study closes again, its result stands."""
    box.arrive(box.studies[0], image=3)
    if carried:
        box.finish(box.studies[0], carried_from=1)


def sending(box: Outbox) -> Delivery:
    taken = deliveries.take(box.db, "pacs", box.now)
    assert taken is not None
    return taken


def settle(box: Outbox, taken: Delivery, way: Any) -> bool:
    """Let what is being sent come to what `way` says."""
    if way in ("waiting", "held"):
        return deliveries.settle(box.db, taken, box.now, way, next_attempt=box.now)
    rings = RINGS[way].as_json() if way in RINGS else None
    if way in ("dead", "quarantined"):
        return deliveries.settle(box.db, taken, box.now, way, alarm=rings)
    there = deliveries.settle(box.db, taken, box.now, "delivered", proof=("waiting", box.now))
    if way == "delivered":
        return there
    return there and proofs.conclude(box.db, box.row(), box.now, "missing" if rings else "find", alarm=rings)


@pytest.mark.parametrize(
    "way", ["waiting", "held", "sending", "dead", "quarantined", "delivered", "missing", "confirmed"]
)
def test_it_takes_the_place_of_what_the_revision_before_has_not_brought(box: Outbox, way: str) -> None:
    uid = box.add()
    taken = sending(box)
    late(box)
    assert way == "sending" or settle(box, taken, way)
    assert [a.code for a in alarms.standing(box.db)] == ([RINGS[way].code] if way in RINGS else [])
    assert operator.resend(box.db, uid, box.now) == ("pacs",)
    before = (1, "confirmed" if way == "confirmed" else "superseded")
    assert rows(box) == [before, (2, "waiting")]
    assert alarms.standing(box.db) == (), "whether it arrives is to be seen again"
    assert proofs.due(box.db, "pacs", box.now) is None, "it is asked for when it has been sent"
    assert way != "sending" or not settle(box, taken, "waiting"), "it ends with the object that is on its way"
    script = Script()
    box.run(box.courier(place(), script))
    assert script.sent == box.uids()
    assert rows(box) == [before, (2, "delivered")]


@pytest.mark.parametrize("way", ["waiting", "held", "sending", "dead", "quarantined", "delivered", "confirmed"])
def test_it_is_not_queued_beside_it_if_the_result_stands(box: Outbox, way: str) -> None:
    uid = box.add()
    box.run(box.courier(place(), Script()))
    late(box, carried=False)
    assert operator.resend(box.db, uid, box.now) == ("pacs",)
    if way != "waiting":
        taken = sending(box)
        assert way == "sending" or settle(box, taken, way)
    box.finish(uid, carried_from=1)
    assert rows(box) == [(1, way)]


def test_it_goes_wherever_any_revision_has_sent_it(box: Outbox) -> None:
    uid = box.add()
    for image in 3, 4:
        box.run(box.courier(place(), Script()))
        box.run(box.courier(place("archive"), Script()))
        box.arrive(uid, image=image)
        box.finish(uid, carried_from=1, to=("pacs", "archive"))
    assert rows(box) == [(1, "delivered"), (2, "delivered")], "each place has the result"
    assert operator.resend(box.db, uid, box.now) == ("archive", "pacs")
