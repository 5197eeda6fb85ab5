"""One store request: its body becomes objects, each made durable as one that came by C-STORE is.

Nothing here waits for the network: the bytes are brought by `node.web.app`, in a thread of the request.
"""

import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from config.settings import Web
from dicom_io.arrival import Arrival
from dicom_io.errors import UnreadableError
from dicom_io.multipart import MediaType, Reader, boundary_of, media_type
from dicom_io.scp_types import AssociationEvent, AssociationInfo, EventKind, RefusedObject, StoredObject
from dicom_io.status import Answer
from dicom_io.stow import Incoming, Stored
from node.intake import Intake
from node.reasons import REASONS
from node.web.auth import RefusedError

CALLED = "STOW-RS"
"""The called title of what came over the web."""
_DICOM = "application/dicom"
BAD_IN_A_ROW = 100
"""After so many refused objects one after the other nothing good is expected of a request."""
_BINARY = ("", "binary", "8bit", "7bit")

_NOT_BAD = (Answer.SUCCESS, Answer.OUT_OF_RESOURCES)


@dataclass(frozen=True, slots=True)
class _Intake:
    """What objects are handed to; see `dicom_io.admit.Taker`."""

    on_stored: Callable[[StoredObject], int]
    on_refused: Callable[[RefusedObject], None]
    on_trouble: Callable[[AssociationInfo, OSError], None]


class Transaction:
    """The objects of one request; each method may block.

    Parameters
    ----------
    intake : Intake
        Makes objects durable.
    limits : Web
        How much one request may bring.
    content : MediaType
        Of the body: ``multipart/related`` of DICOM files, or one DICOM file.
    who : AssociationInfo
        Who sends.
    study : str
        The only study that its objects may belong to; empty: any.
    go_on : Callable[[], None]
        Asked before each object; raises `RefusedError` where the request is to end.

    Raises
    ------
    RefusedError
        415 for another kind of body, 400 without a usable boundary.
    """

    def __init__(
        self,
        intake: Intake,
        limits: Web,
        content: MediaType,
        who: AssociationInfo,
        study: str,
        go_on: Callable[[], None] = lambda: None,
    ) -> None:
        self._intake, self._limits, self._study, self._go_on = intake, limits, study, go_on
        self._lock = threading.Lock()
        self.who = who
        self.results: list[Stored] = []
        self.bytes = 0
        self._object: Incoming | None = None
        self._begun = False
        """Whether there is an object of which nothing has become yet."""
        self._taker = _Intake(intake.stored, intake.refused, lambda who, error: intake.trouble.met(who.id, error))
        self._reader: Reader | None = None
        if content.name == "multipart/related":
            if content.parameters.get("type", _DICOM).lower() != _DICOM:
                raise RefusedError(415, REASONS("web-media-type"))
            try:
                self._reader = Reader(boundary_of(content), self)
            except UnreadableError as error:
                raise RefusedError(400, error.reason) from error
        elif content.name != _DICOM:
            raise RefusedError(415, REASONS("web-media-type"))
        intake.association(AssociationEvent("opened", who))

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the body.

        Raises
        ------
        RefusedError
            400, 408, 413 or 415.
        """
        with self._lock:
            self._feed(piece)

    def _feed(self, piece: bytes) -> None:
        self.bytes += len(piece)
        if self.bytes > self._limits.max_request_mb << 20:
            raise RefusedError(413, REASONS("web-too-large", limit="web.max_request_mb"))
        try:
            if self._reader is not None:
                self._reader.feed(piece)
                return
        except UnreadableError as error:
            raise RefusedError(400, error.reason) from error
        if self._object is None:
            self.begin({})
        self.data(memoryview(piece))

    def finish(self) -> None:
        """Take the end of the body.

        Raises
        ------
        RefusedError
            400 if it is not whole, or holds nothing.
        """
        with self._lock:
            try:
                if self._reader is not None:
                    self._reader.close()
                elif self._object is not None:
                    self.end()
            except UnreadableError as error:
                raise RefusedError(400, error.reason) from error
            if not self.results:
                raise RefusedError(400, REASONS("web-empty"))
            self._ended("released")

    def abort(self) -> None:
        """Give up: the request broke off, or was refused. What was stored stays stored."""
        with self._lock:  # what is being stored comes to its end first
            if self._object is not None:
                self._object.discard()
                self._object = None
            self._ended("aborted", self._begun)

    def _ended(self, kind: EventKind, underway: int = 0) -> None:
        refused = underway + sum(r.status != Answer.SUCCESS for r in self.results)
        self._intake.association(AssociationEvent(kind, self.who, refused=refused))

    # what the reader of the multipart message tells

    def begin(self, headers: Mapping[str, str]) -> None:
        """Begin an object."""
        self._begun = True
        self._go_on()
        last = self.results[-BAD_IN_A_ROW:]
        if len(last) == BAD_IN_A_ROW and not any(r.status in _NOT_BAD for r in last):
            raise RefusedError(400, REASONS("web-all-refused", count=BAD_IN_A_ROW))
        content = media_type(headers.get("content-type", _DICOM))
        plain = headers.get("content-transfer-encoding", "").lower() in _BINARY and "content-encoding" not in headers
        if content is None or content.name != _DICOM or not plain:
            raise RefusedError(415, REASONS("web-media-type"))
        if len(self.results) >= self._limits.max_objects:
            raise RefusedError(413, REASONS("web-too-large", limit="web.max_objects"))
        spool = self._intake.spool
        self._object = Incoming(Arrival(spool.incoming, spool.gate.check_room))

    def data(self, piece: memoryview) -> None:
        """Take some bytes of the object."""
        if self._object is not None:
            self._object.write(piece)
            if self._object.bytes > self._limits.max_object_mb << 20:
                raise RefusedError(413, REASONS("web-too-large", limit="web.max_object_mb"))

    def end(self) -> None:
        """Judge and keep the object."""
        if self._object is not None:
            try:
                self.results.append(self._object.finish(self.who, self._study, self._taker))
            finally:
                self._object.discard()
                self._object, self._begun = None, False


def new_association(client: str, peer: str, certificate: str) -> AssociationInfo:
    """Return who sends, under a new number."""
    return AssociationInfo(secrets.token_hex(8), client, CALLED, peer, certificate)


def summary(transaction: Transaction) -> dict[str, Any]:
    """Return what a log line may say about a request."""
    stored = sum(r.status == Answer.SUCCESS for r in transaction.results)
    return {"stored": stored, "refused": len(transaction.results) - stored, "bytes": transaction.bytes}
