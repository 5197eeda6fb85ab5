"""The coordinator process: index, look at every unfinished study, close and route what is complete."""

import time
from multiprocessing.connection import Connection

import structlog

from config.settings import Settings
from dicom_io.errors import DicomIOError, UnreadableError
from dicom_io.model import Instance
from dicom_io.read import read_instance
from dicom_io.stack import build_stack, continuous
from node import assemble, child, recover, retry, route
from node.assemble import Close, Facts, LooksComplete, Sender, Times
from node.clock import clock
from node.execute import unfit
from node.indexer import Indexer, charsets
from node.installation import DataFolder
from node.reasons import REASONS
from node.store import Database, open_database, studies
from node.store import node as node_store
from node.store.rows import Carrier, Planned, Process, Study

_log = structlog.get_logger()

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
    """

    def __init__(self, db: Database, folder: DataFolder, settings: Settings, boot: float) -> None:
        self._db, self._folder, self._settings, self._boot = db, folder, settings, boot
        self._installation_id = folder.installation_id
        self._indexer = Indexer(db, folder, settings)
        s = settings.study
        weak = retry.policy()["assemble"]["weak_images"]
        self._times = Times(s.settle_s, s.quiet_s, s.boot_grace_s, s.max_open_s, weak)
        self._whole = {p.ae_title.strip() for p in settings.dicom.peer if p.sends == "study"}
        self._charsets = charsets(settings)
        self._continuous: dict[str, tuple[int, bool]] = {}
        self._odd: dict[str, float] = {}

    def tick(self, now: float | None = None) -> None:
        """Index what is new, then look at every study that is not closed."""
        self._indexer.advance()
        processes = node_store.processes(self._db)
        now = time.time() if now is None else now
        for study in studies.unfinished(self._db):
            if self._odd.get(study.uid, 0.0) > now:
                continue
            try:
                self._look(study, processes, now)
            except Exception:  # noqa: BLE001 - one odd study must not keep the others open
                self._odd[study.uid] = now + _ODD_S
                _log.exception("study not decided", study=study.hash, again_in_s=_ODD_S)

    def _look(self, study: Study, processes: tuple[Process, ...], now: float) -> None:
        carriers = studies.carriers(self._db, study.uid)
        senders = tuple(_sender(c, processes, self._whole) for c in carriers)
        state: assemble.State = "early" if study.state == "early" else "open"
        facts = Facts(state, study.revision, study.dropped, study.opened, study.active, senders, continuous=False)
        if state == "open" and assemble.weak(facts, self._times.weak_images) is not None:
            facts = Facts(
                state, study.revision, study.dropped, study.opened, study.active, senders, self._is_continuous(study)
            )
        match assemble.decide(facts, self._times, self._boot, now):
            case LooksComplete() as looks:
                self._begin(study, carriers, {"evidence": "weak", "why": looks.why}, now, publish=False)
            case Close() as closed if state == "early":
                done = studies.publish(self._db, study, now, closed.as_json())
                if done:
                    _log.info("study.closed", study=study.hash, revision=study.revision, **closed.as_json())
            case Close() as closed:
                self._begin(study, carriers, closed.as_json(), now, publish=True)

    def _begin(
        self, study: Study, carriers: tuple[Carrier, ...], why: dict[str, str], now: float, *, publish: bool
    ) -> None:
        """Route the study and enqueue its jobs."""
        by_association = {c.association: c for c in carriers}
        first: dict[str, route.SeriesFacts] = {}
        for row in studies.images(self._db, study.uid, study.upto):
            if row.series_uid in first:
                continue
            carrier = by_association.get(row.association)
            calling, called = (carrier.calling, carrier.called) if carrier else ("", "")
            try:
                header = read_instance(self._folder.spool / row.entry, self._charsets.get(calling)).header
            except UnreadableError as error:  # readable when it was indexed: the disk; the worker will say so
                _log.error("image unreadable", study=study.hash, entry=row.entry, reason=error.reason.code)
                continue
            first[row.series_uid] = route.SeriesFacts(row.series_uid, header, calling, called)
        plan = route.plan(self._settings.rule, tuple(first.values()))
        planned = tuple(
            Planned(name, series, plan.destinations if name in plan.live else {}, unfit(name, REASONS("not-run-yet")))
            for name, series in plan.pipelines.items()
        )
        if not planned:
            reason = REASONS("no-pipeline-in-rule" if plan.matched else "no-rule-matched")
            planned = (Planned(None, (), {}, unfit(None, reason), reason.as_json()),)
        routed = {"matched": list(plan.matched), "rules": list(plan.explanation)}
        if studies.close(self._db, study, planned, now, publish=publish, why=why, routed=routed):
            action = "study.closed" if publish else "study.looks-complete"
            _log.info(action, study=study.hash, revision=study.revision, jobs=[p.pipeline for p in planned], **why)

    def _is_continuous(self, study: Study) -> bool:
        known = self._continuous.get(study.uid)
        if known is None or known[0] != study.upto:
            known = (study.upto, self._measure(study))
            self._continuous[study.uid] = known
        return known[1]

    def _measure(self, study: Study) -> bool:
        """Say whether every series that could be a stack is one without gaps, and there is one."""
        series: dict[str, list[Instance]] = {}
        for row in studies.images(self._db, study.uid, study.upto):
            try:
                series.setdefault(row.series_uid, []).append(read_instance(self._folder.spool / row.entry))
            except UnreadableError:
                return False
        stacks = [rows for rows in series.values() if len(rows) >= self._times.weak_images]
        try:
            return bool(stacks) and all(continuous(build_stack(rows)) for rows in stacks)
        except DicomIOError:
            return False


def _sender(carrier: Carrier, processes: tuple[Process, ...], whole: set[str]) -> Sender:
    """Return one association as the decision sees it; one whose receiver is gone will never end by itself."""
    alive = any(p.pid == carrier.pid and p.role == "receiver" and p.started <= carrier.opened for p in processes)
    end: assemble.End = "open" if alive else "aborted"
    if carrier.how is not None:
        end = "released" if carrier.how == "released" else "aborted"
    return Sender(end, carrier.images, carrier.calling in whole, carrier.last, carrier.ended or carrier.last)


def run_coordinator(settings: Settings, connection: Connection, boot: float) -> None:
    """Coordinate until SIGTERM or the end of the parent; entry point of a spawned process."""
    stop = child.begin(settings, connection)
    folder = DataFolder(settings.node.data_dir)
    db = open_database(folder.database)
    coordinator = Coordinator(db, folder, settings, boot)
    every = retry.policy()["clock"]
    ticks = clock({
        "studies": (every["index_s"], coordinator.tick),
        "leases": (every["leases_s"], lambda: recover.expired(db, time.time(), settings.worker.attempts)),
    })  # fmt: skip
    ticks.start()
    stop.wait()
    ticks.shutdown(wait=True)
    db.close()
