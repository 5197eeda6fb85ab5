"""Any order of images, association ends, notices, counts, time and restarts: what must never happen to a study.

The index, the gathering of facts and the decision are the node's own; the truth that they are judged by is kept here, apart.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from config.settings import Dicom, Node, Peer, Settings, StudyTimes
from node import facts
from node.assemble import Close, KeepOpen, LooksComplete, decide
from node.facts import Gatherer
from node.installation import DataFolder
from node.store import evidence, open_database, studies
from node.store import node as node_store
from node.store.changes import Arrived, AssociationEnded, AssociationOpened, Change, Noticed, Repeated
from node.store.index import index
from node.store.rows import Planned, Process, Study

pytestmark = pytest.mark.unit

STUDY = "1.2"
PEERS = (Peer("CT1", "h"), Peer("WHOLE", "h", sends="study"), Peer("PACS", "h", query_port=104))
QUIET_S, MAX_OPEN_S, GRACE_S, APART_S = 60.0, 600.0, 15.0, 3.0


class Assembling(RuleBasedStateMachine):
    """One study, some senders, a clock, and the truth about all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp())
        times = StudyTimes(quiet_s=QUIET_S, max_open_s=MAX_OPEN_S, boot_grace_s=GRACE_S)
        self.settings = Settings(node=Node(self.place / "data"), dicom=Dicom(peer=PEERS), study=times)
        self.folder = DataFolder(self.settings.node.data_dir)
        self.folder.prepare()
        self.db = open_database(self.folder.database)
        self.now = 10_000.0
        self.offset = self.count = self.pid = 0
        self.arrived: set[str] = set()
        self.open: dict[str, str] = {}
        self.last: tuple[str, str] | None = None  # association of the last image, and how it ended
        self.last_image = 0.0
        self.steps: dict[str, tuple[str, set[str]]] = {}
        self.notified: set[str] = set()
        self.reads: list[tuple[float, int]] = []
        self.brought: dict[str, set[str]] = {}
        self.broken: set[str] = set()
        self.continuous = False
        self.closings = 0
        self.start()

    def teardown(self) -> None:
        self.db.close()
        shutil.rmtree(self.place)

    def start(self) -> None:
        self.boot, self.pid = self.now, self.pid + 1
        node_store.no_processes(self.db)
        node_store.process_started(self.db, Process.of("n", self.pid, "receiver", self.now))
        self.gatherer = Gatherer(self.db, self.folder, self.settings)
        self.gatherer._measure = lambda _study: self.continuous  # type: ignore[method-assign]  # no files here

    def put(self, *changes: Change) -> None:
        span = (self.offset, self.offset + 1)
        assert index(self.db, "j", span, changes, lambda uid: f"h{uid}") is not None
        self.offset += 1

    def study(self) -> Study | None:
        return studies.study(self.db, STUDY)

    def name(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    # what happens

    @rule(sender=st.sampled_from(["CT1", "WHOLE", "PACS"]))
    def open_association(self, sender: str) -> None:
        name = self.name("a")
        self.open[name] = sender
        self.put(AssociationOpened(name, f"n-{self.pid}", sender, "NODE", "127.0.0.1", self.now))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), count=st.sampled_from([1, 3, 25]), continuous=st.booleans())
    def images_arrive(self, data: st.DataObject, count: int, continuous: bool) -> None:
        before = self.study()
        association = data.draw(st.sampled_from(sorted(self.open)))
        for _ in range(count):
            sop = self.name("1.2.")
            self.put(
                Arrived(association, self.now, STUDY, "s1", sop, "c", "x", f"d{sop}", 1, f"e/{sop}", "image", "CT")
            )
            self.arrived.add(sop)
            self.brought.setdefault(association, set()).add(sop)
        self.last, self.last_image, self.continuous = (association, "open"), self.now, continuous
        after = self.study()
        assert after is not None
        assert after.state == "open", "new images end early work and open what was closed"
        if before is not None and before.state == "closed":
            assert after.revision == before.revision + 1

    @precondition(lambda self: self.open and self.arrived)
    @rule(data=st.data())
    def an_image_comes_again(self, data: st.DataObject) -> None:
        before = self.study()
        association, sop = (
            data.draw(st.sampled_from(sorted(self.open))),
            data.draw(st.sampled_from(sorted(self.arrived))),
        )
        self.put(Repeated(association, self.now, STUDY, sop))
        self.brought.setdefault(association, set()).add(sop)
        self.last = (association, "open")
        after = self.study()
        assert before is not None
        assert after is not None
        assert (after.state, after.revision) == (before.state, before.revision), "nothing new, nothing to do"
        if before.state != "closed":
            self.last_image = self.now

    @precondition(lambda self: self.open)
    @rule(data=st.data(), how=st.sampled_from(["released", "released", "aborted"]))
    def association_ends(self, data: st.DataObject, how: Any) -> None:
        association = data.draw(st.sampled_from(sorted(self.open)))
        del self.open[association]
        self.put(AssociationEnded(association, how, self.now))
        self.broken |= {association} if how == "aborted" else set()
        if self.last is not None and self.last[0] == association:
            self.last = (association, how)

    @precondition(lambda self: len(self.steps) < 2)
    @rule()
    def step_begins(self) -> None:
        uid = self.name("p")
        self.steps[uid] = ("IN PROGRESS", set())
        self.notice("mpps-create", uid, (uid, "IN PROGRESS", (STUDY,)))

    @precondition(lambda self: any(status == "IN PROGRESS" for status, _ in self.steps.values()))
    @rule(
        status=st.sampled_from(["IN PROGRESS", "COMPLETED", "COMPLETED", "DISCONTINUED"]),
        what=st.sampled_from(["all", "more", "some", "none"]),
    )
    def step_is_set(self, status: str, what: str) -> None:
        uid = next(uid for uid, (before, _) in self.steps.items() if before == "IN PROGRESS")
        named = {
            "all": self.arrived,
            "more": self.arrived | {f"{STUDY}.{self.count + 5}"},
            "some": set(sorted(self.arrived)[::2]),
            "none": set(),
        }[what]
        self.steps[uid] = (status, set(named) or self.steps[uid][1])
        self.notice("mpps-set", uid, (uid, status, ()), named)

    @precondition(lambda self: self.arrived and not self.notified)
    @rule(more=st.booleans())
    def availability_is_told(self, more: bool) -> None:
        named = self.arrived | ({f"{STUDY}.{self.count + 5}"} if more else set())
        self.notified |= named
        self.notice("ian", self.name("i"), None, named)

    def notice(self, kind: Any, uid: str, step: Any, named: Any = ()) -> None:
        announced = tuple((STUDY, "s1", sop) for sop in sorted(named))
        entry = self.name("n")
        self.put(Noticed(kind, uid, entry, "x", "CT1", "NODE", "127.0.0.1", self.now, step, announced))

    @precondition(lambda self: self.arrived)
    @rule(more=st.sampled_from([0, 0, 0, 1, -1]))
    def the_source_is_asked(self, more: int) -> None:
        count = len(self.arrived) + more
        self.reads.append((self.now, count))
        evidence.counted(self.db, STUDY, "PACS", self.now, {"s1": count})

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.5, 4.0, 20.0, 61.0, 200.0, 601.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(down_s=st.sampled_from([1.0, 10.0, 61.0, 700.0]))
    def the_node_restarts(self, down_s: float) -> None:
        self.now += down_s
        self.broken |= set(self.open)
        self.open = {}
        if self.last is not None and self.last[1] == "open":
            self.last = (self.last[0], "aborted")
        self.start()

    # what must hold

    @invariant()
    def decisions_are_right(self) -> None:
        study = self.study()
        while study is not None and study.state != "closed":
            carriers = studies.carriers(self.db, STUDY)
            known = self.gatherer.facts(study, carriers, node_store.processes(self.db), self.now)
            match decide(known, self.gatherer.times, self.boot, self.now):
                case KeepOpen(until, waits):
                    assert until > self.now
                    assert waits
                    limit = max(study.opened + MAX_OPEN_S, self.boot + GRACE_S)
                    assert self.now < limit, "open for too long"
                    assert facts.waiting_for(self.db, self.folder, self.settings, study, self.now)
                    return
                case LooksComplete():
                    assert study.state == "open"
                    assert not self.open_carriers()
                    assert not self.contradicted(), "it does not look complete"
                    planned = (Planned(None, (), {}, {}),)
                    assert studies.close(self.db, study, planned, self.now, publish=False, why={}, routed={})
                case Close() as closed:
                    self.judge(study, closed)
                    if study.state == "early":
                        assert studies.publish(self.db, study, self.now, closed.as_json())
                    else:
                        planned = (Planned(None, (), {}, {}),)
                        why = closed.as_json()
                        assert studies.close(self.db, study, planned, self.now, publish=True, why=why, routed={})
                    self.closings += 1
            study = self.study()

    def judge(self, study: Study, closed: Close) -> None:
        """Hold a closing against the truth."""
        assert self.now >= self.boot + GRACE_S or study.opened >= self.boot, "just started"
        if closed.evidence == "max-open":
            assert self.now >= study.opened + MAX_OPEN_S
            return
        assert not self.contradicted(), "published although something is known to be missing"
        if closed.evidence == "quiet":
            assert self.now - self.last_image >= QUIET_S
            return
        named: set[str] = set().union(*(names for _, names in self.steps.values()))
        equal = [at for at, count in self.reads if count == len(self.arrived)]
        last = self.last
        is_whole = bool(last) and self.calling(cast("tuple[str, str]", last)[0]) == "WHOLE"
        if self.broken & self.brought.keys():
            is_whole &= last is not None and self.brought[last[0]] >= self.arrived
        said = {
            "procedure-step": bool(named) and self.arrived <= named | self.notified,
            "count": bool(equal) and self.now - equal[0] >= APART_S,
            "sender": is_whole and last is not None and last[1] == "released" and not self.open_carriers(),
        }
        assert closed.by is not None
        assert said[closed.by], closed

    def contradicted(self) -> bool:
        """Say whether something is known to be missing."""
        running = any(status == "IN PROGRESS" for status, _ in self.steps.values())
        named = set().union(self.notified, *(names for _, names in self.steps.values()))
        more = bool(self.reads) and self.reads[-1][1] > len(self.arrived)
        return running or bool(named - self.arrived) or more

    def open_carriers(self) -> bool:
        return any(c.association in self.open for c in studies.carriers(self.db, STUDY))

    def calling(self, association: str) -> str:
        return next(c.calling for c in studies.carriers(self.db, STUDY) if c.association == association)


TestAssembling = Assembling.TestCase
TestAssembling.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
