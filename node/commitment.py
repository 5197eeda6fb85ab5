"""Storage commitment: an archive's word that it keeps what it was sent.

For our own deliveries it is a proof of arrival. For senders the node is only a messenger: a scanner deletes its images on
success, and this node is no archive, so nothing is reported as committed but what the archive has itself committed.

Answers are matched by Transaction UID, whenever and on whichever association they come; an archive that does not answer
is asked again as a new transaction, and its late answer to the old one still counts.
"""

import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from config.settings import Destination, Peer, Settings
from dicom_io import scu
from dicom_io.errors import NetworkError, UnreadableError
from dicom_io.notices import (
    CommitmentRequest,
    CommitmentResult,
    NoticeStatus,
    Reference,
    read_commitment_request,
    read_commitment_result,
    read_notice,
)
from dicom_io.scu_notices import report_commitment, request_commitment
from node import alarm, retry
from node.failpoint import passing
from node.notices import requesters
from node.reasons import REASONS
from node.store import Database, commitments
from node.store.commitments import Transaction
from node.store.rows import Delivery, StoredArtifact
from node.transport import peer_of

_log = structlog.get_logger()


def new_transaction() -> str:
    """Return a new Transaction UID."""
    return f"2.25.{uuid.uuid4().int}"


class Archive:
    """One destination that is asked for commitment.

    Parameters
    ----------
    db : Database
        The rows.
    spool : Path
        What paths of notices are relative to.
    destination : Destination
        Whom to ask.
    calling : str
        Our AE title.
    now : Callable[[], float]
        The clock (s since the epoch).
    new_uid : Callable[[], str]
        Makes Transaction UIDs.
    """

    def __init__(
        self, db: Database, spool: Path, destination: Destination, calling: str, *,
        now: Callable[[], float] = time.time, new_uid: Callable[[], str] = new_transaction,
    ) -> None:  # fmt: skip
        self._db, self._spool, self._name = db, spool, destination.name
        self._peer = peer_of(destination, calling)
        self._now, self._new_uid = now, new_uid

    def confirm(self, delivery: Delivery, objects: Sequence[StoredArtifact]) -> frozenset[str] | None:
        """Return which objects of a delivery the archive has committed; None: it has not answered yet.

        A delivery that was sent again is asked about again, and so is one whose answer has been given here.

        Raises
        ------
        NetworkError
            As `request_commitment`.
        """
        references = tuple(Reference(a.sop_class, a.sop_uid) for a in objects)
        transactions = commitments.of_delivery(self._db, delivery)
        for row in transactions:
            result = None if row.result is None else self.read(row.result)
            if result is not None:
                return self._committed(row, references, result)
        now, patience = self._now(), float(retry.policy()["commitment"]["answer_s"])
        if any(t.state == "asked" and now - (t.asked or 0.0) < patience for t in transactions):
            return None
        if any(t.state == "asked" for t in transactions):
            self.silent()
        uid = self._new_uid()
        commitments.begin(self._db, self._name, uid, delivery.id, now)
        result = self.request(uid, references)
        commitments.asked(self._db, uid, now + patience)
        if result is None:
            return None
        return self._committed(Transaction(uid, self._name, delivery_id=delivery.id), references, result)

    def request(self, transaction_uid: str, references: Sequence[Reference]) -> CommitmentResult | None:
        """Ask; return the answer if it comes at once."""
        here_s = float(retry.policy()["commitment"]["here_s"])
        result = request_commitment(self._peer, transaction_uid, references, wait_s=here_s)
        passing("commit.asked")
        _log.info("commitment.asked", destination=self._name, objects=len(references), answered=result is not None)
        return result

    def read(self, entry: str) -> CommitmentResult | None:
        """Read an answer that the receiver has kept; None if that is not possible any more."""
        try:
            return read_commitment_result(read_notice(self._spool / entry))
        except (UnreadableError, OSError) as error:
            _log.error("notice.unreadable", entry=entry, error=type(error).__name__)
            return None

    def silent(self) -> None:
        """Call a person: requests are taken and not answered."""
        alarm.ring(self._db, REASONS("commitment-unanswered", archive=self._name), self._name, self._now())

    def heard(self) -> None:
        """Note that an answer has come."""
        alarm.quieten(self._db, "commitment-unanswered", self._name, self._now())

    def _committed(self, row: Transaction, references: Sequence[Reference], result: CommitmentResult) -> frozenset[str]:
        failed = result.missing(references)
        self.heard()
        commitments.conclude(self._db, row, failed, self._now())
        _log.info("commitment.answered", destination=self._name, objects=len(references), failed=len(failed))
        return frozenset(r.sop_instance_uid for r in references) - frozenset(failed)


class Messenger:
    """Passes senders' requests on to the archive, and its answers back.

    Parameters
    ----------
    db : Database
        The rows.
    spool : Path
        What paths of notices are relative to.
    settings : Settings
        Name the archive and the senders.
    archive : Destination
        The archive.
    now : Callable[[], float]
        The clock (s since the epoch).
    new_uid : Callable[[], str]
        Makes Transaction UIDs.
    chance : Callable[[], float]
        Uniform in 0..1; spreads the waits.
    """

    def __init__(
        self, db: Database, spool: Path, settings: Settings, archive: Destination, *,
        now: Callable[[], float] = time.time, new_uid: Callable[[], str] = new_transaction,
        chance: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        self._db, self._spool, self._name = db, spool, archive.name
        self._archive = Archive(db, spool, archive, settings.dicom.ae_titles[0], now=now, new_uid=new_uid)
        self._sender = requesters(settings)
        self._now, self._new_uid, self._chance = now, new_uid, chance

    def ask(self) -> bool:
        """Take one step towards the archive; False if there is none to take."""
        now = self._now()
        if row := commitments.interrupted(self._db, self._name):
            commitments.again(self._db, row, self._new_uid(), now)
        elif row := commitments.answered(self._db, self._name):
            self._take(row)
        elif row := commitments.due(self._db, self._name, "asked", now):
            self._overdue(row)
        elif row := commitments.due(self._db, self._name, "waiting", now):
            self._request(row)
        else:
            return commitments.adopt(self._db, self._name, self._new_uid(), now)
        return True

    def tell(self) -> bool:
        """Tell one sender what came of its request; False if nobody is to be told now."""
        row = commitments.untold(self._db, self._now())
        if row is None:
            return False
        peer, asked = self._sender(row.calling or ""), self._asked(row)
        if peer is None or asked is None:  # the configuration has changed, or the disk has lost the request
            self._give_up(row)
            return True
        try:
            report_commitment(_address(peer, row), asked.transaction_uid, asked.references, row.failed or {})
        except NetworkError as error:
            policy = retry.policy()["commitment"]
            if row.attempts + 1 >= int(policy["tells"]):
                self._give_up(row)
                return True
            wait_s = retry.Backoff.of("commitment").wait(row.attempts + 1, self._chance())
            commitments.settle(self._db, row, row.state, self._now() + wait_s, error.reason.as_json())
            _log.warning("commitment.not-told", sender=row.calling, reason=error.reason.code)
            return True
        passing("commit.reported")
        commitments.settle(self._db, row, "told")
        alarm.quieten(self._db, "commitment-not-passed-on", row.calling or "", self._now())
        _log.info("commitment.told", sender=row.calling, objects=len(asked.references), failed=len(row.failed or {}))
        return True

    def _request(self, row: Transaction) -> None:
        asked = self._asked(row)
        if asked is None:
            commitments.settle(self._db, row, "dead")
            return
        now, policy = self._now(), retry.policy()["commitment"]
        commitments.asking(self._db, row, now)
        try:
            result = self._archive.request(row.transaction_uid, asked.references)
        except NetworkError as error:
            self._failed(row, asked, error)
            return
        commitments.asked(self._db, row.transaction_uid, now + float(policy["answer_s"]))
        if result is not None:
            self._conclude(row, asked, result)

    def _failed(self, row: Transaction, asked: CommitmentRequest, error: NetworkError) -> None:
        """Ask an archive that says nothing again; one that says no has committed nothing."""
        if not error.retryable or self._too_old(row):
            self._nothing(row, asked)
            return
        wait_s = retry.Backoff.of("commitment").wait(row.attempts + 1, self._chance())
        tried = replace(row, attempts=row.attempts + 1)
        commitments.again(self._db, tried, self._new_uid(), self._now() + wait_s, error.reason.as_json())
        _log.warning("commitment.not-asked", destination=self._name, reason=error.reason.code)

    def _overdue(self, row: Transaction) -> None:
        self._archive.silent()
        asked = self._asked(row)
        if asked is None:
            commitments.settle(self._db, row, "dead")
        elif self._too_old(row):
            self._nothing(row, asked)
        else:
            commitments.again(self._db, row, self._new_uid(), self._now())

    def _too_old(self, row: Transaction) -> bool:
        return self._now() - (row.received or 0.0) > float(retry.policy()["commitment"]["give_up_s"])

    def _take(self, row: Transaction) -> None:
        asked, result = self._asked(row), None if row.result is None else self._archive.read(row.result)
        if asked is None:
            commitments.settle(self._db, row, "dead")
        elif result is None:
            self._nothing(row, asked)
        else:
            self._conclude(row, asked, result)

    def _conclude(self, row: Transaction, asked: CommitmentRequest, result: CommitmentResult) -> None:
        failed = result.missing(asked.references)
        self._archive.heard()
        commitments.conclude(self._db, row, failed, self._now())
        _log.info("commitment.answered", destination=self._name, objects=len(asked.references), failed=len(failed))

    def _nothing(self, row: Transaction, asked: CommitmentRequest) -> None:
        """Let the sender be told that nothing of its request was committed."""
        none = dict.fromkeys((r.sop_instance_uid for r in asked.references), int(NoticeStatus.PROCESSING_FAILURE))
        commitments.conclude(self._db, row, none, self._now())
        _log.warning("commitment.refused", destination=self._name, objects=len(none))

    def _give_up(self, row: Transaction) -> None:
        commitments.settle(self._db, row, "dead")
        reason = REASONS("commitment-not-passed-on", sender=row.calling or "", archive=self._name)
        alarm.ring(self._db, reason, row.calling or "", self._now())

    def _asked(self, row: Transaction) -> CommitmentRequest | None:
        try:
            return read_commitment_request(read_notice(self._spool / (row.request or "")))
        except (UnreadableError, OSError) as error:
            _log.error("notice.unreadable", entry=row.request, error=type(error).__name__)
            return None


def _address(peer: Peer, row: Transaction) -> scu.Peer:
    """Return where to tell a sender; it knows us by the title that it called."""
    return scu.Peer(peer.host, peer.commit_port or 0, peer.ae_title.strip(), row.called or "", peer.tls)
