"""Who may send over the web: tokens and certificates of the configured clients; without any, only this machine."""

import hashlib
import hmac
import ipaddress
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass

from config.settings import Web, WebClient
from dicom_io.reason import Reason
from node.reasons import REASONS

LOOPBACK = "LOOPBACK"
"""What senders of this machine are called where no clients are configured."""
_SHORTEST = 20
"""A token shorter than this (characters) can be guessed."""


class TokenError(Exception):
    """A token cannot be used; the text names the client and what to do, never the token."""


class RefusedError(Exception):
    """A request that is not taken.

    Parameters
    ----------
    status : int
        Of HTTP.
    reason : Reason
        Why.
    """

    def __init__(self, status: int, reason: Reason) -> None:
        super().__init__(reason.code)
        self.status, self.reason = status, reason


@dataclass(frozen=True, slots=True)
class Caller:
    """What a request shows: where it comes from, its Authorization, Origin and Host headers, its certificate (SHA-256)."""

    peer: str
    authorization: str = ""
    origin: str = ""
    host: str = ""
    certificate: str = ""


class Clients:
    """The clients of the configuration. Of tokens only digests stay in memory.

    Parameters
    ----------
    web : Web
        Names them.
    environ : Mapping[str, str]
        Where tokens of `token_env` stand.

    Raises
    ------
    TokenError
        If a token is not there, is too short, or may be read by everybody.
    """

    def __init__(self, web: Web, environ: Mapping[str, str] = os.environ) -> None:
        self._rows = tuple((client, _digest(_token(client, environ))) for client in web.client)
        tokens = [digest for _, digest in self._rows if digest]
        if len(set(tokens)) < len(tokens):
            raise TokenError("two clients of [[web.client]] have the same token; make one for each")

    def admit(self, caller: Caller) -> str:
        """Return the name of the client that may store.

        Raises
        ------
        RefusedError
            401 without a token or certificate that is known, 403 from elsewhere or without the right.
        """
        address = ipaddress.ip_address(caller.peer.partition("%")[0])
        address = (address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None) or address
        if not self._rows:
            # a page in a browser of this machine must not send for its user
            if not address.is_loopback or caller.origin or not _names_loopback(caller.host):
                raise RefusedError(403, REASONS("web-only-this-machine"))
            return LOOPBACK
        scheme, _, token = caller.authorization.partition(" ")
        shown = _digest(token.strip()) if scheme.lower() == "bearer" else b""
        known = [client for client, digest in self._rows if _shows(client, digest, shown, caller.certificate)]
        if not known:
            raise RefusedError(401, REASONS("web-not-known"))
        client = known[0]
        from_there = not client.host or any(address in ipaddress.ip_network(network) for network in client.host)
        if not from_there or "store" not in client.rights:
            raise RefusedError(403, REASONS("web-not-allowed", client=client.name))
        return client.name


def _shows(client: WebClient, digest: bytes, shown: bytes, certificate: str) -> bool:
    """Say whether everything that is configured has been shown; takes as long whoever asks."""
    by_token = hmac.compare_digest(digest, shown) or not digest
    by_certificate = hmac.compare_digest(client.certificate, f"sha256:{certificate}") or not client.certificate
    return by_token & by_certificate


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest() if token else b""


def _token(client: WebClient, environ: Mapping[str, str]) -> str:
    if client.token_file is not None:
        try:
            if client.token_file.stat().st_mode & stat.S_IRWXO:
                raise TokenError(f"web.client {client.name}: everybody may read {client.token_file}; chmod 600 it")
            token = client.token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise TokenError(f"web.client {client.name}: {client.token_file} cannot be read ({error})") from error
        where = str(client.token_file)
    elif client.token_env:
        token, where = environ.get(client.token_env, "").strip(), f"${client.token_env}"
    else:
        return ""
    if len(token) < _SHORTEST:
        says = f"no token of at least {_SHORTEST} characters in {where}; make one with: openssl rand -hex 32"
        raise TokenError(f"web.client {client.name}: {says}")
    return token


def _names_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and not host.endswith("]") else host
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name.lower() == "localhost"
