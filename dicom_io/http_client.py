"""HTTP/1.1 as a client, with an end to everything: a whole exchange has a deadline, however slowly it drips.

No proxy and no redirect is followed: results go to the place that is configured, or nowhere.
"""

import contextlib
import os
import select
import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpcore2

from dicom_io.errors import NetworkError, TlsError
from dicom_io.reason import Reason
from dicom_io.reasons import REASONS
from dicom_io.scu import Timeouts
from dicom_io.tls import ClientTls, Secured, secure, why

ANSWER_BYTES: Final = 32 << 20
"""An answer is not read beyond this: 50,000 instances take some 20 MB."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service, and what it is shown. The token is read anew for each request: it may be replaced.

    `title` is what people call such a service.
    """

    url: str
    token_file: Path | None = None
    token_env: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    tls: ClientTls | None = None
    title: str = "DICOMweb"


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body; None: it is longer than `ANSWER_BYTES`."""

    status: int
    body: bytes | None


class Session:
    """Requests to one service over one connection, as long as that lives; a context manager."""

    def __init__(self, service: Service, timeouts: Timeouts) -> None:
        self._service, self._timeouts = service, timeouts
        self._sockets = _Sockets(service, timeouts)
        self._pool = httpcore2.ConnectionPool(
            ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # never used: `_Sockets` secures what it opens
            max_connections=1,
            network_backend=self._sockets,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(Exception):
            self._pool.close()

    def request(
        self, method: str, path: str, headers: Mapping[str, str], body: Iterator[bytes] | None = None, length: int = 0
    ) -> Answer:
        """Send a request with a body of `length` bytes and read the answer.

        Raises
        ------
        NetworkError
            `peer-name-unknown`, `peer-refused-connection`, `peer-timeout`, `tls-peer-not-trusted`, `tls-failed`,
            `http-token-missing`, or `http-unanswered` if the connection stood and no whole answer came.
        """
        self._sockets.begin(self._timeouts.answer_s + length / self._timeouts.slowest)
        named = {**self._service.headers, **headers, **self._authorization()}
        if body is not None:
            named["Content-Length"] = str(length)
        limits = {
            "connect": self._timeouts.connect_s,
            "read": self._timeouts.answer_s,
            "write": self._timeouts.answer_s,
        }
        try:
            with self._pool.stream(
                method,
                self._service.url.rstrip("/") + path,
                headers=list(named.items()),
                content=body,
                extensions={"timeout": limits},
            ) as response:
                return Answer(response.status, _bounded(response.iter_stream()))
        except (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError, OSError) as error:
            trouble = self._sockets.trouble or REASONS("http-unanswered", url=self.shown)
            raise NetworkError(trouble, retryable=True) from error

    @property
    def shown(self) -> str:
        """The service as people may see it: without what stands before an @."""
        parts = urlsplit(self._service.url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"

    def _authorization(self) -> dict[str, str]:
        service = self._service
        if service.token_file is None and not service.token_env:
            return {}
        where = str(service.token_file or f"${service.token_env}")
        try:
            token = (
                os.environ.get(service.token_env, "")
                if service.token_file is None
                else service.token_file.read_text(encoding="utf-8")
            ).strip()
        except (OSError, UnicodeDecodeError):
            token = ""
        if not token or not token.isascii() or not token.isprintable():
            raise NetworkError(REASONS("http-token-missing", where=where), retryable=True)
        return {"Authorization": f"Bearer {token}"}


def _bounded(pieces: Iterable[bytes]) -> bytes | None:
    body = bytearray()
    for piece in pieces:
        body += piece
        if len(body) > ANSWER_BYTES:
            return None
    return bytes(body)


class _Sockets(httpcore2.NetworkBackend):
    """Opens connections within the deadline of the exchange, and keeps why one could not be opened."""

    def __init__(self, service: Service, timeouts: Timeouts) -> None:
        parts = urlsplit(service.url)
        self._tls, self._secured, self._title = service.tls, parts.scheme == "https", service.title
        self._timeouts = timeouts
        self.trouble: Reason | None = None
        self.until = 0.0

    def begin(self, patience_s: float) -> None:
        """Begin an exchange that may take so long."""
        self.trouble, self.until = None, time.monotonic() + patience_s

    def left(self, timeout: float | None) -> float:
        """Return how long the next step may take.

        Raises
        ------
        TimeoutError
            If no time is left.
        """
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left if timeout is None else min(left, timeout)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        """Connect, and shake hands where the service has TLS."""
        del local_address, socket_options
        place: dict[str, Any] = {"host": host, "port": port, "ae_title": self._title}
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            self.trouble = REASONS("peer-name-unknown", host=host)
            raise httpcore2.ConnectError from error
        for family, *_, address in addresses:
            made = socket.socket(family, socket.SOCK_STREAM)
            try:
                made = self._secure(made, host)
                made.settimeout(self.left(timeout))
                made.connect(address)
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except TlsError as error:
                made.close()
                self.trouble = error.reason
                raise httpcore2.ConnectError from error
            except OSError as error:
                made.close()
                self.trouble = self._why(made, error, place)
                continue
            self.trouble = None
            return _Stream(made, self, place)
        raise httpcore2.ConnectError

    def _secure(self, plain: socket.socket, host: str) -> socket.socket:
        if not self._secured:
            return plain
        if self._tls is not None:
            return secure(plain, self._tls, host)
        context = ssl.create_default_context()
        context.sslsocket_class = Secured
        return context.wrap_socket(plain, server_hostname=host)

    @staticmethod
    def _why(made: socket.socket, error: OSError, place: Mapping[str, Any]) -> Reason:
        failure = made.failure if isinstance(made, Secured) else None
        if failure is not None and not isinstance(failure, TimeoutError):
            code = "tls-peer-not-trusted" if isinstance(failure, ssl.SSLCertVerificationError) else "tls-failed"
            return REASONS(code, **place, why=why(failure))
        return REASONS("peer-timeout" if isinstance(error, TimeoutError) else "peer-refused-connection", **place)


class _Stream(httpcore2.NetworkStream):
    """One connection."""

    def __init__(self, connection: socket.socket, sockets: _Sockets, place: Mapping[str, Any]) -> None:
        self._connection, self._sockets, self._place = connection, sockets, place

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with self._mapped(httpcore2.ReadTimeout, httpcore2.ReadError):
            self._connection.settimeout(self._sockets.left(timeout))
            return self._connection.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with self._mapped(httpcore2.WriteTimeout, httpcore2.WriteError):
            view = memoryview(buffer)
            while view:
                self._connection.settimeout(self._sockets.left(timeout))
                view = view[self._connection.send(view) :]

    def close(self) -> None:
        self._connection.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        """Do nothing: the connection was secured when it was opened."""
        del ssl_context, server_hostname, timeout
        return self

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - as the library has it
        if info == "is_readable":  # an idle connection with something to read has been closed by the other side
            return bool(select.select([self._connection], [], [], 0)[0])
        return None

    @contextlib.contextmanager
    def _mapped(self, slow: type[Exception], broken: type[Exception]) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise slow from error
        except OSError as error:
            failure = self._connection.failure if isinstance(self._connection, Secured) else None
            if failure is not None:  # TLS 1.3: a certificate of ours that is refused
                self._sockets.trouble = REASONS("tls-failed", **self._place, why=why(failure))
            raise broken from error
