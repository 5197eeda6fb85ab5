"""From rows and headers to the facts that `node.assemble` decides on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import structlog

from config.settings import Settings
from dicom_io.errors import UnreadableError
from dicom_io.frames import header_of
from dicom_io.read import read_instance
from node import assemble, pace, retry, route, watermarks
from node.assemble import Count, Facts, Sender, Step, Times
from node.identity import patients
from node.indexer import charsets
from node.installation import DataFolder
from node.stacks import Stacks
from node.store import Database, corrections, evidence, studies
from node.store import node as store
from node.store.rows import RECEIVING, Carrier, Held, Process, Read, Seen, StoredInstance, Study

_log = structlog.get_logger()

_SEEN_S = 2.0
"""What is known of a sender may be so old: its pace is slower than that."""
_DAY_S = 86400.0


class Gatherer:
    """Collects the facts about unfinished studies; remembers what it read of files for as long as they do not grow.

    Parameters
    ----------
    db : Database
        The index.
    folder : DataFolder
        Of the node.
    settings : Settings
        Of the node.
    """

    def __init__(self, db: Database, folder: DataFolder, settings: Settings) -> None:
        self._db, self._folder, self._settings = db, folder, settings
        s = settings.study
        self.times = Times(s.settle_s, s.boot_grace_s, s.max_open_s, retry.policy()["assemble"]["weak_images"])
        self._whole = frozenset(p.ae_title.strip() for p in settings.dicom.peer if p.sends == "study")
        self._charsets = charsets(settings)
        self.stacks = Stacks(folder.spool, self.times.weak_images)
        self._requires = any(rule.require for rule in settings.rule)
        self._continuous: dict[str, tuple[int, bool]] = {}
        self._required: dict[str, tuple[tuple[int, int], tuple[str, ...]]] = {}
        self._seen: dict[str, tuple[float, Seen]] = {}

    def facts(
        self,
        study: Study,
        carriers: Sequence[Carrier],
        processes: Sequence[Process],
        now: float,
        *,
        stacks: bool = True,
        deaf: float = 0.0,
    ) -> Facts:
        """Return what is known of one unfinished study; of its `stacks` only where that matters, or never.

        Until `deaf` nothing could be received.
        """
        senders = tuple(sender(c, processes, self._whole) for c in carriers)
        said = evidence.said(self._db, study.uid)
        reads = evidence.reads(self._db, study.uid)
        held = evidence.held(self._db, study.uid) if reads else {}
        seen = self._paces({c.calling for c in carriers if c.calling}, now, fresh=study.revision > 1)
        apart, lost = self._broken(study, carriers, senders, processes)
        broken = bool(apart or lost) or (bool(senders) and senders[-1].end == "aborted")
        facts = Facts(
            state="early" if study.state == "early" else "open",
            revision=study.revision,
            dropped=study.dropped,
            opened=study.opened,
            active=study.active,
            senders=senders,
            continuous=False,
            quiet=pace.quiet(seen, self._settings.study, broken=broken),
            steps=tuple(Step(_status(s.status), s.named, s.missing) for s in said.steps),
            unnamed=said.unnamed,
            available=said.available,
            counts=tuple(compare(read, held) for read in reads),
            required=self.required(study, carriers),
            doubted=pace.doubted(seen) if self._settings.study.pace == "learn" else frozenset(),
            deaf=deaf,
            apart=apart,
            lost=lost,
        )
        # every header is read for that: not where strong evidence decides anyway
        if stacks and study.state == "open" and not assemble.trusted(facts):
            looks = assemble.weak(facts, self.times.weak_images) is not None
            facts = replace(facts, continuous=looks and self._is_continuous(study))
        return facts

    def series(self, study: Study, carriers: Sequence[Carrier]) -> tuple[route.SeriesFacts, ...]:
        """Return the series of a study as rules see them: each by its first readable image."""
        by_association = {c.association: c for c in carriers}
        first: dict[str, route.SeriesFacts] = {}
        for row in studies.images(self._db, study.uid, study.upto):
            if row.series_uid in first:
                continue
            told = self.told(study, row, by_association.get(row.association))
            if told is not None:
                first[row.series_uid] = told
        return tuple(first.values())

    def told(self, study: Study, row: StoredInstance, carrier: Carrier | None) -> route.SeriesFacts | None:
        """Return what rules see of one image and of the association that brought it; None if it cannot be read."""
        calling, called = (carrier.calling, carrier.called) if carrier else ("", "")
        try:
            header = header_of(read_instance(self._folder.spool / row.entry, self._charsets.get(calling)))
        except UnreadableError as error:  # readable when it was indexed: the disk; the worker will say so
            _log.error("image unreadable", study=study.hash, entry=row.entry, reason=error.reason.code)
            return None
        return route.SeriesFacts(row.series_uid, header, calling, called)

    def required(self, study: Study, carriers: Sequence[Carrier]) -> tuple[str, ...]:
        """Return what matching rules still miss."""
        if not self._requires:
            return ()
        _, series = studies.counts(self._db, study.uid)
        known = self._required.get(study.uid)
        if known is None or known[0] != (study.revision, series):
            known = ((study.revision, series), route.missing(self._settings.rule, self.series(study, carriers)))
            self._required[study.uid] = known
        return known[1]

    def forget(self, study_uid: str) -> None:
        """Let go of what is remembered of a study."""
        self._continuous.pop(study_uid, None)
        self._required.pop(study_uid, None)
        self.stacks.forget(study_uid)

    def _broken(
        self, study: Study, carriers: Sequence[Carrier], senders: Sequence[Sender], processes: Sequence[Process]
    ) -> tuple[int, int]:
        """Return what broken associations have left open: see `apart` and `lost` of `Facts`."""
        fell = any(s.end == "aborted" for s in senders)
        apart = studies.apart(self._db, study.uid, carriers[-1].association) if fell else 0
        receivers = [p.name for p in processes if p.role in RECEIVING]
        since = study.opened - self._settings.study.quiet_s
        return apart, studies.lost(self._db, study.uid, {c.calling for c in carriers}, since, receivers)

    def _paces(self, names: set[str], now: float, *, fresh: bool) -> list[Seen]:
        """Return what is known of senders; `fresh` where an image that came late may just have taught something."""
        old = [n for n in names if fresh or n not in self._seen or not 0.0 <= now - self._seen[n][0] < _SEEN_S]
        if old:
            found = {s.sender: s for s in evidence.seen(self._db, now - retry.policy()["pace"]["days"] * _DAY_S, old)}
            self._seen.update({n: (now, found[n]) for n in old if n in found})
        return [self._seen[n][1] for n in sorted(names) if n in self._seen]

    def _is_continuous(self, study: Study) -> bool:
        known = self._continuous.get(study.uid)
        if known is None or known[0] != study.upto:
            known = (study.upto, self._measure(study))
            self._continuous[study.uid] = known
        return known[1]

    def _measure(self, study: Study) -> bool:
        """Say whether every series that could be a stack is one without gaps, and there is one.

        A study that names two patients is not worked on early: its correction may still be on its way.
        """
        named, left = corrections.identities(self._db, study.uid)
        if left or patients(named) > 1:
            return False
        series: dict[str, list[StoredInstance]] = {}
        for row in studies.images(self._db, study.uid, study.upto):
            series.setdefault(row.series_uid, []).append(row)
        found = [self.stacks.continuous(rows) for rows in series.values()]
        return any(found) and False not in found


def waiting_for(db: Database, folder: DataFolder, settings: Settings, study: Study, now: float) -> list[dict[str, Any]]:
    """Return what an unfinished study waits for, as `show` tells it: reason code, texts, and until when without news."""
    if study.state == "closed":
        return []
    processes = store.processes(db)
    boot = next((p.started for p in processes if p.role == "supervisor"), 0.0)
    gatherer = Gatherer(db, folder, settings)
    deaf = now if watermarks.read_state(folder.spool) else boot
    facts = gatherer.facts(study, studies.carriers(db, study.uid), processes, now, stacks=False, deaf=deaf)
    decision = assemble.decide(facts, gatherer.times, boot, now)
    return [
        {
            "what": w.reason.code,
            "detail": dict(w.reason.text),
            "until": datetime.fromtimestamp(w.until, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }
        for w in decision.waits
    ]


def compare(read: Read, held: Mapping[str, Held]) -> Count:
    """Set what a source counts against what we hold.

    It may count objects of a series that are no images here (screenshots among them), but none less than the images.
    """
    more = sum(max(0, n - (held[uid].objects if uid in held else 0)) for uid, n in read.series.items())
    fewer = any(read.series.get(uid, 0) < mine.images for uid, mine in held.items())
    steady = read.again - read.at >= retry.policy()["inquire"]["apart_s"]
    return Count(read.source, more, not more and not fewer, steady)


def _status(status: str) -> assemble.StepStatus:
    """Return the status of a step; one that says something else has not ended."""
    if status == "COMPLETED":
        return "COMPLETED"
    return "DISCONTINUED" if status == "DISCONTINUED" else "IN PROGRESS"


def sender(carrier: Carrier, processes: Sequence[Process], whole: frozenset[str] = frozenset()) -> Sender:
    """Return one association as the decision sees it; one whose receiver is gone will never end by itself."""
    alive = any(p.name == carrier.receiver and p.role in RECEIVING and p.started <= carrier.opened for p in processes)
    end: assemble.End = "open" if alive else "aborted"
    if carrier.how is not None:
        end = "released" if carrier.how == "released" else "aborted"
    return Sender(end, carrier.images, carrier.calling in whole, carrier.last, carrier.ended or carrier.last)
