"""The web process: STOW-RS by Starlette and uvicorn, with every wait bounded.

No header, path or body reaches a log: its records name the client, the address, counts, and the study as a keyed hash.
"""

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Final
from urllib.parse import unquote

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from config.settings import Settings
from dicom_io import stow, tls
from dicom_io.multipart import media_type
from dicom_io.reason import Reason
from dicom_io.reasons import REASONS as NETWORK
from dicom_io.scp_types import AssociationEvent
from dicom_io.tls import ServerTls
from node import child
from node.certificates import renewed
from node.installation import DataFolder
from node.intake import Intake
from node.log import study_hash
from node.reasons import REASONS
from node.watermarks import NotAcceptingError
from node.web.auth import Caller, Clients, RefusedError
from node.web.door import Protocol, Server
from node.web.stow import Transaction, new_association, summary

HEADER_BYTES: Final = 16_384
RETRY_AFTER_S: Final = 60
SLOWEST: Final = 32_768.0
"""A body that comes slower than this (bytes a second, beyond `web.idle_s`) is not waited for."""
DRAIN_S: Final = 5.0
"""After SIGTERM requests may run on for so long."""
_DRAIN_BYTES: Final = 64 << 20
"""What a refused request may still send, so that it reads the answer instead of a broken connection."""
_DRAIN_S: Final = 2.0
_PIECE: Final = 1 << 20
"""The body goes to the thread of its request in pieces of at least so many bytes."""
_UID_CHARACTERS: Final = frozenset("0123456789.")


class Service:
    """The routes and what they share.

    Parameters
    ----------
    settings : Settings
        Of the node.
    intake : Intake
        Makes objects durable.
    clients : Clients
        Who may store.
    """

    def __init__(self, settings: Settings, intake: Intake, clients: Clients) -> None:
        self._web, self._intake, self._clients = settings.web, intake, clients
        self._hashed = DataFolder(settings.node.data_dir).installation_id
        self._threads = ThreadPoolExecutor(settings.web.max_requests, "stow")
        self._active = 0
        self._log = structlog.get_logger()
        base = settings.web.base
        self.app = Starlette(
            routes=[
                Route("/health", self.health),
                Route(f"{base}/studies", self.store, methods=["POST"]),
                Route(f"{base}/studies/{{study}}", self.store, methods=["POST"]),
            ]
        )
        self.app.router.redirect_slashes = False  # a redirection would name a host that the sender has named

    async def health(self, _request: Request) -> Response:
        """Say that the process answers, and nothing else."""
        return JSONResponse({"status": "ok"})

    async def store(self, request: Request) -> Response:
        """Answer a store transaction."""
        begun = time.monotonic()
        told: dict[str, Any] = {"peer": _peer(request)}
        body = _Body(request)
        try:
            response = await self._store(request, body, told)
        except RefusedError as refused:
            told.update(reason=refused.reason.code, times=self._counted(refused, told))
            response = _refusal(refused)
            if not _crowded(request):
                await body.drain()
            if not (told["times"] or told.get("stored")):  # told of a short time ago
                return response
        level = "info" if response.status_code < 400 else "warning"
        getattr(self._log, level)(
            "web.stored", **told, status=response.status_code, seconds=round(time.monotonic() - begun, 3)
        )
        return response

    def _counted(self, refused: RefusedError, told: dict[str, Any]) -> int:
        """Count a request that was turned away; return how many there are to be told of."""
        if refused.reason.code == "web-broken-off":  # nobody has turned it away
            return 1
        who = new_association(told.get("client", ""), told["peer"], "")
        return self._intake.turned_away(AssociationEvent("rejected", who, refused.reason))

    async def _store(self, request: Request, body: "_Body", told: dict[str, Any]) -> Response:
        headers = request.headers
        if _crowded(request):
            raise RefusedError(503, REASONS("web-crowded"))
        certificate = getattr(request.state, "certificate", "")
        caller = Caller(
            _peer(request),
            headers.get("authorization", ""),
            headers.get("origin", ""),
            headers.get("host", ""),
            certificate,
        )
        client = self._clients.admit(caller)
        told["client"] = client
        study = unquote(request.path_params.get("study", ""))
        if study:
            if len(study) > 64 or not set(study) <= _UID_CHARACTERS:
                raise RefusedError(400, REASONS("web-study-uid"))
            told["study"] = study_hash(self._hashed, study)
        kind = stow.accepted(headers.get("accept", ""))
        if kind is None:
            raise RefusedError(406, REASONS("web-not-acceptable"))
        named = headers.get("content-type", "")
        content = media_type(named)
        if content is None and named.lower().startswith("multipart/related"):
            raise RefusedError(400, NETWORK("multipart-broken", where="boundary"))
        if content is None or headers.get("content-encoding", "identity").lower() != "identity":
            raise RefusedError(415, REASONS("web-media-type"))
        self._check_length(headers.get("content-length"), chunked="transfer-encoding" in headers)
        if self._active >= self._web.max_requests:
            raise RefusedError(503, REASONS("web-busy"))
        self._active += 1
        try:
            self._check_room()
            who = new_association(client, caller.peer, certificate)
            told["association"] = who.id
            until = time.monotonic() + self._web.request_s
            go_on = partial(_go_on, getattr(request.state, "gone", bool), until)
            made = await self._run(partial(Transaction, self._intake, self._web, content, who, study, go_on))
            try:
                await self._receive(body, made)
            except BaseException:
                await asyncio.shield(self._run(made.abort))
                told.update(summary(made))
                raise
        finally:
            self._active -= 1
        told.update(summary(made))
        status = stow.http_status(made.results)
        again = {"retry-after": str(RETRY_AFTER_S)} if status == 503 else {}
        return Response(stow.answer(made.results, kind), status, again, kind)

    async def _receive(self, body: "_Body", made: Transaction) -> None:
        """Bring the body to its thread, within its time."""
        begun, got = time.monotonic(), 0
        held = bytearray()
        while not body.over:
            taken = time.monotonic() - begun
            if taken > self._web.request_s or taken > self._web.idle_s + got / SLOWEST:
                raise RefusedError(408, REASONS("web-too-slow"))
            try:
                piece = await body.piece(self._web.idle_s)
            except TimeoutError as error:
                raise RefusedError(408, REASONS("web-too-slow")) from error
            got += len(piece)
            held += piece
            if held and (body.over or len(held) >= _PIECE):
                whole, held = bytes(held), bytearray()
                await self._run(partial(made.feed, whole))
        await self._run(made.finish)

    async def _run(self, work: Any) -> Any:  # noqa: ANN401 - what the work returns
        """Run in a thread, to its end even if the request is given up."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._threads, work))

    def _check_length(self, length: str | None, *, chunked: bool) -> None:
        if length is None:
            if not chunked:
                raise RefusedError(411, REASONS("web-length-missing"))
        elif int(length) > self._web.max_request_mb << 20:  # h11 takes digits only
            raise RefusedError(413, REASONS("web-too-large", limit="web.max_request_mb"))

    def _check_room(self) -> None:
        try:
            self._intake.spool.gate.check_room()
        except NotAcceptingError as error:
            raise RefusedError(503, REASONS("web-no-room")) from error


def _peer(request: Request) -> str:
    return request.client.host if request.client else "0.0.0.0"  # noqa: S104 - nobody: refused


def _crowded(request: Request) -> bool:
    return bool(getattr(request.state, "crowded", False))


def _go_on(gone: Callable[[], bool], until: float) -> None:
    """Raise `RefusedError` where nobody waits for an answer any more, or has waited long enough."""
    if gone():
        raise RefusedError(400, REASONS("web-broken-off"))
    if time.monotonic() > until:
        raise RefusedError(408, REASONS("web-too-slow"))


def _refusal(refused: RefusedError) -> Response:
    headers = {"connection": "close"}
    if refused.status == 503:
        headers["retry-after"] = str(RETRY_AFTER_S)
    if refused.status == 401:
        headers["www-authenticate"] = 'Bearer realm="STOW-RS"'
    return JSONResponse({"error": refused.reason.as_json()}, refused.status, headers)


class _Body:
    """The body of a request."""

    def __init__(self, request: Request) -> None:
        self._receive = request.receive
        self._waits = request.headers.get("expect", "").lower() == "100-continue"
        self.over = False

    async def piece(self, patience_s: float) -> bytes:
        """Return the next bytes.

        Raises
        ------
        TimeoutError
            If none came.
        RefusedError
            If the sender is gone.
        """
        self._waits = False
        message = await asyncio.wait_for(self._receive(), patience_s)
        self.over = not message.get("more_body", False)
        if message["type"] == "http.disconnect":
            raise RefusedError(400, REASONS("web-broken-off"))
        return bytes(message.get("body", b""))

    async def drain(self) -> None:
        """Read on for a short time: who is still sending would not see the answer."""
        dropped, end = 0, time.monotonic() + _DRAIN_S
        with contextlib.suppress(TimeoutError, RefusedError):
            while not self.over and not self._waits and dropped < _DRAIN_BYTES and (left := end - time.monotonic()) > 0:
                dropped += len(await self.piece(left))


def server_of(settings: Settings, intake: Intake, clients: Clients) -> uvicorn.Server:
    """Return a server that has not begun.

    Its own log is silent: `Service` says what happened.
    """
    service = Service(settings, intake, clients)
    own = settings.web.tls
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    config = uvicorn.Config(
        service.app,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=True,
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=int(DRAIN_S),
    )
    if own is not None:
        config.ssl_context_factory = lambda _config, _default: _renewing(own)

    def told(peer: str, reason: Reason) -> None:
        intake.association(AssociationEvent("rejected", new_association("", peer, ""), reason))

    most = settings.web.max_requests
    return Server(config, (4 * most + 32, 16 * most + 128), told)


def _renewing(own: ServerTls) -> ssl.SSLContext:
    """Return a context that takes new files from the next connection on."""
    contexts = tls.server(own, renewed)
    first = contexts()

    def renew(shown: ssl.SSLObject, _name: object, _first: object) -> None:
        shown.context = contexts()

    first.sni_callback = renew  # called by every handshake, whether a name is asked for or not
    return first


def run_web(settings: Settings, connection: Connection, listening: socket.socket) -> None:
    """Answer on `listening` until SIGTERM, or until the other end of `connection` is gone.

    Entry point of a spawned process.
    """
    stop = child.begin(connection)
    intake = Intake(settings)
    server = server_of(settings, intake, Clients(settings.web))
    thread = threading.Thread(target=server.run, args=([listening],), name="web", daemon=True)
    thread.start()
    structlog.get_logger().info("web.listens", pid=os.getpid())
    while not stop.wait(0.5):
        if not thread.is_alive():
            raise SystemExit(1)  # the supervisor starts another one
    server.should_exit = True
    thread.join(DRAIN_S + 1.0)
    intake.close()
