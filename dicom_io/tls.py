"""DICOM over TLS, both ways: contexts that follow BCP 195 and keep up with their files.

Mutual certificates are the rule. A revoked certificate is refused by a file of revocation lists, a certificate of the
right authority under a wrong name by its name or its pin.

References
----------
PS3.15 annex B.12 (BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile); RFC 9325 section 4.2 (suites).
"""

import functools
import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from dicom_io.errors import TlsError
from dicom_io.reasons import REASONS

SUITES = (
    "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305",
)  # fmt: skip
"""Of TLS 1.2: forward secrecy and authenticated encryption only. TLS 1.3 has no others."""

_SETTLED_NS = 100_000_000
"""A file younger than this may change once more without its stamp telling."""
_AGAIN_S = 5.0
"""So long after files could not be used they are read again, though they have not changed."""
_OTHERS = 0o007
_STRICT: dict[str, Any] = {"extra": "forbid"}
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@dataclass(frozen=True, slots=True)
class ServerTls:
    """``[dicom.tls]``: the listener takes TLS only. All files are PEM.

    `certificate` is followed by the authorities between it and the root, `key` is its own. Peers need a certificate of
    an authority in `ca` that is in none of the revocation lists of `crl`; there the file needs a list of every authority
    of a chain. ``verify = "none"`` encrypts and asks nobody who he is.
    """

    __pydantic_config__: ClassVar = _STRICT
    certificate: Path
    key: Path
    ca: Path | None = None
    crl: Path | None = None
    verify: Literal["required", "none"] = "required"
    minimum: Literal["1.2", "1.3"] = "1.2"


@dataclass(frozen=True, slots=True)
class ClientTls:
    """``tls`` of a destination, a RIS or a sender: TLS on associations that we open to it.

    The files that are not named are those of ``[dicom.tls]``. The peer's certificate must name its host, or
    `server_name`; or it is exactly the one whose SHA-256 is `pin` (``sha256:...``), whatever it says.
    """

    __pydantic_config__: ClassVar = _STRICT
    ca: Path | None = None
    crl: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str = ""
    pin: str = ""
    minimum: Literal["1.2", "1.3"] = "1.2"


def inherited(tls: ClientTls, own: ServerTls | None) -> ClientTls:
    """Return `tls` with what it does not name taken from the listener's; a pin needs no authority."""
    if own is None:
        return tls
    if tls.certificate is None and tls.key is None:
        tls = replace(tls, certificate=own.certificate, key=own.key)
    if tls.ca is None and not tls.pin:
        tls = replace(tls, ca=own.ca, crl=tls.crl or own.crl)
    return tls


def files_of(tls: ServerTls | ClientTls) -> tuple[Path, ...]:
    """Return the files that `tls` names."""
    return tuple(path for path in (tls.certificate, tls.key, tls.ca, tls.crl) if path is not None)


def fingerprint(certificate: bytes | None) -> str:
    """Return the SHA-256 (hex) of a certificate in DER; empty without one."""
    return hashlib.sha256(certificate).hexdigest() if certificate else ""


def names(certificate: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return whom a verified certificate (as `ssl` decodes it) stands for: host names and addresses, else common names."""
    shown = certificate or {}
    alternatives = tuple(str(name) for kind, name in shown.get("subjectAltName", ()) if kind in {"DNS", "IP Address"})
    common = tuple(str(value) for part in shown.get("subject", ()) for key, value in part if key == "commonName")
    return alternatives or common


def server_context(tls: ServerTls) -> ssl.SSLContext:
    """Return a context for accepted connections.

    Raises
    ------
    TlsError
        If a file cannot be used; it names the file.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, tls)
    context.num_tickets = 0
    if tls.verify == "required":
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(tls: ClientTls) -> ssl.SSLContext:
    """Return a context for connections that we open; `TlsError` as `server_context`."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, tls)
    context.sslsocket_class = Secured
    if tls.pin:
        context.check_hostname = False  # a pin says more than a name; see `Secured`
        if tls.ca is None:
            context.verify_mode = ssl.CERT_NONE
    return context


class Secured(ssl.SSLSocket):
    """A connection that we open: it compares the pin before anything is said, and keeps why TLS failed.

    A server that refuses our certificate says so after our handshake is over (TLS 1.3): then the first read fails.
    """

    pin: str = ""
    failure: OSError | None = None

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands, then compare the pin."""
        try:
            super().do_handshake(block)
            if self.pin and fingerprint(self.getpeercert(binary_form=True)) != self.pin.removeprefix("sha256:"):
                raise ssl.SSLCertVerificationError("the certificate is not the pinned one")
        except OSError as error:
            self.failure = error
            raise

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002, ANN401 - as the standard library has it
        """Read, and keep the alert that ended it."""
        try:
            return super().read(len, buffer)
        except ssl.SSLError as error:
            self.failure = self.failure or error
            raise


def secure(plain: socket.socket, tls: ClientTls, host: str) -> Secured:
    """Wrap a socket that is not connected yet: it shakes hands when it connects to `host`.

    Raises
    ------
    TlsError
        If a file cannot be used and none before it could.
    """
    wrapped = cast("Secured", client(tls)().wrap_socket(plain, server_hostname=tls.server_name or host))
    wrapped.pin = tls.pin
    return wrapped


class Contexts:
    """The context for the next association, made anew when a file has changed.

    New files that cannot be used (half written, key and certificate of different times) leave what was there in use;
    they are tried again as soon as one of them changes.

    Parameters
    ----------
    make : Callable[[], ssl.SSLContext]
        Reads the files.
    files : tuple[Path, ...]
        Those.
    told : Callable[[TlsError | None], None]
        Told of new files that cannot be used, and (None) of new ones that can.

    Raises
    ------
    TlsError
        If the files cannot be used.
    """

    def __init__(
        self,
        make: Callable[[], ssl.SSLContext],
        files: tuple[Path, ...],
        told: Callable[[TlsError | None], None] = lambda _error: None,
    ) -> None:
        self._make, self._files, self._told = make, files, told
        self._lock = threading.Lock()
        self._stamps = _stamps(files)
        self._failed: float | None = None
        self._context = make()

    def __call__(self) -> ssl.SSLContext:
        """Return the context to use now."""
        with self._lock:
            stamps = _stamps(self._files)
            changed = stamps != self._stamps or stamps is None
            again = self._failed is not None and time.monotonic() - self._failed >= _AGAIN_S
            if changed or again:  # what fails may do so for want of a descriptor, and the files stay as they are
                self._stamps = stamps
                try:
                    self._context = self._make()
                except TlsError as error:
                    self._failed = time.monotonic()
                    if changed:
                        self._told(error)
                else:
                    self._failed = None
                    self._told(None)
            return self._context


def server(tls: ServerTls, told: Callable[[TlsError | None], None]) -> Contexts:
    """Return the contexts of a listener."""
    return Contexts(functools.partial(server_context, tls), files_of(tls), told)


@functools.lru_cache(maxsize=256)
def client(tls: ClientTls) -> Contexts:
    """Return the contexts for one kind of connections that we open; one for the whole process."""
    return Contexts(functools.partial(client_context, tls), files_of(tls))


def why(error: OSError) -> str:
    """Say in a few words what a handshake failed for; nothing of it is patient data."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return str(getattr(error, "verify_message", "") or error.args[-1])
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return "the connection was closed during the handshake"


def _context(side: int, tls: ServerTls | ClientTls) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = _VERSIONS[tls.minimum]
    context.set_ciphers(":".join((*SUITES, "@SECLEVEL=2")))  # RSA from 2048 bits, no SHA-1 signatures
    # who resumes by a ticket is not looked up in the revocation lists again
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    if tls.certificate is not None and tls.key is not None:
        _load_key(context, tls.certificate, tls.key)
    for path in (tls.ca, tls.crl):
        if path is not None:
            _load(context, path)
    if tls.crl is not None:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    return context


def _load_key(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    def asked() -> str:  # else OpenSSL would ask at the terminal
        raise TlsError(REASONS("tls-key-encrypted", file=key))

    _readable(certificate)
    if _readable(key) & _OTHERS:
        raise TlsError(REASONS("tls-key-exposed", file=key))
    try:
        context.load_cert_chain(certificate, key, password=asked)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(REASONS("tls-key-mismatch", file=certificate, key=key)) from error
        raise TlsError(REASONS("tls-file-broken", file=f"{certificate}, {key}", why=why(error))) from error


def _load(context: ssl.SSLContext, path: Path) -> None:
    _readable(path)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise TlsError(REASONS("tls-file-broken", file=path, why=why(error))) from error


def _readable(path: Path) -> int:
    """Return the permissions of a file that can be read."""
    try:
        with path.open("rb") as file:
            file.read(1)
        return path.stat().st_mode
    except OSError as error:
        raise TlsError(REASONS("tls-file-unreadable", file=path, why=error.strerror)) from error


def _stamps(files: tuple[Path, ...]) -> tuple[tuple[int, ...], ...] | None:
    """Return what changes with the files; None while one is so new that it may change without that."""
    stamps = tuple(_stamped(files))
    now = time.time_ns()
    return None if any(0 <= now - max(s[:2]) < _SETTLED_NS for s in stamps) else stamps


def _stamped(files: tuple[Path, ...]) -> Iterator[tuple[int, ...]]:
    for path in files:
        try:
            at = path.stat()
        except OSError:
            yield (0, 0, 0, 0)
        else:
            yield (at.st_mtime_ns, at.st_ctime_ns, at.st_size, at.st_ino)
