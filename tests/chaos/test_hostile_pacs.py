"""Every hostile PACS at once: each gets its results in the end, once, and none keeps a good one waiting."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_io.read import digest_dataset
from dicom_io.scu import Peer, Timeouts, store
from dicom_io.status import Outcome
from tests.chaos.hostile_pacs import PACS_SCRIPTS, HostilePacs, PacsScript, drip, let_go
from tests.leaving import leaving
from tests.more import more
from tests.node.conftest import Rig

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(400),
    # the PACS behind an enemy is the network library in this process, which leaves sockets that were reset to the collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def enemies(tmp_path: Path) -> Iterator[dict[str, HostilePacs]]:
    made = {s.name: HostilePacs(s, tmp_path / s.name) for s in PACS_SCRIPTS}
    yield made
    let_go(made.values())


def name_them(rig: Rig, enemies: dict[str, HostilePacs]) -> None:
    """Put the enemies into the configuration, beside the good PACS."""
    text = rig.configuration.read_text(encoding="utf-8")
    names = ", ".join(f'"{name}"' for name in ("pacs", *enemies))
    text = text.replace('send_to = ["pacs"]', f"send_to = [{names}]")
    for name, enemy in enemies.items():
        text += f'[[destination]]\nname = "{name}"\nhost = "127.0.0.1"\nport = {enemy.port}\nae_title = "PACS"\ncheck_study = false\n'
    rig.configuration.write_text(text, encoding="utf-8")


def test_each_gets_its_results_once_and_none_slows_another(
    rig: Rig, enemies: dict[str, HostilePacs], copies: Callable[..., list[Path]]
) -> None:
    name_them(rig, enemies)
    rig.start()
    files = copies(1)
    rig.push(files, "WHOLE")
    begun = time.monotonic()
    rig.until(lambda: len(rig.results()) == 3, 60.0, "three objects in the good PACS")
    assert time.monotonic() - begun < 29.0, "an answer is waited for 30 s"

    def states() -> dict[str, str]:
        return {d["destination"]: d["state"] for d in rig.show("1.2.3.1")["deliveries"]}

    def over() -> bool:
        now = states()
        return all(now[s.name] in ({"dead"} if s.ends == "dead" else {"delivered", "confirmed"}) for s in PACS_SCRIPTS)

    try:
        rig.until(over, 240.0, "every delivery's end")
    finally:
        wrong = {s.name: states()[s.name] for s in PACS_SCRIPTS if states()[s.name] not in (s.ends, "confirmed")}
        assert not wrong, wrong
    shown = rig.show("1.2.3.1")
    (job,) = shown["jobs"]
    assert {r.sop_instance_uid for r in rig.results()} == leaving(shown, job)
    written = {a["sop_instance_uid"]: digest_dataset(rig.data.path / a["path"]) for a in job["artifacts"]}
    kinds = {
        a["sop_instance_uid"]: a["kind"].replace("csr", "sr") for a in job["artifacts"]
    }  # one stands in for the other
    for name, enemy in enemies.items():
        assert enemy.met == 1, f"{name} was never met"
        got = {(r.sop_instance_uid, r.digest) for r in enemy.received}
        assert got <= written.items(), f"{name}: other contents"
        if enemy.script.ends == "delivered":
            assert {kinds[uid] for uid, _ in got} == {*kinds.values()}, f"{name}: not everything arrived"


def test_a_second_study_passes_while_destinations_stall(
    rig: Rig, copies: Callable[..., list[Path]], tmp_path: Path
) -> None:
    stalls = [
        s
        for s in PACS_SCRIPTS
        if s.name in {"says-nothing", "never-answers-request", "stalls-in-object", "never-answers"}
    ]
    made = {s.name: HostilePacs(s, tmp_path / s.name, times=99) for s in stalls}
    try:
        name_them(rig, made)
        rig.start()
        for n in (1, 2):
            begun = time.monotonic()
            rig.push(copies(n), "WHOLE")
            rig.until(lambda n=n: len(rig.results()) == 3 * n, 60.0, f"study {n} in the good PACS")
            assert time.monotonic() - begun < 25.0, "an answer is waited for 30 s"
        assert all(enemy.met for enemy in made.values())
        begun = time.monotonic()
        assert rig.stop() == 0, "a stop does not wait for them"
        assert time.monotonic() - begun < 10.0
    finally:
        let_go(made.values())


@pytest.mark.parametrize("at", [more("accept"), "answer"])
def test_a_pacs_that_drips_does_not_hold_the_sender_for_hours(
    copies: Callable[..., list[Path]], tmp_path: Path, at: Any
) -> None:
    with HostilePacs(PacsScript("drips", at, drip(1.0)), tmp_path / "drips") as slow:
        begun = time.monotonic()
        peer = Peer("127.0.0.1", slow.port, "PACS", "NODE")
        (report,) = store(peer, copies(1)[:1], Timeouts(connect_s=5.0, associate_s=3.0, answer_s=6.0))
        assert report.outcome is Outcome.RETRY
        assert time.monotonic() - begun < 30.0
