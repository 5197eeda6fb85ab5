"""Webhooks: what they are told and what is not, against a real HTTP server that answers as its script says."""

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydicom import dcmread

from config.settings import Destination
from dicom_io.http_client import Service
from dicom_io.scu import Timeouts
from dicom_io.status import Outcome
from dicom_io.tls import ClientTls
from dicom_io.webhook import TABLE, judge_webhook, post
from node.courier import Courier
from node.reasons import REASONS
from node.store import deliveries, jobs, operator
from node.told import told
from node.webhook import Calls, greet
from pipeline.errors import PipelineFailed
from pipeline.reasons import REASONS as OF_PIPELINES
from tests.net.authority import Authority
from tests.node.desk import Desk

SCHEMA = json.loads((Path(__file__).parents[2] / "node/schemas/webhook-1.schema.json").read_text(encoding="utf-8"))
RULES = """
[study]
quiet_s = 60.0
settle_s = 1.0
boot_grace_s = 0.0
pace = "fixed"
[[destination]]
name = "board"
kind = "webhook"
url = "{url}"
token_env = "BOARD_TOKEN"
headers = {{ X-Site = "north" }}
[[rule]]
name = "CT"
when = {{ Modality = "CT" }}
run = ["chest_ct"]
send_to = ["board"]
"""


class Board:
    """Takes documents; answers with `status`."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.got: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.status = 200
        board = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                board.got.append((self.path, dict(self.headers), json.loads(body)))
                self.send_response(board.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/hook"

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def board() -> Iterator[Board]:
    made = Board()
    yield made
    made.stop()


@pytest.fixture
def desk(tmp_path: Path, board: Board, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setenv("BOARD_TOKEN", "let-me-in")
    board.got.clear()
    board.status = 200
    made = Desk(tmp_path / "desk", rules=RULES.format(url=board.url))
    yield made
    made.stop()


def courier(desk: Desk) -> Courier:
    return Courier(desk.db, desk.folder.path, desk.settings.destination[0], "NODE", now=lambda: desk.now)


def ended(desk: Desk, slices: list[Path]) -> Courier:
    desk.receive(slices)
    desk.after(4000.0)
    assert desk.work() == [True]
    return courier(desk)


@pytest.mark.sockets
def test_a_webhook_is_told_of_a_result_once_and_knows_a_repeat(
    desk: Desk, board: Board, slices: list[Path], uid: str
) -> None:
    sender = ended(desk, slices)
    assert sender.step()
    assert not sender.step()
    ((path, headers, document),) = board.got
    Draft202012Validator(SCHEMA).validate(document)
    assert path == "/hook"
    assert headers["Authorization"] == "Bearer let-me-in"
    assert headers["X-Site"] == "north"
    assert headers["Content-Type"] == "application/json"
    assert headers["Idempotency-Key"] == document["id"]
    source = dcmread(slices[0], stop_before_pixels=True)
    assert document["study_instance_uid"] == uid
    assert document["accession_number"] == source.AccessionNumber
    assert document["subject"] == {"level": "study", "uid": uid}
    assert (document["outcome"], document["quality"]["grade"]) == ("result", "A")
    assert (document["origin"], document["verification"]) == ("AI", "UNVERIFIED")
    assert document["device_of_origin"]["manufacturer"] == source.Manufacturer
    assert {a["kind"] for a in document["artifacts"]} >= {"seg", "sr"}
    text = json.dumps(document, ensure_ascii=False)
    for keyword in ("PatientID", "PatientName", "PatientBirthDate"):
        for part in str(source.get(keyword, "")).replace("^", " ").split():
            assert part not in text, f"{keyword} leaves"
    (row,) = deliveries.deliveries(desk.db, uid)
    assert (row.state, row.proof) == ("delivered", "none")
    assert desk.show(uid)["deliveries"][0]["profile"] is None
    operator.resend(desk.db, uid, desk.now)
    assert sender.step()
    assert board.got[1] == board.got[0], "a repeat is known by its key, and says the same"


@pytest.mark.unit
def test_every_status_of_a_webhook_has_one_row() -> None:
    assert [r.first for r in TABLE] == [200, *(r.last + 1 for r in TABLE[:-1])]
    assert judge_webhook(777) is TABLE[-1]


ROWS: list[tuple[int, str, str | None, bool]] = [
    (204, "delivered", None, True),
    (302, "waiting", "webhook-not-there", False),
    (400, "dead", "webhook-refused", True),
    (401, "waiting", "http-not-authorised", False),
    (404, "waiting", "webhook-not-there", False),
    (408, "waiting", "webhook-cannot-now", True),
    (422, "dead", "webhook-refused", True),
    (429, "waiting", "webhook-cannot-now", True),
    (503, "waiting", "webhook-cannot-now", True),
]


@pytest.mark.sockets
def test_webhook_rows(desk: Desk, board: Board, slices: list[Path], uid: str) -> None:
    ended(desk, slices)
    taken = deliveries.take(desk.db, "board", desk.now)
    assert taken is not None
    for status, state, code, answers in ROWS:
        board.status = status
        verdict = Calls(desk.db, desk.settings.destination[0]).attempt(taken, 0.5)
        assert (verdict.state, verdict.reason and verdict.reason.code, verdict.heard) == (state, code, answers), status
        assert (verdict.wait_s is None) == (state != "waiting")
        assert uid in json.dumps(board.got[-1][2])


@pytest.mark.sockets
def test_what_a_webhook_could_not_take_arrives_later_and_what_it_refuses_rings(
    desk: Desk, board: Board, slices: list[Path], uid: str
) -> None:
    board.status = 503
    sender = ended(desk, slices)
    assert sender.step()
    assert not sender.step(), "before its time"
    assert desk.sends(uid) == ["waiting"]
    desk.now += 4000.0
    board.status = 410
    assert sender.step()
    assert desk.sends(uid) == ["dead"]
    assert "delivery-failed" in desk.alarms(uid)
    board.status = 200
    operator.retry(desk.db, desk.now, study_uid=uid)
    assert sender.step()
    assert desk.sends(uid) == ["delivered"]
    assert len({document["id"] for _, _, document in board.got}) == 1


@pytest.mark.sockets
def test_a_report_that_only_a_webhook_heard_of_is_nobodys_predecessor(desk: Desk, slices: list[Path], uid: str) -> None:
    assert ended(desk, slices[:-1]).step()
    desk.receive(slices[-1:])
    desk.after(4000.0)
    first, second = desk.jobs(uid)
    assert (first.outcome, desk.sends(uid)) == ("result", ["delivered"])
    assert jobs.predecessor(desk.db, second) == first
    assert desk.work() == [True]
    (report,) = (a for a in jobs.artifacts(desk.db, second) if a.kind == "sr")
    assert "PredecessorDocumentsSequence" not in dcmread(desk.folder.path / report.path)


@pytest.mark.sockets
def test_a_webhook_hears_of_what_no_object_tells(desk: Desk, board: Board, slices: list[Path], uid: str) -> None:
    """A pipeline that is not installed writes no card."""

    def absent(name: str) -> Any:
        raise PipelineFailed(OF_PIPELINES("pipeline-not-installed", pipeline=name))

    desk.worker.pipeline = absent
    sender = ended(desk, slices)
    assert sender.step()
    ((_, _, document),) = board.got
    Draft202012Validator(SCHEMA).validate(document)
    assert document["reason"]["code"] == "pipeline-not-installed"
    assert "quality" not in document
    assert operator.resend(desk.db, uid, desk.now, documents=["board"]) == ("board",)
    assert operator.resend(desk.db, uid, desk.now, ["elsewhere"]) == ()


@pytest.mark.sockets
def test_a_webhook_is_believed_by_its_certificate_and_a_ping_is_about_nobody(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path / "a", "Hospital"), Authority(tmp_path / "b", "Another")
    pair = ours.issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    board = Board(context)
    try:
        place = {
            name: Destination(
                "board", kind="webhook", url=f"https://localhost:{board.port}/hook/", tls=ClientTls(by.path)
            )
            for name, by in (("ours", ours), ("theirs", theirs))
        }
        assert greet(place["ours"]) < 5.0
        with pytest.raises(Exception, match="webhook at localhost"):
            greet(place["theirs"])
    finally:
        board.stop()
    ((path, _, document),) = board.got
    Draft202012Validator(SCHEMA).validate(document)
    assert path == "/hook/"
    assert set(document) == {"id", "schema", "event"}


@pytest.mark.sockets
def test_a_webhook_that_is_away_or_has_no_token_waits(tmp_path: Path) -> None:
    short = Timeouts(connect_s=1.0, answer_s=1.0)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/x"
        for service, code in (
            (Service(url, title="webhook"), "peer-refused-connection"),
            (Service(url, token_file=tmp_path / "none", title="webhook"), "http-token-missing"),
        ):
            outcome, reason = post(service, {"id": "1"}, "1", short)
            assert (outcome, reason and reason.code) == (Outcome.RETRY, code)


C, B = {"quality": {"grade": "C"}}, {"quality": {"grade": "B"}}
UNABLE, FAILED = (
    REASONS(code, **words).as_json()
    for code, words in (("no-pipeline-for-study", {"modalities": "CT"}), ("nothing-to-send", {}))
)
TOLD = [
    (["result"], "result", None, C, True),
    (["alarm"], "result", None, C, True),
    (["alarm"], "result", None, B, False),
    (["alarm"], "result", None, {"quality": None}, False),
    (["alarm"], "failed", FAILED, {}, False),
    (["failed"], "failed", FAILED, {}, True),
    (["result", "unable"], "failed", FAILED, {}, False),
    (["unable"], "not_analysed", {"class": "unable"}, C, True),
    (["result", "failed", "unable", "alarm"], "not_analysed", UNABLE, {}, False),
]  # fmt: skip


@pytest.mark.unit
@pytest.mark.parametrize(("wants", "outcome", "reason", "document", "is_told"), TOLD)
def test_who_is_told_of_what(
    wants: list[str], outcome: str, reason: dict[str, Any] | None, document: dict[str, Any], *, is_told: bool
) -> None:
    assert told({"pacs": wants}, outcome, reason, document) == (("pacs",) if is_told else ())
