"""The coordinator process: index, look at unfinished studies, close and route what is complete."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import structlog

from config.settings import Settings
from dicom_io.reason import Reason
from node import alarm, assemble, child, inquire, overdue, recover, retry, route
from node.assemble import Close, KeepOpen, LooksComplete
from node.calling import Caller
from node.certificates import Certificates
from node.clock import Clock, Guard, made, surviving
from node.document import unfit
from node.facts import Gatherer
from node.housekeeping import Housekeeper
from node.indexer import Indexer
from node.inquire import Inquirer
from node.installation import DataFolder, node_name
from node.lane import FastLane
from node.nodes import CommonClock, RollCall, beating, seated
from node.reasons import REASONS
from node.store import Database, evidence, obstacle, open_database, pieces, place_of, storage, studies
from node.store import node as node_store
from node.store.rows import Carrier, Planned, Process, Study
from node.timekeeper import Timekeeper
from pipeline import registry

_log = structlog.get_logger()

_NICE = 5
"""What arrives goes before what is made of it: receivers and senders wait for nobody, the index catches up."""
_ODD_S = 30.0
"""A study whose decision failed is looked at again after so long."""


class Coordinator:
    """Decides when studies are complete and what is to be done with them.

    Parameters
    ----------
    db : Database
        The index.
    folder : DataFolder
        Of the node.
    settings : Settings
        Of the node.
    boot : float
        When the node started (s since the epoch).
    how : inquire.Ask
        Asks a source how many images it has.
    refusing : Callable[[], bool]
        Whether the node accepts nothing now: then no study is complete because it has become quiet.
    timekeeper : Timekeeper or None
        Knows the clocks; None: those of the machine.
    ahead : Callable[[str], float]
        How far (s) a node's clock is ahead, if it is not right.
    """

    def __init__(
        self,
        db: Database,
        folder: DataFolder,
        settings: Settings,
        boot: float,
        how: inquire.Ask = inquire.ask,
        refusing: Callable[[], bool] = lambda: False,
        timekeeper: Timekeeper | None = None,
        ahead: Callable[[str], float] = lambda _node: 0.0,
    ) -> None:
        self._db, self._settings = db, settings
        self.timekeeper = timekeeper or Timekeeper(db)
        self._started, self._boot = boot, self.timekeeper.moved(boot)
        self._indexer = Indexer(db, folder, settings, steady=self.timekeeper.seconds, ahead=ahead)
        self._gatherer = Gatherer(db, folder, settings)
        self._lane, self._stumbled = FastLane(db, settings, self._gatherer), Guard("pieces")
        self.inquirer = Inquirer(db, settings, self._answered, how)
        self._refusing, self._refused = refusing, 0.0
        self._news: set[str] = set()
        self._lock = threading.Lock()
        self._processes: tuple[Process, ...] | None = None
        self._again: dict[str, float] = {}
        self._last = 0.0
        self._told: dict[str, tuple[int, frozenset[str]]] = {}

    def tick(self, now: float | None = None) -> None:
        """Index what is new, then look at every open study with news or whose time has come.

        Studies are decided as they were when the journals were looked at, and none is before all that had been acknowledged
        until then is indexed: what a study has to wait for may stand in the rest. The news are kept for the next tick.
        """
        self.timekeeper.check()
        looked = self.timekeeper.seconds()
        self._indexer.advance()
        found = studies.touched(self._db, self._indexer.changed())
        with self._lock:
            self._news |= found
            if self._indexer.behind:
                return
            news, self._news = self._news, set()
        with self.timekeeper.still() as ahead:
            self._decide(news, ahead + looked if now is None else now)

    def _decide(self, news: set[str], now: float) -> None:
        if (boot := self.timekeeper.moved(self._started)) != self._boot:
            self._boot = boot
            self._again.clear()
        processes = node_store.processes(self._db)
        self._refused = now if self._refusing() else min(self._refused, now)
        if processes != self._processes or now < self._last:  # a receiver ended, or the clock was set back
            self._again.clear()
        everything = not self._again
        self._processes, self._last = processes, now
        if not everything and not news and min(self._again.values()) > now:
            return
        still = {}
        due = [(s, s.uid in news or self._again.get(s.uid, now) <= now) for s in studies.unfinished(self._db)]
        for study in [s for s, looked in due if looked]:  # single images do not wait for the headers of other studies
            self._advance(study, studies.carriers(self._db, study.uid), processes, now, "instance")
        for study, looked in due:
            again = self._look_at(study, processes, now) if looked else self._again[study.uid]
            if again is not None:
                still[study.uid] = again
        for uid in set(self._again) - set(still):
            self._gatherer.forget(uid)
            self._lane.forget(uid)
            self._told.pop(uid, None)
        self._again = still

    def next_look(self) -> float | None:
        """Return when the next open study is due without news (s since the epoch)."""
        return min(self._again.values(), default=None)

    def _answered(self, study_uid: str) -> None:
        with self._lock:
            self._news.add(study_uid)

    def _look_at(self, study: Study, processes: tuple[Process, ...], now: float) -> float | None:
        """Decide about one study; return when it is due again, or None if it is closed."""
        try:
            until = self._look(study, processes, now)
        except Exception as error:  # noqa: BLE001 - one odd study must not keep the others open
            found = obstacle(error)
            tell = _log.exception if found is None else _log.error
            tell("study not decided", study=study.hash, again_in_s=_ODD_S, **({"error": found} if found else {}))
            return now + _ODD_S
        return None if until is None else min(until, now + float(retry.policy()["clock"]["look_s"]))

    def _look(self, study: Study, processes: tuple[Process, ...], now: float) -> float | None:
        carriers = studies.carriers(self._db, study.uid)
        sooner = self._advance(study, carriers, processes, now, "series")
        deaf = max(self._boot, self.timekeeper.moved(self._refused))  # what was not taken comes again after that
        facts = self._gatherer.facts(study, carriers, processes, now, deaf=deaf)
        self._tell(study, assemble.proof(facts), now)
        decision = assemble.decide(facts, self._gatherer.times, self._boot, now)
        match decision:
            case KeepOpen():
                self.inquirer.consider(study, carriers, facts, now)
                return decision.until if sooner is None else min(decision.until, sooner)
            case LooksComplete():
                why = {"evidence": "weak", "why": decision.why}
                self._begin(study, carriers, why, now, publish=False)
                self.inquirer.consider(study, carriers, facts, now)
                return now  # what it waits for now, the next look says
            case Close():
                self._close(study, carriers, decision, now)
                self.inquirer.consider(study, carriers, None, now)
                return None

    def _advance(
        self, study: Study, carriers: tuple[Carrier, ...], processes: tuple[Process, ...], now: float,
        kind: registry.Subject,
    ) -> float | None:  # fmt: skip
        """Enqueue what does not wait for the study. A fault in that must not keep the study open."""
        again: list[float | None] = [None]
        self._stumbled.done(lambda: again.insert(0, self._lane.advance(study, carriers, processes, now, kind)))
        return again[0]

    def _close(self, study: Study, carriers: tuple[Carrier, ...], decision: Close, now: float) -> None:
        why = decision.as_json()
        if study.state != "early":
            self._begin(study, carriers, why, now, publish=True)
            return
        pieces.enqueue(self._db, study, self._lane.left(study, carriers), now)  # what nobody knew whose it is
        if studies.publish(self._db, study, now, why):
            _log.info(
                "study.closed", study=study.hash, revision=study.revision, evidence=decision.evidence, by=decision.by
            )

    def _tell(self, study: Study, found: Sequence[tuple[str, Reason]], now: float) -> None:
        """Put strong evidence into the timeline when it appears."""
        revision, told = self._told.get(study.uid, (study.revision, frozenset()))
        told = told if revision == study.revision else frozenset()
        for kind, reason in found:
            if kind not in told:
                evidence.tell_evidence(self._db, study.uid, study.revision, now, kind, reason.text)
        self._told[study.uid] = (study.revision, told | {kind for kind, _ in found})

    def _begin(
        self, study: Study, carriers: tuple[Carrier, ...], why: dict[str, Any], now: float, *, publish: bool
    ) -> None:
        """Route the study and enqueue its jobs."""
        missing = storage.missing(self._db, study.uid)
        if missing:
            self._fail(study, carriers, REASONS("images-removed", count=missing), why, now)
            return
        alarm.quieten(self._db, "images-removed", study.uid, now, study=(study.uid, study.hash))
        series = self._gatherer.series(study, carriers)
        plan = route.plan(self._settings.rule, series)
        planned = tuple(
            Planned(
                name,
                series,
                plan.destinations if name in plan.live else {},
                unfit(name, REASONS("not-run-yet")),
                priority=plan.priority,
            )
            for name, series in plan.pipelines.items()
            if registry.subject(name) == "study"
        )
        if not planned and not self._lane.speaks(study, carriers):
            code = "no-pipeline-in-rule" if plan.matched else "no-rule-matched"
            reason = REASONS(code if series else "no-usable-images")
            planned = (Planned(None, (), {}, unfit(None, reason), reason.as_json()),)
        routed = {"matched": list(plan.matched), "rules": list(plan.explanation)}
        if publish:
            planned += self._lane.left(study, carriers)
        if studies.close(self._db, study, planned, now, publish=publish, why=why, routed=routed):
            action = "study.closed" if publish else "study.looks-complete"
            told = {key: why[key] for key in ("evidence", "by") if why.get(key)}
            _log.info(action, study=study.hash, revision=study.revision, jobs=[p.pipeline for p in planned], **told)

    def _fail(
        self, study: Study, carriers: tuple[Carrier, ...], reason: Reason, why: dict[str, Any], now: float
    ) -> None:
        """Close a study of which only a part is there: a result of that would pass for one of the whole."""
        document = {**unfit(None, reason), "outcome": "failed"}
        planned = (Planned(None, (), {}, document, reason.as_json()), *self._lane.left(study, carriers))
        if studies.close(self._db, study, planned, now, publish=True, why=why, routed={"matched": [], "rules": []}):
            _log.error("study.failed", study=study.hash, revision=study.revision, reason=reason.code)
            alarm.ring(self._db, reason, study.uid, now, study=(study.uid, study.hash))


def run_coordinator(settings: Settings, connection: Connection, boot: float) -> None:
    """Coordinate until SIGTERM or the end of the parent; entry point of a spawned process."""
    stop = child.begin(connection)
    os.nice(_NICE)
    folder = DataFolder(settings.node.data_dir)
    db = made("coordinator", lambda: open_database(place_of(settings)), stop)
    if db is None:
        return
    every, policy = retry.policy()["clock"], retry.policy()["storage"]
    certificates = Certificates(db, settings, node_name(settings) if db.shared else "")
    own = Clock({"certificates": (every["certificates_s"], certificates.check)})  # each node has files of its own
    own.start()
    seat = seated(db, "lead", stop, settings)
    if seat is None:
        return
    housekeeper = Housekeeper(db, folder, settings)
    rollcall = RollCall(db, housekeeper.spool, settings.node.silent_s, settings.worker.attempts)

    def begin() -> Coordinator:
        timekeeper = Timekeeper(db, CommonClock(db) if db.shared else time.time, leads=seat.held)
        # who takes over does not know since when senders have found nobody
        since = timekeeper.now() if db.shared else boot
        return Coordinator(
            db, folder, settings, since, refusing=housekeeper.refusing, timekeeper=timekeeper,
            ahead=lambda node: rollcall.ahead.get(node, 0.0),
        )  # fmt: skip

    # it writes how the clocks stand: a full disk must not end it, or nobody would make room
    coordinator = made("coordinator", begin, stop)
    if coordinator is None:
        return
    timekeeper, caller = coordinator.timekeeper, Caller(db)

    def timed(do: Callable[[float], object]) -> Callable[[], None]:
        def tick() -> None:
            with timekeeper.still() as ahead:
                do(ahead + timekeeper.seconds())

        return tick

    checked = Guard("clock")

    def tidy() -> None:  # also where a full disk keeps a jump from being written down: it makes room
        housekeeper.tidy(by_age=checked.done(timekeeper.check) and timekeeper.steady())

    ticks = Clock({
        "studies": (every["index_s"], beating(seat, coordinator.tick)),
        "watermarks": (policy["watch_s"], housekeeper.watch),
        "tidying": (policy["tidy_s"], tidy),
        "leases": (every["leases_s"], timed(lambda now: recover.expired(db, now, settings.worker.attempts))),
        "nodes": (retry.policy()["nodes"]["beat_s"], lambda: rollcall.call(timekeeper.now())),
        "overdue": (
            retry.policy()["overdue"]["every_s"],
            timed(lambda now: overdue.sweep(db, settings.destination, now, by_age=timekeeper.steady())),
        ),
        "calls": (retry.policy()["calls"]["every_s"], lambda: caller.call(timekeeper.now())),
        "lost calls": (retry.policy()["calls"]["sweep_s"], caller.sweep),
    })  # fmt: skip
    surviving("leavings", rollcall.clean)()
    surviving("watermarks", housekeeper.watch)()  # before the first look at a study: were images refused?
    ticks.start()
    coordinator.inquirer.start(stop)
    stop.wait()
    for clock in (ticks, own):
        clock.shutdown()
    housekeeper.close()
    caller.close()
    if seat.held():
        surviving("clock", lambda: timekeeper.check(write=True))()
    seat.close()
    db.close()
