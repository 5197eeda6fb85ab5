"""The fast lane: jobs about single images and series, enqueued before anybody knows whether their study is complete.

A single image waits for nothing. A series of slices has to look complete, and then:

* a stack of enough slices, without gaps. A prefix of an ascending transfer is one too, so beside that
* the association that brought its last image was released, carried enough images to be a transfer of series and not of
  single slices, and nothing came for ``study.settle_s``; or
* no image of it came for ``[quality] silent_s`` (policy.toml), whatever the association does: a scanner may send series
  after series, or the slices of a scan while it goes on, on one association.

An association that broke off says nothing: what is left of the series comes again. Images in Acquisition (0020,1002) says
nothing either, because an acquisition may fill several series. A series that never looks complete, and one of few slices,
is looked at when its study closes, and so is everything of a study while nobody can say whose it is. Each further image of a
series makes another job, and waits twice as long for the next.

Nothing is remembered: `node.store.pieces` says what is left to do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from config.settings import Settings
from node import calling, retry, route
from node.assemble import Sender
from node.document import unfit
from node.facts import Gatherer, sender
from node.identity import patients
from node.reasons import REASONS
from node.store import Database, corrections, pieces, studies
from node.store.rows import Carrier, Piece, Planned, Process, Study
from pipeline import registry

_log = structlog.get_logger()

PRIORITY = route.PRIORITIES["stat"]
"""The technologist waits."""


@dataclass(frozen=True, slots=True)
class Waits:
    """The waits of a series (s), and how many images make an association a transfer of series."""

    settle_s: float
    silent_s: float
    longest_s: float
    images: int


def ready_at(last: float, by: Sender | None, before: int, waits: Waits) -> float | None:
    """Return when a stack without gaps is taken for the whole series; None: not before its study closes.

    Parameters
    ----------
    last : float
        Its last image (s since the epoch).
    by : Sender or None
        The association that brought it.
    before : int
        Jobs about it that one more image has overtaken.
    waits : Waits
        How long to wait.
    """
    if by is not None and by.end == "aborted":
        return None
    released = by is not None and by.end == "released" and by.images >= waits.images
    begin, wait_s = (max(last, by.ended), waits.settle_s) if released and by is not None else (last, waits.silent_s)
    return begin + min(wait_s * 2.0 ** min(before, 30), max(waits.longest_s, wait_s))


class FastLane:
    """Enqueues what is left to do about single images and series.

    Parameters
    ----------
    db : Database
        The index.
    settings : Settings
        Of the node.
    gatherer : Gatherer
        Reads headers.
    """

    def __init__(self, db: Database, settings: Settings, gatherer: Gatherer) -> None:
        self._db, self._rules, self._gatherer = db, settings.rule, gatherer
        self._pipelines = calling.pipelines(settings.rule, "fast")
        of = {kind: [n for n in self._pipelines if registry.subject(n) == kind] for kind in ("series", "instance")}
        self._series, self._instances = (
            frozenset(m for n in of[kind] for m in registry.modalities(n)) for kind in ("series", "instance")
        )
        numbers, times = retry.policy(), settings.study
        self._waits = Waits(
            times.settle_s, float(numbers["quality"]["silent_s"]), times.quiet_s, numbers["assemble"]["weak_images"]
        )
        self._plans: dict[str, dict[tuple[str, int], route.Plan]] = {}

    def advance(
        self,
        study: Study,
        carriers: Sequence[Carrier],
        processes: Sequence[Process],
        now: float,
        kind: registry.Subject,
    ) -> float | None:
        """Enqueue what need not wait of the pieces of one kind.

        Return when a series is to be looked at again (s since the epoch), if no news come.
        """
        left = [x for x in self._left(study) if registry.subject(x[1]) == kind]
        if not left:
            return None
        identities, behind = corrections.identities(self._db, study.uid)
        if behind or patients(identities) > 1:
            return None
        plans: list[Planned] = []
        again: list[float] = []
        by = {c.association: sender(c, processes) for c in carriers}
        for piece, name, before in left:
            if kind == "series":
                at = self._ready_at(study, piece, by.get(piece.newest.again or piece.newest.association), before)
                if at is None or at > now:
                    again += [] if at is None else [at]
                    continue
                if not self._continuous(study, piece):
                    continue
            plans += self._planned(study, carriers, piece, name)
        if plans and pieces.enqueue(self._db, study, plans, now):
            _log.info("pieces.queued", study=study.hash, jobs=[p.pipeline for p in plans])
        return min(again, default=None)

    def left(self, study: Study, carriers: Sequence[Carrier]) -> tuple[Planned, ...]:
        """Return what is left to do of a study that closes. What cannot be read fails, and is not passed over."""
        return tuple(
            p for piece, name, _ in self._left(study) for p in self._planned(study, carriers, piece, name, anyway=True)
        )

    def speaks(self, study: Study, carriers: Sequence[Carrier]) -> bool:
        """Say whether rules ask for something about single images or series of a study."""
        found = [self._plan(study, carriers, piece) for piece in self._pieces(study)]
        return any(plan is not None and set(plan.pipelines) & set(self._pipelines) for plan in found)

    def forget(self, study_uid: str) -> None:
        """Let go of what is remembered of a study."""
        self._plans.pop(study_uid, None)

    def _pieces(self, study: Study) -> tuple[Piece, ...]:
        if not self._pipelines:
            return ()
        return pieces.pieces(self._db, study.uid, series=self._series, instances=self._instances)

    def _left(self, study: Study) -> list[tuple[Piece, str, int]]:
        """Return every piece and pipeline of which no job stands, each with the number of jobs that there were."""
        found = self._pieces(study)
        made = pieces.made(self._db, study) if found else {}
        left = []
        for piece in found:
            kind = "instance" if piece.subject == piece.newest.sop_uid else "series"
            for name in self._pipelines:
                if registry.subject(name) == kind and piece.newest.modality in registry.modalities(name):
                    upto, before = made.get((name, piece.subject), (0, 0))
                    left += [(piece, name, before)] if upto < piece.upto else []
        return left

    def _ready_at(self, study: Study, piece: Piece, by: Sender | None, before: int) -> float | None:
        # stamps of single images do not move when the clock is set; that of the study does
        last = study.active if piece.upto == study.upto else min(piece.newest.received, study.active)
        return ready_at(last, by, before, self._waits)

    def _continuous(self, study: Study, piece: Piece) -> bool:
        rows = studies.images(self._db, study.uid, study.upto, [piece.subject])
        return bool(self._gatherer.stacks.continuous(rows))

    def _planned(
        self, study: Study, carriers: Sequence[Carrier], piece: Piece, name: str, *, anyway: bool = False
    ) -> list[Planned]:
        """Return the job of a pipeline about a piece, if rules that match the piece itself ask for it.

        Nobody knows what they say of one that cannot be read now: there is a job only if there has to be one `anyway`.
        """
        plan = self._plan(study, carriers, piece)
        if (plan is None and not anyway) or (plan is not None and name not in plan.pipelines):
            return []
        send_to = plan.destinations if plan is not None and name in plan.live else {}
        document = unfit(name, REASONS("not-run-yet"), piece.subject)
        of = (piece.newest.series_uid,)
        return [Planned(name, of, send_to, document, priority=PRIORITY, subject=piece.subject, upto=piece.upto)]

    def _plan(self, study: Study, carriers: Sequence[Carrier], piece: Piece) -> route.Plan | None:
        """Return what rules say of a piece by the header of its first image; None if that cannot be read."""
        known = self._plans.setdefault(study.uid, {})
        key = (piece.subject, piece.first.id)
        if key not in known:
            carrier = next((c for c in carriers if c.association == piece.first.association), None)
            told = self._gatherer.told(study, piece.first, carrier)
            if told is None:
                return None
            known[key] = route.plan(self._rules, (told,))
        return known[key]
