"""Find, read and judge the configuration.

Order: the file named on the command line, ``$PACS_AI_NODE_CONFIG``, ``./pacs-ai-node.toml``,
``/etc/pacs-ai-node/config.toml``; then ``PACS_AI_NODE__TABLE__KEY`` from the environment, each a TOML value.
"""

import dataclasses
import difflib
import ipaddress
import json
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from config.settings import RIS, Destination, Peer, Settings, Tests, Web, WebClient
from dicom_io.tls import inherited

P = TypeVar("P", Peer, Destination, RIS)

_PREFIX = "PACS_AI_NODE__"
_PLACES = (Path("pacs-ai-node.toml"), Path("/etc/pacs-ai-node/config.toml"))
_NODE_NAME = re.compile(r"[A-Za-z0-9-]*")  # it stands in names of files
_LARGEST = 1 << 20
_NAMED = re.compile(r"name:[A-Za-z0-9._:-]{1,253}")
_PIN = re.compile("sha256:[0-9a-f]{64}")
_TESTS = {"ge", "le", "not", "missing"}
_NOT_TAGS = {"CallingAETitle", "CalledAETitle"}
_SERVER = "postgresql+psycopg://"
_PASSWORD = re.compile(r"(://[^\s/@:]*):\S*@|((?:ssl)?password)=[^&\s'\"]*", re.IGNORECASE)
"""A password in a URL: behind the user's name, or among the options."""


_URL = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~%-]+)*/?")
_HEADER = re.compile(r"[A-Za-z0-9-]+")


class ConfigError(Exception):
    """The configuration cannot be used.

    Parameters
    ----------
    file : str
        The file, or ``environment``.
    key : str
        Dotted path of the key; empty for the whole file.
    value : object
        What stands there.
    allowed : str
        What may stand there.
    """

    def __init__(self, file: str, key: str, value: object, allowed: str) -> None:
        where = f"{file}: {key}" if key else file
        shown = "" if value is None else f" = {without_password(repr(value))}"
        super().__init__(f"{where}{shown}: {allowed}")
        self.file, self.key, self.value, self.allowed = file, key, value, allowed


def without_password(text: str) -> str:
    """Return `text` with stars in the place of the passwords of its URLs."""
    return _PASSWORD.sub(lambda found: f"{found[1]}:***@" if found[2] is None else f"{found[2]}=***", text)


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Return the settings from `path` or the first place that has a file, overridden by `environ`.

    Raises
    ------
    ConfigError
        If a named file is missing or not TOML, or a key is unknown, mistyped or names something that is not there.
    """
    file = _find(path, environ)
    data = {} if file is None else _read(file)
    source = "defaults" if file is None else str(file)
    _no_password(data, source)
    from_environment = _override(data, environ)
    writer = data.get("writer")
    if isinstance(writer, dict) and "languages" in writer:
        place = "environment" if "writer.languages" in from_environment else source
        raise ConfigError(place, "writer.languages", writer["languages"], "cannot be chosen apart; set node.languages")
    settings = _inherited(_typed(data, source, from_environment))
    url = settings.database.url
    if url != "sqlite" and not url.startswith(_SERVER):
        allowed = f"is no database; there are: sqlite (a file in node.data_dir), {_SERVER}USER@HOST/DATABASE"
        raise ConfigError("environment" if "database.url" in from_environment else source, "database.url", url, allowed)
    _cross_check(settings, source)
    return settings


def _find(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    named = path or (Path(environ["PACS_AI_NODE_CONFIG"]) if environ.get("PACS_AI_NODE_CONFIG") else None)
    if named is not None:
        return named
    return next((place for place in _PLACES if place.is_file()), None)


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            data = opened.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise ConfigError(str(file), "", None, f"is longer than {_LARGEST} bytes: it is no configuration")
        return tomllib.loads(data.decode("utf-8"))
    except OSError as error:
        raise ConfigError(
            str(file), "", None, f"cannot be read ({error.strerror}); name an existing file with --config"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(file), "", None, f"is not TOML: {error}") from error


def _no_password(data: Mapping[str, Any], source: str) -> None:
    database = data.get("database")
    url = database.get("url") if isinstance(database, dict) else None
    if isinstance(url, str) and _PASSWORD.search(url):
        says = (
            "holds a password, which no file of settings may; set PACS_AI_NODE__DATABASE__URL in the environment, or leave "
            "it out here and name it in PGPASSFILE, PGPASSWORD or a service file of PostgreSQL"
        )
        raise ConfigError(source, "database.url", url, says)


def _override(data: dict[str, Any], environ: Mapping[str, str]) -> set[str]:
    """Put the environment's values into `data`; return their dotted keys."""
    keys = set()
    for name, text in sorted(environ.items()):
        if not name.startswith(_PREFIX):
            continue
        parts = name.removeprefix(_PREFIX).lower().split("__")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text  # a bare word or path: TOML would want quotes, a shell eats them
        table = data
        for part in parts[:-1]:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigError("environment", name, text, "stands below a key that is not a table")
        table[parts[-1]] = value
        keys.add(".".join(parts))
    return keys


def _typed(data: dict[str, Any], source: str, from_environment: set[str]) -> Settings:
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - 0.3 s that --help need not pay

    try:
        text = json.dumps(data)
    except TypeError as error:  # TOML dates and times: no setting is one
        raise ConfigError(source, "", None, f"holds a value of a type that no setting has ({error})") from error
    try:
        # JSON mode is strict about types yet takes arrays as tuples and tables as dataclasses
        return TypeAdapter(Settings).validate_json(text, strict=True)
    except ValidationError as error:
        first = min(error.errors(), key=lambda e: e["type"] != "unexpected_keyword_argument")
        keys = [
            part
            for part in first["loc"]
            if not (isinstance(part, str) and part[:1].isupper() and part not in _keys(data))
        ]
        key = ".".join(str(part) for part in keys)
        if first["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
            allowed = sorted(_allowed(keys[:-1]))
            close = difflib.get_close_matches(str(keys[-1]), allowed, 1)
            guess = f"; did you mean {close[0]!r}?" if close else ""
            says = f"unknown key; allowed here: {', '.join(allowed)}{guess}"
        else:
            says = first["msg"].removeprefix("Value error, ")
        value = None if first["type"].startswith("missing") else first["input"]
        place = "environment" if key in from_environment else source
        raise ConfigError(place, key, value, says) from error


def _keys(data: object) -> set[str]:
    """Every key anywhere in `data`; what is in an error's path but not here is a name pydantic gave to a union's branch."""
    if isinstance(data, dict):
        return set(data) | {k for v in data.values() for k in _keys(v)}
    if isinstance(data, list):
        return {k for v in data for k in _keys(v)}
    return set()


def _allowed(path: list[Any]) -> set[str]:
    """Names of the fields of the dataclass that stands at `path`."""
    kind: Any = Settings
    for part in path:
        if isinstance(part, str):
            kind = next(_dataclasses_in(typing.get_type_hints(kind)[part]), kind)
    return {f.name for f in dataclasses.fields(kind)}


def _dataclasses_in(hint: Any) -> Iterator[Any]:  # noqa: ANN401 - a type hint has no narrower type
    if dataclasses.is_dataclass(hint) and not isinstance(hint, types.GenericAlias):
        yield hint
    for inner in typing.get_args(hint):
        yield from _dataclasses_in(inner)


def _cross_check(settings: Settings, source: str) -> None:
    from pipeline.registry import available, install  # noqa: PLC0415 - the registry reads data files

    install(settings.models_folder)
    destinations = [d.name for d in settings.destination]
    for name in destinations:
        if destinations.count(name) > 1:
            raise ConfigError(source, "destination.name", name, "is used twice; every destination needs its own name")
    names = [r.name for r in settings.rule]
    for index, rule in enumerate(settings.rule):
        at = f"rule.{index}"
        if names.count(rule.name) > 1:
            raise ConfigError(source, f"{at}.name", rule.name, "is used twice; every rule needs its own name")
        for name in rule.run:
            if name not in available():
                raise ConfigError(source, f"{at}.run", name, f"no such pipeline; there are: {', '.join(available())}")
        for name in rule.send_to:
            if name not in destinations:
                raise ConfigError(
                    source,
                    f"{at}.send_to",
                    name,
                    f"no such destination; there are: {', '.join(destinations) or 'none'}",
                )
        _check_tests(rule.when, f"{at}.when", source)
        for number, tests in enumerate(rule.require):
            _check_tests(tests, f"{at}.require.{number}", source)
    _check_name(settings, source)
    _check_places(settings, destinations, source)
    _check_peers(settings, source)
    _check_tls(settings, source)
    _check_charsets(settings, source)


def _check_name(settings: Settings, source: str) -> None:
    if not _NODE_NAME.fullmatch(settings.node.name):
        raise ConfigError(
            source, "node.name", settings.node.name, "may hold the letters A-Z and a-z, digits and hyphens"
        )


def _inherited(settings: Settings) -> Settings:
    """Fill in, in every ``tls`` of those that we call, what it leaves to ``[dicom.tls]``."""

    def filled(place: P) -> P:
        return place if place.tls is None else replace(place, tls=inherited(place.tls, settings.dicom.tls))

    return replace(
        settings,
        dicom=replace(settings.dicom, peer=tuple(map(filled, settings.dicom.peer))),
        destination=tuple(map(filled, settings.destination)),
        ris=tuple(map(filled, settings.ris)),
    )


def _check_peers(settings: Settings, source: str) -> None:
    own = settings.dicom.tls
    for number, peer in enumerate(settings.dicom.peer):
        at = f"dicom.peer.{number}"
        if "/" in peer.host:
            try:
                ipaddress.ip_network(peer.host)
            except ValueError as error:
                raise ConfigError(source, f"{at}.host", peer.host, f"is no network ({error})") from error
            if peer.query_port is not None or peer.commit_port is not None:
                says = "is a network: query_port and commit_port need the address of one machine"
                raise ConfigError(source, f"{at}.host", peer.host, says)
        if peer.certificate:
            if not _NAMED.fullmatch(peer.certificate):
                _check_pin(source, f"{at}.certificate", peer.certificate)
            if own is None or own.verify != "required":
                says = 'is only asked for with [dicom.tls] and verify = "required"'
                raise ConfigError(source, f"{at}.certificate", peer.certificate, says)


def _check_tls(settings: Settings, source: str) -> None:
    for where, own in (("dicom.tls", settings.dicom.tls), ("web.tls", settings.web.tls)):
        if own is not None and own.verify == "required" and own.ca is None:
            says = 'name the authorities of the peers, or set verify = "none": then nobody is asked who he is'
            raise ConfigError(source, f"{where}.ca", None, says)
        if own is not None and own.crl is not None and own.ca is None:
            raise ConfigError(source, f"{where}.crl", str(own.crl), "has no meaning without ca")
    called = (
        *((f"dicom.peer.{n}.tls", p.tls) for n, p in enumerate(settings.dicom.peer)),
        *((f"destination.{n}.tls", d.tls) for n, d in enumerate(settings.destination)),
        *((f"ris.{n}.tls", r.tls) for n, r in enumerate(settings.ris)),
    )
    for at, tls in called:
        if tls is None:
            continue
        if (tls.certificate is None) != (tls.key is None):
            raise ConfigError(source, f"{at}.certificate", None, "certificate and key belong together")
        if tls.pin:
            _check_pin(source, f"{at}.pin", tls.pin)
        elif tls.ca is None:
            raise ConfigError(source, f"{at}.ca", None, "name the authority of its certificate, or its pin")
        if tls.crl is not None and tls.ca is None:
            raise ConfigError(source, f"{at}.crl", str(tls.crl), "has no meaning without ca")


def _check_pin(source: str, key: str, pin: str) -> None:
    if not _PIN.fullmatch(pin):
        raise ConfigError(source, key, pin, "is no pin: sha256: and 64 small hexadecimal digits; see docs/security.md")


def _check_charsets(settings: Settings, source: str) -> None:
    named = {f"dicom.peer.{n}.charset": peer.charset for n, peer in enumerate(settings.dicom.peer) if peer.charset}
    if not named:
        return
    from dicom_io.charset import charset_of  # noqa: PLC0415 - pydicom is slow to import

    for key, charset in named.items():
        if not charset_of(*charset.split("\\")).known:
            says = (
                "no Specific Character Set of DICOM; for example GB18030, GBK, ISO_IR 100, ISO_IR 192, \\ISO 2022 IR 58"
            )
            raise ConfigError(source, key, charset, says)


def _check_places(settings: Settings, destinations: list[str], source: str) -> None:
    """Check what names other parts of the configuration."""
    archive = settings.commitment.archive
    if archive and archive not in destinations:
        there = ", ".join(destinations) or "none"
        raise ConfigError(source, "commitment.archive", archive, f"no such destination; there are: {there}")
    for number, destination in enumerate(settings.destination):
        _check_destination(destination, f"destination.{number}", source)
        if destination.name == archive and destination.kind != "dicom":
            raise ConfigError(source, "commitment.archive", archive, 'must be a destination of kind = "dicom"')
    names = [r.name for r in settings.ris]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(source, "ris.name", name, "is used twice; every RIS needs its own name")
    _check_web(settings.web, source)
    study = settings.study
    if study.quiet_min_s > study.quiet_max_s:
        raise ConfigError(source, "study.quiet_min_s", study.quiet_min_s, "must not exceed study.quiet_max_s")


_FIELDS = {"dicom": ("host", "port", "ae_title"), "stow": ("url",), "webhook": ("url",)}
"""Kind of a destination -> what it needs; the others have no use for it."""


def _check_destination(place: Destination, at: str, source: str) -> None:
    needed = _FIELDS[place.kind]
    for kind, fields in _FIELDS.items():
        for key in fields:
            value = getattr(place, key)
            if key in needed and not value:
                raise ConfigError(source, f"{at}.{key}", None, f'is required for kind = "{place.kind}"')
            if key not in needed and value:
                raise ConfigError(source, f"{at}.{key}", value, f'is for kind = "{kind}"')
    try:
        _ = place.wants
    except ValueError as error:
        key, _, says = str(error).partition(": ")
        raise ConfigError(source, f"{at}.{key}" if says else at, None, says or key) from error
    if place.kind != "dicom":
        _check_http(place, at, source)
    elif place.token_file or place.token_env or place.headers:
        raise ConfigError(source, f"{at}.kind", place.kind, 'tokens and headers are for kind = "stow" or "webhook"')
    if place.kind == "webhook":
        _check_webhook(place, at, source)


def _check_webhook(place: Destination, at: str, source: str) -> None:
    for key, value in (("objects", place.objects), ("seg", place.seg), ("reject_superseded", place.reject_superseded)):
        if value:
            raise ConfigError(source, f"{at}.{key}", None, "is for places that take objects; a webhook gets none")


def _check_http(place: Destination, at: str, source: str) -> None:
    if not _URL.fullmatch(place.url):
        raise ConfigError(
            source, f"{at}.url", place.url, "must be like https://pacs.example/dicom-web, without user or ?"
        )
    if place.tls is not None and not place.url.startswith("https:"):
        raise ConfigError(source, f"{at}.tls", None, "has no meaning for http:")
    if place.token_file is not None and place.token_env:
        raise ConfigError(source, f"{at}.token_env", place.token_env, "give token_file or token_env, not both")
    if place.proof == "commitment":
        raise ConfigError(source, f"{at}.proof", place.proof, 'is asked for by DICOM, kind = "dicom"')
    for name, value in place.headers.items():
        if not _HEADER.fullmatch(name) or not value.isprintable() or not value.isascii():
            raise ConfigError(source, f"{at}.headers", name, "is no header of HTTP with a value of ASCII characters")


def _check_web(web: Web, source: str) -> None:
    names = [client.name for client in web.client]
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*", web.base):
        raise ConfigError(source, "web.base", web.base, "must be a path like /dicom-web, without a slash at its end")
    if web.tls is None and not web.plain and not _is_loopback(web.host):
        says = (
            "is beyond this machine: name certificates in [web.tls], or set plain = true behind a proxy that ends TLS"
        )
        raise ConfigError(source, "web.host", web.host, says)
    for number, client in enumerate(web.client):
        if names.count(client.name) > 1:
            at = f"web.client.{number}.name"
            raise ConfigError(source, at, client.name, "is used twice; every client needs its own name")
        _check_client(web, client, f"web.client.{number}", source)


def _check_client(web: Web, client: WebClient, at: str, source: str) -> None:
    if client.token_file is not None and client.token_env:
        raise ConfigError(source, f"{at}.token_env", client.token_env, "give token_file or token_env, not both")
    if client.token_file is None and not client.token_env and not client.certificate:
        says = "needs token_file, token_env or certificate: a name alone proves nothing"
        raise ConfigError(source, at, client.name, says)
    if client.certificate:
        _check_pin(source, f"{at}.certificate", client.certificate)
        if web.tls is None or web.tls.verify != "required":
            says = 'is only asked for with [web.tls] and verify = "required"'
            raise ConfigError(source, f"{at}.certificate", client.certificate, says)
    for network in client.host:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise ConfigError(source, f"{at}.host", network, f"is no address or network ({error})") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_tests(when: Tests, at: str, source: str) -> None:
    from pydicom.datadict import tag_for_keyword  # noqa: PLC0415 - 0.2 s that --help need not pay

    for key, test in when.items():
        for keyword in key.split("."):
            if key not in _NOT_TAGS and tag_for_keyword(keyword) is None:
                raise ConfigError(
                    source, f"{at}.{key}", test, f"{keyword!r} is no DICOM keyword, CallingAETitle or CalledAETitle"
                )
        if isinstance(test, Mapping) and (not test or not set(test) <= _TESTS):
            raise ConfigError(
                source, f"{at}.{key}", dict(test), f"a table of tests may hold {', '.join(sorted(_TESTS))}"
            )
