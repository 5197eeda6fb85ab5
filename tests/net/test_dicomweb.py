"""STOW-RS out: against our own STOW-RS in, and against servers that drop, drip, redirect, lie and answer rubbish."""

import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from config.settings import Destination, Node, Settings, Storage, Web
from dicom_io import dicomweb, http_client
from dicom_io.errors import NetworkError
from dicom_io.http_client import Service
from dicom_io.read import digest_dataset
from dicom_io.scu import StoreReport, Timeouts
from dicom_io.status import Outcome
from dicom_io.stow import read_answer
from node.transport import transport_of
from node.verdict import heard

SHORT = Timeouts(connect_s=2.0, associate_s=2.0, answer_s=1.0)
CT = "1.2.840.10008.5.1.4.1.1.2"


def uid_of(path: Path) -> str:
    return str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)


def told(failed: dict[str, int] | None = None, stored: list[str] | None = None, warned: int | None = None) -> bytes:
    def item(uid: str, **more: Any) -> dict[str, Any]:
        names = {"00081150": {"vr": "UI", "Value": [CT]}, "00081155": {"vr": "UI", "Value": [uid]}}
        return names | {tag[1:]: {"vr": "US", "Value": [value]} for tag, value in more.items()}

    warning = {} if warned is None else {"t00081196": warned}
    document = {
        "00081198": {"vr": "SQ", "Value": [item(uid, t00081197=code) for uid, code in (failed or {}).items()]},
        "00081199": {"vr": "SQ", "Value": [item(uid, **warning) for uid in stored or []]},
    }
    return json.dumps({tag: element for tag, element in document.items() if element["Value"]}).encode()


class Enemy:
    """A server that answers as its script says; `act(handler, body)` may do anything with the connection."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.act: Callable[[Any, bytes], None] = lambda handler, _body: answer(handler, 500)
        enemy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                enemy.requests.append((self.command, self.path, dict(self.headers), body))
                enemy.act(self, body)

            def do_GET(self) -> None:
                enemy.requests.append((self.command, self.path, dict(self.headers), b""))
                enemy.act(self, b"")

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()
        self.service = Service(f"http://127.0.0.1:{self.server.server_port}/dicom-web")

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def answer(handler: Any, status: int, body: bytes = b"", kind: str = "application/dicom+json", **headers: str) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
    handler.wfile.flush()


@pytest.fixture
def enemy() -> Iterator[Enemy]:
    made = Enemy()
    yield made
    made.stop()


def sent(service: Service, *paths: Path) -> list[StoreReport]:
    return list(dicomweb.store(service, paths, SHORT))


@pytest.mark.unit
def test_every_http_status_has_one_row() -> None:
    rows = dicomweb.TABLE
    assert [r.first for r in rows] == [200, *(r.last + 1 for r in rows[:-1])]
    assert rows[-1].last == 599
    for status in range(200, 600):
        row = dicomweb.judge_http(status)
        assert row.first <= status <= row.last
        success = status < 300 or status == 409
        assert (row.outcome is Outcome.CHECK) == success, "no status alone says that an object is stored"
    assert dicomweb.judge_http(777).outcome is Outcome.RETRY


@pytest.mark.unit
@pytest.mark.parametrize(
    ("body", "said"),
    [
        (told(stored=["1.2"]), {"1.2": 0}),
        (told({"1.2": 0xA700}, ["1.3"]), {"1.2": 0xA700, "1.3": 0}),
        (told({"1.2": 0xC000}, ["1.2"]), {"1.2": 0xC000}),
        (told(stored=["1.2"], warned=0xB000), {"1.2": 0xB000}),
        (b"[" + told(stored=["1.2"]) + b"]", {"1.2": 0}),
        (b'{"00081198":{"Value":[{"00081155":{"Value":["1.2"]}}]}}', {"1.2": 0x0110}),
        (b'{"00081198":{"Value":[{"00081155":{"Value":["1.2"]},"00081197":{"Value":["x"]}}]}}', {"1.2": 0x0110}),
        (b'{"00081199":{"Value":[{"00081155":{"Value":[7]}}, null, {"00081155": []}]}}', {}),
        (b"", {}), (b"stored", {}), (b"null", {}), (b"[]", {}), (b"[" * 100_000, {}), (b'{"00081199": 1}', {}),
    ],
)  # fmt: skip
def test_an_answer_is_read_for_what_it_says_of_each_object(body: bytes, said: dict[str, int]) -> None:
    assert read_answer(body) == said


@pytest.mark.sockets
@pytest.mark.parametrize(
    ("failure", "outcome", "code"),
    [
        (0xA700, Outcome.RETRY, "peer-cannot-now"), (0x0110, Outcome.RETRY, "peer-cannot-now"),
        (0xA900, Outcome.DEAD, "peer-refused-object"), (0xC122, Outcome.DEAD, "peer-refused-object"),
        (0x0122, Outcome.DEAD, "peer-refused-class"), (0x0111, Outcome.CHECK, "peer-has-instance"),
    ],
)  # fmt: skip
def test_200_is_no_success_where_the_body_names_a_failure(
    enemy: Enemy, write_slice: Callable[..., Path], failure: int, outcome: Outcome, code: str
) -> None:
    path = write_slice()
    for status in (200, 202, 409, 400):
        enemy.act = lambda handler, _body, status=status: answer(handler, status, told({uid_of(path): failure}))  # type: ignore[misc]
        (report,) = sent(enemy.service, path)
        assert (report.status, report.outcome, report.reason and report.reason.code) == (failure, outcome, code)
        assert heard([report]) is True


@pytest.mark.sockets
def test_what_is_sent_is_the_file_as_it_stands_with_the_token_of_the_moment(
    enemy: Enemy, write_slice: Callable[..., Path], tmp_path: Path
) -> None:
    paths = [write_slice(), write_slice()]
    token = tmp_path / "token"
    token.write_text("first\n")
    service = Service(enemy.service.url + "/", token_file=token, headers={"X-Tenant": "a"})
    enemy.act = lambda handler, body: answer(
        handler, 200, told(stored=[uid_of(p) for p in paths if p.read_bytes() in body])
    )
    for report in dicomweb.store(service, paths, SHORT):
        assert (report.outcome, report.status, report.reason) == (Outcome.DELIVERED, 0, None)
        token.write_text("second")
    first, second = enemy.requests
    assert [r[2]["Authorization"] for r in (first, second)] == ["Bearer first", "Bearer second"]
    method, path, headers, body = first
    assert (method, path, headers["X-Tenant"]) == ("POST", "/dicom-web/studies", "a")
    assert headers["Content-Type"].startswith('multipart/related; type="application/dicom"; boundary=')
    assert body.count(b"\r\nContent-Type: application/dicom\r\n\r\n" + paths[0].read_bytes() + b"\r\n--") == 1
    token.unlink()
    reports = list(dicomweb.store(service, paths, SHORT))
    assert [(r.outcome, r.reason and r.reason.code) for r in reports] == [(Outcome.RETRY, "http-token-missing")] * 2
    assert len(enemy.requests) == 2


@pytest.mark.sockets
@pytest.mark.parametrize("body", [b"", b"stored", b"<NativeDicomModel/>", told(stored=["1.2.3"]), b'{"a": ' * 50_000])
def test_an_answer_that_does_not_say_it_is_no_success_and_a_query_decides(
    enemy: Enemy, write_slice: Callable[..., Path], body: bytes
) -> None:
    path = write_slice()
    there = False

    def act(handler: Any, sent: bytes) -> None:
        if sent:
            answer(handler, 200, body)
        else:
            found = [{"00080018": {"vr": "UI", "Value": [uid_of(path)]}}] if there else []
            answer(handler, 200, json.dumps(found).encode())

    enemy.act = act
    (report,) = sent(enemy.service, path)
    assert (report.outcome, report.reason and report.reason.code) == (Outcome.RETRY, "stow-answer-unclear")
    assert enemy.requests[-1][1].startswith("/dicom-web/studies/2.25.900/series/2.25.901/instances?SOPInstanceUID=")
    there = True
    (report,) = sent(enemy.service, path)
    assert (report.outcome, report.reason and report.reason.code) == (
        Outcome.DELIVERED_WITH_WARNING, "stow-found-there",
    )  # fmt: skip


@pytest.mark.sockets
@pytest.mark.parametrize(
    ("status", "outcome", "code", "tried", "hears"),
    [
        (401, Outcome.RETRY, "http-not-authorised", 1, False), (403, Outcome.RETRY, "http-not-authorised", 1, False),
        (404, Outcome.RETRY, "http-not-there", 1, False), (302, Outcome.RETRY, "http-not-there", 1, False),
        (413, Outcome.DEAD, "http-too-large", 3, True), (415, Outcome.DEAD, "http-refused", 3, True),
        (503, Outcome.RETRY, "http-cannot-now", 3, True), (500, Outcome.RETRY, "http-cannot-now", 3, True),
        (429, Outcome.RETRY, "http-cannot-now", 3, True),
    ],
)  # fmt: skip
def test_each_refusal_has_its_reason_and_says_whether_the_others_are_worth_trying(
    enemy: Enemy, write_slice: Callable[..., Path], status: int, outcome: Outcome, code: str, tried: int, hears: bool
) -> None:
    paths = [write_slice() for _ in range(3)]
    enemy.act = lambda handler, _body: answer(handler, status, b"no", Location="http://127.0.0.1:9/elsewhere")
    reports = sent(enemy.service, *paths)
    assert [(r.path, r.sop_instance_uid, r.outcome, r.reason and r.reason.code) for r in reports] == [
        (p, uid_of(p), outcome, code) for p in paths
    ]
    assert len(enemy.requests) == tried
    assert heard(reports) is hears


def drop(handler: Any, _body: bytes) -> None:
    handler.connection.close()
    handler.close_connection = True


def stall(handler: Any, _body: bytes) -> None:
    time.sleep(3.0)
    handler.close_connection = True


def drip(handler: Any, _body: bytes) -> None:
    try:
        for piece in itertools.chain(b"HTTP/1.1 200 OK\r\nX-Slow: ", itertools.repeat(ord("a"), 60)):
            handler.connection.sendall(bytes([piece]))
            time.sleep(0.1)
    except OSError:
        pass
    handler.close_connection = True


def rubbish(handler: Any, _body: bytes) -> None:
    handler.connection.sendall(b"\x00\xffSSH-2.0\r\n" * 20)
    handler.close_connection = True


def half(handler: Any, _body: bytes) -> None:
    handler.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{")
    handler.connection.close()
    handler.close_connection = True


def endless(handler: Any, _body: bytes) -> None:
    handler.connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    try:
        for _ in range(200):
            handler.connection.sendall(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
    except OSError:
        pass
    handler.close_connection = True


@pytest.mark.sockets
@pytest.mark.parametrize("act", [drop, stall, drip, rubbish, half, endless])
def test_whatever_a_server_does_the_sender_is_back_in_time_and_sends_again(
    enemy: Enemy, write_slice: Callable[..., Path], act: Callable[[Any, bytes], None]
) -> None:
    paths = [write_slice() for _ in range(3)]
    enemy.act = act
    begun = time.monotonic()
    reports = sent(enemy.service, *paths)
    assert time.monotonic() - begun < 5.0
    assert [r.outcome for r in reports] == [Outcome.RETRY] * 3
    codes = {r.reason.code for r in reports if r.reason}
    assert codes <= {"http-unanswered", "stow-answer-unclear"}
    with pytest.raises(NetworkError):
        dicomweb.find_study(enemy.service, "2.25.900", SHORT)


@pytest.mark.unit
def test_an_answer_is_not_read_beyond_its_limit() -> None:
    pieces = itertools.repeat(bytes(1 << 20))
    assert http_client._bounded(pieces) is None
    assert next(pieces)
    assert http_client._bounded(iter([b"a", b"b"])) == b"ab"


@pytest.mark.sockets
def test_one_object_that_ends_the_connection_does_not_keep_the_others_from_arriving(
    enemy: Enemy, write_slice: Callable[..., Path]
) -> None:
    paths = [write_slice() for _ in range(4)]
    poison = paths[1].read_bytes()

    def act(handler: Any, body: bytes) -> None:
        if poison in body:
            drop(handler, body)
        else:
            answer(handler, 200, told(stored=[uid_of(p) for p in paths if p.read_bytes() in body]))

    enemy.act = act
    assert [r.outcome for r in sent(enemy.service, *paths)] == [
        Outcome.DELIVERED, Outcome.RETRY, Outcome.DELIVERED, Outcome.DELIVERED,
    ]  # fmt: skip


@pytest.mark.sockets
def test_nobody_there_is_a_reason_and_no_object_is_tried_twice(write_slice: Callable[..., Path], enemy: Enemy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    for url, code in (
        (f"http://127.0.0.1:{port}/x", "peer-refused-connection"),
        ("http://nobody.invalid/x", "peer-name-unknown"),
    ):
        reports = sent(Service(url), write_slice(), write_slice())
        assert [(r.outcome, r.reason and r.reason.code) for r in reports] == [(Outcome.RETRY, code)] * 2
        assert heard(reports) is False
        with pytest.raises(NetworkError) as error:
            dicomweb.echo(Service(url), SHORT)
        assert error.value.reason.code == code
    (report,) = sent(enemy.service, Path("/does/not/exist"))
    assert (report.outcome, report.reason and report.reason.code) == (Outcome.DEAD, "file-unreadable")


@pytest.mark.sockets
def test_queries_take_only_what_was_asked_for_and_know_what_is_not_offered(enemy: Enemy) -> None:
    study = {"0020000D": {"vr": "UI", "Value": ["2.25.900"]}, "00100020": {"vr": "LO", "Value": ["P1"]},
             "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Wang^XiaoDong", "Ideographic": "王^小东"}]}}  # fmt: skip
    other = {"0020000D": {"vr": "UI", "Value": ["2.25.901"]}, "00100020": {"vr": "LO", "Value": ["P2"]}}
    enemy.act = lambda handler, _body: answer(handler, 200, json.dumps([other, study, 7, {}]).encode())
    (found,) = dicomweb.find_study(enemy.service, "2.25.900", SHORT)
    assert (found.patient_id, found.accession_number, found.patient_name) == ("P1", "", "Wang^XiaoDong=王^小东")
    enemy.act = lambda handler, _body: answer(handler, 204)
    assert dicomweb.find_study(enemy.service, "2.25.900", SHORT) == ()
    for status, code in (
        (404, "query-not-offered"),
        (501, "query-not-offered"),
        (403, "http-not-authorised"),
        (500, "query-failed"),
    ):
        enemy.act = lambda handler, _body, status=status: answer(handler, status)  # type: ignore[misc]
        with pytest.raises(NetworkError) as error:
            dicomweb.find_study(enemy.service, "2.25.900", SHORT)
        assert error.value.reason.code == code
    for status, why in ((404, "http-not-there"), (405, "http-not-there"), (401, "http-not-authorised"), (400, "")):
        enemy.act = lambda handler, _body, status=status: answer(  # type: ignore[misc]
            handler, 404 if handler.command == "GET" else status
        )
        with pytest.raises(NetworkError, match=why) if why else contextlib.nullcontext():
            dicomweb.echo(enemy.service, SHORT)
    enemy.act = lambda handler, _body: answer(handler, 200, b"<html>")
    with pytest.raises(NetworkError, match="query-failed"):
        dicomweb.find_instances(enemy.service, "1", "2", ["3"], SHORT)

    def page(handler: Any, _body: bytes) -> None:
        asked = handler.path.partition("SOPInstanceUID=")[2]
        uids = [asked] if asked else ["1.1", "1.9"]  # the first page of more
        answer(
            handler, 200, json.dumps([{"00080018": {"vr": "UI", "Value": [u]}} for u in uids if u != "1.3"]).encode()
        )

    enemy.act = page
    assert dicomweb.find_instances(enemy.service, "1", "2", ["1.1", "1.2", "1.3"], SHORT) == {"1.1", "1.2"}


@pytest.mark.sockets
def test_our_own_sender_and_our_own_receiver_understand_each_other(
    tmp_path: Path, write_slice: Callable[..., Path]
) -> None:
    from node.intake import Intake
    from node.spool import journals, read_journal
    from node.web import app
    from node.web.auth import Clients

    settings = Settings(node=Node(data_dir=tmp_path / "data"), web=Web(), storage=Storage(min_free_mb=0))
    intake = Intake(settings)
    server = app.server_of(settings, intake, Clients(settings.web))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/dicom-web"
        transport = transport_of(Destination("here", kind="stow", url=url), "NODE")
        good, bad = [write_slice(), write_slice()], write_slice(SeriesInstanceUID=None)
        reports = list(transport.store([good[0], bad, good[1]]))
        with pytest.raises(NetworkError, match="query-not-offered"):
            transport.find_study("2.25.900")
        assert transport.echo() < 5.0
        server.should_exit = True
        thread.join()
    assert [(r.status, r.outcome) for r in reports] == [
        (0, Outcome.DELIVERED), (0xC000, Outcome.DEAD), (0, Outcome.DELIVERED),
    ]  # fmt: skip
    digests = [r["digest"] for path in journals(tmp_path / "data") for r in read_journal(path)[0] if "sop" in r]
    assert digests == [digest_dataset(path) for path in good]
    intake.close()
