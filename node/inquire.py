"""Asking senders how many images the series of a study have there.

One thread for each sender that has a query port: a source that does not answer keeps neither the coordinator nor other
sources waiting. Answers become rows; the coordinator learns which studies have a new one.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from config.settings import Rule, Settings
from dicom_io.errors import NetworkError
from dicom_io.scu import Peer, Timeouts
from dicom_io.scu_query import FoundSeries, find_instances, find_series
from node import retry, route
from node.assemble import Facts
from node.clock import surviving
from node.store import Database, evidence
from node.store.rows import Carrier, Held, Read, Study

_log = structlog.get_logger()

Ask = Callable[[Peer, str], Sequence[FoundSeries]]


def next_question(read: Read | None, equal: bool, over: float) -> float | None:
    """Return when a source is to be asked about a study (s since the epoch), or None if its answer stands.

    Parameters
    ----------
    read : Read or None
        Its newest answer.
    equal : bool
        Whether that is what we hold.
    over : float
        When the study's last image came or its last association ended.
    """
    numbers = retry.policy()["inquire"]
    first: float = over + numbers["first_s"]
    if read is None or (read.again < over and not equal):
        return first
    if equal:
        steady = read.again - read.at >= numbers["apart_s"]
        return None if steady else max(first, float(read.at + numbers["apart_s"]))
    waited: float = max(read.again - over, numbers["first_s"])
    more: float = min(waited * (numbers["factor"] - 1), numbers["cap_s"])
    return read.again + more


def images(
    found: Sequence[FoundSeries], held: Mapping[str, Held], ours: frozenset[str], rules: Sequence[Rule]
) -> dict[str, int]:
    """Return how many images each series has, without results, documents and what we made ourselves."""
    return {
        s.series_instance_uid: s.images or 0
        for s in found
        if s.series_instance_uid not in ours
        and (route.counts(s.modality, rules) or (s.series_instance_uid in held and held[s.series_instance_uid].images))
    }  # fmt: skip


def ask(peer: Peer, study_uid: str) -> tuple[FoundSeries, ...]:
    """Ask a source; where it does not count, its instances are listed.

    Raises
    ------
    NetworkError
        If it does not answer.
    """
    timeouts = Timeouts(connect_s=5.0, associate_s=5.0, answer_s=retry.policy()["inquire"]["answer_s"])
    counted = []
    for one in find_series(peer, study_uid, timeouts):
        number = one.images
        if number is None:
            number = len(find_instances(peer, study_uid, one.series_instance_uid, None, timeouts))
        counted.append(FoundSeries(one.series_instance_uid, one.modality, number))
    return tuple(counted)


class Source:
    """One sender that can be asked, and what it is to be asked about.

    Parameters
    ----------
    db : Database
        Where its answers go.
    title : str
        Under which it sends.
    peer : Peer
        Under which it answers.
    rules : Sequence[Rule]
        They decide what counts as an image.
    wake, how
        As for `Inquirer`.
    """

    def __init__(
        self, db: Database, title: str, peer: Peer, rules: Sequence[Rule], wake: Callable[[str], None], how: Ask
    ) -> None:
        self.title = title
        self._db, self._peer, self._rules, self._wake, self._how = db, peer, rules, wake, how
        self._agenda: dict[str, float] = {}
        self._asking = ""
        self._changed = threading.Condition()
        self._failures = 0
        self._down_since = self._down_until = 0.0

    def plan(self, study_uid: str, at: float | None) -> None:
        """Ask about a study then; None: not any more."""
        with self._changed:
            if at is None:
                self._agenda.pop(study_uid, None)
            elif study_uid != self._asking and self._agenda.get(study_uid) != at:
                self._agenda[study_uid] = at
                self._changed.notify()

    def due(self) -> float | None:
        """Return when the next question is due."""
        with self._changed:
            return max(min(self._agenda.values()), self._down_until) if self._agenda else None

    def step(self, now: float) -> None:
        """Ask the question that has been due for longest."""
        with self._changed:
            due = [(at, uid) for uid, at in self._agenda.items() if at <= now]
            if not due or self._down_since <= now < self._down_until:  # before since: the clock was set back
                return
            _, study_uid = min(due)
            del self._agenda[study_uid]
            self._asking = study_uid
        try:
            found = self._how(self._peer, study_uid)
            self._failures = 0
            held, ours = evidence.held(self._db, study_uid), evidence.authored_series(self._db, study_uid)
            evidence.counted(self._db, study_uid, self.title, now, images(found, held, ours, self._rules))
        except NetworkError as error:
            self._failed(error, now)
        finally:
            self._asking = ""
            self._wake(study_uid)  # whatever came of it, what is next is planned there

    def run(self, stop: threading.Event) -> None:
        """Ask until told to stop."""
        tick = surviving("inquire", lambda: self.step(time.time()))
        gap_s = retry.policy()["inquire"]["gap_s"]
        while not stop.wait(gap_s):
            tick()
            due = self.due()
            wait_s = 1.0 if due is None else min(1.0, due - time.time())
            with self._changed:
                if wait_s > 0:
                    self._changed.wait(wait_s)

    def _failed(self, error: NetworkError, now: float) -> None:
        numbers = retry.policy()["inquire"]
        backoff = retry.Backoff(numbers["down_first_s"], 2.0, numbers["down_cap_s"], numbers["jitter"])
        self._failures += 1
        wait_s = backoff.wait(self._failures, random.random())  # noqa: S311 - spreads waits
        self._down_since, self._down_until = now, now + wait_s
        _log.warning("source.silent", ae_title=self.title, reason=error.reason.code, again_in_s=round(wait_s))


class Inquirer:
    """All senders that can be asked.

    Parameters
    ----------
    db : Database
        The index.
    settings : Settings
        Of the node.
    wake : Callable[[str], None]
        Told of every study with a new answer, from any thread.
    how : Ask
        Asks one source about one study.
    """

    def __init__(self, db: Database, settings: Settings, wake: Callable[[str], None], how: Ask = ask) -> None:
        calling = settings.dicom.ae_titles[0]
        self._db = db
        self.sources = {
            p.ae_title.strip(): Source(
                db,
                p.ae_title.strip(),
                Peer(p.host, p.query_port, p.query_ae_title or p.ae_title.strip(), calling, p.tls),
                settings.rule,
                wake,
                how,
            )
            for p in settings.dicom.peer
            if p.query_port is not None
        }

    def consider(self, study: Study, carriers: Sequence[Carrier], facts: Facts | None, now: float) -> None:
        """Plan the next question about a study to each of its senders.

        None is asked while images are arriving, when they have not for long, or without `facts`: the study is closed.
        """
        asked = {c.calling for c in carriers} & set(self.sources)
        idle = facts is None or any(s.end == "open" for s in facts.senders)
        if not asked:
            return
        reads = {r.source: r for r in evidence.reads(self._db, study.uid)}
        for name in asked:
            if facts is None or idle or now - facts.active > retry.policy()["inquire"]["recent_s"]:
                self.sources[name].plan(study.uid, None)
                continue
            over = max([facts.active, *(s.ended for s in facts.senders)])
            equal = any(c.equal for c in facts.counts if c.source == name)
            self.sources[name].plan(study.uid, next_question(reads.get(name), equal, over))

    def start(self, stop: threading.Event) -> list[threading.Thread]:
        """Ask from threads of their own until told to stop; return them."""
        threads = [
            threading.Thread(target=source.run, args=(stop,), daemon=True, name=f"inquire {name}")
            for name, source in self.sources.items()
        ]
        for thread in threads:
            thread.start()
        return threads
