"""STOW-RS in: the same judgement, the same durable path and the same journal as C-STORE; hostile senders wait for nobody."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from config.settings import Destination, Node, Settings, Storage, Web, WebClient
from dicom_io.arrival import Arrival
from dicom_io.read import digest_dataset
from dicom_io.stow import Incoming, Stored
from node.intake import Intake
from node.refusals import refusals
from node.spool import journals, read_journal
from node.store import node, open_database, studies
from node.watermarks import write_state
from node.web import app, door, missing
from node.web.auth import Clients, TokenError

pytestmark = pytest.mark.sockets

CT = "1.2.840.10008.5.1.4.1.1.2"
RELATED = 'multipart/related; type="application/dicom"; boundary=limit'


class Here:
    """A web process's inside, in this process."""

    def __init__(self, data_dir: Path, web: Web, storage: Storage, environ: dict[str, str]) -> None:
        settings = Settings(node=Node(data_dir=data_dir), web=web, storage=storage)
        self.data_dir, self.intake, self.web = data_dir, Intake(settings), web
        self.server = app.server_of(settings, self.intake, Clients(web, environ))
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.thread = threading.Thread(target=self.server.run, args=([self.listening],))
        self.thread.start()

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(15)
        assert not self.thread.is_alive()
        self.intake.close()

    def allow(self, request_s: float) -> None:
        """Give requests another time from now on."""
        object.__setattr__(self.web, "request_s", request_s)

    def post(self, body: Any, path: str = "/dicom-web/studies", content: str = RELATED, **headers: str) -> "Said":
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        named = {k.replace("_", "-"): v for k, v in headers.items()}
        connection.request("POST", path, body, {"content-type": content, **named})
        with connection.getresponse() as response:
            said = Said(response.status, dict(response.getheaders()), response.read())
        connection.close()
        return said

    @property
    def records(self) -> list[dict[str, Any]]:
        return [record for path in journals(self.data_dir) for record in read_journal(path)[0]]

    @property
    def kinds(self) -> list[str]:
        return [record["kind"] for record in self.records]


class Said:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def uids(self, sequence: str) -> list[str]:
        items = json.loads(self.body).get(sequence, {}).get("Value", [])
        return [item["00081155"]["Value"][0] for item in items]

    def reasons(self, sequence: str) -> list[int]:
        items = json.loads(self.body).get(sequence, {}).get("Value", [])
        return [item["00081197"]["Value"][0] for item in items]

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["error"]["code"])


FAILED, STORED, OTHER = "00081198", "00081199", "0008119A"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Callable[..., Here]]:
    started: list[Here] = []

    def start(storage: Storage = Storage(min_free_mb=0), environ: dict[str, str] | None = None, **values: Any) -> Here:  # noqa: B008
        started.append(Here(tmp_path / "data", Web(**values), storage, environ or {}))
        return started[-1]

    yield start
    for here in started:
        here.stop()


def related(*files: bytes, kind: str = "application/dicom") -> bytes:
    parts = (b"--limit\r\nContent-Type: " + kind.encode() + b"\r\n\r\n" + file + b"\r\n" for file in files)
    return b"".join(parts) + b"--limit--\r\n"


def test_what_is_answered_as_stored_is_durable_journalled_and_byte_for_byte_the_same(
    web: Callable[..., Here], write_slice: Callable[..., Path]
) -> None:
    here = web()
    sources = [write_slice(PatientID=f"P{n}") for n in range(3)]
    said = here.post(related(*(path.read_bytes() for path in sources)), User_Agent="x")
    records = here.records
    assert said.status == 200
    assert said.headers["content-type"] == "application/dicom+json"
    assert [r["kind"] for r in records] == ["association-open", *["stored"] * 3, "association-released"]
    assert len({r["association"] for r in records}) == 1
    assert {(r["calling"], r["called"], r["peer"]) for r in records} == {("LOOPBACK", "STOW-RS", "127.0.0.1")}
    instances = records[1:-1]
    assert said.uids(STORED) == [r["sop"] for r in instances]
    assert FAILED not in json.loads(said.body)
    for record, source in zip(instances, sources, strict=True):
        kept = here.data_dir / "spool" / record["entry"]
        assert digest_dataset(kept) == digest_dataset(source) == record["digest"]
        assert kept.read_bytes()[128:] == source.read_bytes()[128:]
    assert not list(here.intake.spool.incoming.iterdir())

    again = here.post(sources[0].read_bytes(), content="application/dicom", Accept="application/dicom+xml")
    assert again.status == 200
    assert here.kinds[-2:] == ["duplicate", "association-released"]
    root = ET.fromstring(again.body)  # noqa: S314 - our own answer
    assert [e.text for e in root.iter("Value")] == [CT, instances[0]["sop"]]


def test_what_other_programs_would_read_in_a_preamble_is_not_kept(
    web: Callable[..., Here], write_slice: Callable[..., Path]
) -> None:
    here = web()
    file = write_slice().read_bytes()
    assert here.post(b"MZ" + b"\x90" * 126 + file[128:], content="application/dicom").status == 200
    (record,) = [r for r in here.records if "sop" in r]
    assert (here.data_dir / "spool" / record["entry"]).read_bytes()[:132] == bytes(128) + b"DICM"


def test_each_object_gets_its_own_answer_and_a_copy_of_what_is_refused_is_kept(
    web: Callable[..., Here], write_slice: Callable[..., Path]
) -> None:
    here = web()
    good, other, without = write_slice(), write_slice(StudyInstanceUID="2.25.77"), write_slice(SeriesInstanceUID=None)
    whole = write_slice()
    swapped = write_slice().read_bytes().replace(b"2.25.901", b"2.25.902", 1)
    cut = whole.read_bytes()[:-40]
    bodies = [good.read_bytes(), other.read_bytes(), without.read_bytes(), cut, b"no DICOM at all" * 30, b""]
    said = here.post(related(*bodies), "/dicom-web/studies/2.25.900")
    assert said.status == 202
    assert len(said.uids(STORED)) == 1
    assert said.reasons(FAILED) == [0xA900, 0xC000, 0xC000]
    assert said.reasons(OTHER) == [0xC000, 0xC000]
    assert here.records[-1]["kind"] == "association-released"
    assert here.records[-1]["refused"] == 5
    notes = [json.loads(p.read_text()) for p in sorted((here.data_dir / "quarantine" / "received").glob("*.json"))]
    assert sorted(n["reason"]["code"] for n in notes) == [
        "object-is-another", "object-truncated", "object-unparsable", "object-unparsable", "object-without-uids",
    ]  # fmt: skip
    assert here.post(related(swapped), "/dicom-web/studies/2.25.900").status == 200
    none = here.post(related(other.read_bytes()), "/dicom-web/studies/2.25.900")
    assert (none.status, none.reasons(FAILED)) == (409, [0xA900])


def test_an_object_that_is_another_than_its_file_says_is_refused(
    web: Callable[..., Here], write_slice: Callable[..., Path]
) -> None:
    here = web()
    file = write_slice().read_bytes()
    at = file.index(b"\x02\x00\x03\x00UI") + 8  # Media Storage SOP Instance UID
    said = here.post(related(file[: at + 5] + b"9" + file[at + 6 :]))
    assert (said.status, said.reasons(FAILED)) == (409, [0xA900])


def test_file_meta_information_beyond_all_measure_costs_no_memory(web: Callable[..., Here]) -> None:
    here = web()
    head = bytes(128) + b"DICM\x02\0\0\0UL\x04\0" + b"\xff\xff\xff\x7f"
    private = bytes(128) + b"DICM\x02\0\0\0UL\x04\0\x20\0\0\0" + b"\x02\0\x02\x01OB\0\0\0\0\0\x08" + bytes(8 << 20)
    said = here.post(related(head + bytes(8 << 20), private))
    assert (said.status, said.reasons(OTHER)) == (409, [0xC000, 0xC000])


def test_the_head_of_a_file_is_not_waited_for_in_memory(tmp_path: Path) -> None:
    arrival = Arrival(tmp_path)
    arrival.write(bytes(128) + b"DICM\x02\0\0\0UL\x04\0" + b"\xff\xff\xff\x7f" + bytes(1 << 20))
    assert (arrival.data_offset, arrival._head) == (0, None)
    arrival.discard()


@pytest.mark.parametrize(
    ("content", "body", "status", "code"),
    [
        (RELATED, b"no multipart", 400, "multipart-broken"),
        (RELATED, related(), 400, "web-empty"),
        ("application/dicom", b"", 400, "web-empty"),
        ('multipart/related; type="application/dicom"', b"x", 400, "multipart-broken"),
        ('multipart/related; type="application/dicom+json"; boundary=limit', related(b"{}"), 415, "web-media-type"),
        ('multipart/related; type="application/dicom+xml"; boundary=limit', related(b"<x/>"), 415, "web-media-type"),
        (f"{RELATED}; boundary=other", related(b"x"), 400, "multipart-broken"),
        ("multipart/form-data; boundary=limit", related(b"x"), 415, "web-media-type"),
        ("application/json", b"{}", 415, "web-media-type"),
        (RELATED, related(b"x", kind="image/jpeg"), 415, "web-media-type"),
    ],
)
def test_what_is_no_store_request_is_refused_at_once(
    web: Callable[..., Here], content: str, body: bytes, status: int, code: str
) -> None:
    here = web()
    begun = time.monotonic()
    said = here.post(body, content=content)
    assert (said.status, said.code) == (status, code)
    assert time.monotonic() - begun < 1.5
    assert here.kinds in ([], ["association-open", "association-aborted"])


def test_paths_answers_and_sizes_that_are_not_taken(web: Callable[..., Here], write_slice: Callable[..., Path]) -> None:
    here = web(max_object_mb=1, max_request_mb=2, max_objects=2)
    file = write_slice().read_bytes()
    assert here.post(file, "/dicom-web/studies/1.2;rm", content="application/dicom").code == "web-study-uid"
    assert here.post(file, content="application/dicom", Accept="text/html").status == 406
    assert here.post(file, content="application/dicom", Accept="text/html, */*;q=0.1").status == 200
    xml = here.post(file, content="application/dicom", Accept="application/dicom+json;q=0, */*")
    assert xml.headers["content-type"] == "application/dicom+xml"
    slash = here.post(file, "/dicom-web/studies/", content="application/dicom", Host="elsewhere.example")
    assert (slash.status, slash.headers.get("location")) == (404, None)
    assert here.post(file, content="application/dicom", Content_Encoding="gzip").status == 415
    large = here.post(related(file, file + bytes(1 << 20)))
    assert (large.status, large.code) == (413, "web-too-large")
    assert here.kinds[-3:] == ["association-open", "duplicate", "association-aborted"]
    assert here.records[-1]["refused"] == 1
    assert here.post(related(file, file, file)).status == 413
    assert here.post(bytes(3 << 20)).status == 413
    chunked = here.post(iter([bytes(1 << 20)] * 3), content="application/dicom")
    assert chunked.status == 413
    with socket.create_connection(("127.0.0.1", here.port), timeout=10) as raw:
        raw.sendall(b"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/dicom\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 411 ")
    assert not list(here.intake.spool.incoming.iterdir())


def test_a_full_disk_is_answered_before_the_body_and_a_long_queue_after_it(
    web: Callable[..., Here], write_slice: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = web(Storage(min_free_mb=0, max_waiting=1))
    file = write_slice().read_bytes()
    write_state(here.intake.spool.root, ["queue"])
    said = here.post(related(file))
    assert (said.status, said.reasons(FAILED), said.headers["retry-after"]) == (503, [0xA700], "60")
    write_state(here.intake.spool.root, [])
    assert here.post(related(file)).status == 200
    write_state(here.intake.spool.root, ["queue"])
    assert here.post(related(write_slice().read_bytes())).status == 200, "the rest of a study is taken"

    def full(_self: Arrival, _data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Arrival, "_write", full)
        said = here.post(related(file))
    assert (said.status, said.reasons(FAILED)) == (503, [0xA700])
    starved = web(Storage(min_free_mb=1 << 40))
    said = starved.post(related(file))
    assert (said.status, said.code, said.headers["retry-after"]) == (503, "web-no-room", "60")


def test_a_request_that_breaks_off_is_an_aborted_association(
    web: Callable[..., Here], write_slice: Callable[..., Path], until: Callable[..., None]
) -> None:
    here = web()
    large = write_slice(Rows=1024, Columns=1024, PixelData=bytes(2 << 20)).read_bytes()
    body = related(large, large)
    head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {RELATED}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", here.port)) as raw:
        raw.sendall(head.encode() + body[:-100])
        until(lambda: "stored" in here.kinds or len(here.records) > 2)
    until(lambda: "association-aborted" in here.kinds)
    assert here.kinds == ["association-open", "stored", "association-aborted"]
    assert here.records[-1]["refused"] == 1
    assert not list(here.intake.spool.incoming.iterdir())


def test_who_drips_is_not_waited_for_and_others_get_in(
    web: Callable[..., Here], write_slice: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "HEADER_S", 0.6)
    here = web(idle_s=1.0, max_requests=2)
    post = f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {RELATED}\r\nTransfer-Encoding: chunked\r\n\r\n"
    begun = time.monotonic()
    silent = [socket.create_connection(("127.0.0.1", here.port), timeout=10) for _ in range(40)]
    for number, raw in enumerate(silent):
        raw.sendall(post.encode()[: number * 3])
    dripping = socket.create_connection(("127.0.0.1", here.port), timeout=10)
    dripping.sendall(post.encode())
    assert here.post(related(write_slice().read_bytes())).status == 200
    assert time.monotonic() - begun < 1.0
    for raw in silent:
        with suppress(ConnectionResetError):
            assert raw.recv(1) == b""
        raw.close()
    assert time.monotonic() - begun < 3.0
    answer = b""
    dripping.settimeout(0.05)
    while not answer:
        with_deadline = time.monotonic() - begun
        assert with_deadline < 8.0, "a body that comes byte by byte is waited for"
        try:
            dripping.sendall(b"1\r\n-\r\n")
            answer = dripping.recv(100)
        except TimeoutError:
            continue
    assert answer.startswith(b"HTTP/1.1 408 ")
    dripping.close()


def test_no_more_requests_at_a_time_than_are_allowed_and_heads_are_small(
    web: Callable[..., Here], write_slice: Callable[..., Path], until: Callable[..., None]
) -> None:
    here = web(max_requests=1)
    post = f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {RELATED}\r\nContent-Length: 5000\r\n\r\n--limit\r\n"
    with socket.create_connection(("127.0.0.1", here.port)) as first:
        first.sendall(post.encode())
        until(lambda: here.kinds == ["association-open"])
        said = here.post(related(write_slice().read_bytes()))
        assert (said.status, said.code, said.headers["retry-after"]) == (503, "web-busy", "60")
    until(lambda: "association-aborted" in here.kinds)
    until(lambda: here.post(related(write_slice().read_bytes())).status == 200)
    assert here.post(b"", X_Much="x" * 20_000).status == 400


def test_who_finds_no_place_for_a_connection_is_told_when_to_come_again(
    web: Callable[..., Here], until: Callable[..., None]
) -> None:
    here = web(max_requests=1)
    with ExitStack() as closing:
        for _ in range(36):  # 32 and 4 for each of max_requests
            raw = closing.enter_context(socket.create_connection(("127.0.0.1", here.port)))
            raw.sendall(f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\n{OPEN}".encode())
        connections = here.server.server_state.connections
        until(lambda: sum(not one.idle for one in connections) == 36)
        said = here.post(b"")
    assert (said.status, said.code, said.headers["retry-after"]) == (503, "web-crowded", "60")


def test_many_bad_parts_end_a_request_early_and_are_told_of_in_few_lines(
    web: Callable[..., Here], capsys: pytest.CaptureFixture[str]
) -> None:
    here = web()
    begun = time.monotonic()
    said = here.post(related(*[b"x"] * 10_000))
    assert (said.status, said.code) == (400, "web-all-refused")
    assert time.monotonic() - begun < 5.0
    assert here.records[-1]["refused"] == 101
    told = capsys.readouterr()
    assert 0 < (told.out + told.err).count("receive.refused") < 10


def test_neither_a_sender_that_has_gone_nor_one_without_time_left_holds_a_place(
    web: Callable[..., Here], until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(_self: Incoming, *_: Any) -> Stored:
        time.sleep(0.02)  # a part that takes its time
        return Stored(0, "1.2", "1.3")

    monkeypatch.setattr(Incoming, "finish", slow)
    here = web(request_s=1.0)
    body = related(*[b"x"] * 5000)
    assert here.post(body).code == "web-too-slow"
    here.allow(3600.0)
    head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {RELATED}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", here.port)) as raw:
        raw.sendall(head.encode() + body)
        until(lambda: here.kinds.count("association-open") == 2)
    gone = time.monotonic()
    until(lambda: here.kinds.count("association-aborted") == 2)
    assert time.monotonic() - gone < 1.0


TOKEN, OTHER_TOKEN = "of-the-first-client-a-token", "of-another-client-a-token"


def test_only_who_shows_a_token_from_the_right_place_may_store(
    web: Callable[..., Here], write_slice: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "token"
    secret.write_text(TOKEN + "\n")
    secret.chmod(0o600)
    rows = (
        WebClient("RIS", token_file=secret),
        WebClient("FAR", token_env="FAR_TOKEN", host=("10.1.0.0/16",)),
        WebClient("LOOKS", token_env="LOOKS_TOKEN", rights=()),
        WebClient("CERT", certificate="sha256:" + hashlib.sha256(b"x").hexdigest()),
    )
    here = web(client=rows, environ={"FAR_TOKEN": OTHER_TOKEN, "LOOKS_TOKEN": "x" * 30})
    body = related(write_slice().read_bytes())
    assert here.post(body, Authorization=f"Bearer {TOKEN}").status == 200
    assert {r["calling"] for r in here.records} == {"RIS"}
    for shown in (
        {},
        {"Authorization": "Bearer " + TOKEN[:-1]},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer"},
    ):
        said = here.post(body, **shown)
        assert (said.status, said.code) == (401, "web-not-known")
        assert said.headers["www-authenticate"].startswith("Bearer")
    for token in (OTHER_TOKEN, "x" * 30):
        assert here.post(body, Authorization=f"Bearer {token}").code == "web-not-allowed"
    assert len(here.records) == 3
    told = capsys.readouterr()
    here.intake.close()
    counted = {(r.code, r.calling, r.count) for r in refusals(here.data_dir / "spool")}
    assert counted == {("web-not-known", "", 4), ("web-not-allowed", "", 2)}
    assert (told.out + told.err).count("web-not-known") == 1, "one caller is told of once a minute"
    assert not any(token in told.out + told.err for token in (TOKEN, OTHER_TOKEN))
    assert TOKEN.encode() not in repr(vars(here.server.config.app)).encode()


def test_without_clients_no_page_in_a_browser_can_send_for_its_user(
    web: Callable[..., Here], write_slice: Callable[..., Path]
) -> None:
    here = web()
    body = related(write_slice().read_bytes())
    assert here.post(body, Origin="http://elsewhere.example").code == "web-only-this-machine"
    assert here.post(body, Host="elsewhere.example").code == "web-only-this-machine"
    assert here.post(body, Host="localhost:8042").status == here.post(body, Host="[::1]:80").status == 200


@pytest.mark.parametrize("client", [WebClient("A", token_env="NONE"), WebClient("A", token_env="SHORT")])
def test_a_token_that_is_missing_or_short_stops_the_start(client: WebClient) -> None:
    with pytest.raises(TokenError, match="at least 20"):
        Clients(Web(client=(client,)), {"SHORT": "abc"})


def test_a_token_that_everybody_may_read_stops_the_start(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text(TOKEN)
    secret.chmod(0o644)
    with pytest.raises(TokenError, match="chmod"):
        Clients(Web(client=(WebClient("A", token_file=secret),)), {})


@pytest.mark.unit
def test_what_is_not_installed_is_named_and_asked_for_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    serving, sending = Settings(web=Web(port=0)), Settings(destination=(Destination("a", kind="stow", url="http://x"),))
    assert (missing(Settings()), missing(serving), missing(sending)) == ("", "", "")
    monkeypatch.setattr("node.web.find_spec", lambda _name: None)
    assert missing(Settings()) == ""
    assert "starlette and uvicorn: pip install 'pacs-ai-node[web]'" in missing(serving)
    assert "httpcore2" in missing(sending)


OPEN = f"Content-Type: {RELATED}\r\nContent-Length: 5000\r\n\r\n--limit\r\n"
MEMORY = """
import resource, sys
from http.client import HTTPConnection
def body(megabytes):
    yield b'--limit\\r\\nContent-Type: application/dicom\\r\\n\\r\\n'
    yield open(sys.argv[2], 'rb').read()
    for _ in range(megabytes): yield bytes(1 << 20)
    yield b'\\r\\n--limit--'
connection = HTTPConnection('127.0.0.1', int(sys.argv[1]), timeout=60)
connection.request('POST', '/dicom-web/studies', body(int(sys.argv[3])), {'Content-Type': 'multipart/related; type="application/dicom"; boundary=limit'})
print(connection.getresponse().status)
"""


def test_the_node_serves_it_beside_c_store_starts_it_again_and_does_not_grow_with_an_object(
    tmp_path: Path, write_slice: Callable[..., Path], until: Callable[..., None]
) -> None:
    config = tmp_path / "node.toml"
    config.write_text(f"[node]\ndata_dir = '{tmp_path}/data'\n[dicom]\nport = 0\n[web]\nport = 0\n")
    command = [sys.executable, "-m", "node", "serve", "--config", str(config)]
    with ExitStack() as closing, subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stderr is not None
            ready = next(json.loads(line) for line in serving.stderr if line.startswith('{"event"'))
            threading.Thread(target=serving.stderr.read, daemon=True).start()
            port = ready["web"]["port"]
            assert ready["web"]["host"] == "127.0.0.1"

            def send(megabytes: int) -> str:
                sender = [sys.executable, "-c", MEMORY, str(port), str(write_slice()), str(megabytes)]
                return subprocess.run(sender, capture_output=True, text=True, check=True).stdout.strip()

            db = open_database(tmp_path / "data" / "node.sqlite3")
            closing.callback(db.close)

            def pid() -> int:
                return next((p.pid for p in node.processes(db) if p.role == "web"), 0)

            def peak() -> int:  # KiB
                lines = Path(f"/proc/{first}/status").read_text().splitlines()
                return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

            assert send(1) == "200"
            first = pid()
            before = peak()
            assert send(120) == "200"
            assert peak() - before < 20_000
            with socket.create_connection(("127.0.0.1", port)) as raw:
                raw.sendall(f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\n{OPEN}".encode())
                until(lambda: node.counts(db).associations == 1)
            until(lambda: node.counts(db).associations == 0)
            os.kill(first, signal.SIGKILL)
            assert send(1) == "200", "a connection waits while the process is started again"
            assert pid() not in (0, first)
            until(lambda: studies.study(db, "2.25.900") is not None)
        finally:
            serving.terminate()
            assert serving.wait(15) == 0
