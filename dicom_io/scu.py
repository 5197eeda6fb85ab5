"""The sender: C-STORE and C-ECHO as an SCU, with an outcome for everything that can happen; how associations are opened.

Nothing of the network library is raised. Two of its faults are worked round, both from event handlers:

* its reactor thread may take an answer away from the call that waits for it (pynetdicom issues 435 and 875, still in
  3.0.4): `_guard`;
* a peer that writes its answer in two pieces under Nagle's algorithm costs 40 ms an object unless each is acknowledged
  at once: ``TCP_QUICKACK``.

References
----------
PS3.4 annex B (storage); PS3.8 section 9.3.4 (rejection).
"""

import contextlib
import errno
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, cast

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext, build_context, build_role
from pynetdicom.transport import AssociationSocket

from dicom_io.contexts import INTERCHANGEABLE, PDU_BYTES, VERIFICATION
from dicom_io.errors import NetworkError, TlsError
from dicom_io.limits import LIMITS
from dicom_io.reason import Reason
from dicom_io.reasons import REASONS
from dicom_io.status import Outcome, judge
from dicom_io.tls import ClientTls, Secured, secure, why

_CONTEXTS = 128
"""Presentation contexts of one association (PS3.8 section 9.3.2.2: odd numbers 1 to 255)."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another application entity, the title under which we call it, and how to reach it by TLS; None: without."""

    host: str
    port: int
    ae_title: str
    calling: str
    tls: ClientTls | None = None


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait (seconds). An answer may take `answer_s` plus the object's bytes at `slowest` bytes a second."""

    connect_s: float = 10.0
    associate_s: float = 15.0
    answer_s: float = 30.0
    slowest: float = 256e3


@dataclass(frozen=True, slots=True)
class StoreReport:
    """What became of one file.

    Parameters
    ----------
    status : int or None
        The peer's answer; None if none came, or if the file was not sent.
    reason : Reason or None
        None exactly if it was delivered without remark.
    """

    path: Path
    sop_instance_uid: str
    status: int | None
    outcome: Outcome
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class _Item:
    path: Path
    sop_class: str
    sop_instance: str
    syntax: str
    bytes: int


def store(peer: Peer, paths: Sequence[Path], timeouts: Timeouts = Timeouts()) -> Iterator[StoreReport]:
    """Send files in their order; yield one report each, as soon as it is known.

    One context is proposed for each pair of SOP class and transfer syntax, so that a refusal is attributable. Data sets
    without compressed pixels have a second one in the other plain encoding, those with RLE one without it, and are
    re-encoded if only that is accepted.
    After a lost answer a new association is opened for what is left.
    """
    items: list[_Item] = []
    for path in paths:
        try:
            items.append(_item(path))
        except Exception:  # noqa: BLE001 - whatever pydicom says of it, the file cannot be sent
            yield StoreReport(path, "", None, Outcome.DEAD, REASONS("file-unreadable"))
    while items:
        sent = 0
        for report in _send(peer, _batch(items), timeouts):
            sent += 1
            yield report
        items = items[sent:]


def echo(peer: Peer, timeouts: Timeouts = Timeouts()) -> float:
    """Verify that `peer` answers; return how long the answer took (seconds).

    Raises
    ------
    NetworkError
        With the reason why it does not.
    """
    association = associate(peer, [build_context(VERIFICATION)], timeouts)
    begun = time.perf_counter()
    try:
        status = association.send_c_echo().get("Status")
    except (ValueError, RuntimeError):  # the context was refused, or the association is gone
        status = None
    taken = time.perf_counter() - begun
    release(association)
    row = judge(status)
    if row.code is not None:
        raise NetworkError(_reason(row.code, status), retryable=row.outcome is Outcome.RETRY)
    return taken


def _item(path: Path) -> _Item:
    meta = read_file_meta_info(path)
    return _Item(
        path,
        str(meta.MediaStorageSOPClassUID),
        str(meta.MediaStorageSOPInstanceUID),
        str(meta.TransferSyntaxUID),
        path.stat().st_size,
    )


def _batch(items: Sequence[_Item]) -> list[_Item]:
    """Return the longest beginning of `items` that one association has contexts for."""
    pairs: set[tuple[str, str]] = set()
    for count, item in enumerate(items):
        pairs |= {(item.sop_class, syntax) for syntax in _encodings(item.syntax)}
        if len(pairs) > _CONTEXTS:
            return list(items[:count])
    return list(items)


def _encodings(syntax: str) -> tuple[str, ...]:
    """Return the syntaxes in which a data set of `syntax` can leave, its own first."""
    if syntax == RLELossless:
        return syntax, str(ExplicitVRLittleEndian)
    others = sorted(INTERCHANGEABLE - {syntax, "1.2.840.10008.1.2.1.99"}) if syntax in INTERCHANGEABLE else []
    return (syntax, *others)


def _encoded(item: _Item, syntax: str) -> Path | Dataset:
    """Return what leaves in `syntax`: the file as it stands, or a data set that is encoded anew; the same object."""
    if syntax == item.syntax:
        return item.path
    ds = dcmread(item.path)
    if item.syntax == RLELossless:
        ds.decompress(as_rgb=False, generate_instance_uid=False)
    return ds


def _send(peer: Peer, items: Sequence[_Item], timeouts: Timeouts) -> Iterator[StoreReport]:
    """Send over one association; at least one report.

    A lost answer ends the association: what is left goes over the next one, unless this one brought no answer at all.
    """
    pairs = dict.fromkeys((item.sop_class, syntax) for item in items for syntax in _encodings(item.syntax))
    try:
        association = associate(peer, [build_context(*pair) for pair in pairs], timeouts)
    except NetworkError as error:
        outcome = Outcome.RETRY if error.retryable else Outcome.DEAD
        for item in items:
            reason = error.reason if error.reason.code != "context-refused" else _refused(peer, item)
            yield StoreReport(item.path, item.sop_instance, None, outcome, reason)
        return
    accepted = {
        (str(cx.abstract_syntax), str(cx.transfer_syntax[0])) for cx in association.accepted_contexts if cx.as_scu
    }
    answered = False
    try:
        for position, item in enumerate(items):
            syntax = next((s for s in _encodings(item.syntax) if (item.sop_class, s) in accepted), None)
            if syntax is None:
                yield StoreReport(item.path, item.sop_instance, None, Outcome.DEAD, _refused(peer, item))
                continue
            association.dimse_timeout = timeouts.answer_s + item.bytes / timeouts.slowest
            try:
                answer = association.send_c_store(_encoded(item, syntax))
            except (ValueError, RuntimeError, AttributeError, OSError):  # the association or the file is gone
                answer = Dataset()
            status = answer.get("Status")
            yield _report(item, status)
            if status is None:
                rest = [] if answered else items[position + 1 :]
                yield from (_report(item, None) for item in rest)
                return
            answered = True
    finally:
        release(association)


def _report(item: _Item, status: int | None) -> StoreReport:
    row = judge(status)
    reason = _reason(row.code, status) if row.code else None
    return StoreReport(item.path, item.sop_instance, status, row.outcome, reason)


def _refused(peer: Peer, item: _Item) -> Reason:
    names = {"sop_class": UID(item.sop_class).name, "syntax": UID(item.syntax).name}
    return REASONS("context-refused", ae_title=peer.ae_title, **names)


def _reason(code: str, status: int | None) -> Reason:
    return REASONS(code, status=status or 0)


class _Entity(AE):
    """An application entity for one association that closes its socket whatever becomes of it: the library forgets to.

    It secures the socket itself too: the library would not tell why a handshake failed.
    """

    def __init__(self, peer: Peer) -> None:
        super().__init__(peer.calling)
        self._peer = peer
        self.raw: socket.socket | None = None

    def _create_socket(self, *arguments: Any) -> AssociationSocket:  # noqa: ANN401 - passed on
        made = super()._create_socket(*arguments)
        self.raw = made.socket
        if made.socket is not None and self._peer.tls is not None:
            self.raw = made.socket = secure(made.socket, self._peer.tls, self._peer.host)
        return made

    def trouble(self) -> OSError | None:
        """Return why TLS failed, if it did."""
        return self.raw.failure if isinstance(self.raw, Secured) else None


def associate(
    peer: Peer, contexts: list[PresentationContext], timeouts: Timeouts, *, provider_of: str | None = None
) -> Association:
    """Open an association; whoever does so gives it to `release` in the end.

    On it we propose to be the provider (SCP) of the SOP class `provider_of` (PS3.7 annex D.3.3.4).

    Raises
    ------
    NetworkError
        `peer-name-unknown`, `peer-refused-connection`, `peer-timeout`, `association-rejected`, `association-aborted`
        or `context-refused` (none of the contexts was accepted); with TLS also `tls-peer-not-trusted`, `tls-failed`, or
        what is wrong with our own files.
    """
    place: dict[str, Any] = {"host": peer.host, "port": peer.port}
    try:
        address = str(socket.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise NetworkError(REASONS("peer-name-unknown", host=peer.host), retryable=True) from error
    seen: set[str] = set()
    ae = _Entity(peer)
    ae.connection_timeout, ae.acse_timeout = timeouts.connect_s, timeouts.associate_s
    ae.dimse_timeout, ae.network_timeout = timeouts.answer_s, None
    begun = time.monotonic()
    try:
        association = ae.associate(
            address,
            peer.port,
            contexts,
            peer.ae_title,
            max_pdu=PDU_BYTES,
            ext_neg=None if provider_of is None else [build_role(provider_of, scp_role=True)],
            evt_handlers=[
                (evt.EVT_CONN_OPEN, _connected, [seen, timeouts.answer_s]),
                (evt.EVT_ACCEPTED, lambda _event: seen.add("accepted")),
                (evt.EVT_PDU_SENT, _acknowledge_at_once),
                (evt.EVT_PDU_RECV, _bounded),
            ],
        )
    except TlsError as error:
        _close(ae)
        raise NetworkError(error.reason, retryable=True) from error
    if association.is_established:
        return association
    _close(ae)
    taken = time.monotonic() - begun
    answer = _answer(association)
    trouble = ae.trouble()
    if "accepted" not in seen and trouble is not None and not isinstance(trouble, TimeoutError):
        code = "tls-peer-not-trusted" if isinstance(trouble, ssl.SSLCertVerificationError) else "tls-failed"
        # a certificate is put right by a person, and what waits for that is not lost
        raise NetworkError(REASONS(code, **place, ae_title=peer.ae_title, why=why(trouble)), retryable=True)
    if answer is not None and answer.result != 0x00:
        said = f"{answer.result_str}, {answer.source_str}, {answer.reason_str}"
        reason = REASONS("association-rejected", **place, ae_title=peer.ae_title, calling=peer.calling, why=said)
        # "permanent" is what every PACS says to a node that is not yet registered: worth another attempt too
        raise NetworkError(reason, retryable=True)
    if "accepted" in seen:
        names = {"sop_class": UID(str(contexts[0].abstract_syntax)).name, "syntax": contexts[0].transfer_syntax[0].name}
        raise NetworkError(REASONS("context-refused", ae_title=peer.ae_title, **names))
    if "connected" not in seen:
        code = "peer-timeout" if taken >= timeouts.connect_s else "peer-refused-connection"
        raise NetworkError(REASONS(code, **place), retryable=True)
    if taken >= timeouts.associate_s:
        raise NetworkError(REASONS("peer-timeout", **place), retryable=True)
    raise NetworkError(REASONS("association-aborted", **place, ae_title=peer.ae_title), retryable=True)


def _answer(association: Association) -> A_ASSOCIATE | None:
    """Return the answer to the request; the library overlooks one that came, with the end of the connection, at once."""
    waiting = association.dul.to_user_queue
    answer = association.acceptor.primitive or (None if waiting.empty() else waiting.get())
    return answer if isinstance(answer, A_ASSOCIATE) else None


def _connected(event: Event, seen: set[str], timeout_s: float) -> None:
    seen.add("connected")
    connection = cast("socket.socket", cast("AssociationSocket", event.assoc.dul.socket).socket)  # just opened
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(timeout_s)  # the library takes its own away once connected, and would wait for ever in a PDU
    _whole_in_time(cast("AssociationSocket", event.assoc.dul.socket), connection, timeout_s)
    _guard(event.assoc)


def _whole_in_time(transport: AssociationSocket, connection: socket.socket, timeout_s: float) -> None:
    """Bound a whole read: a peer that drips its answer keeps within the time for each byte, and would for hours."""

    def recv(count: int) -> bytearray:
        if count > LIMITS.read.pdu_bytes:
            raise OSError(errno.EMSGSIZE, "a PDU far beyond the agreed length")  # ends the connection
        data, end = bytearray(), time.monotonic() + timeout_s
        while len(data) < count:
            got = connection.recv(min(count - len(data), PDU_BYTES))
            if not got:
                break
            data += got
            if len(data) < count and time.monotonic() > end:
                raise TimeoutError
        return data

    transport.recv = recv  # type: ignore[method-assign, assignment]  # on this instance alone, on purpose


def _bounded(event: Event) -> None:
    """Abort an association on which a message grows beyond its limit: nobody answers a question with so much."""
    message = event.assoc.dimse.message
    if message is not None and cast("BytesIO", message.data_set).tell() > LIMITS.read.message_bytes:
        event.assoc.abort(block=False)


def _guard(association: Association) -> None:
    """Keep the reactor thread from taking the answer that a caller waits for.

    It sets ``_is_paused = False`` before it looks into the queue, so that a caller may believe it paused while it is
    about to look: looking at the checkpoint once more, at that very moment, is enough.
    """
    look = association.dimse.get_msg

    def get_msg(block: bool = False) -> Any:  # noqa: ANN401 - as the library has it
        if not block and not association._reactor_checkpoint.is_set():  # noqa: SLF001 - the fault is in there
            return None, None
        return look(block)

    association.dimse.get_msg = get_msg  # type: ignore[method-assign]  # on this instance alone, on purpose


def _acknowledge_at_once(event: Event) -> None:
    """Ask for immediate acknowledgements; the kernel forgets it, so ask after every write."""
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        with contextlib.suppress(OSError):  # closed in the meantime
            transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def release(association: Association) -> None:
    """End an association, if it has not ended already, and close its socket."""
    if association.is_established:
        association.release()
    _close(association.ae)


def _close(ae: AE) -> None:
    raw = getattr(ae, "raw", None)
    if raw is not None:
        raw.close()
