"""Deliveries under any order of answers, kills, commands, late images, corrections and time (a Hypothesis state machine
on the real store)."""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pydicom import dcmread

from dicom_io.scu import StoreReport
from dicom_io.scu_query import FoundStudy
from node import overdue
from node.store import corrections, deliveries, jobs, operator, studies
from node.store.rows import Delivery
from tests.more import more
from tests.node.outbox import Answer, Outbox, Script, place
from tests.stores import STORES

STATUSES: list[Answer] = [
    0x0000, 0x0000, 0xB007, 0x0111, 0xA700, 0xA900, 0xC001, 0x0122, 0x7777, None, "peer-refused-connection",
    "association-rejected", "context-refused",
]  # fmt: skip
ACCEPTING = {0x0000, 0xB007}
EVENTS = ["late image", "correction", "correction elsewhere"]
WORK, COMMANDS = ["not yet", "new", "carried"], ["retry", "resend", "cancel"]
ENDED = {"delivered", "confirmed", "quarantined", "superseded", "cancelled", "dead"}


class Killed(BaseException):
    """The process is gone, here and now."""


class Broken(BaseException):
    """A promise is broken; a courier, who outlives what goes wrong, must not take it for a fault of the network."""


class Watched(Script):
    """A destination whose complaints reach the test."""

    def store(self, paths: Sequence[Path]) -> Iterator[StoreReport]:
        try:
            yield from super().store(paths)
        except AssertionError as complaint:
            raise Broken from complaint


class Deliveries(RuleBasedStateMachine):
    """One destination, a few studies; everything that a courier, a prover and a person do."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="outbox-"))
        self.box = Outbox(self.root)
        self.answers: dict[str, Answer] = {}
        self.accepted: set[str] = set()
        self.done: set[str] = set()
        self.default: Answer = 0x0000
        self.kill_at: int | None = None
        self.said = 0
        self.whose: Literal["same", "other", "unknown", "query-not-offered", "peer-timeout"] = "same"
        self.script = Watched(answers=self._answer, find=self._find)
        self.stale: set[str] = set()
        self.wrong: set[str] = set()
        self.told: set[str] = set()
        self.going: set[str] = set()
        self.meanwhile: list[Callable[[], None]] = []
        self.versions = 0

    def teardown(self) -> None:
        self.box.db.close()
        shutil.rmtree(self.root)

    def _answer(self, path: Path) -> Answer:
        uid = self._uid(path)
        before = self.script.holds.get(uid) is not None
        self.said += 1
        assert uid not in self.done, "an object that was accepted is sent again, and nobody asked for it"
        assert uid in self.going or uid not in self.stale | self.wrong, "a result that was overtaken is sent"
        self.going = {a for row in self._rows() if uid in (its := self.box.of(row.job_id)) for a in its}
        killed = self.kill_at is not None and self.said >= self.kill_at
        answer = self.answers.get(uid, self.default)
        if answer == 0x0111 and not before:
            answer = 0x0000
        if not killed and answer in ACCEPTING | {0x0111}:
            self.accepted.add(uid)
            self.done.add(uid)  # before what comes meanwhile: a delivery that takes the place of this one begins anew
        meanwhile, self.meanwhile = self.meanwhile, []
        for happens in meanwhile:
            happens()
        if killed:
            self.kill_at = None
            if self.said % 2:  # the object arrived, the answer did not
                self._hold(path)
            raise Killed
        if answer in ACCEPTING:
            self.told.add(uid)
        return answer

    def _hold(self, path: Path) -> None:
        from dicom_io.read import digest_dataset

        digest = digest_dataset(path)
        assert self.script.holds.setdefault(self._uid(path), digest) == digest, "one UID, two contents"

    def _uid(self, path: Path) -> str:
        return str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)

    def _find(self, uid: str) -> Sequence[FoundStudy] | str:
        if self.whose in ("query-not-offered", "peer-timeout"):
            return self.whose
        if self.whose == "unknown":
            return ()
        return [FoundStudy(uid, "P1" if self.whose == "same" else "P2", "", "A1", "Nobody^At All")]

    def _rows(self) -> list[Delivery]:
        return [row for uid in self.box.studies for row in deliveries.deliveries(self.box.db, uid)]

    @initialize()
    def start(self) -> None:
        self.destination = place(check_study=True, proof="find", max_age_h=48.0)
        self._spawn()

    def _spawn(self) -> None:
        self.courier = self.box.courier(self.destination, self.script)
        self.prover = self.box.prover(self.destination, self.script)

    @precondition(lambda self: len(self.box.studies) < 4)
    @rule(priority=st.integers(0, 2), objects=st.integers(1, 3))
    def queue(self, priority: int, objects: int) -> None:
        self.box.add(priority=priority, objects=objects)

    @rule(answer=st.sampled_from(STATUSES))
    def the_destination_answers(self, answer: Answer) -> None:
        self.default = answer

    @precondition(lambda self: self.box.studies)
    @rule(data=st.data(), answer=st.sampled_from(STATUSES))
    def it_has_its_own_answer_for_one_object(self, data: Any, answer: Answer) -> None:
        study = data.draw(st.sampled_from(self.box.studies))
        self.answers[data.draw(st.sampled_from(self.box.uids(study)))] = answer

    @rule(whose=st.sampled_from(["same", "same", "other", "unknown", "query-not-offered", "peer-timeout"]))
    def it_knows_the_study_as(self, whose: Any) -> None:
        self.whose = whose

    @rule()
    def it_heals(self) -> None:
        self.default, self.whose, self.script.shows = 0x0000, "same", lambda _uid: True
        self.answers.clear()

    @rule(shows=st.sampled_from(["all", "none", "query-not-offered", "query-failed", "peer-timeout"]))
    def it_shows(self, shows: str) -> None:
        self.script.shows = {"all": lambda _uid: True, "none": lambda _uid: False}.get(shows, shows)

    @rule(steps=st.integers(1, 6))
    def deliver(self, steps: int) -> None:
        for _ in range(steps):
            self._step()

    def _step(self) -> bool:
        self.going = set()
        try:
            return self.courier.step()
        except Broken as broken:
            raise AssertionError(str(broken.__cause__)) from broken

    @rule(after=st.integers(1, 4))
    def deliver_and_be_killed(self, after: int) -> None:
        self._until_killed(after)

    def _until_killed(self, after: int) -> None:
        self.kill_at, self.said = after, 0
        try:
            for _ in range(3):
                self._step()
        except Killed:
            self._restart()
        self.kill_at = None

    def _results(self, study: str) -> set[str]:
        return {uid for job in jobs.jobs(self.box.db, study) for uid in self.box.of(job.id)}

    def _image(self, study: str) -> None:
        """A late image: whatever was made before is no longer the study's result."""
        self.versions += 1
        found = studies.study(self.box.db, study)
        self.box.arrive(study, image=1000 + self.versions)
        if found is not None and found.state == "closed":  # else that is so already, but for what a person sent since
            self.stale |= self._results(study)

    def _correction(self, study: str) -> None:
        """Whatever was made before has another patient's name on it, for ever."""
        self.versions += 1
        self.box.arrive(study, identity=json.dumps({"PatientID": f"C{self.versions}"}), relation="corrected")
        self.wrong |= self._results(study)

    def _correction_elsewhere(self, study: str) -> None:
        """An image that no result was made from has another identity: what was made may stand, if a job says so."""
        self.versions += 1
        self.box.arrive(study, image=2, identity=json.dumps({"PatientID": f"E{self.versions}"}), relation="corrected")
        self.stale |= self._results(study)

    def _work(self, study: str, carried: bool) -> None:
        """The study closes again; an earlier result may still stand, if it has the right name on it."""
        db = self.box.db
        found = studies.study(db, study)
        if found is None or found.state != "open":
            return
        last = jobs.standing(db, replace(jobs.jobs(db, study)[0], id=sys.maxsize))
        if carried and last is not None and not self.wrong & set(self.box.of(last.id)):
            before = {uid for row in self._rows() if not _begins_anew(row) for uid in self.box.of(row.job_id)}
            self.box.finish(study, carried_from=last.carried_from or last.id)
            self.stale -= set(self.box.uids(study))
            if not before & set(self.box.uids(study)):  # what was overtaken half-way begins anew
                self.done -= set(self.box.uids(study))
        else:
            self.box.finish(study)

    def _overtake(self, study: str, what: str, work: str) -> None:
        events = {
            "late image": self._image, "correction": self._correction, "correction elsewhere": self._correction_elsewhere,
        }  # fmt: skip
        events[what](study)
        if work != "not yet":
            self._work(study, work == "carried")

    @precondition(lambda self: self.box.studies)
    @rule(data=st.data(), what=st.sampled_from(EVENTS), work=st.sampled_from(WORK))
    def something_overtakes(self, data: Any, what: str, work: str) -> None:
        self._overtake(data.draw(st.sampled_from(self.box.studies)), what, work)

    def _next(self) -> str:
        """Queue what leaves next, to a destination that is well."""
        self.it_heals()
        self.box.now += 700.0
        return self.box.add(priority=0)

    @precondition(lambda self: len(self.box.studies) < 6)
    @rule(
        what=st.sampled_from([None, *EVENTS]), work=st.sampled_from(WORK), after=st.integers(1, 3),
        answer=st.sampled_from([*STATUSES, "killed"]), command=st.sampled_from([None, *COMMANDS]),
    )  # fmt: skip
    def something_overtakes_what_is_being_sent(
        self, what: str | None, work: str, after: int, answer: Any, command: str | None
    ) -> None:
        study = self._next()
        if what is not None:
            self.meanwhile.append(lambda: self._overtake(study, what, work))
        if command is not None:
            self.meanwhile.append(lambda: self._say(study, command))
        if answer == "killed":
            self._until_killed(after)
        else:
            self.default = answer
            self._step()
        self.meanwhile = []
        self._step()  # what is to go beside it, or after it

    @precondition(lambda self: len(self.box.studies) < 6)
    @rule(what=st.sampled_from(EVENTS), work=st.sampled_from(WORK))
    def something_overtakes_what_was_acknowledged_and_is_not_there(self, what: str, work: str) -> None:
        study = self._next()
        self._step()
        self._overtake(study, what, work)
        self.it_shows("none")
        self.prove(8)

    @precondition(lambda self: self.box.studies)
    @rule(data=st.data(), carried=st.booleans())
    def a_study_is_worked_again(self, data: Any, carried: bool) -> None:
        self._work(data.draw(st.sampled_from(self.box.studies)), carried)

    @rule()
    def _restart(self) -> None:
        """What a new deliverer process does first."""
        self.box.db.close()
        self.box.db = STORES.open(self.root)
        deliveries.interrupted(self.box.db, self.box.now)
        self._spawn()

    @rule(seconds=st.sampled_from([1.0, 10.0, 300.0, 3600.0, 90_000.0]))
    def wait(self, seconds: float) -> None:
        self.box.now += seconds
        overdue.sweep(self.box.db, [self.destination], self.box.now)

    @rule(times=st.integers(1, 8))
    def prove(self, times: int) -> None:
        for _ in range(times):
            self.box.now += 700.0
            before = {row.id: row.proof for row in self._rows()}
            self.prover.step()
            for row in self._rows():
                if row.proof == "again" != before[row.id]:
                    uids = set(self.box.of(row.job_id))
                    assert not uids & (self.stale | self.wrong), "an overtaken result is queued a second time"
                    self.done -= uids - set(deliveries.sent(self.box.db, row.id))  # what is not there

    @precondition(lambda self: self.box.studies)
    @rule(data=st.data(), command=st.sampled_from(COMMANDS))
    def a_person_says(self, data: Any, command: str) -> None:
        self._say(data.draw(st.sampled_from(self.box.studies)), command)

    def _say(self, study: str, command: str) -> None:
        if command == "resend":
            operator.resend(self.box.db, study, self.box.now)
            for row in self._rows():
                if row.study_uid == study and row.state == "waiting" and row.queued == self.box.now:
                    uids = set(self.box.of(row.job_id))
                    assert not uids & self.wrong, "a result under an old identity is queued"
                    self.done -= uids
                    self.stale -= uids  # a person knows better
        else:
            getattr(operator, command)(self.box.db, self.box.now, study_uid=study)

    @invariant()
    def nothing_is_marked_delivered_that_was_not_accepted(self) -> None:
        for row in self._rows():
            if row.state in ("delivered", "confirmed"):
                uids = set(self.box.of(row.job_id))
                assert uids <= self.accepted | set(self.script.holds), row
                said = deliveries.sent(self.box.db, row.id)
                assert {u for u, s in said.items() if s.accepted} == uids, row

    @invariant()
    def nothing_waits_without_a_time(self) -> None:
        for row in self._rows():
            assert row.state != "sending", "nobody is sending"
            if row.state in ("waiting", "held"):
                assert row.next_attempt is not None, row
            else:
                assert row.state in ENDED, row
                assert row.next_attempt is None, row

    @invariant()
    def what_is_to_be_proved_has_a_time(self) -> None:
        for row in self._rows():
            if row.state == "delivered":
                assert (row.proof_next is not None) == (row.proof in ("waiting", "again")), row
            if row.state == "confirmed":
                assert row.proof == "find", row

    @invariant()
    def nothing_overtaken_waits_or_is_asked_about(self) -> None:
        for row in self._rows():
            uids = set(self.box.of(row.job_id))
            if row.state in ("waiting", "held"):
                assert not uids & (self.stale | self.wrong), row
            if row.state == "delivered" and row.proof in ("waiting", "again"):
                assert not uids & self.wrong, row

    @invariant()
    def what_was_accepted_under_a_wrong_identity_is_listed(self) -> None:
        known = [c for study in self.box.studies for c in corrections.told(self.box.db, study)]
        assert self.told & self.wrong <= {o["sop_instance_uid"] for c in known for o in c["delivered"]}

    @invariant()
    def attempts_are_counted_and_none_crashes(self) -> None:
        for row in self._rows():
            assert row.attempts >= 0
            assert (row.last_error or {}).get("code") != "delivery-crashed", row

    @rule()
    def everything_that_waits_arrives_once_the_destination_is_well(self) -> None:
        self.it_heals()
        self.box.now += 700.0
        for _ in range(12):
            while self._step():
                pass
            self.box.now += 700.0
        left = {row.state for row in self._rows()} - ENDED
        assert not left, left
        for study in self.box.studies:
            job = jobs.jobs(self.box.db, study)[-1]
            found = studies.study(self.box.db, study)
            if found is not None and found.state == "closed" and job.state == "done":
                mine = [row for row in self._rows() if set(self.box.of(row.job_id)) == set(self.box.of(job.id))]
                assert not all(_begins_anew(row) for row in mine), "the standing result went nowhere"


def _begins_anew(row: Delivery) -> bool:
    """Say whether what a delivery brought is queued again if it stands: nobody but a person has the last word."""
    taken_back = row.state == "cancelled" and (row.last_error or {}).get("code") == "identity-corrected"
    return row.state == "superseded" or taken_back


@pytest.mark.unit
@pytest.mark.parametrize(
    ("back_end", "examples"),
    [("sqlite", 10), ("postgresql", 3), more("sqlite", 100), more("postgresql", 30)],
    indirect=["back_end"],
)
def test_deliveries(back_end: str, examples: int) -> None:
    del back_end
    run_state_machine_as_test(Deliveries, settings=settings(
        max_examples=examples, stateful_step_count=25, deadline=None,
        phases=[Phase.generate, Phase.shrink], report_multiple_bugs=False, print_blob=True,  # a find must not take the day
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture],
    ))  # fmt: skip
